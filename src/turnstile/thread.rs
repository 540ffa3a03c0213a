//! The thread that serves every lane: takes orders and inputs off one queue, hands them to the lane's machine, and does what that
//! says. It sleeps until the next message or the next change that is due, and never waits for anything else.
//!
//! However it ends, each lane's outputs are set inactive first.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    Event, LaneSetup, TurnstileState,
    driver::{Driver, InputLine, Output},
    faults::Faults,
    machine::{Actions, Input, Machine},
    signals::Set,
};
use crate::clock::monotonic_now;

/// How long [`FailSafe::close_all`] waits for an output that is just being set.
const FAIL_SAFE_WAIT: Duration = Duration::from_millis(100);

/// What the thread takes off its queue.
#[derive(Debug)]
pub(super) enum Message {
    /// From a lane's handle.
    Order { lane: usize, input: Input },
    /// From a lane's driver.
    Line { lane: usize, line: InputLine, active: bool },
    /// From a lane's driver: whether an input can be read has changed.
    Unreadable { lane: usize, line: InputLine, unreadable: bool },
    /// The thread is to stop.
    Stop,
}

/// Sets every output inactive from any thread, for a panic hook of a program that aborts on panics.
#[derive(Debug, Clone)]
pub struct FailSafe(Vec<Weak<Mutex<Outputs>>>);

impl FailSafe {
    /// Of these lanes.
    pub(super) fn of(workers: &[Worker]) -> Self {
        Self(workers.iter().map(|worker| Arc::downgrade(&worker.outputs)).collect())
    }

    /// Sets every output inactive, for good: nothing opens any more. An output that is just being set by a panicking thread is
    /// given up after 100 ms; lanes that have stopped are passed over.
    pub fn close_all(&self) {
        for outputs in self.0.iter().filter_map(Weak::upgrade) {
            if let Some(mut outputs) = lock_within(&outputs, FAIL_SAFE_WAIT) {
                outputs.close();
            }
        }
    }
}

fn lock_within(outputs: &Mutex<Outputs>, patience: Duration) -> Option<MutexGuard<'_, Outputs>> {
    let end = monotonic_now() + patience;
    loop {
        match outputs.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if monotonic_now() >= end => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The outputs of one lane, and which of them are known to be inactive.
struct Outputs {
    driver: Box<dyn Driver>,
    inactive: [bool; Output::ALL.len()],
    closed: bool,
}

impl std::fmt::Debug for Outputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outputs").field("inactive", &self.inactive).field("closed", &self.closed).finish_non_exhaustive()
    }
}

impl Outputs {
    fn new(driver: Box<dyn Driver>) -> Self {
        Self { driver, inactive: [false; Output::ALL.len()], closed: false }
    }

    fn set(&mut self, output: Output, active: bool, reason: Option<&'static str>) -> io::Result<()> {
        if self.closed && active {
            return Err(io::Error::other("the turnstile has been closed for good"));
        }
        self.inactive[output as usize] = false;
        self.driver.set(output, active, reason)?;
        self.inactive[output as usize] = !active;
        Ok(())
    }

    /// Everything inactive, for good.
    fn close(&mut self) {
        self.closed = true;
        for output in Output::ALL {
            if !self.inactive[output as usize] && self.set(output, false, None).is_err() {
                log::error!("the output {} could not be set inactive", output.as_str());
            }
        }
    }
}

/// One lane: its machine, and what that moves and tells. Dropping it sets its outputs inactive.
#[derive(Debug)]
pub(super) struct Worker {
    name: String,
    machine: Machine,
    outputs: Arc<Mutex<Outputs>>,
    events: UnboundedSender<Event>,
    state: Arc<AtomicU8>,
    /// The level of this lane's own input.
    fire_alarm: bool,
    faults: Faults,
    shared_faults: Arc<AtomicU8>,
    /// Whether the last light or beep could not be set.
    signals_failed: bool,
}

