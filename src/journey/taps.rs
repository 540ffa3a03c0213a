//! What an entry or an exit makes of the passenger's journey.
//!
//! A journey that has become too old gives the same result before and after the sweep has come to it: an exit or an entry that
//! meets it does first what the sweep would have done.

use super::{Age, Basis, Charge, Fen, Kind, Place, Price, Rules, Standing};
use crate::{
    config::{UnfinishedEntry, UnmatchedExit},
    ride_code::Refusal,
};

/// The journey of the ledger that a tap may have to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastJourney {
    /// Its row.
    pub id: i64,
    /// How far it has come.
    pub progress: Progress,
    /// Since its entry.
    pub age: Age,
    /// Where it began.
    pub station: String,
    /// Whether it began with the code of this tap.
    pub is_same_code: bool,
    /// Whether it has a deduction that is not void.
    pub is_charged: bool,
    /// Whether its entry's turnstile has not answered yet: nobody knows whether it will open.
    pub is_opening: bool,
}

/// How far a journey has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Begun.
    Open,
    /// Given up: too old, or another one has begun.
    Unfinished,
    /// Its exit is recorded in this row, and its passenger has not passed yet.
    Leaving {
        /// The row of the deduction.
        by: i64,
    },
}

/// What becomes of a journey that was open, before the tap itself is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The passenger enters again where he has just entered: nothing is due.
    Replaced,
    /// It will have no exit; this is recorded for it.
    Unfinished(Charge),
    /// Its passenger has left, though nobody saw him pass: the deduction of this row is due.
    Left {
        /// The row of the deduction.
        by: i64,
    },
}

/// What a tap is recorded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A journey begins.
    Journey,
    /// A deduction.
    Charge(Charge),
    /// One more opening for the deduction of this row.
    Again {
        /// The row of the deduction.
        deduction: i64,
    },
}

/// What is recorded for an admitted tap, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// First, of the passenger's journey in the ledger.
    pub ends: Option<Ending>,
    /// Then, for the tap.
    pub record: Record,
}

/// `[fare]`, as far as it concerns missing taps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holes {
    /// `max_journey`, milliseconds.
    pub max_journey_ms: i64,
    /// `reentry_within`, milliseconds.
    pub reentry_within_ms: i64,
    /// `unmatched_exit`.
    pub unmatched_exit: UnmatchedExit,
    /// `unfinished_entry`.
    pub unfinished_entry: UnfinishedEntry,
}

impl Rules {
    /// The deduction of a journey that will have no exit.
    #[must_use]
    pub fn unfinished(&self, is_charged: bool) -> Charge {
        let standing = match self.holes.unfinished_entry {
            _ if is_charged => Standing::AlreadyCharged,
            UnfinishedEntry::Void => Standing::Unfinished,
            UnfinishedEntry::ChargeMax => Standing::Due,
        };
        Charge::of(Kind::UnfinishedEntry, self.tariff.missing_tap(), standing)
    }

    /// Whether a journey is too old to be ended by an exit at its fare. Across boots only synchronized clocks can tell.
    #[must_use]
    pub fn is_overdue(&self, age: Age) -> bool {
        age.is_surely_over(self.holes.max_journey_ms)
    }

    /// Whether a tap on a `both` lane is an exit: it is while there is a journey that an exit can end, late or not.
    pub(super) fn is_exit(&self, journey: Option<&PastJourney>) -> bool {
        journey.is_some_and(|journey| matches!(journey.progress, Progress::Leaving { .. }) || self.can_be_ended_late(journey.age))
    }

    /// An entry that nothing refuses.
    pub(super) fn entry(&self, place: Place<'_>, journey: Option<&PastJourney>) -> Plan {
        let ends = journey.and_then(|journey| match journey.progress {
            // Who is at another gate before the first has answered makes one journey, whichever opens.
            Progress::Open if journey.is_opening || self.is_reentry(place, journey) => Some(Ending::Replaced),
            Progress::Open => Some(self.ending(journey)),
            Progress::Leaving { by } => Some(Ending::Left { by }),
            Progress::Unfinished => None,
        });
        Plan { ends, record: Record::Journey }
    }

    /// Whether an entry means that the one before did not come about.
    fn is_reentry(&self, place: Place<'_>, open: &PastJourney) -> bool {
        let is_recent = !open.age.is_surely_over(self.holes.reentry_within_ms) && !self.is_overdue(open.age);
        open.station == place.station && is_recent
    }

    /// An exit. Only a code that began the journey itself is refused, and an exit without entry where the settings say so.
    pub(super) fn exit(&self, place: Place<'_>, limit: Option<Fen>, journey: Option<&PastJourney>) -> Result<Plan, Refusal> {
        match journey {
            Some(journey) if journey.is_same_code => Err(Refusal::Duplicate),
            Some(PastJourney { progress: Progress::Leaving { by }, .. }) => {
                Ok(Plan { ends: None, record: Record::Again { deduction: *by } })
            }
            Some(journey) if journey.progress == Progress::Open && !self.is_overdue(journey.age) => {
                let price = self.tariff.trip(&journey.station, place.station, journey.age);
                Ok(charge(Kind::Exit, price, standing_of_exit(journey.is_charged, price, limit)))
            }
            Some(journey) if self.can_be_ended_late(journey.age) => Ok(self.late_exit(limit, journey)),
            other => self.unmatched_exit(limit, other),
        }
    }

