//! The demo's stage: a folder with real settings, readers, passage sensors, the sandbox on a free port of 127.0.0.1, and the daemon
//! on a thread.
//!
//! Threads: the daemon's own, and `network`, which serves the sandbox and waits for signals. The rest of the demo is one thread.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{
    DemoError, Direction, Evidence, Interrupts, Seen,
    callback::{MERCHANT, RULES, WayBack},
    issuer::Issuer,
    readers::Reader,
    stations::{self, LANES, MAX_FEN, SAME_STATION_FEN, Stand},
    system,
    trace::TraceReader,
};
use crate::{
    config::{self, Settings, Severity},
    control::{Answer, Client, Question},
    daemon::{self, DaemonError, Stop, Surroundings},
    journal::DroppedRecords,
    ledger::{self, JourneyRow, JourneysRequest, NetworkLedger, PageRequest, QueueRow},
    monitor::{ScannerState, Status},
    sandbox::{Options, Sandbox},
};

/// How long the gate refuses the same passenger again.
pub(super) const PASSENGER_INTERVAL: Duration = Duration::from_millis(1200);
/// How long it waits for a passage.
pub(super) const PASSAGE_TIMEOUT: Duration = Duration::from_millis(2600);
/// How long the gate may take until its lanes are ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(10);
/// Rows of the ledger's listing at a time.
const PAGE_ROWS: usize = 500;

/// Everything that is there before the first passenger comes.
pub(super) struct Scene {
    folder: TempDir,
    settings: Settings,
    readers: Vec<Reader>,
    /// The inputs of each lane's turnstile.
    sensors: Vec<File>,
    sandbox: Sandbox,
    daemon: Option<JoinHandle<Result<(), DaemonError>>>,
    client: Option<Client>,
    stop_daemon: watch::Sender<bool>,
    stop_network: watch::Sender<bool>,
    network: Option<JoinHandle<()>>,
}

impl Scene {
    /// Builds it and waits until every lane can open. With `interrupts`, SIGINT, SIGTERM and SIGHUP no longer end the process:
    /// they are counted there.
    pub(super) fn set_up(seed: u64, interrupts: Option<&Interrupts>) -> Result<Self, DemoError> {
        let folder = tempfile::Builder::new().prefix("faregate-demo-").tempdir().map_err(system("make its folder"))?;
        let way_back = WayBack::new().map_err(system("find a port for its callbacks"))?;
        let sandbox = Sandbox::calling_back(Options { seed, ..Options::default() }, way_back.callee(), RULES);
        let sandbox = sandbox.map_err(|problem| system("call its gate back")(io::Error::other(problem)))?;
        let (stop_network, stopped) = watch::channel(false);
        let (network, address) = start_network(&sandbox, interrupts, stopped).map_err(system("serve its sandbox"))?;
        let readers = LANES.iter().map(|_| Reader::new()).collect::<Result<Vec<_>, _>>().map_err(system("make its readers"))?;
        let settings = write_settings(folder.path(), &readers, address, &way_back)?;
        let (stop_daemon, told) = watch::channel(false);
        let daemon = start_daemon(&settings, folder.path(), told)?;
        let mut scene = Self {
            folder,
            settings,
            readers,
            sensors: Vec::new(),
            sandbox,
            daemon: Some(daemon),
            client: None,
            stop_daemon,
            stop_network,
            network: Some(network),
        };
        scene.wait_ready()?;
        scene.sensors = LANES.iter().map(|lane| scene.sensor(lane.name)).collect::<Result<_, _>>()?;
        Ok(scene)
    }

    pub(super) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(super) fn show(&mut self, lane: usize, bytes: &[u8]) -> Result<(), DemoError> {
        self.readers.get_mut(lane).map_or(Ok(()), |reader| reader.send(bytes)).map_err(system("write to a reader"))
    }

    /// Somebody goes through.
    pub(super) fn pass(&mut self, lane: usize) -> Result<(), DemoError> {
        let Some(sensor) = self.sensors.get_mut(lane) else { return Ok(()) };
        let lines = "{\"line\":\"passage\",\"level\":1}\n{\"line\":\"passage\",\"level\":0}\n";
        sensor.write_all(lines.as_bytes()).map_err(system("write to a passage sensor"))
    }

    fn sensor(&self, lane: &str) -> Result<File, DemoError> {
        OpenOptions::new().write(true).open(self.path(&inputs(lane))).map_err(system("open a passage sensor"))
    }

    pub(super) fn trace(&self) -> Result<TraceReader, DemoError> {
        TraceReader::open(&self.path(TRACE)).map_err(system("read the trace"))
    }

