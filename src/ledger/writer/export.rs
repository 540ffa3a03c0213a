//! Pages of an export, served as any other question of people.

use super::{Reply, Writer, read};
use crate::ledger::{ExportPage, ExportRequest, LedgerError, RemovedRequest, RemovedSum};

/// What `export` asks.
pub(in crate::ledger) enum ExportOp {
    Rows(ExportRequest, Reply<ExportPage>),
    Removed(RemovedRequest, Reply<Vec<RemovedSum>>),
}

impl ExportOp {
    pub(super) fn refuse(self, error: LedgerError) {
        match self {
            Self::Rows(_, reply) => drop(reply.send(Err(error))),
            Self::Removed(_, reply) => drop(reply.send(Err(error))),
        }
    }

    /// Whether an export begins with it: what was recorded before must be in the file.
    pub(super) fn is_first(&self) -> bool {
        matches!(self, Self::Rows(ExportRequest { after_id: 0, .. }, _))
    }
}

impl Writer {
    pub(super) fn serve_export(&mut self, op: ExportOp) {
        match op {
            ExportOp::Rows(request, reply) => {
                let page = read(&self.file, |store| store.export(&request));
                self.answer(reply, page);
            }
            ExportOp::Removed(request, reply) => {
                let sums = read(&self.file, |store| store.removed(&request));
                self.answer(reply, sums);
            }
        }
    }
}
