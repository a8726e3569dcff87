//! The model on its backend, and the passes the engine makes over it: one plan up, a list of
//! operations, one submit, the wanted numbers down.

use std::sync::Arc;

use super::plan::{EngineOptions, MemoryPlan, human};
use crate::backend::{
    AdamW, AdamWStep, Backend, BatchPlan, Draws, Element, GradNorms, KvPool, KvSpec, Op, Slot, Tensor,
    TensorSpec, ZeroGrad,
};
use crate::error::{Error, Result};
use crate::model::{Activations, Mode, Model};

/// Activations and their capacity.
struct Workspace {
    activations: Activations,
    rows: usize,
    shrink: usize,
}

/// A model, its backend, and buffers.
pub struct Device {
    backend: Box<dyn Backend>,
    model: Model,
    kv: KvPool,
    inference: Option<Workspace>,
    training: Option<Workspace>,
    /// f32 `[adapters, 1]`.
    norms: Option<(Tensor, usize)>,
    lm_head_rows: usize,
    limit: Option<usize>,
    /// Rows of the training activations that are planned: taken with the first training, so that
    /// batches that grow do not take larger buffers again and again.
    training_rows: usize,
    /// Bytes planned for what the backend does not count as held.
    beside: usize,
}

impl Device {
    /// Takes what sampling needs; what training needs comes with the first training.
    pub fn new(
        mut backend: Box<dyn Backend>,
        model: Model,
        options: &EngineOptions,
        plan: &MemoryPlan,
    ) -> Result<Self> {
        let config = model.config();
        let kv = backend.kv_pool(KvSpec {
            layers: config.num_layers,
            pages: plan.kv_pages,
            page_tokens: options.page_tokens,
            kv_width: config.heads().kv_width(),
        })?;
        let mut device = Self {
            backend,
            model,
            kv,
            inference: None,
            training: None,
            norms: None,
            lm_head_rows: options.lm_head_rows,
            limit: options.memory_limit,
            training_rows: if options.training { plan.training_rows } else { 0 },
            beside: plan.beside,
        };
        device.prepare(Mode::Inference, options.max_rows, plan.shrink_width)?;
        Ok(device)
    }

