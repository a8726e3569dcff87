//! Attention over packed sequences and over pages.

use super::*;

/// Attention shape of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads K; H is a multiple of K, query head h reads key/value head `h / (H / K)`.
    pub kv_heads: usize,
    /// Head size D.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(D)`.
    pub scale: f32,
    /// With a window w, position p sees positions `p - w + 1 ..= p`; `None` sees all before it.
    pub window: Option<usize>,
}

impl Heads {
    /// Width of the queries, `H * D`.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }
    /// Width of the keys (or values), `K * D`.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
    /// Width of a `q | k | v` row.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
}

/// Causal attention over packed sequences that start at position 0: `out = softmax(scale q kᵀ) v`,
/// tiles aligned to absolute position 0, merged in ascending order. Gives the bits of
/// [`AttentionPaged`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionPacked {
    /// `[R, (H + 2 K) D]`, after rope.
    pub qkv: Tensor,
    /// Head shape.
    pub heads: Heads,
    /// `[R, H D]`.
    pub out: Tensor,
}

/// Attention of each row over its sequence's pages, positions `0 ..= positions[r]`; the step's own
/// K and V are already there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionPaged {
    /// `[R, (H + 2 K) D]`; only q is read.
    pub qkv: Tensor,
    /// The pages.
    pub kv: KvPool,
    /// Decoder layer.
    pub layer: u32,
    /// Head shape.
    pub heads: Heads,
    /// `[R, H D]`.
    pub out: Tensor,
}
