//! The step's [`BatchPlan`] on the device: one buffer with a header of counts and addresses
//! (`kernels/plan.cuh`) and the arrays behind it, uploaded in one copy. What kernels would otherwise have to
//! search for (a row's sequence, the tiles of a segment) is worked out here.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::driver::{DevicePtr, Driver};
use crate::backend::{BatchPlan, Draw, KvSpec, Sequence, SequenceDropout, Slot};
use crate::error::{Error, Result};

/// Rows of one segment that a tile holds at most (`kSegmentTile`).
pub const SEGMENT_TILE: usize = 32;
/// Rows of a group (`kRowGroup`).
pub const ROW_GROUP: usize = 8;

/// Rows of one sequence that attention takes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionTile {
    /// Index of the sequence.
    pub sequence: u32,
    /// First row of the batch.
    pub row: u32,
    /// Rows.
    pub rows: u32,
    /// Which split of the positions, where a tile stands for one.
    pub split: u32,
    /// Where its first row's state lies in the workspace of a split.
    pub partial: u32,
}

/// The header; field for field `struct Plan`.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct Header {
    rows: u32,
    segments: u32,
    sequences: u32,
    logit_rows: u32,
    draws: u32,
    page_copies: u32,
    segment_tiles: u32,
    slot_works: u32,
    packed_tiles: u32,
    paged_tiles: u32,
    wide_tiles: u32,
    unused: u32,
    arrays: [DevicePtr; 21],
}

/// A draw as the device sees it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DeviceDraw {
    key: u64,
    rows_start: u32,
    rows_end: u32,
    position: u32,
    top_k: u32,
    temperature: f32,
    top_p: f32,
    min_p: f32,
    unused: u32,
}

impl From<&Draw> for DeviceDraw {
    fn from(d: &Draw) -> Self {
        let &Draw { rows_start, rows_end, key, position, temperature, top_k, top_p, min_p } = d;
        Self { key, rows_start, rows_end, position, top_k, temperature, top_p, min_p, unused: 0 }
    }
}

/// The dropout of a sequence as the device sees it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DeviceDropout {
    key: u64,
    rate: f32,
    scale: f32,
}

impl From<&SequenceDropout> for DeviceDropout {
    fn from(d: &SequenceDropout) -> Self {
        Self { key: d.key, rate: d.rate, scale: d.scale() }
    }
}

/// How large a step is, rounded up so that similar steps have the same grids, and so the same graph. Kernels
/// read the exact numbers from the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Rows.
    pub rows: usize,
    /// Rows that get logits.
    pub logit_rows: usize,
    /// Draws.
    pub draws: usize,
    /// Page copies.
    pub page_copies: usize,
    /// Tiles of [`SEGMENT_TILE`] rows, each inside a segment.
    pub segment_tiles: usize,
    /// Slots other than the base with rows in the step.
    pub slot_works: usize,
    /// Attention tiles over packed sequences.
    pub packed_tiles: usize,
    /// Attention tiles over pages, of sequences with few rows.
    pub paged_tiles: usize,
    /// Rows times splits of those with more than one split.
    pub paged_partials: usize,
    /// Attention tiles over pages, of the other sequences.
    pub wide_tiles: usize,
}

/// The number rounded up to a power of two, 8 at least; 0 stays 0.
pub fn bucket(n: usize) -> usize {
    if n == 0 { 0 } else { n.next_power_of_two().max(8) }
}

/// The plan buffer.
#[derive(Default)]
pub struct DevicePlan {
    at: DevicePtr,
    capacity: usize,
    /// The plan that the buffer holds.
    pub host: Arc<BatchPlan>,
    /// For grids.
    pub bounds: Bounds,
    /// What the sequences want of a pool of pages.
    pub paging: Paging,
}

/// What the sequences of a plan want of a pool of pages: worked out once, so that no layer has to walk over all pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    /// Pages that the pool must have: one more than the highest in the page table.
    pub pages: usize,
    /// Tokens that a page must hold for all positions to have one; `usize::MAX` where a sequence with tokens
    /// has no pages.
    pub page_tokens: usize,
}

impl Paging {
    fn new(plan: &BatchPlan) -> Self {
        let page_tokens =
            |s: &Sequence| match (s.pages_end - s.pages_start, s.first_position + (s.end - s.start)) {
                (_, 0) => 0,
                (0, _) => usize::MAX,
                (pages, tokens) => tokens.div_ceil(pages) as usize,
            };
        Self {
            pages: plan.page_table.iter().max().map_or(0, |&page| page as usize + 1),
            page_tokens: plan.sequences.iter().map(page_tokens).max().unwrap_or(0),
        }
    }

    /// Whether every sequence has pages of a pool of this shape for all its positions. (Where not, the caller
    /// finds out which.)
    pub fn fits(&self, spec: &KvSpec) -> bool {
        self.pages <= spec.pages && self.page_tokens <= spec.page_tokens
    }
}

