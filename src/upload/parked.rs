//! What people are told of parked rows: the first at once, those that follow within a minute as a number with the next. When WeChat
//! refuses every row the log must not grow by a line for each; which they are, the queue says.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::queue::ParkReason;

/// Between two lines about parked rows.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What was told, and what was not.
#[derive(Debug, Default)]
pub(super) struct ParkedNews {
    told_at: Option<Instant>,
    untold: u64,
}

/// A line about one parked row, and how many were parked since the last line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parked<'a> {
    order: &'a str,
    reason: ParkReason,
    answer: &'a str,
    others: u64,
}

/// How many rows were parked without a line of their own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Others(u64);

impl ParkedNews {
    /// A row was parked; what to tell, if it is time to.
    pub(super) fn of<'a>(&mut self, order: &'a str, reason: ParkReason, answer: &'a str, now: Instant) -> Option<Parked<'a>> {
        if self.told_at.is_some_and(|at| now.saturating_duration_since(at) < TELL_EVERY) {
            self.untold += 1;
            return None;
        }
        self.told_at = Some(now);
        Some(Parked { order, reason, answer, others: std::mem::take(&mut self.untold) })
    }

    /// When rows that were not told are to be, though no further one is parked.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.told_at.filter(|_| self.untold > 0).map(|at| at + TELL_EVERY)
    }

    /// What is due by now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Others> {
        self.due_at().filter(|at| *at <= now)?;
        self.told_at = Some(now);
        Some(Others(std::mem::take(&mut self.untold)))
    }
}

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} more deductions were parked, see `faregate queue list --state parked`", self.0)
    }
}

impl fmt::Display for Parked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deduction {} is parked ({}): {}", self.order, self.reason.as_str(), self.answer)?;
        if self.others > 0 {
            write!(f, "; {} others since the last such line, see `faregate queue list --state parked`", self.others)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_told_though_no_further_row_is_parked() {
        let (mut news, start) = (ParkedNews::default(), Instant::now());
        assert_eq!(news.due_at(), None);
        for order in ["A", "B", "C"] {
            news.of(order, ParkReason::Refused, "errcode 47001", start);
        }
        assert_eq!((news.due_at(), news.take_due(start)), (Some(start + TELL_EVERY), None));
        assert!(news.take_due(start + TELL_EVERY).unwrap().to_string().starts_with("2 more deductions were parked"));
        assert_eq!((news.due_at(), news.take_due(start + TELL_EVERY * 2)), (None, None));
    }

    #[test]
    fn a_thousand_parked_rows_in_a_minute_are_one_line_and_a_number_in_the_next() {
        let (mut news, start) = (ParkedNews::default(), Instant::now());
        let mut told = |after: Duration| {
            let line = news.of("ORDER", ParkReason::Refused, "errcode 47001", start + after);
            line.map(|line| line.to_string())
        };
        assert_eq!(told(Duration::ZERO).unwrap(), "deduction ORDER is parked (refused): errcode 47001");
        assert!((1..1000).all(|ms| told(Duration::from_millis(ms)).is_none()));
        let next = told(TELL_EVERY).unwrap();
        assert!(next.contains("; 999 others since the last such line"), "{next}");
        assert!(!told(TELL_EVERY * 3).unwrap().contains("others"));
    }
}
