//! Who comes to the gate, when, and with what in mind: a crowd that its seed replays. Pure.
//!
//! Most tap in at one station and out at another. Some leave a hole in their journey: they forget to tap in, tap in twice, do not
//! pass, turn back, or tap twice before they pass; somebody slips through behind. And some try their luck with a code that is
//! damaged, forged, out of time or somebody else's. The codes themselves are [`Issuer`]'s affair.

use std::{collections::VecDeque, time::Duration};

use super::{
    Direction,
    issuer::{Issuer, Passenger},
    scene::PASSENGER_INTERVAL,
    stations::LANES,
};
use crate::{ride_code::Refusal, sandbox::random::Random};

/// What a scan is in the story. What the gate makes of it is the gate's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A passenger with a new code.
    Fresh,
    /// The reader reads the code again at once.
    Repeat,
    /// The passenger has not passed yet and taps once more, with a new code.
    Again,
    /// The same code at another lane.
    Screenshot,
    /// The code of a passenger before, recorded and shown again at another lane.
    Replayed,
    /// The same passenger with a new code, at once.
    Refreshed,
    /// A code with a bit that went wrong on the way.
    Smudged,
    /// Yesterday's code.
    Expired,
    /// A code that says it was made tomorrow.
    Future,
    /// A code of an issuer that the root never certified.
    Forged,
    /// A code whose limit was raised after its issuer had signed.
    Tampered,
    /// Somebody's authorization, with a code that another phone signed.
    Stolen,
}

impl Kind {
    /// How a gate must refuse it; `None` for what is to open or to be ignored.
    #[must_use]
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Fresh | Self::Repeat | Self::Again => None,
            Self::Screenshot | Self::Replayed => Some(Refusal::Duplicate),
            Self::Refreshed => Some(Refusal::TooSoon),
            Self::Smudged => Some(Refusal::Format),
            Self::Expired => Some(Refusal::Expired),
            Self::Future => Some(Refusal::NotYetValid),
            Self::Forged => Some(Refusal::CertificateSignature),
            Self::Tampered => Some(Refusal::IssuerSignature),
            Self::Stolen => Some(Refusal::UserSignature),
        }
    }

    /// Who shows it, where that is not the passenger.
    pub(super) fn stand_in(self) -> Option<&'static str> {
        match self {
            Self::Fresh | Self::Repeat | Self::Again | Self::Refreshed => None,
            Self::Screenshot => Some("a friend"),
            _ => Some("somebody"),
        }
    }

    /// In the story, where a step has no words of its own.
    fn told(self) -> &'static str {
        match self {
            Self::Fresh => "shows a code",
            Self::Repeat => "holds the phone still: the reader reads the code twice",
            Self::Again => "has not passed yet, and taps again",
            Self::Screenshot => "shows a screenshot of that code here",
            Self::Refreshed => "refreshes the code and taps again at once",
            Self::Replayed => "shows a recording of a code that was used",
            Self::Smudged => "shows a code that is damaged on the way",
            Self::Expired => "shows yesterday's code",
            Self::Future => "shows a code that says it was made tomorrow",
            Self::Forged => "shows a code of an issuer that nobody certified",
            Self::Tampered => "shows a code with a limit raised by hand",
            Self::Stolen => "shows a code that another phone has signed",
        }
    }
}

/// What whoever has shown a code does when the gate has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Goes through, if it is open.
    Pass,
    /// Goes through, with somebody at the heels.
    PassFollowed,
    /// Stays before the gate for the next step.
    Stay,
    /// Goes away.
    Leave,
}

/// One code before a reader, to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// After the step before.
    pub(super) after: Duration,
    pub(super) lane: usize,
    pub(super) kind: Kind,
    /// In the story.
    pub(super) told: &'static str,
    /// Whether the reader reads it twice.
    pub(super) is_read_twice: bool,
    pub(super) then: Then,
}

/// A passenger, and all that this one is going to do.
pub(super) struct Visit {
    /// After the one before.
    pub(super) after: Duration,
    pub(super) passenger: Passenger,
    pub(super) steps: VecDeque<Step>,
}

