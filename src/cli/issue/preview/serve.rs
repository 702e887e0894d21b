//! A preview in a browser: on loopback, reading only, shown anew whenever the file changes.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    extract::{Query, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use tokio::{net::TcpListener, sync::watch};

use super::{Shown, page, show};
use crate::{
    cli::{Context, Refused, issue::manuscript::FileArgs, output},
    delivery::compose::Composer,
};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long a browser waits for a change before it asks again.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// The mail itself: no scripts, nothing fetched but pictures.
const MAIL_POLICY: &str =
    "default-src 'none'; img-src https: data:; style-src 'unsafe-inline'; sandbox";
/// The pages around it.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; \
                           connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'";

/// What is shown at the moment.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// Grows with every change.
    pub(super) version: u64,
    /// The issue, or why there is none.
    pub(super) shown: Result<Arc<Shown>, String>,
}

/// Serves until Ctrl-C.
pub(super) async fn run(
    context: Context,
    composer: Arc<Composer>,
    file: FileArgs,
    listen: SocketAddr,
) -> anyhow::Result<()> {
    if file.file == Path::new("-") {
        let why = "standard input cannot be looked at again; name a file to serve";
        return Err(Refused(why.to_owned()).into());
    }
    // A file or newsletter that is not there at all is told now rather than in the browser.
    show(&context, &composer, &file).await?;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!(
            "cannot listen on {listen}; is another preview running? --listen takes another port"
        )
    })?;
    let address = listener.local_addr()?;
    let (sender, receiver) =
        watch::channel(Now { version: 0, shown: Err("being read".to_owned()) });
    let app = router(receiver);
    output::line(format!("http://{address}/"))?;
    output::say("shows the issue, and again whenever the file changes; Ctrl-C ends it");
    tokio::select! {
        served = axum::serve(listener, app) => served.context("the preview ended"),
        () = follow(&context, &composer, &file, sender) => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted.context("Ctrl-C cannot be awaited"),
    }
}

/// Renders the file whenever it changed, until nobody looks.
async fn follow(
    context: &Context,
    composer: &Composer,
    file: &FileArgs,
    sender: watch::Sender<Now>,
) {
    let mut seen = None;
    let mut version = 0;
    loop {
        let stamp = stamp(&file.file).await;
        if seen.as_ref() != Some(&stamp) {
            seen = Some(stamp);
            version += 1;
            let shown = match show(context, composer, file).await {
                Ok((_, Some(shown))) => Ok(Arc::new(shown)),
                Ok((manuscript, None)) => Err(manuscript.pretty(false)),
                Err(error) => Err(format!("{error:#}")),
            };
            if sender.send(Now { version, shown }).is_err() {
                return;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What changes when a file does. An editor may take it away for a moment while it saves.
async fn stamp(path: &Path) -> Option<(std::time::SystemTime, u64)> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn router(now: watch::Receiver<Now>) -> Router {
    Router::new()
        .route("/", get(frame))
        .route("/mail", get(mail))
        .route("/reload.js", get(script))
        .route("/version", get(version))
        .fallback(|| async { (StatusCode::NOT_FOUND, "There is no such page here.\n") })
        .layer(middleware::from_fn(guard))
        .with_state(now)
}

/// Lets in only requests for this machine by name: another site's page must not read the preview
/// through a name that it points here.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let name =
        host.map(|host| match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((ipv6, _)) => ipv6,
            None => host.split(':').next().unwrap_or_default(),
        });
    if !matches!(name, Some("127.0.0.1" | "localhost" | "::1")) {
        let hint = "This preview answers under localhost only.\n";
        return (StatusCode::MISDIRECTED_REQUEST, hint).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Which way of looking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum View {
    /// As on a wide screen.
    #[default]
    Desktop,
    /// As on a phone.
    Phone,
    /// As in a client that is set dark.
    Dark,
    /// The text part.
    Text,
    /// The message on the wire.
    Source,
    /// What the lint says.
    Findings,
}

#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    view: View,
}

async fn frame(
    State(now): State<watch::Receiver<Now>>,
    Query(asked): Query<Asked>,
) -> Html<String> {
    let now = now.borrow().clone();
    Html(page::frame(&now, asked.view))
}

/// The mail for the frame of a page, by itself.
async fn mail(State(now): State<watch::Receiver<Now>>, Query(asked): Query<Asked>) -> Response {
    let now = now.borrow().clone();
    let Ok(shown) = now.shown else {
        return (StatusCode::NOT_FOUND, "There is nothing to show.\n").into_response();
    };
    let html =
        if asked.view == View::Dark { page::in_the_dark(&shown.html) } else { shown.html.clone() };
    ([(header::CONTENT_SECURITY_POLICY, MAIL_POLICY)], Html(html)).into_response()
}

async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], page::RELOAD)
}

