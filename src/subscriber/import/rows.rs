//! Reading the file: rows of text in, checked and hashed rows out, in batches. Blocks, and runs on a
//! thread of its own; touches no database.

use std::{
    cell::Cell,
    collections::HashSet,
    io::{self, Read},
    rc::Rc,
};

use tokio::sync::mpsc;

use super::{BATCH_ROWS, ImportError, Refusal};
use crate::{
    address::Address,
    provider::Providers,
    subscriber::{export, preferences},
    timestamp::Timestamp,
    token::Keyring,
};

/// Octets of a row; the reader of CSV would gather one without an end.
pub(super) const ROW_OCTETS_MAX: u64 = 1024 * 1024;
/// Characters of an attribute's value.
const ATTRIBUTE_CHARS_MAX: usize = 500;

/// A row that can be imported as far as the file says.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) line: u64,
    pub(super) hash: [u8; 16],
    pub(super) address: Address,
    pub(super) name: Option<String>,
    pub(super) attributes: Option<String>,
    pub(super) provider: i64,
    pub(super) confirmed_at: Option<Timestamp>,
}

/// A row that was refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) line: u64,
    pub(super) why: Refusal,
    pub(super) address: String,
}

/// Rows that are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) rows: Vec<Row>,
    pub(super) refused: Vec<Refused>,
    /// How many rows of the file it stands for.
    pub(super) read: u64,
}

/// Which column holds what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    address: usize,
    name: Option<usize>,
    confirmed_at: Option<usize>,
    attributes: Vec<(usize, String)>,
    /// Columns that hold nothing that is kept.
    pub ignored: Vec<String>,
}

impl Layout {
    /// Finds the columns by their names in the head, whatever their order and case.
    pub fn of_head(head: &[String], attributes: &[String]) -> Result<Self, ImportError> {
        let mut layout = Self::default();
        let mut address = None;
        for (column, written) in head.iter().enumerate() {
            let written = written.trim().trim_start_matches('\u{feff}');
            match written.to_lowercase().replace([' ', '-'], "_").as_str() {
                "address" | "email" | "e_mail" | "email_address" | "mail" if address.is_none() => {
                    address = Some(column);
                }
                "name" | "full_name" if layout.name.is_none() => layout.name = Some(column),
                "confirmed_at" | "confirm_time" if layout.confirmed_at.is_none() => {
                    layout.confirmed_at = Some(column);
                }
                _ if attributes.iter().any(|wanted| wanted == written) => {
                    layout.attributes.push((column, written.to_owned()));
                }
                _ => layout.ignored.push(written.to_owned()),
            }
        }
        layout.address =
            address.ok_or_else(|| ImportError::NoAddressColumn { found: head.to_vec() })?;
        Ok(layout)
    }
}

/// What rows are read with.
pub(super) struct Reading {
    pub(super) keyring: Keyring,
    pub(super) providers: Providers,
    pub(super) delimiter: u8,
    pub(super) attributes: Vec<String>,
    pub(super) now: Timestamp,
}

