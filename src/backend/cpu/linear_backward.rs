//! The backward pass of the linear group, base frozen.
//!
//! `dh = s dy B` first, then, side by side, `dx = dh A + dy W` (LoRA k-steps first) and the adapters'
//! gradients. A gradient is reduced one sequence at a time: its rows in order into accumulators that start at
//! zero, then one addition into the slot's sum. So the sum depends on the order of the sequences only, never
//! on how they were packed into batches or shared among threads.

use std::collections::BTreeMap;
use std::ops::Range;

use super::gemm::{
    Aligned, Blocks, Column, Isa, Kernels, PANEL, Packed, Product, Shared, Team, Tile, pack_block, scratch,
    transpose,
};
use super::lora::{self, Lora};
use super::*;

/// Rows of a sequence that go through all tiles of a task before the next rows: they stay in cache.
const ROW_BLOCK: usize = 128;
/// Inputs of an A that one gradient task covers.
const A_CHUNK: usize = 112;
/// Row blocks that share one transposition of B.
const SPAN: usize = 8;
/// Outputs of B that are transposed at a time.
const B_STEPS: usize = 4 * PANEL;

/// [`Op::LinearBackward`].
pub fn run(c: &mut CpuBackend, op: &LinearBackward) -> Result<()> {
    lora::check_plan(&c.plan)?;
    check_sequences(&c.plan)?;
    let LinearWork { rows, inputs, outputs, stride, .. } = op.check(c)?;
    let factors = match (op.group, op.lora_x) {
        (Some(group), Some(_)) => {
            let rows = c.plan.row_dropout().into_iter().zip(&c.plan.positions);
            rows.map(|(d, &position)| (d.rate > 0.0).then(|| d.row(group, position))).collect()
        }
        _ => vec![],
    };
    let adapters = adapters(&Lora::new(&c.slots, &c.plan, op.group)?, &c.plan);
    if rows == 0 {
        return Ok(());
    }

    // Outputs are taken out of the backend while the operation reads the rest of it.
    let (shrink, dshrink) =
        (op.shrink.filter(|_| op.group.is_some()), op.dshrink.filter(|_| op.group.is_some()));
    let mut dx = op.dx.map(|t| c.take(t)).transpose()?;
    let mut dh = dshrink.map(|t| c.take(t)).transpose()?.unwrap_or_default();
    let mut gradients = Vec::with_capacity(adapters.len());
    for adapter in &adapters {
        let optimizer = c.slots.get_mut(adapter.slot)?.optimizer.as_mut();
        gradients.push(optimizer.map_or_else(Aligned::default, |o| std::mem::take(&mut o.gradient)));
    }
    let result = (|| {
        let lora = Lora::new(&c.slots, &c.plan, op.group)?;
        let work = Work {
            isa: Isa::best(),
            pool: &c.pool,
            backward: c.linears[op.linear.0 as usize].backward.as_ref(),
            lora: &lora,
            adapters: &adapters,
            rows,
            inputs,
            outputs,
            // What A has read in the forward; without dropout x itself.
            x: c.f32(op.lora_x.unwrap_or(op.x))?,
            factors: &factors,
            h: shrink.map_or(Ok(&[][..]), |t| c.f32(t))?,
            h_stride: stride,
            dy: c.f32(op.dy)?,
            dh_stride: stride,
        };
        work.compute(&mut dh, dx.as_deref_mut(), &mut gradients);
        Ok(())
    })();
    for (adapter, gradient) in adapters.iter().zip(gradients) {
        if let Some(optimizer) = &mut c.slots.get_mut(adapter.slot)?.optimizer {
            optimizer.gradient = gradient;
        }
    }
    if let (Some(t), Some(values)) = (op.dx, dx) {
        c.put(t, values);
    }
    if let Some(t) = dshrink {
        c.put(t, dh);
    }
    result
}

/// Checks that sequences cover the rows in order, each inside one segment.
fn check_sequences(plan: &BatchPlan) -> Result<()> {
    let mut row = 0;
    let mut segments = plan.segments.iter().peekable();
    for s in &plan.sequences {
        while segments.peek().is_some_and(|g| g.end <= s.start && s.start < s.end) {
            segments.next();
        }
        let inside =
            s.start == s.end || segments.peek().is_some_and(|g| g.start <= s.start && s.end <= g.end);
        if s.start != row || s.end < s.start || !inside {
            return Err(Error::Internal(format!("plan: sequence {s:?} where row {row} is next")));
        }
        row = s.end;
    }
    if row as usize != plan.rows() {
        return Err(Error::Internal(format!("plan: sequences end at row {row} of {}", plan.rows())));
    }
    Ok(())
}

