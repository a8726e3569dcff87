//! The fields of config.json: which are read, which are passed over and why, and which are refused
//! because they change what is computed. docs/model-folders.md has the same lists for people; a
//! test compares them.

use serde_json::Value;

use crate::error::Result;
use crate::files::json::Fields;

/// Fields that decide what is computed, in this module's neighbours.
pub const READ_FIELDS: [&str; 31] = [
    "architectures",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "resid_pdrop",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
    // Of these two, the name of the model that an adapter may have been made for, and what `info`
    // says of weights that are not there.
    "_name_or_path",
    "dtype",
    "torch_dtype",
];

/// Fields that say nothing about what a model of these families computes, whatever they hold.
pub const IGNORED_FIELDS: [&str; 38] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "attn_implementation",
    "auto_map",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "embd_pdrop",
    "finetuning_task",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "model_max_length",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_last_hidden_states",
    "tokenizer_class",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// Values of a refused field that change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neutral {
    /// null, false, 0, and empty strings, lists and objects.
    Off,
    /// null and true.
    On,
    /// null and 1.
    One,
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Bool(on) => *on == (self == Neutral::On),
            Value::Number(n) => match self {
                Neutral::Off => n.as_f64() == Some(0.0),
                Neutral::One => n.as_f64() == Some(1.0),
                Neutral::On => false,
            },
            Value::String(s) => self == Neutral::Off && s.is_empty(),
            Value::Array(a) => self == Neutral::Off && a.is_empty(),
            Value::Object(o) => self == Neutral::Off && o.is_empty(),
        }
    }
}

/// A field that is refused unless it is neutral.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// Its name.
    pub field: &'static str,
    /// What it may hold.
    pub neutral: Neutral,
    /// What the error says was expected.
    pub expected: &'static str,
}

const fn refused(field: &'static str, neutral: Neutral, expected: &'static str) -> Refused {
    Refused { field, neutral, expected }
}

const UNQUANTIZED: &str = "no quantization: f32, f16 or bf16 weights";
const NO_SCALE: &str = "null or 1: a factor that these families do not have";
const NO_CAP: &str = "null: bounded logits are not supported";
const NO_NOPE: &str = "null: layers without rotary embeddings are not supported";

/// Fields that change what is computed in a way that is not supported: those which transformers
/// reads whatever the family, and those by which other families differ from these.
pub const REFUSED_FIELDS: [Refused; 39] = [
    refused("quantization_config", Neutral::Off, UNQUANTIZED),
    refused("compression_config", Neutral::Off, UNQUANTIZED),
    refused("quantization", Neutral::Off, UNQUANTIZED),
    refused("per_layer_config", Neutral::Off, "null: layers of different shapes are not supported"),
    refused("is_causal", Neutral::On, "true: attention to later tokens is not supported"),
    refused("use_bidirectional_attention", Neutral::Off, "null: attention to later tokens is not supported"),
    refused("is_encoder_decoder", Neutral::Off, "false: only decoders are supported"),
    refused(
        "add_cross_attention",
        Neutral::Off,
        "false: only attention of a sequence to itself is supported",
    ),
    refused(
        "pruned_heads",
        Neutral::Off,
        "none: heads of different numbers in different layers are not supported",
    ),
    refused("attention_chunk_size", Neutral::Off, "null: attention in chunks is not supported"),
    refused("kv_sharing_modes", Neutral::Off, "null: layers that share keys and values are not supported"),
    refused("num_kv_shared_layers", Neutral::Off, "0: layers that share keys and values are not supported"),
    refused("text_config", Neutral::Off, "none: models of several parts are not supported"),
    refused(
        "transformers_weights",
        Neutral::Off,
        "null: weights are read from model.safetensors or its index",
    ),
    refused("configuration_files", Neutral::Off, "none: only config.json is read"),
    refused("logit_scale", Neutral::One, NO_SCALE),
    refused("logits_scaling", Neutral::One, NO_SCALE),
    refused("embedding_multiplier", Neutral::One, NO_SCALE),
    refused("residual_multiplier", Neutral::One, NO_SCALE),
    refused("attention_multiplier", Neutral::Off, "null: attention is scaled by 1 / sqrt(head_dim)"),
    refused("query_pre_attn_scalar", Neutral::Off, "null: attention is scaled by 1 / sqrt(head_dim)"),
    refused("scale_emb", Neutral::One, NO_SCALE),
    refused("scale_depth", Neutral::Off, "null: a factor that these families do not have"),
    refused("dim_model_base", Neutral::Off, "null: a factor that these families do not have"),
    refused("attn_logit_softcapping", Neutral::Off, NO_CAP),
    refused("final_logit_softcapping", Neutral::Off, NO_CAP),
    refused("no_rope_layers", Neutral::Off, NO_NOPE),
    refused("no_rope_layer_interval", Neutral::Off, NO_NOPE),
    refused("use_mrope", Neutral::Off, "false: positions have one part"),
    refused("rope_interleaved", Neutral::Off, "false: the two halves of a head are rotated together"),
    refused("alibi", Neutral::Off, "false: positions are rotary"),
    refused("use_parallel_residual", Neutral::Off, "false: attention and MLP follow one another"),
    refused("parallel_attn", Neutral::Off, "false: attention and MLP follow one another"),
    refused("qk_layernorm", Neutral::Off, "false: only qwen3 norms queries and keys"),
    refused("use_qk_norm", Neutral::Off, "false: only qwen3 norms queries and keys"),
    refused("lm_head_bias", Neutral::Off, "false: an lm_head with a bias is not supported"),
    refused("full_attn_mod", Neutral::One, "null or 1: windows are those of sliding_window"),
    refused("interpolate_factor", Neutral::One, NO_SCALE),
    refused("num_local_experts", Neutral::Off, "0: mixtures of experts are not supported"),
];

/// Fields that have a default where they are absent, and none where they are null.
const NOT_NULL: [&str; 8] = [
    "attention_bias",
    "hidden_act",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "rms_norm_eps",
    "tie_word_embeddings",
    "use_sliding_window",
];

/// Refuses, by name, what is not supported.
pub(super) fn check(fields: &Fields<'_>) -> Result<()> {
    for Refused { field, neutral, expected } in REFUSED_FIELDS {
        if let Some(value) = fields.map.get(field).filter(|v| !neutral.is(v)) {
            return Err(fields.wrong(field, value, expected));
        }
    }
    NOT_NULL.iter().try_for_each(|field| fields.not_null(field))
}

/// The fields that no list here names, in the order of the file.
pub(super) fn unknown(fields: &Fields<'_>) -> Vec<String> {
    let is_known = |name: &str| {
        READ_FIELDS.contains(&name)
            || IGNORED_FIELDS.contains(&name)
            || REFUSED_FIELDS.iter().any(|r| r.field == name)
            || GENERATION_FIELDS.contains(&name)
    };
    fields.map.keys().filter(|name| !is_known(name)).cloned().collect()
}

/// Settings of sampling that older versions of transformers kept in config.json: passed over there
/// and in generation_config.json, as the command or the configuration of a run has its own.
pub const GENERATION_FIELDS: [&str; 27] = [
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_p",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];
