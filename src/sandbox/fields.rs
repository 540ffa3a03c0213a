//! The fields of a deduction as WeChat's page documents them (`facts`: WeChat, section 1): which there are, which must be there,
//! and what each must look like. Pure.

use std::net::IpAddr;

use data_encoding::BASE64;
use jiff::civil::DateTime;
use serde_json::{Map, Value};

/// A deduction that says what it must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    /// The decoded `qrcode`.
    pub(super) code: Vec<u8>,
    /// The decoded `start_qrcode`.
    pub(super) start_code: Option<Vec<u8>>,
    pub(super) total_fen: i64,
    pub(super) original_fen: i64,
    pub(super) start_time: String,
    pub(super) order: Option<String>,
    pub(super) attach: Option<String>,
}

/// An `int` of WeChat's; also keeps every sum of the book within 64 bits.
const FEN_MAX: i64 = i32::MAX as i64;
/// So much of what is wrong is told: an answer must not grow with what somebody sends.
const PROBLEMS_MAX: usize = 20;

/// Reads the body of a deduction.
///
/// # Errors
/// What is wrong with it, at most [`PROBLEMS_MAX`] things, each with its field, joined with `; `.
pub(super) fn read(body: &[u8]) -> Result<Fields, String> {
    let value = serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
    let Value::Object(object) = value else { return Err("the body is no JSON object".to_owned()) };
    let problems: Vec<_> = problems(&object).take(PROBLEMS_MAX).collect();
    if problems.is_empty() { Ok(fields(&object)) } else { Err(problems.join("; ")) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

struct Field {
    name: &'static str,
    need: Need,
    /// What it must be.
    form: &'static str,
    fits: fn(&Value) -> bool,
}

const fn required(name: &'static str, form: &'static str, fits: fn(&Value) -> bool) -> Field {
    Field { name, need: Need::Required, form, fits }
}

const fn optional(name: &'static str, form: &'static str, fits: fn(&Value) -> bool) -> Field {
    Field { name, need: Need::Optional, form, fits }
}

const CODE: &str = "a ride code in standard base64 with padding";
const FEN: &str = "a whole number of fen from 0 to 2147483647";
const TIME: &str = "a time as yyyyMMddHHmmss";
const TEXT: &str = "a string that is not empty";
const COMPACT: &str = "%Y%m%d%H%M%S";

const FIELDS: [Field; 14] = [
    required("qrcode", CODE, is_code),
    required("total_fee", FEN, is_fen),
    required("original_fee", FEN, is_fen),
    optional("machine_ip", "an IP address as a string", is_address),
    optional("machine_latitude", "a number from -90 to 90", |value| is_within(value, 90.0)),
    optional("machine_longitude", "a number from -180 to 180", |value| is_within(value, 180.0)),
    required("body", "公交代扣 or 地铁代扣", |value| value == "公交代扣" || value == "地铁代扣"),
    required("start_time", TIME, is_time),
    optional("end_time", TIME, is_time),
    required("line_name", TEXT, is_text),
    required("trade_scene", "METRO or BUS", |value| value == "METRO" || value == "BUS"),
    optional("start_qrcode", CODE, is_code),
    optional("out_order_no", TEXT, is_text),
    optional("attach", "a string", Value::is_string),
];

fn problems(object: &Map<String, Value>) -> impl Iterator<Item = String> {
    let of_fields = FIELDS.iter().filter_map(|field| match object.get(field.name) {
        Some(value) if !(field.fits)(value) => Some(format!("{} must be {}", field.name, field.form)),
        None if field.need == Need::Required => Some(format!("{} is missing", field.name)),
        _ => None,
    });
    let is_known = |name: &str| FIELDS.iter().any(|field| field.name == name);
    let unknown = object.keys().filter(move |name| !is_known(name)).map(|name| format!("{name} is no field of a deduction"));
    of_fields.chain(unknown).chain(contradictions(object))
}

fn contradictions(object: &Map<String, Value>) -> impl Iterator<Item = String> {
    let number = |name| object.get(name).and_then(Value::as_i64);
    let time = |name| object.get(name).and_then(Value::as_str).filter(|text| parsed_time(text).is_some());
    let is_dearer = matches!((number("total_fee"), number("original_fee")), (Some(total), Some(original)) if total > original);
    let is_backwards = matches!((time("start_time"), time("end_time")), (Some(start), Some(end)) if end < start);
    let dearer = is_dearer.then(|| "total_fee is more than original_fee".to_owned());
    dearer.into_iter().chain(is_backwards.then(|| "end_time is before start_time".to_owned()))
}

/// Of an object without problems.
fn fields(object: &Map<String, Value>) -> Fields {
    let text = |name| object.get(name).and_then(Value::as_str).map(str::to_owned);
    let fen = |name| object.get(name).and_then(Value::as_i64).unwrap_or_default();
    Fields {
        code: object.get("qrcode").and_then(decoded).unwrap_or_default(),
        start_code: object.get("start_qrcode").and_then(decoded),
        total_fen: fen("total_fee"),
        original_fen: fen("original_fee"),
        start_time: text("start_time").unwrap_or_default(),
        order: text("out_order_no"),
        attach: text("attach"),
    }
}

fn decoded(value: &Value) -> Option<Vec<u8>> {
    BASE64.decode(value.as_str()?.as_bytes()).ok()
}

fn is_code(value: &Value) -> bool {
    decoded(value).is_some_and(|code| !code.is_empty())
}

fn is_fen(value: &Value) -> bool {
    value.as_i64().is_some_and(|fen| (0..=FEN_MAX).contains(&fen))
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

fn is_address(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok())
}

fn is_within(value: &Value, limit: f64) -> bool {
    value.as_f64().is_some_and(|number| number.abs() <= limit)
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| parsed_time(text).is_some())
}

fn parsed_time(text: &str) -> Option<DateTime> {
    let is_compact = text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit());
    let time = is_compact.then(|| DateTime::strptime(COMPACT, text).ok()).flatten()?;
    // A 60th second is read as the 59th.
    (time.strftime(COMPACT).to_string() == text).then_some(time)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "qrcode": "gP/+AQ==", "total_fee": 160, "original_fee": 200, "machine_ip": "10.1.14.3", "machine_latitude": 30.25,
            "machine_longitude": -120, "body": "地铁代扣", "start_time": "20261123133430", "end_time": "20261123140430",
            "line_name": "2号线", "trade_scene": "METRO", "start_qrcode": "ZW50cnkhIQ==", "out_order_no": "A1", "attach": "A1",
        })
    }

    fn problem_of(name: &str, value: Value) -> String {
        let mut object = good();
        object[name] = value;
        read(object.to_string().as_bytes()).expect_err(name)
    }

    #[test]
    fn a_deduction_with_every_documented_field_is_read() {
        let fields = read(good().to_string().as_bytes()).unwrap();
        let expected = Fields {
            code: vec![0x80, 0xff, 0xfe, 1],
            start_code: Some(b"entry!!".to_vec()),
            total_fen: 160,
            original_fen: 200,
            start_time: "20261123133430".to_owned(),
            order: Some("A1".to_owned()),
            attach: Some("A1".to_owned()),
        };
        assert_eq!(fields, expected);
    }

    #[test]
    fn each_required_field_is_missed_and_no_optional_one() {
        for field in &FIELDS {
            let mut object = good();
            object.as_object_mut().unwrap().remove(field.name);
            let read = read(object.to_string().as_bytes());
            match field.need {
                Need::Required => assert_eq!(read, Err(format!("{} is missing", field.name))),
                Need::Optional => assert!(read.is_ok(), "{read:?}"),
            }
        }
    }

    #[test]
    fn each_field_of_a_wrong_type_or_form_is_named() {
        for (name, value) in [
            ("qrcode", json!("gP/+AQ")),
            ("qrcode", json!("gP_-AQ==")),
            ("qrcode", json!("")),
            ("qrcode", json!(null)),
            ("total_fee", json!("160")),
            ("total_fee", json!(160.5)),
            ("total_fee", json!(i64::MAX)),
            ("total_fee", json!(true)),
            ("original_fee", json!(-1)),
            ("original_fee", json!(2_147_483_648_i64)),
            ("machine_ip", json!("gate")),
            ("machine_latitude", json!("30.25")),
            ("machine_longitude", json!(180.5)),
            ("body", json!("出租车")),
            ("start_time", json!("2026-11-23 13:34")),
            ("start_time", json!("20261323133430")),
            ("start_time", json!("20260229133430")),
            ("start_time", json!("20261123133460")),
            ("start_time", json!("20261123243430")),
            ("start_time", json!("+2026112313343")),
            ("start_time", json!(20_261_123_133_430_i64)),
            ("end_time", json!("20261123")),
            ("line_name", json!("")),
            ("trade_scene", json!("TRAM")),
            ("start_qrcode", json!("***")),
            ("out_order_no", json!(17)),
            ("attach", json!({})),
        ] {
            let problem = problem_of(name, value.clone());
            assert!(problem.starts_with(&format!("{name} must be ")), "{name} = {value}: {problem}");
        }
    }

    #[test]
    fn what_does_not_belong_there_and_what_contradicts_itself_is_named() {
        assert_eq!(problem_of("openid", json!("x")), "openid is no field of a deduction");
        assert_eq!(problem_of("total_fee", json!(201)), "total_fee is more than original_fee");
        assert_eq!(problem_of("end_time", json!("20261123133429")), "end_time is before start_time");
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let problems = read(br#"{"qrcode":1,"x":2}"#).unwrap_err();
        for part in ["qrcode must be", "total_fee is missing", "trade_scene is missing", "x is no field"] {
            assert!(problems.contains(part), "no {part} in {problems}");
        }
        let many: Map<_, _> = (0..5000).map(|number| (format!("x{number}"), json!(1))).collect();
        assert!(read(Value::from(many).to_string().as_bytes()).unwrap_err().len() < 1000);
        assert!(read(b"[]").unwrap_err().contains("no JSON object"));
        assert!(read(b"{").unwrap_err().contains("no JSON"));
    }
}
