//! What goes into the ledger and what comes out of it, as plain values.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::order::OrderNumber;
use crate::{
    clock::Stamp,
    config::{Mode, NoPassage},
    journal::printable,
    journey::{Fen, Kind},
    ride_code::{CodeDigest, PassengerId, Refusal, VerifiedCode},
};

/// The row of a deduction; ascends in the order of recording.
pub type DeductionId = i64;

/// The row of a journey; ascends in the order of recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JourneyId(pub i64);

/// What an opening was recorded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordId {
    /// A deduction.
    Deduction(DeductionId),
    /// A journey that begins.
    Journey(JourneyId),
    /// A deduction whose turnstile is opened once more: its passenger had not passed yet.
    Again {
        /// The deduction.
        deduction: DeductionId,
        /// The mark that this tap's code was used.
        mark: i64,
    },
}

impl From<DeductionId> for RecordId {
    fn from(id: DeductionId) -> Self {
        Self::Deduction(id)
    }
}

impl From<JourneyId> for RecordId {
    fn from(id: JourneyId) -> Self {
        Self::Journey(id)
    }
}

/// A code that was read, to be judged and recorded.
#[derive(Debug, Clone)]
pub struct Tap {
    /// The lane's name.
    pub lane: Arc<str>,
    /// The lane's station.
    pub station: Arc<str>,
    /// What a tap means there.
    pub mode: Mode,
    /// Whether a sensor will tell that the passenger passes: until then nothing is charged.
    pub awaits_passage: bool,
    /// The code.
    pub code: VerifiedCode,
    /// When its last byte arrived.
    pub scanned: Stamp,
}

/// Whether a passenger with an unpaid deduction is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpaid {
    /// As anybody else.
    Admits,
    /// Not before it is repaid.
    Denies,
}

/// What the ledger made of a [`Tap`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// A deduction is recorded and durable: the turnstile may open.
    Admitted(Admitted),
    /// A journey has begun and is durable: the turnstile may open.
    Entered(Entered),
    /// A passenger whose exit is recorded and who has not passed yet: the turnstile may open once more for the same deduction.
    Again(Again),
    /// The reader repeats itself: nothing was recorded, nothing is shown.
    Repeat,
    /// Not admitted.
    Refused(Refusal),
}

/// A durable deduction whose turnstile has not opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Its row.
    pub id: DeductionId,
    /// Its number.
    pub order: OrderNumber,
    /// What kind of deduction.
    pub kind: Kind,
    /// What it comes to.
    pub total: Fen,
    /// The deduction of a journey that was given up with it, if that is to be sent.
    pub also_due: Option<DeductionId>,
}

/// A deduction that is opened for once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Again {
    /// Its row.
    pub deduction: DeductionId,
    /// Its number.
    pub order: OrderNumber,
    /// The mark that this tap's code was used.
    pub mark: i64,
}

/// A durable journey whose turnstile has not opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// Its row.
    pub journey: JourneyId,
    /// Its number.
    pub number: OrderNumber,
    /// The deduction of the journey before, which is given up with it, if that is to be sent; not before the opening.
    pub also_due: Option<DeductionId>,
}

/// The turnstile opened for a record.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The record.
    pub record: RecordId,
    /// When, UTC milliseconds.
    pub at_utc_ms: i64,
    /// How long the scan took, in words.
    pub detail: String,
}

/// What became of an opening whose passage was waited for.
#[derive(Debug, Clone, Copy)]
pub struct Passage {
    /// The record.
    pub record: RecordId,
    /// Whether somebody passed.
    pub outcome: PassageOutcome,
    /// When, UTC milliseconds.
    pub at_utc_ms: i64,
}

/// Whether somebody passed an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassageOutcome {
    /// Somebody did.
    Passed,
    /// Nobody did in time; what that means.
    NotPassed(NoPassage),
}

/// Something at a lane that concerns no record: an exit button, a passage without an opening, a fire alarm.
#[derive(Debug, Clone)]
pub struct GateNote {
    /// The lane's name.
    pub lane: Arc<str>,
    /// A word.
    pub event: &'static str,
    /// When.
    pub at: Stamp,
}

/// Why an opening that was recorded did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untaken {
    /// It could not start within `open_within`.
    Late,
    /// The program stopped, or the turnstile failed, before it.
    NotOpened,
}

impl Untaken {
    /// The word of the contract: reason of the deduction and value of its opening.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::NotOpened => "not-opened",
        }
    }
}

