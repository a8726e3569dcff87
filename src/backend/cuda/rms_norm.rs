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
    let (_, width) = op.check(c)?;
    weights::check_width(RmsNorm::NAME, width)?;
    let params = Params {
        plan: c.plan.at(),
        x: c.at(op.x)?,
        weight: c.vectors[op.weight.0 as usize].at,
        dy: DevicePtr::NULL,
        out: c.at(op.out)?,
        width: width as u32,
        eps: op.eps,
        gathered: op.gathered.into(),
        accumulate: 0,
    };
    launch(c, FORWARD, FORWARD_WIDE, &params);
    Ok(())
}

/// [`Op::RmsNormBackward`].
pub fn backward(c: &mut CudaBackend, op: &RmsNormBackward) -> Result<()> {
    let (_, width) = op.check(c)?;
    weights::check_width(RmsNormBackward::NAME, width)?;
    let params = Params {
        plan: c.plan.at(),
        x: c.at(op.x)?,
        weight: c.vectors[op.weight.0 as usize].at,
        dy: c.at(op.dy)?,
        out: c.at(op.dx)?,
        width: width as u32,
        eps: op.eps,
        gathered: op.gathered.into(),
        accumulate: op.accumulate.into(),
    };
    launch(c, BACKWARD, BACKWARD_WIDE, &params);
    Ok(())
}
