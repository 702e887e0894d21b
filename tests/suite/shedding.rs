//! What the daemon gives up when the disk runs full, and in which order.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    harness::{Daemon, Scene, Sink, until},
    stages::{STAGED, looked_at, through},
};

/// A shortage that no disk can make up for, or one of a given size.
fn short_of(disk_free_min: u64) -> String {
    format!("{STAGED}stages_percent = [50.0]\n[shedding]\ndisk_free_min = {disk_free_min}\n")
}

async fn ready(daemon: &Daemon) -> (u16, Value) {
    let admin = daemon.admin();
    until("the daemon knows what it has", async || {
        let answer = reqwest::get(format!("{admin}/readyz")).await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let resources = body["checks"].as_array()?.iter().find(|it| it["name"] == "resources")?;
        let known = resources["detail"].as_str()?.contains("short of disk space");
        known.then(|| (status, resources.clone()))
    })
    .await
}

#[tokio::test]
async fn a_full_disk_closes_sign_ups_last_and_holds_every_copy() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], &short_of(u64::MAX / 4)).await;
    scene.import(100);
    let daemon = Daemon::spawn(&scene).await;
    let (status, resources) = ready(&daemon).await;
    assert_eq!((status, &resources["ok"]), (503, &false.into()), "{resources}");
    let metrics = reqwest::get(format!("{}/metrics", daemon.admin())).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("postrider_shedding_level 3"), "{metrics}");
    let form = [("address", "new@example.org")];
    let http = reqwest::Client::new();
    let answer = http.post(daemon.url("/sre/subscribe")).form(&form).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "300");
    assert!(answer.text().await.unwrap().contains("Sign-ups are closed for a short while"));

    scene.send().ok();
    looked_at(&scene).await;
    assert_eq!(scene.status()["state"], "scheduled", "no send begins");
    drop(daemon);

    // With a disk that is large enough it goes on where it stood.
    let path = scene.house.path("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace(&(u64::MAX / 4).to_string(), "1")).unwrap();
    let _daemon = Daemon::spawn(&scene).await;
    through(&scene, 1).await;
}

#[tokio::test]
async fn a_disk_that_runs_low_stops_the_growth_of_sends_first() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], "").await;
    scene.import(100);
    let free =
        Command::new("df").args(["--output=avail", "-B1"]).arg(scene.house.path("")).output();
    let free = String::from_utf8(free.unwrap().stdout).unwrap();
    let free: u64 = free.lines().last().unwrap().trim().parse().unwrap();
    let path = scene.house.path("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    let quick = "[sending]\nundo_window = \"0s\"\nsoak = \"0s\"\nstages_percent = [50.0]\n";
    fs::write(&path, format!("{config}{quick}")).unwrap();
    scene.send().ok();
    // Some space more or less makes no difference: between one and two times too little.
    let short = format!("[shedding]\ndisk_free_min = {}\n", free + free / 2);
    fs::write(&path, format!("{config}{quick}{short}")).unwrap();
    let daemon = Daemon::spawn(&scene).await;
    let (status, resources) = ready(&daemon).await;
    assert_eq!((status, &resources["ok"]), (200, &true.into()), "{resources}");
    let detail = resources["detail"].as_str().unwrap();
    assert!(detail.contains("no send begins and no stage is released"), "{detail}");
    let form = [("address", "new@example.org")];
    let http = reqwest::Client::new();
    let answer = http.post(daemon.url("/sre/subscribe")).form(&form).send().await.unwrap();
    assert_eq!(answer.status(), 200, "sign-ups are taken");
    looked_at(&scene).await;
    assert_eq!(scene.status()["state"], "scheduled");
}
