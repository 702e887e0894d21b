//! What is said of configurations that cannot be used, and the example held against the code.

use std::collections::BTreeSet;

use super::*;

fn error_of(text: &str) -> String {
    Config::parse(text, "config.toml").unwrap_err().to_string()
}

#[test]
fn the_example_is_the_default() {
    let example = Config::parse(EXAMPLE, "config.example.toml").unwrap();
    assert_eq!(example, Config::default());
}

/// Uncommented, the optional parts of the example are valid too, and no key is left out.
#[test]
fn the_example_names_every_key() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix("#= ").unwrap_or(line))
        .fold(String::new(), |all, line| all + line + "\n");
    let full: toml::Table = toml::from_str(&uncommented).unwrap();
    let config: Config = toml::from_str(&uncommented).unwrap();
    assert_eq!(keys(&toml::Table::try_from(&config).unwrap()), keys(&full));
}

fn keys(table: &toml::Table) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (key, value) in table {
        let inner: Vec<_> = match value {
            toml::Value::Table(inner) if key != "password" => vec![inner],
            toml::Value::Array(items) => items.iter().filter_map(toml::Value::as_table).collect(),
            _ => Vec::new(),
        };
        if inner.is_empty() {
            all.insert(key.clone());
        }
        let inner = inner.into_iter().flat_map(keys);
        all.extend(inner.map(|inner| format!("{key}.{inner}")));
    }
    all
}

#[test]
fn errors_name_file_line_and_key() {
    let text = "[limits]\nper_secnd = 5\n";
    let error = error_of(text);
    assert!(error.starts_with("config.toml:2:1: unknown field `per_secnd`"), "{error}");
    assert!(error.ends_with("did you mean `per_second`?"), "{error}");

    let error = error_of("[sending]\n\nundo_window = \"soon\"\n");
    assert!(error.starts_with("config.toml:3:"), "{error}");
    assert!(error.contains("30s, 10m or 36h"), "{error}");

    let error = error_of("[sending]\nstages_percent = [10.0, 1.0]\n");
    assert!(error.starts_with("config.toml:2: stages_percent:"), "{error}");
}

