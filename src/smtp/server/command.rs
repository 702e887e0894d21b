//! One command line, read (RFC 5321, section 4.1) with the parameters of SIZE (RFC 1870), DSN
//! (RFC 3461), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531) and AUTH (RFC 4954). Pure: bytes in,
//! command or reply out.

use super::reply::Reply;

/// A command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// `EHLO`, `HELO` or `LHLO` with the name that the client gives itself.
    Hello {
        /// Which of the three it was.
        verb: Hello,
        /// The client's name for itself; nothing is derived from it.
        name: &'a str,
    },
    /// `MAIL FROM`.
    Mail {
        /// The reverse path; empty for the null sender of bounces.
        from: &'a str,
        /// Its parameters.
        parameters: MailParameters,
    },
    /// `RCPT TO`.
    Rcpt(Recipient),
    /// `DATA`.
    Data,
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `QUIT`.
    Quit,
    /// `STARTTLS`.
    StartTls,
    /// `AUTH` with its mechanism in upper case and the initial response.
    Auth {
        /// `PLAIN`, `LOGIN`, …
        mechanism: String,
        /// The initial response, still in base64; `=` stands for an empty one.
        initial: Option<&'a str>,
    },
    /// `VRFY` or `EXPN`.
    Vrfy,
    /// `HELP`.
    Help,
}

/// The three ways to say hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// SMTP with extensions.
    Ehlo,
    /// SMTP without.
    Helo,
    /// LMTP (RFC 2033).
    Lhlo,
}

/// The parameters of `MAIL FROM`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// `SIZE`: the message's size in bytes as the client estimates it.
    pub size: Option<u64>,
    /// `BODY=8BITMIME`.
    pub eight_bit: bool,
    /// `SMTPUTF8`: addresses and headers may be in UTF-8.
    pub smtputf8: bool,
    /// `RET`: how much of the message a bounce should return.
    pub ret: Option<Ret>,
    /// `ENVID`: the client's name for this envelope, decoded.
    pub envid: Option<String>,
}

impl MailParameters {
    fn set(&mut self, keyword: &str, value: Option<&str>) -> Result<(), Reply> {
        const INVALID: Reply =
            Reply::new(501, "5.5.4", "A parameter of MAIL FROM has an invalid value");
        let value_is = |word: &str| value.is_some_and(|value| value.eq_ignore_ascii_case(word));
        match keyword.to_ascii_uppercase().as_str() {
            "SIZE" => self.size = Some(value.and_then(number).ok_or(INVALID)?),
            "BODY" if value_is("8BITMIME") => self.eight_bit = true,
            "BODY" if value_is("7BIT") => {}
            "SMTPUTF8" if value.is_none() => self.smtputf8 = true,
            "RET" if value_is("FULL") => self.ret = Some(Ret::Full),
            "RET" if value_is("HDRS") => self.ret = Some(Ret::Headers),
            "ENVID" => {
                let id = value.filter(|value| value.len() <= 100).and_then(xtext);
                self.envid = Some(id.ok_or(INVALID)?);
            }
            // RFC 4954, section 5: accepted and, there being nobody to pass it on to, ignored.
            "AUTH" if value.is_some() => {}
            "BODY" | "SMTPUTF8" | "RET" | "AUTH" => return Err(INVALID),
            _ => return Err(Reply::new(555, "5.5.4", "Unknown parameter of MAIL FROM")),
        }
        Ok(())
    }
}

/// How much of a message a bounce returns (RFC 3461, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    /// All of it.
    Full,
    /// The headers.
    Headers,
}

/// A recipient as `RCPT TO` names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipient {
    /// The address, without brackets and source route.
    pub address: String,
    /// `NOTIFY`: when a DSN is wanted; none where the client did not say.
    pub notify: Option<Notify>,
    /// `ORCPT`: the address type and the original recipient, decoded: `rfc822;a@example.org`.
    pub orcpt: Option<String>,
}

/// When a DSN is wanted (RFC 3461, section 4.1); all false is `NEVER`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notify {
    /// On delivery.
    pub success: bool,
    /// On failure.
    pub failure: bool,
    /// On delay.
    pub delay: bool,
}

/// Reads a line, its line end removed.
pub fn parse(line: &[u8]) -> Result<Command<'_>, Reply> {
    let line = std::str::from_utf8(line)
        .ok()
        .filter(|line| !line.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t'))
        .ok_or(Reply::new(500, "5.5.2", "Command lines are UTF-8 without control characters"))?;
    let line = line.trim_end_matches([' ', '\t']);
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim_start_matches(' ');
    let verb_is = |name: &str| verb.eq_ignore_ascii_case(name);
    if verb_is("MAIL") {
        mail(rest)
    } else if verb_is("RCPT") {
        rcpt(rest)
    } else if verb_is("EHLO") {
        hello(Hello::Ehlo, rest)
    } else if verb_is("HELO") {
        hello(Hello::Helo, rest)
    } else if verb_is("LHLO") {
        hello(Hello::Lhlo, rest)
    } else if verb_is("NOOP") {
        Ok(Command::Noop)
    } else if verb_is("VRFY") || verb_is("EXPN") {
        Ok(Command::Vrfy)
    } else if verb_is("HELP") {
        Ok(Command::Help)
    } else if verb_is("AUTH") {
        auth(rest)
    } else {
        let command = if verb_is("DATA") {
            Command::Data
        } else if verb_is("RSET") {
            Command::Rset
        } else if verb_is("QUIT") {
            Command::Quit
        } else if verb_is("STARTTLS") {
            Command::StartTls
        } else {
            return Err(Reply::new(500, "5.5.2", "Command not recognised"));
        };
        if rest.is_empty() { Ok(command) } else { Err(syntax("This command takes no argument")) }
    }
}

