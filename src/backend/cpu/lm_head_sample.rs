//! STUB.
use super::*;
pub fn run(_c: &mut CpuBackend, _h: Tensor, _l: Linear, _w: Tensor, _t: Tensor, _p: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
