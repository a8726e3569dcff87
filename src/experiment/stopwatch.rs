//! How fast this device is: a few seconds of prefill, decode and training on the run's own engine.

use std::sync::Arc;
use std::time::Instant;

use super::prepare::{ArmWork, Ready};
use crate::adapter::NewAdapter;
use crate::backend::mix;
use crate::debate::{DrawId, Occasion};
use crate::engine::*;
use crate::error::Result;
use crate::text::Message;

/// What one measurement may take, about.
const SECONDS: f64 = 1.5;
/// Real questions answered to see how long answers are.
const ANSWERS: usize = 32;

/// Tokens a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Of prompts.
    pub prefill: f64,
    /// Drawn.
    pub decode: f64,
    /// Of sequences that are trained on.
    pub train: f64,
}

impl Rates {
    /// Seconds for so many tokens of prompts, drawn and trained on.
    pub fn seconds(&self, prompts: f64, drawn: f64, trained: f64) -> f64 {
        prompts / self.prefill + drawn / self.decode + trained / self.train
    }
}

/// Measures on the engine of `ready`, at about the run's own batches where they are fast enough.
pub struct Stopwatch<'r> {
    ready: &'r Ready,
    random: u64,
}

impl<'r> Stopwatch<'r> {
    /// Nothing is measured yet.
    pub fn new(ready: &'r Ready) -> Self {
        Self { ready, random: 7 }
    }

    /// What a part took that is small enough for any model, and from it how large one may be to take [`SECONDS`].
    fn paced(
        &mut self,
        small: usize,
        most: usize,
        measure: impl Fn(&mut Self, usize) -> Result<(f64, f64)>,
    ) -> Result<f64> {
        let (tokens, seconds) = measure(self, small)?;
        let size = (small as f64 * SECONDS / seconds.max(1e-6)) as usize;
        if size <= small {
            return Ok(tokens / seconds);
        }
        let (tokens, seconds) = measure(self, size.min(most).max(small))?;
        Ok(tokens / seconds.max(1e-9))
    }

    /// All rates.
    pub fn rates(&mut self) -> Result<Rates> {
        let options = self.engine(|e| e.plan().options);
        let context = self.engine(|e| e.config().max_positions);
        let length = (context / 2).clamp(1, 128);
        let rows = (options.max_rows / length).max(1);
        // The first run of everything also takes memory and, on a GPU, captures graphs.
        self.drawn(1, 8.min(length), 2)?;
        let prefill = self.paced(1, 8 * rows, |s, n| s.drawn(n, length, 1))?;
        let batch = options.max_sequences;
        let decode = self.paced(2, 60, |s, n| s.decoded(batch.min(8 * n), length.min(64), 2 * n, prefill))?;
        let room = options.micro_batch_rows.max(length);
        let train = if options.adapters == 0 {
            f64::INFINITY
        } else {
            self.paced(1, 2 * (room / length).max(1), |s, n| s.trained(n, length))?
        };
        Ok(Rates { prefill, decode, train })
    }

    /// Draws of `count` sequences with random prompts: tokens of the prompts, and seconds.
    fn drawn(&mut self, count: usize, length: usize, new: usize) -> Result<(f64, f64)> {
        for _ in 0..count {
            self.submit(length, new)?;
        }
        let began = Instant::now();
        self.drain()?;
        Ok(((count * length) as f64, began.elapsed().as_secs_f64()))
    }

    /// Drawn tokens of `count` sequences with random prompts, and the seconds beyond those that the
    /// prompts take at the rate `prefill`.
    fn decoded(&mut self, count: usize, length: usize, new: usize, prefill: f64) -> Result<(f64, f64)> {
        let drawn = |s: &Self| s.engine(|e| e.stats().sampling.tokens);
        let before = drawn(self);
        let (prompts, seconds) = self.drawn(count, length, new)?;
        // A sequence may end before its time. The two rates are apart only roughly: prompts and draws share steps.
        let tokens = (drawn(self) - before).max(1) as f64;
        Ok((tokens, (seconds - prompts / prefill).max(seconds / 4.0)))
    }

