//! The words of all rules, looked for in a text together.

use std::collections::HashMap;

use super::Rule;
use crate::bounce::phrases::Phrases;

/// What all rules ask of a text, turned round: what each phrase says of which rules.
#[derive(Debug)]
pub(super) struct Words {
    phrases: Phrases,
    /// For each phrase: the rules that ask for it alone.
    wanted_by: Vec<Vec<usize>>,
    /// For each phrase: the rules that it excludes.
    unwanted_by: Vec<Vec<usize>>,
    /// Phrases that a rule asks for together.
    together: Vec<(usize, Vec<usize>)>,
    /// The rules that ask for no words.
    wordless: Bits,
    rules: usize,
}

/// Of which rules a text has the words.
pub(super) struct Said {
    wanted: Bits,
    unwanted: Bits,
}

impl Said {
    /// Whether the text has what the rule at this place asks, and nothing that it excludes.
    pub(super) fn fits(&self, rule: usize) -> bool {
        self.wanted.has(rule) && !self.unwanted.has(rule)
    }
}

/// A set of small numbers.
#[derive(Debug, Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn for_up_to(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn has(&self, number: usize) -> bool {
        self.0[number / 64] & (1 << (number % 64)) != 0
    }

    fn set(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }
}

impl Words {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut listed: Vec<&str> = Vec::new();
        let (mut wanted_by, mut unwanted_by) = (Vec::new(), Vec::new());
        let mut number = |words, by: &mut [&mut Vec<Vec<usize>>; 2]| {
            *numbers.entry(words).or_insert_with(|| {
                listed.push(words);
                for by in by.iter_mut() {
                    by.push(Vec::new());
                }
                listed.len() - 1
            })
        };
        let mut together = Vec::new();
        let mut wordless = Bits::for_up_to(rules.len());
        for (at, rule) in rules.iter().enumerate() {
            if rule.any.is_empty() {
                wordless.set(at);
            }
            for words in &rule.any {
                let by = &mut [&mut wanted_by, &mut unwanted_by];
                let asked: Vec<_> = words.split(" + ").map(|words| number(words, by)).collect();
                match asked[..] {
                    [alone] => wanted_by[alone].push(at),
                    _ => together.push((at, asked)),
                }
            }
            for words in &rule.none {
                let excluded = number(words, &mut [&mut wanted_by, &mut unwanted_by]);
                unwanted_by[excluded].push(at);
            }
        }
        let (phrases, rules) = (Phrases::new(&listed), rules.len());
        Self { phrases, wanted_by, unwanted_by, together, wordless, rules }
    }

    /// What stands in `text`.
    pub(super) fn said_in(&self, text: &str) -> Said {
        let mut seen = Bits::for_up_to(self.wanted_by.len());
        let mut said =
            Said { wanted: self.wordless.clone(), unwanted: Bits::for_up_to(self.rules) };
        for (phrase, _) in self.phrases.all(text) {
            if seen.has(phrase) {
                continue;
            }
            seen.set(phrase);
            for rule in &self.wanted_by[phrase] {
                said.wanted.set(*rule);
            }
            for rule in &self.unwanted_by[phrase] {
                said.unwanted.set(*rule);
            }
        }
        for (rule, asked) in &self.together {
            if asked.iter().all(|phrase| seen.has(*phrase)) {
                said.wanted.set(*rule);
            }
        }
        said
    }
}
