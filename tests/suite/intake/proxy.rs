//! What is between the daemon and a server: passes everything on, and does one bad thing at the moment
//! at which a command comes.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What happens when the command comes.
pub(super) enum Plan {
    /// It is passed on.
    Pass,
    /// It is passed on, and after so many octets of the answer both ends are cut off.
    CutAfter(usize),
    /// This happens before it is passed on.
    Before(Box<dyn FnOnce() + Send>),
    /// This happens in place of it, and both ends are cut off.
    InPlace(Box<dyn FnOnce() + Send>),
}

/// A running proxy.
pub(super) struct Proxy {
    pub(super) port: u16,
    plan: Arc<Mutex<Plan>>,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// Listens before `target`; plans are carried out when a line with `command` comes.
    pub(super) async fn before(target: u16, command: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Mutex::new(Plan::Pass));
        let connections = Arc::new(AtomicUsize::new(0));
        let (shared, count) = (Arc::clone(&plan), Arc::clone(&connections));
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                count.fetch_add(1, Ordering::Relaxed);
                // A server that is down refuses, and so do we.
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { continue };
                tokio::spawn(pass(client, server, command, Arc::clone(&shared)));
            }
        });
        Self { port, plan, connections }
    }

    /// What to do the next time, once.
    pub(super) fn plan(&self, plan: Plan) {
        *self.plan.lock().unwrap() = plan;
    }

    /// Whether the plan was carried out.
    pub(super) fn is_done(&self) -> bool {
        matches!(*self.plan.lock().unwrap(), Plan::Pass)
    }

    /// How many connections there were.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn pass(client: TcpStream, server: TcpStream, command: &str, plan: Arc<Mutex<Plan>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    let mut left = None;
    loop {
        tokio::select! {
            read = from_client.read(&mut asked) => {
                let Ok(count @ 1..) = read else { return };
                let text = String::from_utf8_lossy(&asked[..count]).into_owned();
                if text.contains(command) {
                    let planned = std::mem::replace(&mut *plan.lock().unwrap(), Plan::Pass);
                    match planned {
                        Plan::Pass => {}
                        Plan::CutAfter(octets) => left = Some(octets),
                        Plan::Before(act) => tokio::task::spawn_blocking(act).await.unwrap(),
                        Plan::InPlace(act) => {
                            tokio::task::spawn_blocking(act).await.unwrap();
                            return;
                        }
                    }
                }
                if to_server.write_all(&asked[..count]).await.is_err() { return }
            }
            read = from_server.read(&mut answered) => {
                let Ok(count @ 1..) = read else { return };
                let count = count.min(left.unwrap_or(count));
                if to_client.write_all(&answered[..count]).await.is_err() { return }
                left = left.map(|left| left - count);
                if left == Some(0) { return }
            }
        }
    }
}
