//! `postrider doctor`: looks for what is wrong or missing in an installation, changes nothing, and
//! says with each finding what to do. The only network it uses is the relays' and the mailboxes'; DNS is
//! asked where a relay brings mail to the readers' domains.

mod files;
mod settings;

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::{
    Refused,
    context::{load_config, tables},
    output::{self, Format},
    relay,
};
use crate::{
    account,
    bounce::intake::mailbox,
    config::Config,
    db::{Db, OpenOptions},
    delivery::{
        engine,
        mark::{self, Lineage},
        restored, suspension,
    },
    event, newsletter,
    provider::Providers,
    timestamp::Timestamp,
    webhook,
};

/// What `doctor` takes.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Do not connect to relays and mailboxes
    #[arg(long)]
    offline: bool,
    /// Print the DNS records of the signing keys, and do nothing else
    #[arg(long)]
    dns: bool,
    #[command(flatten)]
    format: Format,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It works, and will cause trouble.
    Warning,
    /// It does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    level: Level,
    /// What was looked at.
    about: &'static str,
    /// What was found.
    what: String,
    /// What to do.
    #[serde(rename = "do")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(about: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Ok, about, what: what.into(), remedy: None }
    }

    fn warning(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warning, about, what: what.into(), remedy: Some(remedy.into()) }
    }

    fn error(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Error, about, what: what.into(), remedy: Some(remedy.into()) }
    }
}

/// Examines the installation.
pub(super) async fn run(path: Option<&Path>, args: DoctorArgs) -> anyhow::Result<()> {
    if args.dns {
        let signers = engine::signers(&load_config(path)?)?;
        anyhow::ensure!(
            !signers.is_empty(),
            "no signing key: `postrider init --dkim DOMAIN` makes one"
        );
        for signer in signers {
            output::line(signer.dns_record().to_string())?;
        }
        return Ok(());
    }
    let mut findings = Vec::new();
    match load_config(path) {
        Ok(config) => {
            findings.push(Finding::ok("configuration", settings::source(path)));
            examine(&config, &args, &mut findings).await;
        }
        Err(error) => findings.push(Finding::error(
            "configuration",
            format!("{error:#}"),
            "mend the file; config.example.toml explains every key",
        )),
    }
    report(&findings, args.format)
}

async fn examine(config: &Config, args: &DoctorArgs, findings: &mut Vec<Finding>) {
    let providers = tables(config).unwrap_or_else(|error| {
        findings.push(Finding::error(
            "rules",
            format!("{error:#}"),
            "mend the file; `postrider rules test` shows what a reply would do",
        ));
        Providers::embedded().clone()
    });
    findings.extend(settings::check(config, &providers));
    findings.extend(files::check(config));
    match open(config).await {
        Ok(None) => findings.push(Finding::warning(
            "database",
            format!("there is none yet at {}", config.database_file().display()),
            "run `postrider init`",
        )),
        Ok(Some(db)) => {
            if let Err(error) = examine_data(config, &providers, &db, findings).await {
                findings.push(unreadable(&format!("{error:#}")));
            }
            db.close().await;
        }
        Err(error) => findings.push(unreadable(&format!("{error:#}"))),
    }
    if args.offline {
        return;
    }
    examine_mailboxes(config, findings).await;
    if config.relay.is_empty() {
        findings.push(Finding::ok("relays", "none: mail goes to the built-in mailbox"));
    }
    let asked = config.relay.iter().map(|settings| relay::ask(config, settings));
    for found in futures_util::future::join_all(asked).await {
        findings.push(match &found.problem {
            None => Finding::ok("relays", found.in_words()),
            Some(problem) => Finding::error(
                "relays",
                format!("{} at {}: {problem}", found.name, found.address),
                "see that it runs, that nothing is in between, and that name and password are right",
            ),
        });
    }
}

