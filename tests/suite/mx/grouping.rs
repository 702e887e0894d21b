//! Grouping by MX: readers of domains that the provider table does not have count with whoever runs
//! their mail servers, whatever kind of relay their copies take.

use postrider::{
    db::state::{CopyState, IssueState},
    provider::Providers,
};

use super::import;
use crate::{
    checker::{Kills, check},
    dns_server::DnsServer,
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink},
};

/// Each copy's domain and provider, and the same of its reader.
async fn providers(scene: &Scene) -> Vec<(String, String, String)> {
    let context = scene.context().await;
    let sql = "SELECT DISTINCT substr(p.address, instr(p.address, '@') + 1) AS domain, d.provider, \
               p.provider FROM delivery d JOIN subscriber p ON p.id = d.subscriber_id ORDER BY domain";
    let rows: Vec<(String, i64, i64)> = context.db.query(sql).all().await.unwrap();
    context.db.close().await;
    let name = |id| Providers::embedded().name(postrider::provider::ProviderId(id)).to_owned();
    rows.into_iter().map(|(domain, copy, reader)| (domain, name(copy), name(reader))).collect()
}

const DOMAINS: [&str; 5] =
    ["gmail.com", "company.example", "office.example", "own.example", "broken.example"];

async fn sent(group: bool, dns: &DnsServer) -> Scene {
    const EACH: usize = 10;
    let sink = Sink::spawn().await;
    let options = format!(
        "{QUICK}{NO_GATES}[dns]\nservers = [\"{}\"]\ntimeout = \"20s\"\ngroup_by_mx = {group}\n",
        dns.address
    );
    let scene = Scene::new(&[&sink], &options).await;
    let audience = import(&scene, &DOMAINS, EACH);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], audience, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), audience, "{outcome:?}");
    scene
}

#[tokio::test]
async fn a_company_counts_with_whoever_runs_its_mail_and_nobody_asks_unless_told_to() {
    let dns = DnsServer::start();
    dns.mx("company.example", &[(10, "aspmx2.googlemail.com"), (1, "aspmx.l.google.com")]);
    dns.mx("office.example", &[(0, "office-example.mail.protection.outlook.com")]);
    dns.mx("own.example", &[(0, "mx.own.example")]);
    dns.fails("broken.example");

    let scene = sent(false, &dns).await;
    let others = providers(&scene).await.into_iter().filter(|(_, copy, _)| copy == "other").count();
    assert_eq!((others, dns.asked().len()), (4, 0));

    let scene = sent(true, &dns).await;
    let found = providers(&scene).await;
    let expected = [
        ("broken.example", "other"),
        ("company.example", "google"),
        ("gmail.com", "google"),
        ("office.example", "microsoft365"),
        ("own.example", "other"),
    ];
    for ((domain, copy, reader), wanted) in found.iter().zip(expected) {
        assert_eq!((domain.as_str(), copy.as_str()), wanted);
        assert_eq!(copy, reader, "{domain}");
    }
    let asked: Vec<String> = dns.asked().into_iter().map(|(name, _)| name).collect();
    for (domain, is_asked) in DOMAINS.map(|domain| (domain, domain != "gmail.com")) {
        assert_eq!(asked.iter().any(|name| name == domain), is_asked, "{domain}");
    }
    // What was found is remembered; what failed is not.
    let context = scene.context().await;
    let sql = "SELECT domain FROM domain_provider ORDER BY domain";
    let kept: Vec<(String,)> = context.db.query(sql).all().await.unwrap();
    let kept: Vec<String> = kept.into_iter().map(|(domain,)| domain).collect();
    assert_eq!(kept, ["company.example", "office.example", "own.example"]);
    context.db.close().await;
}

#[tokio::test]
async fn a_plan_counts_readers_with_whoever_runs_their_mail_and_works_without_dns() {
    const EACH: usize = 10;
    let dns = DnsServer::start();
    dns.mx("company.example", &[(1, "aspmx.l.google.com")]);
    dns.mx("own.example", &[(0, "mx.own.example")]);
    let options = format!(
        "{QUICK}[dns]\nservers = [\"{}\"]\ntimeout = \"2s\"\ngroup_by_mx = true\n",
        dns.address
    );
    let scene = Scene::new(&[], &options).await;
    std::fs::write(scene.house.path("issue.md"), super::commands::ISSUE).unwrap();
    import(&scene, &["gmail.com", "company.example", "own.example"], EACH);
    let plan = || {
        let plan = scene.house.run(&["issue", "plan", "issue.md", "--json"]).json();
        let shares = plan["providers"].as_array().unwrap().clone();
        let share = |share: &serde_json::Value| {
            (share["provider"].as_str().unwrap().to_owned(), share["recipients"].as_i64().unwrap())
        };
        shares.iter().map(share).collect::<Vec<_>>()
    };
    dns.mute(true);
    assert_eq!(plan(), [("other".to_owned(), 20), ("google".to_owned(), 10)]);
    dns.mute(false);
    assert_eq!(plan(), [("google".to_owned(), 20), ("other".to_owned(), 10)]);
}
