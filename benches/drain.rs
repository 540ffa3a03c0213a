//! How fast a backlog is delivered, and what it costs to have one, measured on the real program.
//!
//! Drain: from the first answer that WeChat gives to the last, beside what latency alone allows (rows / lines at once × latency) and
//! beside raw hyper: as many lines, which send the same bytes to the same server and keep no books; without latency beside raw
//! `fdatasync`s of 4 KiB on the same disk, too. Weight: from the start to `/health` 200, and the resident memory then, without and with a
//! backlog.
//!
//! `cargo bench --bench drain`; `FAREGATE_BACKLOG` sets the rows to drain (10000, fewer where they would take more than 20 s),
//! `FAREGATE_DELAYS_MS` how far WeChat is away (`0 50 200`), `FAREGATE_BACKLOGS` the backlogs to weigh (`0 100000`).

// A measurement that cannot go on has nothing to report; what is counted here is far below what a float holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_precision_loss)]

#[allow(dead_code)]
mod measure;
#[allow(dead_code, unused_imports)]
#[path = "../tests/blackbox/support/mod.rs"]
mod support;

use std::{
    cell::RefCell,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use axum::body::{self, Body};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use measure::{RawDisk, cpu_ms, number, numbers, resident_kib, until};
use support::{Answer, Gate, WeChat, backlog::fill};
use tokio::{
    net::TcpStream,
    task::{LocalSet, spawn_local},
};

const CONCURRENCY: u32 = 32;
/// No line of the drain takes longer: fewer rows are drained instead.
const LINE_MS_MAX: u32 = 20_000;
const RAW_SYNCS: usize = 200;
/// How often each weight is taken.
const STARTS: usize = 5;

fn main() {
    let rows = number("FAREGATE_BACKLOG", 10_000);
    println!("drain of up to {rows} rows, concurrency {CONCURRENCY}");
    for latency_ms in numbers("FAREGATE_DELAYS_MS", "0 50 200") {
        let rows_max = (LINE_MS_MAX * CONCURRENCY).checked_div(latency_ms).unwrap_or(u32::MAX);
        drain(rows.min(rows_max), Duration::from_millis(latency_ms.into()));
    }
    println!("weight of a backlog while WeChat hangs, {STARTS} starts each");
    for rows in numbers("FAREGATE_BACKLOGS", "0 100000") {
        weigh(rows);
    }
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
    let raw_ms = RawDisk::new(&gate.path("raw")).syncs_ms(RAW_SYNCS).iter().sum::<f64>() / RAW_SYNCS as f64;
    gate.start();
    let per_s = answers_per_s(&wechat, 0, rows);
    let cpu_ms = cpu_ms(gate.pid()) / f64::from(rows);
    until(|| gate.status()["queue"]["accepted"] == rows);
    gate.stop_cleanly();
    assert_eq!((wechat.charged().len(), wechat.requests()), (rows as usize, rows as usize), "each row once");
    let bodies: Vec<_> = wechat.deductions().into_iter().map(|deduction| deduction.body).collect();
    let url = wechat.base_url();
    let raw = thread::spawn(move || send_raw(&url, bodies));
    let hyper_per_s = answers_per_s(&wechat, rows, 2 * rows);
    raw.join().unwrap();
    assert!(wechat.charged().values().all(|bodies| bodies.len() == 2 && bodies[0] == bodies[1]), "the same again");
    let beside = if latency.is_zero() {
        format!("{:.1} rows for each raw sync of {raw_ms:.3} ms", per_s * raw_ms / 1e3)
    } else {
        format!("{:.1} % of what latency allows", per_s / f64::from(CONCURRENCY) * latency.as_secs_f64() * 100.0)
    };
    println!(
        "  latency {latency:>5.0?}: {rows} rows at {per_s:.0} a second, {cpu_ms:.2} ms CPU of the program a row; {beside}; {:.1} % of raw hyper, {hyper_per_s:.0} a second",
        per_s / hyper_per_s * 100.0,
    );
}

/// How fast requests are answered, from the first answer after so many to the last of all.
fn answers_per_s(wechat: &WeChat, earlier: u32, last: u32) -> f64 {
    let (earlier, last) = (earlier as usize, last as usize);
    until(|| wechat.answers() > earlier);
    let (began, first) = (Instant::now(), wechat.answers());
    until(|| wechat.answers() >= last);
    (last - first) as f64 / began.elapsed().as_secs_f64()
}

/// The same requests with nothing around them: each line takes the next one when it has its answer.
fn send_raw(url: &str, bodies: Vec<Vec<u8>>) {
    let authority = url.trim_start_matches("http://");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let (local, bodies) = (LocalSet::new(), Rc::new(RefCell::new(bodies.into_iter())));
    for _ in 0..CONCURRENCY {
        local.spawn_local(send_line(authority.to_owned(), bodies.clone()));
    }
    runtime.block_on(local);
}

async fn send_line(authority: String, bodies: Rc<RefCell<impl Iterator<Item = Vec<u8>>>>) {
    let stream = TcpStream::connect(&authority).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    spawn_local(connection);
    loop {
        let Some(bytes) = bodies.borrow_mut().next() else { return };
        let request = Request::post("/deduct?access_token=TOKEN-OF-THE-GATE-1")
            .header(header::HOST, &authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(bytes))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        body::to_bytes(Body::new(answer.into_body()), 4096).await.unwrap();
    }
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