impl Worker {
    /// Sets every output inactive.
    pub(super) fn start(setup: LaneSetup, driver: Box<dyn Driver>, events: UnboundedSender<Event>) -> Self {
        let machine = Machine::new(setup.settings.pulse, setup.settings.pulse_gap, monotonic_now());
        let mut worker = Self {
            name: setup.name,
            machine,
            outputs: Arc::new(Mutex::new(Outputs::new(driver))),
            events,
            state: Arc::new(AtomicU8::new(TurnstileState::Failed as u8)),
            fire_alarm: false,
            faults: Faults::default(),
            shared_faults: Arc::default(),
            signals_failed: false,
        };
        worker.step(Input::Time);
        for output in [Output::LightPass, Output::LightDeny, Output::Buzzer] {
            worker.signal(Set { output, active: false, reason: None });
        }
        worker
    }

    /// Where this lane's state can be read.
    pub(super) fn state(&self) -> Arc<AtomicU8> {
        self.state.clone()
    }

    /// Where what is wrong with this lane's inputs can be read.
    pub(super) fn faults(&self) -> Arc<AtomicU8> {
        self.shared_faults.clone()
    }

    fn step(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let Actions { open, events, sets } = self.machine.handle(monotonic_now(), input);
            next = open.map(|active| Input::OpenSet(self.set_open(active)));
            self.machine.state().store(&self.state);
            for event in events {
                self.tell(event);
            }
            for set in sets {
                self.signal(set);
            }
        }
    }

    fn next_wakeup(&self) -> Option<Instant> {
        self.machine.next_wakeup().into_iter().chain(self.faults.next_wakeup()).min()
    }

    fn tick(&mut self, now: Instant) {
        if self.machine.next_wakeup().is_some_and(|at| at <= now) {
            self.step(Input::Time);
        }
        if self.faults.next_wakeup().is_some_and(|at| at <= now) {
            self.note_fault(|faults| faults.elapse(now));
        }
    }

    /// Tells what is new about the inputs, once.
    fn note_fault(&mut self, note: impl FnOnce(&mut Faults)) {
        let before = self.faults.current();
        note(&mut self.faults);
        let after = self.faults.current();
        self.shared_faults.store(after.bits(), Ordering::Release);
        for fault in after.iter().filter(|fault| !before.has(*fault)) {
            log::error!("lane {}: {fault}", self.name);
        }
        for fault in before.iter().filter(|fault| !after.has(*fault)) {
            log::info!("lane {}: no longer: {fault}", self.name);
        }
    }

    fn set_open(&self, active: bool) -> Result<(), String> {
        lock(&self.outputs).set(Output::Open, active, None).map_err(|error| error.to_string())
    }

    fn tell(&self, event: Event) {
        match &event {
            Event::Failed { reason } => log::error!(
                "lane {}: the turnstile's open output cannot be set: {reason}; it opens for nobody until that is mended",
                self.name
            ),
            Event::Restored => log::info!("lane {}: the turnstile's open output can be set again", self.name),
            _ => {}
        }
        // A lane that no longer listens needs no answer.
        let _ = self.events.send(event);
    }

    fn signal(&mut self, set: Set) {
        let outcome = lock(&self.outputs).set(set.output, set.active, set.reason);
        match (outcome, self.signals_failed) {
            (Err(error), false) => {
                log::warn!("lane {}: the output {} cannot be set: {error}; the turnstile goes on", self.name, set.output.as_str());
                self.signals_failed = true;
            }
            (Ok(()), true) => self.signals_failed = false,
            _ => {}
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        lock(&self.outputs).close();
        TurnstileState::Failed.store(&self.state);
    }
}

/// A driver that panicked can still be told to set its outputs inactive.
fn lock(outputs: &Mutex<Outputs>) -> MutexGuard<'_, Outputs> {
    outputs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every lane, in the order of the settings.
