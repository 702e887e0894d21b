use super::*;
use crate::{
    diagnostic::Level,
    merge::{Escape, Field, MergeText, Segment},
};

const CLEAN: &str = "---\nnumber: 12\ndate: 2026-03-06\npreheader: What is inside.\n---\n";

fn context() -> LintContext {
    LintContext {
        brand: Brand::new("Quiet Systems", "https://quiet.example"),
        today: "2026-03-05".parse().ok(),
        taken_numbers: [9, 10, 11].into(),
        archive_links: [("old.example/a".to_owned(), 7)].into(),
        interests: vec![
            Interest {
                name: "Example Stage".into(),
                hosts: vec!["stage.example".into()],
                kind: InterestKind::Employer,
            },
            Interest { name: "Example Ads".into(), hosts: vec![], kind: InterestKind::Sponsor },
        ],
        last_mailed: "2026-02-27".parse().ok(),
        quiet_days: 5,
        rendered: None,
    }
}

fn shown(diagnostics: &[Diagnostic]) -> String {
    let found: Vec<String> = diagnostics
        .iter()
        .map(|found| format!("{}:{} {}", found.line, found.column, found.code))
        .collect();
    found.join(", ")
}

#[track_caller]
fn check_with(context: &LintContext, text: &str, expected: &str) -> Vec<Diagnostic> {
    let found = lint(&parse("t.md", text.as_bytes()), context);
    assert_eq!(shown(&found), expected, "{text}");
    found
}

/// A body behind clean front matter; it begins in line 6.
#[track_caller]
fn check(body: &str, expected: &str) -> Vec<Diagnostic> {
    check_with(&context(), &format!("{CLEAN}{body}"), expected)
}

/// Text in a whole and clean item; it stands in line 8.
#[track_caller]
fn check_text(text: &str, expected: &str) -> Vec<Diagnostic> {
    check(&format!("## [A title](https://a.example/x)\n\n{text}\n\n— Ada\n"), expected)
}

#[test]
fn a_clean_issue_has_no_findings() {
    check_text("Why it is worth reading.", "");
}

#[test]
fn numbers() {
    let file = |number: &str| format!("---\n{number}\ndate: 2026-03-06\npreheader: x\n---\ntext\n");
    check_with(&context(), &file("title: x"), "2:1 number-missing");
    let found = check_with(&context(), &file("number: 11"), "2:9 number-taken");
    assert_eq!(found[0].replacement.as_deref(), Some("12"));
    assert_eq!(found[0].level, Level::Error);
    let found = check_with(&context(), &file("number: 14"), "2:9 number-gap");
    assert_eq!(found[0].level, Level::Warning);
    check_with(&context(), &file("number: 3"), "2:9 number-gap");
    // The first issue of a newsletter may have any number.
    let first = LintContext { taken_numbers: BTreeSet::new(), ..context() };
    check_with(&first, &file("number: 400"), "");
    // What is no number at all was said by the reader of the file.
    check_with(&context(), &file("number: x"), "2:9 invalid-value");
}

#[test]
fn dates() {
    let file = |date: &str| format!("---\nnumber: 12\n{date}\npreheader: x\n---\ntext\n");
    check_with(&context(), &file("title: x"), "2:1 date-missing");
    let found = check_with(&context(), &file("date: 2026-03-04"), "3:7 date-past");
    assert_eq!(found[0].replacement.as_deref(), Some("2026-03-05"));
    check_with(&context(), &file("date: 2026-03-05"), "");
    let recent = LintContext { last_mailed: "2026-03-03".parse().ok(), ..context() };
    check_with(&recent, &file("date: 2026-03-05"), "3:7 audience-recent");
}

#[test]
fn subjects_and_preheaders() {
    let file = |line: &str| format!("---\nnumber: 12\ndate: 2026-03-06\n{line}\n---\ntext\n");
    check_with(&context(), &file("title: x"), "2:1 preheader-missing");
    check_with(&context(), &file("preheader: ''"), "4:12 preheader-missing");
    check_with(&context(), &file("preheader: x\nsubject: ''"), "5:10 subject-empty");
    let long = format!("preheader: x\nsubject: {}", "ä".repeat(79));
    check_with(&context(), &file(&long), "5:10 subject-long");
    let fits = format!("preheader: x\nsubject: {}", "ä".repeat(78));
    check_with(&context(), &file(&fits), "");
    check_with(&context(), &file("preheader: TODO"), "4:12 placeholder-text");
    let mut odd = context();
    odd.brand.subject_pattern = "{{newsleter}}".into();
    check_with(&odd, &file("preheader: x"), "2:1 subject-empty");
}

