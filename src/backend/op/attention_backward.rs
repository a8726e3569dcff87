//! The backward of attention over packed sequences.

use super::*;

/// Backward of [`AttentionPacked`] (Dao 2023, arXiv 2307.08691: recompute, no `[t, t]` matrix
/// kept), deterministic. For each key/value head the sum over its query heads and rows runs in
/// ascending order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionPackedBackward {
    /// As in the forward.
    pub qkv: Tensor,
    /// As in the forward.
    pub heads: Heads,
    /// The forward's output.
    pub out: Tensor,
    /// `[R, H D]`.
    pub dout: Tensor,
    /// `[R, (H + 2 K) D]`, overwritten.
    pub dqkv: Tensor,
}
