use super::*;
use crate::{db::state::SubscriptionState, subscriber::suppression::Reason};

#[tokio::test]
async fn the_form_on_the_home_page_leads_to_a_confirmation_mail() {
    let mut app = spawn().await;
    let home = app.get("/sre/").send().await.unwrap();
    assert_eq!(home.status(), 200);
    let home = home.text().await.unwrap();
    check_page(&home);
    assert_eq!(attributes(&home, "form", "method"), ["post"]);
    let action = attributes(&home, "form", "action").remove(0);
    let form_time = attributes(&home, "input[name=form_time]", "value").remove(0);
    app.pass(Duration::from_secs(5));
    let form = [("address", "Ada@Example.com"), ("website", ""), ("form_time", &form_time)];
    let sent = app.post(&action).form(&form).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    let page = sent.text().await.unwrap();
    check_page(&page);
    assert!(page.contains("Ada@example.com"), "{page}");
    assert_eq!(app.house.waiting().await, ["confirmation"]);
}

#[tokio::test]
async fn every_address_gets_the_same_answer() {
    let mut app = spawn().await;
    app.house.rules.per_network = 100;
    app.house.subscribe("active@example.com").await;
    let left = app.house.subscribe("left@example.com").await;
    app.house.leave(left, crate::subscriber::Scope::Newsletter).await;
    app.house.sign_up("pending@example.com").await;
    for &reason in Reason::ALL {
        app.house.suppress(&format!("{reason}@example.com"), reason).await;
    }
    let mut answers = Vec::new();
    for name in
        ["new", "active", "left", "pending", "bounce", "complaint", "manual", "not_me", "erased"]
    {
        let address = format!("{name}@example.com");
        let response = app.sign_up(&address).await;
        let status = response.status();
        let mut headers = response.headers().clone();
        headers.remove("date");
        headers.remove("content-length");
        let body = response.text().await.unwrap().replace(&address, "ADDRESS");
        answers.push((status, headers, body));
    }
    let mut different = answers.clone();
    different.dedup_by(|a, b| a == b);
    assert_eq!(different.len(), 1, "{different:#?}");
}

#[tokio::test]
async fn programs_get_json() {
    let app = spawn().await;
    let post =
        |body: serde_json::Value| app.client.post(app.url("/sre/subscribe")).json(&body).send();
    let first = post(serde_json::json!({ "address": "ada@example.com" })).await.unwrap();
    assert_eq!(first.status(), 422);
    assert_eq!(first.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = first.json().await.unwrap();
    assert_eq!(problem["code"], "form-time");
    assert!(problem["form_time"].as_str().unwrap().len() > 20);
    let form_time = app.form_time(Duration::from_secs(3));
    let body = serde_json::json!({ "address": "ada@example.com", "form_time": form_time });
    let second = post(body).await.unwrap();
    assert_eq!(second.status(), 202);
    assert_eq!(second.headers()["content-type"], "application/json");
    assert_eq!(app.house.waiting().await, ["confirmation"]);
    let nonsense = post(serde_json::json!({ "address": "ada" })).await.unwrap();
    let problem: serde_json::Value = nonsense.json().await.unwrap();
    assert_eq!(
        (problem["code"].as_str(), problem["status"].as_u64()),
        (Some("invalid-address"), Some(422))
    );
    let nested = post(serde_json::json!({ "address": ["a@example.com"] })).await.unwrap();
    assert_eq!(nested.status(), 400);
}

#[tokio::test]
async fn a_form_on_another_site_asks_for_one_more_press() {
    let app = spawn().await;
    let foreign = app
        .post("/sre/subscribe")
        .header("origin", "https://blog.example")
        .header("sec-fetch-site", "cross-site")
        .form(&[("email", "ada@example.com")])
        .send()
        .await
        .unwrap();
    assert_eq!(foreign.status(), 200);
    let page = foreign.text().await.unwrap();
    check_page(&page);
    assert_eq!(attributes(&page, "input[name=address]", "value"), ["ada@example.com"]);
    assert_eq!(app.house.waiting().await, [""; 0]);
}

#[tokio::test]
async fn machines_that_fill_in_forms_get_no_mail_sent() {
    let app = spawn().await;
    let fresh = app.form_time(Duration::from_mins(1));
    let forged = FormTime(app.house.now.minus(Duration::from_mins(1)))
        .seal(&crate::token::Keyring::ephemeral(app.house.now));
    for (website, form_time) in [
        ("https://spam.example", fresh),
        ("", app.form_time(Duration::ZERO)),
        ("", app.form_time(Duration::from_hours(25))),
        ("", FormTime(app.house.now.plus(Duration::from_hours(1))).seal(&app.house.keyring)),
        ("", forged),
        ("", "x".into()),
    ] {
        let form =
            [("address", "ada@example.com"), ("website", website), ("form_time", &form_time)];
        let answer = app.post("/sre/subscribe").form(&form).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(app.house.waiting().await, [""; 0]);
}

#[tokio::test]
async fn hostile_addresses_reach_no_header_and_no_markup() {
    let app = spawn().await;
    for typed in [
        "a@example.com\r\nBcc: b@example.com",
        "a\0@example.com",
        "<script>alert(1)</script>",
        "\"><img src=x>@example.com",
        "a@example.com, b@example.com",
        &format!("{}@example.com", "a".repeat(60_000)),
    ] {
        let answer = app.sign_up(typed).await;
        assert_eq!(answer.status(), 422, "{typed:?}");
        let page = answer.text().await.unwrap();
        check_page(&page);
        assert!(!page.contains("<script>") && !page.contains("<img"), "{page}");
        assert_eq!(attributes(&page, "input[name=address]", "aria-invalid"), ["true"]);
        assert!(page.len() < 10_000);
    }
    assert_eq!(app.house.mails().await.len(), 0);
}

#[tokio::test]
async fn a_bombing_network_is_refused_whatever_it_types() {
    let app = spawn_with(|config| config.signup.per_network = 2, Limits::default()).await;
    app.house.subscribe("active@example.com").await;
    for (address, status) in [
        ("active@example.com", 200),
        ("a@example.com", 200),
        ("b@example.com", 429),
        ("active@example.com", 429),
    ] {
        let answer = app.sign_up(address).await;
        assert_eq!(answer.status(), status, "{address}");
        if status == 429 {
            assert_eq!(answer.headers()["retry-after"], "86400");
        }
    }
    // Who comes through a trusted proxy is counted by the address it names.
    let proxied = |config: &mut Config| {
        config.signup.per_network = 1;
        config.public.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    };
    let app = spawn_with(proxied, Limits::default()).await;
    for (forwarded, status) in [("192.0.2.1", 200), ("192.0.2.2", 200), ("192.0.2.1", 429)] {
        let form_time = app.form_time(Duration::from_secs(20));
        let form = [("address", "a@example.com"), ("form_time", &form_time)];
        let request = app.post("/sre/subscribe").header("x-forwarded-for", forwarded);
        assert_eq!(request.form(&form).send().await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn looking_at_the_form_subscribes_nobody() {
    let app = spawn().await;
    for path in ["/sre/subscribe", "/sre/subscribe?address=ada@example.com", "/sre/"] {
        let answer = app.get(path).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        check_page(&answer.text().await.unwrap());
    }
    assert_eq!(app.house.state("ada@example.com").await, None::<SubscriptionState>);
}
