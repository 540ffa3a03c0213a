//! The delivery of deductions: which row next, when, how many at once, when to pause.
//!
//! [`run`] joins the ledger's pending rows ([`Queue`]) and a sender ([`Deduct`]); what to do is decided by a pure state machine
//! (`policy`), which this file only carries out. It knows no SQL and no JSON.
//!
//! Promises: a row is claimed before each send and its outcome recorded after it; what is in flight when the program stops is
//! dropped, stays pending and is sent again under the same number; idle, it wakes up for nothing but new rows; the memory that it
//! takes does not grow with the backlog.

mod backoff;
mod deduct;
mod intake;
mod line;
mod news;
mod parked;
mod policy;
mod queue;
mod status;

use std::{panic, sync::Arc, time::Instant};

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time,
};

pub use deduct::{Deduct, Outcome, Verdict};
pub use queue::{AttemptRecord, ParkReason, PendingRow, Queue, Settlement, Unavailable};
pub use status::{AttemptCounts, UploadMonitor, UploadState, UploadStatus};

use self::{
    backoff::Backoff,
    news::Notice,
    parked::ParkedNews,
    policy::{Action, Policy},
};
use crate::{clock::monotonic_now, config};

/// Sends what is pending until `stop` becomes true or its sender is gone; then ends at once. What is in flight is dropped.
///
/// To be run on the network's runtime. A ledger that cannot be used is waited for; nothing ends this but `stop`.
pub async fn run<Q: Queue, S: Deduct>(
    queue: Q,
    sender: S,
    settings: config::Upload,
    monitor: Arc<UploadMonitor>,
    mut stop: watch::Receiver<bool>,
) {
    let mut uploader = Uploader {
        queue: queue.clone(),
        sender,
        backoff: Backoff::new(settings.retry_initial, settings.retry_max),
        policy: Policy::new(&settings),
        tasks: JoinSet::new(),
        parked: ParkedNews::default(),
        monitor,
    };
    loop {
        uploader.start_what_is_due();
        uploader.tell();
        let wake_at = [uploader.policy.wake_at(monotonic_now()), uploader.parked.due_at()].into_iter().flatten().min();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(event) = uploader.tasks.join_next() => uploader.take(event),
            id = queue.changed() => uploader.policy.changed(id),
            () = sleep_until(wake_at) => {}
        }
    }
    uploader.tasks.shutdown().await;
}

/// What one task brings back.
enum Event {
    Loaded(Result<Vec<i64>, Unavailable>, usize),
    NotClaimed(i64),
    Gone(i64),
    Sent(PendingRow, Outcome),
    Recorded(i64),
}

struct Uploader<Q, S> {
    queue: Q,
    sender: S,
    backoff: Backoff,
    policy: Policy,
    tasks: JoinSet<Event>,
    parked: ParkedNews,
    monitor: Arc<UploadMonitor>,
}

impl<Q: Queue, S: Deduct> Uploader<Q, S> {
    fn start_what_is_due(&mut self) {
        loop {
            let queue = self.queue.clone();
            match self.policy.next(monotonic_now()) {
                Action::Load { after_id, limit } => {
                    self.tasks.spawn(async move { Event::Loaded(queue.load(after_id, limit).await, limit) })
                }
                Action::Send(id) => self.tasks.spawn(send(queue, self.sender.clone(), id)),
                Action::Wait => return,
            };
        }
    }

    fn take(&mut self, event: Result<Event, JoinError>) {
        match event {
            Ok(Event::Loaded(Ok(ids), limit)) => self.policy.loaded(&ids, limit),
            Ok(Event::Loaded(Err(Unavailable), _)) => self.policy.not_loaded(monotonic_now()),
            Ok(Event::NotClaimed(id)) => self.policy.not_claimed(id, monotonic_now()),
            Ok(Event::Gone(id)) => self.policy.gone(id),
            Ok(Event::Sent(row, outcome)) => self.settle(&row, outcome),
            Ok(Event::Recorded(id)) => self.policy.recorded(id),
            // A panic in a send is a bug like a panic here, and ends the same way.
            Err(error) => {
                if let Ok(payload) = error.try_into_panic() {
                    panic::resume_unwind(payload);
                }
            }
        }
    }

