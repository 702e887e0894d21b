//! The fault matrix, generated in full: every stage of SMTP × every fault × how copies follow each
//! other on a connection. In every cell the whole engine sends three copies over one connection to
//! a sink of which one step misbehaves once; the cell says what must become of the copy that is hit,
//! of the connection and of the relay's standing, and its neighbours must not notice.
//!
//! A pair that makes no sense is listed with its reason; none is left out silently.

mod cell;
mod fault;
mod script;
mod tls;
mod told;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::Semaphore,
    task::{JoinSet, LocalSet},
};

use self::{
    cell::{Cell, Mode, Template, lets_nothing_out},
    fault::{At, Fault, Offer},
    script::{dot_cases, script},
};
use crate::{authority::Authority, stillness::undisturbed};

/// How many cells run at once: most of them wait for a deadline most of the time.
const AT_ONCE: usize = 24;

/// Deadlines of a second tell nothing when everybody was held up for a good part of it.
const BEARABLE: Duration = Duration::from_millis(250);

/// Who vouches for a server on this machine.
fn for_loopback() -> Authority {
    Authority::issuing("127.0.0.1", 2090)
}

/// Runs cells beside each other; every one that fails prints its own message.
async fn run(cells: Vec<Cell>) {
    LocalSet::new().run_until(run_here(cells)).await;
}

async fn run_here(cells: Vec<Cell>) {
    let template = Arc::new(Template::new().await);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let (count, since) = (cells.len(), Instant::now());
    let mut tasks = JoinSet::new();
    for cell in cells {
        let (template, places) = (Arc::clone(&template), Arc::clone(&places));
        tasks.spawn_local(async move {
            let _place = places.acquire_owned().await.unwrap();
            undisturbed(BEARABLE, || cell.run(&template)).await;
        });
    }
    let mut failed = 0;
    while let Some(cell) = tasks.join_next().await {
        failed += u32::from(cell.is_err());
    }
    println!("{count} cells in {} ms", since.elapsed().as_millis());
    assert_eq!(failed, 0, "of {count} cells of the matrix failed");
}

fn modes() -> &'static [Mode] {
    let nightly = std::env::var_os("POSTRIDER_TEST_NIGHTLY").is_some();
    if nightly { &Mode::ALL } else { &[Mode::Stepwise, Mode::Across] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stage_meets_every_fault() {
    let mut cells = Vec::new();
    let mut left_out: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for at in At::ALL {
        for fault in Fault::ALL {
            for mode in modes() {
                let name = format!("{at:?} × {fault:?}");
                match script(at, fault, *mode) {
                    Ok(script) => {
                        cells.push(Cell::new(format!("{name} × {mode:?}"), *mode, script));
                    }
                    Err(why) => {
                        let pairs = left_out.entry(why).or_default();
                        if pairs.last() != Some(&name) {
                            pairs.push(name);
                        }
                    }
                }
            }
        }
    }
    for (why, pairs) in &left_out {
        println!("not applicable, {why}: {}", pairs.join(", "));
    }
    let (pairs, none) = (At::ALL.len() * Fault::ALL.len(), left_out.values().flatten().count());
    assert_eq!(cells.len(), (pairs - none) * modes().len());
    println!("{pairs} pairs, {none} of them not applicable");
    run(cells).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_final_dot_by_name() {
    let cells = dot_cases().into_iter().flat_map(|(name, script)| {
        Mode::ALL.map(|mode| Cell::new(format!("{name} × {mode:?}"), mode, script.clone()))
    });
    run(cells.collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_does_not_fit_lets_nothing_out() {
    let template = Template::new().await;
    let (good, other) = (for_loopback(), for_loopback());
    let named = Authority::issuing("elsewhere.example", 2090);
    let expired = Authority::issuing("127.0.0.1", 2021);
    for offer in [Offer::StartTls, Offer::Implicit] {
        for (name, served, trusted) in [
            ("an unknown authority", &good, &other),
            ("another name", &named, &named),
            ("expired", &expired, &expired),
        ] {
            lets_nothing_out(name, &template, served, &trusted.root, offer).await;
        }
    }
}
