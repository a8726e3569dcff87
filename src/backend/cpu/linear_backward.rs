//! The backward pass of the linear group, base frozen.
//!
//! `dh = s dy B` first, then, side by side, `dx = dh A + dy W` (LoRA k-steps first) and the adapters' gradients. A gradient is reduced one
//! sequence at a time: its rows in order into accumulators that start at zero, then one addition into the slot's sum. So the sum
//! depends on the order of the sequences only, never on how they were packed into batches or shared among threads.

use std::collections::BTreeMap;
use std::ops::Range;

use super::gemm::{
    Aligned, Blocks, Column, Isa, Kernels, PANEL, Packed, Product, Shared, Team, Tile, pack_block, scratch,
    transpose,
};
use super::linear::{check_shrink, distinct, resolve};
use super::lora::{self, Lora};
use super::slots::no_optimizer;
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
    let &LinearBackward { linear, group, x, lora_x, shrink, dy, dshrink, dx } = op;
    const OP: &str = "linear_backward";
    let rows = c.plan.rows();
    let (inputs, outputs) = resolve(c, OP, linear, group)?;
    c.check(OP, x, rows, inputs)?;
    c.check(OP, dy, rows, outputs)?;
    if let Some(dx) = dx {
        c.check(OP, dx, rows, inputs)?;
        if c.linears[linear.0 as usize].backward.is_none() {
            return Err(Error::Internal(format!("{OP}: linear {} was loaded without `backward`", linear.0)));
        }
    }
    // What A has read in the forward; without dropout x itself.
    let a_x = lora_x.unwrap_or(x);
    c.check(OP, a_x, rows, inputs)?;
    distinct(OP, &[Some(x), lora_x, shrink, Some(dy), dshrink, dx])?;
    check_sequences(&c.plan)?;
    let factors = match (group, lora_x) {
        (Some(group), Some(_)) => {
            let rows = c.plan.row_dropout(OP)?.into_iter().zip(&c.plan.positions);
            rows.map(|(d, &position)| (d.rate > 0.0).then(|| d.row(group, position))).collect()
        }
        _ => vec![],
    };
    for t in [Some(a_x), Some(dy), shrink, dshrink, dx].into_iter().flatten() {
        c.f32(t)?;
    }
    let lora = Lora::new(&c.slots, &c.plan, group)?;
    let width = lora.width;
    let adapters = adapters(&lora, &c.plan);
    let shrinks = match group {
        Some(_) => {
            Some((check_shrink(c, OP, shrink, rows, width)?, check_shrink(c, OP, dshrink, rows, width)?))
        }
        None => None,
    };
    drop(lora);
    for adapter in &adapters {
        if c.slots.get(adapter.slot)?.optimizer.is_none() {
            return Err(no_optimizer(adapter.slot));
        }
    }
    if rows == 0 {
        return Ok(());
    }

    // Outputs are taken out of the backend while the operation reads the rest of it.
    let mut dx_values = dx.map(|t| c.take(t)).transpose()?;
    let mut dh_values = shrinks.map(|(_, (t, _))| c.take(t)).transpose()?.unwrap_or_default();
    let mut gradients = Vec::with_capacity(adapters.len());
    for adapter in &adapters {
        let optimizer = c.slots.get_mut(adapter.slot)?.optimizer.as_mut();
        gradients.push(optimizer.map_or_else(Aligned::default, |o| std::mem::take(&mut o.gradient)));
    }
    let result = (|| {
        let lora = Lora::new(&c.slots, &c.plan, group)?;
        let (h, h_stride) = match shrinks {
            Some(((t, stride), _)) => (c.f32(t)?, stride),
            None => (&[][..], 0),
        };
        let work = Work {
            isa: Isa::best(),
            pool: &c.pool,
            backward: c.linears[linear.0 as usize].backward.as_ref(),
            lora: &lora,
            adapters: &adapters,
            rows,
            inputs,
            outputs,
            x: c.f32(a_x)?,
            factors: &factors,
            h,
            h_stride,
            dy: c.f32(dy)?,
            dh_stride: shrinks.map_or(0, |(_, (_, stride))| stride),
        };
        compute(&work, &mut dh_values, dx_values.as_deref_mut(), &mut gradients);
        Ok(())
    })();
    for (adapter, gradient) in adapters.iter().zip(gradients) {
        if let Some(optimizer) = &mut c.slots.get_mut(adapter.slot)?.optimizer {
            optimizer.gradient = gradient;
        }
    }
    if let (Some(t), Some(values)) = (dx, dx_values) {
        c.put(t, values);
    }
    if let Some((_, (t, _))) = shrinks {
        c.put(t, dh_values);
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

/// The backward pass over plain slices; `gradients` are those of the adapters, in order.
pub(super) fn compute(work: &Work<'_>, dh: &mut [f32], dx: Option<&mut [f32]>, gradients: &mut [Aligned]) {
    let &Work { lora, rows, inputs, outputs, .. } = work;
    assert!(
        work.x.len() >= rows * inputs && work.dy.len() >= rows * outputs,
        "linear_backward: x or dy too short"
    );
    if lora.segments.is_empty() && dx.is_none() {
        return;
    }
    let kernels = work.isa.kernels();
    let threads = work.pool.threads();
    let blocks = Blocks::new(rows, kernels.max_rows());
    let pieces = lora.pieces(&blocks);
    let product = match (&dx, work.backward) {
        (Some(_), Some(w)) => Some(Product::new(kernels, w, rows, threads)),
        _ => None,
    };

    // dh: a few neighbouring pieces of one segment, with one part.
    let mut spans: Vec<(Range<usize>, usize)> = Vec::new();
    let mut first = 0;
    while first < pieces.len() {
        let segment = pieces[first].segment;
        let last =
            (first..pieces.len().min(first + SPAN)).take_while(|&i| pieces[i].segment == segment).count()
                + first;
        spans.extend(lora.segments[segment].parts.clone().map(|part| (first..last, part)));
        first = last;
    }
    let mut outer: Vec<(usize, usize, Gradient)> = Vec::new();
    for (index, adapter) in work.adapters.iter().enumerate() {
        for part in lora.segments[adapter.segment].parts.clone() {
            let chunks = (0..inputs).step_by(A_CHUNK).map(|i| Gradient::A(i..inputs.min(i + A_CHUNK)));
            let panels = lora.parts[part].panels.clone().map(Gradient::B);
            outer.extend(chunks.chain(panels).map(|g| (index, part, g)));
        }
    }

    let width = lora.width;
    let (dh, gradients) = (Shared::new(dh), gradients.iter_mut().map(|g| Shared::new(g)).collect::<Vec<_>>());
    let dx = dx.map(|dx| {
        assert!(dx.len() >= rows * inputs, "linear_backward: dx too short");
        Shared::new(dx)
    });

    let start = |panel: usize, rows: Range<usize>, column: Column<'_>, packed: &[f32]| {
        let here = lora::pieces_in(&pieces, &rows);
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
                        let h = &packed[lora::packed_h(piece, part, width)];
                        lora::expand(kernels, h, piece.rows.len(), a, part.rank, at, i > 0, &[]);
                    }
                });
            }
            let mut values = column.rows(run[0].rows.start - rows.start..end - rows.start);
            let dropped = work.factors.get(run[0].rows.start..end).unwrap_or_default();
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
    };
    let finish = |panel: usize, rows: Range<usize>, column: &[f32]| {
        let cols = panel * PANEL..inputs.min((panel + 1) * PANEL);
        for (row, values) in rows.zip(column.chunks_exact(PANEL)) {
            if let Some(dx) = &dx {
                // SAFETY: rows x columns of one task; no other task touches them.
                unsafe { dx.slice(row * inputs + cols.start, cols.len()) }
                    .copy_from_slice(&values[..cols.len()]);
            }
        }
    };

    let products = product.as_ref().map_or(0, Product::tasks);
    let cost = product.as_ref().map_or(0, Product::cost) + 2 * lora.cost(inputs + outputs);
    let helpers = work.pool.helpers(cost);
    scratch(rows * outputs, |packed_dy| {
        scratch(rows * width, |packed_h| {
            let (packed_dy, packed_h) = (Shared::new(packed_dy), Shared::new(packed_h));
            let counts = [blocks.count, spans.len(), products + outer.len()];
            work.pool.run(helpers, &counts, &|phase, task| {
                // SAFETY: each task of a phase writes its own part, and only later phases read it.
                unsafe {
                    match phase {
                        0 => pack_block(&blocks, task, work.dy, outputs, packed_dy),
                        1 => {
                            let (pieces, part) = (&pieces[spans[task].0.clone()], &lora.parts[spans[task].1]);
                            shrink_backward(
                                work,
                                &blocks,
                                pieces,
                                part,
                                packed_dy.read(0, rows * outputs),
                                dh,
                                packed_h,
                            );
                        }
                        _ if task < products => {
                            let h = packed_h.read(0, rows * width);
                            let start = |panel, rows, column: Column<'_>| start(panel, rows, column, h);
                            if let Some(product) = &product {
                                product.run(task, packed_dy.read(0, rows * outputs), dx, start, finish);
                            }
                        }
                        _ => {
                            let (adapter, part, ref piece) = outer[task - products];
                            let part = &lora.parts[part];
                            let sequences = &work.adapters[adapter].sequences;
                            let dh = dh.read(0, rows * work.dh_stride);
                            match piece {
                                Gradient::A(i) => {
                                    gradient_a(work, part, sequences, i, dh, gradients[adapter])
                                }
                                Gradient::B(p) => gradient_b(work, part, sequences, *p, gradients[adapter]),
                            }
                        }
                    }
                }
            });
        });
    });
}

