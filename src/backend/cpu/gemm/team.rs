//! Tasks over the worker threads.
//!
//! An operation is a few phases of independent tasks. The calling thread works too, so a worker that wakes late delays nobody, and
//! phases follow one another without sleeping in between. Which thread runs a task never matters to its result.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::ThreadPool;

/// The most phases of one operation.
const MAX_PHASES: usize = 4;

/// Work, in multiply-adds, below which waking another thread costs more than it gains.
const WORTH_A_THREAD: usize = 1 << 20;

/// How many threads should help the calling one with `cost` multiply-adds.
pub fn helpers(pool: &ThreadPool, cost: usize) -> usize {
    (pool.current_num_threads() - 1).min(cost / WORTH_A_THREAD)
}

/// Progress of one phase.
#[derive(Default)]
struct Phase {
    /// The next task to hand out.
    next: AtomicUsize,
    /// Tasks that are complete.
    done: AtomicUsize,
}

/// Counts a task as done even if it panics: the others must not wait for it forever.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Runs `work(phase, task)` for every task of every phase, `counts[phase]` of them; a phase begins when the one before it is complete.
pub fn run(pool: &ThreadPool, helpers: usize, counts: &[usize], work: &(dyn Fn(usize, usize) + Sync)) {
    if helpers == 0 {
        for (phase, &count) in counts.iter().enumerate() {
            (0..count).for_each(|task| work(phase, task));
        }
        return;
    }
    assert!(counts.len() <= MAX_PHASES, "{} phases", counts.len());
    let phases: [Phase; MAX_PHASES] = Default::default();
    let drive = || {
        for (phase, (&count, progress)) in counts.iter().zip(&phases).enumerate() {
            loop {
                let task = progress.next.fetch_add(1, Ordering::Relaxed);
                if task >= count {
                    break;
                }
                let _done = Done(&progress.done);
                work(phase, task);
            }
            // Only tasks that a running thread has taken are waited for, so this ends whether or not the others ever woke up.
            let mut spins = 0u32;
            while progress.done.load(Ordering::Acquire) < count {
                spins += 1;
                if spins.is_multiple_of(256) {
                    std::thread::yield_now();
                } else {
                    std::hint::spin_loop();
                }
            }
        }
    };
    pool.in_place_scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|_| drive());
        }
        drive();
    });
}
