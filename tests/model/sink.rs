//! A backend that only counts what it is given.

use colloquy::backend::*;
use colloquy::error::Result;

/// A backend that takes weights and forgets them, and counts.
#[derive(Default)]
pub struct Sink {
    pub linears: usize,
    pub packed_for_backward: usize,
    pub elements: usize,
    pub biases: usize,
    pub layout: Option<AdapterLayout>,
    pub tensors: Vec<TensorSpec>,
    pub freed: usize,
    pub ops: Vec<&'static str>,
}

impl Measured for Sink {}

impl Backend for Sink {
    fn describe(&self) -> String {
        "sink".into()
    }
    fn arithmetic(&self) -> String {
        "none".into()
    }
    fn bytes_in_use(&self) -> usize {
        0
    }
    fn activation_bytes(&self) -> usize {
        4
    }
    fn kv_bytes(&self) -> usize {
        4
    }
    fn workspace_bytes(&self, _: &WorkspaceSpec) -> usize {
        0
    }
    fn logit_rows(&self, _: usize) -> usize {
        64
    }
    fn width_step(&self) -> usize {
        1
    }
    fn memory_limit(&self) -> Option<usize> {
        None
    }
    fn memory_ceiling(&self) -> Option<Ceiling> {
        None
    }
    fn runs_beside(&self) -> bool {
        false
    }
    fn optimizer_bytes(&self, _: &SlotSpec) -> usize {
        0
    }
    fn tensor(&mut self, spec: TensorSpec) -> Result<Tensor> {
        self.tensors.push(spec);
        Ok(Tensor(self.tensors.len() as u32 - 1))
    }
    fn free(&mut self, _: Tensor) {
        self.freed += 1;
    }
    fn kv_pool(&mut self, _: KvSpec) -> Result<KvPool> {
        Ok(KvPool(0))
    }
    fn free_kv_pool(&mut self, _: KvPool) {}
    fn load_linear(&mut self, spec: LinearSpec<'_>) -> Result<Linear> {
        self.linears += 1;
        self.packed_for_backward += usize::from(spec.backward);
        self.elements += spec.parts.iter().map(|p| p.rows * p.cols).sum::<usize>();
        self.biases += spec.bias.map_or(0, <[f32]>::len);
        Ok(Linear(0))
    }
    fn load_vector(&mut self, values: WeightView<'_>) -> Result<Vector> {
        self.elements += values.rows * values.cols;
        Ok(Vector(0))
    }
    fn load_table(&mut self, values: WeightView<'_>) -> Result<Table> {
        self.elements += values.rows * values.cols;
        Ok(Table(0))
    }
    fn load_rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<RopeTable> {
        assert!(cos.len() == sin.len() && cos.len().is_multiple_of(half));
        Ok(RopeTable(0))
    }
    fn adapter_layout(&mut self, layout: &AdapterLayout) -> Result<()> {
        self.layout = Some(layout.clone());
        Ok(())
    }
    fn create_slot(&mut self, _: &SlotSpec) -> Result<Slot> {
        Ok(Slot(1))
    }
    fn slot_bytes(&self, _: &SlotSpec) -> usize {
        0
    }
    fn drop_slot(&mut self, _: Slot) {}
    fn write_slot(&mut self, _: Slot, _: PartId, _: LoraMatrix, _: &[f32]) -> Result<()> {
        Ok(())
    }
    fn read_slot(&mut self, _: Slot, _: SlotRole, _: PartId, _: LoraMatrix) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }
    fn copy_slot(&mut self, _: Slot, _: Slot) -> Result<()> {
        Ok(())
    }
    fn attach_optimizer(&mut self, _: Slot) -> Result<()> {
        Ok(())
    }
    fn detach_optimizer(&mut self, _: Slot) {}
    fn write_moment(&mut self, _: Slot, _: SlotRole, _: PartId, _: LoraMatrix, _: &[f32]) -> Result<()> {
        Ok(())
    }
    fn begin(&mut self, _: std::sync::Arc<BatchPlan>) -> Result<()> {
        Ok(())
    }
    fn enqueue(&mut self, op: Op) -> Result<()> {
        self.ops.push(op.name());
        Ok(())
    }
    fn submit(&mut self) -> Result<()> {
        Ok(())
    }
    fn download_f32(&mut self, _: Tensor, _: usize) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }
    fn download_u32(&mut self, _: Tensor, _: usize) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }
    fn upload_f32(&mut self, _: Tensor, _: &[f32]) -> Result<()> {
        Ok(())
    }
}
