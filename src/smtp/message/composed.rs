//! One copy's message as it goes over the wire: pieces that all copies share, lent, between pieces
//! of its own. Nothing that is the same for everybody is copied for anybody.

use std::{ops::Range, sync::Arc};

/// A composed message, and the room for the next one.
#[derive(Debug, Default)]
pub struct ComposedMessage {
    /// Octets of this copy alone.
    own: Vec<u8>,
    /// Octets of all copies.
    shared: Arc<Vec<u8>>,
    /// The message from its beginning to its end.
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
enum Piece {
    Own(Range<usize>),
    Shared(Range<usize>),
}

impl ComposedMessage {
    /// Octets of the whole message.
    pub fn len(&self) -> usize {
        self.slices().map(<[u8]>::len).sum()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message from its beginning to its end, in slices.
    pub fn slices(&self) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator {
        self.pieces.iter().map(|piece| match piece {
            Piece::Own(range) => &self.own[range.clone()],
            Piece::Shared(range) => &self.shared[range.clone()],
        })
    }

    /// The message in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.slices().collect::<Vec<_>>().concat()
    }

    /// The header with the CRLF of its last field; nothing where there is no message.
    pub fn header(&self) -> &[u8] {
        self.slices().next().unwrap_or_default()
    }

    /// Whether an empty line follows the header.
    pub fn has_body(&self) -> bool {
        self.slices().nth(1).is_some_and(|second| second.starts_with(b"\r\n"))
    }

    /// The body, behind the empty line that ends the header.
    pub fn body(&self) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator {
        self.slices().enumerate().skip(1).map(|(nth, slice)| match nth {
            1 => slice.strip_prefix(b"\r\n").unwrap_or(slice),
            _ => slice,
        })
    }

    /// Puts complete header fields before all others.
    pub fn put_in_front(&mut self, fields: &[u8]) {
        let start = self.own.len();
        self.own.extend_from_slice(fields);
        self.pieces.insert(0, Piece::Own(start..self.own.len()));
    }

    /// Begins a message whose header is what `write` writes, and whose shared octets are `shared`.
    pub(super) fn begin<E>(
        &mut self,
        shared: &Arc<Vec<u8>>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.clear();
        if !Arc::ptr_eq(&self.shared, shared) {
            self.shared = Arc::clone(shared);
        }
        write(&mut self.own)?;
        self.pieces.push(Piece::Own(0..self.own.len()));
        Ok(())
    }

    /// Forgets the message.
    pub(super) fn clear(&mut self) {
        self.own.clear();
        self.pieces.clear();
    }

    /// Appends a piece that all copies share.
    pub(super) fn push_shared(&mut self, range: Range<usize>) {
        self.pieces.push(Piece::Shared(range));
    }

    /// Keeps what `write` writes, without putting it anywhere; returns where it is kept, and what
    /// `write` returned.
    pub(super) fn keep<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> (Range<usize>, T) {
        let start = self.own.len();
        let written = write(&mut self.own);
        (start..self.own.len(), written)
    }

    /// Appends something kept.
    pub(super) fn push_kept(&mut self, range: Range<usize>) {
        self.pieces.push(Piece::Own(range));
    }

    /// Takes `end` away from the end of the message, if it is all there in its last piece.
    pub(super) fn strip_end(&mut self, end: &[u8]) {
        if self.slices().next_back().is_some_and(|last| last.ends_with(end))
            && let Some(Piece::Own(range) | Piece::Shared(range)) = self.pieces.last_mut()
        {
            range.end -= end.len();
        }
    }

    /// A message that was written elsewhere.
    #[cfg(test)]
    pub(in crate::smtp) fn of_bytes(message: &[u8]) -> Self {
        let end = memchr::memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 2);
        let pieces = vec![Piece::Own(0..end), Piece::Own(end..message.len())];
        Self { own: message.to_vec(), shared: Arc::default(), pieces }
    }
}
