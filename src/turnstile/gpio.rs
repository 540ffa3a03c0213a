//! A turnstile whose outputs and inputs are lines of a GPIO chip.
//!
//! Promises:
//! - Every line is held under the name [`CONSUMER`] from start to end; outputs are inactive from the moment in which they are had.
//! - Nothing is had when something cannot be had: a line that is taken, a chip that is not there. Each says what to do.
//! - Setting an output is one system call. Inputs are waited for, debounced and read in a thread of their own.
//!
//! The chip is spoken to through version 1 of the kernel's character device, which old kernels of gate computers have too.

mod chip;
mod debounce;
mod inputs;

use std::io;

use super::{
    TurnstileError,
    driver::{Driver, InputLine, InputSink, Output},
};
use crate::config;
use chip::{Chip, HeldInput, HeldOutput, Line};
pub use chip::{GpioError, LinePlace};
use inputs::Inputs;

/// Who holds the lines, as `gpioinfo` shows it.
const CONSUMER: &str = "faregate";

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Gpio {
    /// By [`Output`]; those that the settings do not name are not there.
    outputs: [Option<HeldOutput>; Output::ALL.len()],
    /// Held for its thread, which ends with it.
    _inputs: Option<Inputs>,
}

impl Gpio {
    /// Has every line, the outputs inactive, and watches the inputs.
    pub(super) fn open(lane: &str, settings: &config::Gpio, sink: InputSink) -> Result<Self, TurnstileError> {
        let lines = Lines::find(settings).map_err(|source| TurnstileError::Gpio { lane: lane.to_owned(), source })?;
        let (outputs, inputs) = lines.hold().map_err(|source| TurnstileError::Gpio { lane: lane.to_owned(), source })?;
        let watched = !inputs.is_empty();
        let inputs = watched.then(|| Inputs::watch(lane, inputs, settings.debounce, sink)).transpose();
        Ok(Self { outputs, _inputs: inputs.map_err(TurnstileError::Thread)? })
    }
}

/// Whether every line that these settings name is there and free: so many of them are. None is taken.
///
/// # Errors
/// What [`super::start`] would meet.
pub fn look(settings: &config::Gpio) -> Result<usize, GpioError> {
    let lines = Lines::find(settings)?;
    let all = lines.outputs.iter().flatten().chain(lines.inputs.iter().map(|(_, line)| line));
    all.map(Line::is_free).try_fold(0, |count, is_free| is_free.map(|()| count + 1))
}

impl Driver for Gpio {
    fn set(&mut self, output: Output, active: bool, _: Option<&'static str>) -> io::Result<()> {
        self.outputs[output as usize].as_ref().map_or(Ok(()), |line| line.set(active))
    }
}

/// Every line that the settings name: all of them are there before the first is taken.
struct Lines {
    outputs: [Option<Line>; Output::ALL.len()],
    inputs: Vec<(InputLine, Line)>,
}

impl Lines {
    fn find(settings: &config::Gpio) -> Result<Self, GpioError> {
        let mut chip = Chip::open(&settings.chip)?;
        let mut find = |key, line: Option<&config::Line>| line.map(|line| chip.find(key, line)).transpose();
        let outputs = [
            find("open", Some(&settings.open))?,
            find("light_pass", settings.light_pass.as_ref())?,
            find("light_deny", settings.light_deny.as_ref())?,
            find("buzzer", settings.buzzer.as_ref())?,
        ];
        let inputs = [
            (InputLine::Passage, find("passage", settings.passage.as_ref())?),
            (InputLine::FireAlarm, find("fire_alarm", settings.fire_alarm.as_ref())?),
            (InputLine::ExitButton, find("exit_button", settings.exit_button.as_ref())?),
        ];
        Ok(Self { outputs, inputs: inputs.into_iter().filter_map(|(input, line)| Some((input, line?))).collect() })
    }

    fn hold(&self) -> Result<(HeldOutputs, HeldInputs), GpioError> {
        let mut outputs = [const { None }; Output::ALL.len()];
        for (held, line) in outputs.iter_mut().zip(&self.outputs) {
            *held = line.as_ref().map(|line| line.hold_as_output(CONSUMER)).transpose()?;
        }
        let inputs = self.inputs.iter().map(|(input, line)| Ok((*input, line.hold_as_input(CONSUMER)?)));
        Ok((outputs, inputs.collect::<Result<_, _>>()?))
    }
}

type HeldOutputs = [Option<HeldOutput>; Output::ALL.len()];
type HeldInputs = Vec<(InputLine, HeldInput)>;