    fn can_be_ended_late(&self, age: Age) -> bool {
        !age.is_surely_over(self.holes.max_journey_ms.saturating_mul(2).saturating_sub(1))
    }

    fn late_exit(&self, limit: Option<Fen>, journey: &PastJourney) -> Plan {
        let ends = (journey.progress == Progress::Open).then(|| self.ending(journey));
        let is_charged =
            journey.is_charged || matches!(&ends, Some(Ending::Unfinished(charge)) if charge.standing == Standing::Due);
        let price = self.tariff.missing_tap();
        Plan { ends, ..charge(Kind::Exit, price, standing_of_exit(is_charged, price, limit)) }
    }

    fn unmatched_exit(&self, limit: Option<Fen>, journey: Option<&PastJourney>) -> Result<Plan, Refusal> {
        let price = self.tariff.missing_tap();
        let standing = match self.holes.unmatched_exit {
            UnmatchedExit::Deny => return Err(Refusal::Unmatched),
            UnmatchedExit::Hold if price.total.0 > 0 => Standing::Unmatched,
            UnmatchedExit::Hold | UnmatchedExit::ChargeMax => standing_of_exit(false, price, limit),
        };
        let too_old = journey.filter(|journey| journey.progress == Progress::Open);
        Ok(Plan { ends: too_old.map(|journey| self.ending(journey)), ..charge(Kind::UnmatchedExit, price, standing) })
    }

    fn ending(&self, journey: &PastJourney) -> Ending {
        Ending::Unfinished(self.unfinished(journey.is_charged))
    }
}

fn charge(kind: Kind, price: Price, standing: Standing) -> Plan {
    Plan { ends: None, record: Record::Charge(Charge::of(kind, price, standing)) }
}

fn standing_of_exit(is_charged: bool, price: Price, limit: Option<Fen>) -> Standing {
    if is_charged {
        Standing::AlreadyCharged
    } else if limit.is_some_and(|limit| limit < price.total) {
        Standing::OverLimit
    } else {
        Standing::Due
    }
}

