//! What the ledger does by itself with rows that have become old.

use rusqlite::params;

use super::{CREATED, Store};
use crate::{clock::Stamp, ledger::types::DeductionId};

/// Rows that one step looks at: what a scan may have to wait for.
const STEP_ROWS_MAX: i64 = 64;

/// What one step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ledger) struct Step {
    /// The rows that are due.
    pub(in crate::ledger) due: Vec<DeductionId>,
    /// Where the next step begins; `None` after the last row.
    pub(in crate::ledger) next_after_id: Option<DeductionId>,
}

impl Store {
    /// The next pending rows above `after_id` that are older than `max_age_ms` and that no person had sent again.
    pub(in crate::ledger) fn over_age(&self, after_id: DeductionId, max_age_ms: i64, now: &Stamp) -> rusqlite::Result<Step> {
        let rows = self
            .connection
            .prepare_cached(&format!(
                "SELECT id, retried, {CREATED} FROM deduction
                 WHERE state = 'pending' AND state IN ('held', 'pending', 'unpaid', 'parked') AND id > ? ORDER BY id LIMIT ?"
            ))?
            .query_map([after_id, STEP_ROWS_MAX], |row| {
                let is_due = !row.get::<_, bool>("retried")? && self.age(row, now)?.is_surely_over(max_age_ms);
                Ok((row.get(0)?, is_due))
            })?
            .collect::<rusqlite::Result<Vec<(DeductionId, bool)>>>()?;
        let is_full = i64::try_from(rows.len()).is_ok_and(|seen| seen == STEP_ROWS_MAX);
        let next_after_id = rows.last().filter(|_| is_full).map(|(id, _)| *id);
        Ok(Step { due: rows.into_iter().filter(|(_, is_due)| *is_due).map(|(id, _)| id).collect(), next_after_id })
    }

    /// pending → parked, because of `upload.max_age`.
    pub(in crate::ledger) fn park_over_age(&self, id: DeductionId, at_utc_ms: i64) -> rusqlite::Result<()> {
        let changed = self
            .connection
            .prepare_cached("UPDATE deduction SET state = 'parked', reason = ?2 WHERE id = ?1 AND state = 'pending'")?
            .execute(params![id, OVER_AGE])?;
        if changed == 1 { self.event(id, at_utc_ms, "parked", Some(OVER_AGE)) } else { Ok(()) }
    }
}

/// The reason of a row that was parked for its age.
const OVER_AGE: &str = "max-age";
