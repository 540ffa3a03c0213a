//! What people decide about rows, and which rows are in the hands of the uploader meanwhile.

use std::collections::{HashMap, HashSet};

use super::{Deferred, Reply, Writer};
use crate::{
    clock::Stamp,
    ledger::{
        order::OrderNumber,
        types::{Attempt, Decided, DeductionId, LedgerError, RetriedBatch, VoidOrder},
    },
};

/// What is in the hands of the uploader.
#[derive(Default)]
pub(super) struct Delivering {
    /// Rows that have not come back, and whether an earlier request for them may have left this machine.
    handed_out: HashMap<DeductionId, bool>,
    /// Whether the file says that this run hands out rows.
    is_said: bool,
}

impl Delivering {
    pub(super) fn hand_out(&mut self, id: DeductionId, was_sent: bool) {
        self.handed_out.insert(id, was_sent);
    }

    /// A file that is opened holds all that was handed out before for doubtful, and must be told of what comes.
    pub(super) fn file_was_opened(&mut self) {
        self.is_said = false;
    }

    pub(super) fn has(&self, id: DeductionId) -> bool {
        self.handed_out.contains_key(&id)
    }
}

impl Writer {
    pub(super) fn retry(&mut self, order: &OrderNumber, uid: u32, reply: Reply<Decided>) {
        let result = self.write_for(|store| store.retry(order, uid, Stamp::now().utc_ms));
        if let Ok((Decided::Done, Some(id))) = &result {
            log::info!("order {order} is sent again: retried by uid {uid}");
            self.announce(*id);
        }
        // Whoever asked may have gone; what was decided stands.
        let _ = reply.send(result.map(|(decided, _)| decided));
    }

    pub(super) fn retry_parked(&mut self, after_id: DeductionId, uid: u32, reply: Reply<RetriedBatch>) {
        let result = self.write_for(|store| store.retry_parked(after_id, uid, Stamp::now().utc_ms));
        if let Ok((batch, Some(first))) = &result {
            log::info!("{} parked orders are sent again: retried by uid {uid}", batch.retried);
            self.announce(*first);
        }
        let _ = reply.send(result.map(|(batch, _)| batch));
    }

    pub(super) fn void(&mut self, order: &VoidOrder, reply: Reply<Decided>) {
        let handed_out: HashSet<_> = self.delivering.handed_out.keys().copied().collect();
        let result = self.write_for(|store| store.void(order, Stamp::now().utc_ms, |id| handed_out.contains(&id)));
        if let Ok(Decided::Done) = &result {
            log::info!("order {} is void: voided by uid {}", order.order, order.uid);
        }
        let _ = reply.send(result);
    }

    /// A row came back from the uploader. If no request for it has ever left the machine, nothing must say so.
    pub(super) fn come_back(&mut self, attempt: &Attempt) {
        let was_sent = self.delivering.handed_out.remove(&attempt.id).unwrap_or(true);
        if attempt.is_counted || was_sent {
            return;
        }
        let is_claim = |op: &Deferred| matches!(op, Deferred::Claimed(id) if *id == attempt.id);
        match self.deferred.iter().position(is_claim) {
            // An outage of days probes all day: a claim that comes back within its second leaves no trace on the card.
            Some(place) => drop(self.deferred.remove(place)),
            None => self.defer(Deferred::Unclaimed(attempt.id)),
        }
        if self.deferred.is_empty() {
            self.deferred_since = None;
        }
    }

    /// Says in the file, before the first row of this run is handed out, that rows are; if it cannot be said, none is.
    pub(super) fn begin_delivering(&mut self) -> Result<(), LedgerError> {
        if !self.delivering.is_said {
            self.write_for(|store| store.set_delivering(true))?;
            self.delivering.is_said = true;
        }
        Ok(())
    }

    /// At a clean close: the file knows all that was handed out.
    pub(super) fn end_delivering(&mut self) {
        if self.delivering.is_said {
            self.write(|store| store.set_delivering(false));
        }
    }
}
