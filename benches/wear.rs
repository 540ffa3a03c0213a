//! What a trip costs the card: bytes written and syncs, checkpoints included, and how long a card lasts at that.
//!
//! The real program with the uploader delivering and WeChat calling back before the next tap, for single fares and for tap-in and tap-out
//! on one gate, at two paces: a rush, where what is deferred (openings, attempts) joins another commit, and a quiet hour, where it is
//! committed by itself a second later; whether the next passenger comes two seconds after that or a minute changes nothing more. All
//! gates work at the same time: what is counted does not depend on how fast it is. Each is watched from the end of one checkpoint to the
//! end of another, in a ledger that holds accepted rows of earlier days.
//!
//! Counted by a library before libc (`measure/calls.c`, built with gcc) for the log and the ledger, by the kernel for all pages that the
//! program made dirty (the shared memory of the log's index, too). What the disk as a whole wrote meanwhile adds the file system's
//! journal, and everybody else: it says something on a quiet machine.
//!
//! `cargo bench --bench wear`; `FAREGATE_CYCLES` sets the checkpoints of a quiet gate (2; a busy one has three times as many),
//! `FAREGATE_ROWS` the rows that are there (100000). The arithmetic: `FAREGATE_TRIPS_PER_DAY` (5000), `FAREGATE_CARD_TB`, the terabytes
//! that the card's cells take (24: 8 GB, 3000 times), `FAREGATE_AMPLIFICATION`, what the card writes for each byte (`5 50`).

// A measurement that cannot go on has nothing to report; what is counted here is far below what a float holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_precision_loss)]

#[allow(dead_code)]
mod measure;
#[allow(dead_code, unused_imports)]
#[path = "../tests/blackbox/support/mod.rs"]
mod support;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use faregate::clock::Stamp;
use measure::{dirtied_bytes, disk_bytes, number, numbers};
use rusqlite::Connection;
use support::{
    Gate, Random, WeChat,
    backlog::fill,
    callbacks::{Caller, paid},
    gate::Builder,
};

/// Of a usual ride code.
const CODE_BYTES: usize = 343;
/// The length that the log of a gate at work has.
const LOG_BYTES: u64 = 4 << 20;
/// A busy gate comes to its checkpoints so much sooner.
const RUSH_CYCLES: u64 = 3;
const KIB: f64 = 1024.0;
const TB: f64 = 1e12;

#[derive(Clone, Copy)]
enum Trip {
    Single,
    InAndOut,
}

#[derive(Clone, Copy)]
enum Callbacks {
    No,
    Yes,
}

#[derive(Clone, Copy)]
struct Scene {
    name: &'static str,
    trip: Trip,
    callbacks: Callbacks,
    /// From one tap to the next, on average; each is up to a quarter shorter or longer.
    pace_ms: usize,
    cycles: u64,
}

fn main() {
    let (cycles, rows) = (number("FAREGATE_CYCLES", 2), number("FAREGATE_ROWS", 100_000));
    let rush = |name, trip, callbacks| Scene { name, trip, callbacks, pace_ms: 500, cycles: cycles * RUSH_CYCLES };
    let quiet = |name, trip, callbacks| Scene { name, trip, callbacks, pace_ms: 2000, cycles };
    let scenes = [
        rush("single, rush", Trip::Single, Callbacks::Yes),
        quiet("single, quiet", Trip::Single, Callbacks::Yes),
        rush("in and out, rush", Trip::InAndOut, Callbacks::Yes),
        quiet("in and out, quiet", Trip::InAndOut, Callbacks::Yes),
        rush("single, rush, no callbacks", Trip::Single, Callbacks::No),
        quiet("single, quiet, no callbacks", Trip::Single, Callbacks::No),
    ];
    let library = library();
    println!("codes of {CODE_BYTES} bytes, {rows} rows accepted earlier, 2 taps a second in a rush; KiB and syncs a trip");
    println!(
        "{:<27} {:>6} {:>6} | {:>8} {:>8} | {:>8} {:>8} | {:>10}",
        "", "trips", "checkp", "log KiB", "syncs", "ledger", "syncs", "pages KiB"
    );
    let mut gates: Vec<_> = scenes.into_iter().map(|scene| Watched::prepare(scene, rows, &library)).collect();
    let disk_before = disk_bytes(&gates[0].gate.path(""));
    let dirtied = || gates.iter().map(|watched| dirtied_bytes(&watched.gate.pid().to_string())).sum::<u64>();
    let dirtied_before = dirtied();
    let written = thread::scope(|scope| {
        let living: Vec<_> = gates.iter_mut().map(|watched| scope.spawn(|| watched.live())).collect();
        living.into_iter().map(|life| life.join().unwrap()).collect::<Vec<_>>()
    });
    for (scene, written) in scenes.iter().zip(&written) {
        written.show(scene.name);
    }
    let dirtied = || gates.iter().map(|watched| dirtied_bytes(&watched.gate.pid().to_string())).sum::<u64>();
    if let Some((after, before)) = disk_bytes(&gates[0].gate.path("")).zip(disk_before) {
        let ratio = (after - before) as f64 / (dirtied() - dirtied_before) as f64;
        println!("the disk as a whole wrote {ratio:.2} times what these programs did");
    }
    for (scene, written) in scenes.iter().zip(&written) {
        show_life(scene.name, written.of_trip(written.pages));
    }
}

