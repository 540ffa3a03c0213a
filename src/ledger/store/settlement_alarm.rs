//! Payments that do not fit what was recorded: small, kept apart from the rows, so that an alarm about them outlives a restart.

use rusqlite::{Row, params};

use super::Store;
use crate::ledger::{SettlementAlarm, SettlementAlarmCause};

/// The newest that are kept.
const ALARMS_MAX: i64 = 1000;

impl Store {
    pub(super) fn raise(&self, cause: SettlementAlarmCause, order: &str, at_utc_ms: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("INSERT INTO settlement_alarm (at_utc_ms, cause, order_number) VALUES (?, ?, ?)")?
            .execute(params![at_utc_ms, cause.as_str(), order])?;
        self.connection
            .prepare_cached("DELETE FROM settlement_alarm WHERE id <= (SELECT max(id) FROM settlement_alarm) - ?")?
            .execute([ALARMS_MAX])
            .map(drop)
    }

    /// All that are kept, the oldest first.
    pub(in crate::ledger) fn settlement_alarms(&self) -> rusqlite::Result<Vec<SettlementAlarm>> {
        self.connection
            .prepare("SELECT at_utc_ms, cause, order_number FROM settlement_alarm ORDER BY id")?
            .query_map([], settlement_alarm)?
            .collect()
    }
}

fn settlement_alarm(row: &Row<'_>) -> rusqlite::Result<SettlementAlarm> {
    let cause = SettlementAlarmCause::parse(&row.get::<_, String>(1)?).ok_or(rusqlite::Error::InvalidQuery)?;
    Ok(SettlementAlarm { at_utc_ms: row.get(0)?, cause, order: row.get(2)? })
}