/// A refused scan.
#[derive(Debug, Clone)]
pub struct Denial {
    /// The lane's name.
    pub lane: Arc<str>,
    /// Why.
    pub refusal: Refusal,
    /// Names the code, where the bytes were one.
    pub digest: Option<CodeDigest>,
    /// Who, where the code told.
    pub passenger: Option<PassengerId>,
    /// When the last byte arrived.
    pub scanned: Stamp,
}

/// What the request of a deduction says, handed to [`BodyMaker`].
#[derive(Debug)]
pub struct Bill<'a> {
    /// The order's number.
    pub order: &'a OrderNumber,
    /// What kind of deduction.
    pub kind: Kind,
    /// The scan's code.
    pub code: &'a [u8],
    /// The first tap's code.
    pub start_code: Option<&'a [u8]>,
    /// Before the discount.
    pub original: Fen,
    /// After the discount.
    pub total: Fen,
    /// UTC milliseconds.
    pub start_utc_ms: i64,
    /// UTC milliseconds.
    pub end_utc_ms: Option<i64>,
}

/// Makes a request's bytes: pure, and called once per deduction, inside the transaction that records it.
pub type BodyMaker = Box<dyn Fn(&Bill<'_>) -> Vec<u8> + Send + Sync>;

/// A deduction that is about to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct PendingDeduction {
    /// Its row.
    pub id: DeductionId,
    /// Its number.
    pub order: String,
    /// The request, sent exactly so.
    pub body: Vec<u8>,
    /// Answers of a class that nobody knows.
    pub unknown_answers: u32,
}

impl std::fmt::Debug for PendingDeduction {
    /// Without the body, which holds the code.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PendingDeduction({} {})", self.id, self.order)
    }
}

/// What came of one attempt to send a deduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The row.
    pub id: DeductionId,
    /// Whether it counts: the request was answered about this row, or may have been taken.
    pub is_counted: bool,
    /// Whether WeChat may charge it although it did not say so; not after a clear refusal.
    pub is_doubtful: bool,
    /// Whether the answer was of a class that nobody knows.
    pub is_unknown: bool,
    /// What becomes of the row.
    pub outcome: Outcome,
    /// The answer in words, evidence for people; `None` when it is no news and nothing needs to be written.
    pub answer: Option<String>,
    /// When, UTC milliseconds.
    pub at_utc_ms: i64,
}

/// What an attempt makes of a deduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Taken by WeChat.
    Accepted,
    /// Will not be sent again by itself.
    Parked {
        /// A word.
        reason: &'static str,
    },
    /// Will be sent again.
    StillPending,
}

/// Whether codes can be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// They can.
    Up,
    /// They cannot, and why: one sentence.
    Down {
        /// What happened.
        reason: Arc<str>,
    },
}

/// Rows and fen by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Deductions by state, in the order of [`STATES`].
    pub deductions: [u64; 7],
    /// Fen of the pending ones.
    pub pending_fen: i64,
    /// Fen of what is recorded but not yet accepted: held, pending and parked.
    pub at_risk_fen: i64,
    /// When the oldest pending one was recorded.
    pub oldest_pending: Option<Recorded>,
}

/// When a row was recorded, as it can be compared with now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Age in milliseconds when it was asked for.
    pub age_ms: i64,
}

/// The states of a deduction, in the contract's order.
pub const STATES: [&str; 7] = ["held", "pending", "accepted", "paid", "unpaid", "parked", "void"];

/// A deduction as `queue list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    /// Its row, for paging; not shown.
    #[serde(skip)]
    pub id: DeductionId,
    /// Its number.
    pub order: String,
    /// One of [`STATES`].
    pub state: String,
    /// One of [`Kind`]'s words.
    pub kind: String,
    /// Why it is void or parked.
    pub reason: Option<String>,
    /// What is odd about it.
    pub flags: Vec<String>,
    /// The gate's ID.
    pub gate: String,
    /// The lane's name.
    pub lane: String,
    /// 16 `*` and 4 characters.
    pub passenger: String,
    /// Before the discount.
    pub original_fen: i64,
    /// After the discount.
    pub total_fen: i64,
    /// As WeChat's callback told.
    pub paid_fen: Option<i64>,
    /// RFC 3339.
    pub start_time: String,
    /// RFC 3339.
    pub end_time: Option<String>,
    /// Whether the request carries the first tap's code.
    pub has_start_code: bool,
    /// Requests that were answered, or may have been taken.
    pub attempts: u32,
    /// The last answer that was no success.
    pub last_error: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub accepted_at: Option<String>,
    /// RFC 3339.
    pub settled_at: Option<String>,
    /// WeChat's number of the payment.
    pub transaction_id: Option<String>,
}

