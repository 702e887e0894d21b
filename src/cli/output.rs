//! How commands speak: tables and JSON on standard output, everything said to people while they
//! wait on standard error. Texts that came from outside (addresses, subjects, servers' replies) are
//! stripped of control characters, so that they cannot steer a terminal. Knows no domain type.

use std::{
    borrow::Cow,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    time::Duration,
};

use comfy_table::{CellAlignment, ContentArrangement, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::Refused;
use crate::timestamp::Timestamp;

/// Whether a command prints for people or for programs.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Format {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Prints `value` as one JSON document.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// Prints `value` as one line of JSON: for lists without an end.
pub fn json_line(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// Prints one line of text for people to standard output.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref())
}

/// Says something to whoever waits, on standard error. Nobody listening is no failure.
pub fn say(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// Whether standard output takes colour: a terminal, and `NO_COLOR` is not set.
pub fn colour_on_stdout() -> bool {
    io::stdout().is_terminal() && wants_colour()
}

/// Whether standard error takes colour: a terminal, and `NO_COLOR` is not set.
pub fn colour_on_stderr() -> bool {
    io::stderr().is_terminal() && wants_colour()
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Text from outside, safe to print: control characters become spaces.
pub fn clean(text: &str) -> Cow<'_, str> {
    // Besides C0 and C1: marks that turn the direction of what follows.
    let harmful =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.contains(harmful) {
        Cow::Owned(text.chars().map(|c| if harmful(c) { ' ' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// A table for people: columns by spaces, so that it can be cut and searched too.
#[derive(Debug)]
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().copied());
        Self(table)
    }

    /// The same table with numbers in these columns, which stand to the right.
    #[must_use]
    pub fn numbers(mut self, columns: &[usize]) -> Self {
        for column in columns {
            if let Some(column) = self.0.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Adds a row.
    pub fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells: Vec<String> =
            cells.into_iter().map(|cell| clean(cell.as_ref()).into_owned()).collect();
        self.0.add_row(cells);
    }

    /// The table as text, without spaces at line ends.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for line in self.0.lines() {
            // The style pads every cell on both sides; the left edge needs none.
            text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
            text.push('\n');
        }
        text
    }

    /// Prints it; an empty one leaves standard output empty and says `when_empty`.
    pub fn print(&self, when_empty: &str) -> io::Result<()> {
        if self.0.is_empty() {
            say(when_empty);
            return Ok(());
        }
        io::stdout().lock().write_all(self.to_text().as_bytes())
    }
}

/// A progress bar on standard error, when that is a terminal. Of an unknown `length` it counts.
pub fn progress(length: Option<u64>, what: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let template = if length.is_some() {
        "{msg} [{bar:30}] {human_pos} of {human_len} ({eta} left)"
    } else {
        "{msg} {spinner} {human_pos} ({per_sec})"
    };
    let bar = ProgressBar::with_draw_target(length, target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// Asks a person whether to go on. `yes` is the answer given on the command line; without it and
/// without a terminal the command is refused, as nobody could answer.
pub fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let why = format!("{question} Nobody is here to answer; say --yes to go on");
        return Err(Refused(why).into());
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Refused("not confirmed; nothing was changed".to_owned()).into())
    }
}

/// A count with its thousands apart: 48,211.
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A noun with its count: 1 recipient, 2 recipients.
pub fn counted(number: i64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A time of day with its date, in UTC and to the second.
pub fn time(at: Timestamp) -> String {
    at.to_jiff().strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A time that may not have come, as [`time`]; else a dash.
pub fn time_or_dash(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), time)
}

/// A length of time in its two largest units: 3 h 12 min.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 && !duration.is_zero() => {
            format!("{} ms", duration.as_millis())
        }
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) if seconds == 0 => format!("{minutes} min"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, 0) => format!("{hours} h"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, 0, _) => format!("{days} d"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A number of bytes as people say it: 61 KB.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        1 => "1 byte".to_owned(),
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{} KB", bytes.div_ceil(1_000)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_text_without_trailing_spaces() {
        let mut table = Table::new(&["provider", "copies", "reply"]).numbers(&[1]);
        table.row(["google", "48,211", ""]);
        table.row(["yahoo", "7", "\u{1b}[31m550 no"]);
        insta::assert_snapshot!(table.to_text(), @r"
        provider  copies  reply
        google    48,211
        yahoo          7   [31m550 no
        ");
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (48_211, "48,211"),
            (-1_234_567, "-1,234,567"),
        ] {
            assert_eq!(count(number), expected);
        }
        assert_eq!((counted(1, "copy"), counted(2, "day")), ("1 copy".into(), "2 days".into()));
    }

    #[test]
    fn spans_have_at_most_two_units() {
        for (seconds, expected) in [
            (0.0, "0 s"),
            (0.25, "250 ms"),
            (59.0, "59 s"),
            (600.0, "10 min"),
            (61.0, "1 min 1 s"),
            (11_520.0, "3 h 12 min"),
            (86_400.0, "1 d"),
            (90_061.0, "1 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_secs_f64(seconds)), expected);
        }
    }

    #[test]
    fn sizes_are_rounded_up_so_that_no_limit_looks_kept_that_is_not() {
        for (size, expected) in
            [(1, "1 byte"), (60_001, "61 KB"), (2_500_000, "2.5 MB"), (3_000_000_000, "3.0 GB")]
        {
            assert_eq!(bytes(size), expected);
        }
    }
}
