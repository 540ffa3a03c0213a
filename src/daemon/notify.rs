//! What the service manager is told, after `sd_notify(3)`: ready, how it is, that it is alive, stopping.
//!
//! Promises: the watchdog is fed only when the gate's runtime and the ledger have both just answered; whatever may be away in the
//! world (a scanner, WeChat, a disk that is full) never stops the feeding. Nothing here waits for the service manager: a message
//! that it does not take now is dropped, but for `READY=1`, which is tried for a while. Without a service manager nothing happens.

use std::{
    env,
    future::pending,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{self, MissedTickBehavior},
};

use crate::{
    lane::Ping,
    ledger::NetworkLedger,
    upload::{UploadMonitor, UploadStatus},
};

/// The status is told anew this often, if not the watchdog wants to hear more often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// `READY=1` is tried so often, with this pause: without it the service manager ends the program.
const READY_TRIES: (u32, Duration) = (50, Duration::from_millis(100));

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub(super) struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that started this program, as `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say.
    pub(super) fn from_env() -> Self {
        let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else { return Self::default() };
        let socket = connect(address.as_bytes());
        if let Err(error) = &socket {
            log::error!("the service manager cannot be told anything: NOTIFY_SOCKET: {error}");
        }
        let text = |name| env::var(name).ok();
        Self { socket: socket.ok(), watchdog: watchdog(text("WATCHDOG_USEC"), text("WATCHDOG_PID")) }
    }

    /// The program serves: says so, then tells how it goes and feeds the watchdog, until dropped.
    pub(super) async fn tell_of(&self, life: &impl Life) {
        let Some(socket) = &self.socket else { return pending().await };
        ready(socket).await;
        let every = self.watchdog.map_or(TELL_EVERY, |limit| TELL_EVERY.min(limit / 2));
        let mut ticks = time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            tell(socket, &news(life, every).await);
        }
    }

    /// The program has begun to stop.
    pub(super) fn stopping(&self) {
        if let Some(socket) = &self.socket {
            tell(socket, "STOPPING=1\nSTATUS=stopping");
        }
    }
}

async fn ready(socket: &UnixDatagram) {
    for _ in 0..READY_TRIES.0 {
        match socket.send(b"READY=1") {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => time::sleep(READY_TRIES.1).await,
            Err(error) => return log::error!("the service manager cannot be told READY=1: {error}"),
            Ok(_) => return,
        }
    }
    log::error!("the service manager does not take READY=1");
}

async fn news(life: &impl Life, within: Duration) -> String {
    match time::timeout(within, life.sign()).await {
        Ok(status) => format!("STATUS={status}\nWATCHDOG=1"),
        Err(_) => "STATUS=the gate or its ledger does not answer; look at the disk and at the log".to_owned(),
    }
}

fn tell(socket: &UnixDatagram, message: &str) {
    if let Err(error) = socket.send(message.as_bytes()) {
        log::debug!("the service manager does not take a message: {error}");
    }
}

/// What must answer for the program to be alive.
pub(super) trait Life {
    /// Comes when everything that opens gates and keeps books has answered: a line for people. Never comes when something is
    /// stuck. May be dropped at any time.
    async fn sign(&self) -> String;
}

/// The life of a whole gate.
pub(super) struct GateLife {
    pub(super) gate: String,
    pub(super) pings: mpsc::Sender<Ping>,
    pub(super) ledger: NetworkLedger,
    pub(super) upload: Arc<UploadMonitor>,
}

impl Life for GateLife {
    async fn sign(&self) -> String {
        let (ping, answer) = oneshot::channel();
        if self.pings.send(ping).await.is_err() || answer.await.is_err() {
            // The gate's runtime has ended without being told to.
            return pending().await;
        }
        // A ledger that says that it cannot be read is not stuck: it is trying to open its file again.
        let waiting = self.ledger.totals().await.ok().map(|totals| totals.deductions[1]);
        status(&self.gate, waiting, &self.upload.status())
    }
}

/// Answers pings, on the runtime that is asked about, when every lane and its turnstile have answered.
pub(super) async fn answer_pings(mut pings: mpsc::Receiver<Ping>, lanes: Vec<mpsc::Sender<Ping>>) {
    while let Some(ping) = pings.recv().await {
        for lane in &lanes {
            let (asked, answer) = oneshot::channel();
            if lane.send(asked).await.is_err() || answer.await.is_err() {
                // It has ended, which it does only when the gate stops.
                return;
            }
        }
        // Whoever asked may have given up.
        let _ = ping.send(());
    }
}

fn status(gate: &str, waiting: Option<u64>, upload: &UploadStatus) -> String {
    let waiting = waiting.map_or_else(|| "the ledger cannot be read".to_owned(), |waiting| format!("{waiting} waiting"));
    let reason = upload.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    format!("gate {gate}: {waiting}, upload {}{reason}", upload.state.as_str()).replace('\n', " ")
}

/// How long the service manager waits for a sign of life, if it does, and from this process.
fn watchdog(limit_us: Option<String>, pid: Option<String>) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid == process::id().to_string());
    let limit_us = limit_us?.parse().ok().filter(|limit_us| *limit_us > 0 && is_ours)?;
    Some(Duration::from_micros(limit_us))
}

/// A name that begins with `@` lies in the abstract name space.
fn connect(address: &[u8]) -> io::Result<UnixDatagram> {
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, path::Path, sync::mpsc as std_mpsc};

    use super::*;
    use crate::{
        clock::Stamp,
        config,
        daemon::ledger_options,
        ledger::{self, Denial, GateLedger},
        ride_code::Refusal,
        upload::UploadState,
    };

    const LIMIT: Duration = Duration::from_secs(60);

    /// A manager and the socket at which it listens; the time is the test's own.
    fn manager(watchdog: Option<Duration>) -> (Manager, UnixDatagram) {
        let (theirs, ours) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        (Manager { socket: Some(ours), watchdog }, theirs)
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 512];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned()))
            .collect()
    }

    struct Lives {
        is_stuck: Cell<bool>,
    }

    impl Life for Lives {
        async fn sign(&self) -> String {
            if self.is_stuck.get() { pending().await } else { "well".to_owned() }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_within_half_its_time_while_everything_answers() {
        for (limit, feeds) in [(Duration::from_secs(4), 30), (LIMIT, 6)] {
            let (manager, socket) = manager(Some(limit));
            let life = Lives { is_stuck: Cell::new(false) };
            let telling = time::timeout(Duration::from_millis(59_999), manager.tell_of(&life));
            assert!(telling.await.is_err());
            let told = heard(&socket);
            assert_eq!(
                (told[0].as_str(), &told[1..]),
                ("READY=1", &vec!["STATUS=well\nWATCHDOG=1".to_owned(); feeds][..]),
                "{limit:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_not_fed_while_something_is_stuck_and_again_when_it_moves() {
        let (manager, socket) = manager(Some(Duration::from_secs(2)));
        let life = Lives { is_stuck: Cell::new(true) };
        let mut telling = std::pin::pin!(manager.tell_of(&life));
        assert!(time::timeout(LIMIT, &mut telling).await.is_err());
        let told = heard(&socket);
        assert!(told.len() > 10 && told.iter().all(|message| !message.contains("WATCHDOG")), "{told:?}");
        life.is_stuck.set(false);
        assert!(time::timeout(Duration::from_secs(5), &mut telling).await.is_err());
        assert_eq!(heard(&socket).last().unwrap(), "STATUS=well\nWATCHDOG=1");
    }

    const SETTINGS: &str = r#"
[gate]
id = "S14-G03"
station = "S14"
[[lane]]
name = "in"
mode = "single"
[lane.scanner]
device = "/dev/ttyUSB0"
[lane.turnstile]
driver = "simulated"
[ride_code]
format = "opaque"
[fare]
scene = "METRO"
body = "地铁代扣"
line_name = "2号线"
flat_fen = 200
[wechat]
base_url = "http://127.0.0.1:9"
deduct_path = "/deduct"
auth = "none"
appid = "wx"
mch_id = "1"
"#;

    /// A real ledger in `folder` whose thread lets each commit through only while it has `permits`.
    fn ledger(folder: &Path, permits: std_mpsc::Receiver<()>) -> (ledger::Running, GateLedger, NetworkLedger) {
        let file = folder.join("faregate.toml");
        std::fs::write(&file, format!("{SETTINGS}[ledger]\npath = \"ledger.db\"\n")).unwrap();
        let loaded = config::load_without_named_files(&file);
        let settings = loaded.settings.unwrap_or_else(|| panic!("{:?}", loaded.findings));
        let observer = Box::new(move |_| {
            let _ = permits.recv();
        });
        ledger::start(ledger_options(&settings, None, observer)).unwrap()
    }

    fn denial() -> Denial {
        Denial { lane: "in".into(), refusal: Refusal::Format, digest: None, passenger: None, scanned: Stamp::now() }
    }

    #[tokio::test]
    async fn a_ledger_that_is_stuck_gives_no_sign_of_life_until_it_moves_again() {
        let folder = tempfile::tempdir().unwrap();
        let (permits, permitted) = std_mpsc::channel();
        let (running, gate, network) = ledger(folder.path(), permitted);
        let (pings, pinged) = mpsc::channel(1);
        let answering = tokio::spawn(answer_pings(pinged, Vec::new()));
        let life = GateLife { gate: "S14-G03".to_owned(), pings, ledger: network, upload: Arc::default() };
        assert_eq!(life.sign().await, "gate S14-G03: 0 waiting, upload idle");

        gate.denied(denial());
        assert!(time::timeout(Duration::from_millis(100), life.sign()).await.is_err(), "its thread is stuck in a commit");
        permits.send(()).unwrap();
        assert_eq!(life.sign().await, "gate S14-G03: 0 waiting, upload idle");

        drop((permits, gate, life));
        answering.await.unwrap();
        let _ = running.join();
    }

    #[tokio::test]
    async fn a_gates_runtime_that_is_stuck_or_has_ended_gives_no_sign_of_life() {
        let folder = tempfile::tempdir().unwrap();
        let (permits, permitted) = std_mpsc::channel();
        let (running, gate, network) = ledger(folder.path(), permitted);
        let (pings, pinged) = mpsc::channel(1);
        let life = GateLife { gate: "S14-G03".to_owned(), pings, ledger: network, upload: Arc::default() };
        assert!(time::timeout(Duration::from_millis(50), life.sign()).await.is_err(), "nobody answers");
        drop(pinged);
        assert!(time::timeout(Duration::from_millis(50), life.sign()).await.is_err(), "nobody is there");
        drop((permits, gate, life));
        let _ = running.join();
    }

    #[tokio::test]
    async fn a_lane_that_is_stuck_gives_no_sign_of_life_though_the_others_do() {
        let (pings, pinged) = mpsc::channel(1);
        let (lanes, mut lives): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel::<Ping>(1)).unzip();
        let answering = tokio::spawn(answer_pings(pinged, lanes));
        let mut stuck = lives.pop().unwrap();
        let mut works = lives.pop().unwrap();
        tokio::spawn(async move {
            while let Some(ping) = works.recv().await {
                ping.send(()).unwrap();
            }
        });
        let (ping, mut answer) = oneshot::channel();
        pings.send(ping).await.unwrap();
        let asked = stuck.recv().await.unwrap();
        assert!(time::timeout(Duration::from_millis(50), &mut answer).await.is_err(), "the second lane is stuck");
        asked.send(()).unwrap();
        answer.await.unwrap();
        drop(pings);
        answering.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn ready_waits_a_while_for_a_service_manager_that_is_busy() {
        let (manager, socket) = manager(None);
        while manager.socket.as_ref().unwrap().send(b"noise").is_ok() {}
        let reading = async {
            time::sleep(READY_TRIES.1 * 3).await;
            heard(&socket);
        };
        tokio::join!(ready(manager.socket.as_ref().unwrap()), reading);
        assert_eq!(heard(&socket), ["READY=1"]);
    }

    #[test]
    fn the_status_tells_the_backlog_and_why_it_waits() {
        let upload = UploadStatus {
            state: UploadState::Waiting,
            reason: Some("no usable answer from WeChat:\nrefused".to_owned()),
            ..UploadStatus::default()
        };
        let told = status("S14-G03", Some(12), &upload);
        assert_eq!(told, "gate S14-G03: 12 waiting, upload waiting (no usable answer from WeChat: refused)");
        assert_eq!(status("S1", None, &UploadStatus::default()), "gate S1: the ledger cannot be read, upload idle");
    }

    #[test]
    fn a_watchdog_for_another_process_or_none_is_not_fed() {
        let own = process::id().to_string();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(watchdog(text("60000000"), None), Some(LIMIT));
        assert_eq!(watchdog(text("60000000"), Some(own)), Some(LIMIT));
        assert_eq!(watchdog(text("60000000"), text("1")), None);
        for nonsense in [None, text("0"), text(""), text("soon")] {
            assert_eq!(watchdog(nonsense, None), None);
        }
    }

    #[test]
    fn abstract_names_and_paths_are_both_reached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        connect(path.as_os_str().as_bytes()).unwrap().send(b"a").unwrap();
        assert_eq!(by_path.recv(&mut [0; 8]).unwrap(), 1);

        let name = format!("faregate-test-{}", process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        connect(format!("@{name}").as_bytes()).unwrap().send(b"ab").unwrap();
        assert_eq!(by_name.recv(&mut [0; 8]).unwrap(), 2);
    }
}
