//! Certificates for servers of tests, and who issues them.

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{CertificateParams, Issuer, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};

/// An authority of our own, its root in a file, and a server with a certificate that it issued.
pub(crate) struct Authority {
    _folder: TempDir,
    pub(crate) root: PathBuf,
    pub(crate) config: Arc<ServerConfig>,
}

impl Authority {
    /// Issues for `name`, valid until the end of `last_year`.
    pub(crate) fn issuing(name: &str, last_year: i32) -> Self {
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
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = server_config(vec![leaf.der().clone()], key);
        Self { _folder: folder, root: path, config }
    }
}

/// A server that shows these certificates and asks clients for none.
pub(crate) fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}
