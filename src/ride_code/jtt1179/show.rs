//! What a technician needs to know of a captured code: every field, and the verdict of each check.
//!
//! Works on whatever was captured, cut short or spoiled. Each check is made on its own: a later one is judged even when an
//! earlier one refuses, so that one look tells everything that is wrong. Each signature is checked with the key that the code
//! itself names, so "ok" below a refused line means: made with that key, whoever it belongs to.

use std::fmt;

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};

use super::{
    super::{Refusal, clock_refusal, masked},
    parse::{CODE_BYTES_MIN, CUSTOM_BYTES_MAX, CUSTOM_LENGTH_AT, Malformed, RideCode},
    signature::VerifyKey,
    trust::{Root, TrustStore},
    verify::{self, Rules, Times},
};
use crate::{
    clock::{Stamp, rfc3339_ms},
    config,
};

/// Whether numbers that name a passenger, keys and signatures are shown whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masking {
    /// Numbers by their last 4 digits, keys, signatures and custom data by their length.
    Masked,
    /// Everything.
    Full,
}

/// What a gate with these settings would make of a code, but for its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing speaks against it.
    Good,
    /// The first refusal that applies.
    Refused(Refusal),
    /// Nothing speaks against it, but without roots not everything could be checked.
    Unchecked,
}

/// A report of a code, as lines of text.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Without line ends.
    pub lines: Vec<String>,
    /// What it comes to.
    pub verdict: Verdict,
}

impl fmt::Display for Explanation {
    /// Every line with a line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Tells everything about a code at the time `now`. Without `roots` the certificate cannot be checked, the rest can.
#[must_use]
pub fn explain(
    bytes: &[u8],
    roots: Option<&TrustStore>,
    settings: &config::RideCode,
    now: &Stamp,
    masking: Masking,
) -> Explanation {
    let findings = findings(bytes, roots, settings, now);
    let verdict = verdict(&findings);
    let mut lines = vec![format!("fields of {} bytes", bytes.len())];
    lines.extend(field_lines(bytes, masking));
    lines.push(format!("checks at {}, this machine's clock {}", shown_time(now.utc_ms.div_euclid(1000)), synchronized(now)));
    lines.extend(findings.iter().map(|finding| line(finding.check, &finding.to_string())));
    lines.push(match verdict {
        Verdict::Good => "this code is good; what speaks against it, if anything, is its history on this gate".to_owned(),
        Verdict::Refused(refusal) => format!("REFUSED  {refusal}: {}", advice(refusal)),
        Verdict::Unchecked => "not refused, but without roots nobody can tell whether its issuer is genuine".to_owned(),
    });
    Explanation { lines, verdict }
}

/// What it means and what to do, for whoever stands before the gate. Only [`findings`]' refusals are ever asked for.
fn advice(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Format => "damaged on the way, or no ride code; if other phones fail too, look at the reader's baud rate and mode",
        Refusal::UnknownRoot => "roots.toml lacks this root index; if its issuer is to be trusted, add the root and send SIGHUP",
        Refusal::CertificateExpired => "the issuer or root needs a new certificate, or this machine's date is wrong",
        Refusal::NotYetValid => {
            "made in the future: this machine's clock is behind, the phone's ahead, or its issuer writes local time"
        }
        Refusal::Expired => "too old: the passenger refreshes it; if every code is, this machine's clock is ahead",
        Refusal::AuthorizationExpired => "the passenger goes online once, so that the app gets a new authorization",
        Refusal::CertificateSignature => "this root did not certify this issuer: a forgery, or a wrong key in roots.toml",
        Refusal::IssuerSignature => "the issuer did not authorize this passenger: a forgery, or a changed field",
        Refusal::UserSignature => "not made by the passenger's phone: a forgery, or damaged on the way",
        Refusal::ClockUnsynchronized => "this machine's clock is not synchronized, and unsynchronized_clock is \"deny\"",
        _ => "the gate's history speaks against it",
    }
}

/// The bytes of a captured code: as they are, or from hexadecimal digits or base64 (either alphabet, with padding or without) with
/// any white space. What is none of these is taken as it is.
#[must_use]
pub fn decode_capture(capture: &[u8]) -> Vec<u8> {
    let text: Vec<u8> = capture.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let decoded = [&HEXLOWER_PERMISSIVE, &BASE64, &BASE64_NOPAD, &BASE64URL, &BASE64URL_NOPAD]
        .iter()
        .find_map(|encoding| encoding.decode(&text).ok());
    decoded.unwrap_or_else(|| capture.to_vec())
}

fn line(name: &str, value: &str) -> String {
    format!("  {name:<26}{value}")
}

fn synchronized(now: &Stamp) -> &'static str {
    if now.synchronized { "synchronized" } else { "not synchronized" }
}

/// How a field is read.
#[derive(Clone, Copy)]
enum Kind {
    /// Hexadecimal.
    Hex,
    /// A whole number, big-endian.
    Number,
    /// Packed decimal digits that name no person.
    Digits,
    /// Packed decimal digits that name a passenger.
    Person,
    /// Characters that name a passenger.
    Account,
    /// Epoch seconds.
    Time,
    /// Shown by its length unless everything is.
    Secret,
}

