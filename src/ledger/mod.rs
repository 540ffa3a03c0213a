//! Everything durable, and the only SQL of the project.
//!
//! # Promises
//! - An [`Admission::Admitted`] is on the disk (one `fdatasync`), with its order number and the bytes of its request.
//! - A scan is looked up, judged ([`crate::journey`], pure) and recorded in one transaction on one thread: two lanes cannot
//!   race, and no cache can be out of step.
//! - A row of this run is not handed to the uploader before its turnstile has opened.
//! - After an error nothing goes on as if nothing had happened: see `writer`.
//!
//! # Order of things
//! [`start`] takes the lock, opens the file, marks openings that the last run did not confirm, and spawns the thread. The gate's
//! runtime holds [`GateLedger`], the network's holds [`NetworkLedger`]; when all handles are dropped the thread writes what is
//! deferred, closes the file and ends: [`Running::join`].
//!
//! This room knows neither HTTP nor GPIO; the bytes of a request come from a [`BodyMaker`] that it is handed.

mod checkpoint;
mod deny;
mod export;
mod fsck;
mod lock;
mod order;
mod recover;
mod results;
mod salvage;
mod signal;
mod store;
#[cfg(test)]
mod tests;
mod types;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

pub use deny::*;
pub use export::*;
pub use fsck::{Broken, FsckReport, Invariant, RequestCheck, Sum, fsck};
pub use order::OrderNumber;
pub use recover::{Recovered, recover};
pub use results::{
    Callback, IfUnknown, OrderNames, Payment, PaymentOutcome, Repayment, Settled, SettlementAlarm, SettlementAlarmCause,
};
pub use salvage::{Salvage, Unreadable};
pub use signal::PendingSignal;
pub use types::*;
pub use writer::{LedgerEvent, Observer, Written};

use crate::{clock::boot_id, config::Settings, journey::Rules};
use checkpoint::Checkpoints;
use lock::Lock;
use store::{BootName, Context, IfMissing, LastRun, Store};
use writer::{Alarms, GateOp, NetworkOp, Setup, Writer};

/// Operations of the gate that can wait; lanes ask one thing at a time, so this is never reached.
const GATE_QUEUE: usize = 256;
/// Operations of the network that can wait; whoever asks more waits.
const NETWORK_QUEUE: usize = 256;

/// What [`start`] needs to know.
pub struct Options {
    /// The SQLite file.
    pub path: PathBuf,
    /// Below this many free bytes nothing is admitted.
    pub min_free_bytes: u64,
    /// `gate.id`, written into each record.
    pub gate: String,
    /// `fare.line_name`, likewise.
    pub line: String,
    /// Windows and prices.
    pub rules: Rules,
    /// `[deny] unpaid`
    pub unpaid: Unpaid,
    /// What becomes of old rows.
    pub keeping: Keeping,
    /// Makes request bodies.
    pub body_maker: BodyMaker,
    /// Counts.
    pub observer: Observer,
}

/// What becomes of old rows.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    /// `upload.max_age`, milliseconds: what is older is parked, not sent.
    pub max_age_ms: i64,
    /// `ledger.keep`, milliseconds: settled rows that are older are removed when the sums of their day are stored.
    pub keep_ms: i64,
    /// `ledger.keep_denied`, milliseconds: refused scans that are older are removed.
    pub keep_denied_ms: i64,
}

impl Keeping {
    /// From the settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            max_age_ms: whole_ms(settings.upload.max_age),
            keep_ms: whole_ms(settings.ledger.keep),
            keep_denied_ms: whole_ms(settings.ledger.keep_denied),
        }
    }
}

fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The ledger's thread.
#[derive(Debug)]
pub struct Running {
    thread: JoinHandle<Written>,
}

impl Running {
    /// Waits until everything is written and the file is closed, which happens when all handles have been dropped.
    #[must_use]
    pub fn join(self) -> Written {
        self.thread.join().unwrap_or_else(|_| {
            log::error!("the ledger's thread ended by a panic; what was durable is kept");
            Written::NotAll
        })
    }
}

