//! `postrider issue test`: one marked copy to oneself, straight through the first relay. It is in no
//! ledger, its links name no reader, and no bounce of it counts against anybody.

use std::sync::Arc;

use anyhow::Context as _;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::manuscript::{FileArgs, Manuscript, composer};
use crate::{
    address::Address,
    cli::{
        Context, Refused,
        newsletter::address,
        output::{self, Format},
        relay::relays,
    },
    delivery::{
        compose::{Compiled, Composer, Prepared},
        preflight::{Addressee, unrecorded_copy},
        relay::Relay,
    },
    id::{IssueId, SubscriberId},
    smtp::{
        client::{Outgoing, Session, Verdict},
        message::ComposedMessage,
    },
    subscriber::suppression,
    timestamp::Timestamp,
};

/// What stands before the subject of a test.
const MARK: &str = "[Test] ";

/// What `test` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Test {
    #[command(flatten)]
    file: FileArgs,
    /// Who gets it; may be repeated
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = address)]
    to: Vec<Address>,
    /// The reader's name in it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// What became of one copy.
#[derive(Debug, Serialize)]
struct Tried {
    address: String,
    accepted: bool,
    relay: String,
    answer: String,
}

/// Sends the copies, one after the other over one connection.
pub(super) async fn run(context: &Context, args: Test) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let manuscript = Manuscript::read(context, &args.file, (now, &TimeZone::system())).await?;
    manuscript.say_findings();
    let mut content = manuscript.content(context)?;
    content.subject.insert_str(0, MARK);
    for to in &args.to {
        if let Some(found) = suppression::find(&context.db, &context.keyring, to).await? {
            let why = format!("{to} must not be mailed ({}); nothing was sent", found.reason);
            return Err(Refused(why).into());
        }
    }
    let composer = composer(context, true)?;
    let compiled = Compiled::new(&content, manuscript.newsletter.id, IssueId(0))?;
    let prepared = Prepared::Issue(Arc::new(compiled));
    let relay = relays(&context.config).swap_remove(0);
    let way = Relay::new(0, &relay, &context.config)
        .map_err(|problem| anyhow::anyhow!("relay `{}`: {problem}", relay.name))?;
    let problem = || {
        let hint = if context.config.relay.is_empty() {
            "; the built-in mailbox runs with `postrider serve`"
        } else {
            ""
        };
        format!("no connection to relay `{}` ({}){hint}", relay.name, relay.address())
    };
    // Each domain has servers of its own where mail goes there directly.
    let mut session: Option<Session> = None;
    let mut tried = Vec::new();
    for (nth, to) in args.to.iter().enumerate() {
        if way.direct.is_some()
            && let Some(session) = session.take()
        {
            session.quit().await;
        }
        let session = match &mut session {
            Some(session) => session,
            None => session.insert(way.connect_for(to.as_str()).await.with_context(problem)?),
        };
        let (accepted, answer) =
            try_one(session, &composer, &prepared, (to, args.name.clone()), (now, nth)).await?;
        let address = to.as_str().to_owned();
        tried.push(Tried { address, accepted, relay: relay.name.clone(), answer });
    }
    if let Some(session) = session {
        session.quit().await;
    }
    tell(&tried, args.format)
}

async fn try_one(
    session: &mut Session,
    composer: &Arc<Composer>,
    prepared: &Prepared,
    (to, name): (&Address, Option<String>),
    (now, nth): (Timestamp, usize),
) -> anyhow::Result<(bool, String)> {
    // A number that no row has, and another for each test, so that no two have one Message-ID.
    let nobody = SubscriberId(now.microseconds().saturating_add(nth as i64));
    let reader = Addressee { address: to.as_str().to_owned(), name, attributes: None };
    let copy = unrecorded_copy(nobody, &reader);
    let envelope = composer.envelope(&copy);
    let (composer, prepared) = (Arc::clone(composer), prepared.clone());
    let message = tokio::task::spawn_blocking(move || {
        let mut message = ComposedMessage::default();
        composer.compose(&copy, &prepared, &mut message).map(|()| message)
    })
    .await??;
    let body: Vec<&[u8]> = message.slices().collect();
    let outgoing = Outgoing { envelope: &envelope, body: &body };
    let transaction = session.transact(&outgoing, None, |_| Ok(())).await;
    let accepted = matches!(transaction.verdict, Verdict::Accepted(_));
    Ok((accepted, transaction.verdict.to_string()))
}

fn tell(tried: &[Tried], format: Format) -> anyhow::Result<()> {
    if format.json {
        output::json(&tried)?;
    } else {
        for copy in tried {
            let answer = output::clean(&copy.answer);
            output::line(format!("{}: {answer} (relay {})", copy.address, copy.relay))?;
        }
    }
    let failed = tried.iter().filter(|copy| !copy.accepted).count();
    anyhow::ensure!(failed == 0, "{failed} of {} tests were not accepted", tried.len());
    Ok(())
}
