//! Free-text bounces: mail servers that say in prose what RFC 3464 would have them say in fields.
//! No server's form is known here by name; what they share is: a mail system writes, it says that
//! something was not delivered, an address begins a line, and what follows is the reason.

mod phrases;
mod whom;

use std::sync::LazyLock;

use phrases::{BELOW, DELAY_PHRASES, FAILURE_PHRASES, FAILURE_SUBJECTS, SYSTEM_SENDERS};
use whom::{leading_address, leading_addresses, recipients};

use super::{
    super::phrases::{Phrases, push_lower},
    Action, Basis, Kind, RECIPIENTS_MAX, Report, ReportedRecipient, address, diagnostic,
    mime::Tree,
    one_line,
};

/// Lines of a notice that are looked at; the reason stands near its top.
const LINES_MAX: usize = 400;
/// Octets of a line that are looked at.
const LINE_MAX: usize = 2_000;

/// Reads the mail as a free-text bounce; false when it is none.
pub(super) fn read(tree: &Tree<'_>, report: &mut Report) -> bool {
    let named = tree.fields.get("X-Failed-Recipients").unwrap_or("");
    let returns_mail = tree.part("message/rfc822").is_some();
    let by_name =
        system_sender(tree) || list_manager(tree) || (returns_mail && nobody_reads_replies(tree));
    if !(by_name || from_a_mail_system(tree)) && named.is_empty() {
        return false;
    }
    let Some(notice) = notice(tree) else { return false };
    let (said, below) = (notice.said(), notice.below());
    let words = one_line_lower(said);
    let subject = report.subject.trim().to_lowercase();
    // People write under a mail system's name too, and answer mails about failures; a reply code
    // they rarely quote. And a null return path with one is no vacation notice.
    let coded = diagnostic::codes(said) != diagnostic::Codes::default();
    let refused = || {
        let wrote = named_mailer_daemon(tree) && coded;
        let address = || leading_addresses(said).iter().any(|address| has_reply(said, address));
        (wrote && address()).then_some(Basis::Words("an address and the reply to it"))
    };
    let answer = ["re:", "aw:", "fw:", "fwd:"].iter().any(|mark| subject.starts_with(mark));
    let by_name = (by_name || (null_path(tree) && coded)) && (coded || !answer);
    // Vacation notices come through the null path too and say all sorts of things.
    let says_so = || {
        let phrases = || failure_words(&words).or(delay_words(&words));
        let spoken = || phrases().filter(|_| by_name).map(Basis::Words);
        let titled = failure_title(&subject).filter(|_| coded || !answer);
        titled.map(Basis::Subject).or_else(spoken).or_else(refused)
    };
    let field = (!named.is_empty()).then_some(Basis::Field("X-Failed-Recipients"));
    let Some(basis) = field.or_else(says_so) else { return false };
    report.basis = basis;
    let delayed = delay_words(&words).is_some() || subject.starts_with("warning");
    report.kind = if delayed { Kind::Delayed } else { Kind::Failed };
    let mut addresses = recipients(tree, said, below, named);
    addresses.truncate(RECIPIENTS_MAX);
    let single = addresses.len() == 1;
    for address in addresses {
        report.add(recipient(said, address, single, delayed));
    }
    true
}

/// Whether a mail system rather than a person wrote the mail.
pub(super) fn from_a_mail_system(tree: &Tree<'_>) -> bool {
    system_sender(tree) || null_path(tree)
}

/// Whether it came without a return path, as reports do (RFC 5321, section 4.5.5).
fn null_path(tree: &Tree<'_>) -> bool {
    tree.fields.get("Return-Path").is_some_and(|path| path.trim() == "<>")
}

/// Whether the sender's name is a mail system's.
fn system_sender(tree: &Tree<'_>) -> bool {
    let from = tree.fields.get("From").unwrap_or("").to_ascii_lowercase();
    let local = address(&from).unwrap_or_default();
    let local = local.split(['@', ' ']).next().unwrap_or_default();
    SYSTEM_SENDERS.contains(&local)
        || from.contains("mailer-daemon")
        || from.contains("mail delivery s")
        || from.contains("system administrator")
        || from.contains("mail administrator")
}

/// Whether the sender's name is one under which no person writes.
fn named_mailer_daemon(tree: &Tree<'_>) -> bool {
    let from = tree.fields.get("From").unwrap_or("").to_ascii_lowercase();
    from.contains("mailer-daemon")
}

/// Whether what a notice says about an address has a code.
fn has_reply(said: &str, address: &str) -> bool {
    about(said, address).is_some_and(|about| {
        let codes = diagnostic::codes(&about);
        codes.reply.is_some() || codes.enhanced.is_some()
    })
}

/// Whether the program that runs a mailing list wrote: it refuses for the list's sake.
fn list_manager(tree: &Tree<'_>) -> bool {
    ["X-MLServer", "X-List-Administrivia", "X-Mailman-Version"]
        .iter()
        .any(|name| tree.fields.get(name).is_some())
}

/// Whether the sender's name says that a program wrote.
fn nobody_reads_replies(tree: &Tree<'_>) -> bool {
    let from = tree.fields.get("From").and_then(address).unwrap_or_default().to_ascii_lowercase();
    ["no-reply@", "noreply@", "donotreply@", "do-not-reply@"].iter().any(|n| from.starts_with(n))
}

/// The prose of a mail, and how far down it is the mail system's own.
#[derive(Debug)]
pub(super) struct Notice {
    text: String,
    /// Where what the server says ends, and where the mail that came back begins.
    seam: (usize, usize),
}