/// Stands for the length of the custom data, which each code states.
const CUSTOM: usize = 0;

/// The whole code as names, lengths and readings, in order.
const FIELDS: [(&str, usize, Kind); 30] = [
    ("version", 1, Kind::Hex),
    ("length", 2, Kind::Number),
    ("certificate tag", 1, Kind::Hex),
    ("certificate service", 4, Kind::Hex),
    ("root index", 1, Kind::Number),
    ("certificate format", 1, Kind::Hex),
    ("certificate issuer", 4, Kind::Digits),
    ("certificate expiry (MMYY)", 2, Kind::Digits),
    ("certificate serial", 3, Kind::Hex),
    ("algorithms", 2, Kind::Hex),
    ("parameter", 1, Kind::Hex),
    ("issuer key length", 1, Kind::Number),
    ("issuer key", 33, Kind::Secret),
    ("root signature", 64, Kind::Secret),
    ("payment account", 16, Kind::Account),
    ("card account", 10, Kind::Person),
    ("issuer", 4, Kind::Digits),
    ("platform", 4, Kind::Digits),
    ("account type", 1, Kind::Hex),
    ("single-trip limit (fen)", 3, Kind::Number),
    ("user key", 33, Kind::Secret),
    ("authorization expiry", 4, Kind::Time),
    ("validity (s)", 2, Kind::Number),
    ("custom length", 1, Kind::Number),
    ("custom data", CUSTOM, Kind::Secret),
    ("issuer signature tag", 1, Kind::Hex),
    ("issuer signature", 64, Kind::Secret),
    ("generated", 4, Kind::Time),
    ("user signature tag", 1, Kind::Hex),
    ("user signature", 64, Kind::Secret),
];

/// Up to the first field that is cut short, or to what lies behind the last one.
fn field_lines(bytes: &[u8], masking: Masking) -> Vec<String> {
    let mut rest = bytes;
    let mut lines = Vec::new();
    for (name, length, kind) in FIELDS {
        let length = if length == CUSTOM { custom_bytes(bytes) } else { length };
        let Some((field, behind)) = rest.split_at_checked(length) else {
            lines.push(line(name, &format!("missing ({} of {length} bytes)", rest.len())));
            return lines;
        };
        lines.push(line(name, &show(field, kind, masking)));
        rest = behind;
    }
    if !rest.is_empty() {
        lines.push(line("behind the code", &show(rest, Kind::Secret, masking)));
    }
    lines
}

/// As the code says; where that cannot be, as its size says.
fn custom_bytes(bytes: &[u8]) -> usize {
    let said = bytes.get(CUSTOM_LENGTH_AT).map_or(0, |length| usize::from(*length));
    if said <= CUSTOM_BYTES_MAX { said } else { bytes.len().saturating_sub(CODE_BYTES_MIN).min(CUSTOM_BYTES_MAX) }
}

fn show(field: &[u8], kind: Kind, masking: Masking) -> String {
    let number = || field.iter().fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
    match kind {
        Kind::Hex | Kind::Digits => HEXLOWER.encode(field),
        Kind::Number => number().to_string(),
        Kind::Time => format!("{} ({})", shown_time(number()), number()),
        Kind::Person => whole_or_tail(&HEXLOWER.encode(field), masking),
        Kind::Account => whole_or_tail(field.escape_ascii().to_string().trim_start_matches("\\x00").trim_end(), masking),
        Kind::Secret if masking == Masking::Full => HEXLOWER.encode(field),
        Kind::Secret => format!("<{} bytes>", field.len()),
    }
}

/// `text` is ASCII.
fn whole_or_tail(text: &str, masking: Masking) -> String {
    match masking {
        Masking::Full => text.to_owned(),
        Masking::Masked => masked(text.get(text.len().saturating_sub(4)..).unwrap_or_default()),
    }
}

/// What one check came to.
struct Finding {
    check: &'static str,
    result: Outcome,
    /// More about it, or empty.
    detail: String,
}

enum Outcome {
    Ok,
    Refused(Refusal),
    NotChecked,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.result {
            Outcome::Ok => f.write_str("ok")?,
            Outcome::Refused(refusal) => write!(f, "refused: {refusal}")?,
            Outcome::NotChecked => f.write_str("not checked")?,
        }
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

impl Finding {
    fn new(check: &'static str, result: Result<(), Refusal>, detail: impl Into<String>) -> Self {
        Self { check, result: result.map_or_else(Outcome::Refused, |()| Outcome::Ok), detail: detail.into() }
    }

