//! [`Op::AttentionPacked`] and [`Op::AttentionPaged`]: `kernels/attention.cu`.

use std::cmp::Reverse;

use bytemuck::{Pod, Zeroable};

use super::plan::AttentionTile;
use super::*;

/// Rows of a tile of one query head (four warps of 16).
const TILE_ROWS: u32 = 64;
/// Positions of a split (`kSplit`).
pub const SPLIT: u32 = 512;
/// Sequences with at most this many rows in a step are taken split by split (decode), the others
/// [`TILE_ROWS`] rows at a time.
const FEW_ROWS: u32 = 4;
/// (row, head) pairs of a block that takes one split.
const PAIRS: usize = 16;
const THREADS: u32 = 128;
const WARPS: usize = 4;
/// Half tiles in the ring of each kernel (`kRowSlots`, `kSplitSlots`).
const ROW_SLOTS: usize = 3;
const SPLIT_SLOTS: usize = 4;

/// By padded head size / 32 - 1.
const ATTEND_ROWS: [Kernel; 4] = [
    Kernel::new("attention", "attend_rows_32", THREADS),
    Kernel::new("attention", "attend_rows_64", THREADS),
    Kernel::new("attention", "attend_rows_96", THREADS),
    Kernel::new("attention", "attend_rows_128", THREADS),
];
const ATTEND_SPLITS: [Kernel; 4] = [
    Kernel::new("attention", "attend_splits_32", THREADS),
    Kernel::new("attention", "attend_splits_64", THREADS),
    Kernel::new("attention", "attend_splits_96", THREADS),
    Kernel::new("attention", "attend_splits_128", THREADS),
];
const MERGE_SPLITS: Kernel = Kernel::new("attention", "merge_splits", THREADS);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    qkv: DevicePtr,
    keys: DevicePtr,
    values: DevicePtr,
    out: DevicePtr,
    partials: DevicePtr,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    window: u32,
    pitch: u32,
    page_tokens: u32,
    scale: f32,
    unused: u32,
}

/// The head size in shared memory.
pub fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(32)
}

/// Bytes of a tile of 64 rows in shared memory (`Tile<D>::kElements`).
pub fn tile_bytes(padded: usize) -> usize {
    TILE_ROWS as usize * if padded == 96 { 13 * 16 } else { padded * 2 }
}

/// The window as the kernels take it: 0 for none, none where it is longer than any sequence.
pub fn window(heads: &Heads) -> u32 {
    heads.window.and_then(|w| i32::try_from(w).ok()).unwrap_or(0) as u32
}

/// Shared memory behind the ring: places of two splits' positions, a flag a warp.
const BOOKKEEPING: usize = (2 * SPLIT as usize / 16 + WARPS) * 4;

fn params(c: &CudaBackend, qkv: DevicePtr, heads: &Heads, out: DevicePtr) -> Params {
    Params {
        plan: c.plan.at(),
        qkv,
        keys: DevicePtr::NULL,
        values: DevicePtr::NULL,
        out,
        partials: DevicePtr::NULL,
        heads: heads.heads as u32,
        kv_heads: heads.kv_heads as u32,
        head_dim: heads.head_dim as u32,
        window: window(heads),
        pitch: 0,
        page_tokens: 0,
        scale: heads.scale * std::f32::consts::LOG2_E,
        unused: 0,
    }
}

/// The tiles of rows, `tiles` at most.
fn attend_rows(c: &mut CudaBackend, heads: &Heads, tiles: usize, params: &Params) {
    if tiles > 0 {
        let padded = padded(heads.head_dim);
        let merged = TILE_ROWS as usize * padded * 4;
        let shared = ROW_SLOTS * tile_bytes(padded) + BOOKKEEPING + merged;
        let grid = [tiles, heads.kv_heads, heads.heads / heads.kv_heads];
        c.launch(ATTEND_ROWS[padded / 32 - 1], grid, shared, params);
    }
}

/// [`Op::AttentionPacked`].
pub fn packed(c: &mut CudaBackend, op: &AttentionPacked) -> Result<()> {
    op.check(c)?;
    let (heads, x, y) = (&op.heads, c.at(op.qkv)?, c.at(op.out)?);
    let params = Params {
        keys: x.offset(heads.q_width() * 2),
        values: x.offset((heads.q_width() + heads.kv_width()) * 2),
        pitch: heads.qkv_width() as u32,
        ..params(c, x, heads, y)
    };
    attend_rows(c, heads, c.plan.bounds.packed_tiles, &params);
    Ok(())
}

