//! Blocks after an admission: one code passes once, one passenger not twice within seconds.

use super::{Exposed, PastJourney, whole_ms};
use crate::{config, ride_code::Refusal};

/// How long ago something was, as well as the machine can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Measured since the machine was started: exact, never negative.
    ThisBoot {
        /// Milliseconds.
        ms: i64,
    },
    /// From before this boot.
    OtherBoot {
        /// The difference of two real-time clocks, milliseconds; negative when the clock went back.
        ms: i64,
        /// Whether the clock was synchronized both times; if not, the difference says nothing.
        is_reliable: bool,
        /// It is older than this boot, milliseconds: that much is sure.
        at_least_ms: i64,
        /// Whether the clock is synchronized now: nothing is charged or parked by an age before that.
        is_settled: bool,
    },
}

/// An earlier admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// How long ago it was.
    pub age: Age,
}

/// What the ledger holds of a tap's code and passenger.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The latest admission of the same code, on any lane.
    pub same_code: Option<Past>,
    /// That admission was on this lane, and the lane has admitted no other code since.
    pub is_latest_of_lane: bool,
    /// The latest admission of the same passenger, on any lane.
    pub same_passenger: Option<Past>,
    /// The passenger is on the deny-list, or has an unpaid deduction where that denies.
    pub is_denied: bool,
    /// What is not yet accepted, where that is limited.
    pub exposed: Option<Exposed>,
    /// The passenger's latest journey that was not taken back, if it has not been ended by an exit or by another entry in its
    /// place. Looked up for entries and exits only.
    pub journey: Option<PastJourney>,
}

/// How long an admission blocks.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// `gate.duplicate_window`, milliseconds.
    pub duplicate_ms: i64,
    /// `gate.passenger_interval`, milliseconds.
    pub passenger_interval_ms: i64,
}

/// What the windows say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    Free,
    Repeat,
    Blocked(Refusal),
}

impl Windows {
    /// From the settings.
    #[must_use]
    pub fn new(gate: &config::Gate) -> Self {
        Self { duplicate_ms: whole_ms(gate.duplicate_window), passenger_interval_ms: whole_ms(gate.passenger_interval) }
    }

    /// The longer of the two: an admission older than this blocks nothing.
    #[must_use]
    pub fn longest_ms(&self) -> i64 {
        self.duplicate_ms.max(self.passenger_interval_ms)
    }

    pub(super) fn judge(&self, history: &History) -> Judgement {
        let same_code_within = |ms| history.same_code.is_some_and(|past| past.age.is_within(ms));
        if history.is_latest_of_lane && same_code_within(self.passenger_interval_ms) {
            Judgement::Repeat
        } else if same_code_within(self.duplicate_ms) {
            Judgement::Blocked(Refusal::Duplicate)
        } else if history.same_passenger.is_some_and(|past| past.age.is_forward_within(self.passenger_interval_ms)) {
            Judgement::Blocked(Refusal::TooSoon)
        } else {
            Judgement::Free
        }
    }
}

impl Age {
    /// Whether this may be less than `limit_ms` ago. A code that may have been used is better refused, for its owner's phone makes
    /// a new one.
    fn is_within(self, limit_ms: i64) -> bool {
        match self {
            Self::ThisBoot { ms } => ms < limit_ms,
            Self::OtherBoot { ms, is_reliable, at_least_ms, .. } => {
                at_least_ms < limit_ms && (!is_reliable || ms.saturating_abs() < limit_ms)
            }
        }
    }

    /// How long ago it was, as far as that is sure, milliseconds; never negative.
    #[must_use]
    pub fn known_ms(self) -> i64 {
        match self {
            Self::ThisBoot { ms } | Self::OtherBoot { ms, is_reliable: true, .. } => ms.max(0),
            Self::OtherBoot { at_least_ms, .. } => at_least_ms.max(0),
        }
    }

    /// Whether the machine's clocks can tell it.
    #[must_use]
    pub fn is_sure(self) -> bool {
        matches!(self, Self::ThisBoot { .. } | Self::OtherBoot { is_reliable: true, .. })
    }

    /// Whether this is surely more than `limit_ms` ago. Across boots only two synchronized clocks, or the time since this boot, can tell,
    /// and only while the clock is synchronized: nothing is decided by an age that a clock's jump from 1970 to now has made.
    #[must_use]
    pub fn is_surely_over(self, limit_ms: i64) -> bool {
        match self {
            Self::ThisBoot { ms } => ms > limit_ms,
            Self::OtherBoot { ms, is_reliable, at_least_ms, is_settled } => {
                is_settled && (at_least_ms > limit_ms || (is_reliable && ms > limit_ms))
            }
        }
    }

