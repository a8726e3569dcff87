//! The shrinks of a linear group, forward and backward: `kernels/shrink.cu`.

use bytemuck::{Pod, Zeroable};

use super::*;

const FORWARD: Kernel = Kernel::new("shrink", "shrink_forward", 256);
const BACKWARD: Kernel = Kernel::new("shrink", "shrink_backward", 256);
const BACKWARD_UNALIGNED: Kernel = Kernel::new("shrink", "shrink_backward_unaligned", 256);
const MERGE: Kernel = Kernel::new("shrink", "shrink_merge", 256);

/// Groups of k-steps (`kGroups`), and warps of a block.
pub const GROUPS: usize = 8;
/// 16-row blocks of ranks in a chunk (`kRankBlocks`).
const RANK_BLOCKS: usize = 4;
/// Sums shorter than this are not split: a block has too little to do.
const MIN_SPLIT: usize = 1024;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    slots: DevicePtr,
    places: DevicePtr,
    x: DevicePtr,
    out: DevicePtr,
    first_part: u32,
    parts: u32,
    width: u32,
    stride: u32,
    blocks: u32,
    chunks: u32,
    split: u32,
    rows: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MergeParams {
    plan: DevicePtr,
    slots: DevicePtr,
    sums: DevicePtr,
    out: DevicePtr,
    first_part: u32,
    parts: u32,
    rows: u32,
    width: u32,
    stride: u32,
    scaled: u32,
}

/// A group, and what the slots of the step make of it.
pub struct StepGroup {
    /// First part of the group.
    pub first_part: u32,
    /// Parts of the group.
    pub parts: u32,
    /// Width of x.
    pub inputs: usize,
    /// Width of dy.
    pub outputs: usize,
    /// Outputs of each part.
    pub part_outputs: Vec<usize>,
    /// Columns of h that the widest slot has; 0 where no slot of the step changes the group.
    pub width: usize,
    /// The largest padded rank.
    pub rank: usize,
    /// Whether the outputs of all parts begin and end on 16 bytes of dy.
    pub aligned: bool,
    /// Slots that change the group.
    pub slots: Vec<Slot>,
}

impl StepGroup {
    /// Looks the slots of the step up; `stride` is that of the tensors of h.
    pub fn new(c: &CudaBackend, op: &str, group: GroupId, stride: usize) -> Result<Self> {
        let (layout, first) = c.slots.group(group)?;
        weights::check_width(op, layout.inputs)?;
        let first_part = first.0 as usize;
        let parts = first_part..first_part + layout.parts.len();
        let on_pieces = |n: usize| n.is_multiple_of(8);
        let mut found = Self {
            first_part: first.0,
            parts: layout.parts.len() as u32,
            inputs: layout.inputs,
            outputs: layout.outputs,
            part_outputs: layout.parts.iter().map(|p| p.outputs).collect(),
            width: 0,
            rank: 0,
            aligned: on_pieces(layout.outputs)
                && layout.parts.iter().all(|p| on_pieces(p.start) && on_pieces(p.outputs)),
            slots: Vec::new(),
        };
        for segment in c.plan.host.segments.iter().filter(|s| s.slot != Slot::BASE && s.start < s.end) {
            let data = c.slots.get(segment.slot)?;
            let used = data.parts[parts.clone()].iter().filter(|p| p.rank > 0);
            let width = used.clone().map(|p| (p.column + p.rank) as usize).max().unwrap_or(0);
            found.width = found.width.max(width);
            found.rank = found.rank.max(used.map(|p| p.rank as usize).max().unwrap_or(0));
            if width > 0 {
                found.slots.push(segment.slot);
            }
        }
        if stride < found.width {
            return Err(Error::Internal(format!(
                "{op}: h has rows of {stride}, group {} needs {}",
                group.0, found.width
            )));
        }
        Ok(found)
    }
}

/// How the blocks of a grid share the work; the sums are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// A block has all of k.
    Whole,
    /// A block has one of the groups of k-steps, and a second kernel adds them up.
    Split,
}

/// `h = x Aᵀ`, unscaled, for all parts of the row's slot: x bf16 `[R, inputs]`, h f32 `[R, stride]`. Columns
/// that a slot does not use are not written.
pub fn forward(c: &mut CudaBackend, group: GroupId, x: DevicePtr, h: DevicePtr, stride: usize) -> Result<()> {
    let work = StepGroup::new(c, "shrink", group, stride)?;
    let schedule = schedule(c, work.width.div_ceil(RANK_BLOCKS * RANK_STEP), work.inputs);
    forward_as(c, &work, x, h, stride, schedule)
}

