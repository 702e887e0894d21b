//! Whom a notice is about: addresses in prose, and which of them are plainly somebody else's.

use super::{
    super::{RECIPIENTS_MAX, address, mime::Tree, original},
    has_at, lines, list_manager,
    phrases::NOT_THE_RECIPIENT,
};

/// Addresses of a notice that are looked at, whoever they belong to.
const MENTIONS_MAX: usize = 400;

/// Whom the notice is about: the field that says so, else addresses that begin a line, else any
/// address that is not plainly somebody else's, else whom the returned mail was sent to.
pub(super) fn recipients(tree: &Tree<'_>, said: &str, below: &str, named: &str) -> Vec<String> {
    let ours = [tree.fields.get("To"), tree.fields.get("From")];
    let ours: Vec<String> =
        ours.into_iter().flatten().filter_map(address).map(|a| a.to_lowercase()).collect();
    let foreign = |a: &String| !ours.contains(&a.to_lowercase());
    if list_manager(tree) {
        // The list's own address comes first, those of its programs below.
        let mut named = lines(said).flat_map(mentioned).map(|(address, _)| address);
        return named.find(foreign).into_iter().collect();
    }
    let leading = leading_addresses(said);
    if leading.iter().any(foreign) {
        return leading.into_iter().filter(foreign).collect();
    }
    let listed: Vec<String> = addresses_in(named).collect();
    if !listed.is_empty() {
        return listed;
    }
    let envelope: Vec<String> = lines(said).filter_map(envelope_recipient).collect();
    if !envelope.is_empty() {
        return envelope;
    }
    let mentioned = lines(said).flat_map(mentioned).take(MENTIONS_MAX).collect::<Vec<_>>();
    let elsewhere = |a: &String| mentioned.iter().any(|(other, theirs)| *theirs && other == a);
    let mut addresses = mentioned.iter().map(|(a, _)| a).filter(|a| foreign(a) && !elsewhere(a));
    if let Some(address) = addresses.next() {
        return vec![address.clone()];
    }
    if !leading.is_empty() {
        return leading;
    }
    let envelope: Vec<String> = lines(below).filter_map(envelope_recipient).collect();
    if !envelope.is_empty() {
        return envelope;
    }
    let to = original::with_fields(tree, |f| f.get("To").unwrap_or("").to_owned());
    let to = to.unwrap_or_default();
    addresses_in(&to).collect()
}

/// The addresses of a field that lists them.
fn addresses_in(list: &str) -> impl Iterator<Item = String> {
    list.split(',').filter_map(address).filter(|a| a.contains('@')).take(RECIPIENTS_MAX)
}

/// The address of a line `RCPT TO: …` among the details of a message that came back.
fn envelope_recipient(line: &str) -> Option<String> {
    let line = line.trim_start();
    let named = line.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("rcpt to:"));
    named.then(|| address(&line[8..])).flatten().filter(|a| is_address(a))
}

/// The addresses that begin lines, without one that the line above gives to somebody else ("a
/// message sent by").
pub(super) fn leading_addresses(said: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut above = "";
    for line in lines(said) {
        let word = above.split_whitespace().next_back().unwrap_or("").to_ascii_lowercase();
        if !NOT_THE_RECIPIENT.contains(&word.as_str()) {
            found.extend(leading_address(line));
        }
        if !line.trim().is_empty() {
            above = line;
        }
    }
    found
}

/// The address with which a line begins, after brackets, quotes and the marks of transcripts.
pub(super) fn leading_address(line: &str) -> Option<String> {
    if !has_at(line) {
        return None;
    }
    let mut rest = line.trim_start();
    // `收件人：ada@example.org`
    if let Some((name, after)) = rest.split_once('：')
        && !has_at(name)
        && has_at(after)
    {
        rest = after.trim_start();
    }
    for mark in [">>> RCPT TO:", ">>> RCPT To:", ">>>", "Recipient:", "Recipient address:"] {
        rest = rest.strip_prefix(mark).map_or(rest, str::trim_start);
    }
    // `554 <address>...` is how sendmail sums up.
    if rest.len() > 5 && rest.as_bytes()[..3].iter().all(u8::is_ascii_digit) {
        rest = rest.get(4..).filter(|r| r.starts_with('<')).unwrap_or(rest);
    }
    let quoted = rest.starts_with(['<', '"']);
    // `ada@example.org <bob@example.org>`: what looks like an address is bob's display name.
    if !quoted
        && let Some((name, angle)) = rest.split_once(" <")
        && is_address(name)
        && let Some((inside, _)) = angle.split_once('>')
        && is_address(inside)
    {
        return Some(inside.to_owned());
    }
    let rest = rest.trim_start_matches(['<', '"', '\'']);
    let end = rest
        .find(|c: char| c.is_whitespace() || matches!(c, '>' | '"' | ',' | '\'' | '('))
        .unwrap_or(rest.len());
    let token = rest[..end].trim_end_matches([':', '.', ';']);
    let after = rest[end..].trim_start_matches(['>', '"']).trim_start();
    // "someone@example.org wrote" is prose; a list entry is followed by nothing or a mark.
    let entry = quoted
        || after.is_empty()
        || rest[..end].ends_with(':')
        || after.starts_with(['<', '[', '(', ':', '-'])
        || line.starts_with(|c: char| !c.is_whitespace());
    (entry && is_address(token)).then(|| token.to_owned())
}

/// Addresses anywhere in a line, each with whether it follows a word that makes it somebody
/// else's.
fn mentioned(line: &str) -> Vec<(String, bool)> {
    let mut out = Vec::new();
    if !has_at(line) {
        return out;
    }
    let mut before = "";
    for word in line.split_whitespace() {
        let lower = word.to_ascii_lowercase();
        let glued =
            NOT_THE_RECIPIENT.iter().any(|w| w.ends_with([':', '=']) && lower.starts_with(w));
        let token = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let token = token.rsplit(['<', ':', '[', '(', '：', '（']).next().unwrap_or_default();
        let follows = NOT_THE_RECIPIENT.contains(&before.to_ascii_lowercase().as_str());
        if is_address(token) {
            out.push((token.to_owned(), glued || follows));
        }
        before = word;
    }
    out
}

/// Whether a word is an address: a local part, one `@` outside of quotes, a dotted domain.
fn is_address(token: &str) -> bool {
    token.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && token.len() <= 320
            && domain.contains('.')
            && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            && !domain.starts_with('.')
            && !domain.ends_with('.')
            && !local.contains(['<', '>', '(', ')', '=', '/', ':', '：', '（'])
    })
}
