//! Loading takes little more memory than what it leaves: in a process of its own, as the operating system counts all of it.

use std::io::{BufWriter, Write};
use std::path::Path;

use colloquy::backend::Backend;
use colloquy::backend::cpu::CpuBackend;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};

use crate::common::alone;

const VOCAB: usize = 32_000;
const HIDDEN: usize = 384;
const INTERMEDIATE: usize = 1024;
const LAYERS: usize = 4;

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// A bf16 model, written in small pieces so that nothing of it is in memory before it is loaded.
fn write_model(folder: &Path, tied: bool) {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": tied,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let (d, f, kv) = (HIDDEN, INTERMEDIATE, 2 * HIDDEN / 6);
    let mut tensors: Vec<(String, Vec<usize>)> = vec![("model.embed_tokens.weight".into(), vec![VOCAB, d])];
    for i in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![d]),
            ("self_attn.q_proj", vec![d, d]),
            ("self_attn.k_proj", vec![kv, d]),
            ("self_attn.v_proj", vec![kv, d]),
            ("self_attn.o_proj", vec![d, d]),
            ("post_attention_layernorm", vec![d]),
            ("mlp.gate_proj", vec![f, d]),
            ("mlp.up_proj", vec![f, d]),
            ("mlp.down_proj", vec![d, f]),
        ] {
            tensors.push((format!("model.layers.{i}.{name}.weight"), shape));
        }
    }
    tensors.push(("model.norm.weight".into(), vec![d]));
    tensors.push(("lm_head.weight".into(), vec![VOCAB, d]));
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in &tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::to_string(&header).unwrap();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = BufWriter::new(std::fs::File::create(folder.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let piece: Vec<u8> =
        (0..4096u16).flat_map(|i| half::bf16::from_f32(f32::from(i) / 4096.0).to_le_bytes()).collect();
    // Embedding and lm_head are the same but for the last number.
    for (name, shape) in &tensors {
        let mut left = 2 * shape.iter().product::<usize>();
        while left > 0 {
            let n = left.min(piece.len());
            let mut part = piece[..n].to_vec();
            left -= n;
            if left == 0 && name == "lm_head.weight" {
                part[n - 2] ^= 1;
            }
            file.write_all(&part).unwrap();
        }
    }
    file.flush().unwrap();
}

#[test]
fn loading_peaks_at_the_packed_weights_and_a_tenth() {
    alone(module_path!(), "loading_peaks_at_the_packed_weights_and_a_tenth", peaks);
}

fn peaks() {
    // Where the ends are said to be tied and both are stored, they are compared first, to their
    // last number.
    for (tied, training) in [(false, false), (false, true), (true, false)] {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), tied);
        let mut backend = CpuBackend::new(2).unwrap();
        // 5 sets the peak back to what is there now.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmRSS:");
        let files = ModelFiles::open(folder.path()).unwrap();
        let config = ModelConfig::read(&files).unwrap();
        let options = LoadOptions { training, ..Default::default() };
        assert_eq!(config.unties, tied);
        let model = Model::load(&files, config, &mut backend, options).unwrap();
        let (peak, packed) = (status("VmHWM:") - before, backend.bytes_in_use());
        assert!(packed > 80 << 20, "{packed}");
        println!(
            "tied {tied}, training {training}: {packed} bytes packed, {peak} at the peak, {:.3}",
            peak as f64 / packed as f64
        );
        assert!(peak as f64 <= 1.1 * packed as f64, "{packed} bytes packed, {peak} at the peak");
        drop((model, files));
    }
}
