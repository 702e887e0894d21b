//! `postrider sink`: the built-in mailbox as a program of its own.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::runtime;
use tokio_rustls::rustls::{
    self,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_util::sync::CancellationToken;

use crate::smtp::server::{Auth, Protocol, Tls};

use super::{Sink, SinkConfig, SinkStats, faults::profile::Profile, mailbox::MailboxLimits};

/// Take mail in and keep or count it, deliver none: for rehearsals, tests and benchmarks.
///
/// Recipients may ask for faults by their names: reject-550@…, defer-2x@…, dot-554@…, slow-5s@…,
/// lost@…, drop@…, reset@…, stall@…, bounce-5.1.1@…, complain@….
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct SinkArgs {
    /// Where to take mail.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8025")]
    listen: SocketAddr,
    /// Where to show the inbox and its API.
    #[arg(
        long,
        value_name = "ADDRESS",
        conflicts_with = "discard",
        default_value = "127.0.0.1:8026"
    )]
    http: SocketAddr,
    /// Show no inbox.
    #[arg(long)]
    no_http: bool,
    /// Write a line per transaction to this file, before its reply leaves.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Count messages and forget them; no inbox, no magic recipients.
    #[arg(long)]
    discard: bool,
    /// Misbehave as this TOML file says.
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Print a fault profile that explains every key, and end.
    #[arg(long)]
    faults_example: bool,
    /// Ignore recipients that ask for faults by their names.
    #[arg(long)]
    no_magic: bool,
    /// Let every batch of replies leave this much later, such as 20ms.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    latency: Option<Duration>,
    /// Also write every accepted message to a file in this folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "discard")]
    mailbox: Option<PathBuf>,
    /// Hold at most so many messages.
    #[arg(long, value_name = "COUNT", default_value_t = MailboxLimits::default().messages)]
    hold: usize,
    /// Deliver the bounces and complaints that faults ask for to this SMTP server.
    #[arg(long, value_name = "ADDRESS")]
    returns: Option<SocketAddr>,
    /// Offer the unsubscribe button for links to these public pages.
    #[arg(long, value_name = "URL")]
    one_click: Option<url::Url>,
    /// Speak LMTP.
    #[arg(long)]
    lmtp: bool,
    /// Offer STARTTLS with this certificate chain (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Speak TLS from the first byte instead.
    #[arg(long, requires = "tls_cert")]
    implicit_tls: bool,
    /// Require clients to log in, with any name and password.
    #[arg(long)]
    auth: bool,
    /// Connections at once.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    connections: usize,
    /// Threads to serve with.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    threads: usize,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(duration).map_err(|_| "a duration cannot be negative".to_owned())
}

impl SinkArgs {
    fn config(self) -> anyhow::Result<SinkConfig> {
        let faults = self.faults.as_deref().map(Profile::load).transpose()?.unwrap_or_default();
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                let config = Arc::new(tls_config(cert, key)?);
                if self.implicit_tls { Tls::Implicit(config) } else { Tls::StartTls(config) }
            }
            _ => Tls::Off,
        };
        let auth = match (self.auth, &tls) {
            (false, _) => Auth::Off,
            (true, Tls::Off) => Auth::RequiredInTheClear,
            (true, _) => Auth::Required,
        };
        Ok(SinkConfig {
            smtp: self.listen,
            http: (!self.no_http && !self.discard).then_some(self.http),
            protocol: if self.lmtp { Protocol::Lmtp } else { Protocol::Smtp },
            tls,
            auth,
            mailbox: MailboxLimits { messages: self.hold, ..MailboxLimits::default() },
            mailbox_dir: self.mailbox,
            discard: self.discard,
            journal: self.journal,
            faults,
            magic: !self.no_magic && !self.discard,
            returns_to: self.returns,
            one_click_base: self.one_click,
            latency: self.latency.unwrap_or_default(),
            connections: self.connections,
            ..SinkConfig::default()
        })
    }
}

fn tls_config(cert: &PathBuf, key: &PathBuf) -> anyhow::Result<rustls::ServerConfig> {
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read the certificate chain {}", cert.display()))?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read the private key {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .context("the certificate and the key do not fit together")
}

/// Runs a sink until SIGINT or SIGTERM, on a runtime and a thread of its own; then prints what it
/// counted, as JSON, to standard output.
pub fn run(args: SinkArgs) -> anyhow::Result<()> {
    if args.faults_example {
        print!("{}", super::faults::profile::EXAMPLE);
        return Ok(());
    }
    let threads = args.threads.max(1);
    let config = args.config()?;
    let mut builder = if threads == 1 {
        runtime::Builder::new_current_thread()
    } else {
        runtime::Builder::new_multi_thread()
    };
    let runtime = builder.worker_threads(threads).enable_all().build()?;
    // A thread of its own, as the caller may be inside another runtime.
    let serving = std::thread::spawn(move || runtime.block_on(serve(config)));
    let stats = serving.join().map_err(|_| anyhow::anyhow!("the sink failed"))??;
    println!("{}", serde_json::to_string(&stats)?);
    Ok(())
}

async fn serve(config: SinkConfig) -> anyhow::Result<SinkStats> {
    let shutdown = CancellationToken::new();
    let sink = Sink::start(config, shutdown.clone()).await?;
    eprintln!("Taking mail on {}", sink.smtp_addr);
    if let Some(address) = sink.http_addr {
        eprintln!("Inbox: http://{address}/");
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    let shared = Arc::clone(&sink.shared);
    shutdown.cancel();
    sink.stopped().await;
    Ok(shared.stats())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: SinkArgs,
    }

    fn config(line: &str) -> anyhow::Result<SinkConfig> {
        Line::try_parse_from(line.split(' '))?.args.config()
    }

    #[test]
    fn the_command_line_becomes_a_configuration() {
        let plain = config("sink").unwrap();
        assert!(plain.http.is_some() && plain.magic && !plain.discard);
        assert!(plain.smtp.ip().is_loopback() && plain.http.unwrap().ip().is_loopback());
        let bench = config("sink --discard --latency 20ms --listen 127.0.0.1:0").unwrap();
        assert!(bench.http.is_none() && !bench.magic && bench.discard);
        assert_eq!(bench.latency, Duration::from_millis(20));
        assert_eq!(config("sink --auth").unwrap().auth, Auth::RequiredInTheClear);
        for line in ["sink --latency soon", "sink --tls-cert x", "sink --faults /nonexistent/file"]
        {
            assert!(config(line).is_err(), "{line}");
        }
    }
}
