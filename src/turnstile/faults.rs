//! Inputs that contradict what a gate is: somebody who passes for minutes, a button that is held, a line that cannot be read. Pure.
//!
//! Nothing waits for such an input to end: the lane goes on, and a person is told, once per episode.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::driver::InputLine;

/// Nobody takes longer than this to pass: something stands in the sensor's way, or it is broken.
const PASSAGE_MAX: Duration = Duration::from_secs(120);
/// Nobody presses a button longer than this: it is stuck.
const EXIT_BUTTON_MAX: Duration = Duration::from_secs(60);

/// What is wrong with an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFault {
    /// The passage sensor is active for longer than anybody passes.
    PassageLasts,
    /// The exit button is held for longer than anybody presses it.
    ExitButtonHeld,
    /// The level of the passage sensor is unknown.
    PassageUnreadable,
    /// The level of the fire alarm is unknown.
    FireAlarmUnreadable,
    /// The level of the exit button is unknown.
    ExitButtonUnreadable,
}

impl InputFault {
    const ALL: [Self; 5] =
        [Self::PassageLasts, Self::ExitButtonHeld, Self::PassageUnreadable, Self::FireAlarmUnreadable, Self::ExitButtonUnreadable];

    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn unreadable(line: InputLine) -> Self {
        match line {
            InputLine::Passage => Self::PassageUnreadable,
            InputLine::FireAlarm => Self::FireAlarmUnreadable,
            InputLine::ExitButton => Self::ExitButtonUnreadable,
        }
    }
}

impl fmt::Display for InputFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = |time: Duration| time.as_secs() / 60;
        match self {
            Self::PassageLasts => {
                let minutes = minutes(PASSAGE_MAX);
                write!(
                    f,
                    "the passage sensor is active for more than {minutes} min; look for what stands in its way, and at the sensor"
                )
            }
            Self::ExitButtonHeld => {
                let minutes = minutes(EXIT_BUTTON_MAX);
                write!(
                    f,
                    "the exit button is held for more than {minutes} min and opens no more until it is let go; look whether it is stuck"
                )
            }
            Self::PassageUnreadable => f.write_str("the input passage cannot be read; look at the GPIO chip and restart"),
            Self::FireAlarmUnreadable => f.write_str(
                "the input fire_alarm cannot be read, so that a fire alarm does not open; look at the GPIO chip and restart",
            ),
            Self::ExitButtonUnreadable => f.write_str("the input exit_button cannot be read; look at the GPIO chip and restart"),
        }
    }
}

/// Several of them, small enough to be shared without a lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FaultSet(u8);

impl FaultSet {
    pub(super) fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = InputFault> {
        InputFault::ALL.into_iter().filter(move |fault| self.has(*fault))
    }

    pub(super) fn has(self, fault: InputFault) -> bool {
        self.0 & fault.bit() != 0
    }

    fn set(&mut self, fault: InputFault, is_there: bool) {
        self.0 = if is_there { self.0 | fault.bit() } else { self.0 & !fault.bit() };
    }
}

/// The inputs of one lane.
#[derive(Debug, Default)]
pub(super) struct Faults {
    passage: Hold,
    exit_button: Hold,
    current: FaultSet,
}

/// Since when an input is active.
#[derive(Debug, Default)]
struct Hold(Option<Instant>);

impl Hold {
    fn sense(&mut self, active: bool, now: Instant) {
        self.0 = if active { self.0.or(Some(now)) } else { None };
    }

    fn exceeds(&self, max: Duration, now: Instant) -> bool {
        self.0.is_some_and(|since| since + max <= now)
    }

    fn exceeds_at(&self, max: Duration) -> Option<Instant> {
        self.0.map(|since| since + max)
    }
}

impl Faults {
    /// An input is now at this level.
    pub(super) fn sense(&mut self, line: InputLine, active: bool, now: Instant) {
        match line {
            InputLine::Passage => self.passage.sense(active, now),
            InputLine::ExitButton => self.exit_button.sense(active, now),
            // An alarm lasts as long as it lasts.
            InputLine::FireAlarm => {}
        }
        self.elapse(now);
    }

