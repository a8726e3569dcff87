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
    out: DevicePtr,
    width: u32,
    unused: u32,
}

/// [`Op::Embed`].
pub fn embed(c: &mut CudaBackend, table: Table, out: Tensor) -> Result<()> {
    const OP: &str = "embed";
    let plan = c.plan.host.clone();
    let found = c
        .tables
        .get(table.0 as usize)
        .ok_or_else(|| Error::Internal(format!("{OP}: table {} does not exist", table.0)))?;
    if let Some(token) = plan.tokens.iter().find(|&&t| t as usize >= found.rows) {
        return Err(Error::Internal(format!("{OP}: token {token} of a vocabulary of {}", found.rows)));
    }
    let (source, width) = (found.at, found.width);
    let out = c.at(OP, out, plan.rows(), width, Element::Activation)?;
    copy(c, EMBED, source, out, width, c.plan.bounds.rows)
}

/// [`Op::GatherRows`].
pub fn gather(c: &mut CudaBackend, x: Tensor, out: Tensor) -> Result<()> {
    const OP: &str = "gather_rows";
    let (source, out, width) = logit_rows(c, OP, x, out)?;
    copy(c, GATHER, source, out, width, c.plan.bounds.logit_rows)
}

/// [`Op::ScatterRows`].
pub fn scatter(c: &mut CudaBackend, dy: Tensor, dx: Tensor) -> Result<()> {
    const OP: &str = "scatter_rows";
    let (out, source, width) = logit_rows(c, OP, dx, dy)?;
    copy(c, SCATTER, source, out, width, c.plan.bounds.rows)
}

/// Where the rows of the batch and the logit rows lie, and their width.
fn logit_rows(
    c: &CudaBackend,
    op: &str,
    batch: Tensor,
    logits: Tensor,
) -> Result<(DevicePtr, DevicePtr, usize)> {
    if batch == logits {
        return Err(Error::Internal(format!("{op}: operands share a tensor")));
    }
    let width = c.tensor_buffer(batch)?.spec.width;
    weights::check_width(op, width)?;
    let plan = &c.plan.host;
    let batch = c.at(op, batch, plan.rows(), width, Element::Activation)?;
    let logits = c.at(op, logits, plan.logit_rows.len(), width, Element::Activation)?;
    Ok((batch, logits, width))
}

fn copy(
    c: &mut CudaBackend,
    kernel: Kernel,
    source: DevicePtr,
    out: DevicePtr,
    width: usize,
    rows: usize,
) -> Result<()> {
    if rows > 0 {
        let params = Params { plan: c.plan.at(), source, out, width: width as u32, unused: 0 };
        c.launch(kernel, [rows.div_ceil(ROWS_PER_BLOCK), 1, 1], 0, &params);
    }
    Ok(())
}
