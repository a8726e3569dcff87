//! STUB.
use super::*;
pub fn forward(_c: &mut CpuBackend, _g: Tensor, _o: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
pub fn backward(_c: &mut CpuBackend, _g: Tensor, _do: Tensor, _dg: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
