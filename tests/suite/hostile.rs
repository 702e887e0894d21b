//! What strangers send to the public pages: too much, too slowly, forged, broken, expired.

use std::{fmt::Write as _, fs, time::Duration};

use postrider::{
    db::state::IssueState,
    id::{NewsletterId, SubscriberId},
    sink::content::Content,
    token::{Purpose, ReaderToken},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::harness::{Daemon, QUICK, Scene, Sink, until};

const GIGABYTE: usize = 1 << 30;

async fn connect(scene: &Scene) -> TcpStream {
    TcpStream::connect(("127.0.0.1", scene.port)).await.unwrap()
}

/// A connection from another machine, as far as the daemon can tell.
async fn connect_from_elsewhere(scene: &Scene) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    socket.connect(([127, 0, 0, 1], scene.port).into()).await.unwrap()
}

/// Sends raw octets and reads until the daemon closes the connection.
async fn raw(scene: &Scene, octets: &[u8]) -> String {
    let mut stream = connect(scene).await;
    // The daemon may close before everything is written.
    let _ = stream.write_all(octets).await;
    let mut said = Vec::new();
    let read = stream.read_to_end(&mut said);
    let _ = tokio::time::timeout(Duration::from_mins(2), read).await.expect("the daemon closes");
    String::from_utf8_lossy(&said).into_owned()
}

/// Resident memory of a process, in bytes: now, and at its highest.
fn memory(process: u32) -> (usize, usize) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let kilobytes = |name: &str| -> usize {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (kilobytes("VmRSS:") * 1024, kilobytes("VmHWM:") * 1024)
}

/// Pushes up to a gigabyte of body behind `head`; returns what was answered and how much was taken.
async fn push(scene: &Scene, head: &str) -> (String, usize) {
    let (mut read, mut write) = connect(scene).await.into_split();
    let head = format!("POST /sre/subscribe HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n");
    let pushing = tokio::spawn(async move {
        let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x10000));
        let mut taken = 0;
        if write.write_all(head.as_bytes()).await.is_err() {
            return taken;
        }
        while taken < GIGABYTE && write.write_all(chunk.as_bytes()).await.is_ok() {
            taken += chunk.len();
        }
        taken
    });
    let mut said = Vec::new();
    let _ = read.read_to_end(&mut said).await;
    let taken = pushing.await.unwrap();
    (String::from_utf8_lossy(&said).into_owned(), taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_is_cut_off_and_costs_no_memory() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], QUICK).await;
    let mut daemon = Daemon::spawn(&scene).await;
    let form = "Content-Type: application/x-www-form-urlencoded";
    assert!(reqwest::get(daemon.url("/sre/")).await.unwrap().status().is_success());
    let (before, _) = memory(daemon.id());
    for length in [&format!("Content-Length: {GIGABYTE}"), "Transfer-Encoding: chunked"] {
        for _ in 0..4 {
            let (said, taken) = push(&scene, &format!("{length}\r\n{form}")).await;
            assert!(said.starts_with("HTTP/1.1 413"), "{length}: {said}");
            assert!(said.contains("That is too much"), "{length}: {said}");
            assert!(taken < GIGABYTE / 16, "{length}: {taken} octets were taken");
        }
    }
    let (_, highest) = memory(daemon.id());
    println!("memory: {before} before, {highest} at the highest");
    assert!(highest < before + 32 * 1024 * 1024, "{before} before, {highest} at the highest");
}

