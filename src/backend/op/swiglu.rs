//! SwiGLU and its backward.

use super::*;

/// `out = silu(gate) * up` (Shazeer 2020); `gate_up [R, 2 f]` is gate | up, `out [R, f]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwiGlu {
    /// `[R, 2 f]`.
    pub gate_up: Tensor,
    /// `[R, f]`.
    pub out: Tensor,
}

/// Backward of [`SwiGlu`], recomputing from `gate_up`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwiGluBackward {
    /// `[R, 2 f]`.
    pub gate_up: Tensor,
    /// `[R, f]`.
    pub dout: Tensor,
    /// `[R, 2 f]`, overwritten. May be `gate_up`.
    pub dgate_up: Tensor,
}
