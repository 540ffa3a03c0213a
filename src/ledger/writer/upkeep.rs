//! What the ledger does by itself, in moments when the gate is quiet: parking what is too old to be sent, removing what was kept
//! long enough.
//!
//! Each step looks at a few rows and writes, if anything, one small commit, so that a passenger who comes just then waits for no
//! more than that; the next step waits for a quiet moment again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rusqlite::Result as Sql;

use super::{File, ReadError, Writer, read};
use crate::{
    clock::{Stamp, monotonic_now},
    ledger::store::{Context, Step, Store},
};

/// From one look for old rows to the next.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// From one step to the next while there is more to look at.
const STEP_EVERY: Duration = Duration::from_millis(100);

/// What is looked for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// `upload.max_age`
    OverAge,
    /// `ledger.keep`
    Settled,
    /// `ledger.keep_denied`
    Denied,
    /// `ledger.keep_denied`, of what a lane noted
    Notes,
    /// `fare.max_journey`
    Overdue,
    /// `fare.max_journey`, of exits without entry
    Unmatched,
    /// `ledger.keep`, of journeys
    Ended,
}

impl Kind {
    const ALL: [Self; 7] = [Self::OverAge, Self::Overdue, Self::Unmatched, Self::Settled, Self::Ended, Self::Denied, Self::Notes];
}

/// A look for old rows, and how far it has come.
#[derive(Debug, Clone, Copy)]
struct Look {
    kind: Kind,
    after_id: i64,
    over_up_to: i64,
}

/// The looks.
pub(super) struct Upkeep {
    due_at: Instant,
    /// Those that have more to do now; each takes its turn.
    busy: VecDeque<Look>,
    /// Those that have seen everything.
    idle: Vec<Look>,
    /// Whether rows were parked for their age since the last look for them was complete.
    has_parked: bool,
    /// Whether the journal was told of it; until nothing was parked from one look to the next.
    has_told: bool,
}

impl Upkeep {
    pub(super) fn new() -> Self {
        let busy = Kind::ALL.map(|kind| Look { kind, after_id: 0, over_up_to: 0 }).into();
        Self { due_at: monotonic_now(), busy, idle: Vec::new(), has_parked: false, has_told: false }
    }

    pub(super) fn wake_at(&self) -> Instant {
        self.due_at
    }

    /// Takes a look back after a step that found `step`.
    fn put_back(&mut self, mut look: Look, step: &Step) {
        look.over_up_to = step.over_up_to;
        look.after_id = step.next_after_id.unwrap_or(0);
        if step.next_after_id.is_some() {
            return self.busy.push_back(look);
        }
        if matches!(look.kind, Kind::OverAge) {
            self.has_told &= std::mem::take(&mut self.has_parked);
        }
        self.idle.push(look);
    }
}

impl Writer {
    /// One step, when it is due and the gate is quiet.
    pub(super) fn keep_up(&mut self, now: Instant) {
        if now < self.upkeep.due_at || !matches!(self.file, File::Open(_)) {
            return;
        }
        if let Some(quiet_at) = self.checkpointer.quiet_at(now) {
            self.upkeep.due_at = quiet_at;
            return;
        }
        // What is deferred may settle the rows that are looked at.
        if self.deferred_since.is_some() {
            self.commit(Vec::new());
        }
        self.upkeep.due_at = now + STEP_EVERY;
        if self.deferred_since.is_some() {
            return;
        }
        if self.upkeep.busy.is_empty() {
            self.upkeep.busy.extend(self.upkeep.idle.drain(..));
        }
        if let Some(look) = self.upkeep.busy.pop_front() {
            let step = self.take_step(&look);
            self.upkeep.put_back(look, &step);
        }
        if self.upkeep.busy.is_empty() {
            self.upkeep.due_at = now + LOOK_EVERY;
        }
    }

