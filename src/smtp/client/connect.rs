//! The way to a session: TCP, TLS, greeting, EHLO and login, each within its own deadline.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::BASE64;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::capabilities::Capabilities;
use super::endpoint::{Credentials, Endpoint, Mechanism};
use super::outcome::{Opening, Phase, SessionError, SessionErrorKind, WireError};
use super::wire::{Wire, WriteEnd};
use crate::smtp::reply::Reply;
use crate::smtp::tls::Encryption;

type Step<T> = Result<T, SessionErrorKind>;

/// Names the phase in which a step failed.
fn at<T>(phase: Phase, step: Step<T>) -> Result<T, SessionError> {
    step.map_err(|kind| SessionError { phase, kind })
}

/// Opens the TCP connection, without delay for small writes.
pub(super) async fn dial(endpoint: &Endpoint) -> Result<TcpStream, SessionError> {
    let within = endpoint.deadlines.connect;
    let dialled = timeout(within, dial_any(endpoint)).await;
    let step = match dialled {
        Ok(Ok(tcp)) => Ok(tcp),
        Ok(Err(error)) => Err(WireError::Io(error).into()),
        Err(_) => Err(WireError::Deadline(within).into()),
    };
    at(Phase::Connect, step)
}

/// Tries the host's addresses in turn; each gets its share of the time, so one that swallows
/// packets does not hide the next.
async fn dial_any(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let fits = |address: &SocketAddr| {
        endpoint.source.is_none_or(|source| source.is_ipv4() == address.is_ipv4())
    };
    let found = lookup_host((endpoint.host.as_str(), endpoint.port)).await?;
    let addresses: Vec<SocketAddr> = found.filter(fits).collect();
    let share = endpoint.deadlines.connect / addresses.len().max(1) as u32;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no usable address");
    for address in addresses {
        match timeout(share, dial_one(endpoint, address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn dial_one(endpoint: &Endpoint, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = endpoint.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    // Without this, Nagle's algorithm and delayed acknowledgements cost 40 ms a message.
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// Everything between TCP and the first message.
pub(super) async fn establish(
    mut wire: Wire,
    endpoint: &Endpoint,
) -> Result<(Wire, Capabilities, Opening), SessionError> {
    let mut opening = Opening::default();
    let mut since = Instant::now();
    let mut lap = || {
        let now = Instant::now();
        std::mem::replace(&mut since, now).elapsed()
    };
    let within = endpoint.deadlines.greeting;
    at(Phase::Ehlo, check_helo_name(&endpoint.helo_name))?;
    if let Encryption::Implicit(client) = &endpoint.encryption {
        wire = at(Phase::Tls, handshake(within, wire.encrypt(client)).await)?;
        opening.tls = lap();
    }
    at(Phase::Greeting, greeting(&mut wire, within).await)?;
    let mut offered = at(Phase::Ehlo, hello(&mut wire, endpoint).await)?;
    opening.hello = lap();
    let start_tls_with = match &endpoint.encryption {
        Encryption::StartTls(client) => Some(client),
        Encryption::Opportunistic(client) => Some(client).filter(|_| offered.starttls),
        Encryption::None | Encryption::Implicit(_) => None,
    };
    if let Some(client) = start_tls_with {
        at(Phase::StartTls, start_tls(&mut wire, &offered, within).await)?;
        wire = at(Phase::Tls, handshake(within, wire.encrypt(client)).await)?;
        opening.tls = lap();
        // What was offered in clear text counts for nothing (RFC 3207, section 4.2).
        offered = at(Phase::Ehlo, hello(&mut wire, endpoint).await)?;
        opening.hello += lap();
    }
    if let Some(credentials) = &endpoint.credentials {
        let step = if wire.is_encrypted() || endpoint.allow_clear_text_auth {
            log_in(&mut wire, &offered, credentials, within).await
        } else {
            Err(SessionErrorKind::ClearTextLogin)
        };
        at(Phase::Auth, step)?;
        opening.auth = lap();
    }
    Ok((wire, offered, opening))
}

async fn handshake(
    within: Duration,
    handshake: impl Future<Output = io::Result<Wire>>,
) -> Step<Wire> {
    match timeout(within, handshake).await {
        Ok(Ok(wire)) => Ok(wire),
        Ok(Err(error)) => Err(SessionErrorKind::Tls(error)),
        Err(_) => Err(WireError::Deadline(within).into()),
    }
}

async fn greeting(wire: &mut Wire, within: Duration) -> Step<()> {
    let reply = wire.reply(Instant::now(), within).await?;
    positive(reply)?;
    in_step(wire)
}

/// EHLO, and HELO if the server knows no better and nothing asked for needs an extension.
async fn hello(wire: &mut Wire, endpoint: &Endpoint) -> Step<Capabilities> {
    let within = endpoint.deadlines.greeting;
    let reply = ask(wire, &format!("EHLO {}\r\n", endpoint.helo_name), within).await?;
    let encryption = &endpoint.encryption;
    let helo_will_do = matches!(encryption, Encryption::None | Encryption::Opportunistic(_))
        && endpoint.credentials.is_none();
    let knows_no_ehlo = reply.is_permanent() && !reply.contradictory;
    let capabilities = if knows_no_ehlo && helo_will_do {
        let reply = ask(wire, &format!("HELO {}\r\n", endpoint.helo_name), within).await?;
        let reply = positive(reply)?;
        Capabilities { server_name: Capabilities::read(&reply).server_name, ..Default::default() }
    } else {
        Capabilities::read(&positive(reply)?)
    };
    in_step(wire)?;
    Ok(capabilities)
}

async fn start_tls(wire: &mut Wire, offered: &Capabilities, within: Duration) -> Step<()> {
    if !offered.starttls {
        return Err(SessionErrorKind::StartTlsMissing);
    }
    let reply = ask(wire, "STARTTLS\r\n", within).await?;
    positive(reply)?;
    if wire.has_unread() { Err(SessionErrorKind::Injection) } else { Ok(()) }
}

/// SMTP AUTH (RFC 4954). The secret is only ever in the buffer that is written.
async fn log_in(
    wire: &mut Wire,
    offered: &Capabilities,
    credentials: &Credentials,
    within: Duration,
) -> Step<()> {
    let usable = |mechanism: &Mechanism| offered.mechanisms.contains(mechanism);
    let mechanism = match credentials.mechanism {
        Some(mechanism) => Some(mechanism).filter(usable),
        None => [Mechanism::Plain, Mechanism::Login].into_iter().find(usable),
    };
    let mechanism = mechanism.ok_or(SessionErrorKind::MechanismMissing)?;
    let Credentials { username, secret, .. } = credentials;
    if username.contains('\0') || secret.contains('\0') {
        return Err(SessionErrorKind::Settings("a login with a NUL in it cannot be sent"));
    }
    let answers = match mechanism {
        Mechanism::Plain => vec![format!("\0{username}\0{secret}")],
        Mechanism::XOAuth2 => vec![format!("user={username}\x01auth=Bearer {secret}\x01\x01")],
        Mechanism::Login => vec![username.clone(), secret.clone()],
    };
    let mut answers = answers.iter().map(|answer| BASE64.encode(answer.as_bytes()));
    let mut command = format!("AUTH {mechanism}");
    if mechanism != Mechanism::Login {
        command.push(' ');
        command.push_str(&answers.next().unwrap_or_default());
    }
    command.push_str("\r\n");
    let mut reply = ask(wire, &command, within).await?;
    while reply.code == 334 {
        // With XOAUTH2 a challenge carries the error, and an empty answer fetches the refusal.
        let Some(answer) = answers.next().or((mechanism == Mechanism::XOAuth2).then(String::new))
        else {
            return Err(WireError::OutOfTurn(reply).into());
        };
        reply = ask(wire, &format!("{answer}\r\n"), within).await?;
        if answer.is_empty() && reply.code == 334 {
            return Err(WireError::OutOfTurn(reply).into());
        }
    }
    positive(reply)?;
    in_step(wire)
}

/// One command and its reply.
async fn ask(wire: &mut Wire, command: &str, within: Duration) -> Step<Reply> {
    let since = Instant::now();
    let written = wire.write(command.as_bytes(), &[], 0, within).await;
    match written.end {
        WriteEnd::Interrupted => return Err(WireError::Unsolicited.into()),
        WriteEnd::Failed(error @ WireError::Deadline(_)) => return Err(error.into()),
        // A server that refuses and hangs up at once may have left its reasons: read on.
        WriteEnd::Done | WriteEnd::Failed(_) => {}
    }
    Ok(wire.reply(since, within).await?)
}

fn positive(reply: Reply) -> Step<Reply> {
    match reply {
        reply if reply.contradictory => Err(WireError::OutOfTurn(reply).into()),
        reply if reply.is_positive() => Ok(reply),
        reply if reply.is_negative() => Err(SessionErrorKind::Refused(reply)),
        reply => Err(WireError::OutOfTurn(reply).into()),
    }
}

/// Replies that nobody asked for would be taken for answers to later commands.
fn in_step(wire: &Wire) -> Step<()> {
    if wire.has_unread() { Err(WireError::Unsolicited.into()) } else { Ok(()) }
}

fn check_helo_name(name: &str) -> Step<()> {
    let fine = |byte: u8| byte.is_ascii_graphic() && byte != b'<' && byte != b'>';
    if name.is_empty() || name.len() > 255 || !name.bytes().all(fine) {
        return Err(SessionErrorKind::Settings(
            "helo_name must be a host name or an address literal like [192.0.2.1]",
        ));
    }
    Ok(())
}
