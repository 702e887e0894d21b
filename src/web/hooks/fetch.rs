//! The two things that a webhook of Amazon SNS has to get: its certificate, and the address that
//! confirms a subscription. One request each, bounded in time and size, without redirects, over HTTPS
//! with a checked certificate. Which addresses these may be is pinned by who asks.

use std::{io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::smtp::tls::{TlsClient, TlsTrust};

const WITHIN: Duration = Duration::from_secs(10);
const OCTETS_MAX: usize = 64 * 1024;

/// Gets documents from where they are, or all from a server on this machine.
pub(super) struct Fetch {
    instead: Option<Url>,
}

impl Fetch {
    pub(super) const fn new(instead: Option<Url>) -> Self {
        Self { instead }
    }

    /// The document at `url`. The error is a sentence.
    pub(super) async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let fetched = timeout(WITHIN, self.fetch(&url, &host));
        fetched.await.unwrap_or_else(|_| Err(format!("{host} did not answer within {WITHIN:?}")))
    }

    async fn fetch(&self, url: &Url, host: &str) -> Result<Vec<u8>, String> {
        let failed = |error: io::Error| format!("{host}: {error}");
        if let Some(instead) = &self.instead {
            let address = instead.socket_addrs(|| None).map_err(failed)?;
            let tcp = TcpStream::connect(&*address).await.map_err(failed)?;
            return request(url, host, tcp).await;
        }
        let named = host.to_owned();
        let tls = move || TlsClient::new(&named, &TlsTrust::default());
        let tls = tokio::task::spawn_blocking(tls).await.map_err(|error| error.to_string())?;
        let tls = tls.map_err(|error| error.to_string())?;
        let tcp = TcpStream::connect((host, 443)).await.map_err(failed)?;
        let connector = TlsConnector::from(tls.config);
        request(url, host, connector.connect(tls.name, tcp).await.map_err(failed)?).await
    }
}

async fn request(
    url: &Url,
    host: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Vec<u8>, String> {
    let failed = |error: hyper::Error| format!("{host}: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let request = Request::get(path)
        .header(header::HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(format!("{host} answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), OCTETS_MAX).collect().await;
        Ok(body.map_err(|error| format!("{host}: {error}"))?.to_bytes().to_vec())
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
