//! Where the rows of a damaged ledger are gathered: a private temporary database, which goes with its connection.

use rusqlite::{Connection, Row, params, params_from_iter, types::Value};

use super::{export::export_row, text};
use crate::ledger::{
    export::{ExportRequest, ExportRow},
    fsck::RequestCheck,
    order::OrderNumber,
    types::LedgerError,
};

/// How far a deduction has come; what is found later and has not come so far is an older version of it. Accepted and void are two ends:
/// a ledger that has the one and a damaged one with the other disagree.
macro_rules! rank {
    ($state:literal) => {
        concat!("CASE ", $state, " WHEN 'paid' THEN 4 WHEN 'unpaid' THEN 3 WHEN 'void' THEN 2 WHEN 'accepted' THEN 1 ELSE 0 END")
    };
}
pub(super) use rank;

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

    /// Hands out the rows in the order of recording. Those that cannot be read are counted as only named.
    fn each<E: From<LedgerError>>(
        &self,
        request: &ExportRequest,
        is_request_of: RequestCheck,
        mut take: impl FnMut(&Row<'_>, FoundRow) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut statement =
            self.connection.prepare("SELECT * FROM found ORDER BY id, order_number").map_err(|error| no_room(&error))?;
        let mut rows = statement.query([]).map_err(|error| no_room(&error))?;
        while let Some(row) = rows.next().map_err(|error| no_room(&error))? {
            match found_row(row, request, is_request_of) {
                Ok(found) if request.is_of_time(found.created_utc_ms) => take(row, found)?,
                Ok(_) => {}
                Err(_) => self.forget(row).map_err(|error| no_room(&error))?,
            }
        }
        Ok(())
    }

    /// Hands out the rows within the time; says whose request is not theirs.
    pub(in crate::ledger) fn each_row<E: From<LedgerError>>(
        &self,
        request: &ExportRequest,
        is_request_of: RequestCheck,
        mut take: impl FnMut(ExportRow) -> Result<(), E>,
    ) -> Result<Vec<OrderNumber>, E> {
        let mut doubtful = Vec::new();
        self.each(request, is_request_of, |_, found| {
            doubtful.extend(found.doubtful());
            take(found.export)
        })?;
        Ok(doubtful)
    }

    /// Hands out the values of every row whose request is its own, in the order of the ledger's columns; says whose is not.
    pub(in crate::ledger) fn each_sound(
        &self,
        is_request_of: RequestCheck,
        mut take: impl FnMut(Vec<Value>) -> Result<(), LedgerError>,
    ) -> Result<Vec<OrderNumber>, LedgerError> {
        let mut doubtful = Vec::new();
        self.each(&ExportRequest::ALL, is_request_of, |row, found| {
            if let Some(order) = found.doubtful() {
                doubtful.push(order);
                return Ok(());
            }
            let values: rusqlite::Result<Vec<Value>> = (0..self.columns).map(|column| row.get(column)).collect();
            take(values.map_err(|error| no_room(&error))?)
        })?;
        Ok(doubtful)
    }

    /// What has the form of a row, and values that no row has.
    fn forget(&self, row: &Row<'_>) -> rusqlite::Result<()> {
        let order = text(row, "order_number")?;
        self.connection.execute("INSERT OR IGNORE INTO named VALUES (?)", [&order])?;
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
        let named = named.into_iter().filter(|order| request.is_of_time(order.utc_ms()));
        Ok((named.collect(), unnamed.unsigned_abs()))
    }
}

/// A row that can be read.
struct FoundRow {
    export: ExportRow,
    created_utc_ms: i64,
    /// Whether its request, if it has one, says the same.
    is_sound: bool,
}

impl FoundRow {
    fn doubtful(&self) -> Option<OrderNumber> {
        if self.is_sound { None } else { OrderNumber::parse(&self.export.row.order) }
    }
}

fn found_row(row: &Row<'_>, request: &ExportRequest, is_request_of: RequestCheck) -> rusqlite::Result<FoundRow> {
    let created_utc_ms = row.get("created_utc_ms")?;
    let export = export_row(row, created_utc_ms, request.requests)?;
    let body = text(row, "body")?;
    let is_sound = body.is_none_or(|body| is_request_of(body.as_bytes(), &export.row.order, export.row.total_fen));
    Ok(FoundRow { export, created_utc_ms, is_sound })
}

pub(in crate::ledger) fn no_room(error: &rusqlite::Error) -> LedgerError {
    LedgerError::unavailable(format!("the rows cannot be gathered: {error}; TMPDIR must name a folder with room for them"))
}
