//! The configuration file: its shape, its defaults and the errors that name file, line and key.
//!
//! `config.example.toml` is this room in prose: it lists every key with its default, it is embedded
//! (`postrider init` writes it), and a test holds the two together. Values that only make sense
//! together are checked here, so that the rest of the program takes a [`Config`] as it is.

mod dns;
mod event_field;
mod event_hook;
mod limits;
mod load;
mod mailbox;
mod relay;
mod value;
mod webhook;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use url::Url;

pub use dns::{Dns, NameServer};
pub use event_field::EventField;
pub use event_hook::EventHook;
pub use limits::{Limits, ProviderLimit, WarmUp};
pub use load::{ConfigError, EXAMPLE};
pub use mailbox::{BounceMailbox, HandledMail, MailboxAuth, MailboxKind, MailboxTls, OtherMail};
pub use relay::{Relay, RelayAuth, RelayKind, RelayTls};
pub use value::Secret;
pub(crate) use value::duration;
pub use webhook::Webhook;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}
use section;

section! {
    /// Everything a daemon can be told.
    Config {
        /// The folder of the database, the key file and the journal.
        data_folder: PathBuf = PathBuf::from("postrider-data"),
        /// Where readers reach the public pages; the start of every link in a mail.
        public_url: Url = fixed_url("http://127.0.0.1:8080/"),
        /// A folder whose templates replace the built-in ones, file by file.
        template_folder: Option<PathBuf> = None,
        /// A provider table to put over the built-in one.
        providers_file: Option<PathBuf> = None,
        /// Reply rules to put over the built-in ones.
        rules_file: Option<PathBuf> = None,
        /// The public pages.
        public: Public = Public::default(),
        /// The pages for operators.
        admin: Admin = Admin::default(),
        /// What mail says about where it comes from.
        mail: Mail = Mail::default(),
        /// The servers mail is handed to; with none, the built-in mailbox.
        relay: Vec<Relay> = Vec::new(),
        /// The built-in mailbox.
        mailbox: Mailbox = Mailbox::default(),
        /// How fast mail goes out.
        limits: Limits = Limits::default(),
        /// When a relay, or a provider at a relay, is left alone.
        breakers: Breakers = Breakers::default(),
        /// How a send proceeds.
        sending: Sending = Sending::default(),
        /// When a send stops itself.
        gates: Gates = Gates::default(),
        /// When load is shed.
        shedding: Shedding = Shedding::default(),
        /// How long each SMTP command may take.
        smtp: Smtp = Smtp::default(),
        /// DNS.
        dns: Dns = Dns::default(),
        /// Signing keys.
        dkim: Vec<Dkim> = Vec::new(),
        /// Where returned mail comes in.
        bounces: Bounces = Bounces::default(),
        /// Where the delivery log's events are posted to.
        webhooks: Vec<EventHook> = Vec::new(),
        /// Sign-up: caps and times.
        signup: Signup = Signup::default(),
        /// What is said about issues before they are sent.
        lint: Lint = Lint::default(),
        /// Process logs.
        log: Log = Log::default(),
    }
}

section! {
    /// The public pages: sign-up, confirmation, preferences, archive, feeds.
    Public {
        /// Where they are served.
        listen: SocketAddr = loopback(8080),
        /// Proxies whose `X-Forwarded-For` is believed.
        trusted_proxies: Vec<IpAddr> = Vec::new(),
    }
}

section! {
    /// The pages for operators, `/metrics`, `/healthz` and `/readyz`.
    Admin {
        /// Where they are served.
        listen: SocketAddr = loopback(8081),
        /// How long a login lasts.
        #[serde(with = "duration")]
        session_lifetime: Duration = Duration::from_hours(12),
    }
}

section! {
    /// What mail says about where it comes from.
    Mail {
        /// The domain of envelope senders: reports come back to it.
        bounce_domain: String = "bounce.localhost".to_owned(),
        /// The right-hand side of Message-IDs.
        message_id_domain: String = "localhost".to_owned(),
        /// The name this machine says in EHLO.
        helo_name: String = "localhost".to_owned(),
        /// Whether to ask relays for delivery reports (RFC 3461) where they offer it.
        request_reports: bool = true,
    }
}

section! {
    /// The built-in mailbox, which takes all mail when no relay is configured.
    Mailbox {
        /// Where it takes mail.
        smtp_listen: SocketAddr = loopback(8025),
        /// Where its inbox is served.
        http_listen: SocketAddr = loopback(8026),
        /// How many mails it keeps; older ones go.
        messages_max: usize = 2000,
    }
}

/// What becomes of a send whose time has passed when a daemon could begin with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedSchedule {
    /// It begins at once.
    Send,
    /// It waits for an operator.
    Hold,
}

