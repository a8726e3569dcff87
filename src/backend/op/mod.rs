//! The operation list. Each operation is as coarse as a fused kernel and carries its formula, shapes and source.
//!
//! Notation: R rows of the step's [`BatchPlan`](super::BatchPlan), S its segments, L its `logit_rows`, d the hidden width,
//! H query heads and K key/value heads of size D, V the vocabulary. All matrices are row-major.

use super::{GroupId, KvPool, Linear, RopeTable, Slot, Table, Tensor, Vector};

/// Attention shape of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads K; H is a multiple of K, query head h reads key/value head `h / (H / K)`.
    pub kv_heads: usize,
    /// Head size D.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(D)`.
    pub scale: f32,
    /// With a window w, position p sees positions `p - w + 1 ..= p`; `None` sees all before it.
    pub window: Option<usize>,
}

impl Heads {
    /// Width of the queries, `H * D`.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }
    /// Width of the keys (or values), `K * D`.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
    /// Width of a `q | k | v` row.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
}

/// The weights of [`Op::HeadNorm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNorm {
    /// Of every query head, `[D]`.
    pub q: Vector,
    /// Of every key head, `[D]`.
    pub k: Vector,
    /// Added to the mean square.
    pub eps: f32,
}

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

/// One enqueued operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `out[r] = table[tokens[r]]`; `out [R, d]`. A token `DRAWN | i` stands for `drawn[i]`.
    Embed {
        /// `[V, d]`.
        table: Table,
        /// u32 `[draws, 1]`: what the sampling step before drew, if the plan refers to it ([`DRAWN`](super::DRAWN)).
        drawn: Option<Tensor>,
        /// `[R, d]`.
        out: Tensor,
    },

    /// `out[i] = x[logit_rows[i]]`; `x [R, d]`, `out [L, d]`.
    GatherRows {
        /// `[R, d]`.
        x: Tensor,
        /// `[L, d]`.
        out: Tensor,
    },
    /// Backward of [`Op::GatherRows`]: `dx = 0`, then `dx[logit_rows[i]] = dy[i]`.
    ScatterRows {
        /// `[L, d]`.
        dy: Tensor,
        /// `[R, d]`, overwritten.
        dx: Tensor,
    },

    /// Root mean square norm (Zhang & Sennrich 2019): `out = x / sqrt(mean(x²) + eps) * w`, over R rows, or over the L
    /// gathered rows with `gathered`. `out` may not be `x`.
    RmsNorm {
        /// `[R or L, d]`.
        x: Tensor,
        /// `[d]`.
        weight: Vector,
        /// Added to the mean square.
        eps: f32,
        /// `[R or L, d]`.
        out: Tensor,
        /// The rows are the L gathered ones.
        gathered: bool,
    },
    /// `dx (+)= rstd * (w dy - x * rstd² * mean(w dy x))` with `rstd` recomputed from `x`; the weight is frozen.
    /// `dx` may be `dy`.
    RmsNormBackward {
        /// The forward's input.
        x: Tensor,
        /// `[d]`.
        weight: Vector,
        /// As in the forward.
        eps: f32,
        /// `[R or L, d]`.
        dy: Tensor,
        /// `[R or L, d]`.
        dx: Tensor,
        /// Add to `dx` (the residual stream's gradient) instead of overwriting it.
        accumulate: bool,
        /// The rows are the L gathered ones.
        gathered: bool,
    },

    /// `out[r][i] = x[r][i] * factor` of the row's [`Dropout`](super::Dropout): what the adapters of a group read in training.
    Dropout {
        /// `[R, k]`.
        x: Tensor,
        /// The group that reads it: each has its own factors.
        group: GroupId,
        /// `[R, k]`. May not be `x`.
        out: Tensor,
    },

    /// A linear group with LoRA: `h = x Aᵀ` (all parts of the row's slot side by side, padded ranks), then
    /// `y = (residual) + s h Bᵀ + x Wᵀ + b`. For each output the sum starts from the LoRA k-steps (0 for the base), then the
    /// base k-steps in ascending k, then bias, then residual. `y` may be `residual`. A row of a slot whose B is zero, or of slot 0, equals
    /// the base model's row bit for bit.
    LinearForward {
        /// The packed weights W `[n, k]` and bias.
        linear: Linear,
        /// The LoRA parts; `None` for a linear that no adapter changes.
        group: Option<GroupId>,
        /// `[R, k]`.
        x: Tensor,
        /// `[R, k]`: what A reads instead of x ([`Op::Dropout`]).
        lora_x: Option<Tensor>,
        /// f32 `[R, >= widest shrink]`: unscaled `h`, kept for the backward. Required where `group` is given.
        shrink: Option<Tensor>,
        /// `[R, n]`, added at the end.
        residual: Option<Tensor>,
        /// `[R, n]`.
        y: Tensor,
    },
    /// Backward of [`Op::LinearForward`], base frozen: `dh = s dy B`, `dx = dy W + dh A` (LoRA k-steps first), and, for each sequence
    /// by itself in row order, `dB_seq = s dyᵀ h`, `dA_seq = dhᵀ x`, which are then added to the slot's gradient in
    /// the order of the sequences. The gradient of the residual is `dy` itself and needs no operation. With `lora_x`, dA reads that instead of x,
    /// and `dh A` is multiplied by the factors of [`Op::Dropout`] before the base k-steps.
    LinearBackward {
        /// As in the forward; loaded with `backward: true` if `dx` is asked for.
        linear: Linear,
        /// As in the forward.
        group: Option<GroupId>,
        /// The forward's input `[R, k]`.
        x: Tensor,
        /// As in the forward.
        lora_x: Option<Tensor>,
        /// The forward's `h`.
        shrink: Option<Tensor>,
        /// `[R, n]`.
        dy: Tensor,
        /// Workspace for `dh`, shaped as `shrink`.
        dshrink: Option<Tensor>,
        /// `[R, k]`, overwritten; `None` where nothing below needs it.
        dx: Option<Tensor>,
    },

    /// Root mean square norm of each query and key head by itself (Qwen3; Henry et al. 2020, arXiv 2010.04245), in place: with the weight
    /// of the queries or of the keys, `x = x / sqrt(mean(x²) + eps) * w` over the D numbers of a head. V is left alone.
    HeadNorm {
        /// `[R, (H + 2 K) D]`, q | k | v.
        qkv: Tensor,
        /// `[R, (H + K) D]`: q | k as they were, for the backward.
        raw: Option<Tensor>,
        /// Head shape.
        heads: Heads,
        /// The weights.
        norm: HeadNorm,
    },
    /// The gradient of [`Op::HeadNorm`] with frozen weights, in place: of what came out to of what went in, by the formula of
    /// [`Op::RmsNormBackward`].
    HeadNormBackward {
        /// What the forward kept.
        raw: Tensor,
        /// `[R, (H + 2 K) D]`; that of v stays.
        dqkv: Tensor,
        /// As in the forward.
        heads: Heads,
        /// As in the forward.
        norm: HeadNorm,
    },

    /// Rotary position embedding (Su et al. 2021, the half-split form of Hugging Face's Llama) on the q and k parts of `qkv` in place:
    /// `(a, b) -> (a cos - b sin, b cos + a sin)` for the pairs `(i, i + half)` of each head, half that of the table (D/2, or less for a
    /// partial rotation, which leaves the rest of the head alone), by the row of the table that the plan says
    /// ([`BatchPlan::rope_rows`](super::BatchPlan::rope_rows)); with `kv`, K and V are then written to the row's page.
    Rope {
        /// `[R, (H + 2 K) D]`, q | k | v.
        qkv: Tensor,
        /// cos and sin.
        table: RopeTable,
        /// Head shape.
        heads: Heads,
        /// Where to write K and V: pool and layer.
        kv: Option<(KvPool, u32)>,
    },
    /// The inverse rotation of the gradients of q and k, in place.
    RopeBackward {
        /// `[R, (H + 2 K) D]`.
        dqkv: Tensor,
        /// As in the forward.
        table: RopeTable,
        /// As in the forward.
        heads: Heads,
    },

    /// Causal attention over packed sequences that start at position 0: `out = softmax(scale q kᵀ) v`, tiles aligned to absolute
    /// position 0, merged in ascending order. Gives the bits of [`Op::AttentionPaged`].
    AttentionPacked {
        /// `[R, (H + 2 K) D]`, after rope.
        qkv: Tensor,
        /// Head shape.
        heads: Heads,
        /// `[R, H D]`.
        out: Tensor,
    },
    /// Backward of [`Op::AttentionPacked`] (Dao 2023, arXiv 2307.08691: recompute, no `[t, t]` matrix kept), deterministic. For each key/value head the sum
    /// over its query heads and rows runs in ascending order.
    AttentionPackedBackward {
        /// As in the forward.
        qkv: Tensor,
        /// As in the forward.
        heads: Heads,
        /// The forward's output.
        out: Tensor,
        /// `[R, H D]`.
        dout: Tensor,
        /// `[R, (H + 2 K) D]`, overwritten.
        dqkv: Tensor,
    },
    /// Attention of each row over its sequence's pages, positions `0 ..= positions[r]`; the step's own K and V are already there.
    AttentionPaged {
        /// `[R, (H + 2 K) D]`; only q is read.
        qkv: Tensor,
        /// The pages.
        kv: KvPool,
        /// Decoder layer.
        layer: u32,
        /// Head shape.
        heads: Heads,
        /// `[R, H D]`.
        out: Tensor,
    },
    /// The plan's `page_copies`, in all layers, before anything else of the step.
    CopyPages {
        /// The pages.
        kv: KvPool,
    },

    /// `out = silu(gate) * up` (Shazeer 2020); `gate_up [R, 2 f]` is gate | up, `out [R, f]`.
    SwiGlu {
        /// `[R, 2 f]`.
        gate_up: Tensor,
        /// `[R, f]`.
        out: Tensor,
    },
    /// Backward of [`Op::SwiGlu`], recomputing from `gate_up`.
    SwiGluBackward {
        /// `[R, 2 f]`.
        gate_up: Tensor,
        /// `[R, f]`.
        dout: Tensor,
        /// `[R, 2 f]`, overwritten. May be `gate_up`.
        dgate_up: Tensor,
    },

    /// For each of the L rows with its [`Label`](super::Label): `nll = lse(z) - z[label]` with `z = hidden Wᵀ`, natural log.
    /// Logits exist only in `workspace`, C rows at a time. With `dhidden`: `dhidden = coefficient * (softmax(z) - onehot(label)) W`.
    LmHeadLoss {
        /// `[L, d]`, after the final norm.
        hidden: Tensor,
        /// `[V, d]`; loaded with `backward: true` if `dhidden` is asked for.
        lm_head: Linear,
        /// f32 `[C, V]`.
        workspace: Tensor,
        /// f32 `[L, 2]`: nll, and 1 or 0 for `argmax == label` (ties: the lower id).
        out: Tensor,
        /// `[L, d]`, overwritten. May be `hidden`.
        dhidden: Option<Tensor>,
    },
    /// Draws the plan's `draws`. With z the logits of a member and T the temperature: `q = Σ weight softmax(z / T)`; of the tokens that survive top-k, then
    /// top-p (the mass renormalised over top-k's survivors) and then min-p (`q >= min_p * max q`), the one with the largest `ln q + g`, `g = -ln(-ln u)` with `u` of
    /// [`uniform`](super::uniform) (Gumbel-max: an exact draw, whatever the order); ties go to the lower id. T = 0: the largest `q` at T = 1.
    /// The log-probability is that of the unmodified mixture: `ln Σ weight softmax(z)`, with the log-sum-exp of [`Op::LmHeadLoss`].
    LmHeadSample {
        /// `[L, d]`, after the final norm.
        hidden: Tensor,
        /// `[V, d]`.
        lm_head: Linear,
        /// f32 `[C, V]`, C at least the members of the largest group.
        workspace: Tensor,
        /// u32 `[draws, 1]`.
        tokens: Tensor,
        /// f32 `[draws, 1]`.
        logprobs: Tensor,
    },

    /// Squared gradient norms are summed part by part in order (A before B), each by rows: `out[i] = sqrt(Σ g²)` of `slots[i]`.
    GradNorms {
        /// The adapters.
        slots: Vec<Slot>,
        /// f32 `[slots, 1]`.
        out: Tensor,
    },
    /// AdamW (Loshchilov & Hutter 2019, as in PyTorch) of all `steps` in one launch, clipped by the norms of [`Op::GradNorms`], then the gradient is
    /// zeroed: `w -= lr wd w; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g²; w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`.
    /// A slot whose norm is not finite keeps its weights and moments.
    AdamW {
        /// One step for each adapter.
        steps: Vec<AdamWStep>,
        /// f32 `[steps, 1]`: their gradient norms, in the same order.
        norms: Tensor,
    },
    /// Zeroes the gradients of these slots.
    ZeroGrad {
        /// The adapters.
        slots: Vec<Slot>,
    },
}

