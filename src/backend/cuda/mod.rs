//! The CUDA backend: bf16 weights and activations, f32 accumulation, f32 master adapters and moments. Its
//! kernels are in `kernels/`, one operation a file, and each has its host side in the file of the same name
//! here.
//!
//! The device is behind [`driver::Driver`]: a GPU, or the emulator that runs the same kernels and the same
//! host code on any machine.
//!
//! Operations become launches, which wait until [`Backend::submit`]. All that changes between steps lies in
//! device memory (the plan, the table of slots) and grids have bucketed sizes, so two steps of the same kind
//! are the same list of launches: the second time such a list is seen it is captured as a graph, from then on
//! it is replayed.

mod adamw;
mod attention;
mod attention_backward;
#[cfg(all(test, feature = "emulator"))]
mod attention_tests;
mod ceiling;
mod counting;
pub mod device;
pub mod driver;
mod dropout;
mod embed;
#[cfg(feature = "emulator")]
pub mod emulator;
mod graphs;
mod head_norm;
pub mod images;
mod linear;
mod linear_backward;
#[cfg(test)]
mod linear_tests;
mod lm_head_loss;
mod lm_head_sample;
mod lora_gradient;
#[cfg(all(test, feature = "emulator"))]
mod lora_tests;
mod noise;
mod nvtx;
mod pages;
mod plan;
mod rms_norm;
mod rope;
mod shrink;
mod slots;
mod swiglu;
mod weights;
mod workspace;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::error::{Error, Result};
use driver::{DevicePtr, Driver, Kernel, Launch};

/// Shared memory of a block that every supported architecture can give (sm_86 and sm_89: 99 KB).
pub const MAX_SHARED: u32 = 99 * 1024;

/// Most bytes of logits at once.
const LOGIT_BYTES: usize = 512 << 20;

/// A tensor's storage.
struct TensorBuffer {
    spec: TensorSpec,
    at: DevicePtr,
}

impl TensorBuffer {
    fn bytes(spec: &TensorSpec) -> usize {
        let element = match spec.element {
            Element::Activation => 2,
            Element::F32 | Element::U32 => 4,
        };
        spec.rows * spec.width * element
    }
}

/// Memory that an operation uses only while it runs.
struct Workspace {
    at: DevicePtr,
    bytes: usize,
}

