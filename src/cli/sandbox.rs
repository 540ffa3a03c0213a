//! `faregate sandbox`: a WeChat for trials and tests.

use std::net::SocketAddr;

use clap::Args;

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
        time::Duration,
    };

    use tokio::{
        net::TcpListener,
        runtime::Builder,
        signal::unix::{SignalKind, signal},
        sync::watch,
    };

    use super::{Arguments, Failure};
    use crate::{
        cli::exit::Code,
        sandbox::{Options, Sandbox, TokenUse},
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
        greet(arguments, listener.local_addr()?)?;
        let (stop, stopped) = watch::channel(false);
        let sandbox = Sandbox::new(options(arguments));
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
        out.flush()
    }

    /// What a gate's settings say of this sandbox.
    fn settings(arguments: &Arguments, address: SocketAddr) -> String {
        let Arguments { appid, secret, token_path, deduct_path, .. } = arguments;
        let auth = if arguments.no_token {
            "auth = \"none\"".to_owned()
        } else if *secret == Options::default().secret {
            format!("token_path = \"{token_path}\"\nsecret_file = \"appsecret\"  # a file that holds: {secret}")
        } else {
            format!("token_path = \"{token_path}\"\nsecret_file = \"appsecret\"  # a file that holds what --secret is")
        };
        format!(
            "[wechat]\nbase_url = \"http://{address}\"\ndeduct_path = \"{deduct_path}\"\nappid = \"{appid}\"\n\
             mch_id = \"1900000001\"  # any\n{auth}\n"
        )
    }
}
