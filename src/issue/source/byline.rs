//! A byline: `— Ada Example, Grace Sample, and Linus Test — Example Organisation`, where any name
//! may be a link.

use crate::{
    diagnostic::Span,
    issue::model::{Byline, Inline, Name, plain},
};

/// What opens a byline, and stands between authors and organisation.
const DASHES: &[&str] = &["—", "--", "–"];

/// Whether a paragraph is a byline.
pub(super) fn is_byline(content: &[Inline]) -> bool {
    let first = content.iter().find(|inline| !matches!(inline, Inline::SoftBreak));
    matches!(first, Some(Inline::Text { text, .. }) if after_dash(text.trim_start()).is_some())
}

/// The text after a dash that opens a byline: `---` is a line across, `--flag` is none.
fn after_dash(text: &str) -> Option<&str> {
    let dash = DASHES.iter().find(|dash| text.starts_with(**dash))?;
    let rest = &text[dash.len()..];
    let follows = *dash != "--" || rest.is_empty() || rest.starts_with(char::is_whitespace);
    follows.then_some(rest)
}

/// Reads a paragraph that [`is_byline`].
pub(super) fn read(content: &[Inline], span: Span) -> Byline {
    let mut runs = runs(content);
    if let Some((text, None)) = runs.first_mut() {
        let rest = after_dash(text.trim_start()).unwrap_or_default().trim_start().to_owned();
        *text = rest;
    }
    let (people, organisation) = split_organisation(runs);
    let organisation = names_in(organisation, &[]).into_iter().reduce(|mut all, more| {
        all.name.push(' ');
        all.name.push_str(&more.name);
        all.url = all.url.or(more.url);
        all
    });
    Byline { authors: names_in(people, &[", and ", ", ", " and ", " & "]), organisation, span }
}

type Run = (String, Option<String>);

/// The paragraph as runs of text, each with the link it stands in.
fn runs(content: &[Inline]) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::new();
    for inline in content {
        let (text, url) = match inline {
            Inline::Link { url, content, .. } => (plain(content), Some(url.clone())),
            other => (plain(std::slice::from_ref(other)), None),
        };
        match (out.last_mut(), url) {
            (Some((before, None)), None) => before.push_str(&text),
            (_, url) => out.push((text, url)),
        }
    }
    out
}

/// Cuts at the last dash between spaces outside of links.
fn split_organisation(runs: Vec<Run>) -> (Vec<Run>, Vec<Run>) {
    let found = runs.iter().enumerate().rev().find_map(|(index, (text, url))| {
        let at = url.is_none().then(|| last_dash(text, index == 0)).flatten()?;
        Some((index, at))
    });
    let Some((index, (start, end))) = found else { return (runs, Vec::new()) };
    let mut people = runs;
    let mut organisation = people.split_off(index);
    let (text, _) = &mut organisation[0];
    people.push((text[..start].to_owned(), None));
    *text = text[end..].to_owned();
    (people, organisation)
}

/// Where the last ` — ` of `text` stands. At the start of the byline nothing need stand before it.
fn last_dash(text: &str, first: bool) -> Option<(usize, usize)> {
    let inside = DASHES.iter().flat_map(|dash| {
        text.rmatch_indices(dash).filter_map(move |(at, dash)| {
            let before = &text[..at];
            let after = &text[at + dash.len()..];
            let open = before.is_empty() && (first || !after.is_empty());
            let spaced = (open || before.ends_with(char::is_whitespace))
                && (after.is_empty() || after.starts_with(char::is_whitespace));
            spaced.then_some((at, at + dash.len()))
        })
    });
    inside.max()
}

/// The names in `runs`, cut at `separators` outside of links.
fn names_in(runs: Vec<Run>, separators: &[&str]) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    let mut open = false;
    for (text, url) in runs {
        let pieces = if url.is_some() { vec![text.as_str()] } else { cut(&text, separators) };
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                open = false;
            }
            let piece = collapse(piece);
            if piece.is_empty() {
                continue;
            }
            match names.last_mut().filter(|_| open) {
                Some(name) => {
                    name.name.push(' ');
                    name.name.push_str(&piece);
                    name.url = name.url.take().or_else(|| url.clone());
                }
                None => names.push(Name { name: piece, url: url.clone() }),
            }
            open = true;
        }
    }
    names
}

fn cut<'a>(text: &'a str, separators: &[&str]) -> Vec<&'a str> {
    let mut pieces = vec![];
    let mut rest = text;
    loop {
        let next = separators
            .iter()
            .filter_map(|separator| rest.find(separator).map(|at| (at, separator.len())))
            // At the same place the longer one: `, and ` rather than `, `.
            .min_by_key(|&(at, length)| (at, usize::MAX - length));
        let Some((at, length)) = next else { break };
        pieces.push(&rest[..at]);
        rest = &rest[at + length..];
    }
    // `A, ` before a link and ` and` behind one leave a bare separator at the end.
    let bare = separators.iter().map(|separator| separator.trim_end()).find(|bare| {
        !bare.is_empty() && (rest.ends_with(bare) && rest.len() > bare.len() || rest == *bare)
    });
    match bare {
        Some(bare) if separators.contains(&", ") && bare == "," => {
            pieces.push(&rest[..rest.len() - bare.len()]);
            pieces.push("");
        }
        _ => pieces.push(rest),
    }
    pieces
}

fn collapse(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(markdown: &str, expected: &str) {
        let text = format!("---\n---\n## [T](https://e.example)\n\nWhy.\n\n{markdown}\n");
        let parsed = crate::issue::parse("t.md", text.as_bytes());
        let item = parsed.document.items().next().expect("there is an item");
        let shown = item.byline.as_ref().map_or("none".to_owned(), |byline| {
            let show = |name: &Name| match &name.url {
                Some(url) => format!("{}<{url}>", name.name),
                None => name.name.clone(),
            };
            let authors: Vec<String> = byline.authors.iter().map(show).collect();
            let organisation = byline.organisation.as_ref().map_or(String::new(), show);
            format!("{} @ {organisation}", authors.join(" | "))
        });
        assert_eq!(shown, expected, "{markdown}");
    }

    #[test]
    fn bylines() {
        check("— Ada Example", "Ada Example @ ");
        check("-- Ada Example", "Ada Example @ ");
        check("—Ada Example", "Ada Example @ ");
        check("— Ada Example — Example Org", "Ada Example @ Example Org");
        check("-- Ada Example -- Example Org", "Ada Example @ Example Org");
        check("— Ada and Grace — Org", "Ada | Grace @ Org");
        check("— Ada, Grace, and Linus — Org", "Ada | Grace | Linus @ Org");
        check("— Ada, Grace & Linus", "Ada | Grace | Linus @ ");
        check("— Javier Fernandez-Ivern — Org", "Javier Fernandez-Ivern @ Org");
        check("— — Org Ltd", " @ Org Ltd");
        check("— example.com", "example.com @ ");
        check(
            "— [Ada](https://a.example) — [Org](https://o.example)",
            "Ada<https://a.example> @ Org<https://o.example>",
        );
        check(
            "— [Ada](https://a.example), Grace, and [Linus](https://l.example) — Org",
            "Ada<https://a.example> | Grace | Linus<https://l.example> @ Org",
        );
        check("— [Ada](https://a.example) and Grace", "Ada<https://a.example> | Grace @ ");
        check("— Ferdinand Anderson", "Ferdinand Anderson @ ");
        check("--flag is an option", "none");
        check("Text — with a dash", "none");
    }
}
