//! Backward of packed attention (Dao 2023, arXiv 2307.08691): probabilities are recomputed, a block of query
//! rows at a time.
//!
//! One task is one (sequence, key/value head). It walks its query heads and, in each, its rows in ascending
//! order, so every sum has one order: dq over positions, dk and dv over (query head, row). With
//! `p = softmax(scale q kᵀ)` and `delta = Σ_d dout out`: `ds = scale p (dout vᵀ - delta)`, `dq = ds k`,
//! `dk = dsᵀ q`, `dv = pᵀ dout`.

use super::attention::{Terms, accumulate, check_sequences, scores, tile_mask, transpose_tile, visible};
use super::gemm::{Aligned, Shared};
use super::lanes::{Level, Simd, simd};
use super::pages::TILE;
use super::*;

/// Query rows whose probabilities are held at once.
const ROWS: usize = 16;

/// One sequence's rows of the operands, and the key/value head of the task.
#[derive(Clone, Copy)]
struct Task<'a> {
    heads: &'a Heads,
    /// Tokens of the sequence.
    tokens: usize,
    kv_head: usize,
    qkv: &'a [f32],
    out: &'a [f32],
    dout: &'a [f32],
}

/// What a task writes and reads again; grown on demand and reused by the tasks of a thread.
#[derive(Default)]
struct Scratch {
    /// K and V of the head by tiles, `[tiles, D, TILE]`.
    keys: Aligned,
    values: Aligned,
    /// `[tokens, D]`.
    dk: Aligned,
    dv: Aligned,
    /// `[ROWS, D]`.
    dq: Aligned,
    /// `[ROWS, tiles, TILE]`.
    p: Aligned,
    ds: Aligned,
}

/// The most f32 that a task over sequences of at most `tokens` tokens holds.
pub(super) fn task_values(tokens: usize, heads: &Heads) -> usize {
    let tokens = tokens.next_multiple_of(TILE);
    4 * tokens * heads.head_dim + 2 * ROWS * tokens + ROWS * heads.head_dim
}

simd! {
    /// Everything of one task; `write(row, column, values)` receives the gradients.
    fn backward[W: Fn(usize, usize, &[f32])](s, task: Task<'_>, scratch: &mut Scratch, write: W) {
        let Heads { heads, kv_heads, head_dim: d, window, .. } = *task.heads;
        let (q_width, width) = (task.heads.q_width(), task.heads.qkv_width());
        let group = heads / kv_heads;
        let tiles = task.tokens.div_ceil(TILE);
        let (k_at, v_at) = (q_width + task.kv_head * d, q_width + (kv_heads + task.kv_head) * d);
        for (tiled, at) in [(&mut scratch.keys, k_at), (&mut scratch.values, v_at)] {
            tiled.resize(tiles * d * TILE);
            for (i, tile) in tiled.chunks_exact_mut(d * TILE).enumerate() {
                let count = (task.tokens - i * TILE).min(TILE);
                transpose_tile(&task.qkv[i * TILE * width + at..], width, count, tile);
            }
        }
        for sum in [&mut scratch.dk, &mut scratch.dv] {
            sum.reset(task.tokens * d);
        }
        let ld = tiles * TILE;
        scratch.p.resize(ROWS * ld);
        scratch.ds.resize(ROWS * ld);
        let Scratch { keys, values, dk, dv, dq, p, ds } = scratch;

        for head in task.kv_head * group..(task.kv_head + 1) * group {
            for row in (0..task.tokens).step_by(ROWS) {
                let rows = ROWS.min(task.tokens - row);
                let ranges: [_; ROWS] = std::array::from_fn(|r| visible(row + r, window));
                let block = Block {
                    row,
                    rows,
                    d,
                    ld,
                    tiles: (ranges[0].0 / TILE, (row + rows).div_ceil(TILE)),
                };
                let q = &task.qkv[row * width + head * d..];
                let (out, dout) = (&task.out[row * q_width + head * d..], &task.dout[row * q_width + head * d..]);
                for (x, stride, tiled, products) in
                    [(q, width, &*keys, &mut *p), (dout, q_width, &*values, &mut *ds)]
                {
                    all_scores(s, block, x, stride, tiled, products);
                }
                for r in 0..rows {
                    let delta = math::dot(s, &out[r * q_width..][..d], &dout[r * q_width..][..d]);
                    let (p, ds) = (&mut p[r * ld..][..ld], &mut ds[r * ld..][..ld]);
                    softmax(s, block, ranges[r], task.heads.scale, delta, p, ds);
                }

                dq.reset(rows * d);
                let terms = Sources {
                    coefficients: ds,
                    distance: ld,
                    step: 1,
                    source: &task.qkv[k_at..],
                    stride: width,
                    d,
                };
                terms.add(s, 0, rows, dq, |r| ranges[r]);
                for (r, dq) in dq.chunks_exact(d).enumerate() {
                    write(row + r, head * d, dq);
                }

                // The rows of this block that see position j.
                let seers = |j: usize| {
                    let to = window.map_or(rows, |w| (j + w).saturating_sub(row).min(rows));
                    (j.saturating_sub(row), to)
                };
                for (coefficients, source, stride, sum) in
                    [(&*ds, q, width, &mut *dk), (&*p, dout, q_width, &mut *dv)]
                {
                    let terms = Sources { coefficients, distance: 1, step: ld, source, stride, d };
                    terms.add(s, ranges[0].0, row + rows, sum, seers);
                }
            }
        }
        for (row, (dk, dv)) in dk.chunks_exact(d).zip(dv.chunks_exact(d)).enumerate() {
            write(row, k_at, dk);
            write(row, v_at, dv);
        }
    }
}

