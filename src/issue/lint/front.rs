//! Rules about number, date, subject, preheader and sender: what stands around the text.

use crate::{
    diagnostic::{Findings, Span},
    issue::{
        brand::SubjectError,
        lint::{LintContext, content},
        model::IssueDocument,
        rule,
        source::{Parsed, Places},
    },
};

/// The longest subject that most clients show whole (RFC 5322, 2.1.1: a line of 78 characters).
const SUBJECT_CHARS_MAX: usize = 78;

pub(super) fn check(findings: &mut Findings<'_>, parsed: &Parsed, context: &LintContext) {
    let Parsed { document, places, .. } = parsed;
    number(findings, document, places, context);
    date(findings, document, places, context);
    subject(findings, document, places, context);
    for (text, span) in [
        (&document.subject, places.subject),
        (&document.preheader, places.preheader),
        (&document.title, places.title),
    ] {
        if let (Some(text), Some(span)) = (text, span) {
            content::placeholder(findings, text, span);
        }
    }
    if document.preheader.as_deref().unwrap_or_default().is_empty() {
        let message = "the issue has no preheader, so clients show the beginning of its text";
        findings
            .add(rule::PREHEADER_MISSING, places.preheader.unwrap_or(start(places)), message)
            .suggest("add `preheader: …`, one line on what is inside");
    }
    display_name(findings, places, context);
}

/// Where a finding about something that is not there stands.
fn start(places: &Places) -> Span {
    Span::new(places.front_matter.start, places.front_matter.start)
}

fn number(
    findings: &mut Findings<'_>,
    document: &IssueDocument,
    places: &Places,
    context: &LintContext,
) {
    let span = places.number.unwrap_or(start(places));
    let next = context.taken_numbers.last().map_or(1, |last| last.saturating_add(1));
    let Some(number) = document.number else {
        if places.number.is_none() {
            findings
                .add(rule::NUMBER_MISSING, span, "the issue has no number")
                .suggest(format!("add `number: {next}`"));
        }
        return;
    };
    if context.taken_numbers.contains(&number) {
        findings
            .add(rule::NUMBER_TAKEN, span, format!("there is an issue #{number} already"))
            .suggest(format!("the next number is {next}"))
            .replace_with(next.to_string());
    } else if number != next && !context.taken_numbers.is_empty() {
        let message = format!("the next number would be {next}, and this is {number}");
        findings
            .add(rule::NUMBER_GAP, span, message)
            .suggest(format!("write `number: {next}`, unless a gap is meant"))
            .replace_with(next.to_string());
    }
}

fn date(
    findings: &mut Findings<'_>,
    document: &IssueDocument,
    places: &Places,
    context: &LintContext,
) {
    let span = places.date.unwrap_or(start(places));
    match (document.date, context.today) {
        (None, today) if places.date.is_none() => {
            let date = today.map_or_else(|| "2024-08-11".to_owned(), |today| today.to_string());
            findings
                .add(rule::DATE_MISSING, span, "the issue has no date")
                .suggest(format!("add `date: {date}`"));
        }
        (Some(date), Some(today)) if date < today => {
            findings
                .add(rule::DATE_PAST, span, format!("{date} is past; today is {today}"))
                .suggest(format!("write `date: {today}`, or the day it will be sent"))
                .replace_with(today.to_string());
        }
        _ => {}
    }
    if let (Some(last), Some(today)) = (context.last_mailed, context.today) {
        let days = (today - last).get_days();
        if (0..i32::try_from(context.quiet_days).unwrap_or(i32::MAX)).contains(&days) {
            let when = match days {
                0 => "today".to_owned(),
                1 => "yesterday".to_owned(),
                days => format!("{days} days ago"),
            };
            findings
                .add(rule::AUDIENCE_RECENT, span, format!("the same readers were mailed {when}"))
                .suggest("is this issue meant for today?");
        }
    }
}

fn subject(
    findings: &mut Findings<'_>,
    document: &IssueDocument,
    places: &Places,
    context: &LintContext,
) {
    let span = places.subject.unwrap_or(start(places));
    let subject = match context.brand.subject(document) {
        Ok(subject) => subject,
        // That the number is missing is said already.
        Err(SubjectError::Missing("number")) => return,
        Err(error) => {
            findings.add(rule::SUBJECT_EMPTY, span, error.to_string());
            return;
        }
    };
    let length = subject.chars().count();
    if subject.trim().is_empty() {
        findings
            .add(rule::SUBJECT_EMPTY, span, "the subject is empty")
            .suggest("remove `subject` to use the newsletter's pattern, or fill it in");
    } else if length > SUBJECT_CHARS_MAX {
        let message = format!(
            "the subject has {length} characters; clients cut it, most before {SUBJECT_CHARS_MAX}"
        );
        findings.add(rule::SUBJECT_LONG, span, message).suggest("shorten it");
    }
}

fn display_name(findings: &mut Findings<'_>, places: &Places, context: &LintContext) {
    let name = &context.brand.sender_name;
    let bad = name.chars().find(|c| c.is_control() || is_invisible(*c) || "<>@\"\\".contains(*c));
    if let Some(c) = bad {
        let shown = if c.is_control() || is_invisible(c) {
            format!("U+{:04X}", u32::from(c))
        } else {
            format!("`{c}`")
        };
        findings
            .add(
                rule::DISPLAY_NAME,
                start(places),
                format!("the sender's name holds {shown}, which filters take for a forgery"),
            )
            .suggest("change the newsletter's sender name");
    }
}

/// Characters that show nothing or turn the direction of text.
pub(super) fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}
