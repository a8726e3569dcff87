//! [`Op::GradNorms`], [`Op::AdamW`], [`Op::ZeroGrad`]: `kernels/adamw.cu`.

use bytemuck::{Pod, Zeroable};

use super::*;

const NORM_CHUNKS: Kernel = Kernel::new("adamw", "grad_norm_chunks", 256);
const NORMS: Kernel = Kernel::new("adamw", "grad_norms", 256);
const STEP: Kernel = Kernel::new("adamw", "adamw", 256);
const ZERO: Kernel = Kernel::new("adamw", "zero_grad", 256);

/// Elements whose squares a block sums (`kNormChunk`).
const NORM_CHUNK: usize = 1 << 15;
/// Elements that a block updates (`kAdamChunk`).
const CHUNK: usize = 2048;
/// A sum of each of a block's warps.
const SUMS: usize = 8 * size_of::<f64>();

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct NormParams {
    slots: DevicePtr,
    stepping: DevicePtr,
    sums: DevicePtr,
    norms: DevicePtr,
    chunks: u32,
    unused: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct StepParams {
    slots: DevicePtr,
    steps: DevicePtr,
    norms: DevicePtr,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ZeroParams {
    slots: DevicePtr,
    zeroed: DevicePtr,
}

/// The scalars of one adapter's step, rounded once from f64.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Scalars {
    slot: u32,
    max_norm: f32,
    decay: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    root_correction2: f32,
    epsilon: f32,
}

impl Scalars {
    fn new(s: &AdamWStep) -> Self {
        let (beta1, beta2, lr) = (f64::from(s.beta1), f64::from(s.beta2), f64::from(s.learning_rate));
        let t = i32::try_from(s.step).unwrap_or(i32::MAX);
        Self {
            slot: s.slot.0,
            max_norm: s.max_grad_norm,
            decay: (1.0 - lr * f64::from(s.weight_decay)) as f32,
            beta1: s.beta1,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: s.beta2,
            one_minus_beta2: (1.0 - beta2) as f32,
            step_size: (lr / (1.0 - beta1.powi(t))) as f32,
            root_correction2: (1.0 - beta2.powi(t)).sqrt() as f32,
            epsilon: s.epsilon,
        }
    }
}

/// Numbers in the largest of some slots.
fn largest(c: &CudaBackend, slots: impl Iterator<Item = Slot>) -> Result<usize> {
    slots.map(|slot| Ok(c.slots.get(slot)?.elements)).try_fold(0, |most, n: Result<usize>| Ok(most.max(n?)))
}

/// Bytes that the optimizer takes of its own for this many adapters of at most `elements` numbers.
pub fn workspace_bytes(adapters: usize, elements: usize) -> usize {
    let sums = elements.div_ceil(NORM_CHUNK).max(1) * size_of::<f64>();
    adapters * (sums + size_of::<Scalars>() + 2 * size_of::<u32>())
}

/// Uploads what changes from step to step, in order with the work around it.
fn table<T: Pod>(c: &mut CudaBackend, name: &'static str, entries: &[T]) -> Result<DevicePtr> {
    let at = c.workspace(name, size_of_val(entries))?;
    c.flush()?;
    c.driver.upload(at, bytemuck::cast_slice(entries))?;
    Ok(at)
}

/// [`Op::GradNorms`].
pub fn norms(c: &mut CudaBackend, op: &GradNorms) -> Result<()> {
    op.check(c)?;
    let (slots, norms) = (&op.slots, c.at(op.out)?);
    let chunks = largest(c, slots.iter().copied())?.div_ceil(NORM_CHUNK).max(1);
    if slots.is_empty() {
        return Ok(());
    }
    let ids: Vec<u32> = slots.iter().map(|s| s.0).collect();
    let sums = c.workspace("the sums of gradient norms", slots.len() * chunks * size_of::<f64>())?;
    let stepping = table(c, "the slots of gradient norms", &ids)?;
    let params =
        NormParams { slots: c.slots.table(), stepping, sums, norms, chunks: chunks as u32, unused: 0 };
    c.launch(NORM_CHUNKS, [chunks, slots.len(), 1], SUMS, &params);
    c.launch(NORMS, [1, slots.len(), 1], SUMS, &params);
    Ok(())
}

/// [`Op::AdamW`].
pub fn step(c: &mut CudaBackend, op: &AdamW) -> Result<()> {
    op.check(c)?;
    let (steps, norms) = (&op.steps, c.at(op.norms)?);
    let elements = largest(c, steps.iter().map(|s| s.slot))?;
    if elements == 0 {
        return Ok(());
    }
    let scalars: Vec<Scalars> = steps.iter().map(Scalars::new).collect();
    let table = table(c, "the steps of adapters", &scalars)?;
    let params = StepParams { slots: c.slots.table(), steps: table, norms };
    c.launch(STEP, [elements.div_ceil(CHUNK), steps.len(), 1], 0, &params);
    Ok(())
}

/// [`Op::ZeroGrad`].
pub fn zero_grad(c: &mut CudaBackend, op: &ZeroGrad) -> Result<()> {
    op.check(c)?;
    let slots = &op.slots;
    let elements = largest(c, slots.iter().copied())?;
    if elements == 0 {
        return Ok(());
    }
    let ids: Vec<u32> = slots.iter().map(|s| s.0).collect();
    let zeroed = table(c, "the slots to zero", &ids)?;
    let params = ZeroParams { slots: c.slots.table(), zeroed };
    c.launch(ZERO, [elements.div_ceil(CHUNK), slots.len(), 1], 0, &params);
    Ok(())
}
