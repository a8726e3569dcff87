//! Model folders: what is read, and that whatever is wrong gives one error naming file and field.

use std::path::Path;

use colloquy::backend::*;
use colloquy::error::Result;
use colloquy::files::TensorFile;
use colloquy::model::{
    Activations, LoadOptions, Mode, Model, ModelConfig, ModelFiles, RopeScaling, RopeVariant, adapter_layout,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::sink::Sink;

use crate::common::fixture;

/// The fixture's config.json, changed.
fn config_with(change: impl FnOnce(&mut Value)) -> Result<ModelConfig> {
    let text = std::fs::read(fixture("llama/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    change(&mut config);
    ModelConfig::from_json(config.to_string().as_bytes(), "m/config.json")
}

fn set(field: &str, value: Value) -> impl FnOnce(&mut Value) {
    move |config| config[field] = value
}

fn remove(field: &str) -> impl FnOnce(&mut Value) {
    move |config| {
        config.as_object_mut().unwrap().remove(field);
    }
}

#[test]
fn a_config_is_read() {
    let c = config_with(|_| {}).unwrap();
    assert_eq!((c.vocab_size, c.hidden_size, c.intermediate_size, c.num_layers), (256, 64, 128, 2));
    assert_eq!((c.num_heads, c.num_kv_heads, c.head_dim, c.max_positions), (4, 2, 16, 512));
    assert_eq!((c.bos_token_id, c.eos_token_ids.as_slice()), (Some(1), &[2][..]));
    assert_eq!((c.rope.theta, &c.rope.scaling), (10_000.0, &RopeScaling::None));
    assert!(!c.tie_word_embeddings && !c.qkv_bias && !c.o_bias && !c.mlp_bias && !c.qk_norm && !c.fused);
    assert_eq!(c.parameters(), 2 * 256 * 64 + 2 * (64 * 128 + 64 * 64 + 3 * 64 * 128 + 128) + 64);
}

#[test]
fn defaults_follow_transformers() {
    let c = config_with(|c| {
        for field in
            ["num_key_value_heads", "head_dim", "rope_theta", "hidden_act", "eos_token_id", "architectures"]
        {
            c.as_object_mut().unwrap().remove(field);
        }
    })
    .unwrap();
    assert_eq!((c.num_kv_heads, c.head_dim, c.rope.theta), (4, 16, 10_000.0));
    assert_eq!((c.bos_token_id, c.eos_token_ids.as_slice()), (Some(1), &[2][..]), "Llama's");
    let c = config_with(set("eos_token_id", json!(null))).unwrap();
    assert!(c.eos_token_ids.is_empty(), "null is none");
    let c = config_with(set("head_dim", json!(32))).unwrap();
    assert_eq!(c.heads().q_width(), 128, "head_dim is its own field");
}

#[test]
fn old_and_new_rope_fields() {
    let new = |rope: Value| {
        config_with(|c| {
            c.as_object_mut().unwrap().remove("rope_theta");
            c["rope_parameters"] = rope;
        })
    };
    let c = new(json!({"rope_theta": 500_000.0, "rope_type": "default"})).unwrap();
    assert_eq!((c.rope.theta, c.rope.scaling), (500_000.0, RopeScaling::None));
    let c = new(json!({"rope_theta": 5e5, "rope_type": "linear", "factor": 4})).unwrap();
    assert_eq!(c.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    for kind in ["type", "rope_type"] {
        let c = config_with(set("rope_scaling", json!({kind: "linear", "factor": 2.0}))).unwrap();
        assert_eq!((c.rope.theta, c.rope.scaling), (10_000.0, RopeScaling::Linear { factor: 2.0 }));
    }
    let e =
        config_with(set("rope_scaling", json!({"type": "mrope", "factor": 2.0}))).unwrap_err().to_string();
    assert_eq!(
        e,
        "m/config.json, field rope_scaling.type: found \"mrope\", expected one of the known: default, linear, dynamic, yarn, \
         longrope, llama3"
    );
    for (rope, expected) in [
        (json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}), "high_freq_factor: missing"),
        (json!({"rope_type": "yarn", "factor": -1.0}), "factor: found -1.0, expected a positive number"),
        (
            json!({"rope_type": "longrope", "long_factor": vec![1.0; 8]}),
            "short_factor: missing, expected a list of 8",
        ),
        (
            json!({"rope_type": "longrope", "short_factor": vec![1.0; 8], "long_factor": vec![1.0; 7]}),
            "long_factor: found [1.0,1.0,1.0,1.0,1.0,1.0,1.0], expected a list of 8 positive numbers",
        ),
        (json!({"rope_type": "dynamic"}), "factor: missing"),
        (json!({"rope_type": "dynamic", "factor": 1e9}), "expected at most 1048576"),
    ] {
        let e = config_with(set("rope_scaling", rope)).unwrap_err().to_string();
        assert!(e.contains(expected), "{e}");
    }
    let e = new(json!({"rope_type": "linear"})).unwrap_err().to_string();
    assert_eq!(e, "m/config.json, field rope_parameters.factor: missing, expected a positive number");
    let e = new(json!({"rope_theta": 1e4, "partial_rotary_factor": 0.5})).unwrap_err().to_string();
    assert!(e.contains("partial_rotary_factor"), "{e}");
}

#[test]
fn every_end_of_sequence_token_counts() {
    let mut c = config_with(set("eos_token_id", json!([7, 9]))).unwrap();
    assert_eq!(c.eos_token_ids, [7, 9]);
    c.add_generation_config(br#"{"eos_token_id": [9, 4], "bos_token_id": 3}"#, "g").unwrap();
    assert_eq!((c.eos_token_ids.as_slice(), c.bos_token_id), (&[7, 9, 4][..], Some(1)));
    let e = c.add_generation_config(br#"{"eos_token_id": "x"}"#, "g.json").unwrap_err().to_string();
    assert_eq!(e, "g.json, field eos_token_id: found \"x\", expected a token id or a list of token ids");
}

#[test]
fn missing_fields_are_named() {
    for field in
        ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    {
        let e = config_with(remove(field)).unwrap_err().to_string();
        assert!(e.starts_with(&format!("m/config.json, field {field}: missing, expected ")), "{e}");
    }
}

#[test]
fn wrong_values_are_named() {
    for (field, value) in [
        ("hidden_size", json!("64")),
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-64)),
        ("hidden_size", json!(64.5)),
        ("num_hidden_layers", json!(1u64 << 60)),
        ("num_key_value_heads", json!(3)),
        ("num_attention_heads", json!([4])),
        ("head_dim", json!(12)),
        ("head_dim", json!(8)),
        ("head_dim", json!(256)),
        ("hidden_act", json!("gelu")),
        ("tie_word_embeddings", json!(1)),
        ("rms_norm_eps", json!(0)),
        ("rms_norm_eps", json!(null)),
        ("max_position_embeddings", json!(1u64 << 23)),
        ("eos_token_id", json!(-1)),
        ("rope_theta", json!("big")),
        ("rope_scaling", json!("linear")),
        ("quantization_config", json!({"bits": 4})),
        ("architectures", json!([])),
    ] {
        let e = config_with(set(field, value.clone())).unwrap_err().to_string();
        assert!(e.starts_with(&format!("m/config.json, field {field}: ")), "{field} = {value}: {e}");
        assert!(e.contains("expected"), "{e}");
        assert!(!e.contains('\n'), "{e}");
    }
    for text in ["", "[]", "{", "nul"] {
        let e = ModelConfig::from_json(text.as_bytes(), "m/config.json").unwrap_err().to_string();
        assert!(e.starts_with("m/config.json: found "), "{e}");
    }
}

#[test]
fn unknown_architectures_list_the_known() {
    let e = config_with(set("architectures", json!(["GPT2LMHeadModel"]))).unwrap_err().to_string();
    assert!(
        e.contains("architectures: found [\"GPT2LMHeadModel\"]") && e.contains("LlamaForCausalLM"),
        "{e}"
    );
    let e = config_with(|c| {
        c.as_object_mut().unwrap().remove("architectures");
        c["model_type"] = json!("bert");
    });
    let e = e.unwrap_err().to_string();
    let known = "llama, mistral, qwen2, qwen3, phi3";
    assert!(
        e.contains(&format!("field model_type: found \"bert\", expected one of the known: {known}")),
        "{e}"
    );
}

#[test]
fn the_rope_table_holds_cosines_and_sines() {
    let config = config_with(|_| {}).unwrap();
    let tables = config.rope.tables(3);
    let (cos, sin) = (&tables.cos, &tables.sin);
    assert_eq!((cos.len(), &cos[..8], &sin[..8]), (24, &[1.0; 8][..], &[0.0; 8][..]));
    // Position 2, frequency 10000^(-2/16) = 0.31622777.
    assert!((cos[17] - 0.632_455_5_f32.cos()).abs() < 1e-7 && (sin[17] - 0.632_455_5_f32.sin()).abs() < 1e-7);

    // LongRoPE: the usual frequencies up to the context of pre-training, then the long ones from position 0 on; both times their factor.
    let rope = json!({"type": "longrope", "short_factor": vec![1.0; 8], "long_factor": vec![2.0; 8], "attention_factor": 1.5,
                      "original_max_position_embeddings": 4});
    let config = config_with(set("rope_scaling", rope)).unwrap();
    let tables = config.rope.tables(6);
    assert_eq!((tables.usual, tables.rows, tables.cos.len()), (4, 10, 80));
    assert!((tables.cos[8] - 1.5 * 1f32.cos()).abs() < 1e-6, "position 1");
    assert!((tables.sin[9 * 8] - 1.5 * 2.5f32.sin()).abs() < 1e-6, "position 5 of the long ones");
    assert_eq!(config.rope.tables(3).rows, 3, "a context within pre-training has no long ones");
}

/// `tools/rope_tables.py`: what transformers computes for every kind of scaling.
#[test]
fn frequencies_are_those_of_transformers() {
    let text = std::fs::read_to_string("tests/data/rope.json").unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() >= 19);
    for case in cases {
        let config = ModelConfig::from_json(case["config"].to_string().as_bytes(), "config.json").unwrap();
        let length = case["length"].as_u64().unwrap() as usize;
        let found = config.rope.frequencies(config.rope.variant(length));
        let expected: Vec<f64> =
            case["frequencies"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(found.len(), expected.len());
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            // Two units in the last place: powers are not rounded alike everywhere.
            let off = (f64::from(*f) - e).abs() / e;
            assert!(off < 2.4e-7, "{}: length {length}, frequency {i} is {f}, expected {e}", case["config"]);
        }
        let factor = case["factor"].as_f64().unwrap();
        assert!((f64::from(config.rope.attention_factor()) - factor).abs() < 1e-6, "{}", case["config"]);
    }
}

/// Fields that only one family has, and what it takes where they are missing.
#[test]
fn families_differ_in_their_fields() {
    let family = |model_type: &str, fields: Value| {
        config_with(|c| {
            for field in ["architectures", "attention_bias", "mlp_bias", "num_key_value_heads", "head_dim"] {
                c.as_object_mut().unwrap().remove(field);
            }
            c["model_type"] = model_type.into();
            c["num_attention_heads"] = 32.into();
            c["hidden_size"] = 1024.into();
            c["num_hidden_layers"] = 4.into();
            fields.as_object().unwrap().iter().for_each(|(k, v)| c[k] = v.clone());
        })
    };
    let c = family("mistral", json!({})).unwrap();
    assert_eq!((c.num_kv_heads, c.head_dim, c.windows), (8, 32, vec![Some(4096); 4]));
    let c = family("mistral", json!({"sliding_window": null, "num_key_value_heads": null})).unwrap();
    assert_eq!((c.num_kv_heads, &c.windows), (32, &vec![None; 4]));
    assert_eq!(c.layer_heads(2).window, None);
    let c = family("mistral", json!({"sliding_window": 7})).unwrap();
    assert_eq!((c.layer_heads(3).window, c.heads().window), (Some(7), None));

    let c = family("qwen2", json!({})).unwrap();
    assert!(c.qkv_bias && !c.o_bias && !c.qk_norm && c.windows == vec![None; 4]);
    assert_eq!(c.num_kv_heads, 32);
    let windows = json!({"use_sliding_window": true, "sliding_window": 9, "max_window_layers": 3});
    assert_eq!(family("qwen2", windows).unwrap().windows, [None, None, None, Some(9)]);
    let windows = json!({"use_sliding_window": false, "sliding_window": 9, "max_window_layers": 0});
    assert_eq!(family("qwen2", windows).unwrap().windows, [None; 4]);
    let types = |types: Value| json!({"use_sliding_window": true, "sliding_window": 9, "layer_types": types});
    let (full, sliding) = ("full_attention", "sliding_attention");
    let c = family("qwen2", types(json!([sliding, full, full, sliding]))).unwrap();
    assert_eq!(c.windows, [Some(9), None, None, Some(9)]);
    for bad in [json!([full]), json!([full, full, full, "chunked_attention"]), json!("full_attention")] {
        let e = family("qwen2", types(bad)).unwrap_err().to_string();
        assert!(e.contains("field layer_types: found ") && e.contains("each of the 4 layers"), "{e}");
    }
    let e = family("qwen2", json!({"layer_types": [full, full, full, sliding]})).unwrap_err().to_string();
    assert!(e.contains("expected use_sliding_window"), "{e}");

    let c = family("qwen3", json!({})).unwrap();
    assert!(c.qk_norm && !c.qkv_bias && !c.o_bias && c.head_dim == 128);
    let c = family("qwen3", json!({"attention_bias": true, "head_dim": 64})).unwrap();
    assert!(c.qkv_bias && c.o_bias && c.head_dim == 64);
    let parts = adapter_layout(&c).groups[0].outputs;
    assert_eq!(parts, 3 * 32 * 64);
    assert_eq!(
        c.parameters() - family("llama", json!({"head_dim": 64})).unwrap().parameters(),
        4 * (3 * 2048 + 1024 + 128)
    );

    let c = family("phi3", json!({"partial_rotary_factor": 0.75, "sliding_window": 5})).unwrap();
    assert!(c.fused && c.windows == vec![Some(5); 4] && c.rope.dim == 24);
    let layout = adapter_layout(&c);
    let modules: Vec<&str> =
        layout.groups[..4].iter().flat_map(|g| &g.parts).map(|p| p.module.as_str()).collect();
    assert_eq!(
        modules.iter().map(|m| m.rsplit('.').next().unwrap()).collect::<Vec<_>>(),
        ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    );
    assert_eq!((layout.groups[0].outputs, layout.groups[2].outputs), (3 * 1024, 256));
    for kind in ["su", "yarn", "longrope"] {
        let rope = json!({"type": kind, "short_factor": vec![1.0; 16], "long_factor": vec![2.0; 16]});
        let c =
            family("phi3", json!({"rope_scaling": rope, "original_max_position_embeddings": 128})).unwrap();
        assert_eq!((c.rope.variant(128), c.rope.variant(129)), (RopeVariant(0), RopeVariant(1)), "{kind}");
    }
    let e =
        family("phi3", json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap_err().to_string();
    assert!(e.contains("found \"linear\", expected one of the known: default, longrope"), "{e}");
    let e = family("phi3", json!({"partial_rotary_factor": 0.01})).unwrap_err().to_string();
    assert!(e.contains("an even part of heads of 32"), "{e}");
}

// ---- safetensors ----

/// A safetensors file with this header and so many bytes of data.
fn safetensors(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

fn parse_error(bytes: Vec<u8>) -> String {
    let parsed = TensorFile::parse("w.safetensors".into(), colloquy::files::Bytes::Owned(bytes));
    let e = parsed.err().expect("the file is corrupt").to_string();
    assert!(e.starts_with("w.safetensors"), "{e}");
    assert!(!e.contains('\n'), "{e}");
    e
}

fn entry(shape: &[u64], start: u64, end: u64) -> Value {
    json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]})
}

