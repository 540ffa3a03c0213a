//! Where the rows of a damaged ledger are gathered: a private temporary database, which goes with its connection.

use rusqlite::{Connection, params, params_from_iter, types::Value};

use super::{export::export_row, text};
use crate::ledger::{
    export::{ExportRequest, ExportRow},
    fsck::RequestCheck,
    order::OrderNumber,
    types::LedgerError,
};

/// How far a deduction has come; what is found later and has not come so far is an older version of it.
macro_rules! rank {
    ($state:literal) => {
        concat!("CASE ", $state, " WHEN 'paid' THEN 3 WHEN 'unpaid' THEN 2 WHEN 'accepted' THEN 1 WHEN 'void' THEN 1 ELSE 0 END")
    };
}

pub(in crate::ledger) struct Found {
    connection: Connection,
    columns: usize,
    insert: String,
}

impl Found {
    pub(in crate::ledger) fn new() -> rusqlite::Result<Self> {
        let connection = Connection::open("")?;
        connection.execute_batch(include_str!("../schema.sql"))?;
        // Without the rules of a ledger: what was found is what it is.
        connection.execute_batch(
            "CREATE TABLE found AS SELECT * FROM deduction;
             CREATE UNIQUE INDEX found_order ON found (order_number);
             CREATE TABLE named (order_number TEXT PRIMARY KEY);
             CREATE TABLE counted (state TEXT PRIMARY KEY, deductions INTEGER);",
        )?;
        let columns = connection.prepare("SELECT * FROM found")?.column_count();
        let insert = format!("INSERT OR IGNORE INTO found VALUES (?{})", ", ?".repeat(columns - 1));
        Ok(Self { connection, columns, insert })
    }

    /// A deduction, perhaps a version of one that was found before.
    pub(in crate::ledger) fn row(&self, rowid: i64, mut values: Vec<Value>) -> rusqlite::Result<()> {
        if values.len() != self.columns {
            return Ok(());
        }
        let older = concat!("DELETE FROM found WHERE order_number = ?1 AND ", rank!("state"), " <= ", rank!("?2"));
        self.connection.prepare_cached(older)?.execute(params![values[1], values[2]])?;
        values[0] = Value::Integer(rowid);
        self.connection.prepare_cached(&self.insert)?.execute(params_from_iter(values)).map(drop)
    }

    /// The number of a deduction that is or was there.
    pub(in crate::ledger) fn name(&self, order: &OrderNumber) -> rusqlite::Result<()> {
        self.connection.prepare_cached("INSERT OR IGNORE INTO named VALUES (?)")?.execute([order.as_str()]).map(drop)
    }

    /// How many deductions are in this state; what is found last counts.
    pub(in crate::ledger) fn count(&self, state: &str, deductions: i64) -> rusqlite::Result<()> {
        let count = "INSERT OR REPLACE INTO counted VALUES (?, ?)";
        self.connection.prepare_cached(count)?.execute(params![state, deductions]).map(drop)
    }

    /// Hands out the rows within the time. Says whose request is not theirs, and has those that cannot be read counted as only named.
    pub(in crate::ledger) fn each_row<E: From<LedgerError>>(
        &self,
        request: &ExportRequest,
        is_request_of: RequestCheck,
        mut take: impl FnMut(ExportRow) -> Result<(), E>,
    ) -> Result<Vec<OrderNumber>, E> {
        let failed = |error: rusqlite::Error| LedgerError::unavailable(format!("the rows cannot be gathered: {error}"));
        let mut statement = self.connection.prepare("SELECT * FROM found ORDER BY id, order_number").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut doubtful = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let order = text(row, "order_number").map_err(failed)?.unwrap_or_default();
            let read = row.get("created_utc_ms").and_then(|created| Ok((created, export_row(row, created, request.requests)?)));
            let Ok((created_utc_ms, export)) = read else {
                self.forget(&order).map_err(failed)?;
                continue;
            };
            if !(request.from_utc_ms..request.to_utc_ms).contains(&created_utc_ms) {
                continue;
            }
            let body = text(row, "body").map_err(failed)?;
            if body.is_some_and(|body| !is_request_of(body.as_bytes(), &order, export.row.total_fen)) {
                doubtful.extend(OrderNumber::parse(&order));
            }
            take(export)?;
        }
        Ok(doubtful)
    }

    /// What has the form of a row, and values that no row has.
    fn forget(&self, order: &str) -> rusqlite::Result<()> {
        self.connection.execute("INSERT OR IGNORE INTO named VALUES (?)", [order])?;
        self.connection.execute("DELETE FROM found WHERE order_number = ?", [order]).map(drop)
    }

    /// Orders of that time that are only named, and how many more rows, of any time, the running sums count.
    pub(in crate::ledger) fn missing(&self, request: &ExportRequest) -> rusqlite::Result<(Vec<OrderNumber>, u64)> {
        let sql = "SELECT order_number FROM named EXCEPT SELECT order_number FROM found ORDER BY order_number";
        let mut statement = self.connection.prepare(sql)?;
        let named: Vec<OrderNumber> =
            statement.query_map([], |row| row.get::<_, String>(0))?.filter_map(|order| OrderNumber::parse(&order.ok()?)).collect();
        let beyond = "SELECT max(0, (SELECT ifnull(sum(deductions), 0) FROM counted) - (SELECT count(*) FROM found) - ?)";
        let lost = i64::try_from(named.len()).unwrap_or(i64::MAX);
        let unnamed: i64 = self.connection.query_row(beyond, [lost], |row| row.get(0))?;
        let within = |order: &OrderNumber| (request.from_utc_ms..request.to_utc_ms).contains(&order.utc_ms());
        Ok((named.into_iter().filter(within).collect(), unnamed.unsigned_abs()))
    }
}
