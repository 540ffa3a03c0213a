//! What can be seen of the gate from outside: which codes were shown, what the outputs did then, who passed. It judges each
//! opening at the moment when it happens.

use std::{
    fmt::{self, Write as _},
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tokio::{sync::Notify, time::Instant};

use crate::{
    ride_code::{CodeDigest, Refusal},
    turnstile::inline::{Inputs, Wires},
};

/// `turnstile.passage_timeout`
const PASSAGE_TIMEOUT: Duration = Duration::from_secs(3);

/// What happens so close to a time-out may be taken for either.
const TIE: Duration = Duration::from_millis(50);
/// What is deferred is written by then.
const WRITTEN_WITHIN: Duration = Duration::from_millis(1_500);
/// By then every opening of now has been passed or has run out.
const UNCLEAR: Duration = Duration::from_secs(4);

/// What happened, a line each, for whoever has to find out why. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Trace(Arc<Mutex<String>>);

impl Trace {
    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

/// What a passenger saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Opened,
    Refused(&'static str),
    Nothing,
    /// The alarm held the lane open, or the program ended before it answered.
    Unclear,
}

/// What a sensor has surely told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    Unclear,
    Seen,
    /// He did not pass, and the program has lived long enough to write that down.
    None,
}

/// A code that was shown to a reader.
#[derive(Debug, Clone)]
pub(super) struct Shows {
    pub(super) lane: usize,
    pub(super) code: Vec<u8>,
    pub(super) shown: Option<Shown>,
    /// What the lane's sensor has told of him.
    pub(super) passage: Passage,
}

/// An opening whose passage may be waited for.
#[derive(Debug)]
struct Opening {
    at: Instant,
    /// For whom, if not for the button.
    index: Option<usize>,
    /// Whether nobody else's passage can be taken for his, or his for another's.
    is_clear: bool,
}

impl Opening {
    fn until(&self) -> Instant {
        self.at + PASSAGE_TIMEOUT
    }
}

#[derive(Debug, Default)]
struct LaneSeen {
    has_sensor: bool,
    is_jammed: bool,
    is_alarm_on: bool,
    /// Who waits for an answer.
    waiting: Option<usize>,
    /// Presses of the exit button that have not opened yet.
    presses: u32,
    /// Openings whose passage may be waited for.
    openings: Vec<Opening>,
    /// Until when it is not clear who passes.
    unclear_until: Option<Instant>,
}

/// Clones are the same.
#[derive(Clone)]
pub(super) struct World(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    answered: Notify,
}

struct State {
    began: Instant,
    lanes: Vec<LaneSeen>,
    shows: Vec<Shows>,
    ledger: Connection,
    trace: Trace,
    wrong: Vec<String>,
}

impl World {
    /// `ledger` is read with a connection of its own; it is there before the first opening.
    pub(super) fn new(sensors: &[bool], ledger: &Path, trace: Trace) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let state = State {
            began: Instant::now(),
            lanes: sensors.iter().map(|&has_sensor| LaneSeen { has_sensor, ..LaneSeen::default() }).collect(),
            shows: Vec::new(),
            ledger: Connection::open_with_flags(ledger, flags).unwrap(),
            trace,
            wrong: Vec::new(),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), answered: Notify::new() }))
    }

    pub(super) fn wires(&self) -> Wires {
        let world = self.clone();
        Arc::new(move |lane, output, active, reason| world.output(lane, output, active, reason))
    }

    /// Notes what happens, for whoever has to find out why.
    pub(super) fn tell(&self, what: impl fmt::Display) {
        self.with(|state| state.tell(what));
    }

    pub(super) fn is_wrong(&self, what: impl fmt::Display) {
        self.with(|state| state.is_wrong(what));
    }

    pub(super) fn wrong(&self) -> Vec<String> {
        self.with(|state| state.wrong.clone())
    }

    pub(super) fn shows(&self) -> Vec<Shows> {
        self.with(|state| {
            state.times_pass();
            state.shows.clone()
        })
    }

    pub(super) fn has_sensor(&self, lane: usize) -> bool {
        self.with(|state| state.lanes[lane].has_sensor)
    }

    // ---- what people do ------------------------------------------------------------------------------------------------------

    /// A code is about to be shown.
    pub(super) fn shows_code(&self, lane: usize, code: Vec<u8>) {
        self.with(|state| {
            state.tell(format_args!("lane {lane}: shows {}", String::from_utf8_lossy(&code)));
            let shown = state.is_alarm_on().then_some(Shown::Unclear);
            state.shows.push(Shows { lane, code, shown, passage: Passage::Unclear });
            state.lanes[lane].waiting = Some(state.shows.len() - 1);
        });
    }

    /// Waits until everybody who waits has his answer, but no longer than a passenger does.
    pub(super) async fn answers(&self, patience: Duration) {
        let all = async {
            loop {
                let answered = self.0.answered.notified();
                if self.with(|state| state.is_everybody_answered()) {
                    return;
                }
                answered.await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
        self.nobody_waits_any_more(Shown::Nothing);
    }

    /// Those who have no answer yet get none.
    pub(super) fn nobody_waits_any_more(&self, shown: Shown) {
        self.with(|state| {
            for lane in 0..state.lanes.len() {
                if let Some(index) = state.lanes[lane].waiting.take() {
                    state.shows[index].shown.get_or_insert(shown);
                }
            }
        });
    }

    /// Whether a press would be followed by an edge of its own.
    pub(super) fn opens_for_a_button(&self, lane: usize) -> bool {
        self.with(|state| !state.is_alarm_on() && !state.lanes[lane].is_jammed)
    }

    pub(super) fn presses(&self, lane: usize) {
        self.with(|state| state.lanes[lane].presses += 1);
    }

    pub(super) fn jam(&self, lane: usize, is_jammed: bool) {
        self.with(|state| state.lanes[lane].is_jammed = is_jammed);
    }

    pub(super) fn fire_alarm(&self, lane: usize, is_on: bool) {
        self.with(|state| {
            state.lanes[lane].is_alarm_on = is_on;
            // While it is on openings have no edge of their own: whose passage is seen until they have all run out is not clear.
            state.times_pass();
            let until = Instant::now() + UNCLEAR;
            for lane in &mut state.lanes {
                lane.unclear_until = Some(until);
                lane.openings.iter_mut().for_each(|opening| opening.is_clear = false);
            }
        });
    }

    /// Somebody begins to walk through a lane.
    pub(super) fn passes(&self, lane: usize) {
        self.with(|state| {
            state.times_pass();
            let now = Instant::now();
            let openings = &mut state.lanes[lane].openings;
            // Whether he passed just before or just after somebody's time was over, the gate sees better.
            let is_close = |opening: &Opening| now + TIE >= opening.until() && now <= opening.until() + TIE;
            if openings.iter().any(is_close) {
                for opening in openings.iter_mut() {
                    opening.is_clear = false;
                }
            }
            let Some(oldest) = openings.iter().position(|opening| now < opening.until()) else { return };
            let opening = openings.remove(oldest);
            if let Some(index) = opening.index.filter(|_| opening.is_clear) {
                state.shows[index].passage = Passage::Seen;
            }
        });
    }

    /// The program has ended: nobody waits for passages, and no press is remembered.
    pub(super) fn program_ends(&self) {
        self.with(|state| {
            for seen in &state.lanes {
                // That the opening came too late is shown before it is written down: the next start finds it unconfirmed, and charges.
                if let Some(shows) = seen.waiting.and_then(|index| state.shows.get_mut(index)) {
                    shows.shown = shows.shown.filter(|shown| *shown != Shown::Refused(Refusal::Late.as_str()));
                }
            }
        });
        self.nobody_waits_any_more(Shown::Unclear);
        self.with(|state| {
            state.times_pass();
            for lane in &mut state.lanes {
                lane.presses = 0;
                lane.openings.clear();
            }
        });
    }

    /// The program runs again, and finds the alarms as they are.
    pub(super) fn program_begins(&self, inputs: &[Inputs]) {
        let are_on = self.with(|state| state.lanes.iter().map(|lane| lane.is_alarm_on).collect::<Vec<_>>());
        for (inputs, is_on) in inputs.iter().zip(are_on) {
            inputs.fire_alarm(is_on);
        }
    }

    // ---- what the gate does --------------------------------------------------------------------------------------------------

    fn output(&self, lane: usize, output: &'static str, active: bool, reason: Option<&'static str>) -> io::Result<()> {
        let result = self.with(|state| {
            if output == "open" && state.lanes[lane].is_jammed {
                return Err(io::Error::other("jammed"));
            }
            match (output, active, reason) {
                ("open", true, _) => state.opens(lane),
                ("light_deny", true, Some(reason)) => state.refuses(lane, reason),
                _ => {}
            }
            Ok(())
        });
        self.0.answered.notify_waiters();
        result
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.state.lock().unwrap())
    }
}

