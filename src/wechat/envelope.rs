//! The envelope of a callback (`facts`: WeChat, section 1, "Payment callback" and "Arrears"): bytes and keys in, what WeChat says
//! out. Pure.
//!
//! - Whoever sends is checked before anything is decrypted, in constant time: what comes out of [`Opener::open`] was said by
//!   somebody who has the key of the signature (or by anybody, where the settings say `sign = "none"`).
//! - It never panics, whatever the bytes are, and no error tells more than a word about what was wrong: the caller answers all of
//!   them alike.
//!
//! Neither order nor algorithm of the signature is public, so both are settings. The length of the AES key says which AES it is.

use std::fmt::{self, Write as _};

use aes::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit, block_padding::Pkcs7, consts::U16};
use data_encoding::{BASE64, HEXUPPER};
use hmac::{Hmac, Mac};
use md5::Md5;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::{self, SecretError, read_aes_key, read_secret};

/// Why an envelope was not opened. Nothing of it is told to whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotOpened {
    /// The bytes are no JSON object with the fields of an envelope.
    Envelope,
    /// For another app.
    AppId,
    /// For another merchant.
    Merchant,
    /// The signature is not that of the key.
    Sign,
    /// What is signed cannot be decrypted: its encoding, its length, or its padding.
    Cipher,
}

impl NotOpened {
    /// A word, for counters and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::AppId => "appid",
            Self::Merchant => "merchant",
            Self::Sign => "sign",
            Self::Cipher => "cipher",
        }
    }
}

/// What was in an envelope.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter {
    /// `nonce_str`, which the answer repeats.
    pub nonce: String,
    /// What was encrypted: a JSON document, if WeChat keeps its word.
    pub content: Vec<u8>,
}

impl fmt::Debug for Letter {
    /// Without the content, which names passengers and codes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Letter(<{} bytes>)", self.content.len())
    }
}

/// How envelopes are signed, with the key.
#[derive(Debug)]
pub enum SignKey {
    /// HMAC-SHA256 over the sign string, keyed with the key.
    HmacSha256(SecretString),
    /// MD5 of the sign string.
    Md5(SecretString),
    /// Not at all.
    None,
}

/// A field of the envelope that can be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignField {
    /// `appid`
    AppId,
    /// `mch_id`
    MerchantId,
    /// `nonce_str`
    Nonce,
    /// `encrypted_data`
    EncryptedData,
    /// `iv`
    Iv,
}

impl SignField {
    /// All of them, in the order of WeChat's page.
    pub const ALL: [Self; 5] = [Self::AppId, Self::MerchantId, Self::Nonce, Self::EncryptedData, Self::Iv];

    /// Its name in the envelope and in the sign string.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AppId => "appid",
            Self::MerchantId => "mch_id",
            Self::Nonce => "nonce_str",
            Self::EncryptedData => "encrypted_data",
            Self::Iv => "iv",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.as_str() == name)
    }
}

/// Opens envelopes. Its `Debug` holds no key.
#[derive(Debug)]
pub struct Opener {
    /// For whom envelopes must be.
    pub appid: String,
    /// For whom envelopes must be.
    pub mch_id: String,
    /// 16, 24 or 32 bytes.
    pub aes_key: SecretSlice<u8>,
    /// How they are signed.
    pub sign: SignKey,
    /// What is signed, in this order.
    pub sign_fields: Vec<SignField>,
}

/// The fields as they came.
#[derive(Deserialize)]
struct Envelope {
    appid: String,
    #[serde(default)]
    mch_id: Option<String>,
    // The table on WeChat's page prints this name, every example the other.
    #[serde(default)]
    appidmch_id: Option<String>,
    nonce_str: String,
    encrypted_data: String,
    iv: String,
    #[serde(default)]
    sign: String,
}

/// The fields of an envelope, as they are signed.
pub(crate) struct Signed<'a> {
    pub(crate) appid: &'a str,
    pub(crate) mch_id: &'a str,
    pub(crate) nonce: &'a str,
    pub(crate) encrypted_data: &'a str,
    pub(crate) iv: &'a str,
}

impl Opener {
    /// With the keys from the files that the settings name.
    ///
    /// # Errors
    /// A key cannot be had.
    pub fn read(wechat: &config::WeChat, callback: &config::Callback) -> Result<Self, SecretError> {
        let sign = match &callback.sign {
            config::Sign::HmacSha256(file) => SignKey::HmacSha256(read_secret(file)?),
            config::Sign::Md5(file) => SignKey::Md5(read_secret(file)?),
            config::Sign::None => SignKey::None,
        };
        Ok(Self {
            appid: wechat.appid.clone(),
            mch_id: wechat.mch_id.clone(),
            aes_key: read_aes_key(&callback.aes_key_file, callback.aes_key_encoding)?,
            sign,
            sign_fields: callback.sign_fields.iter().filter_map(|name| SignField::parse(name)).collect(),
        })
    }

