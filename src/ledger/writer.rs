//! The ledger's thread: the only owner of the writing connection.
//!
//! Two bounded queues lead here, the gate's and the network's; the gate's is served first. What waits is taken together and
//! committed together (group commit): one sync for a scan alone, far fewer than one each under load. Operations that no opening
//! waits for (openings, attempts, refusals) are *deferred*: they join the next commit of several that somebody waits for, and are
//! committed by themselves after [`DEFER_MAX`] at the latest. A scan alone does not wait for what others left to be written, unless
//! its judgement depends on it.
//!
//! The network's operations are served one at a time, so that a scan waits for one of them at most.
//!
//! After any error that concerns the file the connection is closed, deferred operations are kept, scans are refused at once, and
//! the file is opened again with growing pauses, when it has proved to be whole and writable. A scan whose commit failed may or
//! may not be in the file; it did not open anything, so it is taken back before anything else is recorded: such [`Correction`]s
//! are owned by this thread until they are durable, a stop included.

mod decisions;
mod deny;
mod export;
mod exposure;
mod settlement;
mod upkeep;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::Keeping;
use super::{
    checkpoint::{Checkpointer, Checkpoints, GROWTH_BYTES, LOG_BYTES_MAX},
    lock::Lock,
    order::OrderNumber,
    results::{Callback, IfUnknown, Settled as SettledOrders, SettlementAlarm},
    signal::PendingSignal,
    store::{BootName, Context, IfMissing, LastRun, Store, concerns_file, free_bytes, is_busy, prepare_file},
    types::{
        Admission, Attempt, Decided, DeductionId, Denial, Entered, GateNote, Health, JourneyId, JourneysPage, JourneysRequest,
        LedgerError, Opened, Outcome as AttemptOutcome, Page, PageRequest, Passage, PendingDeduction, QueueStory, RecordId,
        RetriedBatch, Tap, Totals, Untaken, VoidOrder,
    },
};
use crate::{
    clock::{Stamp, monotonic_now},
    journey::{Reached, Rules},
};
use decisions::Delivering;
use deny::DenyKeeping;
pub(super) use deny::DenyOp;
pub(super) use export::ExportOp;
pub(super) use exposure::Alarms;
use exposure::ExposureWatch;
use upkeep::Upkeep;

/// Deferred operations wait this long for a commit to join.
const DEFER_MAX: Duration = Duration::from_secs(1);
/// Deferred operations that join one commit at most: a scan never waits for more than these and its own.
const DEFERRED_PER_COMMIT_MAX: usize = 64;
/// While the file cannot be written, refusals beyond this many deferred operations are only counted in the metrics.
const DEFERRED_DENIALS_MAX: usize = 1024;
/// Operations of each queue that are taken together at most.
const BATCH_MAX: usize = 64;
/// How often the free space is looked at while nothing happens.
const DISK_LOOK_EVERY: Duration = Duration::from_secs(10);
/// First and longest pause before a failed ledger is opened again.
const REOPEN_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A damaged file is read as a whole each time: after that it is left alone for so many times as long.
const REST_PER_TRY: u32 = 10;
/// Admissions are remembered at least so long, in case the windows are set longer later.
const SEEN_KEEP_MS_MIN: i64 = 3_600_000;
/// How often it is tried whether another program has let go of the file.
const LOCK_TRY_EVERY: Duration = Duration::from_secs(1);
/// Free space must be above `min_free` by this part of it before codes are admitted again: 1/16.
const FREE_MARGIN_SHIFT: u32 = 4;
/// At a stop, a file that cannot be written is tried again for so long when something still has to be written.
const LAST_TRIES: (Duration, Duration) = (Duration::from_secs(3), Duration::from_millis(100));
/// Refused scans that are kept, per lane and minute, and likewise events; the rest is counted.
const KEPT_PER_MINUTE_MAX: u32 = 60;

/// An answer to wait for.
pub(super) type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// What the gate asks.
pub(super) enum GateOp {
    /// Judge and record; answered when durable.
    Admit(Box<Tap>, Reply<Admission>),
    /// The opening did not happen; answered when durable.
    TakeBack(RecordId, Untaken, Reply<()>),
    /// The turnstile opened. Deferred.
    Opened(Box<Opened>),
    /// Somebody passed, or nobody did in time. Deferred.
    Passage(Passage),
    /// A scan was refused. Deferred.
    Denied(Box<Denial>),
    /// Something that concerns no record. Deferred.
    Note(Box<GateNote>),
}

/// What the network and people ask.
pub(super) enum NetworkOp {
    Pending {
        after_id: DeductionId,
        limit: usize,
        reply: Reply<Vec<DeductionId>>,
    },
    Claim(DeductionId, Reply<Option<PendingDeduction>>),
    /// Deferred.
    Attempt(Box<Attempt>),
    Totals(Reply<Totals>),
    Page(PageRequest, Reply<Page>),
    Story(OrderNumber, Reply<Option<Box<QueueStory>>>),
    Journeys(JourneysRequest, Reply<JourneysPage>),
    /// From now on taps are judged by these.
    SetRules(Box<Rules>),
    /// Answered when durable, as the next two.
    Retry {
        order: OrderNumber,
        uid: u32,
        reply: Reply<Decided>,
    },
    RetryParked {
        after_id: DeductionId,
        uid: u32,
        reply: Reply<RetriedBatch>,
    },
    Void(Box<VoidOrder>, Reply<Decided>),
    /// What WeChat says of payments; answered when durable.
    Settle(Box<Callback>, IfUnknown, Reply<SettledOrders>),
    /// What such payments left for people to look at.
    SettlementAlarms(Reply<Vec<SettlementAlarm>>),
    /// The deny-list; those that change it are answered when durable.
    Deny(DenyOp),
    /// What `export` reads.
    Export(ExportOp),
}

