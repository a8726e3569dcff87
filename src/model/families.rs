//! The families: how each one's config.json differs from the plain decoder, and what it takes where
//! a field is absent.
//!
//! Defaults are those of the configuration classes of transformers 5.24, but for sizes: there they
//! are those of some published model, and layers that a file lacks would be filled with random
//! numbers; here a size is required.

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
    /// What stands for absent fields.
    pub defaults: Defaults,
    /// How rotary scaling may be called.
    pub rope: RopeNames,
    /// Fields with a rate of dropout that transformers applies in training.
    pub dropout: &'static [&'static str],
    /// Reads what only this family has.
    pub read: fn(&Fields<'_>, &mut ModelConfig) -> Result<()>,
}

/// What a family takes where config.json does not have a field, sizes excepted.
pub(super) struct Defaults {
    /// `num_key_value_heads`; `None`: as many as query heads.
    pub kv_heads: Option<usize>,
    /// `head_dim`; `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// `max_position_embeddings`.
    pub max_positions: usize,
    /// `original_max_position_embeddings` beside the other fields, where that has a default.
    pub original_positions: Option<usize>,
    /// `rms_norm_eps`.
    pub rms_norm_eps: f32,
    /// `bos_token_id`.
    pub bos_token_id: Option<u32>,
    /// `eos_token_id`.
    pub eos_token_id: Option<u32>,
}

/// `sliding_window` of Mistral and Qwen.
const DEFAULT_WINDOW: usize = 4096;
/// `max_window_layers` of Qwen.
const DEFAULT_WINDOW_LAYERS: u64 = 28;

/// Which kinds of rotary scaling a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RopeNames {
    /// Those of transformers; the whole head is rotated.
    Usual,
    /// Only `longrope`, also under the names of earlier versions (`su`, `yarn`); part of a head may be rotated.
    LongRope,
}

const LLAMA: Defaults = Defaults {
    kv_heads: None,
    head_dim: None,
    max_positions: 2048,
    original_positions: None,
    rms_norm_eps: 1e-6,
    bos_token_id: Some(1),
    eos_token_id: Some(2),
};

const QWEN: Defaults = Defaults {
    kv_heads: Some(32),
    head_dim: None,
    max_positions: 32_768,
    original_positions: None,
    rms_norm_eps: 1e-6,
    bos_token_id: None,
    eos_token_id: None,
};

