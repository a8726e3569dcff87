//! The backend contract: opaque handles, coarse operations that are enqueued, and nothing that returns a value to the
//! host except an explicit download.
//!
//! A step is: upload one [`BatchPlan`] with [`Backend::begin`], [`Backend::enqueue`] a list of [`Op`]s that
//! read it, [`Backend::submit`], and later [`Backend::download_f32`] / [`Backend::download_u32`] of the few
//! tensors the host wants. Between `begin` and a download the host learns nothing, so a backend may defer,
//! capture and replay.
//!
//! Numerical promise of every backend (`docs`: "same bits"): the value of an output row depends only on that
//! row's own inputs, its own sequence and its own slot; never on the other rows of the batch, the number of
//! threads, the page layout or the batch limits. Reductions run in one fixed order; the unit of gradient
//! reduction is one sequence.

mod op;
mod parts;
mod plan;
mod select;
mod slot;
mod weights;

pub mod cpu;
pub mod cuda;
pub mod recording;

pub use op::*;
pub use parts::in_parts;
pub use plan::*;
pub use select::{MAX_THREADS, Selected, select};
pub use slot::*;
pub use weights::*;

use crate::error::{Error, Result};

/// A two-dimensional activation or workspace buffer `[rows, width]`, owned by the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tensor(pub u32);

/// A pool of KV pages for all layers, owned by the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvPool(pub u32);

/// What a tensor's elements are. The backend chooses how it stores an activation (f32 on the CPU, bf16 on a GPU).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// A hidden state or gradient; stored as the backend likes.
    Activation,
    /// Always f32: LoRA shrinks `h`, logits, losses, norms.
    F32,
    /// Always u32: token ids, flags.
    U32,
}

/// Shape and purpose of a tensor to allocate.
#[derive(Clone, Copy, Debug)]
pub struct TensorSpec {
    /// For the memory plan and for error messages, e.g. `"layer.gate_up"`.
    pub name: &'static str,
    /// Capacity in rows; a step uses as many as its plan says.
    pub rows: usize,
    /// Elements in a row.
    pub width: usize,
    /// Element type.
    pub element: Element,
}

/// Shape of a KV pool: K and V of every layer for `pages` pages.
#[derive(Clone, Copy, Debug)]
pub struct KvSpec {
    /// Decoder layers.
    pub layers: usize,
    /// Pages in the pool.
    pub pages: usize,
    /// Tokens in one page.
    pub page_tokens: usize,
    /// `num_key_value_heads * head_dim`.
    pub kv_width: usize,
}

/// The times of one kind of operation or one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct OpTimes {
    /// Its name.
    pub name: String,
    /// Seconds of each call.
    pub seconds: Vec<f64>,
}

/// The longest sums first.
pub(crate) fn sorted(mut times: Vec<OpTimes>) -> Vec<OpTimes> {
    times.sort_by(|a, b| b.total().total_cmp(&a.total()));
    times
}

impl OpTimes {
    /// Seconds in all.
    pub fn total(&self) -> f64 {
        self.seconds.iter().sum()
    }
}

/// What became of the lists of kernel launches that were long enough for a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphCounts {
    /// Launched one by one, since they were new.
    pub launched: u64,
    /// Captured, and replayed for the first time.
    pub captured: u64,
    /// Replayed again.
    pub replayed: u64,
}

impl GraphCounts {
    /// What was added to the counts since they were `before`.
    pub fn since(self, before: GraphCounts) -> GraphCounts {
        GraphCounts {
            launched: self.launched - before.launched,
            captured: self.captured - before.captured,
            replayed: self.replayed - before.replayed,
        }
    }
}

impl std::fmt::Display for GraphCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let GraphCounts { launched, captured, replayed } = self;
        write!(f, "{launched} launched one by one, {captured} captured, {replayed} replayed")
    }
}

/// What a device reaches at its best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// bf16 matrix products of 8192 by 8192 random numbers by the vendor's library, in FLOP/s; `None` where
    /// the library is not found.
    pub matmul: Option<f64>,
    /// A copy of 1 GiB on the device, bytes read and written, in bytes/s.
    pub copy: f64,
}

/// Draws on their way to the host.
pub enum Draws {
    /// Tokens and log-probabilities are there.
    Here(Vec<u32>, Vec<f32>),
    /// The backend knows them by this number.
    Coming {
        /// The copy.
        copy: u64,
        /// How many draws.
        draws: usize,
    },
}

/// Memory that cannot be exceeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// How much.
    pub bytes: usize,
    /// What says so, for a person: a file, a limit of the process.
    pub whose: String,
}

