//! What may be set but what this version of the program cannot run yet: one entry each.

use std::fmt;

use super::{Driver, Lane, Mode, Settings};

/// A setting that is right in itself but that this version of the program cannot run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// The key, as in a [`super::Finding`].
    pub key: String,
    /// What cannot be run.
    pub problem: &'static str,
    /// What to set instead.
    pub mend: &'static str,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.problem, self.mend)
    }
}

/// Every setting that this version of the program cannot run: a daemon must refuse them.
#[must_use]
pub fn unsupported(settings: &Settings) -> Vec<Unsupported> {
    let whole = [fare_table(settings), callback(settings)].into_iter().flatten();
    let lanes = settings.lanes.iter().flat_map(|lane| [mode(lane), gpio(lane), passage(lane)]).flatten();
    whole.chain(lanes).collect()
}

fn fare_table(settings: &Settings) -> Option<Unsupported> {
    settings.fare.table.is_some().then(|| Unsupported {
        key: "fare.table".to_owned(),
        problem: "this version cannot use a fare table yet",
        mend: "remove it; every trip then costs flat_fen",
    })
}

fn callback(settings: &Settings) -> Option<Unsupported> {
    settings.callback.is_some().then(|| Unsupported {
        key: "callback".to_owned(),
        problem: "this version cannot take callbacks yet",
        mend: "remove the table [callback]",
    })
}

fn mode(lane: &Lane) -> Option<Unsupported> {
    (lane.mode != Mode::Single).then(|| Unsupported {
        key: format!("lane[{}].mode", lane.name),
        problem: "this version cannot bring entries and exits together yet",
        mend: "use mode \"single\"",
    })
}

fn gpio(lane: &Lane) -> Option<Unsupported> {
    matches!(lane.turnstile.driver, Driver::Gpio(_)).then(|| Unsupported {
        key: format!("lane[{}].turnstile.driver", lane.name),
        problem: "this version cannot move GPIO lines yet",
        mend: "use driver \"simulated\"",
    })
}

fn passage(lane: &Lane) -> Option<Unsupported> {
    lane.turnstile.inputs.passage.then(|| Unsupported {
        key: format!("lane[{}].turnstile.passage", lane.name),
        problem: "this version cannot wait for a passage yet",
        mend: "remove it; every opening is then charged",
    })
}
