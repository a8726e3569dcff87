//! The backward pass, base frozen: only the adapters' gradients and what flows to the layer below.
//!
//! Kept from the forward: the residual stream before and after attention, qkv after rope (and q and
//! k before their norm), the attention's output, gate_up, and each group's shrink. Norms, swiglu
//! and dropout are computed again.

use super::activations::{Dropped, Gradients};
use super::forward::drop_out;
use super::{Activations, GroupKind, Model};
use crate::backend::*;
use crate::error::{Error, Result};

impl Model {
    /// From the gradient of the final norm's output, in `acts.hidden`, down to the first layer.
    pub(super) fn backward(
        &self,
        backend: &mut dyn Backend,
        acts: &Activations,
        dropped: Option<Dropped>,
    ) -> Result<()> {
        let Some(g) = &acts.gradients else {
            return Err(Error::Internal("backward without buffers for gradients".into()));
        };
        backend.enqueue(Op::RmsNormBackward(RmsNormBackward {
            x: acts.gathered,
            weight: self.norm,
            eps: self.config.rms_norm_eps,
            dy: acts.hidden,
            dx: acts.hidden,
            accumulate: false,
            gathered: true,
        }))?; // [L, d]
        backend.enqueue(Op::ScatterRows(ScatterRows { dy: acts.hidden, dx: g.dx }))?; // [R, d]
        for i in (0..self.layers.len()).rev() {
            self.layer_backward(backend, acts, g, i, dropped)?;
        }
        Ok(())
    }

    /// `g.dx` is the gradient of the layer's output before, and of its input after.
    fn layer_backward(
        &self,
        backend: &mut dyn Backend,
        acts: &Activations,
        g: &Gradients,
        i: usize,
        dropped: Option<Dropped>,
    ) -> Result<()> {
        use GroupKind::{Down, GateUp, O, Qkv};
        let (layer, a) = (&self.layers[i], &acts.layers[i]);
        let heads = layer.heads;
        let shrink = |kind: GroupKind| (a.shrink[kind as usize], g.dshrink);
        let normed = (acts.normed, dropped.map(|d| d.normed));
        let attention = (a.attention, dropped.map(|d| d.attention));
        let act = (acts.act, dropped.map(|d| d.act));

        // MLP
        backend.enqueue(Op::SwiGlu(SwiGlu { gate_up: a.gate_up, out: acts.act }))?; // [R, f]
        linear(backend, layer.down, Down.of(i), act, shrink(Down), g.dx, Some(g.dact))?; // [R, f]
        backend.enqueue(Op::SwiGluBackward(SwiGluBackward {
            gate_up: a.gate_up,
            dout: g.dact,
            dgate_up: a.gate_up,
        }))?; // [R, 2 f]
        self.norm(backend, a.x_mid, layer.post_norm, acts.normed)?; // [R, d]
        linear(backend, layer.gate_up, GateUp.of(i), normed, shrink(GateUp), a.gate_up, Some(g.dnormed))?; // [R, d]
        self.norm_backward(backend, a.x_mid, layer.post_norm, g)?; // [R, d]

        // Attention
        linear(backend, layer.o, O.of(i), attention, shrink(O), g.dx, Some(g.dattention))?; // [R, H D]
        backend.enqueue(Op::AttentionPackedBackward(AttentionPackedBackward {
            qkv: a.qkv,
            heads,
            out: a.attention,
            dout: g.dattention,
            dqkv: g.dqkv,
        }))?; // [R, (H + 2 K) D]
        backend.enqueue(Op::RopeBackward(RopeBackward { dqkv: g.dqkv, table: self.rope, heads }))?;
        if let (Some(norm), Some(raw)) = (layer.qk_norm, a.raw) {
            backend.enqueue(Op::HeadNormBackward(HeadNormBackward { raw, dqkv: g.dqkv, heads, norm }))?;
        }
        self.norm(backend, a.x_in, layer.input_norm, acts.normed)?; // [R, d]
        if i == 0 {
            // Below lies the frozen embedding.
            return linear(backend, layer.qkv, Qkv.of(i), normed, shrink(Qkv), g.dqkv, None);
        }
        linear(backend, layer.qkv, Qkv.of(i), normed, shrink(Qkv), g.dqkv, Some(g.dnormed))?; // [R, d]
        self.norm_backward(backend, a.x_in, layer.input_norm, g) // [R, d]
    }

    /// Adds the norm's share to the gradient of the residual stream.
    fn norm_backward(
        &self,
        backend: &mut dyn Backend,
        x: Tensor,
        weight: Vector,
        g: &Gradients,
    ) -> Result<()> {
        let eps = self.config.rms_norm_eps;
        backend.enqueue(Op::RmsNormBackward(RmsNormBackward {
            x,
            weight,
            eps,
            dy: g.dnormed,
            dx: g.dx,
            accumulate: true,
            gathered: false,
        }))
    }
}

fn linear(
    backend: &mut dyn Backend,
    linear: Linear,
    group: GroupId,
    (x, lora_x): (Tensor, Option<Tensor>),
    (shrink, dshrink): (Tensor, Tensor),
    dy: Tensor,
    dx: Option<Tensor>,
) -> Result<()> {
    drop_out(backend, group, x, lora_x)?;
    let (group, shrink, dshrink) = (Some(group), Some(shrink), Some(dshrink));
    backend.enqueue(Op::LinearBackward(LinearBackward { linear, group, x, lora_x, shrink, dy, dshrink, dx }))
}