/// Between two passengers, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 650..1050;
/// Between two taps of one passenger who is to be admitted both times: surely longer than the gate demands.
const BETWEEN_TAPS: Duration = PASSENGER_INTERVAL.saturating_add(Duration::from_millis(150));
/// How much longer a ride takes, milliseconds.
const RIDE_MS: std::ops::Range<u64> = 200..1800;
/// Between a code and its abuse: time to walk to another lane, in a hurry.
const ABUSE_AFTER: Duration = Duration::from_millis(100);

/// Visits until every kind of trouble has come.
pub(super) const CYCLE: u64 = 12;

/// All who come.
pub(super) struct Crowd {
    random: Random,
    issuer: Issuer,
    visits: u64,
}

impl Crowd {
    pub(super) fn new(seed: u64, issuer: Issuer) -> Self {
        Self { random: Random::new(seed), issuer, visits: 0 }
    }

    /// The next passenger.
    pub(super) fn next(&mut self) -> Visit {
        self.visits += 1;
        let passenger = self.issuer.passenger(&mut self.random);
        let after = self.between(PAUSE_MS);
        let mut steps = self.journey();
        self.add_trouble(&mut steps);
        Visit { after, passenger, steps: steps.into() }
    }

    /// What the passenger's phone, or whoever stands there in the passenger's place, shows at `now_s`, epoch seconds.
    pub(super) fn code(&mut self, passenger: &mut Passenger, kind: Kind, now_s: u32) -> Vec<u8> {
        if kind.stand_in().is_none() {
            return self.issuer.code(passenger, kind, now_s);
        }
        let mut stranger = self.issuer.passenger(&mut self.random);
        self.issuer.code(&mut stranger, kind, now_s)
    }

    /// The taps of one passenger: most journeys are whole, some have a hole.
    fn journey(&mut self) -> Vec<Step> {
        let way_in = self.lane(|_, direction| direction == Direction::In);
        let from = station(way_in);
        let way_out = self.lane(|station, direction| direction == Direction::Out && station != from);
        let tap_in = tap(way_in, "taps in");
        let tap_out = self.ride(tap(way_out, "taps out"));
        match self.visits % CYCLE {
            3 => {
                let hesitates = Step { told: "taps out, and does not pass", then: Then::Leave, ..tap_out };
                vec![tap_in, hesitates, Step { told: "taps out again", ..tap_out }]
            }
            4 => vec![Step { told: "taps out, and has not tapped in", ..tap_out }],
            6 => {
                let elsewhere = self.lane(|station, direction| direction == Direction::In && station != from);
                let way_out = self.lane(|other, direction| direction == Direction::Out && other != station(elsewhere));
                let tap_in_again = self.ride(tap(elsewhere, "taps in, and has not tapped out of the ride before"));
                vec![tap_in, tap_in_again, self.ride(tap(way_out, "taps out"))]
            }
            7 => vec![tap_in, self.ride(tap(way_in, "taps in once more")), tap_out],
            8 => {
                let way_out = self.lane(|_, direction| direction == Direction::Out);
                let way_in = self.lane(|other, direction| direction == Direction::In && other == station(way_out));
                vec![tap(way_in, "taps in"), self.ride(tap(way_out, "turns back, and taps out at once"))]
            }
            9 => {
                let again = Step { after: BETWEEN_TAPS, kind: Kind::Again, told: Kind::Again.told(), ..tap_out };
                vec![tap_in, Step { then: Then::Stay, ..tap_out }, again]
            }
            10 => vec![tap_in, Step { then: Then::PassFollowed, ..tap_out }],
            11 => vec![Step { told: "taps in, and walks away", then: Then::Leave, ..tap_in }],
            _ => vec![tap_in, tap_out],
        }
    }

    /// What comes with the first tap.
    fn add_trouble(&mut self, steps: &mut Vec<Step>) {
        let Some(first) = steps.first_mut() else { return };
        let kind = match self.visits % CYCLE {
            1 => Kind::Forged,
            2 => {
                (first.is_read_twice, first.told) = (true, Kind::Repeat.told());
                return;
            }
            3 => Kind::Screenshot,
            4 => Kind::Expired,
            5 => {
                let refreshed = Step { after: Duration::ZERO, kind: Kind::Refreshed, told: Kind::Refreshed.told(), ..*first };
                first.then = Then::Stay;
                return steps.insert(1, refreshed);
            }
            6 => Kind::Smudged,
            7 => Kind::Replayed,
            8 => Kind::Tampered,
            10 => Kind::Stolen,
            11 => Kind::Future,
            _ => return,
        };
        let there = first.lane;
        let lane = self.lane_but(there);
        steps.insert(1, Step { after: ABUSE_AFTER, kind, told: kind.told(), then: Then::Leave, ..tap(lane, "") });
    }

