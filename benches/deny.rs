//! What a long deny-list costs: importing it beside a gate that works, and looking a card up in each admission.
//!
//! `cargo bench --bench deny`; `FAREGATE_CARDS` sets the length of the list (100000).

// A measurement that cannot go on has nothing to report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unused_imports)]
#[path = "../tests/blackbox/support/mod.rs"]
mod support;

use std::{
    env, fs,
    process::Stdio,
    time::{Duration, Instant},
};

use faregate::{
    clock::Stamp,
    config, daemon, deny_list,
    ledger::{self, Admission, ImportedBy, Tap},
    ride_code::{CardAccount, IssuerCode, PassengerId, Terms, VerifiedCode},
};
use support::{Gate, WeChat, code};

const ADMISSIONS: usize = 20_000;

fn main() {
    let cards = env::var("FAREGATE_CARDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("turnstile", "pulse", "10ms").set("turnstile", "pulse_gap", "0s").start();
    let lines: Vec<_> = (0..cards).map(|number| format!("{:020}\n", spread(number))).collect();
    fs::write(gate.path("list.txt"), lines.concat()).unwrap();
    import(&mut gate, cards);
    gate.stop_cleanly();
    look_up(&gate);
}

/// Numbers that lie far apart, none of them even.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// The program imports while codes are scanned.
fn import(gate: &mut Gate, cards: u64) {
    let file = gate.path("list.txt");
    let began = Instant::now();
    let mut importing = gate.command(&["deny", "import", file.to_str().unwrap()]).stdout(Stdio::null()).spawn().unwrap();
    let mut scans = 0;
    let took = loop {
        if importing.try_wait().unwrap().is_some_and(|status| status.success()) {
            break began.elapsed();
        }
        gate.scan("in", &code("BENCH", scans));
        scans += 1;
        gate.wait_opens(scans);
        std::thread::sleep(Duration::from_millis(15));
    };
    let scan = &gate.status()["scan_to_open_ms"];
    println!("import of {cards} cards beside {scans} scans: {took:.2?}; scan to open p50 {}, p99 {} ms", scan["p50"], scan["p99"]);
}

/// Admissions that write nothing, with no list and with this one: the difference is the look-up.
fn look_up(gate: &Gate) {
    let settings = config::load(&gate.settings_file()).settings.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let list = deny_list::read(&gate.path("list.txt")).unwrap();
    fs::remove_file(&settings.ledger.path).unwrap();
    let (running, admitting, network) = ledger::start(daemon::ledger_options(&settings, None, Box::new(|_| ()))).unwrap();
    let time = |name: &str| {
        let mut took: Vec<_> = (0..ADMISSIONS)
            .map(|number| {
                let tap = duplicate(number as u64);
                let began = Instant::now();
                runtime.block_on(admitting.admit(tap)).unwrap();
                began.elapsed()
            })
            .collect();
        took.sort_unstable();
        println!("{name:<30} p50 {:.2?}, p99 {:.2?}", took[ADMISSIONS / 2], took[ADMISSIONS * 99 / 100]);
    };
    let first = runtime.block_on(admitting.admit(duplicate(0))).unwrap();
    assert!(matches!(first, Admission::Admitted(_)));
    time("a judgement without a list");
    let by = ImportedBy { uid: 0, detail: String::new(), file_digest: None };
    let began = Instant::now();
    runtime.block_on(network.import_deny_list(&list.cards, by)).unwrap();
    println!("import of {} cards alone: {:.2?}", list.cards.len(), began.elapsed());
    time("a judgement with it");
    drop((admitting, network));
    let _ = running.join();
}

/// The code that was admitted first, of another card each time, none of which is on the list.
fn duplicate(number: u64) -> Tap {
    let card = CardAccount::from_digits(&format!("{:020}", spread(number) ^ 1)).unwrap();
    let issuer = IssuerCode::from_digits("03664530").unwrap();
    let terms = Terms { issuer, card, single_trip_limit_fen: 10_000, effective_end_utc_s: i64::MAX / 1000 };
    let code = VerifiedCode { terms: Some(terms), ..VerifiedCode::opaque(b"code".to_vec(), PassengerId::new(b"one", "0001")) };
    Tap { lane: "in".into(), station: "S1".into(), mode: config::Mode::Single, awaits_passage: false, code, scanned: Stamp::now() }
}
