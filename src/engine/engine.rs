//! One model, its adapters, and all that is asked of them, a step at a time.

use std::rc::Rc;

use futures::channel::oneshot;

use super::device::Device;
use super::embedder::Embedder;
use super::plan::{EngineOptions, MemoryPlan};
use super::request::*;
use super::sampler::{Hear, SampleBatch, Sampler, SamplerLimits, SamplerStats, Submitted};
use super::scorer::Scorer;
use super::slots::SlotTable;
use super::trainer::Trainer;
use crate::adapter::Snapshot;
use crate::backend::{Backend, Draws, Slot};
use crate::error::{Error, Result};
use crate::model::{Mode, Model, ModelConfig};

/// What an engine has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Of the sampler.
    pub sampling: SamplerStats,
    /// Training micro-batches.
    pub micro_batches: u64,
    /// Optimizer launches.
    pub optimizer_steps: u64,
    /// Scoring batches.
    pub score_batches: u64,
    /// Encoding batches.
    pub embed_batches: u64,
}

/// A model on a backend with its adapters, sampler, scorer and trainer. A value: several live side by side.
pub struct Engine {
    device: Device,
    plan: MemoryPlan,
    slots: SlotTable,
    sampler: Sampler,
    /// The sampling step whose draws the host has not read.
    flight: Option<(SampleBatch, Draws)>,
    /// Rows of the largest sampling step.
    max_rows: usize,
    scorer: Scorer,
    embedder: Embedder,
    trainer: Trainer,
    /// A training phase has begun and not all of it is done.
    in_training: bool,
    optimizer_steps: u64,
    score_batches: u64,
    embed_batches: u64,
}

impl Engine {
    /// Plans the memory, then takes what sampling needs. `model` must have been loaded into `backend`.
    pub fn new(backend: Box<dyn Backend>, model: Model, options: EngineOptions) -> Result<Self> {
        let config = model.config();
        let options =
            EngineOptions { memory_limit: options.memory_limit.or(backend.memory_limit()), ..options };
        let plan = MemoryPlan::new(&*backend, &model, &options)?;
        let options = plan.options;
        let (context, vocab) = (config.max_positions, config.vocab_size);
        let limits = SamplerLimits {
            max_rows: options.max_rows,
            max_sequences: options.max_sequences,
            max_group: options.lm_head_rows.min(options.max_sequences),
            context,
            vocab,
            eos: config.eos_token_ids.clone(),
            rotary: model.rotary().clone(),
        };
        Ok(Self {
            slots: SlotTable::new(model.layout().clone()),
            sampler: Sampler::new(limits, plan.kv_pages, options.page_tokens),
            flight: None,
            max_rows: options.max_rows,
            scorer: Scorer::new(options.max_rows, context, vocab),
            embedder: Embedder::new(options.max_rows, context, vocab),
            trainer: Trainer::new(options.micro_batch_rows, context, vocab),
            device: Device::new(backend, model, &options, &plan)?,
            plan,
            in_training: false,
            optimizer_steps: 0,
            score_batches: 0,
            embed_batches: 0,
        })
    }

    /// The memory plan.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// The model.
    pub fn config(&self) -> &ModelConfig {
        self.device.model().config()
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.device.model()
    }

    /// The backend, e.g. to describe it. Slots are the engine's own.
    pub fn backend(&mut self) -> &mut dyn Backend {
        self.device.backend()
    }