    fn settle(&mut self, row: &PendingRow, outcome: Outcome) {
        self.monitor.count(&outcome.verdict);
        let record = self.policy.sent(row, outcome, monotonic_now());
        if let Settlement::Parked { reason } = record.settlement {
            let answer = record.answer.as_deref().unwrap_or_default();
            if let Some(news) = self.parked.of(&row.order, reason, answer, monotonic_now()) {
                log::warn!("{news}");
            }
        }
        self.tasks.spawn(make_record(self.queue.clone(), record, self.backoff));
    }

    fn tell(&mut self) {
        self.monitor.show(self.policy.status());
        if let Some(others) = self.parked.take_due(monotonic_now()) {
            log::warn!("{others}");
        }
        for notice in self.policy.take_notices() {
            match notice {
                Notice::Resumed { .. } => log::info!("{notice}"),
                Notice::Held { .. } | Notice::Alone { .. } => log::warn!("{notice}"),
                Notice::Alarm { .. } => log::error!("{notice}"),
            }
        }
    }
}

async fn send<Q: Queue, S: Deduct>(queue: Q, sender: S, id: i64) -> Event {
    match queue.claim(id).await {
        Ok(Some(mut row)) => {
            let is_wanted = move || {
                let queue = queue.clone();
                async move { queue.is_pending(id).await }
            };
            match sender.deduct(std::mem::take(&mut row.body), is_wanted).await {
                Some(outcome) => Event::Sent(row, outcome),
                None => Event::Gone(id),
            }
        }
        Ok(None) => Event::Gone(id),
        Err(Unavailable) => Event::NotClaimed(id),
    }
}

/// Until the record is made the row keeps its place among those in flight: an outcome is not forgotten because a disk is full.
async fn make_record<Q: Queue>(queue: Q, record: AttemptRecord, backoff: Backoff) -> Event {
    let mut failures = 0;
    while queue.record(record.clone()).await.is_err() {
        failures += 1;
        time::sleep(backoff.delay(failures)).await;
    }
    Event::Recorded(record.id)
}

