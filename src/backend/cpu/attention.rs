//! Causal attention over packed sequences and over pages.
//!
//! Both read K and V through one [`Tiles`] and run one kernel, so they give the same bits. Positions are
//! taken in blocks of [`BLOCK`] counted from absolute position 0 and merged in ascending order by the online
//! softmax (Milakov & Gimelshein 2018, arXiv 1805.02867). A block that a row cannot see leaves its (m, l, o)
//! alone, and a position that it cannot see is never read into its sums, so neither the company of a row nor
//! the layout of the pages can change its bits.

use super::gemm::Aligned;
use super::lanes::{LANES, Level, Simd, simd};
use super::pages::{Layer, Stored, TILE};
use super::*;

/// Tiles in a block.
const TILES: usize = 4;
/// Positions that are merged at once.
pub const BLOCK: usize = TILES * TILE;
/// Rows of one sequence that one task takes, so that a block of K and V is used while it is in the cache.
const ITEM_ROWS: usize = 16;
/// Room for the (m, l) of one task's rows and heads.
const STATES: usize = MOST_HEADS;

/// Where K and V of a sequence lie: in pages, or, for packed sequences, V in the rows of `q | k | v` and K
/// transposed by [`transpose`]. One type for both, so that the kernel exists once.
#[derive(Clone, Copy)]
struct Tiles<'a, E> {
    /// `[.., kv_width, TILE]`.
    keys: &'a [E],
    values: &'a [E],
    /// Page numbers and the tiles in a page; without, tiles lie one after another.
    pages: Option<(&'a [u32], usize)>,
    /// Distance of the rows of V; those of a tile are [`TILE`] rows.
    stride: usize,
    kv_width: usize,
    head_dim: usize,
}

impl<'a, E> Tiles<'a, E> {
    #[inline(always)]
    fn place(&self, tile: usize) -> usize {
        self.pages.map_or(tile, |(pages, tiles)| pages[tile / tiles] as usize * tiles + tile % tiles)
    }

    /// K of a key/value head in tile `tile` (positions `tile * TILE ..`), `[D, TILE]`.
    #[inline(always)]
    fn keys(&self, tile: usize, head: usize) -> &'a [E] {
        let start = (self.place(tile) * self.kv_width + head * self.head_dim) * TILE;
        &self.keys[start..][..self.head_dim * TILE]
    }

    /// V of a key/value head from the tile's first position on.
    #[inline(always)]
    fn values(&self, tile: usize, head: usize) -> &'a [E] {
        &self.values[self.place(tile) * TILE * self.stride + head * self.head_dim..]
    }
}

/// `q·k` for R vectors and T tiles: one chain of multiply-adds in ascending d for each score, whatever R and T.
#[inline(always)]
pub fn scores<S: Simd, E: Stored, const R: usize, const T: usize>(
    s: S,
    q: [&[f32]; R],
    keys: [&[E]; T],
) -> [[S::V; T]; R] {
    let mut acc = [[s.splat(0.0); T]; R];
    let d = q[0].len();
    let q = q.map(|q| &q[..d]);
    let keys = keys.map(|k| &k.as_chunks::<LANES>().0[..d]);
    for i in 0..d {
        let mut k = [s.splat(0.0); T];
        for t in 0..T {
            k[t] = E::load(s, &keys[t][i]);
        }
        for r in 0..R {
            let q = s.splat(q[r][i]);
            for t in 0..T {
                acc[r][t] = s.fma(q, k[t], acc[r][t]);
            }
        }
    }
    acc
}

/// Where the coefficients and the source rows of [`accumulate`] lie:
/// `out[r] += Σ_k coefficient[at[r] + k step] source[k stride ..]`.
#[derive(Clone, Copy)]
pub struct Terms<'a, E, const R: usize> {
    /// The coefficients of all rows.
    pub coefficients: &'a [f32],
    /// Where those of row r start.
    pub at: [usize; R],
    /// Distance of consecutive ones.
    pub step: usize,
    /// The source rows.
    pub source: &'a [E],
    /// Distance of the source rows.
    pub stride: usize,
    /// Row r sums over `ranges[r].0 .. ranges[r].1`.
    pub ranges: [(usize, usize); R],
}

