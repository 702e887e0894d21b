//! What servers say and do that no real one in the tests does: a scripted one, command by command.

use std::sync::Arc;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::{
    bounce::apply::tests::{House, dsn},
    db::state::CopyState,
};

/// A line that the client must say (as far as it goes), and what is answered; `TAG` stands for the
/// client's own.
type Script = Vec<(&'static str, String)>;

/// Serves one session by a script, which has to be followed to its end.
async fn serve(greeting: &'static str, script: Script) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(greeting.as_bytes()).await.unwrap();
        for (command, answer) in script {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let (tag, said) = line.split_once(' ').unwrap_or(("", &line));
            let is_tag = tag.strip_prefix('P').is_some_and(|rest| rest.parse::<u32>().is_ok());
            let said = if is_tag { said } else { line.as_str() };
            assert!(said.starts_with(command), "expected {command}, heard {said}");
            let answer = answer.replace("TAG", tag);
            stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, serving)
}

fn settings(kind: &str, port: u16, more: &str) -> BounceMailbox {
    let text = format!(
        "[[bounces.mailbox]]\nname = \"m\"\nkind = \"{kind}\"\nhost = \"127.0.0.1\"\nport = {port}\n\
         tls = \"none\"\nusername = \"u\"\npassword = \"p\"\n{more}\n"
    );
    config::Config::parse(&text, "c").unwrap().bounces.mailbox.remove(0)
}

async fn look(house: &House, settings: &BounceMailbox) -> (Look, Result<(), MailboxError>) {
    let parts = Parts {
        db: house.db.clone(),
        keyring: Arc::new(house.keyring.clone()),
        rules: house.rules.clone(),
    };
    let mut mailbox = Mailbox::new(settings, &parts, MailboxSeries::default()).await.unwrap();
    let mut look = Look::default();
    let done = mailbox.fetch(&mut look).await;
    (look, done)
}

const OK: &str = "TAG OK done\r\n";

fn imap_login() -> Script {
    vec![
        ("CAPABILITY", format!("* CAPABILITY IMAP4rev1\r\n{OK}")),
        ("LOGIN \"u\" \"p\"", OK.to_owned()),
        ("CAPABILITY", format!("* CAPABILITY IMAP4rev1 MOVE UIDPLUS IDLE\r\n{OK}")),
    ]
}

fn selected(validity: u32) -> (&'static str, String) {
    let text = format!("* 3 EXISTS\r\n* OK [UIDVALIDITY {validity}] ok\r\n{OK}");
    ("SELECT \"INBOX\"", text)
}

fn literal(text: &str) -> String {
    format!("{{{}}}\r\n{text}", text.len())
}

#[tokio::test]
async fn left_mail_is_not_fetched_again_until_the_uids_count_anew() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let report = format!(
        "Delivered-To: {}\r\n{}",
        house.verp(copy),
        dsn("ada@example.net", "failed", "550 5.1.1 unknown")
    );
    let letter = "Subject: hello\r\n\r\nhello\r\n";
    let list = "* 1 FETCH (UID 4 FLAGS () RFC822.SIZE 30)\r\n* 2 FETCH (UID 5 FLAGS (\\Deleted) \
                RFC822.SIZE 30)\r\n* 3 FETCH (FLAGS () UID 9 RFC822.SIZE 900)\r\n";
    let bodies = format!(
        "* 1 FETCH (UID 4 BODY[] {})\r\n* 4 EXISTS\r\n* 3 FETCH (BODY[] {} UID 9)\r\n",
        literal(letter),
        literal(&report)
    );
    let mut script = imap_login();
    script.extend([
        selected(7),
        ("UID FETCH 1:* (UID FLAGS RFC822.SIZE)", format!("{list}{OK}")),
        ("UID FETCH 4,9 (UID BODY.PEEK[])", format!("{bodies}{OK}")),
        ("UID MOVE 9 \"postrider-handled\"", "TAG NO [TRYCREATE] no such folder\r\n".into()),
        ("CREATE \"postrider-handled\"", OK.to_owned()),
        ("UID MOVE 9 \"postrider-handled\"", format!("* 3 EXPUNGE\r\n{OK}")),
        ("LOGOUT", format!("* BYE\r\n{OK}")),
    ]);
    let (port, serving) = serve("* OK ready\r\n", script).await;
    let (found, done) = look(&house, &settings("imap", port, "")).await;
    done.unwrap();
    serving.await.unwrap();
    assert_eq!((found.fetched, found.handled, found.left), (2, 1, 1));
    assert_eq!(house.count("SELECT COUNT(*) FROM suppression").await, 1);
    let private = "SELECT COUNT(*) FROM inbound_mail WHERE kind = 'not_a_report' AND raw = x''";
    assert_eq!(house.count(private).await, 1);

    // `*` is the last mail there is: one that was seen.
    let seen = "* 1 FETCH (UID 4 FLAGS () RFC822.SIZE 30)\r\n";
    let mut script = imap_login();
    script.extend([
        selected(7),
        ("UID FETCH 10:* (", format!("{seen}{OK}")),
        ("LOGOUT", OK.to_owned()),
    ]);
    let (port, serving) = serve("* OK ready\r\n", script).await;
    let (found, done) = look(&house, &settings("imap", port, "")).await;
    done.unwrap();
    serving.await.unwrap();
    assert_eq!(found, Look::default());

    // Other UIDs: everything is new. A mail that the server will not give is put aside, and the rest
    // is handled all the same.
    let list = "* 1 FETCH (UID 1 FLAGS () RFC822.SIZE 30)\r\n\
                * 2 FETCH (UID 2 FLAGS () RFC822.SIZE 900)\r\n\
                * 3 FETCH (UID 3 FLAGS () RFC822.SIZE 9)\r\n";
    let mut script = imap_login();
    script.extend([
        selected(8),
        ("UID FETCH 1:* (", format!("{list}{OK}")),
        ("UID FETCH 1:3 (UID BODY.PEEK[])", "TAG NO internal error\r\n".into()),
        ("UID FETCH 1 (", "TAG NO internal error\r\n".into()),
        ("UID FETCH 2 (", format!("* 2 FETCH (UID 2 BODY[] {})\r\n{OK}", literal(&report))),
        ("UID FETCH 3 (", OK.to_owned()),
        ("UID MOVE 2 \"postrider-handled\"", OK.to_owned()),
        ("UID MOVE 1 \"postrider-aside\"", OK.to_owned()),
        ("LOGOUT", OK.to_owned()),
    ]);
    let (port, serving) = serve("* OK ready\r\n", script).await;
    let (found, done) = look(&house, &settings("imap", port, "")).await;
    done.unwrap();
    serving.await.unwrap();
    assert_eq!((found.fetched, found.handled, found.aside, found.vanished), (1, 1, 1, 1));
    let repeated = "SELECT COUNT(*) FROM inbound_mail WHERE effect = 'repeated'";
    assert_eq!(house.count(repeated).await, 1);
}