/// A slot that gets gradients in this step.
pub(super) struct Adapter {
    pub slot: Slot,
    /// One of its segments: all have the same parts.
    segment: usize,
    /// Its sequences, in the plan's order.
    sequences: Vec<Range<usize>>,
}

/// The adapters of a step, each once, however many segments it has.
pub(super) fn adapters(lora: &Lora<'_>, plan: &BatchPlan) -> Vec<Adapter> {
    let mut found: BTreeMap<Slot, Adapter> = BTreeMap::new();
    let mut next = 0;
    for (index, segment) in lora.segments.iter().enumerate() {
        let adapter = found.entry(segment.slot).or_insert_with(|| Adapter {
            slot: segment.slot,
            segment: index,
            sequences: Vec::new(),
        });
        while let Some(s) = plan.sequences.get(next).filter(|s| (s.start as usize) < segment.rows.end) {
            if s.start as usize >= segment.rows.start && s.start < s.end {
                adapter.sequences.push(s.start as usize..s.end as usize);
            }
            next += 1;
        }
    }
    found.into_values().collect()
}

/// What the backward pass reads.
pub(super) struct Work<'a> {
    pub isa: Isa,
    pub pool: &'a Team,
    pub backward: Option<&'a Packed>,
    pub lora: &'a Lora<'a>,
    pub adapters: &'a [Adapter],
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// What A has read.
    pub x: &'a [f32],
    /// For each row the dropout of its `dh A`; empty where no row has any.
    pub factors: &'a [Option<RowDropout>],
    pub h: &'a [f32],
    pub h_stride: usize,
    pub dy: &'a [f32],
    pub dh_stride: usize,
}

/// A piece of one adapter's gradient.
enum Gradient {
    /// These inputs of A.
    A(Range<usize>),
    /// This output panel of B.
    B(usize),
}

/// The most values that a task holds for LoRA terms, in either direction, where no part's rank is above `rank`.
pub(super) fn most_task_values(kernels: Kernels, rank: usize) -> usize {
    (SPAN * kernels.max_rows() + B_STEPS + A_CHUNK + PANEL) * rank + ROW_BLOCK * PANEL
}

impl Work<'_> {
    /// The backward pass over plain slices; `gradients` are those of the adapters, in order.
    pub fn compute(&self, dh: &mut [f32], dx: Option<&mut [f32]>, gradients: &mut [Aligned]) {
        let &Work { lora, rows, inputs, outputs, .. } = self;
        assert!(
            self.x.len() >= rows * inputs && self.dy.len() >= rows * outputs,
            "linear_backward: x or dy too short"
        );
        if lora.segments.is_empty() && dx.is_none() {
            return;
        }
        let kernels = self.isa.kernels();
        let blocks = Blocks::new(rows, kernels.max_rows());
        let pieces = lora.pieces(&blocks);
        let product = match (&dx, self.backward) {
            (Some(_), Some(w)) => Some(Product::new(kernels, w, rows, self.pool.threads())),
            _ => None,
        };
        let spans = spans(lora, &pieces);
        let mut outer: Vec<(usize, usize, Gradient)> = Vec::new();
        for (index, adapter) in self.adapters.iter().enumerate() {
            for part in lora.segments[adapter.segment].parts.clone() {
                let chunks = (0..inputs).step_by(A_CHUNK).map(|i| Gradient::A(i..inputs.min(i + A_CHUNK)));
                let panels = lora.parts[part].panels.clone().map(Gradient::B);
                outer.extend(chunks.chain(panels).map(|g| (index, part, g)));
            }
        }
        let dx = dx.map(|dx| {
            assert!(dx.len() >= rows * inputs, "linear_backward: dx too short");
            Shared::new(dx)
        });
        let gradients = gradients.iter_mut().map(|g| Shared::new(g)).collect();
        let dh = Shared::new(dh);
        Tasks { of: self, kernels, blocks, pieces, product, spans, outer, dh, dx, gradients }.run();
    }
}

/// For the shrinks of dy: a few neighbouring pieces of one segment, with one part.
fn spans(lora: &Lora<'_>, pieces: &[lora::Piece]) -> Vec<(Range<usize>, usize)> {
    let mut spans = Vec::new();
    let mut first = 0;
    while first < pieces.len() {
        let segment = pieces[first].segment;
        let neighbours = &pieces[first..pieces.len().min(first + SPAN)];
        let last = first + neighbours.iter().take_while(|p| p.segment == segment).count();
        spans.extend(lora.segments[segment].parts.clone().map(|part| (first..last, part)));
        first = last;
    }
    spans
}

