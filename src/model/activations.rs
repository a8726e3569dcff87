//! The buffers of a step, planned before they are taken.

use super::{GROUPS_PER_LAYER, Model, ModelConfig};
use crate::backend::{Backend, Element, RANK_STEP, Tensor, TensorSpec};
use crate::error::Result;

/// What the buffers are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Sampling and scoring: all layers share one set.
    Inference,
    /// Training: every layer keeps what its backward reads.
    Training,
    /// Training in which adapters have dropout: what they read is not what the base reads.
    TrainingWithDropout,
}

impl Mode {
    /// Whether a backward follows the forward.
    pub fn trains(self) -> bool {
        self != Mode::Inference
    }
}

/// The buffers of a step of at most `rows` rows (R), `logit_rows` of which (L) get logits, C rows of them at a time.
#[derive(Clone, Debug)]
pub struct Activations {
    pub(super) mode: Mode,
    pub(super) layers: Vec<LayerActivations>,
    /// `[R, d]`: the residual stream after the last layer.
    pub(super) x: Tensor,
    /// `[R, d]`: input of qkv and of gate_up, recomputed in the backward.
    pub(super) normed: Tensor,
    /// `[R, f]`: input of down, recomputed in the backward.
    pub(super) act: Tensor,
    /// `[L, d]`: rows of `x` that get logits.
    pub(super) gathered: Tensor,
    /// `[L, d]`: those after the final norm, then their gradient.
    pub hidden: Tensor,
    /// f32 `[C, V]`.
    pub(super) logits: Tensor,
    /// f32 `[L, 2]`: negative log-likelihood, and whether the label was the most likely token, of each logit row.
    pub losses: Tensor,
    /// u32 `[L, 1]`: the drawn tokens, in the order of the plan's draws.
    pub tokens: Tensor,
    /// f32 `[L, 1]`: their log-probabilities.
    pub logprobs: Tensor,
    pub(super) gradients: Option<Gradients>,
    pub(super) dropped: Option<Dropped>,
    all: Vec<Tensor>,
}

/// What a layer computes. In inference all layers name the same tensors, and the residual stream is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerActivations {
    /// `[R, d]`: the residual stream before the layer.
    pub x_in: Tensor,
    /// `[R, (H + 2 K) D]`, after rope.
    pub qkv: Tensor,
    /// `[R, (H + K) D]`: q and k before their norm, where they have one and training needs it.
    pub raw: Option<Tensor>,
    /// `[R, H D]`.
    pub attention: Tensor,
    /// `[R, d]`: the residual stream between attention and MLP.
    pub x_mid: Tensor,
    /// `[R, 2 f]`; in the backward, its gradient.
    pub gate_up: Tensor,
    /// f32 `[R, widest shrink]` of each linear group.
    pub shrink: [Tensor; GROUPS_PER_LAYER],
}

/// Gradients, shared by all layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gradients {
    /// `[R, d]`: of the residual stream.
    pub dx: Tensor,
    /// `[R, d]`: of `normed`.
    pub dnormed: Tensor,
    /// `[R, (H + 2 K) D]`.
    pub dqkv: Tensor,
    /// `[R, H D]`.
    pub dattention: Tensor,
    /// `[R, f]`.
    pub dact: Tensor,
    /// f32 `[R, widest shrink]`.
    pub dshrink: Tensor,
}

/// The inputs of linear groups after dropout, shared by all layers: made again in the backward.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropped {
    /// `[R, d]`: input of qkv and of gate_up.
    pub normed: Tensor,
    /// `[R, H D]`: input of o.
    pub attention: Tensor,
    /// `[R, f]`: input of down.
    pub act: Tensor,
}

impl Activations {
    /// Allocates the buffers. `max_shrink_width` is the widest shrink of any group of any slot that may take part.
    pub fn new(
        backend: &mut dyn Backend,
        model: &Model,
        rows: usize,
        logit_rows: usize,
        lm_head_chunk: usize,
        max_shrink_width: usize,
        mode: Mode,
    ) -> Result<Self> {
        let sizes = Sizes { rows, logit_rows, lm_head_chunk, max_shrink_width };
        let mut all = Vec::new();
        let built = build(model.config(), sizes, mode, &mut |spec| {
            let tensor = backend.tensor(spec)?;
            all.push(tensor);
            Ok(tensor)
        });
        match built {
            Ok(activations) => Ok(Self { all, ..activations }),
            Err(e) => {
                all.into_iter().for_each(|t| backend.free(t));
                Err(e)
            }
        }
    }

