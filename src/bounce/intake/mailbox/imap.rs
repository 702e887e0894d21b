//! A mailbox on an IMAP server: what is new in its folders is fetched, applied, and moved to where it
//! belongs.
//!
//! Mails are fetched without marking them as read, in groups, one in memory at a time. A group is
//! moved once all of it is applied. What is left in place is remembered by the highest UID that was
//! dealt with, under the folder's UIDVALIDITY; when that changes, everything is looked at again. What
//! was applied and not yet moved when a connection broke is moved by the next one without being
//! fetched again; after a crash it is applied again, which counts nothing twice.

mod response;
mod session;

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{Desk, Look, MailboxError, Place, Verdict, login::Login, memory};
use crate::bounce::{intake::mailbox::HEAD, report::SIZE_MAX};
use session::{Listed, Said, Session};

/// Mails that one list has: 16 octets each. When there are more, another look follows.
const LISTED_MAX: usize = 20_000;
/// Servers may hang up on who waits longer than half an hour (RFC 2177).
const IDLE_MAX: Duration = Duration::from_mins(28);
/// Mails that are fetched by one command and moved by one.
const GROUP_MAX: usize = 50;
/// Octets of those together, to lose little when the connection breaks; a single mail may have more.
const GROUP_OCTETS: u64 = 2 * 1024 * 1024;

/// An account on an IMAP server.
pub(super) struct Imap {
    login: Login,
    session: Option<Session>,
    /// What was applied and is not moved yet, of each folder, under its UIDVALIDITY.
    applied: BTreeMap<String, (u32, BTreeMap<u32, Verdict>)>,
}

impl Imap {
    pub(super) fn new(login: Login) -> Self {
        Self { login, session: None, applied: BTreeMap::new() }
    }

    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// Looks into every folder; the first one last, so that it is the one to wait at.
    pub(super) async fn look(&mut self, desk: &Desk, look: &mut Look) -> Result<(), MailboxError> {
        // A session in which anything went wrong is not used again.
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.open().await?,
        };
        for folder in desk.settings.folders.iter().rev() {
            self.look_into(&mut session, folder, desk, look).await?;
        }
        self.session = Some(session);
        Ok(())
    }

    /// Connects, logs in, and opens every folder.
    pub(super) async fn check(&mut self, folders: &[String]) -> Result<u64, MailboxError> {
        let mut session = self.open().await?;
        let mut mails = 0;
        for folder in folders {
            mails += u64::from(session.select(folder).await?.exists);
        }
        session.close().await;
        Ok(mails)
    }

    async fn open(&self) -> Result<Session, MailboxError> {
        let secret = self.login.secret().await?;
        let opened = Session::open(&self.login.settings, self.login.tls.as_ref(), &secret).await;
        self.login.tell(&opened, &secret).await;
        opened
    }

    async fn look_into(
        &mut self,
        session: &mut Session,
        folder: &str,
        desk: &Desk,
        look: &mut Look,
    ) -> Result<(), MailboxError> {
        let selected = session.select(folder).await?;
        let validity = selected.uid_validity;
        let (known, applied) = self.applied.entry(folder.to_owned()).or_default();
        if *known != validity {
            (*known, *applied) = (validity, BTreeMap::new());
        }
        let seen = memory::cursor(&desk.db, &desk.settings.name, folder, validity).await?;
        // Some servers take `1:*` in an empty folder for an error.
        if selected.exists == 0 {
            return Ok(());
        }
        let listed = session.list_above(seen, LISTED_MAX).await?;
        look.more |= listed.len() == LISTED_MAX;
        // Somebody else took those, or they were moved and the answer was lost.
        applied.retain(|uid, _| listed.binary_search_by_key(uid, |mail| mail.uid).is_ok());
        for group in groups(&listed) {
            fetch(session, group, applied, desk, look).await?;
            settle(session, group, applied, desk, look).await?;
            let last = group.last().map_or(0, |mail| mail.uid);
            let left = group.iter().any(|mail| {
                applied.get(&mail.uid).is_some_and(|verdict| desk.place(*verdict) == Place::Here)
            });
            if left {
                memory::set_cursor(&desk.db, &desk.settings.name, folder, validity, last).await?;
            }
            for mail in group {
                applied.remove(&mail.uid);
            }
        }
        Ok(())
    }

    /// Waits until mail comes or it is time, whichever is first.
    pub(super) async fn wait(&mut self, until: Instant, desk: &Desk) -> Result<(), MailboxError> {
        let idles = |session: &Session| desk.settings.idle && session.offers("IDLE");
        match self.session.take() {
            Some(mut session) if idles(&session) => {
                session.idle(until.min(Instant::now() + IDLE_MAX)).await?;
                self.session = Some(session);
            }
            session => {
                // Few servers like sessions in which nothing happens.
                if let Some(session) = session {
                    session.close().await;
                }
                tokio::time::sleep_until(until).await;
            }
        }
        Ok(())
    }

    /// Says goodbye.
    pub(super) async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }
}