/// Adds to R rows of `out` (each `d` long, at `rows[r]`) their [`Terms`], in ascending k. Terms outside a
/// row's range are not even read for it. The rows' common range runs together, what is left of each before
/// and after it by itself; since sums continue from memory, this changes no bit.
#[inline(always)]
pub fn accumulate<S: Simd, E: Stored, const R: usize>(
    s: S,
    d: usize,
    out: &mut [f32],
    rows: [usize; R],
    terms: Terms<'_, E, R>,
) {
    if R == 1 {
        let (from, to) = terms.ranges[0];
        return if from < to {
            columns(s, d, out, rows, terms, (from, to))
        };
    }
    let mut common = terms.ranges[0];
    for (from, to) in &terms.ranges[1..] {
        common = (common.0.max(*from), common.1.min(*to));
    }
    if common.0 >= common.1 {
        common = (usize::MAX, usize::MAX);
    }
    for stage in 0..3 {
        if stage == 1 {
            if common.0 < common.1 {
                columns(s, d, out, rows, terms, common);
            }
            continue;
        }
        for r in 0..R {
            let (from, to) = terms.ranges[r];
            let part = if stage == 0 { (from, to.min(common.0)) } else { (from.max(common.1), to) };
            if part.0 < part.1 {
                let Terms { coefficients, step, source, stride, .. } = terms;
                let one =
                    Terms { coefficients, at: [terms.at[r]], step, source, stride, ranges: [(from, to)] };
                columns(s, d, out, [rows[r]], one, part);
            }
        }
    }
}

/// The terms `range` of all R rows, in columns that fit the registers.
#[inline(always)]
fn columns<S: Simd, E: Stored, const R: usize>(
    s: S,
    d: usize,
    out: &mut [f32],
    rows: [usize; R],
    terms: Terms<'_, E, R>,
    range: (usize, usize),
) {
    let mut column = 0;
    while d - column >= 4 * LANES {
        vectors::<S, E, R, 4>(s, column, out, rows, terms, range);
        column += 4 * LANES;
    }
    if d - column >= 2 * LANES {
        vectors::<S, E, R, 2>(s, column, out, rows, terms, range);
        column += 2 * LANES;
    }
    while d > column {
        half(s, column, out, rows, terms, range);
        column += 8;
    }
}

/// N vectors of columns.
#[inline(always)]
fn vectors<S: Simd, E: Stored, const R: usize, const N: usize>(
    s: S,
    column: usize,
    out: &mut [f32],
    rows: [usize; R],
    terms: Terms<'_, E, R>,
    range: (usize, usize),
) {
    let mut acc = [[s.splat(0.0); N]; R];
    for r in 0..R {
        let out = out[rows[r] + column..].as_chunks::<LANES>().0;
        for n in 0..N {
            acc[r][n] = s.load(&out[n]);
        }
    }
    for k in range.0..range.1 {
        let row = &terms.source[k * terms.stride + column..][..N * LANES].as_chunks::<LANES>().0[..N];
        let mut v = [s.splat(0.0); N];
        for n in 0..N {
            v[n] = E::load(s, &row[n]);
        }
        for r in 0..R {
            let c = s.splat(terms.coefficients[terms.at[r] + k * terms.step]);
            for n in 0..N {
                acc[r][n] = s.fma(c, v[n], acc[r][n]);
            }
        }
    }
    for r in 0..R {
        let out = out[rows[r] + column..].as_chunks_mut::<LANES>().0;
        for n in 0..N {
            s.store(&mut out[n], acc[r][n]);
        }
    }
}

