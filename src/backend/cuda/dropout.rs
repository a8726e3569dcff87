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
    let (_, width) = op.check(c)?;
    weights::check_width(Dropout::NAME, width)?;
    let (plan, x, out) = (c.plan.at(), c.at(op.x)?, c.at(op.out)?);
    let groups = c.plan.bounds.rows * (width / 8);
    if groups > 0 {
        let params = Params { plan, x, out, width: width as u32, group: op.group.0 };
        c.launch(KERNEL, [groups.div_ceil(THREADS), 1, 1], 0, &params);
    }
    Ok(())
}
