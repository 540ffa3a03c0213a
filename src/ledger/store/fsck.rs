//! Reads for `fsck`, in one consistent view of the file.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

use super::{APPLICATION_ID, VERSION, explain, from_first_waiting, text};
use crate::ledger::{
    fsck::{CheckedRow, KeptRequest, RequestCheck, Sum},
    types::LedgerError,
};

/// Faults of the file that are told.
const DAMAGE_MAX: u32 = 20;

/// A read-only connection in a transaction: what it reads is of one moment.
pub(in crate::ledger) struct View {
    connection: Connection,
    path: PathBuf,
}

impl View {
    pub(in crate::ledger) fn open(path: &Path) -> Result<Self, LedgerError> {
        if !path.exists() {
            return Err(LedgerError::Missing { path: path.to_owned() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|error| explain(path, &error))?;
        let view = Self { connection, path: path.to_owned() };
        let found = view.begin().map_err(|error| view.explain(&error))?;
        match found {
            (APPLICATION_ID, version) if version / 1000 > VERSION / 1000 => {
                Err(LedgerError::Newer { path: path.to_owned(), found: version, known: VERSION })
            }
            (APPLICATION_ID, _) => Ok(view),
            (0, 0) if view.is_empty().map_err(|error| view.explain(&error))? => Err(LedgerError::Missing { path: path.to_owned() }),
            _ => Err(LedgerError::Damaged { path: path.to_owned(), detail: "it is no ledger".to_owned() }),
        }
    }

    /// Whose file it is, and its version.
    fn begin(&self) -> rusqlite::Result<(i64, i64)> {
        self.connection.busy_timeout(std::time::Duration::from_secs(5))?;
        // CHECK constraints are judged row by row, in better words.
        self.connection.execute_batch(
            "PRAGMA mmap_size = 0; PRAGMA cache_size = -2048; PRAGMA ignore_check_constraints = ON; PRAGMA temp_store = FILE; BEGIN",
        )?;
        let number = |name| self.connection.pragma_query_value(None, name, |row| row.get(0));
        Ok((number("application_id")?, number("user_version")?))
    }

    /// Whether there is nothing in it, as a first start leaves it that is cut short.
    fn is_empty(&self) -> rusqlite::Result<bool> {
        self.connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
    }

    pub(in crate::ledger) fn explain(&self, error: &rusqlite::Error) -> LedgerError {
        explain(&self.path, error)
    }

    /// What SQLite says of the file as a whole; nothing when it is.
    pub(in crate::ledger) fn damage(&self) -> rusqlite::Result<Vec<String>> {
        let mut check = self.connection.prepare(&format!("PRAGMA integrity_check({DAMAGE_MAX})"))?;
        let mut damage = Vec::new();
        for line in check.query_map([], |row| row.get::<_, String>(0))? {
            match line {
                Ok(line) if line == "ok" => {}
                Ok(line) => damage.push(line),
                // It cannot even be looked at as a whole.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => damage.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(damage)
    }

    pub(in crate::ledger) fn each_row(
        &self,
        is_request_of: RequestCheck,
        mut take: impl FnMut(&CheckedRow),
    ) -> rusqlite::Result<()> {
        let mut rows = self.connection.prepare(
            "SELECT order_number, state, kind, opening, original_fen, total_fen, body,
                 sent OR attempts > 0 AS was_sent, accepted_utc_ms, paid_fen,
                 instr(flags, 'amount-mismatch') > 0 AS is_mismatch, settled_utc_ms
             FROM deduction ORDER BY id",
        )?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            take(&checked_row(row, is_request_of)?);
        }
        Ok(())
    }

    pub(in crate::ledger) fn tally(&self) -> rusqlite::Result<Vec<(String, Sum)>> {
        self.sums("SELECT state, deductions, fen FROM tally")
    }

    /// Sums of what was removed, by state.
    pub(in crate::ledger) fn removed(&self) -> rusqlite::Result<Vec<(String, Sum)>> {
        self.sums("SELECT state, sum(deductions), sum(total_fen) FROM daily GROUP BY state ORDER BY state")
    }

    fn sums(&self, sql: &str) -> rusqlite::Result<Vec<(String, Sum)>> {
        let sum = |row: &Row<'_>| Ok((row.get(0)?, Sum { rows: row.get::<_, i64>(1)?.try_into().unwrap_or(0), fen: row.get(2)? }));
        self.connection.prepare(sql)?.query_map([], sum)?.collect()
    }

    /// Sums of what was removed that are less than nothing.
    pub(in crate::ledger) fn each_negative_removed(&self, mut take: impl FnMut(&str)) -> rusqlite::Result<()> {
        let sql = "SELECT day || ' ' || state || ' ' || line AS name FROM daily
             WHERE min(deductions, original_fen, total_fen, paid_fen) < 0";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            take(&text(row, "name")?.unwrap_or_default());
        }
        Ok(())
    }

    /// Callbacks for orders that are not here, and what was paid by them: each payment once, however many orders it was for.
    pub(in crate::ledger) fn unknown_callbacks(&self) -> rusqlite::Result<Sum> {
        let sql = "SELECT '', (SELECT count(*) FROM unknown_callback), (SELECT ifnull(sum(fen), 0) FROM
             (SELECT max(fen) AS fen FROM unknown_callback WHERE told <> 'unpaid' GROUP BY ifnull(transaction_id, id)))";
        Ok(self.sums(sql)?.pop().map_or(Sum::default(), |(_, sum)| sum))
    }

    /// Goes along the index of the numbers, which SQLite's own check has compared with the rows.
    pub(in crate::ledger) fn each_number_used_again(&self, take: impl FnMut(&str)) -> rusqlite::Result<()> {
        self.each_order("SELECT order_number FROM deduction GROUP BY order_number HAVING count(*) > 1", take)
    }

    /// Orders of journeys that have several deductions that are not void.
    pub(in crate::ledger) fn each_charged_again(&self, take: impl FnMut(&str)) -> rusqlite::Result<()> {
        let sql = "SELECT max(order_number) AS order_number FROM deduction WHERE journey IS NOT NULL AND state <> 'void'
             GROUP BY journey HAVING count(*) > 1";
        self.each_order(sql, take)
    }

    /// Orders whose journey is not there.
    pub(in crate::ledger) fn each_without_journey(&self, take: impl FnMut(&str)) -> rusqlite::Result<()> {
        let sql = "SELECT order_number FROM deduction WHERE journey IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM journey WHERE journey.id = deduction.journey)";
        self.each_order(sql, take)
    }

    /// Orders and journeys whose opening is undecided but that a start would not find.
    pub(in crate::ledger) fn each_forgotten_opening(&self, mut take: impl FnMut(&str)) -> rusqlite::Result<()> {
        for (table, name) in [("deduction", "order_number"), ("journey", "number")] {
            let found = from_first_waiting(table);
            let sql = format!("SELECT {name} AS order_number FROM {table} WHERE opening = 'waiting' AND NOT ({found})");
            self.each_order(&sql, &mut take)?;
        }
        Ok(())
    }

    fn each_order(&self, sql: &str, mut take: impl FnMut(&str)) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            take(&text(row, "order_number")?.unwrap_or_default());
        }
        Ok(())
    }

    pub(in crate::ledger) fn each_stray_event(&self, mut take: impl FnMut(i64)) -> rusqlite::Result<()> {
        let sql = "SELECT id FROM event WHERE NOT EXISTS (SELECT 1 FROM deduction WHERE deduction.id = event.deduction)";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            take(row.get(0)?);
        }
        Ok(())
    }

    /// Cards that the imported deny-list says it has, and those it has.
    pub(in crate::ledger) fn deny_list(&self) -> rusqlite::Result<(i64, i64)> {
        let sql = "SELECT cards, (SELECT count(*) FROM deny_card WHERE deny_card.version = deny_list.version) FROM deny_list";
        self.connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    }
}

fn checked_row(row: &Row<'_>, is_request_of: RequestCheck) -> rusqlite::Result<CheckedRow> {
    let word = |column| text(row, column).map(Option::unwrap_or_default);
    let holds = |column| row.get::<_, Option<bool>>(column).map(|holds| holds == Some(true));
    let (order, total_fen) = (word("order_number")?, row.get("total_fen")?);
    let request = match text(row, "body")?.filter(|body| !body.is_empty()) {
        None => KeptRequest::None,
        Some(body) if is_request_of(body.as_bytes(), &order, total_fen) => KeptRequest::OfThis,
        Some(_) => KeptRequest::OfAnother,
    };
    Ok(CheckedRow {
        order,
        state: word("state")?,
        kind: word("kind")?,
        opening: word("opening")?,
        original_fen: row.get("original_fen")?,
        total_fen,
        request,
        was_sent: holds("was_sent")?,
        accepted_utc_ms: row.get("accepted_utc_ms")?,
        paid_fen: row.get("paid_fen")?,
        is_mismatch: holds("is_mismatch")?,
        settled_utc_ms: row.get("settled_utc_ms")?,
    })
}