impl LaneSeen {
    fn open(&mut self, at: Instant, index: Option<usize>) {
        let is_clear = self.has_sensor && self.unclear_until.is_none_or(|until| at > until);
        self.openings.push(Opening { at, index, is_clear });
    }
}

impl State {
    /// Whose time is long over has not passed.
    fn times_pass(&mut self) {
        let now = Instant::now();
        for lane in &mut self.lanes {
            lane.openings.retain(|opening| {
                let is_over = now > opening.until() + WRITTEN_WITHIN;
                if let Some(index) = opening.index.filter(|_| is_over && opening.is_clear) {
                    self.shows[index].passage = Passage::None;
                }
                !is_over
            });
        }
    }

    fn tell(&mut self, what: impl fmt::Display) {
        let at = self.began.elapsed().as_secs_f64();
        writeln!(self.trace.0.lock().unwrap(), "{at:>9.3}  {what}").unwrap();
    }

    fn is_wrong(&mut self, what: impl fmt::Display) {
        self.tell(format_args!("WRONG: {what}"));
        self.wrong.push(what.to_string());
    }

    fn is_alarm_on(&self) -> bool {
        self.lanes.iter().any(|lane| lane.is_alarm_on)
    }

    fn is_everybody_answered(&self) -> bool {
        self.lanes.iter().filter_map(|lane| lane.waiting).all(|index| self.shows[index].shown.is_some())
    }

