//! STUB.
use super::*;
pub fn run(
    _c: &mut CpuBackend,
    _h: Tensor,
    _l: Linear,
    _w: Tensor,
    _o: Tensor,
    _d: Option<Tensor>,
) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
