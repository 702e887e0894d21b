//! The pages for operators as a browser, a program and a stranger meet them: over a real socket, with
//! a real SQLite file.

mod approval;
mod login;
mod matrix;
mod monitoring;
mod pages;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{AdminState, access, router};
use crate::{
    account::Role,
    delivery::view::View,
    provider::Providers,
    report::tests::{House, NOW},
    timestamp::Timestamp,
    token::hash_token,
    web::{Limits, serve},
};

/// A listener over a database with one issue on its way, and a client with a session.
pub(super) struct App {
    pub(super) house: House,
    pub(super) clock: Arc<Mutex<Timestamp>>,
    pub(super) address: SocketAddr,
    pub(super) client: Client,
    stop: CancellationToken,
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl App {
    pub(super) async fn spawn() -> Self {
        Self::spawn_over(House::new(100, NOW).await, None).await
    }

    pub(super) async fn spawn_over(house: House, engine: Option<View>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let clock = Arc::new(Mutex::new(house.now));
        let mut state = AdminState::new(
            house.db.clone(),
            Arc::new(house.config.clone()),
            Arc::new(house.keyring.clone()),
            Arc::new(Providers::embedded().clone()),
            engine,
        );
        let told = Arc::clone(&clock);
        state.clock = Arc::new(move || *told.lock().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, router(state), Limits::default(), stop.clone()));
        let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        Self { house, clock, address, client, stop }
    }

    /// The value of a Cookie header for somebody with `role`.
    pub(super) async fn session(&self, role: Role) -> String {
        let token = format!("token-of-{role}");
        self.house
            .db
            .write(
                "INSERT INTO user (name, password_hash, role, created_at) VALUES ($1, '', $1, 0) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(role.as_str())
            .execute()
            .await
            .unwrap();
        self.house
            .db
            .write(
                "INSERT INTO web_session (token_hash, user_id, created_at, expires_at) \
                 SELECT $1, id, $3, $4 FROM user WHERE name = $2 ON CONFLICT DO NOTHING",
            )
            .bind(hash_token(&token).to_vec())
            .bind(role.as_str())
            .bind(self.house.now)
            .bind(self.house.now.plus(Duration::from_hours(1)))
            .execute()
            .await
            .unwrap();
        format!("postrider={token}")
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path)).header("accept", "text/html")
    }

    pub(super) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path)).header("accept", "text/html")
    }

    /// A page as somebody with `role` sees it.
    pub(super) async fn page(&self, role: Role, path: &str) -> (StatusCode, String) {
        let cookie = self.session(role).await;
        let answer = self.get(path).header("cookie", cookie).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }
}

pub(super) fn location(answer: &Response) -> &str {
    answer.headers().get("location").map_or("", |value| value.to_str().unwrap())
}

/// The value of the hidden field `name`.
pub(super) fn field(html: &str, name: &str) -> String {
    let page = scraper::Html::parse_document(html);
    let selector = scraper::Selector::parse(&format!("input[name={name}]")).unwrap();
    page.select(&selector).next().unwrap().value().attr("value").unwrap().to_owned()
}
