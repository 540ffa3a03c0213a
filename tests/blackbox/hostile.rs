//! Garbage at every door: whatever comes, and however much, the next good code, question or callback is served.
//!
//! `FAREGATE_NOISE_S` sets for how many seconds a reader makes noise.

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    framings::ride_code,
    support::{
        DEADLINE, Gate, Random, WeChat,
        callbacks::{Caller, PAYMENT, answer, paid, refusal},
        code,
    },
};

const NOISE_S: u64 = 3;
/// What a cable of 115200 baud carries in one pause of the test.
const BYTES_PER_BURST: usize = 115;
const BURST_EVERY: Duration = Duration::from_millis(10);
/// Noise between two codes at least.
const BURSTS_PER_CODE: usize = 15;
/// What the daemon may grow by while it is flooded: far less than what it is flooded with.
const GROWTH_KIB_MAX: u64 = 4 * 1024;
const FLOOD_BYTES: usize = 64 << 20;

/// One burst: random, or full of false heads of ride codes.
fn noise(random: &mut Random) -> Vec<u8> {
    const HEADS: [&[u8]; 4] = [&[0x80], &[0x80, 0x01, 0x49], &[0x80, 0x01, 0x49, 0x24], &[0xff, 0x01, 0x69, 0x24, 0x15]];
    if random.once_in(2) {
        return random.bytes(BYTES_PER_BURST);
    }
    let mut bytes = Vec::new();
    while bytes.len() < BYTES_PER_BURST {
        bytes.extend_from_slice(HEADS[random.below(HEADS.len())]);
        let more = random.below(20);
        bytes.extend(random.bytes(more));
    }
    bytes
}

/// Resident memory of the daemon.
fn resident_kib(gate: &Gate) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gate.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn every_code_opens_though_the_reader_makes_noise_as_fast_as_its_cable_allows() {
    let wechat = WeChat::start();
    // Long enough that a busy machine does not cut a code in two.
    let builder = Gate::beside(&wechat).set("scanner", "framing", "ride-code").set("scanner", "idle_gap", "400ms");
    let mut gate = builder.set("turnstile", "pulse", "30ms").set("gate", "open_within", "1m").start();
    let seconds = env::var("FAREGATE_NOISE_S").map_or(NOISE_S, |text| text.parse().expect("FAREGATE_NOISE_S is a number"));
    let (random, end, mut codes) = (&mut Random::new(11), Instant::now() + Duration::from_secs(seconds), Vec::new());
    while Instant::now() < end {
        let code = ride_code(random, codes.len() % 33);
        gate.send("in", &[noise(random), code.clone(), noise(random)].concat());
        codes.push(code);
        let (mut bursts, patience) = (0, Instant::now() + DEADLINE);
        while bursts < BURSTS_PER_CODE || gate.opens().len() < codes.len() {
            gate.send("in", &noise(random));
            bursts += 1;
            assert!(Instant::now() < patience, "code {} does not open\n{}", codes.len(), gate.log_tail());
            // The cable's speed.
            thread::sleep(BURST_EVERY);
        }
    }
    gate.wait_drained();
    wechat.assert_charged_exactly(&codes);
    assert_eq!((gate.opens().len(), gate.denials().len()), (codes.len(), 0));
}

/// What no client of the control socket would say.
fn garbage(random: &mut Random) -> Vec<Vec<u8>> {
    let megabyte = 1 << 20;
    vec![
        random.bytes(300),
        b"\n\n\n\0\0\n".to_vec(),
        b"{\"ask\":\"status\"".to_vec(),
        b"{\"ask\":\"no-such-question\"}\n".to_vec(),
        b"\"\xff\xfe\"\n[]\n0\nnull\n{}\n".to_vec(),
        [vec![b'['; 10_000], b"\n".to_vec()].concat(),
        vec![b'x'; megabyte],
        [vec![b' '; megabyte], b"\n".to_vec()].concat(),
    ]
}

/// Says it, as far as the other side listens.
fn say(gate: &Gate, bytes: &[u8]) -> UnixStream {
    let mut line = UnixStream::connect(gate.path("control.sock")).unwrap();
    line.set_write_timeout(Some(DEADLINE)).unwrap();
    line.set_read_timeout(Some(DEADLINE)).unwrap();
    if let Err(error) = line.write_all(bytes) {
        assert!([ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()), "{error}");
    }
    line
}

#[test]
fn garbage_on_the_control_socket_is_answered_or_closed_and_costs_the_next_question_nothing() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).start();
    assert_eq!(gate.status()["gate"], "T1");
    let (random, before_kib) = (&mut Random::new(12), resident_kib(&gate));
    let mut lines = Vec::new();
    for _ in 0..6 {
        for said in garbage(random) {
            lines.push(say(&gate, &said));
        }
        assert_eq!(gate.status()["gate"], "T1");
    }
    let grown_kib = resident_kib(&gate).saturating_sub(before_kib);
    assert!(grown_kib < GROWTH_KIB_MAX, "it grew by {grown_kib} KiB");
    for mut line in lines {
        let mut said = Vec::new();
        // The daemon may have closed it already, by a reset where something was left unread.
        let _ = line.shutdown(Shutdown::Write);
        let _ = line.read_to_end(&mut said);
        let said = String::from_utf8(said).unwrap();
        assert!(said.lines().all(|answer| answer.contains("not a question")), "{said}");
    }
    assert_eq!(gate.cli(&["queue", "list"]).code, Some(0));
}

#[test]
fn a_callback_of_a_gigabyte_is_refused_without_being_kept() {
    let (wechat, caller) = (WeChat::start(), Caller::new());
    let mut gate = caller.settings(Gate::beside(&wechat)).start();
    gate.scan("in", &code("FLOOD", 1));
    gate.wait("it is accepted", || gate.rows_in("accepted").len() == 1);
    let before_kib = resident_kib(&gate);
    let mut line = caller.connect();
    line.set_write_timeout(Some(DEADLINE)).unwrap();
    let head = format!("POST {PAYMENT} HTTP/1.1\r\nHost: gate\r\nContent-Length: {}\r\n\r\n", 1 << 30);
    line.write_all(head.as_bytes()).unwrap();
    let megabyte = vec![b'x'; 1 << 20];
    // Whoever does not listen any more has refused it already.
    let _ = (0..FLOOD_BYTES >> 20).try_for_each(|_| line.write_all(&megabyte));
    let grown_kib = resident_kib(&gate).saturating_sub(before_kib);
    assert!(grown_kib < GROWTH_KIB_MAX, "it grew by {grown_kib} KiB");
    assert!(caller.payment(&paid(&wechat.deductions()[0].json)), "another one is served meanwhile");
    let _ = line.shutdown(Shutdown::Write);
    assert_eq!(answer(&mut line), Ok(refusal()));
    assert_eq!(gate.queue()[0]["state"], json!("paid"));
}
