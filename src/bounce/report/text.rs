//! Free-text bounces: mail servers that say in prose what RFC 3464 would have them say in fields.
//! No server's form is known here by name; what they share is: a mail system writes, it says that
//! something was not delivered, an address begins a line, and what follows is the reason.

mod phrases;

use std::sync::LazyLock;

use phrases::{
    BELOW, DELAY_PHRASES, FAILURE_PHRASES, FAILURE_SUBJECTS, NOT_THE_RECIPIENT, SYSTEM_SENDERS,
};

use super::{
    super::phrases::{Phrases, push_lower},
    Action, Basis, Kind, RECIPIENTS_MAX, Report, ReportedRecipient, address, diagnostic,
    mime::Tree,
    one_line, original,
};

/// Lines of a notice that are looked at; the reason stands near its top.
const LINES_MAX: usize = 400;
/// Octets of a line that are looked at.
const LINE_MAX: usize = 2_000;

/// Addresses of a notice that are looked at, whoever they belong to.
const MENTIONS_MAX: usize = 400;

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

/// Whom the notice is about: the field that says so, else addresses that begin a line, else any
/// address that is not plainly somebody else's, else whom the returned mail was sent to.
fn recipients(tree: &Tree<'_>, said: &str, below: &str, named: &str) -> Vec<String> {
    let ours = [tree.fields.get("To"), tree.fields.get("From")];
    let ours: Vec<String> =
        ours.into_iter().flatten().filter_map(address).map(|a| a.to_lowercase()).collect();
    let foreign = |a: &String| !ours.contains(&a.to_lowercase());
    if list_manager(tree) {
        // The list's own address comes first, those of its programs below.
        let mut named = lines(said).flat_map(mentioned).map(|(address, _)| address);
        return named.find(foreign).into_iter().collect();
    }
    let leading = leading_addresses(said);
    if leading.iter().any(foreign) {
        return leading.into_iter().filter(foreign).collect();
    }
    let listed: Vec<String> = addresses_in(named).collect();
    if !listed.is_empty() {
        return listed;
    }
    let envelope: Vec<String> = lines(said).filter_map(envelope_recipient).collect();
    if !envelope.is_empty() {
        return envelope;
    }
    let mentioned = lines(said).flat_map(mentioned).take(MENTIONS_MAX).collect::<Vec<_>>();
    let elsewhere = |a: &String| mentioned.iter().any(|(other, theirs)| *theirs && other == a);
    let mut addresses = mentioned.iter().map(|(a, _)| a).filter(|a| foreign(a) && !elsewhere(a));
    if let Some(address) = addresses.next() {
        return vec![address.clone()];
    }
    if !leading.is_empty() {
        return leading;
    }
    let envelope: Vec<String> = lines(below).filter_map(envelope_recipient).collect();
    if !envelope.is_empty() {
        return envelope;
    }
    let to = original::with_fields(tree, |f| f.get("To").unwrap_or("").to_owned());
    let to = to.unwrap_or_default();
    addresses_in(&to).collect()
}

/// The addresses of a field that lists them.
fn addresses_in(list: &str) -> impl Iterator<Item = String> {
    list.split(',').filter_map(address).filter(|a| a.contains('@')).take(RECIPIENTS_MAX)
}

/// The address of a line `RCPT TO: …` among the details of a message that came back.
fn envelope_recipient(line: &str) -> Option<String> {
    let line = line.trim_start();
    let named = line.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("rcpt to:"));
    named.then(|| address(&line[8..])).flatten().filter(|a| is_address(a))
}

/// The addresses that begin lines, without one that the line above gives to somebody else ("a
/// message sent by").
fn leading_addresses(said: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut above = "";
    for line in lines(said) {
        let word = above.split_whitespace().next_back().unwrap_or("").to_ascii_lowercase();
        if !NOT_THE_RECIPIENT.contains(&word.as_str()) {
            found.extend(leading_address(line));
        }
        if !line.trim().is_empty() {
            above = line;
        }
    }
    found
}

/// The address with which a line begins, after brackets, quotes and the marks of transcripts.
fn leading_address(line: &str) -> Option<String> {
    if !has_at(line) {
        return None;
    }
    let mut rest = line.trim_start();
    // `收件人：ada@example.org`
    if let Some((name, after)) = rest.split_once('：')
        && !has_at(name)
        && has_at(after)
    {
        rest = after.trim_start();
    }
    for mark in [">>> RCPT TO:", ">>> RCPT To:", ">>>", "Recipient:", "Recipient address:"] {
        rest = rest.strip_prefix(mark).map_or(rest, str::trim_start);
    }
    // `554 <address>...` is how sendmail sums up.
    if rest.len() > 5 && rest.as_bytes()[..3].iter().all(u8::is_ascii_digit) {
        rest = rest.get(4..).filter(|r| r.starts_with('<')).unwrap_or(rest);
    }
    let quoted = rest.starts_with(['<', '"']);
    // `ada@example.org <bob@example.org>`: what looks like an address is bob's display name.
    if !quoted
        && let Some((name, angle)) = rest.split_once(" <")
        && is_address(name)
        && let Some((inside, _)) = angle.split_once('>')
        && is_address(inside)
    {
        return Some(inside.to_owned());
    }
    let rest = rest.trim_start_matches(['<', '"', '\'']);
    let end = rest
        .find(|c: char| c.is_whitespace() || matches!(c, '>' | '"' | ',' | '\'' | '('))
        .unwrap_or(rest.len());
    let token = rest[..end].trim_end_matches([':', '.', ';']);
    let after = rest[end..].trim_start_matches(['>', '"']).trim_start();
    // "someone@example.org wrote" is prose; a list entry is followed by nothing or a mark.
    let entry = quoted
        || after.is_empty()
        || rest[..end].ends_with(':')
        || after.starts_with(['<', '[', '(', ':', '-'])
        || line.starts_with(|c: char| !c.is_whitespace());
    (entry && is_address(token)).then(|| token.to_owned())
}

/// Addresses anywhere in a line, each with whether it follows a word that makes it somebody
/// else's.
fn mentioned(line: &str) -> Vec<(String, bool)> {
    let mut out = Vec::new();
    if !has_at(line) {
        return out;
    }
    let mut before = "";
    for word in line.split_whitespace() {
        let lower = word.to_ascii_lowercase();
        let glued =
            NOT_THE_RECIPIENT.iter().any(|w| w.ends_with([':', '=']) && lower.starts_with(w));
        let token = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let token = token.rsplit(['<', ':', '[', '(', '：', '（']).next().unwrap_or_default();
        let follows = NOT_THE_RECIPIENT.contains(&before.to_ascii_lowercase().as_str());
        if is_address(token) {
            out.push((token.to_owned(), glued || follows));
        }
        before = word;
    }
    out
}

/// Whether a word is an address: a local part, one `@` outside of quotes, a dotted domain.
fn is_address(token: &str) -> bool {
    token.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && token.len() <= 320
            && domain.contains('.')
            && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            && !domain.starts_with('.')
            && !domain.ends_with('.')
            && !local.contains(['<', '>', '(', ')', '=', '/', ':', '：', '（'])
    })
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
