//! One request: bounded in time, over HTTPS with a checked certificate (or to this machine), without
//! redirects.

use std::{io, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Request, Response, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::{Position, Url};

use super::sign::Head;
use crate::{
    config::EventHook,
    smtp::tls::{TlsClient, TlsTrust},
};

const USER_AGENT: &str = concat!("postrider/", env!("CARGO_PKG_VERSION"));

/// Where batches are posted to.
pub(super) struct Poster {
    url: Url,
    host: String,
    port: u16,
    tls: Option<TlsClient>,
    within: Duration,
}

/// Why a batch was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// In a sentence.
    pub(super) what: String,
    /// How long to wait, if the receiver asks for that.
    pub(super) retry_after: Option<Duration>,
}

impl From<String> for Refused {
    fn from(what: String) -> Self {
        Self { what, retry_after: None }
    }
}

impl Poster {
    /// Reads the certificates that are trusted. The error is a sentence.
    pub(super) async fn new(settings: &EventHook) -> Result<Self, String> {
        let url = settings.url.clone();
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let tls = if url.scheme() == "https" {
            let trust = TlsTrust { extra_ca: settings.ca_file.clone(), ..TlsTrust::default() };
            let name = host.clone();
            let made = tokio::task::spawn_blocking(move || TlsClient::new(&name, &trust)).await;
            Some(made.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?)
        } else {
            None
        };
        let port = url.port_or_known_default().unwrap_or(443);
        Ok(Self { url, host, port, tls, within: settings.timeout })
    }

    /// Posts `body`; any 2xx is a yes.
    pub(super) async fn post(&self, head: Head, body: Bytes) -> Result<(), Refused> {
        let posting = timeout(self.within, self.exchange(head, body));
        let (status, fields) = posting
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", self.within.as_secs())))?;
        if status.is_success() {
            return Ok(());
        }
        let hint = if status.is_redirection() { "; redirects are not followed" } else { "" };
        let seconds = fields.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let seconds = seconds.and_then(|text| text.trim().parse().ok());
        Err(Refused {
            what: format!("answered {status}{hint}"),
            retry_after: seconds.map(Duration::from_secs),
        })
    }

    async fn exchange(&self, head: Head, body: Bytes) -> Result<(StatusCode, HeaderMap), String> {
        let failed = |error: io::Error| error.to_string();
        let request = self.request(head, body)?;
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        let response = match &self.tls {
            None => send(request, tcp).await?,
            Some(tls) => {
                let connector = TlsConnector::from(tls.config.clone());
                let stream = connector.connect(tls.name.clone(), tcp).await.map_err(failed)?;
                send(request, stream).await?
            }
        };
        Ok((response.status(), response.headers().clone()))
    }

    fn request(&self, head: Head, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let path = &self.url[Position::BeforePath..Position::AfterQuery];
        let authority = &self.url[Position::BeforeHost..Position::AfterPort];
        Request::post(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, USER_AGENT)
            .header("webhook-id", head.id)
            .header("webhook-timestamp", head.timestamp)
            .header("webhook-signature", head.signature)
            .body(Full::new(body))
            .map_err(|error| error.to_string())
    }
}

/// The head of the answer is all that is of interest; with it the connection ends.
async fn send(
    request: Request<Full<Bytes>>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Response<Incoming>, String> {
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let exchange = sender.send_request(request);
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer.map_err(failed),
        // Its end may be what completes the answer.
        ended = connection => match ended {
            Ok(()) => exchange.await.map_err(failed),
            Err(error) => Err(failed(error)),
        },
    }
}