    /// Checks who sent the envelope, then decrypts what is in it.
    ///
    /// # Errors
    /// See [`NotOpened`]; every one of them is to be answered alike.
    pub fn open(&self, bytes: &[u8]) -> Result<Letter, NotOpened> {
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| NotOpened::Envelope)?;
        let mch_id = envelope.mch_id.as_deref().or(envelope.appidmch_id.as_deref()).ok_or(NotOpened::Envelope)?;
        if envelope.appid != self.appid {
            return Err(NotOpened::AppId);
        }
        if mch_id != self.mch_id {
            return Err(NotOpened::Merchant);
        }
        let Envelope { appid, nonce_str, encrypted_data, iv, .. } = &envelope;
        let signed = Signed { appid, mch_id, nonce: nonce_str, encrypted_data, iv };
        if !self.sign.is_by_its_owner(&signed, &self.sign_fields, &envelope.sign) {
            return Err(NotOpened::Sign);
        }
        let content = self.decrypt(encrypted_data, iv).ok_or(NotOpened::Cipher)?;
        Ok(Letter { nonce: envelope.nonce_str, content })
    }

    fn decrypt(&self, encrypted_data: &str, iv: &str) -> Option<Vec<u8>> {
        let encrypted = BASE64.decode(encrypted_data.as_bytes()).ok()?;
        let iv = BASE64.decode(iv.as_bytes()).ok()?;
        let key = self.aes_key.expose_secret();
        match key.len() {
            16 => decrypted::<aes::Aes128>(key, &iv, &encrypted),
            24 => decrypted::<aes::Aes192>(key, &iv, &encrypted),
            32 => decrypted::<aes::Aes256>(key, &iv, &encrypted),
            _ => None,
        }
    }
}

/// `None` when the IV is not a block long, the data no whole number of blocks, or its padding not PKCS#7.
fn decrypted<C>(key: &[u8], iv: &[u8], encrypted: &[u8]) -> Option<Vec<u8>>
where
    C: BlockCipherDecrypt<BlockSize = U16> + KeyInit,
{
    cbc::Decryptor::<C>::new_from_slices(key, iv).ok()?.decrypt_padded_vec::<Pkcs7>(encrypted).ok()
}

impl SignKey {
    /// The signature as WeChat writes it; empty when nothing is signed.
    pub(crate) fn sign(&self, signed: &Signed<'_>, fields: &[SignField]) -> String {
        match self {
            Self::HmacSha256(key) => {
                let text = sign_string(signed, fields, key);
                hmac_sha256(key.expose_secret().as_bytes(), text.expose_secret().as_bytes())
            }
            Self::Md5(key) => HEXUPPER.encode(&Md5::digest(sign_string(signed, fields, key).expose_secret().as_bytes())),
            Self::None => String::new(),
        }
    }

    fn is_by_its_owner(&self, signed: &Signed<'_>, fields: &[SignField], sign: &str) -> bool {
        if matches!(self, Self::None) {
            return true;
        }
        let own = self.sign(signed, fields);
        !own.is_empty() && own.as_bytes().ct_eq(sign.as_bytes()).into()
    }
}

