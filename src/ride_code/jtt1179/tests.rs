//! The promises of the whole room, on codes of the issuer in [`crate::issuer`] and on codes of another hand.

use std::{fs, path::Path, sync::LazyLock};

use proptest::prelude::*;

use super::*;
use crate::{
    issuer::{CodeTerms, Issuer, Passenger, Root, Spoil},
    ride_code::{CardAccount, Checker, IssuerCode, test_support::settings},
};

/// 2026-11-23T05:34:30Z
const NOW_S: u32 = 1_795_412_070;
const CARD: u128 = 91_237_654_321_001_000_042;
const ISSUER: u32 = 3_664_530;

/// Keys are costly to make in a debug build: one root, issuer and passenger for all tests.
struct World {
    root: Root,
    issuer: Issuer,
    passenger: Passenger,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let root = Root::from_seed(1, 1);
    World { issuer: root.certify(1, ISSUER, 1230), root, passenger: Passenger::from_seed(1, CARD) }
});

fn roots() -> TrustStore {
    TrustStore::new(&[WORLD.root.root_key(2035, 12)]).unwrap()
}

fn codes() -> Jtt1179Codes {
    Jtt1179Codes::new(&settings(), roots())
}

fn at_ms(utc_ms: i64) -> Stamp {
    Stamp { utc_ms, boottime_ms: 0, synchronized: true }
}

fn at(utc_s: u32) -> Stamp {
    at_ms(i64::from(utc_s) * 1000)
}

fn issue(terms: &CodeTerms) -> Vec<u8> {
    WORLD.issuer.issue(&WORLD.passenger, terms)
}

fn good() -> Vec<u8> {
    issue(&CodeTerms::at(NOW_S))
}

fn check(bytes: &[u8], now: &Stamp) -> Result<Terms, Refusal> {
    codes().check(bytes.to_vec(), now).map(|code| code.terms.unwrap())
}

#[test]
fn a_good_code_says_who_rides_and_on_what_terms() {
    let code = codes().check(good(), &at(NOW_S)).unwrap();
    assert_eq!(code.bytes.0, good());
    assert_eq!(code.passenger.key(), b"\x03\x66\x45\x30\x91\x23\x76\x54\x32\x10\x01\x00\x00\x42");
    assert_eq!(code.passenger.tail(), "0042");
    let terms = Terms {
        issuer: IssuerCode::from_digits("03664530").unwrap(),
        card: CardAccount::from_digits("91237654321001000042").unwrap(),
        single_trip_limit_fen: 20_000,
        effective_end_utc_s: i64::from(NOW_S) + 120,
    };
    assert_eq!(code.terms, Some(terms));
    assert!(!format!("{code:?}").contains("1001000042"));
}

#[test]
fn each_kind_of_spoiled_code_is_refused_for_its_own_reason() {
    let mut codes = codes();
    for spoil in Spoil::NAMED {
        let code = WORLD.issuer.spoil(&WORLD.passenger, &CodeTerms::at(NOW_S), spoil);
        let verdict = codes.check(code, &at(NOW_S));
        if spoil == Spoil::OverLimit {
            assert_eq!(verdict.unwrap().terms.unwrap().single_trip_limit_fen, 1);
        } else {
            assert_eq!(verdict.err(), spoil.refusal(), "{spoil:?}");
        }
        assert!(codes.check(good(), &at(NOW_S)).is_ok(), "after {spoil:?}");
    }
}

#[test]
fn codes_of_another_hand_get_the_verdicts_that_it_expects() {
    let file = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jtt1179-codes.txt")).unwrap();
    let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
    let mut lines = file.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect::<Vec<_>>());
    let root = lines.next().unwrap();
    let public_key = hex(root[3]).try_into().unwrap();
    let roots = TrustStore::new(&[config::Root { index: 1, public_key, expires_year: 2035, expires_month: 12 }]).unwrap();
    let mut codes = Jtt1179Codes::new(&settings(), roots);
    let mut judged = 0;
    for (number, line) in lines.enumerate() {
        let verdict = codes.check(hex(line[2]), &at(line[1].parse().unwrap()));
        assert_eq!(verdict.map_or_else(Refusal::as_str, |_| "good"), line[0], "code {number}");
        judged += 1;
    }
    assert_eq!(judged, 20);
}