/// Limits of the steps to come, for [`Backend::workspace_bytes`].
#[derive(Clone, Copy, Debug)]
pub struct WorkspaceSpec {
    /// Most rows of a step that samples or scores.
    pub inference_rows: usize,
    /// Most rows of a training step; 0 without training.
    pub training_rows: usize,
    /// Whether it has dropout.
    pub dropout: bool,
    /// Rows of logits that exist at once.
    pub lm_head_rows: usize,
    /// The linear that makes them.
    pub lm_head: Linear,
    /// The widest shrink of any linear group of any slot.
    pub shrink_width: usize,
    /// Heads of the attention.
    pub heads: Heads,
    /// Most positions of a sequence.
    pub context: usize,
    /// Most entries of a step's page table.
    pub page_entries: usize,
    /// Most numbers in a step's [`BatchPlan::rope_extra`].
    pub rope_extra: usize,
    /// Adapters that step at once.
    pub adapters: usize,
    /// Numbers of the largest.
    pub adapter_elements: usize,
}

/// A device that holds weights, adapters and activations, and executes [`Op`]s. What has a default
/// is right for every device whose work runs while the host waits. (`Any`, so that tests can ask a
/// [`recording`] one for its trace.)
pub trait Backend: Measured + std::any::Any {
    /// What it is, for a person: `"cpu (avx512f, 2 threads)"`.
    fn describe(&self) -> String;
    /// The instruction set or architecture on which results are bit for bit reproducible, e.g.
    /// `"x86-64 avx512f+fma"`.
    fn arithmetic(&self) -> String;
    /// Bytes of one [`Element::Activation`].
    fn activation_bytes(&self) -> usize;
    /// Bytes of an element of KV pages.
    fn kv_bytes(&self) -> usize;
    /// Bytes held at present: weights, slots, tensors, pages. What operations need of their own is
    /// [`Backend::workspace_bytes`].
    fn bytes_in_use(&self) -> usize;
    /// The most bytes that operations take of their own, beside tensors, in steps within these
    /// limits. They are taken with the first such step, and kept.
    fn workspace_bytes(&self, spec: &WorkspaceSpec) -> usize;
    /// How many rows of logits it should have at once, unless another number is given; results do
    /// not depend on it.
    fn logit_rows(&self, vocab: usize) -> usize;
    /// What the width of rows must be a multiple of: of hidden states and of the MLP.
    fn width_step(&self) -> usize;
    /// Bytes that the device has for this program, where it is known: the limit unless another is
    /// given.
    fn memory_limit(&self) -> Option<usize>;
    /// What the backend can hold in all, whatever limit is given, where that is known.
    fn memory_ceiling(&self) -> Option<Ceiling>;
    /// Whether enqueued work runs beside the host, so that it is worth enqueueing a step before the
    /// draws of the one before are read.
    fn runs_beside(&self) -> bool;

    // ---- memory: before the work, never inside a step ----

    /// Allocates a tensor; its contents are unspecified (tests poison them).
    fn tensor(&mut self, spec: TensorSpec) -> Result<Tensor>;
    /// Gives a tensor back.
    fn free(&mut self, tensor: Tensor);
    /// Overwrites the first rows of a tensor (tests, and inputs that are not tokens).
    fn upload_f32(&mut self, tensor: Tensor, values: &[f32]) -> Result<()>;
    /// Allocates the pages of a KV cache.
    fn kv_pool(&mut self, spec: KvSpec) -> Result<KvPool>;
    /// Gives a KV pool back.
    fn free_kv_pool(&mut self, pool: KvPool);

    // ---- frozen weights ----