/// `dh = s dy B`, for all parts of the row's slot: dy bf16 `[R, outputs]`, dh f32 `[R, stride]`. Columns that
/// a slot does not use are not written.
pub fn backward(
    c: &mut CudaBackend,
    group: GroupId,
    dy: DevicePtr,
    dh: DevicePtr,
    stride: usize,
) -> Result<()> {
    let work = StepGroup::new(c, "shrink_backward", group, stride)?;
    let chunks = work.parts as usize * work.rank.div_ceil(RANK_BLOCKS * RANK_STEP);
    let longest = work.part_outputs.iter().copied().max().unwrap_or(0);
    let schedule = schedule(c, chunks, longest);
    backward_as(c, &work, dy, dh, stride, schedule)
}

/// Splits where there are fewer blocks than multiprocessors.
fn schedule(c: &CudaBackend, chunks: usize, length: usize) -> Schedule {
    let blocks = c.plan.bounds.segment_tiles * chunks;
    if length >= MIN_SPLIT && blocks < c.driver.multiprocessors() as usize {
        Schedule::Split
    } else {
        Schedule::Whole
    }
}

/// One of the two directions, as the kernels take it.
struct Direction {
    kernel: Kernel,
    /// Numbers in a row of what is summed.
    width: usize,
    /// The ranks that one task goes through, in [`chunks`].
    ranks: usize,
    /// How many such tasks a tile of rows has.
    parts: usize,
}

/// [`forward`] by a schedule.
pub(super) fn forward_as(
    c: &mut CudaBackend,
    work: &StepGroup,
    x: DevicePtr,
    h: DevicePtr,
    stride: usize,
    schedule: Schedule,
) -> Result<()> {
    let direction = Direction { kernel: FORWARD, width: work.inputs, ranks: work.width, parts: 1 };
    run(c, work, &direction, x, h, stride, schedule)
}

/// [`backward`] by a schedule.
pub(super) fn backward_as(
    c: &mut CudaBackend,
    work: &StepGroup,
    dy: DevicePtr,
    dh: DevicePtr,
    stride: usize,
    schedule: Schedule,
) -> Result<()> {
    let kernel = if work.aligned { BACKWARD } else { BACKWARD_UNALIGNED };
    let parts = work.parts as usize;
    let direction = Direction { kernel, width: work.outputs, ranks: work.rank, parts };
    run(c, work, &direction, dy, dh, stride, schedule)
}

/// Chunks of at most [`RANK_BLOCKS`] blocks, as even as possible: how many, and their blocks.
fn chunks(ranks: usize) -> (usize, usize) {
    let blocks = ranks.div_ceil(RANK_STEP);
    let chunks = blocks.div_ceil(RANK_BLOCKS).max(1);
    (chunks, blocks.div_ceil(chunks))
}

fn run(
    c: &mut CudaBackend,
    work: &StepGroup,
    direction: &Direction,
    x: DevicePtr,
    out: DevicePtr,
    stride: usize,
    schedule: Schedule,
) -> Result<()> {
    let &Direction { kernel, width, ranks, parts } = direction;
    let (chunks, blocks) = chunks(ranks);
    let tiles = c.plan.bounds.segment_tiles;
    if work.width == 0 || tiles == 0 {
        return Ok(());
    }
    let split = schedule == Schedule::Split;
    let rows = c.plan.bounds.rows;
    let (target, target_stride) = if split {
        (c.workspace("the sums of shrinks", GROUPS * rows * work.width * 4)?, work.width)
    } else {
        (out, stride)
    };
    let (plan, slots) = (c.plan.at(), c.slots.table());
    let params = Params {
        plan,
        slots,
        places: c.slots.places(),
        x,
        out: target,
        first_part: work.first_part,
        parts: work.parts,
        width: width as u32,
        stride: target_stride as u32,
        blocks: blocks as u32,
        chunks: chunks as u32,
        split: split.into(),
        rows: rows as u32,
    };
    // The sums of each warp: rows of the chunk's columns and 4 of padding.
    let shared = GROUPS * plan::SEGMENT_TILE * (blocks * RANK_STEP + 4) * 4;
    c.launch(kernel, [tiles, chunks * parts, if split { GROUPS } else { 1 }], shared, &params);
    if split {
        let params = MergeParams {
            plan,
            slots,
            sums: target,
            out,
            first_part: work.first_part,
            parts: work.parts,
            rows: rows as u32,
            width: work.width as u32,
            stride: stride as u32,
            scaled: (kernel != FORWARD).into(),
        };
        c.launch(MERGE, [tiles, 1, 1], 0, &params);
    }
    Ok(())
}
