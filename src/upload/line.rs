//! Whether the queue as a whole may flow: the state of the line to WeChat. A pure state machine; the time is handed in.
//!
//! Open, every row may be sent. After trouble that is not about a row the line is held; when the wait is over one probe goes out,
//! and only its result opens the line again or holds it for longer. Sends that were already under way can lengthen a hold, never
//! end it: one that happens to succeed says nothing about a server that refuses most.

use std::time::{Duration, Instant};

use super::{
    backoff::Backoff,
    news::{News, Notice},
};

/// A server may ask for more with `Retry-After`; it does not get more.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// An interruption is told to people from its second failure on: one lost packet is no news.
const FAILURES_TOLD: u32 = 2;

/// Why the line is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// WeChat cannot be reached or does not answer.
    Away,
    /// WeChat wants fewer requests.
    SlowDown,
    /// The quota of the day is used up.
    DailyQuota,
    /// Somebody must set something right.
    Operator,
    /// There is no token, or it is refused twice in a row.
    Token,
}

impl Cause {
    /// What is wrong, for people.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Away => "no usable answer from WeChat",
            Self::SlowDown => "WeChat asks to slow down",
            Self::DailyQuota => "WeChat's quota of requests for this day is used up; ask for a higher one if this happens again",
            Self::Operator => "WeChat refuses this operator's requests until something is set right",
            Self::Token => "there is no access token that WeChat takes",
        }
    }

    /// Whether a person has to act.
    fn is_for_a_person(self) -> bool {
        matches!(self, Self::DailyQuota | Self::Operator | Self::Token)
    }
}

/// The line.
#[derive(Debug)]
pub(super) struct Line {
    backoff: Backoff,
    alarm_after: u32,
    hold: Option<Hold>,
    failures_in_a_row: u32,
    news: News,
}

#[derive(Debug)]
struct Hold {
    cause: Cause,
    evidence: String,
    since: Instant,
    until: Instant,
    /// The failure that began it, and the probes that failed since.
    failures: u32,
    probe: Option<i64>,
    /// What people were told that it is.
    told: Option<Cause>,
}

impl Line {
    pub(super) fn new(backoff: Backoff, alarm_after: u32) -> Self {
        Self { backoff, alarm_after, hold: None, failures_in_a_row: 0, news: News::default() }
    }

    /// Whether rows may be sent side by side.
    pub(super) fn is_open(&self) -> bool {
        self.hold.is_none()
    }

