//! An issue file on its way in: read, rendered and looked over with all that the database knows.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use jiff::tz::TimeZone;

use super::Which;
use crate::{
    cli::{Context, Refused, output},
    delivery::{
        compose::{Composer, Ingredients, brand_of},
        content::Content,
        control::{Draft, Edition, find},
        engine, preflight,
    },
    diagnostic::{self, Diagnostic, Level},
    issue::{
        RenderedIssue,
        lint::lint,
        parse, rule,
        source::{FILE_BYTES_MAX, Parsed},
    },
    newsletter::Newsletter,
    timestamp::Timestamp,
};

/// The file and what goes with it.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct FileArgs {
    /// The issue file (Markdown with front matter); `-` reads standard input
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) which: Which,
}

/// Which warnings are let through.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Allowed {
    /// Go on despite warnings with this code; may be repeated
    #[arg(long, value_name = "CODE", value_parser = warning_code)]
    pub(super) allow: Vec<String>,
    /// Go on despite any warnings
    #[arg(long)]
    pub(super) allow_warnings: bool,
}

/// The code under which copies that cannot be made are let through.
pub(super) const UNSENDABLE: &str = "unsendable-copy";

fn warning_code(code: &str) -> Result<String, String> {
    if code == UNSENDABLE {
        return Ok(code.to_owned());
    }
    match rule::named(code) {
        Some(rule) if rule.level == Level::Warning => Ok(code.to_owned()),
        Some(_) => Err("this is an error, which blocks every send; put it right".to_owned()),
        None => {
            let known = rule::ALL.iter().map(|rule| rule.code);
            let hint = diagnostic::nearest(code, known)
                .map_or_else(String::new, |code| format!("; did you mean `{code}`?"));
            Err(format!("no warning has this code{hint}"))
        }
    }
}

/// An issue file that was read, as it would be mailed at some time.
pub(super) struct Manuscript {
    /// What it is an issue of.
    pub(super) newsletter: Newsletter,
    /// What was read.
    pub(super) parsed: Parsed,
    /// What is mailed, where that could be made.
    pub(super) rendered: Option<RenderedIssue>,
    /// What is wrong.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// As much of a file is read at most: enough to say how large one is that is too large.
const READ_BYTES_MAX: u64 = 16 * FILE_BYTES_MAX as u64;

/// Reads a file, or the beginning of one that is far too large.
pub(super) fn read_file(path: &Path) -> anyhow::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin()
            .take(READ_BYTES_MAX)
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
        return Ok(("standard input".to_owned(), bytes));
    }
    let shown = output::clean(&path.display().to_string()).into_owned();
    let cannot_read = || format!("cannot read {shown}");
    let file = File::open(path).with_context(cannot_read)?;
    anyhow::ensure!(!file.metadata()?.is_dir(), "{shown} is a folder; name the issue file in it");
    file.take(READ_BYTES_MAX).read_to_end(&mut bytes).with_context(cannot_read)?;
    Ok((shown, bytes))
}

impl Manuscript {
    /// Reads a file and looks it over as of `sends_at`, a day of the calendar in `zone`.
    pub(super) async fn read(
        context: &Context,
        args: &FileArgs,
        (sends_at, zone): (Timestamp, &TimeZone),
    ) -> anyhow::Result<Self> {
        let newsletter = args.which.newsletter(context).await?;
        let brand = brand_of(&newsletter, &context.links());
        let renderer = context.renderer()?;
        let (path, render_brand) = (args.file.clone(), brand.clone());
        let (parsed, rendered) = tokio::task::spawn_blocking(move || {
            let (name, bytes) = read_file(&path)?;
            let parsed = parse(&name, &bytes);
            // What cannot be rendered, the parse has said with its place; a missing subject is an
            // error of the lint, which blocks a send.
            let rendered = renderer.preview(&parsed.document, &render_brand).ok();
            anyhow::Ok((parsed, rendered))
        })
        .await??;
        let own = (parsed.document.number, parsed.source.text());
        let mut lint_context = preflight::lint_context(
            &context.db,
            &context.config,
            &newsletter,
            brand,
            own,
            (sends_at, zone),
        )
        .await?;
        lint_context.rendered = rendered;
        let diagnostics = lint(&parsed, &lint_context);
        Ok(Self { newsletter, parsed, rendered: lint_context.rendered, diagnostics })
    }

    /// The findings as a person reads them.
    pub(super) fn pretty(&self, colour: bool) -> String {
        diagnostic::pretty(&self.diagnostics, &self.parsed.source, colour)
    }

    /// Says what is wrong on standard error, if anything is.
    pub(super) fn say_findings(&self) {
        if !self.diagnostics.is_empty() {
            output::say(self.pretty(output::colour_on_stderr()).trim_end());
        }
    }

    /// Refuses a file with errors, or with warnings that were not allowed.
    pub(super) fn refuse_unless(&self, allowed: &Allowed) -> Result<(), Refused> {
        if diagnostic::has_errors(&self.diagnostics) {
            let why = "the issue has errors; nothing was sent. Put them right and run this again";
            return Err(Refused(why.to_owned()));
        }
        let mut open: Vec<&str> = self.diagnostics.iter().map(|found| found.code).collect();
        open.retain(|code| !allowed.allow_warnings && !allowed.allow.iter().any(|a| a == code));
        open.dedup();
        open.sort_unstable();
        open.dedup();
        if open.is_empty() {
            return Ok(());
        }
        let flags: Vec<String> = open.iter().map(|code| format!("--allow {code}")).collect();
        Err(Refused(format!(
            "the issue has warnings; nothing was sent. Put them right, or let them through with {}",
            flags.join(" ")
        )))
    }

    /// The issue of the same number that is stored, if there is one.
    pub(super) async fn stored(&self, context: &Context) -> anyhow::Result<Option<Edition>> {
        let Some(number) = self.parsed.document.number else { return Ok(None) };
        Ok(find(&context.db, self.newsletter.id, i64::from(number)).await?)
    }

    /// What copies are made from; refused when there is none.
    pub(super) fn content(&self, context: &Context) -> Result<Content, Refused> {
        let rendered = self.rendered.as_ref();
        let (Some(number), Some(rendered)) = (self.parsed.document.number, rendered) else {
            let why = "the issue cannot be rendered before its errors are put right";
            return Err(Refused(why.to_owned()));
        };
        Ok(Content::new(
            &self.newsletter,
            i64::from(number),
            rendered.subject.clone(),
            rendered.html.clone(),
            rendered.text.clone(),
            &context.links(),
        ))
    }

    /// What is stored when its send is asked for.
    pub(super) fn draft(&self, content: Content) -> anyhow::Result<Draft> {
        Ok(Draft {
            newsletter: self.newsletter.id,
            number: content.number,
            model: serde_json::to_string(&self.parsed.document)?,
            source: self.parsed.source.text().to_owned(),
            content,
        })
    }
}

/// What makes copies of what is not stored: with signatures for copies that leave, without for
/// looking at them.
pub(super) fn composer(context: &Context, signed: bool) -> anyhow::Result<Arc<Composer>> {
    Ok(Arc::new(Composer::new(Ingredients {
        db: context.db.clone(),
        keyring: Arc::clone(&context.keyring),
        links: context.links(),
        renderer: Arc::new(context.renderer()?),
        signers: if signed { engine::signers(&context.config)? } else { Vec::new() },
        mail: context.config.mail.clone(),
        work: crate::telemetry::Work::default(),
    })))
}
