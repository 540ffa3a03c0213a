//! Faregate: the daemon inside a fare gate.
//!
//! It reads QR ride codes from a serial scanner, judges them offline, records what each passage will be charged, opens the
//! turnstile only when that record is durable, and delivers the deductions to WeChat in the background.
//!
//! The modules are the rooms that a scan passes through, in this order; none of them knows a room that comes later:
//!
//! ```text
//! scanner -> ride_code -> journey -> ledger -> turnstile      the way of a scan: one commit, no network
//!                                      |^
//!                                      v|
//!                          wechat <- upload   settlement <- callbacks      background
//! ```
//!
//! [`lane`] joins the first five for one reader and one turnstile, [`daemon`] builds everything and stops it in order,
//! [`monitor`] and [`control`] tell people and programs how it is doing. With the cargo feature `sandbox` there is the other side
//! too: a WeChat for trials and the demo.

pub mod bench;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod deny_list;
pub mod doctor;
mod entropy;
#[cfg(any(test, feature = "sandbox"))]
pub mod issuer;
pub mod journal;
pub mod journey;
pub mod lane;
pub mod ledger;
pub mod monitor;
pub mod ride_code;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod scanner;
pub mod settlement;
#[cfg(test)]
#[cfg(feature = "sandbox")]
mod simulation;
pub mod turnstile;
pub mod upload;
pub mod wechat;
