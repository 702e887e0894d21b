//! This daemon as a node: its row, and the lease on it from the start to the end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    db::{self, Db},
    delivery::{
        clock::{self, Clock},
        lease::Lease,
        recovery,
    },
    id::NodeId,
    timestamp::Timestamp,
};

/// How often it is looked whether the lease is to be renewed.
const LEASE_LOOK: Duration = Duration::from_millis(500);

/// A node that has its row.
pub(super) struct Node {
    /// The row.
    pub(super) id: NodeId,
    /// What its journal calls it.
    pub(super) uid: String,
    /// Until when it may hand copies off.
    pub(super) lease: Arc<Lease>,
}

impl Node {
    /// Makes the row of a new one, with a lease of `length`.
    pub(super) async fn register(db: &Db, length: Duration, now: Timestamp) -> db::Result<Self> {
        let uid = Uuid::now_v7().to_string();
        let lease = Arc::new(Lease::new(length, now));
        let id = db
            .write(
                "INSERT INTO node (uid, started_at, lease_until) VALUES ($1, $2, $3) RETURNING id",
            )
            .bind(uid.clone())
            .bind(now)
            .bind(lease.renewal(now))
            .scalar()
            .await?;
        Ok(Self { id, uid, lease })
    }
}

/// Renews the lease when a quarter of it is over, and soon after the clock was set; then, due times
/// go with the clock.
pub(super) async fn keep_lease(db: Db, node: NodeId, lease: Arc<Lease>, stop: CancellationToken) {
    let mut clock = Clock::new(Timestamp::now(), Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LEASE_LOOK) => {}
        }
        let now = Timestamp::now();
        if let Some(back) = clock.set_back(now, Instant::now()) {
            let moved = clock::bring_forward(&db, back, now).await;
            warn!(
                back_ms = back.as_millis() as u64,
                moved = moved.as_ref().copied().unwrap_or_default(),
                "the clock was set back; copies that wait were brought forward"
            );
            if let Err(problem) = moved {
                error!(error = %problem, "copies that wait will wait until the clock is where it was");
            }
        }
        if !lease.wants_renewal(now) {
            continue;
        }
        let renewed = db
            .write("UPDATE node SET lease_until = $2 WHERE id = $1")
            .bind(node)
            .bind(lease.renewal(now))
            .execute()
            .await;
        match renewed {
            Ok(_) => lease.renewed(now),
            Err(problem) => {
                error!(error = %problem, "the lease cannot be renewed; handoffs stop when it runs out");
            }
        }
    }
}

/// Gives back what is claimed, and says that the node stopped.
pub(super) async fn sign_off(db: &Db, node: NodeId) -> db::Result<()> {
    let now = Timestamp::now();
    let mut tx = db.begin().await?;
    recovery::release_claims(&mut tx, now).await?;
    tx.query("UPDATE node SET stopped_at = $2, lease_until = $2 WHERE id = $1")
        .bind(node)
        .bind(now)
        .execute()
        .await?;
    tx.commit().await
}
