//! STUB.
use super::*;
pub fn packed(_c: &mut CpuBackend, _q: Tensor, _h: Heads, _o: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
pub fn paged(_c: &mut CpuBackend, _q: Tensor, _kv: KvPool, _l: u32, _h: Heads, _o: Tensor) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
