//! Every interleaving of the hand-over between a shard's loop and its committer, by loom.
//!
//! The file under test is included with loom's locks in place of the standard ones, so that this
//! runs with the other tests and needs no build of its own.

#[expect(unreachable_pub, reason = "the included file is public in its own crate")]
#[path = "../src/coalescer"]
mod coalescer {
    mod sync {
        pub(super) use loom::sync::Mutex;
    }
    pub(crate) mod handover;
}

use std::future::poll_fn;

use coalescer::handover::HandOver;
use loom::future::block_on;
use loom::sync::Arc;
use loom::thread;

/// Preemptions that a schedule may have, besides those where a thread waits: the bound that keeps
/// the search to seconds. Bugs of two threads show with two.
const PREEMPTIONS_MAX: usize = 2;

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(check);
}

type Slot = Arc<HandOver<u32, u32>>;

/// Commits what it is given, ten times the number for a report, until the slot is closed.
fn committer(slot: &Slot) -> thread::JoinHandle<u32> {
    let slot = slot.clone();
    thread::spawn(move || {
        let mut taken = 0;
        while let Some(batch) = block_on(poll_fn(|cx| slot.poll_take(cx))) {
            taken += 1;
            slot.report(batch * 10);
        }
        taken
    })
}

#[test]
fn each_batch_is_reported_once_in_order() {
    model(|| {
        let slot = Slot::default();
        let committer = committer(&slot);
        for batch in 1..=2 {
            slot.offer(batch).expect("the batch before was collected");
            assert_eq!(slot.offer(99), Err(99), "one is in flight");
            assert_eq!(block_on(poll_fn(|cx| slot.poll_reported(cx))), Some(batch * 10));
            assert!(!slot.in_flight());
        }
        assert_eq!(slot.close(), None);
        assert_eq!(committer.join().unwrap(), 2);
    });
}

#[test]
fn a_batch_is_given_back_or_reported_when_the_loop_closes() {
    model(|| {
        let slot = Slot::default();
        let committer = committer(&slot);
        slot.offer(1).expect("the slot was empty");
        let back = slot.close();
        let reported = block_on(poll_fn(|cx| slot.poll_reported(cx)));
        match (back, reported, committer.join().unwrap()) {
            (Some(1), None, 0) | (None, Some(10), 1) => {}
            lost => panic!("a batch was lost or doubled: {lost:?}"),
        }
        assert_eq!(slot.offer(2), Err(2), "closed");
    });
}

#[test]
fn another_thread_may_close_while_both_sides_wait() {
    model(|| {
        let slot = Slot::default();
        let committer = committer(&slot);
        let closer = {
            let slot = slot.clone();
            thread::spawn(move || slot.close())
        };
        let offered = slot.offer(1).is_ok();
        let reported = block_on(poll_fn(|cx| slot.poll_reported(cx)));
        let back = closer.join().unwrap();
        let taken = committer.join().unwrap();
        match (offered, back, reported, taken) {
            (false, None, None, 0) | (true, Some(1), None, 0) | (true, None, Some(10), 1) => {}
            lost => panic!("a batch was lost or doubled: {lost:?}"),
        }
    });
}
