//! The words of all rules, looked for in a text together.

use std::collections::HashMap;

use super::Rule;
use crate::bounce::phrases::Phrases;

/// What every rule asks of a text.
#[derive(Debug)]
pub(super) struct Words {
    phrases: Phrases,
    count: usize,
    rules: Vec<Asked>,
}

/// What one rule asks: numbers of phrases.
#[derive(Debug)]
struct Asked {
    /// One of these in full; none asked if empty.
    any: Vec<Vec<usize>>,
    none: Vec<usize>,
}

/// Which phrases stand in a text, a bit for each.
pub(super) struct Said(Vec<u64>);

impl Said {
    fn has(&self, phrase: usize) -> bool {
        self.0[phrase / 64] & (1 << (phrase % 64)) != 0
    }
}

impl Words {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut listed: Vec<&str> = Vec::new();
        let mut number = |words| {
            *numbers.entry(words).or_insert_with(|| {
                listed.push(words);
                listed.len() - 1
            })
        };
        let mut asked = Vec::with_capacity(rules.len());
        for rule in rules {
            let any = rule.any.iter().map(|words| words.split(" + ").map(&mut number).collect());
            let any = any.collect();
            let none = rule.none.iter().map(|words| number(words)).collect();
            asked.push(Asked { any, none });
        }
        Self { phrases: Phrases::new(&listed), count: listed.len(), rules: asked }
    }

    /// What stands in `text`.
    pub(super) fn said_in(&self, text: &str) -> Said {
        let mut said = Said(vec![0; self.count.div_ceil(64)]);
        for (phrase, _) in self.phrases.all(text) {
            said.0[phrase / 64] |= 1 << (phrase % 64);
        }
        said
    }

    /// Whether the text has what the rule at this place asks, and nothing that it excludes.
    pub(super) fn fit(&self, rule: usize, said: &Said) -> bool {
        let asked = &self.rules[rule];
        (asked.any.is_empty() || asked.any.iter().any(|all| all.iter().all(|p| said.has(*p))))
            && !asked.none.iter().any(|phrase| said.has(*phrase))
    }
}