/// `dh = s dy B` for some pieces of one segment and one part, into the tensor and packed for `dh A`.
///
/// # Safety
/// Nobody else may access these rows and columns of `dh` and `packed_h` meanwhile.
unsafe fn shrink_backward(
    work: &Work<'_>,
    blocks: &Blocks,
    pieces: &[lora::Piece],
    part: &lora::Part<'_>,
    packed_dy: &[f32],
    dh: Shared<'_>,
    packed_h: Shared<'_>,
) {
    let kernels = work.isa.kernels();
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
                    transpose(
                        &part.b_panel(panel)[lane..],
                        rank,
                        lanes,
                        PANEL,
                        &mut b[(column - n) * rank..],
                        rank,
                    );
                    column += lanes;
                }
                for piece in pieces {
                    let block = blocks.range(piece.block);
                    let x = block.start * work.outputs + n * block.len() + piece.rows.start - block.start;
                    let tile = Tile {
                        k: end - n,
                        x: packed_dy[x..block.end * work.outputs].as_ptr(),
                        ldx: block.len(),
                        w: b.as_ptr(),
                        ldw: rank,
                        y: own[(piece.rows.start - rows.start) * rank..].as_mut_ptr(),
                        ldy: rank,
                        accumulate: n > part.start,
                        ahead: b.as_ptr(),
                        ahead_step: 0,
                    };
                    // SAFETY: x lies in a block `[outputs][block.len()]`, b holds `[end - n][rank]`, own the piece's rows.
                    unsafe { kernels.tile(piece.rows.len(), rank, &tile) };
                }
                n = end;
            }
        });
        own.iter_mut().for_each(|v| *v *= part.scale);
        for (row, values) in rows.clone().zip(own.chunks_exact(rank)) {
            // SAFETY: this task's rows and columns.
            unsafe { dh.slice(row * work.dh_stride + part.column, rank) }.copy_from_slice(values);
        }
        for piece in pieces {
            let place = lora::packed_h(piece, part, work.lora.width);
            // SAFETY: this task's rows and columns.
            let target = unsafe { packed_h.slice(place.start, place.len()) };
            let own = &own[(piece.rows.start - rows.start) * rank..];
            lora::pack_h(own, rank, piece.rows.len(), rank, 1.0, target);
        }
    });
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
                    // SAFETY: h holds the rows up to `end` (asserted), w a panel's width of each of them, own `[rank][PANEL]`.
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