/// What is worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerEvent {
    /// A commit was made durable.
    Committed {
        /// From its beginning to the end of its sync.
        took: Duration,
        /// How many operations it joined.
        operations: usize,
    },
    /// The file was opened again after an error.
    Reopened,
}

/// Told of every [`LedgerEvent`], on the ledger's thread: must not wait.
pub type Observer = Box<dyn Fn(LedgerEvent) + Send>;

/// Whether a deferred attempt settles its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Yes,
    No,
}

/// What the thread is started with.
pub(super) struct Setup {
    pub(super) path: PathBuf,
    pub(super) boot: BootName,
    pub(super) min_free_bytes: u64,
    pub(super) keeping: Keeping,
    pub(super) context: Context,
    /// `None` when it could not be had yet.
    pub(super) lock: Option<Lock>,
    pub(super) store: Result<Store, LedgerError>,
    pub(super) gate: mpsc::Receiver<GateOp>,
    pub(super) network: mpsc::Receiver<NetworkOp>,
    pub(super) health: watch::Sender<Health>,
    pub(super) pending: Arc<PendingSignal>,
    pub(super) alarms: watch::Sender<Alarms>,
    pub(super) observer: Observer,
    pub(super) checkpoints: Checkpoints,
}

/// A record that must become `void` before anything new is recorded.
#[derive(Clone)]
enum Correction {
    /// Its commit failed: it may be in the file.
    Doubtful(Box<Tap>),
    /// It is in the file, and did not open.
    NotOpened(RecordId, Untaken),
}

enum Deferred {
    Opened(Box<Opened>),
    Passage(Passage),
    Denied(Box<Denial>, u64),
    Note(Box<GateNote>, u64),
    Attempt(Box<Attempt>),
    /// One more like those that the file has: waits for a commit that is made anyway, or until there are many.
    Repeated(Box<Attempt>),
}

enum Waited {
    Admit(Box<Tap>, Reply<Admission>),
    TakeBack(RecordId, Untaken, Reply<()>),
}

enum Answered {
    Admit(Reply<Admission>, Result<Admission, LedgerError>),
    TakeBack(Reply<()>, Result<(), LedgerError>),
}

/// What has happened since the disk was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SinceLook {
    Nothing,
    /// It may have less space.
    Recorded,
}

/// The file, or when to try again.
enum File {
    Open(Store),
    Closed { retry_at: Instant, pause: Duration },
}

pub(super) struct Writer {
    path: PathBuf,
    boot: BootName,
    min_free_bytes: u64,
    keeping: Keeping,
    context: Arc<Context>,
    file: File,
    /// Why the file is closed, or was the last time.
    fault: LedgerError,
    /// That another program holds a lock on the file, and since when that was last seen.
    locked: Option<(LedgerError, Instant)>,
    /// Whether the openings of the last run have been settled.
    is_recovered: bool,
    gate: mpsc::Receiver<GateOp>,
    is_gate_open: bool,
    network: mpsc::Receiver<NetworkOp>,
    is_network_open: bool,
    health: watch::Sender<Health>,
    pending: Arc<PendingSignal>,
    observer: Observer,
    deferred: VecDeque<Deferred>,
    /// Since when one of them has been waiting that will not wait for ever.
    deferred_since: Option<Instant>,
    /// Rows recorded by this run whose turnstile has not answered: they must not be sent yet, for the opening may fail.
    waiting_openings: BTreeSet<DeductionId>,
    /// Of entries whose turnstile has not answered: the deduction of the journey before, which is among those rows.
    waiting_entries: HashMap<JourneyId, DeductionId>,
    /// Rows of which an attempt is deferred, and whether it settles them: the file does not yet say so.
    deferred_attempts: HashMap<DeductionId, Settled>,
    delivering: Delivering,
    corrections: Vec<Correction>,
    /// A question of the network that waits until everything deferred is written.
    waiting_op: Option<NetworkOp>,
    denials: MinuteLimit,
    notes: MinuteLimit,
    disk_looked_at: Instant,
    since_look: SinceLook,
    /// When the file was last opened again, and the pause before that.
    reopened: Option<(Instant, Duration)>,
    checkpointer: Checkpointer,
    upkeep: Upkeep,
    exposure: ExposureWatch,
    deny: DenyKeeping,
    /// Let go of after everything else.
    lock: Option<Lock>,
}

impl Writer {
    pub(super) fn new(setup: Setup) -> Self {
        let checkpointer = Checkpointer::new(&setup.path, setup.checkpoints);
        let rules = &setup.context.rules;
        let exposure = ExposureWatch::new(rules.exposure, rules.tariff.single().total, setup.alarms);
        let (file, fault) = match setup.store {
            Ok(store) => (File::Open(store), LedgerError::unavailable("it was never closed")),
            Err(error) => (File::Closed { retry_at: monotonic_now() + REOPEN_PAUSE.0, pause: REOPEN_PAUSE.0 }, error),
        };
        let mut writer = Self {
            path: setup.path,
            boot: setup.boot,
            min_free_bytes: setup.min_free_bytes,
            keeping: setup.keeping,
            context: Arc::new(setup.context),
            file,
            fault: fault.clone(),
            locked: None,
            is_recovered: false,
            gate: setup.gate,
            is_gate_open: true,
            network: setup.network,
            is_network_open: true,
            health: setup.health,
            pending: setup.pending,
            observer: setup.observer,
            deferred: VecDeque::new(),
            deferred_since: None,
            waiting_openings: BTreeSet::new(),
            waiting_entries: HashMap::new(),
            deferred_attempts: HashMap::new(),
            delivering: Delivering::default(),
            corrections: Vec::new(),
            waiting_op: None,
            denials: MinuteLimit::default(),
            notes: MinuteLimit::default(),
            disk_looked_at: monotonic_now(),
            since_look: SinceLook::Nothing,
            reopened: None,
            checkpointer,
            upkeep: Upkeep::new(),
            exposure,
            deny: DenyKeeping::new(),
            lock: setup.lock,
        };
        if matches!(writer.file, File::Closed { .. }) {
            writer.set_health(Health::Down { reason: fault.reason() });
        }
        writer.recover();
        writer.look_at_disk();
        writer
    }

