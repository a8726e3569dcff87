//! The CPU backend with bf16 in the places where the CUDA backend has it: weights as they are loaded, activations after each operation. What it loses against f32 is
//! what bf16 costs, by whatever arithmetic.

use std::sync::Arc;

use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::*;
use colloquy::error::Result;

pub struct Rounded {
    cpu: CpuBackend,
    /// Rows of each activation; none for other tensors.
    activations: Vec<Option<usize>>,
}

fn bf16(values: &[f32]) -> Vec<half::bf16> {
    values.iter().map(|&x| half::bf16::from_f32(x)).collect()
}

fn widened(view: WeightView<'_>) -> Vec<f32> {
    let mut values = vec![0.0; view.rows * view.cols];
    for (row, out) in values.chunks_exact_mut(view.cols).enumerate() {
        view.row_into(row, out);
    }
    values
}

impl Rounded {
    pub fn new(threads: usize) -> Self {
        Self { cpu: CpuBackend::new(threads).unwrap(), activations: Vec::new() }
    }

    fn round(&mut self, tensor: Tensor) -> Result<()> {
        if let Some(rows) = self.activations[tensor.0 as usize] {
            let values = self.cpu.download_f32(tensor, rows)?;
            let rounded: Vec<f32> = bf16(&values).into_iter().map(|x| x.to_f32()).collect();
            self.cpu.upload_f32(tensor, &rounded)?;
        }
        Ok(())
    }
}

/// The tensors that an operation writes.
fn written(op: &Op) -> Vec<Tensor> {
    match *op {
        Op::Embed(Embed { out, .. })
        | Op::GatherRows(GatherRows { out, .. })
        | Op::RmsNorm(RmsNorm { out, .. }) => vec![out],
        Op::ScatterRows(ScatterRows { dx, .. }) | Op::RmsNormBackward(RmsNormBackward { dx, .. }) => vec![dx],
        Op::LinearForward(LinearForward { y, .. }) => vec![y],
        Op::LinearBackward(LinearBackward { dx, .. }) => dx.into_iter().collect(),
        Op::Rope(Rope { qkv, .. }) | Op::HeadNorm(HeadNorm { qkv, .. }) => vec![qkv],
        Op::RopeBackward(RopeBackward { dqkv, .. })
        | Op::HeadNormBackward(HeadNormBackward { dqkv, .. })
        | Op::AttentionPackedBackward(AttentionPackedBackward { dqkv, .. }) => vec![dqkv],
        Op::SwiGlu(SwiGlu { out, .. })
        | Op::AttentionPacked(AttentionPacked { out, .. })
        | Op::AttentionPaged(AttentionPaged { out, .. }) => vec![out],
        Op::SwiGluBackward(SwiGluBackward { dgate_up, .. }) => vec![dgate_up],
        Op::LmHeadLoss(LmHeadLoss { dhidden, .. }) => dhidden.into_iter().collect(),
        _ => vec![],
    }
}

impl Measured for Rounded {}

