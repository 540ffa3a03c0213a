//! What happens: passengers by the crowd's pace, the outage, and the end, which waits until the books balance, or for so long that
//! they will not any more.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use super::{
    Answer, DemoError, Kind, Patience, Plan, Scan, Seen,
    callback::RULES,
    floor::{Floor, Turn, Walk, Walker},
    issuer::Issuer,
    passengers::Crowd,
    scene::{PASSAGE_TIMEOUT, Scene},
    stations::LANES,
    system,
    terminal::Screen,
    trace::{Edge, TraceReader},
    view::{Charged, Network, Verdict, View},
};
use crate::{
    clock::Stamp,
    ride_code::CodeDigest,
    sandbox::{CallbackRules, Fault, Faults, Latency, Money, On, Rule},
};

const TICK: Duration = Duration::from_millis(10);
/// Between two looks at the daemon, and two pictures.
const LOOK_EVERY: Duration = Duration::from_millis(125);
/// The network goes away after this part of the trips, or after so long where these have no end; and again.
const OUTAGE_AFTER_TRIPS: u64 = 3;
const OUTAGE_AFTER: Duration = Duration::from_secs(6);
const OUTAGE_AGAIN_AFTER: Duration = Duration::from_secs(20);
/// At the end, what waits is waited for so long.
const SETTLE_MAX: Duration = Duration::from_secs(45);
/// How long the last passengers may take.
const FINISH_WITHIN: Duration = Duration::from_secs(60);
/// Codes that were used are kept to be shown again by others.
const RECORDINGS_MAX: usize = 8;
/// How slow the sandbox is: as a real network in a station.
const LATENCY: Latency = Latency { p50: 60, p99: 300 };

/// A demo that is being played.
pub(super) struct Play {
    plan: Plan,
    screen: Screen,
    view: View,
    crowd: Crowd,
    began: Instant,
    next_look: Instant,
    floor: Floor,
    /// When the next passenger comes.
    next_visit: Instant,
    trips: u64,
    scans: Vec<Scan>,
    uninvited: u64,
    /// Codes that the gate has opened for, the latest last, with their lanes.
    recordings: Vec<(usize, Vec<u8>)>,
    /// The code that each lane has been shown last.
    shown: Vec<Vec<u8>>,
    outage: Outage,
    alarms: Vec<String>,
    patience: Patience,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    /// Not yet.
    Ahead,
    /// With its end.
    On(Instant),
    /// With its end.
    Over(Instant),
}

impl Play {
    pub(super) fn new(plan: &Plan, screen: Screen) -> Self {
        let now = Instant::now();
        Self {
            crowd: Crowd::new(plan.seed, Issuer::new()),
            plan: plan.clone(),
            screen,
            view: View::new(plan.seed, &LANES),
            began: now,
            next_look: now,
            floor: Floor::new(LANES.len(), PASSAGE_TIMEOUT),
            next_visit: now,
            trips: 0,
            scans: Vec::new(),
            uninvited: 0,
            recordings: Vec::new(),
            shown: vec![Vec::new(); LANES.len()],
            outage: if plan.outage.is_zero() { Outage::Over(now) } else { Outage::Ahead },
            alarms: Vec::new(),
            patience: Patience::ToTheEnd,
        }
    }

    /// What was seen from outside.
    pub(super) fn seen(&self) -> Seen {
        Seen { scans: self.scans.clone(), uninvited: self.uninvited, patience: self.patience }
    }

    /// What can be seen.
    #[cfg(test)]
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Gives the terminal back.
    pub(super) fn leave(self) -> io::Result<()> {
        self.screen.leave()
    }

    /// Plays until the trips are over or `interrupts` is no longer 0, then until everything is answered and sent; a further
    /// interrupt ends that too.
    pub(super) fn perform(&mut self, scene: &mut Scene, interrupts: &dyn Fn() -> u32) -> Result<(), DemoError> {
        let mut trace = scene.trace()?;
        Self::set_faults(scene, Vec::new());
        let mut last_came = None;
        while interrupts() == 0 && !self.is_over() {
            self.bring_passengers();
            self.move_on(scene, &mut trace)?;
            if self.plan.trips.is_some_and(|trips| self.trips >= trips) {
                // Whoever has not got through by then goes home: a demo that is given a number ends.
                let since = *last_came.get_or_insert_with(Instant::now);
                if since.elapsed() > FINISH_WITHIN {
                    self.floor.send_away();
                }
            }
        }
        self.view.is_closing = true;
        self.floor.send_away();
        self.tell("         nobody comes any more: everything is answered and sent before the books are closed")?;
        self.end_outage(scene)?;
        self.settle(scene, &mut trace, interrupts)
    }

