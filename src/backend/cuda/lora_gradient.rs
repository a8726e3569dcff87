//! Placeholder of this branch only: the kernel lives in another one, which brings this file.

use super::*;

pub fn run(
    _c: &mut CudaBackend,
    _group: GroupId,
    _x: DevicePtr,
    _dy: DevicePtr,
    _h: DevicePtr,
    _dh: DevicePtr,
    _stride: usize,
) -> Result<()> {
    Ok(())
}
