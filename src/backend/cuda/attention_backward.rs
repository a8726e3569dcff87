//! Not written yet.

use super::*;

/// See [`Op`].
pub fn run(
    _c: &mut CudaBackend,
    _qkv: Tensor,
    _heads: Heads,
    _out: Tensor,
    _dout: Tensor,
    _dqkv: Tensor,
) -> Result<()> {
    Err(Error::Unsupported("attention_backward on CUDA".into()))
}
