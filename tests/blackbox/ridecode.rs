//! Ride codes of JT/T 1179: genuine ones open and are charged, everything else is refused with the reason that is its own, wherever
//! reasons are told.

use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{
    Gate, WeChat,
    phones::{CodeTerms, ISSUER, Phones, Spoil, now_s, ride_code_gate, start, trust},
};

/// Each kind, and the word that the standard of this project has for it.
const SPOILED: [(Spoil, &str); 12] = [
    (Spoil::BitFlip(32), "format"),
    (Spoil::UnknownRoot, "unknown-root"),
    (Spoil::ExpiredCertificate, "certificate-expired"),
    (Spoil::Future, "not-yet-valid"),
    (Spoil::Expired, "expired"),
    (Spoil::ExpiredAuthorization, "authorization-expired"),
    (Spoil::WrongRoot, "certificate-signature"),
    (Spoil::TamperedField, "issuer-signature"),
    (Spoil::ForgedIssuer, "issuer-signature"),
    (Spoil::OtherIssuer, "issuer-signature"),
    (Spoil::ForgedUser, "user-signature"),
    (Spoil::OverLimit, "over-limit"),
];

/// Shows a code that must be refused, and waits for the refusal, so that reasons stand in the order of the codes.
fn refused(gate: &mut Gate, lane: &str, code: &[u8]) -> String {
    let before = gate.denials().len();
    gate.send(lane, code);
    gate.wait_denials(before + 1);
    gate.denials().pop().unwrap()
}

/// The words in the ledger's list of refusals, oldest first; the daemon must have stopped.
fn denied(gate: &Gate) -> Vec<String> {
    let ledger = Connection::open_with_flags(gate.path("ledger.db"), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let mut rows = ledger.prepare("SELECT reason FROM denied ORDER BY id").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn hang_up(gate: &Gate) {
    let answers = || gate.log().matches("SIGHUP: ").count();
    let before = answers();
    kill_process(Pid::from_raw(gate.pid().try_into().unwrap()).unwrap(), Signal::HUP).unwrap();
    gate.wait("SIGHUP is answered", || answers() > before);
}

#[test]
fn genuine_codes_open_and_are_charged_as_they_were_read() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let mut gate = start(ride_code_gate(&wechat), &[&phones]);
    let terms = |custom_bytes| CodeTerms { custom: vec![0x0d; custom_bytes], ..CodeTerms::at(now_s()) };
    let codes: Vec<_> = [0, 1, 31, 32].into_iter().zip(0..).map(|(custom, who)| phones.code(who, &terms(custom))).collect();
    for (count, code) in codes.iter().enumerate() {
        gate.send("in", code);
        gate.wait_opens(count + 1);
    }
    gate.wait("all are charged", || wechat.charged().len() == codes.len());
    wechat.assert_charged_exactly(&codes);
    let shown: Vec<_> = gate.queue().iter().map(|row| row["passenger"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<_> = (0..4).map(|who| format!("****************{}", &Phones::card(who)[16..])).collect();
    assert_eq!(shown, expected);
}

#[test]
fn each_code_that_must_not_open_is_refused_with_its_own_reason_in_trace_metrics_ledger_and_log() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let builder = ride_code_gate(&wechat).lanes(&["in", "out"]).set("gate", "passenger_interval", "5m");
    let mut gate = start(builder, &[&phones]);
    let codes: Vec<_> = SPOILED.into_iter().zip(10..).map(|((spoil, _), who)| phones.spoiled(who, spoil)).collect();
    for ((spoil, reason), code) in SPOILED.into_iter().zip(&codes) {
        assert_eq!(refused(&mut gate, "in", code), reason, "{spoil:?}");
    }
    // Two codes of one moment, though a second may begin in between.
    let made_s = now_s();
    let good = phones.code(1, &CodeTerms::at(made_s));
    gate.send("in", &good);
    gate.wait_opens(1);
    assert_eq!(refused(&mut gate, "out", &good), "duplicate");
    assert_eq!(refused(&mut gate, "out", &phones.code(1, &CodeTerms::at(made_s - 1))), "too-soon");
    let (_, metrics) = gate.get("/metrics").unwrap();
    gate.stop_cleanly();
    let of_history = ["duplicate", "too-soon"];
    let expected: Vec<_> = SPOILED.iter().map(|(_, reason)| *reason).chain(of_history).map(str::to_owned).collect();
    assert_eq!(denied(&gate), expected);
    for reason in &expected {
        let times = expected.iter().filter(|other| *other == reason).count();
        let counted: u64 = metrics
            .lines()
            .filter(|line| line.contains(&format!("\"{reason}\"")))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        assert_eq!(counted, times as u64, "{reason} in\n{metrics}");
        assert_eq!(gate.log().matches(&format!("refused: {reason}\n")).count(), times, "{reason} in the log");
    }
    assert_eq!(gate.queue().len(), 1);
}

#[test]
fn a_refusal_sounds_by_what_can_be_done_about_it() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let mut gate = start(ride_code_gate(&wechat), &[&phones]);
    let beeps = [(Spoil::OverLimit, 3), (Spoil::ForgedUser, 1), (Spoil::Expired, 2)];
    for ((spoil, times), who) in beeps.into_iter().zip(1..) {
        let before = gate.trace().len();
        refused(&mut gate, "in", &phones.spoiled(who, spoil));
        let ended = || gate.trace().split_off(before).iter().filter(|edge| edge.line == "buzzer" && edge.level == 0).count();
        gate.wait("the sound is over", || ended() == times);
    }
}

#[test]
fn nothing_that_is_written_beside_the_ledger_holds_a_code_or_a_passengers_number() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let mut gate = start(ride_code_gate(&wechat), &[&phones]);
    let good = phones.fresh(1);
    let spoiled: Vec<_> = SPOILED.into_iter().zip(10..).map(|((spoil, _), who)| phones.spoiled(who, spoil)).collect();
    for code in &spoiled {
        refused(&mut gate, "in", code);
    }
    gate.send("in", &good);
    gate.wait_opens(1);
    let (_, metrics) = gate.get("/metrics").unwrap();
    let shown = [gate.cli(&["status"]).stdout, gate.cli(&["queue", "list"]).stdout, metrics].concat();
    gate.stop_cleanly();
    let told = shown + &gate.log() + &std::fs::read_to_string(gate.path("trace.jsonl")).unwrap();
    for code in spoiled.iter().chain([&good]) {
        // The account number, the end of the certificate and a part of the phone's signature.
        for part in [&code[136..146], &code[90..117], &code[280..320]] {
            assert!(!told.contains(&HEXLOWER.encode(part)) && !told.contains(&BASE64.encode(part)), "{part:x?} in\n{told}");
        }
    }
}

