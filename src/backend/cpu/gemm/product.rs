//! The loops around a register tile: row chunks and panel groups as tasks, then k-blocks, panels, row blocks.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Kernels, PANEL, Packed, Tile, scratch, transpose};

/// f32 that several tasks write, each its own part.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: a pointer and a length; whoever makes slices of it promises that they do not overlap.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Shares a slice.
    pub fn new(values: &'a mut [f32]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), lifetime: PhantomData }
    }

    /// Shares memory that need not be initialised.
    ///
    /// # Safety
    /// `len` f32 at `start` must be owned by the caller for `'a`.
    pub unsafe fn from_raw(start: *mut f32, len: usize) -> Self {
        Self { start, len, lifetime: PhantomData }
    }

    /// `len` values from `offset` on, to write.
    ///
    /// # Safety
    /// Nobody else may access them while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, offset: usize, len: usize) -> &'a mut [f32] {
        assert!(offset + len <= self.len, "{offset} + {len} of {}", self.len);
        // SAFETY: in bounds; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }

    /// `len` values from `offset` on, to read.
    ///
    /// # Safety
    /// They must be initialised, and nobody may write them while the slice lives.
    pub unsafe fn read(&self, offset: usize, len: usize) -> &'a [f32] {
        assert!(offset + len <= self.len, "{offset} + {len} of {}", self.len);
        // SAFETY: in bounds; not written by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.add(offset), len) }
    }
}

/// The accumulators of one panel: some rows of [`PANEL`] values, in a task's own buffer or where they belong
/// in y. Only its task accesses them.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Column<'a> {
    values: Shared<'a>,
    /// Where row 0 starts.
    first: usize,
    /// Distance of rows.
    pub ld: usize,
    /// How many.
    rows: usize,
}

impl<'a> Column<'a> {
    /// The rows from `rows.start` on.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "{rows:?} of {}", self.rows);
        Self { first: self.first + rows.start * self.ld, rows: rows.len(), ..*self }
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// A row's values.
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: one task's own rows, borrowed one at a time.
        unsafe { self.values.slice(self.first + row * self.ld, PANEL) }
    }

    /// Zeros everywhere.
    pub fn clear(&mut self) {
        (0..self.rows).for_each(|row| self.row(row).fill(0.0));
    }

    /// The first value, for a tile of at most `rows` rows with distance [`Column::ld`].
    pub fn start(&mut self, rows: usize) -> *mut f32 {
        assert!(rows <= self.rows, "{rows} rows of {}", self.rows);
        match self.rows {
            0 => std::ptr::null_mut(),
            // SAFETY: as in `row`; from the first row's first value to the last row's last.
            rows => unsafe { self.values.slice(self.first, (rows - 1) * self.ld + PANEL).as_mut_ptr() },
        }
    }
}

/// Rows divided into blocks of at most one tile's rows, as equal as possible.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cpu) struct Blocks {
    rows: usize,
    /// How many.
    pub count: usize,
}

impl Blocks {
    /// Divides `rows`.
    pub fn new(rows: usize, most: usize) -> Self {
        Self { rows, count: rows.div_ceil(most) }
    }

    /// The rows of a block.
    pub fn range(&self, block: usize) -> Range<usize> {
        block * self.rows / self.count..(block + 1) * self.rows / self.count
    }

    /// The block that holds a row.
    pub fn of(&self, row: usize) -> usize {
        ((row + 1) * self.count - 1) / self.rows
    }
}

/// Packs one block of x `[rows, inputs]` as `[inputs][rows of the block]`, where the tile broadcasts
/// neighbours. The block lies at `first row * inputs`.
///
/// # Safety
/// Nobody else may access this block's place in `packed` meanwhile.
pub(in crate::backend::cpu) unsafe fn pack_block(
    blocks: &Blocks,
    block: usize,
    x: &[f32],
    inputs: usize,
    packed: Shared<'_>,
) {
    let r = blocks.range(block);
    // SAFETY: the caller's promise.
    let target = unsafe { packed.slice(r.start * inputs, r.len() * inputs) };
    transpose(&x[r.start * inputs..r.end * inputs], r.len(), inputs, inputs, target, r.len());
}

/// k-steps that run over all row blocks before the next k-steps begin: a panel's k-block stays in cache.
const K_BLOCK: usize = 512;
/// Bytes of packed x that a task goes through for each panel; it should stay in the second-level cache.
const CHUNK_BYTES: usize = 768 << 10;
/// The most panels of a task.
const MAX_GROUP: usize = 16;
/// The most rows of a task.
const CHUNK_ROWS: usize = 512;

/// One product `x Wᵀ`, divided into tasks of some panels by some row blocks.
pub(in crate::backend::cpu) struct Product<'a> {
    kernels: Kernels,
    w: &'a Packed,
    /// Row blocks of x.
    pub blocks: Blocks,
    chunk_blocks: usize,
    chunks: usize,
    group: usize,
    groups: usize,
}

