//! How sessions with destinations end: with a QUIT and its answer, whether nobody needs them any more or
//! the daemon stops.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use postrider::db::state::IssueState;

use super::{SHORT, import, scene};
use crate::{
    dns_server::DnsServer,
    harness::{Daemon, NO_GATES, QUICK, free_port, until},
};

/// The commands of sessions, and whether each session has ended.
type Sessions = Arc<Mutex<Vec<(Vec<String>, bool)>>>;

/// A mail server that takes everything, and writes down what it is told.
struct Listener {
    sessions: Sessions,
    stop: Arc<AtomicBool>,
}

impl Listener {
    fn at(address: &str, port: u16) -> Self {
        let listener = TcpListener::bind((address, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let this = Self { sessions: Sessions::default(), stop: Arc::default() };
        let (sessions, stop) = (Arc::clone(&this.sessions), Arc::clone(&this.stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let sessions = Arc::clone(&sessions);
                std::thread::spawn(move || {
                    let number = {
                        let mut all = sessions.lock().unwrap();
                        all.push((Vec::new(), false));
                        all.len() - 1
                    };
                    // The client may leave as it likes; how is what is written down.
                    let _ = serve(&stream, |line| {
                        sessions.lock().unwrap()[number].0.push(line.to_owned());
                    });
                    sessions.lock().unwrap()[number].1 = true;
                });
            }
        });
        this
    }

    /// The last command of every session, once all have ended.
    fn last_words(&self) -> Option<Vec<String>> {
        let sessions = self.sessions.lock().unwrap();
        let ended = !sessions.is_empty() && sessions.iter().all(|(_, ended)| *ended);
        let last = |(lines, _): &(Vec<String>, bool)| lines.last().cloned().unwrap_or_default();
        ended.then(|| sessions.iter().map(last).collect())
    }

    /// How many messages came.
    fn taken(&self) -> usize {
        let sessions = self.sessions.lock().unwrap();
        sessions.iter().flat_map(|(lines, _)| lines).filter(|line| *line == ".").count()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One session; `hears` is told of every command, and of the end of every message.
fn serve(mut stream: &TcpStream, hears: impl Fn(&str)) -> std::io::Result<()> {
    stream.write_all(b"220 mx.test\r\n")?;
    let mut in_data = false;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if in_data {
            if line == "." {
                in_data = false;
                hears(".");
                stream.write_all(b"250 2.0.0 Taken\r\n")?;
            }
            continue;
        }
        hears(&line);
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        let reply: &[u8] = match verb {
            "DATA" => b"354 Go\r\n",
            "QUIT" => b"221 2.0.0 Bye\r\n",
            _ => b"250 2.0.0 Fine\r\n",
        };
        in_data = verb == "DATA";
        stream.write_all(reply)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_session_that_nobody_needs_any_more_ends_with_a_goodbye() {
    const EACH: usize = 6;
    // By itself after a few seconds, and at once when the daemon stops.
    for (address, stops) in [("127.0.0.65", false), ("127.0.0.66", true)] {
        let (dns, port) = (DnsServer::start(), free_port());
        let server = Listener::at(address, port);
        dns.at("mx.test", address);
        let domains = ["one.example", "two.example", "three.example"];
        for domain in domains {
            dns.mx(domain, &[(10, "mx.test")]);
        }
        let scene = scene(&dns, port, "", &format!("{QUICK}{NO_GATES}{SHORT}")).await;
        let audience = import(&scene, &domains, EACH);
        let daemon = Daemon::spawn(&scene).await;
        scene.send().ok();
        scene.reaches(IssueState::Sent).await;
        assert_eq!(server.taken(), audience);
        if stops {
            daemon.terminate();
        }
        let last = until("all sessions end", async || server.last_words()).await;
        println!("stopped: {stops}; {last:?}");
        assert!(last.iter().all(|word| word == "QUIT"), "{address}: {last:?}");
    }
}
