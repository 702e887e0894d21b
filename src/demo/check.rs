//! Whether the story went as it had to: what the ledger says, what the mailboxes got, and what is
//! known of the people.

use std::{
    collections::HashMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{mails_to, readers::Cast};
use crate::{
    address::Address,
    cli::Context,
    db::state::{CopyState, SubscriptionState},
    delivery::{control, tallies},
    newsletter::Newsletter,
    sink::{
        Sink,
        mailbox::{Filter, Received},
    },
    subscriber::{self, suppression},
};

/// Waits until every address whose mail bounces is suppressed.
pub(super) async fn bounces_came_back(
    context: &Context,
    cast: &Cast,
    patience: Duration,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    for address in cast.bouncing.iter().chain(&cast.refused) {
        while suppression_of(context, address).await?.as_deref() != Some("bounce") {
            anyhow::ensure!(begin.elapsed() < patience, "{address} bounced and is not suppressed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

async fn suppression_of(context: &Context, address: &str) -> anyhow::Result<Option<String>> {
    let address = Address::parse(address)?;
    let found = suppression::find(&context.db, &context.keyring, &address).await?;
    Ok(found.map(|suppression| suppression.reason))
}

/// The numbers of the story, in words.
pub(super) async fn summary(
    context: &Context,
    mailbox: &Sink,
    cast: &Cast,
    newsletter: &Newsletter,
    number: i64,
) -> anyhow::Result<String> {
    let edition = control::find(&context.db, newsletter.id, number).await?.context("no issue")?;
    let cell = tallies::load(&context.db, edition.id).await?.total();
    let counts = subscriber::state_counts(&context.db, newsletter.id).await?;
    let in_state = |wanted: SubscriptionState| -> i64 {
        counts.iter().filter(|(state, _)| *state == wanted).map(|(_, count)| *count).sum()
    };
    let mut text = String::from("\nSummary\n");
    let _ = writeln!(
        text,
        "  signed up {} ({} of them twice), confirmed {}, never confirmed {}",
        cast.all.len(),
        cast.twice.len(),
        cast.confirming().count(),
        cast.silent.len()
    );
    let states = CopyState::ALL.iter().filter(|state| cell.get(**state) > 0);
    let states: Vec<String> = states.map(|state| format!("{} {state}", cell.get(*state))).collect();
    let _ = writeln!(text, "  audience {} = {}", cell.total(), states.join(" + "));
    let _ = writeln!(
        text,
        "  mailboxes took {} mails, {} of them copies of the issue",
        mailbox.mailbox().len(),
        copies(mailbox).values().sum::<usize>()
    );
    let _ = writeln!(
        text,
        "  bounced and suppressed {} (refused {}, returned {}); deferred first {}",
        cast.refused.len() + cast.bouncing.len(),
        cast.refused.len(),
        cast.bouncing.len(),
        cast.deferred.len()
    );
    let _ = write!(
        text,
        "  subscribers now: {} active, {} pending, {} unsubscribed",
        in_state(SubscriptionState::Active),
        in_state(SubscriptionState::Pending),
        in_state(SubscriptionState::Unsubscribed)
    );
    Ok(text)
}

/// Fails unless every number is what it has to be.
pub(super) async fn holds(
    context: &Context,
    mailbox: &Sink,
    cast: &Cast,
    newsletter: &Newsletter,
    number: i64,
) -> anyhow::Result<()> {
    let edition = control::find(&context.db, newsletter.id, number).await?.context("no issue")?;
    let cell = tallies::load(&context.db, edition.id).await?.total();
    let audience = cast.confirming().count() as i64;
    equal("copies in the ledger", cell.total(), audience)?;
    equal("copies with a final state", cell.finished(), audience)?;
    equal("rejected", cell.get(CopyState::Rejected), cast.refused.len() as i64)?;
    equal("uncertain", cell.get(CopyState::Uncertain), 0)?;
    let accepted = cell.get(CopyState::Accepted);
    let skipped = cell.get(CopyState::Skipped);
    equal(
        "accepted, rejected and skipped",
        accepted + cell.get(CopyState::Rejected) + skipped,
        audience,
    )?;
    anyhow::ensure!(
        skipped <= cast.leaving_before as i64,
        "{skipped} copies were skipped, and only {} left before theirs",
        cast.leaving_before
    );
    let copies = copies(mailbox);
    equal("copies that mailboxes took", copies.values().sum::<usize>() as i64, accepted)?;
    for (address, count) in &copies {
        anyhow::ensure!(*count == 1, "{address} got {count} copies");
    }
    for address in &cast.silent {
        anyhow::ensure!(!copies.contains_key(address), "{address} never confirmed and got a copy");
    }
    for address in &cast.twice {
        let asked = mails_to(mailbox, address)
            .iter()
            .filter(|mail| mail.content().links.iter().any(|link| link.contains("/-/confirm/")))
            .count();
        equal(&format!("confirmation mails to {address}"), asked as i64, 1)?;
    }
    let counts = subscriber::state_counts(&context.db, newsletter.id).await?;
    let left = (cast.leaving_after + cast.leaving_before) as i64;
    let unsubscribed: i64 = counts
        .iter()
        .filter(|(state, _)| *state == SubscriptionState::Unsubscribed)
        .map(|(_, count)| *count)
        .sum();
    equal("readers who left", unsubscribed, left)
}

fn equal(what: &str, found: i64, expected: i64) -> anyhow::Result<()> {
    anyhow::ensure!(found == expected, "{what}: {found}, and it should be {expected}");
    Ok(())
}

/// How many copies of the issue each mailbox took.
fn copies(mailbox: &Sink) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    let mut before = None;
    loop {
        let filter = Filter { before, limit: Some(1000), ..Filter::default() };
        let page = mailbox.mailbox().find(&filter);
        let Some(last) = page.last() else { return counts };
        before = Some(last.id);
        for mail in page.iter().filter(|mail| is_issue(mail)) {
            for address in &mail.rcpt_to {
                *counts.entry(address.clone()).or_default() += 1;
            }
        }
    }
}

fn is_issue(mail: &Received) -> bool {
    mail.content().header("List-Unsubscribe").is_some()
}
