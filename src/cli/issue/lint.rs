//! `postrider issue lint`.

use jiff::tz::TimeZone;

use super::manuscript::{FileArgs, Manuscript};
use crate::{
    cli::{
        Context, Refused,
        output::{self, Format},
    },
    diagnostic,
    timestamp::Timestamp,
};

/// What `lint` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Errors block a send and make this exit with 3; warnings need --allow there."
)]
pub(in crate::cli) struct Lint {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    format: Format,
}

/// Prints the findings: they are what was asked for, so they go to standard output.
pub(super) async fn run(context: &Context, args: Lint) -> anyhow::Result<()> {
    let when = (Timestamp::now(), &TimeZone::system());
    let manuscript = Manuscript::read(context, &args.file, when).await?;
    if args.format.json {
        output::json(&manuscript.diagnostics)?;
    } else {
        output::line(manuscript.pretty(output::colour_on_stdout()).trim_end())?;
    }
    if diagnostic::has_errors(&manuscript.diagnostics) {
        return Err(Refused("the issue has errors; it would not be sent".to_owned()).into());
    }
    Ok(())
}
