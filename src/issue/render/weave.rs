//! Content around the engines instead of through them.
//!
//! Handlebars and mrml see an unguessable marker for each fragment of content or reader field. After
//! both have run, [`Weave::finish`] puts the fragments where their markers stand. So no content is
//! ever parsed as template or MJML, whatever is written in it.

use crate::{
    issue::{field::is_url, html::unescape},
    merge::{Escape, Field, MergeText, Segment},
};

/// Text with slots while it is being written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fragment {
    segments: Vec<Segment>,
}

impl Fragment {
    /// A fragment of finished text.
    pub(crate) fn literal(text: &str) -> Self {
        let mut fragment = Self::default();
        fragment.push(text);
        fragment
    }

    /// Appends finished text.
    pub(crate) fn push(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.segments.last_mut() {
            Some(Segment::Literal(before)) => before.push_str(text),
            _ => self.segments.push(Segment::Literal(text.to_owned())),
        }
    }

    /// Appends a slot. Its fallback is data like any value and is escaped when it is merged.
    pub(crate) fn slot(&mut self, field: Field, escape: Escape, fallback: Option<String>) {
        self.segments.push(Segment::Slot { field, escape, fallback });
    }

    /// Appends another fragment.
    pub(crate) fn append(&mut self, other: &Self) {
        for segment in &other.segments {
            match segment {
                Segment::Literal(text) => self.push(text),
                slot @ Segment::Slot { .. } => self.segments.push(slot.clone()),
            }
        }
    }

    /// Whether nothing was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The same fragment of HTML as plain text.
    pub(crate) fn as_text(&self) -> Self {
        let segments = self.segments.iter().map(|segment| match segment {
            Segment::Literal(html) => Segment::Literal(unescape(html).into_owned()),
            Segment::Slot { field, escape: Escape::Html, fallback } => Segment::Slot {
                field: field.clone(),
                escape: Escape::Text,
                fallback: fallback.clone(),
            },
            slot @ Segment::Slot { .. } => slot.clone(),
        });
        Self { segments: segments.collect() }
    }

    /// The same fragment without any reader's data: fallbacks, and `home` for links of a reader's own.
    pub(crate) fn for_anyone(&self, home: &str) -> Self {
        let mut out = Self::default();
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.push(text),
                Segment::Slot { field, escape, fallback } => {
                    let value = if is_url(field) { Some(home) } else { fallback.as_deref() };
                    out.push(&escape.apply(value.unwrap_or("your address").into()));
                }
            }
        }
        out
    }

    /// The finished text.
    pub(crate) fn into_merge_text(self) -> MergeText {
        MergeText { segments: self.segments }
    }
}

impl From<MergeText> for Fragment {
    fn from(text: MergeText) -> Self {
        Self { segments: text.segments }
    }
}

/// The fragments of one rendering and the markers that stand for them.
#[derive(Debug)]
pub(crate) struct Weave {
    nonce: String,
    fragments: Vec<Fragment>,
}

/// A marker came out of the engines damaged: a template cut or changed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a template changes the text of a value; values are to be placed whole, once or more")]
pub(crate) struct DamagedMarker;

impl Weave {
    /// Nothing woven yet. The markers are of 128 random bits.
    pub(crate) fn new() -> Self {
        Self { nonce: format!("pr{:032x}", rand::random::<u128>()), fragments: Vec::new() }
    }

    /// A marker for `fragment`, of letters and digits only.
    pub(crate) fn marker(&mut self, fragment: Fragment) -> String {
        self.fragments.push(fragment);
        format!("{}n{}z", self.nonce, self.fragments.len() - 1)
    }

    /// Puts the fragments where their markers stand in `text`.
    pub(crate) fn finish(&self, text: &str) -> Result<Fragment, DamagedMarker> {
        self.finish_with(text, Fragment::clone)
    }

    /// As [`Weave::finish`], with each fragment changed by `change` first.
    pub(crate) fn finish_with(
        &self,
        text: &str,
        change: impl Fn(&Fragment) -> Fragment,
    ) -> Result<Fragment, DamagedMarker> {
        let mut parts = text.split(self.nonce.as_str());
        let mut out = Fragment::default();
        out.push(parts.next().unwrap_or_default());
        for part in parts {
            let (index, rest) = part
                .strip_prefix('n')
                .and_then(|part| part.split_once('z'))
                .ok_or(DamagedMarker)?;
            let index: usize = index.parse().map_err(|_| DamagedMarker)?;
            out.append(&change(self.fragments.get(index).ok_or(DamagedMarker)?));
            out.push(rest);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_come_back_whole() {
        let mut weave = Weave::new();
        let a = weave.marker(Fragment::literal("</mj-text>{{name}}"));
        let mut field = Fragment::default();
        field.slot(Field::Name, Escape::Html, None);
        let b = weave.marker(field);
        let text = weave.finish(&format!("x{a}y{a}{b}")).unwrap().into_merge_text();
        assert_eq!(text.segments.len(), 2);
        assert_eq!(
            text.segments[0],
            Segment::Literal("x</mj-text>{{name}}y</mj-text>{{name}}".into())
        );
    }

    #[test]
    fn a_cut_marker_is_noticed() {
        let mut weave = Weave::new();
        let marker = weave.marker(Fragment::literal("x"));
        assert_eq!(weave.finish(&marker[..marker.len() - 1]).unwrap_err(), DamagedMarker);
        assert_eq!(weave.finish(&marker.replace("n0z", "n7z")).unwrap_err(), DamagedMarker);
    }
}
