use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::issue::model::{Block, Inline, Node, plain};

const FRONT: &str = "---\nnumber: 1\n---\n";

fn codes(parsed: &Parsed) -> String {
    let found: Vec<String> = parsed
        .diagnostics
        .iter()
        .map(|found| format!("{}:{} {}", found.line, found.column, found.code))
        .collect();
    found.join(", ")
}

/// What is found in a whole file.
#[track_caller]
fn check_file(text: impl AsRef<[u8]>, expected: &str) {
    assert_eq!(codes(&parse("t.md", text.as_ref())), expected);
}

/// What is found in a body that begins in line 4.
#[track_caller]
fn check(body: &str, expected: &str) {
    check_file(format!("{FRONT}{body}"), expected);
}

/// The blocks of a body without findings, one a line.
#[track_caller]
fn check_blocks(body: &str, expected: &str) {
    let parsed = parse("t.md", format!("{FRONT}{body}").as_bytes());
    assert_eq!(codes(&parsed), "");
    let lines: Vec<String> = parsed.document.blocks().iter().map(shape).collect();
    assert_eq!(lines.join("\n"), expected);
}

fn shape(block: &Block) -> String {
    let body: Vec<&str> = block
        .body()
        .iter()
        .map(|node| match node {
            Node::Paragraph { .. } => "p",
            Node::Heading { .. } => "h",
            Node::Quote { .. } => "quote",
            Node::List { start: Some(_), .. } => "ol",
            Node::List { start: None, .. } => "ul",
            Node::Code { .. } => "code",
            Node::Table { .. } => "table",
            Node::Rule => "hr",
        })
        .collect();
    let body = body.join(" ");
    match block {
        Block::Introduction { .. } => format!("introduction [{body}]"),
        Block::Section { title, .. } => format!("section {} [{body}]", plain(title)),
        Block::Item(item) => format!(
            "item {} <{}> [{body}]{}{}",
            plain(&item.title),
            item.url,
            if item.byline.is_some() { " byline" } else { "" },
            item.disclosure.as_deref().map_or(String::new(), |text| format!(" {:?}", plain(text))),
        ),
        Block::Sponsor(sponsor) => format!("sponsor {} [{body}]", sponsor.name),
        Block::Prose { title, .. } => {
            format!("prose {} [{body}]", plain(title.as_deref().unwrap_or_default()))
        }
    }
}

#[test]
fn a_digest_falls_into_its_blocks() {
    check_blocks(
        "Hello.\n\n:::sponsor Example Inc.\nBuy.\n\n> now\n:::\n\n\
         ## [One](https://one.example)\n\nWhy.\n\n1. a\n2. b\n\n— Ada — Org\n\nFull disclosure: mine.\n\n\
         # More\n\nText.\n\n## [Two](https://two.example)\n\n- x\n\n```\n:::\n## no\n```\n",
        "introduction [p]\n\
         sponsor Example Inc. [p quote]\n\
         item One <https://one.example> [p ol] byline \"Full disclosure: mine.\"\n\
         section More [p]\n\
         item Two <https://two.example> [ul code]",
    );
}

#[test]
fn an_essay_needs_no_items() {
    check_blocks(
        "First.\n\n## A part\n\nSecond.\n\n### Below\n\nThird.\n",
        "introduction [p]\nprose A part [p h p]",
    );
    check_blocks("# Only a section", "section Only a section []");
}

#[test]
fn a_sponsor_message_may_stand_anywhere() {
    check_blocks(
        ":::sponsor A\nOne.\n:::\n## [T](https://t.example)\nWhy.\n:::sponsor B\nTwo.\n:::\nAfter.\n",
        "sponsor A [p]\nitem T <https://t.example> [p]\nsponsor B [p]\nprose  [p]",
    );
    // A `:::` line ends a list, and ends a paragraph without an empty line between.
    check_blocks("- a\n:::sponsor A\n- b\n:::\n", "introduction [ul]\nsponsor A [ul]");
}

#[test]
fn titles_keep_their_form() {
    check_blocks(
        "## [A `b` *c*](<https://x.example/a b>)\nx",
        "item A b c <https://x.example/a b> [p]",
    );
    check_blocks(
        "## [A][r] and more\nx\n\n[r]: https://r.example\n",
        "item A and more <https://r.example> [p]",
    );
    check_blocks("Disclosure: none\n", "introduction [p]");
}

