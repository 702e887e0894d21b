//! A machine that runs tests stands still now and then, or has other things to do: for a tenth of a
//! second often, for seconds seldom. Where a test is about deadlines that a standstill can exceed,
//! what came of it then says nothing, and it is asked again; where it is about a span of time, the
//! standstill is taken off. What fails while everything runs as it should fails the test.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

/// How often somebody looks at the clock.
const TICK: Duration = Duration::from_millis(10);
/// A look that comes later than this is late. Many that are a little late, one at each step of a dialogue
/// say, come to as much as one that is very late.
const LATE: Duration = Duration::from_millis(5);
/// How often a thing is tried that was disturbed every time.
const TRIES: u32 = 30;
/// How much longer is waited before each of the tries, for what disturbs to pass.
const PAUSE: Duration = Duration::from_millis(50);

/// When somebody was held up, and for how long.
type Delays = Arc<Mutex<Vec<(Instant, Duration)>>>;

/// Looks at the clock all the time, and notices when nobody let it.
#[derive(Debug)]
pub(crate) struct Watch {
    delays: Delays,
    task: tokio::task::AbortHandle,
}

impl Watch {
    /// By a task of this runtime: also what keeps the runtime's own threads busy holds it up.
    pub(crate) fn start() -> Self {
        let delays = Delays::default();
        let theirs = Arc::clone(&delays);
        let task = tokio::spawn(async move {
            let mut last = Instant::now();
            loop {
                tokio::time::sleep(TICK).await;
                // One look: between two a standstill would be seen by neither.
                let now = Instant::now();
                let took = now - last;
                last = now;
                if took > TICK + LATE {
                    let mut delays = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                    delays.push((last, took));
                }
            }
        });
        Self { delays, task: task.abort_handle() }
    }

    /// For how long it was held up in all since `begin`, for longer than `least` each time.
    pub(crate) async fn held_up(&self, begin: Instant, least: Duration) -> Duration {
        // What goes on just now is seen at the next look.
        tokio::time::sleep(TICK * 2).await;
        let delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        let since = delays.iter().filter(|(end, delay)| *end > begin && *delay > TICK + least);
        since.map(|(_, delay)| *delay).sum()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Does `work`, and does it again as long as it fails and was held up for `unbearable` or longer.
pub(crate) async fn undisturbed<T, F>(unbearable: Duration, work: impl Fn() -> F) -> T
where
    F: Future<Output = T>,
{
    let watch = Watch::start();
    let mut tries = 0;
    loop {
        let begin = Instant::now();
        let panic = match caught(work()).await {
            Ok(done) => return done,
            Err(panic) => panic,
        };
        tries += 1;
        let held_up = watch.held_up(begin, LATE).await;
        if held_up < unbearable || tries == TRIES {
            resume_unwind(panic);
        }
        println!("what failed was held up for {held_up:?}: once more");
        tokio::time::sleep(PAUSE * tries).await;
    }
}

/// Runs `work` to its end or its panic.
async fn caught<T>(work: impl Future<Output = T>) -> std::thread::Result<T> {
    let mut work = pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