#[derive(Debug)]
pub(super) struct Room {
    workers: Vec<Worker>,
}

impl Room {
    pub(super) fn new(workers: Vec<Worker>) -> Self {
        Self { workers }
    }

    /// Serves the lanes until it is told to stop. `stopping` is set before the message that tells it, so that openings which
    /// are queued before that message do not happen either.
    pub(super) fn run(mut self, messages: &Receiver<Message>, stopping: &AtomicBool) {
        loop {
            let message = self.receive(messages);
            if stopping.load(Ordering::Acquire) || matches!(message, Some(Message::Stop)) {
                self.stop();
                if let Some(message) = message {
                    self.deliver(message);
                }
                return self.come_to_rest(messages);
            }
            if let Some(message) = message {
                self.deliver(message);
            }
            self.tick();
        }
    }

    /// Nothing opens any more.
    pub(super) fn stop(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.step(Input::Stop));
    }

    /// Lets running pulses end, each within [`LAST_PULSE_MAX`](super::machine::LAST_PULSE_MAX); whatever is still asked for is not
    /// opened.
    fn come_to_rest(mut self, messages: &Receiver<Message>) {
        while let Some(wakeup) = self.next_end_of_pulse() {
            std::thread::sleep(wakeup.saturating_duration_since(monotonic_now()));
            self.tick();
        }
        for message in messages.try_iter() {
            self.deliver(message);
        }
    }

    /// When [`Self::tick`] is due.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        self.workers.iter().filter_map(Worker::next_wakeup).min()
    }

    /// When the next of the running pulses ends.
    pub(super) fn next_end_of_pulse(&self) -> Option<Instant> {
        let pulsing = self.workers.iter().filter(|worker| !worker.machine.is_at_rest());
        pulsing.filter_map(|worker| worker.machine.next_wakeup()).min()
    }

    /// The next message, or nothing when a lane is due before one comes. Nobody left to send one is a reason to stop.
    fn receive(&self, messages: &Receiver<Message>) -> Option<Message> {
        let Some(wakeup) = self.next_wakeup() else {
            return Some(messages.recv().unwrap_or(Message::Stop));
        };
        match messages.recv_timeout(wakeup.saturating_duration_since(monotonic_now())) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
        }
    }

    pub(super) fn deliver(&mut self, message: Message) {
        match message {
            Message::Order { lane, input } => self.step(lane, input),
            Message::Line { lane, line: input, active } => self.sense(lane, input, active),
            Message::Unreadable { lane, line: input, unreadable } => {
                if let Some(worker) = self.workers.get_mut(lane) {
                    worker.note_fault(|faults| faults.unreadable(input, unreadable));
                }
            }
            Message::Stop => {}
        }
    }

    fn sense(&mut self, lane: usize, input: InputLine, active: bool) {
        match input {
            InputLine::Passage => self.step(lane, Input::Passage { active }),
            InputLine::ExitButton => self.step(lane, Input::ExitButton { active }),
            InputLine::FireAlarm => self.fire_alarm(lane, active),
        }
        if let Some(worker) = self.workers.get_mut(lane) {
            worker.note_fault(|faults| faults.sense(input, active, monotonic_now()));
        }
    }

    fn step(&mut self, lane: usize, input: Input) {
        if let Some(worker) = self.workers.get_mut(lane) {
            worker.step(input);
        }
    }

    /// One lane's alarm is every lane's, until the last has ended.
    fn fire_alarm(&mut self, lane: usize, active: bool) {
        let before = self.any_fire_alarm();
        if let Some(worker) = self.workers.get_mut(lane) {
            worker.fire_alarm = active;
        }
        let after = self.any_fire_alarm();
        if before != after {
            self.workers.iter_mut().for_each(|worker| worker.step(Input::FireAlarm { active: after }));
            log::warn!("fire alarm {}", if after { "on: every lane is held open" } else { "off: the lanes work as before" });
        }
    }

    fn any_fire_alarm(&self) -> bool {
        self.workers.iter().any(|worker| worker.fire_alarm)
    }

    pub(super) fn tick(&mut self) {
        let now = monotonic_now();
        self.workers.iter_mut().for_each(|worker| worker.tick(now));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::{
        config,
        turnstile::{
            Ticket,
            faults::{FaultSet, InputFault},
        },
    };

    /// Keeps what it was told, and panics or fails when told.
    struct Fake {
        levels: Arc<Mutex<[Option<bool>; Output::ALL.len()]>>,
        panics_on: Option<Output>,
        fails_on: Option<Output>,
    }

    impl Driver for Fake {
        fn set(&mut self, output: Output, active: bool, _: Option<&'static str>) -> io::Result<()> {
            assert!(!active || self.panics_on != Some(output), "a driver that panics on purpose");
            if active && self.fails_on == Some(output) {
                return Err(io::Error::other("a driver that fails on purpose"));
            }
            self.levels.lock().unwrap()[output as usize] = Some(active);
            Ok(())
        }
    }

    struct Bench {
        worker: Worker,
        levels: Arc<Mutex<[Option<bool>; Output::ALL.len()]>>,
        events: UnboundedReceiver<Event>,
    }

    impl Bench {
        fn new(panics_on: Option<Output>, fails_on: Option<Output>) -> Self {
            let levels = Arc::new(Mutex::new([None; Output::ALL.len()]));
            let driver = Fake { levels: levels.clone(), panics_on, fails_on };
            let (sender, events) = unbounded_channel();
            Self { worker: Worker::start(setup(), Box::new(driver), sender), levels, events }
        }

        fn levels(&self) -> [Option<bool>; Output::ALL.len()] {
            *self.levels.lock().unwrap()
        }
    }

    fn setup() -> LaneSetup {
        let settings = config::Turnstile {
            driver: config::Driver::Simulated { trace: None, inputs: None },
            pulse: Duration::from_secs(600),
            pulse_gap: Duration::ZERO,
            passage_timeout: Duration::from_secs(8),
            no_passage: config::NoPassage::Void,
            inputs: config::Inputs::default(),
        };
        LaneSetup { name: "in".to_owned(), settings }
    }

    fn open() -> Input {
        Input::Open { ticket: Ticket(1), deadline: Instant::now() + Duration::from_secs(600) }
    }

    #[test]
    fn every_output_is_set_inactive_at_start() {
        assert_eq!(Bench::new(None, None).levels(), [Some(false); 4]);
    }

    #[test]
    fn a_thread_that_panics_leaves_every_output_inactive() {
        let bench = Bench::new(Some(Output::Buzzer), None);
        let (levels, state) = (bench.levels.clone(), bench.worker.state());
        let (sender, messages) = mpsc::channel();
        sender.send(Message::Order { lane: 0, input: open() }).unwrap();
        let room = Room::new(vec![bench.worker]);
        let thread = std::thread::spawn(move || room.run(&messages, &AtomicBool::new(false)));
        assert!(thread.join().is_err());
        assert_eq!(*levels.lock().unwrap(), [Some(false); 4]);
        assert_eq!(TurnstileState::load(&state), TurnstileState::Failed);
    }

    #[test]
    fn an_opening_that_is_still_queued_when_the_thread_is_to_stop_does_not_happen() {
        let mut bench = Bench::new(None, None);
        let (sender, messages) = mpsc::channel();
        for message in [Message::Order { lane: 0, input: open() }, Message::Stop, Message::Order { lane: 0, input: open() }] {
            sender.send(message).unwrap();
        }
        Room::new(vec![bench.worker]).run(&messages, &AtomicBool::new(true));
        let told: Vec<_> = std::iter::from_fn(|| bench.events.try_recv().ok()).collect();
        assert_eq!(told, [const { Event::NotOpened { ticket: Ticket(1) } }; 2]);
    }

    #[test]
    fn a_light_that_fails_stops_no_opening() {
        let mut bench = Bench::new(None, Some(Output::LightPass));
        bench.worker.step(open());
        assert!(matches!(bench.events.try_recv(), Ok(Event::Opened { ticket: Ticket(1), .. })));
        assert_eq!(TurnstileState::load(&bench.worker.state), TurnstileState::Ok);
    }

    #[test]
    fn closing_all_for_a_panic_hook_closes_for_good() {
        let mut bench = Bench::new(None, None);
        let fail_safe = FailSafe::of(std::slice::from_ref(&bench.worker));
        bench.worker.step(open());
        bench.worker.step(Input::OutOfOrder { reason: Some("out-of-order") });
        assert_eq!(bench.levels()[Output::Open as usize], Some(true));
        fail_safe.close_all();
        assert_eq!(bench.levels(), [Some(false); 4]);
        bench.worker.step(Input::FireAlarm { active: true });
        bench.worker.step(Input::Deny { reason: "expired", beeps: crate::turnstile::Beeps::ThreeShort });
        assert_eq!(bench.levels(), [Some(false); 4]);
    }

    #[test]
    fn closing_all_gives_up_on_an_output_that_never_ends_being_set() {
        let bench = Bench::new(None, None);
        let _setting = bench.worker.outputs.lock().unwrap();
        FailSafe::of(std::slice::from_ref(&bench.worker)).close_all();
    }

    #[test]
    fn an_input_that_contradicts_is_shown_until_it_no_longer_does() {
        let bench = Bench::new(None, None);
        let shown = bench.worker.faults();
        let shown = || FaultSet::from_bits(shown.load(Ordering::Acquire)).iter().collect::<Vec<_>>();
        let mut room = Room::new(vec![bench.worker]);
        let unreadable = |unreadable| Message::Unreadable { lane: 0, line: InputLine::FireAlarm, unreadable };
        room.deliver(unreadable(true));
        assert_eq!(shown(), [InputFault::FireAlarmUnreadable]);
        room.deliver(unreadable(false));
        assert!(shown().is_empty());
    }

    #[test]
    fn a_passage_that_never_ends_is_found_when_its_time_has_come_and_delays_no_pulse() {
        let mut bench = Bench::new(None, None);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(600)).unwrap();
        bench.worker.faults.sense(InputLine::Passage, true, long_ago);
        let shown = bench.worker.faults();
        let mut room = Room::new(vec![bench.worker]);
        room.deliver(Message::Line { lane: 0, line: InputLine::Passage, active: true });
        assert_eq!(FaultSet::from_bits(shown.load(Ordering::Acquire)).iter().collect::<Vec<_>>(), [InputFault::PassageLasts]);
        assert_eq!(room.workers[0].next_wakeup(), None);
        room.deliver(Message::Order { lane: 0, input: open() });
        let told: Vec<_> = std::iter::from_fn(|| bench.events.try_recv().ok()).collect();
        assert!(told.iter().any(|event| matches!(event, Event::Opened { .. })), "{told:?}");
    }

    #[test]
    fn the_alarm_of_one_lane_holds_every_lane_until_the_last_has_ended() {
        let (first, second) = (Bench::new(None, None), Bench::new(None, None));
        let levels = [first.levels.clone(), second.levels.clone()];
        let open = || [0, 1].map(|lane: usize| levels[lane].lock().unwrap()[Output::Open as usize]);
        let mut room = Room::new(vec![first.worker, second.worker]);
        let mut alarm = |lane, active| {
            room.deliver(Message::Line { lane, line: InputLine::FireAlarm, active });
            open()
        };
        assert_eq!(alarm(0, true), [Some(true); 2]);
        assert_eq!(alarm(1, true), [Some(true); 2]);
        assert_eq!(alarm(0, false), [Some(true); 2]);
        assert_eq!(alarm(1, false), [Some(false); 2]);
    }
}
