//! What WeChat says in its callbacks about deductions (`facts`: WeChat, section 1): decrypted bytes in, plain values out. Pure.
//!
//! Only what settles a deduction is read; passengers' identities are left where they are. A `time_end` may have any form (WeChat's
//! own example has one digit too many): it is kept as words and never a reason to refuse.

use std::fmt;

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::Value;

use crate::journal::printable;

/// Orders that one repayment settles at most. A callback of 64 KiB holds fewer when it tells their codes.
pub const ORDERS_MAX: usize = 500;
/// No payment of passengers is for more; sums of such amounts stay whole numbers of 64 bits.
const FEN_MAX: i64 = 1_000_000_000_000;
/// Characters of each text that is kept.
const TEXT_CHARS_MAX: usize = 128;

/// The content is no result as WeChat documents it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoResult;

/// The names that a callback has for one order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OrderNames {
    /// `attach`: as it was sent with the deduction.
    pub attach: Option<String>,
    /// `out_trade_no`, of a repayment `out_order_no`: the operator's number, or one of WeChat's side.
    pub out_trade_no: Option<String>,
    /// `order_no`, of a repayment only: WeChat's number, as a rule.
    pub order_no: Option<String>,
    /// `qrcode`, of a repayment `base64_qrcode`: the decoded code.
    pub code: Option<Vec<u8>>,
}

impl fmt::Debug for OrderNames {
    /// Without the code.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrderNames({:?}, {:?}, {:?})", self.attach, self.out_trade_no, self.order_no)
    }
}

/// What became of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TradeState {
    /// `SUCCESS`
    Success,
    /// `FAIL`, with `trade_msg`.
    Fail {
        /// Why, in WeChat's words.
        why: Option<String>,
    },
}

/// A payment callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentResult {
    /// Of which order.
    pub order: OrderNames,
    /// Paid or not.
    pub state: TradeState,
    /// `total_fee`
    pub total_fen: i64,
    /// `transaction_id`
    pub transaction_id: Option<String>,
    /// `time_end`, as it came.
    pub time_end: Option<String>,
}

/// An arrears callback: one payment for one or more trips that were not paid before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrearsResult {
    /// Of which orders; at least one, which may be without a name.
    pub orders: Vec<OrderNames>,
    /// `total_fee`: of all of them together.
    pub total_fen: i64,
    /// `transaction_id`
    pub transaction_id: Option<String>,
    /// `repay_no`
    pub repay_no: Option<String>,
    /// `time_end`, as it came.
    pub time_end: Option<String>,
}

#[derive(Deserialize)]
struct Payment {
    total_fee: i64,
    trade_state: String,
    #[serde(default)]
    trade_msg: Value,
    #[serde(default)]
    transaction_id: Value,
    #[serde(default)]
    out_trade_no: Value,
    #[serde(default)]
    attach: Value,
    #[serde(default)]
    time_end: Value,
    #[serde(default)]
    qrcode: Value,
}

#[derive(Deserialize)]
struct Arrears {
    total_fee: i64,
    #[serde(default)]
    transaction_id: Value,
    #[serde(default)]
    time_end: Value,
    #[serde(default)]
    repay_no: Value,
    #[serde(default)]
    order_no: Option<Vec<Value>>,
    #[serde(default)]
    order: Option<Vec<ArrearsOrder>>,
}

#[derive(Deserialize)]
struct ArrearsOrder {
    #[serde(default)]
    attach: Value,
    #[serde(default)]
    base64_qrcode: Value,
    #[serde(default)]
    out_order_no: Value,
    #[serde(default)]
    order_no: Value,
}

impl PaymentResult {
    /// Reads the content of a payment callback.
    ///
    /// # Errors
    /// It is no JSON object, or `total_fee` or `trade_state` are not what is documented.
    pub fn read(content: &[u8]) -> Result<Self, NoResult> {
        let payment: Payment = serde_json::from_slice(content).map_err(|_| NoResult)?;
        let state = match payment.trade_state.as_str() {
            "SUCCESS" => TradeState::Success,
            "FAIL" => TradeState::Fail { why: text(&payment.trade_msg) },
            _ => return Err(NoResult),
        };
        let code = code(&payment.qrcode);
        Ok(Self {
            order: OrderNames { attach: text(&payment.attach), out_trade_no: text(&payment.out_trade_no), order_no: None, code },
            state,
            total_fen: fen(payment.total_fee)?,
            transaction_id: text(&payment.transaction_id),
            time_end: text(&payment.time_end),
        })
    }
}

