//! Models of a given shape with random weights, for measurements: throughput does not depend on
//! what a model knows. And models without weights, to plan with.

use std::collections::BTreeMap;
use std::path::Path;

use super::ModelConfig;
use super::files::{EMBEDDED, Matrices, ModelFiles, Synthetic, embedded_texts, read_texts};
use crate::backend::WeightType;
use crate::error::{Error, Result};
use crate::files::Bytes;

/// A published model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What a user calls it.
    pub name: &'static str,
    /// Whose shape it is.
    pub of: &'static str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Tokens.
    pub vocab: usize,
    /// Whether embedding and lm_head are one matrix.
    pub tied: bool,
}

/// The shapes that can be asked for by name.
pub const SHAPES: [Shape; 4] = [
    Shape {
        name: "tiny",
        of: "no published model; for a quick look",
        hidden: 192,
        intermediate: 512,
        layers: 4,
        heads: 6,
        kv_heads: 3,
        vocab: 2048,
        tied: true,
    },
    Shape {
        name: "135m",
        of: "SmolLM2-135M",
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        vocab: 49_152,
        tied: true,
    },
    Shape {
        name: "1b",
        of: "Llama-3.2-1B",
        hidden: 2048,
        intermediate: 8192,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        vocab: 128_256,
        tied: true,
    },
    Shape {
        name: "8b",
        of: "Llama-3.1-8B",
        hidden: 4096,
        intermediate: 14_336,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        vocab: 128_256,
        tied: false,
    },
];

impl Shape {
    /// The shape of this name.
    pub fn named(name: &str) -> Result<Self> {
        let known = SHAPES.map(|s| s.name).join(", ");
        let found = SHAPES.into_iter().find(|s| s.name == name);
        found.ok_or_else(|| Error::Usage(format!("--shape {name}: expected one of {known}")))
    }

    /// A model of this shape, with a context of `context` tokens.
    pub fn files(&self, context: usize) -> Result<ModelFiles> {
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": self.hidden,
            "intermediate_size": self.intermediate, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab, "tie_word_embeddings": self.tied, "rms_norm_eps": 1e-5,
            "max_position_embeddings": context, "hidden_act": "silu", "rope_theta": 10000.0,
            // Measured samples have the length that was asked for.
            "bos_token_id": null, "eos_token_id": null,
        });
        let texts = BTreeMap::from([("config.json", Bytes::Owned(config.to_string().into_bytes()))]);
        // About the size that training gives weights of this width.
        let matrices = Matrices::Noise(1.7 / (self.hidden as f32).sqrt());
        let weights = Synthetic { matrices, ones: ones(self.hidden) };
        Ok(ModelFiles::synthetic(format!("shape {}", self.name), texts, weights))
    }

    /// Its configuration.
    pub fn config(&self, context: usize) -> Result<ModelConfig> {
        ModelConfig::read(&self.files(context)?)
    }
}

fn ones(count: usize) -> Vec<u8> {
    std::iter::repeat_n(half::bf16::ONE.to_le_bytes(), count).flatten().collect()
}

impl ModelFiles {
    /// `embedded` or a model folder, whose weights need not be there: matrices have their shapes
    /// and an element type, and no elements. Only what counts can load it.
    pub fn without_weights(path: &str, stored: WeightType) -> Result<Self> {
        let texts = if path == EMBEDDED { embedded_texts() } else { read_texts(Path::new(path))? };
        let nothing = || Synthetic { matrices: Matrices::Shapes(stored), ones: Vec::new() };
        let files = Self::synthetic(path.into(), texts, nothing());
        let config = ModelConfig::read(&files)?;
        let longest = config.heads().qkv_width().max(2 * config.intermediate_size).max(config.hidden_size);
        Ok(files.with_weights(Synthetic { ones: ones(longest), ..nothing() }))
    }
}
