//! The other side, for trials, the demo and tests: a WeChat that follows the public pages, with faults on demand.
//!
//! Behind the cargo feature `sandbox`, which the Debian package leaves out. The way of a request through this room: `server` (HTTP),
//! `wechat` (what it means, with `token`, `fields`, `book`), `faults` (what goes wrong on purpose); the way back is `callbacks` (what
//! is told when), `seal` (the envelope), `courier` (HTTP). [`demo`] puts a whole gate
//! beside it. Nothing of the gate knows this room.

mod book;
mod callbacks;
mod courier;
pub mod demo;
mod faults;
mod fields;
mod random;
mod seal;
mod server;
mod token;
mod wechat;

pub use book::{CHARGES_MAX, Charge};
pub use callbacks::{CallbackCounts, CallbackRules, Money, REPEAT_MAX};
pub use courier::Callee;
pub use faults::{Fault, Faults, FaultsInForce, LATENCY_MAX_MS, Latency, On, RULES_MAX, Rule};
#[cfg(test)]
pub(crate) use random::Random;
#[cfg(test)]
pub(crate) use seal::{Freshness, seal};
pub use server::Sandbox;
pub use wechat::{Answer, Counts, ERRCODE_ORDER_REUSED, Moment, Options, Reply, Request, TokenUse, WeChat};
