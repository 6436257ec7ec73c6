//! What may take long, away from the task: on the pool of threads that may block.

use crate::Host;
use clawchat_core::client::Action;
use clawchat_core::id::OpId;
use clawchat_core::ops::Outcome;
use smol::channel::Sender;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Performs actions one after another, in the order in which they are given: a file that is wiped must
/// not come back by what was stored before. It outlives the task, and takes no thread while it rests.
pub(crate) struct Jobs {
    queue: Arc<Mutex<Queue>>,
    host: Arc<dyn Host>,
    done: Sender<(OpId, Outcome)>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(OpId, Action)>,
    /// A thread is at it, and looks for more before it ends.
    busy: bool,
}

impl Jobs {
    /// Has `host` perform them; `done` hears how that went.
    pub(crate) fn new(host: Arc<dyn Host>, done: Sender<(OpId, Outcome)>) -> Self {
        Self { queue: Arc::default(), host, done }
    }

    pub(crate) fn start(&self, op: OpId, action: Action) {
        let mut queue = lock(&self.queue);
        queue.waiting.push_back((op, action));
        if !core::mem::replace(&mut queue.busy, true) {
            let (queue, host, done) = (self.queue.clone(), self.host.clone(), self.done.clone());
            smol::unblock(move || perform_all(&queue, &*host, &done)).detach();
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // Nothing that panics happens under the lock.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn perform_all(queue: &Mutex<Queue>, host: &dyn Host, done: &Sender<(OpId, Outcome)>) {
    loop {
        let next = {
            let mut queue = lock(queue);
            let next = queue.waiting.pop_front();
            queue.busy = next.is_some();
            next
        };
        let Some((op, action)) = next else { return };
        let outcome = host.perform(&action);
        // Nobody waits for it once the task has ended.
        let _gone = done.try_send((op, outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawchat_core::id::{ChatId, TransferId};
    use clawchat_core::ops::{Chunk, Want};
    use core::sync::atomic::{AtomicUsize, Ordering};
    use smol::channel::unbounded;

    /// Counts what it performs, and how much of it at a time.
    #[derive(Default)]
    struct Counting {
        at_once: AtomicUsize,
        performed: AtomicUsize,
    }

    impl Host for Counting {
        fn perform(&self, _: &Action) -> Outcome {
            let others = self.at_once.fetch_add(1, Ordering::SeqCst);
            std::thread::yield_now();
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            self.performed.fetch_add(1, Ordering::SeqCst);
            if others == 0 { Outcome::Done } else { Outcome::Failed }
        }

        fn offered(&self, _: TransferId, _: ChatId) {}

        fn store(&self, _: &Chunk<'_>) -> bool {
            false
        }

        fn flush(&self) -> Vec<TransferId> {
            Vec::new()
        }

        fn load(&self, _: &Want, _: &mut [u8]) -> Result<(), &'static str> {
            Err("there is no file")
        }
    }

    #[test]
    fn one_after_another_in_order_also_without_the_task() {
        for pause in [false, true] {
            let (host, (done, results)) = (Arc::new(Counting::default()), unbounded());
            let jobs = Jobs::new(host.clone(), done);
            for number in 0..500 {
                jobs.start(OpId(number), Action::WipeSecurityFiles);
                if pause {
                    // So that it comes to rest and begins anew now and then.
                    std::thread::yield_now();
                }
            }
            drop(jobs);
            for number in 0..500 {
                let done = smol::block_on(results.recv());
                assert_eq!(done, Ok((OpId(number), Outcome::Done)));
            }
            assert_eq!(host.performed.load(Ordering::SeqCst), 500);
        }
    }
}
