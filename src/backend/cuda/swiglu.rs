//! Not written yet.

use super::*;

/// See [`Op`].
pub fn forward(_c: &mut CudaBackend, _gate_up: Tensor, _out: Tensor) -> Result<()> {
    Err(Error::Unsupported("swiglu on CUDA".into()))
}

/// See [`Op`].
pub fn backward(_c: &mut CudaBackend, _gate_up: Tensor, _dout: Tensor, _dgate_up: Tensor) -> Result<()> {
    Err(Error::Unsupported("swiglu on CUDA".into()))
}