/// `k=v` of the fields, joined with `&`, then `&key=` and the key.
fn sign_string(signed: &Signed<'_>, fields: &[SignField], key: &SecretString) -> SecretString {
    let mut text = String::new();
    for field in fields {
        let value = match field {
            SignField::AppId => signed.appid,
            SignField::MerchantId => signed.mch_id,
            SignField::Nonce => signed.nonce,
            SignField::EncryptedData => signed.encrypted_data,
            SignField::Iv => signed.iv,
        };
        // Writing into a String cannot fail.
        let _ = write!(text, "{}={value}&", field.as_str());
    }
    text.push_str("key=");
    text.push_str(key.expose_secret());
    text.into()
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> String {
    // HMAC takes keys of any length: the error cannot come, and an empty signature is nobody's.
    Hmac::<Sha256>::new_from_slice(key)
        .map_or_else(|_| String::new(), |mac| HEXUPPER.encode(&mac.chain_update(text).finalize().into_bytes()))
}

#[cfg(test)]
pub(crate) mod tests {
    use aes::cipher::{BlockCipherEncrypt, BlockModeEncrypt};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::wechat::{ArrearsResult, PaymentResult};

    const IV: [u8; 16] = *b"an iv of sixteen";
    const CONTENT: &[u8] = br#"{"trade_state":"SUCCESS"}"#;

    pub(crate) fn opener(key_bytes: usize, sign: fn(SecretString) -> SignKey) -> Opener {
        Opener {
            appid: "wxtest".to_owned(),
            mch_id: "1900000001".to_owned(),
            aes_key: (0..32_u8).take(key_bytes).collect::<Vec<_>>().into(),
            sign: sign("sign key".to_owned().into()),
            sign_fields: SignField::ALL.to_vec(),
        }
    }

    fn encrypted(key: &[u8], content: &[u8]) -> Vec<u8> {
        fn with<C: BlockCipherEncrypt<BlockSize = U16> + KeyInit>(key: &[u8], content: &[u8]) -> Vec<u8> {
            cbc::Encryptor::<C>::new_from_slices(key, &IV).unwrap().encrypt_padded_vec::<Pkcs7>(content)
        }
        match key.len() {
            16 => with::<aes::Aes128>(key, content),
            24 => with::<aes::Aes192>(key, content),
            _ => with::<aes::Aes256>(key, content),
        }
    }

    /// As WeChat sends it, after `spoil` and before it is signed.
    fn sealed_after(opener: &Opener, spoil: impl FnOnce(&mut Value)) -> Value {
        let data = BASE64.encode(&encrypted(opener.aes_key.expose_secret(), CONTENT));
        let mut envelope = json!({
            "appid": opener.appid, "mch_id": opener.mch_id, "nonce_str": "N", "encrypted_data": data, "iv": BASE64.encode(&IV),
        });
        spoil(&mut envelope);
        let text = |name: &str| envelope[name].as_str().unwrap_or_default().to_owned();
        let (appid, mch_id, nonce, data, iv) =
            (text("appid"), text("mch_id"), text("nonce_str"), text("encrypted_data"), text("iv"));
        let signed = Signed { appid: &appid, mch_id: &mch_id, nonce: &nonce, encrypted_data: &data, iv: &iv };
        envelope["sign"] = opener.sign.sign(&signed, &opener.sign_fields).into();
        envelope
    }

    fn sealed(opener: &Opener) -> Value {
        sealed_after(opener, |_| ())
    }

    fn opened(opener: &Opener, envelope: &Value) -> Result<Vec<u8>, NotOpened> {
        opener.open(envelope.to_string().as_bytes()).map(|letter| letter.content)
    }

    #[test]
    fn an_envelope_is_opened_with_every_length_of_key_and_every_signature() {
        for bytes in [16, 24, 32] {
            for sign in [SignKey::HmacSha256, SignKey::Md5, |_| SignKey::None] {
                let opener = opener(bytes, sign);
                let letter = opener.open(sealed(&opener).to_string().as_bytes()).unwrap();
                assert_eq!((letter.nonce.as_str(), letter.content.as_slice()), ("N", CONTENT));
            }
        }
    }

    /// Made with `openssl dgst`, so that a mistake here cannot hide behind the same mistake there.
    #[test]
    fn signatures_are_those_of_another_program() {
        let signed = Signed { appid: "wxtest", mch_id: "1900000001", nonce: "N", encrypted_data: "AAAA", iv: "BBBB" };
        let sign = |key: fn(SecretString) -> SignKey| key("sign key".to_owned().into()).sign(&signed, &SignField::ALL);
        assert_eq!(sign(SignKey::HmacSha256), "4527F438111BEA4456EAB77B0ECCBA2D8074ED570271E0F8F2E981FD4371AD65");
        assert_eq!(sign(SignKey::Md5), "62D4A9DB5B6F943AF46D86D0BCA27EAC");
    }

    /// `docs/callbacks.md` opens the same ones without this program.
    #[test]
    fn recorded_exchanges_are_opened_and_read() {
        macro_rules! recorded {
            ($name:literal) => {
                include_str!(concat!("../../tests/data/callbacks/", $name))
            };
        }
        let key = BASE64.decode(recorded!("aes-key").trim_end().as_bytes()).unwrap();
        let opener = Opener {
            appid: "wxtestvector".to_owned(),
            mch_id: "1900000001".to_owned(),
            aes_key: key.into(),
            sign: SignKey::HmacSha256(recorded!("sign-key").trim_end().into()),
            sign_fields: SignField::ALL.to_vec(),
        };
        for exchange in [recorded!("payment-success.json"), recorded!("payment-fail.json"), recorded!("arrears.json")] {
            let exchange: Value = serde_json::from_str(exchange).unwrap();
            let letter = opener.open(exchange["request"].to_string().as_bytes()).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&letter.content).unwrap(), exchange["content"]);
            assert_eq!(exchange["answer"]["nonce_str"], letter.nonce);
            let (payment, arrears) = (PaymentResult::read(&letter.content), ArrearsResult::read(&letter.content));
            match exchange["path"].as_str().unwrap() {
                "/wechat/arrears" => assert_eq!(arrears.unwrap().orders.len(), 2),
                _ => assert_eq!(payment.unwrap().order.attach.as_deref(), Some("01KAQZ3V9B0000000000000042")),
            }
        }
    }

    #[test]
    fn only_the_named_fields_are_signed_in_the_named_order() {
        let mut opener = opener(16, SignKey::HmacSha256);
        opener.sign_fields = vec![SignField::Iv, SignField::EncryptedData];
        let mut envelope = sealed(&opener);
        envelope["nonce_str"] = json!("another");
        assert!(opened(&opener, &envelope).is_ok());
        opener.sign_fields.reverse();
        assert_eq!(opened(&opener, &envelope), Err(NotOpened::Sign));
    }

    #[test]
    fn both_names_of_the_merchant_are_understood() {
        let opener = opener(16, SignKey::HmacSha256);
        let mut envelope = sealed(&opener);
        let merchant = envelope.as_object_mut().unwrap().remove("mch_id").unwrap();
        envelope["appidmch_id"] = merchant;
        assert!(opened(&opener, &envelope).is_ok());
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_word() {
        let opener = opener(32, SignKey::HmacSha256);
        let cases: [(&str, Value, NotOpened); 9] = [
            ("appid", json!("wxother"), NotOpened::AppId),
            ("mch_id", json!("1900000002"), NotOpened::Merchant),
            ("mch_id", json!(1_900_000_001), NotOpened::Envelope),
            ("nonce_str", Value::Null, NotOpened::Envelope),
            ("encrypted_data", json!("not base64!"), NotOpened::Cipher),
            ("encrypted_data", json!(BASE64.encode(&[0; 15])), NotOpened::Cipher),
            ("encrypted_data", json!(BASE64.encode(&[0; 32])), NotOpened::Cipher),
            ("encrypted_data", json!(""), NotOpened::Cipher),
            ("iv", json!(BASE64.encode(&[0; 15])), NotOpened::Cipher),
        ];
        for (name, value, expected) in cases {
            let envelope = sealed_after(&opener, |envelope| envelope[name] = value.clone());
            assert_eq!(opened(&opener, &envelope), Err(expected), "{name} = {value}");
        }
        for bytes in [&b""[..], b"[]", b"null", b"{", b"\xff"] {
            assert_eq!(opener.open(bytes).unwrap_err(), NotOpened::Envelope);
        }
    }

    /// The signature is looked at first: nothing about the key of the cipher can be learned from what is answered.
    #[test]
    fn what_is_not_signed_by_its_owner_is_not_decrypted() {
        let opener = opener(32, SignKey::HmacSha256);
        for name in ["nonce_str", "encrypted_data", "iv", "sign"] {
            let mut envelope = sealed(&opener);
            envelope[name] = json!("AAAA");
            assert_eq!(opened(&opener, &envelope), Err(NotOpened::Sign), "{name}");
        }
        let mut envelope = sealed(&opener);
        let lower = envelope["sign"].as_str().unwrap().to_lowercase();
        envelope["sign"] = json!(lower);
        assert_eq!(opened(&opener, &envelope), Err(NotOpened::Sign));
        envelope.as_object_mut().unwrap().remove("sign");
        assert_eq!(opened(&opener, &envelope), Err(NotOpened::Sign));
    }

    #[test]
    fn neither_keys_nor_contents_are_printed() {
        let opener = opener(32, SignKey::HmacSha256);
        let letter = opener.open(sealed(&opener).to_string().as_bytes()).unwrap();
        let printed = format!("{opener:?} {letter:?}");
        assert!(!printed.contains("sign key") && !printed.contains("SUCCESS"), "{printed}");
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_opened_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let opener = opener(16, |_| SignKey::None);
            prop_assert!(opener.open(&bytes).is_err());
        }

        #[test]
        fn whatever_is_encrypted_is_opened_or_refused(data in proptest::collection::vec(any::<u8>(), 0..100), iv in ".{0,30}") {
            let opener = opener(24, |_| SignKey::None);
            let envelope = json!({
                "appid": opener.appid, "mch_id": opener.mch_id, "nonce_str": "", "encrypted_data": BASE64.encode(&data), "iv": iv,
            });
            let _ = opened(&opener, &envelope);
        }
    }
}
