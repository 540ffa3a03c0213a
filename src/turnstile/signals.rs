//! The lights and the buzzer of one lane: what a passenger sees and hears. Pure: it is handed the time and says what to set.
//!
//! - The pass light is on exactly while `open` is active; it puts the deny light out.
//! - Each refusal is an edge of the deny light of its own, for [`DENY_LIGHT`].
//! - Out of order is a steady deny light, to which refusals and pulses give way and come back.
//! - A new sound replaces the one that is going on.

use std::time::{Duration, Instant};

use super::driver::Output;

/// How long the deny light shows a refusal.
pub(super) const DENY_LIGHT: Duration = Duration::from_secs(1);
/// How long a beep is, and the silence between two.
pub(super) const BEEP: Duration = Duration::from_millis(100);
/// The one long beep.
pub(super) const LONG_BEEP: Duration = Duration::from_secs(1);

/// What a refusal sounds like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beeps {
    /// Two short ones: try again with a new code.
    TwoShort,
    /// Three short ones: something else has to be done first.
    ThreeShort,
    /// One long one: whoever watches the gate should look.
    OneLong,
}

impl Beeps {
    /// How many, and how long each.
    fn count_and_length(self) -> (u32, Duration) {
        match self {
            Self::TwoShort => (2, BEEP),
            Self::ThreeShort => (3, BEEP),
            Self::OneLong => (1, LONG_BEEP),
        }
    }
}

/// One output to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    /// Never [`Output::Open`].
    pub(super) output: Output,
    /// The level.
    pub(super) active: bool,
    /// Why the deny light is on.
    pub(super) reason: Option<&'static str>,
}

/// The lights and the buzzer of one lane.
#[derive(Debug, Default)]
pub(super) struct Signals {
    passing: bool,
    /// The reason that the deny light is on with.
    denying: Option<&'static str>,
    refusal_until: Option<Instant>,
    out_of_order: Option<&'static str>,
    buzzing: bool,
    buzzer_changes_at: Option<Instant>,
    buzzer_changes_left: u32,
    beep: Duration,
}

impl Signals {
    /// `open` has become active.
    pub(super) fn opened(&mut self, sets: &mut Vec<Set>) {
        self.refusal_until = None;
        self.settle_deny_light(true, sets);
        self.set_pass_light(true, sets);
    }

    /// Somebody may pass: `open` is active for this one.
    pub(super) fn admitted(&mut self, now: Instant, sets: &mut Vec<Set>) {
        self.opened(sets);
        self.beep(now, 1, BEEP, sets);
    }

    /// `open` has become inactive.
    pub(super) fn closed(&mut self, sets: &mut Vec<Set>) {
        self.set_pass_light(false, sets);
        self.settle_deny_light(false, sets);
    }

    /// Somebody is refused.
    pub(super) fn refused(&mut self, now: Instant, reason: &'static str, beeps: Beeps, sets: &mut Vec<Set>) {
        let (count, each) = beeps.count_and_length();
        self.refusal_until = Some(now + DENY_LIGHT);
        self.set_deny_light(Some(reason), sets);
        self.beep(now, count, each, sets);
    }

    /// The lane is out of order, or no longer.
    pub(super) fn out_of_order(&mut self, reason: Option<&'static str>, sets: &mut Vec<Set>) {
        self.out_of_order = reason;
        self.settle_deny_light(self.passing, sets);
    }

    /// Time has passed.
    pub(super) fn elapse(&mut self, now: Instant, sets: &mut Vec<Set>) {
        if self.refusal_until.is_some_and(|until| until <= now) {
            self.refusal_until = None;
            self.settle_deny_light(self.passing, sets);
        }
        if self.buzzer_changes_at.is_some_and(|at| at <= now) {
            self.change_buzzer(now, sets);
        }
    }

    /// Everything off, for good.
    pub(super) fn stop(&mut self, sets: &mut Vec<Set>) {
        self.set_pass_light(false, sets);
        self.set_deny_light(None, sets);
        self.set_buzzer(false, sets);
        *self = Self::default();
    }

