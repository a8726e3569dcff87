//! The CPU backend: f32, weights packed once at load, our own micro-kernel; the oracle of every other backend.
//!
//! Operations run when they are enqueued, parallel over outputs and never over a reduction, so results do not
//! depend on the number of threads. Every accumulation is a chain of fused multiply-adds in a fixed order, so
//! AVX-512, AVX2 and the portable path give the same bits.

mod adamw;
#[cfg(test)]
mod adamw_tests;
mod attention;
mod attention_backward;
mod ceiling;
mod dropout;
mod embed;
pub mod gemm;
mod head_norm;
mod lanes;
mod linear;
mod linear_backward;
#[cfg(test)]
mod linear_tests;
mod lm_head_loss;
mod lm_head_sample;
mod lora;
mod math;
mod pages;
mod rms_norm;
mod rope;
mod rows;
mod slots;
mod swiglu;
mod workspace;

use std::sync::Arc;

use self::gemm::Aligned;
use super::*;
use crate::error::{Error, Result};

/// The CPU backend.
pub struct CpuBackend {
    pool: gemm::Team,
    tensors: Vec<Option<TensorBuffer>>,
    kv_pools: Vec<Option<pages::KvBuffer>>,
    linears: Vec<linear::LinearWeights>,
    vectors: Vec<Vec<f32>>,
    tables: Vec<embed::TableBuffer>,
    ropes: Vec<rope::RopeBuffer>,
    slots: slots::SlotStore,
    plan: Arc<BatchPlan>,
    /// K and V are bf16.
    kv_rounded: bool,
    /// Matrices are counted, not held: see [`CpuBackend::counting`].
    counts: bool,
    /// Workspace of operations, grown on demand and kept: its contents mean nothing between operations.
    scratch: Aligned,
    /// Times by the names of operations, where they are wanted.
    profile: Option<std::collections::BTreeMap<&'static str, Vec<f64>>>,
}

/// A tensor's storage.
struct TensorBuffer {
    spec: TensorSpec,
    data: Data,
}

/// Elements of a tensor: activations and f32 alike are f32 here.
enum Data {
    F32(Aligned),
    U32(Vec<u32>),
}

impl CpuBackend {
    /// A backend with `threads` worker threads (0: as many as there are cores).
    pub fn new(threads: usize) -> Result<Self> {
        let pool =
            gemm::Team::new(threads).map_err(|e| Error::Unsupported(format!("{threads} threads: {e}")))?;
        Ok(Self {
            pool,
            tensors: Vec::new(),
            kv_pools: Vec::new(),
            linears: Vec::new(),
            vectors: Vec::new(),
            tables: Vec::new(),
            ropes: Vec::new(),
            slots: slots::SlotStore::default(),
            plan: Arc::default(),
            kv_rounded: false,
            counts: false,
            scratch: Aligned::default(),
            profile: None,
        })
    }

    /// The model reads adapters rounded to bf16, as a GPU stores them; the optimizer keeps f32. To measure
    /// what that costs.
    pub fn with_bf16_adapters(mut self) -> Self {
        self.slots.rounded = true;
        self
    }

    /// K and V are rounded to bf16 where they are made, in sampling as in training, and pages hold bf16, as
    /// on a GPU: half the bytes that decoding waits for.
    pub fn with_bf16_kv(mut self) -> Self {
        self.kv_rounded = true;
        self
    }

    /// It takes no memory for matrices, and computes nothing: what is loaded is only counted, for plans of
    /// models that are not here or would not fit.
    pub fn counting(mut self) -> Self {
        self.counts = true;
        self
    }

    /// Bytes that operations hold of their own at present: this backend's, and the buffers that all threads
    /// of the process keep for any.
    pub fn workspace_held(&self) -> usize {
        self.scratch.bytes() + gemm::scratch_bytes()
    }

    fn tensor_buffer(&self, t: Tensor) -> Result<&TensorBuffer> {
        self.tensors
            .get(t.0 as usize)
            .and_then(Option::as_ref)
            .ok_or_else(|| Error::Internal(format!("tensor {} does not exist", t.0)))
    }

    /// The width of a tensor's rows.
    fn width(&self, t: Tensor) -> Result<usize> {
        Ok(self.tensor_buffer(t)?.spec.width)
    }

    /// An f32 tensor's elements.
    fn f32(&self, t: Tensor) -> Result<&[f32]> {
        match &self.tensor_buffer(t)?.data {
            Data::F32(v) => Ok(v),
            Data::U32(_) => Err(Error::Internal(format!("tensor {} holds u32", t.0))),
        }
    }

