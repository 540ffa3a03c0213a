//! Reads for `export`.

use rusqlite::{Row, params};

use super::{Store, queue_row, text};
use crate::{
    clock::beijing_day,
    ledger::{EXPORT_ROWS, ExportPage, ExportRequest, ExportRow, RemovedRequest, RemovedSum, RequestText, Requests},
};

/// [`EXPORT_ROWS`] as SQLite takes it.
const PAGE_ROWS: u32 = 250;
const _: () = assert!(PAGE_ROWS as usize == EXPORT_ROWS);

impl Store {
    /// The rows among the next [`EXPORT_ROWS`] that were recorded within the time.
    pub(in crate::ledger) fn export(&self, request: &ExportRequest) -> rusqlite::Result<ExportPage> {
        let mut statement = self.connection.prepare("SELECT * FROM deduction WHERE id > ? ORDER BY id LIMIT ?")?;
        let mut found = statement.query(params![request.after_id, PAGE_ROWS])?;
        let (mut page, mut seen, mut last_id) = (ExportPage::default(), 0, request.after_id);
        while let Some(row) = found.next()? {
            (seen, last_id) = (seen + 1, row.get("id")?);
            let created_utc_ms: i64 = row.get("created_utc_ms")?;
            if (request.from_utc_ms..request.to_utc_ms).contains(&created_utc_ms) {
                page.rows.push(export_row(row, created_utc_ms, request.requests)?);
            }
        }
        page.next_after_id = (seen == PAGE_ROWS).then_some(last_id);
        Ok(page)
    }

    pub(in crate::ledger) fn removed(&self, request: &RemovedRequest) -> rusqlite::Result<Vec<RemovedSum>> {
        let after = request.after.as_ref();
        let key = |part: fn(&RemovedSum) -> &String| after.map_or("", |sum| part(sum).as_str());
        self.connection
            .prepare(
                "SELECT * FROM daily WHERE day BETWEEN ? AND ? AND (day, state, line) > (?, ?, ?)
                 ORDER BY day, state, line LIMIT ?",
            )?
            .query_map(
                params![
                    request.from_day,
                    request.to_day,
                    key(|sum| &sum.day),
                    key(|sum| &sum.state),
                    key(|sum| &sum.line),
                    PAGE_ROWS
                ],
                removed_sum,
            )?
            .collect()
    }
}

pub(super) fn export_row(row: &Row<'_>, created_utc_ms: i64, requests: Requests) -> rusqlite::Result<ExportRow> {
    let word = |column| text(row, column).map(Option::unwrap_or_default);
    let request = if requests == Requests::With { text(row, "body")?.map(RequestText) } else { None };
    Ok(ExportRow {
        row: queue_row(row)?,
        day: beijing_day(created_utc_ms),
        station: word("station")?,
        start_station: text(row, "start_station")?,
        line: word("line")?,
        request,
    })
}

fn removed_sum(row: &Row<'_>) -> rusqlite::Result<RemovedSum> {
    let word = |column| text(row, column).map(Option::unwrap_or_default);
    Ok(RemovedSum {
        day: word("day")?,
        state: word("state")?,
        line: word("line")?,
        deductions: row.get::<_, i64>("deductions")?.try_into().unwrap_or(0),
        original_fen: row.get("original_fen")?,
        total_fen: row.get("total_fen")?,
        paid_fen: row.get("paid_fen")?,
    })
}
