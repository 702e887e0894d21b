//! The key ring: one file of secrets that the installation keeps for as long as it lives.
//!
//! The file is text, one key a line, oldest first; the last one signs. Keys are only ever added:
//! old ones open the links in old mails. The file is made once, atomically, for the owner's eyes
//! only; a ring that others can read is refused rather than used.

use std::{
    fmt::{self, Write as _},
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use data_encoding::HEXLOWER;

use crate::timestamp::Timestamp;

/// The first line of the file, with the version of its format.
const HEADER: &str = "postrider-keyring 1";
const NOTE: &str = "\
# The secrets that sign this installation's links, return paths and Message-IDs.
# Keep it private, back it up, never remove a line: without it the unsubscribe links
# in mails that were already sent stop working.
# key ID CREATED SECRET; the last one signs, all of them verify.
";
/// Octets of a secret: the block of SHA-256's output, as RFC 2104 advises.
const SECRET_OCTETS: usize = 32;
/// Octets of the largest file that is read; 255 keys take 27 KB.
const FILE_OCTETS_MAX: u64 = 64 * 1024;

/// The secrets that sign tokens: several, of which the newest signs and all verify.
#[derive(Clone)]
pub struct Keyring {
    /// Oldest first; never empty.
    keys: Vec<Key>,
}

/// One secret.
#[derive(Clone)]
pub(super) struct Key {
    /// Stands in every token that it signed.
    pub(super) id: u8,
    created_at: Timestamp,
    pub(super) hmac: hmac::Key,
}

/// A key ring that cannot be used, and where it is.
#[derive(Debug, thiserror::Error)]
#[error("key ring {}: {fault}", path.display())]
pub struct KeyringError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: KeyringFault,
}

/// What is wrong with a key ring. No message shows a secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyringFault {
    /// The file cannot be read, or cannot be made.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file's mode lets others read or change it.
    #[error("its mode {mode:04o} lets others use it; run: chmod 600 {}", path.display())]
    Exposed {
        /// The permission bits.
        mode: u32,
        /// The file, for the command to run.
        path: PathBuf,
    },
    /// The first line is not the one of a key ring of this version.
    #[error("it does not begin with “{HEADER}”; is this another file, or from a newer version?")]
    Header,
    /// A line that cannot be understood.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No key at all.
    #[error("it holds no key; restore it from a backup, or remove it to start a new one")]
    NoKey,
    /// 255 keys are there already.
    #[error("it holds as many keys as there are ids; none can be added")]
    Full,
    /// The system's source of randomness failed.
    #[error("the operating system gave no random numbers")]
    Random,
}

impl KeyringFault {
    fn at(self, path: &Path) -> KeyringError {
        KeyringError { path: path.to_owned(), fault: self }
    }
}

impl Keyring {
    /// A ring with one new key, kept nowhere: for rehearsals and tests.
    pub fn ephemeral(now: Timestamp) -> Self {
        let key = Key::new(1, now, &rand::random());
        Self { keys: vec![key] }
    }

