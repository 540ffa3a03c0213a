//! Who comes to the gate, when, and with what: a crowd that its seed and the time replay. Pure.
//!
//! Most come with a good code. Some readers read it twice, some codes are damaged, forged or out of time, somebody shows a friend's
//! screenshot at the other lane, somebody refreshes the code and taps again at once. The codes themselves are [`Issuer`]'s affair.

use std::time::Duration;

use super::issuer::{Issuer, Passenger};
use crate::{ride_code::Refusal, sandbox::random::Random};

/// What a scan is in the story. What the gate makes of it is the gate's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A passenger with a new code.
    Fresh,
    /// The reader reads the code again at once.
    Repeat,
    /// The same code at the other lane, at once.
    Screenshot,
    /// The code of the passenger before, recorded and shown again at the other lane.
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
            Self::Fresh | Self::Repeat => None,
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
}

/// One code before a reader, to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Showing {
    /// After the one before.
    pub(super) after: Duration,
    pub(super) lane: usize,
    pub(super) kind: Kind,
    /// For people.
    pub(super) who: String,
    /// What the reader sends.
    pub(super) code: Vec<u8>,
}

/// Between two passengers, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 250..550;
/// Between a code and its abuse: time to walk to the other lane, in a hurry.
const ABUSE_AFTER: Duration = Duration::from_millis(200);

/// Visits until every kind of trouble has come.
const CYCLE: u64 = 12;

/// All who come.
pub(super) struct Crowd {
    random: Random,
    issuer: Issuer,
    lanes: u64,
    visits: u64,
    /// The code that came last with a passenger of its own, and its lane.
    before: Option<(usize, Vec<u8>)>,
}

impl Crowd {
    pub(super) fn new(seed: u64, issuer: Issuer, lanes: usize) -> Self {
        Self { random: Random::new(seed), issuer, lanes: lanes as u64, visits: 0, before: None }
    }

    /// The next passenger, and what comes with this one, at `now_s`, epoch seconds. Holds exactly one [`Kind::Fresh`].
    pub(super) fn next(&mut self, now_s: u32) -> Vec<Showing> {
        self.visits += 1;
        let passenger = self.issuer.passenger(&mut self.random);
        let code = self.issuer.code(&passenger, Kind::Fresh, now_s);
        let after = Duration::from_millis(PAUSE_MS.start + self.random.below(PAUSE_MS.end - PAUSE_MS.start));
        let drawn = self.random.next();
        let lane = self.lane(drawn);
        let fresh = Showing { after, ..showing(lane, Kind::Fresh, passenger.shown(), code.clone()) };
        let before = self.before.replace((lane, code));
        let extra = self.trouble().map(|kind| self.extra(kind, &fresh, &passenger, before, now_s));
        std::iter::once(fresh).chain(extra).collect()
    }

    fn trouble(&self) -> Option<Kind> {
        match self.visits % CYCLE {
            1 => Some(Kind::Forged),
            2 => Some(Kind::Repeat),
            3 => Some(Kind::Screenshot),
            4 => Some(Kind::Expired),
            5 => Some(Kind::Refreshed),
            6 => Some(Kind::Smudged),
            7 => Some(Kind::Replayed),
            8 => Some(Kind::Tampered),
            10 => Some(Kind::Stolen),
            11 => Some(Kind::Future),
            _ => None,
        }
    }

    fn extra(
        &mut self,
        kind: Kind,
        fresh: &Showing,
        passenger: &Passenger,
        before: Option<(usize, Vec<u8>)>,
        now_s: u32,
    ) -> Showing {
        let other_lane = self.lane(fresh.lane as u64 + 1);
        match (kind, before) {
            (Kind::Repeat, _) => showing(fresh.lane, kind, passenger.shown(), fresh.code.clone()),
            (Kind::Screenshot, _) => {
                Showing { after: ABUSE_AFTER, ..showing(other_lane, kind, "a friend".to_owned(), fresh.code.clone()) }
            }
            (Kind::Replayed, Some((lane, code))) => {
                let lane = self.lane(lane as u64 + 1);
                Showing { after: ABUSE_AFTER, ..showing(lane, kind, "somebody".to_owned(), code) }
            }
            (Kind::Refreshed, _) => {
                let code = self.issuer.code(passenger, kind, now_s);
                Showing { after: ABUSE_AFTER, ..showing(other_lane, kind, passenger.shown(), code) }
            }
            (kind, _) => {
                let stranger = self.issuer.passenger(&mut self.random);
                let code = self.issuer.code(&stranger, kind, now_s);
                Showing { after: ABUSE_AFTER, ..showing(other_lane, kind, "somebody".to_owned(), code) }
            }
        }
    }

    fn lane(&self, number: u64) -> usize {
        usize::try_from(number.checked_rem(self.lanes).unwrap_or(0)).unwrap_or(0)
    }
}

fn showing(lane: usize, kind: Kind, who: String, code: Vec<u8>) -> Showing {
    Showing { after: Duration::ZERO, lane, kind, who, code }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u32 = 1_795_419_200;

    fn crowd(seed: u64) -> Vec<Vec<Showing>> {
        let mut crowd = Crowd::new(seed, Issuer::new(), 2);
        (0..14).map(|_| crowd.next(NOW_S)).collect()
    }

    #[test]
    fn a_seed_brings_the_same_crowd_and_another_seed_another() {
        assert_eq!(crowd(7), crowd(7));
        assert_ne!(crowd(7), crowd(8));
    }

    #[test]
    fn every_visit_has_one_new_code_and_eleven_passengers_bring_every_kind_of_trouble() {
        let visits = crowd(7);
        for visit in &visits {
            assert_eq!(visit.iter().filter(|showing| showing.kind == Kind::Fresh).count(), 1);
        }
        let troubles: Vec<_> = visits[..11].iter().flatten().filter_map(|showing| showing.kind.refusal()).collect();
        for refusal in ["duplicate", "too-soon", "format", "expired", "not-yet-valid"] {
            assert!(troubles.iter().any(|trouble| trouble.as_str() == refusal), "no {refusal}");
        }
        assert_eq!(troubles.iter().filter(|trouble| trouble.as_str().ends_with("-signature")).count(), 3);
        assert_eq!(troubles.iter().filter(|trouble| **trouble == Refusal::Duplicate).count(), 2);
    }

    #[test]
    fn a_repeat_is_the_same_code_at_the_same_lane_and_a_screenshot_at_the_other() {
        for visit in crowd(7).iter().filter(|visit| visit.len() == 2) {
            let (fresh, extra) = (&visit[0], &visit[1]);
            let is_same = (fresh.code == extra.code, fresh.lane == extra.lane);
            match extra.kind {
                Kind::Repeat => assert_eq!(is_same, (true, true)),
                Kind::Screenshot => assert_eq!(is_same, (true, false)),
                kind => assert!(!is_same.0, "{kind:?}"),
            }
        }
    }

    #[test]
    fn a_replay_is_the_code_of_the_passenger_before_at_the_lane_where_it_was_not() {
        let visits = crowd(7);
        let (before, replay) = (&visits[5][0], &visits[6][1]);
        assert_eq!((replay.kind, &replay.code), (Kind::Replayed, &before.code));
        assert_ne!(replay.lane, before.lane);
    }
}
