//! Not written yet.

use super::*;

/// See [`Op`].
pub fn forward(
    _c: &mut CudaBackend,
    _x: Tensor,
    _weight: Vector,
    _eps: f32,
    _out: Tensor,
    _gathered: bool,
) -> Result<()> {
    Err(Error::Unsupported("rms_norm on CUDA".into()))
}

/// See [`Op`].
pub fn backward(
    _c: &mut CudaBackend,
    _x: Tensor,
    _weight: Vector,
    _eps: f32,
    _dy: Tensor,
    _dx: Tensor,
    _accumulate: bool,
    _gathered: bool,
) -> Result<()> {
    Err(Error::Unsupported("rms_norm on CUDA".into()))
}
