//! Not written yet.

use super::*;

/// See [`Op`].
pub fn packed(_c: &mut CudaBackend, _qkv: Tensor, _heads: Heads, _out: Tensor) -> Result<()> {
    Err(Error::Unsupported("attention on CUDA".into()))
}

/// See [`Op`].
pub fn paged(
    _c: &mut CudaBackend,
    _qkv: Tensor,
    _kv: KvPool,
    _layer: u32,
    _heads: Heads,
    _out: Tensor,
) -> Result<()> {
    Err(Error::Unsupported("attention on CUDA".into()))
}

/// The tiles of packed sequences.
pub fn packed_tiles(_plan: &BatchPlan) -> Vec<plan::AttentionTile> {
    Vec::new()
}

/// The tiles over pages.
pub fn paged_tiles(_plan: &BatchPlan) -> Vec<plan::AttentionTile> {
    Vec::new()
}