/// Eight columns, where the head size is no multiple of 32.
#[inline(always)]
fn half<S: Simd, E: Stored, const R: usize>(
    s: S,
    column: usize,
    out: &mut [f32],
    rows: [usize; R],
    terms: Terms<'_, E, R>,
    range: (usize, usize),
) {
    let mut acc = [s.splat(0.0); R];
    for r in 0..R {
        acc[r] = s.load_half(&out[rows[r] + column..].as_chunks::<8>().0[0]);
    }
    for k in range.0..range.1 {
        let v = E::load_half(s, &terms.source[k * terms.stride + column..].as_chunks::<8>().0[0]);
        for r in 0..R {
            acc[r] = s.fma(s.splat(terms.coefficients[terms.at[r] + k * terms.step]), v, acc[r]);
        }
    }
    for r in 0..R {
        s.store_half(&mut out[rows[r] + column..].as_chunks_mut::<8>().0[0], acc[r]);
    }
}

/// Adds to R rows of `out`, each `d` long and one after another from `row` on, their terms in ascending k:
/// row r has the coefficients `p[r][k]` and the source columns `r d ..`. As [`accumulate`] does for each row
/// alone, but every source row is read from end to end.
#[inline(always)]
fn accumulate_heads<S: Simd, E: Stored, const R: usize>(
    s: S,
    d: usize,
    out: &mut [f32],
    row: usize,
    p: [&[f32]; R],
    (source, stride): (&[E], usize),
    (from, to): (usize, usize),
) {
    let mut column = 0;
    while d - column >= 2 * LANES {
        let mut acc = [[s.splat(0.0); 2]; R];
        for r in 0..R {
            let out = out[row + r * d + column..].as_chunks::<LANES>().0;
            acc[r] = [s.load(&out[0]), s.load(&out[1])];
        }
        for k in from..to {
            let source = &source[k * stride + column..];
            for r in 0..R {
                let v = source[r * d..][..2 * LANES].as_chunks::<LANES>().0;
                let c = s.splat(p[r][k]);
                acc[r] = [s.fma(c, E::load(s, &v[0]), acc[r][0]), s.fma(c, E::load(s, &v[1]), acc[r][1])];
            }
        }
        for r in 0..R {
            let out = out[row + r * d + column..].as_chunks_mut::<LANES>().0;
            s.store(&mut out[0], acc[r][0]);
            s.store(&mut out[1], acc[r][1]);
        }
        column += 2 * LANES;
    }
    while d > column {
        let mut acc = [s.splat(0.0); R];
        for r in 0..R {
            acc[r] = s.load_half(&out[row + r * d + column..].as_chunks::<8>().0[0]);
        }
        for k in from..to {
            for r in 0..R {
                let v = E::load_half(s, &source[k * stride + r * d + column..].as_chunks::<8>().0[0]);
                acc[r] = s.fma(s.splat(p[r][k]), v, acc[r]);
            }
        }
        for r in 0..R {
            s.store_half(&mut out[row + r * d + column..].as_chunks_mut::<8>().0[0], acc[r]);
        }
        column += 8;
    }
}

/// The positions that position `p` sees.
#[inline(always)]
pub fn visible(p: usize, window: Option<usize>) -> (usize, usize) {
    (window.map_or(0, |w| (p + 1).saturating_sub(w)), p + 1)
}

/// The bits of tile `tile` (counted from `origin`'s tile) that lie in `from .. to`, positions counted from
/// the same origin.
#[inline(always)]
pub fn tile_mask(tile: usize, (from, to): (usize, usize)) -> u32 {
    let below = |p: usize| (1u32 << p.saturating_sub(tile * TILE).min(TILE)) - 1;
    below(to) & !below(from)
}

/// Rows of one sequence for one task.
#[derive(Clone, Copy)]
struct Item {
    /// First row in the batch.
    row: usize,
    /// Position of that row.
    position: usize,
    /// How many rows.
    rows: usize,
    /// Its sequence in the plan.
    sequence: usize,
}

/// What a block needs to know of its task.
#[derive(Clone, Copy)]
struct Queries<'a> {
    heads: &'a Heads,
    /// The task's rows of `q | k | v`.
    qkv: &'a [f32],
    /// Position of the first row.
    position: usize,
}

