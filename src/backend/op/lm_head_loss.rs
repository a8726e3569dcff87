//! The loss over the vocabulary and its gradient.

use super::*;

/// For each of the L rows with its [`Label`](crate::backend::Label): `nll = lse(z) - z[label]` with
/// `z = hidden Wᵀ`, natural log. Logits exist only in `workspace`, C rows at a time. With
/// `dhidden`: `dhidden = coefficient * (softmax(z) - onehot(label)) W`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LmHeadLoss {
    /// `[L, d]`, after the final norm.
    pub hidden: Tensor,
    /// `[V, d]`; loaded with `backward: true` if `dhidden` is asked for.
    pub lm_head: Linear,
    /// f32 `[C, V]`.
    pub workspace: Tensor,
    /// f32 `[L, 2]`: nll, and 1 or 0 for `argmax == label` (ties: the lower id).
    pub out: Tensor,
    /// `[L, d]`, overwritten. May be `hidden`.
    pub dhidden: Option<Tensor>,
}

impl LmHeadLoss {
    /// Checks the operands.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<LmHeadWork> {
        let (op, plan) = (Self::NAME, c.step());
        let &Self { hidden, lm_head, workspace, out, dhidden } = self;
        let work = LmHeadWork::new(op, c, hidden, lm_head, workspace)?;
        let count = plan.logit_rows.len();
        if plan.labels.len() != count {
            return Err(Error::Internal(format!("{op}: {} labels for {count} rows", plan.labels.len())));
        }
        if let Some(label) = plan.labels.iter().find(|l| l.token as usize >= work.vocabulary) {
            let LmHeadWork { vocabulary, .. } = work;
            return Err(Error::Internal(format!(
                "{op}: label {} of a vocabulary of {vocabulary}",
                label.token
            )));
        }
        c.check(op, out, count, 2, Element::F32)?;
        if out == workspace || dhidden.is_some_and(|t| t == workspace || t == out) {
            return Err(Error::Internal(format!("{op}: operands share a tensor")));
        }
        if let Some(dhidden) = dhidden {
            c.check_activations(op, count, [(dhidden, work.width)])?;
            if !c.existing_linear(op, lm_head)?.backward {
                return Err(Error::Internal(format!("{op}: the lm_head was loaded without `backward`")));
            }
        }
        Ok(work)
    }
}

/// What a checked operation of the lm_head works on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LmHeadWork {
    /// Width of the hidden state.
    pub width: usize,
    /// Tokens.
    pub vocabulary: usize,
    /// Rows of logits that there is room for.
    pub capacity: usize,
}

impl LmHeadWork {
    /// Checks the operands that the loss and the sampler share.
    pub(super) fn new(
        op: &str,
        c: &impl Shapes,
        hidden: Tensor,
        lm_head: Linear,
        workspace: Tensor,
    ) -> Result<Self> {
        let LinearShape { inputs: width, outputs: vocabulary, .. } = c.existing_linear(op, lm_head)?;
        c.check_activations(op, c.step().logit_rows.len(), [(hidden, width)])?;
        c.check(op, workspace, 1, vocabulary, Element::F32)?;
        Ok(Self { width, vocabulary, capacity: c.existing(workspace)?.rows })
    }
}