/// Bytes of the state of one row in one split (`partial_pitch`): o, m and l of every head, rounded up to 16.
pub fn partial_bytes(heads: &Heads) -> usize {
    (heads.heads * (heads.head_dim + 2)).next_multiple_of(4) * 4
}

/// [`Op::AttentionPaged`].
pub fn paged(c: &mut CudaBackend, op: &AttentionPaged) -> Result<()> {
    let (_, spec) = op.check(c)?;
    let (heads, x, y) = (&op.heads, c.at(op.qkv)?, c.at(op.out)?);
    let (keys, values) = c.pool(op.kv)?.layer(op.layer as usize);
    let bounds = c.plan.bounds;
    let partials = match bounds.paged_partials {
        0 => DevicePtr::NULL,
        n => c.workspace("partial attention", n * partial_bytes(heads))?,
    };
    let params = Params {
        keys,
        values,
        partials,
        pitch: heads.kv_width() as u32,
        page_tokens: spec.page_tokens as u32,
        ..params(c, x, heads, y)
    };
    attend_rows(c, heads, bounds.wide_tiles, &params);
    if bounds.paged_tiles > 0 {
        let padded = padded(heads.head_dim);
        let shared = SPLIT_SLOTS * tile_bytes(padded) + BOOKKEEPING;
        let pairs = FEW_ROWS as usize * heads.heads / heads.kv_heads;
        let grid = [bounds.paged_tiles, heads.kv_heads, pairs.div_ceil(PAIRS)];
        c.launch(ATTEND_SPLITS[padded / 32 - 1], grid, shared, &params);
        if bounds.paged_partials > 0 {
            let grid = [bounds.paged_tiles, heads.heads.div_ceil(WARPS), 1];
            c.launch(MERGE_SPLITS, grid, 0, &params);
        }
    }
    Ok(())
}

/// Tiles of up to [`TILE_ROWS`] rows of the sequences in `take`, cut at multiples of it counted from position
/// 0, those with most positions to see first.
fn row_tiles(plan: &BatchPlan, take: impl Fn(&Sequence) -> bool) -> Vec<AttentionTile> {
    let mut tiles = Vec::new();
    for (sequence, s) in plan.sequences.iter().enumerate().filter(|(_, s)| take(s)) {
        let mut row = s.start;
        while row < s.end {
            let position = s.first_position + (row - s.start);
            let rows = (TILE_ROWS - position % TILE_ROWS).min(s.end - row);
            tiles.push((
                position + rows,
                AttentionTile { sequence: sequence as u32, row, rows, split: 0, partial: 0 },
            ));
            row += rows;
        }
    }
    tiles.sort_by_key(|&(end, _)| Reverse(end));
    tiles.into_iter().map(|(_, tile)| tile).collect()
}

/// The tiles of packed sequences.
pub fn packed_tiles(plan: &BatchPlan) -> Vec<AttentionTile> {
    row_tiles(plan, |_| true)
}

/// The work over pages.
pub struct PagedTiles {
    /// Sequences of few rows: all rows, one split each, the splits of a sequence in order.
    pub narrow: Vec<AttentionTile>,
    /// Tiles of rows of the other sequences.
    pub wide: Vec<AttentionTile>,
    /// Rows times splits of the sequences in `narrow` that have more than one split.
    pub partials: usize,
}

/// The tiles over pages.
pub fn paged_tiles(plan: &BatchPlan) -> PagedTiles {
    let paged = |s: &Sequence| s.pages_start < s.pages_end && s.start < s.end;
    let few = |s: &Sequence| s.end - s.start <= FEW_ROWS;
    let mut tiles =
        PagedTiles { narrow: Vec::new(), wide: row_tiles(plan, |s| paged(s) && !few(s)), partials: 0 };
    for (sequence, s) in plan.sequences.iter().enumerate().filter(|(_, s)| paged(s) && few(s)) {
        let rows = s.end - s.start;
        let splits = (s.first_position + rows).div_ceil(SPLIT);
        for split in 0..splits {
            let partial = tiles.partials as u32;
            tiles.narrow.push(AttentionTile {
                sequence: sequence as u32,
                row: s.start,
                rows,
                split,
                partial,
            });
            if splits > 1 {
                tiles.partials += rows as usize;
            }
        }
    }
    tiles
}
