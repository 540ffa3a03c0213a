//! What the ledger does by itself with rows that have become old.

use rusqlite::{Row, params};

use super::{CREATED, Store};
use crate::{clock::Stamp, journey::Age, ledger::types::DeductionId};

/// Rows that one step looks at: what a scan may have to wait for.
pub(super) const STEP_ROWS_MAX: usize = 64;
/// Rows that somebody must still do something about: what the index `deduction_open` holds.
pub(super) const OPEN: &str = "state IN ('held', 'pending', 'unpaid', 'parked')";
/// The reason of a row that was parked for its age.
const OVER_AGE: &str = "max-age";

/// What one step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ledger) struct Step {
    /// The rows that are due.
    pub(in crate::ledger) due: Vec<i64>,
    /// Where the next step begins; `None` when no later row can be due.
    pub(in crate::ledger) next_after_id: Option<i64>,
    /// Every row up to this one is surely over its age: rows are recorded one after the other.
    pub(in crate::ledger) over_up_to: i64,
}

/// A row that a step looks at.
struct Aged {
    id: i64,
    age: Age,
    /// Whether anything but its age stands in the way.
    is_free: bool,
}

impl Store {
    /// The next pending rows above `after_id` that are surely older than `max_age_ms`, each by its own clock, and that no person
    /// had sent again.
    pub(in crate::ledger) fn over_age(&self, after_id: DeductionId, max_age_ms: i64, now: &Stamp) -> rusqlite::Result<Step> {
        let sql = format!(
            "SELECT id, NOT retried AS is_free, {CREATED} FROM deduction WHERE state = 'pending' AND {OPEN} AND id > ? ORDER BY id LIMIT ?"
        );
        self.step_each(&sql, after_id, max_age_ms, now)
    }

    /// The next rows of a query that are surely older than `limit_ms`, each by its own clock, however old those around it are.
    pub(super) fn step_each(&self, sql: &str, after_id: i64, limit_ms: i64, now: &Stamp) -> rusqlite::Result<Step> {
        let rows = self.aged(sql, after_id, now)?;
        let due = rows.iter().filter(|row| row.is_free && row.age.is_surely_over(limit_ms)).map(|row| row.id).collect();
        Ok(Step { due, ..step(&rows, limit_ms, 0) })
    }

    /// The next rows of a query that are older than `limit_ms` by their own clocks or by a later row's.
    pub(super) fn step_in_order(
        &self,
        sql: &str,
        after_id: i64,
        limit_ms: i64,
        now: &Stamp,
        over_up_to: i64,
    ) -> rusqlite::Result<Step> {
        Ok(step(&self.aged(sql, after_id, now)?, limit_ms, over_up_to))
    }

    /// The next settled rows above `after_id` that are older than `keep_ms`, and were not settled later than that. The newest row
    /// stays, so that its ID is not given away again.
    pub(in crate::ledger) fn settled_over(
        &self,
        after_id: DeductionId,
        keep_ms: i64,
        now: &Stamp,
        over_up_to: DeductionId,
    ) -> rusqlite::Result<Step> {
        let settled_before = now.utc_ms.saturating_sub(keep_ms);
        let sql = format!(
            "SELECT id, ifnull(settled_utc_ms, 0) < {settled_before} AND id < (SELECT max(id) FROM deduction) AS is_free, {CREATED}
             FROM deduction INDEXED BY deduction_settled WHERE state IN ('paid', 'void') AND id > ? ORDER BY id LIMIT ?"
        );
        self.step_in_order(&sql, after_id, keep_ms, now, over_up_to)
    }

    /// The next refused scans above `after_id` that are older than `keep_ms`.
    pub(in crate::ledger) fn denied_over(
        &self,
        after_id: i64,
        keep_ms: i64,
        now: &Stamp,
        over_up_to: i64,
    ) -> rusqlite::Result<Step> {
        let sql = "SELECT id, 1 AS is_free, boot, at_boottime_ms, at_utc_ms, clock_synchronized FROM denied WHERE id > ? ORDER BY id LIMIT ?";
        self.step_in_order(sql, after_id, keep_ms, now, over_up_to)
    }

    fn aged(&self, sql: &str, after_id: i64, now: &Stamp) -> rusqlite::Result<Vec<Aged>> {
        let aged = |row: &Row<'_>| Ok(Aged { id: row.get("id")?, age: self.age(row, now)?, is_free: row.get("is_free")? });
        let limit = i64::try_from(STEP_ROWS_MAX).unwrap_or(i64::MAX);
        // Not cached: these run every few seconds at most, and the cache is the scans'.
        self.connection.prepare(sql)?.query_map([after_id, limit], aged)?.collect()
    }

    /// pending → parked, because of `upload.max_age`.
    pub(in crate::ledger) fn park_over_age(&self, id: DeductionId, at_utc_ms: i64) -> rusqlite::Result<()> {
        let changed = self
            .connection
            .prepare_cached("UPDATE deduction SET state = 'parked', reason = ?2 WHERE id = ?1 AND state = 'pending'")?
            .execute(params![id, OVER_AGE])?;
        if changed == 1 { self.event(id, at_utc_ms, "parked", Some(OVER_AGE)) } else { Ok(()) }
    }

    /// Adds a settled row to the sums of its day, and removes it with its story.
    pub(in crate::ledger) fn remove_settled(&self, id: DeductionId) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO daily (day, state, line, deductions, original_fen, total_fen, paid_fen)
                 SELECT date(created_utc_ms / 1000 + 28800, 'unixepoch'), state, line, 1, original_fen, total_fen, ifnull(paid_fen, 0)
                 FROM deduction WHERE id = ?
                 ON CONFLICT (day, state, line) DO UPDATE SET deductions = deductions + 1,
                     original_fen = original_fen + excluded.original_fen, total_fen = total_fen + excluded.total_fen,
                     paid_fen = paid_fen + excluded.paid_fen",
            )?
            .execute([id])?;
        self.connection.prepare_cached("DELETE FROM event WHERE deduction = ?")?.execute([id])?;
        self.connection.prepare_cached("DELETE FROM deduction WHERE id = ?")?.execute([id]).map(drop)
    }

    pub(in crate::ledger) fn remove_denied(&self, id: i64) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM denied WHERE id = ?")?.execute([id]).map(drop)
    }
}

/// What follows from rows in the order of their recording, when every one up to `over_up_to` is known to be over `limit_ms`. A row
/// whose own clock tells nothing is over when a later one is.
fn step(rows: &[Aged], limit_ms: i64, over_up_to: i64) -> Step {
    let is_over = |row: &&Aged| row.age.is_surely_over(limit_ms);
    let over_up_to = rows.iter().filter(is_over).map(|row| row.id).fold(over_up_to, i64::max);
    let due = rows.iter().filter(|row| row.is_free && row.id <= over_up_to).map(|row| row.id).collect();
    let is_at_young = rows.iter().any(|row| row.id > over_up_to && row.age.is_sure());
    let next_after_id = rows.last().filter(|_| rows.len() == STEP_ROWS_MAX && !is_at_young).map(|row| row.id);
    Step { due, next_after_id, over_up_to }
}