/// A block of query rows.
#[derive(Clone, Copy)]
struct Block {
    /// The first row, which is its position too.
    row: usize,
    rows: usize,
    /// Head size.
    d: usize,
    /// Distance of the rows of p and ds.
    ld: usize,
    /// Tiles that any of the rows sees.
    tiles: (usize, usize),
}

/// The products of the block's rows of `x` with all tiles they see.
#[inline(always)]
fn all_scores<S: Simd>(s: S, block: Block, x: &[f32], stride: usize, tiled: &[f32], out: &mut [f32]) {
    let mut r = 0;
    while r < block.rows {
        r += match block.rows - r {
            1..4 => row_scores::<S, 1>(s, block, r, x, stride, tiled, out),
            _ => row_scores::<S, 4>(s, block, r, x, stride, tiled, out),
        }
    }
}

/// Those of R rows; gives R.
#[inline(always)]
fn row_scores<S: Simd, const R: usize>(
    s: S,
    block: Block,
    first: usize,
    x: &[f32],
    stride: usize,
    tiled: &[f32],
    out: &mut [f32],
) -> usize {
    let d = block.d;
    let x: [&[f32]; R] = std::array::from_fn(|r| &x[(first + r) * stride..][..d]);
    let tile = |t: usize| &tiled[t * d * TILE..][..d * TILE];
    // The last of these rows sees the most tiles.
    let (mut t, end) = (block.tiles.0, (block.row + first + R).div_ceil(TILE));
    while t < end {
        let step = if end - t >= 4 { 4 } else { 1 };
        if step == 4 {
            let four = scores::<S, f32, R, 4>(s, x, std::array::from_fn(|i| tile(t + i)));
            for r in 0..R {
                for i in 0..4 {
                    s.store_some(&mut out[(first + r) * block.ld + (t + i) * TILE..][..TILE], four[r][i]);
                }
            }
        } else {
            let one = scores::<S, f32, R, 1>(s, x, [tile(t)]);
            for r in 0..R {
                s.store_some(&mut out[(first + r) * block.ld + t * TILE..][..TILE], one[r][0]);
            }
        }
        t += step;
    }
    R
}

/// Turns a row of scores into p, and its row of `dout vᵀ` into ds. What they hold for positions out of sight
/// is not read again.
#[inline(always)]
fn softmax<S: Simd>(
    s: S,
    block: Block,
    range: (usize, usize),
    scale: f32,
    delta: f32,
    p: &mut [f32],
    ds: &mut [f32],
) {
    let p = p.as_chunks_mut::<TILE>().0;
    let ds = ds.as_chunks_mut::<TILE>().0;
    let (hidden, scale) = (s.splat(f32::NEG_INFINITY), s.splat(scale));
    let mut highest = hidden;
    for t in block.tiles.0..block.tiles.1 {
        let x = s.keep(tile_mask(t, range), s.mul(s.load(&p[t]), scale), hidden);
        highest = s.max(x, highest);
        s.store(&mut p[t], x);
    }
    let highest = s.splat(s.largest(highest));
    let mut sum = s.splat(0.0);
    for t in block.tiles.0..block.tiles.1 {
        let x = math::weight(s, s.sub(s.load(&p[t]), highest));
        sum = s.add(sum, x);
        s.store(&mut p[t], x);
    }
    let (sum, delta) = (s.splat(s.sum(sum)), s.splat(delta));
    for t in block.tiles.0..block.tiles.1 {
        let x = s.div(s.load(&p[t]), sum);
        s.store(&mut p[t], x);
        let g = s.mul(s.mul(x, s.sub(s.load(&ds[t]), delta)), scale);
        s.store(&mut ds[t], g);
    }
}