#[derive(Debug, Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

/// The current version, as soon as it is another than the browser has.
async fn version(
    State(mut now): State<watch::Receiver<Now>>,
    Query(asked): Query<After>,
) -> String {
    let changed = now.wait_for(|now| now.version != asked.after);
    let version = match tokio::time::timeout(WAIT_MAX, changed).await {
        Ok(Ok(now)) => now.version,
        _ => asked.after,
    };
    version.to_string()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt as _;

    use super::*;

    fn now(version: u64) -> Now {
        let shown = Shown {
            subject: "A <b>bold</b> subject".to_owned(),
            preheader: "before".to_owned(),
            html: "<html><style>@media (prefers-color-scheme: dark) { a {} }</style></html>"
                .to_owned(),
            text: "plain <text>".to_owned(),
            message: "Subject: x\r\n".to_owned(),
            diagnostics: Vec::new(),
            findings: "no problems found".to_owned(),
        };
        Now { version, shown: Ok(Arc::new(shown)) }
    }

    async fn get(router: &Router, host: &str, path: &str) -> (StatusCode, String, String) {
        let request = Request::builder().uri(path).header("host", host).body(Body::empty());
        let response = router.clone().oneshot(request.unwrap()).await.unwrap();
        let status = response.status();
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str();
        let policy = policy.unwrap().to_owned();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, policy, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn every_view_shows_the_issue_and_escapes_what_is_data() {
        let (_sender, receiver) = watch::channel(now(1));
        let router = router(receiver);
        for view in ["desktop", "phone", "dark", "text", "source", "findings"] {
            let (status, policy, page) =
                get(&router, "127.0.0.1:1", &format!("/?view={view}")).await;
            assert_eq!((status, policy.as_str()), (StatusCode::OK, PAGE_POLICY), "{view}");
            assert!(page.contains("A &lt;b&gt;bold&lt;/b&gt; subject"), "{view}: {page}");
            assert!(page.contains("aria-current=\"page\""), "{view}");
        }
        let (_, _, text) = get(&router, "localhost", "/?view=text").await;
        assert!(text.contains("plain &lt;text&gt;"), "{text}");
        let (_, policy, mail) = get(&router, "[::1]:80", "/mail?view=dark").await;
        assert_eq!(policy, MAIL_POLICY);
        assert!(mail.contains("@media all"), "{mail}");
    }

    #[tokio::test]
    async fn other_names_and_other_pages_get_nothing() {
        let (_sender, receiver) = watch::channel(now(1));
        let router = router(receiver);
        let request =
            Request::builder().uri("/").header("host", "evil.example").body(Body::empty());
        let response = router.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST);
        assert_eq!(get(&router, "localhost", "/nothing").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_waiting_browser_hears_of_a_change() {
        let (sender, receiver) = watch::channel(now(1));
        let router = router(receiver);
        assert_eq!(get(&router, "localhost", "/version?after=0").await.2, "1");
        let waiting = tokio::spawn({
            let router = router.clone();
            async move { get(&router, "localhost", "/version?after=1").await.2 }
        });
        sender.send(now(2)).unwrap();
        assert_eq!(waiting.await.unwrap(), "2");
    }
}