    /// Loads linears that share one input, concatenated by rows; see [`LinearSpec`].
    fn load_linear(&mut self, spec: LinearSpec<'_>) -> Result<Linear>;
    /// Loads a linear of one part whose matrix is that of `table` (tied embeddings), so that a
    /// backend may keep one copy.
    fn load_tied(&mut self, _table: Table, spec: LinearSpec<'_>) -> Result<Linear> {
        self.load_linear(spec)
    }
    /// Loads a vector, such as the weight of a norm, to f32 precision at least of its source.
    fn load_vector(&mut self, values: WeightView<'_>) -> Result<Vector>;
    /// Loads an embedding table `[vocab, hidden]`.
    fn load_table(&mut self, values: WeightView<'_>) -> Result<Table>;
    /// Loads a rotary table: `cos` and `sin`, each `[positions, rotary_dim / 2]`, row-major.
    fn load_rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<RopeTable>;

    // ---- slots ----

    /// Fixes, once, which outputs of which linear group an adapter may change.
    fn adapter_layout(&mut self, layout: &AdapterLayout) -> Result<()>;
    /// Makes a slot with all-zero A and B and no optimizer state. Slot 0, the base, always exists
    /// and has no parts.
    fn create_slot(&mut self, spec: &SlotSpec) -> Result<Slot>;
    /// Bytes of the weights of a slot of this shape.
    fn slot_bytes(&self, spec: &SlotSpec) -> usize;
    /// Bytes of its gradients and its two moments.
    fn optimizer_bytes(&self, spec: &SlotSpec) -> usize;
    /// Frees a slot and its optimizer state.
    fn drop_slot(&mut self, slot: Slot);
    /// Overwrites one matrix of a slot from row-major f32: A is `[rank, inputs]`, B is `[outputs of
    /// the part, rank]`.
    fn write_slot(&mut self, slot: Slot, part: PartId, matrix: LoraMatrix, values: &[f32]) -> Result<()>;
    /// Reads one matrix in the same layout: the weights, the gradient sum, or a moment of AdamW.
    fn read_slot(&mut self, slot: Slot, role: SlotRole, part: PartId, matrix: LoraMatrix)
    -> Result<Vec<f32>>;
    /// Makes `to` equal to `from`: same spec required; the optimizer state too where `from` has
    /// one, none otherwise.
    fn copy_slot(&mut self, from: Slot, to: Slot) -> Result<()>;
    /// Gives a slot zeroed gradients and moments (keeps them zeroed if it has them already).
    fn attach_optimizer(&mut self, slot: Slot) -> Result<()>;
    /// Frees gradients and moments.
    fn detach_optimizer(&mut self, slot: Slot);
    /// Overwrites a moment from row-major f32, to resume training.
    fn write_moment(
        &mut self,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
        values: &[f32],
    ) -> Result<()>;

    // ---- work ----

    /// Uploads the plan that the operations enqueued after it read, until the next `begin`.
    fn begin(&mut self, plan: std::sync::Arc<BatchPlan>) -> Result<()>;
    /// Appends an operation. Errors are those the host can see (shapes, unknown handles); nothing
    /// is computed for the host.
    fn enqueue(&mut self, op: Op) -> Result<()>;
    /// Everything enqueued so far may run; returns without waiting for it where the device allows.
    fn submit(&mut self) -> Result<()>;
    /// Waits for the submitted work and copies the first `rows` rows of an activation or f32 tensor
    /// to the host.
    fn download_f32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<f32>>;
    /// Likewise for a u32 tensor.
    fn download_u32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<u32>>;
    /// Enqueues a copy to the host of the first draws of a sampling step; work enqueued later may
    /// overwrite the tensors.
    fn fetch_draws(&mut self, tokens: Tensor, logprobs: Tensor, draws: usize) -> Result<Draws> {
        Ok(Draws::Here(self.download_u32(tokens, draws)?, self.download_f32(logprobs, draws)?))
    }
    /// Waits for such a copy, but not for work enqueued after it: tokens and log-probabilities.
    fn draws(&mut self, draws: Draws) -> Result<(Vec<u32>, Vec<f32>)> {
        match draws {
            Draws::Here(tokens, logprobs) => Ok((tokens, logprobs)),
            Draws::Coming { copy, .. } => Err(Error::Internal(format!("copy {copy} was never enqueued"))),
        }
    }
}

/// What measurements want of a device; results do not depend on it. The defaults are those of a
/// device that cannot be measured.
pub trait Measured {
    /// Names what the work enqueued from here on is for, until [`Measured::end_phase`]: for the
    /// time line of a profiler.
    fn begin_phase(&mut self, _name: &'static str) {}
    /// Ends the latest phase.
    fn end_phase(&mut self) {}
    /// Starts measuring how long each kind of operation (CPU) or each kernel (GPU) takes, or stops.
    /// It may make steps slower.
    fn set_profiling(&mut self, _on: bool) -> Result<()> {
        Err(Error::Unsupported("a profile of this device".into()))
    }
    /// The times measured since the last call, by name, in the order of their sums.
    fn take_profile(&mut self) -> Result<Vec<OpTimes>> {
        Err(Error::Unsupported("a profile of this device".into()))
    }
    /// What became of the launch lists so far; `None` on a device without graphs.
    fn graph_counts(&self) -> Option<GraphCounts> {
        None
    }
    /// Whether [`Measured::ceilings`] can measure: known before anything is.
    fn has_ceilings(&self) -> bool {
        false
    }
    /// What the device reaches at its best, measured now; `None` where that is not known how to
    /// measure.
    fn ceilings(&mut self) -> Result<Option<Ceilings>> {
        Ok(None)
    }
    /// Removes what earlier work left in the caches, where the backend knows how.
    fn flush_caches(&mut self) -> Result<()> {
        Ok(())
    }
    /// Fills the first `count` elements of an activation tensor with noise, on the device where
    /// there is one.
    fn fill_noise(&mut self, _tensor: Tensor, _count: usize, _noise: Noise) -> Result<()> {
        Err(Error::Unsupported("noise on this device".into()))
    }
}
