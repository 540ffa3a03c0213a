//! From the last byte of a scan to the open turnstile, measured on the real program by itself (`status`), beside raw
//! `fdatasync`s of 4 KiB on the same disk, one between every two scans.
//!
//! `cargo bench --bench scan_to_open`; `FAREGATE_SCANS` sets the scans of each line (400), `FAREGATE_BACKLOG` the rows that
//! wait (100000), `FAREGATE_BIG_BACKLOG` those of the last line (1000000; they take some 2 GB in `TMPDIR`).

// A measurement that cannot go on has nothing to report; what is counted here is far below what a float holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_precision_loss)]

#[allow(dead_code)]
mod measure;
#[allow(dead_code, unused_imports)]
#[path = "../tests/blackbox/support/mod.rs"]
mod support;

use std::{
    collections::VecDeque,
    fs::File,
    io::Write,
    net::TcpStream,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use measure::{RawDisk, dirtied_bytes, number, percentile, resident_kib, threads};
use rusqlite::Connection;
use support::{Answer, Gate, Random, WeChat, backlog::fill, callbacks::Caller, code};

/// What the gate is doing beside.
struct Scene {
    name: &'static str,
    backlog: usize,
    answer: Answer,
    /// Callers that say half of a callback and no more, at once; whoever is closed comes again.
    callers: usize,
}

fn main() {
    let scans = number("FAREGATE_SCANS", 400);
    let backlog = number("FAREGATE_BACKLOG", 100_000);
    let big = number("FAREGATE_BIG_BACKLOG", 1_000_000);
    let scenes = [
        Scene { name: "nothing waits", backlog: 0, answer: Answer::Ok, callers: 0 },
        Scene { name: "WeChat hangs", backlog: 0, answer: Answer::Hang, callers: 0 },
        Scene { name: "backlog, WeChat hangs", backlog, answer: Answer::Hang, callers: 0 },
        Scene { name: "backlog, uploader drains", backlog, answer: Answer::Ok, callers: 0 },
        Scene { name: "1000 callers hang", backlog: 0, answer: Answer::Ok, callers: 1000 },
        Scene { name: "big backlog, drains", backlog: big, answer: Answer::Ok, callers: 0 },
    ];
    println!("{scans} scans each, backlog {backlog} rows, the big one {big}; milliseconds");
    println!(
        "{:<26} {:>7} {:>7} {:>7} | {:>7} {:>7} | {:>5} {:>5}",
        "", "p50", "p99", "p999", "raw p50", "raw p99", "p50/", "p99/"
    );
    for scene in scenes {
        measure(&scene, scans);
    }
}

fn measure(scene: &Scene, scans: usize) {
    let wechat = WeChat::start();
    wechat.answer(scene.answer);
    let caller = Caller::new();
    let mut gate = caller
        .settings(Gate::beside(&wechat))
        .set("turnstile", "pulse", "10ms")
        .set("turnstile", "pulse_gap", "0s")
        .set("upload", "concurrency", 32)
        .start();
    gate.stop_cleanly();
    fill(&gate.path("ledger.db"), scene.backlog);
    let began = Instant::now();
    gate.start();
    let start_ms = began.elapsed().as_millis();
    wait_until_at_work(&gate);
    let crowd = Crowd::gather(&caller, scene.callers);
    let raw = RawDisk::new(&gate.path("raw"));
    let mut random = Random::new(1);
    let (mut raw_ms, log_before) = (Vec::new(), Log::look(&gate));
    for count in 0..scans {
        gate.scan("in", &code("BENCH", count));
        gate.wait_opens(count + 1);
        std::thread::sleep(Duration::from_millis(15 + random.below(25) as u64));
        raw_ms.push(raw.sync_ms());
    }
    let told = gate.get("/metrics").map(|(_, text)| text).unwrap_or_default();
    let log = Log::look(&gate);
    drop(crowd);
    let status = gate.status();
    let of = |name: &str| status["scan_to_open_ms"][name].as_f64().unwrap();
    let (raw_p50, raw_p99) = (percentile(&mut raw_ms, 50), percentile(&mut raw_ms, 99));
    println!(
        "{:<26} {:>7.3} {:>7.3} {:>7.3} | {raw_p50:>7.3} {raw_p99:>7.3} | {:>5.2} {:>5.2}   start to healthy {start_ms} ms, resident {} KiB, sent {}",
        scene.name,
        of("p50"),
        of("p99"),
        of("p999"),
        of("p50") / raw_p50,
        of("p99") / raw_p99,
        resident_kib(gate.pid()),
        wechat.answers(),
    );
    println!(
        "    meanwhile {:.1} MiB were moved from the log to the ledger, the log was begun anew {} times; {} rows still wait",
        (log.moved_bytes - log_before.moved_bytes) as f64 / f64::from(1 << 20),
        log.generation.wrapping_sub(log_before.generation),
        status["queue"]["pending"],
    );
    let story = gate.ask(&["queue", "show", &last_order(&gate)]);
    let turned = told.lines().filter(|line| line.starts_with("faregate_callbacks_refused_total") && !line.ends_with(" 0"));
    turned.for_each(|line| println!("    {line}"));
    println!("    the last scan: {}", story["events"][1]["detail"].as_str().unwrap_or("not yet told"));
}

/// After a start the ledger's log is given its length as soon as nobody comes for half a second: a gate at work is past that, or
/// moves its log back again and again, within the length that it has.
fn wait_until_at_work(gate: &Gate) {
    let log_bytes = || std::fs::metadata(gate.path("ledger.db-wal")).map_or(0, |log| log.len());
    let (mut length, mut since) = (0, Instant::now());
    gate.wait("the ledger's log has its length", || {
        if length != log_bytes() {
            (length, since) = (log_bytes(), Instant::now());
        }
        length >= 4 << 20 || since.elapsed() >= Duration::from_secs(3)
    });
    std::thread::sleep(Duration::from_secs(1));
}

/// Where the ledger's log stands.
struct Log {
    /// Written by the thread that moves the log back into the ledger.
    moved_bytes: u64,
    /// How often the log was begun anew: SQLite counts it in the log's head.
    generation: u32,
}

impl Log {
    fn look(gate: &Gate) -> Self {
        let threads = threads(gate.pid());
        let checkpoint = threads.iter().find(|thread| thread.name == "checkpoint").unwrap();
        let mut generation = [0; 4];
        File::open(gate.path("ledger.db-wal")).unwrap().read_exact_at(&mut generation, 12).unwrap();
        Self { moved_bytes: dirtied_bytes(&checkpoint.process), generation: u32::from_be_bytes(generation) }
    }
}

/// Without listing a million others.
fn last_order(gate: &Gate) -> String {
    let ledger = Connection::open(gate.path("ledger.db")).unwrap();
    ledger.query_row("SELECT order_number FROM deduction ORDER BY id DESC LIMIT 1", [], |row| row.get(0)).unwrap()
}

/// Callers that hang, until the value goes.
struct Crowd {
    is_over: Arc<AtomicBool>,
    gathering: Option<JoinHandle<()>>,
}

impl Crowd {
    fn gather(caller: &Caller, count: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, port) = (is_over.clone(), caller.port);
        let hold = move || {
            let mut lines = VecDeque::new();
            while !over.load(Ordering::Relaxed) {
                if let Ok(mut line) = TcpStream::connect(("127.0.0.1", port)) {
                    // One that was closed at once is no longer a caller, and another comes.
                    let _ = line.write_all(b"POST /wechat/payment HTTP/1.1\r\nHost: g");
                    lines.push_back(line);
                }
                if lines.len() > count {
                    lines.pop_front();
                }
                std::thread::sleep(Duration::from_millis(u64::from(lines.len() >= count)));
            }
        };
        Self { is_over, gathering: (count > 0).then(|| std::thread::spawn(hold)) }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.gathering.take().map(JoinHandle::join);
    }
}
