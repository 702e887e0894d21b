//! `postrider issue send` and `schedule`: check, plan, ask, and only then write the one row that
//! starts a send. Asking again for the same issue starts nothing and says so.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Serialize;

use super::{
    course::refused,
    manuscript::{Allowed, FileArgs, Manuscript, UNSENDABLE},
    moment,
    plan::{self, Outlook},
};
use crate::{
    cli::{
        Context, Refused,
        context::actor,
        output::{self, Format, count, counted, span, time},
    },
    db::state::IssueState,
    delivery::{
        control::{self, Edition, Scheduled, Trigger},
        preflight, status,
    },
    timestamp::Timestamp,
};

/// What `send` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Send {
    #[command(flatten)]
    common: Common,
    /// How long the send can be undone before its first copy leaves, such as 10m or 0s
    /// [default: what the configuration says, or 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    undo_window: Option<Duration>,
}

/// What `schedule` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Schedule {
    #[command(flatten)]
    common: Common,
    /// When its first copy leaves, such as "2024-08-12 09:00"
    #[arg(long, value_name = "TIME")]
    at: String,
    /// The time zone of that time, such as Europe/Vienna [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    allowed: Allowed,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// A name for this request, chosen by a program that may have to repeat it: one key starts one
    /// send, for good
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    idempotency_key: Option<String>,
    #[command(flatten)]
    format: Format,
}

fn idempotency_key(key: &str) -> Result<String, String> {
    let fits = (1..=200).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    let problem = "a key is 1 to 200 printable ASCII characters without spaces, such as a UUID";
    if fits { Ok(key.to_owned()) } else { Err(problem.to_owned()) }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration =
        text.parse().map_err(|_| "write it like 30s, 10m or 1h 30m".to_owned())?;
    Duration::try_from(duration).map_err(|_| "a duration cannot be negative".to_owned())
}

/// Asks for a send that begins after the undo window.
pub(super) async fn send(context: &Context, args: Send) -> anyhow::Result<()> {
    let window = args.undo_window.unwrap_or(context.config.sending.undo_window);
    let when = When { sends_at: None, window, zone: TimeZone::system() };
    start(context, &args.common, &when).await
}

/// Asks for a send that begins at a time of day.
pub(super) async fn schedule(context: &Context, args: Schedule) -> anyhow::Result<()> {
    let zone = moment::zone(args.zone.as_deref())?;
    let sends_at = moment::moment(&args.at, &zone)?;
    let now = Timestamp::now();
    if sends_at < now {
        let why = format!("{} is past; it is {} now", time(sends_at), time(now));
        return Err(Refused(why).into());
    }
    let when = When { sends_at: Some(sends_at), window: Duration::ZERO, zone };
    start(context, &args.common, &when).await
}

/// When a first copy is to leave.
struct When {
    /// At a time of day;
    sends_at: Option<Timestamp>,
    /// or so long after the word was given.
    window: Duration,
    /// Where days begin.
    zone: TimeZone,
}

impl When {
    fn at(&self, now: Timestamp) -> Timestamp {
        self.sends_at.unwrap_or_else(|| now.plus(self.window))
    }
}

/// What a send answers to programs.
#[derive(Debug, Serialize)]
struct Answer {
    /// Whether this call started it.
    started: bool,
    issue: Edition,
    #[serde(skip_serializing_if = "Option::is_none")]
    outlook: Option<Outlook>,
}

async fn start(context: &Context, args: &Common, when: &When) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let manuscript = Manuscript::read(context, &args.file, (when.at(now), &when.zone)).await?;
    let stored = manuscript.stored(context).await?;
    if let Some(edition) = stored.filter(|edition| edition.state != IssueState::Draft) {
        return asked_before(context, args, &manuscript, edition).await;
    }
    manuscript.say_findings();
    manuscript.refuse_unless(&args.allowed)?;
    let content = manuscript.content(context)?;
    let newsletter = &manuscript.newsletter;
    let outlook = plan::outlook(context, newsletter, Some(&content), (now, when.at(now))).await?;
    output::say(format!("{}: {}", newsletter.name, output::clean(&content.subject)));
    output::say(outlook.to_text(now).trim_end());
    refuse_unsendable(&outlook, &args.allowed)?;
    if outlook.plan.recipients == 0 {
        let why = format!("{} has no reader who could get this issue yet", newsletter.name);
        return Err(Refused(why).into());
    }
    output::confirm(
        &format!("Send it to {}?", counted(outlook.plan.recipients, "recipient")),
        args.yes,
    )?;
    // The person may have thought about it for long: the window begins with the answer.
    let now = Timestamp::now();
    let sends_at = when.at(now).max(now);
    let draft = manuscript.draft(content)?;
    let by = actor();
    let trigger = Trigger { sends_at, actor: &by, key: args.idempotency_key.as_deref() };
    match control::ask(&context.db, &draft, trigger, now).await.map_err(refused)? {
        Scheduled::New(edition) => began(context, args, edition, outlook).await,
        // Somebody else asked for the same issue meanwhile.
        Scheduled::Already(edition) => asked_before(context, args, &manuscript, edition).await,
    }
}