#[test]
fn no_bit_of_a_code_can_be_flipped_unnoticed() {
    let code = issue(&CodeTerms { custom: b"custom".to_vec(), ..CodeTerms::at(NOW_S) });
    let mut warm = codes();
    assert!(warm.check(code.clone(), &at(NOW_S)).is_ok());
    for bit in 0..code.len() * 8 {
        let mut flipped = code.clone();
        flipped[bit / 8] ^= 0x80 >> (bit % 8);
        let refusal = warm.check(flipped.clone(), &at(NOW_S)).err();
        assert!(refusal.is_some(), "bit {bit}");
        assert_eq!(check(&flipped, &at(NOW_S)).err(), refusal, "what is remembered changes the answer, bit {bit}");
    }
    assert!(warm.check(code, &at(NOW_S)).is_ok());
}

#[test]
fn a_code_cut_or_lengthened_anywhere_is_none() {
    let (good, mut codes) = (good(), codes());
    let longer = [good.clone(), vec![0; 40]].concat();
    for length in (0..=longer.len()).filter(|length| *length != good.len()) {
        assert_eq!(codes.check(longer[..length].to_vec(), &at(NOW_S)).err(), Some(Refusal::Format), "{length}");
    }
}

#[test]
fn a_code_is_valid_from_its_generation_to_its_effective_end_and_by_the_tolerance_around_them() {
    let code = issue(&CodeTerms { validity_s: 30, ..CodeTerms::at(NOW_S) });
    let from_now_ms = |ms: i64| check(&code, &at_ms(i64::from(NOW_S) * 1000 + ms)).err();
    assert_eq!(from_now_ms(-10_001), Some(Refusal::NotYetValid));
    assert_eq!(from_now_ms(-10_000), None);
    assert_eq!(from_now_ms(40_000), None);
    assert_eq!(from_now_ms(40_001), Some(Refusal::Expired));
}

#[test]
fn an_authorization_ends_a_code_before_its_validity_does() {
    let code = issue(&CodeTerms { authorization_expiry_s: NOW_S + 5, ..CodeTerms::at(NOW_S) });
    assert_eq!(check(&code, &at(NOW_S)).unwrap().effective_end_utc_s, i64::from(NOW_S) + 5);
    assert!(check(&code, &at(NOW_S + 15)).is_ok());
    assert_eq!(check(&code, &at(NOW_S + 16)), Err(Refusal::AuthorizationExpired));
    assert_eq!(check(&code, &at(NOW_S + 131)), Err(Refusal::Expired), "when both are over, the code is what is old");
}

#[test]
fn an_issuer_that_writes_local_time_is_understood_and_others_are_not_moved() {
    let ahead_s = 8 * 3600;
    let local = issue(&CodeTerms::at(NOW_S + ahead_s));
    assert_eq!(check(&local, &at(NOW_S)), Err(Refusal::NotYetValid));
    let offsets =
        |issuer: &str| config::RideCode { issuer_clock_offset_seconds: [(issuer.to_owned(), ahead_s.into())].into(), ..settings() };
    let checked = |issuer, code| Jtt1179Codes::new(&offsets(issuer), roots()).check(code, &at(NOW_S));
    let terms = checked("03664530", local.clone()).unwrap().terms.unwrap();
    assert_eq!(terms.effective_end_utc_s, i64::from(NOW_S) + 120);
    assert_eq!(checked("03664530", good()).err(), Some(Refusal::Expired));
    assert_eq!(checked("03664531", local).err(), Some(Refusal::NotYetValid));
}

