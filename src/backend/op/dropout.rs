//! Dropout of what adapters read.

use super::*;

/// `out[r][i] = x[r][i] * factor` of the row's [`SequenceDropout`]: what the
/// adapters of a group read in training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// `[R, k]`.
    pub x: Tensor,
    /// The group that reads it: each has its own factors.
    pub group: GroupId,
    /// `[R, k]`. May not be `x`.
    pub out: Tensor,
}