/// The backward pass cut into tasks.
struct Tasks<'a> {
    of: &'a Work<'a>,
    kernels: Kernels,
    blocks: Blocks,
    pieces: Vec<lora::Piece>,
    /// For dx, where it is wanted.
    product: Option<Product<'a>>,
    spans: Vec<(Range<usize>, usize)>,
    /// Pieces of gradients: an adapter's index, one of its parts.
    outer: Vec<(usize, usize, Gradient)>,
    dh: Shared<'a>,
    dx: Option<Shared<'a>>,
    gradients: Vec<Shared<'a>>,
}

impl Tasks<'_> {
    fn run(&self) {
        let &Work { pool, lora, rows, inputs, outputs, .. } = self.of;
        let products = self.product.as_ref().map_or(0, Product::tasks);
        let cost = self.product.as_ref().map_or(0, Product::cost) + 2 * lora.cost(inputs + outputs);
        let counts = [self.blocks.count, self.spans.len(), products + self.outer.len()];
        let (dy_len, h_len) = (rows * outputs, rows * lora.width);
        scratch(dy_len, |packed_dy| {
            scratch(h_len, |packed_h| {
                let [packed_dy, packed_h] = [packed_dy, packed_h].map(Shared::new);
                // SAFETY: the first phase has written it; no later one does.
                let read_dy = || unsafe { packed_dy.read(0, dy_len) };
                pool.run(pool.helpers(cost), &counts, &|phase, task| match phase {
                    // SAFETY: each task packs a block of its own.
                    0 => unsafe { pack_block(&self.blocks, task, self.of.dy, outputs, packed_dy) },
                    // SAFETY: each task has pieces with a part of its own.
                    1 => unsafe { self.shrink(task, read_dy(), packed_h) },
                    _ if task < products => {
                        // SAFETY: the phase before has written it, and this one does not.
                        let h = unsafe { packed_h.read(0, h_len) };
                        let start = |panel, rows, column: Column<'_>| self.start(panel, rows, column, h);
                        let finish = |panel, rows, column: &[f32]| {
                            // SAFETY: rows and columns of this task.
                            unsafe { self.finish(panel, rows, column) }
                        };
                        if let Some(product) = &self.product {
                            // SAFETY: each task has rows and columns of its own.
                            unsafe { product.run(task, read_dy(), self.dx, start, finish) };
                        }
                    }
                    // SAFETY: each task has a piece of a gradient of its own.
                    _ => unsafe { self.gradient(task - products) },
                });
            });
        });
    }

    /// Starts the accumulators of a panel of dx from `dh A` of the segments it meets; false where
    /// there are none.
    fn start(&self, panel: usize, rows: Range<usize>, column: Column<'_>, packed: &[f32]) -> bool {
        let &Work { lora, inputs, factors, .. } = self.of;
        let here = lora::pieces_in(&self.pieces, &rows);
        if here.is_empty() {
            return false;
        }
        let mut next = rows.start;
        for run in here.chunk_by(|a, b| a.segment == b.segment) {
            let end = run[run.len() - 1].rows.end;
            column.rows(next - rows.start..run[0].rows.start - rows.start).clear();
            for (i, part) in lora.parts_of(run[0].segment).iter().enumerate() {
                let lanes = PANEL.min(inputs - panel * PANEL);
                scratch(part.rank * PANEL, |a| {
                    if lanes < PANEL {
                        a.fill(0.0);
                    }
                    let from = &part.a[panel * PANEL * part.rank..];
                    transpose(from, lanes, part.rank, part.rank, a, PANEL);
                    for piece in run {
                        let at = column.rows(piece.rows.start - rows.start..piece.rows.end - rows.start);
                        let h = &packed[lora::packed_h(piece, part, lora.width)];
                        lora::expand(self.kernels, h, a, at, i > 0, &[]);
                    }
                });
            }
            let mut values = column.rows(run[0].rows.start - rows.start..end - rows.start);
            let dropped = factors.get(run[0].rows.start..end).unwrap_or_default();
            for (row, factors) in dropped.iter().enumerate() {
                let Some(factors) = factors else { continue };
                for (i, value) in (panel * PANEL..).zip(values.row(row)) {
                    *value *= factors.factor(i as u32);
                }
            }
            next = end;
        }
        column.rows(next - rows.start..rows.len()).clear();
        true
    }

    /// Writes a panel of dx.
    ///
    /// # Safety
    /// Nobody else may access these rows and columns of dx meanwhile.
    unsafe fn finish(&self, panel: usize, rows: Range<usize>, column: &[f32]) {
        let (Some(dx), inputs) = (&self.dx, self.of.inputs) else { return };
        let cols = panel * PANEL..inputs.min((panel + 1) * PANEL);
        for (row, values) in rows.zip(column.chunks_exact(PANEL)) {
            // SAFETY: the caller's promise.
            unsafe { dx.slice(row * inputs + cols.start, cols.len()) }.copy_from_slice(&values[..cols.len()]);
        }
    }

    /// `dh = s dy B` for a span, into the tensor and packed for `dh A`.
    ///
    /// # Safety
    /// Nobody else may access these rows and columns of `dh` and `packed_h` meanwhile.
    unsafe fn shrink(&self, span: usize, packed_dy: &[f32], packed_h: Shared<'_>) {
        let &Work { lora, outputs, dh_stride, .. } = self.of;
        let (pieces, part) = (&self.pieces[self.spans[span].0.clone()], &lora.parts[self.spans[span].1]);
        let rank = part.rank;
        let rows = pieces[0].rows.start..pieces[pieces.len() - 1].rows.end;
        scratch(rows.len() * rank, |own| {
            scratch(B_STEPS * rank, |b| {
                let mut n = part.start;
                while n < part.end {
                    // B_STEPS outputs of the panel grid, `[output][rank]`.
                    let end = ((n / B_STEPS + 1) * B_STEPS).min(part.end);
                    let mut column = n;
                    while column < end {
                        let (panel, lane) = (column / PANEL, column % PANEL);
                        let lanes = (PANEL - lane).min(end - column);
                        let from = &part.b_panel(panel)[lane..];
                        transpose(from, rank, lanes, PANEL, &mut b[(column - n) * rank..], rank);
                        column += lanes;
                    }
                    for piece in pieces {
                        let block = self.blocks.range(piece.block);
                        let x = block.start * outputs + n * block.len() + piece.rows.start - block.start;
                        let tile = Tile {
                            k: end - n,
                            x: packed_dy[x..block.end * outputs].as_ptr(),
                            ldx: block.len(),
                            w: b.as_ptr(),
                            ldw: rank,
                            y: own[(piece.rows.start - rows.start) * rank..].as_mut_ptr(),
                            ldy: rank,
                            accumulate: n > part.start,
                            ahead: b.as_ptr(),
                            ahead_step: 0,
                        };
                        // SAFETY: x lies in a block `[outputs][block.len()]`, b holds `[end - n][rank]`,
                        // own the piece's rows.
                        unsafe { self.kernels.tile(piece.rows.len(), rank, &tile) };
                    }
                    n = end;
                }
            });
            own.iter_mut().for_each(|v| *v *= part.scale);
            for (row, values) in rows.clone().zip(own.chunks_exact(rank)) {
                // SAFETY: this task's rows and columns.
                unsafe { self.dh.slice(row * dh_stride + part.column, rank) }.copy_from_slice(values);
            }
            for piece in pieces {
                let place = lora::packed_h(piece, part, lora.width);
                // SAFETY: this task's rows and columns.
                let target = unsafe { packed_h.slice(place.start, place.len()) };
                let own = &own[(piece.rows.start - rows.start) * rank..];
                lora::pack_h(own, rank, piece.rows.len(), rank, 1.0, target);
            }
        });
    }

    /// Adds to one piece of a gradient.
    ///
    /// # Safety
    /// Nobody else may access the piece, nor write `dh`, meanwhile.
    unsafe fn gradient(&self, index: usize) {
        let (adapter, part, ref piece) = self.outer[index];
        let (part, gradient) = (&self.of.lora.parts[part], self.gradients[adapter]);
        let sequences = &self.of.adapters[adapter].sequences;
        match piece {
            Gradient::A(inputs) => {
                // SAFETY: the caller's promise.
                let dh = unsafe { self.dh.read(0, self.of.rows * self.of.dh_stride) };
                // SAFETY: the caller's promise.
                unsafe { gradient_a(self.of, part, sequences, inputs, dh, gradient) }
            }
            // SAFETY: the caller's promise.
            Gradient::B(panel) => unsafe { gradient_b(self.of, part, sequences, *panel, gradient) },
        }
    }
}