    /// Plays until then, and leaves it at that: with the sandbox's faults as they are.
    #[cfg(test)]
    pub(super) fn perform_until(&mut self, scene: &mut Scene, is_enough: &dyn Fn(&Self) -> bool) -> Result<(), DemoError> {
        let mut trace = scene.trace()?;
        while !is_enough(self) {
            self.bring_passengers();
            self.move_on(scene, &mut trace)?;
        }
        Ok(())
    }

    fn move_on(&mut self, scene: &mut Scene, trace: &mut TraceReader) -> Result<(), DemoError> {
        self.take_turns(scene)?;
        self.move_outage(scene)?;
        self.watch(scene, trace)
    }

    /// Whether all who were to come have done what they came for.
    pub(super) fn is_over(&self) -> bool {
        let all_came = self.plan.trips.is_some_and(|trips| self.trips >= trips) && self.floor.is_empty();
        all_came && matches!(self.outage, Outage::Over(_))
    }

    fn settle(&mut self, scene: &mut Scene, trace: &mut TraceReader, interrupts: &dyn Fn() -> u32) -> Result<(), DemoError> {
        let (end, before) = (Instant::now() + SETTLE_MAX, interrupts());
        let mut next_try = Instant::now();
        while Instant::now() < end && interrupts() <= before.max(1) {
            self.move_on(scene, trace)?;
            if self.floor.is_empty() && Instant::now() >= next_try {
                if is_told(scene) && self.is_sent(scene)? && self.is_balanced(scene)? {
                    self.next_look = Instant::now();
                    return self.watch(scene, trace);
                }
                next_try = Instant::now() + LOOK_EVERY;
            }
        }
        if interrupts() > before.max(1) {
            self.patience = Patience::CutShort;
        }
        Ok(())
    }

    fn is_sent(&self, scene: &mut Scene) -> Result<bool, DemoError> {
        let is_closed = self.view.lanes.iter().all(|lane| !lane.is_open);
        Ok(is_closed && scene.status()?.queue.pending == 0)
    }

    /// Openings whose time for a passage is not over yet, and whatever else is not recorded yet, would be differences now.
    fn is_balanced(&self, scene: &mut Scene) -> Result<bool, DemoError> {
        Ok(scene.evidence_so_far(self.seen())?.books().differences.is_empty())
    }

    // ---- passengers ------------------------------------------------------------------------------------------------------------

    fn bring_passengers(&mut self) {
        let now = Instant::now();
        if now < self.next_visit || self.plan.trips.is_some_and(|trips| self.trips >= trips) {
            return;
        }
        self.trips += 1;
        let visit = self.crowd.next();
        self.next_visit = now + visit.after;
        self.floor.arrive(visit, now);
    }

    fn take_turns(&mut self, scene: &mut Scene) -> Result<(), DemoError> {
        self.floor.give_up(Instant::now());
        for walk in self.floor.walks(Instant::now()) {
            self.walk(scene, walk)?;
        }
        while let Some(turn) = self.floor.turn(Instant::now()) {
            self.show(scene, &turn)?;
        }
        Ok(())
    }

    fn walk(&mut self, scene: &mut Scene, walk: Walk) -> Result<(), DemoError> {
        match (walk.walker, walk.scan.and_then(|scan| self.scans.get_mut(scan))) {
            (Walker::Passenger, Some(scan)) => {
                scan.is_passed = true;
                self.view.pass(walk.lane);
            }
            _ => self.uninvited += 1,
        }
        scene.pass(walk.lane)
    }

