//! The embedder: mean-pooled hidden states of given stretches, many in one packed batch.

use futures::channel::oneshot;

use super::queue::{Job, Queue, check_tokens, push_packed};
use super::request::{EmbedRequest, Embedding};
use super::slots::{SlotTable, WeightsId};
use crate::backend::BatchPlan;
use crate::error::{Error, Result};
use crate::model::Rotary;

const WHAT: &str = "embed request";

/// A step's plan and whose sequences it holds, in the order of its rows.
pub struct EmbedBatch {
    /// The plan.
    pub plan: BatchPlan,
    jobs: Vec<Job<Embedding>>,
}

/// Stretches that wait to be encoded.
pub struct Embedder {
    context: usize,
    vocab: usize,
    waiting: Queue<Embedding>,
}

impl Embedder {
    /// Nothing waits. Batches have at most `max_rows` rows, or one sequence.
    pub fn new(max_rows: usize, context: usize, vocab: usize) -> Self {
        Self { context, vocab, waiting: Queue::new(max_rows) }
    }

    /// Whether anything is to be encoded.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes a request, or says what is wrong with it.
    pub fn submit(
        &mut self,
        request: EmbedRequest,
        slots: &SlotTable,
    ) -> Result<oneshot::Receiver<Result<Embedding>>> {
        let EmbedRequest { adapter, tokens, from } = request;
        check_tokens(WHAT, &tokens, self.context, self.vocab)?;
        if from >= tokens.len() {
            return Err(Error::input(
                WHAT,
                format!("no token to encode from token {from} of {}", tokens.len()),
            ));
        }
        Ok(self.waiting.push(slots.weights(adapter)?, tokens, from))
    }

    /// The next batch, or `None` if nothing waits.
    pub fn schedule(&mut self, slots: &SlotTable, rotary: &Rotary) -> Result<Option<EmbedBatch>> {
        let jobs = self.waiting.take(slots, |job| job.tokens.len())?;
        if jobs.is_empty() {
            return Ok(None);
        }
        let mut plan = BatchPlan::default();
        for (slot, job) in &jobs {
            let (start, end) = push_packed(&mut plan, *slot, &job.tokens);
            plan.logit_rows.extend(start + job.from as u32..end);
        }
        rotary.place(&mut plan, jobs.iter().map(|(_, job)| rotary.variant(job.tokens.len())));
        Ok(Some(EmbedBatch { plan, jobs: jobs.into_iter().map(|j| j.1).collect() }))
    }

    /// Takes a batch's hidden states, one of `width` numbers a logit row.
    pub fn commit(&mut self, batch: EmbedBatch, hidden: &[f32], width: usize) {
        let mut rest = hidden;
        for job in batch.jobs {
            let count = job.tokens.len() - job.from;
            let (own, others) = rest.split_at(width * count);
            rest = others;
            let mut sums = vec![0.0f64; width];
            for row in own.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            let mean: Vec<f32> = sums.iter().map(|sum| (sum / count as f64) as f32).collect();
            let finite = mean.iter().all(|m| m.is_finite());
            job.answer(|| match finite {
                true => Ok(Embedding { mean: mean.clone() }),
                false => Err(Error::NotFinite("a hidden state of an encoded sequence".into())),
            });
        }
    }

    /// A batch can't be run.
    pub fn refuse(&mut self, batch: EmbedBatch, why: &str) {
        batch.jobs.into_iter().for_each(|job| job.answer(|| Err(Error::Memory(why.into()))));
    }

    /// Fails the requests that need these weights, which no longer exist.
    pub fn forget(&mut self, weights: WeightsId) {
        self.waiting.forget(weights, WHAT);
    }
}
