//! MTA-STS (RFC 8461) from end to end: policies come over HTTPS from servers of the test's own, which
//! listen on port 443 of loopback addresses; mail hosts are sinks with good and bad certificates.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use postrider::db::state::{CopyState, EventKind, IssueState};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{SHORT, domains_at, fates, import, scene, set, told};
use crate::{
    authority::server_config,
    checker::{Kills, check},
    dns_server::DnsServer,
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink, free_port, until},
    postfix::instance::authority,
};

/// A root, and files of certificates that it or nobody vouches for.
struct Certificates {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, issuer) = authority("Root of this test");
        fs::write(folder.path().join("root.pem"), root).unwrap();
        Self { folder, issuer }
    }

    fn root(&self) -> String {
        self.folder.path().join("root.pem").to_str().unwrap().to_owned()
    }

    /// Files with a certificate for `host` and its key.
    fn of(&self, host: &str) -> [String; 2] {
        let mut certificate = CertificateParams::new(vec![host.to_owned()]).unwrap();
        certificate.distinguished_name.push(DnType::CommonName, host);
        let key = KeyPair::generate().unwrap();
        let certificate = certificate.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.folder.path().join(format!("{host}.{kind}"));
        fs::write(path("pem"), certificate.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        ["pem", "key"].map(|kind| path(kind).to_str().unwrap().to_owned())
    }
}

/// A web server that has one answer; none when nobody may listen on its port here.
struct PolicyServer {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl PolicyServer {
    fn start(address: &str, [certificate, key]: &[String; 2], answer: String) -> Option<Self> {
        let listener = match TcpListener::bind((address, 443)) {
            Ok(listener) => listener,
            Err(error) => {
                crate::harness::skipped(&format!("nobody may listen on port 443 here: {error}"));
                return None;
            }
        };
        let chain = CertificateDer::pem_file_iter(Path::new(certificate)).unwrap();
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(Path::new(key)).unwrap();
        let config = server_config(chain, key);
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let server = Self { stop: Arc::clone(&stop), asked: Arc::clone(&asked) };
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((tcp, _)) = listener.accept() else {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    continue;
                };
                tcp.set_nonblocking(false).unwrap();
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, tcp);
                let mut request = [0; 2048];
                // Whoever does not like the certificate says nothing.
                let Ok(length) = stream.read(&mut request) else { continue };
                let request = String::from_utf8_lossy(&request[..length]);
                assert!(
                    request.starts_with("GET /.well-known/mta-sts.txt HTTP/1.1\r\n"),
                    "{request}"
                );
                asked.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(answer.as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        Some(server)
    }
}

impl Drop for PolicyServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn answer(mode: &str, mx: &str) -> String {
    let policy = format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: 86400\r\n");
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{policy}",
        policy.len()
    )
}

async fn tls_sink(address: &str, port: u16, [certificate, key]: &[String; 2]) -> Sink {
    let listen = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    Sink::at(listen, "", &["--tls-cert", certificate, "--tls-key", key]).await
}

async fn daemon(scene: &Scene, certificates: &Certificates) -> Daemon {
    let mut daemon = Daemon::start_under(scene, &[], &[("SSL_CERT_FILE", &certificates.root())]);
    daemon.ready().await;
    daemon
}

