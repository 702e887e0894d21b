//! Messages that are made before their turn. Signing with RSA takes so long that it happens off the
//! I/O threads. Going there and back for each copy costs a tenth of the signature, and a connection
//! that waits for one sends nothing: so a few copies that are in hand go together, and the next ones
//! are made while these are sent.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use super::Connection;
use crate::{
    delivery::{
        compose::{CopyError, Prepared},
        queue::Handed,
    },
    id::CopyId,
    smtp::message::ComposedMessage,
};

/// How many messages are made at once.
const COPIES_MAX: usize = 8;
/// How long before its turn a message is made, about: its `Date` and its signature name the time.
const TIME_MAX: Duration = Duration::from_millis(200);

/// Messages whose turn comes next, in the order of the copies in hand.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    made: VecDeque<Made>,
    /// Those that are being made.
    making: Option<JoinHandle<VecDeque<Made>>>,
    /// Room of messages that were sent.
    spare: Vec<ComposedMessage>,
}

#[derive(Debug)]
struct Made {
    /// What it was made from.
    handed: Handed,
    message: ComposedMessage,
    composed: Result<(), CopyError>,
}

impl Ahead {
    /// The message of `handed`, if one was made from just that. What was made of copies that have
    /// been given back meanwhile is thrown away.
    fn take(&mut self, handed: &Handed) -> Option<Made> {
        while let Some(made) = self.made.pop_front() {
            if made.handed == *handed {
                return Some(made);
            }
            self.spare.push(made.message);
        }
        None
    }

    /// Waits for those that are being made.
    async fn finish(&mut self) -> Result<(), String> {
        if let Some(making) = self.making.take() {
            self.made.extend(making.await.map_err(|error| format!("signing failed: {error}"))?);
        }
        Ok(())
    }
}

impl Connection {
    /// Makes the message of `handed` in `self.message`.
    pub(super) async fn compose(
        &mut self,
        handed: &Arc<Handed>,
        prepared: &Prepared,
    ) -> Result<(), String> {
        let composer = &self.shared.composer;
        if !composer.signs_slowly() {
            let composed = composer.compose(handed, prepared, &mut self.message);
            return composed.map_err(|error| error.to_string());
        }
        let mut made = self.ahead.take(handed);
        // A batch in which one fails by a defect is lost: it is no fault of this copy.
        if made.is_none() && self.ahead.finish().await.is_ok() {
            made = self.ahead.take(handed);
        }
        if made.is_none() {
            self.make(vec![Handed::clone(handed)], prepared);
            self.ahead.finish().await?;
            made = self.ahead.take(handed);
        }
        self.make_next(handed, prepared);
        let made = made.ok_or("a message was not made")?;
        let sent = std::mem::replace(&mut self.message, made.message);
        self.ahead.spare.push(sent);
        made.composed.map_err(|error| error.to_string())
    }

    /// Begins to make the messages of copies that come after `handed` and are of the same issue,
    /// when there are few left.
    fn make_next(&mut self, handed: &Handed, prepared: &Prepared) {
        let CopyId::Issue { issue: this, .. } = handed.claimed.copy else { return };
        let in_time = TIME_MAX.as_micros() / self.per_copy.as_micros().max(1);
        let copies = usize::try_from(in_time).unwrap_or(COPIES_MAX).min(COPIES_MAX);
        let left = self.ahead.made.len();
        if self.ahead.making.is_some() || left > copies / 2 {
            return;
        }
        let is_alike = |next: &&Handed| matches!(next.claimed.copy, CopyId::Issue { issue, .. } if issue == this);
        let next: Vec<Handed> =
            self.hand.ready().take_while(is_alike).skip(left).take(copies).cloned().collect();
        if !next.is_empty() {
            self.make(next, prepared);
        }
    }

    fn make(&mut self, copies: Vec<Handed>, prepared: &Prepared) {
        self.ahead.spare.truncate(COPIES_MAX);
        let mut spare = std::mem::take(&mut self.ahead.spare);
        let (composer, prepared) = (Arc::clone(&self.shared.composer), prepared.clone());
        self.ahead.making = Some(tokio::task::spawn_blocking(move || {
            let make = |handed: Handed| {
                let mut message = spare.pop().unwrap_or_default();
                let composed = composer.compose(&handed, &prepared, &mut message);
                Made { handed, message, composed }
            };
            copies.into_iter().map(make).collect()
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        delivery::queue::Claimed,
        id::{IssueId, SubscriberId},
        timestamp::Timestamp,
    };

    fn handed(number: i64, address: &str) -> Handed {
        let now = Timestamp::from_microseconds(number);
        Handed {
            claimed: Claimed {
                copy: CopyId::Issue { issue: IssueId(1), subscriber: SubscriberId(number) },
                claim: 1,
                place: 0,
                claimed_at: now,
                due_at: now,
                first_due_at: now,
                provider: 0,
                stage: 1,
                attempts: 0,
            },
            at: now,
            address: address.to_owned(),
            name: None,
            attributes: None,
        }
    }

    #[tokio::test]
    async fn a_batch_that_failed_is_over() {
        let making = tokio::spawn(async { panic!("a defect") });
        let mut ahead = Ahead { making: Some(making), ..Ahead::default() };
        assert!(ahead.finish().await.is_err());
        assert!(ahead.making.is_none() && ahead.finish().await.is_ok());
        assert!(ahead.take(&handed(1, "ada@example.com")).is_none());
    }

    #[test]
    fn what_was_made_of_something_else_is_not_sent() {
        let copies = [1, 2, 3, 4].map(|number| handed(number, "old@example.com"));
        let made = |handed: &Handed| Made {
            handed: handed.clone(),
            message: ComposedMessage::default(),
            composed: Ok(()),
        };
        let mut ahead =
            Ahead { made: copies.iter().map(made).collect(), making: None, spare: Vec::new() };
        assert_eq!(ahead.take(&copies[0]).unwrap().handed, copies[0]);
        // The second was given back; the third was too, and comes again with another address.
        assert_eq!(ahead.take(&copies[3]).unwrap().handed, copies[3]);
        assert_eq!((ahead.made.len(), ahead.spare.len()), (0, 2));
        ahead.made = copies.iter().map(made).collect();
        assert!(ahead.take(&handed(3, "new@example.com")).is_none());
        assert!(ahead.made.is_empty());
    }
}