#[test]
fn certificates_and_roots_are_valid_to_the_end_of_their_month() {
    const DECEMBER_S: u32 = 1_796_083_200; // 2026-12-01T00:00:00Z
    let (root, passenger) = (&WORLD.root, &WORLD.passenger);
    let code_of = |expiry, made_s| root.certify(1, ISSUER, expiry).issue(passenger, &CodeTerms::at(made_s));
    let verdict = |root_expires, code: &[u8], now: Stamp| {
        let roots = TrustStore::new(&[root_expires]).unwrap();
        Jtt1179Codes::new(&settings(), roots).check(code.to_vec(), &now).err()
    };
    let code = code_of(1126, DECEMBER_S);
    let end_ms = i64::from(DECEMBER_S) * 1000 + 10_000;
    assert_eq!(verdict(root.root_key(2035, 12), &code, at_ms(end_ms - 1)), None);
    assert_eq!(verdict(root.root_key(2035, 12), &code, at_ms(end_ms)), Some(Refusal::CertificateExpired));
    let code = code_of(1230, DECEMBER_S);
    assert_eq!(verdict(root.root_key(2026, 11), &code, at_ms(end_ms - 1)), None);
    assert_eq!(verdict(root.root_key(2026, 11), &code, at_ms(end_ms)), Some(Refusal::CertificateExpired));
}

#[test]
fn fields_at_their_limits_are_read_as_they_were_written() {
    for (number, byte) in [(0, 0), (u32::MAX, 0xff)] {
        let terms = CodeTerms {
            generated_s: number,
            validity_s: u16::from_be_bytes([byte; 2]),
            authorization_expiry_s: number,
            limit_fen: number & 0xff_ffff,
            custom: vec![byte; if byte == 0 { 0 } else { 32 }],
            account_type: byte,
        };
        let bytes = issue(&terms);
        let code = RideCode::parse(&bytes).unwrap();
        assert_eq!((code.generated_s, code.authorization_expiry_s), (number.into(), number.into()));
        assert_eq!((code.validity_s, code.single_trip_limit_fen), (terms.validity_s.into(), terms.limit_fen.into()));
        assert_eq!((code.custom, code.account_type), (&terms.custom[..], byte));
    }
}

#[test]
fn fixed_bytes_digits_and_months_are_part_of_the_form() {
    use Malformed as M;
    let error = |offset: usize, value: u8| {
        let mut code = good();
        code[offset] = value;
        RideCode::parse(&code).err()
    };
    assert_eq!(error(0, 0x7f), Some(M::Version { found: 0x7f }));
    assert_eq!(error(0, 0xff), None);
    assert_eq!(error(2, 0x4a), Some(M::Length { said: 330, follow: 329 }));
    assert_eq!(error(197, 1), Some(M::CustomLength { said: 1, room: 0 }));
    for offset in [3, 4, 5, 6, 7, 9, 19, 20, 22, 198, 267] {
        assert!(matches!(error(offset, 0x55), Some(M::Tag { .. })), "{offset}");
    }
    for offset in [10, 15, 136, 145, 146, 150, 153] {
        assert!(matches!(error(offset, 0x0a), Some(M::Digits { .. })), "{offset}");
    }
    for (month, expected) in [(0x00, Some(M::Month)), (0x01, None), (0x12, None), (0x13, Some(M::Month))] {
        assert_eq!(error(14, month), expected, "{month:02x}");
    }
    for offset in [23, 158] {
        assert!(matches!(error(offset, 0x04), Some(M::Key { .. })), "{offset}");
        assert_eq!((error(offset, 2), error(offset, 3)), (None, None));
    }
    assert_eq!((error(21, 0x20), error(21, 0xff)), (None, None), "the parameter may be anything");
    assert_eq!((error(120, 0x1b), error(120, 0xff)), (Some(M::PaymentAccount), Some(M::PaymentAccount)));
}

#[test]
fn payment_accounts_are_read_without_their_padding() {
    for (field, account) in [
        (b"ACC42           ", "ACC42"),
        (b"\0\0\0\0\0\0\0\0\0\0\0ACC42", "ACC42"),
        (&[0; 16], ""),
        (&[b'9'; 16], "9999999999999999"),
    ] {
        let mut code = good();
        code[120..136].copy_from_slice(field);
        assert_eq!(RideCode::parse(&code).unwrap().payment_account, account);
        let shown = explained(&code, Masking::Full).to_string();
        assert!(shown.contains(&format!("  payment account           {account}\n")), "{shown}");
    }
}

#[test]
fn a_key_that_is_no_point_is_a_refusal() {
    let off_curve = (0..=u8::MAX)
        .map(|x| [&[2][..], &[0; 31], &[x]].concat())
        .find(|point| signature::VerifyKey::from_point(point).is_none())
        .unwrap();
    for (offset, refusal) in [(23, Refusal::CertificateSignature), (158, Refusal::IssuerSignature)] {
        let mut code = good();
        code[offset..offset + 33].copy_from_slice(&off_curve);
        assert_eq!(check(&code, &at(NOW_S)), Err(refusal));
    }
}

