//! What comes back later: bounces (RFC 3464 in RFC 6522's `multipart/report`) and complaints
//! (RFC 5965) for messages that the sink accepted, delivered by SMTP to whoever takes reports in.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fmt::{self, Write as _},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{smtp::server::Envelope, timestamp::Timestamp};

use super::faults::profile::{Return, ReturnKind};

/// Reports waiting; beyond it they count as failed.
const WAITING_MAX: usize = 10_000;
/// How much of a message's header section a report returns.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// One delivery, from connecting to the reply after the dot.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries per report, a second apart.
const TRIES: u32 = 5;

/// Sends reports back.
#[derive(Debug)]
pub(super) struct Returns {
    queue: mpsc::Sender<(Instant, Report)>,
    counts: Arc<(AtomicU64, AtomicU64)>,
}

/// How many reports went which way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReturnCounts {
    pub(super) delivered: u64,
    pub(super) failed: u64,
}

/// What a report says about the message it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Original {
    sender: String,
    recipients: Vec<(String, Option<String>)>,
    envid: Option<String>,
    headers: String,
}

impl Original {
    /// Takes from a message what reports need.
    pub(super) fn new(envelope: &Envelope, bytes: &[u8]) -> Self {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 2);
        let headers = &bytes[..end.min(HEADER_BYTES_MAX)];
        let recipients = envelope.recipients.iter();
        Self {
            sender: envelope.from.clone(),
            recipients: recipients.map(|one| (one.address.clone(), one.orcpt.clone())).collect(),
            envid: envelope.parameters.envid.clone(),
            headers: String::from_utf8_lossy(headers).into_owned(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Report {
    returned: Return,
    original: Original,
    accepted_at: Timestamp,
}

impl Returns {
    /// Starts the task that delivers reports to `to`.
    pub(super) fn start(
        to: SocketAddr,
        hostname: String,
        shutdown: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (queue, reports) = mpsc::channel(WAITING_MAX);
        let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let deliverer = Deliverer { to, hostname, counts: Arc::clone(&counts) };
        let task = tokio::spawn(async move {
            shutdown.run_until_cancelled(deliverer.run(reports)).await;
        });
        (Self { queue, counts }, task)
    }

    /// Has a report delivered in its time. The null sender's mail never causes any.
    pub(super) fn schedule(&self, returned: Return, original: Original) {
        if original.sender.is_empty() {
            return;
        }
        let due = Instant::now() + returned.after;
        let report = Report { returned, original, accepted_at: Timestamp::now() };
        if self.queue.try_send((due, report)).is_err() {
            self.counts.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn counts(&self) -> ReturnCounts {
        let (delivered, failed) = &*self.counts;
        ReturnCounts {
            delivered: delivered.load(Ordering::Relaxed),
            failed: failed.load(Ordering::Relaxed),
        }
    }
}

struct Deliverer {
    to: SocketAddr,
    hostname: String,
    counts: Arc<(AtomicU64, AtomicU64)>,
}

/// A report in the queue, ordered by when it is due.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    at: Instant,
    number: u64,
    report: Report,
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Deliverer {
    async fn run(self, mut reports: mpsc::Receiver<(Instant, Report)>) {
        let mut waiting = BinaryHeap::new();
        let mut number = 0;
        loop {
            let next = waiting.peek().map(|Reverse(Due { at, .. })| *at);
            tokio::select! {
                received = reports.recv(), if waiting.len() < WAITING_MAX => {
                    let Some((at, report)) = received else { return };
                    number += 1;
                    waiting.push(Reverse(Due { at, number, report }));
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if let Some(Reverse(due)) = waiting.pop() {
                        self.deliver(&due.report, due.number).await;
                    }
                }
            }
        }
    }

    async fn deliver(&self, report: &Report, number: u64) {
        let message = report.to_message(&self.hostname, number, Timestamp::now());
        let sender = match report.returned.kind {
            ReturnKind::Bounce | ReturnKind::Delay => String::new(),
            ReturnKind::Complaint => format!("feedback@{}", self.hostname),
        };
        for attempt in 1..=TRIES {
            let delivery = self.transmit(&sender, &report.original.sender, &message);
            let error = match timeout(DELIVERY_TIMEOUT, delivery).await {
                Ok(Ok(())) => {
                    self.counts.0.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            tracing::warn!(attempt, to = %self.to, %error, "cannot deliver a report");
            sleep(Duration::from_secs(1)).await;
        }
        self.counts.1.fetch_add(1, Ordering::Relaxed);
    }

    async fn transmit(&self, sender: &str, recipient: &str, message: &str) -> io::Result<()> {
        let mut stream = BufStream::new(TcpStream::connect(self.to).await?);
        expect(&mut stream, '2').await?;
        for command in [
            format!("EHLO {}\r\n", self.hostname),
            format!("MAIL FROM:<{sender}>\r\n"),
            format!("RCPT TO:<{recipient}>\r\n"),
        ] {
            say(&mut stream, &command).await?;
            expect(&mut stream, '2').await?;
        }
        say(&mut stream, "DATA\r\n").await?;
        expect(&mut stream, '3').await?;
        let message = message.replace("\r\n.", "\r\n..");
        say(&mut stream, &format!("{message}.\r\n")).await?;
        expect(&mut stream, '2').await?;
        say(&mut stream, "QUIT\r\n").await
    }
}

async fn say(stream: &mut BufStream<TcpStream>, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}

/// Reads a reply and requires its class.
async fn expect(stream: &mut BufStream<TcpStream>, class: char) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            break;
        }
    }
    if line.starts_with(class) { Ok(()) } else { Err(io::Error::other(line.trim().to_owned())) }
}

fn put(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes any text");
}

impl Report {
    fn to_message(&self, hostname: &str, number: u64, now: Timestamp) -> String {
        match self.returned.kind {
            ReturnKind::Bounce => self.status_message("failed", hostname, number, now),
            ReturnKind::Delay => self.status_message("delayed", hostname, number, now),
            ReturnKind::Complaint => self.feedback_message(hostname, number, now),
        }
    }

    fn status_message(&self, action: &str, hostname: &str, number: u64, now: Timestamp) -> String {
        let Original { sender, recipients, envid, headers } = &self.original;
        let Return { status, diagnostic, .. } = &self.returned;
        let (date, arrival) = (now.to_rfc5322(), self.accepted_at.to_rfc5322());
        let boundary = format!("report-{number}-{}", now.microseconds());
        let envid = envid.as_ref().map(|id| format!("Original-Envelope-Id: {id}\r\n"));
        let envid = envid.unwrap_or_default();
        let subject = match action {
            "failed" => "Undelivered mail returned to sender",
            _ => "Your mail is delayed",
        };
        let (mut list, mut fields) = (String::new(), String::new());
        for (address, original) in recipients {
            put(&mut list, format_args!("    <{address}>: {diagnostic}\r\n"));
            let original = original.as_ref().map(|text| format!("Original-Recipient: {text}\r\n"));
            put(
                &mut fields,
                format_args!(
                    "\r\n{}Final-Recipient: rfc822; {address}\r\nAction: {action}\r\n\
                 Status: {status}\r\nRemote-MTA: dns; {hostname}\r\n\
                 Diagnostic-Code: smtp; {diagnostic}\r\nLast-Attempt-Date: {date}\r\n",
                    original.unwrap_or_default()
                ),
            );
        }
        format!(
            "From: Mail Delivery System <mailer-daemon@{hostname}>\r\nTo: {sender}\r\n\
             Subject: {subject}\r\nDate: {date}\r\n\
             Message-ID: <{boundary}@{hostname}>\r\nAuto-Submitted: auto-replied\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=\"{boundary}\"\r\n\
             \r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
             The mail system at {hostname} reports on your message:\r\n\r\n{list}\
             \r\n--{boundary}\r\nContent-Type: message/delivery-status\r\n\r\n\
             Reporting-MTA: dns; {hostname}\r\n{envid}Arrival-Date: {arrival}\r\n{fields}\
             \r\n--{boundary}\r\nContent-Type: text/rfc822-headers\r\n\r\n{headers}\
             \r\n--{boundary}--\r\n"
        )
    }

    fn feedback_message(&self, hostname: &str, number: u64, now: Timestamp) -> String {
        let Original { sender, recipients, headers, .. } = &self.original;
        let (date, arrival) = (now.to_rfc5322(), self.accepted_at.to_rfc5322());
        let boundary = format!("report-{number}-{}", now.microseconds());
        let mut fields = String::new();
        for (address, _) in recipients {
            put(&mut fields, format_args!("Original-Rcpt-To: <{address}>\r\n"));
        }
        format!(
            "From: Feedback <feedback@{hostname}>\r\nTo: {sender}\r\nSubject: Abuse report\r\n\
             Date: {date}\r\nMessage-ID: <{boundary}@{hostname}>\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=feedback-report; boundary=\"{boundary}\"\r\n\
             \r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
             A reader of {hostname} reported this message as unwanted.\r\n\
             \r\n--{boundary}\r\nContent-Type: message/feedback-report\r\n\r\n\
             Feedback-Type: abuse\r\nUser-Agent: sink/1\r\nVersion: 1\r\n\
             Original-Mail-From: <{sender}>\r\n{fields}Arrival-Date: {arrival}\r\n\
             Reporting-MTA: dns; {hostname}\r\n\
             \r\n--{boundary}\r\nContent-Type: message/rfc822\r\n\r\n{headers}\r\n\
             \r\n--{boundary}--\r\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kind: ReturnKind) -> String {
        let original = Original {
            sender: "b+token@bounce.example".into(),
            recipients: vec![("ada@example.org".into(), Some("rfc822;Ada@example.org".into()))],
            envid: Some("copy-7".into()),
            headers: "From: sre@example.org\r\nMessage-ID: <7@example.org>\r\n".into(),
        };
        let accepted_at: Timestamp = "2024-08-11T09:00:00Z".parse().unwrap();
        let returned = Return { kind, ..Return::default() };
        Report { returned, original, accepted_at }.to_message(
            "sink.localhost",
            3,
            "2024-08-11T09:05:07Z".parse().unwrap(),
        )
    }

    #[test]
    fn a_bounce_has_its_three_parts() {
        insta::assert_snapshot!(report(ReturnKind::Bounce).replace('\r', ""));
    }

    #[test]
    fn a_complaint_has_its_three_parts() {
        insta::assert_snapshot!(report(ReturnKind::Complaint).replace('\r', ""));
    }
}
