//! What people decide about rows, and which rows are in the hands of the uploader meanwhile.

use std::collections::BTreeSet;

use super::{Reply, Writer};
use crate::{
    clock::Stamp,
    ledger::{
        order::OrderNumber,
        store::Store,
        types::{Decided, DeductionId, LedgerError, RetriedBatch, VoidOrder},
    },
};

/// What is in the hands of the uploader.
#[derive(Default)]
pub(super) struct Delivering {
    /// Rows that have not come back.
    handed_out: BTreeSet<DeductionId>,
    /// Whether the file says that this run hands out rows.
    is_said: bool,
}

impl Delivering {
    pub(super) fn hand_out(&mut self, id: DeductionId) {
        self.handed_out.insert(id);
    }

    pub(super) fn come_back(&mut self, id: DeductionId) {
        self.handed_out.remove(&id);
    }

    /// A file that is opened holds all that was handed out before for doubtful, and must be told of what comes.
    pub(super) fn file_was_opened(&mut self) {
        self.is_said = false;
    }

    pub(super) fn has(&self, id: DeductionId) -> bool {
        self.handed_out.contains(&id)
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
        let handed_out = self.delivering.handed_out.clone();
        let result = self.write_for(|store| store.void(order, Stamp::now().utc_ms, |id| handed_out.contains(&id)));
        if let Ok(Decided::Done) = &result {
            log::info!("order {} is void: voided by uid {}", order.order, order.uid);
        }
        let _ = reply.send(result);
    }

    /// Says in the file, before the first row of this run is handed out, that rows are; if it cannot be said, none is.
    pub(super) fn begin_delivering(&mut self) -> Result<(), LedgerError> {
        if !self.delivering.is_said {
            self.write_for(Store::begin_delivering)?;
            self.delivering.is_said = true;
        }
        Ok(())
    }

    /// At a clean close: the file knows all that was handed out.
    pub(super) fn end_delivering(&mut self) {
        if self.delivering.is_said {
            let handed_out = std::mem::take(&mut self.delivering.handed_out);
            self.write(|store| store.end_delivering(handed_out));
        }
    }
}
