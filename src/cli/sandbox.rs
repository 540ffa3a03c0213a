//! `faregate sandbox`: a WeChat for trials and tests.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};

use super::exit::Failure;

// Without the feature the options are understood, shown in the help, and refused.
#[derive(Debug, Args)]
#[cfg_attr(not(feature = "sandbox"), allow(dead_code))]
pub(super) struct Arguments {
    /// Where to listen, such as 127.0.0.1:8490; port 0 is any free one.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// The app that it knows.
    #[arg(long, default_value = "wxsandbox")]
    appid: String,
    /// The app's secret: anything but a real one.
    #[arg(long, default_value = "sandbox-secret")]
    secret: String,
    /// Where tokens are to be had.
    #[arg(long, value_name = "PATH", default_value = "/cgi-bin/stable_token", value_parser = interface)]
    token_path: String,
    /// Where deductions go.
    #[arg(long, value_name = "PATH", default_value = "/deduct", value_parser = interface)]
    deduct_path: String,
    /// How long a token is good.
    #[arg(long, value_name = "SECONDS", default_value_t = 7200, value_parser = clap::value_parser!(u64).range(1..=7200))]
    token_life: u64,
    /// Take deductions without a token too.
    #[arg(long)]
    no_token: bool,
    /// Answer every repeat of a charged order with this errcode, in place of the first answer.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    duplicate_errcode: Option<i64>,
    /// Of everything that is left to chance.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    callbacks: CallbackArguments,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Callbacks: whether a deduction was paid")]
#[cfg_attr(not(feature = "sandbox"), allow(dead_code))]
struct CallbackArguments {
    /// Call a gate back at this URL; host and port are those where it listens for callbacks.
    #[arg(long, value_name = "URL", requires = "callback_aes_key_file")]
    callback_url: Option<String>,
    /// The merchant, as in the gate's settings.
    #[arg(long, value_name = "ID", default_value = "1900000001")]
    mch_id: String,
    /// Where payments are told, as in the gate's settings.
    #[arg(long, value_name = "PATH", default_value = "/wechat/payment")]
    payment_path: String,
    /// Where repayments are told, as in the gate's settings.
    #[arg(long, value_name = "PATH", default_value = "/wechat/arrears")]
    arrears_path: String,
    /// The AES key: the file that the gate's settings name.
    #[arg(long, value_name = "FILE")]
    callback_aes_key_file: Option<PathBuf>,
    /// How the key is written in it.
    #[arg(long, value_enum, default_value_t = KeyEncoding::Base64)]
    callback_aes_key_encoding: KeyEncoding,
    /// How callbacks are signed; the fields are the default ones.
    #[arg(long, value_enum, default_value_t = SignName::HmacSha256)]
    callback_sign: SignName,
    /// The key of the signature: the file that the gate's settings name.
    #[arg(long, value_name = "FILE")]
    callback_sign_key_file: Option<PathBuf>,
    /// Half of all callbacks come at most so long after their deduction, nearly all within four times as long.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=15_000))]
    callback_delay: u32,
    /// Tell each so often again although it was received.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=20))]
    callback_repeat: u32,
    /// This part comes before the answer to its deduction, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    callback_early: f64,
    /// This part of the passengers has no money, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    callback_fail: f64,
    /// They pay so much later, several trips at once; without it, never.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=604_800))]
    callback_repay_after: Option<u64>,
}

/// How the AES key is written in its file.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeyEncoding {
    Base64,
    Hex,
    Raw,
}

/// How callbacks are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SignName {
    HmacSha256,
    Md5,
    None,
}

/// The path of an interface of WeChat's.
fn interface(path: &str) -> Result<String, &'static str> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'"' | b'\\');
    if !path.starts_with('/') || !path.bytes().all(is_plain) {
        return Err("a path begins with / and has no spaces and none of ? # \" \\");
    }
    if path.starts_with("/sandbox/") { Err("/sandbox/ is where the sandbox itself is switched") } else { Ok(path.to_owned()) }
}

#[cfg(not(feature = "sandbox"))]
pub(super) fn run(_: &Arguments) -> Result<(), Failure> {
    Err(super::without_sandbox("sandbox"))
}

#[cfg(feature = "sandbox")]
pub(super) use with_feature::run;

#[cfg(feature = "sandbox")]
mod with_feature {
    use std::{
        io::{Write, stdout},
        net::SocketAddr,
        path::Path,
        sync::Arc,
        time::Duration,
    };

    use tokio::{
        net::TcpListener,
        runtime::Builder,
        signal::unix::{SignalKind, signal},
        sync::watch,
    };

    use super::{Arguments, CallbackArguments, Failure, KeyEncoding, SignName};
    use crate::{
        cli::exit::Code,
        config::{Encoding, SecretError, read_aes_key, read_secret},
        sandbox::{CallbackRules, Callee, Latency, Options, Sandbox, TokenUse},
        wechat::{Opener, SignField, SignKey},
    };

