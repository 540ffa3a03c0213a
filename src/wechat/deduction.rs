//! The body of a deduction: plain values in, the bytes that WeChat is sent out (`facts`: WeChat, section 1, "Deduction").
//!
//! A pure function of its arguments. The ledger keeps the bytes, so that every resend carries the same ones.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::{
    clock::beijing_compact,
    config::{Fare, Scene, WeChat},
};

/// What differs from one deduction to the next. It has no `Debug`: whoever holds the codes can ride.
#[derive(Clone, Copy)]
pub struct Deduction<'a> {
    /// The order number, sent as `out_order_no` and as `attach`.
    pub order: &'a str,
    /// `qrcode`: the decoded frame.
    pub code: &'a [u8],
    /// `start_qrcode`: the code of the entry, for an exit that ends a journey.
    pub start_code: Option<&'a [u8]>,
    /// `total_fee`: after discount.
    pub total_fen: i64,
    /// `original_fee`: before discount.
    pub original_fen: i64,
    /// `start_time`: UTC milliseconds.
    pub start_utc_ms: i64,
    /// `end_time`: UTC milliseconds.
    pub end_utc_ms: Option<i64>,
}

/// What is the same in every deduction of this gate.
#[derive(Debug, Clone)]
pub struct BodyTemplate {
    scene: &'static str,
    body: String,
    line_name: String,
    machine_ip: Option<String>,
    machine_latitude: Option<f64>,
    machine_longitude: Option<f64>,
}

impl BodyTemplate {
    /// From `[fare]` (scene, body, line name) and `[wechat]` (the machine).
    #[must_use]
    pub fn new(fare: &Fare, wechat: &WeChat) -> Self {
        Self {
            scene: match fare.scene {
                Scene::Metro => "METRO",
                Scene::Bus => "BUS",
            },
            body: fare.body.clone(),
            line_name: fare.line_name.clone(),
            machine_ip: wechat.machine_ip.clone(),
            machine_latitude: wechat.machine_latitude,
            machine_longitude: wechat.machine_longitude,
        }
    }

    /// The body of `deduction`: a JSON object in UTF-8 with the documented fields in the documented order. Codes are standard
    /// base64 with padding, times are Beijing time, what is absent is left out.
    #[must_use]
    pub fn body(&self, deduction: &Deduction<'_>) -> Vec<u8> {
        let mut object = Object::with_room_for(deduction);
        object.field("qrcode", BASE64.encode(deduction.code));
        object.field("total_fee", deduction.total_fen);
        object.field("original_fee", deduction.original_fen);
        object.optional("machine_ip", self.machine_ip.as_deref());
        object.optional("machine_latitude", self.machine_latitude.filter(|degrees| degrees.is_finite()));
        object.optional("machine_longitude", self.machine_longitude.filter(|degrees| degrees.is_finite()));
        object.field("body", self.body.as_str());
        object.field("start_time", beijing_compact(deduction.start_utc_ms));
        object.optional("end_time", deduction.end_utc_ms.map(beijing_compact));
        object.field("line_name", self.line_name.as_str());
        object.field("trade_scene", self.scene);
        object.optional("start_qrcode", deduction.start_code.map(|code| BASE64.encode(code)));
        object.field("out_order_no", deduction.order);
        object.field("attach", deduction.order);
        object.finish()
    }
}

/// A flat JSON object that keeps the order of its fields, written once into memory that is taken once: a scan waits for it.
struct Object(Vec<u8>);

impl Object {
    /// Beside the codes.
    const ROOM_BYTES: usize = 512;

    fn with_room_for(deduction: &Deduction<'_>) -> Self {
        let code_bytes = deduction.code.len() + deduction.start_code.map_or(0, <[u8]>::len);
        Self(Vec::with_capacity(code_bytes / 3 * 4 + Self::ROOM_BYTES))
    }

