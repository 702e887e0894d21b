//! Direct delivery to the mail servers of readers' domains, which a name server of the test's own knows.
//! All of them are on loopback: addresses differ, the port is the same.

mod commands;
mod goodbye;
mod grouping;
mod manners;
mod mta_sts;
mod real;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Instant,
};

use postrider::db::state::{CopyState, EventKind, IssueState};

use crate::{
    checker::{Kills, check},
    dns_server::DnsServer,
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink, free_port, name, until},
    installation::Installation,
};

/// Short waits: whoever is not there now may be in a moment. Whoever is there may be on a busy machine.
const SHORT: &str = "[breakers]\nopen_for = \"300ms\"\nopen_for_max = \"600ms\"\n\
     [smtp]\nconnect = \"10s\"\ngreeting = \"10s\"\n";
/// The shortest of them.
const OPEN_FOR_S: f64 = 0.3;

/// How long a name server has for an answer: where one is asked that says nothing, or may be busy.
const IMPATIENT: &str = "800ms";
const PATIENT: &str = "20s";

/// An installation that brings mail to the servers of domains on `port`; `keys` are more of the relay's.
async fn scene(dns: &DnsServer, port: u16, keys: &str, options: &str) -> Scene {
    scene_with(dns, PATIENT, port, keys, options).await
}

/// The same where name servers may say nothing.
async fn impatient(dns: &DnsServer, port: u16, options: &str) -> Scene {
    scene_with(dns, IMPATIENT, port, "", options).await
}

async fn scene_with(dns: &DnsServer, timeout: &str, port: u16, keys: &str, options: &str) -> Scene {
    let house = Installation::empty();
    let public = free_port();
    let any = "\"127.0.0.1:0\"";
    let config = format!(
        "public_url = \"http://127.0.0.1:{public}/\"\n\
         [public]\nlisten = \"127.0.0.1:{public}\"\n[admin]\nlisten = {any}\n\
         [bounces]\nlisten = {any}\n\
         {options}\n\
         [dns]\nservers = [\"{}\"]\ntimeout = \"{timeout}\"\n\
         [[relay]]\nname = \"direct\"\nkind = \"mx\"\nport = {port}\nconnections = 8\n\
         private_addresses = true\n{keys}\n",
        dns.address
    );
    fs::write(house.path("config.toml"), config).unwrap();
    house.newsletter("sre");
    let scene = Scene { house, port: public, connections: 8 };
    scene.watch_handoffs().await;
    scene
}

async fn sink_at(address: &str, port: u16, faults: &str) -> Sink {
    Sink::at(SocketAddr::new(address.parse::<IpAddr>().unwrap(), port), faults, &[]).await
}

/// `each` readers at every one of `domains`.
fn import(scene: &Scene, domains: &[&str], each: usize) -> usize {
    let mut rows = String::from("address,name\n");
    for number in 0..each * domains.len() {
        let domain = domains[number % domains.len()];
        let _ = writeln!(rows, "reader{number:05}@{domain},{}", name(number));
    }
    scene.import_rows(&rows);
    each * domains.len()
}

/// What became of one copy.
#[derive(Debug)]
struct Fate {
    domain: String,
    state: CopyState,
    attempts: i64,
    reason: String,
}

async fn fates(scene: &Scene) -> Vec<Fate> {
    let context = scene.context().await;
    let sql = "SELECT p.address, d.state, d.attempt, coalesce(d.reason, '') FROM delivery d \
               JOIN subscriber p ON p.id = d.subscriber_id";
    let rows: Vec<(String, i64, i64, String)> = context.db.query(sql).all().await.unwrap();
    context.db.close().await;
    let fate = |(address, state, attempts, reason): (String, i64, i64, String)| Fate {
        domain: address.rsplit('@').next().unwrap().to_owned(),
        state: CopyState::try_from(state).unwrap(),
        attempts,
        reason,
    };
    rows.into_iter().map(fate).collect()
}

fn of<'a>(fates: &'a [Fate], domain: &str) -> Vec<&'a Fate> {
    let found: Vec<_> = fates.iter().filter(|fate| fate.domain == domain).collect();
    assert!(!found.is_empty(), "nobody at {domain}");
    found
}

/// The log's lines of a kind about readers at a domain: enhanced code, class, rule, phase, text.
async fn told(scene: &Scene, kind: EventKind, domain: &str) -> Vec<[String; 5]> {
    let context = scene.context().await;
    let sql = "SELECT coalesce(e.enhanced, ''), coalesce(e.class, ''), coalesce(e.rule, ''), \
               coalesce(e.phase, ''), coalesce(e.text, '') FROM event e \
               JOIN subscriber p ON p.id = e.subscriber_id \
               WHERE e.kind = $1 AND p.address LIKE '%@' || $2 ORDER BY e.id";
    let query = context.db.query(sql).bind(kind).bind(domain.to_owned());
    let rows: Vec<(String, String, String, String, String)> = query.all().await.unwrap();
    context.db.close().await;
    rows.into_iter().map(|(a, b, c, d, e)| [a, b, c, d, e]).collect()
}

