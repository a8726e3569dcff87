//! Shrunk models of every family, whose weights are a formula of a tensor's name
//! (`tools/family_fixtures.py`).

use std::collections::BTreeMap;

use colloquy::backend::mix;
use serde_json::Value;

/// Numbers in -1 .. 1 of a tensor's name, as in the tool.
pub fn unit(name: &str, count: usize) -> impl Iterator<Item = f32> {
    let seed =
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    (1..=count as u64).map(move |i| {
        let bits = mix(seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 40;
        bits as f32 / (1u64 << 23) as f32 - 1.0
    })
}

/// Names and shapes of a model's tensors, as transformers has them.
pub fn tensors(config: &Value) -> Vec<(String, Vec<usize>)> {
    let size = |field: &str| config[field].as_u64().map(|n| n as usize);
    let (v, d, f) =
        (size("vocab_size").unwrap(), size("hidden_size").unwrap(), size("intermediate_size").unwrap());
    let (h, k) = (size("num_attention_heads").unwrap(), size("num_key_value_heads").unwrap());
    let family = config["model_type"].as_str().unwrap();
    let head = size("head_dim").unwrap_or(if family == "qwen3" { 128 } else { d / h });
    let mut all = vec![("model.embed_tokens.weight".to_string(), vec![v, d])];
    all.push(("model.norm.weight".into(), vec![d]));
    if config["tie_word_embeddings"] != true {
        all.push(("lm_head.weight".into(), vec![v, d]));
    }
    for i in 0..size("num_hidden_layers").unwrap() {
        let mut add = |name: &str, shape: Vec<usize>, bias: bool| {
            let name = format!("model.layers.{i}.{name}");
            if bias {
                all.push((format!("{name}.bias"), vec![shape[0]]));
            }
            all.push((format!("{name}.weight"), shape));
        };
        let bias = config["attention_bias"] == true;
        if family == "phi3" {
            add("self_attn.qkv_proj", vec![(h + 2 * k) * head, d], false);
            add("mlp.gate_up_proj", vec![2 * f, d], false);
        } else {
            add("self_attn.q_proj", vec![h * head, d], bias || family == "qwen2");
            add("self_attn.k_proj", vec![k * head, d], bias || family == "qwen2");
            add("self_attn.v_proj", vec![k * head, d], bias || family == "qwen2");
            let bias = config["mlp_bias"] == true;
            add("mlp.gate_proj", vec![f, d], bias);
            add("mlp.up_proj", vec![f, d], bias);
        }
        add("self_attn.o_proj", vec![d, h * head], bias);
        add("mlp.down_proj", vec![d, f], config["mlp_bias"] == true);
        add("input_layernorm", vec![d], false);
        add("post_attention_layernorm", vec![d], false);
        if family == "qwen3" {
            add("self_attn.q_norm", vec![head], false);
            add("self_attn.k_norm", vec![head], false);
        }
    }
    all
}

/// A model's folder. `stored` gives tensors another name for the formula, or null for tensors that
/// are not there.
pub fn folder(config: &Value, stored: &Value) -> tempfile::TempDir {
    let mut shapes: BTreeMap<String, (Vec<usize>, String)> =
        tensors(config).into_iter().map(|(name, shape)| (name.clone(), (shape, name))).collect();
    let matrix = shapes["model.embed_tokens.weight"].0.clone();
    for (name, source) in stored.as_object().into_iter().flatten() {
        match source.as_str() {
            Some(source) => drop(shapes.insert(name.clone(), (matrix.clone(), source.into()))),
            None => drop(shapes.remove(name)),
        }
    }
    let data: BTreeMap<String, (Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, (shape, source))| {
            let values = unit(&source, shape.iter().product()).map(|u| match shape[..] {
                [_, columns] => u * (2.0 / (columns as f32).sqrt()),
                _ if name.ends_with(".bias") => u * 0.3,
                _ => 1.0 + u * 0.3,
            });
            let bytes = values.flat_map(f32::to_le_bytes).collect();
            (name, (shape, bytes))
        })
        .collect();
    let views = data.iter().map(|(name, (shape, bytes))| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.unwrap())
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    folder
}

/// The tokens of a sequence.
pub fn tokens(sequence: &Value) -> Vec<u32> {
    sequence["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect()
}
