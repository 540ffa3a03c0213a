//! Carries callbacks to the gate: HTTP around the pure `callbacks` and `seal`.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, redirect};
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{
    callbacks::{Errand, Kind},
    seal::{Freshness, seal},
    server::Sandbox,
};
use crate::wechat::Opener;

/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Callbacks under way at once.
const AT_ONCE_MAX: usize = 16;
/// How long the gate may take for an answer, as in WeChat's other callbacks.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Where callbacks go, and the keys that the gate opens them with.
#[derive(Debug, Clone)]
pub struct Callee {
    /// Such as `http://127.0.0.1:8480`.
    pub url: String,
    /// `callback.payment_path`
    pub payment_path: String,
    /// `callback.arrears_path`
    pub arrears_path: String,
    /// Of `[wechat]` and `[callback]`.
    pub keys: Arc<Opener>,
}

/// Carries until `stop` is true or its sender is gone.
pub(super) async fn run(sandbox: Sandbox, callee: Callee, mut stop: watch::Receiver<bool>) {
    // Fails when a provider is already installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(ANSWER_WITHIN).build();
    let Ok(client) = client else { return log::error!("no callbacks: the HTTP client cannot be made") };
    let mut under_way = JoinSet::new();
    loop {
        while let Some(errand) = (under_way.len() < AT_ONCE_MAX).then(|| sandbox.next_errand()).flatten() {
            under_way.spawn(carry(sandbox.clone(), client.clone(), callee.clone(), errand));
        }
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => return,
            Some(_) = under_way.join_next() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

async fn carry(sandbox: Sandbox, client: Client, callee: Callee, errand: Errand) {
    let is_received = deliver(&client, &callee, &errand).await.unwrap_or(false);
    sandbox.errand_came_back(errand, is_received);
}

/// Whether the gate says that it has received it; `None` when it says nothing of use.
async fn deliver(client: &Client, callee: &Callee, errand: &Errand) -> Option<bool> {
    let envelope = seal(&callee.keys, &errand.content, Freshness::random().ok()?)?;
    let path = match errand.kind {
        Kind::Payment => &callee.payment_path,
        Kind::Arrears => &callee.arrears_path,
    };
    let request = client.post(format!("{}{path}", callee.url)).header("content-type", "application/json");
    let answer = request.body(envelope.to_string()).send().await.ok()?.bytes().await.ok()?;
    let answer: Value = serde_json::from_slice(&answer).ok()?;
    Some(answer["errcode"] == 0 && answer["nonce_str"] == envelope["nonce_str"])
}
