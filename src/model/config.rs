//! What a model is, read from a Hugging Face config.json and generation_config.json.

use super::families::{self, Family};
use super::fields;
use super::files::ModelFiles;
use super::rope::{self, RopeConfig};
use crate::backend::Heads;
use crate::error::{Error, Result};
use crate::files::json::{Fields, parse_object};

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
    /// config.json has `tie_word_embeddings`, but the files hold an lm_head that is another matrix
    /// than the embedding; it is used, and `tie_word_embeddings` is false here.
    pub unties: bool,
    /// Biases of q, k and v.
    pub qkv_bias: bool,
    /// Bias of the attention's output.
    pub o_bias: bool,
    /// Biases of gate, up and down.
    pub mlp_bias: bool,
    /// Query and key heads are normed before they are rotated.
    pub qk_norm: bool,
    /// q, k and v are one matrix in the file and one module to adapters; so are gate and up.
    pub fused: bool,
    /// Sliding window of each layer, if any.
    pub windows: Vec<Option<usize>>,
    /// Rotary frequencies.
    pub rope: RopeConfig,
    /// Beginning-of-sequence token, if any.
    pub bos_token_id: Option<u32>,
    /// Every end-of-sequence token of config.json and generation_config.json.
    pub eos_token_ids: Vec<u32>,
    /// A field with a rate of dropout that transformers applies inside the base in training, and
    /// the rate. It is not supported: such a model can be loaded for inference only.
    pub base_dropout: Option<(&'static str, f64)>,
    /// Fields of config.json that nothing is known of; transformers passes over them too.
    pub unknown_fields: Vec<String>,
}

/// Heads of an attention.
struct AttentionShape {
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
}

impl AttentionShape {
    fn read(fields: &Fields<'_>, family: &Family, hidden_size: usize) -> Result<Self> {
        let num_heads = fields.size("num_attention_heads")?;
        // Absent and null are two things here: transformers takes the family's default for the
        // first, the number of heads for the second.
        let num_kv_heads = match (fields.map.get("num_key_value_heads"), family.defaults.kv_heads) {
            (None, Some(default)) => default,
            _ => fields.size_or("num_key_value_heads", num_heads)?,
        };
        let head_dim = match (fields.map.get("head_dim"), family.defaults.head_dim) {
            (None, Some(default)) => default,
            // A family with a width of its own has no other for null.
            (Some(_), Some(_)) => fields.size("head_dim")?,
            (Some(v), _) if !v.is_null() => fields.size("head_dim")?,
            _ if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            _ => {
                let problem = format!(
                    "found {num_heads}, expected a divisor of hidden_size = {hidden_size}, or head_dim"
                );
                return Err(Error::input(fields.name("num_attention_heads"), problem));
            }
        };
        if !num_heads.is_multiple_of(num_kv_heads) {
            let problem =
                format!("found {num_kv_heads}, expected a divisor of num_attention_heads = {num_heads}");
            return Err(Error::input(fields.name("num_key_value_heads"), problem));
        }
        if !head_dim.is_multiple_of(8) || !(16..=128).contains(&head_dim) {
            let (field, found) = match fields.get("head_dim") {
                Some(_) => ("head_dim", format!("{head_dim}")),
                None => (
                    "num_attention_heads",
                    format!("{num_heads}, which makes heads of hidden_size / {num_heads} = {head_dim}"),
                ),
            };
            let problem =
                format!("found {found}, expected a head size that is a multiple of 8 from 16 to 128");
            return Err(Error::input(fields.name(field), problem));
        }
        Ok(Self { num_heads, num_kv_heads, head_dim })
    }
}

/// The first of the family's rates of dropout that is not 0.
fn base_dropout(fields: &Fields<'_>, family: &Family) -> Result<Option<(&'static str, f64)>> {
    for &field in family.dropout {
        let Some(value) = fields.get(field) else { continue };
        match value.as_f64() {
            Some(0.0) => {}
            Some(rate) if rate > 0.0 && rate < 1.0 => return Ok(Some((field, rate))),
            _ => return Err(fields.wrong(field, value, "a number from 0 on, below 1")),
        }
    }
    Ok(None)
}