    /// Serves until every handle of the gate and of the network is gone, then writes what is left to write and closes the file.
    pub(super) async fn serve(mut self) -> Written {
        let mut gate_ops = Vec::with_capacity(BATCH_MAX);
        while self.wait(&mut gate_ops).await {
            self.serve_gate(&mut gate_ops);
            self.serve_network();
            self.keep_house();
        }
        self.write_the_rest().await
    }

    /// Whether the file is closed because it is damaged, and not because it is gone.
    fn is_damaged(&self) -> bool {
        matches!((&self.file, &self.fault), (File::Closed { .. }, LedgerError::Damaged { .. })) && self.path.exists()
    }

    async fn write_the_rest(&mut self) -> Written {
        let end = monotonic_now() + LAST_TRIES.0;
        loop {
            self.correct();
            self.flush();
            if self.deferred.is_empty() && self.corrections.is_empty() {
                self.end_delivering();
                return if self.is_damaged() { Written::Damaged } else { Written::All };
            }
            // A damaged file does not become better, and looking through it takes long.
            if monotonic_now() >= end || self.is_damaged() {
                break;
            }
            tokio::time::sleep(LAST_TRIES.1).await;
            if let File::Closed { pause, .. } = self.file {
                self.reopen(pause);
            }
        }
        let (late, lost) = (self.corrections.len(), self.deferred.len());
        log::error!(
            "stopped although the ledger cannot be written: {}; {late} scans that did not open may be charged, {lost} results will be asked for again",
            self.fault
        );
        if self.is_damaged() { Written::Damaged } else { Written::NotAll }
    }

    /// Waits for something to do. `false` when nobody can ask for anything any more.
    async fn wait(&mut self, gate_ops: &mut Vec<GateOp>) -> bool {
        if self.waiting_op.is_some() {
            while let (true, Ok(op)) = (gate_ops.len() < BATCH_MAX, self.gate.try_recv()) {
                gate_ops.push(op);
            }
            return true;
        }
        let deadline = tokio::time::Instant::from_std(self.wake_at());
        tokio::select! {
            biased;
            count = self.gate.recv_many(gate_ops, BATCH_MAX), if self.is_gate_open => self.is_gate_open = count > 0,
            op = self.network.recv(), if self.is_network_open => {
                self.is_network_open = op.is_some();
                self.waiting_op = op;
            }
            () = tokio::time::sleep_until(deadline) => {}
        }
        self.is_gate_open || self.is_network_open
    }

    fn wake_at(&self) -> Instant {
        // Nothing else is done with a closed file, however long it has been due.
        if let File::Closed { retry_at, .. } = self.file {
            return retry_at;
        }
        let mut wake_at = (self.disk_looked_at + DISK_LOOK_EVERY).min(self.upkeep.wake_at());
        wake_at = self.deny.wake_at().map_or(wake_at, |at| wake_at.min(at));
        if let Some(since) = self.deferred_since {
            wake_at = wake_at.min(since + DEFER_MAX);
        }
        let lock_at = self.locked.as_ref().map(|(_, at)| *at + LOCK_TRY_EVERY);
        [self.checkpointer.wake_at(), self.exposure.wake_at(), lock_at].into_iter().flatten().fold(wake_at, Instant::min)
    }

    fn serve_gate(&mut self, gate_ops: &mut Vec<GateOp>) {
        let mut waited = Vec::new();
        for op in gate_ops.drain(..) {
            match op {
                GateOp::Admit(tap, reply) => waited.push(Waited::Admit(tap, reply)),
                GateOp::TakeBack(id, why, reply) => waited.push(Waited::TakeBack(id, why, reply)),
                GateOp::Opened(opened) => self.defer_opened(opened),
                GateOp::Passage(passage) => self.defer(Deferred::Passage(passage)),
                GateOp::Denied(denial) => self.defer_denied(denial),
                GateOp::Note(note) => self.defer_note(note),
            }
        }
        if !waited.is_empty() {
            self.checkpointer.gate_is_busy();
            if self.refusal().is_some() {
                self.look_at_disk();
            } else {
                self.look_whether_in_place();
            }
            self.commit(waited);
            self.since_look = SinceLook::Recorded;
        } else if self.since_look == SinceLook::Recorded {
            // The turnstile has answered: no passenger waits for this any more.
            self.look_at_disk();
        }
    }

    /// Serves the network's operation whose turn it is. One that must see what is deferred keeps its turn until that is written,
    /// a commit at a time.
    fn serve_network(&mut self) {
        let Some(op) = self.waiting_op.take() else { return };
        if self.must_see_deferred(&op) && matches!(self.file, File::Open(_)) {
            self.commit(Vec::new());
            if let Some(error) = self.lock_in_the_way() {
                return op.refuse(error);
            }
            if !self.deferred.is_empty() {
                self.waiting_op = Some(op);
                return;
            }
        }
        self.carry_out(op);
    }

    fn must_see_deferred(&self, op: &NetworkOp) -> bool {
        match op {
            NetworkOp::Attempt(_)
            | NetworkOp::Pending { .. }
            | NetworkOp::SetRules(_)
            | NetworkOp::SettlementAlarms(_)
            | NetworkOp::Deny(_) => false,
            NetworkOp::Export(op) => op.is_first() && !self.deferred.is_empty(),
            NetworkOp::Claim(id, _) => self.deferred_attempts.contains_key(id),
            NetworkOp::Totals(_) => self.deferred_since.is_some(),
            NetworkOp::Page(..)
            | NetworkOp::Story(..)
            | NetworkOp::Journeys(..)
            | NetworkOp::Retry { .. }
            | NetworkOp::RetryParked { .. }
            | NetworkOp::Void(..)
            | NetworkOp::Settle(..) => !self.deferred.is_empty(),
        }
    }