#[test]
fn line_ends_of_any_system_are_read() {
    let text = "\u{feff}---\r\nnumber: 7\r\n---\r\n\r\nHi\r\nthere\r\n\r\n```\r\na\r\nb\r\n```\r\n";
    let parsed = parse("t.md", text.as_bytes());
    assert_eq!(codes(&parsed), "");
    assert_eq!(parsed.document.number, Some(7));
    let Block::Introduction { body } = &parsed.document.blocks()[0] else { panic!("no text") };
    assert!(matches!(&body[1], Node::Code { text, .. } if text == "a\nb"));
}

#[test]
fn the_front_matter_is_checked() {
    let ok = "---\nnumber: 437\ndate: 2024-08-11\nsubject: 'A: b'\npreheader: >\n  two\n  lines\n\
              title: T\nslug: a-b\nformat: markdown\nlanguage: en-GB\n---\nx\n";
    let parsed = parse("t.md", ok.as_bytes());
    assert_eq!(codes(&parsed), "");
    assert_eq!(parsed.document.subject.as_deref(), Some("A: b"));
    assert_eq!(parsed.document.preheader.as_deref(), Some("two lines"));

    for (line, expected) in [
        ("nubmer: 1", "2:1 unknown-key"),
        ("number: one", "2:9 invalid-value"),
        ("number: 0", "2:9 invalid-value"),
        ("number: -1", "2:9 invalid-value"),
        ("number: 4294967296", "2:9 invalid-value"),
        ("date: 11.8.2024", "2:7 invalid-value"),
        ("date: 2024-02-30", "2:7 invalid-value"),
        ("slug: A b", "2:7 invalid-value"),
        ("language: english!", "2:11 invalid-value"),
        ("format: word", "2:9 invalid-value"),
        ("subject: Hi {{name|you}}", "2:10 field-not-here"),
        ("subject: \"a\\0b\"", "2:10 not-text"),
        ("number: 1\nnumber: 2", "3:1 duplicate-key"),
        ("title: A: b", "2:9 front-matter-invalid"),
        ("title: [a, b]", "2:8 front-matter-invalid"),
        ("title: &a x", "2:8 front-matter-invalid"),
        ("title: *a", "2:8 front-matter-invalid"),
        ("- a", "2:1 front-matter-invalid"),
        ("title: \"open", "2:8 front-matter-invalid"),
    ] {
        let parsed = parse("t.md", format!("---\n{line}\n---\ntext\n").as_bytes());
        assert_eq!(codes(&parsed), expected, "{line}");
    }
    check_file("text\n", "1:1 front-matter-missing");
    check_file("---\nnumber: 1\n", "1:1 front-matter-missing");
    check_file("", "1:1 front-matter-missing, 1:1 empty-issue");
    check_file(format!("---\ntitle: {}\n---\nx", "a".repeat(20_000)), "2:1 front-matter-invalid");
}

#[test]
fn near_keys_are_suggested() {
    let parsed = parse("t.md", b"---\nprehaeder: x\nzzz: y\n---\ntext");
    let said: Vec<_> = parsed.diagnostics.iter().map(|found| found.suggestion.as_deref()).collect();
    assert_eq!(said[0], Some("did you mean `preheader`?"));
    assert_eq!(parsed.diagnostics[0].replacement.as_deref(), Some("preheader"));
    assert!(said[1].unwrap().starts_with("the keys are number, date"));
}

#[test]
fn what_is_no_text_is_refused() {
    check_file(b"---\nn\xffumber: 1\n---\n", "2:2 not-text");
    check_file("---\nnumber: 1\n---\nab\0c", "4:3 not-text");
    check_file("---\rnumber: 1\r---\r", "1:4 not-text");
    check_file("a\u{1b}[31m", "1:2 not-text");
    check_file(b"\x7fELF\x02\x01\x01", "1:1 not-text");
}

