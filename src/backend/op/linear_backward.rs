//! The linear group, backward.

use super::*;

/// Backward of [`LinearForward`], base frozen: `dh = s dy B`, `dx = dy W + dh A` (LoRA k-steps
/// first), and, for each sequence by itself in row order, `dB_seq = s dyᵀ h`, `dA_seq = dhᵀ x`,
/// which are then added to the slot's gradient in the order of the sequences. The gradient of the
/// residual is `dy` itself and needs no operation. With `lora_x`, dA reads that instead of x, and
/// `dh A` is multiplied by the factors of [`Dropout`] before the base k-steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearBackward {
    /// As in the forward; loaded with `backward: true` if `dx` is asked for.
    pub linear: Linear,
    /// As in the forward.
    pub group: Option<GroupId>,
    /// The forward's input `[R, k]`.
    pub x: Tensor,
    /// As in the forward.
    pub lora_x: Option<Tensor>,
    /// The forward's `h`.
    pub shrink: Option<Tensor>,
    /// `[R, n]`.
    pub dy: Tensor,
    /// Workspace for `dh`, shaped as `shrink`.
    pub dshrink: Option<Tensor>,
    /// `[R, k]`, overwritten; `None` where nothing below needs it.
    pub dx: Option<Tensor>,
}
