//! The rows of an export. CSV and JSON lines have the same columns under the same names, those of CSV in the order of [`COLUMNS`].

use std::io::{BufWriter, Write};

use serde_json::{Map, Value};

use super::Format;
use crate::{
    cli::exit::{Code, Failure},
    ledger::{ExportRow, Requests},
    wechat::RequestCodes,
};

/// Those of `queue list --json` in its order, then what reconciliation needs beside.
const COLUMNS: [&str; 24] = [
    "order",
    "state",
    "kind",
    "reason",
    "flags",
    "gate",
    "lane",
    "passenger",
    "original_fen",
    "total_fen",
    "paid_fen",
    "start_time",
    "end_time",
    "has_start_code",
    "attempts",
    "last_error",
    "created_at",
    "accepted_at",
    "settled_at",
    "transaction_id",
    "day",
    "station",
    "start_station",
    "line",
];
/// With `--with-codes`.
const CODE_COLUMNS: [&str; 2] = ["qrcode", "start_qrcode"];
/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Rows on their way out.
pub(super) enum Table<W: Write> {
    Csv { out: Box<csv::Writer<W>>, columns: Vec<&'static str> },
    Jsonl { out: BufWriter<W>, requests: Requests },
}

impl<W: Write> Table<W> {
    pub(super) fn new(mut out: W, format: Format, bom: bool, requests: Requests) -> Result<Self, Failure> {
        if format == Format::Jsonl {
            return Ok(Self::Jsonl { out: BufWriter::new(out), requests });
        }
        if bom {
            out.write_all(BYTE_ORDER_MARK)?;
        }
        let codes = CODE_COLUMNS.iter().filter(|_| requests == Requests::With);
        let columns: Vec<_> = COLUMNS.iter().chain(codes).copied().collect();
        let mut out = Box::new(csv::Writer::from_writer(out));
        out.write_record(&columns).map_err(unwritable)?;
        Ok(Self::Csv { out, columns })
    }

    pub(super) fn write(&mut self, row: ExportRow) -> Result<(), Failure> {
        match self {
            Self::Csv { out, columns } => {
                let values = values(row, Requests::With)?;
                out.write_record(columns.iter().map(|column| cell(values.get(*column)))).map_err(unwritable)
            }
            Self::Jsonl { out, requests } => {
                let values = Value::Object(values(row, *requests)?);
                Ok(writeln!(out, "{values}")?)
            }
        }
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        match self {
            Self::Csv { mut out, .. } => Ok(out.flush()?),
            Self::Jsonl { mut out, .. } => Ok(out.flush()?),
        }
    }
}

/// By their columns' names.
fn values(mut row: ExportRow, requests: Requests) -> Result<Map<String, Value>, Failure> {
    let codes = row.request.take().map_or_else(RequestCodes::default, |request| RequestCodes::of(&request.0));
    let value = serde_json::to_value(&row).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    let Value::Object(mut values) = value else { return Ok(Map::new()) };
    if requests == Requests::With {
        for (column, code) in CODE_COLUMNS.into_iter().zip([codes.qrcode, codes.start_qrcode]) {
            values.insert(column.to_owned(), code.into());
        }
    }
    Ok(values)
}

fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        Some(other) => other.to_string(),
    };
    guarded(text)
}

/// A spreadsheet takes a cell that begins so, full-width signs included, for a formula, wherever its text came from; an apostrophe makes it text.
pub(super) fn guarded(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠', '\t', '\r']) { format!("'{text}") } else { text }
}

pub(super) fn unwritable(error: csv::Error) -> Failure {
    std::io::Error::from(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{QueueRow, RequestText};

    fn row() -> ExportRow {
        ExportRow {
            row: QueueRow {
                id: 1,
                order: "01ARYZ6S41ZZZZZZZZZZZZZZZZ".to_owned(),
                state: "parked".to_owned(),
                kind: "single".to_owned(),
                reason: Some("=HYPERLINK(\"http://x\")".to_owned()),
                flags: vec!["opening-unconfirmed".to_owned(), "paid-after-void".to_owned()],
                gate: "G1".to_owned(),
                lane: "in, left".to_owned(),
                passenger: "****************0042".to_owned(),
                original_fen: 200,
                total_fen: 160,
                paid_fen: None,
                start_time: "2026-11-23T05:34:30.123Z".to_owned(),
                end_time: None,
                has_start_code: false,
                attempts: 2,
                last_error: Some("-1 \"busy\"\nagain".to_owned()),
                created_at: "2026-11-23T05:34:30.123Z".to_owned(),
                accepted_at: None,
                settled_at: None,
                transaction_id: None,
            },
            day: "2026-11-23".to_owned(),
            station: "S1".to_owned(),
            start_station: None,
            line: "2号线".to_owned(),
            request: Some(RequestText(r#"{"qrcode":"gP/+AQ==","total_fee":160}"#.to_owned())),
        }
    }

    fn written(format: Format, bom: bool, requests: Requests) -> String {
        let mut out = Vec::new();
        let mut table = Table::new(&mut out, format, bom, requests).unwrap();
        table.write(row()).unwrap();
        table.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_row_of_csv_has_every_column_quoted_as_need_be_and_no_formula() {
        let expected = "order,state,kind,reason,flags,gate,lane,passenger,original_fen,total_fen,paid_fen,start_time,end_time,\
             has_start_code,attempts,last_error,created_at,accepted_at,settled_at,transaction_id,day,station,start_station,line\n\
             01ARYZ6S41ZZZZZZZZZZZZZZZZ,parked,single,\"'=HYPERLINK(\"\"http://x\"\")\",opening-unconfirmed paid-after-void,G1,\
             \"in, left\",****************0042,200,160,,2026-11-23T05:34:30.123Z,,false,2,\"'-1 \"\"busy\"\"\nagain\",\
             2026-11-23T05:34:30.123Z,,,,2026-11-23,S1,,2号线\n";
        assert_eq!(written(Format::Csv, false, Requests::Without), expected);
        assert_eq!(written(Format::Csv, true, Requests::Without), format!("\u{feff}{expected}"));
    }

    #[test]
    fn a_line_of_json_has_the_columns_of_csv() {
        let line: Map<String, Value> = serde_json::from_str(&written(Format::Jsonl, false, Requests::Without)).unwrap();
        let mut columns = COLUMNS.to_vec();
        columns.sort_unstable();
        let mut names: Vec<_> = line.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, columns);
        assert_eq!((&line["reason"], &line["paid_fen"]), (&Value::from("=HYPERLINK(\"http://x\")"), &Value::Null));
    }

    #[test]
    fn codes_are_there_only_when_they_are_asked_for() {
        for format in [Format::Csv, Format::Jsonl] {
            assert!(written(format, false, Requests::With).contains("gP/+AQ=="));
            assert!(!written(format, false, Requests::Without).contains("gP/+AQ=="));
        }
    }

    #[test]
    fn a_cell_that_would_be_a_formula_is_text() {
        for text in ["=1", "+1", "-1", "@x", "\t=1", "\r=1"] {
            assert_eq!(guarded(text.to_owned()), format!("'{text}"));
        }
        assert_eq!(guarded("1=2".to_owned()), "1=2");
    }
}
