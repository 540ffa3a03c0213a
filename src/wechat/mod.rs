//! The documented WeChat protocol, as values and one client (`facts`: WeChat).
//!
//! [`BodyTemplate`] makes the bytes of a deduction, which never change afterwards. [`WeChatClient`] sends them and tells what came
//! back as an [`Answer`], sorted by [`Classes`]. [`Opener`] opens the envelopes of callbacks, and [`PaymentResult`] and
//! [`ArrearsResult`] read what is in them. This room knows no queue, no row and no SQL: what becomes of a deduction is decided by
//! its caller.

mod class;
mod client;
mod deduction;
mod envelope;
mod http;
mod result;
mod token;

#[cfg(test)]
mod test_server;

pub use class::{Class, Classes, Pause, slow_down_pause};
pub use client::{Answer, ClientError, WeChatClient};
pub use deduction::{BodyTemplate, Deduction, RequestCodes, is_request_of};
#[cfg(feature = "sandbox")]
pub(crate) use envelope::Signed;
pub use envelope::{Letter, NotOpened, Opener, SignField, SignKey};
pub use http::{NoAnswer, NoAnswerKind};
pub use result::{ArrearsResult, NoResult, ORDERS_MAX, OrderNames, PaymentResult, TradeState};
pub use token::NoToken;
