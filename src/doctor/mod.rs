//! Looks at this machine as a gate needs it: readers, GPIO lines, clock, disk, network, secrets. Each [`Look`] says what was found and,
//! where that is not as it should be, what to do.
//!
//! Promises: nothing is changed and no GPIO line is taken; what a running daemon holds is asked of the daemon; nothing is waited for longer
//! than five seconds. Rights are those of the service's account, not of whoever looks.

mod account;
mod clock;
mod disk;
mod files;
mod gpio;
mod network;
mod scanner;

use std::{fmt, path::Path, sync::mpsc, thread, time::Duration};

use crate::{
    config::{Driver, Lane, Settings},
    monitor::{LaneStatus, ScannerState, Status, TurnstileState},
};
use account::Account;

/// How long a device or a name server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How bad what was found is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// The gate works, but somebody should look at it.
    Doubtful,
    /// The gate does not work so.
    Bad,
}

/// What was found in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// How bad.
    pub verdict: Verdict,
    /// What was looked at.
    pub at: String,
    /// What was found.
    pub found: String,
    /// What to do; empty where all is well.
    pub mend: String,
}

impl Look {
    fn good(at: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, at: at.into(), found: found.into(), mend: String::new() }
    }

    fn doubtful(at: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Doubtful, at: at.into(), found: found.into(), mend: mend.into() }
    }

    fn bad(at: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, at: at.into(), found: found.into(), mend: mend.into() }
    }

    /// What a room says of its own error: what is the matter; what to do.
    fn bad_as_told(at: impl Into<String>, error: &impl fmt::Display) -> Self {
        let told = error.to_string();
        let (found, mend) = told.split_once("; ").unwrap_or((&told, ""));
        Self::bad(at, found, mend)
    }
}

/// One line: `ok       clock: …`, `WARNING  disk: …; mend`, `ERROR    …`.
impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.verdict {
            Verdict::Good => "ok",
            Verdict::Doubtful => "WARNING",
            Verdict::Bad => "ERROR",
        };
        write!(f, "{word:<8} {}: {}", self.at, self.found)?;
        if self.mend.is_empty() { Ok(()) } else { write!(f, "; {}", self.mend) }
    }
}

/// Looks at everything that these settings need; `daemon` is what the daemon that runs with them says.
#[must_use]
pub fn examine(settings: &Settings, settings_file: &Path, daemon: Option<&Status>) -> Vec<Look> {
    let account = Account::of_the_service();
    let mut looks = vec![account::look(account.as_ref())];
    looks.extend(files::look(settings, settings_file, account.as_ref()));
    for lane in &settings.lanes {
        let status = daemon.and_then(|status| status.lanes.iter().find(|status| status.name == lane.name));
        looks.extend(lane_looks(lane, status, account.as_ref()));
    }
    looks.extend(clock::look(daemon.map(|daemon| daemon.clock.synchronized)));
    looks.extend(disk::look(&settings.ledger, account.as_ref()));
    looks.push(network::look(&settings.wechat.base_url));
    looks
}

fn lane_looks(lane: &Lane, status: Option<&LaneStatus>, account: Option<&Account>) -> Vec<Look> {
    let at = format!("lane {}, scanner", lane.name);
    let reader = match status.map(|status| status.scanner) {
        Some(ScannerState::Up) => Look::good(at, format!("{}: the daemon reads it", lane.scanner.device.display())),
        Some(ScannerState::Absent) => scanner::absent(at, &lane.scanner, account),
        None => scanner::look(at, &lane.scanner, account),
    };
    vec![reader, turnstile(lane, status, account)]
}

fn turnstile(lane: &Lane, status: Option<&LaneStatus>, account: Option<&Account>) -> Look {
    let at = format!("lane {}, turnstile", lane.name);
    match (&lane.turnstile.driver, status.map(|status| status.turnstile)) {
        (_, Some(TurnstileState::Failed)) => {
            Look::bad(at, "the daemon cannot set a line", "look at the wiring, and at: journalctl -u faregate")
        }
        (_, Some(TurnstileState::AlarmOpen)) => {
            Look::doubtful(at, "the fire alarm holds it open", "end the alarm, or look at the wiring of fire_alarm")
        }
        (_, Some(TurnstileState::Ok)) => Look::good(at, "its lines obey the daemon"),
        (Driver::Simulated { .. }, None) => {
            Look::doubtful(at, "simulated: nothing opens", "set driver = \"gpio\" where there is hardware")
        }
        (Driver::Gpio(lines), None) => gpio::look(at, lines, account),
    }
}

/// What `ask` answers within [`PATIENCE`]; `None` when it takes longer. It then goes on by itself.
fn within_patience<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = mpsc::channel();
    // Nobody listens any more when it comes too late.
    thread::spawn(move || drop(answer.send(ask())));
    answered.recv_timeout(PATIENCE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_one_line_with_its_mend() {
        assert_eq!(Look::good("clock", "synchronized").to_string(), "ok       clock: synchronized");
        assert_eq!(Look::bad("disk", "full", "free some").to_string(), "ERROR    disk: full; free some");
    }
}
