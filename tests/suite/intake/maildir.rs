//! A maildir that another program delivers to.

use std::fs;

use super::{FULL, GONE, Sent, dovecot::deliver, holds, letter, mails, names};
use crate::harness::{Daemon, quick_folder, until};

#[tokio::test]
async fn what_comes_into_a_maildir_is_handled_and_other_mail_stays() {
    let folder = quick_folder();
    let maildir = folder.path().join("returns");
    for part in ["new", "cur", "tmp"] {
        fs::create_dir_all(maildir.join(part)).unwrap();
    }
    let block = format!(
        "[[bounces.mailbox]]\nname = \"local\"\nkind = \"maildir\"\npath = \"{}\"\npoll = \"50ms\"\n",
        maildir.display()
    );
    let mut sent = Sent::to(3, "", &block).await;
    let handled = maildir.join(".postrider-handled");
    deliver(&maildir, &letter());
    deliver(&maildir, &sent.report(0, GONE));
    sent.suppresses(0).await;
    holds(&handled, 1).await;
    // The same report again, as when a machine died between applying it and moving it.
    deliver(&maildir, &sent.report(0, GONE));
    deliver(&maildir, &sent.report(1, FULL));
    holds(&handled, 3).await;
    assert_eq!(sent.received("maildir local", "suppressed").await, 1);
    assert_eq!(sent.received("maildir local", "repeated").await, 1);
    assert_eq!(sent.received("maildir local", "counted").await, 1);
    until("the letter is left", async || {
        let left = sent.metric("postrider_mailbox_mails_total{mailbox=\"local\",result=\"left\"}");
        (left.await == Some(1.0)).then_some(())
    })
    .await;
    assert_eq!(mails(&maildir), 1);
    assert!(names(&handled).iter().all(|name| name.ends_with(":2,S")));

    // A person reads the letter, which changes its name; the daemon starts again, and is not moved.
    sent.terminate();
    let name = names(&maildir).remove(0);
    fs::rename(maildir.join("new").join(&name), maildir.join("cur").join(format!("{name}:2,S")))
        .unwrap();
    let large = sent.report(2, GONE) + &"x".repeat(76).repeat(80_000);
    deliver(&maildir, &large);
    let daemon = Daemon::spawn(&sent.scene).await;
    // What is too large is read by its start, and put aside.
    sent.suppresses(2).await;
    holds(&maildir.join(".postrider-aside"), 1).await;
    assert_eq!(mails(&maildir), 1);
    assert_eq!(sent.received("maildir local", "nothing").await, 1, "the letter was looked at once");
    daemon.terminate();
    let again = sent.run(&["bounce", "fetch", "local"]);
    assert_eq!((&again[0]["fetched"], &again[0]["problem"]), (&0.into(), &serde_json::Value::Null));
    let again = sent.run(&["bounce", "fetch", "local", "--again"]);
    assert_eq!((&again[0]["fetched"], &again[0]["left"]), (&1.into(), &1.into()), "{again}");
    fs::remove_dir_all(&maildir).unwrap();
    sent.scene.house.run(&["bounce", "fetch"]).fails(3);
}
