//! Attention over packed sequences and over pages.

use super::*;

/// Attention shape of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads K; H is a multiple of K, query head h reads key/value head `h / (H / K)`.
    pub kv_heads: usize,
    /// Head size D.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(D)`.
    pub scale: f32,
    /// With a window w, position p sees positions `p - w + 1 ..= p`; `None` sees all before it.
    pub window: Option<usize>,
}

impl Heads {
    /// Width of the queries, `H * D`.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }
    /// Width of the keys (or values), `K * D`.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
    /// Width of a `q | k | v` row.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
}

/// Causal attention over packed sequences that start at position 0: `out = softmax(scale q kᵀ) v`,
/// tiles aligned to absolute position 0, merged in ascending order. Gives the bits of
/// [`AttentionPaged`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionPacked {
    /// `[R, (H + 2 K) D]`, after rope.
    pub qkv: Tensor,
    /// Head shape.
    pub heads: Heads,
    /// `[R, H D]`.
    pub out: Tensor,
}

impl AttentionPacked {
    /// Checks the operands; gives the number of rows.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<usize> {
        check_heads(Self::NAME, c, &self.heads)?;
        check_from_zero(Self::NAME, c.step())?;
        check_rows(Self::NAME, c, self.qkv, self.out, &self.heads)
    }
}

/// Attention of each row over its sequence's pages, positions `0 ..= positions[r]`; the step's own
/// K and V are already there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionPaged {
    /// `[R, (H + 2 K) D]`; only q is read.
    pub qkv: Tensor,
    /// The pages.
    pub kv: KvPool,
    /// Decoder layer.
    pub layer: u32,
    /// Head shape.
    pub heads: Heads,
    /// `[R, H D]`.
    pub out: Tensor,
}

impl AttentionPaged {
    /// Checks the operands; gives the number of rows and the shape of the pool.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<(usize, KvSpec)> {
        check_heads(Self::NAME, c, &self.heads)?;
        let rows = check_rows(Self::NAME, c, self.qkv, self.out, &self.heads)?;
        Ok((rows, check_pages(Self::NAME, c, self.kv, self.layer, &self.heads)?))
    }
}

/// Most query heads.
pub(crate) const MOST_HEADS: usize = 1024;

/// Checks a head shape against what backends can do.
pub(super) fn check_heads<S: Shapes>(op: &str, _: &S, heads: &Heads) -> Result<()> {
    let Heads { heads: h, kv_heads: k, head_dim: d, window, .. } = *heads;
    let beyond = S::MOST_HEAD_DIM.is_some_and(|most| d > most);
    let shared = k > 0 && h > 0 && h.is_multiple_of(k) && h <= MOST_HEADS;
    if !shared || d == 0 || !d.is_multiple_of(8) || beyond || window == Some(0) {
        let most = S::MOST_HEAD_DIM.map_or(String::new(), |most| format!(" and at most {most}"));
        return Err(Error::Unsupported(format!(
            "{op}: {h} heads over {k} key/value heads of size {d} with window {window:?}: heads must be a multiple \
             of key/value heads and at most {MOST_HEADS}, the head size a multiple of 8{most}, the window positive"
        )));
    }
    Ok(())
}

/// Checks that all sequences start at position 0.
pub(super) fn check_from_zero(op: &str, plan: &BatchPlan) -> Result<()> {
    match plan.sequences.iter().find(|s| s.first_position != 0) {
        Some(s) => Err(Error::Internal(format!("{op}: {s:?} does not start at position 0"))),
        None => Ok(()),
    }
}

/// Checks the operands of every attention.
fn check_rows(op: &str, c: &impl Shapes, qkv: Tensor, out: Tensor, heads: &Heads) -> Result<usize> {
    let rows = c.step().rows();
    apart(op, out, &[qkv])?;
    c.check_activations(op, rows, [(qkv, heads.qkv_width()), (out, heads.q_width())])?;
    Ok(rows)
}
