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

impl SwiGlu {
    /// Checks the operands; gives rows and width of `out`.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<(usize, usize)> {
        let (op, rows, width) = (Self::NAME, c.step().rows(), c.existing(self.out)?.width);
        apart(op, self.out, &[self.gate_up])?;
        c.check_activations(op, rows, [(self.gate_up, 2 * width), (self.out, width)])?;
        Ok((rows, width))
    }
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

impl SwiGluBackward {
    /// Checks the operands; gives rows and width of `dout`.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<(usize, usize)> {
        let &Self { gate_up, dout, dgate_up } = self;
        let (op, rows, width) = (Self::NAME, c.step().rows(), c.existing(dout)?.width);
        apart(op, dgate_up, &[dout])?;
        c.check_activations(op, rows, [(gate_up, 2 * width), (dout, width), (dgate_up, 2 * width)])?;
        Ok((rows, width))
    }
}
