//! The engine at the shape of SmolLM2-135M, as a society uses it: prefill, decode at batch 24, and a training step, with 6 adapters of
//! rank 16 in one mixed batch, and the base alone beside it. Weights are random: throughput does not depend on the text. The
//! settings are those of a common PEFT comparison (24 prompts of 128 tokens, 32 new ones; 4 sequences of 256 tokens an adapter), so
//! that the tokens a second can be put side by side.
//!
//!     cargo bench --bench society                      all
//!     cargo bench --bench society -- decode            one
//!     COLLOQUY_THREADS=1 cargo bench --bench society   threads (default: all cores)

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use colloquy::adapter::NewAdapter;
use colloquy::backend::cpu::CpuBackend;
use colloquy::engine::{
    AdapterId, AdapterSource, Engine, EngineOptions, Normalizer, Optimizer, SampleKind, SampleRequest,
    SamplingParams, TrainRequest, TrainSequence, TrainStep,
};
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const ADAPTERS: usize = 6;
const BATCH: usize = 24;
const PROMPT: usize = 128;
const NEW: usize = 32;
const TRAIN_SEQUENCES: usize = 4;
const TRAIN_TOKENS: usize = 256;

/// SmolLM2-135M.
const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const LAYERS: usize = 30;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const VOCAB: usize = 49152;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        colloquy::backend::mix(self.0)
    }

    /// Uniform in [-1, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn token(&mut self) -> u32 {
        5 + (self.next() % (VOCAB as u64 - 5)) as u32
    }
}

/// Writes a model folder with random bf16 weights of about the size that training gives them.
fn write_model(folder: &Path) {
    let kv = HIDDEN / HEADS * KV_HEADS;
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "tie_word_embeddings": true, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048, "hidden_act": "silu", "rope_theta": 10000.0,
        "bos_token_id": null, "eos_token_id": null,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("config.json");
    let mut random = Random(1);
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        let value = |random: &mut Random| if shape.len() == 1 { 1.0 } else { random.unit() * 0.07 };
        let elements = 0..shape.iter().product::<usize>();
        let bytes = elements.flat_map(|_| half::bf16::from_f32(value(&mut random)).to_le_bytes()).collect();
        tensors.push((name, shape.to_vec(), bytes));
    };
    add("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN]);
    add("model.norm.weight".into(), &[HIDDEN]);
    for i in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", &[HIDDEN][..]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("self_attn.q_proj", &[HIDDEN, HIDDEN]),
            ("self_attn.k_proj", &[kv, HIDDEN]),
            ("self_attn.v_proj", &[kv, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, HIDDEN]),
            ("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", &[INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, INTERMEDIATE]),
        ] {
            add(format!("model.layers.{i}.{name}.weight"), shape);
        }
    }
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes);
            (name.clone(), view.expect("a consistent view"))
        })
        .collect();
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors"))
        .expect("model.safetensors");
}

