//! Seals callbacks as WeChat does, with the keys that the gate opens them with. Pure.

use aes::cipher::{BlockCipherEncrypt, BlockModeEncrypt, KeyInit, KeyIvInit, block_padding::Pkcs7, consts::U16};
use data_encoding::{BASE64, HEXLOWER};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::wechat::{Opener, Signed};

/// Bytes of an initialization vector.
const IV_BYTES: usize = 16;

/// What must be another for each envelope.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Freshness {
    pub(crate) iv: [u8; IV_BYTES],
    pub(crate) nonce: [u8; 8],
}

impl Freshness {
    /// From the system's random source.
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        let mut fresh = Self { iv: [0; IV_BYTES], nonce: [0; 8] };
        getrandom::fill(&mut fresh.iv)?;
        getrandom::fill(&mut fresh.nonce)?;
        Ok(fresh)
    }
}

/// An envelope with this content; `None` when the key is not as long as an AES key.
pub(crate) fn seal(keys: &Opener, content: &Value, fresh: Freshness) -> Option<Value> {
    let (nonce, iv) = (HEXLOWER.encode(&fresh.nonce), BASE64.encode(&fresh.iv));
    let encrypted_data = BASE64.encode(&encrypt(keys.aes_key.expose_secret(), fresh.iv, content.to_string().as_bytes())?);
    let Opener { appid, mch_id, .. } = keys;
    let signed = Signed { appid, mch_id, nonce: &nonce, encrypted_data: &encrypted_data, iv: &iv };
    let sign = keys.sign.sign(&signed, &keys.sign_fields);
    Some(json!({
        "appid": appid, "mch_id": mch_id, "nonce_str": nonce, "encrypted_data": encrypted_data, "iv": iv, "sign": sign,
    }))
}

fn encrypt(key: &[u8], iv: [u8; IV_BYTES], content: &[u8]) -> Option<Vec<u8>> {
    match key.len() {
        16 => encrypted::<aes::Aes128>(key, &iv, content),
        24 => encrypted::<aes::Aes192>(key, &iv, content),
        32 => encrypted::<aes::Aes256>(key, &iv, content),
        _ => None,
    }
}

fn encrypted<C>(key: &[u8], iv: &[u8], content: &[u8]) -> Option<Vec<u8>>
where
    C: BlockCipherEncrypt<BlockSize = U16> + KeyInit,
{
    Some(cbc::Encryptor::<C>::new_from_slices(key, iv).ok()?.encrypt_padded_vec::<Pkcs7>(content))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::wechat::{SignField, SignKey};

    pub(crate) fn keys(key_bytes: u8) -> Opener {
        Opener {
            appid: "wxsandbox".to_owned(),
            mch_id: "1900000001".to_owned(),
            aes_key: (0..key_bytes).collect::<Vec<_>>().into(),
            sign: SignKey::HmacSha256("key".to_owned().into()),
            sign_fields: SignField::ALL.to_vec(),
        }
    }

    #[test]
    fn what_is_sealed_is_opened_by_the_gate() {
        for key_bytes in [16, 24, 32] {
            let keys = keys(key_bytes);
            let content = json!({"total_fee": 200, "trade_msg": "余额不足"});
            let envelope = seal(&keys, &content, Freshness::random().unwrap()).unwrap();
            let letter = keys.open(envelope.to_string().as_bytes()).unwrap();
            assert_eq!((letter.content, envelope["nonce_str"] == letter.nonce), (content.to_string().into_bytes(), true));
        }
        assert_eq!(seal(&keys(7), &json!({}), Freshness::random().unwrap()), None);
    }
}
