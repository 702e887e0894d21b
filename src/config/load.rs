//! Reading the file, and saying what is wrong with it in a way that gets it mended.

#[cfg(test)]
mod tests;

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use super::{Config, Relay, RelayAuth, RelayTls, Secret};

/// The example file, which lists every key with its default.
pub const EXAMPLE: &str = include_str!("../../config.example.toml");

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be; the text names file, line and key.
    #[error("{0}")]
    Invalid(String),
}

impl Config {
    /// Reads a file; relative paths in it are taken from the file's folder.
    ///
    /// # Errors
    /// With file, line and key of what is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::read(&text, &path.display().to_string(), path.parent().unwrap_or(Path::new("")))
    }

    /// Reads the text of a file that is called `name` in errors.
    ///
    /// # Errors
    /// With file, line and key of what is wrong.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        Self::read(text, name, Path::new(""))
    }

    /// Paths come before the checks, which look for a password's file.
    fn read(text: &str, name: &str, folder: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text)
            .map_err(|error| ConfigError::Invalid(explain(&error, text, name)))?;
        let invalid = |line, key, problem: String| {
            ConfigError::Invalid(format!("{name}:{line}: {key}: {problem}"))
        };
        config.settle_relays(text).map_err(|(relay, key, problem)| {
            invalid(line_in_block(text, "[[relay]]", relay, key), key, problem)
        })?;
        let in_mailbox = |(mailbox, key, problem)| {
            invalid(line_in_block(text, "[[bounces.mailbox]]", mailbox, key), key, problem)
        };
        config.settle_mailboxes(text).map_err(in_mailbox)?;
        config.resolve_paths(folder);
        config.check_mailboxes().map_err(in_mailbox)?;
        config.check_event_hooks().map_err(|(hook, key, problem)| {
            invalid(line_in_block(text, "[[webhooks]]", hook, key), key, problem)
        })?;
        config.check().map_err(|(key, problem)| invalid(line_of_key(text, key), key, problem))?;
        Ok(config)
    }

    /// Gives every relay the defaults of its kind. The error names a relay's number, a key and a
    /// problem.
    fn settle_relays(&mut self, text: &str) -> Result<(), (usize, &'static str, String)> {
        let file: toml::Table = toml::from_str(text).unwrap_or_default();
        let given = file.get("relay").and_then(toml::Value::as_array);
        for (index, relay) in self.relay.iter_mut().enumerate() {
            let given = given.and_then(|all| all.get(index)).and_then(toml::Value::as_table);
            let settled = relay.settle_kind(given.unwrap_or(&toml::Table::new()));
            settled.map_err(|(key, problem)| (index, key, problem))?;
        }
        Ok(())
    }

    /// The same for mailboxes that mail is fetched from.
    fn settle_mailboxes(&mut self, text: &str) -> Result<(), (usize, &'static str, String)> {
        let file: toml::Table = toml::from_str(text).unwrap_or_default();
        let given = file.get("bounces").and_then(|bounces| bounces.get("mailbox"));
        let given = given.and_then(toml::Value::as_array);
        for (index, mailbox) in self.bounces.mailbox.iter_mut().enumerate() {
            let given = given.and_then(|all| all.get(index)).and_then(toml::Value::as_table);
            let settled = mailbox.settle(given.unwrap_or(&toml::Table::new()));
            settled.map_err(|(key, problem)| (index, key, problem))?;
        }
        Ok(())
    }

    fn check_mailboxes(&self) -> Result<(), (usize, &'static str, String)> {
        let all = &self.bounces.mailbox;
        for (index, mailbox) in all.iter().enumerate() {
            mailbox.check().map_err(|(key, problem)| (index, key, problem))?;
            if all[..index].iter().any(|other| other.name == mailbox.name) {
                let problem = format!("two mailboxes are called `{}`", mailbox.name);
                return Err((index, "name", problem));
            }
        }
        Ok(())
    }

    fn resolve_paths(&mut self, folder: &Path) {
        let relay_files = self.relay.iter_mut().flat_map(|relay| {
            let password = relay.password.as_mut().and_then(Secret::file_mut);
            let files =
                [&mut relay.ca_file, &mut relay.client_cert_file, &mut relay.client_key_file];
            files.into_iter().flatten().chain(password)
        });
        let mailbox_files = self.bounces.mailbox.iter_mut().flat_map(|mailbox| {
            let password = mailbox.password.as_mut().and_then(Secret::file_mut);
            let path = Some(&mut mailbox.path).filter(|path| !path.as_os_str().is_empty());
            [path, mailbox.ca_file.as_mut(), password].into_iter().flatten()
        });
        let hook_secrets = self.bounces.webhook.iter_mut().flat_map(|hook| &mut hook.secrets);
        let hook_files = hook_secrets.filter_map(Secret::file_mut);
        let event_hook_files = self
            .webhooks
            .iter_mut()
            .flat_map(|hook| hook.ca_file.as_mut().into_iter().chain(hook.secret.file_mut()));
        let paths = std::iter::once(&mut self.data_folder)
            .chain(&mut self.template_folder)
            .chain(&mut self.providers_file)
            .chain(&mut self.rules_file)
            .chain(relay_files)
            .chain(mailbox_files)
            .chain(hook_files)
            .chain(event_hook_files)
            .chain(self.dkim.iter_mut().map(|dkim| &mut dkim.key_file));
        for path in paths {
            *path = folder.join(&path);
        }
    }

    /// Checks what the types cannot say; the error names a key and a problem.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let fail = |key, problem: &str| Err((key, problem.to_owned()));
        if !matches!(self.public_url.scheme(), "http" | "https") || self.public_url.host().is_none()
        {
            return fail("public_url", "must be an http or https address with a host");
        }
        if !self.public_url.path().ends_with('/') {
            return fail("public_url", "must end in a slash");
        }
        for (key, domain) in [
            ("bounce_domain", &self.mail.bounce_domain),
            ("message_id_domain", &self.mail.message_id_domain),
            ("helo_name", &self.mail.helo_name),
        ] {
            if !is_host_name(domain) {
                return fail(key, HOST_NAME);
            }
        }
        if self.sending.stages_percent.len() > crate::delivery::plan::STAGES_MAX {
            return fail("stages_percent", "at most six stages");
        }
        let mut last = 0.0;
        for &percent in &self.sending.stages_percent {
            if !(percent > last && percent < 100.0) {
                return fail("stages_percent", "must rise, above 0 and below 100");
            }
            last = percent;
        }
        if self.sending.retry_delays.is_empty() {
            return fail("retry_delays", "needs at least one wait");
        }
        let rates =
            [self.limits.per_second].into_iter().chain(self.relay.iter().map(|r| r.per_second));
        let destination_rates = self.relay.iter().map(|relay| relay.per_second_and_destination);
        let provider_rates = self.limits.provider.iter().map(|limit| limit.per_second);
        for rate in rates.chain(destination_rates).chain(provider_rates).flatten() {
            if !(rate > 0.0 && rate.is_finite()) {
                return fail("per_second", "must be more than nothing; leave it out for no limit");
            }
        }
        if self.relay.len() > crate::delivery::dispatch::RELAYS_MAX {
            return fail("relay", "there are more relays than can be used");
        }
        for (index, relay) in self.relay.iter().enumerate() {
            self.check_relay(index, relay)?;
        }
        let bounces = &self.bounces;
        if bounces.connections == 0
            || bounces.connections_per_client == 0
            || bounces.mails_per_minute_and_client == 0
        {
            return fail("connections_per_client", "a listener needs at least one of each");
        }
        self.check_limits()?;
        self.check_webhooks()
    }

    fn check_limits(&self) -> Result<(), (&'static str, String)> {
        for limit in &self.limits.provider {
            if limit.connections == Some(0) {
                return Err(("connections", format!("`{}` needs at least one", limit.name)));
            }
        }
        for (index, ramp) in self.limits.warm_up.iter().enumerate() {
            let same = |other: &super::WarmUp| {
                (&other.relay, &other.provider) == (&ramp.relay, &ramp.provider)
            };
            if self.limits.warm_up[..index].iter().any(same) {
                return Err((
                    "relay",
                    format!("two ramps for relay `{}` and one provider", ramp.relay),
                ));
            }
            if self.relay.iter().all(|relay| relay.name != ramp.relay) {
                return Err(("relay", format!("there is no relay `{}` to warm up", ramp.relay)));
            }
            if ramp.copies_per_day.is_empty() || ramp.copies_per_day.contains(&0) {
                let problem = "needs at least one day, and at least one copy on each".to_owned();
                return Err(("copies_per_day", problem));
            }
        }
        Ok(())
    }

    fn check_relay(&self, index: usize, relay: &Relay) -> Result<(), (&'static str, String)> {
        let name = &relay.name;
        if self.relay[..index].iter().any(|other| other.name == *name) {
            return Err(("name", format!("two relays are called `{name}`")));
        }
        if relay.connections == 0 || relay.messages_per_connection == 0 {
            return Err(("connections", format!("relay `{name}` needs at least one")));
        }
        if relay.connections_per_destination == 0 {
            let problem = format!("relay `{name}` needs at least one");
            return Err(("connections_per_destination", problem));
        }
        if relay.helo_name.as_deref().is_some_and(|name| !is_host_name(name)) {
            return Err(("helo_name", format!("relay `{name}`: {HOST_NAME}")));
        }
        if !(relay.weight > 0.0 && relay.weight.is_finite()) {
            return Err(("weight", format!("relay `{name}` needs one above 0")));
        }
        if relay.client_cert_file.is_some() != relay.client_key_file.is_some() {
            let problem = format!("relay `{name}` needs both a certificate and its key");
            return Err(("client_cert_file", problem));
        }
        if relay.client_cert_file.is_some() && relay.tls == RelayTls::None {
            let problem = format!("relay `{name}` shows a certificate only in TLS");
            return Err(("client_cert_file", problem));
        }
        check_login(relay)
    }
}

