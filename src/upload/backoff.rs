//! How long to wait after a failure: exponential, with jitter, never longer than the settings allow.
//!
//! The only file that knows the `backoff` crate.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};

use crate::entropy;

/// Each wait is drawn from this part around its middle, so that gates which failed together do not come back together.
const JITTER: f64 = 0.25;

/// More failures than this do not lengthen the wait: 2^30 of the shortest one is longer than any longest one.
const DOUBLINGS_MAX: u32 = 30;

/// Waits between `retry_initial` and `retry_max`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    initial: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(initial: Duration, max: Duration) -> Self {
        Self { initial: initial.min(max), max }
    }

    /// The longest wait.
    pub(super) fn max(self) -> Duration {
        self.max
    }

    /// The wait after this many failures in a row, at least 1.
    pub(super) fn delay(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
        // The crate draws from both sides of its interval, so the middle must stay below the longest wait.
        let middle = self.initial.saturating_mul(1 << doublings).min(self.max.div_f64(1.0 + JITTER));
        law(middle).next_backoff().unwrap_or(self.max).min(self.max)
    }
}

fn law(middle: Duration) -> ExponentialBackoff {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(middle)
        .with_randomization_factor(if entropy::is_seeded() { 0.0 } else { JITTER })
        .with_max_elapsed_time(None)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_up_to_the_longest() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for (failures, middle_ms) in
            [(0, 1000), (1, 1000), (2, 2000), (3, 4000), (4, 8000), (5, 16_000), (6, 24_000), (u32::MAX, 24_000)]
        {
            for _ in 0..200 {
                let delay_ms = backoff.delay(failures).as_millis();
                let (shortest, longest) = (middle_ms * 3 / 4, (middle_ms * 5 / 4).min(30_000));
                assert!((shortest..=longest).contains(&delay_ms), "{failures} failures: {delay_ms} ms");
            }
        }
    }

    #[test]
    fn gates_that_failed_together_do_not_come_back_together() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        assert!((0..50).any(|_| backoff.delay(9) != backoff.delay(9)));
    }

    #[test]
    fn a_first_wait_above_the_longest_is_the_longest() {
        let backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(30));
        assert!(backoff.delay(1) <= Duration::from_secs(30));
    }
}
