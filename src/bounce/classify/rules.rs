//! The rules file: its form, its checks, and when a rule fits. Matching is plain substrings in
//! text that was normalised before, so that a rule can be read; all are looked for in one pass.

mod words;

use std::{
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use words::Words;

use super::{Evidence, Fault, Permanence, Reason};
use crate::{
    provider::{ProviderId, Providers},
    smtp::{client::Phase, reply::EnhancedCode},
};

const GENERAL: &str = include_str!("rules.toml");
const PROVIDERS: &str = include_str!("providers.toml");

/// One rule: every condition that is given must hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Stable, shown to operators.
    pub name: String,
    /// Whose fault it finds.
    pub fault: Fault,
    /// What is wrong.
    pub reason: Reason,
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
    /// The names of the providers at which it holds; none for all.
    #[serde(default)]
    pub provider: Vec<String>,
    #[serde(skip)]
    providers: Vec<ProviderId>,
    /// What follows beyond the copy itself.
    #[serde(default)]
    pub action: Option<Action>,
    /// For whom.
    #[serde(default)]
    pub scope: Scope,
    /// Replies that this rule must decide.
    #[serde(default)]
    example: Vec<Example>,
}

/// A reply that a rule must decide.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
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

impl Example {
    fn evidence(&self, providers: &Providers) -> Result<Evidence<'_>, String> {
        let enhanced = self
            .enhanced
            .as_ref()
            .map(|text| text.parse().map_err(|_| format!("`{text}` is no enhanced status code")));
        let provider = self.provider.as_ref().map(|name| {
            providers.by_name(name).ok_or_else(|| format!("there is no provider `{name}`"))
        });
        Ok(Evidence {
            phase: self.phase,
            code: self.code,
            enhanced: enhanced.transpose()?,
            text: &self.text,
            provider: provider.transpose()?.unwrap_or(ProviderId::OTHER),
        })
    }
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
    /// Checks what the types cannot say, and finds the providers.
    fn check(&mut self, providers: &Providers) -> Result<(), String> {
        if self.any.is_empty() && self.enhanced.is_empty() && self.code.is_empty() {
            return Err("it fits everything; give it `any`, `enhanced` or `code`".to_owned());
        }
        if self.example.is_empty() {
            return Err("it has no example of a reply that it decides".to_owned());
        }
        for words in self.any.iter().chain(&self.none) {
            if *words != words.to_lowercase() || words.len() < 3 {
                return Err(format!("`{words}` must be in lower case and three letters or more"));
            }
        }
        if let Some(action) = &self.action {
            let endless = action.deed != Deed::Halt && action.lasts.is_zero();
            if action.threshold == 0 || action.within.is_zero() || endless {
                return Err("its action needs `threshold`, `within` and `for`".to_owned());
            }
        }
        let id = |name: &String| {
            providers.by_name(name).ok_or_else(|| format!("there is no provider `{name}`"))
        };
        self.providers = self.provider.iter().map(id).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Whether every condition but those on words holds.
    fn fits_codes(&self, evidence: &Evidence<'_>) -> bool {
        (self.phase.is_empty() || evidence.phase.is_some_and(|p| self.phase.contains(&p)))
            && (self.code.is_empty() || evidence.code.is_some_and(|c| self.code.contains(&c)))
            && !(self.code_absent && evidence.code.is_some())
            && (self.enhanced.is_empty()
                || evidence.enhanced.is_some_and(|e| self.enhanced.iter().any(|p| p.fits(e))))
            && (self.provider.is_empty() || self.providers.contains(&evidence.provider))
    }
}

/// What follows from a reply beyond its own copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// What is done.
    #[serde(rename = "do")]
    pub deed: Deed,
    /// After so many such replies…
    pub threshold: u32,
    /// …within this time.
    #[serde(with = "crate::config::duration")]
    pub within: Duration,
    /// For how long; a halt ends by an operator's word only.
    #[serde(rename = "for", with = "crate::config::duration", default)]
    pub lasts: Duration,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// One connection only.
    Throttle,
    /// Nothing goes for a while: the breaker opens.
    Open,
    /// The issue is halted.
    Halt,
}

/// Whom a reply concerns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The provider at the relay that said it.
    #[default]
    Provider,
    /// The whole relay.
    Relay,
}

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Not TOML of the expected form; the message has line and caret.
    #[error("the rules cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A rule that makes no sense.
    #[error("rule `{rule}`: {problem}")]
    Rule {
        /// Its name.
        rule: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// The rules in the order in which they are tried.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    words: Words,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rule: Vec<Rule>,
}

static INSTALLED: OnceLock<Rules> = OnceLock::new();

