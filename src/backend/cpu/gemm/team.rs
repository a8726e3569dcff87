//! Tasks over the worker threads.
//!
//! An operation is a few phases of independent tasks. The calling thread works too and never waits for a
//! worker to wake up: one that comes when the work is done finds the door closed. Phases follow one another
//! without sleeping in between, and a worker stays awake for a moment after each job, since a step is a
//! hundred short ones and waking up takes longer than most of them. Which thread runs a task never matters to
//! its result.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The most phases of one operation.
const MAX_PHASES: usize = 4;

/// Work, in multiply-adds, below which another thread is not asked: some 2 microseconds.
const WORTH_A_THREAD: usize = 1 << 18;

/// How long a worker without work stays awake.
const AWAKE: Duration = Duration::from_micros(200);

/// The calling thread and its helpers.
pub struct Team {
    desk: Arc<Desk>,
    workers: Vec<JoinHandle<()>>,
}

/// Where work is announced.
#[derive(Default)]
struct Desk {
    /// The latest job.
    job: Mutex<Option<Arc<Job>>>,
    /// How many jobs there have been.
    number: AtomicUsize,
    /// Workers that sleep, or are about to.
    asleep: AtomicUsize,
    wake: Condvar,
    /// The team is gone.
    over: AtomicBool,
}

impl Desk {
    fn job(&self) -> MutexGuard<'_, Option<Arc<Job>>> {
        self.job.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for a job after the `seen`th: for a moment awake, then asleep. `None` when the team is gone.
    fn next(&self, seen: &mut usize) -> Option<Arc<Job>> {
        // SeqCst, here and in `announce`: either the caller sees that we are about to sleep, or we see its job.
        let news = || self.number.load(Ordering::SeqCst) != *seen || self.over.load(Ordering::SeqCst);
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if news() {
                    break;
                }
                std::hint::spin_loop();
            }
            if news() || start.elapsed() > AWAKE {
                break;
            }
            // Where there are more threads than cores, whoever has work goes first.
            std::thread::yield_now();
        }
        let mut job = self.job();
        if !news() {
            self.asleep.fetch_add(1, Ordering::SeqCst);
            while !news() {
                job = self.wake.wait(job).unwrap_or_else(|e| e.into_inner());
            }
            self.asleep.fetch_sub(1, Ordering::SeqCst);
        }
        *seen = self.number.load(Ordering::SeqCst);
        (!self.over.load(Ordering::SeqCst)).then(|| job.clone()).flatten()
    }

    /// Tells the workers.
    fn announce(&self, job: Arc<Job>) {
        let mut latest = self.job();
        *latest = Some(job);
        self.number.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.wake.notify_all();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        {
            // Under the lock: who is about to sleep sees it, or is woken.
            let _job = self.desk.job();
            self.desk.over.store(true, Ordering::SeqCst);
            self.desk.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // Work that panics is caught and told to the caller.
            let _ = worker.join();
        }
    }
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
    /// How many more helpers are wanted.
    seats: AtomicUsize,
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

    /// Joins in, unless the work is done or enough others have.
    fn help(&self) {
        let taken = self.seats.try_update(Ordering::Relaxed, Ordering::Relaxed, |s| s.checked_sub(1));
        if taken.is_err() {
            return;
        }
        if self.inside.fetch_add(1, Ordering::AcqRel) & CLOSED == 0 {
            // SAFETY: we are counted as inside, so `Close` keeps the caller, and with it the closure, in
            // place until we leave.
            let work = unsafe { &*self.work };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.drive(work))) {
                *self.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(panic);
            }
        }
        self.inside.fetch_sub(1, Ordering::Release);
    }
}

impl Team {
    /// The calling thread and `threads - 1` others; 0 is as many as there are cores.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism()?.get(),
            n => n,
        };
        let mut team = Self { desk: Arc::default(), workers: Vec::with_capacity(threads - 1) };
        for i in 1..threads {
            let desk = Arc::clone(&team.desk);
            let work = move || {
                let mut seen = 0;
                while !desk.over.load(Ordering::SeqCst) {
                    if let Some(job) = desk.next(&mut seen) {
                        job.help();
                    }
                }
            };
            team.workers.push(std::thread::Builder::new().name(format!("cpu-{i}")).spawn(work)?);
        }
        Ok(team)
    }

    /// How many threads there are, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// How many threads should help the calling one with `cost` multiply-adds.
    pub fn helpers(&self, cost: usize) -> usize {
        self.workers.len().min(cost / WORTH_A_THREAD)
    }

    /// Runs `work(phase, task)` for every task of every phase, `counts[phase]` of them; a phase begins when
    /// the one before it is complete.
    pub fn run(&self, helpers: usize, counts: &[usize], work: &Work<'_>) {
        if helpers == 0 {
            for (phase, &count) in counts.iter().enumerate() {
                (0..count).for_each(|task| work(phase, task));
            }
            return;
        }
        assert!(counts.len() <= MAX_PHASES, "{} phases", counts.len());
        let mut phases: [Phase; MAX_PHASES] = Default::default();
        phases.iter_mut().zip(counts).for_each(|(phase, &count)| phase.count = count);
        // SAFETY: only the lifetime changes; `Job::help` does not follow the pointer after `Close` has let
        // this call return.
        let erased = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        let job = Arc::new(Job {
            phases,
            work: erased,
            seats: AtomicUsize::new(helpers),
            inside: AtomicUsize::new(0),
            panic: Mutex::new(None),
        });
        {
            let _close = Close(&job);
            self.desk.announce(Arc::clone(&job));
            job.drive(work);
        }
        let panic = job.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Calls `f(state, i, item i)` for every item. A state, made by `init`, serves many items but never two at once.
    pub fn each<T: Send, S: Send>(
        &self,
        items: &mut [T],
        init: impl Fn() -> S + Sync,
        f: impl Fn(&mut S, usize, &mut T) + Sync,
    ) {
        let (start, count) = (Start(items.as_mut_ptr()), items.len());
        let states = Mutex::new(Vec::new());
        let spare = || states.lock().unwrap_or_else(|e| e.into_inner());
        self.run(self.workers.len().min(count.saturating_sub(1)), &[count], &|_, i| {
            let mut state = spare().pop().unwrap_or_else(&init);
            // SAFETY: i < count, and each task is run once: nobody else has this item.
            f(&mut state, i, unsafe { &mut *start.at(i) });
            spare().push(state);
        });
    }

    /// Calls `f(i, chunk i)` for chunks of `size` of `values`; the last may be shorter.
    pub fn chunks<T: Send>(&self, values: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let (start, len) = (Start(values.as_mut_ptr()), values.len());
        let count = len.div_ceil(size);
        self.run(self.workers.len().min(count.saturating_sub(1)), &[count], &|_, i| {
            let here = size.min(len - i * size);
            // SAFETY: chunk i lies within the slice, and each task is run once: nobody else has it.
            f(i, unsafe { std::slice::from_raw_parts_mut(start.at(i * size), here) });
        });
    }
}

/// The first of some values that tasks share out among themselves.
struct Start<T>(*mut T);

impl<T> Start<T> {
    /// The `i`th value.
    ///
    /// # Safety
    /// There must be so many.
    unsafe fn at(&self, i: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(i) }
    }
}

// SAFETY: a place; who takes values from it does so exclusively, and they may be sent.
unsafe impl<T: Send> Sync for Start<T> {}
