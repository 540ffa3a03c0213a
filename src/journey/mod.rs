//! What a tap means: whether it is admitted, and what it costs.
//!
//! Pure functions over plain values: no I/O, no clock, no SQL. The ledger calls them inside its write transaction with what it
//! found there, so that a decision and its record are one step and two lanes cannot race.

mod admission;
mod exposure;
mod fare;
mod taps;

use std::{sync::Arc, time::Duration};

pub use admission::{Age, History, Past, Windows};
pub use exposure::{Exposed, GateExposed, Limits, Reached};
pub use fare::{Basis, Fen, Price, SameStation, Tariff};
pub use taps::{Ending, Holes, PastJourney, Plan, Progress, Record};

use crate::{
    config::{AtLimit, FareTable, Mode, Settings},
    ride_code::Refusal,
};

/// What kind of deduction a tap leads to; decides which fields its request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One tap, one trip.
    Single,
    /// A journey from its entry to its exit.
    Exit,
    /// An exit whose entry nobody knows.
    UnmatchedExit,
    /// An entry without an exit.
    UnfinishedEntry,
}

impl Kind {
    /// The word of the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Exit => "exit",
            Self::UnmatchedExit => "unmatched-exit",
            Self::UnfinishedEntry => "unfinished-entry",
        }
    }
}

/// What is to be recorded as a deduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// What kind of deduction.
    pub kind: Kind,
    /// Before the discount.
    pub original: Fen,
    /// After the discount.
    pub total: Fen,
    /// What is to be done about it.
    pub standing: Standing,
    /// Whether the fare table lacks the pair of stations.
    pub is_unknown_pair: bool,
}

/// What is to be done about a deduction, once somebody has passed where that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is sent.
    Due,
    /// Nothing: the trip costs nothing.
    Free,
    /// Nothing: the journey has a deduction already.
    AlreadyCharged,
    /// Nothing: a missing exit is not charged.
    Unfinished,
    /// It waits, then a person decides: nobody knows the entry.
    Unmatched,
    /// A person decides: the code must not be charged so much.
    OverLimit,
}

impl Standing {
    /// The reason of the deduction, where it needs one.
    #[must_use]
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Due => None,
            Self::Free => Some("free"),
            Self::AlreadyCharged => Some("already-charged"),
            Self::Unfinished => Some("unfinished"),
            Self::Unmatched => Some("unmatched"),
            Self::OverLimit => Some("over-limit"),
        }
    }
}

/// Where a tap happens.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// What a tap means there.
    pub mode: Mode,
    /// The lane's station.
    pub station: &'a str,
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
    Admit(Plan),
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
    /// Missing taps.
    pub holes: Holes,
    /// Limits on what is not yet accepted.
    pub exposure: Option<Limits>,
}

impl Rules {
    /// From the settings, and the fare table that they name.
    #[must_use]
    pub fn new(settings: &Settings, table: Option<Arc<FareTable>>) -> Self {
        let fare = &settings.fare;
        Self {
            windows: Windows::new(&settings.gate),
            tariff: Tariff::new(fare, table),
            holes: Holes {
                max_journey_ms: whole_ms(fare.max_journey),
                reentry_within_ms: whole_ms(fare.reentry_within),
                unmatched_exit: fare.unmatched_exit,
                unfinished_entry: fare.unfinished_entry,
            },
            exposure: settings.exposure.as_ref().map(Limits::new),
        }
    }

    /// Judges a tap by what its code says and what the ledger holds of its code and its passenger.
    #[must_use]
    pub fn decide(&self, place: Place<'_>, stated: &Stated, history: &History) -> Decision {
        match self.windows.judge(history) {
            admission::Judgement::Free => self.plan(place, stated, history).map_or_else(Decision::Refuse, Decision::Admit),
            admission::Judgement::Repeat => Decision::Repeat,
            admission::Judgement::Blocked(refusal) => Decision::Refuse(refusal),
        }
    }

    /// The limit on what is not yet accepted that this decision meets, whether it refuses or only raises an alarm.
    #[must_use]
    pub fn reached(&self, place: Place<'_>, decision: &Decision, history: &History) -> Option<Reached> {
        let stake = match decision {
            Decision::Admit(Plan { record: Record::Charge(charge), .. }) => charge.total,
            Decision::Admit(Plan { record: Record::Again { .. }, .. }) => return None,
            Decision::Admit(_) => self.stake(Mode::Entry),
            Decision::Refuse(Refusal::Exposure) => self.stake(place.mode),
            _ => return None,
        };
        self.exposure?.reached(&history.exposed?, stake)
    }

