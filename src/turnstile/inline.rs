//! The turnstiles of a simulation: the same machines and the same messages, served on the caller's runtime instead of a thread.

use std::{io, sync::Arc};

use tokio::{sync::Notify, time::sleep_until};

use super::{
    InputSink, Lane, LaneSetup,
    driver::{Driver, InputLine, Output},
    lane_with, mpsc,
    thread::{Message, Room},
};

/// Told of each order to an output of a lane (its place, the output's name, whether it is to be active, why the deny light is
/// on); says whether it obeys.
pub(crate) type Wires = Arc<dyn Fn(usize, &'static str, bool, Option<&'static str>) -> io::Result<()> + Send + Sync>;

/// What moves the inputs of a lane.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    sink: InputSink,
    bell: Arc<Notify>,
}

impl Inputs {
    pub(crate) fn passage(&self, active: bool) {
        self.tell(InputLine::Passage, active);
    }

    pub(crate) fn fire_alarm(&self, active: bool) {
        self.tell(InputLine::FireAlarm, active);
    }

    pub(crate) fn exit_button(&self, active: bool) {
        self.tell(InputLine::ExitButton, active);
    }

    fn tell(&self, line: InputLine, active: bool) {
        self.sink.tell(line, active);
        self.bell.notify_one();
    }
}

struct Wired {
    lane: usize,
    wires: Wires,
}

impl Driver for Wired {
    fn set(&mut self, output: Output, active: bool, reason: Option<&'static str>) -> io::Result<()> {
        (self.wires)(self.lane, output.as_str(), active, reason)
    }
}

/// Stops the turnstiles as [`super::Turnstiles::stop`] does, but does not wait for their end.
#[derive(Debug)]
pub(crate) struct Stopper {
    messages: mpsc::Sender<Message>,
    bell: Arc<Notify>,
}

impl Stopper {
    pub(crate) fn stop(&self) {
        // Turnstiles that have ended need not be stopped.
        let _ = self.messages.send(Message::Stop);
        self.bell.notify_one();
    }
}

/// As [`super::start`]; served by the future until it is stopped. Dropping that is what a killed process is.
pub(crate) fn start(setups: Vec<LaneSetup>, wires: &Wires) -> (impl Future<Output = ()> + use<>, Vec<(Lane, Inputs)>, Stopper) {
    let (sender, messages) = mpsc::channel();
    let bell = Arc::new(Notify::new());
    let (mut workers, mut lanes) = (Vec::new(), Vec::new());
    for (index, setup) in setups.into_iter().enumerate() {
        let driver = Box::new(Wired { lane: index, wires: wires.clone() });
        let (worker, mut lane) = lane_with(index, setup, driver, &sender);
        lane.handle.bell = bell.clone();
        workers.push(worker);
        lanes.push((lane, Inputs { sink: InputSink::new(index, sender.clone()), bell: bell.clone() }));
    }
    let stopper = Stopper { messages: sender, bell: bell.clone() };
    (serve(Room::new(workers), messages, bell), lanes, stopper)
}

async fn serve(mut room: Room, messages: mpsc::Receiver<Message>, bell: Arc<Notify>) {
    loop {
        for message in messages.try_iter() {
            if matches!(message, Message::Stop) {
                return come_to_rest(room, &messages).await;
            }
            room.deliver(message);
        }
        room.tick();
        match room.next_wakeup() {
            Some(at) => tokio::select! { biased; () = bell.notified() => {}, () = sleep_until(at.into()) => {} },
            None => bell.notified().await,
        }
    }
}

async fn come_to_rest(mut room: Room, messages: &mpsc::Receiver<Message>) {
    room.stop();
    while let Some(wakeup) = room.next_end_of_pulse() {
        sleep_until(wakeup.into()).await;
        room.tick();
    }
    for message in messages.try_iter() {
        room.deliver(message);
    }
}