impl Op {
    /// The operation's name, for traces and profiles.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::GatherRows { .. } => "gather_rows",
            Op::ScatterRows { .. } => "scatter_rows",
            Op::RmsNorm { .. } => "rms_norm",
            Op::RmsNormBackward { .. } => "rms_norm_backward",
            Op::Dropout { .. } => "dropout",
            Op::LinearForward { .. } => "linear_forward",
            Op::LinearBackward { .. } => "linear_backward",
            Op::HeadNorm { .. } => "head_norm",
            Op::HeadNormBackward { .. } => "head_norm_backward",
            Op::Rope { .. } => "rope",
            Op::RopeBackward { .. } => "rope_backward",
            Op::AttentionPacked { .. } => "attention_packed",
            Op::AttentionPackedBackward { .. } => "attention_packed_backward",
            Op::AttentionPaged { .. } => "attention_paged",
            Op::CopyPages { .. } => "copy_pages",
            Op::SwiGlu { .. } => "swiglu",
            Op::SwiGluBackward { .. } => "swiglu_backward",
            Op::LmHeadLoss { .. } => "lm_head_loss",
            Op::LmHeadSample { .. } => "lm_head_sample",
            Op::GradNorms { .. } => "grad_norms",
            Op::AdamW { .. } => "adamw",
            Op::ZeroGrad { .. } => "zero_grad",
        }
    }
}
