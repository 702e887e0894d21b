//! Addresses in what others wrote: servers repeat them in their replies.

/// `text` with whatever looks like an address in it shortened to its first character and its domain.
pub fn redacted_text(text: &str) -> String {
    let ends_word = |c: char| c.is_whitespace() || "<>()[]{},;:\"'=".contains(c);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ends_word).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        match word.rsplit_once('@') {
            Some((local, domain)) => {
                shown.extend(local.chars().take(1));
                shown.push_str("…@");
                shown.push_str(domain);
            }
            None => shown.push_str(word),
        }
        let mut separators = after.chars();
        shown.extend(separators.next());
        rest = separators.as_str();
    }
    shown
}
