//! One passage recorded durably, as the daemon records it: through the ledger's own thread, into a ledger of its own.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{BenchError, CODE_BYTES, Spread, TIMES};
use crate::{
    clock::Stamp,
    config::{Mode, Settings},
    daemon::ledger_options,
    ledger::{self, Admission, GateLedger, Tap},
    ride_code::{PassengerId, VerifiedCode},
};

/// A gate at work has a log of full length: a new ledger gives it that when nobody comes for a moment.
const LOG_BYTES: u64 = 4 << 20;
const LOG_WAIT_MAX: Duration = Duration::from_secs(5);

pub(super) fn measure(settings: &Settings, path: &Path) -> Result<Spread, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| BenchError::NotRecorded(error.to_string()))?;
    let mut settings = settings.clone();
    path.clone_into(&mut settings.ledger.path);
    settings.ledger.min_free_bytes = 0;
    settings.exposure = None;
    let (running, gate, network) = ledger::start(ledger_options(&settings, None, Box::new(|_| ())))?;
    wait_for_log(path);
    let spread = Spread::measure(TIMES, |number| runtime.block_on(record(&gate, number)));
    drop((gate, network));
    // Whether its last words are on the disk matters to nobody.
    let _ = running.join();
    spread
}

fn wait_for_log(ledger: &Path) {
    let log = ledger.with_extension("db-wal");
    let end = Instant::now() + LOG_WAIT_MAX;
    while log.metadata().map_or(0, |log| log.len()) < LOG_BYTES && Instant::now() < end {
        sleep(Duration::from_millis(20));
    }
}

async fn record(gate: &GateLedger, number: usize) -> Result<(), BenchError> {
    let mut code = number.to_be_bytes().to_vec();
    code.resize(CODE_BYTES as usize, 0);
    let passenger = PassengerId::new(&number.to_be_bytes(), "0000");
    let tap = Tap {
        lane: "bench".into(),
        station: "bench".into(),
        mode: Mode::Single,
        awaits_passage: false,
        code: VerifiedCode::opaque(code, passenger),
        scanned: Stamp::now(),
    };
    match gate.admit(tap).await? {
        Admission::Admitted(_) => Ok(()),
        other => Err(BenchError::NotRecorded(format!("{other:?}"))),
    }
}
