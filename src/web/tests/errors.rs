use super::*;

#[tokio::test]
async fn every_answer_forbids_what_no_page_does() {
    let app = spawn().await;
    for path in ["/sre/", "/nothing", "/-/style.css?accent=ff0000", "/sre/atom.xml", "/robots.txt"]
    {
        let answer = app.get(path).send().await.unwrap();
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers()["x-frame-options"], "DENY");
        assert!(answer.headers().get("server").is_none());
    }
}

#[tokio::test]
async fn errors_are_pages_for_people_and_problems_for_programs() {
    let app = spawn().await;
    for (method, path, status, code) in [
        ("GET", "/nothing/", 404, "unknown-newsletter"),
        ("GET", "/-/nothing", 404, "not-found"),
        ("DELETE", "/sre/", 405, "method-not-allowed"),
        ("GET", "/-/confirm/x", 404, "unknown-link"),
        ("GET", "/sre/?before=x", 400, "bad-request"),
    ] {
        let ask = |accept: &str| {
            let request = app.client.request(method.parse().unwrap(), app.url(path));
            request.header("accept", accept).send()
        };
        let page = ask("text/html").await.unwrap();
        assert_eq!(page.status(), status, "{path}");
        check_page(&page.text().await.unwrap());
        let problem = ask("application/json").await.unwrap();
        assert_eq!(problem.status(), status);
        assert_eq!(problem.headers()["content-type"], "application/problem+json");
        let problem: serde_json::Value = problem.json().await.unwrap();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["status"], status);
    }
}

#[tokio::test]
async fn another_host_is_refused() {
    let app = spawn().await;
    let answer = app.get("/sre/").header("host", "evil.example").send().await.unwrap();
    assert_eq!(answer.status(), 421);
    let answer = app.get("/sre/").header("host", "localhost:1").send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn when_the_database_is_gone_the_page_says_so_and_shows_nothing_of_it() {
    let app = spawn().await;
    app.house.db.close().await;
    let answer = app.get("/sre/").send().await.unwrap();
    assert_eq!(answer.status(), 500);
    let page = answer.text().await.unwrap();
    check_page(&page);
    assert!(!page.to_lowercase().contains("pool") && !page.contains("sql"), "{page}");
}