#[tokio::test]
async fn whoever_never_ends_a_head_is_dropped_while_others_are_served() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], QUICK).await;
    let daemon = Daemon::spawn(&scene).await;
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut stream = connect(&scene).await;
        stream.write_all(b"GET /sre/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.unwrap();
        slow.push(stream);
    }
    // One client has its share of connections, and no more; another one is served meanwhile.
    let mut other = connect_from_elsewhere(&scene).await;
    let request = b"GET /sre/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    other.write_all(request).await.unwrap();
    let mut said = String::new();
    other.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    // A byte now and then keeps nobody in.
    let since = std::time::Instant::now();
    until("every slow client is dropped", async || {
        let mut octet = [0; 256];
        let mut open = Vec::new();
        for mut stream in slow.drain(..) {
            let gone = match stream.try_read(&mut octet) {
                Ok(0) => true,
                Ok(_) => false,
                Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            };
            if !gone && stream.write_all(b"a").await.is_ok() {
                open.push(stream);
            }
        }
        slow = open;
        slow.is_empty().then_some(())
    })
    .await;
    println!("all were dropped after {:?}", since.elapsed());
    let page = reqwest::get(daemon.url("/sre/")).await.unwrap();
    assert!(page.status().is_success(), "their places come back");
}

/// Asks for JSON and returns the status and the problem's code.
async fn problem(request: reqwest::RequestBuilder) -> (u16, String) {
    let answer = request.header("Accept", "application/json").send().await.unwrap();
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.unwrap();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn forged_and_foreign_links_open_nothing() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], QUICK).await;
    scene.import(2);
    let daemon = Daemon::spawn(&scene).await;
    let context = scene.context().await;
    let reader =
        ReaderToken { newsletter: NewsletterId(1), subscriber: SubscriberId(1), issue: None };
    let genuine = reader.seal(&context.keyring, Purpose::Unsubscribe);
    let wrong_purpose = reader.seal(&context.keyring, Purpose::Preferences);
    let mut forged = vec![wrong_purpose, String::from("x"), "a".repeat(5000), genuine[1..].into()];
    for at in [0, genuine.len() / 2, genuine.len() - 1] {
        let mut letters = genuine.clone().into_bytes();
        letters[at] = if letters[at] == b'a' { b'b' } else { b'a' };
        forged.push(String::from_utf8(letters).unwrap());
    }
    forged
        .extend(["%00", "..%2f..%2fetc%2fpasswd", "%ff%fe", "%0d%0aSet-Cookie:x"].map(Into::into));
    let http = reqwest::Client::new();
    for token in &forged {
        let url = daemon.url(&format!("/-/unsubscribe/{token}"));
        for request in [http.get(&url), http.post(&url).body("List-Unsubscribe=One-Click")] {
            let (status, code) = problem(request).await;
            assert!(matches!(status, 400 | 404), "{status} {code}: {token}");
        }
    }
    for page in ["preferences", "my-data", "confirm", "not-me"] {
        let url = daemon.url(&format!("/-/{page}/{genuine}"));
        let expected = (404, "unknown-link".to_owned());
        assert_eq!(problem(http.get(url)).await, expected, "{page} with a link to leave");
    }
    for path in ["/nothing-here/", "/nothing-here/subscribe", "/nothing-here/atom.xml"] {
        let (status, code) = problem(http.get(daemon.url(path))).await;
        assert_eq!((status, code.as_str()), (404, "unknown-newsletter"), "{path}");
    }
    // Looking at a genuine link changes nothing either.
    let look = http.get(daemon.url(&format!("/-/unsubscribe/{genuine}"))).send().await.unwrap();
    assert_eq!(look.status(), 200);
    let sql = "SELECT COUNT(*) FROM subscription WHERE state = 1";
    let active: i64 = context.db.query(sql).scalar().await.unwrap();
    assert_eq!(active, 2);
    context.db.close().await;
}

#[tokio::test]
async fn nonsense_on_the_wire_gets_an_answer_or_a_closed_door() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], QUICK).await;
    let daemon = Daemon::spawn(&scene).await;
    let long_head =
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: 1\r\n".repeat(5000));
    for octets in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /sre/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET /sre/ HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"POST /sre/subscribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\
          Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
        b"POST /sre/subscribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /sre/subscribe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"EHLO localhost\r\nMAIL FROM:<a@example.com>\r\n",
        long_head.as_bytes(),
        many.as_bytes(),
    ] {
        let said = raw(&scene, octets).await;
        let shown = String::from_utf8_lossy(&octets[..octets.len().min(60)]);
        let refused = said.is_empty() || said.starts_with("HTTP/1.1 4");
        assert!(refused, "{shown:?} was answered with {said}");
    }
    let page = reqwest::get(daemon.url("/sre/")).await.unwrap();
    assert!(page.status().is_success());
}