#[test]
fn corrupt_safetensors_are_refused() {
    let good = safetensors(&json!({"a": entry(&[2], 0, 8), "b": entry(&[1, 2], 8, 16)}), 16);
    assert!(TensorFile::parse("w".into(), colloquy::files::Bytes::Owned(good.clone())).is_ok());
    for (what, bytes, expected) in [
        ("empty", vec![], "truncated"),
        ("no header", good[..20].to_vec(), "truncated"),
        ("data cut off", good[..good.len() - 1].to_vec(), "tensor b: found data offsets 8..16"),
        ("data too long", [&good[..], &[0]].concat(), "found 17 bytes of data, expected the 16"),
        ("huge header", vec![0xff; 64], "header length of 18446744073709551615"),
        ("long header", [&99_000_000u64.to_le_bytes()[..], b"{}"].concat(), "truncated"),
        ("not JSON", [&4u64.to_le_bytes()[..], b"abcd"].concat(), "header: found "),
        ("not UTF-8", [&4u64.to_le_bytes()[..], b"\"\xff\"}"].concat(), "header: found "),
        ("an array", [&2u64.to_le_bytes()[..], b"[]"].concat(), "header: found "),
        ("no offsets", safetensors(&json!({"a": {"dtype": "F32", "shape": [2]}}), 8), "tensor a: found "),
        (
            "negative",
            safetensors(&json!({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}), 8),
            "tensor a",
        ),
        (
            "odd type",
            safetensors(&json!({"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}), 8),
            "tensor a",
        ),
        (
            "out of range",
            safetensors(&json!({"a": entry(&[2], 0, 1 << 40)}), 8),
            "tensor a: found data offsets",
        ),
        ("backwards", safetensors(&json!({"a": entry(&[2], 8, 0)}), 8), "tensor a: found data offsets 8..0"),
        (
            "overlap",
            safetensors(&json!({"a": entry(&[2], 0, 8), "b": entry(&[2], 4, 12)}), 12),
            "tensor b: overlaps",
        ),
        (
            "same bytes",
            safetensors(&json!({"a": entry(&[2], 0, 8), "b": entry(&[2], 0, 8)}), 8),
            "tensor b: overlaps",
        ),
        (
            "gap",
            safetensors(&json!({"a": entry(&[2], 0, 8), "b": entry(&[2], 12, 20)}), 20),
            "tensor b: leaves a gap",
        ),
        ("size", safetensors(&json!({"a": entry(&[3], 0, 8)}), 8), "tensor a: found 8 bytes, expected 12"),
        ("overflow", safetensors(&json!({"a": entry(&[1 << 62, 1 << 62], 0, 8)}), 8), "an impossible number"),
        ("metadata", safetensors(&json!({"__metadata__": {"a": 1}}), 0), "__metadata__"),
    ] {
        let e = parse_error(bytes);
        assert!(e.contains(expected), "{what}: {e}");
    }
    // Every prefix of a good file is refused, none panics.
    for len in 0..good.len() {
        parse_error(good[..len].to_vec());
    }
}

// ---- whole folders ----

/// A copy of a fixture's config and weights, to be spoilt.
fn copy_of(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn load(folder: &Path, options: LoadOptions) -> Result<(Model, Sink)> {
    let files = ModelFiles::open(folder)?;
    let config = ModelConfig::read(&files)?;
    let mut sink = Sink::default();
    let model = Model::load(&files, config, &mut sink, options)?;
    Ok((model, sink))
}

fn load_error(folder: &Path) -> String {
    let e = load(folder, LoadOptions::default()).err().expect("the folder is broken").to_string();
    assert!(!e.contains('\n'), "{e}");
    e
}

/// Tensors as `(name, dtype, shape, bytes)`.
type Tensors = Vec<(String, String, Vec<usize>, Vec<u8>)>;

fn read_tensors(path: &Path) -> Tensors {
    let file = TensorFile::open(path).unwrap();
    file.names()
        .map(|name| {
            let (dtype, shape, bytes) = file.raw(name).unwrap();
            (name.to_string(), format!("{dtype:?}"), shape.to_vec(), bytes.to_vec())
        })
        .collect()
}

fn write_tensors(path: &Path, tensors: &Tensors) {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let mut file = safetensors(&Value::Object(header), 0);
    file.extend(data);
    std::fs::write(path, file).unwrap();
}

fn spoil(folder: &Path, change: impl FnOnce(&mut Tensors)) {
    let path = folder.join("model.safetensors");
    let mut tensors = read_tensors(&path);
    change(&mut tensors);
    write_tensors(&path, &tensors);
}

#[test]
fn folders_load_and_nothing_is_left_over() {
    for (name, tied) in [("llama", false), ("llama-tied", true)] {
        let (model, sink) =
            load(&fixture(name), LoadOptions { training: true, ..Default::default() }).unwrap();
        let config = model.config();
        assert_eq!(config.tie_word_embeddings, tied);
        assert_eq!(sink.linears, 2 * 4 + 1);
        assert_eq!(sink.packed_for_backward, sink.linears - 1, "all but the first qkv");
        let twice = if tied { config.vocab_size * config.hidden_size } else { 0 };
        assert_eq!(sink.elements, config.parameters() + twice);
        assert_eq!(sink.layout.as_ref(), Some(model.layout()));
        let (_, sink) = load(&fixture(name), LoadOptions::default()).unwrap();
        assert_eq!(sink.packed_for_backward, 0);
    }
}

#[test]
fn the_layout_names_parts_as_transformers_does() {
    let layout = adapter_layout(&config_with(|_| {}).unwrap());
    let parts: Vec<(u32, u32, usize, usize, &str)> = layout
        .parts()
        .map(|(p, g, _, part)| (p.0, g.0, part.start, part.outputs, part.module.as_str()))
        .collect();
    assert_eq!(parts.len(), 14);
    assert_eq!(parts[0], (0, 0, 0, 64, "model.layers.0.self_attn.q_proj"));
    assert_eq!(parts[1], (1, 0, 64, 32, "model.layers.0.self_attn.k_proj"));
    assert_eq!(parts[9], (9, 4, 96, 32, "model.layers.1.self_attn.v_proj"));
    assert_eq!(parts[12], (12, 6, 128, 128, "model.layers.1.mlp.up_proj"));
    assert_eq!(parts[13], (13, 7, 0, 64, "model.layers.1.mlp.down_proj"));
}

#[test]
fn biases_are_read_where_the_config_has_them() {
    let folder = copy_of("llama");
    spoil(folder.path(), |tensors| {
        for layer in 0..2 {
            for (module, outputs) in [("q", 64), ("k", 32), ("v", 32), ("o", 64)] {
                let name = format!("model.layers.{layer}.self_attn.{module}_proj.bias");
                tensors.push((name, "BF16".into(), vec![outputs], vec![0; 2 * outputs]));
            }
        }
    });
    let e = load_error(folder.path());
    assert!(e.contains("self_attn.k_proj.bias: found a tensor that a llama model"), "{e}");
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let config = config.replace("\"attention_bias\": false", "\"attention_bias\": true");
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let (_, sink) = load(folder.path(), LoadOptions::default()).unwrap();
    assert_eq!(sink.biases, 2 * 192);
}

#[test]
fn wrong_weights_are_named() {
    let norm = "model.layers.1.input_layernorm.weight";
    type Case = (&'static str, fn(&mut Tensors), &'static str);
    let cases: [Case; 5] = [
        (
            "missing",
            |t| t.retain(|t| t.0 != "model.norm.weight"),
            "tensor model.norm.weight: missing, expected shape [64]",
        ),
        (
            "shape",
            |t| {
                t.iter_mut().for_each(|t| {
                    t.2 = if t.0.ends_with("o_proj.weight") { vec![32, 128] } else { t.2.clone() }
                })
            },
            "tensor model.layers.0.self_attn.o_proj.weight: found shape [32, 128], expected [64, 64]",
        ),
        (
            "rank",
            |t| {
                t.iter_mut()
                    .for_each(|t| t.2 = if t.0 == "lm_head.weight" { vec![256 * 64] } else { t.2.clone() })
            },
            "tensor lm_head.weight: found shape [16384], expected [256, 64]",
        ),
        (
            "type",
            |t| {
                t.iter_mut()
                    .filter(|t| t.0.ends_with("1.input_layernorm.weight"))
                    .for_each(|t| t.1 = "I32".into())
            },
            "found type I32, expected F32, F16 or BF16",
        ),
        (
            "extra",
            |t| t.push(("model.layers.2.mlp.up_proj.weight".into(), "F32".into(), vec![1], vec![0; 4])),
            "tensor model.layers.2.mlp.up_proj.weight: found a tensor that a llama model",
        ),
    ];
    for (what, change, expected) in cases {
        let folder = copy_of("llama");
        spoil(folder.path(), change);
        let e = load_error(folder.path());
        assert!(e.contains(expected) && e.contains("model.safetensors"), "{what}: {e}");
        assert_eq!(what == "type", e.contains(norm), "{e}");
    }
    let folder = copy_of("llama");
    spoil(folder.path(), |t| {
        t.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), "F32".into(), vec![8], vec![0; 32]));
    });
    load(folder.path(), LoadOptions::default()).expect("frequencies stored by old versions are harmless");
}

#[test]
fn missing_files_are_named() {
    let folder = TempDir::new().unwrap();
    assert!(load_error(&folder.path().join("nowhere")).contains("nowhere: found no folder"));
    assert!(load_error(folder.path()).contains("config.json"));
    std::fs::copy(fixture("llama/config.json"), folder.path().join("config.json")).unwrap();
    assert!(
        load_error(folder.path())
            .contains("found no weights, expected model.safetensors or model.safetensors.index.json")
    );
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    assert!(load_error(folder.path()).contains("model.safetensors: found something that is not a file"));
}

#[test]
fn sharded_weights() {
    let folder = copy_of("llama");
    let path = |name: &str| folder.path().join(name);
    let tensors = read_tensors(&path("model.safetensors"));
    std::fs::remove_file(path("model.safetensors")).unwrap();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    write_tensors(&path(names[0]), &first.to_vec());
    write_tensors(&path(names[1]), &second.to_vec());
    let mut map = serde_json::Map::new();
    for (shard, tensors) in names.iter().zip([first, second]) {
        map.extend(tensors.iter().map(|t| (t.0.clone(), json!(shard))));
    }
    let write_index = |map: &serde_json::Map<String, Value>| {
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
        std::fs::write(path("model.safetensors.index.json"), index).unwrap();
    };
    write_index(&map);
    let (_, whole) = load(&fixture("llama"), LoadOptions::default()).unwrap();
    let (_, sharded) = load(folder.path(), LoadOptions::default()).unwrap();
    assert_eq!(sharded.elements, whole.elements);

    for outside in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "."] {
        let mut map = map.clone();
        map.insert("lm_head.weight".into(), json!(outside));
        write_index(&map);
        let e = load_error(folder.path());
        assert!(
            e.contains("weight_map.lm_head.weight: found") && e.contains("inside the folder"),
            "{outside}: {e}"
        );
    }
    let mut wrong = map.clone();
    wrong.insert("lm_head.weight".into(), json!(names[1]));
    write_index(&wrong);
    let e = load_error(folder.path());
    assert!(
        e.contains("tensor lm_head.weight: missing, expected it here by model.safetensors.index.json"),
        "{e}"
    );
    wrong.insert("lm_head.weight".into(), json!("absent.safetensors"));
    write_index(&wrong);
    assert!(load_error(folder.path()).contains("absent.safetensors"));
    map.remove("lm_head.weight");
    write_index(&map);
    let e = load_error(folder.path());
    assert!(e.contains("index.json, tensor lm_head.weight: missing"), "{e}");
}

