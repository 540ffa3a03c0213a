//! How the ledger tells that rows have become pending.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// How the ledger tells the uploader that rows have become pending, whatever their IDs: new ones, and old ones whose passage came
/// or that a person retries. Raising never waits; what was raised before anybody waited is kept, as the lowest ID.
#[derive(Debug, Default)]
pub struct PendingSignal {
    lowest_id: Mutex<Option<i64>>,
    notify: Notify,
}

impl PendingSignal {
    /// The row `id`, and perhaps others above it, has become pending.
    pub fn raise(&self, id: i64) {
        let mut lowest = self.lowest_id.lock().unwrap_or_else(PoisonError::into_inner);
        *lowest = Some(lowest.map_or(id, |known| known.min(id)));
        drop(lowest);
        self.notify.notify_one();
    }

    /// Waits for the next [`raise`](Self::raise), or takes what was raised since this last returned. For one waiter.
    pub async fn wait(&self) -> i64 {
        loop {
            let raised = self.lowest_id.lock().unwrap_or_else(PoisonError::into_inner).take();
            match raised {
                Some(id) => return id,
                None => self.notify.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_lowest_of_the_rows_raised_is_not_lost() {
        let signal = PendingSignal::default();
        for id in [9, 3, 7] {
            signal.raise(id);
        }
        assert_eq!(signal.wait().await, 3);
        {
            let waiting = std::pin::pin!(signal.wait());
            tokio::select! { biased; id = waiting => panic!("{id}"), () = std::future::ready(()) => {} }
        }
        signal.raise(5);
        assert_eq!(signal.wait().await, 5);
    }
}
