//! What the row-wise operations share: checked access to tensors, and parallel loops over rows.

use super::*;

/// Scalar operations below which a loop stays on the calling thread: waking the workers takes about as long.
const SERIAL: usize = 1 << 15;

/// The first `len` numbers of a checked tensor.
pub fn read(c: &CpuBackend, t: Tensor, len: usize) -> Result<&[f32]> {
    // Only a tensor that is taken out holds fewer: checks have found operands that may not be one.
    let missing = || Error::Internal(format!("tensor {} is read and written by one operation", t.0));
    c.f32(t)?.get(..len).ok_or_else(missing)
}

/// Takes the checked tensor `out` out, lets `f` write its first `len` numbers, and gives it back
/// whatever happens.
pub fn write(
    c: &mut CpuBackend,
    out: Tensor,
    len: usize,
    f: impl FnOnce(&CpuBackend, &mut [f32]) -> Result<()>,
) -> Result<()> {
    let mut data = c.take(out)?;
    let result = f(c, &mut data[..len]);
    c.put(out, data);
    result
}

/// Calls `f(first row, its rows)` for blocks of the rows of `out`, in parallel where `rows * cost` is worth it. `cost`
/// is roughly the scalar operations of one row.
pub fn blocks(
    pool: &gemm::Team,
    out: &mut [f32],
    width: usize,
    cost: usize,
    f: impl Fn(usize, &mut [f32]) + Sync,
) {
    let width = width.max(1);
    let rows = out.len() / width;
    if rows == 0 {
        return;
    }
    if serial(pool, rows * cost) {
        return f(0, out);
    }
    let block = (SERIAL / 2 / cost.max(1)).clamp(1, rows.div_ceil(pool.threads()));
    pool.chunks(out, block * width, |i, rows| f(i * block, rows));
}

/// Whether work of `cost` scalar operations stays on the calling thread.
pub fn serial(pool: &gemm::Team, cost: usize) -> bool {
    cost < SERIAL || pool.threads() == 1
}
