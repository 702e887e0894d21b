//! `postrider issue preview`: an issue as readers will see it, in files or in a browser.

mod page;
mod serve;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use jiff::tz::TimeZone;

use super::manuscript::{FileArgs, Manuscript, composer};
use crate::{
    cli::{Context, Refused, output},
    delivery::{
        compose::{Compiled, Composer, Prepared},
        content::Content,
        preflight::{Addressee, unrecorded_copy},
    },
    diagnostic::Diagnostic,
    id::{IssueId, SubscriberId},
    smtp::message::ComposedMessage,
    timestamp::Timestamp,
};

/// What `preview` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Preview {
    #[command(flatten)]
    file: FileArgs,
    /// The folder to write issue.html, issue.txt and issue.eml to [default: preview]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Show it in a browser instead, and again whenever the file changes
    #[arg(long, conflicts_with = "out")]
    serve: bool,
    /// Where to serve it, on this machine only; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", requires = "serve",
          value_parser = loopback)]
    listen: SocketAddr,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "write it like 127.0.0.1:8090".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("a preview is served on this machine only; use 127.0.0.1 or [::1]".to_owned())
    }
}

/// An issue in every form it is looked at.
#[derive(Debug, Clone)]
struct Shown {
    subject: String,
    preheader: String,
    html: String,
    text: String,
    /// The whole message on the wire, as a sample reader would get it.
    message: String,
    diagnostics: Vec<Diagnostic>,
    /// The same for people.
    findings: String,
}

/// Writes the files, or serves them until Ctrl-C.
pub(super) async fn run(context: Context, args: Preview) -> anyhow::Result<()> {
    let composer = composer(&context, false)?;
    if args.serve {
        let composer = Arc::clone(&composer);
        return serve::run(context, composer, args.file, args.listen).await;
    }
    let (manuscript, shown) = show(&context, &composer, &args.file).await?;
    manuscript.say_findings();
    let Some(shown) = shown else {
        let why = "the issue cannot be rendered before these errors are put right";
        return Err(Refused(why.to_owned()).into());
    };
    let folder = args.out.unwrap_or_else(|| PathBuf::from("preview"));
    let cannot_write = || format!("cannot write to {}", folder.display());
    tokio::fs::create_dir_all(&folder).await.with_context(cannot_write)?;
    let files =
        [("issue.html", shown.html), ("issue.txt", shown.text), ("issue.eml", shown.message)];
    for (name, content) in files {
        let path = folder.join(name);
        tokio::fs::write(&path, content).await.with_context(cannot_write)?;
        output::line(path.display().to_string())?;
    }
    Ok(())
}

/// Reads, renders and composes the file as it is now; nothing is shown of a file that cannot be
/// rendered.
async fn show(
    context: &Context,
    composer: &Composer,
    file: &FileArgs,
) -> anyhow::Result<(Manuscript, Option<Shown>)> {
    let now = Timestamp::now();
    let manuscript = Manuscript::read(context, file, (now, &TimeZone::system())).await?;
    let Some(rendered) = &manuscript.rendered else { return Ok((manuscript, None)) };
    let content = Content::new(
        &manuscript.newsletter,
        manuscript.parsed.document.number.map_or(0, i64::from),
        rendered.subject.clone(),
        rendered.html.clone(),
        rendered.text.clone(),
        &context.links(),
    );
    let message = sample_message(composer, &manuscript, &content)
        .unwrap_or_else(|error| format!("The message cannot be made: {error:#}\n"));
    let shown = Shown {
        subject: rendered.subject.clone(),
        preheader: rendered.preheader.clone().unwrap_or_default(),
        html: rendered.preview_html(),
        text: rendered.preview_text(),
        message,
        diagnostics: manuscript.diagnostics.clone(),
        findings: manuscript.pretty(false),
    };
    Ok((manuscript, Some(shown)))
}

/// The message that a sample reader would get; it names no row, and is not signed.
fn sample_message(
    composer: &Composer,
    manuscript: &Manuscript,
    content: &Content,
) -> anyhow::Result<String> {
    let newsletter = manuscript.newsletter.id;
    let compiled = Compiled::new(content, newsletter, IssueId(0))?;
    let reader = Addressee {
        address: "reader@example.org".to_owned(),
        name: Some("Ada Example".to_owned()),
        attributes: None,
    };
    let copy = unrecorded_copy(SubscriberId(0), &reader);
    let mut message = ComposedMessage::default();
    composer.compose(&copy, &Prepared::Issue(Arc::new(compiled)), &mut message)?;
    Ok(String::from_utf8(message.to_vec())?)
}
