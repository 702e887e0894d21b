//! What the pages say, and to whom.

use scraper::{Html, Selector};

use super::*;

fn texts(html: &str, selector: &str) -> Vec<String> {
    let page = Html::parse_document(html);
    let selector = Selector::parse(selector).unwrap();
    page.select(&selector)
        .map(|found| found.text().flat_map(str::split_whitespace).collect::<Vec<_>>().join(" "))
        .collect()
}

const PAGES: &[&str] =
    &["/", "/issues/weekly/437", "/deliveries", "/channels", "/subscribers", "/subscribers/51"];

#[tokio::test]
async fn an_issue_shows_its_equation_its_pace_and_what_is_next() {
    let app = App::spawn().await;
    let (status, html) = app.page(Role::Operator, "/issues/weekly/437").await;
    assert_eq!(status, 200);
    let rows = texts(&html, "table.equation tr");
    for row in ["accepted 50", "rejected 3", "uncertain 1", "planned 40", "together 100"] {
        assert!(rows.contains(&row.to_owned()), "{row} is not in {rows:?}");
    }
    assert!(html.contains("every copy is in exactly one state"));
    let stages = texts(&html, "#stages tbody tr");
    assert!(stages[1].starts_with("10 % released 59 49 "), "{}", stages[1]);
    assert_eq!(stages.len(), 3);
    assert!(stages[2].contains("not released"));
    let facts = texts(&html, "#status dd").join(" | ");
    for words in ["no daemon runs", "stage “rest” is released", "p50", "over 60 s", "in "] {
        assert!(facts.contains(words), "{words} is not in {facts}");
    }
    assert!(texts(&html, "#replies li")[0].contains("550 5.1.1 <b>no such user</b>"));
    assert_eq!(texts(&html, "#uncertain tbody th"), ["reader53@example.org"]);
}

#[tokio::test]
async fn an_equation_that_does_not_hold_is_not_hidden() {
    let app = App::spawn().await;
    app.house.set("DELETE FROM delivery WHERE subscriber_id = 1").await;
    let (_, html) = app.page(Role::Viewer, "/issues/weekly/437").await;
    assert!(html.contains("copies were lost or added"));
}

#[tokio::test]
async fn a_halt_stands_at_the_top_with_its_figures() {
    let app = App::spawn().await;
    app.house
        .set(
            "UPDATE issue SET state = 4, halt = '{\"gate\":\"policy\",\"provider\":1,\"stage\":1,\
             \"hits\":12,\"sample\":300,\"limit\":1.0,\"replies\":[\"550 to bob@example.org\"]}'",
        )
        .await;
    let (_, html) = app.page(Role::Viewer, "/issues/weekly/437").await;
    let halt = texts(&html, ".halt").join(" ");
    for words in
        ["reputation, policy or content", "12 of 300", "4.0 %", "limit is 1", "b…@example.org"]
    {
        assert!(halt.contains(words), "{words} is not in {halt}");
    }
    let (_, html) = app.page(Role::Viewer, "/").await;
    assert!(html.contains("a gate halted it"));
}

#[tokio::test]
async fn addresses_are_for_operators_only() {
    let app = App::spawn().await;
    app.house.set("UPDATE event SET text = 'no reader9@example.org here' WHERE kind = 4").await;
    for path in ["/", "/issues/weekly/437", "/deliveries", "/deliveries?kind=rejected"] {
        for role in [Role::Viewer, Role::Editor] {
            let (status, html) = app.page(role, path).await;
            assert_eq!(status, 200);
            assert!(!html.contains("reader"), "{path} as {role}");
        }
    }
    assert_eq!(app.page(Role::Editor, "/deliveries?subscriber=51").await.0, 403);
    let (_, html) = app.page(Role::Operator, "/deliveries?subscriber=reader50@example.org").await;
    assert_eq!(texts(&html, "table.log tbody tr").len(), 1);
    assert!(html.contains("reader50@example.org"));
}

#[tokio::test]
async fn what_others_wrote_is_escaped_and_nothing_is_inline() {
    let app = App::spawn().await;
    for path in PAGES {
        let (status, html) = app.page(Role::Operator, path).await;
        assert_eq!(status, 200, "{path}");
        assert!(!html.contains("<b>") && !html.contains("<Pager>"), "{path}");
        assert!(!html.contains("<script>") && !html.contains(" style="), "{path}");
        assert!(!html.contains(" onclick") && !html.contains("http-equiv"), "{path}");
        assert_eq!(texts(&html, "h1").len(), 1, "{path}");
        assert_eq!(texts(&html, "html[lang]").len(), 1, "{path}");
    }
}

