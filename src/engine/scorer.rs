//! The scorer: log-probabilities of given sequences, many in one packed batch.

use std::collections::VecDeque;

use futures::channel::oneshot;

use super::request::{Score, ScoreRequest};
use super::sampler::push_segment;
use super::slots::{SlotTable, WeightsId};
use crate::backend::{BatchPlan, Label, Sequence, Slot};
use crate::error::{Error, Result};

/// A sequence to score.
struct Job {
    weights: WeightsId,
    request: ScoreRequest,
    waiter: oneshot::Sender<Result<Score>>,
}

/// A step's plan and whose sequences it holds, in the order of its rows.
pub struct ScoreBatch {
    /// The plan.
    pub plan: BatchPlan,
    jobs: Vec<Job>,
}

/// Sequences that wait to be scored.
pub struct Scorer {
    max_rows: usize,
    context: usize,
    vocab: usize,
    waiting: VecDeque<Job>,
}

impl Scorer {
    /// Nothing waits. Batches have at most `max_rows` rows, or one sequence.
    pub fn new(max_rows: usize, context: usize, vocab: usize) -> Self {
        Self { max_rows, context, vocab, waiting: VecDeque::new() }
    }

    /// Whether anything is to be scored.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes a request, or says what is wrong with it.
    pub fn submit(
        &mut self,
        request: ScoreRequest,
        slots: &SlotTable,
    ) -> Result<oneshot::Receiver<Result<Score>>> {
        check_tokens("score request", &request.tokens, self.context, self.vocab)?;
        let weights = slots.weights(request.adapter)?;
        let (waiter, receiver) = oneshot::channel();
        if request.tokens.len() == 1 {
            let _ = waiter.send(Ok(Score { logprobs: vec![], is_argmax: vec![] }));
        } else {
            self.waiting.push_back(Job { weights, request, waiter });
        }
        Ok(receiver)
    }

    /// The next batch, or `None` if nothing waits. The last token of a sequence predicts nothing and needs no row.
    pub fn schedule(&mut self, slots: &SlotTable) -> Result<Option<ScoreBatch>> {
        let mut rows = 0;
        let mut jobs: Vec<(Slot, Job)> = Vec::new();
        while let Some(job) = self.waiting.front() {
            let next = job.request.tokens.len() - 1;
            if rows > 0 && rows + next > self.max_rows {
                break;
            }
            rows += next;
            let slot = slots.slot_of(job.weights)?;
            jobs.extend(self.waiting.pop_front().map(|job| (slot, job)));
        }
        if jobs.is_empty() {
            return Ok(None);
        }
        jobs.sort_by_key(|j| j.0);
        let mut plan = BatchPlan::default();
        for (slot, job) in &jobs {
            let tokens = &job.request.tokens;
            let (start, end) = push_packed(&mut plan, *slot, &tokens[..tokens.len() - 1]);
            plan.logit_rows.extend(start..end);
            plan.labels.extend(tokens[1..].iter().map(|&token| Label { token, coefficient: 0.0 }));
        }
        Ok(Some(ScoreBatch { plan, jobs: jobs.into_iter().map(|j| j.1).collect() }))
    }

    /// Takes a batch's losses: (negative log-likelihood, most likely or not) a logit row.
    pub fn commit(&mut self, batch: ScoreBatch, losses: &[f32]) {
        let mut rest = losses;
        for job in batch.jobs {
            let (own, others) = rest.split_at(2 * (job.request.tokens.len() - 1));
            rest = others;
            let score = Score {
                logprobs: own.chunks_exact(2).map(|l| -l[0]).collect(),
                is_argmax: own.chunks_exact(2).map(|l| l[1] != 0.0).collect(),
            };
            let result = match score.logprobs.iter().position(|l| !l.is_finite()) {
                None => Ok(score),
                Some(i) => Err(Error::NotFinite(format!(
                    "log-probability {} of token {} of a scored sequence",
                    score.logprobs[i],
                    i + 1
                ))),
            };
            let _ = job.waiter.send(result);
        }
    }

    /// A batch can't be run.
    pub fn refuse(&mut self, batch: ScoreBatch, why: &str) {
        for job in batch.jobs {
            let _ = job.waiter.send(Err(Error::Memory(why.into())));
        }
    }

    /// These weights are gone; who still wants to score with them is told.
    pub fn forget(&mut self, weights: WeightsId) {
        let (gone, kept) = std::mem::take(&mut self.waiting).into_iter().partition(|j| j.weights == weights);
        self.waiting = kept;
        let gone: VecDeque<Job> = gone;
        for job in gone {
            let _ = job.waiter.send(Err(Error::input(
                "score request",
                "its adapter was changed or dropped before it was complete",
            )));
        }
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
