//! Not written yet.

use super::*;

/// See [`Op`].
pub fn norms(_c: &mut CudaBackend, _slots: &[Slot], _out: Tensor) -> Result<()> {
    Err(Error::Unsupported("adamw on CUDA".into()))
}

/// See [`Op`].
pub fn step(_c: &mut CudaBackend, _steps: &[AdamWStep], _norms: Tensor) -> Result<()> {
    Err(Error::Unsupported("adamw on CUDA".into()))
}

/// See [`Op`].
pub fn zero_grad(_c: &mut CudaBackend, _slots: &[Slot]) -> Result<()> {
    Err(Error::Unsupported("adamw on CUDA".into()))
}