simd! {
    /// Attention of the rows of `q` over a sequence. `out [rows, H D]` serves as the accumulator o.
    fn attend[E: Stored](s, q: Queries<'_>, tiles: Tiles<'_, E>, out: &mut [f32]) {
        let Heads { heads, kv_heads, head_dim, window, .. } = *q.heads;
        let rows = out.len() / (heads * head_dim);
        let vectors = rows * (heads / kv_heads);
        // (m, l) of row r and head h at [h / group][r][h % group]: consecutive vectors share a key/value head.
        let (mut m, mut l) = ([f32::NEG_INFINITY; STATES], [0.0f32; STATES]);
        out.fill(0.0);
        let first = visible(q.position, window).0 / BLOCK;
        let last = (q.position + rows - 1) / BLOCK;
        for block in first..=last {
            let mut head = 0;
            // One row without groups has a single vector a head: four heads side by side.
            while vectors == 1 && kv_heads - head >= 4 {
                let states = (&mut m[head..], &mut l[head..]);
                merge::<_, _, 4, true>(s, q, tiles, (block, head, 0), states, out);
                head += 4;
            }
            for head in head..kv_heads {
                let mut v = 0;
                while v < vectors {
                    let (at, states) = ((block, head, v), head * vectors + v);
                    let states = (&mut m[states..], &mut l[states..]);
                    // Groups of 3, 6 and 9 query heads are common too.
                    v += match vectors - v {
                        3 | 6 => merge::<_, _, 3, false>(s, q, tiles, at, states, out),
                        1 | 2 => merge::<_, _, 1, false>(s, q, tiles, at, states, out),
                        _ => merge::<_, _, 4, false>(s, q, tiles, at, states, out),
                    };
                }
            }
        }
        let group = heads / kv_heads;
        for (i, o) in out.chunks_exact_mut(head_dim).enumerate() {
            let (row, h) = (i / heads, i % heads);
            let l = s.splat(l[h / group * vectors + row * group + h % group]);
            for o in o.chunks_mut(LANES) {
                let o_l = s.div(s.load_or(o, 0.0), l);
                s.store_some(o, o_l);
            }
        }
    }
}

/// R vectors of a task in one block of positions.
struct Vectors<'a, const R: usize> {
    /// Visible positions counted from the block's first, `(0, 0)` for none.
    ranges: [(usize, usize); R],
    queries: [&'a [f32]; R],
    /// Where the o of each lies.
    outs: [usize; R],
}

impl<'a, const R: usize> Vectors<'a, R> {
    /// `place` says row and query head of each.
    #[inline(always)]
    fn new(q: Queries<'a>, block: usize, place: impl Fn(usize) -> (usize, usize)) -> Self {
        let Heads { heads, head_dim: d, window, .. } = *q.heads;
        let mut vectors = Self { ranges: [(0, 0); R], queries: [&q.qkv[..0]; R], outs: [0; R] };
        for r in 0..R {
            let (row, head) = place(r);
            let (from, to) = visible(q.position + row, window);
            let origin = block * BLOCK;
            let range = (from.saturating_sub(origin), to.saturating_sub(origin).min(BLOCK));
            if range.0 < range.1 {
                vectors.ranges[r] = range;
            }
            vectors.queries[r] = &q.qkv[row * q.heads.qkv_width() + head * d..][..d];
            vectors.outs[r] = (row * heads + head) * d;
        }
        vectors
    }

    /// The tiles of the block that any of them sees; empty for none.
    #[inline(always)]
    fn tiles(&self) -> (usize, usize) {
        let (mut low, mut high) = (BLOCK, 0);
        for range in self.ranges {
            if range.0 < range.1 {
                (low, high) = (low.min(range.0), high.max(range.1));
            }
        }
        (low / TILE, high.div_ceil(TILE))
    }
}

