//! What the server bounds: sizes, numbers, memory and time.

use std::time::Instant;

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::stillness::undisturbed;

/// Where limits are of a few hundred milliseconds, nobody may be held up for so long.
const UNBEARABLE: Duration = Duration::from_millis(60);

#[tokio::test]
async fn oversize_messages_are_refused_and_not_kept() {
    let config = limited(|limits| limits.message_bytes = 10_000);
    let server = start(config).await;
    let mut client = Dialogue::greeted(server.addr).await;
    client.ask("MAIL FROM:<a@example.org> SIZE=10001\r\n", 552).await;
    let reply = client.send("a@example.org", "0123456\r\n".repeat(2000)).await;
    assert!(reply.starts_with("552 5.3.4"), "{reply}");
    // The session goes on.
    let reply = client.send("a@example.org", "small\r\n").await;
    assert!(reply.starts_with("250"), "{reply}");
    // One that never ends is hung up on.
    client.ask("MAIL FROM:<a@example.org>\r\n", 250).await;
    client.ask("RCPT TO:<a@example.org>\r\n", 250).await;
    client.ask("DATA\r\n", 354).await;
    let (mut reader, mut writer) = client.stream.into_split();
    let endless =
        tokio::spawn(async move { while writer.write_all(&[b'x'; 1000]).await.is_ok() {} });
    let mut heard = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut heard).await;
    assert!(heard.starts_with(b"552 5.3.4"), "{}", String::from_utf8_lossy(&heard));
    drop(reader);
    endless.await.unwrap();
    assert_eq!(server.handler.messages.lock().unwrap().len(), 1);
    assert_eq!(server.handler.unfinished.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn without_room_clients_are_asked_to_come_back() {
    let server = start(limited(|limits| limits.buffered_bytes = 20_000)).await;
    let mut first = Dialogue::greeted(server.addr).await;
    first.ask("MAIL FROM:<a@example.org>\r\n", 250).await;
    first.ask("RCPT TO:<a@example.org>\r\n", 250).await;
    first.ask("DATA\r\n", 354).await;
    first.say("0123456\r\n".repeat(1700)).await;
    let mut second = Dialogue::greeted(server.addr).await;
    while server.shared.buffered.load(Ordering::Relaxed) < 15_300 {
        tokio::task::yield_now().await;
    }
    let reply = second.send("a@example.org", "0123456\r\n".repeat(1700)).await;
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    first.ask(".\r\n", 250).await;
    let reply = second.send("a@example.org", "0123456\r\n".repeat(1700)).await;
    assert!(reply.starts_with("250"), "{reply}");
}

#[tokio::test]
async fn slow_clients_are_dropped() {
    undisturbed(UNBEARABLE, slow_clients).await;
}

async fn slow_clients() {
    let server = start(limited(|limits| {
        limits.command_timeout = Duration::from_millis(200);
        limits.data_grace = Duration::from_millis(200);
        limits.data_rate_min = 1_000_000;
    }))
    .await;
    // A trickled command line: progress does not extend its deadline.
    let mut client = Dialogue::greeted(server.addr).await;
    let started = Instant::now();
    let (mut reader, mut writer) = client.stream.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"N").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut heard = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut heard).await;
    assert!(heard.starts_with(b"421 4.4.2"), "{}", String::from_utf8_lossy(&heard));
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(reader);
    trickle.await.unwrap();
    // A trickled body.
    client = Dialogue::greeted(server.addr).await;
    client.ask("MAIL FROM:<a@example.org>\r\n", 250).await;
    client.ask("RCPT TO:<a@example.org>\r\n", 250).await;
    client.ask("DATA\r\n", 354).await;
    let (mut reader, mut writer) = client.stream.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"body\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut heard = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut heard).await;
    assert!(heard.starts_with(b"421 4.4.2"), "{}", String::from_utf8_lossy(&heard));
    drop(reader);
    trickle.await.unwrap();
    assert!(server.handler.unfinished.lock().unwrap()[0].contains("Aborted"));
}

#[tokio::test]
async fn a_session_has_an_end() {
    undisturbed(UNBEARABLE, || async {
        let limits = limited(|limits| limits.session_timeout = Duration::from_millis(300));
        let server = start(limits).await;
        let mut client = Dialogue::greeted(server.addr).await;
        let heard = client.hear_out().await;
        assert!(heard.starts_with(b"421 4.4.2"));
    })
    .await;
}