#[tokio::test]
async fn an_empty_folder_is_waited_at_until_the_server_speaks_of_mail() {
    let house = House::new().await;
    let letter = "Subject: hello\r\n\r\nhello\r\n";
    let empty = format!("* 0 EXISTS\r\n* OK [UIDVALIDITY 1] ok\r\n{OK}");
    let one = format!("* 1 EXISTS\r\n* OK [UIDVALIDITY 1] ok\r\n{OK}");
    let mut script = imap_login();
    script.extend([
        // The folder that is waited at comes last.
        ("SELECT \"Spam\"", empty.clone()),
        ("SELECT \"INBOX\"", empty.clone()),
        ("IDLE", "+ waiting\r\n* OK still here\r\n* 1 EXISTS\r\n".into()),
        ("DONE", "P6 OK\r\n".into()),
        ("SELECT \"Spam\"", empty),
        ("SELECT \"INBOX\"", one),
        ("UID FETCH 1:* (", format!("* 1 FETCH (UID 1 FLAGS () RFC822.SIZE 30)\r\n{OK}")),
        // It comes with news: then it is looked again, and not waited.
        (
            "UID FETCH 1 (",
            format!("* 1 FETCH (UID 1 BODY[] {})\r\n* 2 EXISTS\r\n{OK}", literal(letter)),
        ),
        ("SELECT \"Spam\"", OK.into()),
    ]);
    let (port, serving) = serve("* OK ready\r\n", script).await;
    let settings = settings("imap", port, "folders = [\"INBOX\", \"Spam\"]\npoll = \"1h\"");
    let parts = Parts {
        db: house.db.clone(),
        keyring: Arc::new(house.keyring.clone()),
        rules: house.rules.clone(),
    };
    let mailbox = Mailbox::new(&settings, &parts, MailboxSeries::default()).await.unwrap();
    let stop = CancellationToken::new();
    let watching = tokio::spawn(mailbox.watch(stop.clone()));
    timeout(Duration::from_mins(2), serving).await.expect("it follows the script").unwrap();
    stop.cancel();
    watching.await.unwrap();
    assert_eq!(house.count("SELECT COUNT(*) FROM inbound_mail").await, 1);
}

