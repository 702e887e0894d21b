//! The pages as a browser, a mail client and a hostile program meet them: over a real socket, with a
//! real SQLite file.

mod archive;
mod confirm;
mod errors;
mod hooks;
mod leaving;
mod limits;
mod sign_up;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::{Client, RequestBuilder, Response, redirect};
use scraper::{Html, Selector};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Limits, State, router, serve};
use crate::{
    config::Config,
    issue::{self, Renderer},
    provider::Providers,
    subscriber::tests::House,
    timestamp::Timestamp,
    token::{FormTime, Purpose, ReaderToken},
};

/// A listener over a fresh database with one newsletter, `sre`.
struct App {
    house: House,
    clock: Arc<Mutex<Timestamp>>,
    address: SocketAddr,
    client: Client,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The test's server as its own client sees it.
async fn spawn() -> App {
    spawn_with(|_| {}, Limits::default()).await
}

async fn spawn_with(change: impl FnOnce(&mut Config), limits: Limits) -> App {
    let house = House::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let public_url = format!("http://{address}/").parse().unwrap();
    let mut config = Config { public_url, ..Config::default() };
    change(&mut config);
    let clock = Arc::new(Mutex::new(house.now));
    let mut state = State::new(
        house.db.clone(),
        Arc::new(config),
        Arc::new(house.keyring.clone()),
        Arc::new(Providers::embedded().clone()),
        Arc::new(Renderer::new(None).unwrap()),
    );
    let told = Arc::clone(&clock);
    state.clock = Arc::new(move || *told.lock().unwrap());
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, router(state), limits, stop.clone()));
    let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    App { house, clock, address, client, stop, server }
}

impl App {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path)).header("accept", "text/html")
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path)).header("accept", "text/html")
    }

    fn pass(&mut self, time: Duration) {
        self.house.pass(time);
        *self.clock.lock().unwrap() = self.house.now;
    }

    /// A form that was served `age` ago.
    fn form_time(&self, age: Duration) -> String {
        FormTime(self.house.now.minus(age)).seal(&self.house.keyring)
    }

    /// Fills in the form as a reader does.
    async fn sign_up(&self, address: &str) -> Response {
        let form_time = self.form_time(Duration::from_secs(20));
        self.post("/sre/subscribe")
            .form(&[("address", address), ("form_time", &form_time), ("website", "")])
            .send()
            .await
            .unwrap()
    }

    /// The path of a reader's page.
    fn reader_path(&self, page: &str, purpose: Purpose, token: ReaderToken) -> String {
        format!("/-/{page}/{}", token.seal(&self.house.keyring, purpose))
    }

    /// Stores the sample as a published issue.
    async fn publish(&self, number: u32) {
        let parsed = issue::parse("sample-issue.md", issue::SAMPLE.as_bytes());
        let mut document = parsed.document;
        document.number = Some(number);
        self.house
            .db
            .write(
                "INSERT INTO issue (uid, newsletter_id, number, subject, state, model, source, \
                 created_at, started_at) VALUES ($1, $2, $3, $4, 6, $5, '', $6, $6)",
            )
            .bind(uuid::Uuid::from_u128(u128::from(number)).to_string())
            .bind(self.house.newsletter)
            .bind(i64::from(number))
            .bind(format!("The <b> letter #{number} & more"))
            .bind(serde_json::to_string(&document).unwrap())
            .bind(self.house.now)
            .execute()
            .await
            .unwrap();
    }
}

/// The texts of the elements that `selector` finds.
fn texts(html: &str, selector: &str) -> Vec<String> {
    let page = Html::parse_document(html);
    let selector = Selector::parse(selector).unwrap();
    let text = |element: scraper::ElementRef<'_>| element.text().collect::<String>();
    page.select(&selector).map(text).map(|text| text.trim().to_owned()).collect()
}

/// The attribute `name` of the elements that `selector` finds.
fn attributes(html: &str, selector: &str, name: &str) -> Vec<String> {
    let page = Html::parse_document(html);
    let selector = Selector::parse(selector).unwrap();
    page.select(&selector).filter_map(|element| element.attr(name)).map(str::to_owned).collect()
}

/// What every page has: one first-level heading, a language, a title, labels for its fields.
#[track_caller]
fn check_page(html: &str) {
    assert_eq!(texts(html, "h1").len(), 1, "{html}");
    assert_eq!(attributes(html, "html", "lang"), ["en"]);
    assert!(!texts(html, "title")[0].is_empty());
    assert_eq!(attributes(html, "main", "id"), ["main"]);
    assert_eq!(attributes(html, "script", "src").len() + texts(html, "script").len(), 0);
    assert!(attributes(html, "[style]", "style").is_empty());
    let labelled = attributes(html, "label", "for");
    let fields = "input:not([type=hidden]), select, textarea";
    for id in attributes(html, fields, "id") {
        assert!(labelled.contains(&id), "no label for {id}");
    }
    assert_eq!(texts(html, fields).len(), attributes(html, fields, "id").len());
    let mut levels: Vec<u32> = Vec::new();
    let page = Html::parse_document(html);
    for heading in page.select(&Selector::parse("h1, h2, h3, h4, h5, h6").unwrap()) {
        levels.push(heading.value().name()[1..].parse().unwrap());
    }
    assert!(levels.windows(2).all(|pair| pair[1] <= pair[0] + 1), "headings skip: {levels:?}");
}