#[test]
fn a_code_whose_limit_is_the_fare_opens_and_one_fen_less_does_not() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let mut gate = start(ride_code_gate(&wechat).set("fare", "flat_fen", 350), &[&phones]);
    let limited = |who, limit_fen| phones.code(who, &CodeTerms { limit_fen, ..CodeTerms::at(now_s()) });
    assert_eq!(refused(&mut gate, "in", &limited(1, 349)), "over-limit");
    gate.send("in", &limited(1, 350));
    gate.wait_opens(1);
}

#[test]
fn a_screenshot_is_a_duplicate_and_a_refreshed_code_of_that_passenger_too_soon() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let builder = ride_code_gate(&wechat).lanes(&["in", "out"]).set("gate", "passenger_interval", "5m");
    let mut gate = start(builder, &[&phones]);
    let (now, code) = (now_s(), phones.fresh(1));
    gate.send("in", &code);
    gate.wait_opens(1);
    assert_eq!(refused(&mut gate, "out", &code), "duplicate");
    assert_eq!(refused(&mut gate, "out", &phones.code(1, &CodeTerms::at(now - 1))), "too-soon");
    assert_eq!((gate.opens().len(), gate.queue().len()), (1, 1));
}

#[test]
fn the_tolerance_holds_both_ways_and_an_issuers_offset_moves_its_codes_alone() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let builder = ride_code_gate(&wechat).set("ride_code", "clock_tolerance", "1h");
    let mut gate = start(builder.set("ride_code", "issuer_clock_offset", json!({ISSUER: "8h"})), &[&phones]);
    let made = |who, ahead_minutes: i64| {
        let at_s = i64::from(now_s()) + ahead_minutes * 60;
        phones.code(who, &CodeTerms::at(at_s.try_into().unwrap()))
    };
    assert_eq!(refused(&mut gate, "in", &made(1, 0)), "expired");
    for (count, ahead_minutes) in [8 * 60, 8 * 60 - 58, 8 * 60 + 58].into_iter().enumerate() {
        gate.send("in", &made(2 + count as u64, ahead_minutes));
        gate.wait_opens(count + 1);
    }
    assert_eq!(refused(&mut gate, "in", &made(8, 8 * 60 - 65)), "expired");
    assert_eq!(refused(&mut gate, "in", &made(9, 8 * 60 + 65)), "not-yet-valid");
}