    /// Whether an input can be read has changed.
    pub(super) fn unreadable(&mut self, line: InputLine, unreadable: bool) {
        self.current.set(InputFault::unreadable(line), unreadable);
    }

    /// Time has passed.
    pub(super) fn elapse(&mut self, now: Instant) {
        self.current.set(InputFault::PassageLasts, self.passage.exceeds(PASSAGE_MAX, now));
        self.current.set(InputFault::ExitButtonHeld, self.exit_button.exceeds(EXIT_BUTTON_MAX, now));
    }

    /// When [`Self::elapse`] has something to find next.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        let missing = |fault, at: Option<Instant>| at.filter(|_| !self.current.has(fault));
        let passage = missing(InputFault::PassageLasts, self.passage.exceeds_at(PASSAGE_MAX));
        let exit_button = missing(InputFault::ExitButtonHeld, self.exit_button.exceeds_at(EXIT_BUTTON_MAX));
        passage.into_iter().chain(exit_button).min()
    }

    /// What is wrong now.
    pub(super) fn current(&self) -> FaultSet {
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(faults: &Faults) -> Vec<InputFault> {
        faults.current().iter().collect()
    }

    #[test]
    fn a_passage_that_lasts_for_minutes_is_a_fault_until_it_ends() {
        let (mut faults, now) = (Faults::default(), Instant::now());
        faults.sense(InputLine::Passage, true, now);
        assert_eq!(faults.next_wakeup(), Some(now + PASSAGE_MAX));
        faults.sense(InputLine::Passage, true, now + PASSAGE_MAX / 2);
        faults.elapse(now + PASSAGE_MAX.saturating_sub(Duration::from_millis(1)));
        assert_eq!(current(&faults), []);
        faults.elapse(now + PASSAGE_MAX);
        assert_eq!(current(&faults), [InputFault::PassageLasts]);
        assert_eq!(faults.next_wakeup(), None, "found once");
        faults.sense(InputLine::Passage, false, now + PASSAGE_MAX * 2);
        assert_eq!(current(&faults), []);
    }

    #[test]
    fn a_button_that_is_held_is_a_fault_of_its_own() {
        let (mut faults, now) = (Faults::default(), Instant::now());
        faults.sense(InputLine::ExitButton, true, now);
        faults.sense(InputLine::Passage, true, now);
        faults.elapse(now + EXIT_BUTTON_MAX);
        assert_eq!(current(&faults), [InputFault::ExitButtonHeld]);
        assert_eq!(faults.next_wakeup(), Some(now + PASSAGE_MAX));
        faults.elapse(now + PASSAGE_MAX);
        assert_eq!(current(&faults), [InputFault::PassageLasts, InputFault::ExitButtonHeld]);
    }

    #[test]
    fn people_who_pass_one_after_the_other_are_none() {
        let (mut faults, now) = (Faults::default(), Instant::now());
        for second in 0..600 {
            faults.sense(InputLine::Passage, second % 2 == 0, now + Duration::from_secs(second));
            assert_eq!(current(&faults), []);
        }
    }

    #[test]
    fn a_fire_alarm_may_last() {
        let (mut faults, now) = (Faults::default(), Instant::now());
        faults.sense(InputLine::FireAlarm, true, now);
        assert_eq!(faults.next_wakeup(), None);
        faults.elapse(now + Duration::from_secs(100_000));
        assert_eq!(current(&faults), []);
    }

    #[test]
    fn an_input_that_cannot_be_read_is_a_fault_until_it_can() {
        let mut faults = Faults::default();
        for line in [InputLine::Passage, InputLine::FireAlarm, InputLine::ExitButton] {
            faults.unreadable(line, true);
            assert_eq!(current(&faults), [InputFault::unreadable(line)]);
            faults.unreadable(line, false);
        }
        assert_eq!(current(&faults), []);
    }

    #[test]
    fn each_fault_is_a_sentence_with_what_to_do_and_survives_as_a_bit() {
        for fault in InputFault::ALL {
            let told = fault.to_string();
            assert!(told.contains("; ") && told.contains("look") && !told.ends_with('.'), "{told}");
            let set = FaultSet::from_bits(fault.bit());
            assert_eq!(set.iter().collect::<Vec<_>>(), [fault]);
        }
    }
}