// ---- steps ----

#[test]
fn buffers_are_planned_as_they_are_taken() {
    let (model, mut sink) =
        load(&fixture("llama"), LoadOptions { training: true, ..Default::default() }).unwrap();
    for (mode, shrink) in [(Mode::Inference, 0), (Mode::Inference, 96), (Mode::Training, 48)] {
        sink.tensors.clear();
        sink.freed = 0;
        let acts = Activations::new(&mut sink, &model, 40, 7, 4, shrink, mode).unwrap();
        let taken: usize = sink.tensors.iter().map(|t| t.rows * t.width * 4).sum();
        assert_eq!(Activations::bytes(model.config(), 40, 7, 4, shrink, mode, 4), taken);
        assert!(Activations::bytes(model.config(), 40, 7, 4, shrink, mode, 2) < taken);
        acts.free(&mut sink);
        assert_eq!(sink.freed, sink.tensors.len());
    }
}

#[test]
fn steps_are_the_same_operations_whatever_the_batch() {
    let (model, mut sink) =
        load(&fixture("llama"), LoadOptions { training: true, ..Default::default() }).unwrap();
    let count = |sink: &Sink, name: &str| sink.ops.iter().filter(|o| **o == name).count();
    let acts = Activations::new(&mut sink, &model, 8, 8, 4, 16, Mode::Inference).unwrap();
    model.forward_sample(&mut sink, &acts, KvPool(0)).unwrap();
    assert_eq!((count(&sink, "linear_forward"), count(&sink, "attention_paged")), (8, 2));
    assert_eq!((sink.ops[0], *sink.ops.last().unwrap()), ("copy_pages", "lm_head_sample"));
    sink.ops.clear();
    model.forward_score(&mut sink, &acts).unwrap();
    assert_eq!((count(&sink, "linear_forward"), count(&sink, "attention_packed")), (8, 2));
    assert_eq!(*sink.ops.last().unwrap(), "lm_head_loss");
    assert!(
        model.forward_backward(&mut sink, &acts, false).is_err(),
        "inference buffers keep nothing for a backward"
    );
    sink.ops.clear();
    let acts = Activations::new(&mut sink, &model, 8, 8, 4, 16, Mode::Training).unwrap();
    model.forward_backward(&mut sink, &acts, false).unwrap();
    assert_eq!((count(&sink, "linear_forward"), count(&sink, "linear_backward")), (8, 8));
    assert_eq!(*sink.ops.last().unwrap(), "linear_backward", "nothing below the first qkv");
}

#[test]
fn the_embedded_model_loads() {
    let files = ModelFiles::named("embedded").unwrap();
    let config = ModelConfig::read(&files).unwrap();
    assert!(!config.eos_token_ids.is_empty());
    let mut sink = Sink::default();
    let model =
        Model::load(&files, config, &mut sink, LoadOptions { training: true, ..Default::default() }).unwrap();
    assert_eq!(model.config().model_type, "llama");
    assert_eq!(
        files.contents().map(|(name, _)| name).collect::<Vec<_>>().last().unwrap(),
        "model.safetensors"
    );
}

#[test]
fn files_are_written_whole_or_not_at_all() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.json");
    colloquy::files::write_whole(&path, b"one").unwrap();
    colloquy::files::write_whole(&path, b"two").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    let e = colloquy::files::write_whole(&path.join("b.json"), b"x").unwrap_err().to_string();
    assert!(e.contains("a.json"), "{e}");
}
