//! The forward pass: sampling over pages, scoring and training over packed sequences. All are the same layers.

use super::activations::Dropped;
use super::{Activations, GroupKind, Model};
use crate::backend::*;
use crate::error::{Error, Result};

impl Model {
    /// Enqueues a sampling step: prefill and decode rows alike, over pages. Draws land in
    /// `acts.tokens` and `acts.logprobs`.
    pub fn forward_sample(&self, backend: &mut dyn Backend, acts: &Activations, kv: KvPool) -> Result<()> {
        backend.enqueue(Op::CopyPages(CopyPages { kv }))?;
        self.decoder(backend, acts, None, Some(kv))?;
        self.final_norm(backend, acts)?;
        backend.enqueue(Op::LmHeadSample(LmHeadSample {
            hidden: acts.hidden,
            lm_head: self.lm_head,
            workspace: acts.logits,
            tokens: acts.tokens,
            logprobs: acts.logprobs,
        }))
    }

    /// Enqueues a scoring step over packed sequences. Results land in `acts.losses`.
    pub fn forward_score(&self, backend: &mut dyn Backend, acts: &Activations) -> Result<()> {
        self.forward_loss(backend, acts, None, None)
    }

    /// Enqueues an encoding step over packed sequences. The plan's logit rows, after the final
    /// norm, land in `acts.hidden`.
    pub fn forward_embed(&self, backend: &mut dyn Backend, acts: &Activations) -> Result<()> {
        self.decoder(backend, acts, None, None)?;
        self.final_norm(backend, acts)
    }

    /// Enqueues a training micro-batch over packed sequences: losses land in `acts.losses`,
    /// gradients are added to the slots'. With `dropout` adapters read their inputs through the
    /// dropout of the plan.
    pub fn forward_backward(
        &self,
        backend: &mut dyn Backend,
        acts: &Activations,
        dropout: bool,
    ) -> Result<()> {
        let dropped = acts.dropped.filter(|_| dropout);
        if !self.training || !acts.mode.trains() {
            return Err(Error::Internal("training with a model or activations made for inference".into()));
        }
        if dropout && dropped.is_none() {
            return Err(Error::Internal("dropout with activations made for training without".into()));
        }
        self.forward_loss(backend, acts, dropped, Some(acts.hidden))?;
        self.backward(backend, acts, dropped)
    }

    /// Packed forward and the loss of the labels.
    fn forward_loss(
        &self,
        backend: &mut dyn Backend,
        acts: &Activations,
        dropped: Option<Dropped>,
        dhidden: Option<Tensor>,
    ) -> Result<()> {
        self.decoder(backend, acts, dropped, None)?;
        self.final_norm(backend, acts)?;
        backend.enqueue(Op::LmHeadLoss(LmHeadLoss {
            hidden: acts.hidden,
            lm_head: self.lm_head,
            workspace: acts.logits,
            out: acts.losses,
            dhidden,
        }))
    }

    /// Embedding and all layers; the residual stream ends in `acts.x`.
    fn decoder(
        &self,
        backend: &mut dyn Backend,
        acts: &Activations,
        dropped: Option<Dropped>,
        kv: Option<KvPool>,
    ) -> Result<()> {
        // Only a sampling step has tokens that the one before drew.
        let drawn = kv.map(|_| acts.tokens);
        backend.enqueue(Op::Embed(Embed { table: self.embedding, drawn, out: acts.layers[0].x_in }))?; // [R, d]
        for i in 0..self.layers.len() {
            self.layer(backend, acts, i, dropped, kv)?;
        }
        Ok(())
    }

