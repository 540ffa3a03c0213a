//! Where everybody is: who has which lane, whose turn it is, who goes through when. Pure; it is handed the time.
//!
//! - A lane has one code to answer at a time, so that each answer belongs to one scan.
//! - Nobody shows a code while an opening before may still be waited for: whose passage it was is never in doubt.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

use super::{
    issuer::Passenger,
    passengers::{Step, Then, Visit},
};

/// From the open gate to the passage.
const PASS_AFTER: Duration = Duration::from_millis(200);
/// From a passage to that of whoever is at the passenger's heels.
const AT_HEELS: Duration = Duration::from_millis(150);
/// So much longer than the gate an opening is waited for.
const MARGIN: Duration = Duration::from_millis(100);
/// A code that has no answer by then will never have one.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);

/// Everybody.
pub(super) struct Floor {
    booths: Vec<Booth>,
    guests: Vec<Guest>,
    passage_timeout: Duration,
    arrived: u64,
}

/// A passenger on the way.
struct Guest {
    id: u64,
    passenger: Passenger,
    steps: VecDeque<Step>,
    /// When the next step is due; `None` in the middle of one.
    due: Option<Instant>,
}

/// One lane.
#[derive(Default)]
struct Booth {
    /// Who stands before it.
    holder: Option<u64>,
    asked: Option<Asked>,
    then: Option<Then>,
    /// Openings that nobody has passed: the scan, and when the gate has surely given it up.
    unpassed: VecDeque<(usize, Instant)>,
    /// Who is about to go through.
    going: VecDeque<(Instant, Walker)>,
    /// The scan whose passenger went through last.
    gone: Option<usize>,
    /// Followers of whom the gate has not complained yet.
    followers: u32,
    is_open: bool,
    /// Whoever it was opened for has gone away.
    is_left: bool,
}

struct Asked {
    scan: usize,
    until: Instant,
}

/// Who goes through a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walker {
    /// Whoever it was opened for.
    Passenger,
    /// Somebody at the passenger's heels.
    Follower,
}

/// A step whose time has come.
pub(super) struct Turn {
    pub(super) guest: u64,
    pub(super) step: Step,
}

/// A passage that is to be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walk {
    pub(super) lane: usize,
    pub(super) walker: Walker,
    /// The scan whose opening is passed.
    pub(super) scan: Option<usize>,
}

impl Floor {
    pub(super) fn new(lanes: usize, passage_timeout: Duration) -> Self {
        let booths = (0..lanes).map(|_| Booth::default()).collect();
        Self { booths, guests: Vec::new(), passage_timeout, arrived: 0 }
    }

    pub(super) fn arrive(&mut self, visit: Visit, at: Instant) {
        self.arrived += 1;
        self.guests.push(Guest { id: self.arrived, passenger: visit.passenger, steps: visit.steps, due: Some(at) });
    }

    /// Nobody who does not stand before a gate shows anything any more.
    pub(super) fn send_away(&mut self) {
        let booths = &self.booths;
        self.guests.retain(|guest| booths.iter().any(|booth| booth.holder == Some(guest.id)));
        for guest in &mut self.guests {
            let lane = guest.steps.front().map(|step| step.lane);
            let holds = |at: usize| booths.get(at).is_some_and(|booth| booth.holder == Some(guest.id));
            if !lane.is_some_and(holds) {
                guest.steps.clear();
            }
        }
    }

    /// Whether nobody has anything to do any more.
    pub(super) fn is_empty(&self) -> bool {
        self.guests.is_empty() && self.booths.iter().all(|booth| booth.asked.is_none() && booth.going.is_empty())
    }

    /// The next step that can be made; the caller makes it, and says which scan it was.
    pub(super) fn turn(&mut self, now: Instant) -> Option<Turn> {
        self.booths.iter_mut().for_each(|booth| booth.unpassed.retain(|(_, until)| *until > now));
        self.let_go_of_who_has_gone();
        let booths = &self.booths;
        let can = |guest: &Guest| {
            let step = guest.steps.front().filter(|_| guest.due.is_some_and(|due| due <= now));
            step.and_then(|step| booths.get(step.lane)).is_some_and(|booth| booth.is_free_for(guest.id))
        };
        let guest = self.guests.iter_mut().find(|guest| can(guest))?;
        let step = guest.steps.pop_front()?;
        guest.due = None;
        Some(Turn { guest: guest.id, step })
    }

