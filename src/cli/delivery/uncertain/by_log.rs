//! Settling uncertain copies by the log of a Postfix relay.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use flate2::bufread::MultiGzDecoder;
use serde::Serialize;

use crate::{
    cli::{
        Context,
        context::actor,
        output::{self, Table, count, say},
    },
    db::state::CopyState,
    delivery::{
        control::{self, Edition},
        uncertain::{
            UncertainCopy,
            postfix_log::{Evidence, Search},
        },
    },
    id::{CopyId, SubscriberId},
    smtp::message::message_id,
    timestamp::Timestamp,
};

/// No more of a line is looked at: what matters stands at its beginning.
const LINE_MAX: u64 = 16 * 1024;

/// What a gzip file begins with (RFC 1952, section 2.3.1).
const GZIP: &[u8] = &[0x1f, 0x8b];

/// What files begin with that other programs compressed, and how to read them.
const OTHERS: [(&[u8], &str); 3] =
    [(b"BZh", "bzcat"), (b"\xfd7zXZ\0", "xzcat"), (b"\x28\xb5\x2f\xfd", "zstdcat")];

/// Which log, and what to do with what it says.
#[derive(Debug)]
pub(super) struct ByLog {
    /// The files, oldest first.
    pub(super) files: Vec<PathBuf>,
    /// Whether nothing is to be changed.
    pub(super) dry_run: bool,
    /// Whether to print JSON.
    pub(super) json: bool,
}

/// One copy, and what the log says about it.
#[derive(Debug, Serialize)]
struct Settled {
    subscriber_id: SubscriberId,
    address: Option<String>,
    message_id: String,
    /// The state that follows; none when the copy stays uncertain.
    becomes: Option<CopyState>,
    evidence: Option<Evidence>,
}

/// Settles those of `copies` that the log knows about.
pub(super) async fn resolve(
    context: &Context,
    edition: &Edition,
    copies: Vec<UncertainCopy>,
    how: ByLog,
) -> anyhow::Result<()> {
    let domain = context.config.mail.message_id_domain.clone();
    let id_of = |copy: &UncertainCopy| {
        let id = CopyId::Issue { issue: edition.id, subscriber: copy.subscriber_id };
        message_id(&context.keyring, id, &domain)
    };
    let ids: Vec<String> = copies.iter().map(id_of).collect();
    let files = how.files.clone();
    let search = tokio::task::spawn_blocking({
        let ids = ids.clone();
        move || read(&files, &ids)
    })
    .await??;
    let mut settled = Vec::with_capacity(copies.len());
    for (copy, message_id) in copies.into_iter().zip(ids) {
        let evidence = search.evidence(&message_id).cloned();
        let becomes = evidence.as_ref().and_then(|evidence| evidence.fate.settles());
        let UncertainCopy { subscriber_id, address, .. } = copy;
        settled.push(Settled { subscriber_id, address, message_id, becomes, evidence });
    }
    if !how.dry_run {
        write(context, edition, &settled).await?;
    }
    print(edition, &settled, &how)
}

fn read(files: &[PathBuf], ids: &[String]) -> anyhow::Result<Search> {
    let mut search = Search::new(ids.iter().map(String::as_str));
    for file in files {
        let shown = output::clean(&file.display().to_string()).into_owned();
        let cannot_read = || format!("cannot read the log {shown}");
        if file == Path::new("-") {
            log(&mut io::stdin().lock(), &mut search)
        } else {
            File::open(file)
                .map_err(anyhow::Error::from)
                .and_then(|file| log(&mut BufReader::new(file), &mut search))
        }
        .with_context(cannot_read)?;
    }
    Ok(search)
}

/// Reads one log, which may be compressed as `logrotate` does it. Nothing but a piece of a line is kept
/// of it, so that it may be as long as it likes, unpacked too.
fn log(octets: &mut impl BufRead, search: &mut Search) -> anyhow::Result<()> {
    let begins = octets.fill_buf()?;
    if begins.starts_with(GZIP) {
        return Ok(lines(&mut BufReader::new(MultiGzDecoder::new(octets)), search)?);
    }
    if let Some((_, reader)) = OTHERS.iter().find(|(magic, _)| begins.starts_with(magic)) {
        anyhow::bail!(
            "it is compressed; read it by `{reader} FILE | postrider delivery resolve … --postfix-log -`"
        );
    }
    Ok(lines(octets, search)?)
}

/// Feeds the search, a bounded piece of each line in memory at a time.
fn lines(log: &mut impl BufRead, search: &mut Search) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if io::Read::take(&mut *log, LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        search.line(String::from_utf8_lossy(&line).trim_end());
        while line.last() != Some(&b'\n') {
            line.clear();
            if io::Read::take(&mut *log, LINE_MAX).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
        }
    }
}

async fn write(context: &Context, edition: &Edition, settled: &[Settled]) -> anyhow::Result<()> {
    let actor = actor();
    for copy in settled {
        let (Some(state), Some(evidence)) = (copy.becomes, &copy.evidence) else { continue };
        let words = format!("the relay's log, line {}: {}", evidence.line, evidence.text);
        let (db, now) = (&context.db, Timestamp::now());
        // One that was settled meanwhile stays as it is.
        control::settle_by_evidence(db, edition, copy.subscriber_id, (state, &words), &actor, now)
            .await?;
    }
    Ok(())
}

fn print(edition: &Edition, settled: &[Settled], how: &ByLog) -> anyhow::Result<()> {
    if how.json {
        return Ok(output::json(&settled)?);
    }
    let mut table = Table::new(&["address", "becomes", "line", "what the log says"]).numbers(&[2]);
    for copy in settled {
        let (line, text) = match &copy.evidence {
            Some(evidence) => (evidence.line.to_string(), evidence.text.as_str()),
            None => ("-".to_owned(), "nothing"),
        };
        let becomes = copy.becomes.map_or("uncertain", CopyState::as_str);
        let address = copy.address.as_deref().unwrap_or("(erased)");
        table.row([address, becomes, &line, text]);
    }
    table.print(&format!("no copy of issue {} is uncertain", edition.number))?;
    let done = settled.iter().filter(|copy| copy.becomes.is_some()).count() as i64;
    let open = settled.len() as i64 - done;
    let verb = if how.dry_run { "would be settled; nothing was changed" } else { "settled" };
    say(format!("{} {verb}, {} still uncertain", count(done), count(open)));
    Ok(())
}
