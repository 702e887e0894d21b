use std::fs;

use super::*;
use crate::issue::{Parsed, html::Token, parse};

/// A reader; the name is hostile where a test wants it.
struct Person(&'static str);

const ADA: Person = Person("Ada");

impl Reader for Person {
    fn value(&self, field: &Field) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(match field {
            Field::Address => "ada@example.org",
            Field::Name => self.0,
            Field::UnsubscribeUrl => "https://news.example/leave/TOKEN?a=1&b=2",
            Field::UnsubscribeMailto => "mailto:leave@news.example",
            Field::PreferencesUrl => "https://news.example/preferences/TOKEN",
            Field::IssueUrl => "https://news.example/issues/12",
            Field::Attribute(_) => return None,
        }))
    }
}

fn brand() -> Brand {
    Brand {
        description: Some("Ten links a week on keeping things running.".into()),
        postal_address: Some("Example Press, 1 Sample Street, Exampleton".into()),
        ..Brand::new("Quiet Systems", "https://quiet.example")
    }
}

fn render(text: &str) -> RenderedIssue {
    let parsed: Parsed = parse("t.md", text.as_bytes());
    assert_eq!(parsed.diagnostics, []);
    Renderer::new(None).unwrap().issue(&parsed.document, &brand()).unwrap()
}

fn render_body(body: &str) -> RenderedIssue {
    render(&format!("---\nnumber: 12\ndate: 2026-03-06\npreheader: Pre & header\n---\n{body}"))
}

fn merged(text: &MergeText) -> String {
    let mut out = String::new();
    text.write(&ADA, &mut out).unwrap();
    out
}

/// One element a line, so that a change is seen where it is.
fn in_lines(html: &str) -> String {
    html.replace("><", ">\n<")
}

#[test]
fn the_sample_as_html() {
    insta::assert_snapshot!(in_lines(&merged(&render(crate::issue::SAMPLE).html)));
}

#[test]
fn the_sample_as_text() {
    insta::assert_snapshot!(merged(&render(crate::issue::SAMPLE).text));
}

#[test]
fn the_sample_as_a_page() {
    insta::assert_snapshot!(render(crate::issue::SAMPLE).web_html());
}

#[test]
fn service_mails() {
    let renderer = Renderer::new(None).unwrap();
    for mail in ServiceMail::examples() {
        let made = renderer.service(&mail, &brand()).unwrap();
        let name = made.subject.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "_");
        insta::assert_snapshot!(
            name,
            format!("{}\n\n{}\n\n{}", made.subject, made.text, in_lines(&made.html))
        );
    }
}

#[test]
fn the_text_of_everything_in_markdown() {
    let body = "Hi {{name|you}}.\n\n> quoted\n>\n> > twice\n\n1. one\n2. two\n   - a\n   - b\n\n- loose\n\n  second\n\n- end\n\n\
        ```\ncode  {{x}}\n\n  more\n```\n\n| a | b |\n|---|---:|\n| 1 | **2** |\n\n### Below\n\n\
        See [one](https://one.example), [two](https://two.example/?c={{attribute.city|x y}}) and <a@b.example>.\n\n\
        hard  \nbreak *em* **strong** ~~gone~~ `code` ![alt](https://x.example/i.png){width=1 height=1}\n\n---\n\nend";
    let issue = render_body(body);
    insta::assert_snapshot!(format!("{}\n\n{}", merged(&issue.text), issue.web_html()));
}

const HOSTILE: &str = "---\nnumber: 12\ndate: 2026-03-06\ntitle: '</title><script>x</script> {{{{raw}}}} \"'\"' & \\'\npreheader: '<b>\"'\n---\n";

