//! Token embedding, and the gather of the rows that get logits with its backward.

use super::*;

/// `out[r] = table[tokens[r]]`; `out [R, d]`. A token `DRAWN | i` stands for `drawn[i]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embed {
    /// `[V, d]`.
    pub table: Table,
    /// u32 `[draws, 1]`: what the sampling step before drew, if the plan refers to it
    /// ([`DRAWN`](crate::backend::DRAWN)).
    pub drawn: Option<Tensor>,
    /// `[R, d]`.
    pub out: Tensor,
}

/// `out[i] = x[logit_rows[i]]`; `x [R, d]`, `out [L, d]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatherRows {
    /// `[R, d]`.
    pub x: Tensor,
    /// `[L, d]`.
    pub out: Tensor,
}

/// Backward of [`GatherRows`]: `dx = 0`, then `dx[logit_rows[i]] = dy[i]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScatterRows {
    /// `[L, d]`.
    pub dy: Tensor,
    /// `[R, d]`, overwritten.
    pub dx: Tensor,
}
