//! A relay that asks who we are: it takes mail from the certificate it knows, and from no other.

use std::{fmt::Write as _, fs, path::PathBuf, sync::Arc};

use postrider::{
    db::state::{CopyState, IssueState},
    sink::{Sink, SinkConfig},
    smtp::server::Tls,
};
use rcgen::{CertificateParams, Issuer, KeyPair};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Daemon, QUICK, Scene, until};

/// Somebody who issues certificates.
struct Authority {
    root: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::new(vec![]).unwrap();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let signed = root.self_signed(&key).unwrap();
        let issuer = Issuer::new(root, key);
        Self { root: signed.der().clone(), pem: signed.pem(), issuer }
    }

    /// A certificate for `name` and its key.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (leaf.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Writes such a certificate and its key into the folder of `scene`.
    fn identity(&self, scene: &Scene, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.issue("postrider.example.org");
        let files = (format!("{name}.pem"), format!("{name}.key"));
        let files = (scene.house.path(&files.0), scene.house.path(&files.1));
        fs::write(&files.0, certificate.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    /// A server that `self` vouches for, and that takes clients for whom `clients` does.
    fn server(&self, clients: &Self) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue("127.0.0.1");
        let mut roots = RootCertStore::empty();
        roots.add(clients.root.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }
}

/// What the daemon shows to a relay that wants a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Known,
    Unknown,
    Nothing,
}

async fn meets(shown: Shown, implicit: bool) {
    const READERS: usize = 40;
    let (servers, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let tls = servers.server(&clients);
    let tls = if implicit { Tls::Implicit(tls) } else { Tls::StartTls(tls) };
    let stop = CancellationToken::new();
    let sink = SinkConfig { http: None, tls, ..SinkConfig::default() };
    let sink = Sink::start(sink, stop.clone()).await.unwrap();

    let scene = Scene::new(&[], QUICK).await;
    fs::write(scene.house.path("root.pem"), &servers.pem).unwrap();
    let mode = if implicit { "implicit" } else { "starttls" };
    let mut relay = format!(
        "[[relay]]\nname = \"main\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"{mode}\"\n\
         ca_file = \"root.pem\"\n",
        sink.smtp_addr.port()
    );
    let identity = match shown {
        Shown::Known => Some(clients.identity(&scene, "known")),
        Shown::Unknown => Some(others.identity(&scene, "unknown")),
        Shown::Nothing => None,
    };
    if let Some((certificate, key)) = identity {
        let (certificate, key) = (certificate.display(), key.display());
        let _ =
            write!(relay, "client_cert_file = \"{certificate}\"\nclient_key_file = \"{key}\"\n");
    }
    let path = scene.house.path("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config + &relay).unwrap();
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    let context = scene.context().await;
    if shown == Shown::Known {
        scene.reaches(IssueState::Sent).await;
        assert_eq!(sink.stats().accepted, READERS as u64);
    } else {
        until("the relay is seen to refuse", async || {
            let relays = scene.house.run(&["relay", "list", "--json"]).json();
            let failure = relays[0]["state"]["last_failure"][1].as_str().map(str::to_owned);
            failure.map(|failure| println!("{shown:?}, {mode}: {failure}"))
        })
        .await;
        daemon.terminate();
        assert_eq!((sink.stats().transactions, sink.stats().accepted), (0, 0), "{shown:?}");
        let sql = "SELECT COUNT(*) FROM delivery WHERE state = $1 AND attempt = 0";
        let waiting: i64 = context.db.query(sql).bind(CopyState::Waiting).scalar().await.unwrap();
        assert_eq!(waiting, READERS as i64, "{shown:?}: no copy was tried");
    }
    context.db.close().await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_takes_mail_from_the_certificate_it_knows() {
    meets(Shown::Known, true).await;
    meets(Shown::Known, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_refuses_a_certificate_of_somebody_else_and_none() {
    for shown in [Shown::Unknown, Shown::Nothing] {
        meets(shown, true).await;
        meets(shown, false).await;
    }
}