#[test]
fn what_was_verified_under_one_root_means_nothing_under_another() {
    let checker = Checker::jtt1179(&settings(), roots());
    assert!(checker.check(good(), &at(NOW_S)).is_ok());
    let other = Root::from_seed(2, 1).root_key(2035, 12);
    checker.replace_roots(TrustStore::new(&[other]).unwrap());
    assert_eq!(checker.check(good(), &at(NOW_S)).err(), Some(Refusal::CertificateSignature));
    checker.replace_roots(roots());
    assert!(checker.check(good(), &at(NOW_S)).is_ok());
}

#[test]
fn what_is_remembered_depends_on_the_root_key_itself() {
    let mut codes = codes();
    assert!(codes.check(good(), &at(NOW_S)).is_ok());
    codes.roots = TrustStore::new(&[Root::from_seed(2, 1).root_key(2035, 12)]).unwrap();
    assert_eq!(codes.check(good(), &at(NOW_S)).err(), Some(Refusal::CertificateSignature));
}

#[test]
fn a_known_passenger_is_still_judged_by_the_time() {
    let mut codes = codes();
    assert!(codes.check(good(), &at(NOW_S)).is_ok());
    assert_eq!(codes.check(good(), &at(NOW_S + 131)).err(), Some(Refusal::Expired));
    let forged = WORLD.issuer.spoil(&WORLD.passenger, &CodeTerms::at(NOW_S), Spoil::ForgedUser);
    assert_eq!(codes.check(forged, &at(NOW_S)).err(), Some(Refusal::UserSignature));
}

fn explained(bytes: &[u8], masking: Masking) -> Explanation {
    explain(bytes, Some(&roots()), &settings(), &at(NOW_S), masking)
}

#[test]
fn an_explanation_agrees_with_the_gate_on_every_spoiled_code() {
    assert_eq!(explained(&good(), Masking::Masked).verdict, Verdict::Good);
    for spoil in Spoil::NAMED.into_iter().filter(|spoil| *spoil != Spoil::OverLimit) {
        let code = WORLD.issuer.spoil(&WORLD.passenger, &CodeTerms::at(NOW_S), spoil);
        let explanation = explained(&code, Masking::Masked);
        assert_eq!(Verdict::Refused(spoil.refusal().unwrap()), explanation.verdict, "{spoil:?}\n{explanation}");
    }
}

#[test]
fn an_explanation_tells_everything_that_is_wrong_at_once() {
    let mut code = WORLD.issuer.spoil(&WORLD.passenger, &CodeTerms::at(NOW_S - 1000), Spoil::ForgedIssuer);
    *code.last_mut().unwrap() ^= 1;
    let text = explained(&code, Masking::Masked).to_string();
    for expected in ["certificate signature     ok", "refused: expired (", "refused: issuer-signature", "refused: user-signature"] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    assert!(text.lines().last().unwrap().starts_with("REFUSED  expired: too old"), "{text}");
}

#[test]
fn an_explanation_shows_numbers_whole_only_when_told_to() {
    let (masked, full) = (explained(&good(), Masking::Masked).to_string(), explained(&good(), Masking::Full).to_string());
    assert!(full.contains("91237654321001000042"), "{full}");
    assert!(!masked.contains("1000042") && masked.contains("****************0042"), "{masked}");
    assert!(masked.contains("<64 bytes>") && !full.contains("<64 bytes>"));
    assert!(masked.contains("2026-11-23T05:34:30Z"));
}

#[test]
fn a_code_cut_anywhere_is_explained_as_far_as_it_goes() {
    for length in 0..good().len() {
        let explanation = explained(&good()[..length], Masking::Masked);
        assert_eq!(explanation.verdict, Verdict::Refused(Refusal::Format));
        assert!(explanation.to_string().contains("missing ("), "{length}");
    }
    let longer = explained(&[good(), vec![0; 40]].concat(), Masking::Masked).to_string();
    assert!(longer.contains("behind the code           <40 bytes>"), "{longer}");
}

