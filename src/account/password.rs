//! Passwords: argon2id (RFC 9106), on threads of its own, a few at a time.

use std::{sync::Arc, time::Duration};

use argon2::{
    Argon2, PasswordHasher as _, PasswordVerifier as _, password_hash::phc::PasswordHash,
};
use tokio::sync::Semaphore;

/// The fewest characters of a password.
pub const PASSWORD_CHARS_MIN: usize = 12;
/// The most octets of a password: longer ones only cost time.
pub const PASSWORD_OCTETS_MAX: usize = 1024;
/// How many are hashed at once: each takes 19 MiB and about 30 ms of a core.
const AT_ONCE: usize = 2;
/// How long one waits for its turn.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Hashes and compares passwords. Cheap to clone; clones share their turns.
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
}

/// Too many passwords wait to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many logins at once; try again in a few seconds")]
pub struct Busy;

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Passwords {
    /// A hash of `password` with a new salt, to be kept.
    pub async fn hash(&self, password: &str) -> Result<String, Busy> {
        let password = password.to_owned();
        let hash = self.run(move || {
            Argon2::default().hash_password(password.as_bytes()).map(|h| h.to_string())
        });
        hash.await?.map_err(|_| Busy)
    }

    /// Whether `password` is the one behind `hash`. Without a hash (nobody has that name) the same
    /// work is done, so that the time it takes tells nobody which names there are.
    pub async fn verify(&self, password: &str, hash: Option<String>) -> Result<bool, Busy> {
        let mut password = password.as_bytes().to_vec();
        password.truncate(PASSWORD_OCTETS_MAX + 1);
        self.run(move || match hash.as_deref().map(PasswordHash::new) {
            Some(Ok(hash)) => Argon2::default().verify_password(&password, &hash).is_ok(),
            // A hash that cannot be read fits no password.
            Some(Err(_)) | None => {
                let mut out = [0_u8; 32];
                let _ = Argon2::default().hash_password_into(&password, &[0; 16], &mut out);
                std::hint::black_box(out);
                false
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let turn = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.turns).acquire_owned());
        let turn = turn.await.map_err(|_| Busy)?.map_err(|_| Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|_| Busy)
    }
}
