//! Returned mail through the listener: one report on every copy of an issue that was sent, over a few
//! connections, and the memory that it takes. Each is read, classified and durable before it is
//! answered.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::engine;
use crate::{
    bounce::intake,
    cli::Context,
    id::{CopyId, IssueId, SubscriberId},
    smtp::{server::Protocol, verp::TokenMailbox},
    token::DeliveryToken,
};

/// Clients at once, as relays have them.
const CLIENTS: u64 = 8;
/// Reports over one connection.
const PER_CONNECTION: u64 = 500;
/// Of how many reports one says that the reader is gone; the others say that a mailbox is full.
const GONE_EVERY: u64 = 20;

/// Figures of reports that came in.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Intake {
    /// Reports.
    pub reports: u64,
    /// Reports a second.
    pub per_second: f64,
    /// CPU microseconds a report, the client's included.
    pub cpu_us_each: f64,
    /// Memory that was resident after a tenth of them, in megabytes.
    pub resident_mb_early: f64,
    /// The most at any time after that.
    pub resident_mb_max: f64,
}

impl Intake {
    pub(super) fn describe(&self) -> String {
        format!(
            "{} reports through the listener: {:.0}/s, {:.0} µs of CPU each with the client's; {:.0} MB \
             resident after a tenth, at most {:.0} MB after that",
            self.reports,
            self.per_second,
            self.cpu_us_each,
            self.resident_mb_early,
            self.resident_mb_max
        )
    }
}

/// Sends an issue to so many readers, and takes a report on every copy.
pub(super) async fn run(folder: &Path, reports: u64) -> anyhow::Result<Intake> {
    let (context, issue) = engine::sent(&folder.join("intake"), reports).await?;
    let mut config = (*context.config).clone();
    config.bounces.mails_per_minute_and_client = u32::MAX;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let (db, keyring) = (context.db.clone(), Arc::clone(&context.keyring));
    let server = intake::smtp::server(db, keyring, &config, Protocol::Smtp, stop.clone());
    let serving = tokio::spawn(server.serve(listener));
    let context = Arc::new(context);
    let (taken, begin, cpu) = (Arc::new(AtomicU64::new(0)), Instant::now(), engine::cpu_time()?);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (context, taken) = (Arc::clone(&context), Arc::clone(&taken));
        clients.spawn(async move {
            let mut left: Vec<u64> = (1..=reports).filter(|n| n % CLIENTS == client).collect();
            while !left.is_empty() {
                let some = left.split_off(left.len().saturating_sub(PER_CONNECTION as usize));
                bring(&context, address, issue, &some, &taken).await?;
            }
            anyhow::Ok(())
        });
    }
    let (mut early, mut most) = (0, 0);
    while !clients.is_empty() {
        tokio::select! {
            Some(ended) = clients.join_next() => ended??,
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        let resident = engine::resident_bytes()?;
        if taken.load(Ordering::Relaxed) * 10 < reports {
            early = early.max(resident);
        } else {
            most = most.max(resident);
        }
    }
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), engine::cpu_time()?.saturating_sub(cpu));
    stop.cancel();
    serving.await?;
    let bounced = "SELECT COUNT(*) FROM inbound_mail WHERE kind = 'failed' AND subscriber_id > 0";
    let bounced: i64 = context.db.query(bounced).scalar().await?;
    anyhow::ensure!(bounced as u64 == reports, "{bounced} of {reports} reports were applied");
    context.db.close().await;
    Ok(Intake {
        reports,
        per_second: reports as f64 / seconds,
        cpu_us_each: cpu.as_secs_f64() * 1e6 / reports as f64,
        resident_mb_early: early as f64 / 1e6,
        resident_mb_max: most as f64 / 1e6,
    })
}

/// Brings reports on the copies of these readers over one connection.
async fn bring(
    context: &Context,
    to: std::net::SocketAddr,
    issue: IssueId,
    readers: &[u64],
    taken: &AtomicU64,
) -> anyhow::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(to).await?);
    stream.get_ref().set_nodelay(true)?;
    expect(&mut stream, "220").await?;
    stream.get_mut().write_all(b"EHLO mx.readers.example\r\n").await?;
    expect(&mut stream, "250").await?;
    for reader in readers {
        let copy = CopyId::Issue { issue, subscriber: SubscriberId(*reader as i64) };
        let token = DeliveryToken(copy).seal(&context.keyring);
        let path = TokenMailbox::Bounce.address(&token, &context.config.mail.bounce_domain);
        let envelope = format!("MAIL FROM:<>\r\nRCPT TO:<{path}>\r\nDATA\r\n");
        stream.get_mut().write_all(envelope.as_bytes()).await?;
        for code in ["250", "250", "354"] {
            expect(&mut stream, code).await?;
        }
        stream.get_mut().write_all(report(*reader).as_bytes()).await?;
        expect(&mut stream, "250").await?;
        taken.fetch_add(1, Ordering::Relaxed);
    }
    stream.get_mut().write_all(b"QUIT\r\n").await?;
    expect(&mut stream, "221").await
}

async fn expect(stream: &mut BufReader<TcpStream>, code: &str) -> anyhow::Result<()> {
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.context("the listener is gone")?;
        anyhow::ensure!(line.starts_with(code), "the listener says `{}`", line.trim());
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(());
        }
    }
}

/// A report of some kilobytes, as Postfix writes them, with the headers of the copy.
fn report(reader: u64) -> String {
    let said = if reader.is_multiple_of(GONE_EVERY) {
        "550 5.1.1 User unknown in virtual mailbox table"
    } else {
        "552 5.2.2 The mailbox is full"
    };
    let status = said.split(' ').nth(1).unwrap_or_default();
    let received = "Received: from news.example (news.example [192.0.2.1]) by mx.readers.example \
                    (Postfix) with ESMTPS id 4XyZ; Mon, 1 Jan 2024 00:00:00 +0000 (UTC)\r\n";
    format!(
        "From: MAILER-DAEMON@mx.readers.example\r\nSubject: Undelivered Mail Returned to Sender\r\n\
         Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"=-B\"\r\n\r\n\
         --=-B\r\nContent-Type: text/plain\r\n\r\nThis is the mail system at mx.readers.example.\r\n\r\n\
         <reader{reader}@readers.example>: host mailbox.readers.example said: {said}\r\n\r\n\
         --=-B\r\nContent-Type: message/delivery-status\r\n\r\n\
         Reporting-MTA: dns; mx.readers.example\r\n\r\n\
         Final-Recipient: rfc822; reader{reader}@readers.example\r\nAction: failed\r\n\
         Status: {status}\r\nRemote-MTA: dns; mailbox.readers.example\r\n\
         Diagnostic-Code: smtp; {said}\r\n\r\n\
         --=-B\r\nContent-Type: text/rfc822-headers\r\n\r\n{}\
         From: Editor <editor@news.example>\r\nTo: reader{reader}@readers.example\r\n\
         Subject: An issue of the bench\r\n\r\n--=-B--\r\n.\r\n",
        received.repeat(10)
    )
}