/// The hidden time of a sign-up form.
async fn form_time(daemon: &Daemon) -> String {
    let page = reqwest::get(daemon.url("/sre/")).await.unwrap().text().await.unwrap();
    let (_, rest) = page.split_once("name=\"form_time\" value=\"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

const SIGN_UPS: &str = "[signup]\nform_age_min = \"0s\"\nconfirmation_lifetime = \"15s\"\n";

#[tokio::test]
async fn no_address_smuggles_a_command_or_a_header() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], &format!("{QUICK}{SIGN_UPS}")).await;
    let bad = [
        "ada@example.com\r\nRCPT TO:<eve@evil.example>",
        "ada@example.com\nBcc: eve@evil.example",
        "ada@example.com\0",
        "ada\0@example.com",
        "ada@example.com>\r\nDATA",
        "ada@example.com, eve@evil.example",
        "<ada@example.com> SIZE=1",
        "ada@exam\rple.com",
        "@example.com",
        "ada@",
        "",
    ];
    let mut rows =
        String::from("address,name\n\"zoe@example.com\",\"Zoe\r\nBcc: eve@evil.example\"\n");
    for address in bad {
        let _ = writeln!(rows, "\"{address}\",Bad");
    }
    fs::write(scene.house.path("readers.csv"), rows).unwrap();
    let import = ["subscriber", "import", "readers.csv", "--consent-source", "list"];
    scene.house.run(&import).ok();
    let daemon = Daemon::spawn(&scene).await;
    let http = reqwest::Client::new();
    for address in bad {
        let form =
            [("address", address), ("website", ""), ("form_time", &form_time(&daemon).await)];
        let request = http.post(daemon.url("/sre/subscribe")).form(&form);
        assert_eq!(problem(request).await, (422, "invalid-address".to_owned()), "{address:?}");
    }
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    let records = sink.journal();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].rcpt_to, ["zoe@example.com"]);
    let raw = fs::read(&sink.mails()[0]).unwrap();
    let content = Content::parse(&raw);
    assert_eq!(content.header("Bcc"), None);
    assert!(!raw.windows(6).any(|window| window == b"\nBcc: "), "a header was smuggled in");
}

#[tokio::test]
async fn a_link_that_is_too_old_confirms_nobody() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], &format!("{QUICK}{SIGN_UPS}")).await;
    let daemon = Daemon::spawn(&scene).await;
    let http = reqwest::Client::new();
    let time = form_time(&daemon).await;
    let form = [("address", "ada@example.com"), ("website", ""), ("form_time", &time)];
    let request = http.post(daemon.url("/sre/subscribe")).form(&form);
    assert_eq!(request.send().await.unwrap().status(), 200);
    // The journal has its line before the message has its file.
    let mail = until("the mail", async || {
        Some(Content::parse(&fs::read(sink.mails().first()?).unwrap()))
            .filter(|mail| !mail.links.is_empty())
    })
    .await;
    let link = mail.links.iter().find(|link| link.contains("/-/confirm/")).unwrap().clone();
    until("the link expires", async || {
        let answer = http.get(&link).send().await.unwrap();
        (answer.status() == 410).then_some(())
    })
    .await;
    assert_eq!(http.post(&link).send().await.unwrap().status(), 410);
    let sql = "SELECT COUNT(*) FROM subscription WHERE state = 1";
    let context = scene.context().await;
    let active: i64 = context.db.query(sql).scalar().await.unwrap();
    assert_eq!(active, 0);
    context.db.close().await;
}