    /// Takes an f32 tensor's elements out, so that an operation can write them while it reads others; give
    /// them back with [`CpuBackend::put`].
    fn take(&mut self, t: Tensor) -> Result<Aligned> {
        match self.tensors.get_mut(t.0 as usize).and_then(Option::as_mut).map(|b| &mut b.data) {
            Some(Data::F32(v)) => Ok(std::mem::take(v)),
            _ => Err(Error::Internal(format!("tensor {} is not an f32 tensor", t.0))),
        }
    }

    /// Carries out an operation.
    fn run(&mut self, op: Op) -> Result<()> {
        match op {
            Op::Embed(op) => embed::run(self, &op),
            Op::GatherRows(op) => embed::gather(self, &op),
            Op::ScatterRows(op) => embed::scatter(self, &op),
            Op::RmsNorm(op) => rms_norm::forward(self, &op),
            Op::RmsNormBackward(op) => rms_norm::backward(self, &op),
            Op::Dropout(op) => dropout::run(self, &op),
            Op::LinearForward(op) => linear::forward(self, &op),
            Op::LinearBackward(op) => linear_backward::run(self, &op),
            Op::HeadNorm(op) => head_norm::forward(self, &op),
            Op::HeadNormBackward(op) => head_norm::backward(self, &op),
            Op::Rope(op) => rope::forward(self, &op),
            Op::RopeBackward(op) => rope::backward(self, &op),
            Op::AttentionPacked(op) => attention::packed(self, &op),
            Op::AttentionPackedBackward(op) => attention_backward::run(self, &op),
            Op::AttentionPaged(op) => attention::paged(self, &op),
            Op::CopyPages(op) => pages::copy(self, &op),
            Op::SwiGlu(op) => swiglu::forward(self, &op),
            Op::SwiGluBackward(op) => swiglu::backward(self, &op),
            Op::LmHeadLoss(op) => lm_head_loss::run(self, &op),
            Op::LmHeadSample(op) => lm_head_sample::run(self, &op),
            Op::GradNorms(op) => adamw::norms(self, &op),
            Op::AdamW(op) => adamw::step(self, &op),
            Op::ZeroGrad(op) => adamw::zero_grad(self, &op),
        }
    }

    /// Gives back what [`CpuBackend::take`] took.
    fn put(&mut self, t: Tensor, values: Aligned) {
        if let Some(b) = self.tensors.get_mut(t.0 as usize).and_then(Option::as_mut) {
            b.data = Data::F32(values);
        }
    }
}

impl Shapes for CpuBackend {
    fn step(&self) -> &BatchPlan {
        &self.plan
    }

    fn tensor_spec(&self, tensor: Tensor) -> Option<TensorSpec> {
        self.tensors.get(tensor.0 as usize)?.as_ref().map(|t| t.spec)
    }

    fn linear_shape(&self, linear: Linear) -> Option<LinearShape> {
        let linear::LinearWeights { forward, backward, .. } = self.linears.get(linear.0 as usize)?;
        let (inputs, outputs) = (forward.inputs, forward.outputs);
        Some(LinearShape { inputs, outputs, backward: backward.is_some() })
    }

    fn vector_len(&self, vector: Vector) -> Option<usize> {
        self.vectors.get(vector.0 as usize).map(Vec::len)
    }

    fn table_shape(&self, table: Table) -> Option<(usize, usize)> {
        self.tables.get(table.0 as usize).map(|t| (t.vocab, t.hidden))
    }

    fn rope_shape(&self, table: RopeTable) -> Option<(usize, usize)> {
        self.ropes.get(table.0 as usize).map(|t| (t.positions(), t.half))
    }

    fn pool_spec(&self, pool: KvPool) -> Option<KvSpec> {
        self.kv_pools.get(pool.0 as usize)?.as_ref().map(|p| p.spec)
    }

    fn group_parts(&self, group: GroupId) -> Result<(&GroupLayout, std::ops::Range<usize>)> {
        self.slots.group(group)
    }

    fn shrink_width(&self, slot: Slot, parts: std::ops::Range<usize>) -> Result<usize> {
        Ok(self.slots.get(slot)?.parts[parts].iter().flatten().map(|p| p.padded).sum())
    }

    fn require_optimizer(&self, slot: Slot) -> Result<()> {
        self.slots.get(slot)?.optimizer.as_ref().map(drop).ok_or_else(|| slots::no_optimizer(slot))
    }
}

