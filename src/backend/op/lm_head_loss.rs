//! The loss over the vocabulary and its gradient.

use super::*;

/// For each of the L rows with its [`Label`](crate::backend::Label): `nll = lse(z) - z[label]` with
/// `z = hidden Wᵀ`, natural log. Logits exist only in `workspace`, C rows at a time. With
/// `dhidden`: `dhidden = coefficient * (softmax(z) - onehot(label)) W`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LmHeadLoss {
    /// `[L, d]`, after the final norm.
    pub hidden: Tensor,
    /// `[V, d]`; loaded with `backward: true` if `dhidden` is asked for.
    pub lm_head: Linear,
    /// f32 `[C, V]`.
    pub workspace: Tensor,
    /// f32 `[L, 2]`: nll, and 1 or 0 for `argmax == label` (ties: the lower id).
    pub out: Tensor,
    /// `[L, d]`, overwritten. May be `hidden`.
    pub dhidden: Option<Tensor>,
}