    /// Whether this is surely less than `limit_ms` ago. A passenger cannot make a new self: a clock that went back must not
    /// lock anybody out.
    fn is_forward_within(self, limit_ms: i64) -> bool {
        match self {
            Self::ThisBoot { ms } => ms < limit_ms,
            Self::OtherBoot { ms, is_reliable, at_least_ms, .. } => {
                is_reliable && at_least_ms < limit_ms && (0..limit_ms).contains(&ms)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows { duplicate_ms: 300_000, passenger_interval_ms: 5_000 };

    fn code_seen(age: Age, is_latest_of_lane: bool) -> Judgement {
        WINDOWS.judge(&History {
            same_code: Some(Past { age }),
            is_latest_of_lane,
            same_passenger: Some(Past { age }),
            ..History::default()
        })
    }

    fn other_boot(ms: i64) -> Age {
        Age::OtherBoot { ms, is_reliable: true, at_least_ms: 0, is_settled: true }
    }

    fn passenger_seen(age: Age) -> Judgement {
        WINDOWS.judge(&History { same_passenger: Some(Past { age }), ..History::default() })
    }

    #[test]
    fn a_code_passes_once_within_its_window() {
        assert_eq!(code_seen(Age::ThisBoot { ms: 299_999 }, false), Judgement::Blocked(Refusal::Duplicate));
        assert_eq!(code_seen(Age::ThisBoot { ms: 300_000 }, false), Judgement::Free);
        assert_eq!(code_seen(other_boot(299_999), false), Judgement::Blocked(Refusal::Duplicate));
        assert_eq!(code_seen(other_boot(300_000), false), Judgement::Free);
    }

    #[test]
    fn a_reader_that_repeats_itself_is_ignored_only_briefly_and_only_on_its_lane() {
        assert_eq!(code_seen(Age::ThisBoot { ms: 4_999 }, true), Judgement::Repeat);
        assert_eq!(code_seen(Age::ThisBoot { ms: 5_000 }, true), Judgement::Blocked(Refusal::Duplicate));
        assert_eq!(code_seen(Age::ThisBoot { ms: 10 }, false), Judgement::Blocked(Refusal::Duplicate));
    }

    #[test]
    fn a_passenger_with_a_new_code_waits_for_the_interval() {
        assert_eq!(passenger_seen(Age::ThisBoot { ms: 4_999 }), Judgement::Blocked(Refusal::TooSoon));
        assert_eq!(passenger_seen(Age::ThisBoot { ms: 5_000 }), Judgement::Free);
    }

    #[test]
    fn a_clock_that_went_back_neither_frees_a_used_code_nor_locks_a_passenger_out() {
        assert_eq!(code_seen(other_boot(-1_000), false), Judgement::Blocked(Refusal::Duplicate));
        assert_eq!(code_seen(other_boot(-300_000), false), Judgement::Free);
        assert_eq!(passenger_seen(other_boot(-1_000)), Judgement::Free);
    }

    #[test]
    fn an_age_decides_only_when_it_is_sure() {
        assert!(Age::ThisBoot { ms: 1_001 }.is_surely_over(1_000) && !Age::ThisBoot { ms: 1_000 }.is_surely_over(1_000));
        assert!(other_boot(1_001).is_surely_over(1_000) && !other_boot(1_000).is_surely_over(1_000));
        let jumped = |is_settled| Age::OtherBoot { ms: 50 * 365 * 86_400_000, is_reliable: false, at_least_ms: 5_000, is_settled };
        assert!(!jumped(true).is_surely_over(5_000) && !jumped(false).is_surely_over(1_000));
        assert!(jumped(true).is_surely_over(4_999), "it is older than this boot");
    }

    #[test]
    fn a_clock_that_cannot_be_relied_on_frees_no_used_code_until_the_machine_has_run_for_the_window() {
        let seen = |at_least_ms| Age::OtherBoot { ms: 50 * 365 * 86_400_000, is_reliable: false, at_least_ms, is_settled: false };
        assert_eq!(code_seen(seen(299_999), false), Judgement::Blocked(Refusal::Duplicate));
        assert_eq!(code_seen(seen(300_000), false), Judgement::Free);
        assert_eq!(passenger_seen(seen(0)), Judgement::Free);
    }
}
