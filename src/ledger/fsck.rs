//! `faregate fsck`: whether the ledger's file is whole, and whether what it says is consistent.
//!
//! Reads one consistent view through a read-only connection of its own, repairs nothing, and stands in nobody's way: the daemon reads
//! and writes on. Only its log cannot be begun anew meanwhile, so it grows by what is written in that time.
//!
//! Each [`Invariant`] is a promise of this project beyond SQLite's own; the judgement of a row is a pure function of it.

use std::path::Path;

use super::{
    order::OrderNumber,
    salvage::{LogDamage, log_damage},
    store::fsck::View,
    types::{LedgerError, STATES},
};
use crate::journal::printable;

/// Words of `kind`.
const KINDS: [&str; 4] = ["single", "exit", "unmatched-exit", "unfinished-entry"];
/// Words of `opening`.
const OPENINGS: [&str; 6] = ["none", "waiting", "opened", "unconfirmed", "late", "not-opened"];
/// What may be removed when it was kept long enough.
const REMOVABLE: [&str; 2] = ["paid", "void"];
/// So many rows that are wrong in the same way are named; all are counted.
const EXAMPLES_MAX: usize = 5;

/// Whether the bytes of a request are of this order and charge this amount; only who makes requests can tell.
pub type RequestCheck = fn(&[u8], &str, i64) -> bool;

/// A promise that a ledger keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// Every deduction is in one of the seven states, so that every fen is explained.
    Explained,
    /// The running sums by state equal the rows.
    Tally,
    /// What is to be sent, or was, has the bytes of its request.
    Body,
    /// A request says the number and the amount of its row.
    Request,
    /// Order numbers are 26 characters of Crockford base32.
    OrderForm,
    /// No two deductions have one number.
    OrderUnique,
    /// Kinds and openings are words that this version knows.
    Words,
    /// 0 ≤ total ≤ original.
    Amount,
    /// What is accepted says when.
    AcceptedAt,
    /// What is paid says when, and how much: what was recorded, unless it is flagged.
    Paid,
    /// Each step of a story belongs to a deduction.
    Events,
    /// A journey has at most one deduction that is not void.
    JourneyOnce,
    /// A deduction's journey is there.
    Journeys,
    /// Only what is paid or void was ever removed, and no sum of it is negative.
    Removed,
    /// A start finds every opening that nobody has confirmed.
    Openings,
    /// The deny-list has as many cards as it says.
    DenyList,
}

impl Invariant {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Explained => "explained",
            Self::Tally => "tally",
            Self::Body => "body",
            Self::Request => "request",
            Self::OrderForm => "order-form",
            Self::OrderUnique => "order-unique",
            Self::Words => "words",
            Self::Amount => "amount",
            Self::AcceptedAt => "accepted-at",
            Self::Paid => "paid",
            Self::Events => "events",
            Self::JourneyOnce => "journey-once",
            Self::Journeys => "journeys",
            Self::Removed => "removed",
            Self::Openings => "openings",
            Self::DenyList => "deny-list",
        }
    }

    /// What is wrong where it is broken.
    #[must_use]
    pub fn problem(self) -> &'static str {
        match self {
            Self::Explained => "deductions are in a state that is none of the seven, so their fen are in no sum",
            Self::Tally => "the sums by state, which status shows and limits go by, differ from the rows",
            Self::Body => "deductions that are to be sent, or were, have no request",
            Self::Request => "requests say another order or another amount than their row, or cannot be read",
            Self::OrderForm => "order numbers are not 26 letters and digits",
            Self::OrderUnique => "order numbers are used more than once, so WeChat charges only one of each",
            Self::Words => "deductions have a kind or an opening that this version does not know",
            Self::Amount => "amounts are negative, or more after the discount than before",
            Self::AcceptedAt => "accepted deductions do not say when they were accepted",
            Self::Paid => "paid deductions do not say when, or how much was paid, or that it is not what was recorded",
            Self::Events => "steps of a story belong to no deduction",
            Self::JourneyOnce => "journeys have several deductions that are not void, so the passenger may be charged twice",
            Self::Journeys => "deductions are for journeys that are not in the ledger",
            Self::Removed => "sums of removed deductions are of a state that is never removed, or negative",
            Self::Openings => "openings were never confirmed, and are out of sight of the start that should say so",
            Self::DenyList => "the deny-list has another number of cards than it says",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn mend(self) -> &'static str {
        match self {
            Self::DenyList => "import the list again",
            Self::Words => "if a newer version wrote this ledger, install that again; else keep a copy and have it looked at",
            Self::Body => "look at each with: faregate queue show ORDER; void it, and charge the passenger otherwise",
            Self::JourneyOnce => "look at each with: faregate queue show ORDER; a person must give back what was paid twice",
            Self::OrderUnique => "compare each with WeChat's bill by its time and amount before anything else is sent",
            Self::Tally | Self::Events | Self::Journeys | Self::Openings => {
                "nothing is charged wrongly by it; keep a copy of the ledger and have it looked at"
            }
            _ => "keep a copy of the ledger, compare these with WeChat's bill, and have it looked at",
        }
    }
}