fn syntax(text: &'static str) -> Reply {
    Reply::new(501, "5.5.4", text)
}

fn hello(verb: Hello, name: &str) -> Result<Command<'_>, Reply> {
    if name.is_empty() || name.len() > 255 || name.contains(' ') {
        return Err(syntax("Say who you are: EHLO mail.example.org"));
    }
    Ok(Command::Hello { verb, name })
}

fn auth(rest: &str) -> Result<Command<'_>, Reply> {
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    let mechanism = words.next().ok_or(syntax("AUTH needs a mechanism"))?.to_ascii_uppercase();
    let initial = words.next();
    match words.next() {
        None => Ok(Command::Auth { mechanism, initial }),
        Some(_) => Err(syntax("AUTH takes a mechanism and one initial response")),
    }
}

fn mail(rest: &str) -> Result<Command<'_>, Reply> {
    let rest = after_keyword(rest, "FROM:").ok_or(syntax("Write MAIL FROM:<address>"))?;
    let (from, rest) = path(rest).ok_or(BAD_SENDER)?;
    let mut parameters = MailParameters::default();
    for (keyword, value) in words(rest) {
        parameters.set(keyword, value)?;
    }
    if !from.is_empty() && (!is_address(from) || !(parameters.smtputf8 || from.is_ascii())) {
        return Err(BAD_SENDER);
    }
    Ok(Command::Mail { from, parameters })
}

const BAD_SENDER: Reply = Reply::new(501, "5.1.7", "That is not a sender address");
const BAD_RECIPIENT: Reply = Reply::new(501, "5.1.3", "That is not a recipient address");

fn rcpt(rest: &str) -> Result<Command<'_>, Reply> {
    let rest = after_keyword(rest, "TO:").ok_or(syntax("Write RCPT TO:<address>"))?;
    let (address, rest) = path(rest).ok_or(BAD_RECIPIENT)?;
    let mut recipient = Recipient { address: address.to_owned(), ..Recipient::default() };
    for (keyword, value) in words(rest) {
        let invalid = || syntax("A parameter of RCPT TO has an invalid value");
        match keyword.to_ascii_uppercase().as_str() {
            "NOTIFY" => recipient.notify = Some(value.and_then(notify).ok_or_else(invalid)?),
            "ORCPT" => {
                let original = value.filter(|value| value.len() <= 500 && value.contains(';'));
                recipient.orcpt = Some(original.and_then(xtext).ok_or_else(invalid)?);
            }
            _ => return Err(Reply::new(555, "5.5.4", "Unknown parameter of RCPT TO")),
        }
    }
    // RFC 5321, section 4.5.1: the bare name must be accepted here, whatever becomes of it.
    if !is_address(address) && !address.eq_ignore_ascii_case("postmaster") {
        return Err(BAD_RECIPIENT);
    }
    Ok(Command::Rcpt(recipient))
}

fn after_keyword<'a>(rest: &'a str, keyword: &str) -> Option<&'a str> {
    let (head, tail) = rest.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| tail.trim_start_matches(' '))
}

/// Splits `<path> parameters`, dropping a source route (RFC 5321, appendix C).
fn path(rest: &str) -> Option<(&str, &str)> {
    let inner = rest.strip_prefix('<')?;
    let (mut quoted, mut escaped, mut end) = (false, false, None);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => {
                end = Some(at);
                break;
            }
            _ => {}
        }
    }
    let end = end?;
    let (path, tail) = (&inner[..end], &inner[end + 1..]);
    let tail = if tail.is_empty() { tail } else { tail.strip_prefix(' ')? };
    let address = if path.starts_with('@') { path.split_once(':')?.1 } else { path };
    Some((address, tail))
}

fn words(rest: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    rest.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

fn number(value: &str) -> Option<u64> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
}

fn notify(value: &str) -> Option<Notify> {
    let mut notify = Notify::default();
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(notify);
    }
    for word in value.split(',') {
        match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => notify.success = true,
            "FAILURE" => notify.failure = true,
            "DELAY" => notify.delay = true,
            _ => return None,
        }
    }
    Some(notify)
}

/// Decodes xtext (RFC 3461, section 4): `+` and two upper-case hexadecimal digits stand for a byte.
fn xtext(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'+' {
            let digit = |byte: u8| (byte as char).to_digit(16);
            out.push((digit(bytes.next()?)? * 16 + digit(bytes.next()?)?) as u8);
        } else if byte == b'=' {
            return None;
        } else {
            out.push(byte);
        }
    }
    let text = String::from_utf8(out).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

