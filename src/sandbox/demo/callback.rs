//! The way back in the demo: keys that lie beside the settings, a port of 127.0.0.1, and what the sandbox tells the gate of payments.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use data_encoding::BASE64;

use crate::{
    sandbox::{CallbackRules, Callee, Latency, Options},
    wechat::{Opener, SignField, SignKey},
};

pub(super) const MERCHANT: &str = "1900000001";
const AES_KEY: &str = "callback-aes";
const SIGN_KEY: &str = "callback-sign";
const PAYMENT_PATH: &str = "/wechat/payment/DEMO";
const ARREARS_PATH: &str = "/wechat/arrears/DEMO";
const KEY_BYTES: usize = 32;
/// Below the ports that the system gives to clients, so that none of them takes it meanwhile.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Quick, so that there is something to see; some passengers have no money, and half of these never pay.
pub(super) const RULES: CallbackRules = CallbackRules {
    hold: false,
    delay_ms: Latency { p50: 300, p99: 1500 },
    repeat: 1,
    early_share: 0.2,
    fail_share: 0.25,
    repay_after_ms: Some(1500),
    repay_share: 0.5,
};

/// Where the gate is called back, with keys of its own.
pub(super) struct WayBack {
    address: SocketAddr,
    aes_key: [u8; KEY_BYTES],
    sign_key: String,
}

impl WayBack {
    pub(super) fn new() -> io::Result<Self> {
        let (mut aes_key, mut sign_key) = ([0; KEY_BYTES], [0; KEY_BYTES]);
        getrandom::fill(&mut aes_key).and_then(|()| getrandom::fill(&mut sign_key)).map_err(io::Error::other)?;
        Ok(Self { address: free_address()?, aes_key, sign_key: BASE64.encode(&sign_key) })
    }

    /// As the sandbox calls the gate.
    pub(super) fn callee(&self) -> Callee {
        let keys = Opener {
            appid: Options::default().appid,
            mch_id: MERCHANT.to_owned(),
            aes_key: self.aes_key.to_vec().into(),
            sign: SignKey::HmacSha256(self.sign_key.clone().into()),
            sign_fields: SignField::ALL.to_vec(),
        };
        Callee {
            url: format!("http://{}", self.address),
            payment_path: PAYMENT_PATH.to_owned(),
            arrears_path: ARREARS_PATH.to_owned(),
            keys: Arc::new(keys),
        }
    }

    pub(super) fn write_keys(&self, folder: &Path) -> io::Result<()> {
        for (name, key) in [(AES_KEY, &BASE64.encode(&self.aes_key)), (SIGN_KEY, &self.sign_key)] {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name))?;
            writeln!(file, "{key}")?;
        }
        Ok(())
    }

    /// `[callback]` of the settings in that folder.
    pub(super) fn settings(&self, folder: &Path) -> String {
        let (address, aes_key, sign_key) = (self.address, folder.join(AES_KEY), folder.join(SIGN_KEY));
        format!(
            r#"
[callback]
listen = "{address}"
payment_path = "{PAYMENT_PATH}"
arrears_path = "{ARREARS_PATH}"
aes_key_file = "{}"
sign_key_file = "{}"
"#,
            aes_key.display(),
            sign_key.display()
        )
    }
}

fn free_address() -> io::Result<SocketAddr> {
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let count = PORTS.end - PORTS.start;
    let first = u16::from_ne_bytes(random) % count;
    let addresses = (0..count).map(|step| SocketAddr::from(([127, 0, 0, 1], PORTS.start + (first + step) % count)));
    let mut free = addresses.filter(|address| TcpListener::bind(address).is_ok());
    free.next().ok_or_else(|| io::ErrorKind::AddrInUse.into())
}
