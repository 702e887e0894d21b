//! Issues that were really sent, from a sample that is not part of the project: split into items,
//! written as issue files, checked and rendered. The sample is plain text, so which paragraphs were
//! quotations is told here by their places, and titles and links are made up.

use std::{fs, path::Path};

use postrider::issue::{
    model::{Block, IssueDocument, Node},
    source,
};

use crate::{harness::skipped, installation::Installation};

const SAMPLE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/samples/sre-weekly-433-437.txt");

/// Quotations as (issue, item, paragraph), all counted from one.
const QUOTES: &[(u32, usize, usize)] =
    &[(437, 4, 2), (437, 5, 1), (437, 7, 1), (437, 8, 1), (436, 2, 2), (436, 4, 1)];

/// One item as the sample has it.
#[derive(Default)]
struct Link {
    paragraphs: Vec<String>,
    byline: String,
    disclosure: Option<String>,
}

/// One issue as the sample has it.
struct Sent {
    number: u32,
    intro: Vec<String>,
    sponsor: (String, Vec<String>),
    links: Vec<Link>,
}

/// The sample's issues, or nothing (and a word about it) where there is no sample.
fn sample() -> Option<Vec<Sent>> {
    let Ok(text) = fs::read_to_string(SAMPLE) else {
        skipped(&format!("{SAMPLE} is not there; real issues were not tried"));
        return None;
    };
    let text = text.split("\nA production of").next().unwrap();
    Some(text.split("SRE Weekly Issue #").skip(1).map(sent).collect())
}

/// An issue from its number and paragraphs. Indented paragraphs are bylines and disclosures, and
/// indented numbers a list.
fn sent(text: &str) -> Sent {
    let (number, text) = text.split_once('\n').unwrap();
    let mut paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
    let mut intro = Vec::new();
    let sponsor = loop {
        let paragraph = paragraphs.next().unwrap().trim();
        match paragraph.strip_prefix("A message from our sponsor, ") {
            Some(name) => break name.trim_end_matches(':').to_owned(),
            None => intro.push(paragraph.to_owned()),
        }
    };
    let mut message = Vec::new();
    while message.last().is_none_or(|line: &String| !line.starts_with("http")) {
        message.push(paragraphs.next().unwrap().trim().to_owned());
    }
    let mut links: Vec<Link> = Vec::new();
    let mut open = Link::default();
    for paragraph in paragraphs {
        let line = paragraph.trim_matches('\n');
        let plain = line.trim();
        if !line.starts_with(char::is_whitespace) || plain.starts_with("1. ") {
            open.paragraphs.push(line.lines().map(str::trim).collect::<Vec<_>>().join("\n"));
        } else if plain.starts_with("Full disclosure") {
            links.last_mut().unwrap().disclosure = Some(plain.to_owned());
        } else {
            plain.clone_into(&mut open.byline);
            links.push(std::mem::take(&mut open));
        }
    }
    assert!(open.paragraphs.is_empty(), "an item without a byline");
    Sent { number: number.trim().parse().unwrap(), intro, sponsor: (sponsor, message), links }
}

/// The issue file an editor would have written.
fn file(sent: &Sent) -> String {
    let today = jiff::Zoned::now().date();
    let number = sent.number;
    let mut blocks = vec![format!(
        "---\nnumber: {number}\ndate: {today}\npreheader: Issue {number} with its links.\n---"
    )];
    blocks.extend(sent.intro.iter().cloned());
    let (name, message) = &sent.sponsor;
    let (url, message) = message.split_last().unwrap();
    blocks.push(format!(":::sponsor {name}\n{}\n\n<{url}>\n:::", message.join("\n\n")));
    for (item, link) in (1..).zip(&sent.links) {
        blocks.push(format!("## [Title of item {item}](https://example.com/{number}/{item})"));
        for (place, paragraph) in (1..).zip(&link.paragraphs) {
            let quoted = QUOTES.contains(&(number, item, place));
            blocks.push(format!("{}{paragraph}", if quoted { "> " } else { "" }));
        }
        blocks.push(format!("— {}", link.byline));
        blocks.extend(link.disclosure.clone());
    }
    blocks.join("\n\n") + "\n"
}

