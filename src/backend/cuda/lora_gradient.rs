//! The gradients of A and B of a linear group: `kernels/lora_gradient.cu`.

use bytemuck::{Pod, Zeroable};

use super::shrink::StepGroup;
use super::*;

const ROUND: Kernel = Kernel::new("lora_gradient", "lora_round", 256);
const GRADIENT: Kernel = Kernel::new("lora_gradient", "lora_gradient", 256);
const GRADIENT_UNALIGNED: Kernel = Kernel::new("lora_gradient", "lora_gradient_unaligned", 256);

/// Columns of x or dy in a block (`kColumns`).
const COLUMNS: usize = 128;
/// Rank columns in a block (`kRanks`).
const RANKS: usize = 64;
/// Four stages of 32 rows of both, bf16, and where the gradient lies.
const SHARED: usize = 4 * 32 * (COLUMNS + RANKS) * 2 + 40;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RoundParams {
    plan: DevicePtr,
    slots: DevicePtr,
    h: DevicePtr,
    dh: DevicePtr,
    scaled_h: DevicePtr,
    rounded_dh: DevicePtr,
    first_part: u32,
    parts: u32,
    stride: u32,
    width: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    slots: DevicePtr,
    places: DevicePtr,
    x: DevicePtr,
    dy: DevicePtr,
    scaled_h: DevicePtr,
    rounded_dh: DevicePtr,
    first_part: u32,
    parts: u32,
    inputs: u32,
    outputs: u32,
    width: u32,
    unused: u32,
}

/// Adds to the gradient of each slot, sequence by sequence in their order: `dB = dyᵀ bf16(s h)`,
/// `dA = bf16(dh)ᵀ x`. x bf16 `[R, inputs]`, dy bf16 `[R, outputs]`, h (unscaled) and dh f32 `[R, stride]`.
pub fn run(
    c: &mut CudaBackend,
    group: GroupId,
    x: DevicePtr,
    dy: DevicePtr,
    h: DevicePtr,
    dh: DevicePtr,
    stride: usize,
) -> Result<()> {
    let work = StepGroup::new(c, "lora_gradient", group, stride)?;
    for &slot in &work.slots {
        c.require_optimizer(slot)?;
    }
    let bounds = c.plan.bounds;
    if work.width == 0 || bounds.slot_works == 0 {
        return Ok(());
    }
    let bytes = bounds.rows * work.width * 2;
    let scaled_h = c.workspace("the rounded h and dh", 2 * bytes)?;
    let rounded_dh = scaled_h.offset(bytes);
    let (plan, slots) = (c.plan.at(), c.slots.table());
    let (first_part, parts, width) = (work.first_part, work.parts, work.width as u32);
    let params = RoundParams {
        plan,
        slots,
        h,
        dh,
        scaled_h,
        rounded_dh,
        first_part,
        parts,
        stride: stride as u32,
        width,
    };
    c.launch(ROUND, [bounds.segment_tiles, 1, 1], 0, &params);
    let params = Params {
        plan,
        slots,
        places: c.slots.places(),
        x,
        dy,
        scaled_h,
        rounded_dh,
        first_part,
        parts,
        inputs: work.inputs as u32,
        outputs: work.outputs as u32,
        width,
        unused: 0,
    };
    let tiles =
        work.inputs.div_ceil(COLUMNS) + work.part_outputs.iter().map(|n| n.div_ceil(COLUMNS)).sum::<usize>();
    let kernel = if work.aligned { GRADIENT } else { GRADIENT_UNALIGNED };
    c.launch(kernel, [tiles, work.width.div_ceil(RANKS), bounds.slot_works], SHARED, &params);
    Ok(())
}
