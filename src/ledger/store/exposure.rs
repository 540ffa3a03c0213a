//! What is recorded but not yet accepted: look-ups in indexes and running sums, whatever the ledger holds.

use rusqlite::params;

use super::{CREATED, Store};
use crate::{
    clock::Stamp,
    journey::{Age, Exposed, Fen, GateExposed, Limits},
    ledger::types::DeductionId,
};

/// The states whose age is limited.
const AGEING: [&str; 2] = ["held", "pending"];
/// Rows that one look passes over because their clocks tell nothing; the next look begins behind them.
const UNSURE_ROWS_MAX: usize = 64;

/// Rows of each of [`AGEING`] up to which no age is sure, for as long as the machine's clock stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unsure {
    up_to: [DeductionId; AGEING.len()],
    is_synchronized: bool,
}

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
        Ok(GateExposed { total: Fen(self.at_risk_fen()?), oldest: self.oldest_sure_age(now)? })
    }

    /// The age of the oldest row whose clock can tell it: one whose clock cannot must not hide the others.
    fn oldest_sure_age(&self, now: &Stamp) -> rusqlite::Result<Option<Age>> {
        let mut unsure = self.unsure.get();
        if unsure.is_synchronized != now.synchronized {
            unsure = Unsure { is_synchronized: now.synchronized, ..Unsure::default() };
        }
        let mut oldest: Option<(DeductionId, Age)> = None;
        for (state, up_to) in AGEING.into_iter().zip(&mut unsure.up_to) {
            let ages = self.ages_above(state, *up_to, now)?;
            let sure = ages.iter().copied().find(|(_, age)| age.is_sure());
            if let (None, [.., (last, _)]) = (sure, &ages[..]) {
                *up_to = *last;
            }
            oldest = oldest.into_iter().chain(sure).min_by_key(|(id, _)| *id);
        }
        self.unsure.set(unsure);
        Ok(oldest.map(|(_, age)| age))
    }

    fn ages_above(&self, state: &str, after_id: DeductionId, now: &Stamp) -> rusqlite::Result<Vec<(DeductionId, Age)>> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT id, {CREATED} FROM deduction
             WHERE state = ? AND state IN ('held', 'pending', 'unpaid', 'parked') AND id > ? ORDER BY id LIMIT ?"
        ))?;
        let mut rows = statement.query(params![state, after_id, i64::try_from(UNSURE_ROWS_MAX).unwrap_or(i64::MAX)])?;
        let mut ages = Vec::new();
        while let (true, Some(row)) = (ages.last().is_none_or(|(_, age): &(_, Age)| !age.is_sure()), rows.next()?) {
            ages.push((row.get("id")?, self.age(row, now)?));
        }
        Ok(ages)
    }

    /// An old row may be pending again.
    pub(super) fn look_at_all_ages_again(&self) {
        self.unsure.set(Unsure::default());
    }

    /// Fen that are recorded but not yet accepted.
    pub(super) fn at_risk_fen(&self) -> rusqlite::Result<i64> {
        self.connection
            .prepare_cached("SELECT ifnull(sum(fen), 0) FROM tally WHERE state IN ('held', 'pending', 'parked')")?
            .query_row([], |row| row.get(0))
    }
}
