//! What a model is, read from a Hugging Face config.json and generation_config.json.

use serde_json::{Map, Value};

use super::files::ModelFiles;
use crate::backend::Heads;
use crate::error::{Error, Result};
use crate::files::json::{Fields, parse_object};

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

/// A family we know: how its config.json differs from the plain decoder.
struct Architecture {
    /// In `architectures`.
    name: &'static str,
    /// In `model_type`.
    model_type: &'static str,
    /// Reads what only this family has.
    read: fn(&Fields<'_>, &mut ModelConfig) -> Result<()>,
}

const ARCHITECTURES: [Architecture; 1] =
    [Architecture { name: "LlamaForCausalLM", model_type: "llama", read: read_llama }];

fn read_llama(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    config.attention_bias = fields.flag("attention_bias", false)?;
    config.mlp_bias = fields.flag("mlp_bias", false)?;
    Ok(())
}

/// Longest context accepted, which bounds the rotary table.
const MAX_POSITIONS: usize = 1 << 20;

impl ModelConfig {
    /// Reads config.json and, where there is one, generation_config.json.
    pub fn read(files: &ModelFiles) -> Result<Self> {
        let mut config = Self::from_json(files.config(), &files.file_place("config.json"))?;
        let name = "generation_config.json";
        if let Some(bytes) = files.text(name) {
            config.add_generation_config(bytes, &files.file_place(name))?;
        }
        Ok(config)
    }

    /// Reads the contents of a config.json; `place` names it in errors.
    pub fn from_json(bytes: &[u8], place: &str) -> Result<Self> {
        let map = parse_object(bytes, place)?;
        let fields = Fields { place, prefix: "", map: &map };
        let architecture = find_architecture(&fields)?;
        if let Some(v) = fields.get("quantization_config") {
            return Err(fields.wrong("quantization_config", v, "no quantization: f32, f16 or bf16 weights"));
        }

        let hidden_size = fields.size("hidden_size")?;
        let num_heads = fields.size("num_attention_heads")?;
        let num_kv_heads = fields.size_or("num_key_value_heads", num_heads)?;
        let head_dim = match fields.get("head_dim") {
            Some(_) => fields.size("head_dim")?,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                let problem = format!(
                    "found {num_heads}, expected a divisor of hidden_size = {hidden_size}, or head_dim"
                );
                return Err(Error::input(fields.name("num_attention_heads"), problem));
            }
        };
        let act = fields.text("hidden_act")?.unwrap_or("silu");
        if act != "silu" {
            return Err(Error::input(fields.name("hidden_act"), format!("found {act:?}, expected \"silu\"")));
        }
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
        let max_positions = fields.size("max_position_embeddings")?;
        if max_positions > MAX_POSITIONS {
            let problem = format!("found {max_positions}, expected at most {MAX_POSITIONS}");
            return Err(Error::input(fields.name("max_position_embeddings"), problem));
        }

        let mut config = Self {
            model_type: architecture.model_type.to_string(),
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            num_layers: fields.size("num_hidden_layers")?,
            num_heads,
            num_kv_heads,
            head_dim,
            rms_norm_eps: fields.positive("rms_norm_eps", None)?,
            max_positions,
            tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
            attention_bias: false,
            mlp_bias: false,
            sliding_window: None,
            rope: read_rope(&fields)?,
            bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.token_ids("eos_token_id")?,
        };
        (architecture.read)(&fields, &mut config)?;
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

    /// The shape of a layer's attention.
    pub fn heads(&self) -> Heads {
        Heads {
            heads: self.num_heads,
            kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
            window: self.sliding_window,
        }
    }

    /// Numbers in the model's weights; a tied lm_head counts once.
    pub fn parameters(&self) -> usize {
        let heads = self.heads();
        let (d, f, v) = (self.hidden_size, self.intermediate_size, self.vocab_size);
        let mut layer = d * heads.qkv_width() + heads.q_width() * d + 3 * d * f + 2 * d;
        layer += if self.attention_bias { heads.qkv_width() + d } else { 0 };
        layer += if self.mlp_bias { 2 * f + d } else { 0 };
        let head = if self.tie_word_embeddings { 0 } else { v * d };
        v * d + head + self.num_layers * layer + d
    }
}

fn find_architecture(fields: &Fields<'_>) -> Result<&'static Architecture> {
    let known = || ARCHITECTURES.map(|a| a.name).join(", ");
    if let Some(value) = fields.get("architectures") {
        let expected = || format!("a list with one of the known architectures: {}", known());
        let name = value
            .as_array()
            .and_then(|list| list.first())
            .and_then(Value::as_str)
            .ok_or_else(|| fields.wrong("architectures", value, &expected()))?;
        return ARCHITECTURES
            .iter()
            .find(|a| a.name == name)
            .ok_or_else(|| fields.wrong("architectures", value, &expected()));
    }
    let expected = format!("one of the known: {}", ARCHITECTURES.map(|a| a.model_type).join(", "));
    match fields.text("model_type")? {
        Some(name) => ARCHITECTURES
            .iter()
            .find(|a| a.model_type == name)
            .ok_or_else(|| fields.wrong("model_type", &Value::from(name), &expected)),
        None => Err(Error::input(
            fields.name("architectures"),
            format!("missing, expected one of the known architectures: {}", known()),
        )),
    }
}

/// New files have `rope_parameters`; old ones `rope_theta` and `rope_scaling`.
fn read_rope(fields: &Fields<'_>) -> Result<RopeConfig> {
    let empty = Map::new();
    let (name, map) = match (fields.object("rope_parameters")?, fields.object("rope_scaling")?) {
        (Some(map), _) => ("rope_parameters.", map),
        (None, Some(map)) => ("rope_scaling.", map),
        (None, None) => ("", &empty),
    };
    let rope = Fields { place: fields.place, prefix: name, map };
    let theta = match rope.get("rope_theta") {
        Some(_) => rope.positive("rope_theta", None)?,
        None => fields.positive("rope_theta", Some(10_000.0))?,
    };
    for (fields, v) in
        [(&rope, rope.get("partial_rotary_factor")), (fields, fields.get("partial_rotary_factor"))]
    {
        if let Some(v) = v.filter(|v| v.as_f64() != Some(1.0)) {
            return Err(fields.wrong("partial_rotary_factor", v, "1"));
        }
    }
    let kind_field = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
    let scaling = match rope.text(kind_field)? {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: rope.positive("factor", None)? },
        Some(other) => {
            return Err(rope.wrong(kind_field, &Value::from(other), "one of the known: default, linear"));
        }
    };
    Ok(RopeConfig { theta, scaling })
}
