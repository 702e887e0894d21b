//! Many phrases looked for at once: one pass over a text, whatever the number of phrases.

use aho_corasick::{AhoCorasick, AhoCorasickKind};

/// Phrases that a text is searched for.
///
/// Those in ASCII have an automaton of their own: its table has a quarter of the columns, so that it
/// is built in a fraction of the time and what is used of it stays in the processor's cache. Most
/// texts need no other.
#[derive(Debug)]
pub(super) struct Phrases {
    ascii: Automaton,
    /// Phrases with other letters; they stand in no text that is ASCII.
    other: Option<Automaton>,
}

#[derive(Debug)]
struct Automaton {
    table: AhoCorasick,
    /// The place of each phrase in the whole list.
    places: Vec<usize>,
}

impl Automaton {
    fn new(phrases: &[(usize, &[u8])]) -> Self {
        let table = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .build(phrases.iter().map(|(_, phrase)| phrase))
            .expect("the lists are small");
        Self { table, places: phrases.iter().map(|(place, _)| *place).collect() }
    }

    /// The place and end of the phrase that ends first.
    fn first(&self, text: &str) -> Option<(usize, usize)> {
        self.table.find(text).map(|found| (self.places[found.pattern()], found.end()))
    }

    fn all(&self, text: &str) -> impl Iterator<Item = (usize, usize)> {
        let found = self.table.find_overlapping_iter(text);
        found.map(|found| (self.places[found.pattern()], found.end()))
    }
}

impl Phrases {
    /// Prepares the search. Phrases are matched as they are: both they and the texts are in lower
    /// case. Panics on more text than an automaton holds (gigabytes), which no list here has.
    pub(super) fn new<P: AsRef<[u8]>>(phrases: impl IntoIterator<Item = P>) -> Self {
        let phrases: Vec<P> = phrases.into_iter().collect();
        let listed = phrases.iter().map(AsRef::as_ref).enumerate();
        let (ascii, other): (Vec<_>, Vec<_>) = listed.partition(|(_, phrase)| phrase.is_ascii());
        let other = (!other.is_empty()).then(|| Automaton::new(&other));
        Self { ascii: Automaton::new(&ascii), other }
    }

    /// Where in the list the phrase stands that ends first in `text`.
    pub(super) fn first(&self, text: &str) -> Option<usize> {
        let other = self.other_in(text).and_then(|other| other.first(text));
        let found = [self.ascii.first(text), other].into_iter().flatten();
        found.min_by_key(|(_, end)| *end).map(|(place, _)| place)
    }

    /// The places in the list, and the ends in `text`, of all that stand in it; those in ASCII come
    /// first.
    pub(super) fn all(&self, text: &str) -> impl Iterator<Item = (usize, usize)> {
        let other = self.other_in(text).into_iter().flat_map(move |other| other.all(text));
        self.ascii.all(text).chain(other)
    }

    fn other_in(&self, text: &str) -> Option<&Automaton> {
        self.other.as_ref().filter(|_| !text.is_ascii())
    }
}

/// Appends a word in lower case.
pub(super) fn push_lower(out: &mut String, word: &str) {
    if word.is_ascii() {
        let start = out.len();
        out.push_str(word);
        out[start..].make_ascii_lowercase();
    } else {
        out.push_str(&word.to_lowercase());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_keep_their_places_whatever_their_letters() {
        let phrases = Phrases::new(["voll", "переполнен", "is full", "full"]);
        assert_eq!(phrases.first("ящик переполнен, is full"), Some(1));
        assert_eq!(phrases.first("is full, переполнен"), Some(2));
        let mut all: Vec<_> = phrases.all("переполнен is full").map(|(place, _)| place).collect();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3]);
        assert_eq!(phrases.first("nothing"), None);
    }
}
