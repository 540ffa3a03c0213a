//! Builds the rooms, hands each its neighbours, and stops them in order.
//!
//! Threads: `gate` (scanners, lanes, the check of codes; a current-thread runtime), `turnstile`, `ledger`, `checkpoint`, the
//! log's, and this one, which runs the network's runtime (upload, callbacks, control, monitor, signals). Gate and network meet only in the
//! ledger's two queues.
//!
//! Stopping goes the way of a scan: the turnstiles stop (waiting openings answered as not opened, a running pulse ended), the
//! lanes record that and end, then the network, and the ledger last, when it has written everything.

mod delivery;
mod deny;
mod notify;
mod overview;
mod reload;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
    thread,
};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::{JoinHandle, LocalSet, spawn_local},
};

use crate::{
    config::{self, FareTable, Finding, Format, SecretError, Settings, read_fares},
    control::{self, ControlError},
    journal::{self, DroppedRecords, JournalError},
    journey::Rules,
    lane::{Lane, PassageRule, Ping},
    ledger::{self, GateLedger, Keeping, LedgerError, LedgerEvent, NetworkLedger, Observer, Options, Unpaid, Written},
    monitor::{self, Metrics, Monitor},
    ride_code::{
        Checker,
        jtt1179::{RootsError, TrustStore},
    },
    scanner::{self, ScannerStats},
    settlement::{Receiver, SettlementMonitor},
    turnstile::{self, LaneSetup, TurnstileError, Turnstiles},
    upload::{self, UploadMonitor},
    wechat::{BodyTemplate, ClientError, Opener, WeChatClient},
};
use delivery::body_maker;
use deny::DenyFile;
use notify::{GateLife, Manager, answer_pings};
use overview::{LaneView, Overview};
use reload::Reload;

/// Readings of one scanner that wait for their lane; when it is full the scanner reads on slower.
const READINGS_QUEUE: usize = 16;