#[test]
fn directives_and_headings_are_checked() {
    check(":::sponsor\nText.\n:::\n", "4:1 sponsor-unlabelled");
    check(":::sponsor A\nText.\n", "4:1 sponsor-unclosed");
    check(":::sponsor A\nText.\n:::sponsor B\nText.\n:::\n", "4:1 sponsor-unclosed");
    check(":::sponsor A\n:::\n", "4:1 empty-issue");
    check("x\n\n:::\n", "6:1 unknown-directive");
    check(":::warning\nx\n:::\n", "4:1 unknown-directive");
    check(":::sponsor {{name|x}}\nx\n:::\n", "4:1 field-not-here");
    check("## \nx", "4:1 empty-heading");
    check("## [A](https://a.example)\nx\n\n## B\nx", "7:1 heading-without-link");
    check("## [A](https://a.example) [B](https://b.example)\nx", "4:27 item-with-two-links");
    check("", "4:1 empty-issue");
}

#[test]
fn html_does_not_pass() {
    check("a <b>c</b>\n", "4:3 html-in-markdown, 4:7 html-in-markdown");
    check("<div>\nx\n</div>\n", "4:1 html-in-markdown");
    check("x <!-- a note --> y\n\n<!-- another\none -->\n", "");
    check("`<b>` and `{{x}}` and\n\n    <pre>{{x}}\n", "");
    check("<https://a.example> 1 < 2 & 3 > 2\n", "");
}

#[test]
fn reader_fields_are_checked() {
    check("Hi {{name|you}}, {{address}} {{attribute.city|}}\n", "");
    check("Hi {{nmae|you}}\n", "4:4 unknown-variable");
    check("Hi {{#each x}}\n", "4:4 unknown-variable");
    check("Hi {{name}}\n", "4:4 field-without-fallback");
    check("*Hi {{attribute.x}}*\n", "4:5 field-without-fallback");
    check("Hi {{ you\n}}\n", "4:4 unknown-variable");
    check(
        "- Hi {{a}}\n- [{{b}}](https://x.example)\n",
        "4:6 unknown-variable, 5:4 unknown-variable",
    );
    check("[x](https://x.example/?n={{nmae}})\n", "4:1 unknown-variable");
    check("## [{{x}}](https://x.example)\ny", "4:5 unknown-variable");
}

#[test]
fn a_picture_has_a_size_behind_it() {
    let body = "![Graph](https://x.example/g.png){width=600 height=300} after";
    let parsed = parse("t.md", format!("{FRONT}{body}").as_bytes());
    let Block::Introduction { body } = &parsed.document.blocks()[0] else { panic!("no text") };
    let Node::Paragraph { content, .. } = &body[0] else { panic!("no paragraph") };
    assert!(matches!(
        &content[0],
        Inline::Image { alt, width: Some(600), height: Some(300), .. } if alt == "Graph"
    ));
    assert!(matches!(&content[1], Inline::Text { text, .. } if text == " after"));
}

#[test]
fn hand_made_bodies_are_kept_and_checked() {
    let mjml = |body: &str| format!("---\nnumber: 1\nformat: mjml\n---\n{body}");
    let good = "<mjml><mj-body><mj-section><mj-column><mj-text>Hi {{name|you}}</mj-text></mj-column></mj-section></mj-body></mjml>";
    check_file(mjml(good), "");
    check_file(mjml("<mjml><mj-body><mj-section></mj-body></mjml>"), "5:28 invalid-mjml");
    check_file(mjml(&good.replace("name|you", "x")), "5:51 unknown-variable");
    check_file(mjml(""), "5:1 invalid-mjml");
    let deep = format!("<mjml><mj-body><mj-raw>{}", "<div>".repeat(300_000));
    check_file(mjml(&deep), "5:1 nesting-too-deep");
    check_file("---\nnumber: 1\nformat: html\n---\n<p>{{nam|x}}", "5:4 unknown-variable");
    check_file("---\nnumber: 1\nformat: html\n---\n\n", "5:1 empty-issue");
}

