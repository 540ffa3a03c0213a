//! What people decide about single deductions, `queue retry` and `queue void`, and whether a row may have been sent, which is
//! what a `void` depends on.

use rusqlite::{OptionalExtension, params};

use super::Store;
use crate::ledger::OrderNumber;
use crate::ledger::types::{Decided, DeductionId, RetriedBatch, VoidOrder};

/// Rows that one step of `retry --all-parked` looks at: what a scan may have to wait for.
const RETRY_ROWS_MAX: i64 = 64;

/// What a decision about a row depends on.
struct Standing {
    id: DeductionId,
    state: String,
    has_body: bool,
    has_transaction: bool,
    attempts: u32,
    may_have_been_sent: bool,
}

impl Store {
    // ---- what may have been sent -------------------------------------------------------------------------------------------

    /// After an end that was no clean close, every row may have been sent that was recorded before it.
    pub(super) fn doubt_what_was_not_closed(&self) -> rusqlite::Result<()> {
        let doubt = "UPDATE delivery SET is_delivering = 0, doubtful_up_to = (SELECT ifnull(max(id), 0) FROM deduction)
             WHERE is_delivering = 1";
        self.connection.execute(doubt, []).map(drop)
    }

    /// Rows are handed out from now on.
    pub(in crate::ledger) fn begin_delivering(&self) -> rusqlite::Result<()> {
        self.connection.execute("UPDATE delivery SET is_delivering = 1", []).map(drop)
    }

    /// None is handed out any more but these, which have not come back and may have been sent.
    pub(in crate::ledger) fn end_delivering(&self, ids: impl IntoIterator<Item = DeductionId>) -> rusqlite::Result<()> {
        let mut mark = self.connection.prepare_cached("UPDATE deduction SET sent = 1 WHERE id = ?")?;
        ids.into_iter().try_for_each(|id| mark.execute([id]).map(drop))?;
        self.connection.execute("UPDATE delivery SET is_delivering = 0", []).map(drop)
    }

    // ---- decisions ---------------------------------------------------------------------------------------------------------

    /// parked → pending. The ID of the row, when it was done.
    pub(in crate::ledger) fn retry(
        &self,
        order: &OrderNumber,
        uid: u32,
        at_utc_ms: i64,
    ) -> rusqlite::Result<(Decided, Option<DeductionId>)> {
        let Some(row) = self.standing(order)? else { return Ok((Decided::NotFound, None)) };
        if let Some(refusal) = row.retry_refusal() {
            return Ok((Decided::Refused(format!("{order} {refusal}")), None));
        }
        self.retry_row(row.id, uid, at_utc_ms)?;
        Ok((Decided::Done, Some(row.id)))
    }

    /// [`Self::retry`] of the next parked rows above `after_id`, and the first that was.
    pub(in crate::ledger) fn retry_parked(
        &self,
        after_id: DeductionId,
        uid: u32,
        at_utc_ms: i64,
    ) -> rusqlite::Result<(RetriedBatch, Option<DeductionId>)> {
        let parked = self
            .connection
            .prepare_cached(
                "SELECT id, body IS NOT NULL AND transaction_id IS NULL FROM deduction
                 WHERE state = 'parked' AND state IN ('held', 'pending', 'unpaid', 'parked') AND id > ? ORDER BY id LIMIT ?",
            )?
            .query_map([after_id, RETRY_ROWS_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<(DeductionId, bool)>>>()?;
        let is_last = i64::try_from(parked.len()).is_ok_and(|seen| seen < RETRY_ROWS_MAX);
        let next_after_id = parked.last().filter(|_| !is_last).map(|(id, _)| *id);
        let retried: Vec<_> = parked.iter().filter(|(_, is_free)| *is_free).map(|(id, _)| *id).collect();
        retried.iter().try_for_each(|id| self.retry_row(*id, uid, at_utc_ms))?;
        let batch = RetriedBatch { retried: retried.len(), refused: parked.len() - retried.len(), next_after_id };
        Ok((batch, retried.first().copied()))
    }

    fn retry_row(&self, id: DeductionId, uid: u32, at_utc_ms: i64) -> rusqlite::Result<()> {
        self.look_at_all_ages_again();
        self.connection
            .prepare_cached("UPDATE deduction SET state = 'pending', reason = NULL, unknown_answers = 0, retried = 1 WHERE id = ?")?
            .execute([id])?;
        self.event(id, at_utc_ms, "retried", Some(&format!("retried by uid {uid}")))
    }

    /// held, parked, pending → void; `is_handed_out` tells of rows that are being sent at this moment.
    pub(in crate::ledger) fn void(
        &self,
        order: &VoidOrder,
        at_utc_ms: i64,
        is_handed_out: impl Fn(DeductionId) -> bool,
    ) -> rusqlite::Result<Decided> {
        let Some(mut row) = self.standing(&order.order)? else { return Ok(Decided::NotFound) };
        row.may_have_been_sent |= is_handed_out(row.id);
        if let Some(refusal) = row.void_refusal(order.even_if_sent) {
            return Ok(Decided::Refused(format!("{} {refusal}", order.order)));
        }
        let reason = order.reason.as_str();
        self.connection
            .prepare_cached("UPDATE deduction SET state = 'void', reason = ?2, settled_utc_ms = ?3 WHERE id = ?1")?
            .execute(params![row.id, reason, at_utc_ms])?;
        self.event(row.id, at_utc_ms, "void", Some(&format!("voided by uid {}: {reason}", order.uid)))?;
        Ok(Decided::Done)
    }

    fn standing(&self, order: &OrderNumber) -> rusqlite::Result<Option<Standing>> {
        self.connection
            .prepare_cached(
                "SELECT id, state, body IS NOT NULL, transaction_id IS NOT NULL, attempts,
                     sent OR (body IS NOT NULL AND id <= (SELECT doubtful_up_to FROM delivery))
                 FROM deduction WHERE order_number = ?",
            )?
            .query_row([order.as_str()], |row| {
                let (id, state, has_body, has_transaction, attempts, may_have_been_sent) = row.try_into()?;
                Ok(Standing { id, state, has_body, has_transaction, attempts, may_have_been_sent })
            })
            .optional()
    }
}

impl Standing {
    /// Why this row is not sent again; continues "ORDER …".
    fn retry_refusal(&self) -> Option<String> {
        if self.state != "parked" {
            return Some(format!("is {}, and only parked orders are sent again", self.state));
        }
        let refusal = if self.has_transaction {
            "has a transaction_id, so WeChat has charged it; look it up at WeChat"
        } else if !self.has_body {
            "has no request that could be sent; void it, and charge the passenger otherwise"
        } else {
            return None;
        };
        Some(refusal.to_owned())
    }

    /// Why this row does not become void; continues "ORDER …". What was parked by a clear refusal and never sent otherwise is not
    /// charged by WeChat; whatever else was attempted may be, and what it answered last says little about what it took before.
    fn void_refusal(&self, even_if_sent: bool) -> Option<String> {
        if !["held", "parked", "pending"].contains(&self.state.as_str()) {
            return Some(format!("is {}, and only held, parked and pending orders can become void", self.state));
        }
        let is_being_sent = self.attempts > 0 && self.state == "pending";
        if even_if_sent || !(is_being_sent || self.may_have_been_sent) {
            return None;
        }
        let why = if self.attempts > 0 { "was sent" } else { "may have been sent" };
        Some(format!("{why}, so WeChat may charge it all the same; look it up there, then add --even-if-sent"))
    }
}
