//! A stop is clean and quick whatever the network does: what was being sent is kept and charged once after the next start.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

use crate::support::{Answer, Gate, WeChat, code, gate::Builder, tls::Front};

/// What the unit's users are promised.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// No time-out of the program's own may be what ends the wait.
fn patient(builder: Builder) -> Builder {
    builder.set("wechat", "timeout", "2m")
}

/// Stops a gate that has one deduction under way; it must be quick and clean, and the deduction still be there.
fn stops_in_time(gate: &mut Gate) {
    let began = Instant::now();
    gate.stop_cleanly();
    assert!(began.elapsed() < STOP_WITHIN, "the stop took {:?}", began.elapsed());
    assert_eq!(gate.rows_in("pending").len(), 1);
}

fn scan_one(gate: &mut Gate) {
    gate.scan("in", &code("STOPPING", 0));
    gate.wait_opens(1);
}

#[test]
fn a_stop_while_wechat_does_not_answer_is_quick_and_loses_nothing() {
    let wechat = WeChat::start();
    wechat.answer(Answer::Hang);
    let mut gate = patient(Gate::beside(&wechat)).start();
    scan_one(&mut gate);
    gate.wait("the deduction is under way", || wechat.requests() == 1);
    stops_in_time(&mut gate);
    wechat.answer(Answer::Ok);
    gate.start();
    gate.wait_drained();
    wechat.assert_charged_exactly(&[code("STOPPING", 0)]);
}

#[test]
fn a_stop_while_the_token_is_waited_for_is_quick_and_loses_nothing() {
    let wechat = WeChat::start();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut gate = patient(Gate::beside(&wechat)).set("wechat", "base_url", url("http", &silent)).start();
    scan_one(&mut gate);
    let (_line, _) = silent.accept().unwrap();
    stops_in_time(&mut gate);
}

#[test]
fn a_stop_during_a_tls_handshake_that_never_ends_is_quick_and_loses_nothing() {
    let wechat = WeChat::start();
    let front = Front::before(&wechat.base_url());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let builder = patient(Gate::beside(&wechat)).set("wechat", "base_url", url("https", &silent));
    let mut gate = builder.set("wechat", "ca_file", front.ca_file().to_str().unwrap()).start();
    scan_one(&mut gate);
    let (_line, _) = silent.accept().unwrap();
    stops_in_time(&mut gate);
}

#[test]
fn a_stop_while_a_connection_does_not_come_about_is_quick_and_loses_nothing() {
    let wechat = WeChat::start();
    let full = FullListener::new();
    let mut gate = patient(Gate::beside(&wechat)).set("wechat", "base_url", format!("http://{}", full.address)).start();
    scan_one(&mut gate);
    gate.wait("a send is under way", || gate.status()["upload"]["state"] == "sending");
    stops_in_time(&mut gate);
}

/// Where the machine's name server does not answer, the look-up is still under way at the stop.
#[test]
fn a_stop_while_wechats_name_is_not_found_is_quick_and_loses_nothing() {
    let wechat = WeChat::start();
    let front = Front::before(&wechat.base_url());
    let builder = patient(Gate::beside(&wechat)).set("wechat", "base_url", "https://wechat.invalid");
    let mut gate = builder.set("wechat", "ca_file", front.ca_file().to_str().unwrap()).start();
    scan_one(&mut gate);
    gate.wait("a send is under way or has failed", || gate.status()["upload"]["state"] != "idle");
    stops_in_time(&mut gate);
}

fn url(scheme: &str, listener: &TcpListener) -> String {
    format!("{scheme}://{}", listener.local_addr().unwrap())
}

/// A port at which the kernel answers no further connection: its queue is full and nobody takes from it.
struct FullListener {
    address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl FullListener {
    fn new() -> Self {
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&listener, 0).unwrap();
        let listener = TcpListener::from(listener);
        let address = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        let waiting: Vec<_> = std::iter::from_fn(connect).take(16).collect();
        assert!(waiting.len() < 16, "the queue is never full");
        Self { address, _listener: listener, _waiting: waiting }
    }
}
