//! What can be seen of the demo at one moment, as plain values, and the story so far.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{Direction, stations::Stand, trace::Edge};
use crate::monitor::Status;

/// Depths of the queue that are kept.
pub(super) const HISTORY_MAX: usize = 120;
/// Lines of the story that are kept.
pub(super) const STORY_MAX: usize = 16;

/// One lane.
#[derive(Debug, Clone)]
pub(super) struct LaneView {
    pub(super) name: String,
    pub(super) direction: Direction,
    pub(super) is_open: bool,
    /// Who came last.
    pub(super) who: String,
    /// What became of it.
    pub(super) verdict: Verdict,
}

/// What the gate has shown to who came last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Waiting,
    Welcome,
    Passed,
    NotPassed,
    Refused(String),
}

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    Up,
    /// And how long it will be.
    Down(Duration),
}

/// What the sandbox has seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Charged {
    pub(super) count: u64,
    pub(super) fen: i64,
    /// Deductions that came, however they ended.
    pub(super) requests: u64,
    /// Of these, those that the outage has swallowed.
    pub(super) lost: u64,
    /// Of these, of an order that had been charged already.
    pub(super) repeated: u64,
    /// Trips that were paid, some of them later.
    pub(super) paid: u64,
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) elapsed: Duration,
    pub(super) seed: u64,
    pub(super) lanes: Vec<LaneView>,
    pub(super) network: Network,
    pub(super) scans: u64,
    pub(super) opened: u64,
    pub(super) refused: BTreeMap<String, u64>,
    /// Who went through openings of their own: in, and out.
    pub(super) passed: (u64, u64),
    pub(super) unpassed: u64,
    pub(super) uninvited: u64,
    pub(super) charged: Charged,
    pub(super) status: Option<Status>,
    /// The queue's depth, a sample per look, the latest last.
    pub(super) history: VecDeque<u64>,
    pub(super) is_closing: bool,
    /// The latest last.
    pub(super) story: VecDeque<String>,
}

impl View {
    pub(super) fn new(seed: u64, lanes: &[Stand]) -> Self {
        let lane = |stand: &Stand| LaneView {
            name: stand.name.to_owned(),
            direction: stand.direction,
            is_open: false,
            who: "nobody yet".to_owned(),
            verdict: Verdict::Waiting,
        };
        Self {
            elapsed: Duration::ZERO,
            seed,
            lanes: lanes.iter().map(lane).collect(),
            network: Network::Up,
            scans: 0,
            opened: 0,
            refused: BTreeMap::new(),
            passed: (0, 0),
            unpassed: 0,
            uninvited: 0,
            charged: Charged::default(),
            status: None,
            history: VecDeque::new(),
            is_closing: false,
            story: VecDeque::new(),
        }
    }

    /// Rows that wait to be sent, as far as is known.
    pub(super) fn pending(&self) -> u64 {
        self.status.as_ref().map_or(0, |status| status.queue.pending)
    }

    /// Takes note of a change of a line; what it means for people, if anything.
    pub(super) fn see(&mut self, edge: &Edge) -> Option<String> {
        let lane = self.lanes.iter_mut().find(|lane| lane.name == edge.lane)?;
        if edge.is_opening() {
            (lane.is_open, lane.verdict) = (true, Verdict::Welcome);
            self.opened += 1;
            return Some(format!("{:<8} OPEN for {}", lane.name, lane.who));
        }
        if edge.is_closing() {
            lane.is_open = false;
        }
        let reason = edge.refusal()?;
        if edge.is_uninvited() {
            self.uninvited += 1;
            return Some(format!("{:<8} {}: somebody went through uninvited", lane.name, reason.to_uppercase()));
        }
        lane.verdict = Verdict::Refused(reason.to_owned());
        *self.refused.entry(reason.to_owned()).or_default() += 1;
        Some(format!("{:<8} REFUSED: {reason}", lane.name))
    }

    /// Somebody went through an opening of that lane.
    pub(super) fn pass(&mut self, lane: usize) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        lane.verdict = Verdict::Passed;
        match lane.direction {
            Direction::In => self.passed.0 += 1,
            Direction::Out => self.passed.1 += 1,
        }
    }

    /// Nobody does; what that means for people.
    pub(super) fn walk_away(&mut self, lane: usize) -> Option<String> {
        let lane = self.lanes.get_mut(lane)?;
        lane.verdict = Verdict::NotPassed;
        self.unpassed += 1;
        Some(format!("{:<8} nobody goes through: nothing is charged", lane.name))
    }

    /// The daemon's answer, at every look.
    pub(super) fn look(&mut self, status: Status) {
        self.history.push_back(status.queue.pending);
        self.status = Some(status);
        while self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
    }

    /// Adds a line to the story.
    pub(super) fn tell(&mut self, line: String) {
        self.story.push_back(line);
        while self.story.len() > STORY_MAX {
            self.story.pop_front();
        }
    }
}