impl ArrearsResult {
    /// Reads the content of an arrears callback.
    ///
    /// # Errors
    /// It is no JSON object, `total_fee` is not what is documented, or it names more than [`ORDERS_MAX`] orders.
    pub fn read(content: &[u8]) -> Result<Self, NoResult> {
        let arrears: Arrears = serde_json::from_slice(content).map_err(|_| NoResult)?;
        let orders = arrears.orders();
        if orders.len() > ORDERS_MAX {
            return Err(NoResult);
        }
        Ok(Self {
            orders,
            total_fen: fen(arrears.total_fee)?,
            transaction_id: text(&arrears.transaction_id),
            repay_no: text(&arrears.repay_no),
            time_end: text(&arrears.time_end),
        })
    }
}

impl Arrears {
    /// Those that `order` tells, then those of which `order_no` has nothing but the number. Each told without a number has one of
    /// these itself.
    fn orders(&self) -> Vec<OrderNames> {
        let mut orders: Vec<_> = self.order.iter().flatten().map(ArrearsOrder::names).collect();
        let without_number = orders.iter().filter(|order| order.order_no.is_none()).count();
        let is_told = |number: &String| orders.iter().any(|order| order.order_no.as_ref() == Some(number));
        let numbers = self.order_no.iter().flatten().filter_map(text).filter(|number| !is_told(number));
        let alone: Vec<_> = numbers.skip(without_number).collect();
        orders.extend(alone.into_iter().map(|number| OrderNames { order_no: Some(number), ..OrderNames::default() }));
        if orders.is_empty() { vec![OrderNames::default()] } else { orders }
    }
}

impl ArrearsOrder {
    fn names(&self) -> OrderNames {
        OrderNames {
            attach: text(&self.attach),
            out_trade_no: text(&self.out_order_no),
            order_no: text(&self.order_no),
            code: code(&self.base64_qrcode),
        }
    }
}

fn fen(told: i64) -> Result<i64, NoResult> {
    if (0..=FEN_MAX).contains(&told) { Ok(told) } else { Err(NoResult) }
}

/// Any scalar as words: nothing that only people read is a reason to refuse a payment.
fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.chars().take(TEXT_CHARS_MAX).map(printable).collect(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    Some(text).filter(|text: &String| !text.is_empty())
}