/// Whom a sink took mail for.
fn domains_at(sink: &Sink) -> BTreeSet<String> {
    let journal = sink.journal();
    let to = journal.iter().flat_map(|record| &record.rcpt_to);
    to.map(|address| address.rsplit('@').next().unwrap().to_owned()).collect()
}

fn set(domains: &[&str]) -> BTreeSet<String> {
    domains.iter().map(|domain| (*domain).to_owned()).collect()
}

#[tokio::test]
async fn every_domain_s_mail_goes_where_its_records_say() {
    const EACH: usize = 5;
    let (dns, port) = (DnsServer::start(), free_port());
    let first = sink_at("127.0.0.13", port, "").await;
    let second = sink_at("127.0.0.14", port, "").await;
    let six = sink_at("::1", port, "").await;
    dns.at("mx1.test", "127.0.0.13").at("mx2.test", "127.0.0.14").at("six.test", "::1");
    // Nobody listens there.
    dns.at("dead.test", "127.0.0.15");
    // The IPv6 address leads nowhere.
    dns.at("both.test", "fd00:dead::1").at("both.test", "127.0.0.13");
    dns.mx("better.example", &[(20, "mx2.test"), (10, "mx1.test")]);
    dns.mx("fallen.example", &[(10, "dead.test"), (20, "mx2.test")]);
    dns.mx("halfgone.example", &[(10, "nohost.test"), (20, "mx2.test")]);
    dns.at("bare.example", "127.0.0.13");
    dns.alias("alias.example", "better.example");
    dns.mx("six.example", &[(10, "six.test")]);
    dns.mx("both.example", &[(10, "both.test")]);
    dns.mx("xn--bcher-kva.example", &[(10, "mx1.test")]);
    let reached = [
        "better.example",
        "fallen.example",
        "halfgone.example",
        "bare.example",
        "alias.example",
        "six.example",
        "both.example",
        "bücher.example",
    ];
    let scene = scene(&dns, port, "", &format!("{QUICK}{NO_GATES}{SHORT}")).await;
    let audience = import(&scene, &reached, EACH);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&first, &second, &six], audience, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), audience, "{outcome:?}");
    for fate in fates(&scene).await {
        assert_eq!(fate.attempts, 1, "{fate:?}");
    }
    let at_first = ["better.example", "bare.example", "alias.example", "both.example"];
    let mut at_first = set(&at_first);
    at_first.insert("xn--bcher-kva.example".to_owned());
    assert_eq!(domains_at(&first), at_first);
    assert_eq!(domains_at(&second), set(&["fallen.example", "halfgone.example"]));
    assert_eq!(domains_at(&six), set(&["six.example"]));
}

