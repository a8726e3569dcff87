//! Not written yet.

use super::*;

/// See [`Op`].
pub fn run(
    _c: &mut CudaBackend,
    _hidden: Tensor,
    _lm_head: Linear,
    _workspace: Tensor,
    _tokens: Tensor,
    _logprobs: Tensor,
) -> Result<()> {
    Err(Error::Unsupported("lm_head_sample on CUDA".into()))
}
