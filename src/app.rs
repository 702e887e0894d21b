//! The daemon as a whole: binds what it listens on, builds every room from the configuration, and
//! takes them down in an order in which nothing is lost.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{net::TcpListener, sync::Notify, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    bounce::{
        apply,
        intake::{
            self,
            mailbox::{self, Mailbox},
        },
    },
    cli::Context,
    config::{Config, Relay},
    db::Db,
    delivery::engine::{Engine, Parts},
    sink::{Sink, SinkConfig, mailbox::MailboxLimits},
    smtp::server::Protocol,
    subscriber,
    timestamp::Timestamp,
    web, webhook,
};

/// How often housekeeping is done, and how soon after a round that left something.
const HOUSEKEEPING: Duration = Duration::from_hours(1);
const HOUSEKEEPING_SOON: Duration = Duration::from_secs(1);
/// How long pages, intakes and housekeeping may take to stop: a little more than they give themselves.
const TASKS_STOP: Duration = Duration::from_secs(12);
/// How long the database may take to close.
const CLOSE: Duration = Duration::from_secs(5);

/// A running daemon.
pub struct Daemon {
    context: Context,
    engine: Engine,
    mailbox: Option<Sink>,
    /// Where the public pages are.
    pub public: SocketAddr,
    /// Where the operators' pages are.
    pub admin: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    _lock: crate::db::DaemonLock,
}

impl Daemon {
    /// Starts everything; returns once mail can be sent and pages answer.
    ///
    /// A port of 0 takes any free one; a `public_url` with port 0 gets the one that was taken.
    pub async fn start(mut config: Config) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        std::fs::create_dir_all(&config.data_folder).with_context(|| {
            format!("the data folder {} cannot be made", config.data_folder.display())
        })?;
        let lock = Db::lock_for_daemon(&config.database_file())?;
        let public = bind(config.public.listen, "public.listen").await?;
        let public_address = public.local_addr()?;
        let admin = bind(config.admin.listen, "admin.listen").await?;
        let admin_address = admin.local_addr()?;
        let bounces = match config.bounces.listen {
            Some(address) => {
                let listener = bind(address, "bounces.listen").await?;
                config.bounces.listen = Some(listener.local_addr()?);
                Some(listener)
            }
            None => None,
        };
        let lmtp = match config.bounces.lmtp_listen {
            Some(address) => Some(bind(address, "bounces.lmtp_listen").await?),
            None => None,
        };
        if config.public_url.port() == Some(0) {
            let _ = config.public_url.set_port(Some(public_address.port()));
        }
        let mailbox = if config.relay.is_empty() {
            let mailbox = start_mailbox(&config, stop.clone()).await?;
            config.relay.push(relay_to(mailbox.smtp_addr));
            Some(mailbox)
        } else {
            None
        };
        let context = Context::with(config).await?;
        let renderer = Arc::new(context.renderer()?);
        let engine = Engine::start(Parts {
            db: context.db.clone(),
            config: Arc::clone(&context.config),
            keyring: Arc::clone(&context.keyring),
            renderer: Arc::clone(&renderer),
            providers: Arc::clone(&context.providers),
            speed: 1,
        })
        .await?;
        let mut state = web::State::new(
            context.db.clone(),
            Arc::clone(&context.config),
            Arc::clone(&context.keyring),
            Arc::clone(&context.providers),
            renderer,
        );
        state.mail_queued = engine.bell();
        state.shedding = engine.shedding();
        let limits = web::Limits {
            proxies: context.config.public.trusted_proxies.clone(),
            ..web::Limits::default()
        };
        tasks.spawn(web::serve(public, web::router(state), limits, stop.clone()));
        let admin_state = web::admin::AdminState::new(
            context.db.clone(),
            Arc::clone(&context.config),
            Arc::clone(&context.keyring),
            Arc::clone(&context.providers),
            Some(engine.view()),
        );
        let pages = web::admin::router(admin_state);
        tasks.spawn(web::serve(admin, pages, web::Limits::default(), stop.clone()));
        for (listener, protocol) in [(bounces, Protocol::Smtp), (lmtp, Protocol::Lmtp)] {
            let Some(listener) = listener else { continue };
            let (db, keyring) = (context.db.clone(), Arc::clone(&context.keyring));
            let server = intake::smtp::server(db, keyring, &context.config, protocol, stop.clone());
            tasks.spawn(server.serve(listener));
        }
        let parts = mailbox::Parts {
            db: context.db.clone(),
            keyring: Arc::clone(&context.keyring),
            rules: context.config.bounces.clone(),
        };
        for settings in &context.config.bounces.mailbox {
            let series = engine.view().mailbox_series(&settings.name);
            let opened = Mailbox::new(settings, &parts, series).await;
            let mailbox = opened.with_context(|| format!("bounces.mailbox {}", settings.name))?;
            tasks.spawn(mailbox.watch(stop.clone()));
        }
        let parts =
            webhook::Parts { db: context.db.clone(), providers: Arc::clone(&context.providers) };
        for settings in &context.config.webhooks {
            let series = engine.view().hook_series(&settings.name);
            let hook = webhook::Hook::new(settings, &parts, series).await;
            let hook = hook.map_err(|why| anyhow::anyhow!("webhook `{}`: {why}", settings.name))?;
            tasks.spawn(hook.run(stop.clone()));
        }
        let (db, config) = (context.db.clone(), Arc::clone(&context.config));
        tasks.spawn(keep_house(db, config, engine.bell(), stop.clone()));
        tasks.close();
        Ok(Self {
            context,
            engine,
            mailbox,
            public: public_address,
            admin: admin_address,
            stop,
            tasks,
            _lock: lock,
        })
    }

    /// What commands in this process work with.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The delivery engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The built-in mailbox, if mail goes there.
    pub fn mailbox(&self) -> Option<&Sink> {
        self.mailbox.as_ref()
    }

    /// What operators can look at, and where.
    pub fn operator_pages(&self) -> Vec<(&'static str, String)> {
        let page = |path: &str| format!("http://{}/{path}", self.admin);
        vec![
            ("operators' pages", page("")),
            ("delivery log", page("deliveries")),
            ("metrics", page("metrics")),
        ]
    }

    /// Logs where everything is.
    pub fn announce(&self) {
        info!(url = %self.context.config.public_url, listen = %self.public, "public pages");
        info!(listen = %self.admin, "operators' pages, metrics, health");
        if let Some(mailbox) = &self.mailbox {
            let inbox = mailbox.http_addr.map(|address| format!("http://{address}/"));
            info!(
                smtp = %mailbox.smtp_addr,
                inbox = inbox.as_deref().unwrap_or("none"),
                "no relay is configured: all mail goes to the built-in mailbox"
            );
        }
    }

    /// Finishes what is under way, within bounds, and ends.
    pub async fn stop(self) {
        self.engine.drain().await;
        self.stop.cancel();
        let stopped = async {
            self.tasks.wait().await;
            if let Some(mailbox) = self.mailbox {
                mailbox.stopped().await;
            }
        };
        if timeout(TASKS_STOP, stopped).await.is_err() {
            warn!("requests were still under way at the end; they are broken off");
        }
        // Nobody loses anything by a file that was not closed: the next start reads its log.
        if timeout(CLOSE, self.context.db.close()).await.is_err() {
            warn!("the database is busy and was not closed in time; the next start sees to it");
        }
    }
}

