//! The nemesis: kills, pauses and restarts, at random moments from a seed.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;

use crate::node::Node;

/// What it did.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    kills: usize,
    pauses: usize,
    stops: usize,
    slowest_start: Duration,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills, {} pauses, {} restarts; slowest start {:.0} ms",
            self.kills,
            self.pauses,
            self.stops,
            self.slowest_start.as_secs_f64() * 1000.0
        )
    }
}

/// Does harm until `stop`; the node runs when it returns.
pub(crate) async fn run(node: &Node, mut rng: StdRng, mut stop: watch::Receiver<bool>) -> Result<Faults> {
    let mut faults = Faults::default();
    while !*stop.borrow() {
        let pause = Duration::from_millis(rng.random_range(50..800));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let started = match rng.random_range(0..10) {
            0..=6 => {
                faults.kills += 1;
                tokio::task::block_in_place(|| node.kill_and_restart())?
            }
            7 | 8 => {
                faults.pauses += 1;
                node.pause()?;
                tokio::time::sleep(Duration::from_millis(rng.random_range(100..1500))).await;
                node.resume()?;
                Duration::ZERO
            }
            _ => {
                faults.stops += 1;
                tokio::task::block_in_place(|| node.stop_and_restart())?
            }
        };
        faults.slowest_start = faults.slowest_start.max(started);
    }
    Ok(faults)
}
