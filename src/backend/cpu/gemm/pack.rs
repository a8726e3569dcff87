//! Aligned buffers, transposition, and the packed weight matrix.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::product::Shared;
use super::{PANEL, Team};

/// One cache line: a 64-byte vector that starts on it is one access, not two.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A buffer of f32 that starts on a cache line.
#[derive(Clone, Default)]
pub(in crate::backend::cpu) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self::full(len, 0.0)
    }

    /// `len` times `value`.
    pub fn full(len: usize, value: f32) -> Self {
        Self { lines: vec![Line([value; 16]); len.div_ceil(16)], len }
    }

    /// Makes it `len` long, of unspecified values; what it has room for takes no new memory.
    pub fn resize(&mut self, len: usize) {
        self.lines.resize(len.div_ceil(16), Line([0.0; 16]));
        self.len = len;
    }

    /// Makes it `len` zeros.
    pub fn reset(&mut self, len: usize) {
        self.resize(len);
        self.fill(0.0);
    }

    /// Bytes it occupies.
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    /// A buffer that `fill` writes completely. Weights are large: zeroing them first would touch every page twice.
    ///
    /// # Safety
    /// `fill` must write all of the `len` (a multiple of 16) elements it is given and read none.
    unsafe fn filled(len: usize, fill: impl FnOnce(Shared)) -> Self {
        assert_eq!(len % 16, 0, "whole lines");
        let mut lines: Vec<Line> = Vec::with_capacity(len / 16);
        // SAFETY: the capacity holds len values; nobody else sees them yet.
        fill(unsafe { Shared::from_raw(lines.as_mut_ptr().cast(), len) });
        // SAFETY: the caller promises that all are written.
        unsafe { lines.set_len(len / 16) };
        Self { lines, len }
    }
}

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// A thread's buffers to use again, by ascending size; several, because requests nest.
struct Spare(Vec<Aligned>);

impl Drop for Spare {
    fn drop(&mut self) {
        SCRATCH.fetch_sub(self.0.iter().map(Aligned::bytes).sum(), Ordering::Relaxed);
    }
}

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare(Vec::new())) };
}

/// Bytes of all buffers of [`scratch`].
static SCRATCH: AtomicUsize = AtomicUsize::new(0);

/// Bytes that all threads of the process keep as buffers of operations.
pub fn scratch_bytes() -> usize {
    SCRATCH.load(Ordering::Relaxed)
}

/// Lends `len` aligned f32 of unspecified value: the smallest spare buffer that is large enough, else the
/// largest, made larger.
pub(in crate::backend::cpu) fn scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SPARE.with_borrow_mut(|Spare(spare)| {
        let place = spare.partition_point(|b| b.len < len);
        if place < spare.len() { spare.remove(place) } else { spare.pop().unwrap_or_default() }
    });
    if buffer.len < len {
        // The old one goes first: both together are more than was planned.
        let old = std::mem::take(&mut buffer).bytes();
        SCRATCH.fetch_sub(old, Ordering::Relaxed);
        buffer = Aligned::zeros(len);
        SCRATCH.fetch_add(buffer.bytes(), Ordering::Relaxed);
    }
    let result = f(&mut buffer[..len]);
    SPARE.with_borrow_mut(|Spare(spare)| {
        let place = spare.partition_point(|b| b.len < buffer.len);
        spare.insert(place, buffer);
    });
    result
}

/// `to[c * to_stride + r] = from[r * from_stride + c]` for `rows` x `cols` of `from`.
pub(in crate::backend::cpu) fn transpose(
    from: &[f32],
    rows: usize,
    cols: usize,
    from_stride: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(cols <= from_stride && from.len() >= (rows - 1) * from_stride + cols, "transpose: source");
    assert!(rows <= to_stride && to.len() >= (cols - 1) * to_stride + rows, "transpose: target");
    if rows < 4 || cols < 4 {
        for r in 0..rows {
            for c in 0..cols {
                to[c * to_stride + r] = from[r * from_stride + c];
            }
        }
        return;
    }
    // The last blocks reach back over what is done already, rather than leave a rest.
    for r in (0..rows).step_by(4).map(|r| r.min(rows - 4)) {
        for c in (0..cols).step_by(4).map(|c| c.min(cols - 4)) {
            // SAFETY: a 4 x 4 block inside the bounds asserted above.
            unsafe {
                let from = from.as_ptr().add(r * from_stride + c);
                transpose4(from, from_stride, to.as_mut_ptr().add(c * to_stride + r), to_stride);
            }
        }
    }
}