/// Adds `dhᵀ x` of each sequence to some inputs of A's gradient, `[inputs][rank]`.
///
/// # Safety
/// Nobody else may access these inputs of the gradient meanwhile.
unsafe fn gradient_a(
    work: &Work<'_>,
    part: &lora::Part<'_>,
    sequences: &[Range<usize>],
    inputs: &Range<usize>,
    dh: &[f32],
    gradient: Shared<'_>,
) {
    let kernels = work.isa.kernels();
    let (rank, stride) = (part.rank, work.dh_stride);
    let offset = part.offset_a + inputs.start * rank;
    // SAFETY: the caller's promise.
    let gradient = unsafe { gradient.slice(offset, inputs.len() * rank) };
    scratch(inputs.len() * rank, |own| {
        for sequence in sequences {
            for row in sequence.clone().step_by(ROW_BLOCK) {
                let end = sequence.end.min(row + ROW_BLOCK);
                assert!(dh.len() >= (end - 1) * stride + part.column + rank, "dh too short");
                let tile = Tile {
                    k: end - row,
                    x: work.x[row * work.inputs + inputs.start..end * work.inputs].as_ptr(),
                    ldx: work.inputs,
                    w: dh[row * stride + part.column..].as_ptr(),
                    ldw: stride,
                    y: own.as_mut_ptr(),
                    ldy: rank,
                    accumulate: row > sequence.start,
                    ahead: dh[row * stride + part.column..].as_ptr(),
                    ahead_step: 0,
                };
                // SAFETY: x and dh hold the rows up to `end` (asserted), own `[inputs][rank]`.
                unsafe { kernels.tall(inputs.len(), rank, &tile) };
            }
            gradient.iter_mut().zip(&*own).for_each(|(g, v)| *g += v);
        }
    });
}

