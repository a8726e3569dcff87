//! [`Op::Dropout`]: `kernels/dropout.cu`.

use bytemuck::{Pod, Zeroable};

use super::*;

const THREADS: usize = 256;
const KERNEL: Kernel = Kernel::new("dropout", "dropout", 256);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    x: DevicePtr,
    out: DevicePtr,
    width: u32,
    group: u32,
}

/// [`Op::Dropout`].
pub fn run(c: &mut CudaBackend, op: &Dropout) -> Result<()> {
    let &Dropout { x, group, out } = op;
    const OP: &str = "dropout";
    let (rows, width) = (c.plan.host.rows(), c.tensor_buffer(out)?.spec.width);
    weights::check_width(OP, width)?;
    c.plan.check_dropout(OP)?;
    if x == out {
        return Err(Error::Internal(format!("{OP}: operands share a tensor")));
    }
    let params = Params {
        plan: c.plan.at(),
        x: c.at(OP, x, rows, width, Element::Activation)?,
        out: c.at(OP, out, rows, width, Element::Activation)?,
        width: width as u32,
        group: group.0,
    };
    let groups = c.plan.bounds.rows * (width / 8);
    if groups > 0 {
        c.launch(KERNEL, [groups.div_ceil(THREADS), 1, 1], 0, &params);
    }
    Ok(())
}
