//! Many phrases looked for at once: one pass over a text, whatever the number of phrases.

use aho_corasick::{AhoCorasick, AhoCorasickKind};

/// Phrases that a text is searched for.
#[derive(Debug)]
pub(super) struct Phrases {
    automaton: AhoCorasick,
}

impl Phrases {
    /// Prepares the search. Phrases are matched as they are: both they and the texts are in lower
    /// case. Panics on more text than an automaton holds (gigabytes), which no list here has.
    pub(super) fn new<P: AsRef<[u8]>>(phrases: impl IntoIterator<Item = P>) -> Self {
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .build(phrases)
            .expect("the lists are small");
        Self { automaton }
    }

    /// Where in the list the phrase stands that ends first in `text`.
    pub(super) fn first(&self, text: &str) -> Option<usize> {
        self.automaton.find(text).map(|found| found.pattern().as_usize())
    }

    /// The places in the list, and the ends in `text`, of all that stand in it.
    pub(super) fn all(&self, text: &str) -> impl Iterator<Item = (usize, usize)> {
        let found = self.automaton.find_overlapping_iter(text);
        found.map(|found| (found.pattern().as_usize(), found.end()))
    }
}
