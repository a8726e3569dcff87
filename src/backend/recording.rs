//! A backend that stores calls and executes them at `submit`: proof that no caller relies on a value before
//! it downloads it, and the source of the operation trace.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::error::{Error, Result};

/// One operation that was executed.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceEntry {
    /// [`Op::name`].
    pub name: &'static str,
    /// The operation itself.
    pub op: Op,
    /// Rows of the step's plan.
    pub rows: usize,
    /// Segments of the step's plan.
    pub segments: usize,
    /// Sequences of the step's plan.
    pub sequences: usize,
}

/// A call that waits for `submit`.
enum Call {
    Begin(Arc<BatchPlan>),
    Enqueue(Op),
}

/// Wraps a backend: `begin` and `enqueue` are stored and run at `submit`, in order. Whatever would see or
/// change the state that stored work is about to produce or read (a download, an upload, a slot access,
/// memory) is an [`Error::Internal`] while work is stored. Errors of stored work come from `submit`; the work
/// behind the one that failed is dropped.
pub struct Recording<B> {
    inner: B,
    stored: Vec<Call>,
    plan: Arc<BatchPlan>,
    trace: Vec<TraceEntry>,
}

impl<B: Backend> Recording<B> {
    /// Wraps `inner`, with an empty trace.
    pub fn new(inner: B) -> Self {
        Self { inner, stored: Vec::new(), plan: Arc::default(), trace: Vec::new() }
    }

    /// The wrapped backend.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// Gives the wrapped backend back; stored work is dropped.
    pub fn into_inner(self) -> B {
        self.inner
    }

    /// The operations executed since the trace was last cleared, in order.
    pub fn trace(&self) -> &[TraceEntry] {
        &self.trace
    }

    /// Forgets the trace.
    pub fn clear_trace(&mut self) {
        self.trace.clear();
    }

    /// How many operations of each name were executed.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for entry in &self.trace {
            *counts.entry(entry.name).or_default() += 1;
        }
        counts
    }

    /// How many operations of this name were executed.
    pub fn count(&self, name: &str) -> usize {
        self.trace.iter().filter(|entry| entry.name == name).count()
    }

    /// Calls that wait for `submit`.
    pub fn stored(&self) -> usize {
        self.stored.len()
    }

    /// The wrapped backend, where no work is stored.
    fn settled(&mut self, call: &str) -> Result<&mut B> {
        if self.stored.is_empty() {
            return Ok(&mut self.inner);
        }
        Err(Error::Internal(format!("{call} while {} calls wait for `submit`", self.stored.len())))
    }
}

/// Methods that the wrapped backend answers, whatever is stored.
macro_rules! passed_on {
    ($(fn $name:ident(&$self:ident $(, $arg:ident: $type:ty)*) $(-> $result:ty)?;)*) => {
        $(fn $name(&$self $(, $arg: $type)*) $(-> $result)? {
            $self.inner.$name($($arg),*)
        })*
    };
    ($(fn $name:ident(&mut $self:ident $(, $arg:ident: $type:ty)*) $(-> $result:ty)?;)*) => {
        $(fn $name(&mut $self $(, $arg: $type)*) $(-> $result)? {
            $self.inner.$name($($arg),*)
        })*
    };
}

/// Methods that the wrapped backend answers where no work is stored.
macro_rules! passed_on_settled {
    ($(fn $name:ident(&mut $self:ident $(, $arg:ident: $type:ty)*) -> $result:ty;)*) => {
        $(fn $name(&mut $self $(, $arg: $type)*) -> $result {
            $self.settled(stringify!($name))?.$name($($arg),*)
        })*
    };
}

impl<B: Backend> Backend for Recording<B> {
    fn describe(&self) -> String {
        format!("recording {}", self.inner.describe())
    }

    passed_on! {
        fn arithmetic(&self) -> String;
        fn activation_bytes(&self) -> usize;
        fn kv_bytes(&self) -> usize;
        fn bytes_in_use(&self) -> usize;
        fn workspace_bytes(&self, spec: &WorkspaceSpec) -> usize;
        fn logit_rows(&self, vocab: usize) -> usize;
        fn width_step(&self) -> usize;
        fn memory_limit(&self) -> Option<usize>;
        fn memory_ceiling(&self) -> Option<Ceiling>;
        fn runs_beside(&self) -> bool;
        fn slot_bytes(&self, spec: &SlotSpec) -> usize;
        fn optimizer_bytes(&self, spec: &SlotSpec) -> usize;
    }

