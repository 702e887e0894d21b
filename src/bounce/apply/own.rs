//! A copy that a server refused to our own face.

use super::{
    Outcome,
    reader::{Failed, Reader},
};
use crate::{
    bounce::policy::Attribution,
    db::{self, Tx, state::CopyState},
    delivery::queue::Settlement,
    timestamp::Timestamp,
};

/// Does to the reader what follows from `settlement`, as part of the transaction that settles the
/// copy. To be called for settlements whose row changed: a stale claim's refusal is nobody's.
///
/// Copies that were refused for good or whose time ran out on refusals count; those refused for
/// the sender's or the message's sake cost no statement.
pub async fn own_refusal(
    tx: &mut Tx,
    settlement: &Settlement,
    brake_percent: f64,
    now: Timestamp,
) -> db::Result<Outcome> {
    let over = matches!(settlement.state, CopyState::Rejected | CopyState::Expired);
    let class = settlement.class.as_ref().filter(|class| over && class.fault.concerns_reader());
    let Some(class) = class else { return Ok(Outcome::Nothing) };
    let Some(mut reader) = Reader::of_copy(tx, settlement.copy).await? else {
        return Ok(Outcome::Nothing);
    };
    reader.provider = settlement.provider;
    let words = settlement.reason.as_deref().unwrap_or_default();
    let attribution = Attribution::OwnReply;
    let failed = Failed {
        reader: &reader,
        class,
        attribution,
        words,
        brake_percent,
        counted: false,
        at: now,
        now,
    };
    failed.apply(tx).await
}
