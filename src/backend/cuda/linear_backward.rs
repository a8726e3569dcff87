//! Not written yet.

use super::*;

/// See [`Op`].
pub fn run(
    _c: &mut CudaBackend,
    _linear: Linear,
    _group: Option<GroupId>,
    _x: Tensor,
    _shrink: Option<Tensor>,
    _dy: Tensor,
    _dshrink: Option<Tensor>,
    _dx: Option<Tensor>,
) -> Result<()> {
    Err(Error::Unsupported("linear_backward on CUDA".into()))
}
