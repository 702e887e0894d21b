//! Bodies made by hand, in MJML or HTML: kept as they are, with their reader fields checked and what
//! no mail may hold refused.

use mrml::prelude::parser::ParserOptions;

use crate::{
    diagnostic::{Findings, Span},
    issue::{
        field::{self, Piece},
        html, mjml,
        model::Content,
        rule,
        source::markdown::report,
    },
};

/// Takes an MJML body.
pub(super) fn take_mjml(findings: &mut Findings<'_>, body: Span) -> Content {
    let text = &findings.source().text()[body.start..];
    check_fields(findings, text, body.start);
    check_mjml(findings, text, body.start);
    Content::Mjml { body: text.replace("\r\n", "\n") }
}

/// Takes an HTML body.
pub(super) fn take_html(findings: &mut Findings<'_>, body: Span) -> Content {
    let text = &findings.source().text()[body.start..];
    check_fields(findings, text, body.start);
    if text.trim().is_empty() {
        findings.add(rule::EMPTY_ISSUE, Span::new(body.start, body.start), "the body is empty");
    }
    Content::Html { body: text.replace("\r\n", "\n") }
}

fn check_fields(findings: &mut Findings<'_>, text: &str, start: usize) {
    for (range, piece) in field::pieces(text) {
        if let Piece::Field(Err(problem)) = piece {
            report(findings, &problem, Span::new(start + range.start, start + range.end));
        }
    }
}

/// Runs the MJML reader once with each field masked by letters of the same length, so that the places
/// it names are places in the file.
fn check_mjml(findings: &mut Findings<'_>, text: &str, start: usize) {
    if html::nesting_bound(text) > mjml::DEPTH_MAX {
        let message = format!("elements nest more than {} deep", mjml::DEPTH_MAX);
        findings
            .add(rule::TOO_DEEP, Span::new(start, start), message)
            .suggest("flatten it, and close every element");
        return;
    }
    let mut masked = String::with_capacity(text.len());
    for (range, piece) in field::pieces(text) {
        match piece {
            Piece::Text => masked.push_str(&text[range]),
            Piece::Field(_) => masked.extend(std::iter::repeat_n('x', range.len())),
        }
    }
    let masked = masked.replace('\r', " ");
    if let Some((range, message)) = mjml::misfit(&masked) {
        let span = Span::new(start + range.start, start + range.end);
        findings.add(rule::INVALID_MJML, span, message).suggest("MJML closes every element");
        return;
    }
    match mrml::parse_with_options(&masked, &ParserOptions::default()) {
        Err(error) => {
            let span = mjml_position(&error).map_or(Span::new(start, start), |(from, to)| {
                Span::new(start + from.min(text.len()), start + to.min(text.len()))
            });
            let message = format!("this is not well-formed MJML: {error}");
            findings
                .add(rule::INVALID_MJML, span, message)
                .suggest("quote attributes, close every tag, write `<br />`, `&lt;` and `&amp;`");
        }
        Ok(parsed) => {
            for warning in parsed.warnings {
                let span = Span::new(start + warning.span.start, start + warning.span.end);
                findings.add(rule::INVALID_MJML, span, warning.kind.to_string());
            }
        }
    }
}

fn mjml_position(error: &mrml::prelude::parser::Error) -> Option<(usize, usize)> {
    use mrml::prelude::parser::Error;
    match error {
        Error::UnexpectedElement { position, .. }
        | Error::UnexpectedToken { position, .. }
        | Error::MissingAttribute { position, .. }
        | Error::InvalidAttribute { position, .. }
        | Error::InvalidFormat { position, .. }
        | Error::IncludeLoaderError { position, .. } => Some((position.start, position.end)),
        _ => None,
    }
}
