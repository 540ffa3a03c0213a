//! The other side of a ride code: a root, issuers, passengers' phones and forgers, written from the field table of
//! JT/T 1179-2018 (`facts`: the ride code).
//!
//! Shares no code with `ride_code`'s parsing, so that each holds the other to the table. Every key comes from a seed: the same
//! calls make the same bytes. For trials and tests only; nothing here protects a key.

use sha2::{Digest, Sha256};
use sm2::{
    SecretKey,
    dsa::{Signature, SigningKey, signature::Signer},
    elliptic_curve::sec1::ToEncodedPoint,
};

use crate::{
    config,
    ride_code::{Refusal, jtt1179::USER_ID},
};

/// A root: whoever certifies issuers.
#[derive(Clone)]
pub struct Root {
    key: SigningKey,
    index: u8,
}

impl Root {
    /// The key comes from `seed` and `index`.
    #[must_use]
    pub fn from_seed(seed: u64, index: u8) -> Self {
        Self { key: key(&format!("root {seed} {index}")), index }
    }

    /// As a gate's trust store takes it.
    #[must_use]
    pub fn root_key(&self, expires_year: u16, expires_month: u8) -> config::Root {
        let mut public_key = [0; 65];
        public_key.copy_from_slice(self.key.verifying_key().to_encoded_point(false).as_bytes());
        config::Root { index: self.index, public_key, expires_year, expires_month }
    }

    /// An issuer with a key from `seed`, certified by this root. `code`: 8 digits. `expiry`: month and year as MMYY.
    #[must_use]
    pub fn certify(&self, seed: u64, code: u32, expiry: u16) -> Issuer {
        let issuer_key = key(&format!("issuer {seed} {code}"));
        Issuer { certificate: self.certificate(&issuer_key, code, expiry), root: self.clone(), key: issuer_key, code }
    }

    fn certificate(&self, issuer_key: &SigningKey, code: u32, expiry: u16) -> [u8; 117] {
        let signed = [
            &[0x12][..],
            &bcd::<4>(code.into()),
            &bcd::<2>(expiry.into()),
            &[0, 0, 7],
            &[0x04, 0x04, 0x00, 0x21],
            &compressed(issuer_key),
        ]
        .concat();
        let mut certificate = [0; 117];
        certificate[..6].copy_from_slice(&[0x24, 0x01, 0x01, 0x00, 0x00, self.index]);
        certificate[6..53].copy_from_slice(&signed);
        certificate[53..].copy_from_slice(&sign(&self.key, &signed));
        certificate
    }
}

/// An issuer of ride codes.
#[derive(Clone)]
pub struct Issuer {
    root: Root,
    key: SigningKey,
    code: u32,
    certificate: [u8; 117],
}

/// Somebody with a phone.
#[derive(Clone)]
pub struct Passenger {
    key: SigningKey,
    card: u128,
}

impl Passenger {
    /// The phone's key comes from `seed`. `card`: 20 digits.
    #[must_use]
    pub fn from_seed(seed: u64, card: u128) -> Self {
        Self { key: key(&format!("passenger {seed} {card}")), card }
    }
}

/// What a code says beside who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeTerms {
    /// Epoch seconds.
    pub generated_s: u32,
    /// Seconds from generation.
    pub validity_s: u16,
    /// Epoch seconds.
    pub authorization_expiry_s: u32,
    /// At most 0xFFFFFF.
    pub limit_fen: u32,
    /// At most 32 bytes.
    pub custom: Vec<u8>,
    /// Card type of JT/T 978.2.
    pub account_type: u8,
}

impl CodeTerms {
    /// Generated then, valid 2 minutes, authorized for a week, up to 200 yuan a trip.
    #[must_use]
    pub fn at(generated_s: u32) -> Self {
        Self {
            generated_s,
            validity_s: 120,
            authorization_expiry_s: generated_s.saturating_add(7 * 86_400),
            limit_fen: 20_000,
            custom: Vec::new(),
            account_type: 1,
        }
    }
}