impl<'a> Product<'a> {
    /// Plans the product of `rows` rows for `threads` threads.
    pub fn new(kernels: Kernels, w: &'a Packed, rows: usize, threads: usize) -> Self {
        let blocks = Blocks::new(rows, kernels.max_rows());
        let chunk_rows = (CHUNK_BYTES / 4 / w.inputs.clamp(1, K_BLOCK)).min(CHUNK_ROWS);
        let chunks = rows.div_ceil(chunk_rows).min(blocks.count);
        let chunk_blocks = blocks.count.div_ceil(chunks);
        let chunks = blocks.count.div_ceil(chunk_blocks);
        // Some panels at a time, so that a k-block of x serves them all; but enough tasks for every thread.
        // Where x does not fit the cache, each group reads all of it again.
        let (share, most) = match rows * w.inputs * 4 {
            0..CHUNK_BYTES => (8, if rows <= 64 { MAX_GROUP } else { 4 }),
            CHUNK_BYTES.. => (2, MAX_GROUP),
        };
        let group = (w.panels() * chunks / (share * threads)).clamp(1, most);
        Self { kernels, w, blocks, chunk_blocks, chunks, group, groups: w.panels().div_ceil(group) }
    }

    /// The most values of output columns that a task of a product of at most `rows` rows holds.
    pub fn most_columns(kernels: Kernels, rows: usize) -> usize {
        // Chunks are whole blocks, as equal as possible.
        rows.min(CHUNK_ROWS + 2 * kernels.max_rows()) * MAX_GROUP * PANEL
    }

    /// How many tasks.
    pub fn tasks(&self) -> usize {
        self.groups * self.chunks
    }

    /// Roughly, the multiply-adds of the whole; reading a weight from memory counts as some.
    pub fn cost(&self) -> usize {
        (self.blocks.rows + 8) * self.w.outputs * self.w.inputs
    }

    /// Runs one task over `x`, packed by [`pack_block`]. For each panel, `start(panel, rows, column)` may
    /// write the initial values of `column` and return true, or return false for zeros; `finish` takes the
    /// result `[rows][PANEL]`. With `out`, which is y `[rows, outputs]`, whole panels are accumulated where
    /// they belong, and are not given to `finish`.
    ///
    /// # Safety
    /// Nobody else may access this task's rows and columns of `out` meanwhile.
    pub unsafe fn run(
        &self,
        task: usize,
        x: &[f32],
        out: Option<Shared<'_>>,
        start: impl Fn(usize, Range<usize>, Column<'_>) -> bool,
        finish: impl Fn(usize, Range<usize>, &[f32]),
    ) {
        let (chunk, group) = (task / self.groups, task % self.groups);
        let blocks = chunk * self.chunk_blocks..self.blocks.count.min((chunk + 1) * self.chunk_blocks);
        let rows = self.blocks.range(blocks.start).start..self.blocks.range(blocks.end - 1).end;
        let panels = group * self.group..self.w.panels().min((group + 1) * self.group);
        let inputs = self.w.inputs;
        assert!(x.len() >= rows.end * inputs, "packed x");
        // Of the panels, only y's last can be narrower.
        let direct = |panel: usize| out.filter(|_| self.w.panel_columns(panel).len() == PANEL);
        let buffered = panels.clone().filter(|&p| direct(p).is_none()).count();
        let size = rows.len() * PANEL;
        scratch(buffered * size, |columns| {
            let columns = Shared::new(columns);
            let first = panels.start;
            let column = |panel: usize| match direct(panel) {
                Some(out) => {
                    let ld = self.w.outputs;
                    Column { values: out, first: rows.start * ld + panel * PANEL, ld, rows: rows.len() }
                }
                // The narrow panel is the last, so those before it are buffered all or none.
                None => {
                    let place = panel - first - (panels.len() - buffered);
                    Column { values: columns, first: place * size, ld: PANEL, rows: rows.len() }
                }
            };
            let mut started = [false; MAX_GROUP];
            for (i, panel) in panels.clone().enumerate() {
                started[i] = start(panel, rows.clone(), column(panel));
                if inputs == 0 && !started[i] {
                    column(panel).clear();
                }
            }
            for k in (0..inputs).step_by(K_BLOCK) {
                let steps = K_BLOCK.min(inputs - k);
                for (i, panel) in panels.clone().enumerate() {
                    let w = &self.w.panel(panel)[k * PANEL..][..steps * PANEL];
                    let column = column(panel);
                    // What this task reads next: the next panel, or the first one's next k-block.
                    let (next_panel, next_k) =
                        if panel + 1 < panels.end { (panel + 1, k) } else { (panels.start, k + K_BLOCK) };
                    let next = self.w.panel(next_panel).as_ptr().wrapping_add(next_k * PANEL);
                    // The first two row blocks share the work of fetching it.
                    let share = if blocks.len() == 1 { PANEL } else { PANEL / 2 };
                    for (b, block) in blocks.clone().enumerate() {
                        let r = self.blocks.range(block);
                        let fetch = b < 2 && next_k < inputs;
                        let tile = Tile {
                            k: steps,
                            x: x[r.start * inputs + k * r.len()..].as_ptr(),
                            ldx: r.len(),
                            w: w.as_ptr(),
                            ldw: PANEL,
                            y: column.rows(r.start - rows.start..r.end - rows.start).start(r.len()),
                            ldy: column.ld,
                            accumulate: k > 0 || started[i],
                            ahead: if fetch { next.wrapping_add(b * steps * share) } else { w.as_ptr() },
                            ahead_step: if fetch { share } else { 0 },
                        };
                        // SAFETY: x holds the block `[inputs][r.len()]` (asserted), w `steps` rows of a
                        // panel, y the block's rows.
                        unsafe { self.kernels.tile(r.len(), PANEL, &tile) };
                    }
                }
            }
            for panel in panels.clone().filter(|&p| direct(p).is_none()) {
                // SAFETY: this task's own buffer, which nothing writes any more.
                finish(panel, rows.clone(), unsafe { columns.read(column(panel).first, size) });
            }
        });
    }
}
