//! The packed f32 matrix product `y = x Wᵀ`.
//!
//! Weights never change, so they are packed once, into panels of [`PANEL`] outputs laid out
//! `[panel][k][PANEL]`. Each output element is **one** chain of fused multiply-adds in ascending k, from y's
//! initial value on. AVX-512, AVX2 and the portable path walk the same chain, so they give the same bits, for
//! any number of rows, any split of the rows and any number of threads: work is divided over outputs and
//! rows, never over the reduction. (A k-block spills its accumulators to memory and takes them up again,
//! which is exact.)
//!
//! | file | what it holds |
//! |---|---|
//! | `pack` | aligned buffers, transposition, [`Packed`] |
//! | `team` | tasks over the worker threads, phases without sleeping between them |
//! | `product` | the loops over panels, k-blocks and row blocks around a register tile |
//! | `avx512`, `avx2`, `portable` | the register tiles |

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
mod portable;
mod product;
mod team;
#[cfg(test)]
mod tests;

pub(super) use pack::{Aligned, scratch, transpose};
pub use pack::{Packed, scratch_bytes};
pub(super) use product::{Blocks, Column, Product, Shared, pack_block};
pub use team::Team;

/// Outputs in a panel of packed weights.
pub const PANEL: usize = 32;

/// An instruction set that a register tile exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512F, 16 lanes.
    Avx512,
    /// AVX2 with FMA, 8 lanes.
    Avx2,
    /// `f32::mul_add` in plain Rust.
    Portable,
}

impl Isa {
    /// The instruction sets of this machine, best first.
    pub fn available() -> Vec<Isa> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                found.push(Isa::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Isa::Avx2);
            }
        }
        found.push(Isa::Portable);
        found
    }

    /// The one the engine uses.
    pub fn best() -> Isa {
        static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Isa::available()[0])
    }

    /// Its name in a run's record.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512f+fma",
            Isa::Avx2 => "avx2+fma",
            Isa::Portable => "portable",
        }
    }

    /// The tiles of this instruction set.
    ///
    /// # Panics
    /// Where the machine does not have it: this check is what makes calling the tiles sound.
    pub(super) fn kernels(self) -> Kernels {
        assert!(self == Isa::best() || Isa::available().contains(&self), "no {} here", self.name());
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Kernels { tiles: &avx512::TILES },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Kernels { tiles: &avx2::TILES },
            _ => Kernels { tiles: &portable::TILES },
        }
    }
}

/// The name of the instruction set in use: `"avx512f+fma"`, `"avx2+fma"` or `"portable"`.
pub fn instruction_set() -> &'static str {
    Isa::best().name()
}

/// One register tile: `y[i][j] = (y[i][j] or 0) + Σ_k x[k * ldx + i] * w[k * ldw + j]`, k ascending.
///
/// The same tile serves every product of the LoRA linear: the base (w a panel), shrink and expand (w an
/// adapter's matrix) and the outer products of the gradient (k runs over rows, x and w are activations as
/// they lie).
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Steps of the chain.
    pub k: usize,
    /// Broadcast operand: `rows` neighbours for each k.
    pub x: *const f32,
    /// Distance from one k to the next in `x`.
    pub ldx: usize,
    /// Vector operand: 16 or 32 neighbours for each k.
    pub w: *const f32,
    /// Distance from one k to the next in `w`.
    pub ldw: usize,
    /// The output rows.
    pub y: *mut f32,
    /// Distance from one row to the next in `y`.
    pub ldy: usize,
    /// Start from what is in `y` instead of 0.
    pub accumulate: bool,
    /// What to bring into the second-level cache meanwhile: for each k, the next `ahead_step` values (up to
    /// 32). Only a hint, so it may point anywhere; but an address without memory costs a page walk every
    /// time, so without a wish it is `w` and 0.
    pub ahead: *const f32,
    /// See `ahead`.
    pub ahead_step: usize,
}

/// A tile for a fixed number of rows and columns.
type TileFn = unsafe fn(&Tile);

/// The tiles of one instruction set: entry `m - 1` for m rows, `[16 columns, 32 columns]`.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Kernels {
    tiles: &'static [[TileFn; 2]],
}

impl Kernels {
    /// The most rows a tile takes.
    pub fn max_rows(self) -> usize {
        self.tiles.len()
    }

