//! What a configuration and its newsletters say against each other. Pure: values in, findings out.

use std::path::Path;

use super::Finding;
use crate::{
    cli::output::{counted, time},
    config::{Config, EventHook, RelayKind, RelayTls},
    newsletter::Newsletter,
    provider::{ProviderId, Providers},
    timestamp::Timestamp,
    webhook::HookState,
};

/// How far the clock may be behind the log before it is said.
const CLOCK_TOLERANCE_S: u64 = 60;

/// Where the configuration came from.
pub(super) fn source(path: Option<&Path>) -> String {
    match path {
        Some(path) => format!("{} can be used", path.display()),
        None if Path::new("config.toml").exists() => "config.toml can be used".to_owned(),
        None => "none: built-in defaults are used".to_owned(),
    }
}

/// How the webhooks do that events are posted to.
pub(super) fn webhooks(configured: &[EventHook], states: &[HookState]) -> Vec<Finding> {
    let finding = |hook: &EventHook| {
        let name = &hook.name;
        let Some(state) = states.iter().find(|state| state.name == *name) else {
            return Finding::ok("webhooks", format!("{name} begins when the daemon starts"));
        };
        let since = state.failing_since.zip(state.problem.as_ref());
        match since {
            Some((since, problem)) => Finding::warning(
                "webhooks",
                format!("{name} has taken no events since {}: {problem}", time(since)),
                "mend what stands behind its url; events wait for it and are posted in order",
            ),
            None => {
                let last = state.delivered_at.map_or_else(
                    || "none yet".to_owned(),
                    |at| format!("{}, the last at {}", counted(state.events, "event"), time(at)),
                );
                Finding::ok("webhooks", format!("{name} took what was posted: {last}"))
            }
        }
    };
    configured.iter().map(finding).collect()
}

/// Looks for settings that do not go together.
pub(super) fn check(config: &Config, providers: &Providers) -> Vec<Finding> {
    let mut findings = Vec::new();
    let host = config.public_url.host_str().unwrap_or_default();
    let is_local = is_local(host);
    let sends = !config.relay.is_empty();
    if sends && is_local {
        findings.push(Finding::error(
            "public_url",
            format!("{} leads nowhere from a reader's machine", config.public_url),
            "set public_url to the address under which readers reach the public pages",
        ));
    } else if !is_local && config.public_url.scheme() == "http" {
        findings.push(Finding::warning(
            "public_url",
            "the pages are served without TLS; mail clients refuse one-click unsubscribing over it",
            "put a web server with TLS in front, and write https:// in public_url",
        ));
    }
    if sends {
        findings.extend(check_names(config));
    }
    for relay in &config.relay {
        if relay.tls == RelayTls::None && !is_local_host(&relay.host) {
            findings.push(Finding::warning(
                "relays",
                format!("mail goes to {} in clear text", relay.name),
                match relay.kind {
                    RelayKind::Smarthost => "set tls = \"starttls\" or \"implicit\" for it",
                    RelayKind::Mx => "leave tls out: it encrypts where a domain's servers can",
                },
            ));
        }
    }
    if let Some((_, name)) = config.limits.unknown_provider(providers) {
        let known: Vec<_> = providers.iter().map(|one| one.name.as_str()).collect();
        findings.push(Finding::error(
            "limits",
            format!("there is no provider `{name}`"),
            format!("use one of {}", known.join(", ")),
        ));
    }
    if !config.admin.listen.ip().is_loopback() {
        findings.push(Finding::warning(
            "admin.listen",
            format!("the operators' pages can be reached at {}", config.admin.listen),
            "listen on 127.0.0.1, and let people in by SSH or a VPN",
        ));
    }
    findings
}

fn check_names(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mail = &config.mail;
    for (key, name) in [
        ("mail.bounce_domain", &mail.bounce_domain),
        ("mail.message_id_domain", &mail.message_id_domain),
        ("mail.helo_name", &mail.helo_name),
    ] {
        let is_literal = name.starts_with('[');
        if !is_literal && (is_local(name) || !name.contains('.')) {
            findings.push(Finding::error(
                key,
                format!("`{name}` means nothing outside this machine"),
                format!("set {key} to a name under a domain of yours"),
            ));
        }
    }
    if mail.bounce_domain.eq_ignore_ascii_case(&mail.message_id_domain) {
        findings.push(Finding::warning(
            "mail.bounce_domain",
            format!("`{}` is used for other mail too", mail.bounce_domain),
            "give returned mail a domain of its own, like bounce.example.com, whose MX is this \
             machine",
        ));
    }
    findings
}

/// Looks for newsletters whose mail will not be liked.
pub(super) fn check_newsletters(
    config: &Config,
    newsletters: &[Newsletter],
    providers: &Providers,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for newsletter in newsletters {
        let slug = &newsletter.slug;
        let domain = newsletter.from_address.rsplit('@').next().unwrap_or_default();
        if newsletter.postal_address.trim().is_empty() {
            findings.push(Finding::warning(
                "newsletters",
                format!("{slug} has no postal address, which many laws ask for in bulk mail"),
                format!("postrider newsletter set {slug} postal_address \"…\""),
            ));
        }
        if config.relay.is_empty() {
            continue;
        }
        if providers.of_domain(domain) != ProviderId::OTHER {
            findings.push(Finding::error(
                "newsletters",
                format!("{slug} is sent from {domain}, whose owner forbids that (DMARC)"),
                format!("postrider newsletter set {slug} from_address editor@YOUR-DOMAIN"),
            ));
        } else if domain.eq_ignore_ascii_case(&config.mail.bounce_domain) {
            findings.push(Finding::warning(
                "newsletters",
                format!("people's answers to {slug} would come in as returned mail"),
                "give returned mail a domain of its own under mail.bounce_domain",
            ));
        }
        if !config.dkim.iter().any(|key| is_under(domain, &key.domain)) {
            findings.push(Finding::warning(
                "newsletters",
                format!("no key signs mail from {domain}"),
                format!("`postrider init --dkim {domain}`, unless your relay signs it"),
            ));
        }
    }
    findings
}

