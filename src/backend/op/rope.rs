//! Rotary position embedding, the write of K and V, and the backward.

use super::*;

/// Rotary position embedding (Su et al. 2021, the half-split form of Hugging Face's Llama) on the q
/// and k parts of `qkv` in place: `(a, b) -> (a cos - b sin, b cos + a sin)` for the pairs `(i, i +
/// half)` of each head, half that of the table (D/2, or less for a partial rotation, which leaves
/// the rest of the head alone), by the row of the table that the plan says
/// ([`BatchPlan::rope_rows`](crate::backend::BatchPlan::rope_rows)); with `kv`, K and V are then
/// written to the row's page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// `[R, (H + 2 K) D]`, q | k | v.
    pub qkv: Tensor,
    /// cos and sin.
    pub table: RopeTable,
    /// Head shape.
    pub heads: Heads,
    /// Where to write K and V: pool and layer.
    pub kv: Option<(KvPool, u32)>,
}

impl Rope {
    /// Checks the operands.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<()> {
        check_rotation(Self::NAME, c, self.qkv, self.table, &self.heads)?;
        match self.kv {
            Some((kv, layer)) => check_pages(Self::NAME, c, kv, layer, &self.heads).map(drop),
            None => Ok(()),
        }
    }
}

/// The inverse rotation of the gradients of q and k, in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeBackward {
    /// `[R, (H + 2 K) D]`.
    pub dqkv: Tensor,
    /// As in the forward.
    pub table: RopeTable,
    /// As in the forward.
    pub heads: Heads,
}

impl RopeBackward {
    /// Checks the operands.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<()> {
        check_rotation(Self::NAME, c, self.dqkv, self.table, &self.heads)
    }
}

/// Checks what is rotated and the table.
fn check_rotation(op: &str, c: &impl Shapes, qkv: Tensor, table: RopeTable, heads: &Heads) -> Result<()> {
    let missing = || Error::Internal(format!("{op}: rotary table {} does not exist", table.0));
    let (positions, half) = c.rope_shape(table).ok_or_else(missing)?;
    if 2 * half > heads.head_dim {
        return Err(Error::Internal(format!(
            "{op}: a rotary table of half {half} for heads of {}",
            heads.head_dim
        )));
    }
    c.step().check_rope(op, positions, half)?;
    c.check_activations(op, c.step().rows(), [(qkv, heads.qkv_width())])
}
