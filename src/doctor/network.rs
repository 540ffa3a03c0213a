//! The way to WeChat, as far as a connection: no request is sent.

use std::{
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use super::{Look, within_patience};

/// For each address; with a few of them it stays within the patience for all.
const CONNECT: Duration = Duration::from_secs(2);

pub(super) fn look(base_url: &str) -> Look {
    let at = "network";
    let Some((host, port)) = endpoint(base_url) else {
        return Look::bad(at, format!("{base_url} names no host"), "correct wechat.base_url");
    };
    let asked = host.clone();
    match within_patience(move || connect(&asked, port)) {
        Some(Ok(address)) => Look::good(at, format!("{host} answers at {address}")),
        Some(Err(problem)) => {
            Look::doubtful(at, problem, "look at cable, route and firewall; the gate goes on and keeps what it records")
        }
        None => Look::doubtful(at, format!("{host} does not answer within 5 s"), "look at name server, route and firewall"),
    }
}

fn endpoint(base_url: &str) -> Option<(String, u16)> {
    let url = reqwest::Url::parse(base_url).ok()?;
    Some((url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default()?))
}

fn connect(host: &str, port: u16) -> Result<SocketAddr, String> {
    let addresses = (host, port).to_socket_addrs().map_err(|error| format!("{host} has no address: {error}"))?;
    let mut problem = format!("{host} has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(_) => return Ok(address),
            Err(error) => problem = format!("{host} at {address} takes no connection: {error}"),
        }
    }
    Err(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_those_of_the_url() {
        for (url, host, port) in [
            ("https://api.weixin.qq.com", "api.weixin.qq.com", 443),
            ("http://127.0.0.1:8490/proxy", "127.0.0.1", 8490),
            ("http://[::1]:80", "::1", 80),
        ] {
            assert_eq!(endpoint(url), Some((host.to_owned(), port)));
        }
    }
}
