//! What people are told of trouble with the upload, and how rarely. A pure state machine; the time is handed in.
//!
//! An episode of trouble ends after a calm time or a run of successes, not with the first success. In one episode the alarm is told
//! once, and any other thing again only after pauses that grow: a WeChat that flaps between good and bad, or between two faults,
//! must not fill the log. What is told as begun is always told as ended.

use std::{
    fmt, mem,
    time::{Duration, Instant},
};

use super::line::Cause;

/// So long without a failed send, and an episode is over.
const CALM: Duration = Duration::from_secs(10 * 60);

/// So many successes without a failed send between them, and it is over, too.
const CALM_SUCCESSES: u32 = 100;

/// Before the same thing is told again in one episode; doubled each time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// 64 minutes are not doubled any more.
const DOUBLINGS_MAX: u32 = 6;

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// Nothing is sent until a probe succeeds.
    Held { cause: Cause, evidence: String, next_probe_in: Duration },
    /// A probe has succeeded.
    Resumed { after: Duration },
    /// So many sends in a row have failed.
    Alarm { failures: u32 },
    /// One deduction gets no answer about itself while others do.
    Alone { order: String, evidence: String },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { cause, evidence, next_probe_in } => {
                let next_s = next_probe_in.as_secs_f64();
                write!(f, "{}: {evidence}; deductions wait, next try in {next_s:.0} s", cause.as_str())
            }
            Self::Resumed { after } => write!(f, "WeChat answers again after {:.0} s", after.as_secs_f64()),
            Self::Alarm { failures } => write!(f, "{failures} sends to WeChat in a row have failed"),
            Self::Alone { order, evidence } => {
                write!(f, "deduction {order} again and again meets this while others are taken, and waits alone: {evidence}")
            }
        }
    }
}

/// What is told again only after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Held(Cause),
    Alone,
}

#[derive(Debug)]
struct Told {
    topic: Topic,
    at: Instant,
    times: u32,
}

/// Sends since the last failure.
#[derive(Debug)]
struct Calm {
    since: Instant,
    successes: u32,
}

/// What was told in this episode, and what is to be.
#[derive(Debug, Default)]
pub(super) struct News {
    notices: Vec<Notice>,
    calm: Option<Calm>,
    is_alarm_told: bool,
    told: Vec<Told>,
}

impl News {
    /// A send has brought its row to an end.
    pub(super) fn succeeded(&mut self, now: Instant) {
        let calm = self.calm.get_or_insert(Calm { since: now, successes: 0 });
        calm.successes = calm.successes.saturating_add(1);
    }

    /// A send has not.
    pub(super) fn failed(&mut self, now: Instant) {
        if self.calm.take().is_some_and(|calm| calm.is_long(now)) {
            (self.is_alarm_told, self.told) = (false, Vec::new());
        }
    }

    /// So many sends in a row have failed.
    pub(super) fn alarm(&mut self, failures: u32) {
        if !mem::replace(&mut self.is_alarm_told, true) {
            self.notices.push(Notice::Alarm { failures });
        }
    }

    /// The line is held; whether people are told.
    pub(super) fn held(&mut self, cause: Cause, evidence: &str, next_probe_in: Duration, now: Instant) -> bool {
        let is_due = self.is_due(Topic::Held(cause), now);
        if is_due {
            self.notices.push(Notice::Held { cause, evidence: evidence.to_owned(), next_probe_in });
        }
        is_due
    }

    /// A hold that was told has ended.
    pub(super) fn resumed(&mut self, after: Duration) {
        self.notices.push(Notice::Resumed { after });
    }

    /// A deduction begins to back off alone.
    pub(super) fn alone(&mut self, order: &str, evidence: &str, now: Instant) {
        if self.is_due(Topic::Alone, now) {
            self.notices.push(Notice::Alone { order: order.to_owned(), evidence: evidence.to_owned() });
        }
    }

    /// What people have not been told yet.
    pub(super) fn take(&mut self) -> Vec<Notice> {
        mem::take(&mut self.notices)
    }

    fn is_due(&mut self, topic: Topic, now: Instant) -> bool {
        let Some(told) = self.told.iter_mut().find(|told| told.topic == topic) else {
            self.told.push(Told { topic, at: now, times: 1 });
            return true;
        };
        let is_due = now.saturating_duration_since(told.at) >= TELL_AGAIN * (1 << (told.times - 1).min(DOUBLINGS_MAX));
        if is_due {
            (told.at, told.times) = (now, told.times.saturating_add(1));
        }
        is_due
    }
}

impl Calm {
    fn is_long(&self, now: Instant) -> bool {
        self.successes >= CALM_SUCCESSES || now.saturating_duration_since(self.since) >= CALM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_alarm_is_told_again_only_after_a_calm_time_or_a_run_of_successes() {
        let (mut news, mut now) = (News::default(), Instant::now());
        let mut told_after = |successes: u32, pause: Duration| {
            (0..successes).for_each(|_| news.succeeded(now));
            now += pause;
            news.failed(now);
            news.alarm(5);
            news.take().len()
        };
        assert_eq!(told_after(0, SECOND), 1);
        assert_eq!(told_after(1, SECOND), 0);
        assert_eq!(told_after(0, CALM * 100), 0, "silence without a success is no calm");
        assert_eq!(told_after(1, CALM), 1);
        assert_eq!(told_after(CALM_SUCCESSES - 1, SECOND), 0);
        assert_eq!(told_after(CALM_SUCCESSES, SECOND), 1);
    }

    #[test]
    fn what_flaps_for_a_day_is_a_few_lines() {
        let (mut news, start) = (News::default(), Instant::now());
        let mut told = 0;
        for second in 0..86_400 {
            let now = start + SECOND * second;
            news.failed(now);
            news.alarm(5);
            let cause = if second % 2 == 0 { Cause::Away } else { Cause::Operator };
            news.held(cause, "HTTP status 502", SECOND, now);
            news.succeeded(now);
            told += news.take().len();
        }
        assert!((20..70).contains(&told), "{told}");
    }
}
