//! What the ledger does by itself, in moments when the gate is quiet: parking what is too old to be sent.
//!
//! Each step looks at a few rows and writes, if anything, one small commit, so that a passenger who comes just then waits for no
//! more than that; the next step waits for a quiet moment again.

use std::time::{Duration, Instant};

use super::{File, ReadError, Writer, read};
use crate::{clock::Stamp, ledger::types::DeductionId};

/// From one look for old rows to the next.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// From one step to the next while there is more to look at.
const STEP_EVERY: Duration = Duration::from_millis(100);

/// How far the looks have come.
pub(super) struct Upkeep {
    due_at: Instant,
    /// Pending rows up to here were looked at.
    pending_seen: DeductionId,
    /// Whether the journal was told of rows that are parked for their age, until a look finds none.
    has_told: bool,
}

impl Upkeep {
    pub(super) fn new() -> Self {
        Self { due_at: Instant::now(), pending_seen: 0, has_told: false }
    }

    pub(super) fn wake_at(&self) -> Instant {
        self.due_at
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
        if !self.deferred.is_empty() {
            self.commit(Vec::new());
        }
        self.watch_exposure();
        let is_more = self.deferred.is_empty() && self.park_step();
        self.upkeep.due_at = now + if is_more { STEP_EVERY } else { LOOK_EVERY };
    }

    /// Parks some of the rows that are older than `max_age`; whether there are more to look at.
    fn park_step(&mut self) -> bool {
        let (after_id, max_age_ms, now) = (self.upkeep.pending_seen, self.keeping.max_age_ms, Stamp::now());
        let step = match read(&self.file, |store| store.over_age(after_id, max_age_ms, &now)) {
            Ok(step) => step,
            Err(ReadError::File(error)) => {
                self.fail(&error);
                return false;
            }
            // A row that cannot be read is parked when it is claimed.
            Err(ReadError::Closed | ReadError::Row(_)) => return false,
        };
        self.upkeep.pending_seen = step.next_after_id.unwrap_or(0);
        // What is being sent at this moment is judged by its answer.
        let is_free = |id: &DeductionId| !self.handed_out.contains_key(id) && !self.waiting_openings.contains(id);
        let due: Vec<_> = step.due.into_iter().filter(is_free).collect();
        if due.is_empty() {
            self.upkeep.has_told &= after_id != 0 || step.next_after_id.is_some();
        } else {
            self.park_over_age(&due);
        }
        step.next_after_id.is_some()
    }

    /// Parks these rows; the journal is told once per episode, for `queue list` shows each.
    pub(super) fn park_over_age(&mut self, ids: &[DeductionId]) {
        let at_utc_ms = Stamp::now().utc_ms;
        if self.write_for(|store| ids.iter().try_for_each(|id| store.park_over_age(*id, at_utc_ms))).is_err() {
            return;
        }
        if !std::mem::replace(&mut self.upkeep.has_told, true) {
            log::error!(
                "deductions are older than [upload] max_age and are parked, not sent; see: faregate queue list --state parked"
            );
        }
    }
}
