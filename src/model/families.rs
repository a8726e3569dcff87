//! The families: how each one's config.json differs from the plain decoder.

use serde_json::Value;

use super::ModelConfig;
use crate::error::{Error, Result};
use crate::files::json::Fields;

/// A family we know. What is not said here is the same in all.
pub(super) struct Family {
    /// In `architectures`.
    pub name: &'static str,
    /// In `model_type`.
    pub model_type: &'static str,
    /// `num_key_value_heads` where the file does not have the field; `None`: as many as query heads.
    pub kv_heads: Option<usize>,
    /// `head_dim` where the file does not have the field; `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// How rotary scaling may be called.
    pub rope: RopeNames,
    /// Reads what only this family has.
    pub read: fn(&Fields<'_>, &mut ModelConfig) -> Result<()>,
}

/// Which kinds of rotary scaling a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RopeNames {
    /// Those of transformers; the whole head is rotated.
    Usual,
    /// Only `longrope`, also under the names of earlier versions (`su`, `yarn`); part of a head may be rotated.
    LongRope,
}

/// All families.
pub(super) const FAMILIES: [Family; 5] = [
    Family {
        name: "LlamaForCausalLM",
        model_type: "llama",
        kv_heads: None,
        head_dim: None,
        rope: RopeNames::Usual,
        read: |fields, config| {
            config.qkv_bias = fields.flag("attention_bias", false)?;
            config.o_bias = config.qkv_bias;
            config.mlp_bias = fields.flag("mlp_bias", false)?;
            Ok(())
        },
    },
    Family {
        name: "MistralForCausalLM",
        model_type: "mistral",
        kv_heads: Some(8),
        head_dim: None,
        rope: RopeNames::Usual,
        read: |fields, config| {
            let window = window(fields, Some(4096))?;
            config.windows.fill(window);
            Ok(())
        },
    },
    Family {
        name: "Qwen2ForCausalLM",
        model_type: "qwen2",
        kv_heads: Some(32),
        head_dim: None,
        rope: RopeNames::Usual,
        read: |fields, config| {
            config.qkv_bias = true;
            qwen_windows(fields, config)
        },
    },
    Family {
        name: "Qwen3ForCausalLM",
        model_type: "qwen3",
        kv_heads: Some(32),
        head_dim: Some(128),
        rope: RopeNames::Usual,
        read: |fields, config| {
            config.qk_norm = true;
            config.qkv_bias = fields.flag("attention_bias", false)?;
            config.o_bias = config.qkv_bias;
            qwen_windows(fields, config)
        },
    },
    Family {
        name: "Phi3ForCausalLM",
        model_type: "phi3",
        kv_heads: None,
        head_dim: None,
        rope: RopeNames::LongRope,
        read: |fields, config| {
            config.fused = true;
            let window = window(fields, None)?;
            config.windows.fill(window);
            Ok(())
        },
    },
];

/// `sliding_window`, with what transformers takes where the field is missing. `null` is none.
fn window(fields: &Fields<'_>, missing: Option<usize>) -> Result<Option<usize>> {
    match fields.map.get("sliding_window") {
        None => Ok(missing),
        Some(Value::Null) => Ok(None),
        Some(_) => fields.size("sliding_window").map(Some),
    }
}

/// Qwen's windows: `use_sliding_window` says whether there are any, `layer_types` in which layers, or `max_window_layers` from which one on.
fn qwen_windows(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    const SLIDING: &str = "sliding_attention";
    let used = fields.flag("use_sliding_window", false)?;
    let window = if used { window(fields, Some(4096))? } else { None };
    let Some(types) = fields.get("layer_types") else {
        // A number of layers may be 0, as no size may.
        let first = match fields.get("max_window_layers") {
            None => 28,
            Some(v) => {
                v.as_u64().ok_or_else(|| fields.wrong("max_window_layers", v, "a number of layers"))?
            }
        };
        config.windows.iter_mut().skip(first as usize).for_each(|w| *w = window);
        return Ok(());
    };
    let expected =
        format!("\"full_attention\" or \"{SLIDING}\" for each of the {} layers", config.num_layers);
    let wrong = || fields.wrong("layer_types", types, &expected);
    let list = types.as_array().filter(|list| list.len() == config.num_layers).ok_or_else(wrong)?;
    for (kind, slot) in list.iter().zip(&mut config.windows) {
        *slot = match kind.as_str() {
            Some("full_attention") => None,
            Some(SLIDING) if window.is_some() => window,
            Some(SLIDING) => {
                let problem =
                    format!("found \"{SLIDING}\", expected use_sliding_window and sliding_window with it");
                return Err(Error::input(fields.name("layer_types"), problem));
            }
            _ => return Err(wrong()),
        };
    }
    Ok(())
}

/// The family that a config.json names.
pub(super) fn find(fields: &Fields<'_>) -> Result<&'static Family> {
    let known = || FAMILIES.map(|f| f.name).join(", ");
    if let Some(value) = fields.get("architectures") {
        let expected = || format!("a list with one of the known architectures: {}", known());
        let name = value
            .as_array()
            .and_then(|list| list.first())
            .and_then(Value::as_str)
            .ok_or_else(|| fields.wrong("architectures", value, &expected()))?;
        return FAMILIES
            .iter()
            .find(|f| f.name == name)
            .ok_or_else(|| fields.wrong("architectures", value, &expected()));
    }
    let expected = format!("one of the known: {}", FAMILIES.map(|f| f.model_type).join(", "));
    match fields.text("model_type")? {
        Some(name) => FAMILIES
            .iter()
            .find(|f| f.model_type == name)
            .ok_or_else(|| fields.wrong("model_type", &Value::from(name), &expected)),
        None => Err(Error::input(
            fields.name("architectures"),
            format!("missing, expected one of the known architectures: {}", known()),
        )),
    }
}
