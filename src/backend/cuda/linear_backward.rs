//! [`Op::LinearBackward`]: the shrink of dy, then dx by the kernel of the forward pass with W read the other
//! way, then the adapters' gradients.

use super::linear::{Adapters, Output, Product, check_parts};
use super::*;

/// [`Op::LinearBackward`].
pub fn run(c: &mut CudaBackend, op: &LinearBackward) -> Result<()> {
    let LinearWork { width, stride, .. } = op.check(c)?;
    let dy = c.at(op.dy)?;
    let mut lora = None;
    if let (Some(group), Some(h), Some(dh)) = (op.group, op.shrink, op.dshrink) {
        check_parts(c, group)?;
        if width > 0 {
            let (h, dh) = (c.at(h)?, c.at(dh)?);
            shrink::backward(c, group, dy, dh, stride)?;
            lora = Some((Adapters { group, h: dh, stride, dropout: op.lora_x.is_some() }, h));
        }
    }
    if let Some(dx) = op.dx {
        let w = (&c.linears[op.linear.0 as usize]).into();
        let product = Product::transposed(w, dy, Output::Bf16(c.at(dx)?));
        Product { adapters: lora.map(|(a, _)| a), ..product }.enqueue(c)?;
    }
    if let Some((Adapters { group, h: dh, stride, .. }, h)) = lora {
        // What A has read in the forward; without dropout x itself.
        let a_x = c.at(op.lora_x.unwrap_or(op.x))?;
        lora_gradient::run(c, group, a_x, dy, h, dh, stride)?;
    }
    Ok(())
}
