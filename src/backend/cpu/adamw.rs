//! STUB.
use super::*;
pub fn norms(_c: &mut CpuBackend, _s: &[Slot], _o: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
pub fn step(_c: &mut CpuBackend, _s: &[AdamWStep], _n: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
pub fn zero_grad(_c: &mut CpuBackend, _s: &[Slot]) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
