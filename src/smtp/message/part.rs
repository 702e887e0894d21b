//! The body of a message: its two parts with all literals encoded and each slot fenced.
//!
//! A slot always begins at the beginning of a line, and so does the literal after it: the encoding
//! of either does not depend on the other. That is what makes a copy a matter of copying slices.

use std::{ops::Range, sync::Arc};

use super::{composed::ComposedMessage, quoted_printable};
use crate::merge::{Escape, Field, MergeText, MissingField, Reader, Segment, slot_value};

/// The encoded body of a message, from the blank line before it to the closing boundary.
#[derive(Debug, Clone)]
pub(super) struct Body {
    /// Everything that all copies share, one piece after another.
    constant: Arc<Vec<u8>>,
    pieces: Vec<Piece>,
    /// The different slots; one that stands in many places is encoded once per copy.
    slots: Vec<Slot>,
}

#[derive(Debug, Clone)]
enum Piece {
    /// A slice of [`Body::constant`].
    Constant(Range<usize>),
    /// A slot by its number, and what follows it.
    Slot { slot: usize, after: After },
}

/// What follows a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Text on the same line: a soft break comes in between.
    Text,
    /// A line break of the text itself.
    LineBreak,
    /// The end of the part.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    field: Field,
    escape: Escape,
    fallback: Option<String>,
}

/// Where a slot's encoded value is kept in the copy that is being composed.
#[derive(Debug, Clone)]
struct Placed {
    value: Range<usize>,
    /// The same with the soft break behind it that text on the same line needs.
    before_text: Range<usize>,
}

impl Body {
    /// Encodes both parts.
    pub(super) fn compile(text: &MergeText, html: &MergeText, boundary: &str) -> Self {
        let mut body = Self { constant: Arc::default(), pieces: Vec::new(), slots: Vec::new() };
        let mut start = 0;
        for (part, subtype) in [(text, "plain"), (html, "html")] {
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: text/{subtype}; charset=utf-8\r\n\
                 Content-Transfer-Encoding: quoted-printable\r\n\r\n"
            );
            body.constant_mut().extend_from_slice(head.as_bytes());
            start = body.push_part(part, start);
        }
        body.constant_mut().extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        body.pieces.push(Piece::Constant(start..body.constant.len()));
        body
    }

    /// All that is the same in every copy.
    pub(super) fn constant(&self) -> &Arc<Vec<u8>> {
        &self.constant
    }

    /// While the body is compiled nobody else has it.
    fn constant_mut(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.constant)
    }

    /// The most octets that all slots take together when no value is longer than `octets`.
    pub(super) fn slots_len_max(&self, octets: usize) -> usize {
        let slots = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Slot { slot, .. } => Some(&self.slots[*slot]),
            Piece::Constant(_) => None,
        });
        slots
            .map(|slot| {
                let octets = octets.max(slot.fallback.as_ref().map_or(0, String::len));
                let escaped = match slot.escape {
                    Escape::Html => 6 * octets, // `"` is `&quot;`
                    Escape::UrlComponent => 3 * octets,
                    Escape::Text => octets,
                };
                quoted_printable::encoded_len_max(escaped) + 3
            })
            .sum()
    }

    /// Appends the body with `reader`'s values.
    pub(super) fn compose<R: Reader>(
        &self,
        reader: &R,
        out: &mut ComposedMessage,
    ) -> Result<(), MissingField> {
        let mut placed = vec![None; self.slots.len()];
        for piece in &self.pieces {
            match piece {
                Piece::Constant(range) => out.push_shared(range.clone()),
                Piece::Slot { slot, after } => {
                    let placed = &mut placed[*slot];
                    let placed = match placed {
                        Some(placed) => placed,
                        None => placed.insert(self.encode(*slot, reader, out)?),
                    };
                    match after {
                        After::Text => out.push_kept(placed.before_text.clone()),
                        // A part must not end in a soft break (RFC 2045, section 6.7, rule 5
                        // (Note)): without a value, the one before the slot goes.
                        After::End if placed.value.is_empty() => out.strip_end(b"=\r\n"),
                        After::End | After::LineBreak => out.push_kept(placed.value.clone()),
                    }
                }
            }
        }
        Ok(())
    }

    fn encode<R: Reader>(
        &self,
        slot: usize,
        reader: &R,
        out: &mut ComposedMessage,
    ) -> Result<Placed, MissingField> {
        let Slot { field, escape, fallback } = &self.slots[slot];
        let value = slot_value(reader, field, *escape, fallback.as_deref())?;
        let (before_text, len) = out.keep(|own| {
            let start = own.len();
            let ends_inside_line = quoted_printable::encode(&value, own) > 0;
            let len = own.len() - start;
            if ends_inside_line {
                quoted_printable::soft_break(own);
            }
            len
        });
        Ok(Placed { value: before_text.start..before_text.start + len, before_text })
    }

    /// Encodes one part and returns where the constant piece after its last slot begins.
    fn push_part(&mut self, part: &MergeText, mut start: usize) -> usize {
        let segments = joined(part);
        for (at, segment) in segments.iter().enumerate() {
            match segment {
                Segment::Literal(text) => {
                    let constant = self.constant_mut();
                    let column = quoted_printable::encode(text, constant);
                    if column > 0 && at + 1 < segments.len() {
                        quoted_printable::soft_break(constant);
                    }
                }
                Segment::Slot { field, escape, fallback } => {
                    if start < self.constant.len() {
                        self.pieces.push(Piece::Constant(start..self.constant.len()));
                        start = self.constant.len();
                    }
                    let after = match segments.get(at + 1) {
                        None => After::End,
                        Some(Segment::Literal(text)) if starts_with_line_break(text) => {
                            After::LineBreak
                        }
                        Some(_) => After::Text,
                    };
                    let (field, fallback) = (field.clone(), fallback.clone());
                    let slot = self.number_of(Slot { field, escape: *escape, fallback });
                    self.pieces.push(Piece::Slot { slot, after });
                }
            }
        }
        start
    }

    fn number_of(&mut self, slot: Slot) -> usize {
        if let Some(at) = self.slots.iter().position(|known| *known == slot) {
            return at;
        }
        self.slots.push(slot);
        self.slots.len() - 1
    }
}

/// The segments without empty literals, and with neighbouring literals as one: a line break or a
/// `From ` may be cut in two.
fn joined(part: &MergeText) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::with_capacity(part.segments.len());
    for segment in &part.segments {
        match (segments.last_mut(), segment) {
            (_, Segment::Literal(text)) if text.is_empty() => {}
            (Some(Segment::Literal(before)), Segment::Literal(text)) => before.push_str(text),
            _ => segments.push(segment.clone()),
        }
    }
    segments
}

fn starts_with_line_break(text: &str) -> bool {
    text.starts_with('\n') || text.starts_with("\r\n")
}
