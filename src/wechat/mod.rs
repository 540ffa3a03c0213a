//! The documented WeChat protocol, as values and one client (`facts`: WeChat).
//!
//! [`BodyTemplate`] makes the bytes of a deduction, which never change afterwards. [`WeChatClient`] sends them and tells what came
//! back as an [`Answer`], sorted by [`Classes`]. It knows no queue, no row and no SQL: what becomes of a deduction is decided by
//! its caller.

mod class;
mod client;
mod deduction;
mod http;
mod token;

#[cfg(test)]
mod test_server;

pub use class::{Class, Classes, slow_down_pause};
pub use client::{Answer, ClientError, WeChatClient};
pub use deduction::{BodyTemplate, Deduction};
pub use http::{NoAnswer, NoAnswerKind};
pub use token::NoToken;
