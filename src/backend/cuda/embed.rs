//! [`Op::Embed`], [`Op::GatherRows`], [`Op::ScatterRows`]: `kernels/embed.cu`.

use bytemuck::{Pod, Zeroable};

use super::*;

const ROWS_PER_BLOCK: usize = 8;
const EMBED: Kernel = Kernel::new("embed", "embed", 256);
const GATHER: Kernel = Kernel::new("embed", "gather_rows", 256);
const SCATTER: Kernel = Kernel::new("embed", "scatter_rows", 256);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    source: DevicePtr,
    /// What the step before drew, or null.
    drawn: DevicePtr,
    out: DevicePtr,
    width: u32,
    /// Rows of the table; for [`EMBED`].
    vocabulary: u32,
}

/// [`Op::Embed`].
pub fn embed(c: &mut CudaBackend, op: &Embed) -> Result<()> {
    let width = op.check(c)?;
    let table = &c.tables[op.table.0 as usize];
    let (source, vocabulary) = (table.at, table.rows as u32);
    let drawn = op.drawn.map_or(Ok(DevicePtr::NULL), |t| c.at(t))?;
    let params = params(c, source, c.at(op.out)?, width);
    copy(c, EMBED, Params { drawn, vocabulary, ..params }, c.plan.bounds.rows)
}

/// [`Op::GatherRows`].
pub fn gather(c: &mut CudaBackend, op: &GatherRows) -> Result<()> {
    let width = op.check(c)?;
    weights::check_width(GatherRows::NAME, width)?;
    copy(c, GATHER, params(c, c.at(op.x)?, c.at(op.out)?, width), c.plan.bounds.logit_rows)
}

/// [`Op::ScatterRows`].
pub fn scatter(c: &mut CudaBackend, op: &ScatterRows) -> Result<()> {
    let width = op.check(c)?;
    weights::check_width(ScatterRows::NAME, width)?;
    copy(c, SCATTER, params(c, c.at(op.dy)?, c.at(op.dx)?, width), c.plan.bounds.rows)
}

fn params(c: &CudaBackend, source: DevicePtr, out: DevicePtr, width: usize) -> Params {
    Params { plan: c.plan.at(), source, drawn: DevicePtr::NULL, out, width: width as u32, vocabulary: 0 }
}

fn copy(c: &mut CudaBackend, kernel: Kernel, params: Params, rows: usize) -> Result<()> {
    if rows > 0 {
        c.launch(kernel, [rows.div_ceil(ROWS_PER_BLOCK), 1, 1], 0, &params);
    }
    Ok(())
}
