//! Tells people, once per episode, that too much is recorded but not yet accepted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{Writer, read};
use crate::{
    clock::{Stamp, monotonic_now},
    config::AtLimit,
    journey::{Fen, GateExposed, Limits, Reached},
};

/// An alarm about a passenger's limit lasts so long after the last tap that reached it: nobody keeps a list of passengers.
const PASSENGER_ALARM: Duration = Duration::from_secs(600);
/// From one look at the gate's limits to the next.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The alarms about exposure, one sentence each.
pub(in crate::ledger) type Alarms = Vec<Arc<str>>;

/// Which limits are reached.
pub(super) struct ExposureWatch {
    limits: Option<Limits>,
    /// What one more trip adds.
    fare: Fen,
    gate: Option<Reached>,
    passenger_at: Option<Instant>,
    look_at: Instant,
    alarms: watch::Sender<Alarms>,
}

impl ExposureWatch {
    pub(super) fn new(limits: Option<Limits>, fare: Fen, alarms: watch::Sender<Alarms>) -> Self {
        Self { limits, fare, gate: None, passenger_at: None, look_at: monotonic_now(), alarms }
    }

    /// The settings have changed.
    pub(super) fn set_limits(&mut self, limits: Option<Limits>, fare: Fen) {
        (self.limits, self.fare) = (limits, fare);
        self.tell();
    }

    /// When the limits are looked at next, if there are any.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.limits.map(|_| self.look_at)
    }

    /// A tap reached a limit.
    pub(super) fn reached(&mut self, reached: Reached) {
        match reached {
            Reached::Passenger => self.passenger_at = Some(monotonic_now()),
            Reached::GateFen | Reached::Oldest => self.gate = Some(reached),
        }
        self.tell();
    }

    /// What the gate has at this moment.
    fn look(&mut self, limits: &Limits, gate: &GateExposed) {
        if limits.is_clear(gate, self.fare) {
            self.gate = None;
        } else if let Some(reached) = limits.reached_by_gate(gate, self.fare) {
            self.gate = Some(reached);
        }
        self.passenger_at = self.passenger_at.filter(|at| monotonic_now() < *at + PASSENGER_ALARM);
        self.tell();
    }

    fn tell(&self) {
        let alarms = self.sentences();
        self.alarms.send_if_modified(|told| {
            for alarm in alarms.iter().filter(|alarm| !told.contains(alarm)) {
                log::error!("{alarm}");
            }
            if alarms.is_empty() && !told.is_empty() {
                log::info!("exposure: what is not yet accepted is below its limits again");
            }
            let is_new = *told != alarms;
            *told = alarms;
            is_new
        });
    }

    fn sentences(&self) -> Alarms {
        let Some(limits) = &self.limits else { return Alarms::new() };
        let closed = |who: &str| match limits.at_limit {
            AtLimit::Deny => format!("; {who} entries and single taps are refused"),
            AtLimit::Alarm => String::new(),
        };
        let gate = self.gate.map(|reached| match reached {
            Reached::Oldest => format!(
                "exposure: a deduction waits longer than [exposure] oldest{}; look at why the upload stands still",
                closed("all")
            ),
            _ => format!(
                "exposure: what is not yet accepted reaches [exposure] gate_fen{}; look at the upload and at parked deductions",
                closed("all")
            ),
        });
        let passenger = self.passenger_at.map(|_| {
            let closed = closed("the passenger's");
            format!("exposure: a passenger reaches a limit of [exposure]{closed}; look at pending and parked deductions")
        });
        gate.into_iter().chain(passenger).map(Arc::from).collect()
    }
}

impl Writer {
    /// Looks at the gate's limits, when it is time to.
    pub(super) fn watch_exposure(&mut self, now: Instant) {
        let Some(limits) = self.exposure.limits.filter(|_| now >= self.exposure.look_at) else { return };
        self.exposure.look_at = now + LOOK_EVERY;
        if let Ok(gate) = read(&self.file, |store| store.gate_exposed(&Stamp::now())) {
            self.exposure.look(&limits, &gate);
        }
    }
}
