//! Drawing tokens.

use super::*;

/// Draws the plan's `draws`. With z the logits of a member and T the temperature: `q = Σ weight
/// softmax(z / T)`; of the tokens that survive top-k, then top-p (the mass renormalised over
/// top-k's survivors) and then min-p (`q >= min_p * max q`), the one with the largest `ln q + g`,
/// `g = -ln(-ln u)` with `u` of [`uniform`](crate::backend::uniform) (Gumbel-max: an exact draw,
/// whatever the order); ties go to the lower id. T = 0: the largest `q` at T = 1. The
/// log-probability is that of the unmodified mixture: `ln Σ weight softmax(z)`, with the
/// log-sum-exp of [`LmHeadLoss`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LmHeadSample {
    /// `[L, d]`, after the final norm.
    pub hidden: Tensor,
    /// `[V, d]`.
    pub lm_head: Linear,
    /// f32 `[C, V]`, C at least the members of the largest group.
    pub workspace: Tensor,
    /// u32 `[draws, 1]`.
    pub tokens: Tensor,
    /// f32 `[draws, 1]`.
    pub logprobs: Tensor,
}

impl LmHeadSample {
    /// Checks the operands.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<LmHeadWork> {
        let (op, plan) = (Self::NAME, c.step());
        let &Self { hidden, lm_head, workspace, tokens, logprobs } = self;
        let work = LmHeadWork::new(op, c, hidden, lm_head, workspace)?;
        plan.check_draws(op, work.capacity)?;
        c.check(op, tokens, plan.draws.len(), 1, Element::U32)?;
        c.check(op, logprobs, plan.draws.len(), 1, Element::F32)?;
        if workspace == logprobs {
            return Err(Error::Internal(format!("{op}: operands share a tensor")));
        }
        Ok(work)
    }
}
