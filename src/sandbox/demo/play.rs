//! What happens: passengers by the crowd's pace, the outage, and the end, which waits until everything shown is answered and sent.

use std::{
    collections::VecDeque,
    io, thread,
    time::{Duration, Instant},
};

use super::{
    DemoError, Kind, Patience, Plan, Scan,
    callback::RULES,
    issuer::Issuer,
    passengers::{Crowd, Showing},
    scene::Scene,
    system,
    terminal::Screen,
    trace::TraceReader,
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
const SETTLE_MAX: Duration = Duration::from_secs(30);
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
    /// Codes that will be shown, and when.
    due: VecDeque<(Instant, Showing)>,
    trips: u64,
    scans: Vec<Scan>,
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
    pub(super) fn new<'a>(plan: &Plan, screen: Screen, lanes: impl Iterator<Item = &'a str>) -> Self {
        let view = View::new(plan.seed, lanes);
        let now = Instant::now();
        Self {
            crowd: Crowd::new(plan.seed, Issuer::new(), view.lanes.len()),
            plan: plan.clone(),
            screen,
            view,
            began: now,
            next_look: now,
            due: VecDeque::new(),
            trips: 0,
            scans: Vec::new(),
            outage: if plan.outage.is_zero() { Outage::Over(now) } else { Outage::Ahead },
            alarms: Vec::new(),
            patience: Patience::ToTheEnd,
        }
    }

    /// What was shown to the readers.
    pub(super) fn scans(&self) -> &[Scan] {
        &self.scans
    }

    /// Whether the end was waited for.
    pub(super) fn patience(&self) -> Patience {
        self.patience
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
        while interrupts() == 0 && !self.is_over() {
            self.bring_passengers(scene)?;
            self.move_outage(scene)?;
            self.watch(scene, &mut trace)?;
        }
        self.view.is_closing = true;
        self.tell("       nobody comes any more: everything is answered and sent before the books are closed")?;
        self.end_outage(scene)?;
        self.settle(scene, &mut trace, interrupts)
    }

    /// Plays for so long, and leaves it at that: for a picture in the middle of it.
    #[cfg(test)]
    pub(super) fn perform_for(&mut self, scene: &mut Scene, long: Duration) -> Result<(), DemoError> {
        let mut trace = scene.trace()?;
        Self::set_faults(scene, Vec::new());
        while self.began.elapsed() < long {
            self.bring_passengers(scene)?;
            self.move_outage(scene)?;
            self.watch(scene, &mut trace)?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let all_came = self.plan.trips.is_some_and(|trips| self.trips >= trips) && self.due.is_empty();
        all_came && matches!(self.outage, Outage::Over(_))
    }

    fn settle(&mut self, scene: &mut Scene, trace: &mut TraceReader, interrupts: &dyn Fn() -> u32) -> Result<(), DemoError> {
        let (end, before) = (Instant::now() + SETTLE_MAX, interrupts());
        let repeats = self.scans.iter().filter(|scan| scan.is_repeat()).count() as u64;
        while Instant::now() < end && interrupts() <= before.max(1) {
            self.watch(scene, trace)?;
            let is_answered = self.view.answered() + repeats >= self.scans.len() as u64;
            if is_answered && self.is_sent(scene)? && is_told(scene) {
                self.next_look = Instant::now();
                return self.watch(scene, trace);
            }
        }
        if interrupts() > before.max(1) {
            self.patience = Patience::CutShort;
        }
        Ok(())
    }

    /// Asked anew, since a row may have been recorded after the last look; and a ledger that is too busy to answer is answered for
    /// with the last known numbers, which do not hold every opening yet.
    fn is_sent(&self, scene: &mut Scene) -> Result<bool, DemoError> {
        let is_closed = self.view.lanes.iter().all(|lane| !lane.is_open);
        let queue = scene.status()?.queue;
        let settled = queue.accepted + queue.paid + queue.unpaid + queue.parked + queue.void;
        Ok(is_closed && queue.pending == 0 && queue.held == 0 && settled >= self.view.opened)
    }

    // ---- passengers ------------------------------------------------------------------------------------------------------------

    fn bring_passengers(&mut self, scene: &mut Scene) -> Result<(), DemoError> {
        if self.due.is_empty() && self.plan.trips.is_none_or(|trips| self.trips < trips) {
            self.trips += 1;
            let mut at = Instant::now();
            let now_s = u32::try_from(Stamp::now().utc_ms / 1000).unwrap_or_default();
            for showing in self.crowd.next(now_s) {
                at += showing.after;
                self.due.push_back((at, showing));
            }
        }
        while self.due.front().is_some_and(|(at, _)| *at <= Instant::now()) {
            let Some((_, showing)) = self.due.pop_front() else { break };
            self.show(scene, showing)?;
        }
        Ok(())
    }

    fn show(&mut self, scene: &mut Scene, showing: Showing) -> Result<(), DemoError> {
        let Some(lane) = self.view.lanes.get_mut(showing.lane) else { return Ok(()) };
        let doing = match showing.kind {
            Kind::Fresh => "shows a code",
            Kind::Repeat => "holds the phone still: the reader reads the code twice",
            Kind::Screenshot => "shows a screenshot of that code here",
            Kind::Refreshed => "refreshes the code and taps again at once",
            Kind::Replayed => "shows a recording of the code before",
            Kind::Smudged => "shows a code that is damaged on the way",
            Kind::Expired => "shows yesterday's code",
            Kind::Future => "shows a code that says it was made tomorrow",
            Kind::Forged => "shows a code of an issuer that nobody certified",
            Kind::Tampered => "shows a code with a limit raised by hand",
            Kind::Stolen => "shows a code that another phone has signed",
        };
        let told = format!("{:<6} {} {doing}", lane.name, showing.who);
        if showing.kind != Kind::Repeat {
            (lane.who, lane.verdict) = (showing.who, Verdict::Waiting);
        }
        let code = CodeDigest::of(&showing.code).to_string();
        self.scans.push(Scan { lane: lane.name.clone(), kind: showing.kind, code });
        self.view.scans += 1;
        self.tell(&told)?;
        scene.show(showing.lane, &showing.code)
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
        self.tell("       THE NETWORK GOES AWAY, with one answer lost on its way; the gate goes on")
    }

    fn end_outage(&mut self, scene: &Scene) -> Result<(), DemoError> {
        if !matches!(self.outage, Outage::On(_)) {
            return Ok(());
        }
        self.outage = Outage::Over(Instant::now());
        Self::set_faults(scene, Vec::new());
        Self::hold_callbacks(scene, false);
        self.tell(&format!("       THE NETWORK IS BACK; {} deductions wait", self.view.pending()))
    }

    fn set_faults(scene: &Scene, rules: Vec<Rule>) {
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
        }
        let now = Instant::now();
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now + LOOK_EVERY;
        self.look(scene)?;
        self.screen.draw(&self.view).map_err(DemoError::Output)
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
            (true, Some(alarm)) => self.tell(&format!("       ALARM: {alarm}"))?,
            (false, None) => self.tell("       the alarm is over")?,
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
