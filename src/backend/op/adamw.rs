//! Gradient norms, AdamW, and the zeroing of gradients.

use super::*;

/// One adapter's AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// The adapter; it must have optimizer state.
    pub slot: Slot,
    /// 1 for the first step since the moments were zeroed.
    pub step: u32,
    /// Step size.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Gradients are scaled by `min(1, max_grad_norm / (norm + 1e-6))` first; infinite for no clipping.
    pub max_grad_norm: f32,
}

/// Squared gradient norms are summed part by part in order (A before B), each by rows: `out[i] =
/// sqrt(Σ g²)` of `slots[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct GradNorms {
    /// The adapters.
    pub slots: Vec<Slot>,
    /// f32 `[slots, 1]`.
    pub out: Tensor,
}

impl GradNorms {
    /// Checks the operands.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<()> {
        c.check(Self::NAME, self.out, self.slots.len(), 1, Element::F32)?;
        self.slots.iter().try_for_each(|&slot| c.require_optimizer(slot))
    }
}

/// AdamW (Loshchilov & Hutter 2019, as in PyTorch) of all `steps` in one launch, clipped by the
/// norms of [`GradNorms`], then the gradient is zeroed: `w -= lr wd w; m = b1 m + (1 - b1) g; v =
/// b2 v + (1 - b2) g²; w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`. A slot whose norm
/// is not finite keeps its weights and moments.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// One step for each adapter.
    pub steps: Vec<AdamWStep>,
    /// f32 `[steps, 1]`: their gradient norms, in the same order.
    pub norms: Tensor,
}

impl AdamW {
    /// Checks the operands.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<()> {
        let op = Self::NAME;
        c.check(op, self.norms, self.steps.len(), 1, Element::F32)?;
        let mut seen: Vec<Slot> = self.steps.iter().map(|s| s.slot).collect();
        seen.sort_unstable();
        if let Some(pair) = seen.windows(2).find(|p| p[0] == p[1]) {
            return Err(Error::Internal(format!("{op}: slot {} steps twice", pair[0].0)));
        }
        for s in &self.steps {
            c.require_optimizer(s.slot)?;
            if s.step == 0 {
                return Err(Error::Internal(format!("{op}: step 0 of slot {}; the first is 1", s.slot.0)));
            }
        }
        Ok(())
    }
}

/// Zeroes the gradients of these slots.
#[derive(Clone, Debug, PartialEq)]
pub struct ZeroGrad {
    /// The adapters.
    pub slots: Vec<Slot>,
}

impl ZeroGrad {
    /// Checks the operands.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<()> {
        self.slots.iter().try_for_each(|&slot| c.require_optimizer(slot))
    }
}
