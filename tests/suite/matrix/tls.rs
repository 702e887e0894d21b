//! What can stand in front of a cell's sink.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use super::fault::Fault;

/// Where clients connect: the sink itself, or somebody who spoils the first connection and passes
/// the others on.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    task: Option<AbortHandle>,
}

impl Front {
    pub(super) async fn before(sink: SocketAddr, fault: Option<Fault>) -> Self {
        let Some(fault) = fault else { return Self { address: sink, task: None } };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (first, _) = listener.accept().await.unwrap();
            tokio::spawn(spoil(first, fault));
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(sink).await.unwrap();
                    // Either side may leave as it likes.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { address, task: Some(task.abort_handle()) }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Lets the client's hello come, and then does not answer it as a server should.
async fn spoil(mut client: TcpStream, fault: Fault) {
    let mut hello = [0; 512];
    let _ = client.read(&mut hello).await;
    match fault {
        Fault::Rst => client.set_zero_linger().unwrap(),
        Fault::Silence => while client.read(&mut hello).await.is_ok_and(|count| count > 0) {},
        Fault::ByteByByte => {
            for byte in b"\x16\x03\x03\x40\x00".iter().chain(std::iter::repeat(&0)) {
                if client.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        _ => {}
    }
}
