//! The linear group: packed base weights, and the forward pass with every adapter's LoRA k-steps in the same
//! accumulators.
//!
//! The base product is one product over all rows of all segments, whatever the number of adapters. A task
//! owns some panels of some rows; it starts their accumulators from the LoRA k-steps of the segments it
//! meets, runs the base k-steps over them, and adds bias and residual on the way out.

use std::ops::Range;

use super::gemm::{Column, Isa, Kernels, PANEL, Packed, Product, Shared, Team, Tile, pack_block, scratch};
use super::lora::{self, Lora};
use super::*;

/// How many pieces ahead the next adapter's B is fetched.
const SOON: usize = 3;

/// The weights of one linear group.
pub struct LinearWeights {
    /// W, for `x Wᵀ`.
    pub forward: Packed,
    /// W transposed, for `dx = dy W`.
    pub backward: Option<Packed>,
    /// Of all outputs.
    pub bias: Option<Vec<f32>>,
}

impl LinearWeights {
    /// Packs the parts of `spec`, stacked by rows. A row is widened to f32 as it is packed: there is no f32
    /// copy of the matrix in between.
    pub fn pack(pool: &Team, spec: LinearSpec<'_>) -> Result<Self> {
        let inputs = spec.parts.first().map_or(0, |p| p.cols);
        let mut first_rows = Vec::with_capacity(spec.parts.len());
        let mut outputs = 0;
        for part in spec.parts {
            let bytes = part.rows * part.cols * part.dtype.bytes();
            if part.cols != inputs || part.bytes.len() != bytes {
                return Err(Error::Internal(format!(
                    "a linear of {inputs} inputs with a part [{}, {}] of {} bytes",
                    part.rows,
                    part.cols,
                    part.bytes.len()
                )));
            }
            first_rows.push(outputs);
            outputs += part.rows;
        }
        if inputs == 0 || outputs == 0 {
            return Err(Error::Internal(format!("a linear of {inputs} inputs and {outputs} outputs")));
        }
        if let Some(bias) = spec.bias.filter(|b| b.len() != outputs) {
            return Err(Error::Internal(format!("a bias of {} for {outputs} outputs", bias.len())));
        }
        let row = |n: usize, out: &mut [f32]| {
            let part = first_rows.partition_point(|&first| first <= n) - 1;
            spec.parts[part].row_into(n - first_rows[part], out);
        };
        Ok(Self {
            forward: Packed::new(pool, outputs, inputs, row),
            backward: spec.backward.then(|| Packed::transposed(pool, outputs, inputs, row)),
            bias: spec.bias.map(<[f32]>::to_vec),
        })
    }

    /// What [`LinearWeights::pack`] would make, without its values.
    pub fn sized(spec: LinearSpec<'_>) -> Self {
        let inputs = spec.parts.first().map_or(0, |p| p.cols);
        let outputs = spec.parts.iter().map(|p| p.rows).sum();
        Self {
            forward: Packed::sized(outputs, inputs),
            backward: spec.backward.then(|| Packed::sized(inputs, outputs)),
            bias: spec.bias.map(<[f32]>::to_vec),
        }
    }

    /// Bytes it occupies.
    pub fn bytes(&self) -> usize {
        self.forward.bytes()
            + self.backward.as_ref().map_or(0, Packed::bytes)
            + self.bias.as_ref().map_or(0, |b| b.len() * 4)
    }
}

/// [`Op::LinearForward`].
pub fn forward(c: &mut CpuBackend, op: &LinearForward) -> Result<()> {
    lora::check_plan(&c.plan)?;
    let LinearWork { rows, stride, .. } = op.check(c)?;
    if rows == 0 {
        return Ok(());
    }
    // Checked: neither fails.
    let mut y = c.take(op.y)?;
    let shrink = op.shrink.filter(|_| op.group.is_some());
    let mut h = shrink.map(|t| c.take(t)).transpose()?.unwrap_or_default();
    let result = (|| {
        let lora = Lora::new(&c.slots, &c.plan, op.group)?;
        let residual = match op.residual {
            None => Residual::None,
            Some(r) if r == op.y => Residual::InPlace,
            Some(r) => Residual::From(c.f32(r)?),
        };
        let forward = Forward {
            isa: Isa::best(),
            pool: &c.pool,
            weights: &c.linears[op.linear.0 as usize],
            lora: &lora,
            rows,
            x: c.f32(op.x)?,
            lora_x: op.lora_x.map(|t| c.f32(t)).transpose()?,
            residual,
        };
        forward.compute(H { values: &mut h, stride }, &mut y);
        Ok(())
    })();
    c.put(op.y, y);
    if let Some(t) = shrink {
        c.put(t, h);
    }
    result
}

/// A shrink tensor: `[rows][stride]`.
pub(super) struct H<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
}

