//! What commands start from: the configuration, the open database, the keys, the provider table.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;

use crate::{
    bounce::classify::Rules,
    config::Config,
    db::{Db, OpenOptions},
    issue::render::Renderer,
    link::Links,
    newsletter::{self, Newsletter},
    provider::Providers,
    timestamp::Timestamp,
    token::Keyring,
};

/// Where a configuration is looked for when none is named.
const CONFIG_FILE: &str = "config.toml";

/// Everything a command that works on the data needs.
pub struct Context {
    /// The configuration.
    pub config: Arc<Config>,
    /// The database.
    pub db: Db,
    /// Keys behind links, return paths and address hashes.
    pub keyring: Arc<Keyring>,
    /// The provider table.
    pub providers: Arc<Providers>,
}

impl Context {
    /// Reads the configuration and opens the data, creating both folder and files when they are
    /// not there yet.
    pub async fn open(config: Option<&Path>) -> anyhow::Result<Self> {
        Self::with(load_config(config)?).await
    }

    /// Opens the data of `config`.
    pub async fn with(config: Config) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&config.data_folder).with_context(|| {
            format!("the data folder {} cannot be made", config.data_folder.display())
        })?;
        let keyring = Keyring::load_or_create(&config.key_file(), Timestamp::now())?;
        let db = Db::open(&OpenOptions::new(config.database_file())).await?;
        let providers = Arc::new(tables(&config)?);
        check_provider_names(&config, &providers)?;
        Ok(Self { config: Arc::new(config), db, keyring: Arc::new(keyring), providers })
    }

    /// The templates.
    pub fn renderer(&self) -> anyhow::Result<Renderer> {
        Ok(Renderer::new(self.config.template_folder.as_deref())?)
    }

    /// Makes links to the public pages.
    pub fn links(&self) -> Links {
        Links::new(&self.config.public_url)
    }

    /// The newsletter with this slug; with none named, the only one there is.
    pub async fn newsletter(&self, slug: Option<&str>) -> anyhow::Result<Newsletter> {
        if let Some(slug) = slug {
            return Ok(newsletter::find(&self.db, slug).await?);
        }
        let mut all = newsletter::list(&self.db).await?;
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                let slugs: Vec<_> = all.iter().chain([&last]).map(|n| n.slug.as_str()).collect();
                anyhow::bail!(
                    "there are several newsletters; name one with --newsletter: {}",
                    slugs.join(", ")
                )
            }
            (None, _) => anyhow::bail!(
                "there is no newsletter yet; make one with `postrider newsletter create`"
            ),
        }
    }
}

/// The provider table of `config`; its reply rules are in use from now on.
pub fn tables(config: &Config) -> anyhow::Result<Providers> {
    let read = |file: &Path| {
        std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
    };
    let providers = match &config.providers_file {
        Some(file) => Providers::load(&read(file)?).with_context(|| file.display().to_string())?,
        None => Providers::embedded().clone(),
    };
    // Rules name providers, which may be the operator's own.
    if config.rules_file.is_some() || config.providers_file.is_some() {
        let text = config.rules_file.as_deref().map(read).transpose()?;
        let rules = Rules::load(text.as_deref().unwrap_or("rule = []"), &providers);
        let name = config.rules_file.as_deref().unwrap_or(Path::new("the built-in rules"));
        rules.with_context(|| name.display().to_string())?.install();
    }
    Ok(providers)
}

/// Refuses limits for providers that are not in the table, the operator's own among them.
fn check_provider_names(config: &Config, providers: &Providers) -> anyhow::Result<()> {
    if let Some((key, name)) = config.limits.unknown_provider(providers) {
        let known: Vec<_> = providers.iter().map(|provider| provider.name.as_str()).collect();
        anyhow::bail!("{key}: there is no provider `{name}`; those are: {}", known.join(", "));
    }
    Ok(())
}

/// The configuration in the file that is named, in `config.toml` if that exists, or the defaults.
pub fn load_config(file: Option<&Path>) -> anyhow::Result<Config> {
    match file {
        Some(file) => Ok(Config::load(file)?),
        None if Path::new(CONFIG_FILE).exists() => Ok(Config::load(Path::new(CONFIG_FILE))?),
        None => Ok(Config::default()),
    }
}

/// Who runs this command, for the audit log.
pub fn actor() -> String {
    let user = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
    format!("cli:{}", user.as_deref().unwrap_or("unknown"))
}