    /// Whoever stood before a gate and has nothing more to show there stands there no more.
    fn let_go_of_who_has_gone(&mut self) {
        for (lane, booth) in self.booths.iter_mut().enumerate() {
            let stays = |guest: &Guest| booth.holder == Some(guest.id) && guest.steps.front().is_some_and(|step| step.lane == lane);
            if booth.asked.is_none() && booth.going.is_empty() && !self.guests.iter().any(stays) {
                booth.holder = None;
            }
        }
    }

    pub(super) fn passenger(&mut self, guest: u64) -> Option<&mut Passenger> {
        self.guests.iter_mut().find(|other| other.id == guest).map(|guest| &mut guest.passenger)
    }

    /// A step was made.
    pub(super) fn shown(&mut self, turn: &Turn, scan: usize, now: Instant) {
        let Some(booth) = self.booths.get_mut(turn.step.lane) else { return };
        booth.holder = Some(turn.guest);
        booth.then = Some(turn.step.then);
        booth.asked = Some(Asked { scan, until: now + ANSWER_WITHIN });
    }

    /// The gate opens; the scan that it opens for, if anybody waits for that.
    pub(super) fn opened(&mut self, lane: usize, now: Instant) -> Option<usize> {
        let until = now + self.passage_timeout + MARGIN;
        let booth = self.booths.get_mut(lane)?;
        booth.is_open = true;
        let scan = booth.asked.take()?.scan;
        booth.unpassed.push_back((scan, until));
        self.go_on(lane, now);
        Some(scan)
    }

    /// The gate closes; whether whoever it was opened for has gone away.
    pub(super) fn closed(&mut self, lane: usize) -> bool {
        let Some(booth) = self.booths.get_mut(lane) else { return false };
        booth.is_open = false;
        mem::take(&mut booth.is_left)
    }

    /// A step that cannot be made.
    pub(super) fn skipped(&mut self, turn: &Turn, now: Instant) {
        self.next_step(turn.guest, now);
    }

    /// The gate refuses; the scan that it refuses.
    pub(super) fn refused(&mut self, lane: usize, now: Instant) -> Option<usize> {
        let scan = self.booths.get_mut(lane)?.asked.take()?.scan;
        self.go_on(lane, now);
        Some(scan)
    }

    /// The gate complains of a passage without an opening of its own: the scan whose passenger came too late, if it was not a follower.
    pub(super) fn intruded(&mut self, lane: usize) -> Option<usize> {
        let booth = self.booths.get_mut(lane)?;
        if booth.followers > 0 {
            booth.followers -= 1;
            return None;
        }
        booth.gone.take()
    }

    /// Codes that will never have an answer.
    pub(super) fn give_up(&mut self, now: Instant) {
        for lane in 0..self.booths.len() {
            let is_over = self.booths.get(lane).and_then(|booth| booth.asked.as_ref()).is_some_and(|asked| asked.until <= now);
            if is_over {
                self.refused(lane, now);
            }
        }
    }

    /// Who goes through now.
    pub(super) fn walks(&mut self, now: Instant) -> Vec<Walk> {
        let mut walks = Vec::new();
        for lane in 0..self.booths.len() {
            let Some(booth) = self.booths.get_mut(lane) else { continue };
            let Some((_, walker)) = booth.going.front().copied().filter(|(at, _)| *at <= now) else { continue };
            booth.going.pop_front();
            walks.push(Walk { lane, walker, scan: booth.walk(walker) });
            if booth.going.is_empty() {
                self.step_is_over(lane, now);
            }
        }
        walks
    }

    /// What follows an answer.
    fn go_on(&mut self, lane: usize, now: Instant) {
        let Some(booth) = self.booths.get_mut(lane) else { return };
        match booth.then.take() {
            Some(Then::Pass) if !booth.unpassed.is_empty() => booth.going.push_back((now + PASS_AFTER, Walker::Passenger)),
            Some(Then::PassFollowed) if !booth.unpassed.is_empty() => {
                booth.going.push_back((now + PASS_AFTER, Walker::Passenger));
                booth.going.push_back((now + PASS_AFTER + AT_HEELS, Walker::Follower));
            }
            Some(Then::Stay) => self.holder_goes_on(lane, now),
            then => {
                booth.is_left = then == Some(Then::Leave) && !booth.unpassed.is_empty();
                self.step_is_over(lane, now);
            }
        }
    }

    fn step_is_over(&mut self, lane: usize, now: Instant) {
        self.holder_goes_on(lane, now);
        if let Some(booth) = self.booths.get_mut(lane) {
            booth.holder = None;
        }
    }

    fn holder_goes_on(&mut self, lane: usize, now: Instant) {
        if let Some(holder) = self.booths.get(lane).and_then(|booth| booth.holder) {
            self.next_step(holder, now);
        }
    }