    fn ride(&mut self, step: Step) -> Step {
        Step { after: BETWEEN_TAPS + self.between(RIDE_MS), ..step }
    }

    fn between(&mut self, range_ms: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(range_ms.start + self.random.below(range_ms.end - range_ms.start))
    }

    /// One of the lanes that fit.
    fn lane(&mut self, fits: impl Fn(&str, Direction) -> bool) -> usize {
        let all = LANES.iter().enumerate();
        let fitting: Vec<_> = all.filter(|(_, lane)| fits(lane.station, lane.direction)).map(|(at, _)| at).collect();
        let drawn = self.random.below(fitting.len().max(1) as u64);
        usize::try_from(drawn).ok().and_then(|at| fitting.get(at).copied()).unwrap_or_default()
    }

    fn lane_but(&mut self, lane: usize) -> usize {
        let step = 1 + self.random.below(LANES.len() as u64 - 1);
        (lane + usize::try_from(step).unwrap_or(1)) % LANES.len()
    }
}

fn station(lane: usize) -> &'static str {
    LANES.get(lane).map_or("", |lane| lane.station)
}

fn tap(lane: usize, told: &'static str) -> Step {
    Step { after: Duration::ZERO, lane, kind: Kind::Fresh, told, is_read_twice: false, then: Then::Pass }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(seed: u64) -> Vec<(Duration, Vec<Step>)> {
        let mut crowd = Crowd::new(seed, Issuer::new());
        let visits = (0..2 * CYCLE).map(|_| crowd.next());
        visits.map(|visit| (visit.after, visit.steps.into())).collect()
    }

    #[test]
    fn a_seed_brings_the_same_crowd_and_another_seed_another() {
        assert_eq!(crowd(7), crowd(7));
        assert_ne!(crowd(7), crowd(8));
    }

    #[test]
    fn eleven_passengers_bring_every_kind_of_bad_code() {
        let steps: Vec<_> = crowd(7).into_iter().take(11).flat_map(|(_, steps)| steps).collect();
        let troubles: Vec<_> = steps.iter().filter_map(|step| step.kind.refusal()).collect();
        for refusal in ["too-soon", "format", "expired", "not-yet-valid"] {
            assert!(troubles.iter().any(|trouble| trouble.as_str() == refusal), "no {refusal}");
        }
        assert_eq!(troubles.iter().filter(|trouble| trouble.as_str().ends_with("-signature")).count(), 3);
        assert_eq!(troubles.iter().filter(|trouble| **trouble == Refusal::Duplicate).count(), 2);
        assert_eq!(steps.iter().filter(|step| step.is_read_twice).count(), 1);
    }

    #[test]
    fn who_is_to_be_admitted_twice_waits_for_longer_than_the_gate_demands() {
        for (_, steps) in crowd(3) {
            let taps = steps.iter().filter(|step| matches!(step.kind, Kind::Fresh | Kind::Again));
            assert!(taps.skip(1).all(|step| step.after > PASSENGER_INTERVAL), "{steps:?}");
        }
    }

    #[test]
    fn an_abused_code_is_shown_at_a_lane_where_it_was_not() {
        for (_, steps) in crowd(5) {
            let abused = steps.iter().skip(1).filter(|step| step.kind.stand_in().is_some());
            assert!(abused.clone().all(|step| step.lane != steps[0].lane), "{steps:?}");
        }
    }

    #[test]
    fn only_who_turns_back_leaves_where_that_one_came_in() {
        for (at, (_, steps)) in crowd(9).iter().enumerate() {
            let taps: Vec<_> = steps.iter().filter(|step| step.kind == Kind::Fresh).map(|step| station(step.lane)).collect();
            let is_back = taps.len() > 1 && taps[taps.len() - 2] == taps[taps.len() - 1] && at % 12 != 2;
            assert_eq!(is_back, at % 12 == 7, "visit {}: {taps:?}", at + 1);
        }
    }
}