    fn carry_out(&mut self, op: NetworkOp) {
        match op {
            NetworkOp::Attempt(attempt) => self.take_attempt(attempt),
            NetworkOp::Pending { after_id, limit, reply } => {
                let (waiting, attempts) = (&self.waiting_openings, &self.deferred_attempts);
                let is_ready = |id| !waiting.contains(&id) && attempts.get(&id) != Some(&Settled::Yes);
                let rows = read(&self.file, |store| store.pending(after_id, limit, is_ready));
                self.answer(reply, rows);
            }
            NetworkOp::Claim(id, reply) => self.claim(id, reply),
            NetworkOp::Totals(reply) => {
                let totals = read(&self.file, |store| store.totals(&Stamp::now()));
                self.answer(reply, totals);
            }
            NetworkOp::Page(request, reply) => {
                let page = read(&self.file, |store| store.page(&request));
                self.answer(reply, page);
            }
            NetworkOp::Story(order, reply) => {
                let story = read(&self.file, |store| store.story(&order).map(|story| story.map(Box::new)));
                self.answer(reply, story);
            }
            NetworkOp::Journeys(request, reply) => {
                let page = read(&self.file, |store| store.journeys(&request));
                self.answer(reply, page);
            }
            NetworkOp::SetRules(rules) => self.set_rules(*rules),
            NetworkOp::Retry { order, uid, reply } => self.retry(&order, uid, reply),
            NetworkOp::RetryParked { after_id, uid, reply } => self.retry_parked(after_id, uid, reply),
            NetworkOp::Void(order, reply) => self.void(&order, reply),
            NetworkOp::Settle(callback, if_unknown, reply) => self.settle(&callback, if_unknown, reply),
            NetworkOp::SettlementAlarms(reply) => {
                let alarms = read(&self.file, Store::settlement_alarms);
                self.answer(reply, alarms);
            }
            NetworkOp::Deny(op) => self.serve_deny(op),
            NetworkOp::Export(op) => self.serve_export(op),
        }
    }

    fn take_attempt(&mut self, attempt: Box<Attempt>) {
        self.delivering.come_back(attempt.id);
        if self.is_in_file_already(&attempt) {
            // Nobody waits for it, and no commit is made for it: an outage of days must not wear out a card.
            self.deferred.push_back(Deferred::Repeated(attempt));
            return;
        }
        let settled = if attempt.outcome == AttemptOutcome::StillPending { Settled::No } else { Settled::Yes };
        self.deferred_attempts.insert(attempt.id, settled);
        self.defer(Deferred::Attempt(attempt));
    }

    /// Whether all that depends on this attempt is durable by one before it, so that it only counts.
    fn is_in_file_already(&self, attempt: &Attempt) -> bool {
        let only_counts = attempt.outcome == AttemptOutcome::StillPending && !attempt.is_unknown;
        let File::Open(store) = &self.file else { return false };
        only_counts && !self.deferred_attempts.contains_key(&attempt.id) && store.has_like_attempt(attempt).unwrap_or(false)
    }

    /// Hands out a row that is about to be sent. One that cannot be read is parked, or it would be asked for for ever.
    fn claim(&mut self, id: DeductionId, reply: Reply<Option<PendingDeduction>>) {
        if let Err(error) = self.begin_delivering() {
            drop(reply.send(Err(error)));
            return;
        }
        let now = Stamp::now();
        let claim = match read(&self.file, |store| store.claim(id, &now)) {
            Err(ReadError::Row(error)) => {
                log::error!("a deduction cannot be read and is parked: {error}");
                let detail = error.to_string();
                self.write_for(|store| store.park_unreadable(id, &detail, now.utc_ms)).map(|()| None).map_err(ReadError::File)
            }
            Ok(Some(claim)) if claim.age.is_some_and(|age| age.is_surely_over(self.keeping.max_age_ms)) => {
                if self.park_over_age(&[id]) { Ok(None) } else { Err(ReadError::Closed) }
            }
            claim => claim,
        };
        if let Ok(Some(claim)) = &claim {
            self.delivering.hand_out(claim.row.id);
        }
        self.answer(reply, claim.map(|claim| claim.map(|claim| claim.row)));
    }

    /// Something small that the gate does not wait for but that cannot be deferred.
    fn write(&mut self, work: impl FnOnce(&Store) -> rusqlite::Result<()>) {
        // The error has closed the file, or was another program's lock; both were told to whoever must know.
        let _ = self.write_for(work);
    }

    /// As [`Self::write`], for somebody who waits for it: durable when it returns.
    fn write_for<T>(&mut self, work: impl FnOnce(&Store) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        let File::Open(store) = &mut self.file else { return Err(self.fault.clone()) };
        let error = match store.transact(work) {
            Ok(value) => {
                let due = store.take_due();
                self.locked = None;
                if let Some(id) = due {
                    self.announce(id);
                }
                return Ok(value);
            }
            Err(error) => error,
        };
        let explained = store.explain(&error);
        if is_busy(&error) {
            self.is_locked_by_another(&explained);
        } else if concerns_file(&error) {
            self.fail(&explained);
        }
        Err(explained)
    }

    /// Another program's lock is in the way: nothing is wrong with the file, and whoever waits is told.
    fn is_locked_by_another(&mut self, error: &LedgerError) {
        self.locked = Some((error.clone(), monotonic_now()));
        self.set_health(Health::Down { reason: error.reason() });
    }

    fn lock_in_the_way(&self) -> Option<LedgerError> {
        self.locked.as_ref().map(|(error, _)| error.clone())
    }

    /// Tries whether another program still holds its lock, when it is time to.
    fn try_lock(&mut self, now: Instant) {
        if self.locked.as_ref().is_some_and(|(_, at)| now >= *at + LOCK_TRY_EVERY) && self.write_for(|_| Ok(())).is_ok() {
            self.look_at_disk();
        }
    }

