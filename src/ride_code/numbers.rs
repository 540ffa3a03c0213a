//! The decimal numbers of a ride code, kept as the code holds them: packed, two digits a byte.
//!
//! A value that exists consists of decimal digits only. Which of them people may see whole is each type's own matter.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// `2 × BYTES` decimal digits, packed (BCD). Without `Debug`: some of them are a passenger's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Packed<const BYTES: usize>([u8; BYTES]);

impl<const BYTES: usize> Packed<BYTES> {
    /// `None` when a half-byte is no decimal digit.
    #[must_use]
    pub fn new(bytes: [u8; BYTES]) -> Option<Self> {
        bytes.iter().all(|byte| byte >> 4 <= 9 && byte & 0x0f <= 9).then_some(Self(bytes))
    }

    /// `None` unless the text is exactly `2 × BYTES` decimal digits.
    #[must_use]
    pub fn from_digits(digits: &str) -> Option<Self> {
        if digits.len() != 2 * BYTES || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            *byte = (pair[0] - b'0') << 4 | (pair[1] - b'0');
        }
        Some(Self(bytes))
    }

    /// As the code holds them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; BYTES] {
        &self.0
    }

    /// All digits.
    #[must_use]
    pub fn digits(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

/// The 8 digits that name an issuer of ride codes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IssuerCode(pub(crate) Packed<4>);

impl IssuerCode {
    /// `None` unless the text is exactly 8 decimal digits.
    #[must_use]
    pub fn from_digits(digits: &str) -> Option<Self> {
        Packed::from_digits(digits).map(Self)
    }
}

impl fmt::Display for IssuerCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.digits())
    }
}

impl fmt::Debug for IssuerCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 20 digits of a passenger's card account: what the deny-list names. `Debug` and `Display` show 16 `*` and the last 4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CardAccount(pub(crate) Packed<10>);

impl CardAccount {
    /// `None` unless the text is exactly 20 decimal digits.
    #[must_use]
    pub fn from_digits(digits: &str) -> Option<Self> {
        Packed::from_digits(digits).map(Self)
    }

    /// All 20 digits: for comparison and for whoever may see them, never for a log.
    #[must_use]
    pub fn digits(&self) -> String {
        self.0.digits()
    }

    /// Packed, as a code and the deny-list hold them. `None` when a half-byte is no decimal digit.
    #[must_use]
    pub fn from_packed(bytes: [u8; 10]) -> Option<Self> {
        Packed::new(bytes).map(Self)
    }

    /// Packed, two digits a byte.
    #[must_use]
    pub fn as_packed(&self) -> &[u8; 10] {
        self.0.as_bytes()
    }

    /// The last 4 digits.
    #[must_use]
    pub fn tail(&self) -> String {
        self.digits().split_off(16)
    }
}

impl Serialize for CardAccount {
    /// All 20 digits: for the deny-list's commands, which show them only to whom may see them.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.digits())
    }
}

impl<'de> Deserialize<'de> for CardAccount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        Self::from_digits(&digits).ok_or_else(|| D::Error::custom("a card account has 20 digits"))
    }
}

impl fmt::Display for CardAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::masked(&self.tail()))
    }
}

impl fmt::Debug for CardAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_survive_packing() {
        let card = CardAccount::from_digits("01234567890123456789").unwrap();
        assert_eq!(card.0.as_bytes(), &[0x01, 0x23, 0x45, 0x67, 0x89, 0x01, 0x23, 0x45, 0x67, 0x89]);
        assert_eq!((card.digits().as_str(), card.tail().as_str()), ("01234567890123456789", "6789"));
        assert!(Packed::new(*card.0.as_bytes()) == Some(card.0));
    }

    #[test]
    fn what_is_not_digits_is_no_number() {
        for text in ["", "0366453", "036645300", "0366453a", "+3664530", "0366453٣"] {
            assert_eq!(IssuerCode::from_digits(text), None, "{text}");
        }
        for byte in [0x0a, 0xa0, 0x9f, 0xff] {
            assert!(Packed::new([0x12, byte]).is_none(), "{byte:02x}");
        }
        assert!(Packed::new([0x99, 0x00]).is_some());
    }

    #[test]
    fn a_card_account_is_printed_masked() {
        let card = CardAccount::from_digits("91237654321001000042").unwrap();
        assert_eq!(format!("{card} {card:?}"), "****************0042 ****************0042");
    }
}