    /// When the next probe is due; `None` while the line is open or a probe is under way.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.hold.as_ref().filter(|hold| hold.probe.is_none()).map(|hold| hold.until)
    }

    /// The row `id` goes out as the probe.
    pub(super) fn probe_begins(&mut self, id: i64) {
        if let Some(hold) = &mut self.hold {
            hold.probe = Some(id);
        }
    }

    /// The send of the row `id` is over; whether it was the probe.
    pub(super) fn probe_ends(&mut self, id: i64) -> bool {
        self.hold.as_mut().is_some_and(|hold| hold.probe.take_if(|probe| *probe == id).is_some())
    }

    /// WeChat gave an answer about a row: the line is good, if the probe says so.
    pub(super) fn answered(&mut self, was_probe: bool, now: Instant) {
        if !was_probe {
            return;
        }
        if let Some(ended) = self.hold.take().filter(|hold| hold.told.is_some()) {
            self.news.resumed(now.saturating_duration_since(ended.since));
        }
    }

    /// There was no answer; back off, and as long as WeChat asks for.
    pub(super) fn not_answered(&mut self, was_probe: bool, retry_after: Option<Duration>, evidence: &str, now: Instant) {
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let wait = match &self.hold {
            Some(_) if !was_probe && asked.is_zero() => return,
            Some(_) if !was_probe => asked,
            Some(hold) => asked.max(self.backoff.delay(hold.failures.saturating_add(1))),
            None => asked.max(self.backoff.delay(1)),
        };
        self.hold(Cause::Away, was_probe, wait, evidence, now);
    }

    /// WeChat wants fewer requests.
    pub(super) fn slow_down(&mut self, was_probe: bool, pause: Duration, evidence: &str, now: Instant) {
        self.hold(Cause::SlowDown, was_probe, pause, evidence, now);
    }

    /// The quota of the day is used up.
    pub(super) fn quota_is_used_up(&mut self, was_probe: bool, pause: Duration, evidence: &str, now: Instant) {
        self.hold(Cause::DailyQuota, was_probe, pause, evidence, now);
    }

    /// A person must act; one probe for each longest wait, or as rarely as WeChat asks for, finds out when that is done.
    pub(super) fn stuck(&mut self, cause: Cause, was_probe: bool, retry_after: Option<Duration>, evidence: &str, now: Instant) {
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        self.hold(cause, was_probe, asked.max(self.backoff.max()), evidence, now);
    }

    /// Counts a send that has brought its row to an end.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.failures_in_a_row = 0;
        self.news.succeeded(now);
    }

    /// Counts a send that has not.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.news.failed(now);
        if self.failures_in_a_row == self.alarm_after {
            self.news.alarm(self.failures_in_a_row);
        }
    }

    /// Failed sends in a row.
    pub(super) fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// Whether a person should look.
    pub(super) fn alarm(&self) -> bool {
        self.failures_in_a_row >= self.alarm_after || self.hold.as_ref().is_some_and(|hold| hold.cause.is_for_a_person())
    }

    /// Why it is held, and a sentence about it.
    pub(super) fn held(&self) -> Option<(Cause, String)> {
        self.hold.as_ref().map(|hold| (hold.cause, format!("{}: {}", hold.cause.as_str(), hold.evidence)))
    }

    /// What people have not been told yet.
    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        self.news.take()
    }

    /// The deduction `order` begins to back off alone.
    pub(super) fn goes_alone(&mut self, order: &str, evidence: &str, now: Instant) {
        self.news.alone(order, evidence, now);
    }

    fn hold(&mut self, cause: Cause, was_probe: bool, wait: Duration, evidence: &str, now: Instant) {
        let until = now + wait;
        match &mut self.hold {
            Some(hold) if !was_probe && until <= hold.until => return,
            Some(hold) => {
                hold.failures = hold.failures.saturating_add(u32::from(was_probe));
                (hold.cause, hold.until) = (cause, until);
                evidence.clone_into(&mut hold.evidence);
            }
            None => {
                let evidence = evidence.to_owned();
                self.hold = Some(Hold { cause, evidence, since: now, until, failures: 1, probe: None, told: None });
            }
        }
        self.tell(wait, now);
    }

    fn tell(&mut self, next_probe_in: Duration, now: Instant) {
        let Some(hold) = &mut self.hold else { return };
        let is_news = hold.told != Some(hold.cause) && (hold.cause != Cause::Away || hold.failures >= FAILURES_TOLD);
        if is_news && self.news.held(hold.cause, &hold.evidence, next_probe_in, now) {
            hold.told = Some(hold.cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(30);

    fn line() -> Line {
        Line::new(Backoff::new(Duration::from_secs(1), MAX), 5)
    }

    fn wait(line: &Line, now: Instant) -> Duration {
        line.probe_at().unwrap().saturating_duration_since(now)
    }

    /// One failing probe after another; the waits.
    fn failing_probes(line: &mut Line, number: usize, now: &mut Instant) -> Vec<Duration> {
        let probe = |_| {
            *now = line.probe_at().unwrap();
            line.probe_begins(1);
            assert!(line.probe_at().is_none(), "one probe at a time");
            let was_probe = line.probe_ends(1);
            line.not_answered(was_probe, None, "refused", *now);
            wait(line, *now)
        };
        (0..number).map(probe).collect()
    }

    #[test]
    fn waits_grow_with_each_failing_probe_and_start_anew_after_a_success() {
        let (mut line, mut now) = (line(), Instant::now());
        line.not_answered(false, None, "refused", now);
        let waits = failing_probes(&mut line, 8, &mut now);
        assert!(waits[0] >= Duration::from_millis(1500) && waits[7] >= Duration::from_secs(18), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= MAX), "{waits:?}");
        line.answered(true, now);
        assert!(line.is_open());
        line.not_answered(false, None, "refused", now);
        assert!(wait(&line, now) <= Duration::from_millis(1250));
    }

    #[test]
    fn sends_under_way_neither_lengthen_nor_end_an_interruption() {
        let (mut line, now) = (line(), Instant::now());
        line.not_answered(false, None, "refused", now);
        let until = line.probe_at();
        line.not_answered(false, None, "refused", now + MAX);
        line.answered(false, now);
        assert_eq!(line.probe_at(), until);
    }

    #[test]
    fn retry_after_is_obeyed_whoever_brings_it_up_to_an_hour() {
        let (mut line, now) = (line(), Instant::now());
        line.not_answered(false, Some(Duration::from_secs(90)), "429", now);
        assert_eq!(wait(&line, now), Duration::from_secs(90));
        line.not_answered(false, Some(Duration::from_secs(120)), "429", now);
        assert_eq!(wait(&line, now), Duration::from_secs(120));
        line.not_answered(false, Some(Duration::from_secs(86_400)), "429", now);
        assert_eq!(wait(&line, now), Duration::from_secs(3600));
    }

    #[test]
    fn retry_after_is_obeyed_where_a_person_must_act_too() {
        let (mut line, now) = (line(), Instant::now());
        line.stuck(Cause::Operator, false, Some(Duration::from_secs(90)), "HTTP status 403", now);
        assert_eq!(wait(&line, now), Duration::from_secs(90));
        line.stuck(Cause::Operator, false, Some(Duration::from_secs(86_400)), "HTTP status 403", now);
        assert_eq!(wait(&line, now), Duration::from_secs(3600));
    }

    #[test]
    fn a_quota_that_is_used_up_is_an_alarm_and_told_once() {
        let (mut line, now) = (line(), Instant::now());
        line.quota_is_used_up(false, MAX, "errcode 45009", now);
        line.probe_begins(1);
        let was_probe = line.probe_ends(1);
        line.quota_is_used_up(was_probe, MAX, "errcode 45009", now + MAX);
        assert!(line.alarm());
        assert_eq!(line.take_notices().len(), 1);
    }

    #[test]
    fn a_pause_lasts_as_long_as_the_longest_that_was_asked_for() {
        let (mut line, now) = (line(), Instant::now());
        line.not_answered(false, None, "refused", now);
        line.slow_down(false, Duration::from_secs(7200), "errcode 45009", now);
        line.slow_down(false, Duration::from_secs(60), "errcode 45011", now);
        assert_eq!(wait(&line, now), Duration::from_secs(7200));
        assert_eq!(line.held().unwrap(), (Cause::SlowDown, "WeChat asks to slow down: errcode 45009".to_owned()));
    }

    #[test]
    fn a_person_is_alarmed_at_once_and_one_probe_for_each_longest_wait_finds_out() {
        let (mut line, now) = (line(), Instant::now());
        line.stuck(Cause::Operator, false, None, "errcode 40164", now);
        assert!(line.alarm());
        assert_eq!(wait(&line, now), MAX);
        line.probe_begins(1);
        let was_probe = line.probe_ends(1);
        line.stuck(Cause::Operator, was_probe, None, "errcode 40164", now + MAX);
        assert_eq!(wait(&line, now + MAX), MAX);
        line.answered(true, now + MAX);
        assert!(!line.alarm() && line.is_open());
    }

    #[test]
    fn an_episode_is_told_once_and_a_single_failure_not_at_all() {
        let (mut line, mut now) = (line(), Instant::now());
        let start = now;
        line.not_answered(false, None, "refused", now);
        line.answered(true, now);
        assert!(line.take_notices().is_empty());

        line.not_answered(false, None, "refused", now);
        failing_probes(&mut line, 20, &mut now);
        line.answered(true, now);
        let notices = line.take_notices();
        assert_eq!(notices.len(), 2, "{notices:?}");
        assert!(notices[0].to_string().starts_with("no usable answer from WeChat: refused; deductions wait, next try in "));
        assert_eq!(notices[1], Notice::Resumed { after: now - start });
    }

    #[test]
    fn another_cause_is_news() {
        let (mut line, mut now) = (line(), Instant::now());
        line.not_answered(false, None, "refused", now);
        failing_probes(&mut line, 3, &mut now);
        line.probe_begins(1);
        let was_probe = line.probe_ends(1);
        line.stuck(Cause::Token, was_probe, None, "errcode 40001", now);
        assert_eq!(line.take_notices().len(), 2);
    }

    #[test]
    fn failed_sends_in_a_row_alarm_until_one_succeeds() {
        let (mut line, now) = (line(), Instant::now());
        (0..4).for_each(|_| line.failed(now));
        assert!(!line.alarm());
        (0..3).for_each(|_| line.failed(now));
        assert!(line.alarm());
        assert_eq!(line.take_notices(), [Notice::Alarm { failures: 5 }]);
        line.succeeded(now);
        assert!(!line.alarm());
        assert_eq!(line.failures_in_a_row(), 0);
    }

    #[test]
    fn answers_that_flap_are_one_episode_and_told_as_one() {
        let (mut line, mut now) = (line(), Instant::now());
        let mut notices = Vec::new();
        for _ in 0..1000 {
            (0..6).for_each(|_| line.failed(now));
            line.succeeded(now);
            now += Duration::from_millis(100);
            notices.extend(line.take_notices());
        }
        assert_eq!(notices, [Notice::Alarm { failures: 5 }]);
    }

    #[test]
    fn two_faults_in_turn_are_not_a_line_for_each_probe_and_what_began_is_told_as_ended() {
        let (mut line, mut now) = (line(), Instant::now());
        let mut notices = Vec::new();
        line.not_answered(false, None, "HTTP status 502", now);
        for number in 0..120 {
            now = line.probe_at().unwrap();
            line.probe_begins(1);
            let was_probe = line.probe_ends(1);
            if number % 2 == 0 {
                line.not_answered(was_probe, None, "HTTP status 502", now);
            } else {
                line.stuck(Cause::Operator, was_probe, None, "HTTP status 403", now);
            }
            notices.extend(line.take_notices());
        }
        assert!((2..=14).contains(&notices.len()), "in most of an hour: {}", notices.len());
        line.answered(true, now);
        assert!(matches!(line.take_notices()[..], [Notice::Resumed { .. }]));
    }
}