#[tokio::test]
async fn domains_that_take_no_mail_are_refused_and_those_that_fail_are_tried_again() {
    const EACH: usize = 3;
    let (dns, port) = (DnsServer::start(), free_port());
    let greylisting = "[[rule]]\nrecipient = '*@grey.example'\nstage = 'rcpt'\ntimes = 1\n\
                       reply = '450 4.2.0 Greylisted'\n";
    let sink = sink_at("127.0.0.16", port, greylisting).await;
    dns.at("mx.test", "127.0.0.16");
    dns.mx("fine.example", &[(10, "mx.test")]);
    dns.mx("grey.example", &[(10, "mx.test")]);
    dns.mx("null.example", &[(0, ".")]);
    dns.nothing("empty.example");
    dns.fails("broken.example").silent("silent.example");
    dns.mx("hostless.example", &[(10, "nohost.test")]);
    let domains = [
        "fine.example",
        "grey.example",
        "null.example",
        "gone.example",
        "empty.example",
        "broken.example",
        "silent.example",
        "hostless.example",
    ];
    let scene = impatient(&dns, port, &format!("{QUICK}{NO_GATES}{SHORT}")).await;
    let audience = import(&scene, &domains, EACH);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    let later = ["broken.example", "silent.example", "hostless.example"];
    until("the failing ones were tried", async || {
        let fates = fates(&scene).await;
        let tried = |domain: &&str| {
            // To a host that nobody finds one copy goes at a time; DNS is asked for each.
            let least = if **domain == *"hostless.example" { 1 } else { EACH };
            let tried = |fate: &&Fate| fate.domain == **domain && fate.attempts > 0;
            fates.iter().filter(tried).count() >= least
        };
        let mut decided = fates.iter().filter(|fate| !later.contains(&fate.domain.as_str()));
        (later.iter().all(tried) && decided.all(|fate| fate.state.is_final())).then_some(())
    })
    .await;
    for (domain, words) in [
        ("broken.example", ["4.4.3", "network.transient", "dns", "dns", "Server Failure"]),
        ("silent.example", ["4.4.3", "network.transient", "dns", "dns", "none within"]),
        ("hostless.example", ["4.4.4", "network.transient", "no-connection", "connect", "nohost"]),
        ("grey.example", ["4.2.0", "", "", "rcpt_to", "Greylisted"]),
    ] {
        let lines = told(&scene, EventKind::Deferred, domain).await;
        for (found, wanted) in lines[0].iter().zip(words) {
            assert!(found.contains(wanted), "{domain}: {lines:?}");
        }
    }
    // Mended.
    for domain in ["broken.example", "silent.example"] {
        dns.forget(domain).mx(domain, &[(10, "mx.test")]);
    }
    dns.at("nohost.test", "127.0.0.16");
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], audience, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), 5 * EACH, "{outcome:?}");
    assert_eq!(outcome.count(CopyState::Rejected), 3 * EACH, "{outcome:?}");

    let stated = ["5.1.10", "recipient.permanent", "null-mx", "dns", "null MX"];
    let worded = ["5.1.2", "recipient.permanent", "no-such-domain", "dns", ""];
    for (domain, words, suppressed) in [
        ("null.example", stated, true),
        ("gone.example", worded, false),
        ("empty.example", worded, false),
    ] {
        let lines = told(&scene, EventKind::Rejected, domain).await;
        assert_eq!(lines.len(), EACH, "{domain}");
        for (found, wanted) in lines[0].iter().zip(words) {
            assert!(found.contains(wanted), "{domain}: {lines:?}");
        }
        let number = domains.iter().position(|one| *one == domain).unwrap();
        let address = format!("reader{number:05}@{domain}");
        let person = scene.house.run(&["subscriber", "show", &address, "--json"]).json();
        assert_eq!(!person["suppression"].is_null(), suppressed, "{person}");
    }
}

/// Takes connections, and says nothing.
struct Mute {
    _listener: TcpListener,
}

impl Mute {
    fn at(address: &str, port: u16) -> Self {
        Self { _listener: TcpListener::bind((address, port)).unwrap() }
    }
}

#[tokio::test]
async fn dead_domains_hold_nobody_else_up() {
    const EACH: usize = 30;
    let (dns, port) = (DnsServer::start(), free_port());
    let mut good = Vec::new();
    for number in 0..10 {
        let domain = format!("good{number}.example");
        dns.mx(&domain, &[(10, "mx.test")]);
        good.push(domain);
    }
    dns.at("mx.test", "127.0.0.17").at("dead.test", "127.0.0.18").at("mute.test", "127.0.0.19");
    dns.mx("dead.example", &[(10, "dead.test")]).mx("mute.example", &[(10, "mute.test")]);
    let sink = sink_at("127.0.0.17", port, "").await;
    let mute = Mute::at("127.0.0.19", port);
    let mut domains: Vec<&str> = good.iter().map(String::as_str).collect();
    domains.extend(["dead.example", "mute.example"]);
    // In one stage: a share of undecided copies this large would keep the next one back.
    // For as long as a greeting may take nobody answers where nobody speaks.
    let options = format!("{QUICK}stages_percent = []\n{NO_GATES}{SHORT}");
    let scene = scene(&dns, port, "", &options).await;
    let audience = import(&scene, &domains, EACH);
    let daemon = Daemon::spawn(&scene).await;
    let began = Instant::now();
    scene.send().ok();
    sink.accepts(EACH * good.len()).await;
    let now = fates(&scene).await;
    for domain in ["dead.example", "mute.example"] {
        for fate in of(&now, domain) {
            assert!(!fate.state.is_final(), "decided: {fate:?}");
        }
    }
    // What waits says for whom and why.
    until("the reason shows", async || {
        let fates = fates(&scene).await;
        let told =
            |fate: &&&Fate| fate.reason.contains("dead.test") && fate.reason.contains("refused");
        // Some of the others have just come back to see.
        (of(&fates, "dead.example").iter().filter(told).count() > EACH / 2).then_some(())
    })
    .await;
    drop(mute);
    let back = sink_at("127.0.0.18", port, "").await;
    let well = sink_at("127.0.0.19", port, "").await;
    scene.reaches(IssueState::Sent).await;
    let took = began.elapsed().as_secs_f64();
    assert!(!daemon.log().contains("a relay cannot be used"), "{}", daemon.log());
    drop(daemon);
    let outcome = check(&scene, &[&sink, &back, &well], audience, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), audience, "{outcome:?}");
    let fates = fates(&scene).await;
    for fate in fates.iter().filter(|fate| fate.domain.starts_with("good")) {
        assert_eq!(fate.attempts, 1, "{fate:?}");
    }
    // One message at a time finds out whether it is back; the others wait, and that costs no try.
    let dead = of(&fates, "dead.example");
    let tried_again: i64 = dead.iter().map(|fate| fate.attempts - 1).sum();
    let most = 1.0 + took / OPEN_FOR_S;
    println!("{tried_again} tries in {took:.1} s that came to nothing");
    assert!(tried_again > 0 && tried_again as f64 <= most, "{most:.0} at most: {dead:?}");
    let context = scene.context().await;
    let opened: i64 = context
        .db
        .query("SELECT COUNT(*) FROM event WHERE kind = $1")
        .bind(EventKind::BreakerOpened)
        .scalar()
        .await
        .unwrap();
    assert_eq!(opened, 0, "a breaker of the relay opened for one destination");
    context.db.close().await;
}