/// Whether `text` is a mailbox (RFC 5321, section 4.1.2, with the lengths of 4.5.3.1). Generous
/// about what may stand in a local part, as its owner decides that.
fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
    let local_ok =
        quoted || local.chars().all(|c| !c.is_whitespace() && !r#"()<>[]:;@\,""#.contains(c));
    let literal = domain.starts_with('[') && domain.ends_with(']');
    let domain_ok = literal
        || domain.split('.').all(|label| {
            let inside =
                |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || !c.is_ascii();
            (1..=63).contains(&label.len()) && label.chars().all(inside)
        });
    (1..=64).contains(&local.len()) && (1..=255).contains(&domain.len()) && local_ok && domain_ok
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(line: &str) -> u16 {
        parse(line.as_bytes()).expect_err(line).code()
    }

    #[test]
    fn mail_and_its_parameters_are_read() {
        let line = b"mail from:<b+tok@bounce.example> SIZE=1234 BODY=8BITMIME RET=HDRS ENVID=a+2Bb SMTPUTF8 AUTH=<>";
        let Command::Mail { from, parameters } = parse(line).unwrap() else { panic!() };
        assert_eq!(from, "b+tok@bounce.example");
        assert_eq!(
            parameters,
            MailParameters {
                size: Some(1234),
                eight_bit: true,
                smtputf8: true,
                ret: Some(Ret::Headers),
                envid: Some("a+b".into()),
            }
        );
        assert!(matches!(parse(b"MAIL FROM: <>"), Ok(Command::Mail { from: "", .. })));
    }

    #[test]
    fn recipients_are_read() {
        for (line, address) in [
            ("RCPT TO:<a@example.org>", "a@example.org"),
            ("rcpt to: <a@example.org>", "a@example.org"),
            ("RCPT TO:<@relay.example,@b.example:a@example.org>", "a@example.org"),
            ("RCPT TO:<\"a b>\\\"c\"@example.org>", "\"a b>\\\"c\"@example.org"),
            ("RCPT TO:<Postmaster>", "Postmaster"),
            ("RCPT TO:<a@[192.0.2.1]>", "a@[192.0.2.1]"),
            ("RCPT TO:<grüße@bücher.example>", "grüße@bücher.example"),
        ] {
            let Command::Rcpt(recipient) = parse(line.as_bytes()).expect(line) else { panic!() };
            assert_eq!(recipient.address, address);
        }
        let line = b"RCPT TO:<a@b.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a+40b.example";
        let Command::Rcpt(recipient) = parse(line).unwrap() else { panic!() };
        let notify = Notify { success: false, failure: true, delay: true };
        assert_eq!(recipient.notify, Some(notify));
        assert_eq!(recipient.orcpt.as_deref(), Some("rfc822;a@b.example"));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_right_code() {
        for (line, expected) in [
            ("", 500),
            ("BDAT 10", 500),
            ("EHLO", 501),
            ("EHLO a b", 501),
            ("DATA now", 501),
            ("MAIL", 501),
            ("MAIL FROM:a@example.org", 501),
            ("MAIL FROM:<a@example.org", 501),
            ("MAIL FROM:<a@example.org>SIZE=1", 501),
            ("MAIL FROM:<a@example.org> SIZE=big", 501),
            ("MAIL FROM:<a@example.org> BODY=BINARYMIME", 501),
            ("MAIL FROM:<a@example.org> FOO=1", 555),
            ("MAIL FROM:<ä@example.org>", 501),
            ("MAIL FROM:<a b@example.org>", 501),
            ("RCPT TO:<>", 501),
            ("RCPT TO:<a>", 501),
            ("RCPT TO:<a@>", 501),
            ("RCPT TO:<a@b..example>", 501),
            ("RCPT TO:<a@b.example> NOTIFY=NEVER,DELAY", 501),
            ("RCPT TO:<a@b.example> ORCPT=rfc822", 501),
            ("AUTH", 501),
            ("NOOP \u{7}", 500),
            ("RCPT TO:<a@b.example>\rRCPT TO:<c@d.example>", 500),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
        let long = format!("RCPT TO:<{}@example.org>", "a".repeat(65));
        assert_eq!(code(&long), 501);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }

        #[test]
        fn near_commands_do_not_panic(
            verb in "(MAIL FROM:|RCPT TO:|EHLO |AUTH |mail from: )", rest in "[<>@:;\"\\\\a-z+=.,É ]{0,40}"
        ) {
            let _ = parse(format!("{verb}{rest}").as_bytes());
        }

        #[test]
        fn accepted_addresses_hold_no_space_outside_quotes_and_no_control(
            rest in "<[ -~]{0,30}>"
        ) {
            if let Ok(Command::Rcpt(recipient)) = parse(format!("RCPT TO:{rest}").as_bytes()) {
                prop_assert!(!recipient.address.chars().any(char::is_control));
                prop_assert!(!recipient.address.contains(' ') || recipient.address.contains('"'));
            }
        }
    }
}
