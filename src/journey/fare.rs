//! Prices, in whole fen. Rounding happens here and nowhere else.

use std::fmt;

use super::{Charge, Kind};
use crate::config;

/// An amount of money in fen (1/100 yuan), never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fen(pub i64);

impl Fen {
    /// This amount × `percent` / 100, half a fen rounded up.
    #[must_use]
    pub fn discounted(self, percent: u8) -> Self {
        Self((self.0 * i64::from(percent) + 50) / 100)
    }
}

impl fmt::Display for Fen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fen", self.0)
    }
}

/// What trips cost.
#[derive(Debug, Clone, Copy)]
pub struct Tariff {
    /// `fare.flat_fen`.
    pub flat: Fen,
    /// `fare.discount_percent`, 0 to 100.
    pub discount_percent: u8,
}

impl Tariff {
    /// From the settings.
    #[must_use]
    pub fn new(fare: &config::Fare) -> Self {
        Self { flat: Fen(fare.flat_fen), discount_percent: fare.discount_percent }
    }

    /// The price of a single tap.
    #[must_use]
    pub fn single(&self) -> Charge {
        Charge { kind: Kind::Single, original: self.flat, total: self.flat.discounted(self.discount_percent) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_a_fen_is_rounded_up() {
        assert_eq!(Fen(210).discounted(85), Fen(179));
        assert_eq!(Fen(1).discounted(50), Fen(1));
        assert_eq!(Fen(1).discounted(49), Fen(0));
        assert_eq!(Fen(200).discounted(100), Fen(200));
        assert_eq!(Fen(200).discounted(0), Fen(0));
    }

    proptest! {
        #[test]
        fn a_discount_never_adds_and_is_never_off_by_a_fen(fen in 0_i64..=1_000_000, percent in 0_u8..=100) {
            let total = Fen(fen).discounted(percent).0;
            prop_assert!((0..=fen).contains(&total));
            prop_assert!((total * 100 - fen * i64::from(percent)).abs() <= 50);
        }
    }
}