    /// When [`Self::elapse`] has something to do next.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        self.refusal_until.into_iter().chain(self.buzzer_changes_at).min()
    }

    /// What the deny light shows when no refusal is on it.
    fn settle_deny_light(&mut self, passing: bool, sets: &mut Vec<Set>) {
        let wanted = if passing { None } else { self.out_of_order };
        if self.refusal_until.is_none() && self.denying != wanted {
            self.set_deny_light(wanted, sets);
        }
    }

    fn set_deny_light(&mut self, reason: Option<&'static str>, sets: &mut Vec<Set>) {
        if self.denying.is_some() {
            sets.push(Set { output: Output::LightDeny, active: false, reason: None });
        }
        if reason.is_some() {
            sets.push(Set { output: Output::LightDeny, active: true, reason });
        }
        self.denying = reason;
    }

    fn set_pass_light(&mut self, active: bool, sets: &mut Vec<Set>) {
        if self.passing != active {
            self.passing = active;
            sets.push(Set { output: Output::LightPass, active, reason: None });
        }
    }

    fn beep(&mut self, now: Instant, beeps: u32, each: Duration, sets: &mut Vec<Set>) {
        self.set_buzzer(true, sets);
        self.buzzer_changes_left = 2 * beeps - 1;
        self.beep = each;
        self.buzzer_changes_at = Some(now + each);
    }

    /// Each change is timed from the one before as it happened, so that a late one still leaves a beep to be heard.
    fn change_buzzer(&mut self, now: Instant, sets: &mut Vec<Set>) {
        self.set_buzzer(!self.buzzing, sets);
        self.buzzer_changes_left -= 1;
        self.buzzer_changes_at = (self.buzzer_changes_left > 0).then_some(now + self.beep);
    }

    fn set_buzzer(&mut self, active: bool, sets: &mut Vec<Set>) {
        if self.buzzing != active {
            self.buzzing = active;
            sets.push(Set { output: Output::Buzzer, active, reason: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A passenger who watches and listens while time passes.
    struct Watch {
        signals: Signals,
        now: Instant,
        sets: Vec<Set>,
    }

    impl Watch {
        fn new() -> Self {
            Self { signals: Signals::default(), now: Instant::now(), sets: Vec::new() }
        }

        fn wait(&mut self, duration: Duration) {
            let end = self.now + duration;
            while let Some(at) = self.signals.next_wakeup().filter(|at| *at <= end) {
                self.now = at;
                self.signals.elapse(at, &mut self.sets);
            }
            self.now = end;
        }

        fn refuse(&mut self, reason: &'static str) {
            self.signals.refused(self.now, reason, Beeps::ThreeShort, &mut self.sets);
        }

        /// What the deny light did since the last look: its reason when it went on, `off` when it went off.
        fn deny_light(&mut self) -> Vec<&'static str> {
            let (deny, others) = self.sets.drain(..).partition(|set| set.output == Output::LightDeny);
            self.sets = others;
            Vec::into_iter(deny).map(|set: Set| set.reason.unwrap_or("off")).collect()
        }

        fn count(&self, output: Output, active: bool) -> usize {
            self.sets.iter().filter(|set| set.output == output && set.active == active).count()
        }
    }

    #[test]
    fn a_refusal_is_a_light_for_a_second_and_three_beeps() {
        let mut watch = Watch::new();
        watch.refuse("expired");
        watch.wait(DENY_LIGHT.saturating_sub(Duration::from_millis(1)));
        assert_eq!(watch.deny_light(), ["expired"]);
        watch.wait(Duration::from_millis(1));
        assert_eq!(watch.deny_light(), ["off"]);
        assert_eq!((watch.count(Output::Buzzer, true), watch.count(Output::Buzzer, false)), (3, 3));
        assert_eq!(watch.signals.next_wakeup(), None);
    }

    #[test]
    fn each_sound_has_its_number_of_beeps_and_its_length() {
        for (beeps, count, sounds_for) in
            [(Beeps::TwoShort, 2, BEEP * 3), (Beeps::ThreeShort, 3, BEEP * 5), (Beeps::OneLong, 1, LONG_BEEP)]
        {
            let mut watch = Watch::new();
            watch.signals.refused(watch.now, "expired", beeps, &mut watch.sets);
            watch.wait(sounds_for.saturating_sub(Duration::from_millis(1)));
            assert_eq!((watch.count(Output::Buzzer, true), watch.count(Output::Buzzer, false)), (count, count - 1), "{beeps:?}");
            watch.wait(Duration::from_millis(1));
            assert_eq!(watch.count(Output::Buzzer, false), count, "{beeps:?}");
        }
    }

    #[test]
    fn each_refusal_is_an_edge_of_its_own() {
        let mut watch = Watch::new();
        watch.refuse("expired");
        watch.refuse("expired");
        watch.refuse("duplicate");
        assert_eq!(watch.deny_light(), ["expired", "off", "expired", "off", "duplicate"]);
    }

    #[test]
    fn an_admission_puts_the_deny_light_out_and_beeps_once() {
        let mut watch = Watch::new();
        watch.refuse("expired");
        watch.sets.clear();
        watch.signals.admitted(watch.now, &mut watch.sets);
        watch.wait(DENY_LIGHT * 2);
        assert_eq!(watch.deny_light(), ["off"]);
        assert_eq!(watch.count(Output::Buzzer, true), 0, "the buzzer was sounding already");
        assert_eq!(watch.count(Output::Buzzer, false), 1);
        assert_eq!((watch.count(Output::LightPass, true), watch.count(Output::LightPass, false)), (1, 0));
        watch.signals.closed(&mut watch.sets);
        assert_eq!(watch.count(Output::LightPass, false), 1);
    }

    #[test]
    fn out_of_order_is_steady_and_comes_back_after_refusals_and_pulses() {
        let mut watch = Watch::new();
        watch.signals.out_of_order(Some("out-of-order"), &mut watch.sets);
        watch.wait(DENY_LIGHT * 3);
        assert_eq!(watch.deny_light(), ["out-of-order"]);
        watch.refuse("expired");
        watch.wait(DENY_LIGHT);
        assert_eq!(watch.deny_light(), ["off", "expired", "off", "out-of-order"]);
        watch.signals.opened(&mut watch.sets);
        watch.signals.closed(&mut watch.sets);
        assert_eq!(watch.deny_light(), ["off", "out-of-order"]);
        watch.signals.out_of_order(None, &mut watch.sets);
        assert_eq!(watch.deny_light(), ["off"]);
    }

    #[test]
    fn a_refusal_with_the_reason_of_the_steady_light_is_one_edge() {
        let mut watch = Watch::new();
        watch.signals.out_of_order(Some("out-of-order"), &mut watch.sets);
        watch.refuse("out-of-order");
        watch.wait(DENY_LIGHT);
        assert_eq!(watch.deny_light(), ["out-of-order", "off", "out-of-order"]);
    }

    #[test]
    fn a_refusal_is_shown_for_its_time_when_the_lane_goes_out_of_order() {
        let mut watch = Watch::new();
        watch.refuse("expired");
        watch.signals.out_of_order(Some("out-of-order"), &mut watch.sets);
        assert_eq!(watch.deny_light(), ["expired"]);
        watch.wait(DENY_LIGHT);
        assert_eq!(watch.deny_light(), ["off", "out-of-order"]);
    }

    #[test]
    fn a_steady_light_told_twice_does_not_blink() {
        let mut watch = Watch::new();
        watch.signals.out_of_order(Some("out-of-order"), &mut watch.sets);
        watch.signals.out_of_order(Some("out-of-order"), &mut watch.sets);
        assert_eq!(watch.deny_light(), ["out-of-order"]);
    }

    #[test]
    fn stopping_leaves_everything_off() {
        let mut watch = Watch::new();
        watch.signals.out_of_order(Some("out-of-order"), &mut watch.sets);
        watch.signals.admitted(watch.now, &mut watch.sets);
        watch.refuse("expired");
        watch.signals.stop(&mut watch.sets);
        for output in [Output::LightPass, Output::LightDeny, Output::Buzzer] {
            assert_eq!(watch.count(output, true), watch.count(output, false), "{output:?}");
        }
        assert_eq!(watch.signals.next_wakeup(), None);
    }
}
