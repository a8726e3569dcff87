//! [`Op::SwiGlu`] and [`Op::SwiGluBackward`]: `kernels/swiglu.cu`.

use bytemuck::{Pod, Zeroable};

use super::*;

const THREADS: usize = 256;
const FORWARD: Kernel = Kernel::new("swiglu", "swiglu", 256);
const BACKWARD: Kernel = Kernel::new("swiglu", "swiglu_backward", 256);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    gate_up: DevicePtr,
    dout: DevicePtr,
    out: DevicePtr,
    width: u32,
    unused: u32,
}

fn launch(c: &mut CudaBackend, kernel: Kernel, params: &Params) {
    let groups = c.plan.bounds.rows * (params.width as usize / 8);
    if groups > 0 {
        c.launch(kernel, [groups.div_ceil(THREADS), 1, 1], 0, params);
    }
}

/// [`Op::SwiGlu`].
pub fn forward(c: &mut CudaBackend, op: &SwiGlu) -> Result<()> {
    let (_, width) = op.check(c)?;
    weights::check_width(SwiGlu::NAME, width)?;
    let (plan, gate_up, out) = (c.plan.at(), c.at(op.gate_up)?, c.at(op.out)?);
    let params = Params { plan, gate_up, dout: DevicePtr::NULL, out, width: width as u32, unused: 0 };
    launch(c, FORWARD, &params);
    Ok(())
}

/// [`Op::SwiGluBackward`].
pub fn backward(c: &mut CudaBackend, op: &SwiGluBackward) -> Result<()> {
    let (_, width) = op.check(c)?;
    weights::check_width(SwiGluBackward::NAME, width)?;
    let (plan, gate_up) = (c.plan.at(), c.at(op.gate_up)?);
    let (dout, out) = (c.at(op.dout)?, c.at(op.dgate_up)?);
    launch(c, BACKWARD, &Params { plan, gate_up, dout, out, width: width as u32, unused: 0 });
    Ok(())
}
