//! WeChat's callbacks as another program makes them: sealed with the keys of the gate's settings, posted over HTTP.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use aes::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use data_encoding::{BASE64, HEXUPPER};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};

use super::{gate::Builder, ports::free_port, wechat::APPID};

pub(crate) const MERCHANT: &str = "1900000001";
pub(crate) const PAYMENT: &str = "/wechat/payment";
pub(crate) const ARREARS: &str = "/wechat/arrears";
/// The key of the cipher, and that of the signature.
pub(crate) const AES_KEY: [u8; 32] = *b"thirty-two bytes of a test's key";
pub(crate) const SIGN_KEY: &str = "the test's sign key";

const TIMEOUT: Duration = Duration::from_secs(20);

static NONCES: AtomicU32 = AtomicU32::new(0);

/// Whoever calls the gate back.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) port: u16,
}

impl Caller {
    /// With a free port that nobody listens at yet.
    pub(crate) fn new() -> Self {
        Self { port: free_port() }
    }

    /// The settings of a gate that takes these callbacks.
    pub(crate) fn settings(&self, builder: Builder) -> Builder {
        let port = self.port;
        builder
            .file("callback-aes", BASE64.encode(&AES_KEY).as_bytes())
            .file("callback-sign", SIGN_KEY.as_bytes())
            .set("callback", "listen", format!("127.0.0.1:{port}"))
            .set("callback", "payment_path", PAYMENT)
            .set("callback", "arrears_path", ARREARS)
            .set("callback", "aes_key_file", "callback-aes")
            .set("callback", "sign_key_file", "callback-sign")
    }

    /// Tells of a payment; whether it was received.
    pub(crate) fn payment(&self, content: &Value) -> bool {
        self.delivered(PAYMENT, content)
    }

    /// Tells of a repayment; whether it was received.
    pub(crate) fn arrears(&self, content: &Value) -> bool {
        self.delivered(ARREARS, content)
    }

    fn delivered(&self, path: &str, content: &Value) -> bool {
        let envelope = sealed(content.to_string().as_bytes());
        let answer = self.post(path, &envelope);
        if answer["errcode"] == 0 {
            assert_eq!(answer, json!({"errcode": 0, "errmsg": "ok", "nonce_str": envelope["nonce_str"]}));
            return true;
        }
        assert_eq!(answer, refusal());
        false
    }

    /// The JSON of the answer, which is always 200.
    pub(crate) fn post(&self, path: &str, envelope: &Value) -> Value {
        self.send(&request("POST", path, envelope.to_string().as_bytes()))
    }

    /// As [`Self::post`], of these bytes as they are.
    pub(crate) fn send(&self, request: &[u8]) -> Value {
        let mut line = self.connect();
        line.write_all(request).unwrap();
        answer(&mut line).unwrap_or_else(|said| panic!("no answer, but {said:?}"))
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let line = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        line.set_read_timeout(Some(TIMEOUT)).unwrap();
        line
    }
}

/// The one answer to everything that is wrong.
pub(crate) fn refusal() -> Value {
    json!({"errcode": 1, "errmsg": "refused"})
}

/// The JSON of a 200; what came, if it is none.
pub(crate) fn answer(line: &mut TcpStream) -> Result<Value, String> {
    let mut bytes = Vec::new();
    // A reset after the answer takes nothing of it away.
    let _ = line.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = text.starts_with("HTTP/1.1 200 ").then(|| text.split_once("\r\n\r\n")).flatten();
    body.and_then(|(_, body)| serde_json::from_str(body).ok()).ok_or(text)
}

pub(crate) fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: gate\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// An envelope with the settings' defaults: AES-256, HMAC-SHA256, all five fields.
pub(crate) fn sealed(content: &[u8]) -> Value {
    signed(unsigned(content))
}

/// As [`sealed`], but for the signature.
pub(crate) fn unsigned(content: &[u8]) -> Value {
    let nonce = format!("NONCE-{}", NONCES.fetch_add(1, Ordering::Relaxed));
    let iv = [7; 16];
    let encrypted = cbc::Encryptor::<aes::Aes256>::new(&AES_KEY.into(), &iv.into()).encrypt_padded_vec::<Pkcs7>(content);
    json!({
        "appid": APPID, "mch_id": MERCHANT, "nonce_str": nonce, "encrypted_data": BASE64.encode(&encrypted), "iv": BASE64.encode(&iv),
    })
}

/// With the signature of what it holds.
pub(crate) fn signed(mut envelope: Value) -> Value {
    let text = sign_string(&envelope);
    let mac = Hmac::<sha2::Sha256>::new_from_slice(SIGN_KEY.as_bytes()).unwrap().chain_update(text.as_bytes());
    envelope["sign"] = HEXUPPER.encode(&mac.finalize().into_bytes()).into();
    envelope
}

pub(crate) fn sign_string(envelope: &Value) -> String {
    let value = |name: &str| envelope[name].as_str().unwrap_or_default();
    let merchant = if envelope["mch_id"].is_string() { value("mch_id") } else { value("appidmch_id") };
    format!(
        "appid={}&mch_id={merchant}&nonce_str={}&encrypted_data={}&iv={}&key={SIGN_KEY}",
        value("appid"),
        value("nonce_str"),
        value("encrypted_data"),
        value("iv")
    )
}

/// The content of a payment callback for the order that came as `deduction`.
pub(crate) fn paid(deduction: &Value) -> Value {
    json!({
        "openid": "oTest", "bank_type": "CFT", "total_fee": deduction["total_fee"], "trade_state": "SUCCESS",
        "transaction_id": "4200000001", "out_trade_no": deduction["out_order_no"], "attach": deduction["attach"],
        "time_end": "20261123133430", "qrcode": deduction["qrcode"],
    })
}

/// The same, not paid.
pub(crate) fn unpaid(deduction: &Value) -> Value {
    let mut content = paid(deduction);
    content["trade_state"] = "FAIL".into();
    content["trade_msg"] = "余额不足".into();
    content
}

/// The content of an arrears callback for these orders.
pub(crate) fn repaid(deductions: &[&Value]) -> Value {
    let total_fee: i64 = deductions.iter().map(|deduction| deduction["total_fee"].as_i64().unwrap()).sum();
    let orders: Vec<_> = deductions
        .iter()
        .map(|deduction| {
            json!({
                "order_no": "W1", "attach": deduction["attach"], "base64_qrcode": deduction["qrcode"],
                "out_order_no": deduction["out_order_no"],
            })
        })
        .collect();
    json!({
        "out_user_id": "uTest", "openid": "oTest", "bank_type": "CFT", "total_fee": total_fee, "transaction_id": "4200000002",
        // As in WeChat's own example: 16 digits.
        "time_end": "2026112313343012", "repay_no": "R1", "order_no": ["W1"], "order": orders,
    })
}