/// Cuts a list into what is fetched together.
fn groups(listed: &[Listed]) -> impl Iterator<Item = &[Listed]> {
    let mut rest = listed;
    std::iter::from_fn(move || {
        let mut octets = 0;
        let fits = |mail: &&Listed| {
            octets += mail.size;
            octets <= GROUP_OCTETS
        };
        let count = rest.iter().take(GROUP_MAX).take_while(fits).count().max(1).min(rest.len());
        let (group, others) = rest.split_at(count);
        rest = others;
        (!group.is_empty()).then_some(group)
    })
}

/// Fetches and applies what of a group was not applied before.
async fn fetch(
    session: &mut Session,
    group: &[Listed],
    applied: &mut BTreeMap<u32, Verdict>,
    desk: &Desk,
    look: &mut Look,
) -> Result<(), MailboxError> {
    let whole = |mail: &&Listed| mail.size <= SIZE_MAX as u64;
    let new = |mail: &&Listed| !applied.contains_key(&mail.uid);
    let uids: Vec<u32> = group.iter().filter(new).filter(whole).map(|mail| mail.uid).collect();
    let large: Vec<u32> =
        group.iter().filter(new).filter(|mail| !whole(mail)).map(|mail| mail.uid).collect();
    if !uids.is_empty() && !fetch_some(session, &uids, None, applied, desk, look).await? {
        // One of them cannot be had: find out which.
        for uid in uids {
            if !applied.contains_key(&uid)
                && !fetch_some(session, &[uid], None, applied, desk, look).await?
            {
                applied.entry(uid).or_insert(Verdict::Unreadable);
            }
        }
    }
    for uid in large {
        let had = fetch_some(session, &[uid], Some(HEAD), applied, desk, look).await?;
        if !had {
            applied.entry(uid).or_insert(Verdict::Unreadable);
        }
    }
    let gone = group.iter().filter(|mail| !applied.contains_key(&mail.uid)).count();
    look.vanished += gone as u64;
    Ok(())
}

/// Fetches mails and applies them as they come; false when the server refuses. One that is gone
/// does not come.
async fn fetch_some(
    session: &mut Session,
    uids: &[u32],
    head: Option<usize>,
    applied: &mut BTreeMap<u32, Verdict>,
    desk: &Desk,
    look: &mut Look,
) -> Result<bool, MailboxError> {
    session.start_fetch(uids, head).await?;
    loop {
        let mut response = match session.next(SIZE_MAX).await? {
            Said::Untagged(response) => response,
            Said::Done => return Ok(true),
            Said::Refused(_) => return Ok(false),
            Said::GoOn => return Err(MailboxError::Protocol("it answers what was not asked")),
        };
        let Some(fetched) = response.fetched() else { continue };
        let Some(uid) = fetched.uid.filter(|uid| uids.contains(uid)) else { continue };
        let Some(index) = fetched.body else { continue };
        let verdict = match response.literals.get_mut(index).and_then(Option::take) {
            Some(raw) => desk.take(raw, head.is_none(), look).await?,
            // There is nothing in it, or it is longer than the server had said.
            None => Verdict::Unreadable,
        };
        applied.insert(uid, verdict);
    }
}

/// Brings the mails of a group to where they belong.
async fn settle(
    session: &mut Session,
    group: &[Listed],
    applied: &BTreeMap<u32, Verdict>,
    desk: &Desk,
    look: &mut Look,
) -> Result<(), MailboxError> {
    let verdicts = || group.iter().filter_map(|mail| Some((mail.uid, *applied.get(&mail.uid)?)));
    let bound_for = |place: Place| -> Vec<u32> {
        verdicts()
            .filter(|(_, verdict)| desk.place(*verdict) == place)
            .map(|(uid, _)| uid)
            .collect()
    };
    for (place, folder) in [
        (Place::Handled, &desk.settings.handled_folder),
        (Place::Aside, &desk.settings.aside_folder),
    ] {
        let uids = bound_for(place);
        if !uids.is_empty() {
            session.move_to(&uids, folder).await?;
        }
    }
    let uids = bound_for(Place::Nowhere);
    if !uids.is_empty() {
        session.delete(&uids).await?;
    }
    verdicts().for_each(|(_, verdict)| desk.settled(verdict, look));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_bounded_and_leave_nothing_out() {
        let sizes = |list: &[u64]| -> Vec<Listed> {
            list.iter().zip(1..).map(|(size, uid)| Listed { uid, size: *size }).collect()
        };
        let counts =
            |list: &[u64]| -> Vec<usize> { groups(&sizes(list)).map(<[Listed]>::len).collect() };
        assert_eq!(counts(&[]), [0; 0]);
        assert_eq!(counts(&[1_000; 120]), [50, 50, 20]);
        assert_eq!(counts(&[1_000_000; 5]), [2, 2, 1]);
        assert_eq!(counts(&[9_000_000, 1, 9_000_000, 9_000_000]), [1, 1, 1, 1]);
    }
}
