//! Order numbers: what WeChat and this ledger call one deduction by, for ever.

use std::fmt;

use crate::entropy;

/// 26 characters of Crockford base32: 48 bits of UTC milliseconds, then 80 bits from the system's random source. Never a counter:
/// a restored backup or a cloned SD card must not hand out a number again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrderNumber(String);

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LENGTH: usize = 26;

impl OrderNumber {
    /// A new number.
    ///
    /// # Errors
    /// The system's random source does not answer.
    pub fn generate(utc_ms: i64) -> Result<Self, getrandom::Error> {
        let mut random = [0; 10];
        entropy::fill(&mut random)?;
        Ok(Self::from_parts(utc_ms, random))
    }

    /// Takes a number as people and WeChat write it; lower case is folded. `None` when it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let folded = text.trim().to_ascii_uppercase();
        let is_number = folded.len() == LENGTH && folded.bytes().all(|byte| ALPHABET.contains(&byte));
        is_number.then_some(Self(folded))
    }

    /// The 26 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When it was made, UTC milliseconds.
    #[must_use]
    pub fn utc_ms(&self) -> i64 {
        let place = |byte| ALPHABET.iter().position(|known| *known == byte).unwrap_or(0) as u128;
        let value = self.0.bytes().fold(0, |value, byte| value << 5 | place(byte));
        i64::try_from(value >> 80 & 0xffff_ffff_ffff).unwrap_or(i64::MAX)
    }

    fn from_parts(utc_ms: i64, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        // A clock before 1970 or after the year 10889 has no place in 48 bits: the number then begins with zeroes or wraps.
        bytes[..6].copy_from_slice(&utc_ms.max(0).to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        let value = u128::from_be_bytes(bytes);
        Self((0..LENGTH).rev().map(|place| char::from(ALPHABET[((value >> (5 * place)) & 31) as usize])).collect())
    }
}

impl fmt::Display for OrderNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_begins_with_its_time_and_has_26_characters() {
        let order = OrderNumber::from_parts(1_469_918_176_385, [0xff; 10]);
        assert_eq!(order.as_str(), "01ARYZ6S41ZZZZZZZZZZZZZZZZ");
        assert_eq!(order.utc_ms(), 1_469_918_176_385);
        assert_eq!(OrderNumber::from_parts(-5, [0; 10]).as_str(), "0".repeat(26));
    }

    #[test]
    fn two_numbers_of_one_moment_differ() {
        assert_ne!(OrderNumber::generate(1).unwrap(), OrderNumber::generate(1).unwrap());
    }

    #[test]
    fn only_numbers_are_taken_and_lower_case_is_folded() {
        let order = OrderNumber::generate(1_795_412_070_123).unwrap();
        assert_eq!(OrderNumber::parse(&order.as_str().to_lowercase()), Some(order.clone()));
        assert_eq!(OrderNumber::parse(&order.as_str()[1..]), None);
        assert_eq!(OrderNumber::parse("01ARYZ6S41ZZZZZZZZZZZZZZZU"), None);
    }
}
