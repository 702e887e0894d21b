//! Reading the file, and saying what is wrong with it in a way that gets it mended.

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
        config.resolve_paths(folder);
        config.check().map_err(|(key, problem)| {
            let line = line_of_key(text, key);
            ConfigError::Invalid(format!("{name}:{line}: {key}: {problem}"))
        })?;
        Ok(config)
    }

    fn resolve_paths(&mut self, folder: &Path) {
        let relay_files = self.relay.iter_mut().flat_map(|relay| {
            let password = relay.password.as_mut().and_then(Secret::file_mut);
            let files =
                [&mut relay.ca_file, &mut relay.client_cert_file, &mut relay.client_key_file];
            files.into_iter().flatten().chain(password)
        });
        let paths = std::iter::once(&mut self.data_folder)
            .chain(&mut self.template_folder)
            .chain(&mut self.providers_file)
            .chain(&mut self.rules_file)
            .chain(relay_files)
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
            let valid =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '[' | ']' | ':');
            if domain.is_empty() || domain.len() > 253 || !domain.chars().all(valid) {
                return fail(key, "must be a host name in ASCII (an A-label for IDN)");
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
        let provider_rates = self.limits.provider.iter().map(|limit| limit.per_second);
        for rate in rates.chain(provider_rates).flatten() {
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
        self.check_limits()
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

fn is_loopback(host: &str) -> bool {
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

/// The first line that sets `key`, for problems that only show once everything is read.
fn line_of_key(text: &str, key: &str) -> usize {
    let sets = |line: &str| {
        line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    text.lines().position(sets).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        Config::parse(text, "config.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_the_default() {
        let example = Config::parse(EXAMPLE, "config.example.toml").unwrap();
        assert_eq!(example, Config::default());
    }

    /// Uncommented, the optional parts of the example are valid too, and no key is left out.
    #[test]
    fn the_example_names_every_key() {
        let uncommented: String = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix("#= ").unwrap_or(line))
            .fold(String::new(), |all, line| all + line + "\n");
        let full: toml::Table = toml::from_str(&uncommented).unwrap();
        let config: Config = toml::from_str(&uncommented).unwrap();
        assert_eq!(keys(&toml::Table::try_from(&config).unwrap()), keys(&full));
    }

    fn keys(table: &toml::Table) -> Vec<String> {
        let mut all = Vec::new();
        for (key, value) in table {
            let inner = match value {
                toml::Value::Table(inner) => Some(inner),
                toml::Value::Array(items) => items.first().and_then(toml::Value::as_table),
                _ => None,
            };
            match inner {
                Some(inner) if key != "password" => {
                    all.extend(keys(inner).into_iter().map(|inner| format!("{key}.{inner}")));
                }
                _ => all.push(key.clone()),
            }
        }
        all.sort();
        all
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let text = "[limits]\nper_secnd = 5\n";
        let error = error_of(text);
        assert!(error.starts_with("config.toml:2:1: unknown field `per_secnd`"), "{error}");
        assert!(error.ends_with("did you mean `per_second`?"), "{error}");

        let error = error_of("[sending]\n\nundo_window = \"soon\"\n");
        assert!(error.starts_with("config.toml:3:"), "{error}");
        assert!(error.contains("30s, 10m or 36h"), "{error}");

        let error = error_of("[sending]\nstages_percent = [10.0, 1.0]\n");
        assert!(error.starts_with("config.toml:2: stages_percent:"), "{error}");
    }

    #[test]
    fn a_password_never_travels_in_the_clear_nor_shows_in_debug_output() {
        let relay = "[[relay]]\nname = \"r\"\nhost = \"mail.example.com\"\nusername = \"u\"\n\
                     password = \"hunter2\"\n";
        let error = error_of(&format!("{relay}tls = \"none\"\n"));
        assert!(error.contains("in the clear"), "{error}");
        let config = Config::parse(relay, "config.toml").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn what_a_relay_cannot_do_is_said() {
        let relay =
            |keys: &str| error_of(&format!("[[relay]]\nname = \"r\"\nhost = \"h\"\n{keys}"));
        for (keys, said) in [
            ("weight = 0.0", ":4: weight: relay `r` needs one above 0"),
            ("client_cert_file = \"a\"", "client_cert_file: relay `r` needs both"),
            ("auth = \"xoauth2\"\nusername = \"u\"", ":4: auth: relay `r` needs a token_command"),
            ("username = \"u\"\ntoken_command = [\"t\"]", "only with auth = \"xoauth2\""),
            ("[[limits.warm_up]]\nrelay = \"s\"\ncopies_per_day = [1]", "there is no relay `s`"),
            ("[[limits.warm_up]]\nrelay = \"r\"\ncopies_per_day = []", "at least one day"),
            ("[[limits.provider]]\nname = \"google\"\nconnections = 0", "needs at least one"),
        ] {
            let error = relay(keys);
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_password_file_lies_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let relay = "[[relay]]\nname = \"r\"\nhost = \"h\"\nusername = \"u\"\n\
                     password = { file = \"relay.password\" }\n";
        std::fs::write(&file, relay).unwrap();
        let error = Config::load(&file).unwrap_err().to_string();
        let missing = folder.path().join("relay.password");
        assert!(error.contains(&format!("{} cannot be read", missing.display())), "{error}");
        std::fs::write(&missing, "hunter2\n").unwrap();
        let config = Config::load(&file).unwrap();
        let password = config.relay[0].password.as_ref().unwrap().reveal();
        assert_eq!(password.as_deref(), Ok("hunter2"));
    }

    #[test]
    fn a_missing_secret_is_named() {
        let text = "[[relay]]\nname = \"r\"\nhost = \"h\"\nusername = \"u\"\n\
                    password = { env = \"POSTRIDER_NO_SUCH_VARIABLE\" }\n";
        let error = error_of(text);
        assert!(error.contains("POSTRIDER_NO_SUCH_VARIABLE is not set"), "{error}");
    }
}
