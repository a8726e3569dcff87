//! The linear group: packed base weights, and the forward pass with every adapter's LoRA k-steps in the same accumulators.
//!
//! The base product is one product over all rows of all segments, whatever the number of adapters. A task owns some panels of some rows; it
//! starts their accumulators from the LoRA k-steps of the segments it meets, runs the base k-steps over them, and adds bias and
//! residual on the way out.

use std::ops::Range;

use super::gemm::{Column, Isa, PANEL, Packed, Product, Shared, Team, Tile, pack_block, scratch};
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
    /// Packs the parts of `spec`, stacked by rows. A row is widened to f32 as it is packed: there is no f32 copy of the matrix in between.
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

/// Checks what forward and backward have in common: the linear exists and the group has its shape.
pub(super) fn resolve(
    c: &CpuBackend,
    op: &str,
    linear: Linear,
    group: Option<GroupId>,
) -> Result<(usize, usize)> {
    let weights = c
        .linears
        .get(linear.0 as usize)
        .ok_or_else(|| Error::Internal(format!("{op}: linear {} does not exist", linear.0)))?;
    let (inputs, outputs) = (weights.forward.inputs, weights.forward.outputs);
    if let Some(group) = group {
        let (layout, _) = c.slots.group(group)?;
        if (layout.inputs, layout.outputs) != (inputs, outputs) {
            return Err(Error::Internal(format!(
                "{op}: linear {} is [{outputs}, {inputs}], group {} is [{}, {}]",
                linear.0, group.0, layout.outputs, layout.inputs
            )));
        }
    }
    lora::check_plan(&c.plan)?;
    Ok((inputs, outputs))
}

/// Checks that `t` can hold `h` of all rows, and gives its width.
pub(super) fn check_shrink(
    c: &CpuBackend,
    op: &str,
    t: Option<Tensor>,
    rows: usize,
    width: usize,
) -> Result<(Tensor, usize)> {
    let t = t.ok_or_else(|| Error::Internal(format!("{op}: a group needs shrink tensors")))?;
    let found = c.tensor_buffer(t)?.spec;
    if found.rows < rows || found.width < width {
        return Err(Error::Internal(format!(
            "{op}: tensor {} is [{}, {}], expected [>= {rows}, >= {width}]",
            found.name, found.rows, found.width
        )));
    }
    Ok((t, found.width))
}

/// Checks that an output shares no memory with an input.
pub(super) fn distinct(op: &str, tensors: &[Option<Tensor>]) -> Result<()> {
    for (i, a) in tensors.iter().enumerate() {
        if let (Some(a), true) = (a, tensors[..i].contains(a)) {
            return Err(Error::Internal(format!("{op}: tensor {} is given twice", a.0)));
        }
    }
    Ok(())
}

