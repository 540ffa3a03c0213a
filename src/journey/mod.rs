//! What a tap means: whether it is admitted, and what it costs.
//!
//! Pure functions over plain values: no I/O, no clock, no SQL. The ledger calls them inside its write transaction with what it
//! found there, so that a decision and its record are one step and two lanes cannot race.
//!
//! This far the room knows single taps; entries and exits join it as further arms of [`Rules::decide`].

mod admission;
mod exposure;
mod fare;

pub use admission::{Age, History, Past, Windows};
pub use exposure::{Exposed, GateExposed, Limits, Reached};
pub use fare::{Fen, Tariff};

use crate::{
    config::{AtLimit, Settings},
    ride_code::Refusal,
};

/// What kind of deduction a tap leads to; decides which fields its request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One tap, one trip.
    Single,
}

impl Kind {
    /// The word of the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
        }
    }
}

/// What is to be recorded for an admitted tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// What kind of deduction.
    pub kind: Kind,
    /// Before the discount.
    pub original: Fen,
    /// After the discount.
    pub total: Fen,
}

/// What a code says of itself that bears on a decision.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stated {
    /// Refuses entries and single taps, never exits.
    pub entry_refusal: Option<Refusal>,
    /// A fare above this must not be charged with the code.
    pub limit: Option<Fen>,
}

/// What a tap leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Record this, then open.
    Admit(Charge),
    /// The reader repeats the code that it has just read: nothing happens.
    Repeat,
    /// The gate stays closed.
    Refuse(Refusal),
}

/// Everything that a decision depends on beside the tap and its history.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Blocks after an admission.
    pub windows: Windows,
    /// Prices.
    pub tariff: Tariff,
    /// Limits on what is not yet accepted.
    pub exposure: Option<Limits>,
}

impl Rules {
    /// From the settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let exposure = settings.exposure.as_ref().map(Limits::new);
        Self { windows: Windows::new(&settings.gate), tariff: Tariff::new(&settings.fare), exposure }
    }

    /// Judges a tap by what its code says and what the ledger holds of its code and its passenger.
    #[must_use]
    pub fn decide(&self, stated: &Stated, history: &History) -> Decision {
        match self.windows.judge(history) {
            admission::Judgement::Free => self.single(stated, history),
            admission::Judgement::Repeat => Decision::Repeat,
            admission::Judgement::Blocked(refusal) => Decision::Refuse(refusal),
        }
    }

    /// The limit on what is not yet accepted that this decision meets, whether it refuses or only raises an alarm.
    #[must_use]
    pub fn reached(&self, decision: &Decision, history: &History) -> Option<Reached> {
        let is_concerned = matches!(decision, Decision::Admit(_) | Decision::Refuse(Refusal::Exposure));
        if is_concerned { self.exposure?.reached(&history.exposed?, self.tariff.single().total) } else { None }
    }

    fn single(&self, stated: &Stated, history: &History) -> Decision {
        let charge = self.tariff.single();
        match (stated.entry_refusal, stated.limit) {
            (Some(refusal), _) => Decision::Refuse(refusal),
            (None, Some(limit)) if limit < charge.total => Decision::Refuse(Refusal::OverLimit),
            _ if self.is_exposed(charge, history) => Decision::Refuse(Refusal::Exposure),
            _ => Decision::Admit(charge),
        }
    }

    /// Whether the limits refuse this charge.
    fn is_exposed(&self, charge: Charge, history: &History) -> bool {
        match (&self.exposure, &history.exposed) {
            (Some(limits), Some(exposed)) if limits.at_limit == AtLimit::Deny => limits.reached(exposed, charge.total).is_some(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        windows: Windows { duplicate_ms: 300_000, passenger_interval_ms: 5_000 },
        tariff: Tariff { flat: Fen(210), discount_percent: 85 },
        exposure: None,
    };

    fn decide(stated: Stated) -> Decision {
        RULES.decide(&stated, &History::default())
    }

    #[test]
    fn a_tap_without_history_is_admitted_at_the_flat_fare() {
        let charge = Charge { kind: Kind::Single, original: Fen(210), total: Fen(179) };
        assert_eq!(decide(Stated::default()), Decision::Admit(charge));
    }

    #[test]
    fn a_code_whose_limit_is_below_the_fare_is_refused() {
        let limited = |fen| decide(Stated { limit: Some(Fen(fen)), ..Stated::default() });
        assert_eq!(limited(178), Decision::Refuse(Refusal::OverLimit));
        assert!(matches!(limited(179), Decision::Admit(_)));
    }

    #[test]
    fn a_limit_on_exposure_refuses_last_and_an_alarm_refuses_nobody() {
        let gate = GateExposed { total: Fen(0), oldest: None };
        let history = History { exposed: Some(Exposed { passenger_count: 1, passenger: Fen(0), gate }), ..History::default() };
        let limited = |at_limit| Rules {
            exposure: Some(Limits { passenger_count: 1, passenger: Fen(9_999), gate: Fen(9_999), oldest_ms: 1, at_limit }),
            ..RULES
        };
        let (deny, alarm) = (limited(AtLimit::Deny), limited(AtLimit::Alarm));
        let refused = deny.decide(&Stated::default(), &history);
        assert_eq!(refused, Decision::Refuse(Refusal::Exposure));
        assert_eq!(deny.reached(&refused, &history), Some(Reached::Passenger));
        let poor = Stated { limit: Some(Fen(0)), ..Stated::default() };
        assert_eq!(deny.decide(&poor, &history), Decision::Refuse(Refusal::OverLimit));
        assert_eq!(deny.reached(&Decision::Repeat, &history), None);
        let admitted = alarm.decide(&Stated::default(), &history);
        assert!(matches!(admitted, Decision::Admit(_)));
        assert_eq!(alarm.reached(&admitted, &history), Some(Reached::Passenger));
    }

    #[test]
    fn what_the_code_refuses_comes_after_what_its_history_refuses() {
        let stated = Stated { entry_refusal: Some(Refusal::ClockUnsynchronized), limit: Some(Fen(0)) };
        assert_eq!(decide(stated), Decision::Refuse(Refusal::ClockUnsynchronized));
        let history = History { same_passenger: Some(Past { age: Age::ThisBoot { ms: 1 } }), ..History::default() };
        assert_eq!(RULES.decide(&stated, &history), Decision::Refuse(Refusal::TooSoon));
    }
}
