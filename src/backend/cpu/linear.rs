//! STUB.
use super::*;
pub struct LinearWeights {
    pub forward: gemm::Packed,
    pub backward: Option<gemm::Packed>,
    pub bias: Option<Vec<f32>>,
}
impl LinearWeights {
    pub fn pack(_pool: &rayon::ThreadPool, _spec: LinearSpec<'_>) -> Result<Self> {
        Err(Error::Unsupported("not written yet".into()))
    }
    pub fn bytes(&self) -> usize {
        0
    }
}
pub fn forward(
    _c: &mut CpuBackend,
    _l: Linear,
    _g: Option<GroupId>,
    _x: Tensor,
    _s: Option<Tensor>,
    _r: Option<Tensor>,
    _y: Tensor,
) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
