//! Which rows to ask the ledger for next. A pure state machine.
//!
//! Rows are loaded by ascending ID behind a cursor. A row that becomes pending below it (its passage came, a person retries it)
//! moves the cursor back; whoever takes the rows must leave out those that it already has.

/// The cursor.
#[derive(Debug)]
pub(super) struct Intake {
    /// Everything up to here has been loaded.
    cursor: i64,
    /// There was nothing above the cursor when it was last looked at.
    exhausted: bool,
    /// A load is under way; it must not undo a change that comes meanwhile.
    loading: bool,
    changed_meanwhile: Option<i64>,
}

impl Intake {
    /// All pending rows are still to be loaded.
    pub(super) fn new() -> Self {
        Self { cursor: 0, exhausted: false, loading: false, changed_meanwhile: None }
    }

    /// Whether there may be rows to load.
    pub(super) fn wants(&self) -> bool {
        !self.exhausted && !self.loading
    }

    /// No row is pending but those that were loaded.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Begins a load; the ID after which to load.
    pub(super) fn begin(&mut self) -> i64 {
        self.loading = true;
        self.cursor
    }

    /// Ends a load that was asked for `limit` rows and brought `ids`, ascending.
    pub(super) fn loaded(&mut self, ids: &[i64], limit: usize) {
        self.loading = false;
        self.exhausted = ids.len() < limit;
        self.cursor = ids.last().copied().unwrap_or(self.cursor);
        if let Some(id) = self.changed_meanwhile.take() {
            self.go_back(id);
        }
    }

    /// Ends a load that failed.
    pub(super) fn failed(&mut self) {
        self.loading = false;
        if let Some(id) = self.changed_meanwhile.take() {
            self.go_back(id);
        }
    }

    /// Rows from `id` on may have become pending.
    pub(super) fn changed(&mut self, id: i64) {
        if self.loading {
            self.changed_meanwhile = Some(self.changed_meanwhile.map_or(id, |known| known.min(id)));
        } else {
            self.go_back(id);
        }
    }

    #[cfg(test)]
    pub(super) fn cursor(&self) -> i64 {
        self.cursor
    }

    fn go_back(&mut self, id: i64) {
        self.cursor = self.cursor.min(id.saturating_sub(1));
        self.exhausted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_brings_less_than_asked_for_is_the_last_until_something_changes() {
        let mut intake = Intake::new();
        assert_eq!(intake.begin(), 0);
        assert!(!intake.wants());
        intake.loaded(&[4, 9], 2);
        assert!(intake.wants());
        assert_eq!(intake.begin(), 9);
        intake.loaded(&[], 2);
        assert!(!intake.wants() && intake.is_exhausted());
        intake.changed(12);
        assert!(intake.wants());
        assert_eq!(intake.begin(), 9);
    }

    #[test]
    fn a_row_that_becomes_pending_below_the_cursor_is_loaded() {
        let mut intake = Intake::new();
        intake.begin();
        intake.loaded(&[4, 9], 16);
        intake.changed(5);
        assert_eq!(intake.begin(), 4);
    }

    #[test]
    fn a_change_during_a_load_is_not_lost() {
        for ends_well in [true, false] {
            let mut intake = Intake::new();
            intake.begin();
            intake.changed(7);
            intake.changed(3);
            if ends_well {
                intake.loaded(&[20, 21], 16);
            } else {
                intake.failed();
            }
            assert!(intake.wants());
            assert!(intake.begin() <= 2);
        }
    }
}
