//! The program, from its start to its end, on the runtime of the test: the same lanes, ledger, uploader and receiver as in
//! [`crate::daemon`], joined in the same way. What the test has in the place of hardware, network and threads is handed to it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_local, yield_now},
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
}

impl Gate {
    pub(super) fn start(settings: &Settings, world: &World, wechat: &WeChat) -> Self {
        let options = ledger_options(settings, None, Box::new(|_| ()));
        let (serving, gate, network) = ledger::inline(options).unwrap();
        let ledger = spawn_local(serving);
        let metrics = Metrics::new();
        let checker = Arc::new(checker(settings).unwrap());
        let setups = settings.lanes.iter().map(|lane| LaneSetup { name: lane.name.clone(), settings: lane.turnstile.clone() });
        let (turnstiles, handles, stopper) = inline::start(setups.collect(), &world.wires());
        let turnstiles = spawn_local(turnstiles);
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
            lanes.push(spawn_local(lane.run()));
            readings.push(sender);
            inputs.push(lane_inputs);
        }
        let callback = settings.callback.as_ref().unwrap();
        let opener = Opener::read(&settings.wechat, callback).unwrap();
        let receiver = Receiver::new(callback, opener, network.clone(), metrics, Arc::new(SettlementMonitor::default()));
        let (stop, told_to_stop) = watch::channel(false);
        let monitor = Arc::new(UploadMonitor::default());
        let uploading = spawn_local(upload::run(network.clone(), wechat.clone(), settings.upload.clone(), monitor, told_to_stop));
        Self { inputs, network, receiver, readings, ledger, turnstiles, lanes, uploading, stopper, stop }
    }

    /// A reader has read a code, whose last byte came so long ago.
    pub(super) fn reads(&self, lane: usize, code: Vec<u8>, ago: Duration) {
        let last_byte_at = monotonic_now().checked_sub(ago).unwrap();
        self.readings[lane].try_send(Reading::Code { bytes: code, last_byte_at }).unwrap();
    }

    /// The program is gone after so many turns of whoever is ready to run; nothing of it runs any more.
    pub(super) async fn kill(self, turns: u64) {
        for _ in 0..turns {
            yield_now().await;
        }
        let ended = [self.turnstiles, self.uploading].into_iter().chain(self.lanes);
        self.ledger.abort();
        let ended: Vec<_> = ended.inspect(JoinHandle::abort).collect();
        for task in ended {
            let _ = task.await;
        }
        let _ = self.ledger.await;
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
        tokio::time::timeout(Duration::from_secs(60), self.ledger).await.expect("the ledger ends").unwrap()
    }
}