#[test]
fn display_names() {
    let file = format!("{CLEAN}text\n");
    for (name, expected) in [
        ("Quiet Systems", ""),
        ("Łukasz, Ops & Söhne", ""),
        ("Ops <ops@x.example>", "2:1 display-name"),
        ("ops@x.example", "2:1 display-name"),
        ("a\r\nBcc: b", "2:1 display-name"),
        ("pay\u{202e}lap", "2:1 display-name"),
    ] {
        let mut context = context();
        context.brand.sender_name = name.into();
        check_with(&context, &file, expected);
    }
}

#[test]
fn placeholders() {
    check_text("Well, TODO: write.", "8:7 placeholder-text");
    check_text("**TK** and lorem ipsum.", "8:3 placeholder-text, 8:12 placeholder-text");
    check_text("A [TBD](https://b.example).", "8:4 placeholder-text");
    check_text("The `TODO` marker; Todoist; ATK.", "");
    check(":::sponsor TODO\nText.\n:::\n", "6:1 placeholder-text");
}

#[test]
fn items_are_whole() {
    check("## [A title](https://a.example)\n\nText.\n", "6:1 item-without-byline");
    check("## [A title](https://a.example)\n\n— Ada\n", "6:1 item-without-commentary");
    let found =
        check("## [A title](https://a.example)\n\nText.\n— Ada\n", "6:1 item-without-byline");
    assert!(found[0].suggestion.as_ref().unwrap().contains("empty line"));
    check("## [A title](https://a.example)\n\nText.\n\n—\n", "10:1 item-without-byline");
    check("## [A title](https://a.example)\n\n```\nx\n```\n\n— Ada\n", "");
}

#[test]
fn disclosures() {
    let item =
        |url: &str, by: &str, more: &str| format!("## [A title]({url})\n\nText.\n\n— {by}\n{more}");
    check(&item("https://www.stage.example/x", "Ada", ""), "6:1 disclosure-missing");
    check(&item("https://blog.stage.example/x", "Ada", ""), "6:1 disclosure-missing");
    check(&item("https://backstage.example/x", "Ada", ""), "");
    check(&item("https://a.example/x", "Ada — Example stage", ""), "6:1 disclosure-missing");
    check(&item("https://a.example/x", "Example Ads", ""), "6:1 disclosure-missing");
    check(&item("https://stage.example/x", "Ada", "\nFull disclosure: my employer.\n"), "");
    let sponsor = ":::sponsor Acme\nBuy at <https://acme.example/buy>.\n:::\n\n";
    let by_host = item("https://acme.example/blog", "Ada", "");
    check(&format!("{sponsor}{by_host}"), "10:1 disclosure-missing");
    let shared = format!(
        ":::sponsor Acme\n<https://github.com/acme>\n:::\n\n{}",
        item("https://github.com/ada", "Ada", "")
    );
    check(&shared, "");
    let by_name = item("https://a.example/blog", "Ada — Acme", "");
    check(&format!("{sponsor}{by_name}"), "10:1 disclosure-missing");
}

#[test]
fn links_are_followable() {
    check_text("[good text](/path)", "8:13 link-relative");
    let found = check_text("[good text](b.example/path)", "8:13 link-relative");
    assert_eq!(found[0].replacement.as_deref(), Some("https://b.example/path"));
    check_text("[good text](javascript:alert)", "8:13 link-scheme");
    check_text("[good text](data:text/html,x)", "8:13 link-scheme");
    check_text("[good text](ftp://b.example)", "8:13 link-scheme");
    check_text("[good text](https://)", "8:13 link-relative");
    let found = check_text("[good text](http://b.example/a)", "8:13 link-http");
    assert_eq!(found[0].replacement.as_deref(), Some("https://b.example/a"));
    check_text("[good text]()", "8:1 link-empty");
    check_text("[good text](https://b.example/a b)", "8:1 link-unread");
    check_text("So: [](https://b.example)", "8:5 link-empty");
    check_text("[good text](mailto:a@b.example) and [mine]({{preferences_url}})", "");
    check("## [A title](javascript:x)\n\nText.\n\n— Ada\n", "6:14 link-scheme");
}

