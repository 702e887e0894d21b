//! The rules an issue is held to: their stable names, how grave each is, and what each asks for.
//! Names never change meaning; scripts and overrides rely on them.

use crate::diagnostic::{
    Level::{Error, Warning},
    Rule,
};

macro_rules! rules {
    ($($name:ident = $code:literal, $level:expr, $summary:literal;)*) => {
        $(
            #[doc = $summary]
            pub const $name: Rule = Rule { code: $code, level: $level, summary: $summary };
        )*
        /// Every rule, in the order of the documentation.
        pub const ALL: &[Rule] = &[$($name),*];
    };
}

rules! {
    // The file as such.
    TOO_LARGE = "file-too-large", Error, "An issue file is at most 2 MB.";
    NOT_TEXT = "not-text", Error, "An issue file is UTF-8 text without control characters.";
    TOO_MANY_ITEMS = "too-many-items", Error, "An issue has at most 2,000 items.";
    TOO_DEEP = "nesting-too-deep", Error, "Quotes, lists and emphasis nest at most 24 deep.";
    TOO_MANY_PROBLEMS = "too-many-problems", Error, "At most 200 problems of one file are listed.";
    // Front matter.
    FRONT_MATTER_MISSING = "front-matter-missing", Error, "The file begins with front matter between two lines of `---`.";
    FRONT_MATTER_INVALID = "front-matter-invalid", Error, "Front matter is YAML of the form `key: value`.";
    UNKNOWN_KEY = "unknown-key", Error, "Front matter holds only keys that mean something.";
    DUPLICATE_KEY = "duplicate-key", Error, "A key of the front matter stands once.";
    INVALID_VALUE = "invalid-value", Error, "A value of the front matter is of its key's form.";
    // Body.
    EMPTY_ISSUE = "empty-issue", Error, "An issue says something.";
    HTML_IN_MARKDOWN = "html-in-markdown", Error, "Markdown holds no HTML tags.";
    UNKNOWN_VARIABLE = "unknown-variable", Error, "`{{…}}` names a reader field that exists.";
    FIELD_WITHOUT_FALLBACK = "field-without-fallback", Error, "A field that a reader may lack has a fallback.";
    FIELD_NOT_HERE = "field-not-here", Error, "Front matter holds no reader fields.";
    SPONSOR_UNLABELLED = "sponsor-unlabelled", Error, "A sponsor message names its sponsor.";
    SPONSOR_UNCLOSED = "sponsor-unclosed", Error, "A sponsor message ends with `:::`.";
    UNKNOWN_DIRECTIVE = "unknown-directive", Error, "`:::` opens or closes a sponsor message.";
    HEADING_WITHOUT_LINK = "heading-without-link", Warning, "In a digest, a `##` heading is a link.";
    ITEM_WITH_TWO_LINKS = "item-with-two-links", Error, "The heading of an item is one link.";
    EMPTY_HEADING = "empty-heading", Error, "A heading has text.";
    INVALID_MJML = "invalid-mjml", Error, "A hand-made MJML body is well-formed and uses known tags.";
    FORBIDDEN_TAG = "forbidden-tag", Error, "A mail holds no scripts, forms, frames, includes or remote styles.";
    // Numbers, dates, headers.
    NUMBER_MISSING = "number-missing", Error, "An issue has a number.";
    NUMBER_TAKEN = "number-taken", Error, "An issue's number is new.";
    NUMBER_GAP = "number-gap", Warning, "Numbers follow each other.";
    DATE_MISSING = "date-missing", Warning, "An issue has a date.";
    DATE_PAST = "date-past", Warning, "An issue is not dated in the past.";
    SUBJECT_EMPTY = "subject-empty", Error, "A mail has a subject.";
    SUBJECT_LONG = "subject-long", Warning, "A subject has at most 78 characters.";
    PREHEADER_MISSING = "preheader-missing", Warning, "An issue has a preheader.";
    DISPLAY_NAME = "display-name", Error, "The sender's name holds no characters that mail clients strip or misread.";
    AUDIENCE_RECENT = "audience-recent", Warning, "The same readers were not mailed a few days ago.";
    // Content.
    PLACEHOLDER = "placeholder-text", Error, "No placeholder text is left.";
    ITEM_WITHOUT_BYLINE = "item-without-byline", Warning, "An item says who made what it links to.";
    ITEM_WITHOUT_COMMENTARY = "item-without-commentary", Warning, "An item says why it is worth reading.";
    DISCLOSURE_MISSING = "disclosure-missing", Error, "An item from a sponsor or an employer says so.";
    HEADING_ORDER = "heading-order", Warning, "Headings do not skip a level.";
    // Links and images.
    LINK_DUPLICATE = "link-duplicate", Warning, "A link stands once in an issue.";
    LINK_IN_ARCHIVE = "link-in-archive", Warning, "A link was not in an earlier issue.";
    LINK_RELATIVE = "link-relative", Error, "A link is absolute.";
    LINK_SCHEME = "link-scheme", Error, "A link is https (or mailto).";
    LINK_HTTP = "link-http", Warning, "A link is https rather than http.";
    LINK_TRACKING = "link-tracking", Warning, "A link carries no tracking parameters.";
    LINK_TEXT = "link-text", Warning, "A link's text says where it leads.";
    LINK_UNREAD = "link-unread", Warning, "What looks like a link is one.";
    LINK_EMPTY = "link-empty", Error, "A link has text and a target.";
    IMAGE_ALT = "image-without-alt", Error, "An image has an alternative text.";
    IMAGE_SIZE = "image-without-size", Warning, "An image has width and height.";
    IMAGE_DATA = "image-data-uri", Error, "An image is fetched over https, not embedded as data.";
    // What was rendered.
    HTML_LARGE = "html-large", Warning, "The HTML part is at most 80 KB.";
    HTML_TOO_LARGE = "html-too-large", Error, "The HTML part is under 102 KB, where Gmail cuts.";
    TEXT_EMPTY = "text-empty", Error, "The text part says something.";
    TEXT_LINK_MISSING = "text-link-missing", Error, "The text part has every link that the HTML has.";
    UNSUBSCRIBE_MISSING = "unsubscribe-missing", Error, "A mail has a link to leave.";
    HTML_LANG = "html-lang", Error, "`lang` and `dir` stand on html and on a wrapper in the body.";
    HTML_HEADINGS = "html-headings", Warning, "The mail has one h1, and headings in order.";
    HTML_ALT = "html-alt", Error, "Every image of the mail has alt text.";
    HTML_TABLES = "html-tables", Warning, "Tables for layout have role=presentation.";
    HTML_TEXT_SMALL = "html-text-small", Warning, "Text is at least 14 px.";
}

/// The rule of this name.
pub fn named(code: &str) -> Option<&'static Rule> {
    ALL.iter().find(|rule| rule.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_stable_in_form() {
        let mut seen = std::collections::HashSet::new();
        for rule in ALL {
            assert!(seen.insert(rule.code), "{} stands twice", rule.code);
            assert!(rule.code.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", rule.code);
            assert!(rule.summary.ends_with('.'), "{}", rule.code);
            assert_eq!(named(rule.code), Some(rule));
        }
    }
}