section! {
    /// When a relay, or a provider at a relay, is left alone, and for how long. More than half of at
    /// least twenty outcomes refused for now trips a breaker; so does a relay that cannot be reached.
    #[derive(Copy)]
    Breakers {
        /// Outcomes of this time are looked at together.
        #[serde(with = "duration")]
        window: Duration = Duration::from_mins(5),
        /// How long one connection goes on at first.
        #[serde(with = "duration")]
        throttle_for: Duration = Duration::from_mins(1),
        /// How long nothing goes when that did not help; twice as long each time.
        #[serde(with = "duration")]
        open_for: Duration = Duration::from_mins(1),
        /// Up to this.
        #[serde(with = "duration")]
        open_for_max: Duration = Duration::from_mins(30),
        /// How long a relay rests that cannot be reached; twice as long each time.
        #[serde(with = "duration")]
        rest: Duration = Duration::from_secs(1),
        /// Up to this.
        #[serde(with = "duration")]
        rest_max: Duration = Duration::from_mins(1),
    }
}

section! {
    /// How a send proceeds.
    Sending {
        /// Whether a send waits for the approval of somebody other than who asked for it.
        approval: bool = false,
        /// What becomes of a send whose time passed while no daemon ran.
        missed_schedule: MissedSchedule = MissedSchedule::Hold,
        /// How late a send may begin before that counts as missed.
        #[serde(with = "duration")]
        missed_after: Duration = Duration::from_hours(1),
        /// When at least this share of the readers, in percent, was imported since the last issue,
        /// the send has one more stage in front, smaller than the others; 100 for never.
        import_percent: f64 = 20.0,
        /// How long a send can be undone before its first copy leaves.
        #[serde(with = "duration")]
        undo_window: Duration = Duration::from_mins(10),
        /// The share of the audience, in percent, that has the issue after each stage; the rest
        /// follows last. The seed list always comes first.
        stages_percent: Vec<f64> = vec![1.0, 10.0],
        /// The least number of readers in the first of these stages.
        stage_size_min: u32 = 50,
        /// How long a stage is watched after its last copy.
        #[serde(with = "duration")]
        soak: Duration = Duration::from_mins(5),
        /// How long copies of an issue are tried.
        #[serde(with = "duration")]
        time_to_live: Duration = Duration::from_hours(36),
        /// Waits between tries; the last one repeats.
        #[serde(with = "duration::list")]
        retry_delays: Vec<Duration> = [5, 15, 30, 60, 120, 240, 480].map(Duration::from_mins).to_vec(),
        /// How long a node may hold a batch without a sign of life.
        #[serde(with = "duration")]
        lease: Duration = Duration::from_mins(5),
        /// How long a stop waits for copies under way.
        #[serde(with = "duration")]
        drain: Duration = Duration::from_secs(30),
        /// Warn when the same audience had mail within this time.
        #[serde(with = "duration")]
        quiet_period: Duration = Duration::from_hours(24),
    }
}

section! {
    /// When a send stops itself. Percent of decided copies, each on a minimum sample and with a
    /// lower confidence bound.
    Gates {
        /// Refused for the recipient's fault.
        recipient_percent: f64 = 5.0,
        /// Refused for reputation, policy or content.
        policy_percent: f64 = 1.0,
        /// As many such refusals in a stage before the last one halt whatever the share.
        policy_hits: u32 = 3,
        /// Copies whose fate is not known.
        uncertain_percent: f64 = 1.0,
        /// Complaints.
        complaint_percent: f64 = 0.3,
        /// From this share of recipients' refusals on, a warning goes into the delivery log.
        recipient_warn_percent: f64 = 2.0,
        /// The same for complaints.
        complaint_warn_percent: f64 = 0.1,
        /// Readers who leave: so many times what is normal for the newsletter, the median of its
        /// last ten issues (and at least 0.1 %; without three issues there is no normal).
        unsubscribe_factor: f64 = 3.0,
        /// No share is judged on fewer decided copies than this.
        sample_min: u32 = 20,
    }
}

section! {
    /// When the daemon gives up work for want of something: at these values sends stop growing, at
    /// twice the shortage copies of issues wait, at four times sign-ups are refused.
    Shedding {
        /// Free space where the data is, in bytes.
        disk_free_min: u64 = 250_000_000,
        /// How long a small write to the database may take.
        #[serde(with = "duration")]
        database_slow: Duration = Duration::from_secs(2),
        /// How much memory there may be in use, in bytes; 80 % of it is short. 0 is the limit of the
        /// control group, if there is one.
        memory_max: u64 = 0,
    }
}