#[test]
fn content_is_never_parsed_again() {
    let hostile =
        "`<script>alert(1)</script>` `{{#each x}}` `</mj-text></mj-column>` \\<b> \" ' & \\\\";
    let document = IssueDocument {
        number: Some(1),
        title: Some("</title><script>{{x}}</mj-text>\"'&".into()),
        preheader: Some("</mj-preview><script>{{x}}\"'&".into()),
        ..parse(
            "t.md",
            format!(
                "{HOSTILE}:::sponsor <b>\"'&</mj-text>\nx\n:::\n## [{hostile}](https://a.example/\"><script>)\n\n{hostile}\n\n\
                 — <i>\"'& — {hostile}\n\nDisclosure: {hostile}\n"
            )
            .as_bytes(),
        )
        .document
    };
    let brand = Brand {
        name: "<script>{{x}}</mj-title>\"'&".into(),
        postal_address: Some("<script>{{x}}</mj-text>\"'&".into()),
        site_url: "https://q.example/\"><script>".into(),
        subject_pattern: "s".into(),
        ..brand()
    };
    let issue = Renderer::new(None).unwrap().issue(&document, &brand).unwrap();
    let html = merged(&issue.html);
    for (token, _) in html::tokens(&html).chain(html::tokens(issue.web_html())) {
        if let Token::Open(tag) = token {
            assert!(!matches!(&*tag.name, "script" | "b" | "i" | "mj-text"), "{tag:?}");
            assert!(
                tag.attributes.iter().all(|(name, ..)| !name.contains(['"', '\'', '<'])),
                "{tag:?}"
            );
        }
    }
    assert!(
        html.contains("&lt;/title&gt;&lt;script&gt;{{x}}&lt;/mj-text&gt;&quot;&#39;&amp;</title>")
    );
    assert!(html.contains("{{#each x}}"));
    let text = merged(&issue.text);
    assert!(text.contains("`<script>alert(1)</script>` `{{#each x}}`"), "{text}");
}

#[test]
fn a_readers_data_is_data() {
    let issue = render_body(
        "Hi {{name|you}}: [x](https://x.example/?n={{name|y}})\n\n## [Hey {{name|you}}](https://x.example/{{name|y}})\n",
    );
    let hostile = Person("<b>\"'&{{x}}\r\nBcc: y");
    let mut html = String::new();
    issue.html.write(&hostile, &mut html).unwrap();
    assert!(html.contains("Hi &lt;b&gt;&quot;&#39;&amp;{{x}}  Bcc: y:"), "{html}");
    let encoded = "%3Cb%3E%22%27%26%7B%7Bx%7D%7D%0D%0ABcc%3A%20y";
    assert!(html.contains(&format!("https://x.example/?n={encoded}\"")));
    assert!(html.contains(&format!("https://x.example/{encoded}\"")));
    let mut text = String::new();
    issue.text.write(&hostile, &mut text).unwrap();
    assert!(text.contains("Hi <b>\"'&{{x}}  Bcc: y"), "{text}");
    assert!(text.contains(&format!("https://x.example/{encoded}\n")), "{text}");
    // The page is for anyone.
    assert!(issue.web_html().contains("Hi you: <a href=\"https://x.example/?n=y\">"));
}

#[test]
fn no_marker_is_left_and_renderings_are_equal() {
    let first = render(crate::issue::SAMPLE);
    assert_eq!(first, render(crate::issue::SAMPLE));
    let all = serde_json::to_string(&first).unwrap();
    let left = all
        .match_indices("pr")
        .any(|(at, _)| all[at + 2..].bytes().take(32).filter(u8::is_ascii_hexdigit).count() == 32);
    assert!(!left, "a marker is left");
}

#[test]
fn what_is_no_link_does_not_become_one() {
    let parsed = parse("t.md", b"---\nnumber: 1\n---\n[x](javascript:alert) ![y](data:image/png;base64,z)\n\n## [T](vbscript:x)\n\ny\n");
    let issue = Renderer::new(None).unwrap().issue(&parsed.document, &brand()).unwrap();
    for html in [merged(&issue.html), issue.web_html().to_owned()] {
        for bad in ["javascript", "vbscript", "data:"] {
            assert!(!html.contains(bad), "{bad}");
        }
    }
}

#[test]
fn colours_are_the_palettes() {
    let brand = Brand { accent: "#FFE600".into(), ..brand() };
    let parsed = parse("t.md", crate::issue::SAMPLE.as_bytes());
    let issue = Renderer::new(None).unwrap().issue(&parsed.document, &brand).unwrap();
    let palette = serde_json::to_string(&palette_of(&brand).unwrap()).unwrap();
    let html = merged(&issue.html);
    let mut seen = 0;
    for (at, _) in html.match_indices('#') {
        let hex: String = html[at..].chars().take(7).collect();
        // mrml's hidden preheader is white, and `&#39;` is no colour.
        if palette::Colour::parse(&hex).is_some() && hex != "#ffffff" {
            assert!(palette.contains(&hex), "{hex} is not of the palette");
            seen += 1;
        }
    }
    assert!(seen > 20);
    let odd = Brand { accent: "blue".into(), ..brand };
    let error = Renderer::new(None).unwrap().issue(&parsed.document, &odd).unwrap_err();
    assert_eq!(error.to_string(), "`blue` is no colour; write it as #rrggbb");
}