#[tokio::test]
async fn servers_that_cannot_be_used_are_told_from_wrong_logins() {
    let house = House::new().await;
    let refused = |said: &str| {
        let mut script = imap_login();
        script.truncate(1);
        script.push(("LOGIN", format!("TAG NO {said}\r\n")));
        script
    };
    let cases: [(&str, Script, &str, bool); 6] = [
        ("* BYE too busy\r\n", vec![], "the greeting was refused", false),
        ("* OK\r\n", refused("[AUTHENTICATIONFAILED] no"), "login was refused", true),
        ("* OK\r\n", refused("[UNAVAILABLE] later"), "the login was refused: [UNAVAILABLE]", false),
        ("220 smtp.example.net ESMTP\r\n", vec![], "the greeting was refused", false),
        ("* OK {999999999}\r\n", vec![], "the connection was lost", false),
        (
            "* OK\r\n",
            vec![("CAPABILITY", format!("* CAPABILITY IMAP4rev1 LOGINDISABLED\r\n{OK}"))],
            "no login that we could use",
            false,
        ),
    ];
    for (greeting, script, expected, needs_somebody) in cases {
        let (port, serving) = serve(greeting, script).await;
        let (found, done) = look(&house, &settings("imap", port, "")).await;
        let problem = done.unwrap_err();
        assert!(problem.to_string().contains(expected), "{problem}");
        assert_eq!(problem.needs_somebody(), needs_somebody, "{problem}");
        assert_eq!(found, Look::default());
        serving.await.unwrap();
    }
    for (answer, needs_somebody) in [
        ("-ERR [AUTH] no\r\n", true),
        ("-ERR [IN-USE] locked\r\n", false),
        ("220 hello\r\n", false),
    ] {
        let script = vec![("USER u", "+OK\r\n".to_owned()), ("PASS p", answer.to_owned())];
        let (port, serving) = serve("+OK\r\n", script).await;
        let (_, done) = look(&house, &settings("pop3", port, "")).await;
        assert_eq!(done.unwrap_err().needs_somebody(), needs_somebody, "{answer}");
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn a_token_is_shown_as_servers_want_it() {
    let house = House::new().await;
    let more = "auth = \"xoauth2\"";
    let word = data_encoding::BASE64.encode(b"user=u\x01auth=Bearer p\x01\x01");
    let word: &'static str = Box::leak(word.into_boxed_str());
    let script: Script = vec![
        ("CAPABILITY", format!("* CAPABILITY IMAP4rev1 AUTH=XOAUTH2\r\n{OK}")),
        ("AUTHENTICATE XOAUTH2", "+ \r\n".to_owned()),
        (word, "+ eyJzdGF0dXMiOiI0MDAifQ==\r\n".to_owned()),
        ("", "P2 NO [AUTHENTICATIONFAILED] expired\r\n".to_owned()),
    ];
    let (port, serving) = serve("* OK\r\n", script).await;
    let (_, done) = look(&house, &settings("imap", port, more)).await;
    assert!(matches!(done, Err(MailboxError::Login(said)) if said.contains("expired")));
    serving.await.unwrap();
    let script: Script = vec![
        ("AUTH XOAUTH2", "+ \r\n".to_owned()),
        (word, "+OK\r\n".to_owned()),
        ("UIDL", "+OK\r\n.\r\n".to_owned()),
        ("LIST", "+OK\r\n.\r\n".to_owned()),
        ("QUIT", "+OK\r\n".to_owned()),
    ];
    let (port, serving) = serve("+OK\r\n", script).await;
    let (found, done) = look(&house, &settings("pop3", port, more)).await;
    done.unwrap();
    assert_eq!(found, Look::default());
    serving.await.unwrap();
}