#[tokio::test]
async fn what_a_domain_demands_is_kept_to_even_when_nobody_says_so_any_more() {
    const EACH: usize = 4;
    let certificates = Certificates::new();
    let (dns, port) = (DnsServer::start(), free_port());
    dns.at("good.test", "127.0.0.31").at("bad.test", "127.0.0.32").at("plain.test", "127.0.0.33");
    // Two domains share one policy server each: it answers by its address.
    let servers = [
        ("strict.example", "127.0.0.41", "enforce", "good.test", "good.test"),
        ("wrong.example", "127.0.0.42", "enforce", "*.test", "bad.test"),
        ("clear.example", "127.0.0.43", "enforce", "plain.test", "plain.test"),
        ("other.example", "127.0.0.44", "enforce", "mx.elsewhere.test", "good.test"),
        ("testing.example", "127.0.0.45", "testing", "good.test", "bad.test"),
        ("left.example", "127.0.0.46", "none", "good.test", "plain.test"),
        ("forged.example", "127.0.0.47", "enforce", "good.test", "plain.test"),
    ];
    let mut running = Vec::new();
    for (domain, address, mode, names, host) in servers {
        dns.mx(domain, &[(10, host)]).at(&format!("mta-sts.{domain}"), address);
        dns.text(&format!("_mta-sts.{domain}"), "v=STSv1; id=1;");
        // Nobody vouches for the one that somebody else put there.
        let named = if domain == "forged.example" {
            "mta-sts.attacker.example".to_owned()
        } else {
            format!("mta-sts.{domain}")
        };
        let server = PolicyServer::start(address, &certificates.of(&named), answer(mode, names));
        let Some(server) = server else { return };
        running.push(server);
    }
    let good = tls_sink("127.0.0.31", port, &certificates.of("good.test")).await;
    let mut bad = tls_sink("127.0.0.32", port, &certificates.of("evil.test")).await;
    let plain = Sink::at(SocketAddr::from(([127, 0, 0, 33], port)), "", &[]).await;
    let options = format!("{QUICK}{NO_GATES}{SHORT}");
    let scene = scene(&dns, port, "", &options).await;
    let domains = servers.map(|(domain, ..)| domain);
    let audience = import(&scene, &domains, EACH);
    let first = daemon(&scene, &certificates).await;
    scene.send().ok();
    let held = ["wrong.example", "clear.example", "other.example"];
    until("the others have their mail, and the held ones were tried", async || {
        let fates = fates(&scene).await;
        let done = fates
            .iter()
            .all(|fate| held.contains(&fate.domain.as_str()) || fate.state == CopyState::Accepted);
        let tried =
            |domain: &&str| fates.iter().any(|fate| fate.domain == **domain && fate.attempts > 0);
        (done && held.iter().all(tried)).then_some(())
    })
    .await;
    for (domain, words) in [
        ("wrong.example", ["4.7.5", "network.transient", "no-connection", "tls", "certificate"]),
        ("clear.example", ["4.7.5", "network.transient", "no-connection", "start_tls", "STARTTLS"]),
        ("other.example", ["4.7.5", "network.transient", "dns", "dns", "MTA-STS policy names"]),
    ] {
        let lines = told(&scene, EventKind::Deferred, domain).await;
        for (found, wanted) in lines[0].iter().zip(words) {
            assert!(found.contains(wanted), "{domain}: {lines:?}");
        }
    }
    assert_eq!(domains_at(&good), set(&["strict.example"]));
    assert_eq!(domains_at(&bad), set(&["testing.example"]));
    assert_eq!(domains_at(&plain), set(&["left.example", "forged.example"]));
    first.terminate();

    // Whoever forges DNS can hide the policies, and stop their servers from being found.
    for (domain, ..) in servers {
        dns.forget(&format!("_mta-sts.{domain}")).forget(&format!("mta-sts.{domain}"));
    }
    let asked: usize = running.iter().map(|server| server.asked.load(Ordering::Relaxed)).sum();
    drop(running);
    let tries = fates(&scene).await.iter().map(|fate| fate.attempts).sum::<i64>();
    let second = daemon(&scene, &certificates).await;
    until("the held ones were tried again", async || {
        let now = fates(&scene).await.iter().map(|fate| fate.attempts).sum::<i64>();
        (now > tries + 3).then_some(())
    })
    .await;
    assert_eq!(domains_at(&bad), set(&["testing.example"]), "a kept policy was forgotten");
    // Each domain's four copies would ask for it four times, and a slow answer is asked for again.
    assert!(asked <= 12, "{asked} questions for six policies");

    // Mended: a good certificate, encryption, and the host that is named.
    bad.kill();
    let mended = tls_sink("127.0.0.32", port, &certificates.of("bad.test")).await;
    dns.forget("clear.example").mx("clear.example", &[(10, "plain.test")]);
    dns.at("mx.elsewhere.test", "127.0.0.34").forget("other.example");
    dns.mx("other.example", &[(10, "mx.elsewhere.test")]);
    let elsewhere = tls_sink("127.0.0.34", port, &certificates.of("mx.elsewhere.test")).await;
    let mut before = plain;
    before.kill();
    let plain = tls_sink("127.0.0.33", port, &certificates.of("plain.test")).await;
    scene.reaches(IssueState::Sent).await;
    second.terminate();
    assert_eq!(domains_at(&mended), set(&["wrong.example"]));
    assert_eq!(domains_at(&elsewhere), set(&["other.example"]));
    assert_eq!(domains_at(&plain), set(&["clear.example"]));
    let sinks = [&good, &bad, &mended, &before, &plain, &elsewhere];
    let outcome = check(&scene, &sinks, audience, Kills::of_sink(2)).await;
    assert_eq!(outcome.count(CopyState::Accepted), audience, "{outcome:?}");
}