/// Opens the ledger, making it if there is none, and starts its thread.
///
/// A disk that cannot be written now is no error, nor is a file that is damaged: the ledger then starts as [`Health::Down`] and is
/// opened when it can be, for a gate without a ledger still lets people out.
///
/// # Errors
/// Another process holds it, or it is newer than this program: whoever put this program here has to put it right.
pub fn start(options: Options) -> Result<(Running, GateLedger, NetworkLedger), LedgerError> {
    start_with(options, IfMissing::Create)
}

/// As [`start`], for a command without a daemon: a ledger that is not there or cannot be opened is an error.
///
/// # Errors
/// As [`start`], and every other [`LedgerError`].
pub fn start_existing(options: Options) -> Result<(Running, GateLedger, NetworkLedger), LedgerError> {
    start_with(options, IfMissing::Fail)
}

fn start_with(options: Options, if_missing: IfMissing) -> Result<(Running, GateLedger, NetworkLedger), LedgerError> {
    let (writer, gate, network) = prepare(options, if_missing, Checkpoints::Aside)?;
    Ok((Running { thread: spawn(writer)? }, gate, network))
}

/// As [`start`], without a thread: the ledger is served by the future, on the runtime of whoever polls it.
#[cfg(test)]
#[cfg(feature = "sandbox")]
pub(crate) fn inline(options: Options) -> Result<(impl Future<Output = Written> + use<>, GateLedger, NetworkLedger), LedgerError> {
    let (writer, gate, network) = prepare(options, IfMissing::Create, Checkpoints::Inline)?;
    Ok((writer.serve(), gate, network))
}

fn prepare(
    mut options: Options,
    if_missing: IfMissing,
    checkpoints: Checkpoints,
) -> Result<(Writer, GateLedger, NetworkLedger), LedgerError> {
    let boot = boot_name()?;
    let prepared = store::prepare_file(&options.path, if_missing);
    // Two names of one file are one ledger.
    options.path = options.path.canonicalize().unwrap_or(options.path);
    let lock = may_come_later(prepared.and_then(|()| Lock::take(&options.path)), if_missing)?;
    let store = match &lock {
        Ok(_) => may_come_later(Store::open(&options.path, &boot, if_missing, LastRun::MayHaveCrashed), if_missing)?,
        Err(error) => Err(error.clone()),
    };
    let (gate_sender, gate) = mpsc::channel(GATE_QUEUE);
    let (network_sender, network) = mpsc::channel(NETWORK_QUEUE);
    let (health, health_seen) = watch::channel(Health::Up);
    let (alarms, alarms_seen) = watch::channel(Alarms::new());
    let pending = Arc::new(PendingSignal::default());
    let writer = Writer::new(Setup {
        path: options.path,
        boot,
        min_free_bytes: options.min_free_bytes,
        keeping: options.keeping,
        context: Context {
            rules: options.rules,
            gate: options.gate,
            line: options.line,
            unpaid: options.unpaid,
            body_maker: Arc::new(options.body_maker),
        },
        lock: lock.ok(),
        store,
        gate,
        network,
        health,
        pending: pending.clone(),
        alarms,
        observer: options.observer,
        checkpoints,
    });
    let gate = GateLedger { ops: gate_sender, health: health_seen.clone() };
    let network = NetworkLedger { ops: network_sender, health: health_seen, alarms: alarms_seen, pending };
    Ok((writer, gate, network))
}

/// What is to be done about logs beside this ledger that a start found damaged and kept, a sentence each, until they are moved away.
#[must_use]
pub fn damaged_logs(path: &Path) -> Vec<String> {
    let sentence = |kept: PathBuf| {
        let kept = kept.display();
        format!(
            "the ledger's log was damaged and is kept as {kept}-wal: stop the service, bring what is missing into the ledger with: \
             faregate recover {kept}, move that file away, and start the service again"
        )
    };
    store::kept_logs(path).into_iter().map(sentence).collect()
}