/// Arrays behind the header, each aligned to 16 bytes.
struct Packer {
    base: DevicePtr,
    bytes: Vec<u8>,
}

impl Packer {
    fn array<T: Pod>(&mut self, values: &[T]) -> DevicePtr {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let at = self.base.offset(self.bytes.len());
        self.bytes.extend_from_slice(bytemuck::cast_slice(values));
        at
    }
}

impl DevicePlan {
    /// Where the header lies.
    pub fn at(&self) -> DevicePtr {
        self.at
    }

    /// Bytes of its buffer.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Checks what kernels rely on, packs and uploads.
    pub fn set(&mut self, driver: &mut dyn Driver, plan: Arc<BatchPlan>) -> Result<()> {
        check(&plan)?;
        let derived = Derived::new(&plan);
        let mut bytes = derived.pack(&plan, self.at);
        if bytes.len() > self.capacity {
            if self.at != DevicePtr::NULL {
                driver.free(self.at);
            }
            self.capacity = bytes.len().next_power_of_two().max(1 << 16);
            self.at = driver.alloc(self.capacity, "the plan of a step")?;
            // Again: the header holds addresses.
            bytes = derived.pack(&plan, self.at);
        }
        driver.upload(self.at, &bytes)?;
        self.bounds = derived.bounds(&plan);
        self.paging = Paging::new(&plan);
        self.host = plan;
        Ok(())
    }
}

/// What kernels would otherwise have to search the plan for.
struct Derived {
    /// By row.
    row_sequence: Vec<u32>,
    /// Slot, start, end; without empty ones.
    segments: Vec<[u32; 3]>,
    /// The first segment of each group of rows.
    group_segments: Vec<u32>,
    /// Slot, start, end; at most [`SEGMENT_TILE`] rows.
    segment_tiles: Vec<[u32; 3]>,
    slot_works: Vec<[u32; 3]>,
    slot_sequences: Vec<u32>,
    packed_tiles: Vec<AttentionTile>,
    paged: super::attention::PagedTiles,
}

impl Derived {
    fn new(plan: &BatchPlan) -> Self {
        let mut row_sequence = vec![0u32; plan.rows()];
        for (i, s) in plan.sequences.iter().enumerate() {
            row_sequence[s.start as usize..s.end as usize].fill(i as u32);
        }
        let segments: Vec<[u32; 3]> =
            plan.segments.iter().filter(|s| s.start < s.end).map(|s| [s.slot.0, s.start, s.end]).collect();
        let group_segments = (0..plan.rows().div_ceil(ROW_GROUP))
            .map(|g| segments.partition_point(|s| s[2] as usize <= g * ROW_GROUP) as u32)
            .collect();
        let tiles = |&[slot, start, end]: &[u32; 3]| {
            let starts = (start..end).step_by(SEGMENT_TILE);
            starts.map(move |from| [slot, from, end.min(from + SEGMENT_TILE as u32)])
        };
        let segment_tiles = segments.iter().flat_map(tiles).collect();
        let (slot_works, slot_sequences) = slot_works(plan);
        let packed_tiles = super::attention::packed_tiles(plan);
        let paged = super::attention::paged_tiles(plan);
        Self {
            row_sequence,
            segments,
            group_segments,
            segment_tiles,
            slot_works,
            slot_sequences,
            packed_tiles,
            paged,
        }
    }

    /// The header and the arrays behind it, for a buffer at `base`.
    fn pack(&self, plan: &BatchPlan, base: DevicePtr) -> Vec<u8> {
        let draws: Vec<DeviceDraw> = plan.draws.iter().map(DeviceDraw::from).collect();
        let dropout: Vec<DeviceDropout> = plan.dropout.iter().map(DeviceDropout::from).collect();
        let sequence = |s: &Sequence| [s.start, s.end, s.first_position, s.pages_start, s.pages_end];
        let sequences: Vec<[u32; 5]> = plan.sequences.iter().map(sequence).collect();
        let page_copies: Vec<[u32; 3]> = plan.page_copies.iter().map(|c| [c.from, c.to, c.tokens]).collect();
        let labels: Vec<[u32; 2]> = plan.labels.iter().map(|l| [l.token, l.coefficient.to_bits()]).collect();
        let draw_rows: Vec<[u32; 2]> =
            plan.draw_rows.iter().map(|r| [r.logit_row, r.weight.to_bits()]).collect();

        let mut p = Packer { base, bytes: vec![0; size_of::<Header>()] };
        let (tokens, positions) = (p.array(&plan.tokens), p.array(&plan.positions));
        let rope_rows = if plan.rope_rows.is_empty() { positions } else { p.array(&plan.rope_rows) };
        let arrays = [
            tokens,
            positions,
            rope_rows,
            p.array(&plan.rope_extra),
            p.array(&self.row_sequence),
            p.array(&self.segments),
            p.array(&self.group_segments),
            p.array(&sequences),
            p.array(&plan.page_table),
            p.array(&page_copies),
            p.array(&plan.logit_rows),
            p.array(&labels),
            p.array(&draws),
            p.array(&draw_rows),
            p.array(&self.segment_tiles),
            p.array(&self.slot_works),
            p.array(&self.slot_sequences),
            p.array(&self.packed_tiles),
            p.array(&self.paged.narrow),
            p.array(&self.paged.wide),
            p.array(&dropout),
        ];
        let header = Header {
            rows: plan.rows() as u32,
            segments: self.segments.len() as u32,
            sequences: plan.sequences.len() as u32,
            logit_rows: plan.logit_rows.len() as u32,
            draws: plan.draws.len() as u32,
            page_copies: plan.page_copies.len() as u32,
            segment_tiles: self.segment_tiles.len() as u32,
            slot_works: self.slot_works.len() as u32,
            packed_tiles: self.packed_tiles.len() as u32,
            paged_tiles: self.paged.narrow.len() as u32,
            wide_tiles: self.paged.wide.len() as u32,
            unused: 0,
            arrays,
        };
        p.bytes[..size_of::<Header>()].copy_from_slice(bytemuck::bytes_of(&header));
        p.bytes
    }

