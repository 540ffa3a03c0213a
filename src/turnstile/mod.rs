//! Outputs and inputs of the lanes: pulses, lights, buzzer, passage sensor, fire alarm, exit button.
//!
//! One thread serves every lane. What a lane does is decided by a pure state machine; what moves is behind a driver.
//!
//! Promises:
//! - `open` is active only for a [`Ticket`], the exit button or the fire alarm; each ticket has a pulse of its own, at least
//!   `pulse_gap` after the one before, and never one that starts after its deadline.
//! - Each ticket gets exactly one of [`Event::Opened`], [`Event::Late`] and [`Event::NotOpened`].
//! - Every output is inactive at start, after [`Turnstiles::stop`], and when the thread ends for whatever reason.
//! - No method of a [`LaneHandle`] ever waits; no light, buzzer or reader of a trace delays an opening.
//! - The fire alarm of any lane opens all of them for as long as it lasts.
//!
//! It must not know codes, fares, the ledger or HTTP: what a ticket stands for is the caller's affair.

mod driver;
mod faults;
mod gpio;
#[cfg(test)]
#[cfg(feature = "sandbox")]
pub(crate) mod inline;
mod inputs;
mod machine;
pub mod passages;
mod signals;
mod simulated;
mod thread;
mod trace;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Instant,
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::config;
use driver::{Driver, InputSink};
use faults::FaultSet;
pub use faults::InputFault;
pub use gpio::{GpioError, LinePlace, look as look_at_lines};
use machine::Input;
pub use signals::Beeps;
pub use thread::FailSafe;
use thread::{Message, Room, Worker};

/// Names one opening. Chosen by the caller; comes back in the event that tells what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a lane's turnstile tells. The order is the order in which things happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `open` is active for this ticket, since `at` at the latest.
    Opened {
        /// As handed to [`LaneHandle::open`].
        ticket: Ticket,
        /// When the output had been set; with the fire alarm on, when the ticket came.
        at: Instant,
    },
    /// The ticket's pulse could not start by its deadline, or too many were waiting: it never opens.
    Late {
        /// As handed to [`LaneHandle::open`].
        ticket: Ticket,
    },
    /// The driver failed or the turnstile is stopping: the ticket never opens.
    NotOpened {
        /// As handed to [`LaneHandle::open`].
        ticket: Ticket,
    },
    /// The passage sensor changed.
    Passage {
        /// Whether somebody is passing.
        active: bool,
        /// When the change was taken note of.
        at: Instant,
    },
    /// A pulse for the exit button has started.
    ExitButton {
        /// When the output had been set.
        at: Instant,
    },
    /// The fire alarm of any lane began, or the last one ended.
    FireAlarm {
        /// Whether it is on.
        active: bool,
    },
    /// The `open` output cannot be set. Told once; tried again with each opening and on its own.
    Failed {
        /// The driver's words.
        reason: String,
    },
    /// The `open` output can be set again.
    Restored,
    /// The answer to [`LaneHandle::ping`].
    Alive,
}

/// How a lane's turnstile is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TurnstileState {
    /// It opens for tickets.
    Ok,
    /// The fire alarm holds it open.
    AlarmOpen,
    /// Its `open` output cannot be set, or its thread has ended.
    Failed,
}

/// Why the turnstiles could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TurnstileError {
    /// A GPIO line cannot be had.
    #[error("lane {lane}: {source}")]
    Gpio {
        /// The lane's name.
        lane: String,
        /// Which, and why.
        source: GpioError,
    },
    /// The trace cannot be opened.
    #[error(
        "lane {lane}: the trace {} cannot be opened for writing: {source}; \
         create its directory, or mend turnstile.trace",
        path.display()
    )]
    Trace {
        /// The lane's name.
        lane: String,
        /// As in the settings.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The inputs FIFO cannot be made or opened.
    #[error(
        "lane {lane}: the inputs FIFO {} cannot be made or opened: {source}; \
         create its directory, or mend turnstile.inputs",
        path.display()
    )]
    Inputs {
        /// The lane's name.
        lane: String,
        /// As in the settings.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is something else where the inputs FIFO should be.
    #[error(
        "lane {lane}: {} is not a FIFO, so no inputs can be read from it; remove it, or mend turnstile.inputs",
        path.display()
    )]
    NotAFifo {
        /// The lane's name.
        lane: String,
        /// As in the settings.
        path: PathBuf,
    },
    /// A thread cannot be started.
    #[error("the turnstile thread cannot be started: {0}; look at the limits on tasks and memory of this process")]
    Thread(#[source] io::Error),
}

/// What [`start`] must know of one lane.
#[derive(Debug, Clone)]
pub struct LaneSetup {
    /// The lane's name, for the trace and the log.
    pub name: String,
    /// `[lane.turnstile]`
    pub settings: config::Turnstile,
}

/// One lane's turnstile: the way in and the way out.
#[derive(Debug)]
pub struct Lane {
    /// Takes orders.
    pub handle: LaneHandle,
    /// Tells what happened. Ends when the thread has ended: tickets without an answer by then were not opened.
    pub events: UnboundedReceiver<Event>,
}

