//! Logging in and out.

use super::*;
use crate::account::{self, Passwords};

const PASSWORD: &str = "correct horse battery";

struct Browser<'a> {
    app: &'a App,
    form_cookie: String,
    form_token: String,
}

impl<'a> Browser<'a> {
    /// Opens the form.
    async fn open(app: &'a App) -> Self {
        let answer = app.get("/login").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let (cookie, _) = set_cookie(&answer, "postrider-form").unwrap();
        let form_token = field(&answer.text().await.unwrap(), "form_token");
        Self { app, form_cookie: format!("postrider-form={cookie}"), form_token }
    }

    fn send(&self, name: &str, password: &str, next: &str) -> RequestBuilder {
        let fields = [
            ("name", name),
            ("password", password),
            ("next", next),
            ("form_token", &self.form_token),
        ];
        self.app.post("/login").header("cookie", &self.form_cookie).form(&fields)
    }
}

/// The value and the attributes of a cookie that an answer sets.
fn set_cookie(answer: &Response, name: &str) -> Option<(String, String)> {
    let cookies = answer.headers().get_all("set-cookie").iter();
    cookies.filter_map(|cookie| cookie.to_str().ok()).find_map(|cookie| {
        let (pair, attributes) = cookie.split_once("; ").unwrap_or((cookie, ""));
        let value = pair.strip_prefix(name)?.strip_prefix('=')?;
        Some((value.to_owned(), attributes.to_owned()))
    })
}

async fn with_ada() -> App {
    let app = App::spawn().await;
    let (db, role) = (&app.house.db, Role::Operator);
    account::create(db, &Passwords::default(), "ada", PASSWORD, role, "test", NOW).await.unwrap();
    app
}

#[tokio::test]
async fn a_stranger_is_led_to_the_form_and_from_there_to_the_page() {
    let app = with_ada().await;
    let answer = app.get("/deliveries?kind=rejected").send().await.unwrap();
    assert_eq!(answer.status(), 303);
    assert_eq!(location(&answer), "/login?next=%2Fdeliveries%3Fkind%3Drejected");
    let form = app.get(location(&answer)).send().await.unwrap().text().await.unwrap();
    assert_eq!(field(&form, "next"), "/deliveries?kind=rejected");
    let browser = Browser::open(&app).await;
    let answer = browser.send("ada", PASSWORD, "/deliveries?kind=rejected").send().await.unwrap();
    assert_eq!(
        (answer.status(), location(&answer)),
        (StatusCode::SEE_OTHER, "/deliveries?kind=rejected")
    );
    let (token, attributes) = set_cookie(&answer, "postrider").unwrap();
    assert_eq!(attributes, "HttpOnly; SameSite=Strict; Path=/; Max-Age=43200");
    let cookie = format!("postrider={token}");
    let page = app.get("/").header("cookie", &cookie).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("ada"));
    // Who is logged in need not log in.
    let answer = app.get("/login").header("cookie", &cookie).send().await.unwrap();
    assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, "/"));
    // The session has its time.
    *app.clock.lock().unwrap() = NOW.plus(Duration::from_hours(12));
    let answer = app.get("/").header("cookie", &cookie).send().await.unwrap();
    assert_eq!(answer.status(), 303);
}

#[tokio::test]
async fn over_https_the_cookie_stays_on_https() {
    let app = with_ada().await;
    let browser = Browser::open(&app).await;
    let request = browser.send("ada", PASSWORD, "/");
    let origin = format!("https://{}", app.address);
    let answer = request.header("origin", origin).send().await.unwrap();
    assert_eq!(answer.status(), 303);
    let (_, attributes) = set_cookie(&answer, "__Host-postrider").unwrap();
    assert!(attributes.contains("Secure") && attributes.contains("HttpOnly"), "{attributes}");
}

#[tokio::test]
async fn wrong_names_and_wrong_passwords_look_alike_and_are_counted() {
    let app = with_ada().await;
    let mut pages = Vec::new();
    for name in ["ada", "eve"] {
        let browser = Browser::open(&app).await;
        let answer = browser.send(name, "wrong", "/").send().await.unwrap();
        assert_eq!(answer.status(), 401);
        assert!(set_cookie(&answer, "postrider").is_none());
        let html = answer.text().await.unwrap();
        let token = field(&html, "form_token");
        pages.push(html.replace(&token, "").replace(name, ""));
    }
    assert_eq!(pages[0], pages[1]);
    assert!(pages[0].contains("The name or the password is wrong."));
    for _ in 0..4 {
        let browser = Browser::open(&app).await;
        browser.send("ada", "wrong", "/").send().await.unwrap();
    }
    let browser = Browser::open(&app).await;
    let answer = browser.send("ada", PASSWORD, "/").send().await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "900");
}

#[tokio::test]
async fn a_form_that_is_not_ours_logs_nobody_in() {
    let app = with_ada().await;
    let browser = Browser::open(&app).await;
    let other = Browser::open(&app).await;
    let fields = |token: &str| {
        [("name", "ada".to_owned()), ("password", PASSWORD.into()), ("form_token", token.into())]
    };
    for (cookie, token) in [
        (Some(&browser.form_cookie), other.form_token.as_str()),
        (Some(&browser.form_cookie), ""),
        (None, browser.form_token.as_str()),
    ] {
        let mut request = app.post("/login").form(&fields(token));
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 403);
        assert!(set_cookie(&answer, "postrider").is_none());
    }
    for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", "http://evil.example")] {
        let request = browser.send("ada", PASSWORD, "/").header(name, value);
        assert_eq!(request.send().await.unwrap().status(), 403, "{name}");
    }
}

#[tokio::test]
async fn logging_out_takes_a_form_of_ours_and_ends_the_session() {
    let app = App::spawn().await;
    let cookie = app.session(Role::Viewer).await;
    let token = field(&app.page(Role::Viewer, "/").await.1, "form_token");
    for wrong in ["", "00", &"0".repeat(64)] {
        let request = app.post("/logout").header("cookie", &cookie);
        let answer = request.form(&[("form_token", wrong)]).send().await.unwrap();
        assert_eq!(answer.status(), 403);
    }
    assert_eq!(app.page(Role::Viewer, "/").await.0, 200);
    let request = app.post("/logout").header("cookie", &cookie);
    let answer = request.form(&[("form_token", token)]).send().await.unwrap();
    assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, "/login"));
    let (value, attributes) = set_cookie(&answer, "postrider").unwrap();
    assert!(value.is_empty() && attributes.contains("Max-Age=0"), "{attributes}");
    let answer = app.get("/").header("cookie", &cookie).send().await.unwrap();
    assert_eq!(answer.status(), 303);
}

#[tokio::test]
async fn a_link_on_another_site_leads_on_with_one_click() {
    let app = App::spawn().await;
    let request = app.get("/issues/weekly/437").header("sec-fetch-site", "cross-site");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let html = answer.text().await.unwrap();
    assert!(html.contains("href=\"/issues/weekly/437\""), "{html}");
    assert!(!html.contains("Queues have a cost"));
}

#[tokio::test]
async fn without_any_user_the_form_says_what_to_do() {
    let app = App::spawn().await;
    let html = app.get("/login").send().await.unwrap().text().await.unwrap();
    assert!(html.contains("postrider user add"));
    app.session(Role::Viewer).await;
    let html = app.get("/login").send().await.unwrap().text().await.unwrap();
    assert!(!html.contains("postrider user add"));
}
