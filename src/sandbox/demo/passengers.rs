//! Who comes to the gate, when, and with what: a crowd that its seed replays. Pure.
//!
//! Most come with a good code. Some readers read it twice, some codes are unreadable, somebody shows a friend's screenshot at the
//! other lane, somebody refreshes the code and taps again at once. The codes themselves are [`Issuer`]'s affair.

use std::time::Duration;

use data_encoding::BASE64;

use super::issuer::{Issuer, Passenger};
use crate::sandbox::random::Random;

/// What a scan is in the story. What the gate makes of it is the gate's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A passenger with a new code.
    Fresh,
    /// The reader reads the code again at once.
    Repeat,
    /// The same code at the other lane.
    Screenshot,
    /// The same passenger with a new code, at once.
    Refreshed,
    /// Bytes that are no code.
    Smudged,
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
    pub(super) sent: Vec<u8>,
    /// The decoded code; `None` when it is none.
    pub(super) code: Option<Vec<u8>>,
}

/// Between two passengers, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 250..550;
/// Between a code and its abuse: time to walk to the other lane, in a hurry.
const ABUSE_AFTER: Duration = Duration::from_millis(200);

/// All who come.
#[derive(Debug)]
pub(super) struct Crowd {
    random: Random,
    issuer: Issuer,
    lanes: u64,
    visits: u64,
}

impl Crowd {
    pub(super) fn new(seed: u64, issuer: Issuer, lanes: usize) -> Self {
        Self { random: Random::new(seed), issuer, lanes: lanes as u64, visits: 0 }
    }

    /// The next passenger, and what comes with this one. Holds exactly one [`Kind::Fresh`].
    pub(super) fn next(&mut self) -> Vec<Showing> {
        self.visits += 1;
        let passenger = self.issuer.passenger(&mut self.random);
        let code = self.issuer.code(&passenger, &mut self.random);
        let after = Duration::from_millis(PAUSE_MS.start + self.random.below(PAUSE_MS.end - PAUSE_MS.start));
        let drawn = self.random.next();
        let lane = self.lane(drawn);
        let fresh = Showing { after, ..showing(lane, Kind::Fresh, passenger.shown(), code) };
        let extra = self.extra(&fresh, &passenger);
        std::iter::once(fresh).chain(extra).collect()
    }

    fn extra(&mut self, fresh: &Showing, passenger: &Passenger) -> Option<Showing> {
        let other_lane = self.lane(fresh.lane as u64 + 1);
        let code = fresh.code.clone().unwrap_or_default();
        match self.visits % 7 {
            2 => Some(showing(fresh.lane, Kind::Repeat, passenger.shown(), code)),
            3 => Some(Showing { after: ABUSE_AFTER, ..showing(other_lane, Kind::Screenshot, "a friend".to_owned(), code) }),
            5 => {
                let code = self.issuer.code(passenger, &mut self.random);
                Some(Showing { after: ABUSE_AFTER, ..showing(other_lane, Kind::Refreshed, passenger.shown(), code) })
            }
            6 => Some(Showing {
                sent: b"%% smudged %%\n".to_vec(),
                code: None,
                after: ABUSE_AFTER,
                ..showing(other_lane, Kind::Smudged, "somebody".to_owned(), Vec::new())
            }),
            _ => None,
        }
    }

    fn lane(&self, number: u64) -> usize {
        usize::try_from(number.checked_rem(self.lanes).unwrap_or(0)).unwrap_or(0)
    }
}

fn showing(lane: usize, kind: Kind, who: String, code: Vec<u8>) -> Showing {
    let sent = format!("{}\n", BASE64.encode(&code)).into_bytes();
    Showing { after: Duration::ZERO, lane, kind, who, sent, code: Some(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(seed: u64) -> Vec<Vec<Showing>> {
        let mut crowd = Crowd::new(seed, Issuer::new(), 2);
        (0..14).map(|_| crowd.next()).collect()
    }

    #[test]
    fn a_seed_brings_the_same_crowd_and_another_seed_another() {
        assert_eq!(crowd(7), crowd(7));
        assert_ne!(crowd(7), crowd(8));
    }

    #[test]
    fn every_visit_has_one_new_code_and_six_passengers_bring_every_kind_of_trouble() {
        let visits = crowd(7);
        for visit in &visits {
            assert_eq!(visit.iter().filter(|showing| showing.kind == Kind::Fresh).count(), 1);
        }
        for kind in [Kind::Repeat, Kind::Screenshot, Kind::Refreshed, Kind::Smudged] {
            assert!(visits[..6].iter().flatten().any(|showing| showing.kind == kind), "no {kind:?}");
        }
    }

    #[test]
    fn a_repeat_is_the_same_code_at_the_same_lane_and_a_screenshot_at_the_other() {
        for visit in crowd(7).iter().filter(|visit| visit.len() == 2) {
            let (fresh, extra) = (&visit[0], &visit[1]);
            let (is_same_code, is_same_lane) = (fresh.code == extra.code, fresh.lane == extra.lane);
            let expected = match extra.kind {
                Kind::Repeat => (true, true),
                Kind::Screenshot => (true, false),
                _ => (false, false),
            };
            assert_eq!((is_same_code, is_same_lane), expected, "{:?}", extra.kind);
        }
    }
}