impl Backend for CpuBackend {
    fn describe(&self) -> String {
        let rounded = match (self.slots.rounded, self.kv_rounded) {
            (true, true) => ", adapters, K and V in bf16",
            (true, false) => ", adapters in bf16",
            (false, true) => ", K and V in bf16",
            (false, false) => "",
        };
        let threads = self.pool.threads();
        format!("cpu ({}, {threads} threads{rounded})", gemm::instruction_set())
    }

    fn arithmetic(&self) -> String {
        let adapters = if self.slots.rounded { " bf16-adapters" } else { "" };
        let kv = if self.kv_rounded { " bf16-kv" } else { "" };
        format!("{} {}{adapters}{kv}", std::env::consts::ARCH, gemm::instruction_set())
    }

    fn memory_ceiling(&self) -> Option<Ceiling> {
        ceiling::of_process(self.bytes_in_use())
    }

    fn bytes_in_use(&self) -> usize {
        let tensors: usize = self.tensors.iter().flatten().map(|t| t.spec.rows * t.spec.width * 4).sum();
        let kv: usize = self.kv_pools.iter().flatten().map(|k| k.bytes()).sum();
        let linears: usize = self.linears.iter().map(|l| l.bytes()).sum();
        let vectors: usize = self.vectors.iter().map(|v| v.len() * 4).sum();
        let tables: usize = self.tables.iter().map(|t| t.bytes()).sum();
        let ropes: usize = self.ropes.iter().map(|r| r.bytes()).sum();
        tensors + kv + linears + vectors + tables + ropes + self.slots.bytes()
    }

    fn memory_limit(&self) -> Option<usize> {
        None
    }

    fn runs_beside(&self) -> bool {
        false
    }

    fn width_step(&self) -> usize {
        1
    }

    fn logit_rows(&self, _vocab: usize) -> usize {
        64
    }

    fn activation_bytes(&self) -> usize {
        4
    }

    fn kv_bytes(&self) -> usize {
        if self.kv_rounded { 2 } else { 4 }
    }

    fn workspace_bytes(&self, spec: &WorkspaceSpec) -> usize {
        workspace::bytes(self, spec)
    }

    fn tensor(&mut self, spec: TensorSpec) -> Result<Tensor> {
        let len = spec.rows * spec.width;
        let data = match spec.element {
            // NaN, so that an operation that reads what nobody wrote is found by every test.
            Element::Activation | Element::F32 => Data::F32(Aligned::full(len, f32::NAN)),
            Element::U32 => Data::U32(vec![u32::MAX; len]),
        };
        let buffer = Some(TensorBuffer { spec, data });
        let index = match self.tensors.iter().position(Option::is_none) {
            Some(i) => {
                self.tensors[i] = buffer;
                i
            }
            None => {
                self.tensors.push(buffer);
                self.tensors.len() - 1
            }
        };
        Ok(Tensor(index as u32))
    }

    fn free(&mut self, tensor: Tensor) {
        if let Some(t) = self.tensors.get_mut(tensor.0 as usize) {
            *t = None;
        }
    }

    fn kv_pool(&mut self, spec: KvSpec) -> Result<KvPool> {
        self.kv_pools.push(Some(pages::KvBuffer::new(spec, self.kv_rounded)?));
        Ok(KvPool(self.kv_pools.len() as u32 - 1))
    }

    fn free_kv_pool(&mut self, pool: KvPool) {
        if let Some(p) = self.kv_pools.get_mut(pool.0 as usize) {
            *p = None;
        }
    }

    fn load_linear(&mut self, spec: LinearSpec<'_>) -> Result<Linear> {
        let weights = match self.counts {
            true => linear::LinearWeights::sized(spec),
            false => linear::LinearWeights::pack(&self.pool, spec)?,
        };
        self.linears.push(weights);
        Ok(Linear(self.linears.len() as u32 - 1))
    }

    fn load_vector(&mut self, values: WeightView<'_>) -> Result<Vector> {
        let mut v = vec![0.0; values.rows * values.cols];
        for (row, out) in v.chunks_exact_mut(values.cols.max(1)).enumerate() {
            values.row_into(row, out);
        }
        self.vectors.push(v);
        Ok(Vector(self.vectors.len() as u32 - 1))
    }

    fn load_table(&mut self, values: WeightView<'_>) -> Result<Table> {
        let table =
            if self.counts { embed::TableBuffer::sized(values) } else { embed::TableBuffer::new(values) };
        self.tables.push(table);
        Ok(Table(self.tables.len() as u32 - 1))
    }