/// A matrix of coefficients and the rows they weigh; see [`Terms`].
#[derive(Clone, Copy)]
struct Sources<'a> {
    coefficients: &'a [f32],
    /// Distance of the coefficients of consecutive output rows (counted from the block's first).
    distance: usize,
    step: usize,
    source: &'a [f32],
    stride: usize,
    d: usize,
}

impl Sources<'_> {
    /// Adds to the output rows `first .. end`.
    #[inline(always)]
    fn add<S: Simd>(
        self,
        s: S,
        mut first: usize,
        end: usize,
        out: &mut [f32],
        range: impl Fn(usize) -> (usize, usize),
    ) {
        while first < end {
            first += match end - first {
                1..4 => self.rows::<S, 1>(s, first, out, &range),
                _ => self.rows::<S, 4>(s, first, out, &range),
            };
        }
    }

    /// Adds to R output rows; gives R.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(
        self,
        s: S,
        first: usize,
        out: &mut [f32],
        range: &impl Fn(usize) -> (usize, usize),
    ) -> usize {
        let terms = Terms::<'_, f32, R> {
            coefficients: self.coefficients,
            at: std::array::from_fn(|r| (first + r) * self.distance),
            step: self.step,
            source: self.source,
            stride: self.stride,
            ranges: std::array::from_fn(|r| range(first + r)),
        };
        accumulate(s, self.d, out, std::array::from_fn(|r| (first + r) * self.d), terms);
        R
    }
}

/// [`Op::AttentionPackedBackward`].
pub fn run(c: &mut CpuBackend, op: &AttentionPackedBackward) -> Result<()> {
    let (rows, plan, heads) = (op.check(c)?, c.plan.clone(), op.heads);
    check_sequences(AttentionPackedBackward::NAME, &plan)?;
    let (width, q_width) = (heads.qkv_width(), heads.q_width());
    rows::write(c, op.dqkv, rows * width, |c, dqkv| {
        let qkv = rows::read(c, op.qkv, rows * width)?;
        let [out, dout] = [op.out, op.dout].map(|t| rows::read(c, t, rows * q_width));
        let (out, dout) = (out?, dout?);
        let level = Level::detect();
        let all = Shared::new(dqkv);
        let run = |scratch: &mut Scratch, sequence: &Sequence, kv_head: usize| {
            let (from, to) = (sequence.start as usize, sequence.end as usize);
            let task = Task {
                heads: &heads,
                tokens: to - from,
                kv_head,
                qkv: &qkv[from * width..to * width],
                out: &out[from * q_width..to * q_width],
                dout: &dout[from * q_width..to * q_width],
            };
            backward(level, task, scratch, |row, column, values: &[f32]| {
                // SAFETY: sequences are disjoint rows, and a task writes the columns of its own key/value
                // head and query heads only.
                unsafe { all.slice((from + row) * width + column, values.len()) }.copy_from_slice(values);
            });
        };
        let cost: usize = plan.sequences.iter().map(|s| (s.end - s.start) as usize).map(|n| n * n).sum();
        if rows::serial(&c.pool, cost * q_width / 4) {
            let mut scratch = Scratch::default();
            for sequence in &plan.sequences {
                (0..heads.kv_heads).for_each(|kv_head| run(&mut scratch, sequence, kv_head));
            }
        } else {
            let mut tasks: Vec<(&Sequence, usize)> =
                plan.sequences.iter().flat_map(|s| (0..heads.kv_heads).map(move |h| (s, h))).collect();
            c.pool.each(&mut tasks, Scratch::default, |scratch, _, (sequence, kv_head)| {
                run(scratch, sequence, *kv_head)
            });
        }
        Ok(())
    })
}