    fn plan(&self, place: Place<'_>, stated: &Stated, history: &History) -> Result<Plan, Refusal> {
        let journey = history.journey.as_ref();
        match place.mode {
            Mode::Single => {
                self.check_entry(place.mode, stated, history)?;
                let charge = Charge::of(Kind::Single, self.tariff.single(), Standing::Due);
                Ok(Plan { ends: None, record: Record::Charge(charge) })
            }
            Mode::Exit => self.exit(place, stated.limit, journey),
            Mode::Both if self.is_exit(journey) => self.exit(place, stated.limit, journey),
            Mode::Entry | Mode::Both => {
                self.check_entry(place.mode, stated, history)?;
                Ok(self.entry(place, journey))
            }
        }
    }

    /// What refuses entries and single taps, never exits: the first that applies.
    fn check_entry(&self, mode: Mode, stated: &Stated, history: &History) -> Result<(), Refusal> {
        let stake = self.stake(mode);
        match (stated.entry_refusal, stated.limit) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(limit)) if limit < stake => Err(Refusal::OverLimit),
            _ if history.is_denied => Err(Refusal::DeniedPassenger),
            _ if self.is_exposed(stake, history) => Err(Refusal::Exposure),
            _ => Ok(()),
        }
    }

    /// What a tap may come to cost.
    fn stake(&self, mode: Mode) -> Fen {
        if mode == Mode::Single { self.tariff.single().total } else { self.tariff.max }
    }

    /// Whether the limits refuse this much more.
    fn is_exposed(&self, stake: Fen, history: &History) -> bool {
        match (&self.exposure, &history.exposed) {
            (Some(limits), Some(exposed)) if limits.at_limit == AtLimit::Deny => limits.reached(exposed, stake).is_some(),
            _ => false,
        }
    }
}

fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{UnfinishedEntry, UnmatchedExit};

    pub(super) const STATION: &str = "S2";

    pub(super) const RULES: Rules = Rules {
        windows: Windows { duplicate_ms: 300_000, passenger_interval_ms: 5_000 },
        tariff: Tariff { flat: Fen(210), max: Fen(1_000), discount_percent: 85, same_station: None, table: None },
        holes: Holes {
            max_journey_ms: 4 * 3_600_000,
            reentry_within_ms: 900_000,
            unmatched_exit: UnmatchedExit::Hold,
            unfinished_entry: UnfinishedEntry::Void,
        },
        exposure: None,
    };

    const fn on(mode: Mode) -> Place<'static> {
        Place { mode, station: STATION }
    }

    const SINGLE: Place<'static> = on(Mode::Single);

    fn decide(stated: Stated) -> Decision {
        RULES.decide(SINGLE, &stated, &History::default())
    }

    fn with_journey(age_ms: i64) -> History {
        let journey = PastJourney {
            id: 1,
            progress: Progress::Open,
            age: Age::ThisBoot { ms: age_ms },
            station: "S1".to_owned(),
            is_same_code: false,
            is_charged: false,
            is_opening: false,
        };
        History { journey: Some(journey), ..History::default() }
    }

    fn kind(decision: &Decision) -> Option<Kind> {
        match decision {
            Decision::Admit(Plan { record: Record::Charge(charge), .. }) => Some(charge.kind),
            _ => None,
        }
    }

    #[test]
    fn a_tap_without_history_is_admitted_at_the_flat_fare() {
        let charge =
            Charge { kind: Kind::Single, original: Fen(210), total: Fen(179), standing: Standing::Due, is_unknown_pair: false };
        let plan = Plan { ends: None, record: Record::Charge(charge) };
        assert_eq!(decide(Stated::default()), Decision::Admit(plan));
    }

    #[test]
    fn what_costs_nothing_is_not_due() {
        let mut rules = RULES;
        rules.tariff.discount_percent = 0;
        let Decision::Admit(Plan { record: Record::Charge(charge), .. }) =
            rules.decide(SINGLE, &Stated::default(), &History::default())
        else {
            panic!()
        };
        assert_eq!((charge.total, charge.standing), (Fen(0), Standing::Free));
    }

    #[test]
    fn on_a_lane_for_both_the_first_tap_enters_and_the_next_leaves() {
        let both = on(Mode::Both);
        let first = RULES.decide(both, &Stated::default(), &History::default());
        assert_eq!(first, Decision::Admit(Plan { ends: None, record: Record::Journey }));
        let next = RULES.decide(both, &Stated::default(), &with_journey(60_000));
        assert_eq!(kind(&next), Some(Kind::Exit));
        let late = RULES.decide(both, &Stated::default(), &with_journey(8 * 3_600_000 - 1));
        assert_eq!(kind(&late), Some(Kind::Exit));
        let too_late = RULES.decide(both, &Stated::default(), &with_journey(8 * 3_600_000));
        let ends = Some(Ending::Unfinished(RULES.unfinished(false)));
        assert_eq!(too_late, Decision::Admit(Plan { ends, record: Record::Journey }));
    }

    #[test]
    fn a_code_whose_limit_is_below_what_it_may_cost_is_refused_where_a_trip_begins() {
        let decide = |mode, limit, history: &History| {
            RULES.decide(on(mode), &Stated { limit: Some(Fen(limit)), ..Stated::default() }, history)
        };
        let (none, open) = (History::default(), with_journey(1));
        assert_eq!(decide(Mode::Single, 178, &none), Decision::Refuse(Refusal::OverLimit));
        assert!(matches!(decide(Mode::Single, 179, &none), Decision::Admit(_)));
        for mode in [Mode::Entry, Mode::Both] {
            assert_eq!(decide(mode, 999, &none), Decision::Refuse(Refusal::OverLimit));
            assert!(matches!(decide(mode, 1_000, &none), Decision::Admit(_)));
        }
        for mode in [Mode::Exit, Mode::Both] {
            assert_eq!(kind(&decide(mode, 0, &open)), Some(Kind::Exit));
        }
    }

    #[test]
    fn nobody_is_kept_in_by_the_clock_or_by_what_is_not_yet_accepted() {
        let gate = GateExposed { total: Fen(9_999), oldest: None };
        let exposed = Some(Exposed { passenger_count: 9, passenger: Fen(9_999), gate });
        let limits = Limits { passenger_count: 1, passenger: Fen(1), gate: Fen(1), oldest_ms: 1, at_limit: AtLimit::Deny };
        let rules = Rules { exposure: Some(limits), ..RULES };
        let stated = Stated { entry_refusal: Some(Refusal::ClockUnsynchronized), limit: None };
        for mode in [Mode::Exit, Mode::Both] {
            let decision = rules.decide(on(mode), &stated, &History { exposed, ..with_journey(1) });
            assert_eq!(kind(&decision), Some(Kind::Exit));
        }
        let calm = History { exposed, ..History::default() };
        assert_eq!(rules.decide(on(Mode::Entry), &Stated::default(), &calm), Decision::Refuse(Refusal::Exposure));
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
        let refused = deny.decide(SINGLE, &Stated::default(), &history);
        assert_eq!(refused, Decision::Refuse(Refusal::Exposure));
        assert_eq!(deny.reached(SINGLE, &refused, &history), Some(Reached::Passenger));
        let poor = Stated { limit: Some(Fen(0)), ..Stated::default() };
        assert_eq!(deny.decide(SINGLE, &poor, &history), Decision::Refuse(Refusal::OverLimit));
        assert_eq!(deny.reached(SINGLE, &Decision::Repeat, &history), None);
        let admitted = alarm.decide(SINGLE, &Stated::default(), &history);
        assert!(matches!(admitted, Decision::Admit(_)));
        assert_eq!(alarm.reached(SINGLE, &admitted, &history), Some(Reached::Passenger));
    }

    #[test]
    fn the_deny_list_comes_after_the_codes_limit_and_before_exposure() {
        let limits = Limits { passenger_count: 0, passenger: Fen(0), gate: Fen(0), oldest_ms: 0, at_limit: AtLimit::Deny };
        let gate = GateExposed { total: Fen(0), oldest: None };
        let exposed = Some(Exposed { passenger_count: 1, passenger: Fen(0), gate });
        let rules = Rules { exposure: Some(limits), ..RULES };
        let denied = History { is_denied: true, exposed, ..History::default() };
        let refused = |stated: Stated, history: &History| rules.decide(SINGLE, &stated, history);
        assert_eq!(refused(Stated::default(), &denied), Decision::Refuse(Refusal::DeniedPassenger));
        let poor = Stated { limit: Some(Fen(0)), ..Stated::default() };
        assert_eq!(refused(poor, &denied), Decision::Refuse(Refusal::OverLimit));
        let free = History { is_denied: false, ..denied };
        assert_eq!(refused(Stated::default(), &free), Decision::Refuse(Refusal::Exposure));
    }

    #[test]
    fn who_is_on_the_deny_list_does_not_get_in_and_always_gets_out() {
        let denied = |history| History { is_denied: true, ..history };
        for mode in [Mode::Single, Mode::Entry, Mode::Both] {
            let refused = RULES.decide(on(mode), &Stated::default(), &denied(History::default()));
            assert_eq!(refused, Decision::Refuse(Refusal::DeniedPassenger), "{mode:?}");
        }
        for mode in [Mode::Exit, Mode::Both] {
            let let_out = RULES.decide(on(mode), &Stated::default(), &denied(with_journey(60_000)));
            assert_eq!(kind(&let_out), Some(Kind::Exit), "{mode:?}");
        }
    }

    #[test]
    fn what_the_code_refuses_comes_after_what_its_history_refuses() {
        let stated = Stated { entry_refusal: Some(Refusal::ClockUnsynchronized), limit: Some(Fen(0)) };
        assert_eq!(decide(stated), Decision::Refuse(Refusal::ClockUnsynchronized));
        let history = History { same_passenger: Some(Past { age: Age::ThisBoot { ms: 1 } }), ..History::default() };
        assert_eq!(RULES.decide(SINGLE, &stated, &history), Decision::Refuse(Refusal::TooSoon));
    }
}