    fn load_rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<RopeTable> {
        self.ropes.push(rope::RopeBuffer::new(cos, sin, half)?);
        Ok(RopeTable(self.ropes.len() as u32 - 1))
    }

    fn adapter_layout(&mut self, layout: &AdapterLayout) -> Result<()> {
        self.slots.set_layout(layout)
    }

    fn create_slot(&mut self, spec: &SlotSpec) -> Result<Slot> {
        self.slots.create(spec)
    }

    fn slot_bytes(&self, spec: &SlotSpec) -> usize {
        self.slots.bytes_of(spec)
    }

    fn optimizer_bytes(&self, spec: &SlotSpec) -> usize {
        let copies = if self.slots.rounded { 2 } else { 1 };
        3 * self.slots.bytes_of(spec) / copies
    }

    fn drop_slot(&mut self, slot: Slot) {
        self.slots.drop_slot(slot);
    }

    fn write_slot(&mut self, slot: Slot, part: PartId, matrix: LoraMatrix, values: &[f32]) -> Result<()> {
        self.slots.write(slot, SlotRole::Weights, part, matrix, values)
    }

    fn read_slot(
        &mut self,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
    ) -> Result<Vec<f32>> {
        self.slots.read(slot, role, part, matrix)
    }

    fn copy_slot(&mut self, from: Slot, to: Slot) -> Result<()> {
        self.slots.copy(from, to)
    }

    fn attach_optimizer(&mut self, slot: Slot) -> Result<()> {
        self.slots.attach_optimizer(slot)
    }

    fn detach_optimizer(&mut self, slot: Slot) {
        self.slots.detach_optimizer(slot);
    }

    fn write_moment(
        &mut self,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
        values: &[f32],
    ) -> Result<()> {
        self.slots.write(slot, role, part, matrix, values)
    }

    fn begin(&mut self, plan: Arc<BatchPlan>) -> Result<()> {
        self.plan = plan;
        Ok(())
    }

    fn enqueue(&mut self, op: Op) -> Result<()> {
        if self.counts {
            return Err(Error::Internal(format!("{} on a backend that only counts", op.name())));
        }
        if self.profile.is_none() {
            return self.run(op);
        }
        let (name, start) = (op.name(), std::time::Instant::now());
        let result = self.run(op);
        if let Some(profile) = &mut self.profile {
            profile.entry(name).or_default().push(start.elapsed().as_secs_f64());
        }
        result
    }

    fn submit(&mut self) -> Result<()> {
        Ok(())
    }

    fn download_f32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<f32>> {
        let width = self.width(tensor)?;
        let data = self.f32(tensor)?;
        data.get(..rows * width).map(<[f32]>::to_vec).ok_or_else(|| {
            Error::Internal(format!("download of {rows} rows from a tensor of {}", data.len() / width.max(1)))
        })
    }

    fn download_u32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<u32>> {
        let width = self.width(tensor)?;
        match &self.tensor_buffer(tensor)?.data {
            Data::U32(v) => v.get(..rows * width).map(<[u32]>::to_vec),
            Data::F32(_) => None,
        }
        .ok_or_else(|| Error::Internal(format!("download of {rows} u32 rows from tensor {}", tensor.0)))
    }

    fn upload_f32(&mut self, tensor: Tensor, values: &[f32]) -> Result<()> {
        let mut data = self.take(tensor)?;
        if values.len() > data.len() {
            self.put(tensor, data);
            return Err(Error::Internal(format!(
                "upload of {} values into tensor {}",
                values.len(),
                tensor.0
            )));
        }
        data[..values.len()].copy_from_slice(values);
        self.put(tensor, data);
        Ok(())
    }
}

impl Measured for CpuBackend {
    fn fill_noise(&mut self, tensor: Tensor, count: usize, noise: Noise) -> Result<()> {
        let values: Vec<f32> = (0..count as u64).map(|i| noise.at(i)).collect();
        self.upload_f32(tensor, &values)
    }

    fn set_profiling(&mut self, on: bool) -> Result<()> {
        self.profile = on.then(Default::default);
        Ok(())
    }

    fn take_profile(&mut self) -> Result<Vec<OpTimes>> {
        let taken = self.profile.as_mut().map(std::mem::take).unwrap_or_default();
        let times = taken.into_iter().map(|(name, seconds)| OpTimes { name: name.into(), seconds });
        Ok(sorted(times.collect()))
    }
}