/// Adds `s dyᵀ h` of each sequence to one panel of B's gradient, `[rank][PANEL]`.
///
/// # Safety
/// Nobody else may access this panel of the gradient meanwhile.
unsafe fn gradient_b(
    work: &Work<'_>,
    part: &lora::Part<'_>,
    sequences: &[Range<usize>],
    panel: usize,
    gradient: Shared<'_>,
) {
    let kernels = work.isa.kernels();
    let (rank, stride, outputs) = (part.rank, work.h_stride, work.outputs);
    let offset = part.offset_b + (panel - part.panels.start) * rank * PANEL;
    // SAFETY: the caller's promise.
    let gradient = unsafe { gradient.slice(offset, rank * PANEL) };
    // Other columns of the panel belong to other parts, or to nobody: they stay zero.
    let lanes = part.start.saturating_sub(panel * PANEL)..PANEL.min(part.end - panel * PANEL);
    let whole = (panel + 1) * PANEL <= outputs;
    scratch(rank * PANEL, |own| {
        scratch(if whole { 0 } else { ROW_BLOCK * PANEL }, |edge| {
            for sequence in sequences {
                for row in sequence.clone().step_by(ROW_BLOCK) {
                    let end = sequence.end.min(row + ROW_BLOCK);
                    assert!(work.h.len() >= (end - 1) * stride + part.column + rank, "h too short");
                    let dy = &work.dy[row * outputs + panel * PANEL..end * outputs];
                    if !whole {
                        // A full vector would run past the last row's end.
                        let cols = outputs - panel * PANEL;
                        for (line, to) in dy.chunks(outputs).zip(edge.chunks_exact_mut(PANEL)) {
                            to[..cols].copy_from_slice(&line[..cols]);
                            to[cols..].fill(0.0);
                        }
                    }
                    let (w, ldw) = if whole { (dy.as_ptr(), outputs) } else { (edge.as_ptr(), PANEL) };
                    let tile = Tile {
                        k: end - row,
                        x: work.h[row * stride + part.column..].as_ptr(),
                        ldx: stride,
                        w,
                        ldw,
                        y: own.as_mut_ptr(),
                        ldy: PANEL,
                        accumulate: row > sequence.start,
                        ahead: w,
                        ahead_step: 0,
                    };
                    // SAFETY: h holds the rows up to `end` (asserted), w a panel's width of each of them, own
                    // `[rank][PANEL]`.
                    unsafe { kernels.tall(rank, PANEL, &tile) };
                }
                for (to, from) in gradient.chunks_exact_mut(PANEL).zip(own.chunks_exact(PANEL)) {
                    for lane in lanes.clone() {
                        to[lane] += part.scale * from[lane];
                    }
                }
            }
        });
    });
}