    /// Answers a reading; if the file failed, it is closed.
    fn answer<T>(&mut self, reply: Reply<T>, result: Result<T, ReadError>) {
        let result = result.map_err(|error| match error {
            ReadError::File(error) => {
                self.fail(&error);
                error
            }
            ReadError::Closed => self.fault.clone(),
            ReadError::Row(error) => LedgerError::unavailable(format!("a row cannot be read: {error}")),
        });
        // Whoever asked may have gone: then nobody wants to know.
        let _ = reply.send(result);
    }

    // ---- deferring ---------------------------------------------------------------------------------------------------------

    fn defer(&mut self, op: Deferred) {
        self.deferred.push_back(op);
        self.deferred_since.get_or_insert_with(monotonic_now);
    }

    fn defer_opened(&mut self, opened: Box<Opened>) {
        let record = opened.record;
        self.defer(Deferred::Opened(opened));
        if let Some(id) = self.opening_is_decided(record) {
            self.announce(id);
        }
    }

    /// The row, if there is one, that waited for this opening and may be sent now unless it was taken back.
    fn opening_is_decided(&mut self, record: RecordId) -> Option<DeductionId> {
        let id = match record {
            RecordId::Deduction(id) => Some(id),
            RecordId::Journey(journey) => self.waiting_entries.remove(&journey),
            RecordId::Again { .. } => None,
        };
        id.filter(|id| self.waiting_openings.remove(id))
    }

    fn defer_note(&mut self, note: Box<GateNote>) {
        if self.deferred.len() < DEFERRED_DENIALS_MAX {
            if let Some(uncounted) = self.notes.take(&note.lane, note.at.boottime_ms) {
                self.defer(Deferred::Note(note, uncounted));
            }
        }
    }

    fn set_rules(&mut self, rules: Rules) {
        self.exposure.set_limits(rules.exposure, rules.tariff.single().total);
        self.context = Arc::new(Context { rules, ..Context::clone(&self.context) });
    }

    fn defer_denied(&mut self, denial: Box<Denial>) {
        if self.deferred.len() >= DEFERRED_DENIALS_MAX {
            return;
        }
        if let Some(uncounted) = self.denials.take(&denial.lane, denial.scanned.boottime_ms) {
            self.defer(Deferred::Denied(denial, uncounted));
        }
    }

    /// Tells the uploader that this row, and perhaps later ones, can be sent.
    fn announce(&self, id: DeductionId) {
        self.pending.raise(id);
    }

    fn flush(&mut self) {
        let mut left = usize::MAX;
        while matches!(self.file, File::Open(_)) && (1..left).contains(&self.deferred.len()) {
            left = self.deferred.len();
            self.commit(Vec::new());
        }
    }

    // ---- committing --------------------------------------------------------------------------------------------------------

    /// Commits what is waited for together with some of what is deferred, then answers.
    fn commit(&mut self, mut waited: Vec<Waited>) {
        if let Some(error) = self.refusal() {
            // While only the disk is short of space, what is no new admission still goes in.
            let (admissions, others) = waited.into_iter().partition(Waited::is_admission);
            refuse_all(admissions, &error);
            waited = others;
        }
        self.correct();
        if let Some(error) = self.lock_in_the_way().filter(|_| !self.corrections.is_empty()) {
            return self.refuse_or_correct(waited, &error);
        }
        let joining = if self.is_judged_alone(&waited) { 0 } else { self.deferred.len().min(DEFERRED_PER_COMMIT_MAX) };
        let File::Open(store) = &mut self.file else { return self.refuse_or_correct(waited, &self.fault.clone()) };
        if waited.is_empty() && joining == 0 {
            return;
        }
        let (began, changes) = (monotonic_now(), store.changes());
        let (context, deferred) = (&self.context, &self.deferred);
        let result = store.transact(|store| apply_all(store, deferred.iter().take(joining), &waited, context));
        match result {
            Ok(results) => {
                let operations = waited.len() + joining;
                if store.changes() != changes {
                    (self.observer)(LedgerEvent::Committed { took: monotonic_now().saturating_duration_since(began), operations });
                }
                self.locked = None;
                // What was passed, or waited for an entry or exit of the same passenger.
                let due = store.take_due();
                self.checkpointer.committed(operations);
                self.forget_deferred(joining);
                if let Some(id) = due {
                    self.announce(id);
                }
                self.reply(waited, results);
            }
            Err(error) => {
                let explained = store.explain(&error);
                if is_busy(&error) {
                    self.is_locked_by_another(&explained);
                } else {
                    self.corrections
                        .extend(waited.iter().filter_map(Waited::tap).map(|tap| Correction::Doubtful(Box::new(tap.clone()))));
                    self.fail(&explained);
                }
                self.refuse_or_correct(waited, &explained);
            }
        }
    }

    /// Whether this is one scan that nothing deferred bears on: what others left to be written costs its passenger time.
    fn is_judged_alone(&self, waited: &[Waited]) -> bool {
        let is_exposure_limited = self.context.rules.exposure.is_some();
        matches!(waited, [Waited::Admit(..)]) && !self.deferred.iter().any(|op| op.bears_on_judgements(is_exposure_limited))
    }

    fn refuse_or_correct(&mut self, waited: Vec<Waited>, error: &LedgerError) {
        let (admissions, others) = waited.into_iter().partition(Waited::is_admission);
        refuse_all(admissions, error);
        self.correct_later(others);
    }

    /// Records that must be taken back when the file can be written: this thread sees to it, whoever asked need not.
    fn correct_later(&mut self, waited: Vec<Waited>) {
        for op in waited {
            if let Waited::TakeBack(id, why, reply) = op {
                self.corrections.push(Correction::NotOpened(id, why));
                send(Answered::TakeBack(reply, Ok(())));
            }
        }
    }