const HOST_NAME: &str = "must be a host name in ASCII (an A-label for IDN)";

fn is_host_name(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '[' | ']' | ':');
    !name.is_empty() && name.len() <= 253 && name.chars().all(valid)
}

fn check_login(relay: &Relay) -> Result<(), (&'static str, String)> {
    let name = &relay.name;
    let by_token = relay.auth == RelayAuth::Xoauth2;
    match &relay.token_command {
        Some(command) if !by_token || command.is_empty() => {
            let problem = format!(
                "relay `{name}` uses a command, of at least one word, only with \
                                   auth = \"xoauth2\""
            );
            return Err(("token_command", problem));
        }
        None if by_token && relay.password.is_none() => {
            let problem = format!("relay `{name}` needs a token_command to log in with xoauth2");
            return Err(("auth", problem));
        }
        Some(_) if relay.password.is_some() => {
            let problem = format!("relay `{name}` has both a password and a token_command");
            return Err(("token_command", problem));
        }
        _ => {}
    }
    let has_secret = relay.password.is_some() || relay.token_command.is_some();
    if relay.username.is_some() != has_secret {
        let problem = format!("relay `{name}` needs both a name and a password");
        return Err(("username", problem));
    }
    if has_secret && relay.tls == RelayTls::None && !is_loopback(&relay.host) {
        let problem =
            format!("relay `{name}` would get its password in the clear; use starttls or implicit");
        return Err(("tls", problem));
    }
    let named = |problem| ("password", format!("relay `{name}`: {problem}"));
    relay.password.as_ref().map_or(Ok(()), |password| password.reveal().map(drop).map_err(named))
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `file:line:column: what`, the line itself, and the nearest known key for an unknown one.
fn explain(error: &toml::de::Error, text: &str, name: &str) -> String {
    let message = error.message();
    let mut out = String::new();
    if let Some(span) = error.span() {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let shown = text.lines().nth(line - 1).unwrap_or_default();
        let _ = write!(out, "{name}:{line}:{column}: {message}\n  {line} | {shown}");
    } else {
        let _ = write!(out, "{name}: {message}");
    }
    let mut words = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field")
        && let Some(unknown) = words.next()
    {
        let nearest = words.max_by(|a, b| {
            strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b))
        });
        if let Some(nearest) = nearest {
            let _ = write!(out, "\n  did you mean `{nearest}`?");
        }
    }
    out
}

/// The line of block number `block` under `head` that sets `key`.
fn line_in_block(text: &str, head: &str, block: usize, key: &str) -> usize {
    let heads = text.lines().enumerate().filter(|(_, line)| line.trim() == head);
    let Some((head, _)) = heads.into_iter().nth(block) else { return line_of_key(text, key) };
    let rest = text.lines().skip(head + 1).take_while(|line| !line.trim_start().starts_with('['));
    let at = rest.enumerate().find(|(_, line)| sets(line, key));
    head + 1 + at.map_or(0, |(at, _)| at + 1)
}

/// The first line that sets `key`, for problems that only show once everything is read.
fn line_of_key(text: &str, key: &str) -> usize {
    text.lines().position(|line| sets(line, key)).map_or(1, |index| index + 1)
}

fn sets(line: &str, key: &str) -> bool {
    line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
}