fn code(value: &Value) -> Option<Vec<u8>> {
    BASE64.decode(value.as_str()?.as_bytes()).ok().filter(|code| !code.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn payment() -> Value {
        json!({
            "openid": "o6_bmjrPTlm6_2sgVt7hMZOPfL2M", "bank_type": "CFT", "total_fee": 160, "trade_state": "SUCCESS",
            "transaction_id": "4200000001", "out_trade_no": "A1", "attach": "A0", "time_end": "20261123133430", "qrcode": "gP/+AQ==",
        })
    }

    fn read(value: &Value) -> Result<PaymentResult, NoResult> {
        PaymentResult::read(value.to_string().as_bytes())
    }

    #[test]
    fn a_payment_is_read_with_all_its_names() {
        let order = OrderNames {
            attach: Some("A0".to_owned()),
            out_trade_no: Some("A1".to_owned()),
            order_no: None,
            code: Some(vec![0x80, 0xff, 0xfe, 1]),
        };
        let expected = PaymentResult {
            order,
            state: TradeState::Success,
            total_fen: 160,
            transaction_id: Some("4200000001".to_owned()),
            time_end: Some("20261123133430".to_owned()),
        };
        assert_eq!(read(&payment()), Ok(expected));
    }

    #[test]
    fn a_failed_payment_says_why() {
        let mut value = payment();
        value["trade_state"] = json!("FAIL");
        assert_eq!(read(&value).unwrap().state, TradeState::Fail { why: None });
        value["trade_msg"] = json!("余额不足");
        assert_eq!(read(&value).unwrap().state, TradeState::Fail { why: Some("余额不足".to_owned()) });
    }

    #[test]
    fn a_time_in_any_form_is_no_reason_to_refuse() {
        for (time, kept) in [
            (json!("2026112313343011"), Some("2026112313343011")),
            (json!("yesterday"), Some("yesterday")),
            (json!(20_261_123_133_430_i64), Some("20261123133430")),
            (json!(""), None),
            (json!(null), None),
            (json!(["odd"]), None),
        ] {
            let mut value = payment();
            value["time_end"] = time;
            assert_eq!(read(&value).unwrap().time_end.as_deref(), kept);
        }
    }

    #[test]
    fn a_payment_without_an_amount_or_a_known_state_is_none() {
        for (name, bad) in [
            ("total_fee", json!("160")),
            ("total_fee", json!(-1)),
            ("total_fee", json!(FEN_MAX + 1)),
            ("total_fee", json!(1.5)),
            ("total_fee", json!(null)),
            ("trade_state", json!("REFUND")),
            ("trade_state", json!(null)),
        ] {
            let mut value = payment();
            value[name] = bad.clone();
            assert_eq!(read(&value), Err(NoResult), "{name} = {bad}");
        }
        assert_eq!(PaymentResult::read(b"[]"), Err(NoResult));
        assert_eq!(PaymentResult::read(b"\xff"), Err(NoResult));
    }

    #[test]
    fn a_repayment_names_each_of_its_trips() {
        let value = json!({
            "out_user_id": "u", "openid": "o", "bank_type": "CFT", "total_fee": 400, "transaction_id": "T", "repay_no": "R",
            "time_end": "2021012811203012", "order_no": ["W1", "W2"],
            "order": [
                {"order_no": "W1", "attach": "A1", "base64_qrcode": "gP/+AQ==", "out_order_no": "O1"},
                {"order_no": "W2", "base64_qrcode": "***"},
            ],
        });
        let read = ArrearsResult::read(value.to_string().as_bytes()).unwrap();
        assert_eq!((read.total_fen, read.repay_no.as_deref(), read.orders.len()), (400, Some("R"), 2));
        let names = |order: &OrderNames| (order.attach.clone(), order.out_trade_no.clone(), order.code.as_ref().map(Vec::len));
        assert_eq!(names(&read.orders[0]), (Some("A1".to_owned()), Some("O1".to_owned()), Some(4)));
        assert_eq!(read.orders[1], OrderNames { order_no: Some("W2".to_owned()), ..OrderNames::default() });
    }

    #[test]
    fn a_repayment_that_names_numbers_only_or_nothing_is_read_all_the_same() {
        let read = |text: &str| ArrearsResult::read(text.as_bytes()).map(|read| read.orders);
        let numbers = read(r#"{"total_fee":1,"order_no":["W1"]}"#).unwrap();
        assert_eq!(numbers[0].order_no.as_deref(), Some("W1"));
        let some_told = read(r#"{"total_fee":1,"order_no":["W1","W2"],"order":[{"order_no":"W2","attach":"A2"}]}"#).unwrap();
        let numbers: Vec<_> = some_told.iter().map(|order| order.order_no.as_deref()).collect();
        assert_eq!((numbers, some_told.len()), (vec![Some("W2"), Some("W1")], 2));
        let told = read(r#"{"total_fee":1,"order_no":["W1"],"order":[{"attach":"A1"}]}"#).unwrap();
        assert_eq!((told.len(), told[0].attach.as_deref()), (1, Some("A1")));
        assert_eq!(read(r#"{"total_fee":1,"order_no":null,"order":null}"#), Ok(vec![OrderNames::default()]));
        assert_eq!(read(r#"{"total_fee":1}"#), Ok(vec![OrderNames::default()]));
        let many = format!(r#"{{"total_fee":1,"order_no":[{}1]}}"#, "1,".repeat(ORDERS_MAX));
        assert_eq!(read(&many), Err(NoResult));
    }

    #[test]
    fn neither_codes_nor_passengers_are_printed() {
        let printed = format!("{:?}", read(&payment()).unwrap());
        assert!(!printed.contains("128, 255") && !printed.contains("o6_b"), "{printed}");
    }

    proptest! {
        #[test]
        fn whatever_is_in_an_envelope_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,100}") {
            for content in [bytes.as_slice(), text.as_bytes()] {
                let _ = (PaymentResult::read(content), ArrearsResult::read(content));
            }
        }
    }
}
