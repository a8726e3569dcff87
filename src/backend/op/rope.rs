//! Rotary position embedding, the write of K and V, and the backward.

use super::*;

/// Rotary position embedding (Su et al. 2021, the half-split form of Hugging Face's Llama) on the q
/// and k parts of `qkv` in place: `(a, b) -> (a cos - b sin, b cos + a sin)` for the pairs `(i, i +
/// half)` of each head, half that of the table (D/2, or less for a partial rotation, which leaves
/// the rest of the head alone), by the row of the table that the plan says
/// ([`BatchPlan::rope_rows`](crate::backend::BatchPlan::rope_rows)); with `kv`, K and V are then
/// written to the row's page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// `[R, (H + 2 K) D]`, q | k | v.
    pub qkv: Tensor,
    /// cos and sin.
    pub table: RopeTable,
    /// Head shape.
    pub heads: Heads,
    /// Where to write K and V: pool and layer.
    pub kv: Option<(KvPool, u32)>,
}

/// The inverse rotation of the gradients of q and k, in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeBackward {
    /// `[R, (H + 2 K) D]`.
    pub dqkv: Tensor,
    /// As in the forward.
    pub table: RopeTable,
    /// As in the forward.
    pub heads: Heads,
}
