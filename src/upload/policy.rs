//! Which row is sent next, when, and what becomes of it. A pure state machine: events in, [`Action`]s out, the time handed in.
//!
//! Promises: oldest first, never more than `concurrency` in flight, no row twice; a row that was settled is not sent again; every
//! row taken from the ledger is in exactly one [`Place`] until it is settled; what is held in memory does not grow with the
//! backlog; one row that alone gets no answer, or is always refused in a way that says nothing about it, does not stop the others.

use std::{
    collections::BTreeMap,
    mem::{self, Discriminant},
    time::Instant,
};

use super::{
    backoff::Backoff,
    deduct::{Outcome, Verdict},
    intake::Intake,
    line::{Cause, Line},
    news::Notice,
    queue::{AttemptRecord, ParkReason, PendingRow, Settlement},
    status::{UploadState, UploadStatus},
};
use crate::config;

/// Rows held in memory; at the limit no further rows are loaded until some of these are settled.
pub(super) const ROWS_HELD_MAX: usize = 1024;

/// Rows are loaded at least so many at a time.
const LOAD_MIN: usize = 16;

/// After so many sends without an answer about it a row lets others be the probe: perhaps it is the row and not the line.
const PROBES_PER_ROW: u32 = 3;

/// After so many sends without an answer about it, with answers about other rows in between, it is the row: it backs off alone.
const STRIKES_MAX: u32 = 3;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Load pending rows.
    Load { after_id: i64, limit: usize },
    /// Claim this row and send it.
    Send(i64),
    /// Nothing, until something happens or `wake_at`.
    Wait,
}

/// All that the uploader knows.
#[derive(Debug)]
pub(super) struct Policy {
    concurrency: usize,
    unknown_attempts: u32,
    backoff: Backoff,
    line: Line,
    intake: Intake,
    rows: BTreeMap<i64, Row>,
    /// Answers about rows so far: tells a row that gets none from a line that brings none.
    answers: u64,
    /// Sends since the last of them.
    unanswered: usize,
    ledger: Option<LedgerTrouble>,
}

#[derive(Debug)]
struct LedgerTrouble {
    failures: u32,
    until: Instant,
}

#[derive(Debug)]
struct Row {
    place: Place,
    /// Sends that reached WeChat and brought no answer about this row, since the last that did; none of them need count as an
    /// attempt.
    misses: u32,
    /// Those of them before which others got an answer.
    strikes: u32,
    answers_at_miss: Option<u64>,
    /// The kind of trouble that was recorded last and was not counted.
    recorded: Option<Discriminant<Verdict>>,
    /// A load brought it while it was in flight: it may be pending again although its end is about to be heard of.
    loaded_again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Due.
    Ready,
    /// Being claimed and sent.
    InFlight,
    /// Its outcome is being recorded.
    Recording(Next),
    /// Due later, whatever the others do.
    BackingOff(Instant),
}

/// Whose trouble it is that a send has brought no answer about its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// The queue as a whole waits.
    Line,
    /// The row backs off alone.
    Row,
}

/// What follows when the record is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Forget,
    Ready,
    BackOff(Instant),
}

impl Row {
    fn new() -> Self {
        Self { place: Place::Ready, misses: 0, strikes: 0, answers_at_miss: None, recorded: None, loaded_again: false }
    }

    fn is_ready(&self) -> bool {
        self.place == Place::Ready
    }

    fn is_in_flight(&self) -> bool {
        matches!(self.place, Place::InFlight | Place::Recording(_))
    }

    /// Has had its turns as the probe.
    fn is_stale(&self) -> bool {
        self.misses >= PROBES_PER_ROW
    }

    fn is_suspect(&self) -> bool {
        self.strikes >= STRIKES_MAX
    }

    /// A send brought no answer about this row; whether others have got one since the last such send.
    fn miss(&mut self, answers: u64) -> bool {
        self.misses = self.misses.saturating_add(1);
        let is_strike = self.answers_at_miss.replace(answers) != Some(answers);
        self.strikes = self.strikes.saturating_add(u32::from(is_strike));
        is_strike
    }

    fn forgive(&mut self) {
        (self.misses, self.strikes, self.answers_at_miss) = (0, 0, None);
    }
}

impl Policy {
    pub(super) fn new(settings: &config::Upload) -> Self {
        let backoff = Backoff::new(settings.retry_initial, settings.retry_max);
        Self {
            concurrency: settings.concurrency.max(1),
            unknown_attempts: settings.unknown_attempts,
            backoff,
            line: Line::new(backoff, settings.alarm_after),
            intake: Intake::new(),
            rows: BTreeMap::new(),
            answers: 0,
            unanswered: 0,
            ledger: None,
        }
    }

    /// What to do now; asked again until it says [`Action::Wait`].
    pub(super) fn next(&mut self, now: Instant) -> Action {
        if self.ledger.as_ref().is_some_and(|trouble| now < trouble.until) {
            return Action::Wait;
        }
        self.wake_rows(now);
        if let Some(limit) = self.load_limit() {
            return Action::Load { after_id: self.intake.begin(), limit };
        }
        match self.next_row(now) {
            Some(id) => {
                self.put(id, Place::InFlight);
                Action::Send(id)
            }
            None => Action::Wait,
        }
    }