/// Merges block `block` of key/value head `head` into the states (m, l) of the R vectors from
/// `first` on; gives R. With HEADS, vector r is that of head `head + r`, of which there is one.
#[inline(always)]
fn merge<S: Simd, E: Stored, const R: usize, const HEADS: bool>(
    s: S,
    q: Queries<'_>,
    tiles: Tiles<'_, E>,
    (block, head, first): (usize, usize, usize),
    (m, l): (&mut [f32], &mut [f32]),
    out: &mut [f32],
) -> usize {
    let Heads { heads, kv_heads, head_dim: d, scale, .. } = *q.heads;
    let group = heads / kv_heads;
    let vectors = Vectors::<R>::new(q, block, |r| match HEADS {
        true => (0, head + r),
        false => ((first + r) / group, head * group + (first + r) % group),
    });
    let Vectors { ranges, queries, outs } = vectors;
    let (t0, t1) = vectors.tiles();
    if t0 >= t1 {
        return R;
    }
    let scored = block_scores::<S, E, R, HEADS>(s, queries, tiles, (block, head), (t0, t1));
    let mut p = [[0.0f32; BLOCK]; R];
    for r in 0..R {
        if ranges[r].0 < ranges[r].1 {
            let o = &mut out[outs[r]..][..d];
            weigh(s, scored[r], scale, ranges[r], (&mut m[r], &mut l[r]), o, &mut p[r]);
        }
    }
    for t in t0..t1 {
        let within = |p: usize| p.saturating_sub(t * TILE).min(TILE);
        if HEADS {
            let p = std::array::from_fn(|r| &p[r][t * TILE..][..TILE]);
            let source = (tiles.values(block * TILES + t, head), tiles.stride);
            let range = (within(ranges[0].0), within(ranges[0].1));
            accumulate_heads::<S, E, R>(s, d, out, outs[0], p, source, range);
            continue;
        }
        let terms = Terms {
            coefficients: p.as_flattened(),
            at: std::array::from_fn(|r| r * BLOCK + t * TILE),
            step: 1,
            source: tiles.values(block * TILES + t, head),
            stride: tiles.stride,
            ranges: ranges.map(|(from, to)| (within(from), within(to))),
        };
        accumulate(s, d, out, outs, terms);
    }
    R
}

/// `q·k` of R vectors for the tiles `t0 .. t1` of a block, as in [`merge`]; -infinity for the others.
#[inline(always)]
fn block_scores<S: Simd, E: Stored, const R: usize, const HEADS: bool>(
    s: S,
    queries: [&[f32]; R],
    tiles: Tiles<'_, E>,
    (block, head): (usize, usize),
    (t0, t1): (usize, usize),
) -> [[S::V; TILES]; R] {
    let mut scored = [[s.splat(f32::NEG_INFINITY); TILES]; R];
    if HEADS {
        for r in 0..R {
            let keys = |t| tiles.keys(block * TILES + t, head + r);
            if (t0, t1) == (0, TILES) {
                scored[r] = scores::<S, E, 1, TILES>(s, [queries[r]], std::array::from_fn(keys))[0];
            } else {
                for t in t0..t1 {
                    scored[r][t] = scores::<S, E, 1, 1>(s, [queries[r]], [keys(t)])[0][0];
                }
            }
        }
    } else if (t0, t1) == (0, TILES) {
        let keys = |t| tiles.keys(block * TILES + t, head);
        scored = scores::<S, E, R, TILES>(s, queries, std::array::from_fn(keys));
    } else {
        for t in t0..t1 {
            let one = scores::<S, E, R, 1>(s, queries, [tiles.keys(block * TILES + t, head)]);
            for r in 0..R {
                scored[r][t] = one[r][0];
            }
        }
    }
    scored
}