    fn correct(&mut self) {
        if self.corrections.is_empty() {
            return;
        }
        let corrections = self.corrections.clone();
        // Another program's lock changes nothing: they are still to be made, before anything else.
        let made = self.write_for(|store| {
            for correction in &corrections {
                if let Err(error) = store.step(|store| correction.apply(store))? {
                    log::error!("a record that did not open cannot be taken back, which is a fault of this program: {error}");
                }
            }
            Ok(())
        });
        if made.is_ok() {
            self.forget_corrections();
        }
    }

    fn forget_corrections(&mut self) {
        let mut decided = Vec::new();
        for correction in self.corrections.drain(..) {
            if let Correction::NotOpened(record, _) = correction {
                decided.push(record);
            }
        }
        for record in decided {
            if let Some(id) = self.opening_is_decided(record) {
                self.announce(id);
            }
        }
    }

    fn forget_deferred(&mut self, count: usize) {
        for op in self.deferred.drain(..count) {
            if let Deferred::Attempt(attempt) = op {
                self.deferred_attempts.remove(&attempt.id);
            }
        }
        self.deferred_since = if self.deferred.is_empty() { None } else { Some(monotonic_now()) };
    }

    fn reply(&mut self, waited: Vec<Waited>, results: Vec<Result<Outcome, rusqlite::Error>>) {
        for (op, result) in waited.into_iter().zip(results) {
            let result = result.map_err(|error| LedgerError::unavailable(format!("a record was refused: {error}")));
            match (op, result) {
                (Waited::Admit(_, reply), Ok(Outcome::Admission(admission, reached))) => {
                    if let Some(reached) = reached {
                        self.exposure.reached(reached);
                    }
                    self.note_openings(&admission);
                    send(Answered::Admit(reply, Ok(admission)));
                }
                (Waited::TakeBack(record, _, reply), Ok(_)) => {
                    // What an entry that is taken back kept waiting may be due all the same.
                    if let Some(id) = self.opening_is_decided(record) {
                        self.announce(id);
                    }
                    send(Answered::TakeBack(reply, Ok(())));
                }
                (Waited::Admit(_, reply), Err(error)) => send(Answered::Admit(reply, Err(error))),
                (Waited::TakeBack(_, _, reply), Err(error)) => send(Answered::TakeBack(reply, Err(error))),
                (Waited::Admit(_, reply), Ok(Outcome::Done)) => drop(reply),
            }
        }
    }

    /// Rows that must not be sent before their turnstile has opened, and those that nothing stands in the way of.
    fn note_openings(&mut self, admission: &Admission) {
        match admission {
            Admission::Admitted(admitted) => {
                self.waiting_openings.insert(admitted.id);
                if let Some(id) = admitted.also_due {
                    self.announce(id);
                }
            }
            Admission::Entered(Entered { journey, also_due: Some(id), .. }) => {
                self.waiting_openings.insert(*id);
                self.waiting_entries.insert(*journey, *id);
            }
            Admission::Entered(_) | Admission::Again(_) | Admission::Repeat | Admission::Refused(_) => {}
        }
    }

    /// Why no code can be admitted now, if so.
    fn refusal(&self) -> Option<LedgerError> {
        match &*self.health.borrow() {
            Health::Up => None,
            Health::Down { reason } => Some(LedgerError::Unavailable { reason: reason.clone() }),
        }
    }

    // ---- failing and coming back ---------------------------------------------------------------------------------------------

    /// A file that fails again soon after it was opened is left alone for longer each time.
    fn fail(&mut self, error: &LedgerError) {
        let pause = match self.reopened {
            Some((at, pause)) if monotonic_now() < at + 2 * REOPEN_PAUSE.1 => (pause * 2).min(REOPEN_PAUSE.1),
            _ => REOPEN_PAUSE.0,
        };
        self.close(error, pause);
    }

    fn close(&mut self, error: &LedgerError, pause: Duration) {
        self.file = File::Closed { retry_at: monotonic_now() + pause, pause };
        self.fault = error.clone();
        self.set_health(Health::Down { reason: error.reason() });
    }

    fn reopen(&mut self, pause: Duration) {
        let began = monotonic_now();
        match self.opened_and_proved() {
            Ok(store) => {
                self.file = File::Open(store);
                self.delivering.file_was_opened();
                self.reopened = Some((monotonic_now(), pause));
                self.forget_corrections();
                self.recover();
                (self.observer)(LedgerEvent::Reopened);
                self.look_at_disk();
                self.announce(0);
            }
            Err(error) => self.close(&error, (pause * 2).min(REOPEN_PAUSE.1).max((monotonic_now() - began) * REST_PER_TRY)),
        }
    }

    fn opened_and_proved(&mut self) -> Result<Store, LedgerError> {
        // A daemon that found no usable disk at its start may have to make the ledger now.
        let if_missing = if self.is_recovered { IfMissing::Fail } else { IfMissing::Create };
        let last_run = if self.is_recovered { LastRun::IsThis } else { LastRun::MayHaveCrashed };
        if self.lock.is_none() {
            prepare_file(&self.path, if_missing)?;
            self.lock = Some(Lock::take(&self.path)?);
        }
        let mut store = Store::open(&self.path, &self.boot, if_missing, last_run)?;
        let (corrections, fault) = (&self.corrections, &self.fault);
        let proved = store
            .prove(fault, Stamp::now().utc_ms)
            .and_then(|()| store.transact(|store| corrections.iter().try_for_each(|correction| correction.apply(store))));
        proved.map_err(|error| store.explain(&error))?;
        self.forget_what_is_in(&store);
        Ok(store)
    }

    /// Drops what a commit brought into the file although it failed to say so.
    fn forget_what_is_in(&mut self, store: &Store) {
        let attempts = &mut self.deferred_attempts;
        self.deferred.retain(|op| {
            let is_in = op.is_in(store);
            if let (true, Deferred::Attempt(attempt)) = (is_in, op) {
                attempts.remove(&attempt.id);
            }
            !is_in
        });
        if self.deferred.is_empty() {
            self.deferred_since = None;
        }
    }

