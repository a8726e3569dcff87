//! A plan's segments as one linear group sees them: which rows go through which LoRA parts.

use std::ops::Range;

use super::gemm::{Blocks, Column, Kernels, PANEL, Tile, transpose};
use super::slots::SlotStore;
use super::*;

/// One LoRA pair at work on one segment.
pub struct Part<'a> {
    /// First output of the group that it changes.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    /// The group's output panels it lies in.
    pub panels: Range<usize>,
    /// Padded rank.
    pub rank: usize,
    /// `s`.
    pub scale: f32,
    /// First column of its `h` in the shrink tensor.
    pub column: usize,
    /// Where A and B begin in the slot's buffers.
    pub offset_a: usize,
    /// See `offset_a`.
    pub offset_b: usize,
    /// `[inputs][rank]`.
    pub a: &'a [f32],
    /// `[panel][rank][PANEL]`.
    pub b: &'a [f32],
}

impl Part<'_> {
    /// B in a panel of the group, `[rank][PANEL]`.
    pub fn b_panel(&self, panel: usize) -> &[f32] {
        &self.b[(panel - self.panels.start) * self.rank * PANEL..][..self.rank * PANEL]
    }
}

/// A segment whose slot has parts in the group.
pub struct Adapted {
    /// The adapter.
    pub slot: Slot,
    /// Its rows.
    pub rows: Range<usize>,
    /// Its entries of [`Lora::parts`].
    pub parts: Range<usize>,
}

/// The rows of an adapted segment inside one row block.
#[derive(Clone)]
pub struct Piece {
    /// Which of [`Lora::segments`].
    pub segment: usize,
    /// The row block.
    pub block: usize,
    /// Rows of the step.
    pub rows: Range<usize>,
}

/// All LoRA work of a linear group in one step.
#[derive(Default)]
pub struct Lora<'a> {
    /// In order of rows. Segments without LoRA are left out.
    pub segments: Vec<Adapted>,
    /// Of all segments.
    pub parts: Vec<Part<'a>>,
    /// The widest row of `h`.
    pub width: usize,
}

impl<'a> Lora<'a> {
    /// Looks the plan's segments up.
    pub fn new(slots: &'a SlotStore, plan: &BatchPlan, group: Option<GroupId>) -> Result<Self> {
        let mut lora = Lora::default();
        let Some(group) = group else { return Ok(lora) };
        let (_, ids) = slots.group(group)?;
        for segment in plan.segments.iter().filter(|s| s.slot != Slot::BASE && s.start < s.end) {
            let data = slots.get(segment.slot)?;
            let first = lora.parts.len();
            let mut column = 0;
            for id in ids.clone() {
                let Some(place) = &data.parts[id] else { continue };
                let shape = slots.shape(id);
                lora.parts.push(Part {
                    start: shape.start,
                    end: shape.start + shape.outputs,
                    panels: shape.panels.clone(),
                    rank: place.padded,
                    scale: place.scale,
                    column,
                    offset_a: place.a.start,
                    offset_b: place.b.start,
                    a: &data.weights[place.a.clone()],
                    b: &data.weights[place.b.clone()],
                });
                column += place.padded;
            }
            if lora.parts.len() > first {
                lora.width = lora.width.max(column);
                lora.segments.push(Adapted {
                    slot: segment.slot,
                    rows: segment.start as usize..segment.end as usize,
                    parts: first..lora.parts.len(),
                });
            }
        }
        Ok(lora)
    }

    /// The parts of a segment.
    pub fn parts_of(&self, segment: usize) -> &[Part<'a>] {
        &self.parts[self.segments[segment].parts.clone()]
    }

    /// Cuts the segments at the borders of row blocks.
    pub fn pieces(&self, blocks: &Blocks) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(self.segments.len() + blocks.count);
        for (segment, adapted) in self.segments.iter().enumerate() {
            let mut row = adapted.rows.start;
            while row < adapted.rows.end {
                let block = blocks.of(row);
                let end = blocks.range(block).end.min(adapted.rows.end);
                pieces.push(Piece { segment, block, rows: row..end });
                row = end;
            }
        }
        pieces
    }

    /// Multiply-adds of the shrink alone; expand and the gradients are of the same order.
    pub fn cost(&self, inputs: usize) -> usize {
        self.segments
            .iter()
            .map(|s| self.parts[s.parts.clone()].iter().map(|p| p.rank).sum::<usize>() * s.rows.len())
            .sum::<usize>()
            * inputs
    }
}

/// The pieces inside a range of whole row blocks.
pub fn pieces_in<'p>(pieces: &'p [Piece], rows: &Range<usize>) -> &'p [Piece] {
    let first = pieces.partition_point(|p| p.rows.start < rows.start);
    let last = pieces.partition_point(|p| p.rows.start < rows.end);
    &pieces[first..last]
}

/// Where the packed `h` of a piece and a part lies, `[rank][rows of the piece]`, in a buffer of `width` values a row.
pub fn packed_h(piece: &Piece, part: &Part<'_>, width: usize) -> Range<usize> {
    let rows = piece.rows.len();
    let start = piece.rows.start * width + part.column * rows;
    start..start + part.rank * rows
}

/// Packs `h` `[rows][stride]` of a piece and a part as `[rank][rows]`, times `scale`, to be the broadcast
/// operand of the next product.
pub fn pack_h(h: &[f32], stride: usize, rows: usize, rank: usize, scale: f32, packed: &mut [f32]) {
    transpose(h, rows, rank, stride, packed, rows);
    if scale != 1.0 {
        packed.iter_mut().for_each(|v| *v *= scale);
    }
}

/// Adds LoRA k-steps to the accumulators `column` of some rows of one panel: `packed` is their `h` of
/// [`pack_h`], `w` `[rank][PANEL]`. `ahead` is brought into cache meanwhile, as far as there are
/// k-steps.
pub fn expand(
    kernels: Kernels,
    packed: &[f32],
    w: &[f32],
    mut column: Column<'_>,
    accumulate: bool,
    ahead: &[f32],
) {
    let (rank, rows) = (w.len() / PANEL, column.len());
    assert!(packed.len() >= rank * rows, "expand");
    let tile = Tile {
        k: rank,
        x: packed.as_ptr(),
        ldx: rows,
        w: w.as_ptr(),
        ldw: PANEL,
        y: column.start(rows),
        ldy: column.ld,
        accumulate,
        ahead: if ahead.is_empty() { w.as_ptr() } else { ahead.as_ptr() },
        ahead_step: if ahead.is_empty() { 0 } else { PANEL },
    };
    // SAFETY: the lengths are asserted; a piece has at most a tile's rows.
    unsafe { kernels.tile(rows, PANEL, &tile) };
}

/// Checks that the plan's segments and sequences lie in its rows, in order: what the raw pointers of the
/// linears rely on.
pub fn check_plan(plan: &BatchPlan) -> Result<()> {
    let mut row = 0;
    for s in &plan.segments {
        if s.start != row || s.end < s.start {
            return Err(Error::Internal(format!("plan: segment {s:?} where row {row} is next")));
        }
        row = s.end;
    }
    if row as usize != plan.rows() {
        return Err(Error::Internal(format!("plan: segments end at row {row} of {}", plan.rows())));
    }
    Ok(())
}
