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

impl Dropout {
    /// Checks the operands; gives the shape of the rows.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<(usize, usize)> {
        let (op, rows, width) = (Self::NAME, c.step().rows(), c.existing(self.out)?.width);
        c.step().check_dropout(op)?;
        apart(op, self.out, &[self.x])?;
        c.check_activations(op, rows, [(self.x, width), (self.out, width)])?;
        Ok((rows, width))
    }
}
