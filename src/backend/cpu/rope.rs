//! Rotary position embedding in the half-split form of Hugging Face's Llama, its inverse, and the write of K
//! and V to their pages. The table's half is half the rotary dimension; where that is smaller than the head,
//! the rest of the head passes unchanged.

use half::bf16;

use super::lanes::{LANES, Level, simd};
use super::*;

/// cos and sin, each `[positions, half]`.
pub struct RopeBuffer {
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Half the rotated part of a head.
    pub half: usize,
}

impl RopeBuffer {
    /// Copies the tables.
    pub fn new(cos: &[f32], sin: &[f32], half: usize) -> Result<Self> {
        if half == 0 || cos.len() != sin.len() || !cos.len().is_multiple_of(half) {
            return Err(Error::Internal(format!(
                "rope: tables of {} and {} numbers with rows of {half}",
                cos.len(),
                sin.len()
            )));
        }
        Ok(Self { cos: cos.to_vec(), sin: sin.to_vec(), half })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        (self.cos.len() + self.sin.len()) * 4
    }

    /// Rows.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }
}

simd! {
    /// Rotates the first `heads` heads of each row; `inverse` turns the other way.
    fn rotate[](s, rows: &mut [f32], shape: Shape, at: &[u32], table: Angles<'_>, inverse: bool) {
        let half = table.buffer.half;
        for (row, &at) in rows.chunks_exact_mut(shape.width).zip(at) {
            let (cos, sin) = table.row(at as usize);
            for head in row.chunks_exact_mut(shape.head_dim).take(shape.heads) {
                let (a, b) = head[..2 * half].split_at_mut(half);
                let parts = a.chunks_mut(LANES).zip(b.chunks_mut(LANES));
                for ((a, b), (cos, sin)) in parts.zip(cos.chunks(LANES).zip(sin.chunks(LANES))) {
                    let (c, n) = (s.load_or(cos, 0.0), s.load_or(sin, 0.0));
                    let n = if inverse { s.sub(s.splat(0.0), n) } else { n };
                    let (x, y) = (s.load_or(a, 0.0), s.load_or(b, 0.0));
                    s.store_some(a, s.fnma(y, n, s.mul(x, c)));
                    s.store_some(b, s.fma(x, n, s.mul(y, c)));
                }
            }
        }
    }
}

/// The table and the rows that the step adds to it.
#[derive(Clone, Copy)]
struct Angles<'a> {
    buffer: &'a RopeBuffer,
    extra: &'a [f32],
}

impl<'a> Angles<'a> {
    #[inline(always)]
    fn row(self, at: usize) -> (&'a [f32], &'a [f32]) {
        let (half, positions) = (self.buffer.half, self.buffer.positions());
        if at < positions {
            (&self.buffer.cos[at * half..][..half], &self.buffer.sin[at * half..][..half])
        } else {
            self.extra[(at - positions) * 2 * half..][..2 * half].split_at(half)
        }
    }
}

/// Shape of the rows to rotate.
#[derive(Clone, Copy)]
struct Shape {
    width: usize,
    head_dim: usize,
    heads: usize,
}

fn rotate_all(c: &mut CpuBackend, qkv: Tensor, table: RopeTable, heads: Heads, inverse: bool) -> Result<()> {
    let plan = c.plan.clone();
    let width = heads.qkv_width();
    rows::write(c, qkv, plan.rows() * width, |c, qkv| {
        let angles = Angles { buffer: &c.ropes[table.0 as usize], extra: &plan.rope_extra };
        let shape = Shape { width, head_dim: heads.head_dim, heads: heads.heads + heads.kv_heads };
        let level = Level::detect();
        // Packed attention reads K and V from here, so they are rounded here and not on the way to
        // the pages. The gradient passes as if they were not.
        let rounded = c.kv_rounded && !inverse;
        rows::blocks(&c.pool, qkv, width, 2 * width, |first, rows| {
            rotate(level, rows, shape, &plan.rope_rows()[first..], angles, inverse);
            if rounded {
                for row in rows.chunks_exact_mut(width) {
                    row[heads.q_width()..].iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
                }
            }
        });
        Ok(())
    })
}

/// [`Op::Rope`].
pub fn forward(c: &mut CpuBackend, op: &Rope) -> Result<()> {
    op.check(c)?;
    rotate_all(c, op.qkv, op.table, op.heads, false)?;
    op.kv.map_or(Ok(()), |(kv, layer)| write_pages(c, op.qkv, op.heads, kv, layer as usize))
}

/// [`Op::RopeBackward`].
pub fn backward(c: &mut CpuBackend, op: &RopeBackward) -> Result<()> {
    op.check(c)?;
    rotate_all(c, op.dqkv, op.table, op.heads, true)
}

/// Copies K and V of every row to the page that holds its position.
fn write_pages(c: &mut CpuBackend, qkv: Tensor, heads: Heads, kv: KvPool, layer: usize) -> Result<()> {
    let plan = c.plan.clone();
    let Some(mut buffer) = c.kv_pools[kv.0 as usize].take() else { return Ok(()) };
    let width = heads.qkv_width();
    let result = rows::read(c, qkv, plan.rows() * width).map(|qkv| {
        let page_tokens = buffer.spec.page_tokens;
        for sequence in plan.sequences.iter().filter(|s| s.start < s.end) {
            let pages = &plan.page_table[sequence.pages_start as usize..sequence.pages_end as usize];
            for (i, row) in (sequence.start..sequence.end).enumerate() {
                let position = sequence.first_position as usize + i;
                let kv = &qkv[row as usize * width..][heads.q_width()..width];
                let (k, v) = kv.split_at(heads.kv_width());
                buffer.write(layer, pages[position / page_tokens] as usize, position % page_tokens, k, v);
            }
        }
    });
    c.kv_pools[kv.0 as usize] = Some(buffer);
    result
}