/// Once an hour: reminders and the end of unconfirmed sign-ups, the end of kept mail. What is left
/// after one bounded round is done in the next, soon.
async fn keep_house(db: Db, config: Arc<Config>, bell: Arc<Notify>, stop: CancellationToken) {
    loop {
        let now = Timestamp::now();
        let people = subscriber::expire_pending(&db, &config.signup, now).await;
        let mails = apply::forget_old(&db, now).await;
        let more = match (&people, &mails) {
            (Ok(people), Ok(mails)) => people.more || mails.more,
            _ => false,
        };
        for problem in [people.as_ref().err(), mails.as_ref().err()].into_iter().flatten() {
            error!(error = %problem, "housekeeping failed; it is tried again later");
        }
        if people.is_ok_and(|people| people.reminded > 0) {
            bell.notify_one();
        }
        let wait = if more { HOUSEKEEPING_SOON } else { HOUSEKEEPING };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{key}: cannot listen on {address} (is another program using the port?)")
    })
}

async fn start_mailbox(config: &Config, stop: CancellationToken) -> anyhow::Result<Sink> {
    let mailbox = SinkConfig {
        smtp: config.mailbox.smtp_listen,
        http: Some(config.mailbox.http_listen),
        mailbox: MailboxLimits {
            messages: config.mailbox.messages_max,
            ..MailboxLimits::default()
        },
        returns_to: config.bounces.listen,
        one_click_base: Some(config.public_url.clone()),
        ..SinkConfig::default()
    };
    Sink::start(mailbox, stop).await.context("the built-in mailbox cannot start")
}

/// The built-in mailbox, as a relay.
pub(crate) fn relay_to(address: SocketAddr) -> Relay {
    Relay::local("mailbox", address)
}