    // Stored work on what is given back will fail at `submit`, as it should.
    passed_on! {
        fn free(&mut self, tensor: Tensor);
        fn free_kv_pool(&mut self, pool: KvPool);
        fn load_linear(&mut self, spec: LinearSpec<'_>) -> Result<Linear>;
        fn load_vector(&mut self, values: WeightView<'_>) -> Result<Vector>;
        fn load_table(&mut self, values: WeightView<'_>) -> Result<Table>;
        fn load_rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<RopeTable>;
        fn drop_slot(&mut self, slot: Slot);
        fn detach_optimizer(&mut self, slot: Slot);
        fn draws(&mut self, draws: Draws) -> Result<(Vec<u32>, Vec<f32>)>;
    }

    passed_on_settled! {
        fn tensor(&mut self, spec: TensorSpec) -> Result<Tensor>;
        fn upload_f32(&mut self, tensor: Tensor, values: &[f32]) -> Result<()>;
        fn kv_pool(&mut self, spec: KvSpec) -> Result<KvPool>;
        fn load_tied(&mut self, table: Table, spec: LinearSpec<'_>) -> Result<Linear>;
        fn adapter_layout(&mut self, layout: &AdapterLayout) -> Result<()>;
        fn create_slot(&mut self, spec: &SlotSpec) -> Result<Slot>;
        fn write_slot(&mut self, slot: Slot, part: PartId, matrix: LoraMatrix, values: &[f32]) -> Result<()>;
        fn read_slot(&mut self, slot: Slot, role: SlotRole, part: PartId, matrix: LoraMatrix)
            -> Result<Vec<f32>>;
        fn copy_slot(&mut self, from: Slot, to: Slot) -> Result<()>;
        fn attach_optimizer(&mut self, slot: Slot) -> Result<()>;
        fn write_moment(
            &mut self,
            slot: Slot,
            role: SlotRole,
            part: PartId,
            matrix: LoraMatrix,
            values: &[f32]
        ) -> Result<()>;
        fn download_f32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<f32>>;
        fn download_u32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<u32>>;
        fn fetch_draws(&mut self, tokens: Tensor, logprobs: Tensor, draws: usize) -> Result<Draws>;
    }

    fn begin(&mut self, plan: Arc<BatchPlan>) -> Result<()> {
        self.stored.push(Call::Begin(plan));
        Ok(())
    }

    fn enqueue(&mut self, op: Op) -> Result<()> {
        self.stored.push(Call::Enqueue(op));
        Ok(())
    }

    fn submit(&mut self) -> Result<()> {
        for call in std::mem::take(&mut self.stored) {
            match call {
                Call::Begin(plan) => {
                    self.plan = plan.clone();
                    self.inner.begin(plan)?;
                }
                Call::Enqueue(op) => {
                    let entry = TraceEntry {
                        name: op.name(),
                        op: op.clone(),
                        rows: self.plan.rows(),
                        segments: self.plan.segments.len(),
                        sequences: self.plan.sequences.len(),
                    };
                    self.inner.enqueue(op)?;
                    self.trace.push(entry);
                }
            }
        }
        self.inner.submit()
    }
}

impl<B: Backend> Measured for Recording<B> {
    passed_on! {
        fn graph_counts(&self) -> Option<GraphCounts>;
        fn has_ceilings(&self) -> bool;
    }

    passed_on! {
        fn begin_phase(&mut self, name: &'static str);
        fn end_phase(&mut self);
        fn set_profiling(&mut self, on: bool) -> Result<()>;
        fn take_profile(&mut self) -> Result<Vec<OpTimes>>;
    }

    passed_on_settled! {
        fn ceilings(&mut self) -> Result<Option<Ceilings>>;
        fn flush_caches(&mut self) -> Result<()>;
        fn fill_noise(&mut self, tensor: Tensor, count: usize, noise: Noise) -> Result<()>;
    }
}