#[test]
fn a_password_never_travels_in_the_clear_nor_shows_in_debug_output() {
    let relay = "[[relay]]\nname = \"r\"\nhost = \"mail.example.com\"\nusername = \"u\"\n\
                 password = \"hunter2\"\n";
    let error = error_of(&format!("{relay}tls = \"none\"\n"));
    assert!(error.contains("in the clear"), "{error}");
    let config = Config::parse(relay, "config.toml").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn what_a_relay_cannot_do_is_said() {
    let relay = |keys: &str| error_of(&format!("[[relay]]\nname = \"r\"\nhost = \"h\"\n{keys}"));
    for (keys, said) in [
        ("weight = 0.0", ":4: weight: relay `r` needs one above 0"),
        ("client_cert_file = \"a\"", "client_cert_file: relay `r` needs both"),
        ("auth = \"xoauth2\"\nusername = \"u\"", ":4: auth: relay `r` needs a token_command"),
        ("username = \"u\"\ntoken_command = [\"t\"]", "only with auth = \"xoauth2\""),
        ("[[limits.warm_up]]\nrelay = \"s\"\ncopies_per_day = [1]", "there is no relay `s`"),
        ("[[limits.warm_up]]\nrelay = \"r\"\ncopies_per_day = []", "at least one day"),
        ("[[limits.provider]]\nname = \"google\"\nconnections = 0", "needs at least one"),
    ] {
        let error = relay(keys);
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn each_kind_of_relay_has_its_own_keys_and_defaults() {
    let first = "[[relay]]\nname = \"r\"\nhost = \"h\"\n";
    for (second, said) in [
        ("kind = \"mx\"\nhost = \"h\"", "config.toml:7: host: relay `d`: a relay of kind"),
        ("kind = \"mx\"\nusername = \"u\"", ":7: username: relay `d`: a relay of kind"),
        ("kind = \"mx\"\ntls = \"implicit\"", ":7: tls: relay `d`: mail servers of domains"),
        ("kind = \"mx\"\nconnections_per_destination = 0", "needs at least one"),
        ("kind = \"mx\"\nper_second_and_destination = 0.0", "more than nothing"),
        ("kind = \"mx\"\nhelo_name = \"ä\"", ":7: helo_name: relay `d`: must be a host"),
        ("host = \"h\"\nmta_sts = false", ":7: mta_sts: relay `d`: only a relay of kind"),
        ("host = \"h\"\ntls = \"opportunistic\"", ":7: tls: relay `d`: only"),
        ("", ":5: name: relay `d` needs a host"),
    ] {
        let error = error_of(&format!("{first}[[relay]]\nname = \"d\"\n{second}\n"));
        assert!(error.contains(said), "{error}");
    }
    let config = Config::parse("[[relay]]\nname = \"d\"\nkind = \"mx\"\n", "c").unwrap();
    let relay = &config.relay[0];
    assert_eq!((relay.port, relay.connections), (25, 32));
    assert_eq!(relay.tls, RelayTls::Opportunistic);
}

#[test]
fn what_a_mailbox_cannot_do_is_said_with_its_line() {
    let first = "[bounces]\n[[bounces.mailbox]]\nname = \"a\"\nkind = \"maildir\"\n\
                 path = \"mail\"\n";
    let imap = "kind = \"imap\"\nhost = \"mail.example.com\"\nusername = \"u\"\n";
    let with = |keys: &str| format!("{imap}password = \"p\"\n{keys}");
    for (second, said) in [
        (imap.to_owned(), ":10: username: mailbox `m` needs a password or a token_command"),
        (with("path = \"x\""), ":12: path: mailbox `m`: one of kind \"imap\""),
        (with("tls = \"none\""), ":12: tls: mailbox `m` would get mail and password"),
        (with("token_command = [\"t\"]"), ":12: token_command: mailbox `m` has both"),
        (with("folders = []"), ":12: folders: mailbox `m` needs at least one"),
        (with("folders = [\"postrider-aside\"]"), ":12: folders: mailbox `m`: mail is not"),
        (with("poll = \"0s\""), ":12: poll: mailbox `m` cannot be"),
        (with("folder = \"x\""), "did you mean `folders`?"),
        (with("").replace("imap", "pop3") + "idle = true", ":12: idle: mailbox `m`: one of"),
        (with("").replace("imap", "pop3") + "handled = \"move\"", ":12: handled: mailbox"),
        ("kind = \"maildir\"".to_owned(), ":7: name: mailbox `m` needs `path`"),
        ("kind = \"mbox\"".to_owned(), "config.toml:8:8: unknown variant `mbox`"),
    ] {
        let error = error_of(&format!("{first}[[bounces.mailbox]]\nname = \"m\"\n{second}\n"));
        assert!(error.contains(said), "{error}");
    }
    let error = error_of(&first.replace("maildir", "imap"));
    assert!(error.contains(":5: path: mailbox `a`"), "{error}");
    let pop = with("tls = \"starttls\"").replace("imap", "pop3");
    let text = format!("{first}[[bounces.mailbox]]\nname = \"m\"\n{pop}");
    let config = Config::parse(&text, "c").unwrap();
    let pop = &config.bounces.mailbox[1];
    assert_eq!((pop.port, pop.handled), (110, crate::config::HandledMail::Delete));
}

#[test]
fn name_servers_are_addresses_with_or_without_a_port() {
    let config = Config::parse("[dns]\nservers = [\"::1\", \"[::1]:5353\"]\n", "c").unwrap();
    let written: Vec<_> = config.dns.servers.iter().map(|server| server.0.to_string()).collect();
    assert_eq!(written, ["[::1]:53", "[::1]:5353"]);
    let error = error_of("[dns]\nservers = [\"dns.example\"]\n");
    assert!(error.starts_with("config.toml:2:"), "{error}");
    assert!(error.contains("an IP address, or one with a port"), "{error}");
}

#[test]
fn a_password_file_lies_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let relay = "[[relay]]\nname = \"r\"\nhost = \"h\"\nusername = \"u\"\n\
                 password = { file = \"relay.password\" }\n";
    std::fs::write(&file, relay).unwrap();
    let error = Config::load(&file).unwrap_err().to_string();
    let missing = folder.path().join("relay.password");
    assert!(error.contains(&format!("{} cannot be read", missing.display())), "{error}");
    std::fs::write(&missing, "hunter2\n").unwrap();
    let config = Config::load(&file).unwrap();
    let password = config.relay[0].password.as_ref().unwrap().reveal();
    assert_eq!(password.as_deref(), Ok("hunter2"));
}

#[test]
fn a_missing_secret_is_named() {
    let text = "[[relay]]\nname = \"r\"\nhost = \"h\"\nusername = \"u\"\n\
                password = { env = \"POSTRIDER_NO_SUCH_VARIABLE\" }\n";
    let error = error_of(text);
    assert!(error.contains("POSTRIDER_NO_SUCH_VARIABLE is not set"), "{error}");
}
