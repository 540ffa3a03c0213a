//! Ports on 127.0.0.1 that stay free until they are used.

use std::{
    net::TcpListener,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below the ephemeral ports: no client's own port can be in the way, and no connection can meet itself.
const FIRST: u32 = 15_000;
const COUNT: u32 = 17_000;
/// How far apart two test programs that run at the same time begin.
const STRIDE: u32 = 389;

static TAKEN: AtomicU32 = AtomicU32::new(0);

/// A port that nobody listens on and that no other test of this program is given.
pub(crate) fn free_port() -> u16 {
    loop {
        let step = process::id().wrapping_mul(STRIDE).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + step % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
