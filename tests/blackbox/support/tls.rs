//! A line in TLS to a server that speaks none: what a front server does. The authority that vouches for it is made anew each time.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Builder,
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

static AUTHORITIES: AtomicU32 = AtomicU32::new(0);

/// The front. It ends with its value.
pub(crate) struct Front {
    address: SocketAddr,
    folder: TempDir,
    _stop: oneshot::Sender<()>,
}

impl Front {
    /// Listens on a port of 127.0.0.1, with a certificate for that address, and passes everything on to `http_url`.
    pub(crate) fn before(http_url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, authority) = identity();
        fs::write(folder.path().join("ca.pem"), authority).unwrap();
        let behind: SocketAddr = http_url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, TlsAcceptor::from(Arc::new(config)), behind) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, folder, _stop: stop }
    }

    /// Where it listens.
    pub(crate) fn base_url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate of the authority that vouches for it.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, behind: SocketAddr) {
    while let Ok((line, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(mut line) = acceptor.accept(line).await else { return };
            let Ok(mut onward) = TcpStream::connect(behind).await else { return };
            let _ = copy_bidirectional(&mut line, &mut onward).await;
        });
    }
}

/// What the front presents, and the certificate of its authority in PEM form.
fn identity() -> (ServerConfig, String) {
    let mut authority = CertificateParams::new([]).unwrap();
    // Two authorities must not be taken for one.
    let name = format!("authority {:x}", AUTHORITIES.fetch_add(1, Ordering::Relaxed));
    authority.distinguished_name.push(DnType::CommonName, name);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let private_key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private_key.into())
        .unwrap();
    (config, pem)
}