#[test]
fn links_do_not_follow_readers() {
    let found =
        check_text("[good text](https://b.example/a?id=1&utm_source=x#y)", "8:13 link-tracking");
    assert_eq!(found[0].replacement.as_deref(), Some("https://b.example/a?id=1#y"));
    let source = format!("{CLEAN}## [A title](https://a.example/x)\n\n");
    assert_eq!(found[0].span.start, source.len() + 12);
}

#[test]
fn links_stand_once() {
    check_text(
        "[good text](https://b.example/a) and [again](http://www.b.example/a/)",
        "8:46 link-http",
    );
    check(
        "## [A title](https://a.example)\n\nText.\n\n— Ada\n\n## [Two](https://a.example/#x)\n\nText.\n\n— Ada\n",
        "12:10 link-duplicate",
    );
    check_text("[good text](https://old.example/a)", "8:13 link-in-archive");
    check(":::sponsor A\nSee <https://old.example/a>.\n:::\n", "");
}

#[test]
fn link_texts_say_something() {
    check_text("Read it [here](https://b.example).", "8:9 link-text");
    check_text("[Click here!](https://b.example)", "8:1 link-text");
    check_text("[here be dragons](https://b.example)", "");
    check("## [This article](https://a.example)\n\nText.\n\n— Ada\n", "6:1 link-text");
}

#[test]
fn pictures() {
    check_text("Look: ![A graph](https://b.example/g.png){width=600 height=300}", "");
    check_text("Look: ![](https://b.example/g.png){width=600 height=300}", "8:7 image-without-alt");
    check_text("Look: ![A graph](https://b.example/g.png)", "8:7 image-without-size");
    check_text("Look: ![A graph](data:image/png;base64,x){width=1 height=1}", "8:7 image-data-uri");
    check_text("Look: ![A graph](g.png){width=1 height=1}", "8:7 link-relative");
}

#[test]
fn headings_do_not_skip() {
    check("Text.\n\n### One\n\n#### Two\n\nText.\n", "");
    check("Text.\n\n#### Two\n\nText.\n", "8:1 heading-order");
}

#[test]
fn hand_made_bodies() {
    let html = |body: &str| {
        format!("---\nnumber: 12\ndate: 2026-03-06\npreheader: x\nformat: html\n---\n{body}")
    };
    for (body, expected) in [
        ("<p>fine</p>", ""),
        ("<script>x</script>", "7:1 forbidden-tag"),
        ("<form action=x></form>", "7:1 forbidden-tag"),
        ("<link rel=stylesheet href=https://x.example>", "7:1 forbidden-tag"),
        ("<style>@import 'x';</style>", "7:8 forbidden-tag"),
        ("<p onclick='x'>a</p>", "7:13 forbidden-tag"),
        ("<a href='JavaScript:x'>a</a>", "7:10 link-scheme"),
        ("<a href='/x'>a</a>", "7:10 link-relative"),
        ("<a href='http://x.example'>a</a>", "7:10 link-http"),
        ("<a href='https://x.example?utm_source=a&amp;b=c'>a</a>", "7:10 link-tracking"),
        ("<a href='{{issue_url}}'>a</a>", ""),
        ("<img src='data:x' alt='' width=1>", "7:11 image-data-uri"),
        ("<img src='https://x.example/a.png'>", "7:1 image-without-alt, 7:1 image-without-size"),
        ("<p>TODO</p>", "7:4 placeholder-text"),
    ] {
        check_with(&context(), &html(body), expected);
    }
    let mjml = "---\nnumber: 12\ndate: 2026-03-06\npreheader: x\nformat: mjml\n---\n\
                <mjml><mj-head><mj-font name='x' href='https://x.example' /></mj-head><mj-body></mj-body></mjml>";
    check_with(&context(), mjml, "7:16 forbidden-tag");
    check_with(&context(), &mjml.replace("mj-font", "mj-fnt"), "7:16 invalid-mjml");
    check_with(
        &context(),
        &mjml.replace("mj-font", "mj-include"),
        "7:16 invalid-mjml, 7:16 forbidden-tag",
    );
}

const PAGE: &str = "<!doctype html><html lang=\"en\" dir=\"ltr\"><body><div lang=\"en\" dir=\"ltr\">\
    <h1>A</h1>TEXT</div></body></html>";

