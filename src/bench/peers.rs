//! The other side: sinks as processes of their own, Postfix's smtp-source, lettre's transport.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::process::{Child, Command};

use super::Sent;

/// Where Debian and others put Postfix's tools, which are for administrators.
const FOLDERS: &[&str] = &["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/libexec/postfix"];

/// A sink that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Sink {
    /// Where it takes mail.
    pub(super) address: SocketAddr,
    _process: Child,
}

/// Where `tool` is installed.
pub(super) fn find(tool: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| PathBuf::from(folder).join(tool)).find(|path| path.exists())
}

impl Sink {
    /// Our own sink, discarding.
    pub(super) async fn ours(latency: Duration) -> anyhow::Result<Self> {
        let address = free_address()?;
        let program = std::env::current_exe().context("this program's file is not known")?;
        let mut command = Command::new(program);
        command.args(["sink", "--discard", "--listen", &address.to_string()]);
        if !latency.is_zero() {
            command.args(["--latency", &format!("{}ms", latency.as_millis())]);
        }
        Self::start(command, address).await
    }

    /// Postfix's smtp-sink, if it is installed.
    pub(super) async fn smtp_sink(connections: u32) -> anyhow::Result<Option<Self>> {
        let Some(program) = find("smtp-sink") else { return Ok(None) };
        let address = free_address()?;
        let mut command = Command::new(program);
        // As root it would ask for a user to become; nobody is everywhere.
        command.args(["-u", "nobody", &format!("inet:{address}"), &(connections + 8).to_string()]);
        Ok(Some(Self::start(command, address).await?))
    }

    async fn start(mut command: Command, address: SocketAddr) -> anyhow::Result<Self> {
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("a sink cannot be started")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(address).await.is_err() {
            anyhow::ensure!(Instant::now() < deadline, "the sink on {address} does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { address, _process: process })
    }
}

/// An address that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Postfix's generator: identical messages, connections kept.
pub(super) async fn smtp_source(
    address: SocketAddr,
    messages: u64,
    bytes: usize,
    connections: u32,
) -> anyhow::Result<Sent> {
    let program = find("smtp-source").context("smtp-source is not installed")?;
    let mut command = Command::new(program);
    command.args(["-d", "-s", &connections.to_string(), "-m", &messages.to_string()]);
    command.args(["-l", &bytes.to_string(), "-f", "bench@news.example"]);
    command.args(["-t", "reader@readers.example", &format!("inet:{address}")]);
    let before = children_cpu()?;
    let begin = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().await?;
    let seconds = begin.elapsed().as_secs_f64();
    anyhow::ensure!(status.success(), "smtp-source failed: {status}");
    let cpu = children_cpu()?.saturating_sub(before);
    Ok(Sent { messages, seconds, cpu, bytes_each: bytes })
}

/// lettre's pooled asynchronous transport, as published.
pub(super) async fn lettre(
    address: SocketAddr,
    messages: u64,
    bytes: usize,
    connections: u32,
) -> anyhow::Result<Sent> {
    use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor, transport::smtp::PoolConfig};
    let transport =
        AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string())
            .port(address.port())
            .pool_config(PoolConfig::new().max_size(connections))
            .build();
    let from = "bench@news.example".parse()?;
    let to = "reader@readers.example".parse()?;
    let envelope = lettre::address::Envelope::new(Some(from), vec![to])?;
    let line = "Nothing goes everywhere at once, and nobody is left out.\r\n";
    let message = format!("Subject: bench\r\n\r\n{}", line.repeat(bytes / line.len()));
    let before = cpu_of("self")?;
    let begin = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..u64::from(connections) {
        let mine = messages / u64::from(connections)
            + u64::from(sender < messages % u64::from(connections));
        let (transport, envelope, message) = (transport.clone(), envelope.clone(), message.clone());
        senders.spawn(async move {
            for _ in 0..mine {
                transport.send_raw(&envelope, message.as_bytes()).await?;
            }
            Ok::<_, lettre::transport::smtp::Error>(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = cpu_of("self")?.saturating_sub(before);
    Ok(Sent { messages, seconds, cpu, bytes_each: bytes })
}

/// Nothing but RSA signatures, on every processor there is: the bound of a sender that signs.
pub(super) fn bare_signatures(signatures: u64) -> anyhow::Result<Sent> {
    use aws_lc_rs::{rand::SystemRandom, signature};
    let threads = std::thread::available_parallelism()?.get() as u64;
    let pem = super::engine::RSA_KEY.lines().filter(|line| !line.starts_with('-'));
    let der = data_encoding::BASE64.decode(pem.collect::<String>().as_bytes())?;
    let key = signature::RsaKeyPair::from_pkcs8(&der)
        .map_err(|error| anyhow::anyhow!("the bench's RSA key: {error}"))?;
    let before = cpu_of("self")?;
    let begin = Instant::now();
    let signed = std::thread::scope(|scope| {
        let sign = || {
            let mut signature = vec![0; key.public_modulus_len()];
            (0..signatures / threads).all(|number| {
                let encoding = &signature::RSA_PKCS1_SHA256;
                let message = number.to_be_bytes();
                key.sign(encoding, &SystemRandom::new(), &message, &mut signature).is_ok()
            })
        };
        let signing: Vec<_> = (0..threads).map(|_| scope.spawn(sign)).collect();
        signing.into_iter().all(|thread| thread.join().unwrap_or(false))
    });
    anyhow::ensure!(signed, "RSA signatures failed");
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = cpu_of("self")?.saturating_sub(before);
    Ok(Sent { messages: signatures / threads * threads, seconds, cpu, bytes_each: 0 })
}

/// Fields of `/proc/…/stat` behind the program's name, which may hold anything.
fn stat(process: &str) -> anyhow::Result<Vec<u64>> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("the process table is unreadable")?;
    Ok(fields.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect())
}

/// Linux counts CPU time in hundredths of a second here, whatever its own clock is.
fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 10)
}

/// User and system time of a process so far.
pub(super) fn cpu_of(process: &str) -> anyhow::Result<Duration> {
    let fields = stat(process)?;
    Ok(ticks(fields.get(10).copied().unwrap_or(0) + fields.get(11).copied().unwrap_or(0)))
}

/// Kernel time of this process so far, in hundredths of a second.
pub(super) fn kernel_ticks() -> anyhow::Result<u64> {
    Ok(stat("self")?.get(11).copied().unwrap_or(0))
}

/// User and system time of children that have ended.
fn children_cpu() -> anyhow::Result<Duration> {
    let fields = stat("self")?;
    Ok(ticks(fields.get(12).copied().unwrap_or(0) + fields.get(13).copied().unwrap_or(0)))
}