    /// Once, when the file is open for the first time: what the last run left unsaid.
    fn recover(&mut self) {
        let File::Open(store) = &mut self.file else { return };
        if self.is_recovered {
            return;
        }
        let now_utc_ms = Stamp::now().utc_ms;
        let settled =
            store.transact(|store| store.settle_unseen_passages(now_utc_ms).and_then(|()| store.settle_unconfirmed(now_utc_ms)));
        match settled {
            Ok(0) => self.is_recovered = true,
            Ok(count) => {
                self.is_recovered = true;
                log::warn!(
                    "{count} openings of the last run were not confirmed; they are charged, with the flag opening-unconfirmed"
                );
            }
            Err(error) => {
                let error = store.explain(&error);
                self.fail(&error);
            }
        }
    }

    /// A file that was removed or replaced is closed.
    fn look_whether_in_place(&mut self) {
        let File::Open(store) = &self.file else { return };
        if !store.is_in_place() {
            let path = self.path.display();
            let error =
                LedgerError::unavailable(format!("{path} was removed or replaced while it was open; put the right file back"));
            self.fail(&error);
        }
    }

    fn look_at_disk(&mut self) {
        self.disk_looked_at = monotonic_now();
        self.since_look = SinceLook::Nothing;
        self.look_whether_in_place();
        if self.locked.is_some() || matches!(self.file, File::Closed { .. }) {
            return;
        }
        // A file system that does not tell its free space is left to fail when it is full.
        let free_bytes = free_bytes(&self.path).unwrap_or(u64::MAX);
        let is_down = *self.health.borrow() != Health::Up;
        let margin_bytes = if is_down { self.min_free_bytes >> FREE_MARGIN_SHIFT } else { 0 };
        if free_bytes >= self.min_free_bytes.saturating_add(margin_bytes) {
            return self.set_health(Health::Up);
        }
        let (free_mib, least_mib, path) = (free_bytes >> 20, self.min_free_bytes >> 20, self.path.display());
        let reason =
            format!("only {free_mib} MiB are free on the disk of {path}, [ledger] min_free is {least_mib} MiB; free some space");
        self.set_health(Health::Down { reason: Arc::from(reason) });
    }

    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|current| {
            let is_turn = std::mem::discriminant(current) != std::mem::discriminant(&health);
            match &health {
                Health::Down { reason } if is_turn => log::error!("no code can be admitted: {reason}"),
                Health::Up if is_turn => log::warn!("codes can be admitted again"),
                _ => {}
            }
            let is_new = *current != health;
            *current = health;
            is_new
        });
    }

    fn keep_house(&mut self) {
        let now = monotonic_now();
        if let File::Closed { retry_at, pause } = self.file {
            if now >= retry_at {
                self.reopen(pause);
            }
            return;
        }
        let is_due = self.deferred_since.is_some_and(|since| now >= since + DEFER_MAX);
        if is_due || self.deferred.len() >= DEFERRED_PER_COMMIT_MAX {
            self.commit(Vec::new());
        }
        if now >= self.disk_looked_at + DISK_LOOK_EVERY {
            self.look_at_disk();
        }
        self.checkpointer.keep_house(now);
        self.keep_log(now);
        self.keep_up(now);
        self.watch_exposure(now);
        self.try_lock(now);
        self.keep_deny_list(now);
    }

    /// Gives the log its length when there is time for it, and bounds it when there is none.
    fn keep_log(&mut self, now: Instant) {
        let is_roomy = self.refusal().is_none();
        let File::Open(store) = &mut self.file else { return };
        let result = if is_roomy && self.checkpointer.wants_growth(now, || store.log_bytes()) {
            store.grow_log(GROWTH_BYTES)
        } else if self.checkpointer.take_finished() && store.log_bytes() > LOG_BYTES_MAX {
            store.checkpoint()
        } else {
            Ok(())
        };
        if let Err(error) = result {
            let explained = store.explain(&error);
            if is_busy(&error) { self.is_locked_by_another(&explained) } else { self.fail(&explained) }
        }
    }
}

impl NetworkOp {
    /// Answers that it cannot be carried out now. What is no question is kept by nobody else and is never refused.
    fn refuse(self, error: LedgerError) {
        // Whoever asked may have gone.
        match self {
            Self::Pending { reply, .. } => drop(reply.send(Err(error))),
            Self::Claim(_, reply) => drop(reply.send(Err(error))),
            Self::Totals(reply) => drop(reply.send(Err(error))),
            Self::Page(_, reply) => drop(reply.send(Err(error))),
            Self::Story(_, reply) => drop(reply.send(Err(error))),
            Self::Journeys(_, reply) => drop(reply.send(Err(error))),
            Self::Retry { reply, .. } | Self::Void(_, reply) => drop(reply.send(Err(error))),
            Self::RetryParked { reply, .. } => drop(reply.send(Err(error))),
            Self::Settle(_, _, reply) => drop(reply.send(Err(error))),
            Self::SettlementAlarms(reply) => drop(reply.send(Err(error))),
            Self::Deny(op) => op.refuse(error),
            Self::Export(op) => op.refuse(error),
            Self::Attempt(_) | Self::SetRules(_) => {}
        }
    }
}

/// Why a reading failed.
enum ReadError {
    /// The file is closed.
    Closed,
    /// The file must be closed.
    File(LedgerError),
    /// Only what was read.
    Row(rusqlite::Error),
}

fn read<T>(file: &File, work: impl FnOnce(&Store) -> rusqlite::Result<T>) -> Result<T, ReadError> {
    match file {
        File::Open(store) => work(store).map_err(|error| {
            let is_files = concerns_file(&error) && !is_busy(&error);
            if is_files { ReadError::File(store.explain(&error)) } else { ReadError::Row(error) }
        }),
        File::Closed { .. } => Err(ReadError::Closed),
    }
}

