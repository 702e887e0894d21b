//! `postrider newsletter`.

use crate::installation::Installation;

#[tokio::test]
async fn every_changed_setting_is_in_the_audit_log() {
    let house = Installation::new();
    house.run(&["newsletter", "set", "sre", "accent_color", "#0a7c4a"]).ok();
    house.run(&["newsletter", "set", "sre", "accent_color", "green"]).fails(1);
    let context = house.context().await;
    let acts: Vec<(String, String, String)> = context
        .db
        .query("SELECT actor, target, detail FROM audit WHERE action = 'newsletter.set'")
        .all()
        .await
        .unwrap();
    let act = ("cli:ada", "sre", "accent_color = #0a7c4a");
    assert_eq!(acts, [(act.0.to_owned(), act.1.to_owned(), act.2.to_owned())]);
}

#[test]
fn a_newsletter_is_made_shown_and_changed() {
    let house = Installation::empty();
    let listed = house.run(&["newsletter", "list"]);
    assert_eq!(listed.stdout, "");
    insta::assert_snapshot!(listed.stderr, @"there is no newsletter yet; make one with `postrider newsletter create`");
    let create = [
        "newsletter",
        "create",
        "sre",
        "--name",
        "SRE Digest",
        "--from",
        "Editor@Example.com",
        "--from-name",
        "The Digest",
        "--reply-to",
        "hello@example.com",
        "--language",
        "en",
        "--postal-address",
        "1 Example Street",
        "--seed",
        "ada@example.com",
    ];
    insta::assert_snapshot!(house.run(&create).stderr, @"
    sre: ada@example.com is now on the seed list
    newsletter `sre` is made; readers sign up at http://127.0.0.1:8080/sre/
    ");
    insta::assert_snapshot!(house.run(&create).fails(1), @"error: there is already a newsletter `sre`; choose another slug");
    house.run(&["newsletter", "set", "sre", "accent_color", "#0a7c4a"]).ok();
    house.run(&["newsletter", "set", "sre", "--seed", "bob@example.com"]).ok();
    house.run(&["newsletter", "set", "sre", "--remove-seed", "ada@example.com"]).ok();
    insta::assert_snapshot!(house.run(&["newsletter", "show"]).ok(), @"
    setting          value
    slug             sre
    name             SRE Digest
    description
    from_name        The Digest
    from_address     Editor@example.com
    reply_to         hello@example.com
    subject_pattern  {{newsletter}} #{{number}}
    language         en
    postal_address   1 Example Street
    accent_color     #0a7c4a
    page             http://127.0.0.1:8080/sre/
    readers          2 active, 0 pending, 0 unsubscribed, 0 expired
    seed list        bob@example.com
    ");
    let listed = house.run(&["newsletter", "list", "--json"]).json();
    assert_eq!(listed[0]["slug"], "sre");
    assert_eq!(listed[0]["readers"]["active"], 2);
    let person = house.run(&["subscriber", "show", "bob@example.com", "--json"]).json();
    assert_eq!(person["consent"][0]["source"], "seed list");
}

#[test]
fn what_cannot_be_is_refused_with_a_way_out() {
    let house = Installation::new();
    let set = |args: &[&str]| house.run(["newsletter", "set"].iter().chain(args));
    let error = set(&["sre", "colour", "red"]).fails(2);
    assert!(error.contains("invalid value 'colour' for '[KEY]'"), "{error}");
    assert!(error.contains("[possible values: name, description, "), "{error}");
    insta::assert_snapshot!(set(&["sre", "accent_color", "red"]).fails(1), @"error: accent_color: write a colour like #1f5fbf");
    let error = set(&["sre"]).fails(2);
    assert!(error.contains("required arguments were not provided"), "{error}");
    insta::assert_snapshot!(set(&["sra", "name", "X"]).fails(1), @"error: there is no newsletter `sra`; `postrider newsletter list` shows those there are");
    let create = ["newsletter", "create", "No Slug", "--name", "X", "--from", "a@example.com"];
    insta::assert_snapshot!(house.run(&create).fails(1), @"error: `No Slug` cannot be a slug: use 1 to 40 lower-case letters, digits and hyphens");

    let suppress = ["subscriber", "suppress", "eve@example.com", "--reason", "asked"];
    house.run(&suppress).ok();
    let error = set(&["sre", "--seed", "eve@example.com"]).fails(1);
    assert!(error.contains("eve@example.com must not be mailed (manual)"), "{error}");
}