/// Questions whether the gate's runtime lives; there is one at a time.
const PINGS_QUEUE: usize = 1;

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A turnstile.
    #[error(transparent)]
    Turnstile(#[from] TurnstileError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The log.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The monitor's address.
    #[error("[monitor] listen: {address} cannot be listened on: {source}; choose another port or stop what uses this one")]
    Monitor {
        /// As in the settings.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Where callbacks are to arrive.
    #[error("[callback] listen: {address} cannot be listened on: {source}; choose another port or stop what uses this one")]
    Callback {
        /// As in the settings.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A key of the callbacks.
    #[error("[callback]: {0}; {mend}", mend = .0.mend())]
    CallbackKey(#[from] SecretError),
    /// The trusted roots.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The fare table.
    #[error("{}", first(.0))]
    Fares(Vec<Finding>),
    /// The ledger could not be written at the stop.
    #[error("stopped although the ledger could not be written; look at the disk, and at the log for what is left unsaid")]
    NotWritten,
    /// The ledger is damaged, and was while this ran.
    #[error(
        "the ledger is damaged, and since that was found no code could be admitted; faregate fsck says what is left of it and the way out"
    )]
    StillDamaged,
    /// Threads, signals.
    #[error("the daemon cannot start: {0}; the limits on threads and open files of this user may be too low")]
    System(#[from] io::Error),
}

/// The first of several findings; `faregate check` tells all.
fn first(findings: &[Finding]) -> String {
    findings.first().map_or_else(|| "the fare table cannot be used".to_owned(), ToString::to_string)
}

/// Runs until SIGTERM or SIGINT, then stops cleanly. `findings` are logged as warnings; `settings` were read from `settings_file`,
/// which is read again on SIGHUP.
///
/// # Errors
/// Something that the daemon cannot do without is not to be had. What can come later (a scanner, the network) is no error.
pub fn run(settings_file: &Path, settings: &Settings, findings: &[Finding]) -> Result<(), DaemonError> {
    let log = journal::install_from_env()?;
    for finding in findings {
        log::warn!("{finding}");
    }
    let surroundings = Surroundings {
        control_socket: control::socket_path(),
        log: log.dropped_records(),
        stop: Stop::Signals { settings_file: settings_file.to_owned() },
    };
    run_under(&Manager::from_env(), settings, surroundings)
}

/// What the daemon finds where it runs, as far as settings do not say it.
pub struct Surroundings {
    /// Where commands ask it.
    pub control_socket: PathBuf,
    /// What the log lost; whether there is a log at all is the caller's affair.
    pub log: DroppedRecords,
    /// What ends it.
    pub stop: Stop,
}

/// What ends the daemon.
pub enum Stop {
    /// SIGTERM or SIGINT; SIGHUP reads the settings again.
    Signals {
        /// Where they stand.
        settings_file: PathBuf,
    },
    /// This becomes true, or its sender is gone.
    Told(watch::Receiver<bool>),
}

/// As [`run`], inside a program that has a log and signals of its own, and that no service manager started for this.
///
/// # Errors
/// As [`run`].
pub fn run_within(settings: &Settings, surroundings: Surroundings) -> Result<(), DaemonError> {
    run_under(&Manager::default(), settings, surroundings)
}

fn run_under(manager: &Manager, settings: &Settings, surroundings: Surroundings) -> Result<(), DaemonError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let metrics = Metrics::new();
    let observer = metrics.clone();
    let observer: Observer = Box::new(move |event| match event {
        LedgerEvent::Committed { took, operations } => observer.ledger_commit(operations as u64, took),
        LedgerEvent::Reopened => observer.ledger_reopened(),
    });
    // Before anything opens: from here on a signal stops the gate in order.
    let stopping = runtime.block_on(async { Stopping::new(surroundings.stop) })?;
    let checker = Arc::new(checker(settings)?);
    let options = ledger_options(settings, fare_table(settings)?, observer);
    let (ledger, gate_ledger, network_ledger) = ledger::start(options)?;
    let (gate, views) = start_gate(settings, &checker, &gate_ledger, &metrics)?;
    drop(gate_ledger);
    let network = Network { settings, checker, ledger: network_ledger, metrics, lanes: views, log: surroundings.log };
    let served = network.serve(&runtime, &surroundings.control_socket, stopping, gate, manager);
    // A name server that does not answer must not hold up the stop. The network's tasks, which held the ledger, have ended.
    runtime.shutdown_background();
    let written = ledger.join();
    served?;
    match written {
        Written::NotAll => Err(DaemonError::NotWritten),
        Written::Damaged => Err(DaemonError::StillDamaged),
        Written::All => {
            log::info!("stopped");
            Ok(())
        }
    }
}

/// The fare table that the settings name.
fn fare_table(settings: &Settings) -> Result<Option<Arc<FareTable>>, DaemonError> {
    let table = settings.fare.table.as_deref().map(read_fares).transpose().map_err(DaemonError::Fares)?;
    Ok(table.map(Arc::new))
}

/// What the ledger is opened with: by the daemon, and by commands that look at it without one, which judge no taps and need no
/// fare table.
#[must_use]
pub fn ledger_options(settings: &Settings, fares: Option<Arc<FareTable>>, observer: Observer) -> Options {
    Options {
        path: settings.ledger.path.clone(),
        min_free_bytes: settings.ledger.min_free_bytes,
        gate: settings.gate.id.clone(),
        line: settings.fare.line_name.clone(),
        rules: Rules::new(settings, fares),
        unpaid: if settings.deny.unpaid { Unpaid::Denies } else { Unpaid::Admits },
        keeping: Keeping::new(settings),
        body_maker: body_maker(BodyTemplate::new(&settings.fare, &settings.wechat)),
        observer,
    }
}

// ---- the gate's side ---------------------------------------------------------------------------------------------------------

/// The gate's threads.
struct Gate {
    turnstiles: Turnstiles,
    thread: thread::JoinHandle<()>,
    pings: mpsc::Sender<Ping>,
}

impl Gate {
    fn stop(self) {
        self.turnstiles.stop();
        if self.thread.join().is_err() {
            log::error!("the gate's thread ended by a panic; its turnstiles are closed");
        }
    }
}

/// A scanner's task to be.
struct Reader {
    settings: config::Scanner,
    readings: mpsc::Sender<scanner::Reading>,
    stats: Arc<ScannerStats>,
}

fn start_gate(
    settings: &Settings,
    checker: &Arc<Checker>,
    ledger: &GateLedger,
    metrics: &Metrics,
) -> Result<(Gate, Vec<LaneView>), DaemonError> {
    let setups = settings.lanes.iter().map(|lane| LaneSetup { name: lane.name.clone(), settings: lane.turnstile.clone() });
    let (turnstiles, handles) = turnstile::start(setups.collect())?;
    close_on_panic(&turnstiles);
    let (mut lanes, mut readers, mut views, mut lane_pings) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (lane, turnstile) in settings.lanes.iter().zip(handles) {
        let (sender, readings) = mpsc::channel(READINGS_QUEUE);
        let (ping, pings) = mpsc::channel(PINGS_QUEUE);
        lane_pings.push(ping);
        let stats = Arc::new(ScannerStats::default());
        readers.push(Reader { settings: lane.scanner.clone(), readings: sender, stats: stats.clone() });
        let lane_metrics = metrics.lane(&lane.name);
        let passage = passage_rule(&lane.turnstile);
        views.push(LaneView {
            name: lane.name.clone(),
            scanner: stats,
            turnstile: turnstile.handle.clone(),
            metrics: lane_metrics.clone(),
            is_passage_doubted: passage.as_ref().map(|rule| rule.is_doubted.clone()),
        });
        lanes.push(Lane {
            name: lane.name.as_str().into(),
            station: lane.station.as_str().into(),
            mode: lane.mode,
            passage,
            open_within: settings.gate.open_within,
            checker: checker.clone(),
            ledger: ledger.clone(),
            turnstile,
            readings,
            metrics: lane_metrics,
            pings,
        });
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (pings, pinged) = mpsc::channel(PINGS_QUEUE);
    let thread = thread::Builder::new().name("gate".to_owned()).spawn(move || {
        run_gate(&runtime, lanes, readers, (pinged, lane_pings));
        // A device that is just being opened may take its time.
        runtime.shutdown_background();
    })?;
    Ok((Gate { turnstiles, thread, pings }, views))
}

/// Serves until every lane has ended, which they do when the turnstiles have.
fn run_gate(runtime: &Runtime, lanes: Vec<Lane>, readers: Vec<Reader>, pings: (mpsc::Receiver<Ping>, Vec<mpsc::Sender<Ping>>)) {
    let local = LocalSet::new();
    local.block_on(runtime, async {
        spawn_local(answer_pings(pings.0, pings.1));
        for reader in readers {
            spawn_local(scanner::run(reader.settings, reader.readings, reader.stats));
        }
        let lanes: Vec<_> = lanes.into_iter().map(|lane| spawn_local(lane.run())).collect();
        for lane in lanes {
            if let Err(error) = lane.await {
                log::error!("a lane ended by a panic: {error}");
            }
        }
    });
}

pub(crate) fn passage_rule(turnstile: &config::Turnstile) -> Option<PassageRule> {
    turnstile.inputs.passage.then(|| PassageRule {
        timeout: turnstile.passage_timeout,
        no_passage: turnstile.no_passage,
        is_doubted: Arc::new(AtomicBool::new(false)),
    })
}

pub(crate) fn checker(settings: &Settings) -> Result<Checker, DaemonError> {
    Ok(match &settings.ride_code.format {
        Format::Opaque { passenger } => Checker::opaque(&settings.ride_code, *passenger),
        Format::Jtt1179 { roots } => Checker::jtt1179(&settings.ride_code, TrustStore::read(roots)?),
    })
}

/// A panic aborts the process, and no destructor runs: the outputs are set inactive first.
fn close_on_panic(turnstiles: &Turnstiles) {
    let (fail_safe, report) = (turnstiles.fail_safe(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        fail_safe.close_all();
        report(info);
    }));
}

// ---- the network's side --------------------------------------------------------------------------------------------------------

/// What the network's side is made of.
struct Network<'a> {
    settings: &'a Settings,
    checker: Arc<Checker>,
    ledger: NetworkLedger,
    metrics: Metrics,
    lanes: Vec<LaneView>,
    log: DroppedRecords,
}

