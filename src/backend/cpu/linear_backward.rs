//! STUB.
use super::*;
pub fn run(
    _c: &mut CpuBackend,
    _l: Linear,
    _g: Option<GroupId>,
    _x: Tensor,
    _s: Option<Tensor>,
    _dy: Tensor,
    _ds: Option<Tensor>,
    _dx: Option<Tensor>,
) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
