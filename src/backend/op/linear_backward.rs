//! The linear group, backward.

use super::*;

/// Backward of [`LinearForward`], base frozen: `dh = s dy B`, `dx = dy W + dh A` (LoRA k-steps
/// first), and, for each sequence by itself in row order, `dB_seq = s dyᵀ h`, `dA_seq = dhᵀ x`,
/// which are then added to the slot's gradient in the order of the sequences. The gradient of the
/// residual is `dy` itself and needs no operation. With `lora_x`, dA reads that instead of x, and
/// `dh A` is multiplied by the factors of [`Dropout`] before the base k-steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearBackward {
    /// As in the forward; loaded with `backward: true` if `dx` is asked for.
    pub linear: Linear,
    /// As in the forward.
    pub group: Option<GroupId>,
    /// The forward's input `[R, k]`.
    pub x: Tensor,
    /// As in the forward.
    pub lora_x: Option<Tensor>,
    /// The forward's `h`.
    pub shrink: Option<Tensor>,
    /// `[R, n]`.
    pub dy: Tensor,
    /// Workspace for `dh`, shaped as `shrink`.
    pub dshrink: Option<Tensor>,
    /// `[R, k]`, overwritten; `None` where nothing below needs it.
    pub dx: Option<Tensor>,
}

impl LinearBackward {
    /// Checks the operands.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<LinearWork> {
        let (op, plan) = (Self::NAME, c.step());
        let &Self { linear, group, x, lora_x, shrink, dy, dshrink, dx } = self;
        let mut work = LinearWork::new(op, c, linear, group)?;
        let LinearWork { rows, inputs, outputs, .. } = work;
        c.check_activations(op, rows, [(x, inputs), (lora_x.unwrap_or(x), inputs), (dy, outputs)])?;
        if let Some(dx) = dx {
            c.check_activations(op, rows, [(dx, inputs)])?;
            if !c.existing_linear(op, linear)?.backward {
                return Err(Error::Internal(format!(
                    "{op}: linear {} was loaded without `backward`",
                    linear.0
                )));
            }
        }
        distinct(op, &[Some(x), lora_x, shrink, Some(dy), dshrink, dx])?;
        if lora_x.is_some() {
            plan.check_dropout(op)?;
        }
        work.stride = work.check_shrink(op, c, group, shrink)?;
        let stride = work.check_shrink(op, c, group, dshrink)?;
        if work.stride != stride {
            return Err(Error::Internal(format!(
                "{op}: shrink tensors of widths {} and {stride}: expected the same",
                work.stride
            )));
        }
        if let Some(group) = group {
            let (_, parts) = c.group_parts(group)?;
            for slot in plan.adapted_slots() {
                if c.shrink_width(slot, parts.clone())? > 0 {
                    c.require_optimizer(slot)?;
                }
            }
        }
        Ok(work)
    }
}
