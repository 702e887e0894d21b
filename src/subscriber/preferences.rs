//! What a reader can change without leaving: a pause, their name. And the seed list, which is the
//! operator's.

use crate::{
    db::{self, Db},
    id::{NewsletterId, SubscriberId},
    timestamp::Timestamp,
};

/// Characters of a name.
pub(super) const NAME_CHARS_MAX: usize = 100;

/// Sends no issues of `newsletter` until `until`. Returns whether there was an active subscription.
pub async fn pause(
    db: &Db,
    newsletter: NewsletterId,
    subscriber: SubscriberId,
    until: Timestamp,
) -> db::Result<bool> {
    set_paused_until(db, newsletter, subscriber, Some(until)).await
}

/// Ends a pause. Returns whether there was an active subscription.
pub async fn resume(
    db: &Db,
    newsletter: NewsletterId,
    subscriber: SubscriberId,
) -> db::Result<bool> {
    set_paused_until(db, newsletter, subscriber, None).await
}

async fn set_paused_until(
    db: &Db,
    newsletter: NewsletterId,
    subscriber: SubscriberId,
    until: Option<Timestamp>,
) -> db::Result<bool> {
    let changed = db
        .write(
            "UPDATE subscription SET paused_until = $3 \
             WHERE newsletter_id = $1 AND subscriber_id = $2 AND state = 1",
        )
        .bind(newsletter)
        .bind(subscriber)
        .bind(until)
        .execute()
        .await?;
    Ok(changed > 0)
}

/// Sets the name of a subscriber, or removes it when `name` is blank. Line breaks and other controls
/// are dropped, and what is longer than a hundred characters is cut.
pub async fn set_name(db: &Db, subscriber: SubscriberId, name: &str) -> db::Result<bool> {
    let changed = db
        .write("UPDATE subscriber SET name = $2 WHERE id = $1 AND erased_at IS NULL")
        .bind(subscriber)
        .bind(clean_name(name))
        .execute()
        .await?;
    Ok(changed > 0)
}

/// A name as it is kept: no controls, no blank ends, bounded; `None` when nothing is left.
pub(super) fn clean_name(name: &str) -> Option<String> {
    let kept: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let kept: String = kept.trim().chars().take(NAME_CHARS_MAX).collect();
    (!kept.is_empty()).then_some(kept)
}

/// Puts a subscriber on the seed list of `newsletter`, whose members get every issue first, or takes
/// them off it. Returns whether there is such a subscription.
pub async fn set_seed(
    db: &Db,
    newsletter: NewsletterId,
    subscriber: SubscriberId,
    seed: bool,
) -> db::Result<bool> {
    let changed = db
        .write("UPDATE subscription SET seed = $3 WHERE newsletter_id = $1 AND subscriber_id = $2")
        .bind(newsletter)
        .bind(subscriber)
        .bind(seed)
        .execute()
        .await?;
    Ok(changed > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_line_of_bounded_length() {
        assert_eq!(clean_name(" Ada\r\nBcc: x\0 ").as_deref(), Some("Ada  Bcc: x"));
        assert_eq!(clean_name(" \t\r\n"), None);
        assert_eq!(clean_name(&"ä".repeat(500)).unwrap().chars().count(), NAME_CHARS_MAX);
    }
}