    /// Finds the next old rows and does with them what is to be done; a file that fails ends the round.
    fn take_step(&mut self, look: &Look) -> Step {
        let none = Step { due: Vec::new(), next_after_id: None, over_up_to: look.over_up_to };
        let (keeping, now, context) = (self.keeping, Stamp::now(), self.context.clone());
        let max_journey_ms = context.rules.holes.max_journey_ms;
        let found = read(&self.file, |store| match look.kind {
            Kind::OverAge => store.over_age(look.after_id, keeping.max_age_ms, &now),
            Kind::Settled => store.settled_over(look.after_id, keeping.keep_ms, &now, look.over_up_to),
            Kind::Denied => store.denied_over(look.after_id, keeping.keep_denied_ms, &now, look.over_up_to),
            Kind::Notes => store.notes_over(look.after_id, keeping.keep_denied_ms, &now, look.over_up_to),
            Kind::Overdue => store.overdue_journeys(look.after_id, &context, &now),
            Kind::Unmatched => store.unmatched_over(look.after_id, max_journey_ms, &now),
            Kind::Ended => store.ended_journeys_over(look.after_id, keeping.keep_ms, &now, look.over_up_to),
        });
        let mut step = match found {
            Ok(step) => step,
            Err(ReadError::File(error)) => {
                self.fail(&error);
                return none;
            }
            // A row that cannot be read stays where it is.
            Err(ReadError::Closed | ReadError::Row(_)) => return none,
        };
        let is_done = match look.kind {
            Kind::OverAge => {
                // What is being sent at this moment is judged by its answer.
                step.due.retain(|id| !self.delivering.has(*id) && !self.waiting_openings.contains(id));
                self.park_over_age(&step.due)
            }
            Kind::Settled => self.each(&step.due, Store::remove_settled),
            Kind::Denied => self.each(&step.due, Store::remove_denied),
            Kind::Notes => self.each(&step.due, Store::remove_note),
            Kind::Overdue => self.give_up(&step.due, &context, &now),
            Kind::Unmatched => self.each(&step.due, |store, id| store.park_unmatched(id, now.utc_ms)),
            Kind::Ended => self.each(&step.due, Store::remove_journey),
        };
        if is_done { step } else { none }
    }

    /// Parks these rows; the journal is told once per episode, for `queue list` shows each.
    pub(super) fn park_over_age(&mut self, ids: &[i64]) -> bool {
        let at_utc_ms = Stamp::now().utc_ms;
        let is_done = self.each(ids, |store, id| store.park_over_age(id, at_utc_ms));
        if !is_done || ids.is_empty() {
            return is_done;
        }
        self.upkeep.has_parked = true;
        if !std::mem::replace(&mut self.upkeep.has_told, true) {
            log::error!(
                "deductions are older than [upload] max_age and are parked, not sent; see: faregate queue list --state parked"
            );
        }
        is_done
    }

    /// Gives these journeys up, and tells the uploader of what is to be charged for them.
    fn give_up(&mut self, ids: &[i64], context: &Context, now: &Stamp) -> bool {
        if ids.is_empty() {
            return true;
        }
        // One that is refused stops none of the others.
        let sweep =
            |store: &Store| -> Sql<Vec<_>> { ids.iter().map(|id| store.step(|store| store.sweep(*id, context, now))).collect() };
        let Ok(swept) = self.write_for(sweep) else { return false };
        let (mut given_up, mut first_due) = (0, None);
        for due in swept {
            match due {
                Ok(due) => {
                    given_up += 1;
                    first_due = first_due.or(due);
                }
                Err(error) => log::error!("a journey cannot be given up, which is a fault of this program: {error}"),
            }
        }
        log::info!("{given_up} journeys are older than [fare] max_journey and have no exit; see: faregate journeys list");
        if let Some(first) = first_due {
            self.announce(first);
        }
        true
    }

    /// Does something to each of these rows, in one commit.
    fn each(&mut self, ids: &[i64], work: impl Fn(&Store, i64) -> Sql<()>) -> bool {
        ids.is_empty() || self.write_for(|store| ids.iter().try_for_each(|id| work(store, *id))).is_ok()
    }
}
