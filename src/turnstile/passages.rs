//! Who passed: brings the edges of a lane's passage sensor together with its openings. Pure: it is handed the time and what happened.
//!
//! - Passages settle openings oldest first. An opening is waited for from its own edge on, for `timeout`.
//! - A second passage in one opening is a tailgate, one with no opening an intrusion. While the fire alarm is on neither is told:
//!   everybody shall get out.
//! - After [`UNPASSED_MAX`] openings in a row without a passage the sensor is doubted, until it tells of one.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// So many openings in a row without a passage: the sensor is doubted.
pub const UNPASSED_MAX: u32 = 10;

/// What is found out. `R`: what an opening was recorded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding<R> {
    /// Somebody passed this opening.
    Passed(R),
    /// Nobody passed this opening in time.
    NotPassed(R, Sensor),
    /// Somebody passed in an opening that somebody else had passed already.
    Tailgate,
    /// Somebody passed without an opening.
    Intrusion,
    /// From now on the sensor is doubted.
    Doubted,
    /// From now on it is trusted again.
    Trusted,
}

/// Whether the sensor's silence means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sensor {
    /// It does.
    Trusted,
    /// It has been silent for too long.
    Doubted,
}

/// One lane's openings that wait for a passage.
#[derive(Debug)]
pub struct Passages<R> {
    timeout: Duration,
    waiting: VecDeque<Opening<R>>,
    /// Until when a further passage belongs to an opening that was passed already.
    passed_until: Option<Instant>,
    unpassed_in_a_row: u32,
    is_alarm_on: bool,
}

#[derive(Debug)]
struct Opening<R> {
    /// `None`: opened by a button, nothing depends on it.
    record: Option<R>,
    until: Instant,
}