/// What is added at the end.
#[derive(Clone, Copy)]
pub(super) enum Residual<'a> {
    None,
    /// What y holds.
    InPlace,
    From(&'a [f32]),
}

/// What the forward pass reads.
pub(super) struct Forward<'a> {
    pub isa: Isa,
    pub pool: &'a Team,
    pub weights: &'a LinearWeights,
    pub lora: &'a Lora<'a>,
    pub rows: usize,
    pub x: &'a [f32],
    pub lora_x: Option<&'a [f32]>,
    pub residual: Residual<'a>,
}

impl Forward<'_> {
    /// The forward pass over plain slices.
    pub fn compute(&self, h: H<'_>, y: &mut [f32]) {
        let &Forward { weights, lora, rows, x, lora_x, .. } = self;
        let (inputs, outputs) = (weights.forward.inputs, weights.forward.outputs);
        assert!(x.len() >= rows * inputs && y.len() >= rows * outputs, "linear_forward: x or y too short");
        assert!(lora_x.is_none_or(|x| x.len() >= rows * inputs), "linear_forward: lora_x too short");
        if let Residual::From(r) = self.residual {
            assert!(r.len() >= rows * outputs, "linear_forward: residual too short");
        }
        let kernels = self.isa.kernels();
        let product = Product::new(kernels, &weights.forward, rows, self.pool.threads());
        let pieces = lora.pieces(&product.blocks);
        let of_piece = |(i, piece): (usize, &lora::Piece)| {
            lora.segments[piece.segment].parts.clone().map(move |part| (i, part))
        };
        let shrinks = pieces.iter().enumerate().flat_map(of_piece).collect();
        let (stride, h, y) = (h.stride, Shared::new(h.values), Shared::new(y));
        Tasks { of: self, kernels, product, pieces, shrinks, h, stride, y }.run();
    }
}

/// The forward pass cut into tasks.
struct Tasks<'a> {
    of: &'a Forward<'a>,
    kernels: Kernels,
    product: Product<'a>,
    pieces: Vec<lora::Piece>,
    /// The shrinks: a piece with one of its parts.
    shrinks: Vec<(usize, usize)>,
    h: Shared<'a>,
    stride: usize,
    y: Shared<'a>,
}

