//! A whole gate at work in one process: the daemon as `run` runs it, readers on pseudo-terminals, simulated turnstiles with passage
//! sensors, and the sandbox for WeChat. Passengers come and go out elsewhere, some with bad codes, some with a hole in their
//! journey; the network goes away and comes back; at the end the books are closed.
//!
//! - `scene` builds it and takes it down, in a folder that goes with it; `stations` is the little network; `play` is what happens,
//!   from a plan and a seed (`passengers`, `issuer`), one at a time at each lane (`floor`); `view` is what can be seen of it, drawn by
//!   `picture` on a `terminal`, or told in plain lines.
//! - `callback` is the way back: the sandbox tells the gate who has paid.
//! - `books` compares what was seen from outside, and what the passengers owe by that (`owed`), with what the ledger lists. The
//!   gate is asked for nothing that could hide a bug.

mod books;
mod callback;
mod floor;
mod issuer;
mod owed;
mod passengers;
mod picture;
mod play;
mod readers;
mod scene;
mod stations;
mod terminal;
#[cfg(test)]
mod tests;
mod trace;
mod view;

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

pub use books::{Books, Evidence, Patience, Sum};
pub use passengers::Kind;
pub use trace::Edge;

use crate::{config::Finding, control::ClientError, daemon::DaemonError, ledger::LedgerError};
use play::Play;
use scene::Scene;
use terminal::Screen;

/// What is to happen.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Passengers until it ends, whatever they do; `None`: until it is interrupted.
    pub trips: Option<u64>,
    /// How long the network goes away; zero for never.
    pub outage: Duration,
    /// The same seed brings the same passengers.
    pub seed: u64,
}

/// Which way a lane leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Into the station: a tap there begins a journey.
    In,
    /// Out of it: a tap there ends one.
    Out,
}

/// What a turnstile has shown to who showed a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing, or nothing yet.
    None,
    /// The open gate.
    Opened,
    /// The deny light, for this reason.
    Refused(String),
}

/// A code that was shown to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The lane's name.
    pub lane: String,
    /// The lane's station.
    pub station: String,
    /// Which way the lane leads.
    pub direction: Direction,
    /// What it was in the story.
    pub kind: Kind,
    /// Whose code it is: 0 for strangers who have no business here.
    pub passenger: u64,
    /// Names the code: the first 8 hex digits of its SHA-256.
    pub code: String,
    /// What came of it.
    pub answer: Answer,
    /// Whether somebody went through the opening in time.
    pub is_passed: bool,
    /// Right before it was shown, since the demo began.
    pub shown_at: Duration,
    /// When the answer had been seen, since the demo began.
    pub answered_at: Duration,
}

/// What was seen from outside, apart from what the trace holds.
struct Seen {
    scans: Vec<Scan>,
    uninvited: u64,
    patience: Patience,
}

impl Scan {
    /// Whether the gate must ignore it: the reader reads twice what it has just read.
    #[must_use]
    pub fn is_repeat(&self) -> bool {
        self.kind == Kind::Repeat
    }
}

/// Why the demo could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A folder, a terminal, a thread.
    #[error("the demo cannot {what}: {source}; it needs room in the folder for temporary files, pseudo-terminals and 127.0.0.1")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The settings that it wrote are refused: its own fault.
    #[error("the demo's own settings are refused: {0}; please report this")]
    Settings(Finding),
    /// The daemon could not start, or ended.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The daemon ended though nobody told it to.
    #[error("the demo's daemon has ended though nobody told it to; please report this")]
    Ended,
    /// The lanes were not ready in time.
    #[error("the demo's gate was not ready within {} s; is this machine very busy?", .0.as_secs())]
    NotReady(Duration),
    /// The daemon does not answer.
    #[error("the demo's daemon could not be asked: {0}")]
    Control(#[from] ClientError),
    /// The ledger cannot be read at the end.
    #[error("the demo's ledger could not be read: {0}")]
    Ledger(#[from] LedgerError),
    /// Nobody reads what the demo says.
    #[error("the output cannot be written: {0}")]
    Output(io::Error),
}

/// Puts what was tried before what the system says.
fn system(what: &'static str) -> impl FnOnce(io::Error) -> DemoError {
    move |source| DemoError::System { what, source }
}

/// How often somebody has asked for the end.
type Interrupts = Arc<AtomicU32>;

/// Plays the demo on standard output, closes the books and shows them: live on a terminal, in plain lines elsewhere.
///
/// # Errors
/// It could not be played to its end. Books that do not balance are no error: see [`Books::differences`].
pub fn run(plan: &Plan) -> Result<Books, DemoError> {
    let interrupts = Interrupts::default();
    let mut scene = Scene::set_up(plan.seed, Some(&interrupts))?;
    let screen = Screen::of_stdout().map_err(DemoError::Output)?;
    let mut stage = Play::new(plan, screen);
    let played = stage.perform(&mut scene, &|| interrupts.load(Ordering::Relaxed));
    let (seen, left) = (stage.seen(), stage.leave());
    played?;
    left.map_err(DemoError::Output)?;
    scene.stop_daemon()?;
    let books = scene.evidence(seen)?.books();
    let mut out = io::stdout().lock();
    write!(out, "\n{books}").and_then(|()| out.flush()).map_err(DemoError::Output)?;
    Ok(books)
}
