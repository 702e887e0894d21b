//! `postrider issue new`: a file to start from, with comments that explain it.

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;

use super::Which;
use crate::{
    cli::{Context, Refused, output},
    delivery::control,
    newsletter::Newsletter,
};

/// The file, with `@…@` where values go.
const SKELETON: &str = include_str!("skeleton.md");

/// What `new` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct New {
    /// Where to write it [default: the number with .md behind it; `-` for standard output]
    file: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// The issue's number [default: the one after the last]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    number: Option<u32>,
}

/// Writes the file, over no other.
pub(super) async fn run(context: &Context, args: New) -> anyhow::Result<()> {
    let newsletter = args.which.newsletter(context).await?;
    let number = match args.number {
        Some(number) => number,
        None => next_number(context, &newsletter).await?,
    };
    let text = fill(&newsletter, number, jiff::Zoned::now().date());
    let path = args.file.unwrap_or_else(|| PathBuf::from(format!("{number}.md")));
    if path.as_os_str() == "-" {
        output::line(text.trim_end())?;
        return Ok(());
    }
    let shown = path.display().to_string();
    match File::create_new(&path) {
        Ok(mut file) => {
            file.write_all(text.as_bytes()).with_context(|| format!("cannot write {shown}"))?;
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let why = format!("{shown} is there already and was left as it is; name another file");
            return Err(Refused(why).into());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot write {shown}")),
    }
    output::line(&shown)?;
    output::say(format!(
        "write issue {number} in it; `postrider issue preview {shown} --serve` shows it meanwhile"
    ));
    Ok(())
}

async fn next_number(context: &Context, newsletter: &Newsletter) -> anyhow::Result<u32> {
    let last = control::list(&context.db, newsletter.id, 1).await?.pop();
    let next = last.map_or(1, |issue| issue.number.saturating_add(1));
    u32::try_from(next).context("the last issue's number is the highest there is; give --number")
}

fn fill(newsletter: &Newsletter, number: u32, date: jiff::civil::Date) -> String {
    let pattern = newsletter.subject_pattern.replace(['\r', '\n'], " ");
    SKELETON
        .replace("@NUMBER@", &number.to_string())
        .replace("@DATE@", &date.to_string())
        .replace("@PATTERN@", &pattern)
}
