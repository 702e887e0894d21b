use super::*;
use crate::{
    db::state::SubscriptionState::{Active, Pending},
    id::SubscriberId,
    subscriber::suppression::Reason,
};

async fn confirm_path(app: &App) -> String {
    format!("/-/confirm/{}", app.house.link().await)
}

fn not_me_path(app: &App, subscriber: SubscriberId) -> String {
    app.reader_path("not-me", Purpose::NotMe, app.house.token(subscriber))
}

#[tokio::test]
async fn a_scanner_that_opens_every_link_confirms_nobody() {
    let app = spawn().await;
    app.sign_up("ada@example.com").await;
    let id = app.house.subscriber("ada@example.com").await;
    let token = app.house.token(id);
    for path in [
        confirm_path(&app).await,
        not_me_path(&app, id),
        app.reader_path("unsubscribe", Purpose::Unsubscribe, token),
        app.reader_path("preferences", Purpose::Preferences, token),
    ] {
        for _ in 0..2 {
            let looked = app.get(&path).send().await.unwrap();
            assert_eq!(looked.status(), 200, "{path}");
            assert_eq!(looked.headers()["cache-control"], "no-store");
            assert_eq!(looked.headers()["referrer-policy"], "same-origin");
            let page = looked.text().await.unwrap();
            check_page(&page);
            // A program that runs scripts or follows refreshes finds none.
            assert_eq!(attributes(&page, "meta[http-equiv]", "content"), [""; 0]);
            assert_eq!(attributes(&page, "meta[name=robots]", "content"), ["noindex, nofollow"]);
            let head = app.client.head(app.url(&path)).send().await.unwrap();
            assert_eq!(head.status(), 200);
        }
    }
    assert_eq!(app.house.state("ada@example.com").await, Some(Pending));
    assert_eq!(app.house.suppressed("ada@example.com").await, None);
    assert_eq!(app.house.waiting().await, ["confirmation"]);
}

#[tokio::test]
async fn the_button_confirms_and_may_be_pressed_twice() {
    let app = spawn().await;
    app.sign_up("ada@example.com").await;
    let path = confirm_path(&app).await;
    for _ in 0..2 {
        let pressed = app
            .post(&path)
            .header("origin", app.url(""))
            .header("sec-fetch-site", "same-origin")
            .send()
            .await
            .unwrap();
        assert_eq!(pressed.status(), 200);
        check_page(&pressed.text().await.unwrap());
        assert_eq!(app.house.state("ada@example.com").await, Some(Active));
    }
    assert_eq!(app.house.waiting().await, ["welcome"]);
    assert_eq!(app.get(&path).send().await.unwrap().status(), 410);
}

#[tokio::test]
async fn a_foreign_page_cannot_press_the_button() {
    let app = spawn().await;
    app.sign_up("ada@example.com").await;
    let path = confirm_path(&app).await;
    for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        let pressed = app.post(&path).header(name, value).send().await.unwrap();
        assert_eq!(pressed.status(), 403);
        check_page(&pressed.text().await.unwrap());
    }
    assert_eq!(app.house.state("ada@example.com").await, Some(Pending));
}

#[tokio::test]
async fn an_old_link_can_be_renewed_and_a_forged_one_says_nothing() {
    let mut app = spawn().await;
    app.sign_up("ada@example.com").await;
    let path = confirm_path(&app).await;
    app.pass(Duration::from_hours(7 * 24));
    for response in [app.get(&path).send().await, app.post(&path).send().await] {
        let response = response.unwrap();
        assert_eq!(response.status(), 410);
        let page = response.text().await.unwrap();
        check_page(&page);
        assert_eq!(attributes(&page, "form", "action"), [format!("{path}/renew")]);
    }
    let problem = app.client.post(app.url(&path)).header("accept", "application/json");
    let problem = problem.send().await.unwrap();
    assert_eq!(problem.status(), 410);
    assert_eq!(problem.headers()["content-type"], "application/problem+json");
    assert_eq!(problem.json::<serde_json::Value>().await.unwrap()["code"], "link-expired");
    let renewed = app.post(&format!("{path}/renew")).send().await.unwrap();
    assert_eq!(renewed.status(), 200);
    check_page(&renewed.text().await.unwrap());
    let fresh = confirm_path(&app).await;
    assert_ne!(fresh, path);
    assert_eq!(app.post(&fresh).send().await.unwrap().status(), 200);
    assert_eq!(app.house.state("ada@example.com").await, Some(Active));

    for forged in ["x", "..%2f..", "%00", &"a".repeat(5000), &fresh[11..30]] {
        for path in [format!("/-/confirm/{forged}"), format!("/-/not-me/{forged}")] {
            let looked = app.get(&path).send().await.unwrap();
            assert!([400, 404].contains(&looked.status().as_u16()), "{path}");
            let pressed = app.post(&path).send().await.unwrap();
            assert!([400, 404].contains(&pressed.status().as_u16()), "{path}");
        }
        let renewed = app.post(&format!("/-/confirm/{forged}/renew")).send().await.unwrap();
        assert!([400, 404].contains(&renewed.status().as_u16()), "{forged}");
    }
}

