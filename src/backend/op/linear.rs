//! The linear group, forward.

use super::*;

/// A linear group with LoRA: `h = x Aᵀ` (all parts of the row's slot side by side, padded ranks),
/// then `y = (residual) + s h Bᵀ + x Wᵀ + b`. For each output the sum starts from the LoRA k-steps
/// (0 for the base), then the base k-steps in ascending k, then bias, then residual. `y` may be
/// `residual`. A row of a slot whose B is zero, or of slot 0, equals the base model's row bit for
/// bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearForward {
    /// The packed weights W `[n, k]` and bias.
    pub linear: Linear,
    /// The LoRA parts; `None` for a linear that no adapter changes.
    pub group: Option<GroupId>,
    /// `[R, k]`.
    pub x: Tensor,
    /// `[R, k]`: what A reads instead of x ([`Dropout`]).
    pub lora_x: Option<Tensor>,
    /// f32 `[R, >= widest shrink]`: unscaled `h`, kept for the backward. Required where `group` is
    /// given.
    pub shrink: Option<Tensor>,
    /// `[R, n]`, added at the end.
    pub residual: Option<Tensor>,
    /// `[R, n]`.
    pub y: Tensor,
}
