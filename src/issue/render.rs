//! From the model to what is mailed: subject, HTML and text with slots for each reader, and the page
//! for the archive.
//!
//! The order is fixed: model → handlebars → mrml, once an issue. Content goes around both (see
//! `weave`); a copy for one reader costs only the merge. Nothing here reads a file but
//! [`Renderer::new`], which reads a folder of changed templates.

pub(crate) mod body;
mod handmade;
pub mod palette;
mod service;
pub(crate) mod templates;
mod view;
pub(crate) mod weave;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use mrml::prelude::{parser::ParserOptions, render::RenderOptions};
use serde::{Deserialize, Serialize};

pub use body::escape;
pub use service::{RenderedMail, ServiceMail};

use crate::{
    issue::{
        brand::{Brand, SubjectError},
        html, mjml,
        model::{Content, IssueDocument},
        render::{palette::Palette, templates::Templates, view::Target, weave::Weave},
    },
    merge::{Field, MergeText, Reader, Segment},
};

/// Renders issues and service mails. Made once; shared freely.
#[derive(Debug)]
pub struct Renderer {
    templates: Templates,
}

/// An issue as it is mailed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderedIssue {
    /// The subject line.
    pub subject: String,
    /// The line beside the subject.
    pub preheader: Option<String>,
    /// The HTML part.
    pub html: MergeText,
    /// The text part, with LF line ends.
    pub text: MergeText,
    /// The issue for its page and for feeds.
    web: String,
}

/// Why something cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A template is broken.
    #[error("{file}:{line}: {message}")]
    Template {
        /// The template's file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A template file cannot be read.
    #[error("cannot read the template {path}: {source}")]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What the templates made is no MJML.
    #[error("the templates make MJML that cannot be read ({message}), near: {near}")]
    Mjml {
        /// What is wrong.
        message: String,
        /// The text around the place.
        near: String,
    },
    /// The subject cannot be made.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The newsletter's colour is none.
    #[error("`{0}` is no colour; write it as #rrggbb")]
    Accent(String),
    /// A template changes the text of a value.
    #[error("a template changes the text of a value; values are to be placed whole, once or more")]
    DamagedValue,
}

impl From<weave::DamagedMarker> for RenderError {
    fn from(_: weave::DamagedMarker) -> Self {
        Self::DamagedValue
    }
}

impl Renderer {
    /// A renderer with the built-in templates, of which a file of the same name in `override_dir`
    /// replaces any one. Changed templates are tried out at once, so that a mistake in them is known
    /// now and not at the next send.
    pub fn new(override_dir: Option<&Path>) -> Result<Self, RenderError> {
        let renderer = Self { templates: Templates::load(override_dir)? };
        if override_dir.is_some() {
            renderer.try_out()?;
        }
        Ok(renderer)
    }

    /// Renders an issue.
    pub fn issue(
        &self,
        document: &IssueDocument,
        brand: &Brand,
    ) -> Result<RenderedIssue, RenderError> {
        self.with_subject(document, brand, brand.subject(document)?)
    }

    /// Renders an issue that is still being written: where the subject cannot be made yet, the
    /// headline stands in. Not for sending.
    pub fn preview(
        &self,
        document: &IssueDocument,
        brand: &Brand,
    ) -> Result<RenderedIssue, RenderError> {
        let subject = brand.subject(document).unwrap_or_else(|_| brand.headline(document));
        self.with_subject(document, brand, subject)
    }

    fn with_subject(
        &self,
        document: &IssueDocument,
        brand: &Brand,
        subject: String,
    ) -> Result<RenderedIssue, RenderError> {
        let palette = palette_of(brand)?;
        let preheader = document.preheader.clone();
        let parts = match &document.content {
            Content::Markdown { .. } => self.written(document, brand, &palette)?,
            Content::Mjml { body } => handmade::from_mjml(body, brand)?,
            Content::Html { body } => handmade::from_html(body, brand)?,
        };
        Ok(RenderedIssue { subject, preheader, html: parts.html, text: parts.text, web: parts.web })
    }

    /// Renders a service mail.
    pub fn service(&self, mail: &ServiceMail, brand: &Brand) -> Result<RenderedMail, RenderError> {
        service::render(&self.templates, mail, brand, &palette_of(brand)?)
    }

    fn written(
        &self,
        document: &IssueDocument,
        brand: &Brand,
        palette: &Palette,
    ) -> Result<Parts, RenderError> {
        let mut weave = Weave::new();
        let data = view::issue(&mut weave, document, brand, palette, Target::Mail(palette));
        let mjml = self.templates.html("layout", &data)?;
        let html = weave.finish(&mjml_to_html(&mjml)?)?.into_merge_text();

        let mut weave = Weave::new();
        let data = view::issue(&mut weave, document, brand, palette, Target::Text);
        let text = tidy(&self.templates.text("issue", &data)?);
        let text = weave.finish(&text)?.into_merge_text();

        let mut weave = Weave::new();
        let data = view::issue(&mut weave, document, brand, palette, Target::Web(&brand.site_url));
        let web = self.templates.html("web", &data)?;
        let web = literal(&weave.finish(web.trim())?.into_merge_text());
        Ok(Parts { html, text, web })
    }

