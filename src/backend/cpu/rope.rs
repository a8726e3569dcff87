//! STUB.
use super::*;
pub struct RopeBuffer {}
impl RopeBuffer {
    pub fn new(_c: &[f32], _s: &[f32], _h: usize) -> Result<Self> {
        Ok(Self {})
    }
    pub fn bytes(&self) -> usize {
        0
    }
}
pub fn forward(
    _c: &mut CpuBackend,
    _q: Tensor,
    _t: RopeTable,
    _h: Heads,
    _kv: Option<(KvPool, u32)>,
) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
pub fn backward(_c: &mut CpuBackend, _q: Tensor, _t: RopeTable, _h: Heads) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
