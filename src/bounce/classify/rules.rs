//! The rules file: its form, its checks, and when a rule fits. Matching is plain substrings in
//! text that was normalised before, so that a rule can be read and its cost is linear.

use std::sync::LazyLock;

use serde::Deserialize;

use super::{Evidence, Fault, Permanence, Reason};
use crate::{
    provider::Providers,
    smtp::{client::Phase, reply::EnhancedCode},
};

const EMBEDDED: &str = include_str!("rules.toml");

/// One rule: every condition that is given must hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// Stable, shown to operators.
    pub(super) name: String,
    pub(super) fault: Fault,
    pub(super) reason: Reason,
    /// Stands when no code says otherwise; `transient` stands against any code.
    #[serde(default)]
    pub(super) permanence: Option<Permanence>,
    /// The match is a statement rather than mere wording.
    #[serde(default)]
    pub(super) stated: bool,
    /// At least one of these stands in the text. `a + b` means both do.
    #[serde(default)]
    any: Vec<String>,
    /// None of these stands in the text.
    #[serde(default)]
    none: Vec<String>,
    /// At least one of these codes; `x` and `*` stand for any class or number.
    #[serde(default)]
    enhanced: Vec<Pattern>,
    #[serde(default)]
    code: Vec<u16>,
    /// There is no reply code: the reporting server speaks for itself.
    #[serde(default)]
    code_absent: bool,
    #[serde(default)]
    phase: Vec<Phase>,
    /// Provider names.
    #[serde(default)]
    provider: Vec<String>,
    /// Replies that this rule must decide.
    #[cfg_attr(not(test), expect(dead_code, reason = "examples are read by the test"))]
    example: Vec<Example>,
}

/// A reply that a rule must decide.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(test), expect(dead_code, reason = "examples are read by the test"))]
struct Example {
    text: String,
    #[serde(default)]
    code: Option<u16>,
    #[serde(default)]
    enhanced: Option<String>,
    #[serde(default)]
    phase: Option<Phase>,
    #[serde(default)]
    provider: Option<String>,
}

/// `5.1.1`, `x.2.2`, `5.7.*`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Pattern(Option<u8>, Option<u16>, Option<u16>);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no pattern of an enhanced status code");
        let mut pieces = text.split('.');
        let mut next = || pieces.next().ok_or_else(wrong);
        let number = |piece: &str| match piece {
            "x" | "*" => Ok(None),
            digits => digits.parse::<u16>().map(Some).map_err(|_| wrong()),
        };
        let (class, subject, detail) = (number(next()?)?, number(next()?)?, number(next()?)?);
        let class = class.map(|c| u8::try_from(c).map_err(|_| wrong())).transpose()?;
        Ok(Self(class, subject, detail))
    }
}

impl Pattern {
    fn fits(&self, EnhancedCode(class, subject, detail): EnhancedCode) -> bool {
        self.0.is_none_or(|c| c == class)
            && self.1.is_none_or(|s| s == subject)
            && self.2.is_none_or(|d| d == detail)
    }
}

impl Rule {
    /// Whether every condition holds; `text` is the normalised text of `evidence`.
    pub(super) fn fits(&self, evidence: &Evidence<'_>, text: &str) -> bool {
        let all = |phrase: &String| phrase.split(" + ").all(|words| text.contains(words));
        (self.phase.is_empty() || evidence.phase.is_some_and(|p| self.phase.contains(&p)))
            && (self.code.is_empty() || evidence.code.is_some_and(|c| self.code.contains(&c)))
            && !(self.code_absent && evidence.code.is_some())
            && (self.enhanced.is_empty()
                || evidence.enhanced.is_some_and(|e| self.enhanced.iter().any(|p| p.fits(e))))
            && (self.provider.is_empty()
                || self
                    .provider
                    .iter()
                    .any(|name| Providers::embedded().by_name(name) == Some(evidence.provider)))
            && (self.any.is_empty() || self.any.iter().any(all))
            && !self.none.iter().any(|words| text.contains(words.as_str()))
    }
}

/// The rules in the order in which they are tried.
pub(super) fn embedded() -> &'static [Rule] {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        rule: Vec<Rule>,
    }
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
        let file: File = toml::from_str(EMBEDDED).expect("the embedded rules are read by a test");
        file.rule
    });
    &RULES
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{super::classify, *};
    use crate::provider::ProviderId;

    #[test]
    fn every_rule_decides_its_examples() {
        let mut wrong = Vec::new();
        for rule in embedded() {
            assert!(!rule.example.is_empty(), "rule {} has no example", rule.name);
            for example in &rule.example {
                let enhanced = example.enhanced.as_ref().map(|text| text.parse().unwrap());
                let provider = example
                    .provider
                    .as_ref()
                    .map_or(ProviderId::OTHER, |n| Providers::embedded().by_name(n).unwrap());
                let class = classify(&Evidence {
                    phase: example.phase,
                    code: example.code,
                    enhanced,
                    text: &example.text,
                    provider,
                });
                if class.rule != rule.name {
                    wrong.push(format!("{}: {} took `{}`", rule.name, class.rule, example.text));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn the_rules_are_well_formed() {
        let mut names = HashSet::new();
        for rule in embedded() {
            assert!(names.insert(&rule.name), "{} twice", rule.name);
            let conditions = rule.any.len() + rule.enhanced.len() + rule.code.len();
            assert!(conditions > 0, "{} fits everything", rule.name);
            for words in rule.any.iter().chain(&rule.none) {
                assert_eq!(*words, words.to_lowercase(), "{}: text is lower case", rule.name);
                assert!(words.len() >= 3, "{}: `{words}` is too short to mean it", rule.name);
            }
            for name in &rule.provider {
                assert!(Providers::embedded().by_name(name).is_some(), "{}: {name}", rule.name);
            }
        }
    }
}