impl Tasks<'_> {
    fn run(&self) {
        let &Forward { pool, weights, lora, rows, x, lora_x, residual, .. } = self.of;
        let (inputs, product) = (weights.forward.inputs, &self.product);
        // What nothing is added to is accumulated where it belongs.
        let out = matches!((residual, &weights.bias), (Residual::None, None)).then_some(self.y);
        let helpers = pool.helpers(product.cost() + 2 * lora.cost(inputs));
        // A row alone lies as if it were packed.
        let x_len = if rows == 1 { 0 } else { rows * inputs };
        let counts = [if rows == 1 { 0 } else { product.blocks.count }, self.shrinks.len(), product.tasks()];
        let h_len = rows * lora.width;
        scratch(x_len, |packed_x| {
            scratch(if lora_x.is_some() { x_len } else { 0 }, |packed_lora_x| {
                scratch(h_len, |packed_h| {
                    let [packed_x, packed_lora_x, packed_h] =
                        [packed_x, packed_lora_x, packed_h].map(Shared::new);
                    let read_x = || match rows {
                        1 => x,
                        // SAFETY: the first phase has written it; no later one does.
                        _ => unsafe { packed_x.read(0, x_len) },
                    };
                    pool.run(helpers, &counts, &|phase, task| match phase {
                        0 => {
                            // SAFETY: each task packs a block of its own.
                            unsafe { pack_block(&product.blocks, task, x, inputs, packed_x) };
                            if let Some(x) = lora_x {
                                // SAFETY: as above.
                                unsafe { pack_block(&product.blocks, task, x, inputs, packed_lora_x) };
                            }
                        }
                        1 => {
                            let x = match lora_x {
                                None => read_x(),
                                Some(x) if rows == 1 => x,
                                // SAFETY: as in `read_x`.
                                Some(_) => unsafe { packed_lora_x.read(0, x_len) },
                            };
                            // SAFETY: each task has a piece with a part of its own.
                            unsafe { self.shrink(task, x, packed_h) };
                        }
                        _ => {
                            // SAFETY: the phase before has written it, and this one does not.
                            let h = unsafe { packed_h.read(0, h_len) };
                            let start = |panel, rows, column: Column<'_>| self.start(panel, rows, column, h);
                            let finish = |panel, rows, column: &[f32]| {
                                // SAFETY: rows and columns of this task.
                                unsafe { self.finish(panel, rows, column) }
                            };
                            // SAFETY: each task has rows and columns of its own.
                            unsafe { product.run(task, read_x(), out, start, finish) };
                        }
                    });
                });
            });
        });
    }

    /// One shrink: into the tensor, and packed for [`Tasks::start`].
    ///
    /// # Safety
    /// Nobody else may access this task's rows and columns of `h` and `packed` meanwhile.
    unsafe fn shrink(&self, task: usize, packed_x: &[f32], packed: Shared<'_>) {
        let (lora, inputs) = (self.of.lora, self.of.weights.forward.inputs);
        let (piece, part) = (&self.pieces[self.shrinks[task].0], &lora.parts[self.shrinks[task].1]);
        let block = self.product.blocks.range(piece.block);
        let m = piece.rows.len();
        let packed_x = &packed_x[block.start * inputs..block.end * inputs];
        assert!(part.a.len() >= inputs * part.rank, "A too short");
        scratch(m * part.rank, |own| {
            let tile = Tile {
                k: inputs,
                x: packed_x[piece.rows.start - block.start..].as_ptr(),
                ldx: block.len(),
                w: part.a.as_ptr(),
                ldw: part.rank,
                y: own.as_mut_ptr(),
                ldy: part.rank,
                accumulate: false,
                ahead: part.a.as_ptr(),
                ahead_step: 0,
            };
            // SAFETY: x holds the whole block `[inputs][block.len()]`, A `[inputs][rank]`, own `[m][rank]`.
            unsafe { self.kernels.tile(m, part.rank, &tile) };
            for (row, values) in piece.rows.clone().zip(own.chunks_exact(part.rank)) {
                // SAFETY: the columns of this part in a row of this piece: the caller's promise.
                unsafe { self.h.slice(row * self.stride + part.column, part.rank) }.copy_from_slice(values);
            }
            let place = lora::packed_h(piece, part, lora.width);
            // SAFETY: this task's part of the packed h.
            let target = unsafe { packed.slice(place.start, place.len()) };
            lora::pack_h(own, part.rank, m, part.rank, part.scale, target);
        });
    }

    /// Starts the accumulators of a panel from the LoRA k-steps of the segments it meets; false
    /// where there are none.
    fn start(&self, panel: usize, rows: Range<usize>, column: Column<'_>, packed: &[f32]) -> bool {
        let lora = self.of.lora;
        let here = lora::pieces_in(&self.pieces, &rows);
        let touched =
            |piece: &lora::Piece| lora.parts_of(piece.segment).iter().any(|p| p.panels.contains(&panel));
        if !here.iter().any(touched) {
            return false;
        }
        let mut next = rows.start;
        for (i, piece) in here.iter().enumerate() {
            // Many short segments read as many adapters: fetch one that comes soon.
            let soon = here
                .get(i + SOON)
                .and_then(|p| lora.parts_of(p.segment).iter().find(|p| p.panels.contains(&panel)));
            let mut ahead = soon.map_or(&[][..], |part| part.b_panel(panel));
            column.rows(next - rows.start..piece.rows.start - rows.start).clear();
            let mut column = column.rows(piece.rows.start - rows.start..piece.rows.end - rows.start);
            let mut started = false;
            for part in lora.parts_of(piece.segment).iter().filter(|p| p.panels.contains(&panel)) {
                let h = &packed[lora::packed_h(piece, part, lora.width)];
                lora::expand(self.kernels, h, part.b_panel(panel), column, started, ahead);
                started = true;
                ahead = &[];
            }
            if !started {
                column.clear();
            }
            next = piece.rows.end;
        }
        column.rows(next - rows.start..rows.len()).clear();
        true
    }

    /// Adds bias and residual to a panel on its way out.
    ///
    /// # Safety
    /// Nobody else may access these rows and columns of y meanwhile.
    unsafe fn finish(&self, panel: usize, rows: Range<usize>, column: &[f32]) {
        let weights = self.of.weights;
        let cols = weights.forward.panel_columns(panel);
        let bias = weights.bias.as_ref().map(|b| &b[cols.clone()]);
        for (row, values) in rows.zip(column.chunks_exact(PANEL)) {
            let at = row * weights.forward.outputs + cols.start;
            // SAFETY: the caller's promise.
            let out = unsafe { self.y.slice(at, cols.len()) };
            match self.of.residual {
                Residual::None => finish_row(out, values, bias, false),
                Residual::InPlace => finish_row(out, values, bias, true),
                Residual::From(r) => {
                    out.copy_from_slice(&r[at..at + cols.len()]);
                    finish_row(out, values, bias, true);
                }
            }
        }
    }
}

/// `out = (values + bias) (+ out)`.
fn finish_row(out: &mut [f32], values: &[f32], bias: Option<&[f32]>, add: bool) {
    match (bias, add) {
        (None, false) => out.copy_from_slice(&values[..out.len()]),
        (None, true) => out.iter_mut().zip(values).for_each(|(o, v)| *o += v),
        (Some(b), false) => out.iter_mut().zip(values).zip(b).for_each(|((o, v), b)| *o = v + b),
        (Some(b), true) => out.iter_mut().zip(values).zip(b).for_each(|((o, v), b)| *o += v + b),
    }
}
