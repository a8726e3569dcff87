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

impl RmsNorm {
    /// Checks the operands; gives the shape of the rows.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<(usize, usize)> {
        let &Self { x, weight, out, gathered, .. } = self;
        check_rows(Self::NAME, c, [x, out], weight, gathered)
    }
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

impl RmsNormBackward {
    /// Checks the operands; gives the shape of the rows.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<(usize, usize)> {
        let &Self { x, weight, dy, dx, gathered, .. } = self;
        let (rows, width) = check_rows(Self::NAME, c, [x, dx], weight, gathered)?;
        c.check_activations(Self::NAME, rows, [(dy, width)])?;
        Ok((rows, width))
    }
}

/// Checks x, what is written, and the weight of both directions.
fn check_rows(
    op: &str,
    c: &impl Shapes,
    [x, out]: [Tensor; 2],
    weight: Vector,
    gathered: bool,
) -> Result<(usize, usize)> {
    apart(op, out, &[x])?;
    let (plan, width) = (c.step(), c.existing(out)?.width);
    let rows = if gathered { plan.logit_rows.len() } else { plan.rows() };
    c.check_weight(op, weight, width, "rows")?;
    c.check_activations(op, rows, [(x, width), (out, width)])?;
    Ok((rows, width))
}