/// Turns a vector's scores into the coefficients `p` of V, after its state (m, l) and `o` are
/// brought to the new largest score.
#[inline(always)]
fn weigh<S: Simd>(
    s: S,
    mut x: [S::V; TILES],
    scale: f32,
    range: (usize, usize),
    (m, l): (&mut f32, &mut f32),
    o: &mut [f32],
    p: &mut [f32; BLOCK],
) {
    for t in 0..TILES {
        x[t] = s.mul(x[t], s.splat(scale));
        if range != (0, BLOCK) {
            x[t] = s.keep(tile_mask(t, range), x[t], s.splat(f32::NEG_INFINITY));
        }
    }
    let highest = s.largest(s.max(s.max(x[0], x[1]), s.max(x[2], x[3])));
    let old = *m;
    let new = if highest > old { highest } else { old };
    *m = new;
    for t in 0..TILES {
        x[t] = math::weight(s, s.sub(x[t], s.splat(new)));
    }
    let sum = s.sum(s.add(s.add(x[0], x[1]), s.add(x[2], x[3])));
    // Where the largest stays, the factor is exactly 1.
    if new != old {
        let shrink = math::weight1(s, old - new);
        *l *= shrink;
        for o in o.as_chunks_mut::<8>().0 {
            s.store_half(o, s.mul(s.load_half(o), s.splat(shrink)));
        }
    }
    *l += sum;
    for (p, x) in p.as_chunks_mut::<LANES>().0.iter_mut().zip(x) {
        s.store(p, x);
    }
}

/// Checks that the plan's sequences cover its rows in order.
pub fn check_sequences(op: &str, plan: &BatchPlan) -> Result<()> {
    let mut row = 0;
    for sequence in &plan.sequences {
        if sequence.start != row || sequence.end <= row {
            return Err(Error::Internal(format!("{op}: {sequence:?} after row {row}")));
        }
        row = sequence.end;
    }
    if row as usize != plan.rows() {
        return Err(Error::Internal(format!("{op}: sequences cover {row} of {} rows", plan.rows())));
    }
    Ok(())
}

/// Splits the plan's rows into tasks with their part of `out`, and runs them.
fn run_items(
    c: &CpuBackend,
    plan: &BatchPlan,
    heads: &Heads,
    out: &mut [f32],
    f: impl Fn(Item, &mut [f32]) + Sync,
) {
    let rows = ITEM_ROWS.min(STATES / heads.heads);
    let width = heads.q_width();
    let mut items = Vec::with_capacity(plan.sequences.len() + plan.rows() / rows);
    let mut rest = out;
    let mut cost = 0;
    for (sequence, s) in plan.sequences.iter().enumerate() {
        for row in (s.start..s.end).step_by(rows) {
            let rows = rows.min((s.end - row) as usize);
            let position = (s.first_position + row - s.start) as usize;
            let (mine, others) = rest.split_at_mut(rows * width);
            rest = others;
            cost += rows * (position + 1).min(heads.window.unwrap_or(usize::MAX)) * width / 4;
            items.push((Item { row: row as usize, position, rows, sequence }, mine));
        }
    }
    if rows::serial(&c.pool, cost) {
        items.into_iter().for_each(|(item, out)| f(item, out));
    } else {
        c.pool.each(&mut items, || (), |(), _, (item, out)| f(*item, out));
    }
}

/// K of packed sequences, `[tiles of all sequences, kv_width, TILE]`: a tile never holds two sequences. Lanes beyond a
/// sequence's end are NaN; nothing may read them.
fn transpose(c: &CpuBackend, plan: &BatchPlan, heads: &Heads, qkv: &[f32], keys: &mut Aligned) -> Vec<usize> {
    let (width, kv_width) = (heads.qkv_width(), heads.kv_width());
    let mut starts = Vec::with_capacity(plan.sequences.len() + 1);
    let mut tiles = 0;
    for s in &plan.sequences {
        starts.push(tiles);
        tiles += ((s.end - s.start) as usize).div_ceil(TILE);
    }
    starts.push(tiles);
    let size = kv_width * TILE;
    if keys.len() < tiles * size {
        keys.resize(tiles * size);
    }
    rows::blocks(&c.pool, &mut keys[..tiles * size], size, size, |first, tiles| {
        for (i, tile) in tiles.chunks_exact_mut(size).enumerate() {
            let sequence = starts.partition_point(|&start| start <= first + i) - 1;
            let s = &plan.sequences[sequence];
            let row = s.start as usize + (first + i - starts[sequence]) * TILE;
            let count = (s.end as usize - row).min(TILE);
            let k = &qkv[row * width + heads.q_width()..];
            transpose_tile(k, width, count, tile);
        }
    });
    starts
}