/// The network's tasks.
struct Serving {
    stop: watch::Sender<bool>,
    upload: Arc<UploadMonitor>,
    uploading: JoinHandle<()>,
    receiving: Option<JoinHandle<()>>,
    monitoring: Option<JoinHandle<()>>,
}

impl Network<'_> {
    /// Serves until it is told to stop; then the gate stops first, the network after it.
    fn serve(
        self,
        runtime: &Runtime,
        control_socket: &Path,
        stopping: Stopping,
        gate: Gate,
        manager: &Manager,
    ) -> Result<(), DaemonError> {
        let local = LocalSet::new();
        let (id, lanes) = (self.settings.gate.id.clone(), self.settings.lanes.len());
        let (ledger, pings) = (self.ledger.clone(), gate.pings.clone());
        let served = local.block_on(runtime, async {
            let client = WeChatClient::new(&self.settings.wechat, self.settings.upload.concurrency)?;
            let deny = self.keep_deny_list();
            let reload = Reload::new(self.settings, client.clone(), self.checker.clone(), self.ledger.clone(), deny);
            let serving = self.start(client, control_socket).await?;
            log::info!("ready: gate {id}, {lanes} lanes");
            let life = GateLife { gate: id, pings, ledger, upload: serving.upload.clone() };
            tokio::select! {
                biased;
                () = stopping.wait(reload) => {}
                () = manager.tell_of(&life) => {}
            }
            manager.stopping();
            Ok(serving)
        });
        gate.stop();
        served.map(|serving| local.block_on(runtime, serving.stop()))
    }

    fn keep_deny_list(&self) -> Option<Rc<DenyFile>> {
        let file = DenyFile::new(self.settings.deny.file.clone()?, self.ledger.clone());
        spawn_local(file.clone().keep());
        Some(file)
    }

    async fn start(self, client: WeChatClient, control_socket: &Path) -> Result<Serving, DaemonError> {
        let settings = self.settings;
        let (stop, stopped) = watch::channel(false);
        let (upload, settlement) = (Arc::new(UploadMonitor::default()), Arc::new(SettlementMonitor::default()));
        let overview = Overview {
            lanes: self.lanes,
            ledger: self.ledger.clone(),
            upload: upload.clone(),
            settlement: settlement.clone(),
            metrics: self.metrics.clone(),
            log: self.log,
            damaged_logs: ledger::damaged_logs(&settings.ledger.path),
        };
        let monitor = Monitor::new(settings.gate.id.clone(), self.metrics.clone(), overview);
        serve_control(control_socket, &self.ledger, &settings.ledger.path, &monitor)?;
        let receiving = match &settings.callback {
            Some(callback) => {
                let opener = Opener::read(&settings.wechat, callback)?;
                let receiver = Receiver::new(callback, opener, self.ledger.clone(), self.metrics, settlement);
                Some(receive(callback, receiver, stopped.clone()).await?)
            }
            None => None,
        };
        let sending = upload::run(self.ledger, client, settings.upload.clone(), upload.clone(), stopped.clone());
        let uploading = spawn_local(sending);
        let monitoring = match &settings.monitor {
            Some(settings) => Some(listen(settings.listen, &monitor, stopped).await?),
            None => None,
        };
        Ok(Serving { stop, upload, uploading, receiving, monitoring })
    }
}