/// Compares the clock with the latest line of the log.
pub(super) fn clock(now: Timestamp, latest: Option<Timestamp>) -> Finding {
    match latest.map(|latest| latest.since(now).as_secs()) {
        Some(behind) if behind > CLOCK_TOLERANCE_S => Finding::error(
            "clock",
            format!("the clock is {behind} s behind the log"),
            "set the clock (chrony or systemd-timesyncd keeps it right); until it catches up, \
             nothing that waits goes on",
        ),
        _ => Finding::ok("clock", now.to_string()),
    }
}

/// Whether `domain` is `parent` or lies below it.
fn is_under(domain: &str, parent: &str) -> bool {
    let (domain, parent) = (domain.to_ascii_lowercase(), parent.to_ascii_lowercase());
    domain.strip_suffix(&parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_local(host: &str) -> bool {
    is_local_host(host) || host.ends_with(".localhost")
}

fn is_local_host(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::doctor::Level, id::NewsletterId};

    /// The findings about a configuration with a relay and these further lines.
    fn found(public_url: &str, more: &str) -> Vec<String> {
        let text = format!(
            "public_url = \"{public_url}\"\n{more}\n\
             [[relay]]\nname = \"main\"\nhost = \"127.0.0.1\"\ntls = \"none\"\n"
        );
        let config = Config::parse(&text, "config.toml").unwrap();
        check(&config, Providers::embedded())
            .into_iter()
            .map(|found| format!("{:?} {}", found.level, found.about))
            .collect()
    }

    const MAIL: &str = "[mail]\nbounce_domain = \"bounce.example.com\"\n\
                        message_id_domain = \"example.com\"\nhelo_name = \"mx.example.com\"";

    #[test]
    fn settings_that_do_not_go_together_are_found() {
        let https = "https://news.example.com/";
        assert_eq!(found(https, MAIL), [""; 0]);
        assert_eq!(found("http://127.0.0.1:8080/", MAIL), ["Error public_url"]);
        assert_eq!(found("http://news.example.com/", MAIL), ["Warning public_url"]);
        assert_eq!(
            found(https, ""),
            ["Error mail.bounce_domain", "Error mail.message_id_domain", "Error mail.helo_name"]
        );
        let same = MAIL.replace("bounce.example.com", "example.com");
        assert_eq!(found(https, &same), ["Warning mail.bounce_domain"]);
        let more = format!("{MAIL}\n[admin]\nlisten = \"0.0.0.0:8081\"");
        assert_eq!(found(https, &more), ["Warning admin.listen"]);
        let more = format!(
            "{MAIL}\n[[limits.provider]]\nname = \"gogle\"\nper_second = 1.0\n\
             [[relay]]\nname = \"far\"\nhost = \"smtp.example.com\"\ntls = \"none\""
        );
        assert_eq!(found(https, &more), ["Warning relays", "Error limits"]);
        // With the built-in mailbox nothing leaves the machine, and its names do not matter.
        assert!(check(&Config::default(), Providers::embedded()).is_empty());
    }

    fn newsletter(from: &str, postal: &str) -> Newsletter {
        Newsletter {
            id: NewsletterId(1),
            uid: String::new(),
            slug: "sre".into(),
            name: "SRE".into(),
            description: String::new(),
            from_name: "SRE".into(),
            from_address: from.into(),
            reply_to: from.into(),
            subject_pattern: String::new(),
            language: "en".into(),
            postal_address: postal.into(),
            accent_color: String::new(),
            per_second: None,
            created_at: Timestamp::default(),
        }
    }

    #[test]
    fn newsletters_whose_mail_will_not_be_liked_are_found() {
        let text = format!(
            "{MAIL}\n[[relay]]\nname = \"main\"\nhost = \"127.0.0.1\"\n\
             [[dkim]]\ndomain = \"example.com\"\nselector = \"s\"\nkey_file = \"k\"\n"
        );
        let config = Config::parse(&text, "config.toml").unwrap();
        let found = |from: &str, postal: &str| {
            let newsletters = [newsletter(from, postal)];
            let found = check_newsletters(&config, &newsletters, Providers::embedded());
            found.into_iter().map(|found| found.what).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(found("editor@example.com", "Vienna"), "");
        assert_eq!(found("editor@news.Example.com", "Vienna"), "");
        assert!(found("editor@example.com", " ").contains("postal address"));
        assert!(found("editor@gmail.com", "Vienna").contains("forbids that"));
        assert!(found("editor@notexample.com", "Vienna").contains("no key signs"));
        assert!(found("e@bounce.example.com", "Vienna").contains("come in as returned mail"));
    }

    #[test]
    fn a_clock_behind_the_log_is_found() {
        let now = Timestamp::from_microseconds(1_000_000_000_000);
        let at =
            |seconds: i64| Timestamp::from_microseconds(now.microseconds() + seconds * 1_000_000);
        for (latest, level) in [
            (None, Level::Ok),
            (Some(at(-3_600)), Level::Ok),
            (Some(at(30)), Level::Ok),
            (Some(at(61)), Level::Error),
        ] {
            assert_eq!(clock(now, latest).level, level, "{latest:?}");
        }
    }
}