#[test]
fn without_roots_the_rest_is_explained_and_nothing_is_called_good() {
    let explanation = explain(&good(), None, &settings(), &at(NOW_S), Masking::Masked);
    assert_eq!(explanation.verdict, Verdict::Unchecked);
    assert!(explanation.to_string().contains("user signature            ok"), "{explanation}");
}

#[test]
fn captures_are_read_raw_as_hex_and_as_base64() {
    let code = good();
    let hex = data_encoding::HEXLOWER.encode(&code);
    let base64 = data_encoding::BASE64.encode(&code);
    let folded = base64.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>().join("\r\n");
    for capture in
        [&hex, &hex.to_uppercase(), &base64, &folded, &data_encoding::BASE64URL_NOPAD.encode(&code), &format!(" {base64}\n")]
    {
        assert_eq!(decode_capture(capture.as_bytes()), code);
    }
    assert_eq!(decode_capture(&code), code);
    assert_eq!(decode_capture(b"not a code!"), b"not a code!");
    assert_eq!(decode_capture(b""), b"");
}

fn terms() -> impl Strategy<Value = CodeTerms> {
    let numbers = (any::<u32>(), any::<u16>(), any::<u32>(), 0..=0xff_ffff_u32);
    (numbers, prop::collection::vec(any::<u8>(), 0..=32), any::<u8>()).prop_map(|(numbers, custom, account_type)| CodeTerms {
        generated_s: numbers.0,
        validity_s: numbers.1,
        authorization_expiry_s: numbers.2,
        limit_fen: numbers.3,
        custom,
        account_type,
    })
}

/// Anything, and things that are nearly codes.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let nearly =
        (terms(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)).prop_map(|(terms, changes)| {
            let mut code = good();
            code.splice(198..198, terms.custom);
            let (follow, custom) = (u16::try_from(code.len() - 3).unwrap(), u8::try_from(code.len() - 332).unwrap());
            code[1..3].copy_from_slice(&follow.to_be_bytes());
            code[197] = custom;
            for (at, value) in changes {
                *at.get_mut(&mut code) = value;
            }
            code
        });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..400), nearly]
}

proptest! {
    #[test]
    fn nothing_that_is_read_makes_parsing_or_explaining_panic(bytes in bytes()) {
        if let Ok(code) = RideCode::parse(&bytes) {
            prop_assert_eq!(code.signed_by_user().len() + 65, bytes.len());
            prop_assert_eq!(code.authorization().len() + 72, bytes.len());
            prop_assert_eq!(code.signed_by_issuer().len() + 65, code.authorization().len());
        }
        let explanation = explained(&bytes, Masking::Full);
        prop_assert_eq!(matches!(explanation.verdict, Verdict::Refused(_)), check(&bytes, &at(NOW_S)).is_err());
        let _ = decode_capture(&bytes);
    }

    #[test]
    fn what_is_issued_is_what_is_verified(terms in terms(), seed in any::<u64>(), card in 0..10_u128.pow(20), issuer in 0..100_000_000_u32) {
        let code = WORLD.root.certify(seed, issuer, 1299).issue(&Passenger::from_seed(seed, card), &terms);
        let end_s = (i64::from(terms.generated_s) + i64::from(terms.validity_s)).min(terms.authorization_expiry_s.into());
        let expected = Terms {
            issuer: IssuerCode::from_digits(&format!("{issuer:08}")).unwrap(),
            card: CardAccount::from_digits(&format!("{card:020}")).unwrap(),
            single_trip_limit_fen: terms.limit_fen.into(),
            effective_end_utc_s: end_s,
        };
        let mut codes = Jtt1179Codes::new(&settings(), TrustStore::new(&[WORLD.root.root_key(2200, 1)]).unwrap());
        let now_ms = i64::from(terms.generated_s) * 1000;
        let verdict = codes.check(code, &at_ms(now_ms)).map(|code| code.terms);
        let year_2100_ms = 4_102_444_800_000;
        let expected = if now_ms >= year_2100_ms + 10_000 {
            Err(Refusal::CertificateExpired)
        } else if now_ms > end_s * 1000 + 10_000 {
            Err(Refusal::AuthorizationExpired)
        } else {
            Ok(Some(expected))
        };
        prop_assert_eq!(verdict, expected);
    }
}
