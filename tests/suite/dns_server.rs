//! A name server of the test's own, on loopback: it says what it is told to say, writes down what it is
//! asked, and can fail in every way in which name servers fail.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, MX, SOA, TXT},
    },
};

/// How long answers may be kept, in seconds.
const TTL: u32 = 1;

/// What is said about a name.
#[derive(Debug, Clone)]
enum Word {
    Records(Vec<RData>),
    Code(ResponseCode),
    Silence,
}

/// A running name server; it ends when it is dropped.
pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    zone: Mutex<BTreeMap<String, Word>>,
    asked: Mutex<Vec<(String, RecordType)>>,
    /// Nobody gets an answer.
    mute: AtomicBool,
    stop: AtomicBool,
}

impl DnsServer {
    /// A server that knows no names.
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.serve(&socket)
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// `domain` has mail servers, by preference.
    pub(crate) fn mx(&self, domain: &str, hosts: &[(u16, &str)]) -> &Self {
        for (preference, host) in hosts {
            self.add(domain, RData::MX(MX::new(*preference, name(host))));
        }
        self
    }

    /// `host` has an address.
    pub(crate) fn at(&self, host: &str, address: &str) -> &Self {
        self.add(
            host,
            match address.parse().unwrap() {
                IpAddr::V4(address) => RData::A(A(address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            },
        )
    }

    /// `alias` is another name for `host`.
    pub(crate) fn alias(&self, alias: &str, host: &str) -> &Self {
        self.add(alias, RData::CNAME(CNAME(name(host))))
    }

    /// `host` says something, in place of what it said before.
    pub(crate) fn text(&self, host: &str, text: &str) -> &Self {
        self.forget(host);
        self.add(host, RData::TXT(TXT::new(vec![text.to_owned()])))
    }

    /// `host` exists, without any record.
    pub(crate) fn nothing(&self, host: &str) -> &Self {
        self.say(host, Word::Records(Vec::new()))
    }

    /// Questions about `host` fail.
    pub(crate) fn fails(&self, host: &str) -> &Self {
        self.say(host, Word::Code(ResponseCode::ServFail))
    }

    /// Questions about `host` are not answered.
    pub(crate) fn silent(&self, host: &str) -> &Self {
        self.say(host, Word::Silence)
    }

    /// Nothing was ever said about `host`.
    pub(crate) fn forget(&self, host: &str) -> &Self {
        lock(&self.shared.zone).remove(host);
        self
    }

    /// Whether all questions stay without an answer.
    pub(crate) fn mute(&self, mute: bool) {
        self.shared.mute.store(mute, Ordering::Relaxed);
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<(String, RecordType)> {
        lock(&self.shared.asked).clone()
    }

    fn add(&self, host: &str, data: RData) -> &Self {
        let mut zone = lock(&self.shared.zone);
        let word = zone.entry(host.to_owned()).or_insert(Word::Records(Vec::new()));
        match word {
            Word::Records(records) => records.push(data),
            _ => *word = Word::Records(vec![data]),
        }
        drop(zone);
        self
    }

    fn say(&self, host: &str, word: Word) -> &Self {
        lock(&self.shared.zone).insert(host.to_owned(), word);
        self
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
            if let Some(answer) = self.answer(&question) {
                socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
            }
        }
    }

    fn answer(&self, question: &Message) -> Option<Message> {
        let query = question.queries.first()?.clone();
        let (mut host, kind) = (query.name().clone(), query.query_type());
        lock(&self.asked).push((written(&host), kind));
        if self.mute.load(Ordering::Relaxed) {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_query(query);
        let zone = lock(&self.zone);
        loop {
            let records = match zone.get(&written(&host)) {
                Some(Word::Silence) => return None,
                Some(Word::Code(code)) => {
                    answer.metadata.response_code = *code;
                    return Some(answer);
                }
                Some(Word::Records(records)) => records,
                None => {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    break;
                }
            };
            let fitting = records.iter().filter(|data| data.record_type() == kind);
            for data in fitting {
                answer.add_answer(Record::from_rdata(host.clone(), TTL, data.clone()));
            }
            let alias = records.iter().find_map(|data| match data {
                RData::CNAME(target) => Some((data.clone(), target.0.clone())),
                _ => None,
            });
            let Some((data, target)) = alias else { break };
            answer.add_answer(Record::from_rdata(host, TTL, data));
            host = target;
        }
        if answer.answers.is_empty() {
            let soa = SOA::new(name("ns.test"), name("root.test"), 1, 1, 1, 1, TTL);
            answer.add_authority(Record::from_rdata(name("test"), TTL, RData::SOA(soa)));
        }
        Some(answer)
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap()
}

fn written(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
