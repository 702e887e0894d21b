//! What monitoring asks, with a running engine behind it.

use super::*;
use crate::{
    config::{Config, Relay},
    delivery::engine::{Engine, Parts},
    issue::Renderer,
};

async fn engine(house: &House) -> Engine {
    // Nobody listens there, and nothing is sent: the issue of the house is paused.
    let relay = Relay {
        connections: 1,
        per_second: Some(50.0),
        ..Relay::local("main", "127.0.0.1:9".parse().unwrap())
    };
    let config = Config {
        data_folder: house.folder.path().to_owned(),
        relay: vec![relay],
        ..Config::default()
    };
    Engine::start(Parts {
        db: house.db.clone(),
        config: Arc::new(config),
        keyring: Arc::new(house.keyring.clone()),
        renderer: Arc::new(Renderer::new(None).unwrap()),
        providers: Arc::new(Providers::embedded().clone()),
        speed: 1,
    })
    .await
    .unwrap()
}

async fn app_with_engine() -> (App, Engine) {
    let house = House::new(100, Timestamp::now()).await;
    house.set("UPDATE issue SET state = 3").await;
    let engine = engine(&house).await;
    let app = App::spawn_over(house, Some(engine.view())).await;
    (app, engine)
}

async fn ready(app: &App) -> (StatusCode, serde_json::Value) {
    let answer = app.get("/readyz").send().await.unwrap();
    (answer.status(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// Asks until the answer is what is expected.
async fn until_ready_says(app: &App, expected: impl Fn(StatusCode, &serde_json::Value) -> bool) {
    let mut last = None;
    let asked = tokio::time::timeout(Duration::from_mins(2), async {
        loop {
            let (status, answer) = ready(app).await;
            if expected(status, &answer) {
                break;
            }
            last = Some((status, answer));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(asked.await.is_ok(), "{last:?}");
}

#[tokio::test]
async fn without_an_engine_the_process_lives_and_is_not_ready() {
    let app = App::spawn().await;
    let alive = app.get("/healthz").send().await.unwrap();
    assert_eq!((alive.status(), alive.text().await.unwrap().as_str()), (StatusCode::OK, "ok\n"));
    let (status, problem) = ready(&app).await;
    assert_eq!(status, 503);
    assert_eq!(problem["code"], "not-ready");
    let detail = "relays: the delivery engine does not run in this process";
    assert_eq!(problem["detail"], detail);
    assert_eq!(app.get("/metrics").send().await.unwrap().status(), 503);
}

#[tokio::test]
async fn metrics_are_openmetrics_text_with_counts_and_limits() {
    let (app, engine) = app_with_engine().await;
    let answer = app.get("/metrics").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
    let text = answer.text().await.unwrap();
    for line in [
        "postrider_copies{state=\"planned\"} 40",
        "postrider_copies{state=\"queued\"} 2",
        "postrider_copies{state=\"deferred\"} 3",
        "postrider_copies{state=\"accepted\"} 50",
        "postrider_relay_up{relay=\"main\"} 1",
        "postrider_relay_suspended{relay=\"main\"} 0",
        "postrider_limit_available{limit=\"relay main\"} 50",
        "postrider_limited{by=\"nothing\"} 1",
        "postrider_service_waiting 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    engine.drain().await;
}

#[tokio::test]
async fn readiness_names_the_check_that_failed() {
    let (app, engine) = app_with_engine().await;
    // A machine that stands still may fail another check for a moment.
    until_ready_says(&app, |status, answer| {
        status == StatusCode::OK && answer["status"] == "ready"
    })
    .await;
    app.house.set("INSERT INTO relay_state (name, suspended_at) VALUES ('main', 1)").await;
    until_ready_says(&app, |status, problem| {
        let checks = problem["checks"].as_array().into_iter().flatten();
        let failed: Vec<_> = checks.filter(|check| check["ok"] == false).collect();
        status == 503 && failed.len() == 1 && failed[0]["name"] == "relays"
    })
    .await;
    app.house.set("DELETE FROM relay_state").await;
    // While somebody holds the write lock, nothing can be handed off.
    let tx = app.house.db.begin().await.unwrap();
    until_ready_says(&app, |status, problem| {
        let detail = problem["detail"].as_str().unwrap_or_default();
        status == 503 && detail.contains("database: was not written within 2 s")
    })
    .await;
    tx.rollback().await.unwrap();
    engine.drain().await;
}