    fn field(&mut self, name: &str, value: impl Serialize) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        // Text and numbers can be serialized, and memory can be written to.
        let _ = serde_json::to_writer(&mut self.0, name);
        self.0.push(b':');
        let _ = serde_json::to_writer(&mut self.0, &value);
    }

    /// What is absent is left out.
    fn optional(&mut self, name: &str, value: Option<impl Serialize>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// The ride codes of a request, in base64. It has no `Debug`, like [`Deduction`].
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
pub struct RequestCodes {
    /// The scan's.
    #[serde(default)]
    pub qrcode: Option<String>,
    /// The first tap's.
    #[serde(default)]
    pub start_qrcode: Option<String>,
}

impl RequestCodes {
    /// Of a request as [`BodyTemplate::body`] made it; none where it was spoiled.
    #[must_use]
    pub fn of(body: &str) -> Self {
        serde_json::from_str(body).unwrap_or_default()
    }
}

/// What a request names its order by, and what it charges.
#[derive(Deserialize)]
struct RequestTerms {
    out_order_no: String,
    attach: String,
    total_fee: i64,
}

/// Whether a request, as [`BodyTemplate::body`] made it, charges so much for this order and says so under both names.
#[must_use]
pub fn is_request_of(body: &[u8], order: &str, total_fen: i64) -> bool {
    serde_json::from_slice(body)
        .is_ok_and(|terms: RequestTerms| terms.out_order_no == order && terms.attach == order && terms.total_fee == total_fen)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const SCAN_UTC_MS: i64 = 1_795_412_070_123;
    const EXIT_UTC_MS: i64 = SCAN_UTC_MS + 1_800_000;
    const ORDER: &str = "01KAQZ3V9B0000000000000042";

    fn template() -> BodyTemplate {
        BodyTemplate {
            scene: "METRO",
            body: "地铁代扣".to_owned(),
            line_name: "2号线".to_owned(),
            machine_ip: None,
            machine_latitude: None,
            machine_longitude: None,
        }
    }

    fn single() -> Deduction<'static> {
        Deduction {
            order: ORDER,
            code: &[0x80, 0xff, 0xfe, 0x01],
            start_code: None,
            total_fen: 160,
            original_fen: 200,
            start_utc_ms: SCAN_UTC_MS,
            end_utc_ms: None,
        }
    }

    fn text(template: &BodyTemplate, deduction: &Deduction<'_>) -> String {
        String::from_utf8(template.body(deduction)).unwrap()
    }

    #[test]
    fn the_codes_of_a_request_are_found_again_in_its_bytes() {
        let codes = RequestCodes::of(&text(&template(), &Deduction { start_code: Some(b"entry"), ..single() }));
        assert_eq!((codes.qrcode.as_deref(), codes.start_qrcode.as_deref()), (Some("gP/+AQ=="), Some("ZW50cnk=")));
        assert!(RequestCodes::of("spoiled") == RequestCodes::default());
    }

    #[test]
    fn a_single_trip_or_an_unfinished_entry_has_one_code_and_one_time() {
        assert_eq!(
            text(&template(), &single()),
            r#"{"qrcode":"gP/+AQ==","total_fee":160,"original_fee":200,"body":"地铁代扣","start_time":"20261123133430","line_name":"2号线","trade_scene":"METRO","out_order_no":"01KAQZ3V9B0000000000000042","attach":"01KAQZ3V9B0000000000000042"}"#
        );
    }

    #[test]
    fn an_exit_has_both_codes_and_both_times() {
        let exit = Deduction { code: b"exit", start_code: Some(b"entry!!"), end_utc_ms: Some(EXIT_UTC_MS), ..single() };
        assert_eq!(
            text(&template(), &exit),
            r#"{"qrcode":"ZXhpdA==","total_fee":160,"original_fee":200,"body":"地铁代扣","start_time":"20261123133430","end_time":"20261123140430","line_name":"2号线","trade_scene":"METRO","start_qrcode":"ZW50cnkhIQ==","out_order_no":"01KAQZ3V9B0000000000000042","attach":"01KAQZ3V9B0000000000000042"}"#
        );
    }

    #[test]
    fn an_unmatched_exit_has_one_code_and_twice_its_time() {
        let exit = Deduction { end_utc_ms: Some(SCAN_UTC_MS), ..single() };
        assert_eq!(
            text(&template(), &exit),
            r#"{"qrcode":"gP/+AQ==","total_fee":160,"original_fee":200,"body":"地铁代扣","start_time":"20261123133430","end_time":"20261123133430","line_name":"2号线","trade_scene":"METRO","out_order_no":"01KAQZ3V9B0000000000000042","attach":"01KAQZ3V9B0000000000000042"}"#
        );
    }

    #[test]
    fn the_machine_is_told_where_it_is_set() {
        let template = BodyTemplate {
            scene: "BUS",
            machine_ip: Some("10.1.14.3".to_owned()),
            machine_latitude: Some(30.25),
            machine_longitude: Some(-120.0),
            ..template()
        };
        assert_eq!(
            text(&template, &single()),
            r#"{"qrcode":"gP/+AQ==","total_fee":160,"original_fee":200,"machine_ip":"10.1.14.3","machine_latitude":30.25,"machine_longitude":-120.0,"body":"地铁代扣","start_time":"20261123133430","line_name":"2号线","trade_scene":"BUS","out_order_no":"01KAQZ3V9B0000000000000042","attach":"01KAQZ3V9B0000000000000042"}"#
        );
    }

    #[test]
    fn names_with_quotes_and_control_characters_stay_json() {
        let template = BodyTemplate { line_name: "\"2\"\\\n号线".to_owned(), ..template() };
        let parsed: Value = serde_json::from_slice(&template.body(&single())).unwrap();
        assert_eq!(parsed["line_name"], "\"2\"\\\n号线");
    }

    #[test]
    fn a_coordinate_that_is_no_number_is_left_out() {
        let template = BodyTemplate { machine_latitude: Some(f64::NAN), ..template() };
        assert!(!text(&template, &single()).contains("latitude"));
    }

    #[test]
    fn a_request_is_recognised_by_both_names_of_its_order_and_its_amount() {
        let body = template().body(&single());
        let total_fen = single().total_fen;
        assert!(is_request_of(&body, ORDER, total_fen));
        assert!(!is_request_of(&body, ORDER, total_fen + 1) && !is_request_of(&body, "01KAQZ3V9B0000000000000043", total_fen));
        assert!(!is_request_of(b"spoiled", ORDER, total_fen));
    }
}