    /// One optimizer step over `count` sequences of an adapter, and seconds.
    fn trained(&mut self, count: usize, length: usize) -> Result<(f64, f64)> {
        let rank = self.engine(|e| e.plan().options.max_rank);
        let layout = self.engine(|e| e.model().layout().clone());
        let numbers = NewAdapter { rank, ..NewAdapter::default() }.snapshot(&layout)?;
        let adapter = self.engine(|e| e.create(&AdapterSource::Snapshot(Arc::new(numbers))))?;
        let sequences = (0..count)
            .map(|_| TrainSequence { tokens: self.tokens(length), weights: vec![1.0; length] })
            .collect();
        let step = TrainStep {
            sequences: (0..count as u32).collect(),
            learning_rate: 1e-6,
            normalizer: Normalizer::default(),
        };
        let request = TrainRequest {
            adapter,
            name: "the estimate's adapter".into(),
            sequences,
            steps: vec![step],
            optimizer: Optimizer::default(),
            key: 0,
            fresh_moments: true,
        };
        let began = Instant::now();
        drop(self.engine(|e| e.train(request))?);
        self.drain()?;
        let seconds = began.elapsed().as_secs_f64();
        self.engine(|e| e.drop_adapter(adapter))?;
        Ok(((count * length) as f64, seconds))
    }

    /// Tokens of an answer, from some that the base gives, if those take no longer than the measurements;
    /// otherwise the most that it may have, and the flag is false.
    pub fn answer(&mut self, work: &ArmWork, rates: &Rates) -> Result<(usize, bool)> {
        let longest = work.arm.config.sampling.max_tokens as usize;
        let questions = &work.own.questions.train;
        let Some(question) = questions.first() else { return Ok((longest, false)) };
        let prompt = work.own.task.prompts.first(question.subject())?;
        let prompt = self.ready.codec.prompt(&[Message::user(prompt)])?.len();
        let asked = questions.len().min(ANSWERS);
        if rates.seconds((prompt * asked) as f64, (longest * asked) as f64, 0.0) > 6.0 * SECONDS {
            return Ok((longest, false));
        }
        Ok((self.mean_answer(work, asked)?.round() as usize, true))
    }

    /// The mean length of first answers of the base to `count` questions.
    fn mean_answer(&mut self, work: &ArmWork, count: usize) -> Result<f64> {
        let config = &work.arm.config;
        let sampling = &config.sampling;
        let occasion = Occasion { seed: 0, iteration: 0, purpose: "estimate" };
        let before = self.engine(|e| e.stats().sampling.tokens);
        for question in &work.own.questions.train[..count] {
            let prompt = work.own.task.prompts.first(question.subject())?;
            let request = SampleRequest {
                adapters: vec![(AdapterId::BASE, 1.0)],
                prompt: self.ready.codec.prompt(&[Message::user(prompt)])?.into(),
                params: SamplingParams {
                    temperature: sampling.temperature,
                    top_k: sampling.top_k,
                    top_p: sampling.top_p,
                    min_p: sampling.min_p,
                    max_tokens: sampling.max_tokens,
                },
                key: DrawId::answer(occasion, question).key(),
                iteration: occasion.iteration,
                kind: SampleKind::default(),
                priority: 0,
                stop: self.ready.codec.stop(&sampling.stop),
            };
            drop(self.engine(|e| e.sample(request))?);
        }
        self.drain()?;
        Ok((self.engine(|e| e.stats().sampling.tokens) - before) as f64 / count.max(1) as f64)
    }

    fn engine<T>(&self, look: impl FnOnce(&mut Engine) -> T) -> T {
        self.ready.session.engine.with(look)
    }

    fn drain(&self) -> Result<()> {
        while self.engine(Engine::step)? {}
        Ok(())
    }

    fn submit(&mut self, length: usize, new: usize) -> Result<()> {
        let request = SampleRequest {
            adapters: vec![(AdapterId::BASE, 1.0)],
            prompt: self.tokens(length).into(),
            params: SamplingParams {
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                max_tokens: new as u32,
            },
            key: self.next(),
            iteration: 0,
            kind: SampleKind::default(),
            priority: 0,
            stop: None,
        };
        drop(self.engine(|e| e.sample(request))?);
        Ok(())
    }

    fn tokens(&mut self, count: usize) -> Vec<u32> {
        let vocabulary = self.engine(|e| e.config().vocab_size) as u64;
        (0..count).map(|_| (self.next() % vocabulary) as u32).collect()
    }

    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_tokens_over_rates() {
        let rates = Rates { prefill: 100.0, decode: 10.0, train: 50.0 };
        assert_eq!(rates.seconds(200.0, 30.0, 100.0), 7.0);
    }
}