    fn show(&mut self, scene: &mut Scene, turn: &Turn) -> Result<(), DemoError> {
        let (step, scan) = (&turn.step, self.scans.len());
        let Some(code) = self.code(turn) else {
            self.floor.skipped(turn, Instant::now());
            return Ok(());
        };
        let who = self.who(turn);
        if let Some(lane) = self.view.lanes.get_mut(step.lane) {
            (lane.who, lane.verdict) = (who.clone(), Verdict::Waiting);
            let line = format!("{:<8} {who} {}", lane.name, step.told);
            self.tell(&line)?;
        }
        self.floor.shown(turn, scan, Instant::now());
        self.note(turn, step.kind, &code);
        scene.show(step.lane, &code)?;
        if step.is_read_twice {
            self.note(turn, Kind::Repeat, &code);
            scene.show(step.lane, &code)?;
        }
        if let Some(shown) = self.shown.get_mut(step.lane) {
            *shown = code;
        }
        Ok(())
    }

    fn who(&mut self, turn: &Turn) -> String {
        let passenger = self.floor.passenger(turn.guest).map(|passenger| passenger.shown()).unwrap_or_default();
        turn.step.kind.stand_in().map_or(passenger, str::to_owned)
    }

    fn code(&mut self, turn: &Turn) -> Option<Vec<u8>> {
        let lane = turn.step.lane;
        match turn.step.kind {
            // Where it was used the reader would only repeat itself.
            Kind::Screenshot | Kind::Replayed => {
                self.recordings.iter().rev().find(|(used, _)| *used != lane).map(|(_, code)| code.clone())
            }
            kind => {
                let now_s = u32::try_from(Stamp::now().utc_ms / 1000).unwrap_or_default();
                let passenger = self.floor.passenger(turn.guest)?;
                Some(self.crowd.code(passenger, kind, now_s))
            }
        }
    }

    fn note(&mut self, turn: &Turn, kind: Kind, code: &[u8]) {
        let Some(stand) = LANES.get(turn.step.lane) else { return };
        let passenger = self.floor.passenger(turn.guest).map_or(0, |passenger| passenger.number());
        self.scans.push(Scan {
            lane: stand.name.to_owned(),
            station: stand.station.to_owned(),
            direction: stand.direction,
            kind,
            passenger: if kind.stand_in().is_none() { passenger } else { 0 },
            code: CodeDigest::of(code).to_string(),
            answer: Answer::None,
            is_passed: false,
            shown_at: self.began.elapsed(),
            answered_at: Duration::ZERO,
        });
        self.view.scans += 1;
    }

    // ---- the network -----------------------------------------------------------------------------------------------------------

    fn move_outage(&mut self, scene: &mut Scene) -> Result<(), DemoError> {
        let now = Instant::now();
        match self.outage {
            Outage::Ahead if self.is_time_for_outage() => self.begin_outage(scene),
            Outage::On(end) if now >= end => self.end_outage(scene),
            Outage::Over(end) if self.plan.trips.is_none() && !self.plan.outage.is_zero() && now >= end + OUTAGE_AGAIN_AFTER => {
                self.begin_outage(scene)
            }
            _ => Ok(()),
        }
    }

    fn is_time_for_outage(&self) -> bool {
        match self.plan.trips {
            Some(trips) => self.trips > trips / OUTAGE_AFTER_TRIPS,
            None => self.began.elapsed() >= OUTAGE_AFTER,
        }
    }

    /// The first deduction is taken and its answer lost, which is the worst case; then nothing gets through.
    fn begin_outage(&mut self, scene: &Scene) -> Result<(), DemoError> {
        self.outage = Outage::On(Instant::now() + self.plan.outage);
        let first = Rule { next: Some(1), ..Rule::always(Fault::Drop) };
        Self::set_faults(scene, vec![first, Rule { on: On::All, ..Rule::always(Fault::Refuse) }]);
        Self::hold_callbacks(scene, true);
        self.tell("         THE NETWORK GOES AWAY, with one answer lost on its way; the gate goes on")
    }

    fn end_outage(&mut self, scene: &Scene) -> Result<(), DemoError> {
        if !matches!(self.outage, Outage::On(_)) {
            return Ok(());
        }
        self.outage = Outage::Over(Instant::now());
        Self::set_faults(scene, Vec::new());
        Self::hold_callbacks(scene, false);
        self.tell(&format!("         THE NETWORK IS BACK; {} deductions wait", self.view.pending()))
    }

    /// The sandbox's faults, beside being as slow as a real network.
    pub(super) fn set_faults(scene: &Scene, rules: Vec<Rule>) {
        // They are correct: only what a person writes can be wrong.
        let _ = scene.sandbox().set_faults(Faults { latency_ms: Some(LATENCY), rules });
    }

