//! Durable admissions at the ledger, codes already checked, by how many ask at once: what group commit gives.
//!
//! Beside them raw `fdatasync`s of 4 KiB on the same disk, half of them before each line and half after it. `commits` are those of the
//! ledger's thread, each one sync; the checkpoints' two syncs, every 256 operations, are another thread's. The line with openings also
//! tells the ledger of each opening, as a lane does.
//!
//! `cargo bench --bench group_commit`; `FAREGATE_ASKERS` sets who asks at once (`1 4 16 64`), `FAREGATE_SECONDS` the length of each
//! line (5). `TMPDIR` names a folder on the disk to measure.

// A measurement that cannot go on has nothing to report; what is counted here is far below what a float holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_precision_loss)]

#[allow(dead_code)]
mod measure;
#[allow(dead_code, unused_imports)]
#[path = "../tests/blackbox/support/mod.rs"]
mod support;

use std::{
    cell::{Cell, RefCell},
    path::Path,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use faregate::{
    clock::Stamp,
    config::{self, Mode, Settings},
    daemon::ledger_options,
    ledger::{self, Admission, GateLedger, LedgerEvent, Observer, Opened, RecordId, Tap},
    ride_code::{PassengerId, VerifiedCode},
};
use measure::{RawDisk, number, numbers, percentile, threads, until};
use support::{Gate, WeChat};
use tokio::task::LocalSet;

/// Of a usual ride code.
const CODE_BYTES: usize = 343;
const RAW_SYNCS: usize = 400;
/// The length that the log of a gate at work has.
const LOG_BYTES: u64 = 4 << 20;
/// The budget: this part of as many raw syncs as ask at once, or so many, whichever is less.
const OF_RAW: f64 = 0.6;
const ENOUGH_PER_S: f64 = 15_000.0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Openings {
    Untold,
    Told,
}

fn main() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).prepare();
    let settings = config::load(&gate.settings_file()).settings.unwrap();
    let length = Duration::from_secs(number("FAREGATE_SECONDS", 5));
    println!("durable admissions, {CODE_BYTES} bytes of code, {length:?} each, in {}", gate.path("").display());
    println!(
        "{:>14} {:>9} {:>8} {:>8} {:>8} {:>9} | {:>8} {:>8} | {:>9} {:>12}",
        "asking at once", "a second", "of need", "p50 ms", "p99 ms", "commits/1", "raw p50", "raw/s", "× raw", "ledger CPU"
    );
    for askers in numbers("FAREGATE_ASKERS", "1 4 16 64") {
        show(&settings, &gate.path("raw"), askers, Openings::Untold, length);
    }
    show(&settings, &gate.path("raw"), 16, Openings::Told, length);
}

fn show(settings: &Settings, raw: &Path, askers: usize, openings: Openings, length: Duration) {
    let disk = RawDisk::new(raw);
    let mut raw_ms = disk.syncs_ms(RAW_SYNCS / 2);
    let mut line = Line::measure(settings, askers, openings, length);
    raw_ms.extend(disk.syncs_ms(RAW_SYNCS / 2));
    let raw_per_s = raw_ms.len() as f64 / raw_ms.iter().sum::<f64>() * 1e3;
    let (admissions, per_s) = (line.took_ms.len() as f64, line.took_ms.len() as f64 / line.length_s);
    let need_per_s = (OF_RAW * askers as f64 * raw_per_s).min(ENOUGH_PER_S);
    let name = if openings == Openings::Told { format!("{askers}, opening") } else { askers.to_string() };
    println!(
        "{name:>14} {per_s:>9.0} {:>6.0} % {:>8.3} {:>8.3} {:>9.3} | {:>8.3} {raw_per_s:>8.0} | {:>9.2} {:>9.1} µs",
        per_s / need_per_s * 100.0,
        percentile(&mut line.took_ms, 50),
        percentile(&mut line.took_ms, 99),
        line.commits as f64 / admissions,
        percentile(&mut raw_ms, 50),
        per_s / raw_per_s,
        line.ledger_cpu_ms / admissions * 1e3,
    );
}

/// What one line of the table was made from.
struct Line {
    /// Of each admission.
    took_ms: Vec<f64>,
    length_s: f64,
    commits: usize,
    ledger_cpu_ms: f64,
}

impl Line {
    /// In a ledger of its own, with a log of full length.
    fn measure(settings: &Settings, askers: usize, openings: Openings, length: Duration) -> Self {
        let commits = Arc::new(AtomicUsize::new(0));
        let counted = commits.clone();
        let observer: Observer = Box::new(move |event| {
            counted.fetch_add(usize::from(matches!(event, LedgerEvent::Committed { .. })), Ordering::Relaxed);
        });
        let (running, gate, network) = ledger::start(ledger_options(settings, None, observer)).unwrap();
        let log = settings.ledger.path.with_extension("db-wal");
        until(|| log.metadata().is_ok_and(|log| log.len() >= LOG_BYTES));
        std::thread::sleep(Duration::from_secs(1));
        let (commits_before, cpu_before) = (commits.load(Ordering::Relaxed), ledger_cpu_ms());
        let began = Instant::now();
        let took_ms = ask(&gate, askers, openings, began + length);
        let line = Self {
            took_ms,
            length_s: began.elapsed().as_secs_f64(),
            commits: commits.load(Ordering::Relaxed) - commits_before,
            ledger_cpu_ms: ledger_cpu_ms() - cpu_before,
        };
        drop((gate, network));
        let _ = running.join();
        std::fs::remove_file(&settings.ledger.path).unwrap();
        line
    }
}

fn ledger_cpu_ms() -> f64 {
    threads(std::process::id()).iter().filter(|thread| thread.name == "ledger").map(|thread| thread.cpu_ms).sum()
}

/// All ask from one thread, as the lanes of a gate do.
fn ask(gate: &GateLedger, askers: usize, openings: Openings, end: Instant) -> Vec<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (local, took_ms, numbers) = (LocalSet::new(), Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(0)));
    for _ in 0..askers {
        let (gate, took_ms, numbers) = (gate.clone(), took_ms.clone(), numbers.clone());
        local.spawn_local(async move {
            while Instant::now() < end {
                let tap = tap(numbers.replace(numbers.get() + 1));
                let began = Instant::now();
                let Admission::Admitted(admitted) = gate.admit(tap).await.unwrap() else { panic!("it was not admitted") };
                took_ms.borrow_mut().push(began.elapsed().as_secs_f64() * 1e3);
                if openings == Openings::Told {
                    let record = RecordId::Deduction(admitted.id);
                    let opened = Opened { record, at_utc_ms: Stamp::now().utc_ms, detail: "0.1 ms of check".to_owned() };
                    gate.opened(opened).await;
                }
            }
        });
    }
    runtime.block_on(local);
    took_ms.take()
}

/// Of another passenger each time.
fn tap(number: u64) -> Tap {
    let mut code = number.to_be_bytes().to_vec();
    code.resize(CODE_BYTES, 0);
    let passenger = PassengerId::new(&number.to_be_bytes(), "0000");
    Tap {
        lane: "in".into(),
        station: "S1".into(),
        mode: Mode::Single,
        awaits_passage: false,
        code: VerifiedCode::opaque(code, passenger),
        scanned: Stamp::now(),
    }
}
