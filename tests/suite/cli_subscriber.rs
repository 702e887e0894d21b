//! `postrider subscriber`.

use std::fs;

use postrider::{
    address::Address,
    subscriber::{self, Origin, Scope, Via, suppression},
    timestamp::Timestamp,
    token::ReaderToken,
};
use serde_json::Value;

use crate::installation::{Installation, is_private, settled};

const SOURCE: [&str; 2] = ["--consent-source", "asked for it at the meetup"];

fn add(house: &Installation, address: &str, more: &[&str]) -> crate::installation::Ran {
    house.run(["subscriber", "add", address].iter().chain(&SOURCE).chain(more))
}

#[test]
fn a_person_is_asked_to_confirm_unless_they_have() {
    let house = Installation::new();
    let error = house.run(&["subscriber", "add", "ada@example.com"]).fails(2);
    assert!(error.contains("--consent-source"), "{error}");
    let error = add(&house, "nobody", &[]).fails(2);
    assert!(error.contains("it should look like name@example.com"), "{error}");

    let asked = add(&house, "ada@example.com", &["--name", "Ada"]);
    insta::assert_snapshot!(asked.stderr, @"
    ada@example.com is asked to confirm; the mail leaves as soon as the daemon runs
    ");
    insta::assert_snapshot!(add(&house, "ada@example.com", &["--confirmed"]).fails(3), @"
    error: ada@example.com was asked and has yet to confirm; without --confirmed they are asked to confirm
    ");
    insta::assert_snapshot!(add(&house, "info@example.com", &["--confirmed"]).fails(3), @"
    error: info@example.com is nobody's own mailbox (info@, abuse@, …); they may sign up themselves
    ");
    add(&house, "bob@gmail.com", &["--confirmed", "--name", "=Bob"]).ok();

    let shown = house.run(&["subscriber", "show", "bob@gmail.com"]).ok();
    insta::assert_snapshot!(settled(&house, &shown), @"
    bob@gmail.com  (google)
    name      =Bob
    known     since TIME
    mailed    yes, where subscribed

    Subscriptions
    newsletter  state   signed up                confirmed                ended  why  pause until
    sre         active  TIME  TIME  -      -    -

    Consent
    at                       newsletter  what      from  evidence
    TIME  sre         imported  -     asked for it at the meetup

    Log
    ");
    let shown = house.run(&["subscriber", "show", "ADA@example.com"]).ok();
    insta::assert_snapshot!(settled(&house, &shown), @"
    ada@example.com  (other)
    name      Ada
    known     since TIME
    mailed    yes, where subscribed

    Subscriptions
    newsletter  state    signed up                confirmed  ended  why  pause until
    sre         pending  TIME  -          -      -    -

    Consent
    at                       newsletter  what       from  evidence
    TIME  sre         signed_up  -     asked for it at the meetup; postrider subscriber add (cli:ada)

    Log
    TIME  signed_up       -           ada@example.com                 -           -
    ");
    let data = house.run(&["subscriber", "show", "bob@gmail.com", "--json"]).json();
    assert_eq!(data["consent"][0]["source"], "asked for it at the meetup");
    assert_eq!(data["subscriptions"][0]["state"], "active");
    let error = house.run(&["subscriber", "show", "carol@example.com"]).fails(1);
    assert_eq!(error, "error: there is no subscriber carol@example.com\n");
}

/// One person in every state that an import must leave alone.
async fn crowd() -> Installation {
    let house = Installation::new();
    for name in ["active", "left", "bounced", "complained", "gone"] {
        add(&house, &format!("{name}@example.com"), &["--confirmed"]).ok();
    }
    add(&house, "pending@example.com", &[]).ok();
    house.run(&["subscriber", "erase", "gone@example.com", "--yes"]).ok();
    house.run(&["subscriber", "suppress", "manual@example.com", "--reason", "asked by phone"]).ok();
    let context = house.context().await;
    let newsletter = context.newsletter(None).await.unwrap().id;
    let (db, keyring, now) = (&context.db, &context.keyring, Timestamp::now());
    let address = |text: &str| Address::parse(text).unwrap();
    let left = subscriber::find(db, keyring, &address("left@example.com")).await.unwrap().unwrap();
    let token = ReaderToken { newsletter, subscriber: left.id, issue: None };
    let via = (Via::OneClick, None);
    subscriber::unsubscribe(db, token, Scope::Newsletter, via, &Origin::default(), now)
        .await
        .unwrap();
    for (name, reason) in [
        ("bounced@example.com", suppression::Reason::Bounce),
        ("complained@example.com", suppression::Reason::Complaint),
    ] {
        let hash = keyring.address_hash(&address(name));
        let mut tx = db.begin().await.unwrap();
        suppression::add(&mut tx, &hash, Some(name), reason, "550 5.1.1", now).await.unwrap();
        tx.commit().await.unwrap();
    }
    context.db.close().await;
    house
}

const LIST: &str = "E-Mail,Name,city\r\n\
    new@example.com,\"New, Person\",Wien\r\n\
    Active@example.com,,\r\n\
    left@example.com,,\r\n\
    bounced@example.com,,\r\n\
    complained@example.com,,\r\n\
    gone@example.com,,\r\n\
    manual@example.com,,\r\n\
    pending@example.com,,\r\n\
    abuse@example.com,,\r\n\
    not an address,,\r\n\
    NEW@example.com,,\r\n";

#[tokio::test]
async fn an_import_brings_nobody_back_and_says_so_line_by_line() {
    let house = crowd().await;
    fs::write(house.path("list.csv"), LIST).unwrap();
    let import: Vec<&str> = "subscriber import list.csv --newsletter sre --consent-source old-form"
        .split(' ')
        .collect();
    let everybody = || house.run(&["subscriber", "list", "--json", "--limit", "1000"]).json();
    let before = everybody();

    let dry = house.run(import.iter().chain(&["--dry-run", "--json"])).json();
    assert_eq!(everybody(), before, "a dry run changed something");
    let table = house.run(import.iter().chain(&["--dry-run"]));
    insta::assert_snapshot!(table.stdout, @"
    rows  what                  meaning
       1  would be added        to SRE Digest
       1  address               is not a mail address
       1  already_subscribed    has the newsletter already
       1  pending               was asked and has yet to confirm
       1  repeated              came before in the same file
       1  role_account          is nobody's own mailbox (info@, abuse@, …); they may sign up themselves
       1  suppressed_bounce     bounced; a new sign-up of their own lifts that
       1  suppressed_complaint  complained; only an operator can lift that
       1  suppressed_erased     asked to be erased
       1  suppressed_manual     is suppressed by an operator
       1  unsubscribed          left; only they can come back, by signing up
      11  in all
    ");
    insta::assert_snapshot!(table.stderr, @"
    not kept: city (keep a column with --attribute NAME)
    name a file with --errors to get the refused rows with their lines
    ");

    let real = house.run(import.iter().chain(&["--errors", "errors.csv", "--json"])).json();
    assert_eq!(real, dry);
    insta::assert_snapshot!(fs::read_to_string(house.path("errors.csv")).unwrap(), @"
    line,reason,address
    3,already_subscribed,Active@example.com
    4,unsubscribed,left@example.com
    5,suppressed_bounce,bounced@example.com
    6,suppressed_complaint,complained@example.com
    7,suppressed_erased,gone@example.com
    8,suppressed_manual,manual@example.com
    9,pending,pending@example.com
    10,role_account,abuse@example.com
    11,address,not an address
    12,repeated,NEW@example.com
    ");
    assert!(is_private(&house.path("errors.csv")));

    // Everybody who was there is as before; one is new.
    let after = everybody();
    let (before, after) = (before.as_array().unwrap(), after.as_array().unwrap());
    assert_eq!(&after[..before.len()], before.as_slice());
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(after.last().unwrap()["address"], "new@example.com");
    // The same file again adds nobody.
    assert_eq!(house.run(import.iter().chain(&["--json"])).json()["added"], 0);
}

#[test]
fn an_import_that_cannot_be_right_is_refused_before_it_begins() {
    let house = Installation::new();
    fs::write(house.path("list.csv"), "email\na@example.com\n").unwrap();
    fs::write(house.path("names.csv"), "name\nAda\n").unwrap();
    let import = |file: &'static str, more: &[&str]| {
        let args = ["subscriber", "import", file, "--consent-source"];
        house.run(args.iter().chain(more)).fails(1)
    };
    let error = import("list.csv", &["old form", "--errors", "./list.csv"]);
    assert!(error.contains("--errors would overwrite the file that is imported"), "{error}");
    assert_eq!(fs::read_to_string(house.path("list.csv")).unwrap(), "email\na@example.com\n");
    let error = import("list.csv", &["  "]);
    assert!(error.contains("say where these people gave their consent"), "{error}");
    let error = import("names.csv", &["old form"]);
    assert!(error.contains("no column `address`"), "{error}");
    let error = import("nothing.csv", &["old form"]);
    assert!(error.contains("cannot read nothing.csv"), "{error}");
    let error = house.run(&["subscriber", "import", "list.csv"]).fails(2);
    assert!(error.contains("--consent-source"), "{error}");
}

#[test]
fn what_an_export_writes_is_no_formula_and_can_be_imported_again() {
    let house = Installation::new();
    let file = "address,name\n=1+1@example.com,=HYPERLINK(0)\n@x,none\n-b@example.com,@sum\n\
                c@example.com,\"two \"\"words\"\"\"\n";
    let import = ["subscriber", "import", "-", "--newsletter", "sre", "--consent-source", "form"];
    house.run_with_input(&import, file.as_bytes()).ok();
    let exported = house.run(&["subscriber", "export"]).ok();
    let cells: Vec<Vec<String>> = csv::Reader::from_reader(exported.as_bytes())
        .records()
        .map(|row| row.unwrap().iter().map(str::to_owned).collect())
        .collect();
    assert_eq!(cells.len(), 3);
    for cell in cells.iter().flatten() {
        assert!(!cell.starts_with(['=', '+', '-', '@']), "a spreadsheet would run {cell}");
    }
    house.newsletter("other");
    let again = import.map(|word| if word == "sre" { "other" } else { word });
    house.run_with_input(&again, exported.as_bytes()).ok();
    let names = |newsletter: &str| {
        let list = ["subscriber", "list", "--newsletter", newsletter, "--json"];
        let list = house.run(&list).json();
        let pick = |one: &Value| (one["address"].clone(), one["name"].clone());
        let mut names: Vec<_> = list.as_array().unwrap().iter().map(pick).collect();
        names.sort_by_key(|(address, _)| address.to_string());
        names
    };
    assert_eq!(names("other"), names("sre"));
    assert_eq!(names("sre")[1], ("=1+1@example.com".into(), "=HYPERLINK(0)".into()));

    let to_file = ["subscriber", "export", "--newsletter", "sre", "-o", "out.csv"];
    assert_eq!(house.run(&to_file).ok(), "");
    assert_eq!(fs::read_to_string(house.path("out.csv")).unwrap(), exported);
    assert!(is_private(&house.path("out.csv")));
    let error = house.run(&to_file).fails(1);
    assert!(error.contains("cannot make out.csv"), "{error}");
}

#[tokio::test]
async fn a_list_is_filtered_and_paged() {
    let house = crowd().await;
    let list = |more: &[&str]| {
        let found = house.run(["subscriber", "list", "--json"].iter().chain(more)).json();
        let addresses = found.as_array().unwrap().iter();
        addresses
            .map(|one| one["address"].as_str().unwrap_or("-").replace("@example.com", ""))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(list(&["--state", "active"]), "active bounced complained");
    assert_eq!(list(&["--state", "pending"]), "pending");
    assert_eq!(list(&["--state", "unsubscribed"]), "left -");
    assert_eq!(list(&["--suppressed"]), "bounced complained");
    assert_eq!(list(&["--state", "active", "--not-suppressed"]), "active");
    assert_eq!(list(&["--search", "nd"]), "pending");
    assert_eq!(list(&["--provider", "google"]), "");
    assert_eq!(list(&["--seed"]), "");
    assert_eq!(list(&["--limit", "1", "--after", "1"]), "left");
    let page = house.run(&["subscriber", "list", "--limit", "2"]);
    insta::assert_snapshot!(settled(&house, &page.stdout), @"
    address             name  state         provider  since                    suppressed
    active@example.com        active        other     TIME
    left@example.com          unsubscribed  other     TIME
    ");
    insta::assert_snapshot!(page.stderr, @"
    there are more: --after 2 goes on, --limit shows more at once
    ");
    let error = house.run(&["subscriber", "list", "--provider", "gogle"]).fails(1);
    assert!(error.contains("there is no provider `gogle`; those are: other, google"), "{error}");
}

#[test]
fn suppressing_lifting_and_erasing_leave_their_traces() {
    let house = Installation::new();
    let suppress = ["subscriber", "suppress", "ada@example.com", "--reason", "legal, case 7"];
    insta::assert_snapshot!(house.run(&suppress).stderr, @"
    ada@example.com is not mailed any more
    ");
    insta::assert_snapshot!(house.run(&suppress).stderr, @"
    ada@example.com was suppressed before (manual); nothing changed
    ");
    let shown = house.run(&["subscriber", "show", "ada@example.com"]).ok();
    insta::assert_snapshot!(settled(&house, &shown), @"
    mailed    never: ada@example.com is suppressed since TIME (manual): legal, case 7
    ");
    let refused = add(&house, "ada@example.com", &[]).fails(3);
    assert!(refused.contains("ada@example.com is suppressed (manual)"), "{refused}");
    let lift = ["subscriber", "unsuppress", "ada@example.com", "--reason", "settled"];
    insta::assert_snapshot!(house.run(&lift).stderr, @"
    ada@example.com may be mailed again (was: manual)
    ");
    insta::assert_snapshot!(house.run(&lift).stderr, @"
    ada@example.com was not suppressed; nothing changed
    ");

    add(&house, "ada@example.com", &["--confirmed", "--name", "Ada"]).ok();
    let erase = ["subscriber", "erase", "ada@example.com"];
    insta::assert_snapshot!(house.run(&erase).fails(3), @"
    error: Erase everything about ada@example.com? This cannot be undone, and a backup made before still has it. Nobody is here to answer; say --yes to go on
    ");
    house.run(erase.iter().chain(&["--yes"])).ok();
    let error = house.run(&erase).fails(1);
    assert_eq!(error, "error: there is no subscriber ada@example.com\n");
    let exported = house.run(&["subscriber", "export"]).ok();
    assert!(!exported.contains("ada"), "{exported}");
}