impl<R> Passages<R> {
    /// `timeout`: how long after its edge an opening is waited for.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, waiting: VecDeque::new(), passed_until: None, unpassed_in_a_row: 0, is_alarm_on: false }
    }

    /// The turnstile opened at `at`, for a record or for a button.
    pub fn opened(&mut self, record: Option<R>, at: Instant) {
        self.waiting.push_back(Opening { record, until: at + self.timeout });
    }

    /// The fire alarm began or ended.
    pub fn fire_alarm(&mut self, is_on: bool) {
        self.is_alarm_on = is_on;
    }

    /// Somebody begins to pass.
    pub fn passed(&mut self, at: Instant) -> Vec<Finding<R>> {
        let mut findings = self.elapse(at);
        if self.is_doubted() {
            findings.push(Finding::Trusted);
        }
        self.unpassed_in_a_row = 0;
        findings.extend(match self.waiting.pop_front() {
            Some(opening) => {
                self.passed_until = Some(opening.until);
                opening.record.map(Finding::Passed)
            }
            None if self.is_alarm_on => None,
            None if self.passed_until.is_some_and(|until| at <= until) => Some(Finding::Tailgate),
            None => Some(Finding::Intrusion),
        });
        findings
    }

    /// Time has passed.
    pub fn elapse(&mut self, now: Instant) -> Vec<Finding<R>> {
        let mut findings = Vec::new();
        while self.waiting.front().is_some_and(|opening| opening.until < now) {
            let Some(opening) = self.waiting.pop_front() else { break };
            let sensor = if self.is_doubted() { Sensor::Doubted } else { Sensor::Trusted };
            // Whoever pressed the button may have stayed.
            let Some(record) = opening.record else { continue };
            findings.push(Finding::NotPassed(record, sensor));
            self.unpassed_in_a_row = self.unpassed_in_a_row.saturating_add(1);
            if sensor == Sensor::Trusted && self.is_doubted() {
                findings.push(Finding::Doubted);
            }
        }
        findings
    }

    /// When [`Self::elapse`] finds something, if nothing else happens before.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.waiting.front().map(|opening| opening.until + Duration::from_millis(1))
    }

    /// Whether the sensor is doubted.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.unpassed_in_a_row >= UNPASSED_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(8);

    struct Bench {
        passages: Passages<u32>,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { passages: Passages::new(TIMEOUT), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn opened(&mut self, record: u32, ms: u64) {
            let at = self.at(ms);
            self.passages.opened(Some(record), at);
        }

        fn passed(&mut self, ms: u64) -> Vec<Finding<u32>> {
            let at = self.at(ms);
            self.passages.passed(at)
        }

        fn elapse(&mut self, ms: u64) -> Vec<Finding<u32>> {
            let at = self.at(ms);
            self.passages.elapse(at)
        }
    }

    #[test]
    fn passages_settle_openings_oldest_first_and_a_further_one_is_a_tailgate() {
        let mut bench = Bench::new();
        bench.opened(1, 0);
        bench.opened(2, 600);
        assert_eq!(bench.passed(700), [Finding::Passed(1)]);
        assert_eq!(bench.passed(900), [Finding::Passed(2)]);
        assert_eq!(bench.passed(8_600), [Finding::Tailgate]);
        assert_eq!(bench.passed(8_601), [Finding::Intrusion]);
    }

    #[test]
    fn an_opening_is_waited_for_from_its_own_edge_on() {
        let mut bench = Bench::new();
        bench.opened(1, 0);
        bench.opened(2, 600);
        assert_eq!(bench.elapse(8_000), []);
        assert_eq!(bench.elapse(8_001), [Finding::NotPassed(1, Sensor::Trusted)]);
        assert_eq!(bench.passages.next_wakeup(), Some(bench.at(8_601)));
        assert_eq!(bench.passed(8_600), [Finding::Passed(2)]);
        assert_eq!(bench.passages.next_wakeup(), None);
    }

    #[test]
    fn a_passage_that_comes_late_settles_nothing() {
        let mut bench = Bench::new();
        bench.opened(1, 0);
        assert_eq!(bench.passed(8_001), [Finding::NotPassed(1, Sensor::Trusted), Finding::Intrusion]);
    }

    #[test]
    fn who_was_let_out_by_the_button_is_no_intruder_and_pays_for_nobody() {
        let mut bench = Bench::new();
        let at = bench.at(0);
        bench.passages.opened(None, at);
        bench.opened(1, 600);
        assert_eq!(bench.passed(700), []);
        assert_eq!(bench.passed(800), [Finding::Passed(1)]);
    }

    #[test]
    fn after_ten_openings_without_a_passage_the_sensor_is_doubted_until_it_tells_of_one() {
        let mut bench = Bench::new();
        for number in 0..11 {
            bench.opened(number, u64::from(number) * 10_000);
        }
        let found = bench.elapse(200_000);
        let mut wanted: Vec<_> = (0..10).map(|number| Finding::NotPassed(number, Sensor::Trusted)).collect();
        wanted.extend([Finding::Doubted, Finding::NotPassed(10, Sensor::Doubted)]);
        assert_eq!(found, wanted);
        assert!(bench.passages.is_doubted());
        bench.opened(11, 200_000);
        assert_eq!(bench.passed(201_000), [Finding::Trusted, Finding::Passed(11)]);
        bench.opened(12, 300_000);
        assert_eq!(bench.elapse(400_000), [Finding::NotPassed(12, Sensor::Trusted)]);
    }

    #[test]
    fn while_the_fire_alarm_is_on_nobody_is_an_intruder() {
        let mut bench = Bench::new();
        bench.passages.fire_alarm(true);
        assert_eq!(bench.passed(0), []);
        bench.passages.fire_alarm(false);
        assert_eq!(bench.passed(1), [Finding::Intrusion]);
    }

    proptest! {
        #[test]
        fn every_opening_is_settled_exactly_once(steps in prop::collection::vec((0..3_u8, 0..6_000_u64), 0..60)) {
            let mut bench = Bench::new();
            let (mut now_ms, mut records, mut settled) = (0, 0, Vec::new());
            for (what, later_ms) in steps {
                now_ms += later_ms;
                let found = match what {
                    0 => { records += 1; bench.opened(records, now_ms); Vec::new() }
                    1 => bench.passed(now_ms),
                    _ => bench.elapse(now_ms),
                };
                settled.extend(found);
            }
            settled.extend(bench.elapse(now_ms + 8_001));
            let records_settled: Vec<_> = settled.iter().filter_map(|finding| match finding {
                Finding::Passed(record) | Finding::NotPassed(record, _) => Some(*record),
                _ => None,
            }).collect();
            prop_assert_eq!(records_settled, (1..=records).collect::<Vec<_>>());
        }
    }
}