    /// When something becomes due without any event; asked after [`Action::Wait`].
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        if let Some(trouble) = self.ledger.as_ref().filter(|trouble| now < trouble.until) {
            return Some(trouble.until);
        }
        let probe_at = self.line.probe_at().filter(|_| self.in_flight() == 0 && self.rows.values().any(Row::is_ready));
        let rows_at = self.rows.values().filter_map(|row| match row.place {
            Place::BackingOff(until) => Some(until),
            _ => None,
        });
        rows_at.chain(probe_at).min()
    }

    /// A load has brought these rows.
    pub(super) fn loaded(&mut self, ids: &[i64], limit: usize) {
        self.ledger = None;
        self.intake.loaded(ids, limit);
        for id in ids {
            let row = self.rows.entry(*id).or_insert_with(Row::new);
            row.loaded_again = row.is_in_flight();
        }
    }

    /// A load has failed.
    pub(super) fn not_loaded(&mut self, now: Instant) {
        self.intake.failed();
        self.ledger_failed(now);
    }

    /// Rows from `id` on may have become pending.
    pub(super) fn changed(&mut self, id: i64) {
        self.intake.changed(id);
    }

    /// The row was to be claimed and is no longer pending.
    pub(super) fn gone(&mut self, id: i64) {
        self.ledger = None;
        self.line.probe_ends(id);
        self.forget(id);
    }

    /// The row could not be claimed.
    pub(super) fn not_claimed(&mut self, id: i64, now: Instant) {
        self.line.probe_ends(id);
        self.put(id, Place::Ready);
        self.ledger_failed(now);
    }

    /// The row was sent, and this came of it; what to record. `row.body` is not looked at.
    pub(super) fn sent(&mut self, row: &PendingRow, outcome: Outcome, now: Instant) -> AttemptRecord {
        self.ledger = None;
        let was_suspect = self.is_suspect(row.id);
        let blame = self.note(row.id, &outcome, now);
        if !was_suspect && self.is_suspect(row.id) {
            self.line.goes_alone(&row.order, &outcome.evidence, now);
        }
        let (settlement, next) = self.settle(row, outcome.verdict, blame, now);
        self.put(row.id, Place::Recording(next));
        let counted = match outcome.verdict {
            Verdict::Accepted | Verdict::Park | Verdict::Unknown => true,
            Verdict::NoAnswer { may_have_been_taken, .. } => may_have_been_taken,
            Verdict::SlowDown { .. } | Verdict::DailyQuota { .. } | Verdict::Operator { .. } | Verdict::TokenTrouble { .. } => {
                false
            }
        };
        AttemptRecord {
            id: row.id,
            counted,
            doubtful: counted && outcome.verdict != Verdict::Park,
            unknown: outcome.verdict == Verdict::Unknown,
            settlement,
            answer: self.is_worth_recording(row.id, counted, outcome.verdict).then_some(outcome.evidence),
        }
    }

    /// The record of the row was made.
    pub(super) fn recorded(&mut self, id: i64) {
        let Some(Place::Recording(next)) = self.rows.get(&id).map(|row| row.place) else { return };
        match next {
            Next::Forget => self.forget(id),
            Next::Ready => self.put(id, Place::Ready),
            Next::BackOff(until) => self.put(id, Place::BackingOff(until)),
        }
    }

    /// How it is doing, for people.
    pub(super) fn status(&self) -> UploadStatus {
        let (state, reason) = self.state();
        let alone = self.rows.values().filter(|row| row.is_suspect()).count();
        UploadStatus { state, reason, failures_in_a_row: self.line.failures_in_a_row(), alarm: self.line.alarm(), alone }
    }

    /// What people have not been told yet.
    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        self.line.take_notices()
    }

    fn state(&self) -> (UploadState, Option<String>) {
        if self.ledger.is_some() {
            return (UploadState::Waiting, Some("the ledger cannot be used".to_owned()));
        }
        if self.rows.is_empty() && self.intake.is_exhausted() {
            return (UploadState::Idle, None);
        }
        if let Some((cause, reason)) = self.line.held() {
            let state = if cause == Cause::Away { UploadState::Waiting } else { UploadState::Paused };
            return (state, Some(reason));
        }
        if self.rows.values().all(|row| matches!(row.place, Place::BackingOff(_))) && !self.rows.is_empty() {
            return (UploadState::Waiting, Some(self.why_all_back_off().to_owned()));
        }
        (UploadState::Sending, None)
    }

    fn why_all_back_off(&self) -> &'static str {
        let suspects = self.rows.values().filter(|row| row.is_suspect()).count();
        match suspects {
            0 => "all rows wait for another try after an answer that is not known",
            _ if suspects == self.rows.len() => {
                "all rows wait for another try: they got no answer about themselves while others did"
            }
            _ => "all rows wait for another try, after an answer that is not known or none about themselves while others got one",
        }
    }

    fn is_suspect(&self, id: i64) -> bool {
        self.rows.get(&id).is_some_and(Row::is_suspect)
    }

    fn in_flight(&self) -> usize {
        self.rows.values().filter(|row| row.is_in_flight()).count()
    }

    fn put(&mut self, id: i64, place: Place) {
        if let Some(row) = self.rows.get_mut(&id) {
            row.place = place;
        }
    }

    /// The row has come to its end; it is looked at once more when it may be pending again.
    fn forget(&mut self, id: i64) {
        let is_pending_again = self.rows.remove(&id).is_some_and(|row| row.loaded_again);
        if is_pending_again {
            self.rows.insert(id, Row::new());
        }
    }

    fn wake_rows(&mut self, now: Instant) {
        for row in self.rows.values_mut() {
            if matches!(row.place, Place::BackingOff(until) if until <= now) {
                row.place = Place::Ready;
            }
        }
    }

    /// How many rows to load, if it is time to: enough to keep all sends busy, one fresh one where a single probe goes out.
    fn load_limit(&self) -> Option<usize> {
        let is_open = self.line.is_open();
        let needed = if is_open { self.concurrency } else { 1 };
        let have = self.rows.values().filter(|row| row.is_ready() && (is_open || !row.is_stale())).count();
        let room = ROWS_HELD_MAX.saturating_sub(self.rows.len());
        (self.intake.wants() && have < needed && room > 0).then(|| room.min(LOAD_MIN.max(2 * self.concurrency)))
    }

    fn next_row(&mut self, now: Instant) -> Option<i64> {
        if self.line.is_open() {
            return if self.in_flight() < self.concurrency { self.oldest_ready() } else { None };
        }
        let is_due = self.line.probe_at().is_some_and(|at| at <= now) && self.in_flight() == 0;
        let id = if is_due { self.next_probe() } else { None };
        id.inspect(|id| self.line.probe_begins(*id))
    }

    fn oldest_ready(&self) -> Option<i64> {
        self.rows.iter().find(|(_, row)| row.is_ready()).map(|(id, _)| *id)
    }

    fn next_probe(&self) -> Option<i64> {
        let ready = self.rows.iter().filter(|(_, row)| row.is_ready());
        ready.min_by_key(|(_, row)| row.misses / PROBES_PER_ROW).map(|(id, _)| *id)
    }

    /// What the outcome means for the line and for the row's record with it.
    fn note(&mut self, id: i64, outcome: &Outcome, now: Instant) -> Blame {
        let was_probe = self.line.probe_ends(id);
        match outcome.verdict {
            Verdict::Accepted | Verdict::Park => self.line.succeeded(now),
            _ => self.line.failed(now),
        }
        let (blame, evidence) = (self.blame(id, outcome.verdict), outcome.evidence.as_str());
        let holds = blame == Blame::Line || was_probe;
        match outcome.verdict {
            Verdict::Accepted | Verdict::Park | Verdict::Unknown => self.line.answered(was_probe, now),
            // What WeChat itself asks for is obeyed by all, whichever row it was told.
            Verdict::SlowDown { pause } => self.line.slow_down(was_probe, pause, evidence, now),
            Verdict::DailyQuota { pause } => self.line.quota_is_used_up(was_probe, pause, evidence, now),
            Verdict::NoAnswer { retry_after, .. } if holds || retry_after.is_some() => {
                self.line.not_answered(was_probe, retry_after, evidence, now);
            }
            Verdict::Operator { retry_after } if holds || retry_after.is_some() => {
                self.line.stuck(Cause::Operator, was_probe, retry_after, evidence, now);
            }
            Verdict::TokenTrouble { retry_after } if holds || retry_after.is_some() => {
                self.line.stuck(Cause::Token, was_probe, retry_after, evidence, now);
            }
            Verdict::NoAnswer { .. } | Verdict::Operator { .. } | Verdict::TokenTrouble { .. } => {}
        }
        blame
    }

    /// Counts an answer about the row, or a send without one. That is a suspect's own trouble only as long as answers about others
    /// come: when the last rows are all suspect, or the network goes away, it is the line's.
    fn blame(&mut self, id: i64, verdict: Verdict) -> Blame {
        if matches!(verdict, Verdict::Accepted | Verdict::Park | Verdict::Unknown) {
            self.answers += 1;
            self.unanswered = 0;
            return Blame::Row;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        let was_received = !matches!(verdict, Verdict::NoAnswer { may_have_been_taken: false, .. });
        let Some(row) = self.rows.get_mut(&id).filter(|_| was_received) else { return Blame::Line };
        let others_are_answered = row.miss(self.answers) && self.unanswered <= self.concurrency;
        if row.is_suspect() && others_are_answered { Blame::Row } else { Blame::Line }
    }

    fn settle(&mut self, row: &PendingRow, verdict: Verdict, blame: Blame, now: Instant) -> (Settlement, Next) {
        match verdict {
            Verdict::Accepted => (Settlement::Accepted, Next::Forget),
            Verdict::Park => (Settlement::Parked { reason: ParkReason::Refused }, Next::Forget),
            Verdict::Unknown => self.settle_unknown(row, now),
            Verdict::NoAnswer { .. }
            | Verdict::SlowDown { .. }
            | Verdict::DailyQuota { .. }
            | Verdict::Operator { .. }
            | Verdict::TokenTrouble { .. } => {
                let next = if blame == Blame::Row { self.alone(row.id, now) } else { Next::Ready };
                (Settlement::StillPending, next)
            }
        }
    }

    /// The row waits by itself, and if the queue waits too, for longer than the queue: the others come first when that is over.
    fn alone(&self, id: i64, now: Instant) -> Next {
        let misses = self.rows.get(&id).map_or(1, |row| row.misses);
        let queue_waits_until = self.line.probe_at().unwrap_or(now).max(now);
        Next::BackOff(queue_waits_until + self.backoff.delay(misses))
    }

    fn settle_unknown(&mut self, row: &PendingRow, now: Instant) -> (Settlement, Next) {
        let unknown_answers = row.unknown_answers.saturating_add(1);
        if unknown_answers >= self.unknown_attempts {
            return (Settlement::Parked { reason: ParkReason::UnknownErrcode }, Next::Forget);
        }
        if let Some(row) = self.rows.get_mut(&row.id) {
            row.forgive();
        }
        (Settlement::StillPending, Next::BackOff(now + self.backoff.delay(unknown_answers)))
    }

    /// The same uncounted trouble, probe after probe, is written once: an outage of days must not wear out an SD card.
    fn is_worth_recording(&mut self, id: i64, counted: bool, verdict: Verdict) -> bool {
        let Some(row) = self.rows.get_mut(&id) else { return true };
        let kind = (!counted).then(|| mem::discriminant(&verdict));
        let before = mem::replace(&mut row.recorded, kind);
        counted || before != kind
    }

    /// Calls that were under way together fail together: that is one failure.
    fn ledger_failed(&mut self, now: Instant) {
        let failures = match &self.ledger {
            Some(trouble) if now < trouble.until => return,
            Some(trouble) => trouble.failures.saturating_add(1),
            None => 1,
        };
        self.ledger = Some(LedgerTrouble { failures, until: now + self.backoff.delay(failures) });
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use proptest::{prelude::*, test_runner::TestCaseError};

    use super::*;

    const CONCURRENCY: usize = 4;
    const RETRY_MAX: Duration = Duration::from_secs(30);
    const LATENCY: Duration = Duration::from_millis(50);

    const NONE: [i64; 0] = [];
    const CUT: Verdict = Verdict::NoAnswer { may_have_been_taken: true, retry_after: None };
    const OPERATOR: Verdict = Verdict::Operator { retry_after: None };
    const TOKEN_TROUBLE: Verdict = Verdict::TokenTrouble { retry_after: None };
    const NO_ROUTE: Verdict = Verdict::NoAnswer { may_have_been_taken: false, retry_after: None };

    fn settings() -> config::Upload {
        config::Upload {
            concurrency: CONCURRENCY,
            retry_initial: Duration::from_secs(1),
            retry_max: RETRY_MAX,
            unknown_attempts: 3,
            max_age: Duration::from_secs(5 * 86_400),
            alarm_after: 5,
        }
    }

    /// A policy together with the pending rows of a ledger, driven by hand.
    struct Bench {
        policy: Policy,
        now: Instant,
        /// Pending in the ledger: ID and unknown answers.
        pending: BTreeMap<i64, u32>,
        in_flight: BTreeSet<i64>,
        records: Vec<AttemptRecord>,
    }

    impl Bench {
        fn new(ids: impl IntoIterator<Item = i64>) -> Self {
            let pending = ids.into_iter().map(|id| (id, 0)).collect();
            let policy = Policy::new(&settings());
            Self { policy, now: Instant::now(), pending, in_flight: BTreeSet::new(), records: Vec::new() }
        }

        /// Carries out what is due; the rows that go out, in order.
        fn go(&mut self) -> Vec<i64> {
            let mut sent = Vec::new();
            loop {
                match self.policy.next(self.now) {
                    Action::Load { after_id, limit } => {
                        let ids: Vec<i64> = self.pending.range(after_id + 1..).take(limit).map(|(id, _)| *id).collect();
                        self.policy.loaded(&ids, limit);
                    }
                    Action::Send(id) if self.pending.contains_key(&id) => {
                        assert!(self.in_flight.insert(id), "row {id} is in flight twice");
                        sent.push(id);
                    }
                    Action::Send(id) => self.policy.gone(id),
                    Action::Wait => return sent,
                }
            }
        }

        /// The outcome of a send, and its record.
        fn end(&mut self, id: i64, verdict: Verdict) -> AttemptRecord {
            assert!(self.in_flight.remove(&id), "row {id} is not in flight");
            let unknown_answers = self.pending.get(&id).copied().unwrap_or_default();
            let row = PendingRow { id, order: String::new(), body: Vec::new(), unknown_answers };
            let record = self.policy.sent(&row, Outcome { verdict, evidence: format!("{verdict:?}") }, self.now);
            match record.settlement {
                Settlement::StillPending => *self.pending.entry(id).or_default() += u32::from(record.unknown),
                _ => drop(self.pending.remove(&id)),
            }
            self.policy.recorded(id);
            self.records.push(record.clone());
            record
        }

        fn end_all(&mut self, verdict: Verdict) {
            for id in self.in_flight.clone() {
                self.end(id, verdict);
            }
        }

        /// Sleeps until something is due; the rows that go out then.
        fn sleep(&mut self) -> Vec<i64> {
            self.now = self.policy.wake_at(self.now).expect("something must be due");
            self.go()
        }

        fn sleep_for(&mut self, wait: Duration) -> Vec<i64> {
            self.now += wait;
            self.go()
        }

        fn state(&self) -> UploadState {
            self.policy.status().state
        }
    }

    #[test]
    fn rows_go_out_oldest_first_and_never_more_than_allowed() {
        let mut bench = Bench::new(1..=100);
        assert_eq!(bench.go(), [1, 2, 3, 4]);
        bench.end(3, Verdict::Accepted);
        assert_eq!(bench.go(), [5]);
        bench.end(1, Verdict::Accepted);
        bench.end(2, Verdict::Accepted);
        assert_eq!(bench.go(), [6, 7]);
        assert_eq!(bench.state(), UploadState::Sending);
    }

    #[test]
    fn what_is_held_does_not_grow_with_the_backlog() {
        let mut bench = Bench::new(1..=100_000);
        for _ in 0..1000 {
            bench.go();
            bench.end_all(Verdict::Accepted);
            assert!(bench.policy.rows.len() <= 2 * LOAD_MIN);
        }
        assert_eq!(bench.records.len(), 4000);
    }

    #[test]
    fn idle_nothing_is_due_and_nothing_is_loaded_until_something_changes() {
        let mut bench = Bench::new([1]);
        bench.go();
        bench.end_all(Verdict::Accepted);
        assert_eq!(bench.go(), NONE);
        assert_eq!((bench.policy.wake_at(bench.now), bench.state()), (None, UploadState::Idle));
        bench.pending.insert(2, 0);
        assert_eq!(bench.go(), NONE);
        bench.policy.changed(2);
        assert_eq!(bench.go(), [2]);
    }

    #[test]
    fn an_old_row_that_becomes_pending_goes_out_before_newer_ones() {
        let mut bench = Bench::new(10..=40);
        assert_eq!(bench.go(), [10, 11, 12, 13]);
        bench.pending.insert(5, 0);
        bench.policy.changed(5);
        // The rows on hand come first; the next load brings the old one.
        let mut order = Vec::new();
        while !bench.in_flight.is_empty() {
            bench.end_all(Verdict::Accepted);
            order.extend(bench.go());
        }
        let place = order.iter().position(|id| *id == 5).unwrap();
        assert!(place < LOAD_MIN, "{order:?}");
        assert_eq!(order.len(), 28);
    }

    #[test]
    fn without_an_answer_the_queue_backs_off_and_sends_one_probe() {
        let mut bench = Bench::new(1..=100);
        bench.go();
        bench.end(2, NO_ROUTE);
        assert_eq!(bench.sleep_for(RETRY_MAX), NONE, "no probe while others are in flight");
        bench.end_all(NO_ROUTE);
        assert_eq!(bench.go(), [1]);
        assert_eq!(bench.state(), UploadState::Waiting);
        for _ in 0..20 {
            bench.end_all(NO_ROUTE);
            assert_eq!(bench.go(), NONE, "not before the wait is over");
            assert_eq!(bench.sleep(), [1], "the oldest row is the probe");
        }
        assert_eq!(bench.pending.len(), 100);
    }

    #[test]
    fn when_the_probe_succeeds_all_waiting_rows_are_due_at_once_oldest_first() {
        let mut bench = Bench::new(1..=100);
        bench.go();
        bench.end_all(NO_ROUTE);
        assert_eq!(bench.sleep(), [1]);
        bench.end(1, Verdict::Accepted);
        assert_eq!(bench.go(), [2, 3, 4, 5]);
    }

    #[test]
    fn a_success_among_sends_under_way_does_not_end_the_wait() {
        let mut bench = Bench::new(1..=100);
        bench.go();
        bench.end(1, CUT);
        bench.end(2, Verdict::Accepted);
        assert_eq!(bench.go(), NONE);
    }

    #[test]
    fn a_row_without_an_answer_keeps_its_turn_as_the_probe_only_so_often() {
        let mut bench = Bench::new(1..=100);
        assert_eq!(bench.go(), [1, 2, 3, 4]);
        bench.end_all(CUT);
        let mut probes = Vec::new();
        for _ in 0..8 {
            probes.extend(bench.sleep());
            bench.end_all(CUT);
        }
        assert_eq!(probes, [1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(bench.sleep(), [5]);
    }

    #[test]
    fn one_row_that_never_gets_an_answer_does_not_stop_the_others() {
        for concurrency in [1, CONCURRENCY] {
            let mut bench = Bench::new(1..=200);
            bench.policy.concurrency = concurrency;
            let mut sends_of_the_bad_row = 0;
            let start = bench.now;
            bench.go();
            while bench.pending.len() > 1 {
                assert!(bench.now - start < Duration::from_secs(120), "{} rows left", bench.pending.len());
                sends_of_the_bad_row += usize::from(bench.in_flight.contains(&1));
                for id in bench.in_flight.clone() {
                    bench.end(id, if id == 1 { CUT } else { Verdict::Accepted });
                }
                if bench.sleep_for(LATENCY).is_empty() && bench.in_flight.is_empty() {
                    bench.sleep();
                }
            }
            assert!(sends_of_the_bad_row < 20, "{sends_of_the_bad_row}");
            assert!(bench.pending.contains_key(&1), "it is still to be sent");
        }
    }

    /// A bench whose row 1 is in flight, is one strike from being suspect, and met only `verdict` so far; the others were accepted.
    fn bench_before_the_last_strike(verdict: Verdict) -> Bench {
        let mut bench = Bench::new(1..=200);
        bench.policy.concurrency = 2;
        bench.go();
        for _ in 0..1000 {
            if bench.in_flight.contains(&1) {
                if bench.policy.line.is_open() && bench.policy.rows[&1].strikes + 1 == STRIKES_MAX {
                    return bench;
                }
                bench.end(1, verdict);
            }
            bench.end_all(Verdict::Accepted);
            if bench.go().is_empty() {
                bench.sleep();
            }
        }
        panic!("{verdict:?} earns no strikes")
    }

    #[test]
    fn a_row_that_again_and_again_got_no_answer_while_others_did_backs_off_alone() {
        for verdict in [CUT, OPERATOR, TOKEN_TROUBLE] {
            let mut bench = bench_before_the_last_strike(verdict);
            bench.end(1, verdict);
            bench.end_all(Verdict::Accepted);
            let next = bench.go();
            assert!(next.len() == 2 && !next.contains(&1), "{verdict:?}: {next:?}");
        }
    }

    /// A bench of which only the rows 1 to 4 are left, which met only `verdict` while all others were accepted.
    fn bench_of_suspects(verdict: Verdict) -> Bench {
        let mut bench = Bench::new(1..=20);
        for more in 1000..2000 {
            if bench.go().is_empty() && bench.in_flight.is_empty() {
                bench.sleep();
            }
            for id in bench.in_flight.clone() {
                bench.end(id, if id <= 4 { verdict } else { Verdict::Accepted });
            }
            if bench.pending.len() == 4 && bench.policy.rows.values().all(Row::is_suspect) {
                return bench;
            }
            bench.pending.insert(more, 0);
            bench.policy.changed(more);
        }
        panic!("{verdict:?} makes no row suspect")
    }

    #[test]
    fn when_only_suspects_are_left_and_the_network_is_away_one_probe_at_a_time_goes_out() {
        for verdict in [CUT, OPERATOR] {
            let mut bench = bench_of_suspects(verdict);
            let (start, mut sends) = (bench.now, 0);
            while bench.now - start < Duration::from_secs(3600) {
                sends += bench.sleep().len();
                bench.end_all(verdict);
            }
            // One for each longest wait, which is 18 s at least; before them the short ones, and each suspect's once.
            assert!(sends <= 3600 / 18 + 10 + 4, "{verdict:?}: {sends} sends");
            let (state, reason) = bench.policy.state();
            assert_ne!(state, UploadState::Sending);
            assert!(reason.is_some_and(|reason| reason.contains(&format!("{verdict:?}"))), "the status says what they meet");
        }
    }

    #[test]
    fn rows_that_back_off_alone_are_told_as_what_they_are() {
        let mut bench = bench_before_the_last_strike(CUT);
        let reason = |bench: &mut Bench| {
            while bench.policy.rows.len() > 1 || !bench.policy.intake.is_exhausted() {
                bench.end_all(Verdict::Accepted);
                bench.go();
            }
            bench.policy.status().reason.unwrap()
        };
        bench.policy.take_notices();
        bench.end(1, CUT);
        assert!(matches!(bench.policy.take_notices()[..], [Notice::Alone { .. }]), "told once");
        assert_eq!(bench.policy.status().alone, 1);
        assert!(reason(&mut bench).contains("they got no answer about themselves while others did"));
        while !bench.in_flight.contains(&1) {
            bench.sleep();
        }
        bench.end(1, Verdict::Unknown);
        assert!(reason(&mut bench).contains("an answer that is not known"));
    }

    #[test]
    fn what_wechat_asks_for_is_obeyed_by_all_whichever_row_it_was_told() {
        let retry_after = Some(Duration::from_secs(90));
        for verdict in
            [Verdict::SlowDown { pause: Duration::from_secs(90) }, Verdict::NoAnswer { may_have_been_taken: true, retry_after }]
        {
            let mut bench = bench_before_the_last_strike(verdict);
            bench.end(1, verdict);
            bench.end_all(Verdict::Accepted);
            let told = bench.now;
            assert_eq!(bench.go(), NONE);
            let next = bench.sleep();
            assert_eq!(bench.now - told, Duration::from_secs(90), "{verdict:?}");
            assert!(!next.contains(&1), "the others come first");
        }
    }

    #[test]
    fn an_outage_makes_no_row_suspect() {
        let mut bench = Bench::new(1..=4);
        bench.go();
        bench.end_all(CUT);
        for _ in 0..50 {
            bench.sleep();
            bench.end_all(CUT);
        }
        assert!(bench.policy.rows.values().all(|row| !row.is_suspect() && row.is_ready()));
    }

    const PAUSES: [Verdict; 3] = [Verdict::SlowDown { pause: RETRY_MAX }, OPERATOR, TOKEN_TROUBLE];

    #[test]
    fn pauses_of_the_whole_queue_burn_no_attempts_and_keep_places() {
        for verdict in [&PAUSES[..], &[NO_ROUTE]].concat() {
            let mut bench = Bench::new(1..=100);
            bench.go();
            bench.end_all(verdict);
            for _ in 0..2 {
                assert_eq!(bench.sleep(), [1], "the oldest row is the probe");
                bench.end_all(verdict);
            }
            let mut probe = Vec::new();
            for _ in 0..10 {
                probe = bench.sleep();
                assert_eq!(probe.len(), 1, "one probe at a time");
                bench.end_all(verdict);
            }
            assert!(bench.records.iter().all(|record| !record.counted && !record.unknown), "{verdict:?}");
            probe.extend(bench.sleep());
            bench.end_all(Verdict::Accepted);
            let oldest: Vec<i64> = bench.pending.keys().copied().take(CONCURRENCY).collect();
            assert_eq!(bench.go(), oldest, "{verdict:?}: oldest first");
        }
    }

    #[test]
    fn a_row_that_alone_pauses_the_queue_does_not_stop_the_others_and_burns_no_attempt() {
        for (verdict, concurrency) in PAUSES.into_iter().flat_map(|verdict| [(verdict, 1), (verdict, CONCURRENCY)]) {
            let mut bench = Bench::new(1..=200);
            bench.policy.concurrency = concurrency;
            let start = bench.now;
            bench.go();
            while bench.pending.len() > 1 {
                assert!(bench.now - start < Duration::from_secs(1800), "{verdict:?}: {} rows left", bench.pending.len());
                for id in bench.in_flight.clone() {
                    let record = bench.end(id, if id == 1 { verdict } else { Verdict::Accepted });
                    assert!(id != 1 || !record.counted, "{verdict:?} burns no attempt");
                }
                if bench.sleep_for(LATENCY).is_empty() && bench.in_flight.is_empty() {
                    bench.sleep();
                }
            }
            assert!(bench.pending.contains_key(&1), "it is still to be sent");
        }
    }

    #[test]
    fn a_pause_is_shown_as_one_and_lasts_as_long_as_asked_for() {
        let mut bench = Bench::new(1..=100);
        bench.go();
        bench.end_all(Verdict::SlowDown { pause: Duration::from_secs(60) });
        assert_eq!(bench.policy.wake_at(bench.now), Some(bench.now + Duration::from_secs(60)));
        assert_eq!(bench.state(), UploadState::Paused);
        assert!(!Bench::new([1]).policy.status().alarm);

        let mut bench = Bench::new(1..=100);
        bench.go();
        bench.end(1, OPERATOR);
        assert!(bench.policy.status().alarm);
        bench.end_all(Verdict::Accepted);
        assert_eq!(bench.policy.wake_at(bench.now), Some(bench.now + RETRY_MAX));
        assert_eq!(bench.state(), UploadState::Paused);
    }

    #[test]
    fn an_outage_is_recorded_once_for_a_row_until_its_kind_changes() {
        let mut bench = Bench::new([1]);
        bench.go();
        let mut answers = Vec::new();
        for verdict in [NO_ROUTE, NO_ROUTE, NO_ROUTE, OPERATOR, OPERATOR, CUT, CUT, NO_ROUTE] {
            answers.push(bench.end(1, verdict).answer.is_some());
            bench.sleep();
        }
        assert_eq!(answers, [true, false, false, true, false, true, true, true]);
    }

    #[test]
    fn an_unknown_answer_backs_off_its_row_alone() {
        let mut bench = Bench::new(1..=6);
        bench.go();
        let record = bench.end(1, Verdict::Unknown);
        assert_eq!((record.counted, record.unknown, record.settlement), (true, true, Settlement::StillPending));
        assert_eq!(bench.go(), [5], "the others go on");
        bench.end_all(Verdict::Accepted);
        bench.go();
        bench.end_all(Verdict::Accepted);
        assert_eq!((bench.go(), bench.state()), (vec![], UploadState::Waiting));
        assert_eq!(bench.sleep(), [1]);
    }

    #[test]
    fn unknown_answers_are_bounded_then_the_row_is_parked_with_the_answer() {
        let mut bench = Bench::new([1]);
        bench.go();
        bench.end(1, Verdict::Unknown);
        bench.sleep();
        bench.end(1, CUT);
        bench.sleep();
        bench.end(1, Verdict::Unknown);
        bench.sleep();
        let record = bench.end(1, Verdict::Unknown);
        assert_eq!(record.settlement, Settlement::Parked { reason: ParkReason::UnknownErrcode });
        assert_eq!(record.answer.as_deref(), Some("Unknown"));
        assert_eq!((bench.go(), bench.state()), (vec![], UploadState::Idle));
    }

    #[test]
    fn a_refused_row_is_parked_at_once_and_the_rest_goes_on() {
        let mut bench = Bench::new(1..=10);
        bench.go();
        let record = bench.end(2, Verdict::Park);
        assert_eq!((record.settlement, record.counted), (Settlement::Parked { reason: ParkReason::Refused }, true));
        assert_eq!(bench.go(), [5]);
    }

    #[test]
    fn rows_that_back_off_are_held_up_to_a_limit() {
        let mut bench = Bench::new(1..=5000);
        bench.policy.unknown_attempts = u32::MAX;
        bench.policy.backoff = Backoff::new(RETRY_MAX, RETRY_MAX);
        loop {
            bench.end_all(Verdict::Unknown);
            if bench.go().is_empty() {
                break;
            }
        }
        assert_eq!(bench.policy.rows.len(), ROWS_HELD_MAX);
        bench.sleep();
        bench.end_all(Verdict::Accepted);
        bench.go();
        assert!(bench.policy.rows.len() <= ROWS_HELD_MAX);
    }

    #[test]
    fn a_row_that_somebody_else_settled_is_not_sent() {
        let mut bench = Bench::new(1..=6);
        bench.go();
        bench.end_all(NO_ROUTE);
        bench.pending.remove(&1);
        bench.pending.remove(&2);
        assert_eq!(bench.sleep(), [3]);
        bench.end(3, Verdict::Accepted);
        assert_eq!(bench.go(), [4, 5, 6]);
    }

    #[test]
    fn while_the_ledger_cannot_be_used_nothing_is_asked_of_it() {
        let mut bench = Bench::new(1..=6);
        let Action::Load { .. } = bench.policy.next(bench.now) else { panic!("a load") };
        bench.policy.not_loaded(bench.now);
        assert_eq!((bench.go(), bench.state()), (vec![], UploadState::Waiting));
        assert_eq!(bench.sleep(), [1, 2, 3, 4]);
        for id in [1, 2, 3, 4] {
            bench.in_flight.remove(&id);
            bench.policy.not_claimed(id, bench.now);
        }
        let wait = bench.policy.wake_at(bench.now).unwrap() - bench.now;
        assert!(wait <= Duration::from_millis(1250), "four failures at once are one: {wait:?}");
        assert_eq!(bench.sleep(), [1, 2, 3, 4]);
    }

    #[test]
    fn the_outcome_of_a_send_frees_its_place_only_when_it_is_recorded() {
        let mut bench = Bench::new(1..=10);
        bench.go();
        let row = PendingRow { id: 1, order: String::new(), body: Vec::new(), unknown_answers: 0 };
        bench.policy.sent(&row, Outcome { verdict: Verdict::Accepted, evidence: String::new() }, bench.now);
        assert_eq!(bench.go(), NONE);
        bench.in_flight.remove(&1);
        bench.pending.remove(&1);
        bench.policy.recorded(1);
        assert_eq!(bench.go(), [5]);
    }

    #[test]
    fn a_row_that_is_pending_again_before_its_end_was_heard_of_is_not_lost() {
        let mut bench = Bench::new([1]);
        bench.go();
        let row = PendingRow { id: 1, order: String::new(), body: Vec::new(), unknown_answers: 0 };
        bench.policy.sent(&row, Outcome { verdict: Verdict::Park, evidence: String::new() }, bench.now);
        bench.in_flight.remove(&1);
        // The ledger has parked it, and a person was quick.
        bench.policy.changed(1);
        assert_eq!(bench.go(), NONE);
        bench.policy.recorded(1);
        assert_eq!(bench.go(), [1]);
        // The same for one that was claimed too late.
        bench.policy.changed(1);
        assert_eq!(bench.go(), NONE);
        bench.in_flight.remove(&1);
        bench.policy.gone(1);
        assert_eq!(bench.go(), [1]);
    }

    /// What may happen, in any order.
    #[derive(Debug, Clone)]
    enum Step {
        /// The load that is under way brings what was there when it began, or fails.
        LoadEnds(bool),
        /// The n-th row that is being claimed is claimed if it is pending, or the ledger cannot be used.
        ClaimEnds(usize, bool),
        /// The n-th row that was claimed comes back so.
        SendEnds(usize, Verdict),
        /// The ledger takes the n-th outcome.
        RecordEnds(usize),
        /// The policy hears the n-th thing that the ledger has said: a row is gone, or its outcome is recorded.
        Heard(usize),
        /// A row is recorded; below others when `true`.
        New(bool),
        /// The n-th pending row is settled by somebody else, whatever is under way.
        Settled(usize),
        /// The n-th row that was parked is pending again.
        Retry(usize),
        Pass(u64),
        /// The program ends, and starts again.
        Restart,
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![
            12 => Just(Verdict::Accepted),
            12 => Just(Verdict::Park),
            4 => Just(Verdict::Unknown),
            4 => Just(CUT),
            1 => Just(NO_ROUTE),
            1 => (0..7200_u64).prop_map(|s| Verdict::NoAnswer { may_have_been_taken: true, retry_after: Some(Duration::from_secs(s)) }),
            1 => (1..7200_u64).prop_map(|s| Verdict::SlowDown { pause: Duration::from_secs(s) }),
            1 => (1..7200_u64).prop_map(|s| Verdict::DailyQuota { pause: Duration::from_secs(s) }),
            1 => Just(OPERATOR),
            1 => Just(TOKEN_TROUBLE),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        let n = 0..CONCURRENCY;
        prop_oneof![
            6 => prop::bool::weighted(0.9).prop_map(Step::LoadEnds),
            8 => (n.clone(), prop::bool::weighted(0.9)).prop_map(|(n, is_usable)| Step::ClaimEnds(n, is_usable)),
            8 => (n.clone(), verdict()).prop_map(|(n, verdict)| Step::SendEnds(n, verdict)),
            8 => n.clone().prop_map(Step::RecordEnds),
            4 => n.prop_map(Step::Heard),
            3 => any::<bool>().prop_map(Step::New),
            2 => (0..10_usize).prop_map(Step::Settled),
            6 => (0..3_usize).prop_map(Step::Retry),
            4 => prop_oneof![4 => 0..40_000_u64, 1 => 0..7_300_000_u64].prop_map(Step::Pass),
            1 => Just(Step::Restart),
        ]
    }

    #[derive(Debug, Clone, Copy)]
    enum Said {
        Gone,
        Recorded,
    }

    /// A policy and its ledger, with everything between them under way for as long as it likes.
    struct World {
        policy: Policy,
        now: Instant,
        /// Pending in the ledger: ID and unknown answers.
        pending: BTreeMap<i64, u32>,
        parked: BTreeSet<i64>,
        lowest: i64,
        highest: i64,
        /// What the load that is under way will bring, and its limit.
        load: Option<(Vec<i64>, usize)>,
        claiming: BTreeSet<i64>,
        sending: BTreeSet<i64>,
        recording: BTreeMap<i64, AttemptRecord>,
        /// What the ledger has said and the policy has not heard.
        unheard: BTreeMap<i64, Said>,
        /// Nothing may be sent before: somebody asked for that.
        pause_until: Instant,
        /// Sends of a row that reached WeChat, since the last answer about it.
        turns: BTreeMap<i64, u32>,
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                policy: Policy::new(&settings()),
                now,
                pending: (1001..=1006).map(|id| (id, 0)).collect(),
                parked: BTreeSet::new(),
                lowest: 1001,
                highest: 1006,
                load: None,
                claiming: BTreeSet::new(),
                sending: BTreeSet::new(),
                recording: BTreeMap::new(),
                unheard: BTreeMap::new(),
                pause_until: now,
                turns: BTreeMap::new(),
            }
        }

        /// Rows that could have been sent in the place of `id`: older ones that are on hand and wait for nothing.
        fn passed_over(&self, id: i64) -> Vec<i64> {
            self.policy.rows.range(..id).filter(|(_, row)| row.is_ready()).map(|(id, _)| *id).collect()
        }

        /// How often a row has had its turns as the probe.
        fn rounds(&self, id: i64) -> u32 {
            self.turns.get(&id).copied().unwrap_or_default() / PROBES_PER_ROW
        }

        fn in_flight(&self) -> BTreeSet<i64> {
            let at_the_ledger = self.recording.keys().chain(self.unheard.keys());
            self.claiming.iter().chain(&self.sending).chain(at_the_ledger).copied().collect()
        }

        /// Starts what is due.
        fn go(&mut self) -> Result<(), TestCaseError> {
            loop {
                let (was_open, in_flight) = (self.policy.line.is_open(), self.in_flight());
                match self.policy.next(self.now) {
                    Action::Load { after_id, limit } => {
                        prop_assert!(self.load.is_none(), "two loads at once");
                        let ids = self.pending.range(after_id + 1..).take(limit).map(|(id, _)| *id).collect();
                        self.load = Some((ids, limit));
                    }
                    Action::Send(id) => {
                        prop_assert!(!in_flight.contains(&id), "row {} is in flight twice", id);
                        prop_assert!(in_flight.len() < CONCURRENCY && (was_open || in_flight.is_empty()), "beside {:?}", in_flight);
                        prop_assert!(self.now >= self.pause_until, "sent during a pause");
                        let passed_over = self.passed_over(id);
                        if was_open {
                            prop_assert!(passed_over.is_empty(), "row {} before the older {:?}", id, passed_over);
                        }
                        let rounds = self.rounds(id);
                        prop_assert!(
                            passed_over.iter().all(|older| self.rounds(*older) > rounds),
                            "probe {} before {:?}",
                            id,
                            passed_over
                        );
                        self.claiming.insert(id);
                    }
                    Action::Wait => break,
                }
            }
            self.check()
        }

        fn check(&self) -> Result<(), TestCaseError> {
            let policy = &self.policy;
            prop_assert!(policy.wake_at(self.now).is_none_or(|at| at > self.now), "it would never sleep");
            prop_assert!(policy.rows.len() <= ROWS_HELD_MAX);
            let in_flight: BTreeSet<i64> = policy.rows.iter().filter(|(_, row)| row.is_in_flight()).map(|(id, _)| *id).collect();
            prop_assert_eq!(&in_flight, &self.in_flight());
            let is_idle = policy.status().state == UploadState::Idle;
            prop_assert!(!is_idle || self.pending.is_empty(), "idle while {:?} wait", self.pending);
            for id in self.pending.keys().filter(|id| self.load.is_none() && !policy.rows.contains_key(id)) {
                prop_assert!(policy.intake.wants() && *id > policy.intake.cursor(), "row {} is lost", id);
            }
            Ok(())
        }

        fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
            match step {
                Step::LoadEnds(is_usable) => self.end_load(*is_usable),
                Step::ClaimEnds(n, is_usable) => self.end_claim(*n, *is_usable),
                Step::SendEnds(n, verdict) => return self.end_send(*n, *verdict),
                Step::RecordEnds(n) => self.end_record(*n),
                Step::Heard(n) => self.hear(*n),
                Step::New(below) => {
                    let id = if *below { &mut self.lowest } else { &mut self.highest };
                    *id += if *below { -1 } else { 1 };
                    let id = *id;
                    self.pending_again(id);
                }
                Step::Settled(n) => {
                    let nth = self.pending.keys().nth(*n).copied();
                    nth.map(|id| self.pending.remove(&id));
                }
                Step::Retry(n) => {
                    let Some(id) = self.parked.iter().nth(*n).copied() else { return Ok(()) };
                    self.parked.remove(&id);
                    self.pending_again(id);
                }
                Step::Pass(ms) => self.now += Duration::from_millis(*ms),
                Step::Restart => self.restart(),
            }
            Ok(())
        }

        fn end_load(&mut self, is_usable: bool) {
            match self.load.take() {
                Some((ids, limit)) if is_usable => self.policy.loaded(&ids, limit),
                Some(_) => self.policy.not_loaded(self.now),
                None => {}
            }
        }

        fn end_claim(&mut self, n: usize, is_usable: bool) {
            let Some(id) = self.claiming.iter().nth(n).copied() else { return };
            self.claiming.remove(&id);
            match self.pending.get(&id) {
                _ if !is_usable => self.policy.not_claimed(id, self.now),
                Some(_) => drop(self.sending.insert(id)),
                None => drop(self.unheard.insert(id, Said::Gone)),
            }
        }

        fn hear(&mut self, n: usize) {
            let Some((id, said)) = self.unheard.iter().nth(n).map(|(id, said)| (*id, *said)) else { return };
            self.unheard.remove(&id);
            match said {
                Said::Gone => self.policy.gone(id),
                Said::Recorded => self.policy.recorded(id),
            }
        }

        fn end_send(&mut self, n: usize, verdict: Verdict) -> Result<(), TestCaseError> {
            let Some(id) = self.sending.iter().nth(n).copied() else { return Ok(()) };
            self.sending.remove(&id);
            let unknown_answers = self.pending.get(&id).copied().unwrap_or_default();
            let row = PendingRow { id, order: String::new(), body: Vec::new(), unknown_answers };
            let record = self.policy.sent(&row, Outcome { verdict, evidence: String::new() }, self.now);
            let pause = match verdict {
                Verdict::SlowDown { pause } | Verdict::DailyQuota { pause } => pause,
                Verdict::NoAnswer { retry_after: Some(asked), .. } => asked.min(Duration::from_secs(3600)),
                // A row that is suspect waits alone.
                OPERATOR | TOKEN_TROUBLE if self.policy.line.is_open() => Duration::ZERO,
                OPERATOR | TOKEN_TROUBLE => RETRY_MAX,
                _ => Duration::ZERO,
            };
            self.pause_until = self.pause_until.max(self.now + pause);
            match verdict {
                Verdict::Accepted | Verdict::Park | Verdict::Unknown => drop(self.turns.remove(&id)),
                NO_ROUTE => {}
                _ => *self.turns.entry(id).or_default() += 1,
            }
            let (refused, unexplained) = (ParkReason::Refused, ParkReason::UnknownErrcode);
            let expected = match verdict {
                Verdict::Accepted => Settlement::Accepted,
                Verdict::Park => Settlement::Parked { reason: refused },
                Verdict::Unknown if unknown_answers + 1 >= settings().unknown_attempts => {
                    Settlement::Parked { reason: unexplained }
                }
                _ => Settlement::StillPending,
            };
            prop_assert_eq!(record.settlement, expected);
            let burns = matches!(verdict, Verdict::Accepted | Verdict::Park | Verdict::Unknown) || verdict.may_have_been_taken();
            prop_assert_eq!((record.counted, record.unknown), (burns, verdict == Verdict::Unknown));
            self.recording.insert(id, record);
            Ok(())
        }

        /// A row that has left `pending` meanwhile keeps its state.
        fn end_record(&mut self, n: usize) {
            let Some(id) = self.recording.keys().nth(n).copied() else { return };
            let Some(record) = self.recording.remove(&id) else { return };
            if let Some(unknown_answers) = self.pending.get_mut(&id) {
                *unknown_answers += u32::from(record.unknown);
                if record.settlement != Settlement::StillPending {
                    self.pending.remove(&id);
                }
                if matches!(record.settlement, Settlement::Parked { .. }) {
                    self.parked.insert(id);
                }
            }
            self.unheard.insert(id, Said::Recorded);
        }

        fn pending_again(&mut self, id: i64) {
            self.pending.insert(id, 0);
            self.policy.changed(id);
        }

        /// What was under way is dropped; what was not recorded is still pending.
        fn restart(&mut self) {
            self.policy = Policy::new(&settings());
            (self.load, self.pause_until, self.turns) = (None, self.now, BTreeMap::new());
            (self.claiming, self.sending) = (BTreeSet::new(), BTreeSet::new());
            (self.recording, self.unheard) = (BTreeMap::new(), BTreeMap::new());
        }

        /// From now on all is well: time passes, and everything is taken.
        fn calm(&mut self) -> Result<(), TestCaseError> {
            for _ in 0..10_000 {
                self.go()?;
                let is_busy = self.load.is_some() || !self.in_flight().is_empty();
                match self.policy.wake_at(self.now) {
                    _ if is_busy => {}
                    Some(at) => self.now = at,
                    None => break,
                }
                self.end_load(true);
                self.end_claim(0, true);
                self.end_send(0, Verdict::Accepted)?;
                self.end_record(0);
                self.hear(0);
            }
            Ok(())
        }
    }

    /// What one row may meet for ever although nothing about the row is said.
    fn poison() -> impl Strategy<Value = Verdict> {
        let pause = Duration::from_secs(60);
        prop::sample::select(vec![
            CUT,
            OPERATOR,
            TOKEN_TROUBLE,
            Verdict::SlowDown { pause },
            Verdict::NoAnswer { may_have_been_taken: true, retry_after: Some(pause) },
            Verdict::Operator { retry_after: Some(pause) },
        ])
    }

    impl Verdict {
        fn may_have_been_taken(self) -> bool {
            matches!(self, Self::NoAnswer { may_have_been_taken: true, .. })
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_happens_nothing_is_lost_passed_over_sent_twice_or_sent_during_a_pause(steps in prop::collection::vec(step(), 1..200)) {
            let mut world = World::new();
            world.go()?;
            for step in &steps {
                world.take(step)?;
                world.go()?;
            }
            world.calm()?;
            prop_assert!(world.pending.is_empty(), "left: {:?}", world.pending);
        }

        #[test]
        fn rows_that_meet_the_same_trouble_for_ever_stop_nobody_else(
            poisoned in prop::collection::btree_map(1..40_i64, poison(), 1..4),
            concurrency in 1..=CONCURRENCY,
        ) {
            let mut bench = Bench::new(1..=60);
            bench.policy.concurrency = concurrency;
            let start = bench.now;
            bench.go();
            while bench.pending.len() > poisoned.len() {
                prop_assert!(bench.now - start < Duration::from_secs(7200), "left: {:?}", bench.pending);
                for id in bench.in_flight.clone() {
                    let verdict = poisoned.get(&id).copied().unwrap_or(Verdict::Accepted);
                    let record = bench.end(id, verdict);
                    prop_assert!(!poisoned.contains_key(&id) || record.counted == verdict.may_have_been_taken());
                }
                if bench.sleep_for(LATENCY).is_empty() && bench.in_flight.is_empty() {
                    bench.sleep();
                }
            }
            prop_assert!(poisoned.keys().all(|id| bench.pending.contains_key(id)), "they are still to be sent");
        }
    }
}
