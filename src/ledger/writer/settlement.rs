//! Callbacks of WeChat, written at once: they are answered when they are durable.

use super::{Reply, Writer};
use crate::{
    clock::Stamp,
    ledger::results::{Callback, IfUnknown, Settled},
};

impl Writer {
    /// A row of it may be in the hands of the uploader, or wait for its opening: whatever comes back about it later finds it
    /// settled and leaves it so.
    pub(super) fn settle(&mut self, callback: &Callback, if_unknown: IfUnknown, reply: Reply<Settled>) {
        let result = self.write_for(|store| store.settle(callback, if_unknown, Stamp::now().utc_ms));
        // Whoever asked may have gone; what was told stands, and is told again.
        let _ = reply.send(result);
    }
}