impl Serving {
    async fn stop(self) {
        self.stop.send_replace(true);
        if let Some(monitoring) = self.monitoring {
            // It ends by itself within its grace; nothing depends on how.
            monitoring.abort();
        }
        if let Some(receiving) = self.receiving {
            // A callback that is being made durable is answered; the others come again.
            if receiving.await.is_err() {
                log::error!("the receiver of callbacks ended by a panic; what was answered is kept");
            }
        }
        if self.uploading.await.is_err() {
            log::error!("the upload ended by a panic; what was not sent is kept");
        }
    }
}

fn serve_control(socket: &Path, ledger: &NetworkLedger, path: &Path, monitor: &Monitor) -> Result<(), DaemonError> {
    let server = control::Server::bind(socket)?;
    let monitor = monitor.clone();
    let status = move || {
        let monitor = monitor.clone();
        async move { monitor.report().await.status }
    };
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    spawn_local(server.serve(ledger.clone(), path, status));
    Ok(())
}

async fn receive(
    callback: &config::Callback,
    receiver: Receiver,
    stopped: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, DaemonError> {
    let address = callback.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| DaemonError::Callback { address, source })?;
    Ok(spawn_local(receiver.serve(listener, stopped)))
}

async fn listen(address: SocketAddr, monitor: &Monitor, stopped: watch::Receiver<bool>) -> Result<JoinHandle<()>, DaemonError> {
    let listener = TcpListener::bind(address).await.map_err(|source| DaemonError::Monitor { address, source })?;
    Ok(spawn_local(monitor::serve(listener, monitor.router(), monitor::MONITOR_LIMITS, stopped)))
}

/// What the daemon waits for while it serves.
enum Stopping {
    Signals(Signals),
    Told(watch::Receiver<bool>),
}

impl Stopping {
    fn new(stop: Stop) -> io::Result<Self> {
        Ok(match stop {
            Stop::Signals { settings_file } => Self::Signals(Signals::new(settings_file)?),
            Stop::Told(told) => Self::Told(told),
        })
    }

    async fn wait(self, reload: Reload) {
        match self {
            Self::Signals(mut signals) => signals.until_stop(reload).await,
            // An error means that whoever could say it is gone.
            Self::Told(mut told) => drop(told.wait_for(|&told| told).await),
        }
    }
}

struct Signals {
    settings_file: PathBuf,
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new(settings_file: PathBuf) -> io::Result<Self> {
        Ok(Self {
            settings_file,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn until_stop(&mut self, mut reload: Reload) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break log::info!("stopping: SIGTERM"),
                _ = self.interrupt.recv() => break log::info!("stopping: SIGINT"),
                _ = self.hang_up.recv() => reload.all(&self.settings_file).await,
            }
        }
    }
}
