//! What the row-wise operations share: checked access to tensors, and parallel loops over rows.

use super::*;

/// Scalar operations below which a loop stays on the calling thread: waking the workers takes about as long.
const SERIAL: usize = 1 << 15;

/// The first `rows` rows of a tensor; an error also where the operation has taken the tensor out to write it, that is
/// where two operands are the same tensor that may not be.
pub fn read<'a>(c: &'a CpuBackend, op: &str, t: Tensor, rows: usize, width: usize) -> Result<&'a [f32]> {
    c.check(op, t, rows, width)?;
    c.f32(t)?
        .get(..rows * width)
        .ok_or_else(|| Error::Internal(format!("{op}: tensor {} is read and written by one operation", t.0)))
}

/// Takes tensor `out` out (checked to hold `[rows, width]`), lets `f` write its first `rows` rows, and gives it back
/// whatever happens.
pub fn write(
    c: &mut CpuBackend,
    op: &str,
    out: Tensor,
    rows: usize,
    width: usize,
    f: impl FnOnce(&CpuBackend, &mut [f32]) -> Result<()>,
) -> Result<()> {
    c.check(op, out, rows, width)?;
    let mut data = c.take(out)?;
    let result = f(c, &mut data[..rows * width]);
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
