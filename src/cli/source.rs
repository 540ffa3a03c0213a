//! Where the commands that look at the ledger find it: through the running daemon, or, when there is none, in the file itself.
//!
//! The place is looked for anew for each page and let go of after it: a command whose reader takes its time keeps neither the
//! ledger's lock, which would keep the gate from starting, nor a seat at the control socket.

mod deny;
mod export;

use std::{
    io,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::fs::{Access, access};

use super::{
    check,
    exit::{Code, Failure},
};
use crate::{
    config::{self, Settings},
    control::{Answer, Client, ClientError, PAGE_ROWS, Question, socket_path},
    daemon,
    ledger::{
        self, Decided, JourneyRow, JourneysRequest, NetworkLedger, OrderNumber, PageRequest, QueueRow, QueueStory, Reason,
        RetriedBatch, Running, VoidOrder,
    },
};

/// Another command holds the ledger for a page, a daemon until its socket answers: so long is waited for either.
const HELD_PATIENCE: Duration = Duration::from_secs(2);
const HELD_RETRY: Duration = Duration::from_millis(50);

/// Where rows come from.
pub(super) struct Source {
    config: PathBuf,
    /// `None` when this user may not read them: then only a daemon can tell.
    settings: Option<Settings>,
}

/// The ledger that the settings name, for a command that reads the file itself, beside a daemon or without one.
pub(super) fn own_ledger(config: &Path) -> Result<PathBuf, Failure> {
    let Some(settings) = Source::new(config)?.settings else { return Err(file_forbidden("the settings", config)) };
    let path = settings.ledger.path;
    // What is not there is not forbidden.
    if may_use(&path) { Ok(path) } else { Err(file_forbidden("the ledger", &path)) }
}

fn file_forbidden(what: &str, path: &Path) -> Failure {
    let path = path.display();
    Failure::new(
        Code::NotAllowed,
        format!("{what} {path} may not be read by this user, and this command reads the file itself; use sudo"),
    )
}

/// Where they come from at the moment.
enum Place {
    Daemon(Client),
    File(OpenLedger),
}

/// A ledger that this command holds itself.
struct OpenLedger {
    runtime: tokio::runtime::Runtime,
    ledger: NetworkLedger,
    running: Running,
}

impl Source {
    /// The ledger that these settings name.
    pub(super) fn new(config: &Path) -> Result<Self, Failure> {
        let own = |settings| Self { config: config.to_owned(), settings };
        if access(config, Access::READ_OK) == Err(rustix::io::Errno::ACCESS) {
            return Ok(own(None));
        }
        let loaded = config::load_without_named_files(config);
        if loaded.settings.is_none() {
            return Err(check::failure(&loaded));
        }
        Ok(own(loaded.settings))
    }

    /// The ledger's path, where this user may read the settings.
    pub(super) fn ledger(&self) -> Option<&Path> {
        self.settings.as_ref().map(|settings| settings.ledger.path.as_path())
    }

    /// A page of at most [`PAGE_ROWS`] rows above `after_id`, and where the next one begins.
    pub(super) fn page(&self, state: Option<&str>, after_id: i64, limit: usize) -> Result<(Vec<QueueRow>, Option<i64>), Failure> {
        let (state, limit) = (state.map(str::to_owned), limit.min(PAGE_ROWS));
        match self.find()? {
            Place::Daemon(mut client) => match client.ask(&Question::QueuePage { state, after_id, limit })? {
                Answer::QueuePage { rows, next_after_id } => Ok((rows, next_after_id)),
                _ => Err(Failure::strange_answer()),
            },
            Place::File(file) => {
                let page = file.read(|ledger| async move { ledger.page(PageRequest { state, after_id, limit }).await })?;
                Ok((page.rows, page.next_after_id))
            }
        }
    }

    /// One order and its story.
    pub(super) fn story(&self, order: &OrderNumber) -> Result<Option<QueueStory>, Failure> {
        match self.find()? {
            Place::Daemon(mut client) => match client.ask(&Question::QueueShow { order: order.to_string() })? {
                Answer::QueueShow(story) => Ok(story.map(|story| *story)),
                _ => Err(Failure::strange_answer()),
            },
            Place::File(file) => file.read(|ledger| async move { ledger.story(order.clone()).await }),
        }
    }

    /// A page of journeys above `after_id`, and where the next one begins.
    pub(super) fn journeys(&self, open_only: bool, after_id: i64) -> Result<(Vec<JourneyRow>, Option<i64>), Failure> {
        match self.find()? {
            Place::Daemon(mut client) => match client.ask(&Question::JourneysPage { open_only, after_id })? {
                Answer::JourneysPage { rows, next_after_id } => Ok((rows, next_after_id)),
                _ => Err(Failure::strange_answer()),
            },
            Place::File(file) => {
                let request = JourneysRequest { open_only, after_id, limit: PAGE_ROWS };
                let page = file.read(|ledger| async move { ledger.journeys(request).await })?;
                Ok((page.rows, page.next_after_id))
            }
        }
    }

    /// Has a parked order sent again.
    pub(super) fn retry(&self, order: &OrderNumber) -> Result<Decided, Failure> {
        match self.find()? {
            Place::Daemon(mut client) => decided(client.ask(&Question::QueueRetry { order: order.to_string() })?),
            Place::File(file) => file.read(|ledger| async move { ledger.retry(order.clone(), own_uid()).await }),
        }
    }

    /// Has some of the parked orders above `after_id` sent again.
    pub(super) fn retry_parked(&self, after_id: i64) -> Result<RetriedBatch, Failure> {
        match self.find()? {
            Place::Daemon(mut client) => match client.ask(&Question::QueueRetryParked { after_id })? {
                Answer::RetriedParked(batch) => Ok(batch),
                _ => Err(Failure::strange_answer()),
            },
            Place::File(file) => file.read(|ledger| async move { ledger.retry_parked(after_id, own_uid()).await }),
        }
    }

    /// Makes an order void.
    pub(super) fn void(&self, order: &OrderNumber, reason: &Reason, even_if_sent: bool) -> Result<Decided, Failure> {
        match self.find()? {
            Place::Daemon(mut client) => {
                let reason = reason.as_str().to_owned();
                decided(client.ask(&Question::QueueVoid { order: order.to_string(), reason, even_if_sent })?)
            }
            Place::File(file) => {
                let order = VoidOrder { order: order.clone(), reason: reason.clone(), even_if_sent, uid: own_uid() };
                file.read(|ledger| async move { ledger.void(order).await })
            }
        }
    }

    fn find(&self) -> Result<Place, Failure> {
        let end = Instant::now() + HELD_PATIENCE;
        loop {
            match self.find_now() {
                Err(failure) if failure.code == Code::Held && Instant::now() < end => sleep(HELD_RETRY),
                found => return found,
            }
        }
    }

    fn find_now(&self) -> Result<Place, Failure> {
        match (Client::connect(&socket_path()), &self.settings) {
            (Ok(client), None) => Ok(Place::Daemon(client)),
            (Ok(mut client), Some(settings)) => {
                if holds(&mut client, &settings.ledger.path)? {
                    return Ok(Place::Daemon(client));
                }
                Ok(Place::File(OpenLedger::open(settings)?))
            }
            (Err(ClientError::NotRunning { .. }), Some(settings)) => Ok(Place::File(OpenLedger::open(settings)?)),
            (Err(ClientError::NotRunning { .. }), None) => Err(not_allowed("the settings", &self.config)),
            (Err(error), _) => Err(error.into()),
        }
    }
}

fn decided(answer: Answer) -> Result<Decided, Failure> {
    if let Answer::Decided(decided) = answer { Ok(decided) } else { Err(Failure::strange_answer()) }
}

/// Who decides, as the daemon would learn it from the socket.
fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether the daemon holds this ledger: a technician may look at the copy of another gate.
pub(super) fn holds(client: &mut Client, own: &Path) -> Result<bool, Failure> {
    let Answer::Ledger(held) = client.ask(&Question::Ledger)? else { return Err(Failure::strange_answer()) };
    match own.canonicalize() {
        Ok(own) => Ok(own == held),
        // Its own rights say nothing about the ledger that this user would like to see; the daemon answers whoever reaches it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(true),
        // The daemon may hold what somebody has removed.
        Err(_) if in_real_folder(own).is_some_and(|own| own == held) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let (own, held) = (own.display(), held.display());
            let message =
                format!("there is no ledger at {own}, and the running daemon's is {held}; correct [ledger] path or --config");
            Err(Failure::new(Code::NotFound, message))
        }
        Err(error) => {
            let message = format!("the ledger {} cannot be found: {error}; correct [ledger] path", own.display());
            Err(Failure::new(Code::Internal, message))
        }
    }
}

