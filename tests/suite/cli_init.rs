//! `postrider init`, `user`, `doctor`, `migrate` and `bounce`: an installation from nothing.

use std::fs;

use postrider::config::EXAMPLE;

use crate::installation::{Installation, is_private, settled};

#[test]
fn an_installation_comes_from_nothing_and_is_not_touched_again() {
    let house = Installation::empty();
    let made = house.run(&["init"]);
    let password = made.stdout.trim().to_owned();
    assert_eq!(password.len(), 20, "{password}");
    insta::assert_snapshot!(settled(&house, &made.ok_stderr()), @r"
    wrote config.toml: every key is explained in it
    wrote postrider-data/postrider.key: keep a copy in a safe place
    the data is in postrider-data
    `admin` may log in as operator
    the password of `admin`, shown this once:
    next: `postrider doctor` says what is missing, `postrider newsletter create` makes a newsletter, `postrider serve` runs it all
    ");
    assert_eq!(fs::read_to_string(house.path("config.toml")).unwrap(), EXAMPLE);
    for name in ["config.toml", "postrider-data", "postrider-data/postrider.key"] {
        assert!(is_private(&house.path(name)), "{name}");
    }

    fs::write(house.path("config.toml"), "[signup]\ntotal = 7\n").unwrap();
    let key = fs::read(house.path("postrider-data/postrider.key")).unwrap();
    let again = house.run(&["init"]);
    assert_eq!(again.stdout, "", "a password is shown once");
    insta::assert_snapshot!(settled(&house, &again.ok_stderr()), @r"
    config.toml is there already and stays as it is
    the data is in postrider-data
    users are there already; `postrider user list` shows them
    next: `postrider doctor` says what is missing, `postrider newsletter create` makes a newsletter, `postrider serve` runs it all
    ");
    let config = fs::read_to_string(house.path("config.toml")).unwrap();
    assert_eq!(config, "[signup]\ntotal = 7\n");
    assert_eq!(fs::read(house.path("postrider-data/postrider.key")).unwrap(), key);
}

#[test]
fn a_signing_key_comes_with_its_records() {
    let house = Installation::empty();
    fs::write(house.path("password"), "correct horse battery\n").unwrap();
    let init = ["init", "--dkim", "Example.com", "--admin-password-file", "password"];
    let records = house.run(&init).ok();
    let key = house.path("dkim-example.com-postrider.pem");
    assert!(is_private(&key));
    let pem = fs::read_to_string(&key).unwrap();
    let public = records.split("p=").nth(1).unwrap().split('"').next().unwrap().to_owned();
    insta::assert_snapshot!(records.replace(&public, "PUBLIC"), @r#"
    ; The signing key. Some large receivers look at RSA keys only: make a second key with
    ; `openssl genrsa -out dkim-rsa.pem 2048`, name it in a [[dkim]] block of its own, and
    ; `postrider doctor --dns` prints its record too.
    postrider._domainkey.example.com. IN TXT ( "v=DKIM1; k=ed25519; p=PUBLIC" )
    ; Who may send for example.com: put your relay's own term (include:…) before ~all.
    example.com. IN TXT ( "v=spf1 mx ~all" )
    ; What receivers do with mail that fails; p=none to begin with, then quarantine.
    _dmarc.example.com. IN TXT ( "v=DMARC1; p=none; rua=mailto:dmarc@example.com" )
    ; Returned mail comes to this machine, whose name must have an address.
    bounce.example.com. IN MX 10 mail.example.com.
    bounce.example.com. IN TXT ( "v=spf1 mx ~all" )
    "#);
    assert!(!records.contains(pem.lines().nth(1).unwrap()), "the private key was printed");

    let config = fs::read_to_string(house.path("config.toml")).unwrap();
    for line in [
        "bounce_domain = \"bounce.example.com\"",
        "message_id_domain = \"example.com\"",
        "key_file = \"dkim-example.com-postrider.pem\"",
    ] {
        assert!(config.contains(line), "{line}");
    }
    // The key that is there is used again, and the configuration is not added to twice.
    assert_eq!(house.run(&init).ok(), records);
    assert_eq!(fs::read_to_string(&key).unwrap(), pem);
    assert_eq!(fs::read_to_string(house.path("config.toml")).unwrap(), config);
    // Another domain's key has to be added by hand, and init says how.
    let other = house.run(&["init", "--dkim", "example.org"]).ok_stderr();
    assert!(
        other.contains("add this to config.toml:\n[[dkim]]\ndomain = \"example.org\""),
        "{other}"
    );
    let dns = house.run(&["doctor", "--dns"]).ok();
    assert_eq!(dns.lines().count(), 1);
    assert!(records.contains(dns.trim()), "{dns}");
    let error = house.run(&["init", "--dkim", "no domain"]).fails(1);
    assert!(error.contains("is not a name in the DNS"), "{error}");
}

#[test]
fn users_come_and_go() {
    let house = Installation::new();
    let empty = house.run(&["user", "list"]);
    assert!(empty.stderr.contains("nobody may log in"), "{}", empty.stderr);
    fs::write(house.path("short"), "short\n").unwrap();
    let add = ["user", "add", "grace", "--role", "editor"];
    house.run(add.iter().chain(&["--password-file", "short"])).fails(1);
    let added = house.run(&add);
    assert_eq!(added.stdout.trim().len(), 20);
    let error = house.run(&add).fails(1);
    assert!(error.contains("there is already a user `grace`"), "{error}");
    let error = house.run(&["user", "add", "x", "--role", "boss"]).fails(2);
    assert!(error.contains("one of viewer, editor, operator"), "{error}");
    let list = house.run(&["user", "list"]).ok();
    insta::assert_snapshot!(settled(&house, &list), @r"
    name   role    since                    state
    grace  editor  TIME  may log in
    ");
    house.run(&["user", "disable", "grace"]).ok();
    assert!(house.run(&["user", "list"]).ok().contains("disabled since"));
    let password = house.run(&["user", "password", "grace"]).ok();
    assert_ne!(password, added.stdout);
    let users = house.run(&["user", "list", "--json"]).json();
    assert_eq!(users[0]["disabled_at"], serde_json::Value::Null);
    assert!(users[0].get("password_hash").is_none());
    let error = house.run(&["user", "disable", "nobody"]).fails(1);
    assert!(error.contains("there is no user `nobody`"), "{error}");
}

#[test]
fn the_doctor_finds_what_is_wrong_and_says_what_to_do() {
    let house = Installation::empty();
    let nothing = house.run(&["doctor"]).ok();
    insta::assert_snapshot!(settled(&house, &nothing), @r"
    ok       configuration  none: built-in defaults are used
    warning  data folder    postrider-data is not there yet
                            → run `postrider init`
    warning  database       there is none yet at postrider-data/postrider.db
                            → run `postrider init`
    ok       relays         none: mail goes to the built-in mailbox
    ");
    assert!(!house.path("postrider-data").exists(), "the doctor made something");

    fs::write(house.path("password"), "correct horse battery\n").unwrap();
    house.run(&["init", "--admin-password-file", "password"]).ok();
    let findings = house.run(&["doctor", "--json"]).json();
    let levels = findings.as_array().unwrap().iter().map(|found| found["level"].as_str().unwrap());
    assert!(levels.clone().all(|level| level == "ok"), "{findings:#}");

    // Five things go wrong.
    let relay = "[[relay]]\nname = \"main\"\nhost = \"127.0.0.1\"\nport = 1\ntls = \"none\"\n";
    let dkim = "[[dkim]]\ndomain = \"example.com\"\nselector = \"s\"\nkey_file = \"gone.pem\"\n";
    fs::write(house.path("config.toml"), format!("{relay}{dkim}")).unwrap();
    let key = house.path("postrider-data/postrider.key");
    fs::rename(&key, house.path("elsewhere")).unwrap();
    let sick = house.run(&["doctor", "--json"]);
    let findings: serde_json::Value = serde_json::from_str(&sick.stdout).unwrap();
    let errors: Vec<&str> = findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|found| found["level"] == "error")
        .inspect(|found| assert!(found["do"].is_string(), "{found}"))
        .map(|found| found["about"].as_str().unwrap())
        .collect();
    let expected = [
        "public_url",
        "mail.bounce_domain",
        "mail.message_id_domain",
        "mail.helo_name",
        "key file",
        "signing keys",
        "relays",
    ];
    assert_eq!(errors, expected);
    assert!(!key.exists(), "the doctor made a key file");
    assert_eq!(sick.fails(3), "error: 7 things must be mended\n");

    fs::write(house.path("config.toml"), "colour = 1\n").unwrap();
    let broken = house.run(&["doctor"]);
    assert!(broken.stdout.contains("config.toml:1:1: unknown field `colour`"), "{}", broken.stdout);
    broken.fails(3);
}

#[test]
fn a_database_that_is_damaged_or_of_another_key_is_found() {
    let house = Installation::new();
    let add = ["subscriber", "add", "ada@example.com", "--confirmed", "--consent-source", "form"];
    house.run(&add).ok();
    let key = house.path("postrider-data/postrider.key");
    fs::rename(&key, house.path("right")).unwrap();
    house.run(&["user", "list"]).ok(); // makes another
    let found = house.run(&["doctor"]).fails(3);
    assert_eq!(found, "error: 1 thing must be mended\n");
    fs::rename(house.path("right"), &key).unwrap();
    house.run(&["doctor"]).ok();

    let database = house.path("postrider-data/postrider.db");
    let mut octets = fs::read(&database).unwrap();
    for page in octets.chunks_mut(4096).skip(1) {
        page[..64].fill(0xff);
    }
    fs::write(&database, octets).unwrap();
    let sick = house.run(&["doctor"]);
    assert!(sick.stdout.contains("ERROR    database"), "{}", sick.stdout);
    sick.fails(3);
}

#[test]
fn a_schema_is_brought_up_to_date() {
    let house = Installation::new();
    let migrated = house.run(&["migrate"]).ok_stderr();
    assert!(migrated.contains("postrider-data/postrider.db is up to date (schema step "));
}

#[test]
fn returned_mail_ends_with_what_a_pipe_understands() {
    let house = Installation::new();
    let ingest = ["bounce", "ingest"];
    house.run_with_input(&ingest, b"").fails(65);
    let mail = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: hello\r\n\r\nHello.\r\n";
    assert_eq!(house.run_with_input(&ingest, mail).ok(), "nothing\n");
    let mbox = [b"From a@example.com Mon Mar  2 10:00:00 2026\n".as_slice(), mail].concat();
    let mbox = house.run_with_input(["bounce", "ingest", "--mbox", "--json"].iter(), &mbox).json();
    assert_eq!(mbox["messages"], 1);
    house.run_with_input(["bounce", "ingest", "--mbox"].iter(), mail).fails(65);
    // The mail is not to be lost for a mistake in the configuration.
    fs::write(house.path("config.toml"), "colour = 1\n").unwrap();
    house.run_with_input(&ingest, mail).fails(75);
}
