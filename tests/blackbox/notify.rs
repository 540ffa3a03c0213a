//! What the service manager hears of the program: ready, its backlog, its signs of life, its stop.

use std::os::unix::net::UnixDatagram;

use crate::support::{Gate, WeChat, code};

/// The socket at which a service manager listens.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// A gate that will tell this manager, with a watchdog of two seconds.
    fn of(gate: &mut Gate) -> Self {
        let path = gate.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        gate.set_env("NOTIFY_SOCKET", path);
        gate.set_env("WATCHDOG_USEC", "2000000");
        Self { socket, heard: Vec::new() }
    }

    /// Every message so far, oldest first.
    fn heard(&mut self) -> &[String] {
        let mut buffer = [0; 1024];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        &self.heard
    }

    fn has_heard(&mut self, line: &str) -> bool {
        self.count(line) > 0
    }

    /// Messages that hold this line.
    fn count(&mut self, wanted: &str) -> usize {
        self.heard().iter().filter(|message| message.lines().any(|line| line == wanted)).count()
    }
}

/// One more message that nobody reads; false when there is no room for it.
fn fill(gate: &Gate) -> bool {
    let noise = UnixDatagram::unbound().unwrap();
    noise.set_nonblocking(true).unwrap();
    noise.send_to(b"noise", gate.path("notify")).is_ok()
}

#[test]
fn ready_is_told_when_the_monitor_answers_and_stopping_when_the_stop_begins() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).prepare();
    let mut manager = Manager::of(&mut gate);
    gate.spawn();
    let mut answers_when_ready = None;
    gate.wait("READY=1", || {
        answers_when_ready = manager.has_heard("READY=1").then(|| gate.health());
        answers_when_ready.is_some()
    });
    assert!(answers_when_ready.flatten().is_some(), "nobody answered at /health when the program said that it was ready");
    assert_eq!(manager.heard()[0], "READY=1");
    assert!(!manager.has_heard("STOPPING=1"));
    gate.stop_cleanly();
    assert!(manager.has_heard("STOPPING=1"), "{:?}", manager.heard());
    assert_eq!(manager.count("READY=1"), 1);
}

#[test]
fn the_watchdog_is_fed_and_told_the_backlog_while_wechat_and_a_scanner_are_away() {
    let mut wechat = WeChat::start();
    wechat.down();
    let mut gate = Gate::beside(&wechat).lanes(&["in", "out"]).prepare();
    let mut manager = Manager::of(&mut gate);
    gate.start();
    gate.unplug("out");
    gate.scan("in", &code("NOTIFY", 0));
    gate.wait_opens(1);
    let told = "STATUS=gate T1: 1 waiting, upload waiting (no usable answer from WeChat: ";
    gate.wait("the status tells the backlog", || manager.heard().iter().any(|message| message.starts_with(told)));
    let fed = manager.count("WATCHDOG=1");
    gate.wait("the watchdog is still fed", || manager.count("WATCHDOG=1") > fed + 2);
    wechat.up();
    gate.wait("the status tells that nothing waits", || manager.heard().last().unwrap().contains("T1: 0 waiting, upload idle"));
    gate.stop_cleanly();
}

#[test]
fn a_service_manager_that_does_not_listen_holds_nothing_up() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).prepare();
    let _manager = Manager::of(&mut gate);
    while fill(&gate) {}
    gate.start();
    gate.scan("in", &code("NOTIFY-DEAF", 0));
    gate.wait_opens(1);
    gate.stop_cleanly();
}