    /// A tile of `rows <= max_rows` by `cols` (a multiple of 16).
    ///
    /// # Safety
    /// For all k, i < rows, j < cols, the elements of [`Tile`]'s formula must be readable, and y's
    /// writable and not accessed by anyone else.
    pub unsafe fn tile(self, rows: usize, cols: usize, tile: &Tile) {
        debug_assert!(cols.is_multiple_of(16));
        let mut j = 0;
        while j < cols {
            let wide = cols - j >= 32;
            let part = Tile { w: tile.w.wrapping_add(j), y: tile.y.wrapping_add(j), ..*tile };
            // SAFETY: `kernels()` checked the instruction set; the columns j.. are inside what the caller promised.
            unsafe { self.tiles[rows - 1][usize::from(wide)](&part) };
            j += if wide { 32 } else { 16 };
        }
    }

    /// Like [`Kernels::tile`] for any number of rows.
    ///
    /// # Safety
    /// As [`Kernels::tile`].
    pub unsafe fn tall(self, rows: usize, cols: usize, tile: &Tile) {
        let blocks = Blocks::new(rows, self.max_rows());
        for b in 0..blocks.count {
            let r = blocks.range(b);
            let part =
                Tile { x: tile.x.wrapping_add(r.start), y: tile.y.wrapping_add(r.start * tile.ldy), ..*tile };
            // SAFETY: rows r of what the caller promised.
            unsafe { self.tile(r.len(), cols, &part) };
        }
    }
}

/// `y = (y if accumulate else 0) + x Wᵀ`; x `[rows, inputs]`, y `[rows, outputs]`, both contiguous.
pub fn matmul(pool: &Team, x: &[f32], rows: usize, w: &Packed, y: &mut [f32], accumulate: bool) {
    matmul_with(Isa::best(), pool, x, rows, w, y, accumulate);
}

/// [`matmul`] on a given instruction set, for tests and benchmarks.
pub fn matmul_with(
    isa: Isa,
    pool: &Team,
    x: &[f32],
    rows: usize,
    w: &Packed,
    y: &mut [f32],
    accumulate: bool,
) {
    assert!(x.len() >= rows * w.inputs, "x: {} values for {rows} rows of {}", x.len(), w.inputs);
    assert!(y.len() >= rows * w.outputs, "y: {} values for {rows} rows of {}", y.len(), w.outputs);
    if rows == 0 || w.outputs == 0 {
        return;
    }
    let product = Product::new(isa.kernels(), w, rows, pool.threads());
    let y = Shared::new(y);
    let start = |panel: usize, rows: std::ops::Range<usize>, mut column: Column<'_>| {
        let cols = w.panel_columns(panel);
        if accumulate && cols.len() < PANEL {
            for (i, row) in rows.enumerate() {
                let out = column.row(i);
                // SAFETY: rows x columns of one task; no other task touches them.
                out[..cols.len()]
                    .copy_from_slice(unsafe { y.read(row * w.outputs + cols.start, cols.len()) });
                out[cols.len()..].fill(0.0);
            }
        }
        accumulate
    };
    let finish = |panel: usize, rows: std::ops::Range<usize>, column: &[f32]| {
        let cols = w.panel_columns(panel);
        for (row, values) in rows.zip(column.chunks_exact(PANEL)) {
            // SAFETY: as above.
            unsafe { y.slice(row * w.outputs + cols.start, cols.len()) }
                .copy_from_slice(&values[..cols.len()]);
        }
    };
    let helpers = pool.helpers(product.cost());
    if rows == 1 {
        // One row is its own packing.
        pool.run(helpers, &[product.tasks()], &|_, task| {
            // SAFETY: a task's rows and columns of y are its own.
            unsafe { product.run(task, x, Some(y), start, finish) }
        });
        return;
    }
    scratch(rows * w.inputs, |packed| {
        let packed = Shared::new(packed);
        pool.run(helpers, &[product.blocks.count, product.tasks()], &|phase, task| {
            // SAFETY: in phase 0 each task writes its own block; phase 1 starts when all are written, reads
            // them, and writes its own rows and columns of y.
            unsafe {
                match phase {
                    0 => pack_block(&product.blocks, task, x, w.inputs, packed),
                    _ => product.run(task, packed.read(0, rows * w.inputs), Some(y), start, finish),
                }
            }
        });
    });
}