    fn opens(&mut self, lane: usize) {
        if self.is_alarm_on() {
            return self.tell(format_args!("lane {lane}: held open"));
        }
        let now = Instant::now();
        if self.lanes[lane].presses > 0 {
            self.lanes[lane].presses -= 1;
            self.lanes[lane].open(now, None);
            return self.tell(format_args!("lane {lane}: opens for the button"));
        }
        let Some(index) = self.lanes[lane].waiting.filter(|index| self.shows[*index].shown.is_none()) else {
            return self.is_wrong(format_args!("lane {lane} opens for nobody"));
        };
        self.shows[index].shown = Some(Shown::Opened);
        self.lanes[lane].open(now, Some(index));
        self.tell(format_args!("lane {lane}: opens"));
        if !self.is_recorded(&self.shows[index].code.clone()) {
            self.is_wrong(format_args!("lane {lane} opens before its record is committed"));
        }
    }

    fn refuses(&mut self, lane: usize, reason: &'static str) {
        if ["tailgate", "intrusion"].contains(&reason) {
            return;
        }
        self.tell(format_args!("lane {lane}: refuses: {reason}"));
        if let Some(index) = self.lanes[lane].waiting {
            self.shows[index].shown.get_or_insert(Shown::Refused(reason));
        }
    }

    /// Whether the file says, to whoever opens it now, that this code was admitted and its turnstile has not opened.
    fn is_recorded(&self, code: &[u8]) -> bool {
        let digest = CodeDigest::of(code);
        let sql = "SELECT 1 FROM seen WHERE code_digest = ?1 AND (
             EXISTS (SELECT 1 FROM deduction d WHERE d.id = seen.deduction AND (d.opening = 'waiting' OR d.code_digest <> ?1))
             OR EXISTS (SELECT 1 FROM journey j WHERE j.id = seen.journey AND j.opening = 'waiting'))";
        self.ledger.prepare_cached(sql).and_then(|mut statement| statement.exists([digest.0])).unwrap()
    }
}