    /// Reads the ring at `path`; where there is no file, makes one with a new key. Blocks on the
    /// file system: for the start of the program.
    ///
    /// Two processes may start at once: one makes the file, the other reads it.
    pub fn load_or_create(path: &Path, now: Timestamp) -> Result<Self, KeyringError> {
        match Self::load(path) {
            Err(KeyringError { fault: KeyringFault::Io { source, .. }, .. })
                if source.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        let line = key_line(1, now).map_err(|fault| fault.at(path))?;
        match write(path, &format!("{HEADER}\n{NOTE}{line}"), false) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(KeyringFault::Io { what: "cannot be made", source }.at(path))
            }
            _ => Self::load(path),
        }
    }

    /// Reads the ring at `path`, which must exist. Blocks on the file system.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        read(path).and_then(|text| Self::from_text(&text)).map_err(|fault| fault.at(path))
    }

    /// Adds a new key to the ring at `path`; it signs from now on. Blocks on the file system. A
    /// daemon that runs uses it from its next start.
    pub fn rotate(path: &Path, now: Timestamp) -> Result<Self, KeyringError> {
        let rotate = || {
            let mut text = read(path)?;
            let ring = Self::from_text(&text)?;
            let id = (1..=u8::MAX).find(|&id| ring.key(id).is_none()).ok_or(KeyringFault::Full)?;
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&key_line(id, now)?);
            write(path, &text, true)
                .map_err(|source| KeyringFault::Io { what: "cannot be replaced", source })?;
            Self::from_text(&text)
        };
        rotate().map_err(|fault| KeyringFault::at(fault, path))
    }

    /// Reads the text of a key ring file.
    pub(super) fn from_text(text: &str) -> Result<Self, KeyringFault> {
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some(HEADER) {
            return Err(KeyringFault::Header);
        }
        let mut keys: Vec<Key> = Vec::new();
        for (line, text) in (2..).zip(lines) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let key = parse_key(text).map_err(|what| KeyringFault::Line { line, what })?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeyringFault::Line { line, what: "another key has this id already" });
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyringFault::NoKey);
        }
        Ok(Self { keys })
    }

    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The key that signs.
    pub(super) fn current(&self) -> &Key {
        self.keys.last().expect("a ring is never made without a key")
    }

    /// The key that signs what must be the same in all years.
    pub(super) fn first(&self) -> &Key {
        self.keys.first().expect("a ring is never made without a key")
    }

    pub(super) fn key(&self, id: u8) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// When the key stopped signing: when the next one was made.
    pub(super) fn replaced_at(&self, id: u8) -> Option<Timestamp> {
        let at = self.keys.iter().position(|key| key.id == id)?;
        self.keys.get(at + 1).map(|next| next.created_at)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| (key.id, key.created_at));
        f.debug_map().entries(ids).finish()
    }
}

impl Key {
    fn new(id: u8, created_at: Timestamp, secret: &[u8; SECRET_OCTETS]) -> Self {
        Self { id, created_at, hmac: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }
}

/// `key ID CREATED SECRET`
fn parse_key(text: &str) -> Result<Key, &'static str> {
    let mut words = text.split_ascii_whitespace();
    if words.next() != Some("key") {
        return Err("expected “key ID CREATED SECRET”");
    }
    let id = words
        .next()
        .and_then(|id| id.parse::<u8>().ok())
        .filter(|&id| id > 0)
        .ok_or("the id must be a number from 1 to 255")?;
    let created_at = words
        .next()
        .and_then(|at| at.parse().ok())
        .ok_or("the date of creation must look like 2024-08-11T09:05:07Z")?;
    let mut secret = [0; SECRET_OCTETS];
    let hex = words.next().unwrap_or_default().as_bytes();
    if hex.len() != SECRET_OCTETS * 2 || HEXLOWER.decode_mut(hex, &mut secret).is_err() {
        return Err("the secret must be 64 digits of lower-case hexadecimal");
    }
    if words.next().is_some() {
        return Err("something follows the secret");
    }
    Ok(Key::new(id, created_at, &secret))
}

fn key_line(id: u8, now: Timestamp) -> Result<String, KeyringFault> {
    let mut secret = [0; SECRET_OCTETS];
    SystemRandom::new().fill(&mut secret).map_err(|_| KeyringFault::Random)?;
    let mut line = String::new();
    writeln!(line, "key {id} {now} {}", HEXLOWER.encode(&secret))
        .expect("writing to a string cannot fail");
    Ok(line)
}

fn read(path: &Path) -> Result<String, KeyringFault> {
    let io = |source| KeyringFault::Io { what: "cannot be read", source };
    let file = fs::File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    let mode = metadata.permissions().mode() & 0o7777;
    // A group may read: that is how orchestrators hand secrets to a process that is not root.
    if mode & 0o037 != 0 {
        return Err(KeyringFault::Exposed { mode, path: path.to_owned() });
    }
    if metadata.len() > FILE_OCTETS_MAX {
        return Err(KeyringFault::Header);
    }
    io::read_to_string(file).map_err(io)
}

/// Writes the file beside its place, flushes it, and moves it there: a crash leaves the old one or
/// the new one. Without `replace`, a file that is there already stays and is an error.
fn write(path: &Path, text: &str, replace: bool) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".keyring-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    if replace { file.persist(path) } else { file.persist_noclobber(path) }.map_err(|e| e.error)?;
    fs::File::open(folder)?.sync_all()
}