section! {
    /// How long each SMTP command may take (RFC 5321, section 4.5.3.2).
    Smtp {
        /// Opening the connection.
        #[serde(with = "duration")]
        connect: Duration = Duration::from_secs(30),
        /// Greeting, EHLO, TLS handshake and login, each.
        #[serde(with = "duration")]
        greeting: Duration = Duration::from_mins(1),
        /// MAIL and RCPT, each.
        #[serde(with = "duration")]
        envelope: Duration = Duration::from_mins(5),
        /// DATA.
        #[serde(with = "duration")]
        data: Duration = Duration::from_mins(2),
        /// The reply to the final dot.
        #[serde(with = "duration")]
        dot: Duration = Duration::from_mins(10),
        /// How long a connection stays open with nothing to do.
        #[serde(with = "duration")]
        idle: Duration = Duration::from_secs(10),
    }
}

/// A signing key.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Dkim {
    /// The signing domain: that of the From address.
    pub domain: String,
    /// The selector under which its public key is published.
    pub selector: String,
    /// The private key, a PEM file (RSA of 2048 bits or more, or Ed25519).
    pub key_file: PathBuf,
}

section! {
    /// Where returned mail comes in.
    Bounces {
        /// The SMTP listener for the bounce domain; with none, there is none.
        listen: Option<SocketAddr> = Some(loopback(8024)),
        /// The LMTP listener (RFC 2033), for a mail server beside us; with none, there is none.
        lmtp_listen: Option<SocketAddr> = None,
        /// Connections at once, at each listener.
        connections: usize = 100,
        /// Of those, from one client: an IPv4 address or an IPv6 /64 network.
        connections_per_client: usize = 50,
        /// Mails that one client may bring in a minute, at each listener; more are put off (450).
        mails_per_minute_and_client: u32 = 3_000,
        /// Mailboxes that it is fetched from.
        mailbox: Vec<BounceMailbox> = Vec::new(),
        /// Suppressions are held for an operator when over this share of a provider's copies of
        /// one issue (and at least 20) fail for good.
        brake_percent: f64 = 5.0,
        /// Where providers post what became of copies.
        webhook: Vec<Webhook> = Vec::new(),
    }
}

section! {
    /// Sign-up: caps against list bombing, and times.
    Signup {
        /// Confirmation mails to one address for one newsletter in a day.
        per_address_and_newsletter: u32 = 1,
        /// Confirmation mails to one address in a day.
        per_address: u32 = 3,
        /// Sign-ups from one IPv4 address or IPv6 /64 network in a day.
        per_network: u32 = 20,
        /// Sign-ups for addresses at one domain, outside the known providers, in a day.
        per_domain: u32 = 200,
        /// Sign-ups in a day.
        total: u32 = 20_000,
        /// How soon after it was shown a form may come back; faster is a machine.
        #[serde(with = "duration")]
        form_age_min: Duration = Duration::from_secs(2),
        /// How long after it was shown a form may come back.
        #[serde(with = "duration")]
        form_age_max: Duration = Duration::from_hours(24),
        /// How long a confirmation link works.
        #[serde(with = "duration")]
        confirmation_lifetime: Duration = Duration::from_hours(7 * 24),
        /// When a subscriber who has not confirmed is reminded, once; zero for never.
        #[serde(with = "duration")]
        reminder_after: Duration = Duration::from_hours(24),
        /// When a subscriber who never confirmed is deleted.
        #[serde(with = "duration")]
        forget_after: Duration = Duration::from_hours(30 * 24),
    }
}

section! {
    /// What is said about issues before they are sent.
    Lint {
        /// Organisations whose items need a disclosure: the editor's employer, for one.
        disclose: Vec<String> = Vec::new(),
    }
}

/// How process logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

section! {
    /// Process logs, on standard error.
    Log {
        /// Lines for people, or JSON.
        format: LogFormat = LogFormat::Text,
        /// What is logged, in the manner of `RUST_LOG`.
        filter: String = "info".to_owned(),
    }
}

fn fixed_url(text: &str) -> Url {
    Url::parse(text).expect("a URL written in this file is valid")
}

impl Config {
    /// The data file.
    pub fn database_file(&self) -> PathBuf {
        self.data_folder.join("postrider.db")
    }

    /// The secret keys behind tokens and links.
    pub fn key_file(&self) -> PathBuf {
        self.data_folder.join("postrider.key")
    }

    /// The file that says how far the database has come.
    pub fn mark_file(&self) -> PathBuf {
        self.data_folder.join("postrider.mark")
    }

    /// The journal around final dots.
    pub fn journal_file(&self) -> PathBuf {
        self.data_folder.join("postrider.journal")
    }
}