#[test]
fn with_an_unsynchronized_clock_codes_are_refused_where_the_settings_say_so_and_only_then() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let mut gate = start(ride_code_gate(&wechat).set("ride_code", "unsynchronized_clock", "deny"), &[&phones]);
    let is_synchronized = gate.status()["clock"]["synchronized"].as_bool().unwrap();
    gate.send("in", &phones.fresh(1));
    if is_synchronized {
        gate.wait_opens(1);
    } else {
        gate.wait_denials(1);
    }
    let refusals = if is_synchronized { vec![] } else { vec!["clock-unsynchronized"] };
    assert_eq!((gate.denials(), gate.opens().len()), (refusals.into_iter().map(String::from).collect(), is_synchronized.into()));
}

#[test]
fn sighup_trusts_a_new_root_and_refuses_a_removed_one_however_well_its_codes_were_known() {
    let (wechat, old, new) = (WeChat::start(), Phones::under_root(1), Phones::under_root(2));
    let mut gate = start(ride_code_gate(&wechat), &[&old]);
    gate.send("in", &old.fresh(1));
    gate.wait_opens(1);
    assert_eq!(refused(&mut gate, "in", &new.fresh(2)), "unknown-root");
    trust(&gate, &[&old, &new]);
    assert_eq!(refused(&mut gate, "in", &new.fresh(2)), "unknown-root", "before it was told");
    hang_up(&gate);
    gate.send("in", &new.fresh(2));
    gate.wait_opens(2);
    trust(&gate, &[&new]);
    hang_up(&gate);
    assert_eq!(refused(&mut gate, "in", &old.fresh(1)), "unknown-root");
    gate.send("in", &new.fresh(3));
    gate.wait_opens(3);
}

#[test]
fn a_bad_roots_file_changes_nothing_and_is_named_in_the_log() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let mut gate = start(ride_code_gate(&wechat), &[&phones]);
    for (count, text) in ["[[root", "", "[[root]]\nindex = 1\npublic_key = \"04\"\nexpires = \"2030-12\""].into_iter().enumerate() {
        std::fs::write(gate.path("roots.toml"), text).unwrap();
        hang_up(&gate);
        gate.wait("it says so", || gate.log().matches("the roots stay as they were").count() == count + 1);
        gate.send("in", &phones.fresh(count as u64));
        gate.wait_opens(count + 1);
    }
    std::fs::remove_file(gate.path("roots.toml")).unwrap();
    hang_up(&gate);
    gate.wait("it says so", || gate.log().matches("the roots stay as they were").count() == 4);
    assert!(gate.log().contains("roots.toml"), "{}", gate.log_tail());
    gate.send("in", &phones.fresh(4));
    gate.wait_opens(4);
}

#[test]
fn noise_false_headers_and_cut_codes_cost_no_good_code_behind_them() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let mut gate = start(ride_code_gate(&wechat).set("scanner", "idle_gap", "5s"), &[&phones]);
    let cut = phones.fresh(100);
    let before: [&[u8]; 7] = [
        b"\r\n",
        &[0x80],
        &[0x80, 0x01],
        &[0x80, 0x01, 0x49, 0x24],
        &[0xff; 700],
        &cut[..331],
        &[&cut[..300], &cut[..40]].concat(),
    ];
    // An idle gap far beyond the test's patience: nothing but the search itself can find the code.
    for (count, noise) in before.into_iter().enumerate() {
        gate.send("in", &[noise, &phones.fresh(count as u64)].concat());
        gate.wait_opens(count + 1);
    }
    // The two whose tags were all there got their missing bytes from what came behind them.
    assert_eq!(gate.denials(), ["user-signature"; 2]);
}

#[test]
fn a_code_cut_short_costs_only_itself_after_a_silence() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let mut gate = start(ride_code_gate(&wechat).set("scanner", "idle_gap", "50ms"), &[&phones]);
    gate.send("in", &phones.fresh(1)[..200]);
    std::thread::sleep(Duration::from_millis(200));
    gate.send("in", &phones.fresh(2));
    gate.wait_opens(1);
    gate.send("in", &phones.fresh(1));
    gate.wait_opens(2);
}