/// [`Op::LinearForward`].
pub fn forward(c: &mut CpuBackend, op: &LinearForward) -> Result<()> {
    let &LinearForward { linear, group, x, lora_x, shrink, residual, y } = op;
    const OP: &str = "linear_forward";
    let rows = c.plan.rows();
    let (inputs, outputs) = resolve(c, OP, linear, group)?;
    c.check(OP, x, rows, inputs)?;
    c.check(OP, y, rows, outputs)?;
    if let Some(residual) = residual {
        c.check(OP, residual, rows, outputs)?;
    }
    if let Some(lora_x) = lora_x {
        c.check(OP, lora_x, rows, inputs)?;
        c.f32(lora_x)?;
    }
    distinct(OP, &[Some(x), lora_x, shrink, residual.filter(|&r| r != y), Some(y)])?;
    let width = Lora::new(&c.slots, &c.plan, group)?.width;
    let shrink = match group {
        Some(_) => Some(check_shrink(c, OP, shrink, rows, width)?),
        None => None,
    };
    if rows == 0 {
        return Ok(());
    }
    c.f32(x)?;
    let mut y_values = c.take(y)?;
    let mut h_values = match shrink.map(|(t, _)| c.take(t)).transpose() {
        Ok(h) => h.unwrap_or_default(),
        Err(e) => {
            c.put(y, y_values);
            return Err(e);
        }
    };
    let result = (|| {
        let lora = Lora::new(&c.slots, &c.plan, group)?;
        let residual = match residual {
            None => Residual::None,
            Some(r) if r == y => Residual::InPlace,
            Some(r) => Residual::From(c.f32(r)?),
        };
        let h = H { values: &mut h_values, stride: shrink.map_or(0, |s| s.1) };
        let weights = &c.linears[linear.0 as usize];
        let lora_x = lora_x.map(|t| c.f32(t)).transpose()?;
        compute(Isa::best(), &c.pool, weights, &lora, rows, c.f32(x)?, lora_x, h, residual, &mut y_values);
        Ok(())
    })();
    c.put(y, y_values);
    if let Some((t, _)) = shrink {
        c.put(t, h_values);
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

/// The forward pass over plain slices.
pub(super) fn compute(
    isa: Isa,
    pool: &Team,
    weights: &LinearWeights,
    lora: &Lora<'_>,
    rows: usize,
    x: &[f32],
    lora_x: Option<&[f32]>,
    h: H<'_>,
    residual: Residual<'_>,
    y: &mut [f32],
) {
    let w = &weights.forward;
    let (inputs, outputs) = (w.inputs, w.outputs);
    assert!(x.len() >= rows * inputs && y.len() >= rows * outputs, "linear_forward: x or y too short");
    assert!(lora_x.is_none_or(|x| x.len() >= rows * inputs), "linear_forward: lora_x too short");
    if let Residual::From(r) = residual {
        assert!(r.len() >= rows * outputs, "linear_forward: residual too short");
    }
    let kernels = isa.kernels();
    let product = Product::new(kernels, w, rows, pool.threads());
    let pieces = lora.pieces(&product.blocks);
    // The shrinks: each piece with each of its parts.
    let shrinks: Vec<(usize, usize)> = pieces
        .iter()
        .enumerate()
        .flat_map(|(i, piece)| lora.segments[piece.segment].parts.clone().map(move |part| (i, part)))
        .collect();
    let (stride, width) = (h.stride, lora.width);
    let (h, y) = (Shared::new(h.values), Shared::new(y));

    let shrink = |task: usize, packed_x: &[f32], packed: Shared<'_>| {
        let (piece, part) = (&pieces[shrinks[task].0], &lora.parts[shrinks[task].1]);
        let block = product.blocks.range(piece.block);
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
            unsafe { kernels.tile(m, part.rank, &tile) };
            for (row, values) in piece.rows.clone().zip(own.chunks_exact(part.rank)) {
                // SAFETY: the columns of this part in a row of this piece: no other task touches them.
                unsafe { h.slice(row * stride + part.column, part.rank) }.copy_from_slice(values);
            }
            let place = lora::packed_h(piece, part, width);
            // SAFETY: this task's part of the packed h.
            let target = unsafe { packed.slice(place.start, place.len()) };
            lora::pack_h(own, part.rank, m, part.rank, part.scale, target);
        });
    };

    let start = |panel: usize, rows: Range<usize>, column: Column<'_>, packed: &[f32]| {
        let here = lora::pieces_in(&pieces, &rows);
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
                let h = &packed[lora::packed_h(piece, part, width)];
                lora::expand(
                    kernels,
                    h,
                    piece.rows.len(),
                    part.b_panel(panel),
                    part.rank,
                    column,
                    started,
                    ahead,
                );
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
    };

    let finish = |panel: usize, rows: Range<usize>, column: &[f32]| {
        let cols = w.panel_columns(panel);
        let bias = weights.bias.as_ref().map(|b| &b[cols.clone()]);
        for (row, values) in rows.zip(column.chunks_exact(PANEL)) {
            let at = row * outputs + cols.start;
            // SAFETY: rows x columns of one task; no other task touches them.
            let out = unsafe { y.slice(at, cols.len()) };
            match residual {
                Residual::None => finish_row(out, values, bias, false),
                Residual::InPlace => finish_row(out, values, bias, true),
                Residual::From(r) => {
                    out.copy_from_slice(&r[at..at + cols.len()]);
                    finish_row(out, values, bias, true);
                }
            }
        }
    };

    // What nothing is added to is accumulated where it belongs.
    let out = matches!((residual, &weights.bias), (Residual::None, None)).then_some(y);
    let helpers = pool.helpers(product.cost() + 2 * lora.cost(inputs));
    let x_len = if rows == 1 { 0 } else { rows * inputs };
    scratch(x_len, |packed_x| {
        scratch(if lora_x.is_some() { x_len } else { 0 }, |packed_lora_x| {
            scratch(rows * width, |packed_h| {
                let (packed_x, packed_h) = (Shared::new(packed_x), Shared::new(packed_h));
                let packed_lora_x = Shared::new(packed_lora_x);
                let pack_tasks = if rows == 1 { 0 } else { product.blocks.count };
                let counts = [pack_tasks, shrinks.len(), product.tasks()];
                pool.run(helpers, &counts, &|phase, task| {
                    // SAFETY: each task of a phase writes its own part (of y: its rows and columns), and only later phases read it.
                    unsafe {
                        let x_read = || if rows == 1 { x } else { packed_x.read(0, x_len) };
                        match phase {
                            0 => {
                                pack_block(&product.blocks, task, x, inputs, packed_x);
                                if let Some(x) = lora_x {
                                    pack_block(&product.blocks, task, x, inputs, packed_lora_x);
                                }
                            }
                            1 => {
                                let x = match lora_x {
                                    None => x_read(),
                                    Some(x) if rows == 1 => x,
                                    Some(_) => packed_lora_x.read(0, x_len),
                                };
                                shrink(task, x, packed_h);
                            }
                            _ => {
                                let h = packed_h.read(0, rows * width);
                                let start = |panel, rows, column: Column<'_>| start(panel, rows, column, h);
                                product.run(task, x_read(), out, start, finish);
                            }
                        }
                    }
                });
            });
        });
    });
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