/// A broken promise, and by how many rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub invariant: Invariant,
    /// Rows that break it.
    pub count: u64,
    /// Some of them: order numbers, or what else names them.
    pub examples: Vec<String>,
}

/// Rows and their fen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// How many.
    pub rows: u64,
    /// What they charge.
    pub fen: i64,
}

impl Sum {
    fn add(&mut self, fen: i64) {
        self.rows += 1;
        self.fen = self.fen.saturating_add(fen);
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FsckReport {
    /// All rows, whatever they say.
    pub recorded: Sum,
    /// The rows by state, in the order of [`STATES`].
    pub states: [Sum; 7],
    /// What was removed after it had been kept long enough.
    pub removed: Sum,
    /// Broken promises, in the order in which they were looked at.
    pub broken: Vec<Broken>,
    /// What SQLite says of a file that is not whole; empty when it is.
    pub damage: Vec<String>,
    /// Paid with another amount than recorded, which breaks no promise: what was recorded.
    pub mismatched: Sum,
    /// Callbacks about orders that are not here, which break none either: what was paid by them.
    pub unknown_callbacks: Sum,
}

impl FsckReport {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty() && self.damage.is_empty()
    }

    /// What is in none of the seven states.
    #[must_use]
    pub fn unexplained(&self) -> Sum {
        let explained = self
            .states
            .iter()
            .fold(Sum::default(), |sum, state| Sum { rows: sum.rows + state.rows, fen: sum.fen.saturating_add(state.fen) });
        Sum { rows: self.recorded.rows - explained.rows, fen: self.recorded.fen.saturating_sub(explained.fen) }
    }

    fn break_of(&mut self, invariant: Invariant, example: &str) {
        let known = self.broken.iter().position(|broken| broken.invariant == invariant);
        let place = known.unwrap_or_else(|| {
            self.broken.push(Broken { invariant, count: 0, examples: Vec::new() });
            self.broken.len() - 1
        });
        let broken = &mut self.broken[place];
        broken.count += 1;
        if broken.examples.len() < EXAMPLES_MAX {
            // What was spoiled may hold anything.
            broken.examples.push(example.chars().map(printable).collect());
        }
    }

    fn take(&mut self, row: &CheckedRow) {
        self.recorded.add(row.total_fen);
        match STATES.iter().position(|state| *state == row.state) {
            Some(place) => self.states[place].add(row.total_fen),
            None => self.break_of(Invariant::Explained, &row.order),
        }
        if row.is_mismatch {
            self.mismatched.add(row.total_fen);
        }
        row.breaks().for_each(|invariant| self.break_of(invariant, &row.order));
    }

    fn compare_tally(&mut self, tally: &[(String, Sum)]) {
        for (place, state) in STATES.iter().enumerate() {
            let said = tally.iter().find(|(of, _)| of == state).map_or(Sum::default(), |(_, sum)| *sum);
            let Sum { rows, fen } = self.states[place];
            if said != self.states[place] {
                let example = format!("{state}: {} rows, {} fen instead of {rows} rows, {fen} fen", said.rows, said.fen);
                self.break_of(Invariant::Tally, &example);
            }
        }
    }

    fn take_removed(&mut self, removed: &[(String, Sum)]) {
        for (state, sum) in removed {
            self.removed.rows += sum.rows;
            self.removed.fen = self.removed.fen.saturating_add(sum.fen);
            if !REMOVABLE.contains(&state.as_str()) {
                self.break_of(Invariant::Removed, &format!("{state}: {} rows, {} fen", sum.rows, sum.fen));
            }
        }
    }
}

/// The request that a row keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum KeptRequest {
    #[default]
    None,
    /// Of this order and amount.
    OfThis,
    /// Of something else, or spoiled.
    OfAnother,
}