/// Logs in at every mailbox that returned mail is fetched from.
async fn examine_mailboxes(config: &Config, findings: &mut Vec<Finding>) {
    let checked = config.bounces.mailbox.iter().map(mailbox::check);
    let checked = futures_util::future::join_all(checked).await;
    for (settings, found) in config.bounces.mailbox.iter().zip(checked) {
        let where_it_is = format!("{} at {}", settings.name, settings.address());
        findings.push(match found {
            Ok(mails) => {
                let mails = output::counted(mails as i64, "mail");
                Finding::ok("mailboxes", format!("{where_it_is} can be read: {mails}"))
            }
            Err(problem) => Finding::error(
                "mailboxes",
                format!("{where_it_is}: {problem}"),
                "see that it is there, and that name, password and folders are right; \
                 `postrider bounce fetch --check` tries again",
            ),
        });
    }
}

fn unreadable(what: &str) -> Finding {
    let remedy = "see that the disk is sound and not full; `postrider restore` takes a backup";
    Finding::error("database", what, remedy)
}

/// The database, if there is one.
async fn open(config: &Config) -> anyhow::Result<Option<Db>> {
    let file = config.database_file();
    if !file.exists() {
        return Ok(None);
    }
    let options = OpenOptions { create: false, ..OpenOptions::new(file) };
    Ok(Some(Db::open(&options).await?))
}

async fn examine_data(
    config: &Config,
    providers: &Providers,
    db: &Db,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    let faults = db.faults().await.context("the database cannot be read")?;
    findings.push(match faults.first() {
        None => Finding::ok("database", format!("sound, schema step {}", db.schema_steps().await?)),
        Some(_) => Finding::error(
            "database",
            format!("damaged: {}", faults.join("; ")),
            "stop the daemon, keep a copy of the folder, and restore a backup",
        ),
    });
    findings.extend(files::check_keyring(config, db).await);
    findings.push(clock(db).await?);
    if !account::any(db).await? {
        findings.push(Finding::warning(
            "users",
            "nobody can log in",
            "add somebody with `postrider user add`",
        ));
    }
    for found in suspension::list(db).await? {
        findings.push(Finding::warning(
            "relays",
            format!("{} is suspended by {}: {}", found.relay, found.by, found.reason),
            format!("`postrider relay resume {}` when that is over", found.relay),
        ));
    }
    findings.extend(older(config, db).await?);
    findings.extend(settings::webhooks(&config.webhooks, &webhook::list(db).await?));
    let newsletters = newsletter::list(db).await?;
    findings.extend(settings::check_newsletters(config, &newsletters, providers));
    Ok(())
}

/// Whether the data file is older than what was sent from it, and what is held because of that.
async fn older(config: &Config, db: &Db) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let kept = mark::read(&config.mark_file()).context("the mark cannot be read")?;
    // The mark first: a running daemon moves the database before it.
    let data = Lineage::read_from(db).await?;
    if data.is_some_and(|data| data.is_behind(kept.as_ref())) {
        findings.push(Finding::error(
            "database",
            "the data file is older than what was sent from it: somebody put it back by hand",
            "put the younger one there again if you still have it; else start the daemon, which holds \
             every send until an operator resumes or cancels it",
        ));
    }
    for (issue, why) in restored::still_held(db).await? {
        findings.push(Finding::warning(
            "database",
            format!("issue {} of {} is held: {why}", issue.number, issue.newsletter),
            "look into the relay's log, then `postrider issue resume` or `postrider issue cancel`",
        ));
    }
    Ok(findings)
}

/// A clock that runs behind the log has been set back: retries and leases would wait for it.
async fn clock(db: &Db) -> anyhow::Result<Finding> {
    let (latest, _) = crate::report::latest_lines(db, &event::Filter::default(), 1).await?;
    let latest = latest.first().map(|line| line.at);
    Ok(settings::clock(Timestamp::now(), latest))
}

fn report(findings: &[Finding], format: Format) -> anyhow::Result<()> {
    if format.json {
        output::json(&findings)?;
    } else {
        for found in findings {
            let level = match found.level {
                Level::Ok => "ok     ",
                Level::Warning => "warning",
                Level::Error => "ERROR  ",
            };
            output::line(format!("{level}  {:<13}  {}", found.about, found.what))?;
            if let Some(remedy) = &found.remedy {
                output::line(format!("{:24}→ {remedy}", ""))?;
            }
        }
    }
    let errors = findings.iter().filter(|found| found.level == Level::Error).count();
    if errors == 0 {
        return Ok(());
    }
    Err(Refused(format!("{} must be mended", output::counted(errors as i64, "thing"))).into())
}
