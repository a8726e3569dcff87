//! [`Op::LinearBackward`]: the shrink of dy, then dx by the kernel of the forward pass with W read the other way, then the adapters' gradients.

use super::linear::{Adapters, Output, RowCount, check_shrink, distinct, resolve};
use super::*;

/// [`Op::LinearBackward`].
pub fn run(c: &mut CudaBackend, op: &LinearBackward) -> Result<()> {
    let &LinearBackward { linear, group, x, lora_x, shrink, dy, dshrink, dx } = op;
    const OP: &str = "linear_backward";
    let w = resolve(c, OP, linear, group)?;
    let rows = c.plan.host.rows();
    // What A has read in the forward; without dropout x itself.
    let a_x = lora_x.unwrap_or(x);
    let a_x_at = c.at(OP, a_x, rows, w.inputs, Element::Activation)?;
    if lora_x.is_some() {
        c.plan.check_dropout(OP)?;
    }
    let dy_at = c.at(OP, dy, rows, w.outputs, Element::Activation)?;
    let dx_at = dx.map(|dx| c.at(OP, dx, rows, w.inputs, Element::Activation)).transpose()?;
    distinct(OP, &[Some(x), lora_x, shrink, Some(dy), dshrink, dx])?;
    let mut adapters = None;
    if let Some(group) = group
        && let (Some((h, stride)), Some((dh, dh_stride))) =
            (check_shrink(c, OP, shrink, group)?, check_shrink(c, OP, dshrink, group)?)
    {
        if stride != dh_stride {
            return Err(Error::Internal(format!(
                "{OP}: shrink tensors of widths {stride} and {dh_stride}: expected the same"
            )));
        }
        let plan = c.plan.host.clone();
        for segment in plan.segments.iter().filter(|s| s.start < s.end) {
            if c.slots.shrink_width(segment.slot, group)? > 0 && !c.slots.has_optimizer(segment.slot)? {
                return Err(Error::Internal(format!("slot {} has no optimizer state", segment.slot.0)));
            }
        }
        shrink::backward(c, group, dy_at, dh, stride)?;
        adapters = Some((Adapters { group, h: dh, stride, dropout: lora_x.is_some() }, h));
    }
    if let Some(dx_at) = dx_at {
        let lora = adapters.map(|(a, _)| a);
        let y = Output::Bf16(dx_at);
        linear::launch(c, w, dy_at, w.outputs, RowCount::All, y, true, lora, DevicePtr::NULL)?;
    }
    if let Some((Adapters { group, h: dh, stride, .. }, h)) = adapters {
        lora_gradient::run(c, group, a_x_at, dy_at, h, dh, stride)?;
    }
    Ok(())
}