/// Longest context accepted, which bounds the rotary table.
const MAX_POSITIONS: usize = 1 << 20;
/// Most layers accepted: lists with an entry a layer are made before any weight is looked for.
/// Published models have up to 126.
const MAX_LAYERS: usize = 1 << 12;
/// Most parameters accepted, far beyond any model's: whatever is counted in bytes from here on,
/// such as a memory plan, fits 64 bits.
const MAX_PARAMETERS: usize = 1 << 44;

impl ModelConfig {
    /// Reads config.json and, where there is one, generation_config.json. Where config.json ties
    /// lm_head to the embedding and the files hold both, they are compared: two different matrices
    /// are not tied, as in transformers.
    pub fn read(files: &ModelFiles) -> Result<Self> {
        let generation = "generation_config.json";
        let generation = files.text(generation).map(|bytes| (bytes, files.file_place(generation)));
        let mut config = Self::parse(files.config(), &files.file_place("config.json"), generation.is_none())?;
        if let Some((bytes, place)) = generation {
            config.add_generation_config(bytes, &place)?;
        }
        if config.tie_word_embeddings && files.has_other_head(config.vocab_size, config.hidden_size)? {
            config.tie_word_embeddings = false;
            config.unties = true;
        }
        Ok(config)
    }

    /// Reads the contents of a config.json; `place` names it in errors. Absent fields but sizes are
    /// what the family's configuration class in transformers has for them.
    pub fn from_json(bytes: &[u8], place: &str) -> Result<Self> {
        Self::parse(bytes, place, true)
    }

    /// The same. The family's special tokens stand for absent ones only where there is no
    /// generation_config.json (`alone`).
    fn parse(bytes: &[u8], place: &str, alone: bool) -> Result<Self> {
        let map = parse_object(bytes, place)?;
        let fields = Fields { place, prefix: "", map: &map };
        let family = families::find(&fields)?;
        fields::check(&fields)?;
        let defaults = &family.defaults;
        let act = fields.text("hidden_act")?.unwrap_or("silu");
        if !["silu", "swish"].contains(&act) {
            return Err(Error::input(fields.name("hidden_act"), format!("found {act:?}, expected \"silu\"")));
        }
        let hidden_size = fields.size("hidden_size")?;
        let AttentionShape { num_heads, num_kv_heads, head_dim } =
            AttentionShape::read(&fields, family, hidden_size)?;
        let max_positions = fields.size_or("max_position_embeddings", defaults.max_positions)?;
        let (rope, context) = rope::read(&fields, family, head_dim, max_positions)?;
        if context > MAX_POSITIONS {
            let problem = format!("found a context of {context}, expected at most {MAX_POSITIONS}");
            return Err(Error::input(fields.name("max_position_embeddings"), problem));
        }

        let num_layers = fields.size("num_hidden_layers")?;
        if num_layers > MAX_LAYERS {
            let problem = format!("found {num_layers}, expected at most {MAX_LAYERS} layers");
            return Err(Error::input(fields.name("num_hidden_layers"), problem));
        }
        let token_ids = |field: &str, default: Option<u32>| match map.contains_key(field) {
            false if alone => Ok(default.into_iter().collect()),
            _ => fields.token_ids(field),
        };
        let mut config = Self {
            model_type: family.model_type.to_string(),
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            rms_norm_eps: fields.positive("rms_norm_eps", Some(defaults.rms_norm_eps))?,
            max_positions: context,
            tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
            unties: false,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            fused: false,
            windows: vec![None; num_layers],
            rope,
            bos_token_id: token_ids("bos_token_id", defaults.bos_token_id)?.first().copied(),
            eos_token_ids: token_ids("eos_token_id", defaults.eos_token_id)?,
            base_dropout: base_dropout(&fields, family)?,
            unknown_fields: fields::unknown(&fields),
        };
        (family.read)(&fields, &mut config)?;
        if config.checked_parameters().is_none_or(|n| n > MAX_PARAMETERS) {
            let problem = format!(
                "found sizes of a model with more than {MAX_PARAMETERS} parameters (hidden_size \
                 {hidden_size}, intermediate_size {}, {num_heads} heads of {head_dim}, \
                 vocab_size {}, {num_layers} layers), expected fewer",
                config.intermediate_size, config.vocab_size
            );
            return Err(Error::input(place, problem));
        }
        Ok(config)
    }