impl Notice {
    /// Cuts a text into what the server says and the returned mail below it.
    pub(super) fn of(text: String) -> Self {
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if let Some(words) = begins_below(line) {
                let is_field = words.ends_with(':');
                let seam = (at, if is_field { at } else { at + line.len() });
                return Self { text, seam };
            }
            at += line.len();
        }
        Self { seam: (at, at), text }
    }

    /// All of it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What the server says.
    pub(super) fn said(&self) -> &str {
        &self.text[..self.seam.0]
    }

    /// The mail that came back, when it stands below.
    pub(super) fn below(&self) -> &str {
        &self.text[self.seam.1..]
    }
}

/// The words of [`BELOW`] with which a line begins, after ornaments.
fn begins_below(line: &str) -> Option<&'static str> {
    let bare = line.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '=' | '*'));
    let initial = bare.bytes().next()?.to_ascii_lowercase();
    BELOW.into_iter().find(|words| {
        words.as_bytes()[0] == initial
            && bare.get(..words.len()).is_some_and(|head| head.eq_ignore_ascii_case(words))
    })
}

/// The prose of the mail: the first leaf of text that says anything.
pub(super) fn notice<'a>(tree: &'a Tree<'_>) -> Option<&'a Notice> {
    let read = || {
        tree.parts
            .iter()
            .filter(|p| matches!(p.content_type.essence.as_str(), "text/plain" | "text/html"))
            .map(super::mime::Part::text)
            .find(|text| !text.trim().is_empty())
            .map(Notice::of)
    };
    tree.notice.get_or_init(read).as_ref()
}

/// Everything a notice says about one address: from each line that names it to the next line that
/// begins with another.
pub(super) fn about(said: &str, wanted: &str) -> Option<String> {
    let wanted = wanted.to_ascii_lowercase();
    let mut out = String::new();
    let mut inside = false;
    for line in lines(said) {
        // Most lines name nobody.
        let names = has_at(line) || !has_at(&wanted);
        if names && line.to_ascii_lowercase().contains(&wanted) {
            inside = true;
        } else if another_host(line) {
            inside = false;
        } else if let Some(other) = leading_address(line)
            && !other.eq_ignore_ascii_case(&wanted)
        {
            inside = false;
        }
        if inside {
            out.push_str(line);
            out.push('\n');
        }
    }
    (!out.is_empty()).then_some(out)
}

/// Where a transcript turns to another host: `While talking to …`, `550 host (smtp)... …`.
fn another_host(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let code = words.next().is_some_and(|w| w.len() == 3 && w.bytes().all(|b| b.is_ascii_digit()));
    let turns = "while talking to";
    (code && words.nth(1).is_some_and(|w| w.starts_with("(smtp)")))
        || line
            .trim_start_matches(['.', ' '])
            .get(..turns.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(turns))
}

/// Whether an address may stand in the text.
fn has_at(text: &str) -> bool {
    memchr::memchr(b'@', text.as_bytes()).is_some()
}

fn recipient(said: &str, address: String, single: bool, delayed: bool) -> ReportedRecipient {
    let about = about(said, &address).unwrap_or_default();
    let mut codes = diagnostic::codes(&about);
    let mut text = about.as_str();
    // A reason above the address, or no address in the text at all.
    let speechless = codes.reply.is_none() && codes.enhanced.is_none();
    if single && speechless {
        let all = diagnostic::codes(said);
        let wordless = !about.replace(&address, "").chars().any(char::is_alphabetic);
        if all.reply.is_some() || all.enhanced.is_some() || wordless {
            (codes, text) = (all, said);
        }
    }
    let diagnostic = one_line(text);
    ReportedRecipient {
        action: Some(if delayed { Action::Delayed } else { Action::Failed }),
        original: None,
        code: codes.reply,
        status: codes.enhanced,
        temporary: codes.temporary || delayed,
        phase: diagnostic::phase(&diagnostic),
        diagnostic,
        notice: if single { one_line(said) } else { String::new() },
        remote_mta: None,
        last_attempt: None,
        address,
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take(LINES_MAX).map(|line| {
        let cut = (0..=line.len().min(LINE_MAX)).rev().find(|n| line.is_char_boundary(*n));
        &line[..cut.unwrap_or(0)]
    })
}

/// The text in lower case with single spaces, cut well above any real notice.
pub(super) fn one_line_lower(text: &str) -> String {
    if text.is_ascii() {
        return one_ascii_line_lower(text);
    }
    let mut out = String::with_capacity(text.len().min(16_384));
    for word in text.split_whitespace() {
        if out.len() > 16_384 {
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        push_lower(&mut out, word);
    }
    out
}

/// The same of a text in ASCII, which nearly all are, octet by octet.
fn one_ascii_line_lower(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len().min(16_384 + 64));
    let mut between = false;
    for octet in text.bytes() {
        if matches!(octet, b'\t'..=b'\r' | b' ') {
            between = true;
            continue;
        }
        if between && !out.is_empty() {
            if out.len() > 16_384 {
                break;
            }
            out.push(b' ');
        }
        between = false;
        out.push(octet.to_ascii_lowercase());
    }
    String::from_utf8(out).expect("ASCII is UTF-8")
}

fn failure_title(subject: &str) -> Option<&'static str> {
    static LIST: LazyLock<Phrases> = LazyLock::new(|| Phrases::new(FAILURE_SUBJECTS));
    LIST.first(subject).map(|which| FAILURE_SUBJECTS[which])
}

fn failure_words(text: &str) -> Option<&'static str> {
    static LIST: LazyLock<Phrases> = LazyLock::new(|| Phrases::new(FAILURE_PHRASES));
    LIST.first(text).map(|which| FAILURE_PHRASES[which])
}

fn delay_words(text: &str) -> Option<&'static str> {
    static LIST: LazyLock<Phrases> = LazyLock::new(|| Phrases::new(DELAY_PHRASES));
    LIST.first(text).map(|which| DELAY_PHRASES[which])
}
