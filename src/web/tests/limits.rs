use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::stillness::undisturbed;

const SOON: Duration = Duration::from_mins(1);

fn short() -> Limits {
    Limits { head: Duration::from_millis(300), ..Limits::default() }
}

/// Everything the server says until it closes the connection.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // A reset is an end too.
    let _ = timeout(SOON, stream.read_to_end(&mut said)).await.expect("the server closes");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn who_says_nothing_or_says_it_slowly_is_dropped() {
    let app = spawn_with(|_| {}, short()).await;
    let mut silent = TcpStream::connect(app.address).await.unwrap();
    let mut slow = TcpStream::connect(app.address).await.unwrap();
    slow.write_all(b"GET /sre/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.unwrap();
    let (mut read, mut write) = slow.split();
    let trickle = async {
        loop {
            if write.write_all(b"a").await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut said = Vec::new();
    let dropped = async { timeout(SOON, read.read_to_end(&mut said)).await.is_ok() };
    tokio::select! {
        () = trickle => {}
        dropped = dropped => assert!(dropped, "a byte now and then keeps a connection open"),
    }
    assert!(!until_closed(&mut silent).await.contains("200 OK"));
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    undisturbed(Duration::from_millis(100), || async {
        let app = spawn_with(|_| {}, short()).await;
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        let request = b"GET /robots.txt HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let said = until_closed(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    })
    .await;
}

#[tokio::test]
async fn one_address_has_its_share_of_connections() {
    let limits = Limits { connections_per_address: 3, ..Limits::default() };
    let app = spawn_with(|_| {}, limits).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        stream.write_all(b"GET /robots.txt HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        timeout(SOON, stream.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(stream);
    }
    let mut fourth = TcpStream::connect(app.address).await.unwrap();
    assert_eq!(until_closed(&mut fourth).await, "");
    drop(held);
    // Their places come back.
    timeout(SOON, async { while app.get("/robots.txt").send().await.is_err() {} }).await.unwrap();
}

#[tokio::test]
async fn a_gigabyte_is_refused_before_it_is_read() {
    let app = spawn().await;
    for head in [
        "Content-Length: 1073741824\r\nContent-Type: application/x-www-form-urlencoded",
        "Transfer-Encoding: chunked\r\nContent-Type: application/x-www-form-urlencoded",
    ] {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        let head = format!("POST /sre/subscribe HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut sent = 0;
        let chunk = format!("2000\r\n{}\r\n", "a".repeat(0x2000));
        let feed = async {
            while write.write_all(chunk.as_bytes()).await.is_ok() {
                sent += chunk.len();
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        };
        let mut said = Vec::new();
        let answer = timeout(SOON, async {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                said.extend_from_slice(&buffer[..count]);
                if said.windows(4).any(|window| window == b"\r\n\r\n") {
                    break;
                }
            }
        });
        tokio::select! { () = feed => {} answered = answer => answered.unwrap() }
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with("HTTP/1.1 413"), "{said}");
        assert!(sent < 64 * 1024 * 1024, "{sent} octets were taken");
    }
}

#[tokio::test]
async fn a_stop_lets_the_requests_under_way_end() {
    let mut app = spawn().await;
    let mut stream = TcpStream::connect(app.address).await.unwrap();
    let body = "address=ada%40example.com";
    let head = format!(
        "POST /sre/subscribe HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A second request is answered, so the first one's head was read before the stop.
    assert_eq!(app.get("/robots.txt").send().await.unwrap().status(), 200);
    app.stop.cancel();
    stream.write_all(body.as_bytes()).await.unwrap();
    let said = until_closed(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    timeout(SOON, &mut app.server).await.unwrap().unwrap();
}