#[tokio::test]
async fn the_log_is_filtered_and_paged_by_links() {
    let app = App::spawn().await;
    for (query, lines) in [
        ("", 58),
        ("?kind=rejected", 3),
        ("?issue=weekly/437&kind=deferred", 3),
        ("?issue=437&class=policy", 3),
        ("?issue=weekly%20%23437&provider=other", 20),
        ("?since=2099-01-01T00:00", 0),
        ("?until=2099-01-01T00:00&kind=uncertain", 1),
        ("?kind=&provider=&class=&since=&until=&issue=&subscriber=", 58),
    ] {
        let (status, html) = app.page(Role::Operator, &format!("/deliveries{query}")).await;
        assert_eq!(status, 200);
        assert_eq!(texts(&html, "table.log tbody tr").len(), lines, "{query}");
    }
    for (query, error) in [
        ("issue=weekly/9", "There is no issue “weekly/9”."),
        ("issue=other/437", "There is no issue “other/437”."),
        ("subscriber=nobody@example.org", "There is no subscriber “nobody@example.org”."),
        ("provider=x", "There is no provider “x”."),
        ("kind=x", "There is no outcome “x”."),
        ("since=yesterday", "“yesterday” is not a time"),
    ] {
        let (_, html) = app.page(Role::Operator, &format!("/deliveries?{query}")).await;
        assert!(texts(&html, ".error")[0].contains(error), "{query}");
    }
    // Older pages do not refresh themselves, and lead back to newer ones.
    let (_, html) = app.page(Role::Operator, "/deliveries?before=10").await;
    assert_eq!(texts(&html, "table.log tbody tr").len(), 9);
    assert!(
        !html.contains("live.js") && html.contains("href=\"/deliveries?after&#x3D;9\""),
        "{html}"
    );
    let (_, html) = app.page(Role::Operator, "/deliveries").await;
    assert!(html.contains("live.js"));
}

#[tokio::test]
async fn a_reader_is_found_by_number_address_or_form() {
    let app = App::spawn().await;
    let cookie = app.session(Role::Operator).await;
    let (status, html) = app.page(Role::Operator, "/subscribers/51").await;
    assert_eq!(status, 200);
    assert_eq!(texts(&html, "h1"), ["reader50@example.org"]);
    assert!(html.contains("550 5.1.1") && html.contains("weekly #437"));
    let request = app.get("/subscribers/Reader50@EXAMPLE.org").header("cookie", &cookie);
    let answer = request.send().await.unwrap();
    assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, "/subscribers/51"));
    for unknown in ["/subscribers/9999", "/subscribers/x@example.org", "/subscribers/%00"] {
        assert_eq!(app.page(Role::Operator, unknown).await.0, 404, "{unknown}");
    }
    let token = field(&app.page(Role::Operator, "/subscribers").await.1, "form_token");
    for (address, expected) in [("reader50@example.org", 303), ("nobody@example.org", 404)] {
        let fields = [("form_token", token.as_str()), ("address", address)];
        let request = app.post("/subscribers").header("cookie", &cookie).form(&fields);
        assert_eq!(request.send().await.unwrap().status(), expected, "{address}");
    }
}

#[tokio::test]
async fn errors_are_pages_for_people_and_json_for_programs() {
    let app = App::spawn().await;
    let cookie = app.session(Role::Viewer).await;
    for (path, status, code) in [
        ("/issues/weekly/9", 404_u16, "unknown-issue"),
        ("/issues/other/437", 404, "unknown-newsletter"),
        ("/nothing", 404, "not-found"),
        ("/issues/weekly/x", 400, "bad-request"),
    ] {
        let (found, html) = app.page(Role::Viewer, path).await;
        assert_eq!(found, status, "{path}");
        assert_eq!(texts(&html, "h1").len(), 1);
        let request = app.client.get(app.url(path)).header("accept", "application/json");
        let answer = request.header("cookie", &cookie).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(
            (problem["code"].as_str(), problem["status"].as_u64()),
            (Some(code), Some(status.into()))
        );
    }
}

#[tokio::test]
async fn every_answer_has_the_headers_that_protect_it() {
    let app = App::spawn().await;
    let cookie = app.session(Role::Operator).await;
    for path in PAGES.iter().chain(&["/login", "/healthz", "/readyz", "/nothing", "/-/style.css"]) {
        let answer = app.get(path).header("cookie", &cookie).send().await.unwrap();
        let headers = answer.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}");
        assert_eq!(headers["x-frame-options"], "DENY", "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert!(headers.contains_key("x-request-id"), "{path}");
        let caches = headers["cache-control"].to_str().unwrap();
        assert_eq!(caches.contains("immutable"), path.starts_with("/-/"), "{path}: {caches}");
        assert!(caches.contains("immutable") || caches == "no-store", "{path}: {caches}");
    }
}

#[tokio::test]
async fn channels_show_webhooks_that_fail_and_mailboxes_that_nobody_looks_into() {
    let mut house = House::new(100, NOW).await;
    house.config = crate::config::Config::parse(
        "[[webhooks]]\nname = \"crm\"\nurl = \"https://crm.example.com/secret-path\"\n\
         secret = \"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\"\n\
         [[bounces.mailbox]]\nname = \"returns\"\nkind = \"maildir\"\npath = \"/nowhere\"\n",
        "config.toml",
    )
    .unwrap();
    house
        .set(
            "INSERT INTO webhook (name, uid, sent_to, events, failing_since, problem) \
             VALUES ('crm', 'u', 50, 1234, 5, 'answered 503 to bob@example.org')",
        )
        .await;
    let app = App::spawn_over(house, None).await;
    let (status, html) = app.page(Role::Viewer, "/channels").await;
    assert_eq!(status, 200);
    let hooks = texts(&html, "#webhooks tbody tr").join(" ");
    for words in ["crm crm.example.com", "failing", "answered 503 to b…@example.org", "1,234 8"] {
        assert!(hooks.contains(words), "{words} is not in {hooks}");
    }
    assert!(!html.contains("secret-path"));
    let mailboxes = texts(&html, "#mailboxes tbody tr").join(" ");
    assert!(mailboxes.contains("returns") && mailboxes.contains("unknown"), "{mailboxes}");
}
