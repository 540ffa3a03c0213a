//! Joins the ledger to the uploader, and the ledger's bills to WeChat's requests.

use crate::{
    clock::Stamp,
    ledger::{Attempt, Bill, BodyMaker, LedgerError, NetworkLedger, Outcome},
    upload::{AttemptRecord, PendingRow, Queue, Settlement, Unavailable},
    wechat::{BodyTemplate, Deduction},
};

/// How the ledger gets the bytes of a request without knowing WeChat.
pub(super) fn body_maker(template: BodyTemplate) -> BodyMaker {
    Box::new(move |bill: &Bill<'_>| {
        template.body(&Deduction {
            order: bill.order.as_str(),
            code: bill.code,
            start_code: bill.start_code,
            total_fen: bill.total.0,
            original_fen: bill.original.0,
            start_utc_ms: bill.start_utc_ms,
            end_utc_ms: bill.end_utc_ms,
        })
    })
}

impl Queue for NetworkLedger {
    async fn load(&self, after_id: i64, limit: usize) -> Result<Vec<i64>, Unavailable> {
        self.pending(after_id, limit).await.map_err(unavailable)
    }

    async fn claim(&self, id: i64) -> Result<Option<PendingRow>, Unavailable> {
        let claimed = Self::claim(self, id).await.map_err(unavailable)?;
        Ok(claimed.map(|row| PendingRow { id: row.id, order: row.order, body: row.body, unknown_answers: row.unknown_answers }))
    }

    async fn is_pending(&self, id: i64) -> bool {
        !matches!(Self::claim(self, id).await, Ok(None))
    }

    async fn record(&self, record: AttemptRecord) -> Result<(), Unavailable> {
        let outcome = match record.settlement {
            Settlement::Accepted => Outcome::Accepted,
            Settlement::Parked { reason } => Outcome::Parked { reason: reason.as_str() },
            Settlement::StillPending => Outcome::StillPending,
        };
        let attempt = Attempt {
            id: record.id,
            is_counted: record.counted,
            is_doubtful: record.doubtful,
            is_unknown: record.unknown,
            outcome,
            answer: record.answer,
            at_utc_ms: Stamp::now().utc_ms,
        };
        self.attempt(attempt).await.map_err(unavailable)
    }

    async fn changed(&self) -> i64 {
        self.pending_since().await
    }
}

/// The ledger itself has told people why.
fn unavailable(_: LedgerError) -> Unavailable {
    Unavailable
}