    /// Renders the sample and every service mail, for the errors only.
    fn try_out(&self) -> Result<(), RenderError> {
        let brand = Brand::new("Sample", "https://newsletter.example");
        let sample = crate::issue::parse("sample-issue.md", crate::issue::SAMPLE.as_bytes());
        self.issue(&sample.document, &brand)?;
        for mail in ServiceMail::examples() {
            self.service(&mail, &brand)?;
        }
        Ok(())
    }
}

impl RenderedIssue {
    /// The issue for its page in the archive and for feeds: HTML of the body alone, without styles,
    /// tracking or any reader's data.
    pub fn web_html(&self) -> &str {
        &self.web
    }

    /// The HTML part as [`SampleReader`] would get it.
    pub fn preview_html(&self) -> String {
        for_sample(&self.html)
    }

    /// The text part as [`SampleReader`] would get it.
    pub fn preview_text(&self) -> String {
        for_sample(&self.text)
    }

    /// How large the HTML part gets, in bytes, with room for each reader's values.
    pub fn html_bytes(&self) -> usize {
        // The longest usual value is a link with a token.
        const SLOT_BYTES: usize = 120;
        let size = |segment: &Segment| match segment {
            Segment::Literal(text) => text.len(),
            Segment::Slot { .. } => SLOT_BYTES,
        };
        self.html.segments.iter().map(size).sum()
    }
}

/// A reader who does not exist, to show an issue to whoever writes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SampleReader;

impl Reader for SampleReader {
    fn value(&self, field: &Field) -> Option<Cow<'_, str>> {
        let value = match field {
            Field::Address => "reader@example.org",
            Field::Name => "Ada Example",
            Field::UnsubscribeUrl | Field::PreferencesUrl | Field::IssueUrl => "#",
            Field::UnsubscribeMailto => "mailto:unsubscribe@example.org",
            Field::Attribute(_) => return None,
        };
        Some(Cow::Borrowed(value))
    }
}

/// Every field that the sample reader lacks has a fallback, or it would not have been taken.
fn for_sample(text: &MergeText) -> String {
    let mut out = String::new();
    match text.write(&SampleReader, &mut out) {
        Ok(()) => out,
        Err(_) => literal(text),
    }
}

/// The parts of an issue, however they came about.
pub(crate) struct Parts {
    html: MergeText,
    text: MergeText,
    web: String,
}

fn palette_of(brand: &Brand) -> Result<Palette, RenderError> {
    Palette::new(&brand.accent).ok_or_else(|| RenderError::Accent(brand.accent.clone()))
}

/// Runs mrml. Its warnings are errors; it loads no fonts and keeps no comments.
fn mjml_to_html(source: &str) -> Result<String, RenderError> {
    let fail = |message: String, position: Option<usize>| {
        let near = position.map_or_else(String::new, |at| around(source, at));
        RenderError::Mjml { message, near }
    };
    if html::nesting_bound(source) > mjml::DEPTH_MAX {
        return Err(fail(format!("elements nest more than {} deep", mjml::DEPTH_MAX), None));
    }
    let parsed = mrml::parse_with_options(source, &ParserOptions::default())
        .map_err(|error| fail(error.to_string(), position_in(&error)))?;
    if let Some(warning) = parsed.warnings.first() {
        return Err(fail(warning.kind.to_string(), Some(warning.span.start)));
    }
    let options = RenderOptions {
        disable_comments: true,
        fonts: std::collections::HashMap::new(),
        ..RenderOptions::default()
    };
    parsed.element.render(&options).map_err(|error| fail(error.to_string(), None))
}

fn position_in(error: &mrml::prelude::parser::Error) -> Option<usize> {
    use mrml::prelude::parser::Error;
    match error {
        Error::UnexpectedElement { position, .. }
        | Error::UnexpectedToken { position, .. }
        | Error::MissingAttribute { position, .. }
        | Error::InvalidAttribute { position, .. }
        | Error::InvalidFormat { position, .. }
        | Error::IncludeLoaderError { position, .. } => Some(position.start),
        _ => None,
    }
}

/// The text around byte `at`, in one line.
fn around(text: &str, at: usize) -> String {
    let from = text.floor_char_boundary(at.saturating_sub(60));
    let to = text.ceil_char_boundary((at + 60).min(text.len()));
    text[from..to].split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text without runs of empty lines or spaces at line ends; ends with one line end.
fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut empty = 0;
    for line in text.trim().lines().map(str::trim_end) {
        if line.is_empty() {
            empty += 1;
            continue;
        }
        let gap = if out.is_empty() { 0 } else { 1 + empty.min(2) };
        out.extend(std::iter::repeat_n('\n', gap));
        out.push_str(line);
        empty = 0;
    }
    out.push('\n');
    out
}

/// The text of a fragment that has no slots; a slot that is there after all shows its fallback.
fn literal(text: &MergeText) -> String {
    let piece = |segment: &Segment| match segment {
        Segment::Literal(text) => text.clone(),
        Segment::Slot { escape, fallback, .. } => {
            escape.apply(fallback.clone().unwrap_or_default().into()).into_owned()
        }
    };
    text.segments.iter().map(piece).collect()
}

#[cfg(test)]
mod tests;
