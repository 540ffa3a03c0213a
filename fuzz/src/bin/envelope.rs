//! WeChat's callbacks: no bytes make opening or reading one panic, nothing without the sign is opened, and whatever stands in an envelope
//! that is opened is read or refused.
//!
//! The first byte says what the rest is: a whole envelope, which is not signed; what is encrypted in one, after the 16 bytes of its `iv`;
//! or what was encrypted.

#![no_main]

use std::sync::LazyLock;

use data_encoding::BASE64;
use faregate::wechat::{ArrearsResult, Opener, PaymentResult, SignField, SignKey};
use libfuzzer_sys::fuzz_target;
use secrecy::{SecretSlice, SecretString};

/// Those of the exchanges in tests/data/callbacks, with which the search begins.
const APPID: &str = "wxtestvector";
const MCH_ID: &str = "1900000001";
const AES_KEY: &str = include_str!("../../../tests/data/callbacks/aes-key");

fn opener(sign: SignKey) -> Opener {
    Opener {
        appid: APPID.to_owned(),
        mch_id: MCH_ID.to_owned(),
        aes_key: SecretSlice::from(BASE64.decode(AES_KEY.trim().as_bytes()).expect("the key is base64")),
        sign,
        sign_fields: vec![SignField::AppId, SignField::MerchantId, SignField::Nonce, SignField::EncryptedData, SignField::Iv],
    }
}

static SIGNED: LazyLock<Opener> = LazyLock::new(|| opener(SignKey::HmacSha256(SecretString::from("a key that no input knows"))));
static UNSIGNED: LazyLock<Opener> = LazyLock::new(|| opener(SignKey::None));

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    match how % 3 {
        0 => {
            assert!(SIGNED.open(rest).is_err(), "an envelope without the sign was opened");
            open(rest);
        }
        1 => open(envelope(rest).as_bytes()),
        _ => read(rest),
    }
});

/// An envelope with this `iv` and these encrypted bytes.
fn envelope(bytes: &[u8]) -> String {
    let (iv, encrypted) = bytes.split_at(bytes.len().min(16));
    let (iv, encrypted) = (BASE64.encode(iv), BASE64.encode(encrypted));
    format!(r#"{{"appid":"{APPID}","mch_id":"{MCH_ID}","nonce_str":"n","encrypted_data":"{encrypted}","iv":"{iv}","sign":""}}"#)
}

fn open(bytes: &[u8]) {
    if let Ok(letter) = UNSIGNED.open(bytes) {
        read(&letter.content);
    }
}

fn read(content: &[u8]) {
    let _ = (PaymentResult::read(content), ArrearsResult::read(content));
}