/// Gives orders to one lane's turnstile. No method ever waits.
#[derive(Debug, Clone)]
pub struct LaneHandle {
    lane: usize,
    messages: mpsc::Sender<Message>,
    state: Arc<AtomicU8>,
    faults: Arc<AtomicU8>,
    /// Rung with each order, where no thread waits for them.
    #[cfg(test)]
    bell: Arc<tokio::sync::Notify>,
}

impl LaneHandle {
    /// Asks for a pulse that starts at or before `deadline`. It waits for a running pulse and `pulse_gap`; at most
    /// 64 openings wait, more are late at once. The answer is an event.
    pub fn open(&self, ticket: Ticket, deadline: Instant) {
        self.send(Input::Open { ticket, deadline });
    }

    /// Shows a refusal: the deny light for a second, and these beeps. Closes nothing.
    pub fn deny(&self, reason: &'static str, beeps: Beeps) {
        self.send(Input::Deny { reason, beeps });
    }

    /// Keeps the deny light on with this reason, except during pulses, until told `None`.
    pub fn out_of_order(&self, state: Option<&'static str>) {
        self.send(Input::OutOfOrder { reason: state });
    }

    /// Asks the thread for a sign of life: an [`Event::Alive`], unless it is stuck or stopping.
    pub fn ping(&self) {
        self.send(Input::Ping);
    }

    /// How the turnstile is now. Cheap.
    #[must_use]
    pub fn state(&self) -> TurnstileState {
        TurnstileState::load(&self.state)
    }

    /// What is wrong with the inputs now. Cheap.
    pub fn input_faults(&self) -> impl Iterator<Item = InputFault> + use<> {
        FaultSet::from_bits(self.faults.load(Ordering::Acquire)).iter()
    }

    fn send(&self, input: Input) {
        // Without a receiver the thread has ended, which the end of the events tells.
        let _ = self.messages.send(Message::Order { lane: self.lane, input });
        #[cfg(test)]
        self.bell.notify_one();
    }
}

/// Every lane's turnstile. Dropping it stops them.
#[derive(Debug)]
pub struct Turnstiles {
    messages: mpsc::Sender<Message>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    fail_safe: FailSafe,
}

impl Turnstiles {
    /// Stops: waiting openings are [`Event::NotOpened`], a running pulse comes to its end, or is ended after 2 s, every output is
    /// inactive, the thread has ended.
    pub fn stop(self) {
        drop(self);
    }

    /// What a panic hook needs: where a panic aborts the process, nothing is dropped and no output would be set.
    #[must_use]
    pub fn fail_safe(&self) -> FailSafe {
        self.fail_safe.clone()
    }
}

impl Drop for Turnstiles {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        let _ = self.messages.send(Message::Stop);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the turnstile thread panicked; it had set every output inactive");
        }
    }
}

/// Opens the drivers, sets every output inactive, and starts the one thread that serves all lanes; the lanes come back in order.
///
/// # Errors
/// A GPIO line, a trace, an inputs FIFO or the thread cannot be had. An output that cannot be set is no error: that lane starts
/// as [`TurnstileState::Failed`].
pub fn start(setups: Vec<LaneSetup>) -> Result<(Turnstiles, Vec<Lane>), TurnstileError> {
    let (sender, messages) = mpsc::channel();
    let mut workers = Vec::with_capacity(setups.len());
    let mut lanes = Vec::with_capacity(setups.len());
    for (index, setup) in setups.into_iter().enumerate() {
        let (worker, lane) = open_lane(index, setup, &sender)?;
        workers.push(worker);
        lanes.push(lane);
    }
    let fail_safe = FailSafe::of(&workers);
    let stopping = Arc::new(AtomicBool::new(false));
    let thread = spawn(Room::new(workers), messages, stopping.clone()).map_err(TurnstileError::Thread)?;
    Ok((Turnstiles { messages: sender, stopping, thread: Some(thread), fail_safe }, lanes))
}

fn open_lane(index: usize, setup: LaneSetup, messages: &mpsc::Sender<Message>) -> Result<(Worker, Lane), TurnstileError> {
    let driver = driver::open(&setup, InputSink::new(index, messages.clone()))?;
    Ok(lane_with(index, setup, driver, messages))
}

fn lane_with(index: usize, setup: LaneSetup, driver: Box<dyn Driver>, messages: &mpsc::Sender<Message>) -> (Worker, Lane) {
    let (sender, events) = unbounded_channel();
    let worker = Worker::start(setup, driver, sender);
    let handle = LaneHandle {
        lane: index,
        messages: messages.clone(),
        state: worker.state(),
        faults: worker.faults(),
        #[cfg(test)]
        bell: Arc::default(),
    };
    (worker, Lane { handle, events })
}

fn spawn(room: Room, messages: mpsc::Receiver<Message>, stopping: Arc<AtomicBool>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("turnstile".to_owned()).spawn(move || room.run(&messages, &stopping))
}

impl TurnstileState {
    fn store(self, shared: &AtomicU8) {
        shared.store(self as u8, Ordering::Release);
    }

    fn load(shared: &AtomicU8) -> Self {
        match shared.load(Ordering::Acquire) {
            0 => Self::Ok,
            1 => Self::AlarmOpen,
            _ => Self::Failed,
        }
    }
}