    /// The backend.
    pub fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }

    /// Whether what is held now keeps to the memory limit; `what` has just been taken.
    pub fn check_limit(&self, what: &str) -> Result<()> {
        let held = self.backend.bytes_in_use() + self.beside;
        match self.limit {
            Some(limit) if held > limit => Err(Error::Memory(format!(
                "with {what}, {} ({held} bytes) are needed, the limit is {}",
                human(held),
                human(limit)
            ))),
            _ => Ok(()),
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Names what `work` is for, on the time line of a profiler.
    fn phase<T>(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.backend.begin_phase(name);
        let result = work(self);
        self.backend.end_phase();
        result
    }

    /// Whether a sampling step of this many rows fits the buffers that are there.
    pub fn has_room(&self, rows: usize, shrink: usize) -> bool {
        self.inference.as_ref().is_some_and(|w| w.rows >= rows && w.shrink >= shrink)
    }

    /// Enqueues a sampling step; its draws are on their way. Its plan may refer to the draws of the
    /// one before if that had room in the same buffers.
    pub fn sample(&mut self, plan: BatchPlan, shrink: usize) -> Result<Draws> {
        // A step with any part of a prompt in it is not what decoding looks like.
        let decode = plan.sequences.iter().all(|s| s.end - s.start <= 1);
        self.phase(if decode { "decode" } else { "prefill" }, |d| d.sample_step(plan, shrink))
    }

    fn sample_step(&mut self, plan: BatchPlan, shrink: usize) -> Result<Draws> {
        let draws = plan.draws.len();
        let rows = plan.rows();
        self.prepare(Mode::Inference, rows, shrink)?;
        let workspace = &self.inference.as_ref().expect("prepared").activations;
        self.backend.begin(Arc::new(plan))?;
        self.model.forward_sample(&mut *self.backend, workspace, self.kv)?;
        self.backend.submit()?;
        if draws == 0 {
            return Ok(Draws::Here(vec![], vec![]));
        }
        self.backend.fetch_draws(workspace.tokens, workspace.logprobs, draws)
    }

    /// The token and log-probability of each draw of a step, once it has run.
    pub fn draws(&mut self, draws: Draws) -> Result<(Vec<u32>, Vec<f32>)> {
        self.backend.draws(draws)
    }

    /// Runs a scoring step: for each logit row its negative log-likelihood, and 1 or 0 for whether
    /// the label was the most likely token.
    pub fn score(&mut self, plan: BatchPlan, shrink: usize) -> Result<Vec<f32>> {
        self.phase("score", |d| d.score_step(plan, shrink))
    }

    fn score_step(&mut self, plan: BatchPlan, shrink: usize) -> Result<Vec<f32>> {
        let logit_rows = plan.logit_rows.len();
        self.prepare(Mode::Inference, plan.rows(), shrink)?;
        let workspace = &self.inference.as_ref().expect("prepared").activations;
        self.backend.begin(Arc::new(plan))?;
        self.model.forward_score(&mut *self.backend, workspace)?;
        self.backend.submit()?;
        self.backend.download_f32(workspace.losses, logit_rows)
    }

    /// Runs an encoding step: the hidden state after the final norm of each logit row, `[L, d]`.
    pub fn embed(&mut self, plan: BatchPlan, shrink: usize) -> Result<Vec<f32>> {
        self.phase("embed", |d| d.embed_step(plan, shrink))
    }

    fn embed_step(&mut self, plan: BatchPlan, shrink: usize) -> Result<Vec<f32>> {
        let logit_rows = plan.logit_rows.len();
        self.prepare(Mode::Inference, plan.rows(), shrink)?;
        let workspace = &self.inference.as_ref().expect("prepared").activations;
        self.backend.begin(Arc::new(plan))?;
        self.model.forward_embed(&mut *self.backend, workspace)?;
        self.backend.submit()?;
        self.backend.download_f32(workspace.hidden, logit_rows)
    }

    /// Runs a training micro-batch, which adds to the slots' gradients; the losses as in [`Device::score`].
    pub fn accumulate(&mut self, plan: BatchPlan, shrink: usize) -> Result<Vec<f32>> {
        self.phase("train step", |d| d.accumulate_step(plan, shrink))
    }

    fn accumulate_step(&mut self, plan: BatchPlan, shrink: usize) -> Result<Vec<f32>> {
        let logit_rows = plan.logit_rows.len();
        let dropout = !plan.dropout.is_empty();
        let mode = if dropout { Mode::TrainingWithDropout } else { Mode::Training };
        self.prepare(mode, plan.rows(), shrink)?;
        let workspace = &self.training.as_ref().expect("prepared").activations;
        self.backend.begin(Arc::new(plan))?;
        self.model.forward_backward(&mut *self.backend, workspace, dropout)?;
        self.backend.submit()?;
        self.backend.download_f32(workspace.losses, logit_rows)
    }

    /// Makes an optimizer step of all these adapters in one launch; their gradient norms. A slot
    /// whose norm is not finite is left as it was.
    pub fn optimize(&mut self, steps: Vec<AdamWStep>) -> Result<Vec<f32>> {
        self.phase("optimizer step", |d| d.optimizer_step(steps))
    }

    fn optimizer_step(&mut self, steps: Vec<AdamWStep>) -> Result<Vec<f32>> {
        let count = steps.len();
        let slots: Vec<Slot> = steps.iter().map(|s| s.slot).collect();
        let norms = self.norms(count)?;
        self.backend.enqueue(Op::GradNorms(GradNorms { slots, out: norms }))?;
        self.backend.enqueue(Op::AdamW(AdamW { steps, norms }))?;
        self.backend.submit()?;
        self.backend.download_f32(norms, count)
    }

    /// Zeroes gradients.
    pub fn zero_gradients(&mut self, slots: Vec<Slot>) -> Result<()> {
        self.backend.enqueue(Op::ZeroGrad(ZeroGrad { slots }))?;
        self.backend.submit()
    }

    fn norms(&mut self, count: usize) -> Result<Tensor> {
        if let Some((tensor, capacity)) = self.norms {
            if capacity >= count {
                return Ok(tensor);
            }
            self.backend.free(tensor);
        }
        let capacity = count.next_power_of_two();
        self.norms = None;
        let tensor = self.backend.tensor(TensorSpec {
            name: "gradient norms",
            rows: capacity,
            width: 1,
            element: Element::F32,
        })?;
        self.norms = Some((tensor, capacity));
        Ok(tensor)
    }

    /// Makes sure that buffers for `rows` rows exist; the memory limit holds.
    pub fn prepare(&mut self, mode: Mode, rows: usize, shrink: usize) -> Result<()> {
        let place = match mode {
            Mode::Inference => &mut self.inference,
            Mode::Training | Mode::TrainingWithDropout => &mut self.training,
        };
        let (had_rows, had_shrink) = place.as_ref().map_or((0, 0), |w| (w.rows, w.shrink));
        // What has been taken for dropout once stays.
        let had_mode = place.as_ref().map_or(mode, |w| w.activations.mode());
        let mode = if had_mode == Mode::TrainingWithDropout { had_mode } else { mode };
        if had_rows >= rows && had_shrink >= shrink && had_mode == mode {
            return Ok(());
        }
        let planned = if mode.trains() { self.training_rows } else { 0 };
        let (rows, shrink) = (rows.max(had_rows).max(planned), shrink.max(had_shrink));
        let activation_bytes = self.backend.activation_bytes();
        let config = self.model.config();
        let bytes = |rows, shrink, mode| {
            Activations::bytes(config, rows, rows, self.lm_head_rows, shrink, mode, activation_bytes)
        };
        if let Some(limit) = self.limit {
            let others = self.backend.bytes_in_use() + self.beside
                - if had_rows > 0 { bytes(had_rows, had_shrink, had_mode) } else { 0 };
            let needed = others + bytes(rows, shrink, mode);
            if needed > limit {
                return Err(Error::Memory(format!(
                    "a batch of {rows} rows needs {} ({needed} bytes) in all, the limit is {}",
                    human(needed),
                    human(limit)
                )));
            }
        }
        if let Some(old) = place.take() {
            old.activations.free(&mut *self.backend);
        }
        let activations =
            Activations::new(&mut *self.backend, &self.model, rows, rows, self.lm_head_rows, shrink, mode)?;
        *place = Some(Workspace { activations, rows, shrink });
        Ok(())
    }
}
