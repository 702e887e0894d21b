//! `postrider init`: from an empty folder to an installation that `serve` runs. What is there
//! already stays as it is, so it can be run again, to make a signing key, say.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    Context,
    context::load_config,
    output::{self, say},
    user,
};
use crate::{
    account::{self, Role},
    config::{Config, EXAMPLE},
    smtp::dkim::Signer,
};

/// What `init` takes.
#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// Make an Ed25519 key that signs mail from this domain, and print the DNS records to publish
    #[arg(long, value_name = "DOMAIN")]
    dkim: Option<String>,
    /// The name under which the key is published
    #[arg(long, default_value = "postrider", requires = "dkim")]
    selector: String,
    /// The first user, who may do everything
    #[arg(long, default_value = "admin", value_name = "NAME")]
    admin: String,
    /// A file whose first line is their password [default: typed, or made up and shown once]
    #[arg(long, value_name = "FILE")]
    admin_password_file: Option<PathBuf>,
}

/// Sets an installation up.
pub(super) async fn run(config: Option<&Path>, args: InitArgs) -> anyhow::Result<()> {
    let path = config.unwrap_or(Path::new("config.toml"));
    let domain = args.dkim.as_deref().map(str::to_ascii_lowercase);
    let signing = match &domain {
        Some(domain) => Some(signing_key(path, domain, &args.selector)?),
        None => None,
    };
    let block = signing.as_ref().map(|(signer, file)| dkim_block(signer, file));
    let written = write_config(path, domain.as_deref(), block.as_deref())?;
    let config = load_config(Some(path))?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data_folder).with_context(
        || format!("the data folder {} cannot be made", config.data_folder.display()),
    )?;
    let key_is_new = !config.key_file().exists();
    let context = Context::with(config).await?;
    let config = &context.config;
    if key_is_new {
        let key = config.key_file();
        say(format!("wrote {}: keep a copy in a safe place", key.display()));
    }
    say(format!("the data is in {}", config.data_folder.display()));
    if account::any(&context.db).await? {
        say("users are there already; `postrider user list` shows them");
    } else {
        let file = args.admin_password_file.as_deref();
        user::add(&context, &args.admin, Role::Operator, file).await?;
    }
    if let Some((signer, _)) = &signing {
        let is_used = config.dkim.iter().any(|key| {
            key.domain.eq_ignore_ascii_case(signer.domain()) && key.selector == signer.selector()
        });
        if let (false, false, Some(block)) = (written, is_used, &block) {
            say(format!("add this to {}:\n{block}", path.display()));
        }
        print_records(config, signer)?;
    }
    say("next: `postrider doctor` says what is missing, `postrider newsletter create` makes a \
         newsletter, `postrider serve` runs it all");
    context.db.close().await;
    Ok(())
}

/// Writes the example as the configuration, if there is none. Returns whether it did.
fn write_config(path: &Path, domain: Option<&str>, block: Option<&str>) -> anyhow::Result<bool> {
    let mut text = EXAMPLE.to_owned();
    if let Some(domain) = domain {
        let of_domain = [
            (
                "bounce_domain = \"bounce.localhost\"",
                format!("bounce_domain = \"bounce.{domain}\""),
            ),
            ("message_id_domain = \"localhost\"", format!("message_id_domain = \"{domain}\"")),
        ];
        for (before, after) in of_domain {
            text = text.replace(before, &after);
        }
    }
    if let Some(block) = block {
        text.push('\n');
        text.push_str(block);
    }
    // It may come to hold passwords.
    let made = fs::File::options().create_new(true).write(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot write {}", path.display()))?;
            say(format!("wrote {}: every key is explained in it", path.display()));
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            say(format!("{} is there already and stays as it is", path.display()));
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

/// The key that signs for `domain`, beside the configuration: the one there is, or a new one. Also
/// its file's name.
fn signing_key(config: &Path, domain: &str, selector: &str) -> anyhow::Result<(Signer, String)> {
    let (signer, pem) = Signer::generate_ed25519(domain, selector)?;
    let name = format!("dkim-{}-{}.pem", signer.domain(), signer.selector());
    let path = config.parent().unwrap_or(Path::new("")).join(&name);
    match fs::File::options().create_new(true).write(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            file.write_all(pem.as_bytes())
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot write {}", path.display()))?;
            say(format!("wrote {}: the private signing key", path.display()));
            Ok((signer, name))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let pem = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let signer = Signer::from_pem(domain, selector, &pem)
                .with_context(|| format!("{} cannot be used", path.display()))?;
            say(format!("{} is there already and is used", path.display()));
            Ok((signer, name))
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

fn dkim_block(signer: &Signer, file: &str) -> String {
    format!(
        "[[dkim]]\ndomain = \"{}\"\nselector = \"{}\"\nkey_file = \"{file}\"\n",
        signer.domain(),
        signer.selector()
    )
}

/// Prints the records as lines of a zone file; what is said about them is a comment there.
fn print_records(config: &Config, signer: &Signer) -> io::Result<()> {
    let domain = signer.domain();
    let bounce = &config.mail.bounce_domain;
    let helo = &config.mail.helo_name;
    let host = if helo.contains('.') { helo.clone() } else { format!("mail.{domain}") };
    say("publish these records:");
    output::line(format!(
        "; The signing key. Some large receivers look at RSA keys only: make a second key with\n\
         ; `openssl genrsa -out dkim-rsa.pem 2048`, name it in a [[dkim]] block of its own, and\n\
         ; `postrider doctor --dns` prints its record too.\n\
         {}\n\
         ; Who may send for {domain}: put your relay's own term (include:…) before ~all.\n\
         {domain}. IN TXT ( \"v=spf1 mx ~all\" )\n\
         ; What receivers do with mail that fails; p=none to begin with, then quarantine.\n\
         _dmarc.{domain}. IN TXT ( \"v=DMARC1; p=none; rua=mailto:dmarc@{domain}\" )\n\
         ; Returned mail comes to this machine, whose name must have an address.\n\
         {bounce}. IN MX 10 {host}.\n\
         {bounce}. IN TXT ( \"v=spf1 mx ~all\" )",
        signer.dns_record(),
    ))
}