    fn layer(
        &self,
        backend: &mut dyn Backend,
        acts: &Activations,
        i: usize,
        dropped: Option<Dropped>,
        kv: Option<KvPool>,
    ) -> Result<()> {
        use GroupKind::{Down, GateUp, O, Qkv};
        let (layer, a) = (&self.layers[i], &acts.layers[i]);
        let x_out = acts.layers.get(i + 1).map_or(acts.x, |next| next.x_in);
        let heads = layer.heads;
        let normed = (acts.normed, dropped.map(|d| d.normed));
        let attention = (a.attention, dropped.map(|d| d.attention));
        let act = (acts.act, dropped.map(|d| d.act));

        // Attention: x_mid = x_in + o(attention(rope(qkv(norm(x_in))))), q and k normed before rope in some families
        self.norm(backend, a.x_in, layer.input_norm, acts.normed)?; // [R, d]
        linear(backend, layer.qkv, Qkv.of(i), normed, a.shrink[Qkv as usize], None, a.qkv)?; // [R, (H + 2 K) D]
        if let Some(norm) = layer.qk_norm {
            backend.enqueue(Op::HeadNorm(HeadNorm { qkv: a.qkv, raw: a.raw, heads, norm }))?;
        }
        let pages = kv.map(|kv| (kv, i as u32));
        backend.enqueue(Op::Rope(Rope { qkv: a.qkv, table: self.rope, heads, kv: pages }))?;
        backend.enqueue(match kv {
            Some(kv) => Op::AttentionPaged(AttentionPaged {
                qkv: a.qkv,
                kv,
                layer: i as u32,
                heads,
                out: a.attention,
            }),
            None => Op::AttentionPacked(AttentionPacked { qkv: a.qkv, heads, out: a.attention }),
        })?; // [R, H D]
        linear(backend, layer.o, O.of(i), attention, a.shrink[O as usize], Some(a.x_in), a.x_mid)?; // [R, d]

        // MLP: x_out = x_mid + down(swiglu(gate_up(norm(x_mid))))
        self.norm(backend, a.x_mid, layer.post_norm, acts.normed)?; // [R, d]
        linear(backend, layer.gate_up, GateUp.of(i), normed, a.shrink[GateUp as usize], None, a.gate_up)?; // [R, 2 f]
        backend.enqueue(Op::SwiGlu(SwiGlu { gate_up: a.gate_up, out: acts.act }))?; // [R, f]
        linear(backend, layer.down, Down.of(i), act, a.shrink[Down as usize], Some(a.x_mid), x_out) // [R, d]
    }

    /// The rows that get logits, through the final norm.
    fn final_norm(&self, backend: &mut dyn Backend, acts: &Activations) -> Result<()> {
        backend.enqueue(Op::GatherRows(GatherRows { x: acts.x, out: acts.gathered }))?; // [L, d]
        backend.enqueue(Op::RmsNorm(RmsNorm {
            x: acts.gathered,
            weight: self.norm,
            eps: self.config.rms_norm_eps,
            out: acts.hidden,
            gathered: true,
        })) // [L, d]
    }

    /// `out = norm(x)` over all rows.
    pub(super) fn norm(
        &self,
        backend: &mut dyn Backend,
        x: Tensor,
        weight: Vector,
        out: Tensor,
    ) -> Result<()> {
        backend.enqueue(Op::RmsNorm(RmsNorm {
            x,
            weight,
            eps: self.config.rms_norm_eps,
            out,
            gathered: false,
        }))
    }
}

/// A linear group; what adapters read of x goes through dropout first where there is a tensor for it.
fn linear(
    backend: &mut dyn Backend,
    linear: Linear,
    group: GroupId,
    (x, lora_x): (Tensor, Option<Tensor>),
    shrink: Tensor,
    residual: Option<Tensor>,
    y: Tensor,
) -> Result<()> {
    drop_out(backend, group, x, lora_x)?;
    let (group, shrink) = (Some(group), Some(shrink));
    backend.enqueue(Op::LinearForward(LinearForward { linear, group, x, lora_x, shrink, residual, y }))
}

/// What the adapters of a group read of x, if there is a tensor for it.
pub(super) fn drop_out(
    backend: &mut dyn Backend,
    group: GroupId,
    x: Tensor,
    lora_x: Option<Tensor>,
) -> Result<()> {
    lora_x.map_or(Ok(()), |out| backend.enqueue(Op::Dropout(Dropout { x, group, out })))
}