    /// A file of the scene's.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Asks the daemon, as `faregate status` does.
    pub(super) fn status(&mut self) -> Result<Status, DemoError> {
        if self.daemon.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join_daemon()?;
            return Err(DemoError::Ended);
        }
        match self.ask(&Question::Status)? {
            Answer::Status(status) => Ok(*status),
            _ => Err(DemoError::Ended),
        }
    }

    fn ask(&mut self, question: &Question) -> Result<Answer, DemoError> {
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(Client::connect(&self.folder.path().join(SOCKET))?),
        };
        Ok(client.ask(question)?)
    }

    /// What can be known while the daemon runs: its own answers, as `queue list` and `journeys list` have them.
    pub(super) fn evidence_so_far(&mut self, seen: Seen) -> Result<Evidence, DemoError> {
        let queue = self.status()?.queue;
        let tally = [queue.held, queue.pending, queue.accepted, queue.paid, queue.unpaid, queue.parked, queue.void];
        let rows = self.every_page(
            |after_id| Question::QueuePage { state: None, after_id, limit: PAGE_ROWS },
            |answer| match answer {
                Answer::QueuePage { rows, next_after_id } => Some((rows, next_after_id)),
                _ => None,
            },
        )?;
        let journeys = self.every_page(
            |after_id| Question::JourneysPage { open_only: false, after_id },
            |answer| match answer {
                Answer::JourneysPage { rows, next_after_id } => Some((rows, next_after_id)),
                _ => None,
            },
        )?;
        self.evidence_with(seen, Listing { rows, journeys, tally })
    }

    fn every_page<T>(
        &mut self,
        question: impl Fn(i64) -> Question,
        page: impl Fn(Answer) -> Option<(Vec<T>, Option<i64>)>,
    ) -> Result<Vec<T>, DemoError> {
        let (mut all, mut next) = (Vec::new(), Some(0));
        while let Some(after_id) = next {
            let (rows, next_after_id) = page(self.ask(&question(after_id))?).ok_or(DemoError::Ended)?;
            all.extend(rows);
            next = next_after_id;
        }
        Ok(all)
    }

    /// As SIGTERM stops `faregate run`; waits for its end.
    pub(super) fn stop_daemon(&mut self) -> Result<(), DemoError> {
        self.stop_daemon.send_replace(true);
        self.join_daemon()
    }

    /// What can be known when the daemon has ended.
    pub(super) fn evidence(&self, seen: Seen) -> Result<Evidence, DemoError> {
        let listing = self.read_ledger()?;
        self.evidence_with(seen, listing)
    }

    fn evidence_with(&self, seen: Seen, listing: Listing) -> Result<Evidence, DemoError> {
        let trace = self.trace()?.more().map_err(system("read the trace"))?;
        let charges = self.sandbox.wechat().charges().to_vec();
        let (Seen { scans, uninvited, patience }, Listing { rows, journeys, tally }) = (seen, listing);
        Ok(Evidence { scans, uninvited, trace, rows, journeys, tally, charges, patience })
    }

    fn wait_ready(&mut self) -> Result<(), DemoError> {
        let end = Instant::now() + READY_WITHIN;
        loop {
            let is_up = |status: &Status| status.lanes.iter().all(|lane| lane.scanner == ScannerState::Up);
            match self.status() {
                Ok(status) if is_up(&status) => return Ok(()),
                Ok(_) | Err(DemoError::Control(_)) => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= end {
                return Err(DemoError::NotReady(READY_WITHIN));
            }
            thread::sleep(POLL_EVERY);
        }
    }

    fn join_daemon(&mut self) -> Result<(), DemoError> {
        match self.daemon.take().map(JoinHandle::join) {
            Some(Ok(ended)) => Ok(ended?),
            Some(Err(_)) => Err(DemoError::Ended),
            None => Ok(()),
        }
    }

    fn read_ledger(&self) -> Result<Listing, DemoError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(system("start a runtime"))?;
        let options = daemon::ledger_options(&self.settings, None, Box::new(|_| ()));
        let (running, gate, network) = ledger::start_existing(options)?;
        let read = runtime.block_on(listing(&network));
        drop((gate, network));
        // It only read; what a stop could leave unwritten is none of its.
        let _ = running.join();
        read
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop_daemon.send_replace(true);
        self.stop_network.send_replace(true);
        // Whoever needs to know how they ended has asked before.
        let _ = self.daemon.take().map(JoinHandle::join);
        let _ = self.network.take().map(JoinHandle::join);
    }
}

/// What the ledger holds.
struct Listing {
    rows: Vec<QueueRow>,
    journeys: Vec<JourneyRow>,
    tally: [u64; 7],
}

async fn listing(ledger: &NetworkLedger) -> Result<Listing, DemoError> {
    let (mut rows, mut next) = (Vec::new(), Some(0));
    while let Some(after_id) = next {
        let page = ledger.page(PageRequest { state: None, after_id, limit: PAGE_ROWS }).await?;
        rows.extend(page.rows);
        next = page.next_after_id;
    }
    let (mut journeys, mut next) = (Vec::new(), Some(0));
    while let Some(after_id) = next {
        let page = ledger.journeys(JourneysRequest { open_only: false, after_id, limit: PAGE_ROWS }).await?;
        journeys.extend(page.rows);
        next = page.next_after_id;
    }
    Ok(Listing { rows, journeys, tally: ledger.totals().await?.deductions })
}

// ---- the other side ------------------------------------------------------------------------------------------------------------