#[test]
fn languages_and_directions() {
    let parsed = parse("t.md", b"---\nnumber: 1\nlanguage: he\n---\ntext\n\n> quote\n\n- a\n");
    let brand = Brand { direction: crate::issue::brand::Direction::Rtl, ..brand() };
    let issue = Renderer::new(None).unwrap().issue(&parsed.document, &brand).unwrap();
    let html = merged(&issue.html);
    assert_eq!(html.matches("lang=\"he\" dir=\"rtl\"").count(), 2);
    assert!(html.contains("text-align:right"));
    assert!(html.contains("border-right:3px"));
    // Outlook's own tables apart, nothing runs the other way.
    assert!(!html.contains("direction:ltr"), "{html}");
}

#[test]
fn wide_pictures_fit_the_column() {
    let issue = render_body("![Graph](https://x.example/g.png){width=1104 height=600}\n");
    let html = merged(&issue.html);
    assert!(html.contains("alt=\"Graph\" width=\"552\" height=\"300\""), "{html}");
}

const MJML: &str = "---\nnumber: 12\nformat: mjml\n---\n<mjml lang=\"en\" dir=\"ltr\"><mj-head><mj-title>T</mj-title></mj-head>\
    <mj-body><mj-section><mj-column><mj-text><h1>Hi {{name|you}}</h1>\
    <p><a href=\"https://x.example/a\\b?n={{name|y}}&amp;c=1\" title=\"e\u{301}\">link</a> &amp; more</p>\
    <script>bad()</script></mj-text><mj-image src=\"https://x.example/i.png\" alt=\"back\\slash\" width=\"300px\" />\
    <mj-text><a href=\"{{unsubscribe_url}}\">Leave</a></mj-text></mj-column></mj-section></mj-body></mjml>";

#[test]
fn mjml_made_by_hand() {
    let issue = render(MJML);
    let html = merged(&issue.html);
    assert!(html.contains("<h1>Hi Ada</h1>"));
    assert!(
        html.contains("href=\"https://x.example/a\\b?n=Ada&amp;c=1\" title=\"e\u{301}\""),
        "{html}"
    );
    assert!(html.contains("alt=\"back\\slash\""));
    assert!(html.contains("href=\"https://news.example/leave/TOKEN?a=1&amp;b=2\""));
    insta::assert_snapshot!(format!("{}\n{}", merged(&issue.text), issue.web_html()));
}

#[test]
fn html_made_by_hand() {
    let issue = render(
        "---\nnumber: 12\nformat: html\n---\n<!doctype html><html><head><title>t</title><style>p{}</style></head>\
         <body><div style=\"display:none\">pre<div>header</div></div><h1 onclick=\"x\">Hi {{name|you}}</h1>\
         <p>One <b>two</b><br>three &lt; four</p><ul><li>a<li>b</ul>\
         <a href='https://x.example/?n={{name|y}}'>x</a> <a href=\"javascript:x\">y</a> <a href={{unsubscribe_url}}>Leave</a></body></html>",
    );
    let html = merged(&issue.html);
    assert!(html.contains("<h1 onclick=\"x\">Hi Ada</h1>"));
    assert!(html.contains("href='https://x.example/?n=Ada'"));
    insta::assert_snapshot!(format!("{}\n{}", merged(&issue.text), issue.web_html()));
}

/// What a folder with one changed template says.
#[track_caller]
fn check_override(file: &str, content: &str, expected: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(file), content).unwrap();
    let said = Renderer::new(Some(folder.path())).map(|_| ()).map_err(|error| error.to_string());
    let said = said.map_err(|error| error.replace(&format!("{}/", folder.path().display()), ""));
    match expected {
        None => assert_eq!(said, Ok(())),
        Some(expected) => {
            let Err(said) = said else { panic!("{file} passes: {content}") };
            assert!(said.starts_with(expected), "{said}");
        }
    }
}