pub(super) fn in_real_folder(file: &Path) -> Option<PathBuf> {
    Some(file.parent()?.canonicalize().ok()?.join(file.file_name()?))
}

fn not_allowed(what: &str, path: &Path) -> Failure {
    let path = path.display();
    let mend = "use sudo, or start the daemon and join the group faregate";
    Failure::new(Code::NotAllowed, format!("no daemon runs, and {what} {path} may not be used by this user; {mend}"))
}

/// Whether this user may use the file: SQLite also makes files beside it. What is not there is not forbidden either.
fn may_use(ledger: &Path) -> bool {
    let folder = ledger.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let in_ledger = access(ledger, Access::READ_OK | Access::WRITE_OK);
    let in_folder = in_ledger.and_then(|()| access(folder, Access::WRITE_OK | Access::EXEC_OK));
    in_folder != Err(rustix::io::Errno::ACCESS)
}

impl OpenLedger {
    fn open(settings: &Settings) -> Result<Self, Failure> {
        if !may_use(&settings.ledger.path) {
            return Err(not_allowed("the ledger", &settings.ledger.path));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
            let message = format!("this command cannot start: {error}; the limit on open files of this user may be too low");
            Failure::new(Code::Internal, message)
        })?;
        let (running, _, ledger) = ledger::start_existing(daemon::ledger_options(settings, None, Box::new(|_| ())))?;
        Ok(Self { runtime, ledger, running })
    }

    /// Reads, or writes what is durable when `work` ends, and lets go of the ledger.
    fn read<T, F>(self, work: impl FnOnce(NetworkLedger) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ledger::LedgerError>>,
    {
        let result = self.runtime.block_on(work(self.ledger));
        // Nothing else is written here but what a crash left to say; the next daemon says it again.
        let _ = self.running.join();
        Ok(result?)
    }
}