/// What cannot be had now is no reason for a daemon not to start: a gate without a ledger still lets people out. What is damaged can be
/// moved away meanwhile.
fn may_come_later<T>(result: Result<T, LedgerError>, if_missing: IfMissing) -> Result<Result<T, LedgerError>, LedgerError> {
    match result {
        Err(error @ (LedgerError::Held { .. } | LedgerError::Newer { .. })) => Err(error),
        Err(error) if if_missing == IfMissing::Create => Ok(Err(error)),
        Err(error) => Err(error),
        Ok(value) => Ok(Ok(value)),
    }
}

fn boot_name() -> Result<BootName, LedgerError> {
    if let Some(id) = boot_id() {
        return Ok(BootName { id, is_machines: true });
    }
    let id = OrderNumber::generate(0).map_err(|error| LedgerError::unavailable(error.to_string()))?;
    Ok(BootName { id: id.to_string(), is_machines: false })
}

fn spawn(writer: Writer) -> Result<JoinHandle<Written>, LedgerError> {
    let unavailable = |error: std::io::Error| LedgerError::unavailable(format!("its thread cannot be started: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(unavailable)?;
    std::thread::Builder::new().name("ledger".to_owned()).spawn(move || runtime.block_on(writer.serve())).map_err(unavailable)
}

/// The gate's way to the ledger. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GateLedger {
    ops: mpsc::Sender<GateOp>,
    health: watch::Receiver<Health>,
}

impl GateLedger {
    /// Judges and records a tap; when this returns [`Admission::Admitted`], it is durable.
    ///
    /// # Errors
    /// The ledger cannot be written: nothing may open for this tap.
    pub async fn admit(&self, tap: Tap) -> Result<Admission, LedgerError> {
        ask(&self.ops, |reply| GateOp::Admit(Box::new(tap), reply)).await
    }

    /// The opening for this row did not happen: it becomes `void`, and its code may be used again. Durable when this returns, or,
    /// while the file cannot be written, before anything else is recorded.
    ///
    /// # Errors
    /// The ledger's thread has ended.
    pub async fn take_back(&self, record: RecordId, why: Untaken) -> Result<(), LedgerError> {
        ask(&self.ops, |reply| GateOp::TakeBack(record, why, reply)).await
    }

    /// The turnstile opened. Joins the next commit.
    pub async fn opened(&self, opened: Opened) {
        // A thread that has ended cannot note it; the next start marks the row as unconfirmed.
        let _ = self.ops.send(GateOp::Opened(Box::new(opened))).await;
    }

    /// Somebody passed an opening, or nobody did in time. Joins the next commit.
    pub async fn passage(&self, passage: Passage) {
        // A thread that has ended cannot note it; the next start takes it that somebody passed.
        let _ = self.ops.send(GateOp::Passage(passage)).await;
    }

    /// Something happened at a lane that concerns no record. Joins the next commit; under a flood some are only counted.
    pub fn note(&self, note: GateNote) {
        // As with refusals, a full queue means a stuck disk.
        let _ = self.ops.try_send(GateOp::Note(Box::new(note)));
    }

    /// A scan was refused. Joins the next commit; under a flood some are only counted.
    pub fn denied(&self, denial: Denial) {
        // A full queue means a stuck disk: what was refused then is in the metrics.
        let _ = self.ops.try_send(GateOp::Denied(Box::new(denial)));
    }

    /// Whether codes can be admitted, now and whenever it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

/// The network's and people's way to the ledger. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NetworkLedger {
    ops: mpsc::Sender<NetworkOp>,
    health: watch::Receiver<Health>,
    alarms: watch::Receiver<Alarms>,
    pending: Arc<PendingSignal>,
}

impl NetworkLedger {
    /// At most `limit` pending rows above `after_id` that may be sent, ascending; fewer when there are no more.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn pending(&self, after_id: DeductionId, limit: usize) -> Result<Vec<DeductionId>, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Pending { after_id, limit, reply }).await
    }

    /// One row, just before it is sent; `None` when it is no longer pending.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn claim(&self, id: DeductionId) -> Result<Option<PendingDeduction>, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Claim(id, reply)).await
    }

    /// Records what came of an attempt. Joins the next commit, at most a second later; until then the row is not handed out.
    ///
    /// # Errors
    /// The ledger's thread has ended.
    pub async fn attempt(&self, attempt: Attempt) -> Result<(), LedgerError> {
        self.ops.send(NetworkOp::Attempt(Box::new(attempt))).await.map_err(|_| ended())
    }

    /// Rows and fen by state.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn totals(&self) -> Result<Totals, LedgerError> {
        ask(&self.ops, NetworkOp::Totals).await
    }

    /// A page of rows, oldest first.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn page(&self, request: PageRequest) -> Result<Page, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Page(request, reply)).await
    }

    /// A row and its story, if there is one of this number.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn story(&self, order: OrderNumber) -> Result<Option<QueueStory>, LedgerError> {
        Ok(ask(&self.ops, |reply| NetworkOp::Story(order, reply)).await?.map(|story| *story))
    }

    /// A page of journeys, oldest first.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn journeys(&self, request: JourneysRequest) -> Result<JourneysPage, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Journeys(request, reply)).await
    }

    /// From now on taps are judged by these rules.
    ///
    /// # Errors
    /// The ledger's thread has ended.
    pub async fn set_rules(&self, rules: Rules) -> Result<(), LedgerError> {
        self.ops.send(NetworkOp::SetRules(Box::new(rules))).await.map_err(|_| ended())
    }

    /// Has a parked order sent again, whatever its age; `uid` is who wants it. Durable when this returns.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn retry(&self, order: OrderNumber, uid: u32) -> Result<Decided, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Retry { order, uid, reply }).await
    }

    /// Has some of the parked orders above `after_id` sent again; see [`RetriedBatch`]. Durable when this returns.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn retry_parked(&self, after_id: DeductionId, uid: u32) -> Result<RetriedBatch, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::RetryParked { after_id, uid, reply }).await
    }

    /// Makes an order void. Durable when this returns.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn void(&self, order: VoidOrder) -> Result<Decided, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Void(Box::new(order), reply)).await
    }

    /// What a callback of WeChat says about payments, applied to the orders that it names. Durable when this returns; the same
    /// again changes nothing.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn settle(&self, callback: Callback, if_unknown: IfUnknown) -> Result<Settled, LedgerError> {
        ask(&self.ops, |reply| NetworkOp::Settle(Box::new(callback), if_unknown, reply)).await
    }

    /// The newest payments that did not fit what was recorded, the oldest first.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn settlement_alarms(&self) -> Result<Vec<SettlementAlarm>, LedgerError> {
        ask(&self.ops, NetworkOp::SettlementAlarms).await
    }

    /// Whether codes can be admitted, now and whenever it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// The alarms about what is not yet accepted, one sentence each, now and whenever they change.
    #[must_use]
    pub fn alarms(&self) -> watch::Receiver<Vec<Arc<str>>> {
        self.alarms.clone()
    }

    /// Waits until rows have become pending since this last returned, and gives the lowest of them. For one waiter.
    pub async fn pending_since(&self) -> DeductionId {
        self.pending.wait().await
    }
}

async fn ask<Op, T>(
    ops: &mpsc::Sender<Op>,
    op: impl FnOnce(oneshot::Sender<Result<T, LedgerError>>) -> Op,
) -> Result<T, LedgerError> {
    let (reply, answer) = oneshot::channel();
    ops.send(op(reply)).await.map_err(|_| ended())?;
    answer.await.unwrap_or_else(|_| Err(ended()))
}

fn ended() -> LedgerError {
    LedgerError::Unavailable { reason: Arc::from("its thread has ended") }
}