    fn bounds(&self, plan: &BatchPlan) -> Bounds {
        Bounds {
            rows: bucket(plan.rows()),
            logit_rows: bucket(plan.logit_rows.len()),
            draws: bucket(plan.draws.len()),
            page_copies: bucket(plan.page_copies.len()),
            segment_tiles: bucket(self.segment_tiles.len()),
            slot_works: bucket(self.slot_works.len()),
            packed_tiles: bucket(self.packed_tiles.len()),
            paged_tiles: bucket(self.paged.narrow.len()),
            paged_partials: bucket(self.paged.partials),
            wide_tiles: bucket(self.paged.wide.len()),
        }
    }
}

/// For each slot other than the base, in order of first appearance: its sequences in the order of the batch.
fn slot_works(plan: &BatchPlan) -> (Vec<[u32; 3]>, Vec<u32>) {
    let mut slots: Vec<(Slot, Vec<u32>)> = Vec::new();
    let mut segments = plan.segments.iter().filter(|s| s.start < s.end).peekable();
    for (i, sequence) in plan.sequences.iter().enumerate().filter(|(_, s)| s.start < s.end) {
        while segments.peek().is_some_and(|s| s.end <= sequence.start) {
            segments.next();
        }
        let Some(slot) = segments.peek().map(|s| s.slot).filter(|&s| s != Slot::BASE) else { continue };
        match slots.iter_mut().find(|(s, _)| *s == slot) {
            Some((_, sequences)) => sequences.push(i as u32),
            None => slots.push((slot, vec![i as u32])),
        }
    }
    let mut works = Vec::new();
    let mut all = Vec::new();
    for (slot, sequences) in slots {
        let start = all.len() as u32;
        all.extend(sequences);
        works.push([slot.0, start, all.len() as u32]);
    }
    (works, all)
}

/// That rows, segments and sequences cover each other as [`BatchPlan`] says.
fn check(plan: &BatchPlan) -> Result<()> {
    let rows = plan.rows() as u32;
    let covers = |ranges: Vec<(u32, u32)>| {
        let starts = ranges.iter().map(|r| r.0);
        let ends = std::iter::once(0).chain(ranges.iter().map(|r| r.1));
        starts.zip(ends).all(|(start, end)| start == end)
            && ranges.iter().all(|(start, end)| start <= end)
            && ranges.last().map_or(0, |r| r.1) == rows
    };
    let problem = if plan.positions.len() != plan.tokens.len() {
        "as many positions as tokens"
    } else if !covers(plan.segments.iter().map(|s| (s.start, s.end)).collect()) {
        "segments that cover the rows in order"
    } else if !covers(plan.sequences.iter().map(|s| (s.start, s.end)).collect()) {
        "sequences that cover the rows in order"
    } else if !each_inside_a_segment(plan) {
        "each sequence inside one segment"
    } else if plan
        .sequences
        .iter()
        .any(|s| s.pages_start > s.pages_end || s.pages_end as usize > plan.page_table.len())
    {
        "sequences whose pages are in the page table"
    } else if plan.logit_rows.iter().any(|&r| r >= rows) || plan.logit_rows.windows(2).any(|w| w[0] >= w[1]) {
        "ascending logit rows of the batch"
    } else {
        return Ok(());
    };
    Err(Error::Internal(format!("a plan of {rows} rows: expected {problem}")))
}

/// Whether no segment ends inside a sequence; both cover the rows in order.
fn each_inside_a_segment(plan: &BatchPlan) -> bool {
    let mut ends = plan.segments.iter().map(|s| s.end).peekable();
    plan.sequences.iter().all(|s| {
        while ends.next_if(|&end| end <= s.start).is_some() {}
        ends.peek().is_none_or(|&end| s.end <= end)
    })
}