impl Reading {
    /// Reads the whole of `file`, batch by batch; ends early when nobody takes them any more.
    pub(super) fn run(
        &self,
        file: impl Read,
        out: &mpsc::Sender<Batch>,
    ) -> Result<Layout, ImportError> {
        let budget = Rc::new(Cell::new(ROW_OCTETS_MAX));
        let mut csv = csv::ReaderBuilder::new()
            .delimiter(self.delimiter)
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(64 * 1024)
            .from_reader(Lines::new(file, Rc::clone(&budget)));
        let mut record = csv::ByteRecord::new();
        let mut line = 1;
        let mut next = |record: &mut csv::ByteRecord, line: &mut u64| {
            budget.set(ROW_OCTETS_MAX);
            *line = csv.position().line();
            let more = csv.read_byte_record(record).map_err(|source| match source.kind() {
                csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                    ImportError::RowTooLong { line: *line }
                }
                _ => ImportError::Read { line: *line, source },
            })?;
            // Empty lines before a row are passed over with it, so its line is told by its end.
            let inside = memchr::memchr_iter(b'\n', record.as_slice()).count() as u64;
            *line = csv.position().line().saturating_sub(1 + inside);
            Ok::<_, ImportError>(more)
        };
        next(&mut record, &mut line)?;
        let head: Vec<String> =
            record.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect();
        let layout = Layout::of_head(&head, &self.attributes)?;
        let mut batch = Batch::default();
        let mut seen = HashSet::with_capacity(BATCH_ROWS);
        while next(&mut record, &mut line)? {
            batch.read += 1;
            match self.row(&layout, &record, line) {
                Ok(row) if seen.insert(row.hash) => batch.rows.push(row),
                Ok(row) => batch.refused.push(Refused {
                    line,
                    why: Refusal::Repeated,
                    address: row.address.into(),
                }),
                Err(why) => {
                    let cell = record.get(layout.address).unwrap_or_default();
                    let address = String::from_utf8_lossy(cell).chars().take(300).collect();
                    batch.refused.push(Refused { line, why, address });
                }
            }
            if batch.read >= BATCH_ROWS as u64 {
                seen.clear();
                if out.blocking_send(std::mem::take(&mut batch)).is_err() {
                    return Ok(layout);
                }
            }
        }
        if batch.read > 0 {
            // A receiver that is gone has failed, and says so itself.
            let _ = out.blocking_send(batch);
        }
        Ok(layout)
    }

    fn row(&self, layout: &Layout, record: &csv::ByteRecord, line: u64) -> Result<Row, Refusal> {
        let cell = |column: usize| {
            let octets = record.get(column).unwrap_or_default();
            std::str::from_utf8(octets).map_err(|_| Refusal::Unreadable)
        };
        let address = Address::parse(export::original(cell(layout.address)?))
            .map_err(|_| Refusal::Address)?;
        if address.is_role_account() {
            return Err(Refusal::RoleAccount);
        }
        let name = match layout.name {
            Some(column) => preferences::clean_name(export::original(cell(column)?)),
            None => None,
        };
        let confirmed_at = match layout.confirmed_at.map(cell).transpose()? {
            None | Some("") => None,
            Some(text) => Some(read_time(text).filter(|at| *at <= self.now).ok_or(Refusal::Time)?),
        };
        let mut attributes = serde_json::Map::new();
        for (column, name) in &layout.attributes {
            let value: String = cell(*column)?.chars().take(ATTRIBUTE_CHARS_MAX).collect();
            if !value.is_empty() {
                attributes.insert(name.clone(), value.into());
            }
        }
        Ok(Row {
            line,
            hash: self.keyring.address_hash(&address),
            provider: self.providers.of_domain(address.domain()).0,
            address,
            name,
            attributes: (!attributes.is_empty())
                .then(|| serde_json::Value::Object(attributes).to_string()),
            confirmed_at,
        })
    }
}

/// A time as lists have it: RFC 3339, or a date and time in UTC, or a date.
fn read_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let civil: jiff::civil::DateTime = text
        .parse()
        .ok()
        .or_else(|| text.parse::<jiff::civil::Date>().ok().map(|date| date.at(0, 0, 0, 0)))?;
    let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Timestamp::from_microseconds(zoned.timestamp().as_microsecond()))
}

/// The file as the reader of CSV gets it: every line ends in one LF, the last one too, so that lines
/// are counted exactly; and reading fails once a row has taken more than its budget. The budget is
/// set anew for every row; what is read ahead counts for the row that made it necessary.
struct Lines<R> {
    inner: R,
    budget: Rc<Cell<u64>>,
    /// A CR was read that may belong to a CRLF.
    held: bool,
    last: u8,
}

impl<R: Read> Lines<R> {
    fn new(inner: R, budget: Rc<Cell<u64>>) -> Self {
        Self { inner, budget, held: false, last: b'\n' }
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.budget.get() == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // Room for a CR that is held, and for one octet behind it.
        let [first, _, ..] = out else { return Err(io::ErrorKind::InvalidInput.into()) };
        *first = b'\r';
        let len = loop {
            let start = usize::from(self.held);
            let count = self.inner.read(&mut out[start..])?;
            self.budget.set(self.budget.get().saturating_sub(count as u64));
            if count == 0 {
                let unfinished = self.held || self.last != b'\n';
                (self.held, self.last) = (false, b'\n');
                out[0] = b'\n';
                return Ok(usize::from(unfinished));
            }
            let mut len = start + count;
            self.held = out[len - 1] == b'\r';
            len -= usize::from(self.held);
            let len = without_carriage_returns(&mut out[..len]);
            if len > 0 {
                break len;
            }
            out[0] = b'\r';
        };
        self.last = out[len - 1];
        Ok(len)
    }
}

