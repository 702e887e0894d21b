//! Texts and addresses of reports made plain: one line, bounded, without what stands around them.

use super::DIAGNOSTIC_MAX;

/// The text without line breaks and repeated space, cut at [`DIAGNOSTIC_MAX`].
pub(super) fn one_line(text: &str) -> String {
    if is_one_line(text) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len().min(DIAGNOSTIC_MAX));
    if text.is_ascii() {
        let is_word = |octet: &u8| *octet > b' ' && *octet != 0x7f;
        let mut rest = text;
        let words = std::iter::from_fn(|| {
            let start = rest.bytes().position(|octet| is_word(&octet))?;
            rest = &rest[start..];
            let end = rest.bytes().position(|octet| !is_word(&octet)).unwrap_or(rest.len());
            let word;
            (word, rest) = rest.split_at(end);
            Some(word)
        });
        join(words, &mut out);
    } else {
        join(text.split(|c: char| c.is_whitespace() || c.is_control()), &mut out);
    }
    out
}

/// Whether [`one_line`] would change nothing, as of most header fields.
fn is_one_line(text: &str) -> bool {
    let mut before = b' ';
    let plain = |octet: u8| {
        let fits = matches!(octet, b'!'..=b'~') || (octet == b' ' && before != b' ');
        before = octet;
        fits
    };
    text.len() <= DIAGNOSTIC_MAX && text.bytes().all(plain) && !text.ends_with(' ')
}

/// Joins words with a space, as many as there is room for; the last one may be cut.
fn join<'a>(words: impl Iterator<Item = &'a str>, out: &mut String) {
    for word in words.filter(|word| !word.is_empty()) {
        let space = if out.is_empty() { "" } else { " " };
        let room = DIAGNOSTIC_MAX.saturating_sub(out.len() + space.len());
        let fits = &word[..word.floor_char_boundary(room)];
        if !fits.is_empty() {
            out.push_str(space);
            out.push_str(fits);
        }
        if fits.len() < word.len() {
            return;
        }
    }
}

/// An address out of a field or line: the type prefix, angle brackets, quotes and trailing
/// punctuation gone. `None` when no address is left.
pub(super) fn address(text: &str) -> Option<String> {
    let (kind, text) = text.split_once(';').filter(|(k, _)| !k.contains('@')).unwrap_or(("", text));
    let unescaped = kind.trim().eq_ignore_ascii_case("utf-8").then(|| utf8_address(text));
    let text = unescaped.as_deref().unwrap_or(text);
    let text = match (text.find('<'), text.rfind('>')) {
        (Some(open), Some(close)) if open < close => &text[open + 1..close],
        // A comment after a bare address (RFC 5322, section 3.2.2).
        _ => text.split(" (").next().unwrap_or(text),
    };
    let text = text.trim().trim_matches(|c: char| matches!(c, '<' | '>' | ',' | ';' | ':' | '\''));
    let text = text.trim_end_matches('.').trim();
    let plain = !text.is_empty()
        && text.len() <= 320
        && !text.starts_with('@')
        && !text.ends_with('@')
        && text.chars().all(|c| !c.is_control() && (!c.is_whitespace() || text.starts_with('"')));
    plain.then(|| text.to_owned())
}

/// An address of the type `utf-8` as it is: the `\x{…}` of its seven-bit form undone (RFC 6533,
/// section 3). What is no such escape stays.
fn utf8_address(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\x{") {
        out.push_str(&rest[..at]);
        let after = &rest[at + 3..];
        // Six digits at most: who looks further for the bracket looks through everything each time.
        let digits = after.bytes().take(6).take_while(u8::is_ascii_hexdigit).count();
        let escaped = after[digits..].strip_prefix('}').and_then(|tail| {
            let code = u32::from_str_radix(&after[..digits], 16).ok()?;
            Some((char::from_u32(code)?, tail))
        });
        let (c, tail) = escaped.unwrap_or(('\\', &rest[at + 1..]));
        out.push(c);
        rest = tail;
    }
    out.push_str(rest);
    out
}