/// An engine with [`ADAPTERS`] adapters whose B is not zero.
fn engine(folder: &Path) -> (Engine, Vec<AdapterId>) {
    let threads = std::env::var("COLLOQUY_THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    let mut backend = CpuBackend::new(threads).expect("threads");
    let files = ModelFiles::open(folder).expect("model folder");
    let config = ModelConfig::read(&files).expect("config.json");
    let load = LoadOptions { training: true, max_positions: Some(512) };
    let model = Model::load(&files, config, &mut backend, load).expect("weights");
    let options = EngineOptions {
        // A batch's prompts are one step, so that decoding begins for all of it at once.
        max_rows: BATCH * PROMPT,
        adapters: ADAPTERS,
        training: true,
        micro_batch_rows: TRAIN_SEQUENCES * TRAIN_TOKENS,
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(Box::new(backend), model, options).expect("memory");
    let layout = engine.model().layout().clone();
    let adapters = (0..ADAPTERS)
        .map(|i| {
            let mut snapshot = NewAdapter::default().snapshot(&layout).expect("a new adapter");
            let mut random = Random(100 + i as u64);
            for (_, _, values) in &mut snapshot.weights {
                values.iter_mut().for_each(|v| *v = random.unit() * 0.025);
            }
            engine.create(&AdapterSource::Snapshot(Arc::new(snapshot))).expect("a slot")
        })
        .collect();
    (engine, adapters)
}

/// Queues a batch of new random prompts spread over `adapters`.
fn submit(engine: &mut Engine, adapters: &[AdapterId], random: &mut Random, max_tokens: usize) {
    for i in 0..BATCH {
        let request = SampleRequest {
            adapters: vec![(adapters[i * adapters.len() / BATCH], 1.0)],
            prompt: (0..PROMPT).map(|_| random.token()).collect(),
            params: SamplingParams {
                temperature: 1.0,
                top_k: 0,
                top_p: 0.9,
                min_p: 0.0,
                max_tokens: max_tokens as u32,
            },
            key: random.next(),
            iteration: 0,
            kind: SampleKind::default(),
            priority: 0,
            stop: None,
        };
        engine.sample(request).expect("a request");
    }
}

fn drain(engine: &mut Engine) {
    while engine.step().expect("a step") {}
}

/// Time of [`NEW`] tokens of the whole batch, after the first ones were drawn.
fn decode(engine: &mut Engine, adapters: &[AdapterId], random: &mut Random) -> Duration {
    submit(engine, adapters, random, NEW + 1);
    let first = engine.stats().sampling.tokens + BATCH as u64;
    while engine.stats().sampling.tokens < first {
        engine.step().expect("a step");
    }
    let start = Instant::now();
    drain(engine);
    start.elapsed()
}

/// One optimizer step of every adapter.
fn train(engine: &mut Engine, adapters: &[AdapterId], sequences: &Arc<[TrainSequence]>) {
    for &adapter in adapters {
        let request = TrainRequest {
            adapter,
            name: format!("adapter {}", adapter.0).into(),
            sequences: sequences.clone(),
            steps: vec![TrainStep {
                sequences: (0..TRAIN_SEQUENCES as u32).collect(),
                learning_rate: 1e-5,
                normalizer: Normalizer::default(),
            }],
            optimizer: Optimizer::default(),
            fresh_moments: false,
            key: 0,
        };
        drop(engine.train(request).expect("a request"));
    }
    drain(engine);
}

fn benches(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_model(folder.path());
    let (mut engine, adapters) = engine(folder.path());
    let mut random = Random(7);
    let who = [("6-adapters", &adapters[..]), ("base", &[AdapterId::BASE])];

    let mut group = c.benchmark_group("smollm2-135m");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(20));

    group.throughput(Throughput::Elements((BATCH * NEW) as u64));
    for (name, adapters) in who {
        group.bench_function(format!("decode/{name}"), |b| {
            b.iter_custom(|n| (0..n).map(|_| decode(&mut engine, adapters, &mut random)).sum());
        });
    }

    group.throughput(Throughput::Elements((BATCH * PROMPT) as u64));
    for (name, adapters) in who {
        group.bench_function(format!("prefill/{name}"), |b| {
            b.iter(|| {
                submit(&mut engine, adapters, &mut random, 1);
                drain(&mut engine);
            });
        });
    }

    group.throughput(Throughput::Elements((ADAPTERS * TRAIN_SEQUENCES * TRAIN_TOKENS) as u64));
    let sequences: Arc<[TrainSequence]> = (0..TRAIN_SEQUENCES)
        .map(|_| TrainSequence {
            tokens: (0..TRAIN_TOKENS).map(|_| random.token()).collect(),
            weights: vec![1.0; TRAIN_TOKENS],
        })
        .collect();
    group.bench_function("train/6-adapters", |b| b.iter(|| train(&mut engine, &adapters, &sequences)));
    group.finish();
}

criterion_group!(society, benches);
criterion_main!(society);
