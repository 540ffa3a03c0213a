//! `faregate clock-watch`: what `faregate-clock.service` runs.

use super::exit::{Code, Failure};
use crate::clock::watch::watch;

pub(super) fn run() -> Result<(), Failure> {
    let Err(error) = watch();
    Err(Failure::new(Code::Internal, error.to_string()))
}
