//! The program, from its start to its end, on the runtime of the test: the same lanes, ledger, uploader and receiver as in
//! [`crate::daemon`], joined in the same way. What the test has in the place of hardware, network and threads is handed to it.

use std::{cell::Cell, future::poll_fn, panic::resume_unwind, pin::pin, rc::Rc, sync::Arc, task::Poll, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::{JoinError, JoinHandle, spawn_local},
    time::timeout,
};

use super::{wechat::WeChat, world::World};
use crate::{
    clock::monotonic_now,
    config::Settings,
    daemon::{checker, ledger_options, passage_rule},
    lane::Lane,
    ledger::{self, NetworkLedger, Written},
    monitor::Metrics,
    scanner::Reading,
    settlement::{Receiver, SettlementMonitor},
    turnstile::{
        LaneSetup,
        inline::{self, Inputs, Stopper},
    },
    upload::{self, UploadMonitor},
    wechat::Opener,
};

/// Something happens in a program within this.
const LIFE_SIGN: Duration = Duration::from_secs(20);
/// A stop in order takes no longer.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// How many turns the tasks of a program still get, once it is to end.
#[derive(Default)]
struct Fate {
    turns_left: Cell<Option<u64>>,
    is_over: Notify,
}

impl Fate {
    fn spawn<T: 'static>(self: &Rc<Self>, task: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        let fate = Rc::clone(self);
        spawn_local(async move {
            let mut task = pin!(task);
            poll_fn(|context| if fate.takes_turn() { task.as_mut().poll(context) } else { Poll::Pending }).await
        })
    }

    fn takes_turn(&self) -> bool {
        match self.turns_left.get() {
            None => true,
            Some(0) => {
                self.is_over.notify_one();
                false
            }
            Some(turns) => {
                self.turns_left.set(Some(turns - 1));
                true
            }
        }
    }
}

/// A task that was aborted has ended as it should; one that panicked has not.
fn ended<T>(result: Result<T, JoinError>) {
    if let Err(error) = result {
        if error.is_panic() {
            resume_unwind(error.into_panic());
        }
    }
}

/// A program that runs.
pub(super) struct Gate {
    pub(super) inputs: Vec<Inputs>,
    pub(super) network: NetworkLedger,
    pub(super) receiver: Receiver,
    readings: Vec<mpsc::Sender<Reading>>,
    ledger: JoinHandle<Written>,
    turnstiles: JoinHandle<()>,
    lanes: Vec<JoinHandle<()>>,
    uploading: JoinHandle<()>,
    stopper: Stopper,
    stop: watch::Sender<bool>,
    fate: Rc<Fate>,
}

impl Gate {
    pub(super) fn start(settings: &Settings, world: &World, wechat: &WeChat) -> Self {
        let options = ledger_options(settings, None, Box::new(|_| ()));
        let (serving, gate, network) = ledger::inline(options).unwrap();
        let fate = Rc::new(Fate::default());
        let ledger = fate.spawn(serving);
        let metrics = Metrics::new();
        let checker = Arc::new(checker(settings).unwrap());
        let setups = settings.lanes.iter().map(|lane| LaneSetup { name: lane.name.clone(), settings: lane.turnstile.clone() });
        let (turnstiles, handles, stopper) = inline::start(setups.collect(), &world.wires());
        let turnstiles = fate.spawn(turnstiles);
        let (mut lanes, mut readings, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
        for (lane, (turnstile, lane_inputs)) in settings.lanes.iter().zip(handles) {
            let (sender, received) = mpsc::channel(4);
            let lane = Lane {
                name: lane.name.as_str().into(),
                station: lane.station.as_str().into(),
                mode: lane.mode,
                passage: passage_rule(&lane.turnstile),
                open_within: settings.gate.open_within,
                checker: checker.clone(),
                ledger: gate.clone(),
                turnstile,
                readings: received,
                metrics: metrics.lane(&lane.name),
                pings: mpsc::channel(1).1,
            };
            lanes.push(fate.spawn(lane.run()));
            readings.push(sender);
            inputs.push(lane_inputs);
        }
        let callback = settings.callback.as_ref().unwrap();
        let opener = Opener::read(&settings.wechat, callback).unwrap();
        let receiver = Receiver::new(callback, opener, network.clone(), metrics, Arc::new(SettlementMonitor::default()));
        let (stop, told_to_stop) = watch::channel(false);
        let monitor = Arc::new(UploadMonitor::default());
        let uploading = fate.spawn(upload::run(network.clone(), wechat.clone(), settings.upload.clone(), monitor, told_to_stop));
        Self { inputs, network, receiver, readings, ledger, turnstiles, lanes, uploading, stopper, stop, fate }
    }

    /// A reader has read a code, whose last byte came so long ago.
    pub(super) fn reads(&self, lane: usize, code: Vec<u8>, ago: Duration) {
        let last_byte_at = monotonic_now().checked_sub(ago).unwrap();
        self.readings[lane].try_send(Reading::Code { bytes: code, last_byte_at }).unwrap();
    }

    /// The program is gone after so many turns of its tasks: each goes on until it waits for another. Nothing of it runs any more.
    pub(super) async fn kill(self, turns: u64) {
        self.fate.turns_left.set(Some(turns));
        let _ = timeout(LIFE_SIGN, self.fate.is_over.notified()).await;
        let tasks = [self.turnstiles, self.uploading].into_iter().chain(self.lanes);
        self.ledger.abort();
        let tasks: Vec<_> = tasks.inspect(JoinHandle::abort).collect();
        for task in tasks {
            ended(task.await);
        }
        ended(self.ledger.await);
    }

    /// The program stops in the order in which the daemon stops.
    pub(super) async fn stop(self) -> Written {
        self.stopper.stop();
        self.turnstiles.await.unwrap();
        for lane in self.lanes {
            lane.await.unwrap();
        }
        self.stop.send_replace(true);
        self.uploading.await.unwrap();
        drop((self.network, self.receiver));
        timeout(STOP_WITHIN, self.ledger).await.expect("the ledger ends").unwrap()
    }
}
