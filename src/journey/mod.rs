//! What a tap means: whether it is admitted, and what it costs.
//!
//! Pure functions over plain values: no I/O, no clock, no SQL. The ledger calls them inside its write transaction with what it
//! found there, so that a decision and its record are one step and two lanes cannot race.
//!
//! This far the room knows single taps; entries and exits join it as further arms of [`Rules::decide`].

mod admission;
mod fare;

pub use admission::{Age, History, Past, Windows};
pub use fare::{Fen, Tariff};

use crate::{config::Settings, ride_code::Refusal};

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
}

impl Rules {
    /// From the settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self { windows: Windows::new(&settings.gate), tariff: Tariff::new(&settings.fare) }
    }

    /// Judges a tap by what the ledger holds of its code and its passenger.
    #[must_use]
    pub fn decide(&self, history: &History) -> Decision {
        match self.windows.judge(history) {
            admission::Judgement::Free => Decision::Admit(self.tariff.single()),
            admission::Judgement::Repeat => Decision::Repeat,
            admission::Judgement::Blocked(refusal) => Decision::Refuse(refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_without_history_is_admitted_at_the_flat_fare() {
        let rules = Rules {
            windows: Windows { duplicate_ms: 300_000, passenger_interval_ms: 5_000 },
            tariff: Tariff { flat: Fen(210), discount_percent: 85 },
        };
        let charge = Charge { kind: Kind::Single, original: Fen(210), total: Fen(179) };
        assert_eq!(rules.decide(&History::default()), Decision::Admit(charge));
    }
}