/// The library, built anew.
fn library() -> PathBuf {
    let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("calls.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/measure/calls.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(gcc.status().expect("gcc is there").success());
    library
}

/// What the library has counted.
#[derive(Clone, Copy)]
struct Calls {
    log_bytes: u64,
    log_syncs: u64,
    ledger_bytes: u64,
    ledger_syncs: u64,
}

impl Calls {
    fn look(gate: &Gate) -> Self {
        let bytes = fs::read(gate.path("calls")).unwrap();
        let at = |index: usize| u64::from_ne_bytes(bytes[index * 8..][..8].try_into().unwrap());
        Self { log_bytes: at(0), log_syncs: at(1), ledger_bytes: at(2), ledger_syncs: at(3) }
    }
}

/// From one moment to another.
struct Written {
    trips: u64,
    calls: Calls,
    /// Bytes of all pages that the program made dirty.
    pages: u64,
}

impl Written {
    fn of_trip(&self, number: u64) -> f64 {
        number as f64 / self.trips as f64
    }

    fn show(&self, name: &str) {
        let Calls { log_bytes, log_syncs, ledger_bytes, ledger_syncs } = self.calls;
        println!(
            "{name:<27} {:>6} {ledger_syncs:>6} | {:>8.1} {:>8.2} | {:>8.1} {:>8.3} | {:>10.1}",
            self.trips,
            self.of_trip(log_bytes) / KIB,
            self.of_trip(log_syncs),
            self.of_trip(ledger_bytes) / KIB,
            self.of_trip(ledger_syncs),
            self.of_trip(self.pages) / KIB,
        );
    }
}

/// A gate whose calls are counted.
struct Watched {
    scene: Scene,
    gate: Gate,
    wechat: WeChat,
    caller: Caller,
    taps: usize,
    /// Payments that WeChat has told of.
    told: usize,
}

impl Watched {
    /// Running, with earlier days in its ledger, at the end of a checkpoint.
    fn prepare(scene: Scene, rows: usize, library: &Path) -> Self {
        let (wechat, caller) = (WeChat::start(), Caller::new());
        let builder = scene.trip.settings(Gate::beside(&wechat));
        let builder = if let Callbacks::Yes = scene.callbacks { caller.settings(builder) } else { builder };
        let mut gate = builder.start();
        gate.stop_cleanly();
        fill(&gate.path("ledger.db"), rows);
        accept_all(&gate.path("ledger.db"));
        // A real turnstile writes no trace.
        gate.write_settings(&gate.settings().replace("trace = \"trace.jsonl\"\n", ""));
        gate.set_env("LD_PRELOAD", library);
        gate.set_env("FAREGATE_CALLS", gate.path("calls"));
        gate.start();
        let log = gate.path("ledger.db-wal");
        gate.wait("the log has its length and was moved back", || {
            fs::metadata(&log).is_ok_and(|log| log.len() >= LOG_BYTES) && Calls::look(&gate).ledger_syncs > 0
        });
        Self { scene, gate, wechat, caller, taps: 0, told: 0 }
    }

    /// Until there were as many checkpoints as the scene has.
    fn live(&mut self) -> Written {
        let mut random = Random::new(1);
        let pid = self.gate.pid().to_string();
        let (before, pages_before) = (Calls::look(&self.gate), dirtied_bytes(&pid));
        let calls = loop {
            self.tap();
            let pause_ms = self.scene.pace_ms * 3 / 4 + random.below(self.scene.pace_ms / 2);
            thread::sleep(Duration::from_millis(pause_ms as u64));
            self.call_back();
            let calls = Calls::look(&self.gate);
            if calls.ledger_syncs >= before.ledger_syncs + self.scene.cycles {
                break calls;
            }
        };
        let pages = dirtied_bytes(&pid) - pages_before;
        self.check();
        let calls = Calls {
            log_bytes: calls.log_bytes - before.log_bytes,
            log_syncs: calls.log_syncs - before.log_syncs,
            ledger_bytes: calls.ledger_bytes - before.ledger_bytes,
            ledger_syncs: calls.ledger_syncs - before.ledger_syncs,
        };
        Written { trips: self.trips() as u64, calls, pages }
    }

    fn tap(&mut self) {
        let (lane, passenger) = match self.scene.trip {
            Trip::Single => ("in", self.taps),
            // One comes in, the one before goes out.
            Trip::InAndOut if self.taps % 2 == 0 => ("in", self.taps / 2),
            Trip::InAndOut => ("out", self.taps / 2),
        };
        let mut code = format!("{passenger:04}{lane:0>4}").into_bytes();
        code.resize(CODE_BYTES, b'x');
        self.gate.scan(lane, &code);
        self.taps += 1;
    }

    /// About everything that was delivered since.
    fn call_back(&mut self) {
        if let Callbacks::No = self.scene.callbacks {
            return;
        }
        for deduction in &self.wechat.deductions()[self.told..] {
            assert!(self.caller.payment(&paid(&deduction.json)), "a callback was refused");
            self.told += 1;
        }
    }

    fn trips(&self) -> usize {
        match self.scene.trip {
            Trip::Single => self.taps,
            Trip::InAndOut => self.taps / 2,
        }
    }

    /// Every tap opened, every trip was delivered.
    fn check(&self) {
        self.gate.wait("every tap opened", || {
            let (_, metrics) = self.gate.get("/metrics").unwrap();
            let opened = metrics.lines().filter(|line| line.starts_with("faregate_openings_total") && line.contains("\"opened\""));
            opened.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum::<usize>() == self.taps
        });
        self.gate.wait("every trip is delivered", || self.wechat.answers() == self.trips());
    }
}

impl Trip {
    fn settings(self, builder: Builder) -> Builder {
        let builder = builder.set("ride_code", "opaque_passenger", serde_json::json!({"offset": 0, "length": 4})).set(
            "gate",
            "passenger_interval",
            "0s",
        );
        match self {
            Self::Single => builder,
            Self::InAndOut => builder
                .lanes(&["in", "out"])
                .of_lane("in", "lane", "mode", "entry")
                .of_lane("out", "lane", "mode", "exit")
                .of_lane("out", "lane", "station", "S2")
                .set("fare", "max_fen", 1000),
        }
    }
}

/// As WeChat would have, before this.
fn accept_all(ledger: &Path) {
    let connection = Connection::open(ledger).unwrap();
    let now_utc_ms = Stamp::now().utc_ms;
    let accept = "UPDATE deduction SET state = 'accepted', created_utc_ms = ?1, accepted_utc_ms = ?1";
    connection.execute(accept, [now_utc_ms]).unwrap();
}

fn show_life(name: &str, bytes: f64) {
    let (trips_per_day, card_tb): (f64, f64) = (number("FAREGATE_TRIPS_PER_DAY", 5000.0), number("FAREGATE_CARD_TB", 24.0));
    let tb_per_year = bytes * trips_per_day * 365.0 / TB;
    let lives = numbers::<f64>("FAREGATE_AMPLIFICATION", "5 50").into_iter();
    let lives: Vec<_> = lives.map(|factor| format!("{:.1} years × {factor}", card_tb / tb_per_year / factor)).collect();
    println!(
        "{name:<27} {trips_per_day} trips a day: {:.0} MB a day; a card whose cells take {card_tb} TB lasts {}",
        tb_per_year / 365.0 * 1e6,
        lives.join(", "),
    );
}