fn start_network(
    sandbox: &Sandbox,
    interrupts: Option<&Interrupts>,
    stopped: watch::Receiver<bool>,
) -> io::Result<(JoinHandle<()>, SocketAddr)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let entered = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    if let Some(interrupts) = interrupts {
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            runtime.spawn(count_signals(signal(kind)?, interrupts.clone()));
        }
    }
    drop(entered);
    let sandbox = sandbox.clone();
    let serve = move || runtime.block_on(sandbox.serve(listener, stopped));
    Ok((thread::Builder::new().name("network".to_owned()).spawn(serve)?, address))
}

async fn count_signals(mut signal: Signal, interrupts: Interrupts) {
    while signal.recv().await.is_some() {
        interrupts.fetch_add(1, Ordering::Relaxed);
    }
}

// ---- the gate ------------------------------------------------------------------------------------------------------------------

pub(super) const TRACE: &str = "gate-trace.jsonl";
pub(super) const LEDGER: &str = "ledger.db";
const SOCKET: &str = "control.sock";
const SETTINGS: &str = "faregate.toml";
const SECRET: &str = "appsecret";
const ROOTS: &str = "roots.toml";
const FARES: &str = "fares.csv";

/// The FIFO of a lane's inputs.
pub(super) fn inputs(lane: &str) -> String {
    format!("inputs-{lane}")
}

fn start_daemon(
    settings: &Settings,
    folder: &Path,
    told: watch::Receiver<bool>,
) -> Result<JoinHandle<Result<(), DaemonError>>, DemoError> {
    let settings = settings.clone();
    let surroundings = Surroundings { control_socket: folder.join(SOCKET), log: DroppedRecords::default(), stop: Stop::Told(told) };
    let run = move || daemon::run_within(&settings, surroundings);
    thread::Builder::new().name("daemon".to_owned()).spawn(run).map_err(system("start the daemon's thread"))
}

fn write_settings(folder: &Path, readers: &[Reader], wechat: SocketAddr, way_back: &WayBack) -> Result<Settings, DemoError> {
    let file = folder.join(SETTINGS);
    let text = settings_text(folder, readers, wechat) + &way_back.settings(folder);
    let written = fs::write(&file, text).and_then(|()| {
        fs::write(folder.join(ROOTS), Issuer::roots())?;
        fs::write(folder.join(FARES), stations::table())?;
        way_back.write_keys(folder)?;
        let mut secret = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(SECRET))?;
        writeln!(secret, "{}", Options::default().secret)
    });
    written.map_err(system("write its settings"))?;
    let loaded = config::load(&file);
    let error = loaded.findings.into_iter().find(|finding| finding.severity == Severity::Error);
    match (loaded.settings, error) {
        (Some(settings), _) => Ok(settings),
        (None, Some(error)) => Err(DemoError::Settings(error)),
        (None, None) => Err(DemoError::Ended),
    }
}

/// Real settings. Short pulses and quick retries, so that there is something to see; long limits elsewhere, so that a busy
/// machine changes nothing in the story.
fn settings_text(folder: &Path, readers: &[Reader], wechat: SocketAddr) -> String {
    let Options { appid, deduct_path, .. } = Options::default();
    let (secret, codes) = (folder.join(SECRET), Issuer::settings(ROOTS));
    let lanes: String = LANES.iter().zip(readers).map(|(stand, reader)| lane_text(stand, reader)).collect();
    let interval_ms = PASSENGER_INTERVAL.as_millis();
    format!(
        r#"[gate]
id = "DEMO"
station = "Port"
open_within = "20s"
passenger_interval = "{interval_ms}ms"
{lanes}
[ride_code]
{codes}
[fare]
scene = "METRO"
body = "地铁代扣"
line_name = "2号线"
flat_fen = {MAX_FEN}
max_fen = {MAX_FEN}
table = "{FARES}"
unfinished_entry = "charge-max"
same_station = {{ within = "15m", fen = {SAME_STATION_FEN} }}

[ledger]
path = "{LEDGER}"

[wechat]
base_url = "http://{wechat}"
deduct_path = "{deduct_path}"
appid = "{appid}"
mch_id = "{MERCHANT}"
secret_file = "{}"
timeout = "3s"

[upload]
retry_initial = "200ms"
retry_max = "1s"
alarm_after = 3
"#,
        secret.display()
    )
}

fn lane_text(stand: &Stand, reader: &Reader) -> String {
    let Stand { name, station, direction } = stand;
    let mode = match direction {
        Direction::In => "entry",
        Direction::Out => "exit",
    };
    format!(
        r#"
[[lane]]
name = "{name}"
mode = "{mode}"
station = "{station}"
[lane.scanner]
device = "{}"
framing = "ride-code"
encoding = "raw"
[lane.turnstile]
driver = "simulated"
trace = "{TRACE}"
inputs = "{}"
passage = 1
passage_timeout = "{}ms"
# A button that nobody presses.
exit_button = 2
pulse = "350ms"
pulse_gap = "50ms"
"#,
        reader.device().display(),
        inputs(name),
        PASSAGE_TIMEOUT.as_millis()
    )
}
