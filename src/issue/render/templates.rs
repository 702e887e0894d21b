//! The templates: those built in, a folder that replaces some, and their two registries, one that
//! escapes for HTML and one that does not.
//!
//! Both are strict: a template that names what is not there is an error, not an empty place.

use std::{collections::HashMap, fs, path::Path};

use handlebars::Handlebars;
use rust_embed::RustEmbed;
use serde_json::Value;

use crate::{
    diagnostic::nearest,
    issue::{
        mjml,
        render::{RenderError, body::escape},
    },
};

/// The largest template file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;

#[derive(RustEmbed)]
#[folder = "email-templates/"]
struct BuiltIn;

/// The compiled templates.
#[derive(Debug)]
pub(crate) struct Templates {
    html: Handlebars<'static>,
    text: Handlebars<'static>,
    /// The file of each template, by registry and name.
    files: HashMap<(bool, String), String>,
}

impl Templates {
    /// Compiles the built-in templates, those in `folder` instead of the ones of the same name.
    pub(crate) fn load(folder: Option<&Path>) -> Result<Self, RenderError> {
        let mut templates = Self { html: registry(), text: registry(), files: HashMap::new() };
        templates.html.register_escape_fn(escape);
        templates.text.register_escape_fn(handlebars::no_escape);
        if let Some(folder) = folder {
            refuse_strangers(folder)?;
        }
        for file in BuiltIn::iter().filter(|file| is_template(file)) {
            let changed = folder.map(|folder| folder.join(&*file)).filter(|path| path.exists());
            if let Some(path) = changed {
                templates.add(&file, &path.display().to_string(), &read(&path)?)?;
            } else {
                let built_in = BuiltIn::get(&file).map(|found| found.data).unwrap_or_default();
                templates.add(&file, &file, &String::from_utf8_lossy(&built_in))?;
            }
        }
        Ok(templates)
    }

    /// Fills in a template of the registry that escapes for HTML.
    pub(crate) fn html(&self, name: &str, data: &Value) -> Result<String, RenderError> {
        self.html.render(name, data).map_err(|error| self.render_error(true, name, &error))
    }

    /// Fills in a template of the registry for plain text.
    pub(crate) fn text(&self, name: &str, data: &Value) -> Result<String, RenderError> {
        self.text.render(name, data).map_err(|error| self.render_error(false, name, &error))
    }

    fn add(&mut self, file: &str, shown: &str, source: &str) -> Result<(), RenderError> {
        let name = file.split('.').next().unwrap_or(file).to_owned();
        let is_html = !file.ends_with(".txt.hbs");
        let source = source.replace("\r\n", "\n");
        if file.ends_with(".mjml.hbs") {
            check_markup(shown, &source)?;
        }
        let registry = if is_html { &mut self.html } else { &mut self.text };
        registry.register_template_string(&name, &source).map_err(|error| {
            let (line, _) = error.pos().unwrap_or((1, 1));
            template_error(shown, line, error.reason().to_string())
        })?;
        self.files.insert((is_html, name), shown.to_owned());
        Ok(())
    }

    fn render_error(
        &self,
        is_html: bool,
        name: &str,
        error: &handlebars::RenderError,
    ) -> RenderError {
        let name = error.template_name.as_deref().unwrap_or(name);
        let file = self.files.get(&(is_html, name.to_owned())).map_or(name, String::as_str);
        template_error(file, error.line_no.unwrap_or(1), error.reason().to_string())
    }
}

fn is_template(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "hbs")
}

fn registry() -> Handlebars<'static> {
    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    registry.set_prevent_indent(true);
    registry
}

fn template_error(file: &str, line: usize, message: String) -> RenderError {
    RenderError::Template { file: file.to_owned(), line, message }
}

fn read(path: &Path) -> Result<String, RenderError> {
    let fail = |source| RenderError::File { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(fail)?.len();
    if size > FILE_BYTES_MAX {
        let message = format!("the template has {size} bytes; at most {FILE_BYTES_MAX} are read");
        return Err(template_error(&path.display().to_string(), 1, message));
    }
    fs::read_to_string(path).map_err(fail)
}

/// A file of a name that replaces nothing is a slip that would go unnoticed.
fn refuse_strangers(folder: &Path) -> Result<(), RenderError> {
    let fail = |source| RenderError::File { path: folder.to_owned(), source };
    let known: Vec<String> = BuiltIn::iter().map(std::borrow::Cow::into_owned).collect();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
        if is_template(&name) && !known.contains(&name) {
            let hint = nearest(&name, known.iter().map(String::as_str))
                .map_or_else(String::new, |near| format!("; did you mean {near}?"));
            let message = format!("no template has this name{hint}");
            return Err(template_error(&folder.join(&name).display().to_string(), 1, message));
        }
    }
    Ok(())
}

/// Looks at the tags of one template. mrml would find the same in what all templates make together,
/// where no file or line is left.
fn check_markup(file: &str, source: &str) -> Result<(), RenderError> {
    let masked = mask_expressions(source);
    match mjml::misfit(&masked) {
        Some((range, message)) => {
            let line = masked[..range.start].matches('\n').count() + 1;
            Err(template_error(file, line, message))
        }
        None => Ok(()),
    }
}

/// The template with each `{{…}}` as spaces, line ends kept.
fn mask_expressions(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{{") {
        out.push_str(&rest[..at]);
        let close = if rest[at..].starts_with("{{!--") { "--}}" } else { "}}" };
        let end = rest[at..].find(close).map_or(rest.len(), |end| at + end + close.len());
        let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
        out.extend(rest[at..end].chars().map(blank));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}