/// `tile[column][j] = x[j * stride + column]` for the `count` rows there are, NaN for the others.
pub fn transpose_tile(x: &[f32], stride: usize, count: usize, tile: &mut [f32]) {
    let columns = tile.as_chunks_mut::<TILE>().0;
    if count < TILE {
        columns.as_flattened_mut().fill(f32::NAN);
    }
    for j in 0..count {
        for (column, &x) in columns.iter_mut().zip(&x[j * stride..]) {
            column[j] = x;
        }
    }
}

/// [`Op::AttentionPacked`].
pub fn packed(c: &mut CpuBackend, op: &AttentionPacked) -> Result<()> {
    let (rows, plan, heads) = (op.check(c)?, c.plan.clone(), op.heads);
    check_sequences(AttentionPacked::NAME, &plan)?;
    let mut keys = std::mem::take(&mut c.scratch);
    let result = rows::write(c, op.out, rows * heads.q_width(), |c, out| {
        let width = heads.qkv_width();
        let qkv = rows::read(c, op.qkv, rows * width)?;
        let starts = transpose(c, &plan, &heads, qkv, &mut keys);
        let level = Level::detect();
        let size = heads.kv_width() * TILE;
        run_items(c, &plan, &heads, out, |item, out| {
            let first = plan.sequences[item.sequence].start as usize;
            let tiles = Tiles {
                keys: &keys[starts[item.sequence] * size..starts[item.sequence + 1] * size],
                values: &qkv[first * width + heads.q_width() + heads.kv_width()..],
                pages: None,
                stride: width,
                kv_width: heads.kv_width(),
                head_dim: heads.head_dim,
            };
            let qkv = &qkv[item.row * width..][..item.rows * width];
            attend(level, Queries { heads: &heads, qkv, position: item.position }, tiles, out);
        });
        Ok(())
    });
    c.scratch = keys;
    result
}

/// [`Op::AttentionPaged`].
pub fn paged(c: &mut CpuBackend, op: &AttentionPaged) -> Result<()> {
    let ((rows, spec), plan) = (op.check(c)?, c.plan.clone());
    check_sequences(AttentionPaged::NAME, &plan)?;
    rows::write(c, op.out, rows * op.heads.q_width(), |c, out| {
        let qkv = rows::read(c, op.qkv, rows * op.heads.qkv_width())?;
        match pages::pool(c, op.kv)?.layer(op.layer as usize) {
            Layer::F32(keys, values) => over_pages(c, &op.heads, &spec, (keys, values), qkv, out),
            Layer::Bf16(keys, values) => over_pages(c, &op.heads, &spec, (keys, values), qkv, out),
        }
        Ok(())
    })
}

/// [`paged`] over the K and V of one layer.
fn over_pages<E: Stored>(
    c: &CpuBackend,
    heads: &Heads,
    spec: &KvSpec,
    (keys, values): (&[E], &[E]),
    qkv: &[f32],
    out: &mut [f32],
) {
    let (plan, width, level) = (&c.plan, heads.qkv_width(), Level::detect());
    run_items(c, plan, heads, out, |item, out| {
        let s = &plan.sequences[item.sequence];
        let pages = &plan.page_table[s.pages_start as usize..s.pages_end as usize];
        let tiles = Tiles {
            keys,
            values,
            pages: Some((pages, spec.page_tokens / TILE)),
            stride: spec.kv_width,
            kv_width: spec.kv_width,
            head_dim: heads.head_dim,
        };
        let qkv = &qkv[item.row * width..][..item.rows * width];
        attend(level, Queries { heads, qkv, position: item.position }, tiles, out);
    });
}