    fn not_checked(check: &'static str, why: &str) -> Self {
        Self { check, result: Outcome::NotChecked, detail: why.to_owned() }
    }
}

/// Findings are in the order of judgement.
fn verdict(findings: &[Finding]) -> Verdict {
    let refusal =
        findings.iter().find_map(|finding| if let Outcome::Refused(refusal) = finding.result { Some(refusal) } else { None });
    match refusal {
        Some(refusal) => Verdict::Refused(refusal),
        None if findings.iter().any(|finding| matches!(finding.result, Outcome::NotChecked)) => Verdict::Unchecked,
        None => Verdict::Good,
    }
}

fn findings(bytes: &[u8], roots: Option<&TrustStore>, settings: &config::RideCode, now: &Stamp) -> Vec<Finding> {
    let code = match RideCode::parse(bytes) {
        Ok(code) => code,
        Err(malformed) => return malformed_findings(malformed),
    };
    let rules = Rules::new(settings);
    let mut findings = vec![Finding::new("form", Ok(()), "")];
    findings.extend(trust_findings(&code, roots, &rules, now));
    findings.extend(time_findings(&Times::of(&code, &rules), &rules, now));
    findings.extend(signature_findings(&code, roots.and_then(|roots| roots.root(code.certificate.root_index))));
    findings.push(Finding::new(
        "clock, unless at an exit",
        clock_refusal(settings.unsynchronized_clock, now).map_or(Ok(()), Err),
        "",
    ));
    findings
}

fn malformed_findings(malformed: Malformed) -> Vec<Finding> {
    let rest = ["root", "certificate expiry", "times", "signatures"];
    let form = Finding::new("form", Err(Refusal::Format), malformed.to_string());
    std::iter::once(form).chain(rest.map(|check| Finding::not_checked(check, "the form is not that of a code"))).collect()
}

fn trust_findings(code: &RideCode<'_>, roots: Option<&TrustStore>, rules: &Rules, now: &Stamp) -> [Finding; 2] {
    const EXPIRY: &str = "certificate expiry";
    let Some(roots) = roots else {
        return [Finding::not_checked("root", "no roots were given"), Finding::not_checked(EXPIRY, "no roots were given")];
    };
    let Some(root) = roots.root(code.certificate.root_index) else {
        let trusted: Vec<_> = roots.expiries().map(|(index, _)| index.to_string()).collect();
        let detail = format!("index {}; trusted: {}", code.certificate.root_index, trusted.join(", "));
        return [Finding::new("root", Err(Refusal::UnknownRoot), detail), Finding::not_checked(EXPIRY, "the root is unknown")];
    };
    let (own, roots_own) = (code.certificate.expires, root.expires);
    let detail = format!("issuer to the end of {}-{:02}, root of {}-{:02}", own.year, own.month, roots_own.year, roots_own.month);
    let expiry = verify::check_expiry(root, &code.certificate, rules, now);
    [Finding::new("root", Ok(()), format!("index {}", code.certificate.root_index)), Finding::new(EXPIRY, expiry, detail)]
}

fn time_findings(times: &Times, rules: &Rules, now: &Stamp) -> Vec<Finding> {
    let names = ["generated", "validity", "authorization"];
    let utc_s = [times.generated_s, times.validity_end_s, times.authorization_expiry_s];
    let findings = times.findings(rules, now).into_iter().zip(names.into_iter().zip(utc_s));
    findings
        .map(|((refusal, applies), (name, at_s))| {
            let detail = relative(at_s, now);
            Finding::new(name, if applies { Err(refusal) } else { Ok(()) }, detail)
        })
        .collect()
}

fn relative(at_utc_s: i64, now: &Stamp) -> String {
    let ahead_s = at_utc_s.saturating_sub(now.utc_ms.div_euclid(1000));
    let (at, span) = (shown_time(at_utc_s), shown_span(ahead_s.unsigned_abs()));
    if ahead_s < 0 { format!("{at}, {span} ago") } else { format!("{at}, in {span}") }
}

/// A code knows whole seconds only.
fn shown_time(utc_s: i64) -> String {
    rfc3339_ms(utc_s.saturating_mul(1000)).replace(".000Z", "Z")
}

/// In the unit that a person would use, rounded down.
fn shown_span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "days"), (3600, "h"), (60, "min")];
    let unit = UNITS.iter().find(|(unit_s, _)| seconds >= 2 * unit_s);
    unit.map_or_else(|| format!("{seconds} s"), |(unit_s, name)| format!("{} {name}", seconds / unit_s))
}

fn signature_findings(code: &RideCode<'_>, root: Option<&Root>) -> [Finding; 3] {
    let certificate = root.map_or_else(
        || Finding::not_checked("certificate signature", "there is no root key for it"),
        |root| Finding::new("certificate signature", verify::check_certificate(root, &code.certificate), ""),
    );
    let issuer = VerifyKey::from_point(&code.certificate.public_key)
        .ok_or(Refusal::IssuerSignature)
        .and_then(|key| verify::check_authorization(&key, code));
    let other = if code.issuer == code.certificate.issuer { "" } else { "the certificate is another issuer's" };
    let user = VerifyKey::from_point(&code.user_key).ok_or(Refusal::UserSignature).and_then(|key| verify::check_code(&key, code));
    [certificate, Finding::new("issuer signature", issuer, other), Finding::new("user signature", user, "")]
}