/// What can be wrong with a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// The certificate names a root that no gate knows.
    UnknownRoot,
    /// A stranger signed the certificate in the root's place.
    WrongRoot,
    /// The certificate's expiry is January 2020, duly signed.
    ExpiredCertificate,
    /// Made a day earlier.
    Expired,
    /// Made a day later.
    Future,
    /// The authorization ended an hour before the code was made.
    ExpiredAuthorization,
    /// The limit was raised after the issuer had signed, before the phone did.
    TamperedField,
    /// A stranger signed the authorization in the issuer's place.
    ForgedIssuer,
    /// The authorization is in another issuer's name.
    OtherIssuer,
    /// A stranger signed the code in the phone's place.
    ForgedUser,
    /// The limit is 1 fen, duly signed.
    OverLimit,
    /// A bit of the finished code was changed: its number, counted from the first byte's highest.
    BitFlip(usize),
    /// Only so many bytes are left.
    Truncated(usize),
}

impl Spoil {
    /// Every kind but the last two, which have many results.
    pub const NAMED: [Self; 11] = [
        Self::UnknownRoot,
        Self::WrongRoot,
        Self::ExpiredCertificate,
        Self::Expired,
        Self::Future,
        Self::ExpiredAuthorization,
        Self::TamperedField,
        Self::ForgedIssuer,
        Self::OtherIssuer,
        Self::ForgedUser,
        Self::OverLimit,
    ];

    /// How a gate must refuse it, where that is one reason. A changed bit depends on where it is.
    #[must_use]
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            Self::UnknownRoot => Some(Refusal::UnknownRoot),
            Self::WrongRoot => Some(Refusal::CertificateSignature),
            Self::ExpiredCertificate => Some(Refusal::CertificateExpired),
            Self::Expired => Some(Refusal::Expired),
            Self::Future => Some(Refusal::NotYetValid),
            Self::ExpiredAuthorization => Some(Refusal::AuthorizationExpired),
            Self::TamperedField | Self::ForgedIssuer | Self::OtherIssuer => Some(Refusal::IssuerSignature),
            Self::ForgedUser => Some(Refusal::UserSignature),
            Self::OverLimit => Some(Refusal::OverLimit),
            Self::Truncated(_) => Some(Refusal::Format),
            Self::BitFlip(_) => None,
        }
    }
}

impl Issuer {
    /// A good code.
    #[must_use]
    pub fn issue(&self, passenger: &Passenger, terms: &CodeTerms) -> Vec<u8> {
        Draft::new(self, passenger, terms).sign()
    }

    /// A code that is good but for one thing.
    #[must_use]
    pub fn spoil(&self, passenger: &Passenger, terms: &CodeTerms, spoil: Spoil) -> Vec<u8> {
        const DAY_S: u32 = 86_400;
        let good = Draft::new(self, passenger, terms);
        let at = |generated_s: u32| CodeTerms { generated_s, ..terms.clone() };
        match spoil {
            Spoil::UnknownRoot => {
                self.under(&Root { index: self.root.index.wrapping_add(100), ..self.root.clone() }, passenger, terms)
            }
            Spoil::WrongRoot => self.under(&Root { key: stranger(), ..self.root.clone() }, passenger, terms),
            Spoil::ExpiredCertificate => Draft { certificate: self.root.certificate(&self.key, self.code, 120), ..good }.sign(),
            Spoil::Expired => self.issue(passenger, &at(terms.generated_s.saturating_sub(DAY_S))),
            Spoil::Future => self.issue(passenger, &at(terms.generated_s.saturating_add(DAY_S))),
            Spoil::ExpiredAuthorization => {
                let authorization_expiry_s = terms.generated_s.saturating_sub(3600);
                self.issue(passenger, &CodeTerms { authorization_expiry_s, ..terms.clone() })
            }
            Spoil::TamperedField => Draft { raised_limit: true, ..good }.sign(),
            Spoil::ForgedIssuer => Draft { issuer_key: stranger(), ..good }.sign(),
            Spoil::OtherIssuer => Draft { issuer_code: self.code ^ 1, ..good }.sign(),
            Spoil::ForgedUser => Draft { signing_key: stranger(), ..good }.sign(),
            Spoil::OverLimit => self.issue(passenger, &CodeTerms { limit_fen: 1, ..terms.clone() }),
            Spoil::BitFlip(bit) => with_bit_flipped(good.sign(), bit),
            Spoil::Truncated(length) => good.sign().into_iter().take(length).collect(),
        }
    }