/// Turns every CRLF into LF; returns how many octets are left.
fn without_carriage_returns(octets: &mut [u8]) -> usize {
    let Some(first) = memchr::memchr(b'\r', octets) else { return octets.len() };
    let mut kept = first;
    for at in first..octets.len() {
        if octets[at] != b'\r' || octets.get(at + 1) != Some(&b'\n') {
            octets[kept] = octets[at];
            kept += 1;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_lists_have_them() {
        for (text, expected) in [
            ("2023-05-06T07:08:09Z", Some("2023-05-06T07:08:09.000Z")),
            ("2023-05-06T07:08:09+02:00", Some("2023-05-06T05:08:09.000Z")),
            (" 2023-05-06 07:08:09 ", Some("2023-05-06T07:08:09.000Z")),
            ("2023-05-06", Some("2023-05-06T00:00:00.000Z")),
            ("06/05/2023", None),
            ("yesterday", None),
        ] {
            assert_eq!(read_time(text).map(|at| at.to_string()).as_deref(), expected, "{text}");
        }
    }

    /// A reader that gives one chunk a call.
    struct Chunks<'a>(Vec<&'a [u8]>);

    impl Read for Chunks<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let chunk = self.0.remove(0);
            out[..chunk.len()].copy_from_slice(chunk);
            Ok(chunk.len())
        }
    }

    #[test]
    fn lines_end_in_one_lf_however_they_arrive() {
        for (chunks, expected) in [
            (vec!["a\r\nb"], "a\nb\n"),
            (vec!["a\r", "\nb\n"], "a\nb\n"),
            (vec!["a", "\r", "\r", "\n", "b\r"], "a\r\nb\n"),
            (vec!["a\rb\n"], "a\rb\n"),
            (vec!["\r\n\r\n"], "\n\n"),
            (vec![], ""),
        ] {
            let what = format!("{chunks:?}");
            let chunks = Chunks(chunks.into_iter().map(str::as_bytes).collect());
            let mut text = String::new();
            let budget = Rc::new(Cell::new(ROW_OCTETS_MAX));
            Lines::new(chunks, budget).read_to_string(&mut text).unwrap();
            assert_eq!(text, expected, "{what}");
        }
    }

    #[test]
    fn a_refused_row_is_named_by_the_line_it_begins_on() {
        for ends in ["\n", "\r\n"] {
            let file = "email,name\nno\n\n\nno,\"a\nb\"\nno,\"\n\"\nno".replace('\n', ends);
            let reading = Reading {
                keyring: Keyring::ephemeral(Timestamp::default()),
                providers: Providers::embedded().clone(),
                delimiter: b',',
                attributes: Vec::new(),
                now: Timestamp::default(),
            };
            let (out, mut batches) = mpsc::channel(4);
            reading.run(io::Cursor::new(file), &out).unwrap();
            let batch = batches.try_recv().unwrap();
            let lines: Vec<u64> = batch.refused.iter().map(|row| row.line).collect();
            assert_eq!(lines, [2, 5, 7, 9]);
        }
    }

    #[test]
    fn columns_are_found_by_name() {
        let head = ["\u{feff}E-Mail", "Full Name", "city", "zip"].map(str::to_owned);
        let layout = Layout::of_head(&head, &["city".to_owned()]).unwrap();
        assert_eq!((layout.address, layout.name, layout.confirmed_at), (0, Some(1), None));
        assert_eq!(layout.attributes, [(2, "city".to_owned())]);
        assert_eq!(layout.ignored, ["zip"]);
        assert!(Layout::of_head(&["name".to_owned()], &[]).is_err());
    }
}
