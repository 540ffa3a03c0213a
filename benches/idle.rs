//! What a gate costs while nobody comes: processor, wake-ups, bytes written; and how large the program is.
//!
//! The real program with one lane, a reader that is silent, a WeChat that is not asked, and a service manager that is told of it as the
//! unit says. The kernel counts, thread by thread.
//!
//! `cargo bench --bench idle`; `FAREGATE_IDLE_S` sets for how long (60).

// A measurement that cannot go on has nothing to report; what is counted here is far below what a float holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_precision_loss)]

#[allow(dead_code)]
mod measure;
#[allow(dead_code, unused_imports)]
#[path = "../tests/blackbox/support/mod.rs"]
mod support;

use std::{
    os::unix::net::UnixDatagram,
    thread,
    time::{Duration, Instant},
};

use measure::{Thread, cpu_ms, dirtied_bytes, number, resident_kib, threads, until};
use support::{Gate, WeChat};

/// The length that the log is given in the first quiet moments.
const LOG_BYTES: u64 = 4 << 20;
/// What a start leaves to be done is done by then.
const SETTLING: Duration = Duration::from_secs(5);
/// The budget, of one core.
const CPU_PERCENT_MAX: f64 = 0.5;

fn main() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).prepare();
    listen(&mut gate);
    gate.start();
    let log = gate.path("ledger.db-wal");
    until(|| log.metadata().is_ok_and(|log| log.len() >= LOG_BYTES));
    thread::sleep(SETTLING);
    watch(&gate, Duration::from_secs(number("FAREGATE_IDLE_S", 60)));
    gate.stop_cleanly();
    let program = env!("CARGO_BIN_EXE_faregate");
    println!(
        "the program: {:.2} MiB as this bench was built",
        std::fs::metadata(program).unwrap().len() as f64 / f64::from(1 << 20)
    );
}

/// As systemd does for the unit, whose watchdog has 60 s.
fn listen(gate: &mut Gate) {
    let socket = UnixDatagram::bind(gate.path("notify")).unwrap();
    gate.set_env("NOTIFY_SOCKET", gate.path("notify"));
    gate.set_env("WATCHDOG_USEC", "60000000");
    thread::spawn(move || while socket.recv(&mut [0; 1024]).is_ok() {});
}

fn watch(gate: &Gate, length: Duration) {
    let pid = gate.pid();
    let (began, before) = (Instant::now(), threads(pid));
    let (ticks_ms, dirtied) = (cpu_ms(pid), dirtied_bytes(&pid.to_string()));
    thread::sleep(length);
    let (after, seconds) = (threads(pid), began.elapsed().as_secs_f64());
    println!("a gate with one lane and nobody there, for {seconds:.0} s");
    println!("{:<16} {:>12} {:>14} {:>17}", "thread", "CPU ms/min", "wake-ups/min", "preemptions/min");
    let mut sum = Thread { process: String::new(), name: "all".to_owned(), cpu_ms: 0.0, wakeups: 0, preemptions: 0 };
    for thread in after {
        let Some(thread) = since(thread, &before) else { continue };
        show(&thread, seconds);
        sum.cpu_ms += thread.cpu_ms;
        sum.wakeups += thread.wakeups;
        sum.preemptions += thread.preemptions;
    }
    show(&sum, seconds);
    println!(
        "{:.3} % of one core (budget {CPU_PERCENT_MAX} %; {} ms by the kernel's ticks), {:.2} wake-ups a second, {} KiB written, {} KiB resident",
        sum.cpu_ms / seconds / 10.0,
        cpu_ms(pid) - ticks_ms,
        sum.wakeups as f64 / seconds,
        (dirtied_bytes(&pid.to_string()) - dirtied) >> 10,
        resident_kib(pid),
    );
}

/// What a thread did since then; `None` for one that is new.
fn since(thread: Thread, before: &[Thread]) -> Option<Thread> {
    let then = before.iter().find(|then| then.process == thread.process)?;
    Some(Thread {
        cpu_ms: thread.cpu_ms - then.cpu_ms,
        wakeups: thread.wakeups - then.wakeups,
        preemptions: thread.preemptions - then.preemptions,
        ..thread
    })
}

fn show(thread: &Thread, seconds: f64) {
    let of_minute = |number: f64| number / seconds * 60.0;
    println!(
        "{:<16} {:>12.2} {:>14.1} {:>17.1}",
        thread.name,
        of_minute(thread.cpu_ms),
        of_minute(thread.wakeups as f64),
        of_minute(thread.preemptions as f64),
    );
}