impl Rules {
    /// Those that ship with the program.
    pub fn embedded() -> &'static Self {
        static EMBEDDED: LazyLock<Rules> = LazyLock::new(|| {
            let read = |text| Rules::parse(text, Providers::embedded());
            let mut rules = read(PROVIDERS).expect("the embedded rules are read by a test");
            rules.extend(read(GENERAL).expect("the embedded rules are read by a test"));
            Rules::of(rules)
        });
        &EMBEDDED
    }

    /// The embedded rules with an operator's file over them: a rule with the name of an embedded one
    /// takes its place, any other is tried before them all. Each of the file must decide its examples,
    /// as the rules then stand.
    pub fn load(overrides: &str, providers: &Providers) -> Result<Self, RulesError> {
        let ours = Self::parse(overrides, providers)?;
        let mut rules: Vec<Rule> = Self::parse(PROVIDERS, providers)?;
        rules.extend(Self::parse(GENERAL, providers)?);
        let own: Vec<String> = ours.iter().map(|rule| rule.name.clone()).collect();
        let mut first = Vec::new();
        for rule in ours {
            match rules.iter_mut().find(|shipped| shipped.name == rule.name) {
                Some(shipped) => *shipped = rule,
                None => first.push(rule),
            }
        }
        first.extend(rules);
        let rules = Self::of(first);
        for name in own {
            rules.check_examples(&name, providers)?;
        }
        Ok(rules)
    }

    /// Uses these rules from now on, for everything in this process: what a reply means must not
    /// depend on who asks. False when others were installed before.
    pub fn install(self) -> bool {
        INSTALLED.set(self).is_ok()
    }

    /// The rules in use.
    pub fn current() -> &'static Self {
        INSTALLED.get().unwrap_or_else(|| Self::embedded())
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    fn of(rules: Vec<Rule>) -> Self {
        let words = Words::of(&rules);
        Self { rules, words }
    }

    /// The first rule that fits; `text` is the normalised text of `evidence`.
    pub(super) fn find(&self, evidence: &Evidence<'_>, text: &str) -> Option<&Rule> {
        let said = self.words.said_in(text);
        let mut rules = self.rules.iter().enumerate();
        rules.find(|(at, rule)| said.fits(*at) && rule.fits_codes(evidence)).map(|(_, rule)| rule)
    }

    fn parse(text: &str, providers: &Providers) -> Result<Vec<Rule>, RulesError> {
        let mut rules = toml::from_str::<File>(text)?.rule;
        for rule in &mut rules {
            rule.check(providers)
                .map_err(|problem| RulesError::Rule { rule: rule.name.clone(), problem })?;
        }
        Ok(rules)
    }

    fn check_examples(&self, name: &str, providers: &Providers) -> Result<(), RulesError> {
        let fail = |problem| RulesError::Rule { rule: name.to_owned(), problem };
        for example in self.rules.iter().filter(|rule| rule.name == name).flat_map(|r| &r.example) {
            let evidence = example.evidence(providers).map_err(fail)?;
            let text = super::normalised(&example.text);
            let found = self.find(&evidence, &text).map_or("none", |rule| rule.name.as_str());
            if found != name {
                return Err(fail(format!(
                    "its example `{}` is decided by `{found}`; mend the rule or the example",
                    example.text
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{super::classify, *};

    #[test]
    fn every_rule_decides_its_examples() {
        let mut wrong = Vec::new();
        for rule in Rules::embedded().iter() {
            for example in &rule.example {
                let class = classify(&example.evidence(Providers::embedded()).unwrap());
                if class.rule != rule.name {
                    wrong.push(format!("{}: {} took `{}`", rule.name, class.rule, example.text));
                }
                assert_eq!(class.action.map(|(action, _)| action), rule.action.as_ref());
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn no_two_rules_have_one_name_and_actions_are_only_against_ourselves() {
        let mut names = HashSet::new();
        for rule in Rules::embedded().iter() {
            assert!(names.insert(&rule.name), "{} twice", rule.name);
            let of_reader = matches!(rule.fault, Fault::Recipient | Fault::Mailbox);
            assert!(!of_reader || rule.action.is_none(), "{} punishes for a reader", rule.name);
        }
    }

    const OWN: &str = r#"
        [[rule]]
        name = "campus-busy"
        fault = "rate"
        reason = "too-fast"
        any = ["the campus sleeps"]
        action = { do = "open", threshold = 2, within = "1m", for = "5m" }
        example = [{ code = 450, text = "450 The campus sleeps: greylisted" }]
        [[rule]]
        name = "ses-rate"
        fault = "rate"
        reason = "too-fast"
        any = ["slow there"]
        example = [{ text = "slow there" }]
    "#;

    #[test]
    fn a_file_of_ones_own_goes_before_and_replaces_by_name() {
        let rules = Rules::load(OWN, Providers::embedded()).unwrap();
        let decides = |text: &str| {
            let provider = ProviderId::OTHER;
            let (phase, code, enhanced) = (Some(Phase::Dot), Some(454), None);
            let evidence = Evidence { phase, code, enhanced, text, provider };
            rules.find(&evidence, &super::super::normalised(text)).map(|rule| rule.name.as_str())
        };
        assert_eq!(decides("The campus sleeps: greylisted"), Some("campus-busy"));
        assert_eq!(decides("Greylisted"), Some("greylisted"));
        assert_ne!(decides("Throttling failure: Maximum sending rate exceeded"), Some("ses-rate"));
        assert_eq!(rules.rules.len(), Rules::embedded().rules.len() + 1);
    }

    #[test]
    fn mistakes_in_a_file_are_named() {
        let error = |from: &str, to: &str| {
            Rules::load(&OWN.replace(from, to), Providers::embedded()).unwrap_err().to_string()
        };
        let wrong = error("450 The campus sleeps", "450 The campus wakes");
        assert!(wrong.contains("rule `campus-busy`: its example") && wrong.contains("greylisted"));
        // One that takes the place of a shipped rule is held to its examples too.
        let wrong = error("text = \"slow there\"", "text = \"greylisted here\"");
        assert!(wrong.contains("rule `ses-rate`: its example `greylisted here`"), "{wrong}");
        assert!(error("the campus sleeps", "The Campus").contains("must be in lower case"));
        assert!(error(", for = \"5m\"", "").contains("needs `threshold`, `within` and `for`"));
        assert!(error("any = [\"slow there\"]", "").contains("it fits everything"));
        assert!(
            error("any = [\"slow", "provider = [\"nobody\"]\nany = [\"slow")
                .contains("no provider `nobody`")
        );
        assert!(error("do = \"open\"", "do = \"shout\"").contains("unknown variant"));
    }
}
