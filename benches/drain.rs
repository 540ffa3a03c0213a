//! How fast a backlog is delivered, and what it costs to have one, measured on the real program.
//!
//! Drain: from the first request that WeChat sees to the last row accepted, beside what latency alone allows (rows / lines at once ×
//! latency); without latency beside raw `fdatasync`s of 4 KiB on the same disk. Weight: from the start to `/health` 200, and the
//! resident memory then, without and with a backlog.
//!
//! `cargo bench --bench drain`; `FAREGATE_BACKLOG` sets the rows to drain (10000), `FAREGATE_BACKLOGS` the backlogs to weigh
//! (`0 100000`).

// A measurement that cannot go on has nothing to report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unused_imports)]
#[path = "../tests/blackbox/support/mod.rs"]
mod support;

use std::{
    env,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use support::{Answer, Gate, WeChat, backlog::fill};

const CONCURRENCY: u32 = 32;
/// How often WeChat is asked what it has seen.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const RAW_SYNCS: u32 = 200;
/// How often each weight is taken.
const STARTS: usize = 5;

fn main() {
    let rows = number("FAREGATE_BACKLOG", 10_000);
    println!("drain of {rows} rows, concurrency {CONCURRENCY}");
    for latency_ms in [50, 0] {
        drain(rows, Duration::from_millis(latency_ms));
    }
    println!("weight of a backlog while WeChat hangs, {STARTS} starts each");
    let backlogs = env::var("FAREGATE_BACKLOGS").unwrap_or_else(|_| "0 100000".to_owned());
    for rows in backlogs.split_whitespace() {
        weigh(rows.parse().unwrap());
    }
}

fn number(variable: &str, default: u32) -> u32 {
    env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A gate that is stopped, with so many rows that wait.
fn gate_with_backlog(wechat: &WeChat, rows: u32) -> Gate {
    let mut gate = Gate::beside(wechat).set("upload", "concurrency", CONCURRENCY).start();
    gate.stop_cleanly();
    fill(&gate.path("ledger.db"), rows as usize);
    gate
}

fn drain(rows: u32, latency: Duration) {
    let wechat = WeChat::start();
    wechat.answer_after(latency);
    let mut gate = gate_with_backlog(&wechat, rows);
    let raw_ms = raw_sync_ms(&gate.path("raw"));
    gate.start();
    until(|| wechat.answers() > 0);
    let (began, answered_before) = (Instant::now(), wechat.answers());
    until(|| wechat.answers() >= rows as usize);
    let took_s = began.elapsed().as_secs_f64();
    let answered = f64::from(rows) - f64::from(u32::try_from(answered_before).unwrap());
    let cpu_ms = cpu_ms(gate.pid());
    until(|| gate.status()["queue"]["accepted"] == rows);
    gate.stop_cleanly();
    assert_eq!((wechat.charged().len(), wechat.requests()), (rows as usize, rows as usize), "each row once");
    let beside = if latency.is_zero() {
        format!("{:.1} rows for each raw sync of {raw_ms:.3} ms", answered / took_s * raw_ms / 1e3)
    } else {
        let allowed_s = answered / f64::from(CONCURRENCY) * latency.as_secs_f64();
        format!("latency alone: {allowed_s:.3} s; {:.1} % of it", took_s / allowed_s * 100.0)
    };
    println!(
        "  latency {latency:>4.0?}: {took_s:.3} s, {:.0} rows/s, {:.2} ms CPU of the program a row; {beside}",
        answered / took_s,
        cpu_ms / f64::from(rows),
    );
}

fn weigh(rows: u32) {
    let wechat = WeChat::start();
    wechat.answer(Answer::Hang);
    let mut gate = gate_with_backlog(&wechat, rows);
    let (mut start_ms, mut resident) = (Vec::new(), 0);
    for _ in 0..STARTS {
        let began = Instant::now();
        gate.start();
        start_ms.push(began.elapsed().as_millis());
        until(|| gate.status()["queue"]["pending"] == rows);
        resident = resident.max(resident_kib(gate.pid()));
        gate.stop_cleanly();
    }
    start_ms.sort_unstable();
    println!("  {rows:>8} rows: start to healthy {} ms (median), resident {resident} KiB (most)", start_ms[STARTS / 2]);
}

fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        thread::sleep(LOOK_EVERY);
    }
}

/// The floor: overwriting 4 KiB and waiting for the disk; the mean.
fn raw_sync_ms(path: &Path) -> f64 {
    let file: File = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    file.write_all_at(&[0; 4096], 0).unwrap();
    file.sync_all().unwrap();
    let began = Instant::now();
    for _ in 0..RAW_SYNCS {
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.sync_data().unwrap();
    }
    began.elapsed().as_secs_f64() * 1e3 / f64::from(RAW_SYNCS)
}

/// User and system time so far: fields 14 and 15 of `stat`, in hundredths of a second.
fn cpu_ms(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    f64::from(ticks) * 10.0
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
