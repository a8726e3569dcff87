//! KV pages. Positions come in tiles of [`TILE`]; inside a tile K lies transposed, `[kv_width, TILE]`, so
//! that the scores of sixteen positions are sixteen lanes, and V by rows, `[TILE, kv_width]`. A page is a
//! whole number of tiles, so tiles start at multiples of [`TILE`] of the absolute position whatever the size
//! of the page.

use half::bf16;

use super::gemm::Aligned;
use super::lanes::Simd;
use super::*;

/// Positions in a tile.
pub const TILE: usize = 16;

/// What pages hold: f32, or bf16 where the backend rounds K and V ([`super::CpuBackend::with_bf16_kv`]).
pub trait Stored: bytemuck::Pod + Send + Sync {
    /// As it is kept.
    fn of(x: f32) -> Self;
    /// Sixteen values, widened.
    fn load<S: Simd>(s: S, x: &[Self; 16]) -> S::V;
    /// Eight values, widened, then eight zeros.
    fn load_half<S: Simd>(s: S, x: &[Self; 8]) -> S::V;
}

impl Stored for f32 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; 16]) -> S::V {
        s.load(x)
    }
    #[inline(always)]
    fn load_half<S: Simd>(s: S, x: &[Self; 8]) -> S::V {
        s.load_half(x)
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        bf16::from_f32(x)
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; 16]) -> S::V {
        s.load_bf16(bytemuck::cast_ref(x))
    }
    #[inline(always)]
    fn load_half<S: Simd>(s: S, x: &[Self; 8]) -> S::V {
        s.load_half_bf16(bytemuck::cast_ref(x))
    }
}

/// K and V of one layer: K `[pages * tiles, kv_width, TILE]`, V `[pages * tokens, kv_width]`.
pub enum Layer<'a> {
    /// As computed.
    F32(&'a [f32], &'a [f32]),
    /// Rounded.
    Bf16(&'a [bf16], &'a [bf16]),
}

/// The pages of all layers.
pub struct KvBuffer {
    /// Its shape.
    pub spec: KvSpec,
    /// Elements are bf16.
    rounded: bool,
    // On cache lines: a vector that lies across two of them costs twice.
    keys: Aligned,
    values: Aligned,
}

impl KvBuffer {
    /// Pages full of NaN, so that a test finds every read of what nobody wrote.
    pub fn new(spec: KvSpec, rounded: bool) -> Result<Self> {
        if spec.page_tokens == 0 || !spec.page_tokens.is_multiple_of(TILE) {
            return Err(Error::Unsupported(format!(
                "KV pages of {} tokens on the CPU: give a multiple of {TILE}",
                spec.page_tokens
            )));
        }
        let len = spec.layers * spec.pages * spec.page_tokens * spec.kv_width;
        // Two bf16 in the place of an f32 whose bits are those of two NaN.
        let (len, nan) =
            if rounded { (len.div_ceil(2), f32::from_bits(0x7fc1_7fc1)) } else { (len, f32::NAN) };
        Ok(Self { spec, rounded, keys: Aligned::full(len, nan), values: Aligned::full(len, nan) })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * 4
    }

    /// Where tile `tile` of a page of a layer starts, in both arrays.
    fn start(&self, layer: usize, page: usize, tile: usize) -> usize {
        let KvSpec { pages, page_tokens, kv_width, .. } = self.spec;
        ((layer * pages + page) * page_tokens + tile * TILE) * kv_width
    }

    /// K and V of a layer.
    pub fn layer(&self, layer: usize) -> Layer<'_> {
        let range = self.start(layer, 0, 0)..self.start(layer + 1, 0, 0);
        let (keys, values): (&[f32], &[f32]) = (&self.keys, &self.values);
        if self.rounded {
            let (keys, values): (&[bf16], &[bf16]) =
                (bytemuck::cast_slice(keys), bytemuck::cast_slice(values));
            Layer::Bf16(&keys[range.clone()], &values[range])
        } else {
            Layer::F32(&keys[range.clone()], &values[range])
        }
    }

    /// Writes K and V of one token, the `token`th of the page.
    pub fn write(&mut self, layer: usize, page: usize, token: usize, k: &[f32], v: &[f32]) {
        let start = self.start(layer, page, token / TILE);
        let (keys, values): (&mut [f32], &mut [f32]) = (&mut self.keys, &mut self.values);
        if self.rounded {
            let keys: &mut [bf16] = bytemuck::cast_slice_mut(keys);
            write_token(keys, bytemuck::cast_slice_mut(values), start, token % TILE, k, v);
        } else {
            write_token(keys, values, start, token % TILE, k, v);
        }
    }

    /// Copies the first `tokens` tokens of page `from` to page `to`, in all layers.
    fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        if from == to {
            return;
        }
        for layer in 0..self.spec.layers {
            let (a, b) = (self.start(layer, from, 0), self.start(layer, to, 0));
            let width = self.spec.kv_width;
            let (keys, values): (&mut [f32], &mut [f32]) = (&mut self.keys, &mut self.values);
            if self.rounded {
                let keys: &mut [bf16] = bytemuck::cast_slice_mut(keys);
                copy_tokens(keys, bytemuck::cast_slice_mut(values), (a, b), tokens, width);
            } else {
                copy_tokens(keys, values, (a, b), tokens, width);
            }
        }
    }
}

/// Writes K and V of a token in lane `lane` of the tile at `start`.
fn write_token<E: Stored>(keys: &mut [E], values: &mut [E], start: usize, lane: usize, k: &[f32], v: &[f32]) {
    let width = k.len();
    let tile = &mut keys[start..][..TILE * width];
    for (column, &k) in tile.as_chunks_mut::<TILE>().0.iter_mut().zip(k) {
        column[lane] = E::of(k);
    }
    values[start + lane * width..][..width].iter_mut().zip(v).for_each(|(out, &v)| *out = E::of(v));
}

/// Copies the first `tokens` tokens of the page at `a` to that at `b`.
fn copy_tokens<E: Stored>(
    keys: &mut [E],
    values: &mut [E],
    (a, b): (usize, usize),
    tokens: usize,
    width: usize,
) {
    let whole = tokens / TILE * TILE * width;
    let rest = tokens % TILE;
    values.copy_within(a..a + tokens * width, b);
    keys.copy_within(a..a + whole, b);
    if rest > 0 {
        for column in 0..width {
            let at = whole + column * TILE;
            keys.copy_within(a + at..a + at + rest, b + at);
        }
    }
}

/// A pool by its handle, which checks have found to exist.
pub fn pool(c: &CpuBackend, kv: KvPool) -> Result<&KvBuffer> {
    let pool = c.kv_pools.get(kv.0 as usize).and_then(Option::as_ref);
    pool.ok_or_else(|| Error::Internal(format!("KV pool {} does not exist", kv.0)))
}

/// [`Op::CopyPages`].
pub fn copy(c: &mut CpuBackend, op: &CopyPages) -> Result<()> {
    op.check(c)?;
    let Some(Some(buffer)) = c.kv_pools.get_mut(op.kv.0 as usize) else { return Ok(()) };
    for &PageCopy { from, to, tokens } in &c.plan.page_copies {
        buffer.copy(from as usize, to as usize, tokens as usize);
    }
    Ok(())
}
