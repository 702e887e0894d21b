//! Approving of a send on its page.

use super::*;
use crate::db::state::IssueState;

/// An issue that `by` asked for, and that waits for somebody else's approval.
async fn waiting(by: &str) -> App {
    let mut house = House::new(100, NOW).await;
    house.config.sending.approval = true;
    house
        .set("UPDATE issue SET state = 1, stage = -1, started_at = NULL, stage_since = NULL")
        .await;
    let query = house.db.write("UPDATE issue SET asked_by = $1").bind(by.to_owned());
    query.execute().await.unwrap();
    App::spawn_over(house, None).await
}

const PAGE: &str = "/issues/weekly/437";
const APPROVE: &str = "/issues/weekly/437/approve";

async fn approve(app: &App, role: Role, token: &str) -> Response {
    let fields = [("form_token", token), ("reason", " read twice ")];
    let request = app.post(APPROVE).header("cookie", app.session(role).await).form(&fields);
    request.send().await.unwrap()
}

async fn approved_by(app: &App) -> Option<String> {
    app.house.db.query("SELECT approved_by FROM issue").scalar().await.unwrap()
}

#[tokio::test]
async fn another_operator_approves_on_the_page() {
    let app = waiting("cli:ada").await;
    let (_, html) = app.page(Role::Operator, PAGE).await;
    assert!(html.contains("cli:ada asked for this send"), "{html}");
    let answer = approve(&app, Role::Operator, &field(&html, "form_token")).await;
    assert_eq!((answer.status(), location(&answer)), (StatusCode::SEE_OTHER, PAGE));
    assert_eq!(approved_by(&app).await.as_deref(), Some("web:operator"));
    let acts: Vec<(String, String)> = app
        .house
        .db
        .query("SELECT actor, detail FROM audit WHERE action = 'issue.approve'")
        .all()
        .await
        .unwrap();
    assert_eq!(acts, [("web:operator".to_owned(), "read twice".to_owned())]);
    let (_, html) = app.page(Role::Operator, PAGE).await;
    assert!(!html.contains(APPROVE) && html.contains("approved by web:operator"), "{html}");
}

#[tokio::test]
async fn nobody_approves_of_their_own_send_however_they_came_in() {
    let app = waiting("cli:Operator").await;
    let (_, html) = app.page(Role::Operator, PAGE).await;
    assert!(html.contains("You asked for it") && !html.contains(APPROVE), "{html}");
    let answer = approve(&app, Role::Operator, &field(&html, "form_token")).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(answer.text().await.unwrap().contains("somebody else has to"));
    assert_eq!(approved_by(&app).await, None);
}

#[tokio::test]
async fn an_approval_needs_the_pages_own_form_the_role_and_a_send_that_waits() {
    let app = waiting("cli:ada").await;
    let token = field(&app.page(Role::Operator, "/").await.1, "form_token");
    assert_eq!(approve(&app, Role::Operator, "0123").await.status(), StatusCode::FORBIDDEN);
    let cookie = app.session(Role::Operator).await;
    let elsewhere =
        app.post(APPROVE).header("cookie", cookie).header("sec-fetch-site", "cross-site");
    let elsewhere = elsewhere.form(&[("form_token", token.as_str())]).send().await.unwrap();
    assert_eq!(elsewhere.status(), StatusCode::FORBIDDEN);
    let (_, html) = app.page(Role::Viewer, PAGE).await;
    assert!(html.contains("An operator has to approve") && !html.contains(APPROVE), "{html}");
    let of_viewer = field(&html, "form_token");
    assert_eq!(approve(&app, Role::Viewer, &of_viewer).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(approved_by(&app).await, None);

    let sending = app.house.db.write("UPDATE issue SET state = $1").bind(IssueState::Sending);
    sending.execute().await.unwrap();
    let (_, html) = app.page(Role::Operator, PAGE).await;
    assert!(!html.contains(APPROVE), "{html}");
    assert_eq!(approve(&app, Role::Operator, &token).await.status(), StatusCode::CONFLICT);
}
