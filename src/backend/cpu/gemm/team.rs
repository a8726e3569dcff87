//! Tasks over the worker threads.
//!
//! An operation is a few phases of independent tasks. The calling thread works too and never waits for a worker to wake up: one that comes
//! when the work is done finds the door closed. Phases follow one another without sleeping in between. Which thread runs a task never
//! matters to its result.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rayon::ThreadPool;

/// The most phases of one operation.
const MAX_PHASES: usize = 4;

/// Work, in multiply-adds, below which waking another thread costs more than it gains: some 20 microseconds.
const WORTH_A_THREAD: usize = 2 << 20;

/// How many threads should help the calling one with `cost` multiply-adds.
pub fn helpers(pool: &ThreadPool, cost: usize) -> usize {
    (pool.current_num_threads() - 1).min(cost / WORTH_A_THREAD)
}

/// What a task does: `work(phase, task)`.
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Progress of one phase.
#[derive(Default)]
struct Phase {
    /// Tasks in it.
    count: usize,
    /// The next task to hand out.
    next: AtomicUsize,
    /// Tasks that are complete.
    done: AtomicUsize,
}

/// One call of [`run`], shared with its helpers.
struct Job {
    phases: [Phase; MAX_PHASES],
    /// The caller's closure; valid while a thread is inside.
    work: *const Work<'static>,
    /// Helpers inside, and the bit [`CLOSED`].
    inside: AtomicUsize,
    /// What a helper panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// No helper may enter any more.
const CLOSED: usize = 1 << (usize::BITS - 1);

// SAFETY: `work` points to something Sync, and `help` says when it may be followed.
unsafe impl Send for Job {}
// SAFETY: as above; the rest is atomics and a mutex.
unsafe impl Sync for Job {}

/// Counts a task as done even if it panics: the others must not wait for it forever.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Closes the door and waits for those inside, even if the caller panics: they use its stack.
struct Close<'a>(&'a Job);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_or(CLOSED, Ordering::AcqRel);
        wait(|| self.0.inside.load(Ordering::Acquire) == CLOSED);
    }
}

/// Waits for running threads: soon, unless one of them has lost its core.
fn wait(ready: impl Fn() -> bool) {
    let mut spins = 0u32;
    while !ready() {
        spins += 1;
        if spins.is_multiple_of(256) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

impl Job {
    /// Takes tasks until none is left.
    fn drive(&self, work: &Work<'_>) {
        for (number, phase) in self.phases.iter().enumerate() {
            loop {
                let task = phase.next.fetch_add(1, Ordering::Relaxed);
                if task >= phase.count {
                    break;
                }
                let _done = Done(&phase.done);
                work(number, task);
            }
            // Only tasks that a running thread has taken are waited for.
            wait(|| phase.done.load(Ordering::Acquire) >= phase.count);
        }
    }

    /// Joins in, unless the work is done.
    fn help(&self) {
        if self.inside.fetch_add(1, Ordering::AcqRel) & CLOSED == 0 {
            // SAFETY: we are counted as inside, so `Close` keeps the caller, and with it the closure, in place until we leave.
            let work = unsafe { &*self.work };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.drive(work))) {
                *self.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(panic);
            }
        }
        self.inside.fetch_sub(1, Ordering::Release);
    }
}

/// Runs `work(phase, task)` for every task of every phase, `counts[phase]` of them; a phase begins when the one before it is complete.
pub fn run(pool: &ThreadPool, helpers: usize, counts: &[usize], work: &Work<'_>) {
    if helpers == 0 {
        for (phase, &count) in counts.iter().enumerate() {
            (0..count).for_each(|task| work(phase, task));
        }
        return;
    }
    assert!(counts.len() <= MAX_PHASES, "{} phases", counts.len());
    let mut phases: [Phase; MAX_PHASES] = Default::default();
    phases.iter_mut().zip(counts).for_each(|(phase, &count)| phase.count = count);
    // SAFETY: only the lifetime changes; `Job::help` does not follow the pointer after `Close` has let this call return.
    let erased = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
    let job = Arc::new(Job { phases, work: erased, inside: AtomicUsize::new(0), panic: Mutex::new(None) });
    {
        let _close = Close(&job);
        for _ in 0..helpers {
            let job = Arc::clone(&job);
            pool.spawn(move || job.help());
        }
        job.drive(work);
    }
    let panic = job.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}
