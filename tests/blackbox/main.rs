//! Black-box tests: the real program on pseudo-terminals, with a real SQLite file, beside a WeChat of the tests' own.
//!
//! They know what an operator knows — settings, commands, files, the trace of the simulated turnstile — and share no code with the
//! program, but for the issuer of ride codes (`support::phones`), which is the other side. Each test names one promise and stands
//! alone: a folder, ports and terminals of its own, nothing left behind. They wait for conditions with a deadline; a pause stands
//! only where time itself is the input (silence on a line).

// Outside functions marked as tests, clippy does not know that this whole program is one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

mod admission;
mod answers;
mod callback;
mod cli;
mod clock;
#[cfg(feature = "sandbox")]
mod code;
mod control;
mod damage;
mod decisions;
#[cfg(feature = "sandbox")]
mod demo;
#[cfg(feature = "sandbox")]
mod deny;
mod doctor;
mod export;
mod exposure;
mod faults;
mod framings;
mod fsck;
mod hostile;
mod isolation;
mod journey_storm;
mod journeys;
mod notify;
mod outoforder;
mod reload;
mod retry;
#[cfg(feature = "sandbox")]
mod ridecode;
mod stopping;
mod storm;
mod unplug;
mod way;
#[cfg(not(feature = "sandbox"))]
mod without_sandbox;
