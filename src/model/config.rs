//! What a model is, read from a Hugging Face config.json.

/// Rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f32,
    /// How positions are scaled.
    pub scaling: RopeScaling,
}

/// How rotary positions are scaled. (More kinds will come with more families.)
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
}

/// A decoder described by data.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type`, e.g. `llama`.
    pub model_type: String,
    /// V.
    pub vocab_size: usize,
    /// d.
    pub hidden_size: usize,
    /// f.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// H.
    pub num_heads: usize,
    /// K.
    pub num_kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f32,
    /// Longest context.
    pub max_positions: usize,
    /// lm_head is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases of q, k and v (and, in Llama, o).
    pub attention_bias: bool,
    /// Biases of gate, up and down.
    pub mlp_bias: bool,
    /// Sliding window, if any.
    pub sliding_window: Option<usize>,
    /// Rotary frequencies.
    pub rope: RopeConfig,
    /// Beginning-of-sequence token, if any.
    pub bos_token_id: Option<u32>,
    /// Every end-of-sequence token of config.json and generation_config.json.
    pub eos_token_ids: Vec<u32>,
}
