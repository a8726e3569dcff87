//! The backward of attention over packed sequences.

use super::*;

/// Backward of [`AttentionPacked`] (Dao 2023, arXiv 2307.08691: recompute, no `[t, t]` matrix
/// kept), deterministic. For each key/value head the sum over its query heads and rows runs in
/// ascending order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionPackedBackward {
    /// As in the forward.
    pub qkv: Tensor,
    /// As in the forward.
    pub heads: Heads,
    /// The forward's output.
    pub out: Tensor,
    /// `[R, H D]`.
    pub dout: Tensor,
    /// `[R, (H + 2 K) D]`, overwritten.
    pub dqkv: Tensor,
}

impl AttentionPackedBackward {
    /// Checks the operands; gives the number of rows.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<usize> {
        let &Self { qkv, heads, out, dout, dqkv } = self;
        let (op, rows) = (Self::NAME, c.step().rows());
        check_heads(op, c, &heads)?;
        check_from_zero(op, c.step())?;
        apart(op, dqkv, &[qkv, out, dout])?;
        c.check_activations(op, rows, [(qkv, heads.qkv_width()), (dqkv, heads.qkv_width())])?;
        c.check_activations(op, rows, [(out, heads.q_width()), (dout, heads.q_width())])?;
        Ok(rows)
    }
}