    /// The same issuer, certified by another root.
    fn under(&self, root: &Root, passenger: &Passenger, terms: &CodeTerms) -> Vec<u8> {
        let certificate = root.certificate(&self.key, self.code, 1235);
        Draft { certificate, ..Draft::new(self, passenger, terms) }.sign()
    }
}

/// What a code is made of before anybody has signed it.
struct Draft<'a> {
    certificate: [u8; 117],
    issuer_code: u32,
    issuer_key: SigningKey,
    passenger: &'a Passenger,
    terms: &'a CodeTerms,
    signing_key: SigningKey,
    raised_limit: bool,
}

impl<'a> Draft<'a> {
    fn new(issuer: &Issuer, passenger: &'a Passenger, terms: &'a CodeTerms) -> Self {
        Self {
            certificate: issuer.certificate,
            issuer_code: issuer.code,
            issuer_key: issuer.key.clone(),
            passenger,
            terms,
            signing_key: passenger.key.clone(),
            raised_limit: false,
        }
    }

    fn sign(&self) -> Vec<u8> {
        const LIMIT_AT: usize = 155;
        let custom_bytes = u8::try_from(self.terms.custom.len()).unwrap_or(u8::MAX);
        let mut code = vec![0x80];
        code.extend((329 + u16::from(custom_bytes)).to_be_bytes());
        code.extend(self.authorization(custom_bytes));
        let authorized = sign(&self.issuer_key, &code[3..]);
        if self.raised_limit {
            code[LIMIT_AT] ^= 0x80;
        }
        code.push(0x15);
        code.extend(authorized);
        code.extend(self.terms.generated_s.to_be_bytes());
        let made = sign(&self.signing_key, &code);
        code.push(0x15);
        code.extend(made);
        code
    }

    /// Fields 3 to 14.
    fn authorization(&self, custom_bytes: u8) -> Vec<u8> {
        let terms = self.terms;
        [
            &self.certificate[..],
            format!("{:<16}", self.passenger.card % 10_u128.pow(12)).as_bytes(),
            &bcd::<10>(self.passenger.card),
            &bcd::<4>(self.issuer_code.into()),
            &bcd::<4>(10_000_001),
            &[terms.account_type],
            &terms.limit_fen.to_be_bytes()[1..],
            &compressed(&self.passenger.key),
            &terms.authorization_expiry_s.to_be_bytes(),
            &terms.validity_s.to_be_bytes(),
            &[custom_bytes],
            &terms.custom,
        ]
        .concat()
    }
}

fn with_bit_flipped(mut code: Vec<u8>, bit: usize) -> Vec<u8> {
    if let Some(byte) = code.get_mut(bit / 8) {
        *byte ^= 0x80 >> (bit % 8);
    }
    code
}

fn stranger() -> SigningKey {
    key("stranger")
}

/// A key from a seed: the first digest in the row that is a valid one.
fn key(seed: &str) -> SigningKey {
    let mut digest = Sha256::digest(seed);
    loop {
        let secret = SecretKey::from_slice(&digest).ok();
        if let Some(key) = secret.and_then(|secret| SigningKey::new(USER_ID, &secret).ok()) {
            return key;
        }
        digest = Sha256::digest(digest);
    }
}

fn sign(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let signature: Signature = key.sign(message);
    signature.to_bytes()
}

fn compressed(key: &SigningKey) -> [u8; 33] {
    let mut point = [0; 33];
    point.copy_from_slice(key.verifying_key().to_encoded_point(true).as_bytes());
    point
}

/// The last `2 × BYTES` decimal digits of a number, two a byte.
fn bcd<const BYTES: usize>(number: u128) -> [u8; BYTES] {
    let (mut rest, mut packed) = (number, [0; BYTES]);
    for byte in packed.iter_mut().rev() {
        let pair = u8::try_from(rest % 100).unwrap_or_default();
        *byte = ((pair / 10) << 4) | (pair % 10);
        rest /= 100;
    }
    packed
}
