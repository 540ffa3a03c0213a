//! The bytes of a ride code as typed fields (JT/T 1179-2018, `facts`: the ride code's field table).
//!
//! Takes any bytes, never panics, allocates nothing. What comes out has the right form and nothing more: whether it is genuine
//! and in time is [`super::verify`]'s matter. Which bytes each signature covers is said here and nowhere else.

use jiff::{Span, civil::Date, tz::Offset};

use super::super::numbers::{CardAccount, IssuerCode, Packed};

/// A code without custom data.
pub(super) const CODE_BYTES_MIN: usize = 332;
/// Custom data at most.
pub(super) const CUSTOM_BYTES_MAX: usize = 32;
/// A code with the most custom data.
pub(super) const CODE_BYTES_MAX: usize = CODE_BYTES_MIN + CUSTOM_BYTES_MAX;
/// Version and length field, which the length does not count.
pub(super) const HEADER_BYTES: usize = 3;
/// Where the custom data's length is.
pub(super) const CUSTOM_LENGTH_AT: usize = 197;

const VERSION_MIN: u8 = 0x80;
const CERTIFICATE_BYTES: usize = 117;
const CERTIFICATE_TAG: u8 = 0x24;
const CERTIFICATE_SERVICE: [u8; 4] = [0x01, 0x01, 0x00, 0x00];
const CERTIFICATE_FORMAT: u8 = 0x12;
/// SM3, and SM2: no other algorithm is known.
const ALGORITHM: u8 = 0x04;
const KEY_BYTES: u8 = 0x21;
const SIGNATURE_TAG: u8 = 0x15;
const CENTURY: u16 = 2000;

/// An SM2 point: 02 or 03, then X. Whether it is on the curve is not known yet.
pub type CompressedKey = [u8; 33];

/// r ‖ s, 32 bytes each, big-endian. Whether they are in range is not known yet.
pub type RawSignature = [u8; 64];

/// A ride code of the right form.
#[derive(Clone)]
pub struct RideCode<'a> {
    bytes: &'a [u8],
    /// Field 1, 0x80 to 0xFF.
    pub version: u8,
    /// Field 3.
    pub certificate: Certificate<'a>,
    /// Field 4, without its padding: printable ASCII, at most 16 characters.
    pub payment_account: &'a str,
    /// Field 5: with the issuer code, the passenger's stable identity.
    pub card: CardAccount,
    /// Field 6.
    pub issuer: IssuerCode,
    /// Field 7.
    pub platform: Packed<4>,
    /// Field 8: card type of JT/T 978.2.
    pub account_type: u8,
    /// Field 9, in fen, at most 0xFFFFFF.
    pub single_trip_limit_fen: i64,
    /// Field 10.
    pub user_key: CompressedKey,
    /// Field 11, epoch seconds as the issuer wrote them.
    pub authorization_expiry_s: i64,
    /// Field 12, seconds from generation.
    pub validity_s: i64,
    /// Field 14, at most 32 bytes.
    pub custom: &'a [u8],
    /// Field 15.
    pub issuer_signature: RawSignature,
    /// Field 16, epoch seconds as the phone wrote them.
    pub generated_s: i64,
    /// Field 17.
    pub user_signature: RawSignature,
}

