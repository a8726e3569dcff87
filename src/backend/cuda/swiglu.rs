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
    let &SwiGlu { gate_up, out } = op;
    const OP: &str = "swiglu";
    let (rows, width) = (c.plan.host.rows(), c.tensor_buffer(out)?.spec.width);
    weights::check_width(OP, width)?;
    if gate_up == out {
        return Err(Error::Internal(format!("{OP}: operands share a tensor")));
    }
    let params = Params {
        plan: c.plan.at(),
        gate_up: c.at(OP, gate_up, rows, 2 * width, Element::Activation)?,
        dout: DevicePtr::NULL,
        out: c.at(OP, out, rows, width, Element::Activation)?,
        width: width as u32,
        unused: 0,
    };
    launch(c, FORWARD, &params);
    Ok(())
}

/// [`Op::SwiGluBackward`].
pub fn backward(c: &mut CudaBackend, op: &SwiGluBackward) -> Result<()> {
    let &SwiGluBackward { gate_up, dout, dgate_up } = op;
    const OP: &str = "swiglu_backward";
    let (rows, width) = (c.plan.host.rows(), c.tensor_buffer(dout)?.spec.width);
    weights::check_width(OP, width)?;
    if dout == dgate_up {
        return Err(Error::Internal(format!("{OP}: operands share a tensor")));
    }
    let params = Params {
        plan: c.plan.at(),
        gate_up: c.at(OP, gate_up, rows, 2 * width, Element::Activation)?,
        dout: c.at(OP, dout, rows, width, Element::Activation)?,
        out: c.at(OP, dgate_up, rows, 2 * width, Element::Activation)?,
        width: width as u32,
        unused: 0,
    };
    launch(c, BACKWARD, &params);
    Ok(())
}