impl Charge {
    /// One whose trip costs nothing is never due.
    pub(super) fn of(kind: Kind, price: Price, standing: Standing) -> Self {
        let standing = if price.total.0 == 0 && standing == Standing::Due { Standing::Free } else { standing };
        Self { kind, original: price.original, total: price.total, standing, is_unknown_pair: price.basis == Basis::UnknownPair }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journey::tests::{RULES, STATION};

    const HOUR_MS: i64 = 3_600_000;
    const HERE: Place<'static> = Place { mode: crate::config::Mode::Exit, station: STATION };

    fn journey(age_ms: i64, progress: Progress) -> PastJourney {
        let age = Age::ThisBoot { ms: age_ms };
        PastJourney { id: 1, progress, age, station: "S1".to_owned(), is_same_code: false, is_charged: false, is_opening: false }
    }

    fn rules(unmatched_exit: UnmatchedExit, unfinished_entry: UnfinishedEntry) -> Rules {
        let mut rules = RULES.clone();
        (rules.holes.unmatched_exit, rules.holes.unfinished_entry) = (unmatched_exit, unfinished_entry);
        rules
    }

    fn exit_of(rules: &Rules, journey: Option<&PastJourney>) -> (Option<Ending>, Kind, i64, Standing) {
        match rules.exit(HERE, None, journey).unwrap() {
            Plan { ends, record: Record::Charge(charge) } => (ends, charge.kind, charge.total.0, charge.standing),
            other => panic!("{other:?}"),
        }
    }

    const HOLD: UnmatchedExit = UnmatchedExit::Hold;
    const VOID: UnfinishedEntry = UnfinishedEntry::Void;
    const MAX: UnfinishedEntry = UnfinishedEntry::ChargeMax;

    #[test]
    fn an_exit_ends_the_open_journey_at_its_fare() {
        let open = journey(4 * HOUR_MS, Progress::Open);
        assert_eq!(exit_of(&rules(HOLD, VOID), Some(&open)), (None, Kind::Exit, 179, Standing::Due));
    }

    #[test]
    fn a_late_exit_costs_the_same_before_and_after_the_sweep() {
        for age_ms in [4 * HOUR_MS + 1, 8 * HOUR_MS - 1] {
            for (unfinished_entry, standing) in [(VOID, Standing::Due), (MAX, Standing::AlreadyCharged)] {
                let rules = rules(HOLD, unfinished_entry);
                let open = journey(age_ms, Progress::Open);
                let swept = PastJourney { is_charged: unfinished_entry == MAX, ..journey(age_ms, Progress::Unfinished) };
                let before = exit_of(&rules, Some(&open));
                assert_eq!(before, (Some(Ending::Unfinished(rules.unfinished(false))), Kind::Exit, 1_000, standing));
                assert_eq!(exit_of(&rules, Some(&swept)), (None, Kind::Exit, 1_000, standing));
            }
        }
    }

    #[test]
    fn after_twice_the_longest_journey_an_exit_has_no_entry() {
        let open = journey(8 * HOUR_MS, Progress::Open);
        let rules = rules(HOLD, MAX);
        let ends = Some(Ending::Unfinished(rules.unfinished(false)));
        assert_eq!(exit_of(&rules, Some(&open)), (ends, Kind::UnmatchedExit, 1_000, Standing::Unmatched));
        let swept = journey(8 * HOUR_MS, Progress::Unfinished);
        assert_eq!(exit_of(&rules, Some(&swept)), (None, Kind::UnmatchedExit, 1_000, Standing::Unmatched));
    }

    #[test]
    fn an_exit_without_entry_is_what_the_settings_say() {
        assert_eq!(exit_of(&rules(HOLD, VOID), None), (None, Kind::UnmatchedExit, 1_000, Standing::Unmatched));
        let charging = rules(UnmatchedExit::ChargeMax, VOID);
        assert_eq!(exit_of(&charging, None), (None, Kind::UnmatchedExit, 1_000, Standing::Due));
        assert_eq!(rules(UnmatchedExit::Deny, VOID).exit(HERE, None, None), Err(Refusal::Unmatched));
    }

    #[test]
    fn a_code_does_not_end_the_journey_that_it_began() {
        let own = PastJourney { is_same_code: true, ..journey(0, Progress::Open) };
        assert_eq!(rules(HOLD, VOID).exit(HERE, None, Some(&own)), Err(Refusal::Duplicate));
    }

    #[test]
    fn an_exit_above_the_limit_of_its_code_opens_and_waits_for_a_person() {
        let open = journey(0, Progress::Open);
        let standing = |limit| match rules(HOLD, VOID).exit(HERE, Some(Fen(limit)), Some(&open)).unwrap().record {
            Record::Charge(charge) => charge.standing,
            other => panic!("{other:?}"),
        };
        assert_eq!((standing(178), standing(179)), (Standing::OverLimit, Standing::Due));
    }

    #[test]
    fn a_second_entry_replaces_the_first_only_at_its_station_and_soon() {
        let rules = rules(HOLD, MAX);
        let entry = |station, age_ms| {
            let place = Place { mode: crate::config::Mode::Entry, station };
            rules.entry(place, Some(&journey(age_ms, Progress::Open))).ends
        };
        assert_eq!(entry("S1", 900_000), Some(Ending::Replaced));
        let unfinished = Some(Ending::Unfinished(rules.unfinished(false)));
        assert_eq!((entry("S1", 900_001), entry("S2", 1)), (unfinished, unfinished));
        let place = Place { mode: crate::config::Mode::Entry, station: "S1" };
        assert_eq!(rules.entry(place, Some(&journey(1, Progress::Unfinished))).ends, None);
    }

    #[test]
    fn an_entry_before_the_first_has_opened_costs_nothing() {
        let opening = PastJourney { is_opening: true, ..journey(1, Progress::Open) };
        let place = Place { mode: crate::config::Mode::Entry, station: "S2" };
        assert_eq!(rules(HOLD, MAX).entry(place, Some(&opening)).ends, Some(Ending::Replaced));
    }

    #[test]
    fn an_entry_after_the_longest_journey_replaces_nothing_before_the_sweep_either() {
        let mut rules = rules(HOLD, MAX);
        rules.holes.reentry_within_ms = 9 * HOUR_MS;
        let place = Place { mode: crate::config::Mode::Entry, station: "S1" };
        let ends = rules.entry(place, Some(&journey(4 * HOUR_MS + 1, Progress::Open))).ends;
        assert_eq!(ends, Some(Ending::Unfinished(rules.unfinished(false))));
    }

    #[test]
    fn who_has_not_passed_his_exit_yet_is_let_out_once_more_for_the_same_deduction() {
        let leaving = journey(9 * HOUR_MS, Progress::Leaving { by: 7 });
        let plan = rules(UnmatchedExit::Deny, MAX).exit(HERE, Some(Fen(0)), Some(&leaving));
        assert_eq!(plan, Ok(Plan { ends: None, record: Record::Again { deduction: 7 } }));
        let place = Place { mode: crate::config::Mode::Entry, station: "S1" };
        let entry = rules(HOLD, MAX).entry(place, Some(&leaving));
        assert_eq!(entry, Plan { ends: Some(Ending::Left { by: 7 }), record: Record::Journey });
    }

    #[test]
    fn what_has_been_charged_is_not_charged_again_for_a_missing_tap() {
        assert_eq!(rules(HOLD, MAX).unfinished(true).standing, Standing::AlreadyCharged);
    }
}