/// What of a deduction is looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct CheckedRow {
    pub(super) order: String,
    pub(super) state: String,
    pub(super) kind: String,
    pub(super) opening: String,
    pub(super) original_fen: i64,
    pub(super) total_fen: i64,
    pub(super) request: KeptRequest,
    /// Whether a request was sent, or may have been.
    pub(super) was_sent: bool,
    pub(super) accepted_utc_ms: Option<i64>,
    pub(super) paid_fen: Option<i64>,
    /// Whether it has the flag `amount-mismatch`.
    pub(super) is_mismatch: bool,
    pub(super) settled_utc_ms: Option<i64>,
}

impl CheckedRow {
    /// The promises that this row breaks by itself.
    fn breaks(&self) -> impl Iterator<Item = Invariant> {
        let is = |state: &str| self.state == state;
        let is_number = OrderNumber::parse(&self.order).is_some_and(|order| order.as_str() == self.order);
        let is_known = KINDS.contains(&self.kind.as_str()) && OPENINGS.contains(&self.opening.as_str());
        [
            (Invariant::OrderForm, !is_number),
            (Invariant::Words, !is_known),
            (Invariant::Amount, !(0..=self.original_fen).contains(&self.total_fen)),
            (Invariant::Body, self.request == KeptRequest::None && self.needs_body()),
            (Invariant::Request, self.request == KeptRequest::OfAnother),
            (Invariant::AcceptedAt, is("accepted") && self.accepted_utc_ms.is_none()),
            (Invariant::Paid, is("paid") && (!self.is_paid_explained() || self.settled_utc_ms.is_none())),
        ]
        .into_iter()
        .filter_map(|(invariant, is_broken)| is_broken.then_some(invariant))
    }

    /// Of one payment for several trips whose sum does not fit, the part of each is not known.
    fn is_paid_explained(&self) -> bool {
        match self.paid_fen {
            Some(fen) => fen >= 0 && (fen == self.total_fen || self.is_mismatch),
            None => self.is_mismatch,
        }
    }

    /// What was void or free from the first has no request, and WeChat may call paid what it was never asked for.
    fn needs_body(&self) -> bool {
        !["void", "paid"].contains(&self.state.as_str()) || self.was_sent
    }
}

/// Looks at the ledger at `path`.
///
/// # Errors
/// It is not there, may not be read, is newer than this program, or so damaged that it cannot be read to its end.
pub fn fsck(path: &Path, is_request_of: RequestCheck) -> Result<FsckReport, LedgerError> {
    // Before SQLite opens it: what it does not read of a log it does not tell of.
    let log =
        log_damage(path).map_err(|error| LedgerError::unavailable(format!("its log cannot be read: {error}; look at the disk")))?;
    let view = View::open(path)?;
    let explained = |result: rusqlite::Result<FsckReport>| result.map_err(|error| view.explain(&error));
    let mut report = explained(look(&view, is_request_of))?;
    report.damage.extend(log.map(|LogDamage { frame, commits }| {
        format!("its write-ahead log is broken at frame {frame}, and {commits} commits behind that, or more, will be left out")
    }));
    Ok(report)
}

fn look(view: &View, is_request_of: RequestCheck) -> rusqlite::Result<FsckReport> {
    let mut report = FsckReport { damage: view.damage()?, ..FsckReport::default() };
    // Where the file itself is not whole the rest is worth knowing, but may not be readable.
    match look_at_rows(view, is_request_of, &mut report) {
        Err(error) if report.damage.is_empty() => Err(error),
        Err(error) => {
            report.damage.push(error.to_string());
            Ok(report)
        }
        Ok(()) => Ok(report),
    }
}

