//! A backend that stores calls and executes them at `submit`: proof that no caller relies on a value before it downloads it,
//! and the source of the operation trace.

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

/// Wraps a backend: `begin` and `enqueue` are stored and run at `submit`, in order. Whatever would see or change the
/// state that stored work is about to produce or read (a download, an upload, a slot access, memory) is an [`Error::Internal`] while work
/// is stored. Errors of stored work come from `submit`; the work behind the one that failed is dropped.
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

impl<B: Backend> Backend for Recording<B> {
    fn describe(&self) -> String {
        format!("recording {}", self.inner.describe())
    }

    fn arithmetic(&self) -> String {
        self.inner.arithmetic()
    }

    fn activation_bytes(&self) -> usize {
        self.inner.activation_bytes()
    }

    fn kv_bytes(&self) -> usize {
        self.inner.kv_bytes()
    }

    fn bytes_in_use(&self) -> usize {
        self.inner.bytes_in_use()
    }

    fn optimizer_bytes(&self, spec: &SlotSpec) -> usize {
        self.inner.optimizer_bytes(spec)
    }

    fn logit_rows(&self, vocab: usize) -> usize {
        self.inner.logit_rows(vocab)
    }

    fn memory_ceiling(&self) -> Option<Ceiling> {
        self.inner.memory_ceiling()
    }

    fn memory_limit(&self) -> Option<usize> {
        self.inner.memory_limit()
    }

    fn workspace_bytes(&self, spec: &WorkspaceSpec) -> usize {
        self.inner.workspace_bytes(spec)
    }

    fn tensor(&mut self, spec: TensorSpec) -> Result<Tensor> {
        self.settled("tensor")?.tensor(spec)
    }

    fn free(&mut self, tensor: Tensor) {
        // Stored work on the tensor will fail at `submit`, as it should.
        self.inner.free(tensor);
    }

    fn kv_pool(&mut self, spec: KvSpec) -> Result<KvPool> {
        self.settled("kv_pool")?.kv_pool(spec)
    }

    fn free_kv_pool(&mut self, pool: KvPool) {
        self.inner.free_kv_pool(pool);
    }

    fn load_linear(&mut self, spec: LinearSpec<'_>) -> Result<Linear> {
        self.inner.load_linear(spec)
    }

    fn load_tied(&mut self, table: Table, spec: LinearSpec<'_>) -> Result<Linear> {
        self.settled("load_tied")?.load_tied(table, spec)
    }

    fn load_vector(&mut self, values: WeightView<'_>) -> Result<Vector> {
        self.inner.load_vector(values)
    }

    fn load_table(&mut self, values: WeightView<'_>) -> Result<Table> {
        self.inner.load_table(values)
    }

    fn load_rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<RopeTable> {
        self.inner.load_rope(cos, sin, half)
    }

    fn adapter_layout(&mut self, layout: &AdapterLayout) -> Result<()> {
        self.settled("adapter_layout")?.adapter_layout(layout)
    }

    fn create_slot(&mut self, spec: &SlotSpec) -> Result<Slot> {
        self.settled("create_slot")?.create_slot(spec)
    }

    fn slot_bytes(&self, spec: &SlotSpec) -> usize {
        self.inner.slot_bytes(spec)
    }

    fn drop_slot(&mut self, slot: Slot) {
        self.inner.drop_slot(slot);
    }

    fn write_slot(&mut self, slot: Slot, part: PartId, matrix: LoraMatrix, values: &[f32]) -> Result<()> {
        self.settled("write_slot")?.write_slot(slot, part, matrix, values)
    }

    fn read_slot(
        &mut self,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
    ) -> Result<Vec<f32>> {
        self.settled("read_slot")?.read_slot(slot, role, part, matrix)
    }

    fn copy_slot(&mut self, from: Slot, to: Slot) -> Result<()> {
        self.settled("copy_slot")?.copy_slot(from, to)
    }

    fn attach_optimizer(&mut self, slot: Slot) -> Result<()> {
        self.settled("attach_optimizer")?.attach_optimizer(slot)
    }

    fn detach_optimizer(&mut self, slot: Slot) {
        self.inner.detach_optimizer(slot);
    }

    fn write_moment(
        &mut self,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
        values: &[f32],
    ) -> Result<()> {
        self.settled("write_moment")?.write_moment(slot, role, part, matrix, values)
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

    fn download_f32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<f32>> {
        self.settled("download_f32")?.download_f32(tensor, rows)
    }

    fn download_u32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<u32>> {
        self.settled("download_u32")?.download_u32(tensor, rows)
    }

    fn begin_phase(&mut self, name: &'static str) {
        self.inner.begin_phase(name);
    }

    fn end_phase(&mut self) {
        self.inner.end_phase();
    }

    fn set_profiling(&mut self, on: bool) -> Result<()> {
        self.inner.set_profiling(on)
    }

    fn take_profile(&mut self) -> Result<Vec<OpTimes>> {
        self.inner.take_profile()
    }

    fn graph_counts(&self) -> Option<GraphCounts> {
        self.inner.graph_counts()
    }

    fn has_ceilings(&self) -> bool {
        self.inner.has_ceilings()
    }

    fn ceilings(&mut self) -> Result<Option<Ceilings>> {
        self.settled("ceilings")?.ceilings()
    }

    fn flush_caches(&mut self) -> Result<()> {
        self.settled("flush_caches")?.flush_caches()
    }

    fn upload_f32(&mut self, tensor: Tensor, values: &[f32]) -> Result<()> {
        self.settled("upload_f32")?.upload_f32(tensor, values)
    }
}