    /// Adds the end-of-sequence tokens of a generation_config.json.
    pub fn add_generation_config(&mut self, bytes: &[u8], place: &str) -> Result<()> {
        let map = parse_object(bytes, place)?;
        let fields = Fields { place, prefix: "", map: &map };
        for id in fields.token_ids("eos_token_id")? {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        if self.bos_token_id.is_none() {
            self.bos_token_id = fields.token_ids("bos_token_id")?.first().copied();
        }
        Ok(())
    }

    /// The shape of every layer's attention but for its window.
    pub fn heads(&self) -> Heads {
        Heads {
            heads: self.num_heads,
            kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
            window: None,
        }
    }

    /// The shape of a layer's attention.
    pub fn layer_heads(&self, layer: usize) -> Heads {
        Heads { window: self.windows[layer], ..self.heads() }
    }

    /// Numbers in the model's weights; a tied lm_head counts once.
    pub fn parameters(&self) -> usize {
        self.checked_parameters().unwrap_or(usize::MAX)
    }

    /// The same; `None` where it does not fit. Single sizes are at most 2^24 and heads 2^31 wide,
    /// so only the products with those of a layer's matrices and with the number of layers can be
    /// too large.
    fn checked_parameters(&self) -> Option<usize> {
        let heads = self.heads();
        let (d, f, v) = (self.hidden_size, self.intermediate_size, self.vocab_size);
        let mut layer = d.checked_mul(heads.qkv_width() + heads.q_width())?.checked_add(3 * d * f + 2 * d)?;
        layer += if self.qkv_bias { heads.qkv_width() } else { 0 };
        layer += if self.o_bias { d } else { 0 };
        layer += if self.mlp_bias { 2 * f + d } else { 0 };
        layer += if self.qk_norm { 2 * self.head_dim } else { 0 };
        let head = if self.tie_word_embeddings { 0 } else { v * d };
        self.num_layers.checked_mul(layer)?.checked_add(v * d + head + d)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_beyond_any_model_are_refused() {
        let read = |changes: serde_json::Value| {
            let mut config = json!({
                "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
                "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 128,
                "vocab_size": 64, "rms_norm_eps": 1e-5,
            });
            for (key, value) in changes.as_object().unwrap() {
                config[key] = value.clone();
            }
            ModelConfig::from_json(config.to_string().as_bytes(), "config.json").map_err(|e| e.to_string())
        };
        assert!(read(json!({})).is_ok());
        let e = read(json!({"num_hidden_layers": 1 << 24})).unwrap_err();
        assert_eq!(e, "config.json, field num_hidden_layers: found 16777216, expected at most 4096 layers");
        let most = 1 << 24;
        let largest = json!({
            "hidden_size": most, "intermediate_size": most, "num_attention_heads": most,
            "head_dim": 128, "vocab_size": most, "num_hidden_layers": 4096,
        });
        let e = read(largest.clone()).unwrap_err();
        assert!(e.starts_with("config.json: found sizes of a model with more than"), "{e}");
        // The largest that there is: everything in bytes still fits.
        let large = json!({
            "hidden_size": 1 << 20, "intermediate_size": 1 << 20, "num_attention_heads": 8192,
            "num_hidden_layers": 2,
        });
        let config = read(large).unwrap();
        assert!(config.parameters() < MAX_PARAMETERS && config.parameters() > 1 << 42);
    }
}
