//! Getting a policy: one HTTPS request with a checked certificate, bounded in time and size, without
//! redirects (RFC 8461, section 3.3).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};

use crate::dns::{Resolver, is_public};

/// How long all of it may take; mail to the domain waits meanwhile.
const WITHIN: Duration = Duration::from_secs(20);
/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a policy may be.
const BYTES_MAX: usize = 64 * 1024;
const PORT: u16 = 443;

/// The text of a domain's policy. The error is a sentence.
pub(super) async fn policy(
    domain: &str,
    resolver: &Resolver,
    tls: &Arc<ClientConfig>,
    private_addresses: bool,
) -> Result<String, String> {
    let host = format!("mta-sts.{domain}");
    let fetched = timeout(WITHIN, async {
        let stream = connect(&host, resolver, tls, private_addresses).await?;
        request(&host, stream).await
    });
    fetched.await.unwrap_or_else(|_| Err(format!("{host} did not answer within {WITHIN:?}")))
}

async fn connect(
    host: &str,
    resolver: &Resolver,
    tls: &Arc<ClientConfig>,
    private_addresses: bool,
) -> Result<TlsStream<TcpStream>, String> {
    let addresses = resolver.addresses(host, true).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let mut last = format!("{host} has no address that may be asked");
    for address in addresses {
        if !private_addresses && !is_public(address) {
            continue;
        }
        let at = SocketAddr::new(address, PORT);
        let tcp = match timeout(CONNECT, TcpStream::connect(at)).await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) => {
                last = format!("{host} [{address}]: {error}");
                continue;
            }
            Err(_) => {
                last = format!("{host} [{address}]: no answer");
                continue;
            }
        };
        // A bad certificate is no reason to look for a better one elsewhere.
        let connector = TlsConnector::from(Arc::clone(tls));
        let connected = connector.connect(name, tcp).await;
        return connected.map_err(|error| format!("{host} [{address}]: {error}"));
    }
    Err(last)
}

async fn request(host: &str, stream: TlsStream<TcpStream>) -> Result<String, String> {
    let failed = |error: hyper::Error| format!("{host}: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::get("/.well-known/mta-sts.txt")
        .header(header::HOST, host)
        .header(header::ACCEPT, "text/plain")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(format!("{host} answers {}", response.status()));
        }
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.to_ascii_lowercase().starts_with("text/plain") {
            return Err(format!("{host} answers with `{kind}` instead of text/plain"));
        }
        let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("{host}: {error}"))?.to_bytes();
        String::from_utf8(body.to_vec()).map_err(|_| format!("{host}: the policy is not UTF-8"))
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // Its end may be what completes the answer.
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(failed(error)),
        },
    }
}
