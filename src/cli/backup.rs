//! `postrider backup` and `restore`: the database as one file. The key file goes its own way: it
//! changes never, and whoever has both can sign for this installation.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tempfile::TempPath;

use super::{
    Refused,
    context::{actor, load_config},
    output::{self, say},
};
use crate::{
    config::Config,
    db::{DatabaseError, Db, OpenOptions, state::IssueState},
    delivery::restored::{self, Held},
    subscriber,
    timestamp::Timestamp,
    token::Keyring,
};

/// What every SQLite file begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// What `backup` takes.
#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// The file to write, which must not be there yet
    file: PathBuf,
}

/// What `restore` takes.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An empty file for our eyes only beside `path`, removed unless it is moved into its place.
fn beside(path: &Path) -> anyhow::Result<TempPath> {
    let folder = folder_of(path);
    let file = tempfile::Builder::new()
        .prefix(".postrider-")
        .tempfile_in(folder)
        .with_context(|| format!("cannot write in {}", folder.display()))?;
    Ok(file.into_temp_path())
}

/// Makes the file and its name durable.
fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()?;
    fs::File::open(folder_of(path))?.sync_all()
}

/// Writes a backup.
pub(super) async fn backup(config: Option<&Path>, args: BackupArgs) -> anyhow::Result<()> {
    let config = load_config(config)?;
    let database = config.database_file();
    anyhow::ensure!(
        database.exists(),
        "there is no database {}; name the configuration with --config",
        database.display()
    );
    anyhow::ensure!(!args.file.exists(), "{} is there already", args.file.display());
    let db = Db::open(&OpenOptions { create: false, ..OpenOptions::new(database) }).await?;
    let unfinished = beside(&args.file)?;
    db.copy_to(&unfinished).await.context("the backup cannot be written")?;
    db.close().await;
    unfinished
        .persist_noclobber(&args.file)
        .map_err(|failed| failed.error)
        .with_context(|| format!("cannot make {}", args.file.display()))?;
    sync(&args.file).with_context(|| format!("{} may not be durable", args.file.display()))?;
    let size = fs::metadata(&args.file)?.len();
    say(format!("{} ({})", args.file.display(), output::bytes(size)));
    say(format!(
        "{} is not in it: keep a copy of that file too, in another place. Without it, the links in \
         sent mail and the suppressions are void",
        config.key_file().display()
    ));
    Ok(())
}

/// Puts a backup in the place of the database.
pub(super) async fn restore(config: Option<&Path>, args: RestoreArgs) -> anyhow::Result<()> {
    let config = load_config(config)?;
    let database = config.database_file();
    check_magic(&args.file)?;
    let key_file = config.key_file();
    anyhow::ensure!(
        key_file.exists(),
        "there is no key file {}; put the one of the backed-up installation there first",
        key_file.display()
    );
    let _lock = Db::lock_for_daemon(&database).map_err(|error| match error {
        DatabaseError::Locked { .. } => anyhow::Error::from(Refused(format!(
            "a daemon runs on {}; stop it first",
            database.display()
        ))),
        other => other.into(),
    })?;
    let question = format!(
        "Put {} in the place of {}? What is there now is kept beside it.",
        args.file.display(),
        database.display()
    );
    output::confirm(&question, args.yes)?;
    // In a folder of its own, which goes with everything in it when something is wrong.
    let folder = tempfile::Builder::new()
        .prefix(".restoring-")
        .tempdir_in(&config.data_folder)
        .with_context(|| format!("cannot write in {}", config.data_folder.display()))?;
    let candidate = folder.path().join("postrider.db");
    let (from, to) = (args.file.clone(), candidate.clone());
    tokio::task::spawn_blocking(move || {
        fs::copy(from, &to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o600))
    })
    .await?
    .with_context(|| format!("{} cannot be copied", args.file.display()))?;
    let held = examine(&config, &candidate, &args.file).await?;
    let aside = set_aside(&config, Timestamp::now())?;
    fs::rename(&candidate, &database)
        .with_context(|| format!("cannot make {}", database.display()))?;
    sync(&database)?;
    say(format!("{} is restored", database.display()));
    for path in aside {
        say(format!("what was there before is in {}", path.display()));
    }
    tell(&held);
    Ok(())
}

fn check_magic(file: &Path) -> anyhow::Result<()> {
    let mut head = [0; MAGIC.len()];
    let read = fs::File::open(file).and_then(|mut file| file.read_exact(&mut head));
    match read {
        Ok(()) if head == *MAGIC => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(error).with_context(|| format!("cannot read {}", file.display()))
        }
        _ => anyhow::bail!("{} is no SQLite database", file.display()),
    }
}

/// Opens the copy of a backup, refuses it if it is broken or of another installation, and holds its
/// sends.
async fn examine(config: &Config, candidate: &Path, file: &Path) -> anyhow::Result<Vec<Held>> {
    let db = Db::open(&OpenOptions { create: false, ..OpenOptions::new(candidate) })
        .await
        .with_context(|| format!("{} cannot be used", file.display()))?;
    let faults = db.faults().await?;
    if !faults.is_empty() {
        let why = format!("{} is damaged: {}", file.display(), faults.join("; "));
        return Err(Refused(why).into());
    }
    let keyring = Keyring::load_or_create(&config.key_file(), Timestamp::now())?;
    if subscriber::fits_keyring(&db, &keyring).await? == Some(false) {
        let why = format!(
            "{} was made with another key file than {}; put the right one there first, else no \
             link in sent mail works and no suppression holds",
            file.display(),
            config.key_file().display()
        );
        return Err(Refused(why).into());
    }
    let held = restored::hold_sends(&db, &actor(), Timestamp::now()).await?;
    // Closing folds the log into the file, which is then whole by itself.
    db.close().await;
    Ok(held)
}

/// Moves what a restored database must not meet out of the way: the database before it with its
/// log, and the journal and the mark, which speak of later handoffs than the backup knows.
fn set_aside(config: &Config, now: Timestamp) -> anyhow::Result<Vec<PathBuf>> {
    let database = config.database_file();
    let stamp = now.to_jiff().strftime("%Y%m%dT%H%M%SZ").to_string();
    let name = |path: &Path, more: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(more);
        PathBuf::from(name)
    };
    let before = name(&database, &format!(".before-{stamp}"));
    let (journal, mark) = (config.journal_file(), config.mark_file());
    // The log belongs to its database by name. It goes first: alone it is never read.
    let moves = [
        (name(&database, "-wal"), name(&before, "-wal")),
        (name(&database, "-shm"), name(&before, "-shm")),
        (database, before),
        (journal.clone(), name(&journal, &format!(".before-{stamp}"))),
        (mark.clone(), name(&mark, &format!(".before-{stamp}"))),
    ];
    let mut moved = Vec::new();
    for (from, to) in moves {
        match fs::rename(&from, &to) {
            Ok(()) => moved.push(to),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot move {}", from.display()));
            }
        }
    }
    Ok(moved)
}

fn tell(held: &[Held]) {
    for issue in held {
        let now = match issue.state {
            IssueState::Scheduled => {
                "is a draft again: it was asked for, and may have gone out since"
            }
            IssueState::Halted => "stays halted",
            _ => "is paused",
        };
        say(format!("issue {} of {} {now}", issue.number, issue.newsletter));
    }
    if held.iter().any(|issue| issue.state != IssueState::Scheduled) {
        say("copies that left after the backup was made are not in it, and `issue resume` would \
             send them again; look into the relay's log first, or give the rest up with \
             `issue cancel`");
    }
}
