//! Prices, in whole fen. Rounding happens here and nowhere else.

use std::{fmt, sync::Arc};

use super::{Age, whole_ms};
use crate::config::{self, FareTable};

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

/// A fare of its own for leaving where one entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SameStation {
    /// Up to this age of the journey, milliseconds.
    pub within_ms: i64,
    /// Before the discount.
    pub fare: Fen,
}

/// What trips cost.
#[derive(Debug, Clone)]
pub struct Tariff {
    /// `fare.flat_fen`.
    pub flat: Fen,
    /// `fare.max_fen`: a missing tap, and a pair of stations that the table lacks. No discount on it.
    pub max: Fen,
    /// `fare.discount_percent`, 0 to 100.
    pub discount_percent: u8,
    /// `fare.same_station`.
    pub same_station: Option<SameStation>,
    /// `fare.table`.
    pub table: Option<Arc<FareTable>>,
}

/// What one trip costs, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Before the discount.
    pub original: Fen,
    /// After it.
    pub total: Fen,
    /// Where the fare comes from.
    pub basis: Basis,
}

/// Where a fare comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// `fare.flat_fen`.
    Flat,
    /// The table, this line of it.
    Table {
        /// Counted from 1.
        line: u32,
    },
    /// The table lacks the pair: `fare.max_fen`.
    UnknownPair,
    /// `fare.same_station`.
    SameStation,
    /// A missing tap: `fare.max_fen`.
    MissingTap,
}

impl Tariff {
    /// From the settings, and the table that they name.
    #[must_use]
    pub fn new(fare: &config::Fare, table: Option<Arc<FareTable>>) -> Self {
        let same_station = fare.same_station.map(|same| SameStation { within_ms: whole_ms(same.within), fare: Fen(same.fen) });
        Self {
            flat: Fen(fare.flat_fen),
            // Required where there are journeys.
            max: Fen(fare.max_fen.unwrap_or(fare.flat_fen)),
            discount_percent: fare.discount_percent,
            same_station,
            table,
        }
    }

    /// The price of a single tap.
    #[must_use]
    pub fn single(&self) -> Price {
        self.discounted(self.flat, Basis::Flat)
    }

    /// The price of a journey of this age between two stations.
    #[must_use]
    pub fn trip(&self, from: &str, to: &str, age: Age) -> Price {
        match (&self.same_station, &self.table) {
            (Some(same), _) if from == to && !age.is_surely_over(same.within_ms) => self.discounted(same.fare, Basis::SameStation),
            (_, None) => self.discounted(self.flat, Basis::Flat),
            (_, Some(table)) => match table.fare(from, to) {
                Some(fare) => self.discounted(Fen(fare.fen), Basis::Table { line: fare.line }),
                None => self.most(Basis::UnknownPair),
            },
        }
    }

    /// What a missing tap costs.
    #[must_use]
    pub fn missing_tap(&self) -> Price {
        self.most(Basis::MissingTap)
    }

    fn most(&self, basis: Basis) -> Price {
        Price { original: self.max, total: self.max, basis }
    }

    fn discounted(&self, original: Fen, basis: Basis) -> Price {
        Price { original, total: original.discounted(self.discount_percent), basis }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tariff(table: Option<&str>) -> Tariff {
        Tariff {
            flat: Fen(210),
            max: Fen(1_000),
            discount_percent: 85,
            same_station: Some(SameStation { within_ms: 900_000, fare: Fen(100) }),
            table: table.map(|text| Arc::new(FareTable::parse(text, "fares.csv".as_ref()).unwrap())),
        }
    }

    const YOUNG: Age = Age::ThisBoot { ms: 900_000 };
    const OLD: Age = Age::ThisBoot { ms: 900_001 };

    fn price(original: i64, total: i64, basis: Basis) -> Price {
        Price { original: Fen(original), total: Fen(total), basis }
    }

    #[test]
    fn without_a_table_every_pair_costs_the_flat_fare() {
        assert_eq!(tariff(None).trip("S1", "S2", YOUNG), price(210, 179, Basis::Flat));
        assert_eq!(tariff(None).single(), price(210, 179, Basis::Flat));
    }

    #[test]
    fn a_pair_costs_what_the_table_says_in_either_direction_and_one_that_it_lacks_the_most() {
        let tariff = tariff(Some("S1,S2,300\nS1,S1,50\n"));
        assert_eq!(tariff.trip("S2", "S1", YOUNG), price(300, 255, Basis::Table { line: 1 }));
        assert_eq!(tariff.trip("S1", "S3", YOUNG), price(1_000, 1_000, Basis::UnknownPair));
        assert_eq!(tariff.single(), price(210, 179, Basis::Flat));
    }

    #[test]
    fn leaving_where_one_entered_has_its_own_fare_for_a_while() {
        let tariff = tariff(Some("S1,S1,50\n"));
        assert_eq!(tariff.trip("S1", "S1", YOUNG), price(100, 85, Basis::SameStation));
        assert_eq!(tariff.trip("S1", "S1", OLD), price(50, 43, Basis::Table { line: 1 }));
        assert_eq!(tariff.trip("S2", "S2", OLD), price(1_000, 1_000, Basis::UnknownPair));
    }

    #[test]
    fn a_missing_tap_has_no_discount() {
        assert_eq!(tariff(None).missing_tap(), price(1_000, 1_000, Basis::MissingTap));
    }

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
