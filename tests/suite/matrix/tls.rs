//! A certificate authority for a cell, and what can stand in front of its sink.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rcgen::{CertificateParams, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use super::fault::Fault;

/// An authority of our own, its root in a file, and a certificate that it issued.
pub(super) struct Authority {
    _folder: TempDir,
    pub(super) root: PathBuf,
    pub(super) config: Arc<ServerConfig>,
}

impl Authority {
    /// Issues for this machine.
    pub(super) fn for_loopback() -> Self {
        Self::issuing("127.0.0.1", 2090)
    }

    /// Issues for `name`, valid until the end of `last_year`.
    pub(super) fn issuing(name: &str, last_year: i32) -> Self {
        let root_key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::new(vec![]).unwrap();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root_certificate = root.self_signed(&root_key).unwrap();
        let issuer = Issuer::new(root, root_key);
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(last_year, 12, 31);
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.pem");
        fs::write(&path, root_certificate.pem()).unwrap();
        let chain = vec![CertificateDer::from(leaf.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self { _folder: folder, root: path, config: Arc::new(config) }
    }
}

/// Where clients connect: the sink itself, or somebody who spoils the first connection and passes
/// the others on.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    task: Option<AbortHandle>,
}

impl Front {
    pub(super) async fn before(sink: SocketAddr, fault: Option<Fault>) -> Self {
        let Some(fault) = fault else { return Self { address: sink, task: None } };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (first, _) = listener.accept().await.unwrap();
            tokio::spawn(spoil(first, fault));
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(sink).await.unwrap();
                    // Either side may leave as it likes.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { address, task: Some(task.abort_handle()) }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Lets the client's hello come, and then does not answer it as a server should.
async fn spoil(mut client: TcpStream, fault: Fault) {
    let mut hello = [0; 512];
    let _ = client.read(&mut hello).await;
    match fault {
        Fault::Rst => client.set_zero_linger().unwrap(),
        Fault::Silence => while client.read(&mut hello).await.is_ok_and(|count| count > 0) {},
        Fault::ByteByByte => {
            for byte in b"\x16\x03\x03\x40\x00".iter().chain(std::iter::repeat(&0)) {
                if client.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        _ => {}
    }
}
