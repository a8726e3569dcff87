//! Whole sequences that wait for a packed batch. What is asked twice while it waits is computed once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::channel::oneshot;

use super::sampler::push_segment;
use super::slots::{SlotTable, WeightsId};
use crate::backend::{BatchPlan, Sequence, Slot};
use crate::error::{Error, Result};

/// What makes two jobs the same: weights, tokens, and the place from which results are wanted.
type Key = (WeightsId, Arc<[u32]>, usize);

/// A sequence, and who waits for what comes of it.
pub(super) struct Job<T> {
    pub weights: WeightsId,
    pub tokens: Arc<[u32]>,
    pub from: usize,
    waiters: Vec<oneshot::Sender<Result<T>>>,
}

impl<T> Job<T> {
    /// Answers every waiter. Receivers that were dropped are ignored.
    pub fn answer(self, answer: impl Fn() -> Result<T>) {
        for waiter in self.waiters {
            let _ = waiter.send(answer());
        }
    }
}

/// Sequences in the order in which they were first asked for.
pub(super) struct Queue<T> {
    jobs: VecDeque<Job<T>>,
    /// Jobs that have left at the front: the number of the first one.
    first: u64,
    numbers: HashMap<Key, u64>,
    max_rows: usize,
}

impl<T> Queue<T> {
    /// Nothing waits. Batches have at most `max_rows` rows, or one sequence.
    pub fn new(max_rows: usize) -> Self {
        Self { jobs: VecDeque::new(), first: 0, numbers: HashMap::new(), max_rows }
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Waits for a job, a new one or one that is the same.
    pub fn push(
        &mut self,
        weights: WeightsId,
        tokens: Arc<[u32]>,
        from: usize,
    ) -> oneshot::Receiver<Result<T>> {
        let (waiter, receiver) = oneshot::channel();
        let next = self.first + self.jobs.len() as u64;
        let number = *self.numbers.entry((weights, tokens.clone(), from)).or_insert(next);
        if number == next {
            self.jobs.push_back(Job { weights, tokens, from, waiters: vec![waiter] });
        } else {
            self.jobs[(number - self.first) as usize].waiters.push(waiter);
        }
        receiver
    }

    /// The next jobs that fit together, by slot; `rows` is how many rows a job takes.
    pub fn take(
        &mut self,
        slots: &SlotTable,
        rows: impl Fn(&Job<T>) -> usize,
    ) -> Result<Vec<(Slot, Job<T>)>> {
        let mut taken = 0;
        let mut jobs: Vec<(Slot, Job<T>)> = Vec::new();
        while let Some(job) = self.jobs.front() {
            let next = rows(job);
            if taken > 0 && taken + next > self.max_rows {
                break;
            }
            taken += next;
            let slot = slots.slot_of(job.weights)?;
            let Some(job) = self.jobs.pop_front() else { break };
            self.first += 1;
            self.numbers.remove(&(job.weights, job.tokens.clone(), job.from));
            jobs.push((slot, job));
        }
        jobs.sort_by_key(|(slot, _)| *slot);
        Ok(jobs)
    }

    /// Fails the jobs that need these weights, which no longer exist. `what` names the jobs in the error.
    pub fn forget(&mut self, weights: WeightsId, what: &str) {
        if !self.jobs.iter().any(|job| job.weights == weights) {
            return;
        }
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.jobs).into_iter().partition(|job| job.weights == weights);
        for job in gone {
            let problem = "its adapter was changed or dropped before it was complete";
            job.answer(|| Err(Error::input(what, problem)));
        }
        self.numbers = (self.first..)
            .zip(&kept)
            .map(|(number, job)| ((job.weights, job.tokens.clone(), job.from), number))
            .collect();
        self.jobs = kept.into();
    }
}

/// Appends a whole sequence, without pages, to a plan; its row range.
pub(super) fn push_packed(plan: &mut BatchPlan, slot: Slot, tokens: &[u32]) -> (u32, u32) {
    let start = plan.tokens.len() as u32;
    let end = start + tokens.len() as u32;
    plan.tokens.extend_from_slice(tokens);
    plan.positions.extend(0..tokens.len() as u32);
    plan.sequences.push(Sequence { start, end, first_position: 0, pages_start: 0, pages_end: 0 });
    push_segment(&mut plan.segments, slot, start, end);
    (start, end)
}

/// At least one token, all of the vocabulary, no more than the context.
pub(super) fn check_tokens(what: &str, tokens: &[u32], context: usize, vocab: usize) -> Result<()> {
    if tokens.is_empty() {
        return Err(Error::input(what, "there are no tokens"));
    }
    if tokens.len() > context {
        return Err(Error::input(what, format!("{} tokens, the model's context is {context}", tokens.len())));
    }
    if let Some(&t) = tokens.iter().find(|&&t| t as usize >= vocab) {
        return Err(Error::input(what, format!("token {t} is outside the vocabulary of {vocab}")));
    }
    Ok(())
}
