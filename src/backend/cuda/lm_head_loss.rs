//! Not written yet.

use super::*;

/// See [`Op`].
pub fn run(
    _c: &mut CudaBackend,
    _hidden: Tensor,
    _lm_head: Linear,
    _workspace: Tensor,
    _out: Tensor,
    _dhidden: Option<Tensor>,
) -> Result<()> {
    Err(Error::Unsupported("lm_head_loss on CUDA".into()))
}