    pub(in crate::cli) fn run(arguments: &Arguments) -> Result<(), Failure> {
        if arguments.token_path == arguments.deduct_path {
            return Err(Failure::new(Code::Usage, "tokens and deductions need paths of their own: --token-path, --deduct-path"));
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let served = runtime.block_on(serve(arguments));
        runtime.shutdown_background();
        served
    }

    async fn serve(arguments: &Arguments) -> Result<(), Failure> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let listener = TcpListener::bind(arguments.listen).await.map_err(|error| {
            let address = arguments.listen;
            Failure::new(Code::Internal, format!("{address} cannot be listened on: {error}; choose another address or port"))
        })?;
        let sandbox = sandbox(arguments)?;
        greet(arguments, listener.local_addr()?)?;
        let (stop, stopped) = watch::channel(false);
        let mut serving = std::pin::pin!(sandbox.serve(listener, stopped));
        tokio::select! {
            () = &mut serving => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.send_replace(true);
        serving.await;
        Ok(())
    }

    fn sandbox(arguments: &Arguments) -> Result<Sandbox, Failure> {
        let (options, callbacks) = (options(arguments), &arguments.callbacks);
        match (&callbacks.callback_url, &callbacks.callback_aes_key_file) {
            (Some(url), Some(aes_key_file)) => {
                let callee = Callee {
                    url: url.trim_end_matches('/').to_owned(),
                    payment_path: callbacks.payment_path.clone(),
                    arrears_path: callbacks.arrears_path.clone(),
                    keys: Arc::new(keys(arguments, aes_key_file)?),
                };
                Sandbox::calling_back(options, callee, rules(callbacks)).map_err(|problem| Failure::new(Code::Usage, problem))
            }
            _ => Ok(Sandbox::new(options)),
        }
    }

    fn keys(arguments: &Arguments, aes_key_file: &Path) -> Result<Opener, Failure> {
        let callbacks = &arguments.callbacks;
        let refuse = |file: &Path, error: SecretError| {
            Failure::new(Code::Settings, format!("{}: {error}; {}", file.display(), error.mend()))
        };
        let encoding = match callbacks.callback_aes_key_encoding {
            KeyEncoding::Base64 => Encoding::Base64,
            KeyEncoding::Hex => Encoding::Hex,
            KeyEncoding::Raw => Encoding::Raw,
        };
        let sign_key = |file: &Option<_>| file.as_deref().map(|file| read_secret(file).map_err(|error| refuse(file, error)));
        let sign_key = sign_key(&callbacks.callback_sign_key_file).transpose()?;
        let sign = match (callbacks.callback_sign, sign_key) {
            (SignName::HmacSha256, Some(key)) => SignKey::HmacSha256(key),
            (SignName::Md5, Some(key)) => SignKey::Md5(key),
            (SignName::None, _) => SignKey::None,
            (_, None) => {
                return Err(Failure::new(Code::Usage, "callbacks are signed with the key in --callback-sign-key-file; name it"));
            }
        };
        Ok(Opener {
            appid: arguments.appid.clone(),
            mch_id: callbacks.mch_id.clone(),
            aes_key: read_aes_key(aes_key_file, encoding).map_err(|error| refuse(aes_key_file, error))?,
            sign,
            sign_fields: SignField::ALL.to_vec(),
        })
    }

    fn rules(callbacks: &CallbackArguments) -> CallbackRules {
        let p50 = callbacks.callback_delay;
        CallbackRules {
            delay_ms: Latency { p50, p99: p50.saturating_mul(4) },
            repeat: callbacks.callback_repeat,
            early_share: callbacks.callback_early,
            fail_share: callbacks.callback_fail,
            repay_after_ms: callbacks.callback_repay_after.map(|seconds| seconds.saturating_mul(1000)),
            ..CallbackRules::default()
        }
    }

    fn options(arguments: &Arguments) -> Options {
        Options {
            appid: arguments.appid.clone(),
            secret: arguments.secret.clone(),
            token_path: arguments.token_path.clone(),
            deduct_path: arguments.deduct_path.clone(),
            token_life: Duration::from_secs(arguments.token_life),
            token_use: if arguments.no_token { TokenUse::Ignored } else { TokenUse::Required },
            duplicate_errcode: arguments.duplicate_errcode,
            seed: arguments.seed,
        }
    }

    fn greet(arguments: &Arguments, address: SocketAddr) -> std::io::Result<()> {
        let mut out = stdout().lock();
        writeln!(out, "listening on http://{address}")?;
        writeln!(out, "  in faregate.toml:\n{}", settings(arguments, address))?;
        writeln!(out, "  charged so far:   curl http://{address}/sandbox/book")?;
        writeln!(
            out,
            "  an outage of 30s: curl http://{address}/sandbox/faults -d '{{\"rules\":[{{\"fault\":\"refuse\",\"on\":\"all\",\"for_ms\":30000}}]}}'"
        )?;
        if let Some(url) = &arguments.callbacks.callback_url {
            writeln!(out, "  calls {url} back:  curl http://{address}/sandbox/callbacks -d '{{\"fail_share\":0.5}}'")?;
        }
        out.flush()
    }

    /// What a gate's settings say of this sandbox.
    fn settings(arguments: &Arguments, address: SocketAddr) -> String {
        let Arguments { appid, secret, token_path, deduct_path, .. } = arguments;
        let mch_id = &arguments.callbacks.mch_id;
        let auth = if arguments.no_token {
            "auth = \"none\"".to_owned()
        } else if *secret == Options::default().secret {
            format!("token_path = \"{token_path}\"\nsecret_file = \"appsecret\"  # a file that holds: {secret}")
        } else {
            format!("token_path = \"{token_path}\"\nsecret_file = \"appsecret\"  # a file that holds what --secret is")
        };
        format!(
            "[wechat]\nbase_url = \"http://{address}\"\ndeduct_path = \"{deduct_path}\"\nappid = \"{appid}\"\n\
             mch_id = \"{mch_id}\"\n{auth}\n"
        )
    }
}