/// A journey as `journeys list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JourneyRow {
    /// Its row, for paging; not shown.
    #[serde(skip)]
    pub id: i64,
    /// Its number.
    pub journey: String,
    /// 16 `*` and 4 characters.
    pub passenger: String,
    /// Where it began.
    pub entry_station: String,
    /// The lane's name.
    pub entry_lane: String,
    /// RFC 3339.
    pub entry_at: String,
    /// `open`, `exited`, `replaced`, `unfinished` or `taken-back`.
    pub state: String,
    /// The number of its deduction.
    pub order: Option<String>,
}

/// Which page of `journeys list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JourneysRequest {
    /// Only those that are open.
    pub open_only: bool,
    /// Rows above this one.
    pub after_id: i64,
    /// Rows at most.
    pub limit: usize,
}

/// A page of `journeys list`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JourneysPage {
    /// Oldest first.
    pub rows: Vec<JourneyRow>,
    /// Where the next page begins; `None` after the last.
    pub next_after_id: Option<i64>,
}

/// One step in the story of a deduction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEvent {
    /// RFC 3339.
    pub at: String,
    /// A word.
    pub event: String,
    /// More about it.
    pub detail: Option<String>,
}

/// `queue show`: a row and its story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStory {
    /// The row.
    #[serde(flatten)]
    pub row: QueueRow,
    /// What happened, oldest first.
    pub events: Vec<QueueEvent>,
}

/// Which page of `queue list`.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// One of [`STATES`], or all.
    pub state: Option<String>,
    /// Rows above this one.
    pub after_id: DeductionId,
    /// Rows at most.
    pub limit: usize,
}

/// A page of `queue list`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Oldest first; may be empty although there are more.
    pub rows: Vec<QueueRow>,
    /// Where the next page begins; `None` after the last.
    pub next_after_id: Option<DeductionId>,
}

/// Why a person makes an order void, or changes the deny-list: in the person's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(String);

/// Characters of a [`Reason`] at most.
const REASON_CHARS_MAX: usize = 200;

impl Reason {
    /// Takes a person's words, without the white space around them.
    ///
    /// # Errors
    /// There are none, too many, or some that are not for people; the sentence says so.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            Err("the reason is empty; say it in a few words")
        } else if text.chars().count() > REASON_CHARS_MAX {
            Err("the reason is longer than 200 characters; say it shorter")
        } else if text.chars().any(|character| printable(character) != character) {
            Err("the reason has control characters; write it on one line of plain text")
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// The words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a person wants to become void.
#[derive(Debug, Clone)]
pub struct VoidOrder {
    /// Which.
    pub order: OrderNumber,
    /// Why.
    pub reason: Reason,
    /// Although WeChat may have taken it.
    pub even_if_sent: bool,
    /// Who wants it.
    pub uid: u32,
}

/// What came of a person's decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decided {
    /// It is done, durably.
    Done,
    /// There is no such order.
    NotFound,
    /// The order stays as it is: one sentence why.
    Refused(String),
}

/// One step of sending all parked orders again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetriedBatch {
    /// Orders that will be sent again.
    pub retried: usize,
    /// Orders that stay parked.
    pub refused: usize,
    /// Where the next step begins; `None` after the last.
    pub next_after_id: Option<DeductionId>,
}

/// What can go wrong with the ledger.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// Another process has it.
    #[error("the ledger {path} is held by another faregate process; stop that one first, or use its control socket")]
    Held {
        /// The file.
        path: PathBuf,
    },
    /// It is not a ledger, or broken.
    #[error(
        "the ledger {path} is damaged ({detail}); it may hold fares that are not yet charged: stop the service, move it and {path}-wal into a folder where they are kept, bring what can be read of it into a new one with: faregate recover FILE, and start the service again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        detail: String,
    },
    /// Made by a newer major version.
    #[error(
        "the ledger {path} has version {found}, newer than this program understands ({known}); install the newer faregate again"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// There is none.
    #[error("there is no ledger at {path}; it is made when the daemon first starts: check [ledger] path")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be opened, read or written now.
    #[error("the ledger cannot be used: {reason}")]
    Unavailable {
        /// What happened and what to do.
        reason: Arc<str>,
    },
}

impl LedgerError {
    /// The reason alone, where the rest of the sentence is said elsewhere.
    pub(crate) fn reason(&self) -> Arc<str> {
        match self {
            Self::Unavailable { reason } => reason.clone(),
            other => Arc::from(other.to_string()),
        }
    }

    /// An [`LedgerError::Unavailable`] of these words.
    pub(crate) fn unavailable(reason: impl AsRef<str>) -> Self {
        Self::Unavailable { reason: Arc::from(reason.as_ref()) }
    }
}