#[tokio::test]
async fn lines_errors_and_commands_are_bounded() {
    let server = start(limited(|limits| {
        limits.errors = 2;
        limits.line_bytes = 100;
        limits.commands = 6;
    }))
    .await;
    let mut client = Dialogue::greeted(server.addr).await;
    client.ask(format!("NOOP {}\r\n", "x".repeat(50_000)), 500).await;
    client.ask("NOPE\r\n", 500).await;
    client.ask("NOPE\r\n", 500).await;
    client.expect(421).await;
    assert!(client.hear_out().await.is_empty());
    let mut client = Dialogue::greeted(server.addr).await;
    for _ in 0..5 {
        client.ask("NOOP\r\n", 250).await;
    }
    client.ask("NOOP\r\n", 421).await;
}

#[tokio::test]
async fn recipients_are_bounded() {
    let server = start(limited(|limits| limits.recipients = 2)).await;
    let mut client = Dialogue::greeted(server.addr).await;
    client.ask("MAIL FROM:<a@example.org>\r\n", 250).await;
    client.ask("RCPT TO:<a@example.org>\r\n", 250).await;
    client.ask("RCPT TO:<b@example.org>\r\n", 250).await;
    client.ask("RCPT TO:<c@example.org>\r\n", 452).await;
    client.ask("DATA\r\n", 354).await;
    client.ask("x\r\n.\r\n", 250).await;
    assert_eq!(server.handler.messages.lock().unwrap()[0].0.recipients.len(), 2);
}

#[tokio::test]
async fn a_thousand_connections_and_not_one_more() {
    let config = limited(|limits| {
        limits.connections = 1000;
        limits.connections_per_peer = 1000;
        limits.read_buffer_bytes = 4096;
    });
    let server = start(config).await;
    let mut clients = Vec::new();
    for _ in 0..1000 {
        let mut client = Dialogue::connect(server.addr).await;
        client.expect(220).await;
        clients.push(client);
    }
    let mut extra = Dialogue::connect(server.addr).await;
    extra.expect(421).await;
    assert!(extra.hear_out().await.is_empty());
    // A place that becomes free is given away again.
    clients.pop().unwrap().ask("QUIT\r\n", 221).await;
    loop {
        let mut next = Dialogue::connect(server.addr).await;
        if next.hear().await.starts_with("220") {
            break;
        }
    }
}

#[tokio::test]
async fn one_address_cannot_take_every_place() {
    let server = start(limited(|limits| limits.connections_per_peer = 1)).await;
    let mut first = Dialogue::greeted(server.addr).await;
    Dialogue::connect(server.addr).await.expect(421).await;
    first.ask("NOOP\r\n", 250).await;
}

#[tokio::test]
async fn shutdown_cuts_off_who_does_not_finish() {
    let server = start(limited(|limits| limits.drain = Duration::from_millis(100))).await;
    let mut busy = Dialogue::greeted(server.addr).await;
    busy.ask("MAIL FROM:<a@example.org>\r\n", 250).await;
    busy.ask("RCPT TO:<a@example.org>\r\n", 250).await;
    busy.ask("DATA\r\n", 354).await;
    server.shutdown.cancel();
    server.task.await.unwrap();
}

#[tokio::test]
async fn latency_delays_replies_and_not_the_reading() {
    let latency = Duration::from_millis(100);
    let server = start(ServerConfig { reply_latency: latency, ..ServerConfig::default() }).await;
    let started = Instant::now();
    let mut client = Dialogue::greeted(server.addr).await;
    assert!(started.elapsed() >= 2 * latency);
    // Three batches sent 30 ms apart are each 100 ms on their way, at the same time. One after the other
    // they would take 300 ms and could never be quicker; a busy machine may have to try again.
    let mut together = false;
    for _ in 0..50 {
        let started = Instant::now();
        for _ in 0..3 {
            client.say("NOOP\r\n").await;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        for _ in 0..3 {
            client.expect(250).await;
        }
        let elapsed = started.elapsed();
        assert!(elapsed >= Duration::from_millis(160), "{elapsed:?}");
        together = elapsed < Duration::from_millis(290);
        if together {
            break;
        }
    }
    assert!(together, "replies wait for each other");
}

#[tokio::test]
async fn a_client_that_sends_and_never_listens_is_dropped() {
    let server = start(limited(|limits| {
        limits.write_timeout = Duration::from_millis(200);
        limits.commands = u64::MAX;
    }))
    .await;
    let mut client = Dialogue::greeted(server.addr).await;
    let hellos = "EHLO x\r\n".repeat(1000);
    while client.stream.write_all(hellos.as_bytes()).await.is_ok() {}
    while server.handler.ends.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.handler.ends.lock().unwrap()[0], End::TimedOut.to_string());
}