impl<'a> RideCode<'a> {
    /// # Errors
    /// What about these bytes is not of the form.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let custom_bytes = check_lengths(bytes)?;
        let mut fields = Fields(bytes);
        let version = fields.array::<1>()?[0];
        if version < VERSION_MIN {
            return Err(Malformed::Version { found: version });
        }
        fields.array::<2>()?;
        let certificate = Certificate::parse(fields.slice(CERTIFICATE_BYTES)?)?;
        let payment_account = payment_account(fields.slice(16)?)?;
        let card = CardAccount(fields.packed("card account number")?);
        let issuer = IssuerCode(fields.packed("issuer code")?);
        let platform = fields.packed("code platform number")?;
        let [account_type] = fields.array()?;
        let [high, middle, low] = fields.array()?;
        let user_key = fields.key("user public key")?;
        let authorization_expiry_s = fields.epoch_s()?;
        let validity_s = u16::from_be_bytes(fields.array()?).into();
        fields.array::<1>()?;
        let custom = fields.slice(custom_bytes)?;
        fields.tag("issuer signature tag", [SIGNATURE_TAG])?;
        let issuer_signature = fields.array()?;
        let generated_s = fields.epoch_s()?;
        fields.tag("user signature tag", [SIGNATURE_TAG])?;
        let user_signature = fields.array()?;
        Ok(Self {
            bytes,
            version,
            certificate,
            payment_account,
            card,
            issuer,
            platform,
            account_type,
            single_trip_limit_fen: u32::from_be_bytes([0, high, middle, low]).into(),
            user_key,
            authorization_expiry_s,
            validity_s,
            custom,
            issuer_signature,
            generated_s,
            user_signature,
        })
    }

    /// What the issuer signed: fields 3 to 14.
    #[must_use]
    pub fn signed_by_issuer(&self) -> &'a [u8] {
        self.range(HEADER_BYTES, CUSTOM_LENGTH_AT + 1)
    }

    /// What the issuer signed, and the signature: the same bytes in every code of a passenger while the authorization holds.
    #[must_use]
    pub fn authorization(&self) -> &'a [u8] {
        self.range(HEADER_BYTES, CUSTOM_LENGTH_AT + 66)
    }

    /// What the passenger's phone signed: everything before its signature.
    #[must_use]
    pub fn signed_by_user(&self) -> &'a [u8] {
        self.range(0, CUSTOM_LENGTH_AT + 70)
    }

    /// `end` is an offset behind the custom data, counted as if there were none.
    fn range(&self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end + self.custom.len()).unwrap_or_default()
    }
}

/// An issuer's certificate of the right form.
#[derive(Clone)]
pub struct Certificate<'a> {
    bytes: &'a [u8],
    /// Which root signed it.
    pub root_index: u8,
    /// Whose certificate it is.
    pub issuer: IssuerCode,
    /// The last month in which it is valid.
    pub expires: Month,
    /// Its number at the root.
    pub serial: [u8; 3],
    /// 00 and 20 are both in use; nothing is known to depend on it, so it may be anything.
    pub parameter: u8,
    /// The issuer's key.
    pub public_key: CompressedKey,
    /// The root's signature.
    pub signature: RawSignature,
}

impl<'a> Certificate<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        fields.tag("certificate tag", [CERTIFICATE_TAG])?;
        fields.tag("certificate service", CERTIFICATE_SERVICE)?;
        let [root_index] = fields.array()?;
        fields.tag("certificate format", [CERTIFICATE_FORMAT])?;
        let issuer = IssuerCode(fields.packed("certificate's issuer code")?);
        let expires = fields.month()?;
        let serial = fields.array()?;
        fields.tag("certificate's algorithms", [ALGORITHM, ALGORITHM])?;
        let [parameter] = fields.array()?;
        fields.tag("certificate's key length", [KEY_BYTES])?;
        let public_key = fields.key("issuer public key")?;
        Ok(Self { bytes, root_index, issuer, expires, serial, parameter, public_key, signature: fields.array()? })
    }

    /// All 117 bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What the root signed.
    #[must_use]
    pub fn signed_by_root(&self) -> &'a [u8] {
        self.bytes.get(6..53).unwrap_or_default()
    }
}

/// A calendar month that something is valid to the end of, counted in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Month {
    /// Such as 2030.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// The first second of the next month, UTC.
    pub end_utc_s: i64,
}

impl Month {
    /// `None` unless there is such a month between the years 0 and 9998.
    #[must_use]
    pub fn new(year: u16, month: u8) -> Option<Self> {
        let first = Date::new(year.try_into().ok()?, month.try_into().ok()?, 1).ok()?;
        let next = first.checked_add(Span::new().months(1)).ok()?;
        let end_utc_s = Offset::UTC.to_timestamp(next.at(0, 0, 0, 0)).ok()?.as_second();
        Some(Self { year, month, end_utc_s })
    }
}