/// Whether everything was written at a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It was.
    All,
    /// The disk would not take it.
    NotAll,
    /// The file is damaged; what was refused meanwhile is in the log.
    Damaged,
}

impl Correction {
    fn apply(&self, store: &Store) -> rusqlite::Result<()> {
        let now_utc_ms = Stamp::now().utc_ms;
        match self {
            Self::Doubtful(tap) => store.take_back_doubtful(tap, now_utc_ms),
            Self::NotOpened(id, why) => store.take_back(*id, *why, now_utc_ms),
        }
    }
}

fn send(answered: Answered) {
    // A lane that has gone cannot open anything: its record is found unconfirmed, or was never waited for.
    match answered {
        Answered::Admit(reply, result) => drop(reply.send(result)),
        Answered::TakeBack(reply, result) => drop(reply.send(result)),
    }
}

/// The operations of one transaction; what came of those that somebody waits for.
fn apply_all<'a>(
    store: &Store,
    joining: impl ExactSizeIterator<Item = &'a Deferred>,
    waited: &[Waited],
    context: &Context,
) -> rusqlite::Result<Vec<Result<Outcome, rusqlite::Error>>> {
    if let ([alone], 0) = (waited, joining.len()) {
        return Ok(vec![store.only_step(|store| alone.apply(store, context))?]);
    }
    // First what has happened already: a deduction that was accepted a moment ago counts against no limit.
    for op in joining {
        if let Err(error) = store.step(|store| op.apply(store))? {
            log::error!("the ledger refused a deferred operation, which is a fault of this program: {error}");
        }
    }
    let results = waited.iter().map(|op| store.step(|store| op.apply(store, context))).collect::<Result<Vec<_>, _>>()?;
    if waited.is_empty() {
        store.prune_seen(&Stamp::now(), context.rules.windows.longest_ms().saturating_mul(2).max(SEEN_KEEP_MS_MIN))?;
    }
    Ok(results)
}

fn refuse_all(waited: Vec<Waited>, error: &LedgerError) {
    for op in waited {
        send(match op {
            Waited::Admit(_, reply) => Answered::Admit(reply, Err(error.clone())),
            Waited::TakeBack(_, _, reply) => Answered::TakeBack(reply, Err(error.clone())),
        });
    }
}

/// What an operation that is waited for comes to.
enum Outcome {
    Admission(Admission, Option<Reached>),
    Done,
}

impl Waited {
    fn is_admission(&self) -> bool {
        matches!(self, Self::Admit(..))
    }

    fn tap(&self) -> Option<&Tap> {
        match self {
            Self::Admit(tap, _) => Some(tap),
            Self::TakeBack(..) => None,
        }
    }

    fn apply(&self, store: &Store, context: &Context) -> rusqlite::Result<Outcome> {
        match self {
            Self::Admit(tap, _) => store.admit(tap, context).map(|(admission, reached)| Outcome::Admission(admission, reached)),
            Self::TakeBack(id, why, _) => store.take_back(*id, *why, Stamp::now().utc_ms).map(|()| Outcome::Done),
        }
    }
}

impl Deferred {
    /// Whether a scan may be judged otherwise once this is written: an entry that opened and a passage move journeys and used codes, an
    /// answer what a passenger has not paid yet. That a turnstile opened for a deduction changes nobody's judgement.
    fn bears_on_judgements(&self, is_exposure_limited: bool) -> bool {
        match self {
            Self::Passage(_) => true,
            Self::Opened(opened) => matches!(opened.record, RecordId::Journey(_)),
            Self::Attempt(attempt) => is_exposure_limited && attempt.outcome != AttemptOutcome::StillPending,
            Self::Denied(..) | Self::Note(..) | Self::Repeated(_) => false,
        }
    }

    fn apply(&self, store: &Store) -> rusqlite::Result<()> {
        match self {
            Self::Opened(opened) => store.opened(opened),
            Self::Passage(passage) => store.passage(passage),
            Self::Denied(denial, uncounted_before) => store.deny(denial, *uncounted_before),
            Self::Note(note, uncounted_before) => store.note(note, *uncounted_before),
            Self::Attempt(attempt) | Self::Repeated(attempt) => store.attempt(attempt),
        }
    }
}

impl Deferred {
    /// Whether a commit that failed has brought this into the file all the same. What is harmless to repeat is never said to be.
    fn is_in(&self, store: &Store) -> bool {
        match self {
            Self::Opened(_) | Self::Passage(_) | Self::Note(..) => false,
            Self::Denied(denial, _) => store.has_denial(denial).unwrap_or(false),
            Self::Attempt(attempt) | Self::Repeated(attempt) => store.has_attempt(attempt).unwrap_or(false),
        }
    }
}

/// Bounds how many refused scans, or events of a lane, are kept: a code held in front of a reader all night must not wear out the card.
#[derive(Default)]
struct MinuteLimit {
    lanes: HashMap<Arc<str>, LaneMinute>,
}

struct LaneMinute {
    minute_began_ms: i64,
    kept: u32,
    uncounted: u64,
}

impl MinuteLimit {
    /// How many of this lane were left out since the last one kept, if this one is to be kept.
    fn take(&mut self, lane: &Arc<str>, now_ms: i64) -> Option<u64> {
        let lane = self.lanes.entry(lane.clone()).or_insert(LaneMinute { minute_began_ms: now_ms, kept: 0, uncounted: 0 });
        if now_ms - lane.minute_began_ms >= 60_000 {
            (lane.minute_began_ms, lane.kept) = (now_ms, 0);
        }
        if lane.kept >= KEPT_PER_MINUTE_MAX {
            lane.uncounted += 1;
            return None;
        }
        lane.kept += 1;
        Some(std::mem::take(&mut lane.uncounted))
    }
}