    /// What has been done so far.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            sampling: self.sampler.stats(),
            micro_batches: self.trainer.micro_batches(),
            optimizer_steps: self.optimizer_steps,
            score_batches: self.score_batches,
            embed_batches: self.embed_batches,
        }
    }

    /// KV pages that sequences hold, and pages that only the cache remembers.
    pub fn kv_pages(&self) -> (usize, usize) {
        (self.sampler.kv().in_use(), self.sampler.kv().cached())
    }

    /// Does one step of the most urgent work: scoring and encoding, then sampling, then training, so that
    /// the training of all lanes falls together. Training that has begun continues to its end; otherwise
    /// a lane that has finished its own would hold up the others with everything it samples next, and
    /// from then on the lanes would share no batch. Returns false if there is nothing to do. An error is
    /// the engine's own; the error of a request goes to its receiver.
    pub fn step(&mut self) -> Result<bool> {
        self.in_training &= self.trainer.has_work();
        let scores = self.scorer.has_work() || self.embedder.has_work();
        if !scores && self.sampler.has_work() && !self.in_training {
            self.sample_step()?;
            return Ok(true);
        }
        // Only a sampling step may follow one whose draws are not read: all others may need larger buffers.
        self.land()?;
        if self.scorer.has_work() {
            self.score_step()?;
        } else if self.embedder.has_work() {
            self.embed_step()?;
        } else if self.trainer.has_work() {
            self.in_training = true;
            self.train_step()?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Gives the engine what makes stop rules of a tokenizer's texts, before a request names it.
    pub fn add_stop_rules(&mut self, rules: Rc<dyn StopRules>) {
        self.sampler.add_stop_rules(rules);
    }

    /// Queues a sample, or answers it from memory.
    pub fn sample(&mut self, request: SampleRequest) -> Result<Submitted> {
        self.sampler.submit(request, None, &self.slots)
    }

    /// Queues a sample as [`Engine::sample`] does. If it is drawn for this request, `hear` is told
    /// each token as soon as it is there, except one that is an end of sequence.
    pub fn sample_aloud(&mut self, request: SampleRequest, hear: Hear) -> Result<Submitted> {
        self.sampler.submit(request, Some(hear), &self.slots)
    }

    /// Returns a priority for requests that belong together, behind all earlier ones. So what has begun
    /// ends before more begins, and the rounds of a debate follow one another while the cache still has
    /// what they share.
    pub fn next_priority(&mut self) -> u64 {
        self.sampler.next_priority()
    }

    /// Forgets the samples of earlier iterations. A request for one is drawn again, with the same result.
    pub fn forget_before(&mut self, iteration: usize) {
        self.sampler.forget_before(iteration);
    }

    /// Queues a sequence to score.
    pub fn score(&mut self, request: ScoreRequest) -> Result<oneshot::Receiver<Result<Score>>> {
        self.scorer.submit(request, &self.slots)
    }

    /// Queues a stretch to encode.
    pub fn embed(&mut self, request: EmbedRequest) -> Result<oneshot::Receiver<Result<Embedding>>> {
        self.embedder.submit(request, &self.slots)
    }

    /// Queues training. Until it is complete nobody else may use the adapter.
    pub fn train(&mut self, request: TrainRequest) -> Result<oneshot::Receiver<Result<Vec<StepMetrics>>>> {
        if !self.device.model().training() {
            return Err(Error::Internal("training asked of a model that was loaded for inference".into()));
        }
        self.trainer.check(&request)?;
        let adapter = request.adapter;
        let slot = self.slots.begin_training(adapter)?;
        let attached = self
            .slots
            .attach_optimizer(self.device.backend(), adapter, request.fresh_moments)
            .and_then(|()| self.device.check_limit("the optimizer's state of another adapter"));
        if request.steps.is_empty() || attached.is_err() {
            self.slots.end_training(adapter);
            attached?;
            let (waiter, receiver) = oneshot::channel();
            let _ = waiter.send(Ok(vec![]));
            return Ok(receiver);
        }
        let (dropout, first_step) = (self.slots.dropout(adapter)?, self.slots.next_step(adapter)?);
        self.trainer.submit(request, slot, dropout, first_step)
    }

    /// Makes an adapter.
    pub fn create(&mut self, source: &AdapterSource) -> Result<AdapterId> {
        let adapter = self.slots.create(self.device.backend(), source)?;
        if let Err(e) = self.device.check_limit("another adapter") {
            self.drop_adapter(adapter)?;
            return Err(e);
        }
        Ok(adapter)
    }

    /// Forgets an adapter.
    pub fn drop_adapter(&mut self, adapter: AdapterId) -> Result<()> {
        self.slots.drop_adapter(self.device.backend(), adapter)?;
        self.forget_dead_weights();
        Ok(())
    }

    /// An adapter's numbers; with the optimizer's state if asked for.
    pub fn snapshot(&mut self, adapter: AdapterId, moments: bool) -> Result<Snapshot> {
        self.slots.snapshot(self.device.backend(), adapter, moments)
    }

    /// Overwrites an adapter's numbers.
    pub fn restore(&mut self, adapter: AdapterId, snapshot: &Snapshot) -> Result<()> {
        self.slots.restore(self.device.backend(), adapter, snapshot)?;
        self.forget_dead_weights();
        Ok(())
    }

    fn sample_step(&mut self) -> Result<()> {
        let shrink = self.slots.widest_shrink();
        if !self.device.has_room(self.max_rows, shrink) {
            // New buffers will not hold what was drawn into the old.
            self.land()?;
        }
        let next = match self.sampler.schedule(&self.slots)? {
            None => None,
            Some(mut batch) => {
                let plan = std::mem::take(&mut batch.plan);
                let draws = self.device.sample(plan, shrink)?;
                Some((batch, draws))
            }
        };
        // The step before: the device works on the next while the host reads it.
        self.land()?;
        self.flight = next;
        if self.sampler.has_work() && self.device.backend().runs_beside() { Ok(()) } else { self.land() }
    }

    /// Takes what the sampling step under way has drawn, if there is one.
    fn land(&mut self) -> Result<()> {
        let Some((batch, draws)) = self.flight.take() else { return Ok(()) };
        let (tokens, logprobs) = self.device.draws(draws)?;
        self.sampler.commit(batch, &tokens, &logprobs)
    }

    fn score_step(&mut self) -> Result<()> {
        let Some(mut batch) = self.scorer.schedule(&self.slots, self.device.model().rotary())? else {
            return Ok(());
        };
        let shrink = self.slots.widest_shrink();
        if let Err(e) = self.device.prepare(Mode::Inference, batch.plan.rows(), shrink) {
            self.scorer.refuse(batch, &e.to_string());
            return Ok(());
        }
        let plan = std::mem::take(&mut batch.plan);
        let losses = self.device.score(plan, shrink)?;
        self.score_batches += 1;
        self.scorer.commit(batch, &losses);
        Ok(())
    }

    fn embed_step(&mut self) -> Result<()> {
        let Some(mut batch) = self.embedder.schedule(&self.slots, self.device.model().rotary())? else {
            return Ok(());
        };
        let shrink = self.slots.widest_shrink();
        if let Err(e) = self.device.prepare(Mode::Inference, batch.plan.rows(), shrink) {
            self.embedder.refuse(batch, &e.to_string());
            return Ok(());
        }
        let plan = std::mem::take(&mut batch.plan);
        let hidden = self.device.embed(plan, shrink)?;
        self.embed_batches += 1;
        self.embedder.commit(batch, &hidden, self.config().hidden_size);
        Ok(())
    }

    /// One micro-batch; or, if that left adapters with a complete batch, their optimizer step.
    fn train_step(&mut self) -> Result<()> {
        let steps = self.trainer.ready(&self.slots)?;
        if !steps.is_empty() {
            let norms = self.device.optimize(steps.clone())?;
            self.optimizer_steps += 1;
            let failed = self.trainer.stepped(&steps, &norms, &mut self.slots)?;
            self.forget_dead_weights();
            return self.zero_gradients(failed);
        }
        let shrink = self.slots.widest_shrink();
        let (most_rows, mode) = (self.trainer.most_rows(), self.trainer.mode());
        let mut batch = self.trainer.schedule(self.device.model().rotary());
        if let Err(e) = self.device.prepare(mode, most_rows, shrink) {
            let failed = self.trainer.refuse(batch, &e.to_string(), &mut self.slots);
            return self.zero_gradients(failed);
        }
        let plan = std::mem::take(&mut batch.plan);
        let losses = if plan.rows() == 0 { vec![] } else { self.device.accumulate(plan, shrink)? };
        let failed = self.trainer.commit(batch, &losses, &mut self.slots);
        self.zero_gradients(failed)
    }

    fn zero_gradients(&mut self, slots: Vec<Slot>) -> Result<()> {
        if slots.is_empty() { Ok(()) } else { self.device.zero_gradients(slots) }
    }

    /// Drops what is cached under weights that are gone.
    fn forget_dead_weights(&mut self) {
        for weights in self.slots.take_dead() {
            self.sampler.forget(weights);
            self.scorer.forget(weights);
            self.embedder.forget(weights);
        }
    }
}