/// All families.
pub(super) const FAMILIES: [Family; 5] = [
    Family {
        name: "LlamaForCausalLM",
        model_type: "llama",
        defaults: LLAMA,
        rope: RopeNames::Usual,
        dropout: &["attention_dropout"],
        read: |fields, config| {
            config.qkv_bias = fields.flag("attention_bias", false)?;
            config.o_bias = config.qkv_bias;
            config.mlp_bias = fields.flag("mlp_bias", false)?;
            check_no_window(fields, config)?;
            check_layer_types(fields, config)
        },
    },
    Family {
        name: "MistralForCausalLM",
        model_type: "mistral",
        defaults: Defaults { kv_heads: Some(8), max_positions: 131_072, ..LLAMA },
        rope: RopeNames::Usual,
        dropout: &["attention_dropout"],
        read: |fields, config| {
            let window = window(fields, Some(DEFAULT_WINDOW))?;
            config.windows.fill(window);
            // transformers reads a Mistral model that has layer types as Ministral, whose windows
            // they place.
            if let Some(windows) = layer_windows(fields, config.num_layers, window, "sliding_window")? {
                config.windows = windows;
            }
            Ok(())
        },
    },
    Family {
        name: "Qwen2ForCausalLM",
        model_type: "qwen2",
        defaults: QWEN,
        rope: RopeNames::Usual,
        dropout: &["attention_dropout"],
        read: |fields, config| {
            config.qkv_bias = true;
            qwen_windows(fields, config)
        },
    },
    Family {
        name: "Qwen3ForCausalLM",
        model_type: "qwen3",
        defaults: Defaults { head_dim: Some(128), ..QWEN },
        rope: RopeNames::Usual,
        dropout: &["attention_dropout"],
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
        defaults: Defaults {
            max_positions: 4096,
            original_positions: Some(4096),
            rms_norm_eps: 1e-5,
            eos_token_id: Some(32_000),
            ..LLAMA
        },
        rope: RopeNames::LongRope,
        dropout: &["attention_dropout", "resid_pdrop"],
        read: |fields, config| {
            config.fused = true;
            let window = window(fields, None)?;
            config.windows.fill(window);
            check_layer_types(fields, config)
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

/// Qwen's windows: `use_sliding_window` says whether there are any, `layer_types` in which layers,
/// or `max_window_layers` from which one on.
fn qwen_windows(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    let used = fields.flag("use_sliding_window", false)?;
    let window = if used { window(fields, Some(DEFAULT_WINDOW))? } else { None };
    let needs = "use_sliding_window and sliding_window";
    if let Some(windows) = layer_windows(fields, config.num_layers, window, needs)? {
        config.windows = windows;
        return Ok(());
    }
    // A number of layers may be 0, as no size may.
    let first = match fields.get("max_window_layers") {
        None => DEFAULT_WINDOW_LAYERS,
        Some(v) => v.as_u64().ok_or_else(|| fields.wrong("max_window_layers", v, "a number of layers"))?,
    };
    config.windows.iter_mut().skip(first as usize).for_each(|w| *w = window);
    Ok(())
}

/// The window of each layer by `layer_types`, if the file has it. A layer of type
/// `sliding_attention` takes `window`; `needs` names the fields that would give one where there is
/// none.
fn layer_windows(
    fields: &Fields<'_>,
    layers: usize,
    window: Option<usize>,
    needs: &str,
) -> Result<Option<Vec<Option<usize>>>> {
    const SLIDING: &str = "sliding_attention";
    let Some(types) = fields.get("layer_types") else { return Ok(None) };
    let expected = format!("\"full_attention\" or \"{SLIDING}\" for each of the {layers} layers");
    let wrong = || fields.wrong("layer_types", types, &expected);
    let list = types.as_array().filter(|list| list.len() == layers).ok_or_else(wrong)?;
    let one = |kind: &Value| match kind.as_str() {
        // The second is an older name of the first.
        Some("full_attention" | "attention") => Ok(None),
        Some(SLIDING) if window.is_some() => Ok(window),
        Some(SLIDING) => {
            let problem = format!("found \"{SLIDING}\", expected {needs} with it");
            Err(Error::input(fields.name("layer_types"), problem))
        }
        _ => Err(wrong()),
    };
    list.iter().map(one).collect::<Result<Vec<_>>>().map(Some)
}

/// That a file of a family without windows has none that is narrower than its context.
/// (transformers would have it in the cache, and not in the attention.)
fn check_no_window(fields: &Fields<'_>, config: &ModelConfig) -> Result<()> {
    if !fields.flag("use_sliding_window", true)? {
        return Ok(());
    }
    match (window(fields, None)?, fields.get("sliding_window")) {
        (Some(window), Some(value)) if window < config.max_positions => {
            let expected = format!("null: a {} model has no window", config.model_type);
            Err(fields.wrong("sliding_window", value, &expected))
        }
        _ => Ok(()),
    }
}

/// That `layer_types`, where a file of a family without such a field has it, says nothing else than
/// the windows that are read.
fn check_layer_types(fields: &Fields<'_>, config: &ModelConfig) -> Result<()> {
    let window = config.windows.first().copied().flatten();
    let needs = "a family whose layers may have windows of their own";
    match (layer_windows(fields, config.num_layers, window, needs)?, fields.get("layer_types")) {
        (Some(windows), Some(types)) if windows != config.windows => {
            let expected = "\"sliding_attention\" for every layer, as sliding_window is that of all";
            Err(fields.wrong("layer_types", types, expected))
        }
        _ => Ok(()),
    }
}

/// The family that a config.json names. `model_type` decides, as in transformers; `architectures`
/// may name no other family.
pub(super) fn find(fields: &Fields<'_>) -> Result<&'static Family> {
    let by_name = by_architecture(fields)?;
    let expected = format!("one of the known: {}", FAMILIES.map(|f| f.model_type).join(", "));
    let Some(name) = fields.text("model_type")? else {
        return by_name.ok_or_else(|| {
            let known = FAMILIES.map(|f| f.name).join(", ");
            let problem = format!("missing, expected one of the known architectures: {known}");
            Error::input(fields.name("architectures"), problem)
        });
    };
    let family = FAMILIES
        .iter()
        .find(|f| f.model_type == name)
        .ok_or_else(|| fields.wrong("model_type", &Value::from(name), &expected))?;
    match by_name {
        Some(other) if other.model_type != family.model_type => {
            let expected = format!("\"{}\" beside the architecture {}", other.model_type, other.name);
            Err(fields.wrong("model_type", &Value::from(name), &expected))
        }
        _ => Ok(family),
    }
}

/// The family of the first of `architectures`, if the file has any.
fn by_architecture(fields: &Fields<'_>) -> Result<Option<&'static Family>> {
    /// What `Trainer.save_model` left before the names of classes that FSDP 2 had wrapped.
    const WRAPPED: &str = "FSDP";
    let Some(value) = fields.get("architectures") else { return Ok(None) };
    let wrong = || {
        let known = FAMILIES.map(|f| f.name).join(", ");
        fields.wrong("architectures", value, &format!("a list with one of the known architectures: {known}"))
    };
    let first = value.as_array().and_then(|list| list.first()).and_then(Value::as_str).ok_or_else(wrong)?;
    let name = first.strip_prefix(WRAPPED).unwrap_or(first);
    // Early Llama models spell it LLaMAForCausalLM.
    FAMILIES.iter().find(|f| f.name.eq_ignore_ascii_case(name)).ok_or_else(wrong).map(Some)
}
