//! What is recorded but not yet accepted: look-ups in indexes and running sums, whatever the ledger holds.

use rusqlite::{OptionalExtension, params};

use super::{CREATED, Store};
use crate::{
    clock::Stamp,
    journey::{Exposed, Fen, GateExposed, Limits},
};

/// One passenger's rows, up to as many as are refused in any case.
pub(in crate::ledger) const OF_PASSENGER: &str = "SELECT count(*), ifnull(sum(total_fen), 0) FROM
     (SELECT total_fen FROM deduction WHERE passenger = ? AND state IN ('held', 'pending', 'parked') LIMIT ?)";

impl Store {
    pub(super) fn exposed(&self, passenger: &[u8], limits: &Limits, now: &Stamp) -> rusqlite::Result<Exposed> {
        let (passenger_count, fen) = self
            .connection
            .prepare_cached(OF_PASSENGER)?
            .query_row(params![passenger, limits.passenger_count], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Exposed { passenger_count, passenger: Fen(fen), gate: self.gate_exposed(now)? })
    }

    pub(in crate::ledger) fn gate_exposed(&self, now: &Stamp) -> rusqlite::Result<GateExposed> {
        let oldest = self
            .connection
            .prepare_cached(&format!(
                "SELECT {CREATED} FROM deduction WHERE id = (SELECT min(id) FROM (
                     SELECT min(id) AS id FROM deduction WHERE state = 'held' AND state IN ('held', 'pending', 'unpaid', 'parked')
                     UNION ALL
                     SELECT min(id) FROM deduction WHERE state = 'pending' AND state IN ('held', 'pending', 'unpaid', 'parked')))"
            ))?
            .query_row([], |row| self.age(row, now))
            .optional()?;
        Ok(GateExposed { total: Fen(self.at_risk_fen()?), oldest })
    }

    /// Fen that are recorded but not yet accepted.
    pub(super) fn at_risk_fen(&self) -> rusqlite::Result<i64> {
        self.connection
            .prepare_cached("SELECT ifnull(sum(fen), 0) FROM tally WHERE state IN ('held', 'pending', 'parked')")?
            .query_row([], |row| row.get(0))
    }
}
