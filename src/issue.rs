//! Writing and rendering an issue: from the file an editor writes to the subject, HTML and text that
//! a mail is made of.
//!
//! A file goes one way: [`source`] reads Markdown and front matter into the [`model`], [`lint`] says
//! what a reader would stumble over, [`render`] makes HTML (handlebars → MJML → HTML) and [`text`]
//! makes plain text, both with slots for each reader's data (see [`crate::merge`]).
//!
//! Everything here is pure: no database, no network, no clock. Folders with changed templates are
//! read once, when a [`render::Renderer`] is made.
//!
//! Content never passes through a parser after Markdown: templates and MJML see only markers, which
//! are replaced by escaped content at the very end. A title cannot become a template.

pub mod brand;
pub mod field;
pub mod html;
pub mod lint;
mod mjml;
pub mod model;
pub mod render;
pub mod rule;
mod sanitise;
pub mod source;
mod text;

pub use brand::Brand;
pub use model::IssueDocument;
pub use render::{RenderError, RenderedIssue, RenderedMail, Renderer, SampleReader, ServiceMail};
pub use source::{Parsed, parse};

/// A sample issue that shows all that an issue file can hold.
pub const SAMPLE: &str = include_str!("../email-templates/sample-issue.md");