/// The CUDA backend.
pub struct CudaBackend {
    driver: Box<dyn Driver>,
    tensors: Vec<Option<TensorBuffer>>,
    kv_pools: Vec<Option<pages::KvBuffer>>,
    linears: Vec<weights::LinearWeights>,
    vectors: Vec<weights::VectorBuffer>,
    tables: Vec<weights::TableBuffer>,
    ropes: Vec<rope::RopeBuffer>,
    slots: slots::SlotStore,
    plan: plan::DevicePlan,
    launches: Vec<Launch>,
    /// While a profiler listens: the operation of each launch, by number and name.
    operations: Vec<(u64, &'static str)>,
    /// The operation that is being enqueued.
    operation: (u64, &'static str),
    /// The profiler that wants to know of phases and operations.
    ranges: Option<nvtx::Ranges>,
    graphs: graphs::Graphs,
    workspaces: BTreeMap<&'static str, Workspace>,
    /// An error of work that was enqueued by a call that cannot fail.
    parked: Option<Error>,
}

impl CudaBackend {
    /// The backend on a device.
    pub fn new(driver: Box<dyn Driver>) -> Self {
        Self {
            driver,
            tensors: Vec::new(),
            kv_pools: Vec::new(),
            linears: Vec::new(),
            vectors: Vec::new(),
            tables: Vec::new(),
            ropes: Vec::new(),
            slots: slots::SlotStore::default(),
            plan: plan::DevicePlan::default(),
            launches: Vec::new(),
            operations: Vec::new(),
            operation: (0, ""),
            ranges: None,
            graphs: graphs::Graphs::default(),
            workspaces: BTreeMap::new(),
            parked: None,
        }
    }

    /// Tells the profiler that started the program, if one did, of phases and operations as NVTX ranges.
    pub fn with_ranges(mut self) -> Result<Self> {
        self.ranges = nvtx::Ranges::of_the_profiler()?;
        Ok(self)
    }

    /// Bytes that operations and the plan of a step took of their own so far: at most
    /// [`Backend::workspace_bytes`] of what was foreseen.
    pub fn workspace_held(&self) -> usize {
        self.plan.capacity() + self.workspaces.values().map(|w| w.bytes).sum::<usize>()
    }

    fn tensor_buffer(&self, t: Tensor) -> Result<&TensorBuffer> {
        self.tensors
            .get(t.0 as usize)
            .and_then(Option::as_ref)
            .ok_or_else(|| Error::Internal(format!("tensor {} does not exist", t.0)))
    }

    /// Where a tensor lies.
    fn at(&self, t: Tensor) -> Result<DevicePtr> {
        Ok(self.tensor_buffer(t)?.at)
    }

    /// A pool by its handle.
    fn pool(&self, kv: KvPool) -> Result<&pages::KvBuffer> {
        let pool = self.kv_pools.get(kv.0 as usize).and_then(Option::as_ref);
        pool.ok_or_else(|| Error::Internal(format!("KV pool {} does not exist", kv.0)))
    }

    /// Enqueues a kernel; its grid must not be empty.
    fn launch<P: bytemuck::Pod>(&mut self, kernel: Kernel, grid: [usize; 3], shared: usize, params: &P) {
        if self.ranges.is_some() {
            self.operations.push(self.operation);
        }
        self.launches.push(Launch {
            kernel,
            grid: grid.map(|g| g as u32),
            shared: shared as u32,
            params: bytemuck::bytes_of(params).to_vec(),
        });
    }

    /// Memory for an operation's own use, at least `bytes`, until the next operation that asks under the same name.
    fn workspace(&mut self, name: &'static str, bytes: usize) -> Result<DevicePtr> {
        if let Some(w) = self.workspaces.get(name).filter(|w| w.bytes >= bytes) {
            return Ok(w.at);
        }
        // What is enqueued may still use the smaller one.
        self.flush()?;
        if let Some(old) = self.workspaces.remove(name) {
            self.driver.free(old.at);
        }
        let bytes = bytes.next_multiple_of(1 << 16);
        let at = self.driver.alloc(bytes, name)?;
        self.workspaces.insert(name, Workspace { at, bytes });
        Ok(at)
    }

    /// Gives the launches so far to the device where an error cannot be returned; it comes with the next flush.
    fn flush_or_park(&mut self) {
        if let Err(e) = self.flush() {
            self.parked = Some(e);
        }
    }

    /// Gives the launches so far to the device.
    fn flush(&mut self) -> Result<()> {
        if let Some(e) = self.parked.take() {
            return Err(e);
        }
        if self.launches.is_empty() {
            return Ok(());
        }
        let launches = std::mem::take(&mut self.launches);
        let operations = std::mem::take(&mut self.operations);
        let told = self.ranges.map(|ranges| graphs::Told::new(ranges, operations));
        self.graphs.run(&mut *self.driver, launches, told.as_ref())
    }
}

impl Shapes for CudaBackend {
    const SHRINK_STEP: usize = linear::SHRINK_STEP;
    const MOST_HEAD_DIM: Option<usize> = Some(128);

    fn step(&self) -> &BatchPlan {
        &self.plan.host
    }

    fn tensor_spec(&self, tensor: Tensor) -> Option<TensorSpec> {
        self.tensors.get(tensor.0 as usize)?.as_ref().map(|t| t.spec)
    }

    fn linear_shape(&self, linear: Linear) -> Option<LinearShape> {
        let &weights::LinearWeights { inputs, outputs, .. } = self.linears.get(linear.0 as usize)?;
        Some(LinearShape { inputs, outputs, backward: true })
    }

    fn vector_len(&self, vector: Vector) -> Option<usize> {
        self.vectors.get(vector.0 as usize).map(|v| v.len)
    }

    fn table_shape(&self, table: Table) -> Option<(usize, usize)> {
        self.tables.get(table.0 as usize).map(|t| (t.rows, t.width))
    }

    fn rope_shape(&self, table: RopeTable) -> Option<(usize, usize)> {
        self.ropes.get(table.0 as usize).map(|t| (t.positions, t.half))
    }

    fn pool_spec(&self, pool: KvPool) -> Option<KvSpec> {
        self.kv_pools.get(pool.0 as usize)?.as_ref().map(|p| p.spec)
    }

    fn pages_fit(&self, spec: &KvSpec) -> bool {
        self.plan.paging.fits(spec)
    }

    fn group_parts(&self, group: GroupId) -> Result<(&GroupLayout, std::ops::Range<usize>)> {
        let (layout, first) = self.slots.group(group)?;
        Ok((layout, first.0 as usize..first.0 as usize + layout.parts.len()))
    }

    fn shrink_width(&self, slot: Slot, parts: std::ops::Range<usize>) -> Result<usize> {
        Ok(self.slots.get(slot)?.parts[parts].iter().map(|p| p.rank as usize).sum())
    }

    fn require_optimizer(&self, slot: Slot) -> Result<()> {
        let nothing = slot != Slot::BASE && self.slots.get(slot)?.elements == 0;
        if !nothing && !self.slots.has_optimizer(slot)? {
            return Err(Error::Internal(format!("slot {} has no optimizer state", slot.0)));
        }
        Ok(())
    }
}

impl Backend for CudaBackend {
    fn describe(&self) -> String {
        self.driver.describe()
    }

    fn arithmetic(&self) -> String {
        self.driver.arithmetic()
    }

    fn activation_bytes(&self) -> usize {
        2
    }

    fn kv_bytes(&self) -> usize {
        2
    }

    fn bytes_in_use(&self) -> usize {
        let tensors: usize = self.tensors.iter().flatten().map(|t| TensorBuffer::bytes(&t.spec)).sum();
        let kv: usize = self.kv_pools.iter().flatten().map(|k| k.bytes()).sum();
        let linears: usize = self.linears.iter().map(|l| l.bytes()).sum();
        let vectors: usize = self.vectors.iter().map(|v| v.bytes()).sum();
        let tables: usize = self.tables.iter().map(|t| t.bytes()).sum();
        let ropes: usize = self.ropes.iter().map(|r| r.bytes()).sum();
        tensors + kv + linears + vectors + tables + ropes + self.slots.bytes()
    }

    fn workspace_bytes(&self, spec: &WorkspaceSpec) -> usize {
        workspace::bytes(self, spec)
    }

    fn logit_rows(&self, vocab: usize) -> usize {
        // The lm_head is read once for all rows at once, and its backward needs as many blocks as it can get.
        (LOGIT_BYTES / (4 * vocab.max(1))).clamp(64, 1024)
    }

    fn width_step(&self) -> usize {
        weights::WIDTH_STEP
    }

    fn memory_limit(&self) -> Option<usize> {
        self.driver.memory()
    }

    fn memory_ceiling(&self) -> Option<Ceiling> {
        None
    }

    fn tensor(&mut self, spec: TensorSpec) -> Result<Tensor> {
        let at = self.driver.alloc(TensorBuffer::bytes(&spec), spec.name)?;
        let buffer = Some(TensorBuffer { spec, at });
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
        if let Some(t) = self.tensors.get_mut(tensor.0 as usize).and_then(Option::take) {
            self.flush_or_park();
            self.driver.free(t.at);
        }
    }

    fn kv_pool(&mut self, spec: KvSpec) -> Result<KvPool> {
        let buffer = pages::KvBuffer::new(&mut *self.driver, spec)?;
        self.kv_pools.push(Some(buffer));
        Ok(KvPool(self.kv_pools.len() as u32 - 1))
    }

    fn free_kv_pool(&mut self, pool: KvPool) {
        if let Some(p) = self.kv_pools.get_mut(pool.0 as usize).and_then(Option::take) {
            self.flush_or_park();
            p.free(&mut *self.driver);
        }
    }

    fn load_linear(&mut self, spec: LinearSpec<'_>) -> Result<Linear> {
        self.linears.push(weights::LinearWeights::load(&mut *self.driver, spec)?);
        Ok(Linear(self.linears.len() as u32 - 1))
    }

    fn load_tied(&mut self, table: Table, spec: LinearSpec<'_>) -> Result<Linear> {
        let found = self.tables.get(table.0 as usize);
        let found = found.ok_or_else(|| Error::Internal(format!("table {} does not exist", table.0)))?;
        self.linears.push(weights::LinearWeights::tied(found, spec)?);
        Ok(Linear(self.linears.len() as u32 - 1))
    }

    fn load_vector(&mut self, values: WeightView<'_>) -> Result<Vector> {
        self.vectors.push(weights::VectorBuffer::load(&mut *self.driver, values)?);
        Ok(Vector(self.vectors.len() as u32 - 1))
    }

    fn load_table(&mut self, values: WeightView<'_>) -> Result<Table> {
        self.tables.push(weights::TableBuffer::load(&mut *self.driver, values)?);
        Ok(Table(self.tables.len() as u32 - 1))
    }

    fn load_rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<RopeTable> {
        self.ropes.push(rope::RopeBuffer::load(&mut *self.driver, cos, sin, half)?);
        Ok(RopeTable(self.ropes.len() as u32 - 1))
    }

    fn adapter_layout(&mut self, layout: &AdapterLayout) -> Result<()> {
        self.slots.set_layout(&mut *self.driver, layout)
    }

    fn create_slot(&mut self, spec: &SlotSpec) -> Result<Slot> {
        self.flush()?;
        self.slots.create(&mut *self.driver, spec)
    }

    fn slot_bytes(&self, spec: &SlotSpec) -> usize {
        self.slots.bytes_of(spec)
    }

    fn optimizer_bytes(&self, spec: &SlotSpec) -> usize {
        self.slots.optimizer_bytes_of(spec)
    }

    fn drop_slot(&mut self, slot: Slot) {
        self.flush_or_park();
        self.slots.drop_slot(&mut *self.driver, slot);
    }

    fn write_slot(&mut self, slot: Slot, part: PartId, matrix: LoraMatrix, values: &[f32]) -> Result<()> {
        self.flush()?;
        self.slots.write(&mut *self.driver, slot, SlotRole::Weights, part, matrix, values)
    }

    fn read_slot(
        &mut self,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
    ) -> Result<Vec<f32>> {
        self.flush()?;
        self.slots.read(&mut *self.driver, slot, role, part, matrix)
    }

    fn copy_slot(&mut self, from: Slot, to: Slot) -> Result<()> {
        self.flush()?;
        self.slots.copy(&mut *self.driver, from, to)
    }

    fn attach_optimizer(&mut self, slot: Slot) -> Result<()> {
        self.flush()?;
        self.slots.attach_optimizer(&mut *self.driver, slot)
    }

    fn detach_optimizer(&mut self, slot: Slot) {
        self.flush_or_park();
        self.slots.detach_optimizer(&mut *self.driver, slot);
    }

    fn write_moment(
        &mut self,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
        values: &[f32],
    ) -> Result<()> {
        self.flush()?;
        self.slots.write(&mut *self.driver, slot, role, part, matrix, values)
    }

    fn begin(&mut self, plan: Arc<BatchPlan>) -> Result<()> {
        self.flush()?;
        self.plan.set(&mut *self.driver, plan)
    }

    fn runs_beside(&self) -> bool {
        true
    }

    fn fetch_draws(&mut self, tokens: Tensor, logprobs: Tensor, draws: usize) -> Result<Draws> {
        self.flush()?;
        self.check("fetch_draws", tokens, draws, 1, Element::U32)?;
        self.check("fetch_draws", logprobs, draws, 1, Element::F32)?;
        let (tokens, logprobs) = (self.at(tokens)?, self.at(logprobs)?);
        let copy = self.driver.fetch([(tokens, 4 * draws), (logprobs, 4 * draws)])?;
        Ok(Draws::Coming { copy, draws })
    }

    fn draws(&mut self, draws: Draws) -> Result<(Vec<u32>, Vec<f32>)> {
        match draws {
            Draws::Here(tokens, logprobs) => Ok((tokens, logprobs)),
            Draws::Coming { copy, draws } => {
                let (mut tokens, mut logprobs) = (vec![0u32; draws], vec![0f32; draws]);
                let parts = [bytemuck::cast_slice_mut(&mut tokens), bytemuck::cast_slice_mut(&mut logprobs)];
                self.driver.fetched(copy, parts)?;
                Ok((tokens, logprobs))
            }
        }
    }

    fn enqueue(&mut self, op: Op) -> Result<()> {
        self.operation = (self.operation.0 + 1, op.name());
        match op {
            Op::Embed(op) => embed::embed(self, &op),
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

    fn submit(&mut self) -> Result<()> {
        self.flush()?;
        self.driver.submit()
    }

    fn download_f32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<f32>> {
        self.flush()?;
        let TensorBuffer { spec, at } = self.tensor_buffer(tensor)?;
        let (spec, at) = (*spec, *at);
        let len = rows * spec.width;
        if rows > spec.rows {
            return Err(Error::Internal(format!("download of {rows} rows from a tensor of {}", spec.rows)));
        }
        match spec.element {
            Element::F32 => {
                let mut values = vec![0f32; len];
                self.driver.download(at, bytemuck::cast_slice_mut(&mut values))?;
                Ok(values)
            }
            Element::Activation => {
                let mut values = vec![half::bf16::ZERO; len];
                self.driver.download(at, bytemuck::cast_slice_mut(&mut values))?;
                Ok(values.into_iter().map(half::bf16::to_f32).collect())
            }
            Element::U32 => Err(Error::Internal(format!("tensor {} holds u32", spec.name))),
        }
    }

    fn download_u32(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<u32>> {
        self.flush()?;
        let TensorBuffer { spec, at } = self.tensor_buffer(tensor)?;
        if spec.element != Element::U32 || rows > spec.rows {
            return Err(Error::Internal(format!(
                "download of {rows} u32 rows from tensor {}, {:?} of {} rows",
                spec.name, spec.element, spec.rows
            )));
        }
        let (at, mut values) = (*at, vec![0u32; rows * spec.width]);
        self.driver.download(at, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    fn upload_f32(&mut self, tensor: Tensor, values: &[f32]) -> Result<()> {
        self.flush()?;
        let TensorBuffer { spec, at } = self.tensor_buffer(tensor)?;
        if values.len() > spec.rows * spec.width {
            return Err(Error::Internal(format!(
                "upload of {} values into tensor {} [{}, {}]",
                values.len(),
                spec.name,
                spec.rows,
                spec.width
            )));
        }
        match spec.element {
            Element::F32 => self.driver.upload(*at, bytemuck::cast_slice(values)),
            Element::Activation => {
                let rounded: Vec<half::bf16> = values.iter().map(|&x| half::bf16::from_f32(x)).collect();
                self.driver.upload(*at, bytemuck::cast_slice(&rounded))
            }
            Element::U32 => Err(Error::Internal(format!("tensor {} holds u32", spec.name))),
        }
    }
}

impl Measured for CudaBackend {
    fn begin_phase(&mut self, name: &'static str) {
        if let Some(ranges) = &self.ranges {
            ranges.push(name);
        }
    }

    fn end_phase(&mut self) {
        if let Some(ranges) = &self.ranges {
            ranges.pop();
        }
    }

    fn set_profiling(&mut self, on: bool) -> Result<()> {
        self.flush()?;
        self.driver.set_profiling(on)?;
        self.graphs.off = on;
        Ok(())
    }

    fn take_profile(&mut self) -> Result<Vec<OpTimes>> {
        self.flush()?;
        self.driver.synchronize()?;
        Ok(sorted(self.driver.take_profile()?))
    }

    fn graph_counts(&self) -> Option<GraphCounts> {
        Some(self.graphs.counts)
    }

    fn has_ceilings(&self) -> bool {
        true
    }

    fn ceilings(&mut self) -> Result<Option<Ceilings>> {
        self.flush()?;
        self.driver.ceilings()
    }

    fn flush_caches(&mut self) -> Result<()> {
        // More than any L2 cache holds.
        const BYTES: usize = 256 << 20;
        let at = self.workspace("flushed caches", BYTES)?;
        self.flush()?;
        self.driver.fill(at, 0, BYTES)
    }

    fn fill_noise(&mut self, tensor: Tensor, count: usize, noise: Noise) -> Result<()> {
        self.flush()?;
        let TensorBuffer { spec, at } = self.tensor_buffer(tensor)?;
        if spec.element != Element::Activation || count > spec.rows * spec.width {
            return Err(Error::Internal(format!("{count} numbers of noise in tensor {}", spec.name)));
        }
        let at = *at;
        noise::fill(&mut *self.driver, at, count, noise)
    }
}