/// What was understood is what the sample says.
fn understood(sent: &Sent, document: &IssueDocument) {
    assert_eq!(document.number, Some(sent.number));
    let sponsors: Vec<&str> = document.blocks().iter().filter_map(sponsor_name).collect();
    assert_eq!(sponsors, [sent.sponsor.0.as_str()]);
    let first = &document.blocks()[0];
    assert_eq!(sponsor_name(first).is_none(), !sent.intro.is_empty(), "{first:?}");

    let items: Vec<_> = document.items().collect();
    assert_eq!(items.len(), sent.links.len());
    for (place, (item, link)) in (1..).zip(items.iter().zip(&sent.links)) {
        let byline = item.byline.as_ref().unwrap();
        let organisation = byline.organisation.as_ref().map(|name| name.name.as_str());
        let authors: Vec<&str> = byline.authors.iter().map(|name| name.name.as_str()).collect();
        let (names, of) = match link.byline.split_once(" — ") {
            Some((names, of)) => (names, Some(of)),
            None => (link.byline.as_str(), None),
        };
        assert_eq!(organisation, of);
        assert_eq!(
            authors.join("|"),
            names.replace(", and ", "|").replace(" and ", "|").replace(", ", "|")
        );
        assert_eq!(item.disclosure.is_some(), link.disclosure.is_some());
        let quotes = item.body.iter().filter(|node| matches!(node, Node::Quote { .. })).count();
        let told = QUOTES.iter().filter(|quote| (quote.0, quote.1) == (sent.number, place)).count();
        assert_eq!(quotes, told, "item {place} of {}", sent.number);
        let lists = item.body.iter().filter(|node| matches!(node, Node::List { .. })).count();
        let told = link.paragraphs.iter().filter(|text| text.starts_with("1. ")).count();
        assert_eq!(lists, told, "item {place} of {}", sent.number);
    }
}

fn sponsor_name(block: &Block) -> Option<&str> {
    match block {
        Block::Sponsor(sponsor) => Some(&sponsor.name),
        _ => None,
    }
}

/// Every paragraph of the sample reaches the reader, in the text part as it is wrapped there and in
/// the HTML part.
fn arrived(sent: &Sent, folder: &Path) {
    let text = fs::read_to_string(folder.join("issue.txt")).unwrap();
    let text: String = text.replace("\n> ", " ").split_whitespace().collect();
    let html = fs::read_to_string(folder.join("issue.html")).unwrap();
    let html: String = visible(&html).split_whitespace().collect();
    let links = sent.links.iter().flat_map(|link| link.paragraphs.iter().chain(&link.disclosure));
    for paragraph in sent.intro.iter().chain(&sent.sponsor.1).chain(links) {
        let lines = paragraph.lines().map(|line| {
            line.trim_start_matches(|first: char| first.is_ascii_digit()).trim_start_matches(". ")
        });
        for line in lines {
            let wanted: String = line.split_whitespace().collect();
            assert!(text.contains(&wanted), "not in the text part: {line}");
            assert!(html.contains(&wanted), "not in the HTML part: {line}");
        }
    }
}

/// The text of `html`, without tags.
fn visible(html: &str) -> String {
    let mut text = String::new();
    for piece in html.split('<') {
        text.push_str(piece.split_once('>').map_or("", |(_, after)| after));
    }
    let entities =
        [("&amp;", "&"), ("&#x27;", "'"), ("&quot;", "\""), ("&lt;", "<"), ("&gt;", ">")];
    entities.iter().fold(text, |text, (entity, character)| text.replace(entity, character))
}

#[test]
fn real_issues_are_understood_checked_and_rendered() {
    let Some(issues) = sample() else { return };
    assert_eq!(
        issues.iter().map(|sent| sent.number).collect::<Vec<_>>(),
        [437, 436, 435, 434, 433]
    );
    let house = Installation::new();
    for sent in &issues {
        let file = file(sent);
        let name = format!("{}.md", sent.number);
        fs::write(house.path(&name), &file).unwrap();
        let document = source::parse(&name, file.as_bytes()).into_document().unwrap();
        understood(sent, &document);
        let out = sent.number.to_string();
        house.run(&["issue", "preview", &name, "--out", &out]).ok();
        arrived(sent, &house.path(&out));
        let message = fs::metadata(house.path(&out).join("issue.eml")).unwrap().len();
        assert!(message < 102_400, "Gmail would clip {message} bytes");
        house.run(&["issue", "lint", &name]).ok();
    }
    let with = |found: fn(&Link) -> bool| issues.iter().flat_map(|sent| &sent.links).any(found);
    assert!(with(|link| link.disclosure.is_some()), "no disclosure in the sample");
    assert!(with(|link| link.byline.contains(" — ")) && with(|link| !link.byline.contains(" — ")));
    assert!(with(|link| link.paragraphs.iter().any(|text| text.starts_with("1. "))));
}
