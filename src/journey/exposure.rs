//! How much may be recorded but not yet accepted: what is lost if WeChat never takes it.
//!
//! A row counts while it is held, pending or parked. For the age, parked rows do not count: they wait for a person, not for
//! WeChat, and one bad row must not close a gate.

use super::{Age, Fen, whole_ms};
use crate::config::{self, AtLimit};

/// What is recorded but not yet accepted.
#[derive(Debug, Clone, Copy)]
pub struct Exposed {
    /// Rows of the tap's passenger; need not be counted above the limit.
    pub passenger_count: u32,
    /// Sum of these rows.
    pub passenger: Fen,
    /// What the gate as a whole has.
    pub gate: GateExposed,
}

/// What is recorded but not yet accepted, of all passengers.
#[derive(Debug, Clone, Copy)]
pub struct GateExposed {
    /// Sum of all rows.
    pub total: Fen,
    /// Age of the oldest row that is held or pending.
    pub oldest: Option<Age>,
}

/// `[exposure]`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows of one passenger.
    pub passenger_count: u32,
    /// Sum of one passenger's rows.
    pub passenger: Fen,
    /// Sum of all rows.
    pub gate: Fen,
    /// Age of the oldest row, milliseconds.
    pub oldest_ms: i64,
    /// What happens at a limit.
    pub at_limit: AtLimit,
}

/// The limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// One of those for a passenger.
    Passenger,
    /// `gate_fen`.
    GateFen,
    /// `oldest`.
    Oldest,
}

impl Limits {
    /// From the settings.
    #[must_use]
    pub fn new(exposure: &config::Exposure) -> Self {
        Self {
            passenger_count: exposure.passenger_count,
            passenger: Fen(exposure.passenger_fen),
            gate: Fen(exposure.gate_fen),
            oldest_ms: whole_ms(exposure.oldest),
            at_limit: exposure.at_limit,
        }
    }

    /// The limit that one more charge of `total` would pass. A free trip passes none.
    #[must_use]
    pub fn reached(&self, exposed: &Exposed, total: Fen) -> Option<Reached> {
        if total.0 == 0 {
            return None;
        }
        let is_passenger =
            exposed.passenger_count >= self.passenger_count || exposed.passenger.0.saturating_add(total.0) > self.passenger.0;
        if is_passenger { Some(Reached::Passenger) } else { self.reached_by_gate(&exposed.gate, total) }
    }

    /// As [`Self::reached`], whoever the passenger is.
    #[must_use]
    pub fn reached_by_gate(&self, gate: &GateExposed, total: Fen) -> Option<Reached> {
        if gate.total.0.saturating_add(total.0) > self.gate.0 {
            Some(Reached::GateFen)
        } else {
            gate.oldest.is_some_and(|age| age.is_surely_over(self.oldest_ms)).then_some(Reached::Oldest)
        }
    }

    /// Whether an alarm about the gate has ended: nothing is waited for, or it is well below the limits, so that the alarm does not
    /// come and go with each row.
    #[must_use]
    pub fn is_clear(&self, gate: &GateExposed, total: Fen) -> bool {
        if gate.total.0 == 0 {
            return true;
        }
        let slack = Fen(total.0.saturating_add(self.gate.0 / 10));
        self.reached_by_gate(gate, slack).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { passenger_count: 3, passenger: Fen(1_000), gate: Fen(5_000), oldest_ms: 60_000, at_limit: AtLimit::Deny };

    fn exposed(passenger_count: u32, passenger_fen: i64, gate_fen: i64, age_ms: i64) -> Exposed {
        let gate = GateExposed { total: Fen(gate_fen), oldest: Some(Age::ThisBoot { ms: age_ms }) };
        Exposed { passenger_count, passenger: Fen(passenger_fen), gate }
    }

    #[test]
    fn each_limit_holds_to_the_last_fen() {
        let table = [
            (exposed(2, 800, 4_800, 60_000), None),
            (exposed(3, 0, 0, 0), Some(Reached::Passenger)),
            (exposed(0, 801, 0, 0), Some(Reached::Passenger)),
            (exposed(0, 0, 4_801, 0), Some(Reached::GateFen)),
            (exposed(0, 0, 0, 60_001), Some(Reached::Oldest)),
        ];
        for (exposed, wanted) in table {
            assert_eq!(LIMITS.reached(&exposed, Fen(200)), wanted, "{exposed:?}");
            assert_eq!(LIMITS.reached(&exposed, Fen(0)), None, "a free trip");
        }
    }

    #[test]
    fn an_age_that_is_not_sure_reaches_no_limit() {
        let oldest = Some(Age::OtherBoot { ms: i64::MAX, is_reliable: false, at_least_ms: 0, is_settled: false });
        assert_eq!(LIMITS.reached_by_gate(&GateExposed { total: Fen(0), oldest }, Fen(200)), None);
    }

    #[test]
    fn an_alarm_ends_well_below_the_limit() {
        let gate = |fen| GateExposed { total: Fen(fen), oldest: None };
        assert!(!LIMITS.is_clear(&gate(4_800), Fen(200)) && !LIMITS.is_clear(&gate(4_301), Fen(200)));
        assert!(LIMITS.is_clear(&gate(4_300), Fen(200)));
        assert!(LIMITS.is_clear(&gate(0), Fen(9_999)), "a limit below one fare is no alarm for ever");
    }
}
