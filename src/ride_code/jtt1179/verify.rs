//! Whether a ride code is genuine and in time: pure functions of the code, the trust store, the settings and the time.
//!
//! Order (`facts`: order of checks), cheap ones first: root known, certificates not expired, time window, authorization expiry,
//! then the signatures from the root down. What [`Known`] remembers saves time and never changes an answer.
//!
//! Choices where the standard is silent:
//! - A root that has expired refuses as `certificate-expired`, like an issuer's certificate: the key is known, its time is over.
//!   `unknown-root` is only an index that the trust store lacks. Both expiries are months, counted in UTC.
//! - A code whose issuer is not the one that its certificate names is refused as `issuer-signature`, after the certificate's
//!   signature: until then neither name is known to be true.
//! - A key that is not on the curve has signed nothing: the refusal is that of the signature that it should have made.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{IssuerCode, Refusal},
    known::Known,
    parse::{Certificate, RideCode},
    signature::VerifyKey,
    trust::{Root, TrustStore},
};
use crate::{clock::Stamp, config};

/// What the settings say about times.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    clock_tolerance_ms: i64,
    issuer_clock_offset_s: BTreeMap<IssuerCode, i64>,
}

impl Rules {
    pub(super) fn new(settings: &config::RideCode) -> Self {
        let offsets = settings.issuer_clock_offset_seconds.iter();
        Self {
            clock_tolerance_ms: duration_ms(settings.clock_tolerance),
            issuer_clock_offset_s: offsets
                .filter_map(|(issuer, offset)| Some((IssuerCode::from_digits(issuer)?, *offset)))
                .collect(),
        }
    }
}

fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The times of a code, UTC seconds.
// The unit stands last in every name of a time.
#[allow(clippy::struct_field_names)]
pub(super) struct Times {
    pub(super) generated_s: i64,
    pub(super) validity_end_s: i64,
    pub(super) authorization_expiry_s: i64,
}

impl Times {
    /// An issuer with an offset writes every time of its codes so far ahead of UTC.
    pub(super) fn of(code: &RideCode<'_>, rules: &Rules) -> Self {
        let ahead_s = rules.issuer_clock_offset_s.get(&code.issuer).copied().unwrap_or(0);
        let generated_s = code.generated_s.saturating_sub(ahead_s);
        Self {
            generated_s,
            validity_end_s: generated_s.saturating_add(code.validity_s),
            authorization_expiry_s: code.authorization_expiry_s.saturating_sub(ahead_s),
        }
    }

    pub(super) fn effective_end_s(&self) -> i64 {
        self.validity_end_s.min(self.authorization_expiry_s)
    }

    /// Each refusal that times can lead to, in the order of judgement, and whether it applies.
    pub(super) fn findings(&self, rules: &Rules, now: &Stamp) -> [(Refusal, bool); 3] {
        let before_ms = now.utc_ms.saturating_add(rules.clock_tolerance_ms);
        [
            (Refusal::NotYetValid, self.generated_s.saturating_mul(1000) > before_ms),
            (Refusal::Expired, is_over(self.validity_end_s.saturating_mul(1000), rules, now)),
            (Refusal::AuthorizationExpired, is_over(self.authorization_expiry_s.saturating_mul(1000), rules, now)),
        ]
    }
}

/// Whether `last_utc_ms`, the last moment of something, has passed by more than the tolerance.
fn is_over(last_utc_ms: i64, rules: &Rules, now: &Stamp) -> bool {
    now.utc_ms > last_utc_ms.saturating_add(rules.clock_tolerance_ms)
}

/// The passenger's authorization holds, the phone made this code, and it is in time: its effective end, UTC seconds.
pub(super) fn verify(
    code: &RideCode<'_>,
    roots: &TrustStore,
    rules: &Rules,
    known: &mut Known,
    now: &Stamp,
) -> Result<i64, Refusal> {
    let root = roots.root(code.certificate.root_index).ok_or(Refusal::UnknownRoot)?;
    check_expiry(root, &code.certificate, rules, now)?;
    let times = Times::of(code, rules);
    check_times(&times, rules, now)?;
    let user_key = known.user_key(root, code)?;
    check_code(&user_key, code)?;
    Ok(times.effective_end_s())
}

/// Whether the root and the issuer's certificate are still valid.
pub(super) fn check_expiry(root: &Root, certificate: &Certificate<'_>, rules: &Rules, now: &Stamp) -> Result<(), Refusal> {
    let end_utc_s = root.expires.end_utc_s.min(certificate.expires.end_utc_s);
    if is_over(end_utc_s * 1000 - 1, rules, now) { Err(Refusal::CertificateExpired) } else { Ok(()) }
}

fn check_times(times: &Times, rules: &Rules, now: &Stamp) -> Result<(), Refusal> {
    let findings = times.findings(rules, now);
    findings.iter().find(|(_, applies)| *applies).map_or(Ok(()), |(refusal, _)| Err(*refusal))
}

/// Whether the root signed the issuer's certificate.
pub(super) fn check_certificate(root: &Root, certificate: &Certificate<'_>) -> Result<(), Refusal> {
    let signed = root.key.has_signed(certificate.signed_by_root(), &certificate.signature);
    signed.then_some(()).ok_or(Refusal::CertificateSignature)
}

/// Whether the issuer that the certificate names signed the passenger's authorization.
pub(super) fn check_authorization(issuer_key: &VerifyKey, code: &RideCode<'_>) -> Result<(), Refusal> {
    let signed = code.issuer == code.certificate.issuer && issuer_key.has_signed(code.signed_by_issuer(), &code.issuer_signature);
    signed.then_some(()).ok_or(Refusal::IssuerSignature)
}

/// Whether the passenger's phone signed the code.
pub(super) fn check_code(user_key: &VerifyKey, code: &RideCode<'_>) -> Result<(), Refusal> {
    user_key.has_signed(code.signed_by_user(), &code.user_signature).then_some(()).ok_or(Refusal::UserSignature)
}