#[test]
fn templates_can_be_changed_and_mistakes_are_placed() {
    let section = |inside: &str| {
        format!("<mj-section>\n<mj-column>\n{inside}\n</mj-column>\n</mj-section>\n")
    };
    check_override("header.mjml.hbs", &section("<mj-text>{{newsletter}}</mj-text>"), None);
    check_override("footer.txt.hbs", "Bye from {{newsletter}}\r\n", None);
    check_override("notes.md", "not a template", None);
    for (file, content, expected) in [
        (
            "header.mjml.hbs",
            section("<mj-txt>x</mj-txt>"),
            "header.mjml.hbs:3: MJML has no <mj-txt>; did you mean <mj-text>?",
        ),
        (
            "header.mjml.hbs",
            section("<mj-text>x"),
            "header.mjml.hbs:4: </mj-column> stands here, but <mj-text> is still open",
        ),
        ("header.mjml.hbs", section("<mj-text>{{#if}</mj-text>"), "header.mjml.hbs:3: "),
        ("header.mjml.hbs", section("<mj-text>{{nwsletter}}</mj-text>"), "header.mjml.hbs:3: "),
        (
            "issue.txt.hbs",
            "a\n{{#each blocks}}\n{{nothing}}\n{{/each}}".into(),
            "issue.txt.hbs:3: ",
        ),
        (
            "welcome.txt.hbs",
            "no subject".into(),
            "welcome.txt.hbs:1: the first line is `Subject: …`",
        ),
        (
            "itme.mjml.hbs",
            "x".into(),
            "itme.mjml.hbs:1: no template has this name; did you mean item.mjml.hbs?",
        ),
        (
            "header.mjml.hbs",
            "x".repeat(300_000),
            "header.mjml.hbs:1: the template has 300000 bytes",
        ),
        (
            "header.mjml.hbs",
            section("<mj-text>a < b</mj-text>"),
            "the templates make MJML that cannot be read",
        ),
    ] {
        check_override(file, &content, Some(expected));
    }
    let missing = Renderer::new(Some(Path::new("/nowhere"))).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read the template /nowhere"));
}

#[test]
fn an_unfinished_issue_can_be_previewed() {
    let renderer = Renderer::new(None).unwrap();
    let parsed =
        parse("t.md", b"Hi {{name|you}}, {{attribute.city|there}}: {{unsubscribe_url}} {{oops");
    assert!(matches!(renderer.issue(&parsed.document, &brand()), Err(RenderError::Subject(_))));
    let issue = renderer.preview(&parsed.document, &brand()).unwrap();
    assert_eq!(issue.subject, "Quiet Systems");
    assert!(issue.preview_text().contains("Hi Ada Example, there: # {{oops"));
    assert!(issue.preview_html().contains("reader@example.org"));
}

#[test]
fn slugs() {
    for (slug, number, title, expected) in [
        (Some("own"), Some(1), Some("T"), "own"),
        (None, Some(437), Some("T"), "437"),
        (None, None, Some("What's new: é & more"), "what-s-new-more"),
        (None, None, None, "issue"),
    ] {
        let document = IssueDocument {
            slug: slug.map(str::to_owned),
            number,
            title: title.map(str::to_owned),
            ..IssueDocument::default()
        };
        assert_eq!(document.slug(), expected);
    }
}

#[test]
fn the_largest_issue_renders() {
    let item = "## [A title](https://a.example)\n\nSome words of commentary.\n\n— Ada\n\n";
    let issue = render_body(&item.repeat(crate::issue::source::ITEMS_MAX));
    assert!(issue.html_bytes() > 1_000_000);
}

/// Writes the sample and every service mail into the folder that `POSTRIDER_MAIL_OUT` names, to look
/// at them in a browser; a file in `POSTRIDER_MAIL_ISSUE` instead of the sample.
#[test]
#[ignore = "writes files to look at"]
fn mails_to_look_at() {
    let Ok(folder) = std::env::var("POSTRIDER_MAIL_OUT") else { return };
    let write = |name: String, text: &str| fs::write(Path::new(&folder).join(name), text).unwrap();
    let bytes = std::env::var("POSTRIDER_MAIL_ISSUE")
        .map_or_else(|_| crate::issue::SAMPLE.as_bytes().to_vec(), |file| fs::read(file).unwrap());
    let renderer = Renderer::new(None).unwrap();
    let context = crate::issue::lint::LintContext { brand: brand(), ..Default::default() };
    let (parsed, issue, found) = crate::issue::lint::check("issue.md", &bytes, &renderer, context);
    println!("{}", crate::diagnostic::pretty(&found, &parsed.source, false));
    let issue = issue.unwrap();
    println!("{} bytes of HTML, {}", issue.html_bytes(), issue.subject);
    write("issue.html".into(), &merged(&issue.html));
    write("issue.txt".into(), &merged(&issue.text));
    write("issue-page.html".into(), issue.web_html());
    for (index, mail) in ServiceMail::examples().iter().enumerate() {
        let mail = renderer.service(mail, &brand()).unwrap();
        write(format!("service-{index}.html"), &mail.html);
        write(format!("service-{index}.txt"), &format!("{}\n\n{}", mail.subject, mail.text));
    }
}
