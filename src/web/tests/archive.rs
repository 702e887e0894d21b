use super::*;

#[tokio::test]
async fn one_newsletter_is_home_and_several_are_listed() {
    let app = spawn().await;
    let only = app.get("/").send().await.unwrap();
    assert_eq!(
        (only.status().as_u16(), &only.headers()["location"]),
        (307, &"/sre/".parse().unwrap())
    );
    let slashless = app.get("/sre").send().await.unwrap();
    assert_eq!(slashless.headers()["location"], "/sre/");
    app.house.newsletter("second").await;
    let page = app.get("/").send().await.unwrap().text().await.unwrap();
    check_page(&page);
    assert_eq!(attributes(&page, "main a", "href"), ["/second/", "/sre/"]);
}

#[tokio::test]
async fn published_issues_stand_in_the_archive_and_drafts_do_not() {
    let app = spawn().await;
    for number in 1..=60 {
        app.publish(number).await;
    }
    let draft = "UPDATE issue SET state = 0, started_at = NULL WHERE number = 60";
    app.house.db.write(draft).execute().await.unwrap();
    let page = app.get("/sre/").send().await.unwrap().text().await.unwrap();
    check_page(&page);
    assert_eq!(attributes(&page, ".latest a", "href"), ["/sre/59"]);
    assert_eq!(texts(&page, ".latest a"), ["The <b> letter #59 & more"]);
    assert_eq!(texts(&page, ".archive li").len(), 49);
    let older = attributes(&page, "a[rel=next]", "href").remove(0);
    let rest = app.get(&older).send().await.unwrap().text().await.unwrap();
    check_page(&rest);
    assert_eq!(texts(&rest, ".archive li").len(), 9);
    assert_eq!(app.get("/sre/60").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn an_issue_has_a_page_that_clients_may_keep() {
    let app = spawn().await;
    for number in [435, 437, 438] {
        app.publish(number).await;
    }
    let answer = app.get("/sre/437").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let etag = answer.headers()["etag"].clone();
    let page = answer.text().await.unwrap();
    check_page(&page);
    assert_eq!(texts(&page, "h1"), ["The <b> letter #437 & more"]);
    assert!(texts(&page, ".issue .item").len() > 1, "{page}");
    assert_eq!(attributes(&page, "a[rel=prev]", "href"), ["/sre/435"]);
    assert_eq!(attributes(&page, "a[rel=next]", "href"), ["/sre/438"]);
    assert_eq!(attributes(&page, "link[rel=canonical]", "href"), [app.url("/sre/437")]);
    let again = app.get("/sre/437").header("if-none-match", etag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    assert_eq!(again.headers()["x-content-type-options"], "nosniff");
    for (path, code) in [
        ("/sre/9", "unknown-issue"),
        ("/sre/-1", "unknown-issue"),
        ("/sre/x", "not-found"),
        ("/nothing/1", "unknown-newsletter"),
        ("/nothing/", "unknown-newsletter"),
        ("/nothing/atom.xml", "unknown-newsletter"),
        ("/a/b/c", "not-found"),
    ] {
        let request = app.client.get(app.url(path)).header("accept", "application/json");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], code, "{path}");
    }
}

#[tokio::test]
async fn feeds_hold_the_latest_issues_whole() {
    let mut app = spawn().await;
    for number in 1..=22 {
        app.publish(number).await;
        app.pass(Duration::from_hours(24 * 7));
    }
    let feed = app.client.get(app.url("/sre/atom.xml")).send().await.unwrap();
    assert_eq!(feed.headers()["content-type"], "application/atom+xml; charset=utf-8");
    assert_eq!(feed.headers()["last-modified"], "Mon, 27 Jul 2026 10:00:00 GMT");
    let modified = feed.headers()["last-modified"].clone();
    let text = feed.text().await.unwrap();
    let atom = atom_syndication::Feed::read_from(text.as_bytes()).unwrap();
    assert_eq!(atom.entries.len(), 20);
    let latest = &atom.entries[0];
    assert_eq!(latest.title.value, "The <b> letter #22 & more");
    assert_eq!(latest.links[0].href, app.url("/sre/22"));
    assert_eq!(latest.published.unwrap().to_rfc3339(), "2026-07-27T10:00:00+00:00");
    let html = latest.content.as_ref().unwrap().value.as_ref().unwrap();
    assert!(html.contains("<article class=\"item\">"), "{html}");

    let request = app.client.get(app.url("/sre/rss.xml"));
    let feed = request.header("if-modified-since", &modified).send().await.unwrap();
    assert_eq!(feed.status(), 304);
    let text = app.client.get(app.url("/sre/rss.xml")).send().await.unwrap().text().await.unwrap();
    assert!(text.starts_with("<?xml version=\"1.0\" encoding=\"utf-8\"?><rss"), "{}", &text[..80]);
    let rss = rss::Channel::read_from(text.as_bytes()).unwrap();
    assert_eq!(rss.items.len(), 20);
    assert!(rss.items[0].content.as_ref().unwrap().contains("<article class=\"item\">"));
    assert_eq!(rss.items[0].link.as_ref().unwrap(), &app.url("/sre/22"));
    assert_eq!(rss.items[0].pub_date.as_deref(), Some("Mon, 27 Jul 2026 10:00:00 +0000"));
}

#[tokio::test]
async fn a_proxy_may_pass_the_path_on_or_take_it_off() {
    let below = |config: &mut Config| {
        config.public_url = "https://example.com/news/".parse().unwrap();
    };
    let app = spawn_with(below, Limits::default()).await;
    for path in ["/sre/", "/news/sre/"] {
        let page = app.get(path).send().await.unwrap();
        assert_eq!(page.status(), 200, "{path}");
        assert!(page.headers().contains_key("strict-transport-security"));
        let page = page.text().await.unwrap();
        assert_eq!(attributes(&page, "form", "action"), ["/news/sre/subscribe"]);
        assert_eq!(
            attributes(&page, "link[rel=canonical]", "href"),
            ["https://example.com/news/sre/"]
        );
    }
}