#[tokio::test]
async fn this_was_not_me_blocks_and_says_how_to_undo_it() {
    let app = spawn().await;
    app.sign_up("victim@example.com").await;
    let confirm = confirm_path(&app).await;
    let id = app.house.subscriber("victim@example.com").await;
    let path = not_me_path(&app, id);
    let blocked = app.post(&path).send().await.unwrap();
    assert_eq!(blocked.status(), 200);
    assert!(blocked.text().await.unwrap().contains("editor@example.com"));
    assert_eq!(app.house.suppressed("victim@example.com").await.as_deref(), Some("not_me"));
    assert_eq!(app.post(&confirm).send().await.unwrap().status(), 410);
    // A link for one purpose is good for no other.
    let other = path.replace("not-me", "unsubscribe");
    assert_eq!(app.post(&other).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_complaint_stands_against_a_link() {
    let app = spawn().await;
    app.sign_up("ada@example.com").await;
    let path = confirm_path(&app).await;
    app.house.suppress("ada@example.com", Reason::Complaint).await;
    let pressed = app.post(&path).send().await.unwrap();
    assert_eq!(pressed.status(), 409);
    check_page(&pressed.text().await.unwrap());
}

#[tokio::test]
async fn a_reader_pauses_sees_takes_and_erases_their_data() {
    let app = spawn().await;
    let id = app.house.subscribe("ada@example.com").await;
    let preferences = app.reader_path("preferences", Purpose::Preferences, app.house.token(id));
    let act = async |fields: &[(&str, &str)]| {
        let answer = app.post(&preferences).form(fields).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.text().await.unwrap())
    };
    let (status, page) = act(&[("act", "pause"), ("months", "3")]).await;
    check_page(&page);
    assert_eq!(status, 200);
    assert!(page.contains("before 31 May 2026"), "{page}");
    let (_, page) = act(&[("act", "resume")]).await;
    assert!(page.contains("Every issue of"), "{page}");
    for wrong in [&[("act", "pause"), ("months", "900")][..], &[("act", "x")], &[]] {
        assert_eq!(act(wrong).await.0, 422, "{wrong:?}");
    }
    let (_, page) = act(&[("act", "data")]).await;
    assert!(!page.contains("ada@example.com"), "a forwarded link shows no address");
    assert_eq!(app.house.waiting().await, ["welcome", "my_data"]);

    let data = format!("/-/my-data/{}", app.house.link().await);
    let page = app.get(&data).send().await.unwrap().text().await.unwrap();
    check_page(&page);
    assert!(page.contains("ada@example.com"));
    let name = [("name", "Ada <Lovelace>\r\nX: y")];
    let named = app.post(&format!("{data}/name")).form(&name).send().await.unwrap();
    assert_eq!(named.status(), 200);
    let named = named.text().await.unwrap();
    assert_eq!(attributes(&named, "#name", "value"), ["Ada <Lovelace>  X: y"]);
    let json = app.get(&format!("{data}/my-data.json")).send().await.unwrap();
    assert!(json.headers()["content-disposition"].to_str().unwrap().starts_with("attachment"));
    let json: serde_json::Value = json.json().await.unwrap();
    assert_eq!(json["address"], "ada@example.com");
    assert_eq!(json["subscriptions"][0]["state"], "active");
    assert_eq!(json["consent"].as_array().unwrap().len(), 2);

    let erase = format!("{data}/erase");
    assert_eq!(app.post(&erase).send().await.unwrap().status(), 422);
    let erased = app.post(&erase).form(&[("sure", "yes")]).send().await.unwrap();
    assert_eq!(erased.status(), 200);
    assert_eq!(app.get(&data).send().await.unwrap().status(), 404);
    assert_eq!(app.house.suppressed("ada@example.com").await.as_deref(), Some("erased"));
    // Preferences of nobody are a page still.
    assert_eq!(app.get(&preferences).send().await.unwrap().status(), 200);
}