fn rendered(html: &str, text: &str) -> RenderedIssue {
    let slot = Segment::Slot { field: Field::UnsubscribeUrl, escape: Escape::Html, fallback: None };
    let part = |literal: &str| {
        let segments = vec![Segment::Literal(literal.to_owned()), slot.clone()];
        serde_json::to_value(MergeText { segments }).unwrap()
    };
    serde_json::from_value(serde_json::json!({
        "subject": "s", "preheader": null, "web": "", "html": part(html), "text": part(text),
    }))
    .unwrap()
}

#[track_caller]
fn check_rendered(issue: RenderedIssue, expected: &str) {
    let context = LintContext { rendered: Some(issue), ..context() };
    let found = lint(&parse("t.md", format!("{CLEAN}text\n").as_bytes()), &context);
    let codes: Vec<&str> = found.iter().map(|found| found.code).collect();
    assert_eq!(codes.join(" "), expected);
}

#[test]
fn what_was_rendered_is_looked_over() {
    let page = |text: &str| PAGE.replace("TEXT", text);
    check_rendered(rendered(&page("x"), "x"), "");
    check_rendered(rendered(&page(&"x".repeat(80 * 1024)), "x"), "html-large");
    check_rendered(rendered(&page(&"x".repeat(102 * 1024)), "x"), "html-too-large");
    check_rendered(rendered(&page("x"), " \n"), "text-empty");
    let link = "<a href=\"https://x.example/?a=1&amp;b=2\">x</a>";
    check_rendered(rendered(&page(link), "x"), "text-link-missing");
    check_rendered(rendered(&page(link), "x\n[1] https://x.example/?a=1&b=2\n"), "");
    check_rendered(rendered(&page("<img src=\"https://x.example\">"), "x"), "html-alt");
    check_rendered(rendered(&page("<h3>x</h3>"), "x"), "html-headings");
    check_rendered(rendered(&page("<h1>x</h1>"), "x"), "html-headings");
    check_rendered(rendered(&page("<table><tr><td>x</table>"), "x"), "html-tables");
    check_rendered(rendered(&page("<table role=presentation><tr><td>x</table>"), "x"), "");
    check_rendered(rendered(&page("<table><tr><th>x</table>"), "x"), "");
    check_rendered(rendered(&page("<p style=\"font-size: 13px\">x</p>"), "x"), "html-text-small");
    let nested = "<td style=\"font-size:0px\"><div style=\"font-size:16px\">x</div></td>";
    check_rendered(rendered(&page(nested), "x"), "");
    let hidden = "<div style=\"display:none;font-size:1px\">x</div>";
    check_rendered(rendered(&page(hidden), "x"), "");
    check_rendered(rendered(&page("x").replace(" lang=\"en\"", ""), "x"), "html-lang");
    let mut bare = rendered(&page("x"), "x");
    bare.text = MergeText::literal("x");
    check_rendered(bare, "unsubscribe-missing");
}

#[test]
fn the_sample_passes_whole() {
    let renderer = Renderer::new(None).unwrap();
    let (_, issue, found) = super::check(
        "sample-issue.md",
        crate::issue::SAMPLE.as_bytes(),
        &renderer,
        LintContext {
            interests: context().interests,
            today: context().today,
            ..LintContext { brand: context().brand, ..LintContext::default() }
        },
    );
    assert_eq!(found, []);
    assert!(issue.unwrap().html_bytes() <= 60 * 1024);
}

#[test]
fn an_unreadable_file_is_said_once() {
    let found = lint(&parse("t.md", b"\0"), &context());
    assert_eq!(shown(&found), "1:1 not-text");
}

#[test]
fn an_issue_of_the_archive_gives_its_keys() {
    let text = format!(
        "{CLEAN}See [b](https://www.b.example/x/?utm_source=a).\n\n:::sponsor S\n<https://s.example>\n:::\n\n\
         ## [A](https://a.example/)\n\nText.\n\n— [Ada](https://ada.example)\n"
    );
    let parsed = parse("t.md", text.as_bytes());
    assert_eq!(archive_keys(&parsed.document), ["a.example", "b.example/x"]);
}

#[test]
fn service_mails_can_be_read_by_everyone() {
    let renderer = Renderer::new(None).unwrap();
    for mail in crate::issue::ServiceMail::examples() {
        let made = renderer.service(&mail, &context().brand).unwrap();
        let source = crate::diagnostic::Source::new("mail", "");
        let mut findings = Findings::new(&source);
        rendered::page(&mut findings, &made.html, crate::diagnostic::Span::default());
        assert_eq!(findings.into_sorted(), [], "{}", made.subject);
    }
}
