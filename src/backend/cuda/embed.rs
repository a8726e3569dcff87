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
    let &Embed { table, drawn, out } = op;
    const OP: &str = "embed";
    let plan = c.plan.host.clone();
    let found = c
        .tables
        .get(table.0 as usize)
        .ok_or_else(|| Error::Internal(format!("{OP}: table {} does not exist", table.0)))?;
    if let Some(token) = plan.tokens.iter().find(|&&t| t & DRAWN == 0 && t as usize >= found.rows) {
        return Err(Error::Internal(format!("{OP}: token {token} of a vocabulary of {}", found.rows)));
    }
    let (source, width, vocabulary) = (found.at, found.width, found.rows as u32);
    let drawn = match (drawn, plan.tokens.iter().filter(|&&t| t & DRAWN != 0).max()) {
        (Some(drawn), last) => {
            c.at(OP, drawn, last.map_or(0, |&t| (t ^ DRAWN) as usize + 1), 1, Element::U32)?
        }
        (None, Some(token)) => {
            return Err(Error::Internal(format!("{OP}: draw {} of no draws", token ^ DRAWN)));
        }
        (None, None) => DevicePtr::NULL,
    };
    let out = c.at(OP, out, plan.rows(), width, Element::Activation)?;
    copy(c, EMBED, Params { drawn, vocabulary, ..params(c, source, out, width) }, c.plan.bounds.rows)
}

/// [`Op::GatherRows`].
pub fn gather(c: &mut CudaBackend, op: &GatherRows) -> Result<()> {
    let &GatherRows { x, out } = op;
    const OP: &str = "gather_rows";
    let (source, out, width) = logit_rows(c, OP, x, out)?;
    copy(c, GATHER, params(c, source, out, width), c.plan.bounds.logit_rows)
}

/// [`Op::ScatterRows`].
pub fn scatter(c: &mut CudaBackend, op: &ScatterRows) -> Result<()> {
    let &ScatterRows { dy, dx } = op;
    const OP: &str = "scatter_rows";
    let (out, source, width) = logit_rows(c, OP, dx, dy)?;
    copy(c, SCATTER, params(c, source, out, width), c.plan.bounds.rows)
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

fn params(c: &CudaBackend, source: DevicePtr, out: DevicePtr, width: usize) -> Params {
    Params { plan: c.plan.at(), source, drawn: DevicePtr::NULL, out, width: width as u32, vocabulary: 0 }
}

fn copy(c: &mut CudaBackend, kernel: Kernel, params: Params, rows: usize) -> Result<()> {
    if rows > 0 {
        c.launch(kernel, [rows.div_ceil(ROWS_PER_BLOCK), 1, 1], 0, &params);
    }
    Ok(())
}
