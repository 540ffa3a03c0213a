//! `faregate code show`: what a technician learns from a captured code, with nothing but the settings and the roots.

use std::fs;

use data_encoding::{BASE64, HEXLOWER};

use crate::support::{
    Cli, Gate, WeChat,
    phones::{Phones, Spoil, prepare, ride_code_gate},
};

/// A gate that takes these codes and does not run; its secret is gone.
fn bench(phones: &Phones) -> Gate {
    let gate = prepare(ride_code_gate(&WeChat::start()), &[phones]);
    fs::remove_file(gate.path("secret")).unwrap();
    gate
}

fn show(gate: &Gate, capture: &[u8], options: &[&str]) -> Cli {
    let file = gate.path("capture");
    fs::write(&file, capture).unwrap();
    gate.cli(&[&["code", "show", file.to_str().unwrap()], options].concat())
}

/// The longest run of digits in a text.
fn longest_number(text: &str) -> usize {
    text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0)
}

#[test]
fn a_good_code_is_good_raw_in_hexadecimal_in_base64_and_from_standard_input() {
    let phones = Phones::under_root(1);
    let (gate, code) = (bench(&phones), phones.fresh(1));
    let captures = [code.clone(), HEXLOWER.encode(&code).into_bytes(), (BASE64.encode(&code) + "\r\n").into_bytes()];
    for capture in captures {
        let said = show(&gate, &capture, &[]);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
        assert!(said.stdout.contains("this code is good"), "{said:?}");
        let piped = gate.cli_reading(&capture, &["code", "show", "-"]);
        assert_eq!((piped.code, piped.stdout.lines().last()), (Some(0), said.stdout.lines().last()), "{piped:?}");
    }
}

#[test]
fn who_rides_is_shown_only_when_asked_for() {
    let phones = Phones::under_root(1);
    let (gate, code) = (bench(&phones), phones.fresh(1));
    let masked = show(&gate, &code, &[]);
    assert!(longest_number(&masked.stdout) < 12 && !masked.stdout.contains(&HEXLOWER.encode(&code[280..290])), "{masked:?}");
    assert!(masked.stdout.contains(&format!("****************{}", &Phones::card(1)[16..])), "{masked:?}");
    let full = show(&gate, &code, &["--full"]);
    assert!(full.stdout.contains(&Phones::card(1)) && full.stdout.contains(&HEXLOWER.encode(&code[280..290])), "{full:?}");
}

#[test]
fn a_code_that_the_gate_would_refuse_ends_with_1_and_its_reason() {
    let phones = Phones::under_root(1);
    let gate = bench(&phones);
    let spoiled = [
        (Spoil::Truncated(100), "format"),
        (Spoil::UnknownRoot, "unknown-root"),
        (Spoil::Expired, "expired"),
        (Spoil::WrongRoot, "certificate-signature"),
        (Spoil::TamperedField, "issuer-signature"),
        (Spoil::ForgedUser, "user-signature"),
    ];
    for (spoil, reason) in spoiled {
        let said = show(&gate, &phones.spoiled(1, spoil), &[]);
        assert_eq!(said.code, Some(1), "{spoil:?}: {said:?}");
        assert!(said.stderr.contains(&format!("refuses this code: {reason}")), "{spoil:?}: {said:?}");
        assert!(said.stdout.contains(&format!("REFUSED  {reason}")), "{spoil:?}: {said:?}");
    }
}

#[test]
fn what_is_not_there_and_what_cannot_be_used_have_exit_codes_of_their_own() {
    let phones = Phones::under_root(1);
    let (gate, code) = (bench(&phones), phones.fresh(1));
    let missing = gate.cli(&["code", "show", "/nowhere/code"]);
    assert!(missing.code == Some(66) && missing.stderr.contains("/nowhere/code"), "{missing:?}");
    fs::write(gate.path("roots.toml"), "[[root]]\nindex = 1\n").unwrap();
    let roots = show(&gate, &code, &[]);
    assert!(roots.code == Some(78) && roots.stderr.contains("roots.toml"), "{roots:?}");
    gate.write_settings("[gate]\nid = 7\n");
    let settings = show(&gate, &code, &[]);
    assert!(settings.code == Some(78) && settings.stderr.contains("faregate.toml"), "{settings:?}");
}

#[test]
fn with_opaque_codes_in_the_settings_the_certificate_is_said_to_be_unchecked() {
    let phones = Phones::under_root(1);
    let gate = Gate::beside(&WeChat::start()).prepare();
    let said = show(&gate, &phones.fresh(1), &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("opaque") && !said.stdout.contains("this code is good"), "{said:?}");
    let forged = show(&gate, &phones.spoiled(1, Spoil::ForgedUser), &[]);
    assert_eq!(forged.code, Some(1), "what needs no root is checked all the same: {forged:?}");
}
