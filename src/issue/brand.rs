//! What a newsletter puts around every issue: names, addresses, language, colour, subject pattern.

use serde::{Deserialize, Serialize};

use crate::{
    diagnostic::nearest,
    issue::{model::IssueDocument, render::palette::ACCENT_DEFAULT},
};

/// The subject pattern of a newsletter that chose none.
pub const SUBJECT_PATTERN_DEFAULT: &str = "{{newsletter}} Issue #{{number}}";

/// The names that a subject pattern may hold.
const PATTERN_NAMES: &[&str] = &["newsletter", "number", "title", "date"];

/// What a newsletter puts around every issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Brand {
    /// The newsletter's name.
    pub name: String,
    /// What it is, in one sentence.
    pub description: Option<String>,
    /// Language of its text (BCP 47).
    pub language: String,
    /// The direction its text runs.
    pub direction: Direction,
    /// Its home page (`https`).
    pub site_url: String,
    /// The postal address of whoever sends it, as the law of many countries wants it.
    pub postal_address: Option<String>,
    /// Its colour, `#rrggbb`.
    pub accent: String,
    /// The sender's name as mail clients show it.
    pub sender_name: String,
    /// The pattern of a subject, with `{{newsletter}}`, `{{number}}`, `{{title}}` and `{{date}}`.
    pub subject_pattern: String,
    /// A picture that stands for the name.
    pub logo: Option<Logo>,
}

/// A picture that stands for a newsletter's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logo {
    /// Where it is fetched from (`https`).
    pub url: String,
    /// Width in CSS pixels.
    pub width: u32,
    /// Height in CSS pixels.
    pub height: u32,
}

/// The direction text runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Left to right.
    #[default]
    Ltr,
    /// Right to left.
    Rtl,
}

impl Direction {
    /// As the `dir` attribute wants it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ltr => "ltr",
            Self::Rtl => "rtl",
        }
    }
}

impl Default for Brand {
    fn default() -> Self {
        Self {
            name: String::new(),
            description: None,
            language: "en".to_owned(),
            direction: Direction::Ltr,
            site_url: String::new(),
            postal_address: None,
            accent: ACCENT_DEFAULT.to_owned(),
            sender_name: String::new(),
            subject_pattern: SUBJECT_PATTERN_DEFAULT.to_owned(),
            logo: None,
        }
    }
}

/// Why a subject pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// It names something that does not exist.
    #[error("the subject pattern names `{{{{{name}}}}}`, which does not exist{}", hint(*nearest))]
    Unknown {
        /// What was written.
        name: String,
        /// What may be meant.
        nearest: Option<&'static str>,
    },
    /// It opens `{{` and does not close it.
    #[error("the subject pattern opens `{{{{` and does not close it")]
    Unclosed,
    /// It names something that this issue does not have.
    #[error(
        "the subject pattern wants the issue's {0}, and the issue has none; \
         set `{0}` or `subject` in its front matter"
    )]
    Missing(&'static str),
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean `{{{{{name}}}}}`?"))
}

impl Brand {
    /// A newsletter with this name and home page, and defaults otherwise.
    pub fn new(name: impl Into<String>, site_url: impl Into<String>) -> Self {
        let name = name.into();
        Self { sender_name: name.clone(), name, site_url: site_url.into(), ..Self::default() }
    }

    /// The subject of an issue: its own, or the pattern filled in.
    pub fn subject(&self, issue: &IssueDocument) -> Result<String, SubjectError> {
        if let Some(subject) = &issue.subject {
            return Ok(subject.clone());
        }
        let mut subject = String::new();
        let mut rest = self.subject_pattern.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            subject.push_str(before);
            let (name, after) = after.split_once("}}").ok_or(SubjectError::Unclosed)?;
            subject.push_str(&self.pattern_value(name.trim(), issue)?);
            rest = after;
        }
        subject.push_str(rest);
        Ok(subject.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// The headline of an issue: its title, or the newsletter's name and the number.
    pub fn headline(&self, issue: &IssueDocument) -> String {
        match (&issue.title, issue.number) {
            (Some(title), _) => title.clone(),
            (None, Some(number)) => format!("{} Issue #{number}", self.name),
            (None, None) => self.name.clone(),
        }
    }

    fn pattern_value(&self, name: &str, issue: &IssueDocument) -> Result<String, SubjectError> {
        match name {
            "newsletter" => Ok(self.name.clone()),
            "number" => {
                issue.number.map(|number| number.to_string()).ok_or(SubjectError::Missing("number"))
            }
            "title" => issue.title.clone().ok_or(SubjectError::Missing("title")),
            "date" => issue.date.map(long_date).ok_or(SubjectError::Missing("date")),
            unknown => Err(SubjectError::Unknown {
                name: unknown.to_owned(),
                nearest: nearest(unknown, PATTERN_NAMES.iter().copied()),
            }),
        }
    }
}

/// A date as readers see it: 11 August 2024.
pub fn long_date(date: jiff::civil::Date) -> String {
    date.strftime("%-d %B %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, expected: Result<&str, &str>) {
        let brand = Brand { subject_pattern: pattern.into(), ..Brand::new("SRE Digest", "") };
        let issue = IssueDocument {
            number: Some(437),
            date: "2024-08-11".parse().ok(),
            ..IssueDocument::default()
        };
        let subject = brand.subject(&issue).map_err(|error| error.to_string());
        assert_eq!(subject.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn subject_patterns() {
        check(SUBJECT_PATTERN_DEFAULT, Ok("SRE Digest Issue #437"));
        check("{{ newsletter }} of {{date}}", Ok("SRE Digest of 11 August 2024"));
        check("plain", Ok("plain"));
        check(
            "{{nubmer}}",
            Err(
                "the subject pattern names `{{nubmer}}`, which does not exist; did you mean `{{number}}`?",
            ),
        );
        check(
            "{{title}}",
            Err(
                "the subject pattern wants the issue's title, and the issue has none; set `title` or `subject` in its front matter",
            ),
        );
        check("{{number", Err("the subject pattern opens `{{` and does not close it"));
    }
}