/// Why bytes are not of the form of a ride code. To the gate all of it is `format`; a technician wants to know more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too short or too long.
    #[error("{found} bytes, a code has {CODE_BYTES_MIN} to {CODE_BYTES_MAX}")]
    Size {
        /// Bytes.
        found: usize,
    },
    /// The length field does not fit.
    #[error("the length field says {said}, {follow} bytes follow it")]
    Length {
        /// What field 2 says.
        said: usize,
        /// What is there.
        follow: usize,
    },
    /// The custom data's length does not fit.
    #[error("the custom data's length says {said}, there is room for {room}")]
    CustomLength {
        /// What field 13 says.
        said: usize,
        /// What the code's length leaves.
        room: usize,
    },
    /// The version is below 0x80.
    #[error("version {found:02x}, versions begin at {VERSION_MIN:02x}")]
    Version {
        /// Field 1.
        found: u8,
    },
    /// A fixed byte is another.
    #[error("{field}: not the value that the format fixes")]
    Tag {
        /// Which.
        field: &'static str,
    },
    /// A half-byte is no decimal digit.
    #[error("{field}: not decimal digits")]
    Digits {
        /// Which.
        field: &'static str,
    },
    /// The certificate's expiry is no month.
    #[error("certificate's expiry: no such month")]
    Month,
    /// Neither 02 nor 03.
    #[error("{field}: not a compressed point")]
    Key {
        /// Which.
        field: &'static str,
    },
    /// The payment account number is not printable ASCII.
    #[error("payment account number: not printable ASCII")]
    PaymentAccount,
}

/// The length of the custom data, once all lengths agree.
fn check_lengths(bytes: &[u8]) -> Result<usize, Malformed> {
    let found = bytes.len();
    let room = found.checked_sub(CODE_BYTES_MIN).filter(|room| *room <= CUSTOM_BYTES_MAX).ok_or(Malformed::Size { found })?;
    let (said, follow) = (usize::from(u16::from_be_bytes([bytes[1], bytes[2]])), found - HEADER_BYTES);
    if said != follow {
        return Err(Malformed::Length { said, follow });
    }
    let said = bytes[CUSTOM_LENGTH_AT].into();
    if said == room { Ok(room) } else { Err(Malformed::CustomLength { said, room }) }
}

/// Padded with spaces on the right; some issuers pad with 0x00 on the left.
fn payment_account(field: &[u8]) -> Result<&str, Malformed> {
    let text = std::str::from_utf8(field).map_err(|_| Malformed::PaymentAccount)?.trim_matches(['\0', ' ']);
    if text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') { Ok(text) } else { Err(Malformed::PaymentAccount) }
}

/// What is still to be read. The lengths have been checked before, so it never runs out; if it did, the answer would be an error.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(Malformed::Size { found: self.0.len() })?;
        self.0 = rest;
        Ok(field)
    }

    fn array<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], Malformed> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Malformed::Size { found: self.0.len() })?;
        self.0 = rest;
        Ok(*field)
    }

    fn tag<const BYTES: usize>(&mut self, field: &'static str, value: [u8; BYTES]) -> Result<(), Malformed> {
        if self.array()? == value { Ok(()) } else { Err(Malformed::Tag { field }) }
    }

    fn packed<const BYTES: usize>(&mut self, field: &'static str) -> Result<Packed<BYTES>, Malformed> {
        Packed::new(self.array()?).ok_or(Malformed::Digits { field })
    }

    fn key(&mut self, field: &'static str) -> Result<CompressedKey, Malformed> {
        let key: CompressedKey = self.array()?;
        if matches!(key[0], 2 | 3) { Ok(key) } else { Err(Malformed::Key { field }) }
    }

    fn epoch_s(&mut self) -> Result<i64, Malformed> {
        Ok(u32::from_be_bytes(self.array()?).into())
    }

    /// MMYY.
    fn month(&mut self) -> Result<Month, Malformed> {
        let [month, year] = *self.packed::<2>("certificate's expiry")?.as_bytes();
        let number = |packed: u8| (packed >> 4) * 10 + (packed & 0x0f);
        Month::new(CENTURY + u16::from(number(year)), number(month)).ok_or(Malformed::Month)
    }
}
