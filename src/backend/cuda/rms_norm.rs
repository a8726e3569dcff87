//! [`Op::RmsNorm`] and [`Op::RmsNormBackward`]: `kernels/rms_norm.cu`.

use bytemuck::{Pod, Zeroable};

use super::*;

const THREADS: usize = 256;
const FORWARD: Kernel = Kernel::new("rms_norm", "rms_norm", 256);
const FORWARD_WIDE: Kernel = Kernel::new("rms_norm", "rms_norm_wide", 256);
const BACKWARD: Kernel = Kernel::new("rms_norm", "rms_norm_backward", 256);
const BACKWARD_WIDE: Kernel = Kernel::new("rms_norm", "rms_norm_backward_wide", 256);

/// A row up to this width is a warp's, four times 8 elements a lane; a wider one is a block's.
const WARP_WIDTH: usize = 1024;
/// Partial sums of a block.
const SHARED: usize = THREADS / 32 * 4;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    x: DevicePtr,
    weight: DevicePtr,
    dy: DevicePtr,
    out: DevicePtr,
    width: u32,
    eps: f32,
    gathered: u32,
    accumulate: u32,
}

/// The operands that forward and backward share; `out` says the width.
fn params(
    c: &CudaBackend,
    op: &str,
    x: Tensor,
    weight: Vector,
    eps: f32,
    out: Tensor,
    gathered: bool,
) -> Result<Params> {
    let width = c.tensor_buffer(out)?.spec.width;
    weights::check_width(op, width)?;
    if x == out {
        return Err(Error::Internal(format!("{op}: operands share a tensor")));
    }
    let rows = rows(c, gathered);
    let weight = vector(c, op, weight, width, "rows")?;
    Ok(Params {
        plan: c.plan.at(),
        x: c.at(op, x, rows, width, Element::Activation)?,
        weight,
        dy: DevicePtr::NULL,
        out: c.at(op, out, rows, width, Element::Activation)?,
        width: width as u32,
        eps,
        gathered: u32::from(gathered),
        accumulate: 0,
    })
}

/// Where the weight of a norm over `width` numbers lies; `of` is what they are: `rows` or `heads`.
pub fn vector(c: &CudaBackend, op: &str, weight: Vector, width: usize, of: &str) -> Result<DevicePtr> {
    match c.vectors.get(weight.0 as usize) {
        Some(w) if w.len == width => Ok(w.at),
        Some(w) => Err(Error::Internal(format!("{op}: weight of {} for {of} of {width}", w.len))),
        None => Err(Error::Internal(format!("{op}: vector {} does not exist", weight.0))),
    }
}

fn rows(c: &CudaBackend, gathered: bool) -> usize {
    if gathered { c.plan.host.logit_rows.len() } else { c.plan.host.rows() }
}

fn launch(c: &mut CudaBackend, narrow: Kernel, wide: Kernel, params: &Params) {
    let rows = if params.gathered == 1 { c.plan.bounds.logit_rows } else { c.plan.bounds.rows };
    if rows == 0 {
    } else if params.width as usize <= WARP_WIDTH {
        c.launch(narrow, [rows.div_ceil(THREADS / 32), 1, 1], 0, params);
    } else {
        c.launch(wide, [rows, 1, 1], SHARED, params);
    }
}

/// [`Op::RmsNorm`].
pub fn forward(c: &mut CudaBackend, op: &RmsNorm) -> Result<()> {
    let &RmsNorm { x, weight, eps, out, gathered } = op;
    let params = params(c, "rms_norm", x, weight, eps, out, gathered)?;
    launch(c, FORWARD, FORWARD_WIDE, &params);
    Ok(())
}

/// [`Op::RmsNormBackward`].
pub fn backward(c: &mut CudaBackend, op: &RmsNormBackward) -> Result<()> {
    let &RmsNormBackward { x, weight, eps, dy, dx, accumulate, gathered } = op;
    const OP: &str = "rms_norm_backward";
    let mut params = params(c, OP, x, weight, eps, dx, gathered)?;
    params.dy = c.at(OP, dy, rows(c, gathered), params.width as usize, Element::Activation)?;
    params.accumulate = u32::from(accumulate);
    launch(c, BACKWARD, BACKWARD_WIDE, &params);
    Ok(())
}