#[test]
fn limits_are_told_at_once() {
    let started = Instant::now();
    check_file(vec![b'a'; 10 * 1024 * 1024], "1:1 file-too-large");
    let items = "## [A](https://a.example)\nx\n".repeat(60_000);
    check(&items, "4004:1 too-many-items");
    check(&format!("{}x", "> ".repeat(500_000)), "4:49 nesting-too-deep");
    check(&"*a **b ".repeat(5_000), "");
    // Generous: each takes milliseconds, and this machine may be busy.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn many_findings_are_cut() {
    let parsed = parse("t.md", format!("{FRONT}{}", "<b>\n\n".repeat(5_000)).as_bytes());
    assert_eq!(parsed.diagnostics.len(), Findings::KEPT_MAX + 1);
    assert_eq!(parsed.diagnostics.last().unwrap().code, "too-many-problems");
}

#[test]
fn the_model_is_stored_without_loss() {
    let parsed = parse("sample.md", crate::issue::SAMPLE.as_bytes());
    let stored = serde_json::to_string(&parsed.document).unwrap();
    let back: IssueDocument = serde_json::from_str(&stored).unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), stored);
}

#[test]
fn the_model_reads_well_as_json() {
    let text = format!(
        "{FRONT}Hi {{{{name|you}}}}\n\n## [A *b*](https://a.example)\n\nSee [c](https://c.example).\n\n— Ada, Grace — Org\n"
    );
    let parsed = parse("t.md", text.as_bytes());
    insta::assert_json_snapshot!(parsed.document);
}

/// Seconds per byte of reading `unit` repeated to `bytes`, so many `times`; the best of three.
fn cost(unit: &str, bytes: usize, times: usize) -> f64 {
    let text = format!("{FRONT}{}", unit.repeat(bytes / unit.len()));
    let best = (0..3)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..times {
                std::hint::black_box(parse("t.md", text.as_bytes()));
            }
            started.elapsed()
        })
        .min();
    best.unwrap_or_default().as_secs_f64() / (times * text.len()) as f64
}

#[test]
fn reading_takes_linear_time() {
    for unit in [
        "word ",
        "[",
        "![a](",
        "**",
        "*a",
        "> ",
        "- a\n  ",
        "`",
        "{{",
        "{{a|",
        "<",
        "<a ",
        "&amp;",
        ":::\n",
        ":::sponsor a\n",
        "```\n",
        "# a\n",
        "— a, ",
        "|a|b\n|-|-\n",
        "\u{2014}\n\n",
        "<!--",
        "[a]: b\n",
        "\\",
        "a\n\n",
        "\t",
        "[^1]",
        "~~a",
    ] {
        // Other work on the machine can only make a reading dearer, so one fair comparison will do: of
        // as much text each time.
        let linear = (0..20).any(|_| {
            let (small, large) = (cost(unit, 8_000, 8), cost(unit, 64_000, 1));
            println!("{unit:?} {:.2} µs/byte", large * 1e6);
            // Eight times the text: a quadratic reader would be eight times dearer per byte.
            large < small * 4.0 + 2e-7
        });
        assert!(linear, "{unit:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let parsed = parse("t.md", &bytes);
        prop_assert!(!parsed.diagnostics.is_empty());
    }

    #[test]
    fn findings_stand_inside_the_file(
        front in "(number: 1\n|date: x\n|title: \"é\n|[a-z]{1,3}: [&*!\\[{>|'\"a-z]{0,4}\n|  x\n|- \n){0,4}",
        body in "(## |# |\\[a\\]\\(b\\)|:::|:::sponsor x\n|---\n|\n|\n\n|> |- |1. |é|😀|\\{\\{|\\}\\}|name\\|x|<b>|<!--|-->|```|`|\\*|— |-- |&lt;|\\\\|\\||  |\t|!\\[|\\]|\\{width=3\\}){0,30}",
    ) {
        let text = format!("---\n{front}---\n{body}");
        let parsed = parse("t.md", text.as_bytes());
        for found in &parsed.diagnostics {
            prop_assert!(found.span.start <= found.span.end && found.span.end <= text.len());
            prop_assert!(text.is_char_boundary(found.span.start) && text.is_char_boundary(found.span.end));
            prop_assert!(found.line >= 1 && (found.line as usize) <= text.matches('\n').count() + 1);
            prop_assert!(found.column >= 1);
            prop_assert!(crate::issue::rule::named(found.code).is_some());
        }
        let shown = crate::diagnostic::pretty(&parsed.diagnostics, &parsed.source, false);
        prop_assert!(!shown.is_empty());
    }
}
