//! When a level of an input counts: after it has lasted. Pure: it is handed the levels and when they came.
//!
//! - A level that lasted long enough counts, also when its end is heard of together with its beginning; one that did not, never.
//! - Some time after each change the level has to be looked at, so that a change that was not told is found.

use std::time::{Duration, Instant};

/// One input. It counts as inactive until something else has lasted.
#[derive(Debug)]
pub(super) struct Debouncer {
    /// How long a level must last.
    lasting: Duration,
    /// What counts.
    settled: bool,
    /// What was last heard.
    level: bool,
    /// Since when it is so.
    since: Instant,
    /// Whether it has yet to be looked at.
    unsure: bool,
}

impl Debouncer {
    pub(super) fn new(lasting: Duration, now: Instant) -> Self {
        Self { lasting, settled: false, level: false, since: now, unsure: true }
    }

    /// The line changed to this level at `at`. Told twice in a row, a change back in between was missed: its time begins anew.
    /// Answers with the level before, when that begins to count only now.
    pub(super) fn change(&mut self, level: bool, at: Instant) -> Option<bool> {
        let at = at.max(self.since);
        let counts = self.settle(at);
        (self.level, self.since, self.unsure) = (level, at, true);
        counts
    }

    /// When the line has to be looked at, if nothing else happens before.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.unsure.then(|| self.since + self.lasting)
    }

    /// The line was looked at: answers with its level when that begins to count.
    pub(super) fn look(&mut self, level: bool, now: Instant) -> Option<bool> {
        if level != self.level {
            return self.change(level, now);
        }
        self.unsure &= now < self.since + self.lasting;
        self.settle(now)
    }

    fn settle(&mut self, now: Instant) -> Option<bool> {
        let counts = self.level != self.settled && now >= self.since + self.lasting;
        counts.then(|| {
            self.settled = self.level;
            self.level
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LASTING_MS: u64 = 20;

    struct Bench {
        debouncer: Debouncer,
        start: Instant,
        counted: Vec<bool>,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            Self { debouncer: Debouncer::new(Duration::from_millis(LASTING_MS), start), start, counted: Vec::new() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn change(&mut self, level: bool, ms: u64) {
            let counts = self.debouncer.change(level, self.at(ms));
            self.counted.extend(counts);
        }

        fn look(&mut self, level: bool, ms: u64) {
            let counts = self.debouncer.look(level, self.at(ms));
            self.counted.extend(counts);
        }

        /// Looks whenever that is due until `ms`; the line has had this level all the time.
        fn wait(&mut self, level: bool, ms: u64) {
            while let Some(due) = self.debouncer.look_at().filter(|due| *due <= self.at(ms)) {
                self.counted.extend(self.debouncer.look(level, due));
            }
        }
    }

    #[test]
    fn a_level_counts_when_it_has_lasted_and_not_before() {
        let mut bench = Bench::new();
        bench.change(true, 100);
        bench.look(true, 119);
        assert!(bench.counted.is_empty());
        bench.look(true, 120);
        bench.wait(true, 1000);
        assert_eq!(bench.counted, [true]);
        assert_eq!(bench.debouncer.look_at(), None);
    }

    #[test]
    fn a_contact_that_bounces_counts_once() {
        let mut bench = Bench::new();
        for (index, ms) in [100, 101, 103, 104, 110, 111, 115].into_iter().enumerate() {
            bench.change(index % 2 == 0, ms);
        }
        bench.wait(true, 134);
        assert!(bench.counted.is_empty());
        bench.wait(true, 1000);
        assert_eq!(bench.counted, [true]);
    }

    #[test]
    fn a_disturbance_never_counts() {
        let mut bench = Bench::new();
        bench.change(true, 100);
        bench.change(false, 119);
        bench.wait(false, 1000);
        assert!(bench.counted.is_empty());
    }

    #[test]
    fn what_lasted_counts_even_when_its_end_is_heard_of_first() {
        let mut bench = Bench::new();
        bench.change(true, 100);
        bench.change(false, 150);
        bench.wait(false, 1000);
        assert_eq!(bench.counted, [true, false]);
    }

    #[test]
    fn a_line_that_is_active_from_the_start_is_found() {
        let mut bench = Bench::new();
        bench.look(true, 0);
        bench.wait(true, 1000);
        assert_eq!(bench.counted, [true]);
    }

    #[test]
    fn a_change_that_was_never_told_is_found_by_looking() {
        let mut bench = Bench::new();
        bench.change(true, 100);
        bench.wait(true, 1000);
        bench.change(true, 2000);
        bench.wait(false, 3000);
        assert_eq!(bench.counted, [true, false]);
    }

    #[test]
    fn the_same_level_told_twice_begins_its_time_anew() {
        let mut bench = Bench::new();
        bench.change(true, 100);
        bench.change(true, 110);
        bench.look(true, 129);
        assert!(bench.counted.is_empty());
        bench.look(true, 130);
        assert_eq!(bench.counted, [true]);
    }

    #[test]
    fn a_clock_that_goes_back_stops_nothing() {
        let mut bench = Bench::new();
        bench.change(true, 500);
        bench.change(false, 100);
        bench.change(true, 200);
        bench.wait(true, 1000);
        assert_eq!(bench.counted, [true]);
    }

    /// Levels by turns, beginning with active, and how long each lasts.
    fn levels() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(prop_oneof![1..LASTING_MS, LASTING_MS..200], 0..30)
    }

    /// What ought to count of them, the last one lasting for ever.
    fn expected(lengths_ms: &[u64]) -> Vec<bool> {
        let last = lengths_ms.len().wrapping_sub(1);
        let lasted = |index: usize| index == last || lengths_ms[index] >= LASTING_MS;
        let mut counted: Vec<_> = (0..lengths_ms.len()).filter(|index| lasted(*index)).map(|index| index % 2 == 0).collect();
        counted.dedup();
        counted.drain(..usize::from(counted.first() == Some(&false)));
        counted
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn exactly_what_lasted_counts_however_late_it_is_heard_of(lengths_ms in levels(), prompt in any::<bool>()) {
            let mut bench = Bench::new();
            let mut at_ms = 1000;
            for (index, length_ms) in lengths_ms.iter().enumerate() {
                let level = index % 2 == 0;
                bench.change(level, at_ms);
                at_ms += length_ms;
                if prompt {
                    bench.wait(level, at_ms - 1);
                }
            }
            bench.wait(lengths_ms.len() % 2 == 1, 1_000_000);
            prop_assert_eq!(&bench.counted, &expected(&lengths_ms));
            prop_assert_eq!(bench.debouncer.look_at(), None);
        }

        #[test]
        fn whatever_is_lost_the_level_in_the_end_counts(
            told in prop::collection::vec((any::<bool>(), 1..100_u64), 1..30),
            level in any::<bool>(),
        ) {
            let mut bench = Bench::new();
            let mut at_ms = 0;
            for (level, after_ms) in told {
                at_ms += after_ms;
                bench.change(level, at_ms);
            }
            bench.wait(level, 1_000_000);
            prop_assert_eq!(bench.counted.last().copied().unwrap_or(false), level);
            prop_assert!(bench.counted.windows(2).all(|pair| pair[0] != pair[1]), "a change that is none");
        }
    }
}