impl Backend for Rounded {
    fn describe(&self) -> String {
        "cpu, rounded to bf16".into()
    }
    fn arithmetic(&self) -> String {
        self.cpu.arithmetic()
    }
    fn activation_bytes(&self) -> usize {
        self.cpu.activation_bytes()
    }
    fn kv_bytes(&self) -> usize {
        self.cpu.kv_bytes()
    }
    fn bytes_in_use(&self) -> usize {
        self.cpu.bytes_in_use()
    }
    fn workspace_bytes(&self, spec: &WorkspaceSpec) -> usize {
        self.cpu.workspace_bytes(spec)
    }
    fn logit_rows(&self, vocab: usize) -> usize {
        self.cpu.logit_rows(vocab)
    }
    fn width_step(&self) -> usize {
        self.cpu.width_step()
    }
    fn memory_limit(&self) -> Option<usize> {
        self.cpu.memory_limit()
    }
    fn memory_ceiling(&self) -> Option<Ceiling> {
        self.cpu.memory_ceiling()
    }
    fn runs_beside(&self) -> bool {
        self.cpu.runs_beside()
    }
    fn optimizer_bytes(&self, spec: &SlotSpec) -> usize {
        self.cpu.optimizer_bytes(spec)
    }
    fn tensor(&mut self, spec: TensorSpec) -> Result<Tensor> {
        let tensor = self.cpu.tensor(spec)?;
        let index = tensor.0 as usize;
        if self.activations.len() <= index {
            self.activations.resize(index + 1, None);
        }
        self.activations[index] = (spec.element == Element::Activation).then_some(spec.rows);
        Ok(tensor)
    }
    fn free(&mut self, tensor: Tensor) {
        self.cpu.free(tensor);
    }
    fn kv_pool(&mut self, spec: KvSpec) -> Result<KvPool> {
        self.cpu.kv_pool(spec)
    }
    fn free_kv_pool(&mut self, pool: KvPool) {
        self.cpu.free_kv_pool(pool);
    }
    fn load_linear(&mut self, spec: LinearSpec<'_>) -> Result<Linear> {
        let parts: Vec<Vec<half::bf16>> = spec.parts.iter().map(|p| bf16(&widened(*p))).collect();
        let views: Vec<WeightView<'_>> = parts
            .iter()
            .zip(spec.parts)
            .map(|(v, p)| WeightView { bytes: bytemuck::cast_slice(v), dtype: WeightType::Bf16, ..*p })
            .collect();
        self.cpu.load_linear(LinearSpec { parts: &views, ..spec })
    }
    fn load_vector(&mut self, values: WeightView<'_>) -> Result<Vector> {
        self.cpu.load_vector(values)
    }
    fn load_table(&mut self, values: WeightView<'_>) -> Result<Table> {
        let rounded = bf16(&widened(values));
        let bytes = bytemuck::cast_slice(&rounded);
        self.cpu.load_table(WeightView { bytes, dtype: WeightType::Bf16, ..values })
    }
    fn load_rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<RopeTable> {
        self.cpu.load_rope(cos, sin, half)
    }
    fn adapter_layout(&mut self, layout: &AdapterLayout) -> Result<()> {
        self.cpu.adapter_layout(layout)
    }
    fn create_slot(&mut self, spec: &SlotSpec) -> Result<Slot> {
        self.cpu.create_slot(spec)
    }
    fn slot_bytes(&self, spec: &SlotSpec) -> usize {
        self.cpu.slot_bytes(spec)
    }
    fn drop_slot(&mut self, slot: Slot) {
        self.cpu.drop_slot(slot);
    }
    fn write_slot(&mut self, slot: Slot, part: PartId, matrix: LoraMatrix, values: &[f32]) -> Result<()> {
        let rounded: Vec<f32> = bf16(values).into_iter().map(|x| x.to_f32()).collect();
        self.cpu.write_slot(slot, part, matrix, &rounded)
    }
    fn read_slot(
        &mut self,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
    ) -> Result<Vec<f32>> {
        self.cpu.read_slot(slot, role, part, matrix)
    }
    fn copy_slot(&mut self, from: Slot, to: Slot) -> Result<()> {
        self.cpu.copy_slot(from, to)
    }
    fn attach_optimizer(&mut self, slot: Slot) -> Result<()> {
        self.cpu.attach_optimizer(slot)
    }
    fn detach_optimizer(&mut self, slot: Slot) {
        self.cpu.detach_optimizer(slot);
    }
    fn write_moment(
        &mut self,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
        values: &[f32],
    ) -> Result<()> {
        self.cpu.write_moment(slot, role, part, matrix, values)
    }
    fn begin(&mut self, plan: Arc<BatchPlan>) -> Result<()> {
        self.cpu.begin(plan)
    }
    fn enqueue(&mut self, op: Op) -> Result<()> {
        let tensors = written(&op);
        self.cpu.enqueue(op)?;
        tensors.into_iter().try_for_each(|t| self.round(t))
    }
    fn submit(&mut self) -> Result<()> {
        self.cpu.submit()
    }
    fn download_f32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<f32>> {
        self.cpu.download_f32(tensor, rows)
    }
    fn download_u32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<u32>> {
        self.cpu.download_u32(tensor, rows)
    }
    fn upload_f32(&mut self, tensor: Tensor, values: &[f32]) -> Result<()> {
        self.cpu.upload_f32(tensor, values)?;
        self.round(tensor)
    }
}