fn look_at_rows(view: &View, is_request_of: RequestCheck, report: &mut FsckReport) -> rusqlite::Result<()> {
    view.each_row(is_request_of, |row| report.take(row))?;
    report.compare_tally(&view.tally()?);
    view.each_number_used_again(|order| report.break_of(Invariant::OrderUnique, order))?;
    view.each_charged_again(|order| report.break_of(Invariant::JourneyOnce, order))?;
    view.each_without_journey(|order| report.break_of(Invariant::Journeys, order))?;
    view.each_forgotten_opening(|record| report.break_of(Invariant::Openings, record))?;
    view.each_stray_event(|event| report.break_of(Invariant::Events, &format!("event {event}")))?;
    report.take_removed(&view.removed()?);
    view.each_negative_removed(|sum| report.break_of(Invariant::Removed, &format!("{sum}: negative")))?;
    report.unknown_callbacks = view.unknown_callbacks()?;
    let (said, counted) = view.deny_list()?;
    if said != counted {
        report.break_of(Invariant::DenyList, &format!("{said} said, {counted} there"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: &str) -> CheckedRow {
        CheckedRow {
            order: "01ARYZ6S41ZZZZZZZZZZZZZZZZ".to_owned(),
            state: state.to_owned(),
            kind: "single".to_owned(),
            opening: "opened".to_owned(),
            original_fen: 200,
            total_fen: 150,
            request: KeptRequest::OfThis,
            was_sent: true,
            accepted_utc_ms: Some(1),
            paid_fen: Some(150),
            is_mismatch: false,
            settled_utc_ms: Some(1),
        }
    }

    fn broken(row: &CheckedRow) -> Vec<Invariant> {
        row.breaks().collect()
    }

    #[test]
    fn a_row_as_it_should_be_breaks_nothing_in_any_state() {
        for state in STATES {
            assert_eq!(broken(&row(state)), [], "{state}");
        }
        for paid_fen in [None, Some(149)] {
            assert_eq!(broken(&CheckedRow { paid_fen, is_mismatch: true, ..row("paid") }), []);
        }
    }

    #[test]
    fn a_request_is_missed_exactly_where_one_was_made() {
        let without =
            |state: &str, was_sent| broken(&CheckedRow { request: KeptRequest::None, was_sent, ..row(state) }) == [Invariant::Body];
        for state in ["held", "pending", "accepted", "unpaid", "parked"] {
            assert!(without(state, false), "{state}");
        }
        assert!(!without("void", false) && !without("paid", false), "what was never to be sent");
        assert!(without("void", true) && without("paid", true), "what was sent must be kept");
    }

    #[test]
    fn each_promise_of_a_row_can_be_broken_alone() {
        let table = [
            (Invariant::OrderForm, CheckedRow { order: "01aryz6s41zzzzzzzzzzzzzzzz".to_owned(), ..row("pending") }),
            (Invariant::Words, CheckedRow { kind: "double".to_owned(), ..row("pending") }),
            (Invariant::Words, CheckedRow { opening: "ajar".to_owned(), ..row("pending") }),
            (Invariant::Amount, CheckedRow { total_fen: 201, ..row("pending") }),
            (Invariant::Amount, CheckedRow { total_fen: -1, ..row("pending") }),
            (Invariant::AcceptedAt, CheckedRow { accepted_utc_ms: None, ..row("accepted") }),
            (Invariant::Request, CheckedRow { request: KeptRequest::OfAnother, ..row("pending") }),
            (Invariant::Paid, CheckedRow { paid_fen: None, ..row("paid") }),
            (Invariant::Paid, CheckedRow { paid_fen: Some(149), ..row("paid") }),
            (Invariant::Paid, CheckedRow { paid_fen: Some(-1), is_mismatch: true, ..row("paid") }),
            (Invariant::Paid, CheckedRow { settled_utc_ms: None, ..row("paid") }),
        ];
        for (invariant, row) in table {
            assert_eq!(broken(&row), [invariant], "{row:?}");
        }
    }

    #[test]
    fn what_is_in_no_known_state_is_counted_and_in_no_sum() {
        let mut report = FsckReport::default();
        report.take(&row("pending"));
        report.take(&row("lost"));
        assert_eq!((report.recorded, report.unexplained()), (Sum { rows: 2, fen: 300 }, Sum { rows: 1, fen: 150 }));
        assert_eq!(report.broken[0].invariant, Invariant::Explained);
    }

    #[test]
    fn many_rows_are_counted_and_few_are_named_and_none_can_upset_a_terminal() {
        let mut report = FsckReport::default();
        (0..100).for_each(|_| report.take(&CheckedRow { order: "\u{1b}[2J".to_owned(), ..row("pending") }));
        let broken = &report.broken[0];
        assert_eq!((broken.count, broken.examples.len()), (100, EXAMPLES_MAX));
        assert!(!broken.examples[0].contains('\u{1b}'));
    }
}
