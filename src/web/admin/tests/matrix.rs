//! Every route against every role. A route that is not in this table fails the test, and so does one
//! whose declared role differs from it: changing who may see what takes two deliberate edits.

use super::*;
use access::{Access, ROUTES};

/// Method, path, a path to ask for, and the least role that is let in; none for everybody.
const MATRIX: &[(&str, &str, &str, Option<Role>)] = &[
    ("GET", "/healthz", "/healthz", None),
    ("GET", "/readyz", "/readyz", None),
    ("GET", "/metrics", "/metrics", None),
    ("GET", "/-/style.css", "/-/style.css", None),
    ("GET", "/-/live.js", "/-/live.js", None),
    ("GET", "/login", "/login", None),
    ("POST", "/login", "/login", None),
    ("POST", "/logout", "/logout", Some(Role::Viewer)),
    ("GET", "/", "/", Some(Role::Viewer)),
    ("GET", "/issues/{newsletter}/{number}", "/issues/weekly/437", Some(Role::Viewer)),
    (
        "POST",
        "/issues/{newsletter}/{number}/approve",
        "/issues/weekly/437/approve",
        Some(Role::Operator),
    ),
    ("GET", "/deliveries", "/deliveries", Some(Role::Viewer)),
    ("GET", "/channels", "/channels", Some(Role::Viewer)),
    ("GET", "/subscribers", "/subscribers", Some(Role::Operator)),
    ("POST", "/subscribers", "/subscribers", Some(Role::Operator)),
    ("GET", "/subscribers/{who}", "/subscribers/1", Some(Role::Operator)),
];

#[test]
fn every_route_is_in_the_matrix_with_its_role() {
    let declared: Vec<_> = ROUTES
        .iter()
        .map(|route| {
            let role = match route.access {
                Access::Everybody => None,
                Access::Role(role) => Some(role),
            };
            (route.method.as_str(), route.path, role)
        })
        .collect();
    let expected: Vec<_> =
        MATRIX.iter().map(|(method, path, _, role)| (*method, *path, *role)).collect();
    assert_eq!(declared, expected);
}

#[tokio::test]
async fn nobody_is_let_in_where_the_matrix_says_no() {
    let app = App::spawn().await;
    let visitors = [None].into_iter().chain(Role::ALL.iter().copied().map(Some));
    for who in visitors {
        let cookie = match who {
            Some(role) => app.session(role).await,
            None => "postrider=not-a-session".to_owned(),
        };
        for (method, _, path, least) in MATRIX {
            // A HEAD of a page says as much as its GET.
            let methods: &[&str] = if *method == "GET" { &["GET", "HEAD"] } else { &[method] };
            for method in methods {
                let request = app
                    .client
                    .request(method.parse().unwrap(), app.url(path))
                    .header("accept", "application/json")
                    .header("cookie", &cookie);
                let answer = request.send().await.unwrap();
                let (status, problem) = (answer.status(), answer.text().await.unwrap());
                let refused = status == 401 && problem.contains("login-required")
                    || status == 403 && problem.contains("not-permitted")
                    || *method == "HEAD" && (status == 401 || status == 403);
                let allowed = who >= *least;
                assert_eq!(refused, !allowed, "{method} {path} as {who:?}: {status} {problem}");
                if !allowed {
                    let expected = if who.is_none() { 401 } else { 403 };
                    assert_eq!(status, expected, "{method} {path} as {who:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn paths_and_methods_outside_the_table_do_not_exist() {
    let app = App::spawn().await;
    let cookie = app.session(Role::Operator).await;
    for (method, path, expected) in [
        ("GET", "/nothing", 404),
        ("POST", "/", 405),
        ("DELETE", "/subscribers/1", 405),
        ("GET", "/logout", 405),
        ("GET", "//", 404),
        ("GET", "/deliveries/", 404),
        // Webhooks are a matter of the public pages, and of a proof of their own.
        ("POST", "/hooks/mailgun", 404),
    ] {
        let request = app.client.request(method.parse().unwrap(), app.url(path));
        let answer = request.header("cookie", &cookie).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{method} {path}");
    }
}