    /// Bytes that [`Activations::new`] will take on a backend whose activations have
    /// `activation_bytes` bytes an element (4 on the CPU).
    pub fn bytes(
        config: &ModelConfig,
        rows: usize,
        logit_rows: usize,
        lm_head_chunk: usize,
        max_shrink_width: usize,
        mode: Mode,
        activation_bytes: usize,
    ) -> usize {
        let mut bytes = 0;
        let sizes = Sizes { rows, logit_rows, lm_head_chunk, max_shrink_width };
        build(config, sizes, mode, &mut |spec| {
            let element = if spec.element == Element::Activation { activation_bytes } else { 4 };
            bytes += spec.rows * spec.width * element;
            Ok(Tensor(0))
        })
        .expect("counting does not fail");
        bytes
    }

    /// Gives the buffers back.
    pub fn free(self, backend: &mut dyn Backend) {
        self.all.into_iter().for_each(|t| backend.free(t));
    }

    /// What they are for.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    logit_rows: usize,
    lm_head_chunk: usize,
    max_shrink_width: usize,
}

/// Names every buffer once, so that planning and allocation cannot differ.
fn build(
    config: &ModelConfig,
    sizes: Sizes,
    mode: Mode,
    allocate: &mut dyn FnMut(TensorSpec) -> Result<Tensor>,
) -> Result<Activations> {
    let heads = config.heads();
    let (d, f, v) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let (q, qkv) = (heads.q_width(), heads.qkv_width());
    let rows = sizes.rows.max(1);
    let logit_rows = sizes.logit_rows.max(1);
    let chunk = sizes.lm_head_chunk.max(1);
    let shrink = sizes.max_shrink_width.max(RANK_STEP);
    let mut tensor = |name, rows, width, element| allocate(TensorSpec { name, rows, width, element });
    use Element::{Activation, F32, U32};

    let mut layer = || -> Result<LayerActivations> {
        let x_in = tensor("layer.x_in", rows, d, Activation)?;
        let x_mid = match mode {
            Mode::Inference => x_in,
            _ => tensor("layer.x_mid", rows, d, Activation)?,
        };
        let first_shrink = tensor("layer.shrink", rows, shrink, F32)?;
        let mut shrinks = [first_shrink; GROUPS_PER_LAYER];
        if mode.trains() {
            for s in &mut shrinks[1..] {
                *s = tensor("layer.shrink", rows, shrink, F32)?;
            }
        }
        Ok(LayerActivations {
            x_in,
            qkv: tensor("layer.qkv", rows, qkv, Activation)?,
            raw: match mode {
                Mode::Training | Mode::TrainingWithDropout if config.qk_norm => {
                    Some(tensor("layer.raw", rows, q + heads.kv_width(), Activation)?)
                }
                _ => None,
            },
            attention: tensor("layer.attention", rows, q, Activation)?,
            x_mid,
            gate_up: tensor("layer.gate_up", rows, 2 * f, Activation)?,
            shrink: shrinks,
        })
    };
    let layers = match mode {
        Mode::Inference => vec![layer()?; config.num_layers],
        _ => (0..config.num_layers).map(|_| layer()).collect::<Result<_>>()?,
    };
    let x = match mode {
        Mode::Inference => layers[0].x_in,
        _ => tensor("x", rows, d, Activation)?,
    };
    let gradients = match mode {
        Mode::Inference => None,
        _ => Some(Gradients {
            dx: tensor("dx", rows, d, Activation)?,
            dnormed: tensor("dnormed", rows, d, Activation)?,
            dqkv: tensor("dqkv", rows, qkv, Activation)?,
            dattention: tensor("dattention", rows, q, Activation)?,
            dact: tensor("dact", rows, f, Activation)?,
            dshrink: tensor("dshrink", rows, shrink, F32)?,
        }),
    };
    let dropped = match mode {
        Mode::TrainingWithDropout => Some(Dropped {
            normed: tensor("dropped.normed", rows, d, Activation)?,
            attention: tensor("dropped.attention", rows, q, Activation)?,
            act: tensor("dropped.act", rows, f, Activation)?,
        }),
        _ => None,
    };
    Ok(Activations {
        mode,
        layers,
        x,
        normed: tensor("normed", rows, d, Activation)?,
        act: tensor("act", rows, f, Activation)?,
        gathered: tensor("gathered", logit_rows, d, Activation)?,
        hidden: tensor("hidden", logit_rows, d, Activation)?,
        logits: tensor("logits", chunk, v, F32)?,
        losses: tensor("losses", logit_rows, 2, F32)?,
        tokens: tensor("tokens", logit_rows, 1, U32)?,
        logprobs: tensor("logprobs", logit_rows, 1, F32)?,
        gradients,
        dropped,
        all: Vec::new(),
    })
}
