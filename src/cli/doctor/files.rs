//! What lies on the disk: the data folder, the key file, signing keys, templates.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::Finding;
use crate::{
    config::Config,
    db::{DatabaseError, Db},
    issue::render::Renderer,
    smtp::dkim::Signer,
    subscriber,
    timestamp::Timestamp,
    token::Keyring,
};

/// Looks at every file that the daemon will need.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![data_folder(config)];
    if config.data_folder.exists() {
        findings.push(key_file(config));
        findings.extend(daemon(config));
    }
    for key in &config.dkim {
        findings.push(signing_key(&key.domain, &key.selector, &key.key_file));
    }
    if let Err(error) = Renderer::new(config.template_folder.as_deref()) {
        findings.push(Finding::error(
            "templates",
            error.to_string(),
            "mend the template, or remove it to use the built-in one",
        ));
    }
    findings
}

/// Whether others than the owner may use a file.
fn mode_of_others(path: &Path) -> std::io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077)
}

fn data_folder(config: &Config) -> Finding {
    let folder = &config.data_folder;
    let shown = folder.display();
    match mode_of_others(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::warning(
            "data folder",
            format!("{shown} is not there yet"),
            "run `postrider init`",
        ),
        Err(error) => Finding::error(
            "data folder",
            format!("{shown}: {error}"),
            "let the user that runs the daemon own it",
        ),
        Ok(_) if tempfile::tempfile_in(folder).is_err() => Finding::error(
            "data folder",
            format!("{shown} cannot be written"),
            "let the user that runs the daemon own it, and see that the disk is not full",
        ),
        Ok(0) => Finding::ok("data folder", format!("{shown} can be written, by its owner only")),
        Ok(_) => Finding::warning(
            "data folder",
            format!("others on this machine can look into {shown}"),
            format!("chmod 700 {shown}"),
        ),
    }
}

fn key_file(config: &Config) -> Finding {
    let path = config.key_file();
    if !path.exists() {
        let remedy = "put the key file of this installation there; for a new one, run \
                      `postrider init`";
        let what = format!("there is no {}", path.display());
        return if config.database_file().exists() {
            Finding::error("key file", what, remedy)
        } else {
            Finding::warning("key file", what, remedy)
        };
    }
    match Keyring::load_or_create(&path, Timestamp::now()) {
        Ok(_) => Finding::ok("key file", format!("{} can be used", path.display())),
        Err(error) => Finding::error(
            "key file",
            error.to_string(),
            "mend that, or put a copy of the file from elsewhere there",
        ),
    }
}

/// Looks whether the key file is the one this database was made with.
pub(super) async fn check_keyring(config: &Config, db: &Db) -> Option<Finding> {
    if !config.key_file().exists() {
        return None; // said already
    }
    let keyring = Keyring::load_or_create(&config.key_file(), Timestamp::now()).ok()?;
    (subscriber::fits_keyring(db, &keyring).await.ok()? == Some(false)).then(|| {
        Finding::error(
            "key file",
            "this database was made with another key file",
            "put the right one in its place before anything is sent: until then no reader is \
             found and no suppression holds",
        )
    })
}

/// Whether a daemon runs is good to know, and neither right nor wrong.
fn daemon(config: &Config) -> Option<Finding> {
    match Db::lock_for_daemon(&config.database_file()) {
        Ok(_) => Some(Finding::ok("daemon", "none runs on this data")),
        Err(DatabaseError::Locked { .. }) => Some(Finding::ok("daemon", "one runs on this data")),
        Err(_) => None, // the data folder's finding says why
    }
}

fn signing_key(domain: &str, selector: &str, path: &Path) -> Finding {
    let shown = path.display();
    let pem = match fs::read_to_string(path) {
        Ok(pem) => pem,
        Err(error) => {
            return Finding::error(
                "signing keys",
                format!("{shown}: {error}"),
                format!("`postrider init --dkim {domain}` makes a key"),
            );
        }
    };
    match Signer::from_pem(domain, selector, &pem) {
        Err(error) => Finding::error(
            "signing keys",
            format!("{shown}: {error}"),
            format!("`postrider init --dkim {domain}` makes a key"),
        ),
        Ok(_) if mode_of_others(path).is_ok_and(|mode| mode & 0o037 != 0) => Finding::warning(
            "signing keys",
            format!("others on this machine can use {shown}"),
            format!("chmod 600 {shown}"),
        ),
        Ok(signer) => Finding::ok("signing keys", format!("{signer:?} can be used")),
    }
}
