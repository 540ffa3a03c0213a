//! What can still be read of a damaged ledger: `faregate recover` and `faregate export --damaged`.
//!
//! SQLite finds a row by the pages above it, so one page that is spoiled can hide all others. Here every page of the file and of its
//! log is looked at by itself, and what has the form of a deduction is one. An order number that only the index of the numbers still
//! holds is told as lost; so is what is missing from the running sums.
//!
//! Reads only, and needs no daemon, no lock and no settings: it is for a file that was moved aside, or for a copy.
//!
//! What was removed because it had been kept long enough may come to light again where the file's own head is lost: it is paid or void.

mod log;
mod pages;
mod record;

use std::path::{Path, PathBuf};

use rusqlite::types::Value;

pub(in crate::ledger) use log::LogDamage;
use pages::Image;

use super::{
    export::{ExportRequest, ExportRow},
    fsck::RequestCheck,
    order::OrderNumber,
    store::salvage::{Found, no_room},
    types::{LedgerError, STATES},
};

/// What is not among the rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unreadable {
    /// Orders that are named in the ledger, and whose rows cannot be read.
    pub orders: Vec<OrderNumber>,
    /// Rows that the running sums count beyond those that were found or named.
    pub unnamed: u64,
    /// Orders whose row and request say different things: one of the two is spoiled.
    pub doubtful: Vec<OrderNumber>,
}

/// The rows of a damaged ledger.
pub struct Salvage {
    found: Found,
    /// Whether the whole ledger was looked through, and not only a log of it.
    is_all: bool,
}

impl Salvage {
    /// Looks through the file at `path` and the log beside it.
    ///
    /// # Errors
    /// It is not there or may not be read, or there is no room for the rows in the folder for temporary files.
    pub fn of(path: &Path) -> Result<Self, LedgerError> {
        let image = Image::open(path).map_err(|error| unreadable(path, &error))?;
        let found = Found::new().map_err(|error| no_room(&error))?;
        let mut fault = Ok(());
        image.each_record(|rowid, values| {
            if fault.is_ok() {
                fault = sort_in(&found, rowid, values);
            }
        });
        fault.map_err(|error| no_room(&error))?;
        Ok(Self { found, is_all: image.has_file() })
    }

    /// Hands out the rows that were recorded within the time, in the order of recording, then says what is missing of that time.
    ///
    /// # Errors
    /// What `take` says, and no room for temporary files.
    pub fn each_row<E: From<LedgerError>>(
        &self,
        request: &ExportRequest,
        is_request_of: RequestCheck,
        take: impl FnMut(ExportRow) -> Result<(), E>,
    ) -> Result<Unreadable, E> {
        let doubtful = self.found.each_row(request, is_request_of, take)?;
        Ok(self.with_missing(request, doubtful)?)
    }

    /// Hands out every row that is sound, as the ledger's columns have it, in the order of recording; says what is missing.
    pub(super) fn each_sound(
        &self,
        is_request_of: RequestCheck,
        take: impl FnMut(Vec<Value>) -> Result<(), LedgerError>,
    ) -> Result<Unreadable, LedgerError> {
        let doubtful = self.found.each_sound(is_request_of, take)?;
        self.with_missing(&ExportRequest::ALL, doubtful)
    }

    fn with_missing(&self, request: &ExportRequest, doubtful: Vec<OrderNumber>) -> Result<Unreadable, LedgerError> {
        if !self.is_all {
            return Ok(Unreadable { doubtful, ..Unreadable::default() });
        }
        let (orders, unnamed) = self.found.missing(request).map_err(|error| no_room(&error))?;
        Ok(Unreadable { orders, unnamed, doubtful })
    }
}

/// A row, the key of one, or the running sum of a state; anything else is nobody's business.
fn sort_in(found: &Found, rowid: Option<i64>, values: Vec<Value>) -> rusqlite::Result<()> {
    match (rowid, values.as_slice()) {
        (None, [Value::Text(order), Value::Integer(_)]) => match exact(order) {
            Some(order) => found.name(&order),
            None => Ok(()),
        },
        // The index of what is open has the same form: a state, and twice the row.
        (None, [Value::Text(state), Value::Integer(rows), Value::Integer(fen)]) if rows != fen || *rows == 0 => {
            if STATES.contains(&state.as_str()) { found.count(state, *rows) } else { Ok(()) }
        }
        (Some(rowid), [Value::Null, Value::Text(order), Value::Text(state), ..]) => {
            let is_row = exact(order).is_some() && STATES.contains(&state.as_str());
            if is_row { found.row(rowid, values) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// A number in the very form in which it is recorded.
fn exact(order: &str) -> Option<OrderNumber> {
    OrderNumber::parse(order).filter(|parsed| parsed.as_str() == order)
}

fn unreadable(path: &Path, error: &std::io::Error) -> LedgerError {
    match error.kind() {
        std::io::ErrorKind::NotFound => LedgerError::Missing { path: path.to_owned() },
        _ => LedgerError::unavailable(format!(
            "{} cannot be read: {error}; copy what can be read of it to another disk",
            path.display()
        )),
    }
}

/// The log beside a ledger's file.
fn log_of(path: &Path) -> PathBuf {
    super::store::log_path(path)
}

/// Whether the log beside a ledger has lost what was durable. A running daemon may write it meanwhile: what was only half written a
/// moment ago is whole when it is looked at again.
///
/// # Errors
/// It cannot be read.
pub(super) fn log_damage(path: &Path) -> std::io::Result<Option<LogDamage>> {
    let Some(first) = damage_in(path)? else { return Ok(None) };
    Ok(damage_in(path)?.filter(|again| first.frame == again.frame))
}

fn damage_in(ledger: &Path) -> std::io::Result<Option<LogDamage>> {
    Ok(log::Log::read(&log_of(ledger))?.and_then(|log| log.damage))
}
