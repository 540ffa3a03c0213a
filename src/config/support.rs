//! What may be set but what this version of the program cannot run yet: one entry each.

use std::fmt;

use super::{Driver, Lane, Settings};

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
    settings.lanes.iter().filter_map(gpio).collect()
}

fn gpio(lane: &Lane) -> Option<Unsupported> {
    matches!(lane.turnstile.driver, Driver::Gpio(_)).then(|| Unsupported {
        key: format!("lane[{}].turnstile.driver", lane.name),
        problem: "this version cannot move GPIO lines yet",
        mend: "use driver \"simulated\"",
    })
}