async fn began(
    context: &Context,
    args: &Common,
    edition: Edition,
    outlook: Outlook,
) -> anyhow::Result<()> {
    let number = edition.number;
    let now = Timestamp::now();
    let sends_at = edition.sends_at.unwrap_or(now);
    let wait = sends_at.since(now);
    if wait.is_zero() {
        output::say(format!("issue {number} is on its way"));
    } else {
        output::say(format!(
            "issue {number} leaves at {} (in {}); until then `postrider issue undo {number}` \
             takes it back",
            time(sends_at),
            span(wait)
        ));
    }
    if context.config.sending.approval {
        output::say(format!(
            "it waits for the approval of somebody other than you: `postrider issue approve {number}`"
        ));
    }
    if status::read(&context.db).await?.is_none() {
        output::say("no daemon is running on this data: copies leave once `postrider serve` does");
    }
    if args.format.json {
        output::json(&Answer { started: true, issue: edition, outlook: Some(outlook) })?;
    }
    Ok(())
}

/// The issue was asked for before: nothing is started, and that is said. When the file says
/// something else than what was asked for, or the issue was given up, it is no success.
async fn asked_before(
    context: &Context,
    args: &Common,
    manuscript: &Manuscript,
    edition: Edition,
) -> anyhow::Result<()> {
    let number = edition.number;
    let source = preflight::stored_source(&context.db, edition.newsletter_id, number).await?;
    if source.as_deref() != Some(manuscript.parsed.source.text()) {
        let way_out = if edition.state == IssueState::Scheduled {
            format!("`postrider issue undo {number}` takes it back; then send it again")
        } else {
            "what was sent stays as it was; give a new text a new number".to_owned()
        };
        return Err(Refused(format!(
            "issue {number} is {} already, and the file says something else than it did then. \
             Nothing was started; {way_out}",
            edition.state
        ))
        .into());
    }
    if edition.state == IssueState::Cancelled {
        return Err(Refused(format!(
            "issue {number} was cancelled, and nothing was started; to send it after all give it \
             another number"
        ))
        .into());
    }
    if edition.state == IssueState::Draft {
        return Err(Refused(format!(
            "issue {number} was asked for with this idempotency key before, and taken back since; \
             nothing was started. To send it after all use another key"
        ))
        .into());
    }
    output::say(format!(
        "issue {number} was asked for before and is {}; nothing was started. \
         `postrider issue status {number}` shows it",
        edition.state
    ));
    if args.format.json {
        output::json(&Answer { started: false, issue: edition, outlook: None })?;
    }
    Ok(())
}

/// Refuses a send in which some copies cannot be made, unless they are let through.
fn refuse_unsendable(outlook: &Outlook, allowed: &Allowed) -> Result<(), Refused> {
    let Some(rehearsal) = outlook.rehearsal.as_ref().filter(|sum| sum.unsendable > 0) else {
        return Ok(());
    };
    for problem in &rehearsal.problems {
        output::say(format!("  {}: {}", output::clean(&problem.address), problem.why));
    }
    let copies = counted(rehearsal.unsendable, "copy").replace("copys", "copies");
    if allowed.allow.iter().any(|code| code == UNSENDABLE) {
        output::say(format!("{copies} cannot be made and will be skipped"));
        return Ok(());
    }
    let more = rehearsal.unsendable - rehearsal.problems.len() as i64;
    let more = if more > 0 { format!(" ({} more)", count(more)) } else { String::new() };
    Err(Refused(format!(
        "{copies} cannot be made{more}; nothing was sent. Put the readers' data right, or skip \
         them with --allow {UNSENDABLE}"
    )))
}
