//! TLS towards SMTP servers: which mode an endpoint asks for, and whom we trust.
//!
//! Certificates are checked against the platform's roots and, if given, one more file of roots.
//! Towards relays there is no opportunistic mode: what was asked for is what happens, or the connection
//! fails (RFC 8314 for implicit TLS, RFC 3207 for STARTTLS). Files are read when a [`TlsClient`] is
//! built, at start-up, never on the way of a message.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime,
};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore, SignatureScheme,
};

/// When a connection turns to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Never: clear text, for a relay on this machine or a trusted network.
    None,
    /// After the STARTTLS command (usually port 587 or 25); a server without it is refused.
    #[default]
    StartTls,
    /// From the first byte (usually port 465).
    Implicit,
}

/// Whose certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsTrust {
    /// A PEM file with roots that are trusted besides the platform's.
    pub extra_ca: Option<PathBuf>,
    /// Accept any certificate. The connection is then encrypted, but to nobody in particular; only
    /// ever set by an operator's explicit word.
    pub accept_invalid: bool,
    /// What we show when the server asks who we are.
    pub identity: Option<Identity>,
}

/// A client certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// A PEM file with the certificate, and those between it and its root.
    pub chain_file: PathBuf,
    /// A PEM file with the private key.
    pub key_file: PathBuf,
}

/// Why no TLS client could be built.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file with extra roots cannot be read or has no certificate in it.
    #[error("cannot take certificates from {path}: {why}; give a PEM file with at least one root")]
    ExtraCa {
        /// The file.
        path: PathBuf,
        /// What went wrong with it.
        why: String,
    },
    /// The client certificate or its key cannot be read.
    #[error("cannot take the client certificate or key from {path}: {why}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What went wrong with it.
        why: String,
    },
    /// Neither the platform nor the file gave any root.
    #[error(
        "no trusted root certificates on this machine; install ca-certificates or name a CA file"
    )]
    NoRoots,
    /// The host is neither a DNS name nor an IP address.
    #[error("{host:?} cannot be the name in a certificate")]
    Name {
        /// The host as given.
        host: String,
        /// Why not.
        source: InvalidDnsNameError,
    },
    /// The TLS library refused the settings.
    #[error("TLS cannot be set up")]
    Setup(#[from] RustlsError),
}

/// What a session needs to speak TLS with one server: settings, made once, and the name to check.
#[derive(Clone)]
pub struct TlsClient {
    /// The library's settings; sessions to one endpoint share it and its session tickets.
    pub config: Arc<ClientConfig>,
    /// The name the server's certificate must carry.
    pub name: ServerName<'static>,
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TlsClient {
    /// Reads the roots and prepares TLS towards `host`. Blocking: call it at start-up.
    pub fn new(host: &str, trust: &TlsTrust) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|source| TlsError::Name { host: host.to_owned(), source })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = if trust.accept_invalid {
            let verifier = Arc::new(AnyCertificate { provider });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(roots(trust)?)
        };
        let config = match &trust.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = (identity.chain()?, identity.key()?);
                builder.with_client_auth_cert(chain, key)?
            }
        };
        Ok(Self { config: Arc::new(config), name })
    }
}

/// How an endpoint's connections are protected: the mode with all it needs.
#[derive(Debug, Clone)]
pub enum Encryption {
    /// Clear text.
    None,
    /// STARTTLS, required.
    StartTls(TlsClient),
    /// TLS from the first byte.
    Implicit(TlsClient),
    /// STARTTLS where the server offers it (RFC 7435), else clear text. Only for mail to a domain's own
    /// servers, which nobody vouches for anyway.
    Opportunistic(TlsClient),
}

impl Encryption {
    /// Puts mode, host name and trust together. Blocking: reads root certificates.
    pub fn new(mode: TlsMode, host: &str, trust: &TlsTrust) -> Result<Self, TlsError> {
        Ok(match mode {
            TlsMode::None => Self::None,
            TlsMode::StartTls => Self::StartTls(TlsClient::new(host, trust)?),
            TlsMode::Implicit => Self::Implicit(TlsClient::new(host, trust)?),
        })
    }
}

impl Identity {
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let path = &self.chain_file;
        let fail = |why: String| TlsError::Identity { path: path.clone(), why };
        let chain = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| fail(error.to_string()))?;
        if chain.is_empty() {
            return Err(fail("there is no certificate in it".to_owned()));
        }
        Ok(chain)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_file(&self.key_file).map_err(|error| TlsError::Identity {
            path: self.key_file.clone(),
            why: error.to_string(),
        })
    }
}

fn roots(trust: &TlsTrust) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    // Single broken certificates in the platform's store are common and no reason to fail.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &trust.extra_ca {
        let fail = |why: String| TlsError::ExtraCa { path: path.clone(), why };
        let mut found = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| fail(e.to_string()))? {
            let certificate = certificate.map_err(|error| fail(error.to_string()))?;
            store.add(certificate).map_err(|error| fail(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(fail("there is no certificate in it".to_owned()));
        }
    }
    if store.is_empty() { Err(TlsError::NoRoots) } else { Ok(store) }
}

/// Takes every certificate, but still checks that the peer holds its key.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
