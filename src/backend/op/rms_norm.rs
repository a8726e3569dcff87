//! Root mean square norm and its backward.

use super::*;

/// Root mean square norm (Zhang & Sennrich 2019): `out = x / sqrt(mean(x²) + eps) * w`, over R
/// rows, or over the L gathered rows with `gathered`. `out` may not be `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// `[R or L, d]`.
    pub x: Tensor,
    /// `[d]`.
    pub weight: Vector,
    /// Added to the mean square.
    pub eps: f32,
    /// `[R or L, d]`.
    pub out: Tensor,
    /// The rows are the L gathered ones.
    pub gathered: bool,
}

/// `dx (+)= rstd * (w dy - x * rstd² * mean(w dy x))` with `rstd` recomputed from `x`; the weight
/// is frozen. `dx` may be `dy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNormBackward {
    /// The forward's input.
    pub x: Tensor,
    /// `[d]`.
    pub weight: Vector,
    /// As in the forward.
    pub eps: f32,
    /// `[R or L, d]`.
    pub dy: Tensor,
    /// `[R or L, d]`.
    pub dx: Tensor,
    /// Add to `dx` (the residual stream's gradient) instead of overwriting it.
    pub accumulate: bool,
    /// The rows are the L gathered ones.
    pub gathered: bool,
}
