//! A maildir on this machine: what lies in `new` and `cur` is applied, and moved to a folder beside
//! them (`.NAME`, as Maildir++ has it). A mail there is complete and never changes, so no lock is
//! needed. What is left in place is remembered by its name.

use std::{
    collections::HashSet,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Desk, HEAD, Look, MailboxError, Place, Verdict, memory};
use crate::{bounce::report::SIZE_MAX, timestamp::Timestamp};

/// Mails that one look deals with.
const LISTED_MAX: usize = 5_000;

/// A mail in a maildir.
struct Found {
    path: PathBuf,
    /// Its name up to the flags, which stays the same when others read it.
    name: String,
}

/// Looks at what is new.
pub(super) async fn look(desk: &Desk, look: &mut Look) -> Result<(), MailboxError> {
    let mailbox = desk.settings.name.as_str();
    let left = Arc::new(memory::left(&desk.db, mailbox).await?);
    let (folder, known) = (desk.settings.path.clone(), Arc::clone(&left));
    let (found, there) = blocking(&desk.settings.path, move || list(&folder, &known)).await?;
    let there: HashSet<&str> = there.iter().map(String::as_str).collect();
    memory::forget_gone(&desk.db, mailbox, &left, &there).await?;
    look.more |= found.len() == LISTED_MAX;
    for Found { path, name } in found {
        let (file, from) = (path.clone(), path.clone());
        let Some((raw, whole)) = blocking(&path, move || read(&file)).await? else {
            look.vanished += 1;
            continue;
        };
        let verdict = match raw {
            Some(raw) => desk.take(raw, whole, look).await?,
            None => Verdict::Unreadable,
        };
        let root = &desk.settings.path;
        let to = match desk.place(verdict) {
            Place::Here => {
                memory::leave(&desk.db, mailbox, &name, Timestamp::now()).await?;
                desk.settled(verdict, look);
                continue;
            }
            Place::Handled => Some(root.join(format!(".{}", desk.settings.handled_folder))),
            Place::Aside => Some(root.join(format!(".{}", desk.settings.aside_folder))),
            Place::Nowhere => None,
        };
        blocking(&path, move || take_away(&from, to.as_deref(), &name)).await?;
        desk.settled(verdict, look);
    }
    Ok(())
}

/// Looks whether it is there and can be used.
pub(super) async fn check(path: &Path) -> Result<u64, MailboxError> {
    let folder = path.to_owned();
    let mails = blocking(path, move || {
        let mut mails = 0;
        for part in ["new", "cur"] {
            mails += fs::read_dir(folder.join(part))?.count();
        }
        // Mail is moved away from there, which takes the right to write.
        tempfile::tempfile_in(&folder)?;
        Ok(mails)
    });
    Ok(mails.await? as u64)
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, MailboxError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| MailboxError::Files(path.to_owned(), error))
}

/// What is new, up to a bound, oldest name first, and the names of the known ones that are there.
fn list(folder: &Path, known: &HashSet<String>) -> io::Result<(Vec<Found>, Vec<String>)> {
    let (mut found, mut there) = (Vec::new(), Vec::new());
    for part in ["new", "cur"] {
        for entry in fs::read_dir(folder.join(part))? {
            let entry = entry?;
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            if file_name.starts_with('.') || !entry.file_type()?.is_file() {
                continue;
            }
            let name = file_name.split(':').next().unwrap_or_default().to_owned();
            if known.contains(&name) {
                there.push(name);
            } else if found.len() < LISTED_MAX {
                found.push(Found { path: entry.path(), name });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((found, there))
}

/// A file and whether that is all of it; nothing where it may not be read. None when it is gone.
fn read(path: &Path) -> io::Result<Option<(Option<Vec<u8>>, bool)>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Some((None, true)));
        }
        Err(error) => return Err(error),
    };
    let whole = file.metadata()?.len() <= SIZE_MAX as u64;
    let mut raw = Vec::new();
    file.take(if whole { SIZE_MAX } else { HEAD } as u64).read_to_end(&mut raw)?;
    Ok(Some((Some(raw), whole)))
}

/// Moves a mail to another maildir, marked as seen, or deletes it. One that is gone is gone.
fn take_away(from: &Path, to: Option<&Path>, name: &str) -> io::Result<()> {
    let done = match to {
        None => fs::remove_file(from),
        Some(folder) => {
            for part in ["cur", "new", "tmp"] {
                fs::create_dir_all(folder.join(part))?;
            }
            fs::rename(from, folder.join("cur").join(format!("{name}:2,S")))
        }
    };
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