#[tokio::test]
async fn domains_that_are_hosted_together_share_few_sessions() {
    const EACH: usize = 5;
    let (dns, port) = (DnsServer::start(), free_port());
    dns.at("a.test", "127.0.0.20").at("b.test", "127.0.0.20");
    let hosted: Vec<String> = (0..40).map(|number| format!("hosted{number}.example")).collect();
    for (number, domain) in hosted.iter().enumerate() {
        // The same hosts, by other numbers and in another order.
        let base = number as u16 * 10;
        dns.mx(domain, &[(base + 20, "b.test"), (base + 10, "a.test")]);
    }
    let sink = sink_at("127.0.0.20", port, "").await;
    let options = format!("{QUICK}{NO_GATES}{SHORT}");
    let scene = scene(&dns, port, "connections_per_destination = 2\n", &options).await;
    let domains: Vec<&str> = hosted.iter().map(String::as_str).collect();
    let audience = import(&scene, &domains, EACH);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], audience, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), audience, "{outcome:?}");
    let mut sessions: BTreeMap<u64, usize> = BTreeMap::new();
    for record in sink.journal() {
        *sessions.entry(record.connection).or_default() += 1;
    }
    println!("{sessions:?}");
    // Each of a hundred messages at most.
    assert!(sessions.len() <= 6, "{sessions:?}");
}

#[tokio::test]
async fn nobody_is_tried_while_no_name_server_answers() {
    const READERS: usize = 60;
    let (dns, port) = (DnsServer::start(), free_port());
    let domains: Vec<String> = (0..30).map(|number| format!("d{number}.example")).collect();
    for domain in &domains {
        dns.mx(domain, &[(10, "mx.test")]);
    }
    dns.at("mx.test", "127.0.0.21");
    dns.mute(true);
    let sink = sink_at("127.0.0.21", port, "").await;
    let scene = impatient(&dns, port, &format!("{QUICK}{NO_GATES}{SHORT}")).await;
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    import(&scene, &domains, READERS / domains.len());
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    until("the relay rests", async || {
        daemon.log().contains("the name servers cannot be asked").then_some(())
    })
    .await;
    dns.mute(false);
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    // Before it was clear that nobody answers, some domains were taken to be the ones that fail.
    let tried = fates(&scene).await.iter().filter(|fate| fate.attempts > 1).count();
    assert!(tried <= READERS * 2 / 3, "{tried} of {READERS}");
}

#[tokio::test]
async fn mail_is_not_brought_to_addresses_that_only_we_have() {
    let (dns, port) = (DnsServer::start(), free_port());
    let sink = sink_at("127.0.0.22", port, "").await;
    dns.at("mx.test", "127.0.0.22").mx("sly.example", &[(10, "mx.test")]);
    let options = format!("{QUICK}{NO_GATES}{SHORT}");
    let scene = scene(&dns, port, "", &options).await;
    let path = scene.house.path("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("private_addresses = true", "private_addresses = false"))
        .unwrap();
    import(&scene, &["sly.example"], 3);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    until("they are put off", async || {
        let lines = told(&scene, EventKind::Deferred, "sly.example").await;
        lines
            .iter()
            .any(|line| line[4].contains("127.0.0.22, where no mail is brought"))
            .then_some(())
    })
    .await;
    scene.issue("cancel", &["--yes", "--reason", "enough seen"]);
    scene.reaches(IssueState::Cancelled).await;
    drop(daemon);
    assert_eq!(sink.journal().len(), 0);
    check(&scene, &[&sink], 3, Kills::default()).await;
}