/// A 4 x 4 block of [`transpose`].
///
/// # Safety
/// Four values must be readable at each of four `from` rows and writable at each of four `to` rows.
#[inline(always)]
unsafe fn transpose4(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64; the memory is the caller's promise.
    unsafe {
        use std::arch::x86_64::*;
        let a = _mm_loadu_ps(from);
        let b = _mm_loadu_ps(from.add(from_stride));
        let c = _mm_loadu_ps(from.add(2 * from_stride));
        let d = _mm_loadu_ps(from.add(3 * from_stride));
        let (ab_low, ab_high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        _mm_storeu_ps(to, _mm_movelh_ps(ab_low, cd_low));
        _mm_storeu_ps(to.add(to_stride), _mm_movehl_ps(cd_low, ab_low));
        _mm_storeu_ps(to.add(2 * to_stride), _mm_movelh_ps(ab_high, cd_high));
        _mm_storeu_ps(to.add(3 * to_stride), _mm_movehl_ps(cd_high, ab_high));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for r in 0..4 {
        for c in 0..4 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(c * to_stride + r) = *from.add(r * from_stride + c) };
        }
    }
}

/// A weight matrix `[outputs, inputs]` packed for `y = x Wᵀ`.
pub struct Packed {
    /// Rows of W, columns of y.
    pub outputs: usize,
    /// Columns of W and of x.
    pub inputs: usize,
    /// `[panel][inputs][PANEL]`, the last panel padded with zeros.
    values: Aligned,
}

impl Packed {
    /// Packs the rows that `row(i, out)` writes; `out` has `inputs` values.
    pub fn new(pool: &Team, outputs: usize, inputs: usize, row: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let panels = outputs.div_ceil(PANEL);
        let len = panels * inputs * PANEL;
        let fill = |values: Shared| {
            pool.run(pool.helpers(len), &[panels], &|_, panel| {
                // SAFETY: each task writes its own panel.
                let target = unsafe { values.slice(panel * inputs * PANEL, inputs * PANEL) };
                scratch(PANEL * inputs, |rows| {
                    for (i, out) in rows.chunks_exact_mut(inputs.max(1)).enumerate() {
                        match panel * PANEL + i {
                            n if n < outputs => row(n, out),
                            _ => out.fill(0.0),
                        }
                    }
                    transpose(rows, PANEL, inputs, inputs, target, PANEL);
                });
            });
        };
        // SAFETY: `transpose` writes every element of every panel.
        Self { outputs, inputs, values: unsafe { Aligned::filled(len, fill) } }
    }

    /// One of this shape without values, which knows its size and nothing else.
    pub(in crate::backend::cpu) fn sized(outputs: usize, inputs: usize) -> Self {
        Self { outputs, inputs, values: Aligned::default() }
    }

    /// Packs the transpose of the `rows` x `cols` matrix whose rows `row(i, out)` writes: for `dx = dy W`,
    /// `outputs` is `cols`.
    pub fn transposed(pool: &Team, rows: usize, cols: usize, row: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let panels = cols.div_ceil(PANEL);
        let len = panels * rows * PANEL;
        let tasks = rows.div_ceil(PANEL);
        let fill = |values: Shared| {
            pool.run(pool.helpers(len), &[tasks], &|_, task| {
                scratch(panels * PANEL, |line| {
                    for k in task * PANEL..rows.min((task + 1) * PANEL) {
                        line[cols..].fill(0.0);
                        row(k, &mut line[..cols]);
                        for (panel, piece) in line.chunks_exact(PANEL).enumerate() {
                            // SAFETY: each task writes its own k of all panels.
                            unsafe { values.slice((panel * rows + k) * PANEL, PANEL) }.copy_from_slice(piece);
                        }
                    }
                });
            });
        };
        // SAFETY: every k of every panel is written.
        Self { outputs: cols, inputs: rows, values: unsafe { Aligned::filled(len, fill) } }
    }

    /// Panels of [`PANEL`] outputs.
    pub fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// The outputs of a panel.
    pub(in crate::backend::cpu) fn panel_columns(&self, panel: usize) -> Range<usize> {
        panel * PANEL..self.outputs.min((panel + 1) * PANEL)
    }

    /// A panel, `[inputs][PANEL]`.
    pub(super) fn panel(&self, panel: usize) -> &[f32] {
        &self.values[panel * self.inputs * PANEL..][..self.inputs * PANEL]
    }

    /// Bytes it occupies.
    pub fn bytes(&self) -> usize {
        self.panels() * self.inputs * PANEL * 4
    }
}
