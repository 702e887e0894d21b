use super::*;
use crate::{
    db::state::SubscriptionState::{Active, Unsubscribed},
    id::{IssueId, NewsletterId, SubscriberId},
};

fn path(app: &App, subscriber: SubscriberId) -> String {
    let token = ReaderToken { issue: Some(IssueId(4711)), ..app.house.token(subscriber) };
    app.reader_path("unsubscribe", Purpose::Unsubscribe, token)
}

/// One-click POSTs as mail clients are known to send them: whatever the body, the cookies, the
/// origin and the wishes, each one leaves.
#[tokio::test]
async fn one_click_works_in_every_way_it_is_pressed() {
    let app = spawn().await;
    let multipart = "--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\n\
                     One-Click\r\n--b--\r\n";
    let bodies = [
        ("application/x-www-form-urlencoded", "List-Unsubscribe=One-Click"),
        ("application/x-www-form-urlencoded; charset=UTF-8", "List-Unsubscribe=One-Click\r\n"),
        ("multipart/form-data; boundary=b", multipart),
        ("multipart/form-data", "no boundary"),
        ("application/x-www-form-urlencoded", ""),
        ("text/plain", "List-Unsubscribe=One-Click"),
        ("application/json", "{"),
        ("", ""),
    ];
    let headers: [&[(&str, &str)]; 5] = [
        &[],
        &[("cookie", "session=abc; theme=dark")],
        &[("origin", "https://mail.example"), ("sec-fetch-site", "cross-site")],
        &[("origin", "null")],
        &[("accept", "application/json"), ("user-agent", "")],
    ];
    let mut pressed = 0;
    for (content_type, body) in bodies {
        for extra in headers {
            let typed = format!("r{pressed}@gmail.com");
            // Sign-ups come by the hundred here, so the caps are passed by.
            let id = subscribe(&app, &typed).await;
            for _ in 0..2 {
                let mut request = app.client.post(app.url(&path(&app, id))).body(body);
                if !content_type.is_empty() {
                    request = request.header("content-type", content_type);
                }
                for (name, value) in extra {
                    request = request.header(*name, *value);
                }
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status(), 200, "{content_type} {body:?} {extra:?}");
                assert!(answer.headers().get("set-cookie").is_none());
                assert!(answer.headers().get("location").is_none());
                assert_eq!(app.house.state(&typed).await, Some(Unsubscribed));
            }
            pressed += 1;
        }
    }
    assert_eq!(app.house.count("SELECT count(*) FROM event WHERE kind = 10").await, pressed);
    let one_click = "SELECT count(*) FROM event WHERE kind = 10 AND issue_id = 4711 AND \
                     class = 'one_click'";
    assert_eq!(app.house.count(one_click).await, pressed);
    assert_eq!(app.house.waiting().await, [""; 0], "nobody is written to for leaving");
}

/// An active subscriber, written down directly.
async fn subscribe(app: &App, typed: &str) -> SubscriberId {
    let address = crate::address::Address::parse(typed).unwrap();
    let id: SubscriberId = app
        .house
        .db
        .write(
            "INSERT INTO subscriber (address, address_hash, provider, created_at) \
             VALUES ($1, $2, 1, 0) RETURNING id",
        )
        .bind(typed.to_owned())
        .bind(app.house.keyring.address_hash(&address).to_vec())
        .scalar()
        .await
        .unwrap();
    app.house
        .db
        .write(
            "INSERT INTO subscription (newsletter_id, subscriber_id, state, created_at) \
             VALUES ($1, $2, 1, 0)",
        )
        .bind(app.house.newsletter)
        .bind(id)
        .execute()
        .await
        .unwrap();
    id
}

#[tokio::test]
async fn looking_at_the_page_leaves_nothing_and_other_methods_are_refused() {
    let app = spawn().await;
    let id = app.house.subscribe("ada@example.com").await;
    let path = path(&app, id);
    let page = app.get(&path).send().await.unwrap().text().await.unwrap();
    check_page(&page);
    assert_eq!(app.client.head(app.url(&path)).send().await.unwrap().status(), 200);
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        let request = app.client.request(method.parse().unwrap(), app.url(&path));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 405, "{method}");
        let allowed = answer.headers()["allow"].to_str().unwrap();
        assert!(allowed.contains("POST"), "{allowed}");
    }
    assert_eq!(app.house.state("ada@example.com").await, Some(Active));
}

#[tokio::test]
async fn the_page_leaves_one_or_all_and_takes_a_reason() {
    let mut app = spawn().await;
    let first = app.house.newsletter;
    let id = app.house.subscribe("ada@example.com").await;
    app.house.newsletter = app.house.newsletter("second").await;
    app.house.subscribe("ada@example.com").await;
    app.house.newsletter = first;
    let path = path(&app, id);
    let leave = async |scope: &str| {
        let form = [("page", "1"), ("scope", scope), ("reason", "<b>too much</b>")];
        let answer = app.post(&path).form(&form).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        check_page(&answer.text().await.unwrap());
        let all = crate::subscriber::subscriptions(&app.house.db, id).await.unwrap();
        all.iter().filter(|one| one.state == Active).count()
    };
    assert_eq!(leave("newsletter").await, 1);
    let page = app.get(&path).send().await.unwrap().text().await.unwrap();
    check_page(&page);
    assert_eq!(leave("everything").await, 0);
    let reasons = "SELECT count(*) FROM event WHERE kind = 10 AND text = '<b>too much</b>' AND \
                   class = 'page'";
    assert_eq!(app.house.count(reasons).await, 2);
}

#[tokio::test]
async fn unknown_tokens_get_404_without_detail() {
    let app = spawn().await;
    let id = app.house.subscribe("ada@example.com").await;
    let good = path(&app, id);
    let mut altered = good.clone();
    let last = altered.pop().unwrap();
    altered.push(if last == 'a' { 'b' } else { 'a' });
    let stranger = crate::token::Keyring::ephemeral(app.house.now);
    let foreign = app.house.token(id).seal(&stranger, Purpose::Unsubscribe);
    let nowhere = ReaderToken { newsletter: NewsletterId(99), ..app.house.token(id) };
    let wrong = app.house.token(id).seal(&app.house.keyring, Purpose::Preferences);
    let mut bodies = Vec::new();
    for path in [
        altered,
        format!("/-/unsubscribe/{foreign}"),
        format!("/-/unsubscribe/{wrong}"),
        app.reader_path("unsubscribe", Purpose::Unsubscribe, nowhere),
        "/-/unsubscribe/x".into(),
        format!("/-/unsubscribe/{}", "a".repeat(8000)),
    ] {
        for request in [app.get(&path), app.post(&path)] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 404, "{path}");
            bodies.push(answer.text().await.unwrap());
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "all the same");
    assert_eq!(app.house.state("ada@example.com").await, Some(Active));
    // Any case: mail gateways fold it.
    let (folder, token) = good.rsplit_once('/').unwrap();
    let upper = format!("{folder}/{}", token.to_uppercase());
    assert_eq!(app.post(&upper).send().await.unwrap().status(), 200);
    assert_eq!(app.house.state("ada@example.com").await, Some(Unsubscribed));
}

#[tokio::test]
async fn a_link_of_five_years_ago_works() {
    let mut app = spawn().await;
    let id = app.house.subscribe("ada@example.com").await;
    let path = path(&app, id);
    app.pass(Duration::from_hours(5 * 366 * 24));
    // The issue that the link names never was, and that does not matter.
    assert_eq!(app.post(&path).send().await.unwrap().status(), 200);
    assert_eq!(app.house.state("ada@example.com").await, Some(Unsubscribed));
}
