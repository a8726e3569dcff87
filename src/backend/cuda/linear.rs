//! Not written yet.

use super::*;

/// See [`Op`].
pub fn forward(
    _c: &mut CudaBackend,
    _linear: Linear,
    _group: Option<GroupId>,
    _x: Tensor,
    _shrink: Option<Tensor>,
    _residual: Option<Tensor>,
    _y: Tensor,
) -> Result<()> {
    Err(Error::Unsupported("linear on CUDA".into()))
}