    /// The network that is away is the callbacks' network too.
    fn hold_callbacks(scene: &Scene, hold: bool) {
        let _ = scene.sandbox().wechat().set_callbacks(CallbackRules { hold, ..RULES });
    }

    // ---- what is seen ----------------------------------------------------------------------------------------------------------

    fn watch(&mut self, scene: &mut Scene, trace: &mut TraceReader) -> Result<(), DemoError> {
        thread::sleep(TICK);
        for edge in trace.more().map_err(system("read the trace"))? {
            if let Some(line) = self.view.see(&edge) {
                self.tell(&line)?;
            }
            if let Some(lane) = LANES.iter().position(|stand| stand.name == edge.lane) {
                self.answer(lane, &edge)?;
            }
        }
        let now = Instant::now();
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now + LOOK_EVERY;
        self.look(scene)?;
        self.screen.draw(&self.view).map_err(DemoError::Output)
    }

    /// Joins what a turnstile shows to the scan that it answers.
    fn answer(&mut self, lane: usize, edge: &Edge) -> Result<(), DemoError> {
        let now = Instant::now();
        if edge.is_opening() {
            let scan = self.floor.opened(lane, now);
            self.answered(scan, Answer::Opened);
            self.record(lane);
        } else if edge.is_closing() {
            let told = self.floor.closed(lane).then(|| self.view.walk_away(lane)).flatten();
            return told.map_or(Ok(()), |told| self.tell(&told));
        } else if edge.is_uninvited() {
            // Who comes too late for an opening has not passed it.
            if let Some(scan) = self.floor.intruded(lane).and_then(|scan| self.scans.get_mut(scan)) {
                scan.is_passed = false;
                self.uninvited += 1;
            }
        } else if let Some(reason) = edge.refusal() {
            let scan = self.floor.refused(lane, now);
            self.answered(scan, Answer::Refused(reason.to_owned()));
        }
        Ok(())
    }

    fn answered(&mut self, scan: Option<usize>, answer: Answer) {
        let at = self.began.elapsed();
        if let Some(scan) = scan.and_then(|scan| self.scans.get_mut(scan)) {
            (scan.answer, scan.answered_at) = (answer, at);
        }
    }

    /// Somebody looks over the passenger's shoulder.
    fn record(&mut self, lane: usize) {
        let code = self.shown.get(lane).cloned().unwrap_or_default();
        self.recordings.push((lane, code));
        let surplus = self.recordings.len().saturating_sub(RECORDINGS_MAX);
        self.recordings.drain(..surplus);
    }

    fn look(&mut self, scene: &mut Scene) -> Result<(), DemoError> {
        let status = scene.status()?;
        self.tell_alarms(&status.alarms)?;
        self.view.look(status);
        self.view.elapsed = self.began.elapsed();
        self.view.network = match self.outage {
            Outage::On(end) => Network::Down(end.saturating_duration_since(Instant::now())),
            _ => Network::Up,
        };
        let wechat = scene.sandbox().wechat();
        let (charges, counts) = (wechat.charges(), wechat.counts());
        self.view.charged = Charged {
            count: charges.len() as u64,
            fen: charges.iter().map(|charge| charge.total_fen).sum(),
            requests: counts.deduct_requests,
            lost: counts.spoilt,
            repeated: counts.repeated,
            paid: charges.iter().filter(|charge| matches!(charge.money, Money::Paid | Money::Repaid)).count() as u64,
        };
        Ok(())
    }

    fn tell_alarms(&mut self, alarms: &[String]) -> Result<(), DemoError> {
        match (self.alarms.is_empty(), alarms.first()) {
            (true, Some(alarm)) => self.tell(&format!("         ALARM: {alarm}"))?,
            (false, None) => self.tell("         the alarm is over")?,
            _ => {}
        }
        self.alarms = alarms.to_vec();
        Ok(())
    }

    fn tell(&mut self, what: &str) -> Result<(), DemoError> {
        let line = format!("{:>6.1} s  {what}", self.began.elapsed().as_secs_f64());
        self.screen.tell(&line).map_err(DemoError::Output)?;
        self.view.tell(line);
        Ok(())
    }
}

/// Whether the gate has received all that there is to tell of payments.
fn is_told(scene: &Scene) -> bool {
    scene.sandbox().wechat().callbacks().is_none_or(|(_, counts)| counts.outstanding == 0)
}
