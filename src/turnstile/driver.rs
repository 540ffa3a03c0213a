//! The seam between what a turnstile does and what moves its lines.
//!
//! A driver sets outputs when told and tells its inputs to the [`InputSink`] that it is opened with, from a thread of its own
//! that ends when the driver is dropped. It knows neither pulses nor tickets.

use std::{io, sync::mpsc};

use serde::Deserialize;

use super::{LaneSetup, TurnstileError, gpio::Gpio, simulated::Simulated, thread::Message};
use crate::config;

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// The turnstile itself.
    Open,
    /// Go.
    LightPass,
    /// Do not go.
    LightDeny,
    /// Beeps.
    Buzzer,
}

impl Output {
    /// Every output; a driver that lacks one takes orders for it and does nothing.
    pub(super) const ALL: [Self; 4] = [Self::Open, Self::LightPass, Self::LightDeny, Self::Buzzer];

    /// As the settings and the trace call it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::LightPass => "light_pass",
            Self::LightDeny => "light_deny",
            Self::Buzzer => "buzzer",
        }
    }
}

/// What can be told by a turnstile. As the settings and the inputs FIFO call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InputLine {
    /// Somebody passes.
    Passage,
    /// Everybody must get out.
    FireAlarm,
    /// Somebody wants to get out.
    ExitButton,
}

impl InputLine {
    /// As the settings call it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Passage => "passage",
            Self::FireAlarm => "fire_alarm",
            Self::ExitButton => "exit_button",
        }
    }
}

/// Sets the outputs of one lane.
///
/// Dropping it ends whatever it started; setting the outputs inactive before that is the caller's duty.
pub(super) trait Driver: Send {
    /// Sets `output`, whatever it was before, without waiting for anything slow. `reason`: why the deny light is on.
    ///
    /// # Errors
    /// The level of the output is unknown.
    fn set(&mut self, output: Output, active: bool, reason: Option<&'static str>) -> io::Result<()>;
}

/// Opens the driver that the settings ask for. Its inputs count as inactive until it tells otherwise.
pub(super) fn open(setup: &LaneSetup, sink: InputSink) -> Result<Box<dyn Driver>, TurnstileError> {
    match &setup.settings.driver {
        config::Driver::Gpio(settings) => Ok(Box::new(Gpio::open(&setup.name, settings, sink)?)),
        config::Driver::Simulated { trace, inputs } => {
            let inputs = inputs.as_deref().map(|path| (path, setup.settings.inputs));
            Ok(Box::new(Simulated::open(&setup.name, trace.as_deref(), inputs, sink)?))
        }
    }
}

/// Where a driver tells the levels of its lane's inputs. Never waits; the same level twice is harmless.
#[derive(Debug, Clone)]
pub(super) struct InputSink {
    lane: usize,
    messages: mpsc::Sender<Message>,
}

impl InputSink {
    pub(super) fn new(lane: usize, messages: mpsc::Sender<Message>) -> Self {
        Self { lane, messages }
    }

    /// An input is now at this level.
    pub(super) fn tell(&self, line: InputLine, active: bool) {
        // Without a receiver the turnstiles are stopping.
        let _ = self.messages.send(Message::Line { lane: self.lane, line, active });
    }

    /// Whether an input can be read has changed; its level counts as it was.
    pub(super) fn tell_unreadable(&self, line: InputLine, unreadable: bool) {
        let _ = self.messages.send(Message::Unreadable { lane: self.lane, line, unreadable });
    }
}
