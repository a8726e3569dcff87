//! The scorer: log-probabilities of given sequences, many in one packed batch.

use futures::channel::oneshot;

use super::queue::{Job, Queue, check_tokens, push_packed};
use super::request::{Score, ScoreRequest};
use super::slots::{SlotTable, WeightsId};
use crate::backend::{BatchPlan, Label};
use crate::error::{Error, Result};
use crate::model::Rotary;

const WHAT: &str = "score request";

/// A step's plan and whose sequences it holds, in the order of its rows.
pub struct ScoreBatch {
    /// The plan.
    pub plan: BatchPlan,
    jobs: Vec<Job<Score>>,
}

/// Sequences that wait to be scored.
pub struct Scorer {
    context: usize,
    vocab: usize,
    waiting: Queue<Score>,
}

impl Scorer {
    /// Nothing waits. Batches have at most `max_rows` rows, or one sequence.
    pub fn new(max_rows: usize, context: usize, vocab: usize) -> Self {
        Self { context, vocab, waiting: Queue::new(max_rows) }
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
        check_tokens(WHAT, &request.tokens, self.context, self.vocab)?;
        let weights = slots.weights(request.adapter)?;
        if request.tokens.len() == 1 {
            let (waiter, receiver) = oneshot::channel();
            let _ = waiter.send(Ok(Score { logprobs: vec![], is_argmax: vec![] }));
            return Ok(receiver);
        }
        Ok(self.waiting.push(weights, request.tokens, 1))
    }

    /// The next batch, or `None` if nothing waits. The last token of a sequence predicts nothing and needs no row.
    pub fn schedule(&mut self, slots: &SlotTable, rotary: &Rotary) -> Result<Option<ScoreBatch>> {
        let jobs = self.waiting.take(slots, |job| job.tokens.len() - 1)?;
        if jobs.is_empty() {
            return Ok(None);
        }
        let mut plan = BatchPlan::default();
        for (slot, job) in &jobs {
            let tokens = &job.tokens;
            let (start, end) = push_packed(&mut plan, *slot, &tokens[..tokens.len() - 1]);
            plan.logit_rows.extend(start..end);
            plan.labels.extend(tokens[1..].iter().map(|&token| Label { token, coefficient: 0.0 }));
        }
        rotary.place(&mut plan, jobs.iter().map(|(_, job)| rotary.variant(job.tokens.len())));
        Ok(Some(ScoreBatch { plan, jobs: jobs.into_iter().map(|j| j.1).collect() }))
    }

    /// Takes a batch's losses: (negative log-likelihood, most likely or not) a logit row.
    pub fn commit(&mut self, batch: ScoreBatch, losses: &[f32]) {
        let mut rest = losses;
        for job in batch.jobs {
            let (own, others) = rest.split_at(2 * (job.tokens.len() - 1));
            rest = others;
            let score = Score {
                logprobs: own.chunks_exact(2).map(|l| -l[0]).collect(),
                is_argmax: own.chunks_exact(2).map(|l| l[1] != 0.0).collect(),
            };
            let wrong = score.logprobs.iter().position(|l| !l.is_finite());
            job.answer(|| match wrong {
                None => Ok(score.clone()),
                Some(i) => Err(Error::NotFinite(format!(
                    "log-probability {} of token {} of a scored sequence",
                    score.logprobs[i],
                    i + 1
                ))),
            });
        }
    }

    /// A batch can't be run.
    pub fn refuse(&mut self, batch: ScoreBatch, why: &str) {
        batch.jobs.into_iter().for_each(|job| job.answer(|| Err(Error::Memory(why.into()))));
    }

    /// Fails the requests that need these weights, which no longer exist.
    pub fn forget(&mut self, weights: WeightsId) {
        self.waiting.forget(weights, WHAT);
    }
}
