//! SM2 signatures with SM3 (GB/T 32918.2): the one place that knows the library.
//!
//! A signature whose r or s is zero or out of range, and a key that is no point of the curve, are answers, never panics.

use sm2::{
    PublicKey,
    dsa::{Signature, VerifyingKey, signature::Verifier},
};

use super::parse::RawSignature;

/// The user ID that goes into Z.
pub const USER_ID: &str = "1234567812345678";

/// A public key that is a point of the curve.
#[derive(Clone, Copy)]
pub(super) struct VerifyKey(PublicKey);

impl VerifyKey {
    /// From a compressed or an uncompressed point (SEC 1). `None` when it is not on the curve, or the point at infinity.
    pub(super) fn from_point(point: &[u8]) -> Option<Self> {
        PublicKey::from_sec1_bytes(point).ok().map(Self)
    }

    /// Whether the holder of this key signed these bytes.
    pub(super) fn has_signed(&self, message: &[u8], signature: &RawSignature) -> bool {
        let key = VerifyingKey::new(USER_ID, self.0);
        let signature = Signature::from_bytes(signature);
        key.and_then(|key| key.verify(message, &signature?)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use sm3::{Digest, Sm3};

    use super::*;

    const ORDER: &str = "fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123";

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER_PERMISSIVE.decode(text.replace(' ', "").as_bytes()).unwrap()
    }

    fn signature(r: &str, s: &str) -> RawSignature {
        [hex(r), hex(s)].concat().try_into().unwrap()
    }

    /// GB/T 32918.5, annex A: key pair and signature of "message digest".
    fn example() -> (VerifyKey, RawSignature) {
        let x = "09F9DF31 1E5421A1 50DD7D16 1E4BC5C6 72179FAD 1833FC07 6BB08FF3 56F35020";
        let y = "CCEA490C E26775A5 2DC6EA71 8CC1AA60 0AED05FB F35E084A 6632F607 2DA9AD13";
        let r = "F5A03B06 48D2C463 0EEAC513 E1BB81A1 5944DA38 27D5B741 43AC7EAC EEE720B3";
        let s = "B1B6AA29 DF212FD8 763182BC 0D421CA1 BB9038FD 1F7F42D4 840B69C4 85BBC1AA";
        (VerifyKey::from_point(&hex(&format!("04{x}{y}"))).unwrap(), signature(r, s))
    }

    #[test]
    fn sm3_agrees_with_the_examples_of_gb_t_32905() {
        let one_block = hex("66c7f0f4 62eeedd9 d1f2d46b dc10e4e2 4167c487 5cf2f7a2 297da02b 8f4ba8e0");
        assert_eq!(Sm3::digest(b"abc").to_vec(), one_block);
        let two_blocks = hex("debe9ff9 2275b8a1 38604889 c18e5a4d 6fdb70e5 387e5765 293dcba3 9c0c5732");
        assert_eq!(Sm3::digest(b"abcd".repeat(16)).to_vec(), two_blocks);
    }

    #[test]
    fn sm2_agrees_with_the_example_of_gb_t_32918_5() {
        let (key, signature) = example();
        assert!(key.has_signed(b"message digest", &signature));
        assert!(!key.has_signed(b"message digesu", &signature));
    }

    #[test]
    fn r_and_s_out_of_range_are_refused() {
        let (key, good) = example();
        let (r, s) = (data_encoding::HEXLOWER.encode(&good[..32]), data_encoding::HEXLOWER.encode(&good[32..]));
        let zero = "0".repeat(64);
        let beyond = "f".repeat(64);
        for wrong in [zero.as_str(), ORDER, &beyond] {
            assert!(!key.has_signed(b"message digest", &signature(wrong, &s)), "r = {wrong}");
            assert!(!key.has_signed(b"message digest", &signature(&r, wrong)), "s = {wrong}");
        }
    }

    #[test]
    fn r_and_s_that_add_up_to_the_order_are_refused() {
        let (key, _) = example();
        let minus_one = "fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54122";
        let one = format!("{}1", "0".repeat(63));
        assert!(!key.has_signed(b"message digest", &signature(minus_one, &one)));
    }

    #[test]
    fn what_is_no_point_of_the_curve_is_no_key() {
        let prime = "fffffffeffffffffffffffffffffffffffffffff00000000ffffffffffffffff";
        for point in [format!("02{prime}"), format!("02{}", "f".repeat(64)), "00".to_owned(), String::new(), "02".to_owned()] {
            assert!(VerifyKey::from_point(&hex(&point)).is_none(), "{point}");
        }
        let on_curve = (0..=u8::MAX).filter(|x| VerifyKey::from_point(&[&[2], &[0; 31][..], &[*x]].concat()).is_some()).count();
        assert!((64..192).contains(&on_curve), "about half of all X have a Y: {on_curve} of 256");
    }
}
