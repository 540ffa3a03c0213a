//! A ledger with a backlog, for measurements.

use std::path::Path;

use rusqlite::{Connection, params};

/// Rows as the daemon would have left them after a long outage.
pub(crate) fn fill(ledger: &Path, rows: usize) {
    let mut connection = Connection::open(ledger).unwrap();
    let transaction = connection.transaction().unwrap();
    let mut insert = transaction
        .prepare(
            "INSERT INTO deduction (order_number, state, kind, gate, lane, station, line, passenger, passenger_tail, code_digest, original_fen,
                 total_fen, start_utc_ms, body, opening, created_utc_ms, created_boot, created_boottime_ms, clock_synchronized)
             VALUES (?1, 'pending', 'single', 'T1', 'in', 'S1', '2号线', x'00', '0000', x'00', 200, 200, 0, ?2, 'opened', 0, 1, 0, 1)",
        )
        .unwrap();
    for row in 0..rows {
        let order = format!("{row:026}");
        let qrcode = format!("{row:0>456}");
        let body = format!("{{\"qrcode\":\"{qrcode}\",\"out_order_no\":\"{order}\",\"attach\":\"{order}\",\"total_fee\":200}}");
        insert.execute(params![order, body.into_bytes()]).unwrap();
    }
    drop(insert);
    transaction.commit().unwrap();
}
