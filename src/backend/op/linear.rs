//! The linear group, forward.

use super::*;

/// A linear group with LoRA: `h = x Aᵀ` (all parts of the row's slot side by side, padded ranks),
/// then `y = (residual) + s h Bᵀ + x Wᵀ + b`. For each output the sum starts from the LoRA k-steps
/// (0 for the base), then the base k-steps in ascending k, then bias, then residual. `y` may be
/// `residual`. A row of a slot whose B is zero, or of slot 0, equals the base model's row bit for
/// bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearForward {
    /// The packed weights W `[n, k]` and bias.
    pub linear: Linear,
    /// The LoRA parts; `None` for a linear that no adapter changes.
    pub group: Option<GroupId>,
    /// `[R, k]`.
    pub x: Tensor,
    /// `[R, k]`: what A reads instead of x ([`Dropout`]).
    pub lora_x: Option<Tensor>,
    /// f32 `[R, >= widest shrink]`: unscaled `h`, kept for the backward. Required where `group` is
    /// given.
    pub shrink: Option<Tensor>,
    /// `[R, n]`, added at the end.
    pub residual: Option<Tensor>,
    /// `[R, n]`.
    pub y: Tensor,
}

/// What a checked linear operation works on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearWork {
    /// Rows of the step.
    pub rows: usize,
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
    /// Columns of `h` of the step's widest slot; 0 where none changes the group.
    pub width: usize,
    /// Distance of the rows of `h`; 0 without a group.
    pub stride: usize,
}

impl LinearForward {
    /// Checks the operands.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<LinearWork> {
        let &Self { linear, group, x, lora_x, shrink, residual, y } = self;
        let mut work = LinearWork::new(Self::NAME, c, linear, group)?;
        let LinearWork { rows, inputs, outputs, .. } = work;
        c.check_activations(Self::NAME, rows, [(x, inputs), (lora_x.unwrap_or(x), inputs)])?;
        c.check_activations(Self::NAME, rows, [(y, outputs), (residual.unwrap_or(y), outputs)])?;
        distinct(Self::NAME, &[Some(x), lora_x, shrink, residual.filter(|&r| r != y), Some(y)])?;
        work.stride = work.check_shrink(Self::NAME, c, group, shrink)?;
        Ok(work)
    }
}

impl LinearWork {
    /// Checks that the linear exists and that the group has its shape.
    pub(super) fn new(op: &str, c: &impl Shapes, linear: Linear, group: Option<GroupId>) -> Result<Self> {
        let LinearShape { inputs, outputs, .. } = c.existing_linear(op, linear)?;
        let plan = c.step();
        let mut width = 0;
        if let Some(group) = group {
            let (layout, parts) = c.group_parts(group)?;
            if (layout.inputs, layout.outputs) != (inputs, outputs) {
                return Err(Error::Internal(format!(
                    "{op}: linear {} is [{outputs}, {inputs}], group {} is [{}, {}]",
                    linear.0, group.0, layout.outputs, layout.inputs
                )));
            }
            for slot in plan.adapted_slots() {
                width = width.max(c.shrink_width(slot, parts.clone())?);
            }
        }
        Ok(Self { rows: plan.rows(), inputs, outputs, width, stride: 0 })
    }

    /// Checks that `shrink` can hold `h` of all rows where there is a group, and gives the distance
    /// of its rows.
    pub(super) fn check_shrink<S: Shapes>(
        &self,
        op: &str,
        c: &S,
        group: Option<GroupId>,
        shrink: Option<Tensor>,
    ) -> Result<usize> {
        if group.is_none() {
            return Ok(0);
        }
        let missing = || Error::Internal(format!("{op}: a group needs shrink tensors"));
        let found = c.existing(shrink.ok_or_else(missing)?)?;
        let aligned = found.width.is_multiple_of(S::SHRINK_STEP);
        if found.rows < self.rows || found.width < self.width || !aligned || found.element != Element::F32 {
            let step = match S::SHRINK_STEP {
                1 => String::new(),
                step => format!(" and a multiple of {step}"),
            };
            return Err(Error::Internal(format!(
                "{op}: tensor {} is {:?} [{}, {}], expected F32 [>= {}, >= {}{step}]",
                found.name, found.element, found.rows, found.width, self.rows, self.width
            )));
        }
        Ok(found.width)
    }
}

/// Checks that no tensor is given twice.
pub(super) fn distinct(op: &str, tensors: &[Option<Tensor>]) -> Result<()> {
    for (i, a) in tensors.iter().enumerate() {
        if let (Some(a), true) = (a, tensors[..i].contains(a)) {
            return Err(Error::Internal(format!("{op}: tensor {} is given twice", a.0)));
        }
    }
    Ok(())
}
