//! A deduction of another ledger, taken over as it is.

use rusqlite::{OptionalExtension, Row, params, params_from_iter, types::Value};

use super::{Store, first_waiting, salvage::rank};

/// The boot of what was recorded under boots that only the other ledger knows: ages are then differences of real-time clocks.
pub(super) const BOOT: &str = "recovered";

/// Whether a row was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) enum Adopted {
    /// It was.
    New,
    /// There is one of this number.
    Known,
    /// There is one of this number, which has not come as far.
    Behind,
}

impl Store {
    /// Takes over a row, as the columns of this ledger have it, under a place of its own.
    pub(in crate::ledger) fn adopt(&self, mut row: Vec<Value>, from: &str, at_utc_ms: i64) -> rusqlite::Result<Adopted> {
        let columns = self.deduction_columns()?;
        let place = |name: &str| columns.iter().position(|column| column == name).ok_or_else(|| missing(name));
        let (order, state) = (row[place("order_number")?].clone(), row[place("state")?].clone());
        let Value::Text(state) = state else { return Err(missing("state")) };
        let is_behind = concat!("SELECT ", rank!("?2"), " > ", rank!("state"), " FROM deduction WHERE order_number = ?1");
        let is_behind: Option<bool> =
            self.connection.prepare_cached(is_behind)?.query_row(params![order, state], |row| row.get(0)).optional()?;
        if let Some(is_behind) = is_behind {
            return Ok(if is_behind { Adopted::Behind } else { Adopted::Known });
        }
        row[place("id")?] = Value::Null;
        row[place("waiting_from")?] =
            self.connection.prepare_cached(&format!("SELECT {}", first_waiting("deduction")))?.query_row([], |row| row.get(0))?;
        // That journey stays behind.
        row[place("journey")?] = Value::Null;
        row[place("created_boot")?] = Value::Integer(self.boot_named(BOOT)?);
        // What of it was sent, the other ledger may have known from elsewhere than its row.
        if ["held", "pending", "parked"].contains(&state.as_str()) {
            row[place("sent")?] = Value::Integer(1);
        }
        let insert = format!("INSERT INTO deduction VALUES (?{})", ", ?".repeat(columns.len() - 1));
        self.connection.prepare_cached(&insert)?.execute(params_from_iter(row))?;
        self.event(self.connection.last_insert_rowid(), at_utc_ms, "recovered", Some(from))?;
        Ok(Adopted::New)
    }

    fn deduction_columns(&self) -> rusqlite::Result<Vec<String>> {
        let mut columns = self.connection.prepare_cached("SELECT name FROM pragma_table_info('deduction') ORDER BY cid")?;
        columns.query_map([], |row: &Row<'_>| row.get(0))?.collect()
    }

    /// The boot of this name, if there is one.
    pub(super) fn boot_if_known(&self, name: &str) -> rusqlite::Result<Option<i64>> {
        self.connection.query_row("SELECT id FROM boot WHERE boot_id = ?", [name], |row| row.get(0)).optional()
    }

    pub(super) fn boot_named(&self, name: &str) -> rusqlite::Result<i64> {
        self.connection.prepare_cached("INSERT OR IGNORE INTO boot (boot_id) VALUES (?)")?.execute([name])?;
        self.connection.prepare_cached("SELECT id FROM boot WHERE boot_id = ?")?.query_row(params![name], |row| row.get(0))
    }
}

fn missing(column: &str) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnName(column.to_owned())
}
