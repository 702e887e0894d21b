//! What takes its time (a connection, a session's reply, a name server) holds the copy that it is for,
//! and not the others of the slice: after a while those go back, and so does the slice that is
//! being handed off meanwhile. Whoever is quicker sends them.

use std::{future::Future, time::Duration};

use tokio::{task::JoinHandle, time::timeout};

use super::{Connection, Fetched, Shared, hand::Hand};

/// Whatever takes longer than this no longer keeps the other copies.
const SLOW: Duration = Duration::from_secs(1);

/// What a worker has and gets while it waits.
pub(super) struct Held<'a> {
    pub(super) hand: &'a mut Hand,
    pub(super) coming: &'a mut Option<JoinHandle<Fetched>>,
    pub(super) shared: &'a Shared,
    pub(super) worker: usize,
    /// So many copies are kept, however long it takes.
    pub(super) keep: usize,
}

/// Waits for `work`.
pub(super) async fn patiently<T>(work: impl Future<Output = T>, held: Held<'_>) -> T {
    tokio::pin!(work);
    if let Ok(done) = timeout(SLOW, &mut work).await {
        return done;
    }
    let Held { hand, coming, shared, worker, keep } = held;
    shared.dispatch.stop_waiting(worker);
    loop {
        hand.give_back(shared, worker, keep).await;
        let Some(fetch) = coming else { return work.await };
        let came = tokio::select! {
            done = &mut work => return done,
            came = fetch => came,
        };
        *coming = None;
        if let Ok(Some(Some(slice))) = came {
            hand.add(shared, worker, slice);
        }
    }
}

impl Connection {
    /// Waits for what has to be there before the copy that goes next can be sent.
    pub(super) async fn patiently<T>(&mut self, work: impl Future<Output = T>) -> T {
        let held = Held {
            hand: &mut self.hand,
            coming: &mut self.coming,
            shared: &self.shared,
            worker: self.worker,
            keep: 1,
        };
        patiently(work, held).await
    }
}
