//! The norm of query and key heads and its backward.

use super::*;

/// The weights of [`HeadNorm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNormWeights {
    /// Of every query head, `[D]`.
    pub q: Vector,
    /// Of every key head, `[D]`.
    pub k: Vector,
    /// Added to the mean square.
    pub eps: f32,
}

/// Root mean square norm of each query and key head by itself (Qwen3; Henry et al. 2020, arXiv
/// 2010.04245), in place: with the weight of the queries or of the keys, `x = x / sqrt(mean(x²) +
/// eps) * w` over the D numbers of a head. V is left alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNorm {
    /// `[R, (H + 2 K) D]`, q | k | v.
    pub qkv: Tensor,
    /// `[R, (H + K) D]`: q | k as they were, for the backward.
    pub raw: Option<Tensor>,
    /// Head shape.
    pub heads: Heads,
    /// The weights.
    pub norm: HeadNormWeights,
}

impl HeadNorm {
    /// Checks the operands; gives the number of rows.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<usize> {
        check_heads(Self::NAME, c, self.qkv, self.raw, &self.heads, &self.norm)
    }
}

/// The gradient of [`HeadNorm`] with frozen weights, in place: of what came out to of what went in,
/// by the formula of [`RmsNormBackward`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNormBackward {
    /// What the forward kept.
    pub raw: Tensor,
    /// `[R, (H + 2 K) D]`; that of v stays.
    pub dqkv: Tensor,
    /// As in the forward.
    pub heads: Heads,
    /// As in the forward.
    pub norm: HeadNormWeights,
}

impl HeadNormBackward {
    /// Checks the operands; gives the number of rows.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<usize> {
        check_heads(Self::NAME, c, self.dqkv, Some(self.raw), &self.heads, &self.norm)
    }
}

/// Checks what is normed in place, its copy and the weights of both directions.
fn check_heads(
    op: &str,
    c: &impl Shapes,
    qkv: Tensor,
    raw: Option<Tensor>,
    heads: &Heads,
    norm: &HeadNormWeights,
) -> Result<usize> {
    let rows = c.step().rows();
    if let Some(raw) = raw {
        apart(op, qkv, &[raw])?;
        c.check_activations(op, rows, [(raw, heads.q_width() + heads.kv_width())])?;
    }
    c.check_activations(op, rows, [(qkv, heads.qkv_width())])?;
    [norm.q, norm.k].into_iter().try_for_each(|w| c.check_weight(op, w, heads.head_dim, "heads"))?;
    Ok(rows)
}
