//! STUB.
use super::*;
pub struct TableBuffer {}
impl TableBuffer {
    pub fn new(_v: WeightView<'_>) -> Self {
        Self {}
    }
    pub fn bytes(&self) -> usize {
        0
    }
}
pub fn run(_c: &mut CpuBackend, _t: Table, _o: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
pub fn gather(_c: &mut CpuBackend, _x: Tensor, _o: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
pub fn scatter(_c: &mut CpuBackend, _x: Tensor, _o: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
