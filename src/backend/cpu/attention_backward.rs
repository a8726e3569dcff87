//! STUB.
use super::*;
pub fn run(_c: &mut CpuBackend, _q: Tensor, _h: Heads, _o: Tensor, _do: Tensor, _dq: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