    fn next_step(&mut self, guest: u64, now: Instant) {
        let Some(at) = self.guests.iter().position(|other| other.id == guest) else { return };
        match self.guests.get_mut(at).and_then(|guest| Some((guest.steps.front()?.after, &mut guest.due))) {
            Some((after, due)) => *due = Some(now + after),
            None => drop(self.guests.remove(at)),
        }
    }
}

impl Booth {
    fn is_free_for(&self, guest: u64) -> bool {
        let is_idle = self.asked.is_none() && self.going.is_empty();
        is_idle && (self.holder == Some(guest) || (self.holder.is_none() && self.unpassed.is_empty() && !self.is_open))
    }

    /// The gate settles the oldest opening.
    fn walk(&mut self, walker: Walker) -> Option<usize> {
        if walker == Walker::Follower {
            self.followers += 1;
            return None;
        }
        self.gone = self.unpassed.pop_front().map(|(scan, _)| scan);
        self.gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{
        demo::{Kind, issuer::Issuer},
        random::Random,
    };

    const TIMEOUT: Duration = Duration::from_secs(2);

    /// Passengers who tap at lane 0 and then do this.
    fn floor(now: Instant, all: &[&[Then]]) -> Floor {
        let (mut floor, mut issuer, mut random) = (Floor::new(2, TIMEOUT), Issuer::new(), Random::new(1));
        for thens in all {
            let step = |then: &Then| Step {
                after: Duration::from_secs(1),
                lane: 0,
                kind: Kind::Fresh,
                told: "",
                is_read_twice: false,
                then: *then,
            };
            let steps = thens.iter().map(step).collect();
            floor.arrive(Visit { after: Duration::ZERO, passenger: issuer.passenger(&mut random), steps }, now);
        }
        floor
    }

    /// The next one shows a code, and the gate opens and shuts.
    fn tap(floor: &mut Floor, scan: usize, now: Instant) -> bool {
        let turn = floor.turn(now).expect("somebody's turn");
        floor.shown(&turn, scan, now);
        assert!(floor.turn(now).is_none(), "one at a time");
        assert_eq!(floor.opened(0, now), Some(scan));
        floor.closed(0)
    }

    #[test]
    fn nobody_taps_while_an_opening_before_may_still_be_waited_for() {
        let now = Instant::now();
        let mut floor = floor(now, &[&[Then::Leave], &[Then::Pass]]);
        assert!(tap(&mut floor, 0, now), "walked away");
        assert!(floor.turn(now + TIMEOUT).is_none());
        let later = now + TIMEOUT + MARGIN;
        assert!(!tap(&mut floor, 1, later));
        let walk = Walk { lane: 0, walker: Walker::Passenger, scan: Some(1) };
        assert_eq!((floor.walks(later), floor.walks(later + PASS_AFTER)), (vec![], vec![walk]));
        assert!(floor.is_empty());
    }

    #[test]
    fn who_taps_again_before_passing_passes_the_first_opening_and_the_second_is_waited_for() {
        let now = Instant::now();
        let mut floor = floor(now, &[&[Then::Stay, Then::Pass], &[Then::Pass]]);
        tap(&mut floor, 0, now);
        let again = now + Duration::from_secs(1);
        assert!(floor.turn(now).is_none(), "the lane is held");
        tap(&mut floor, 1, again);
        assert_eq!(floor.walks(again + PASS_AFTER)[0].scan, Some(0));
        assert!(floor.turn(again + TIMEOUT).is_none() && floor.turn(again + TIMEOUT + MARGIN).is_some());
    }

    #[test]
    fn who_comes_too_late_for_an_opening_is_told_from_who_follows() {
        let now = Instant::now();
        let mut floor = floor(now, &[&[Then::PassFollowed]]);
        tap(&mut floor, 0, now);
        floor.walks(now + PASS_AFTER);
        let follower = Walk { lane: 0, walker: Walker::Follower, scan: None };
        assert_eq!(floor.walks(now + PASS_AFTER + AT_HEELS), [follower]);
        assert_eq!((floor.intruded(0), floor.intruded(0), floor.intruded(0)), (None, Some(0), None));
    }

    #[test]
    fn whoever_is_not_before_a_gate_goes_home_at_the_end() {
        let now = Instant::now();
        let mut floor = floor(now, &[&[Then::Stay, Then::Pass], &[Then::Pass]]);
        tap(&mut floor, 0, now);
        floor.send_away();
        let again = now + Duration::from_secs(1);
        tap(&mut floor, 1, again);
        assert_eq!(floor.walks(again + PASS_AFTER).len(), 1);
        assert!(floor.is_empty());
    }
}
