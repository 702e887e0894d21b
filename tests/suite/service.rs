//! Service mail among issues: somebody waits for it, so it goes first, and rather twice than never.

use postrider::db::state::CopyState;

use crate::harness::{Daemon, NO_GATES, QUICK, Scene, Sink, until};

const ADA: &str = "ada@example.org";

/// Asks somebody to confirm.
fn sign_up(scene: &Scene) {
    let how = ["--consent-source", "a note at the booth"];
    scene.house.run(["subscriber", "add", ADA].iter().chain(&how)).ok();
}

/// Which of the messages that a sink took went to Ada, counted from 0.
fn places(sink: &Sink) -> Vec<usize> {
    let journal = sink.journal();
    let is_hers = |(at, record): (usize, &postrider::sink::journal::Record)| {
        record.rcpt_to.iter().any(|to| to == ADA).then_some(at)
    };
    journal.iter().enumerate().filter_map(is_hers).collect()
}

/// A copy of an issue whose reply is lost is never sent again by itself. A confirmation is, once.
#[tokio::test]
async fn a_confirmation_whose_reply_is_lost_goes_once_more_and_then_no_more() {
    let lost = "[[rule]]\nstage = 'dot'\naccepted = true\ncut = 0\nthen = 'close'\n";
    let sink = Sink::with(lost, &[]).await;
    let scene = Scene::new(&[&sink], QUICK).await;
    let daemon = Daemon::spawn(&scene).await;
    sign_up(&scene);
    let context = scene.context().await;
    let tries = until("its fate is not known", async || {
        let sql = "SELECT state, attempt FROM service_mail";
        let (state, tries): (i64, i64) = context.db.query(sql).one().await.unwrap();
        (state == CopyState::Uncertain as i64).then_some(tries)
    })
    .await;
    assert_eq!((tries, places(&sink).len()), (2, 2));
    // Nor after a restart.
    daemon.terminate();
    let daemon = Daemon::spawn(&scene).await;
    crate::stages::looked_at(&scene).await;
    daemon.terminate();
    assert_eq!(places(&sink).len(), 2);
    context.db.close().await;
}

#[tokio::test]
async fn a_confirmation_does_not_wait_behind_an_issue_that_is_held_back() {
    const READERS: usize = 120;
    let sink = Sink::spawn().await;
    let options = format!("{QUICK}{NO_GATES}[limits]\nper_second = 4.0\nburst = 1\n");
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    sink.accepts(5).await;
    sign_up(&scene);
    let before = sink.journal().len();
    let place = until("it comes", async || places(&sink).first().copied()).await;
    println!("{before} messages before it was asked for, {place} before it came");
    // Three seconds' worth, on a machine that has other things to do.
    assert!(place < before + 12, "{} copies went before it", place - before);
    scene.issue("cancel", &["--yes", "--reason", "enough seen"]);
    daemon.terminate();
}