async fn sleep_until(wake_at: Option<Instant>) {
    match wake_at {
        Some(at) => time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        future::Future,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use tokio::task::JoinHandle;

    use super::*;
    use crate::ledger::PendingSignal;

    const LATENCY: Duration = Duration::from_millis(50);
    const CONCURRENCY: usize = 8;

    fn settings() -> config::Upload {
        config::Upload {
            concurrency: CONCURRENCY,
            retry_initial: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            unknown_attempts: 3,
            max_age: Duration::from_secs(5 * 86_400),
            alarm_after: 5,
        }
    }

    /// A ledger in memory.
    #[derive(Clone, Default)]
    struct Ledger {
        inner: Arc<LedgerInner>,
    }

    #[derive(Default)]
    struct LedgerInner {
        rows: Mutex<BTreeMap<i64, Settlement>>,
        records: Mutex<Vec<AttemptRecord>>,
        calls: AtomicUsize,
        failing: AtomicUsize,
        changed: PendingSignal,
    }

    impl Ledger {
        fn with(ids: impl IntoIterator<Item = i64>) -> Self {
            let ledger = Self::default();
            ledger.inner.rows.lock().unwrap().extend(ids.into_iter().map(|id| (id, Settlement::StillPending)));
            ledger
        }

        fn add(&self, id: i64) {
            self.inner.rows.lock().unwrap().insert(id, Settlement::StillPending);
            self.inner.changed.raise(id);
        }

        fn pending(&self) -> Vec<i64> {
            let rows = self.inner.rows.lock().unwrap();
            rows.iter().filter(|(_, settlement)| **settlement == Settlement::StillPending).map(|(id, _)| *id).collect()
        }

        fn is_parked(&self, id: i64) -> bool {
            matches!(self.inner.rows.lock().unwrap()[&id], Settlement::Parked { .. })
        }

        fn records(&self) -> Vec<AttemptRecord> {
            self.inner.records.lock().unwrap().clone()
        }

        fn calls(&self) -> usize {
            self.inner.calls.load(Ordering::SeqCst)
        }

        /// The next `calls` calls find the ledger unavailable.
        fn fail(&self, calls: usize) {
            self.inner.failing.store(calls, Ordering::SeqCst);
        }

        fn call(&self) -> Result<(), Unavailable> {
            self.inner.calls.fetch_add(1, Ordering::SeqCst);
            let failing = self.inner.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if failing.is_ok() { Err(Unavailable) } else { Ok(()) }
        }
    }

    impl Queue for Ledger {
        async fn load(&self, after_id: i64, limit: usize) -> Result<Vec<i64>, Unavailable> {
            self.call()?;
            Ok(self.pending().into_iter().filter(|id| *id > after_id).take(limit).collect())
        }

        async fn claim(&self, id: i64) -> Result<Option<PendingRow>, Unavailable> {
            self.call()?;
            let unknown_answers = self.records().iter().filter(|record| record.id == id && record.unknown).count();
            let unknown_answers = u32::try_from(unknown_answers).unwrap();
            let row = PendingRow { id, order: format!("ORDER{id}"), body: id.to_string().into_bytes(), unknown_answers };
            Ok(self.pending().contains(&id).then_some(row))
        }

        async fn is_pending(&self, id: i64) -> bool {
            self.pending().contains(&id)
        }

        async fn record(&self, record: AttemptRecord) -> Result<(), Unavailable> {
            self.call()?;
            self.inner.rows.lock().unwrap().insert(record.id, record.settlement);
            self.inner.records.lock().unwrap().push(record);
            Ok(())
        }

        async fn changed(&self) -> i64 {
            self.inner.changed.wait().await
        }
    }

    type Script = dyn Fn(i64) -> Verdict + Send + Sync;

    /// A WeChat that answers after [`LATENCY`] as the script says, at most once for each row.
    #[derive(Clone)]
    struct WeChat {
        script: Arc<Mutex<Box<Script>>>,
        seen: Arc<Mutex<Vec<i64>>>,
        in_flight: Arc<Mutex<BTreeSet<i64>>>,
        most_in_flight: Arc<AtomicUsize>,
    }

    impl WeChat {
        fn that(script: impl Fn(i64) -> Verdict + Send + Sync + 'static) -> Self {
            Self {
                script: Arc::new(Mutex::new(Box::new(script))),
                seen: Arc::default(),
                in_flight: Arc::default(),
                most_in_flight: Arc::default(),
            }
        }

        fn now(&self, script: impl Fn(i64) -> Verdict + Send + Sync + 'static) {
            *self.script.lock().unwrap() = Box::new(script);
        }

        fn seen(&self) -> Vec<i64> {
            self.seen.lock().unwrap().clone()
        }
    }

    impl Deduct for WeChat {
        async fn deduct<F: Future<Output = bool> + Send>(&self, body: Vec<u8>, _: impl Fn() -> F + Send + Sync) -> Option<Outcome> {
            let id: i64 = String::from_utf8(body).unwrap().parse().unwrap();
            self.seen.lock().unwrap().push(id);
            {
                let mut in_flight = self.in_flight.lock().unwrap();
                assert!(in_flight.insert(id), "row {id} is in flight twice");
                self.most_in_flight.fetch_max(in_flight.len(), Ordering::SeqCst);
            }
            time::sleep(LATENCY).await;
            self.in_flight.lock().unwrap().remove(&id);
            let verdict = self.script.lock().unwrap()(id);
            Some(Outcome { verdict, evidence: format!("answer to {id}") })
        }
    }

    struct Running {
        stop: watch::Sender<bool>,
        monitor: Arc<UploadMonitor>,
        task: JoinHandle<()>,
    }

    fn start(ledger: &Ledger, wechat: &WeChat) -> Running {
        let (stop, stopped) = watch::channel(false);
        let monitor = Arc::new(UploadMonitor::default());
        let task = tokio::spawn(run(ledger.clone(), wechat.clone(), settings(), monitor.clone(), stopped));
        Running { stop, monitor, task }
    }

    impl Running {
        /// Waits, in the test's own time, until the uploader shows such a status.
        async fn until(&self, wanted: impl Fn(&UploadStatus) -> bool) -> UploadStatus {
            let mut status = self.monitor.watch();
            let shown = time::timeout(Duration::from_secs(7 * 86_400), status.wait_for(|status| wanted(status))).await;
            shown.expect("the status must come").unwrap().clone()
        }

        async fn until_idle(&self) {
            // A status of before the rows were there must not be taken for the one after.
            time::sleep(Duration::from_millis(1)).await;
            self.until(|status| status.state == UploadState::Idle).await;
        }

        async fn stop(self) {
            self.stop.send(true).unwrap();
            self.task.await.unwrap();
        }

        fn count(&self, class: &str) -> u64 {
            self.monitor.attempts().iter().find(|(name, _)| *name == class).unwrap().1
        }
    }

    const UNREACHABLE: Verdict = Verdict::NoAnswer { may_have_been_taken: false, retry_after: None };

    #[tokio::test(start_paused = true)]
    async fn every_row_is_delivered_once_side_by_side() {
        let (ledger, wechat) = (Ledger::with(1..=500), WeChat::that(|_| Verdict::Accepted));
        let uploader = start(&ledger, &wechat);
        let started = time::Instant::now();
        uploader.until_idle().await;
        let mut seen = wechat.seen();
        assert_eq!(seen[..CONCURRENCY], [1, 2, 3, 4, 5, 6, 7, 8]);
        seen.sort_unstable();
        assert_eq!(seen, (1..=500).collect::<Vec<_>>());
        assert_eq!(wechat.most_in_flight.load(Ordering::SeqCst), CONCURRENCY);
        // In the paused time only the sends take any: the pipe was always full.
        assert!(started.elapsed() <= LATENCY * 64, "{:?}", started.elapsed());
        assert_eq!(uploader.count("accepted"), 500);
        uploader.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn rows_that_come_later_are_delivered_whatever_their_ids() {
        let (ledger, wechat) = (Ledger::with([100]), WeChat::that(|_| Verdict::Accepted));
        let uploader = start(&ledger, &wechat);
        uploader.until_idle().await;
        for id in [101, 50, 102, 3] {
            ledger.add(id);
            uploader.until_idle().await;
        }
        assert_eq!(wechat.seen(), [100, 101, 50, 102, 3]);
        uploader.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn idle_nothing_is_asked_of_the_ledger() {
        let (ledger, wechat) = (Ledger::with([1]), WeChat::that(|_| Verdict::Accepted));
        let uploader = start(&ledger, &wechat);
        uploader.until_idle().await;
        let calls = ledger.calls();
        time::sleep(Duration::from_secs(86_400)).await;
        assert_eq!(ledger.calls(), calls);
        uploader.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_outage_everything_that_waited_is_delivered() {
        let (ledger, wechat) = (Ledger::with(1..=100), WeChat::that(|_| UNREACHABLE));
        let uploader = start(&ledger, &wechat);
        time::sleep(Duration::from_secs(3600)).await;
        let status = uploader.until(|status| status.state == UploadState::Waiting).await;
        assert!(
            status.alarm
                && status.reason.as_ref().is_some_and(|reason| reason.starts_with("no usable answer from WeChat: answer to "))
        );
        assert!(wechat.seen().len() < 300, "one probe now and then: {}", wechat.seen().len());
        assert!(ledger.records().iter().all(|record| !record.counted));

        wechat.now(|_| Verdict::Accepted);
        let status = uploader.until(|status| status.state == UploadState::Idle).await;
        assert_eq!((ledger.pending(), status.alarm, status.failures_in_a_row), (vec![], false, 0));
        uploader.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_until_midnight_ends_by_itself() {
        let (ledger, wechat) =
            (Ledger::with(1..=20), WeChat::that(|_| Verdict::SlowDown { pause: Duration::from_secs(12 * 3600) }));
        let uploader = start(&ledger, &wechat);
        uploader.until(|status| status.state == UploadState::Paused).await;
        time::sleep(Duration::from_secs(6 * 3600)).await;
        assert_eq!(wechat.seen().len(), CONCURRENCY);
        wechat.now(|_| Verdict::Accepted);
        uploader.until_idle().await;
        assert_eq!(ledger.pending(), NO_ROWS);
        uploader.stop().await;
    }

    const NO_ROWS: [i64; 0] = [];

    #[tokio::test(start_paused = true)]
    async fn bad_rows_and_unknown_answers_stop_nobody_else() {
        let script = |id| match id {
            2 => Verdict::Park,
            3 => Verdict::Unknown,
            4 => Verdict::NoAnswer { may_have_been_taken: true, retry_after: None },
            _ => Verdict::Accepted,
        };
        let (ledger, wechat) = (Ledger::with(1..=50), WeChat::that(script));
        let uploader = start(&ledger, &wechat);
        uploader.until(|_| ledger.pending() == [4]).await;
        assert!(ledger.is_parked(2) && ledger.is_parked(3));
        assert_eq!((uploader.count("park"), uploader.count("unknown")), (1, 3));
        let parked = ledger.records().into_iter().find(|record| record.id == 2).unwrap();
        assert_eq!(parked.answer.as_deref(), Some("answer to 2"));
        wechat.now(|_| Verdict::Accepted);
        uploader.until_idle().await;
        assert_eq!(ledger.pending(), NO_ROWS);
        uploader.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_ledger_that_cannot_be_used_is_waited_for_without_spinning_and_no_outcome_is_lost() {
        let (ledger, wechat) = (Ledger::with(1..=20), WeChat::that(|_| Verdict::Accepted));
        ledger.fail(3);
        let uploader = start(&ledger, &wechat);
        uploader.until(|status| status.state == UploadState::Sending).await;
        // The sends are under way; their outcomes find the ledger unavailable for an hour.
        ledger.fail(usize::MAX);
        time::sleep(Duration::from_secs(3600)).await;
        assert!(ledger.calls() < 2000, "{} calls", ledger.calls());
        ledger.fail(0);
        uploader.until_idle().await;
        let mut seen = wechat.seen();
        seen.sort_unstable();
        assert_eq!((seen, ledger.pending()), ((1..=20).collect(), vec![]));
        uploader.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn told_to_stop_it_ends_at_once_and_what_was_in_flight_stays_pending() {
        let (ledger, wechat) = (Ledger::with(1..=20), WeChat::that(|_| Verdict::Accepted));
        let uploader = start(&ledger, &wechat);
        uploader.until(|_| wechat.in_flight.lock().unwrap().len() == CONCURRENCY).await;
        let told = time::Instant::now();
        uploader.stop().await;
        assert_eq!(told.elapsed(), Duration::ZERO);
        assert_eq!((ledger.records(), ledger.pending().len()), (vec![], 20));
        assert_eq!(Arc::strong_count(&ledger.inner), 1, "nothing goes on in the background");
    }

    #[tokio::test(start_paused = true)]
    async fn when_whoever_could_stop_it_is_gone_it_ends() {
        let (ledger, wechat) = (Ledger::with([]), WeChat::that(|_| Verdict::Accepted));
        let Running { stop, task, .. } = start(&ledger, &wechat);
        drop(stop);
        task.await.unwrap();
    }
}
