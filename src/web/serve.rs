//! The listener: how many connections there are, how long each may take to say something, and how
//! they end.
//!
//! axum's own `serve` waits for ever for a request's head, so that a few hundred connections that
//! say nothing would close the house. Here a head has ten seconds, one client has its share of
//! connections, and no connection lives longer than some minutes.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// What a listener allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long the head of a request may take, and how long a connection may be idle.
    pub head: Duration,
    /// How long a connection may live.
    pub connection: Duration,
    /// How many connections there are at once; more wait to be accepted.
    pub connections: usize,
    /// How many of them one address may have; more are closed at once.
    pub connections_per_address: usize,
    /// Addresses with many clients behind them, which have no such limit: our own proxies.
    pub proxies: Vec<IpAddr>,
    /// How long a stop waits for requests under way.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            connection: Duration::from_mins(5),
            connections: 1024,
            connections_per_address: 64,
            proxies: Vec::new(),
            drain: Duration::from_secs(10),
        }
    }
}

/// Octets of a request's head: more than any browser sends.
const HEAD_OCTETS_MAX: usize = 32 * 1024;
/// How long to wait when the system has no descriptor left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `stop` is cancelled, then lets the requests under way end.
/// Requests carry their peer's address as [`ConnectInfo`].
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let shares = Shares::default();
    let open = GracefulShutdown::new();
    let builder = builder(&limits);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !of_one_connection(&error) {
                        tracing::warn!(%error, "no connection can be accepted for now");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            },
        };
        let ip = peer.ip().to_canonical();
        let max = if limits.proxies.contains(&ip) {
            limits.connections
        } else {
            limits.connections_per_address
        };
        let Some(share) = shares.take(ip, max) else { continue };
        // Answers are small and written whole.
        let _ = stream.set_nodelay(true);
        let held = (place, share);
        let connection = connection(&builder, &router, stream, peer);
        let watched = open.watch(connection);
        let life = limits.connection;
        tokio::spawn(async move {
            let _held: (OwnedSemaphorePermit, Share) = held;
            match tokio::time::timeout(life, watched).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a connection ended early"),
                Err(_) => tracing::debug!("a connection was closed because of its age"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, open.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when their time to end was over");
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_OCTETS_MAX)
        .keep_alive(true);
    builder
}

fn connection(
    builder: &auto::Builder<TokioExecutor>,
    router: &Router,
    stream: TcpStream,
    peer: SocketAddr,
) -> impl hyper_util::server::graceful::GracefulConnection<
    Error = Box<dyn std::error::Error + Send + Sync>,
> + Send
+ 'static {
    let service = router.clone().map_request(move |mut request: axum::http::Request<_>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    });
    builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).into_owned()
}

/// Whether an error of accepting is about that one connection only.
fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// How many connections each address has.
#[derive(Debug, Clone, Default)]
struct Shares(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of an address; given back when dropped.
struct Share {
    shares: Shares,
    ip: IpAddr,
}

impl Shares {
    fn take(&self, ip: IpAddr, max: usize) -> Option<Share> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Share { shares: self.clone(), ip })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}
