//! What tests of the engine share: tiny random models and adapters, and engines over them.

use std::collections::HashMap;
use std::rc::Rc;

use colloquy::adapter::{NewAdapter, Snapshot};
use colloquy::backend::{AdapterLayout, Backend, LoraMatrix, cpu::CpuBackend};
use colloquy::engine::*;
use colloquy::error::{Error, Result};
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};
use futures::future::LocalBoxFuture;

pub use super::random::Random;

/// A random model of Llama's architecture.
#[derive(Clone, Copy, Debug)]
pub struct Tiny {
    pub vocab: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub context: usize,
    /// Token that ends a sequence; `None` for one that is never drawn.
    pub eos: Option<u32>,
    pub seed: u64,
}

pub const TINY: Tiny = Tiny {
    vocab: 64,
    hidden: 32,
    intermediate: 48,
    layers: 2,
    heads: 2,
    kv_heads: 1,
    context: 128,
    eos: None,
    seed: 1,
};

impl Tiny {
    /// A model folder.
    pub fn folder(&self) -> tempfile::TempDir {
        let head_dim = 16;
        let eos = self.eos.map_or(serde_json::Value::Null, |e| e.into());
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": self.vocab,
            "hidden_size": self.hidden, "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "head_dim": head_dim, "hidden_act": "silu",
            "max_position_embeddings": self.context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "rope_scaling": null, "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false,
            "bos_token_id": 1, "eos_token_id": eos,
        });
        let mut shapes = vec![
            ("model.embed_tokens.weight".to_string(), vec![self.vocab, self.hidden]),
            ("model.norm.weight".to_string(), vec![self.hidden]),
            ("lm_head.weight".to_string(), vec![self.vocab, self.hidden]),
        ];
        let (q, kv) = (self.heads * head_dim, self.kv_heads * head_dim);
        for i in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![self.hidden]),
                ("post_attention_layernorm", vec![self.hidden]),
                ("self_attn.q_proj", vec![q, self.hidden]),
                ("self_attn.k_proj", vec![kv, self.hidden]),
                ("self_attn.v_proj", vec![kv, self.hidden]),
                ("self_attn.o_proj", vec![self.hidden, q]),
                ("mlp.gate_proj", vec![self.intermediate, self.hidden]),
                ("mlp.up_proj", vec![self.intermediate, self.hidden]),
                ("mlp.down_proj", vec![self.hidden, self.intermediate]),
            ] {
                shapes.push((format!("model.layers.{i}.{name}.weight"), shape));
            }
        }
        let mut random = Random(self.seed);
        let mut data: HashMap<String, (Vec<usize>, Vec<u8>)> = HashMap::new();
        for (name, shape) in shapes {
            let count: usize = shape.iter().product();
            let values = (0..count).map(|_| match shape[..] {
                [_] => 1.0 + 0.3 * random.signed(),
                _ => 3.0 * random.signed() / (shape[1] as f32).sqrt(),
            });
            data.insert(name, (shape.clone(), values.flat_map(f32::to_le_bytes).collect()));
        }
        let views = data.iter().map(|(name, (shape, bytes))| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            (name.as_str(), view.unwrap())
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let weights = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), weights).unwrap();
        folder
    }

    /// Loads the model, for training too.
    pub fn load(&self, backend: &mut dyn Backend) -> Model {
        let folder = self.folder();
        let files = ModelFiles::open(folder.path()).unwrap();
        let config = ModelConfig::read(&files).unwrap();
        Model::load(&files, config, backend, LoadOptions { training: true, ..Default::default() }).unwrap()
    }

    /// An engine on the CPU.
    pub fn engine(&self, threads: usize, options: EngineOptions) -> Engine {
        let mut backend: Box<dyn Backend> = Box::new(CpuBackend::new(threads).unwrap());
        let model = self.load(&mut *backend);
        Engine::new(backend, model, options).unwrap()
    }

    /// An engine on any backend, shared.
    pub fn handle_on(&self, mut backend: Box<dyn Backend>, options: EngineOptions) -> EngineHandle {
        let model = self.load(&mut *backend);
        EngineHandle::new(Engine::new(backend, model, options).unwrap())
    }

    /// An engine on the CPU, shared.
    pub fn handle(&self, threads: usize, options: EngineOptions) -> EngineHandle {
        EngineHandle::new(self.engine(threads, options))
    }
}

/// Small limits.
pub fn options() -> EngineOptions {
    EngineOptions {
        max_rows: 64,
        max_sequences: 32,
        micro_batch_rows: 256,
        page_tokens: 16,
        kv: KvBudget::Pages(256),
        lm_head_rows: 8,
        training: true,
        ..EngineOptions::default()
    }
}

/// The layout of an engine's adapters.
pub fn layout(handle: &EngineHandle) -> AdapterLayout {
    handle.with(|e| e.model().layout().clone())
}

/// An adapter with B zero.
pub fn fresh_adapter(layout: &AdapterLayout, rank: usize, seed: u64) -> Snapshot {
    NewAdapter { rank, init_seed: seed, ..Default::default() }.snapshot(layout).unwrap()
}

/// An adapter that changes much: its term is about as large as the base's.
pub fn strong_adapter(layout: &AdapterLayout, rank: usize, seed: u64) -> Snapshot {
    let mut snapshot = fresh_adapter(layout, rank, seed);
    let mut random = Random(seed ^ 0xb);
    for (_, matrix, values) in &mut snapshot.weights {
        if *matrix == LoraMatrix::B {
            values.iter_mut().for_each(|v| *v = random.signed());
        }
    }
    snapshot
}

/// Makes an adapter of an engine.
pub fn add(handle: &EngineHandle, snapshot: &Snapshot) -> AdapterId {
    handle.create(AdapterSource::Snapshot(snapshot.clone().into())).unwrap()
}

/// Queues all of `work` at once and runs the engine until everything is answered.
pub fn answers<T: 'static>(
    handle: &EngineHandle,
    work: Vec<LocalBoxFuture<'static, Result<T>>>,
) -> Vec<Result<T>> {
    let results = Rc::new(std::cell::RefCell::new(Vec::new()));
    let into = results.clone();
    let lane = Box::pin(async move {
        let all = futures::future::join_all(work).await;
        into.borrow_mut().extend(all);
        Ok(())
    });
    run_lanes(handle, vec![lane]).unwrap();
    results.take()
}

/// Samples of all requests, queued at once.
pub fn samples(handle: &EngineHandle, requests: &[SampleRequest]) -> Vec<Sample> {
    let work = requests.iter().map(|r| handle.sample(r.clone())).collect();
    answers(handle, work).into_iter().map(Result::unwrap).collect()
}

/// The score of a sequence.
pub fn score(handle: &EngineHandle, adapter: AdapterId, tokens: &[u32]) -> Score {
    let work = vec![handle.score(ScoreRequest { adapter, tokens: tokens.into() })];
    answers(handle, work).remove(0).unwrap()
}

/// Metrics of all requests, queued at once.
pub fn train(handle: &EngineHandle, requests: &[TrainRequest]) -> Vec<Result<Vec<StepMetrics>>> {
    answers(handle, requests.iter().map(|r| handle.train(r.clone())).collect())
}

/// A sampling request at temperature 1.
pub fn request(adapter: AdapterId, prompt: &[u32], max_tokens: u32, key: u64) -> SampleRequest {
    SampleRequest {
        adapters: vec![(adapter, 1.0)],
        prompt: prompt.into(),
        params: SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, max_tokens },
        key,
        iteration: 0,
        kind: SampleKind::default(),
        priority: 0,
        stop: None,
    }
}

/// Random sequences; about a third of the tokens have no loss, some a weight other than 1.
pub fn sequences(
    random: &mut Random,
    count: usize,
    lengths: (usize, usize),
    vocab: usize,
) -> Vec<TrainSequence> {
    (0..count)
        .map(|_| {
            let n = lengths.0 + random.below(lengths.1 - lengths.0 + 1);
            let mut weights: Vec<f32> = (0..n).map(|_| [0.0, 1.0, 1.0, 0.5][random.below(4)]).collect();
            weights[n - 1 - random.below(n.min(3) - 1)] = 1.0;
            TrainSequence { tokens: random.tokens(n, vocab), weights }
        })
        .collect()
}

/// An optimizer step that minimises the weighted mean.
pub fn step(sequences: Vec<u32>, learning_rate: f32) -> TrainStep {
    TrainStep { sequences, learning_rate, normalizer: Normalizer::Weights }
}

/// A request that goes through `sequences` in batches.
pub fn train_request(
    adapter: AdapterId,
    sequences: &[TrainSequence],
    batch: usize,
    learning_rate: f32,
) -> TrainRequest {
    let indices: Vec<u32> = (0..sequences.len() as u32).collect();
    TrainRequest {
        adapter,
        name: format!("adapter {}", adapter.0).into(),
        sequences: sequences.to_vec().into(),
        steps: indices.chunks(batch).map(|c| step(c.to_vec(), learning_rate)).collect(),
        optimizer: Optimizer { weight_decay: 0.1, ..Optimizer::default() },
        fresh_moments: true,
        key: 0,
    }
}

/// The bits of everything in a snapshot, so that NaN equals itself.
pub fn bits(snapshot: &Snapshot) -> Vec<u32> {
    let moments = snapshot.moments.iter().flat_map(|m| m.first.iter().chain(&m.second));
    let values = snapshot.weights.iter().chain(moments).flat_map(|m| &m.2).map(|v| v.to_bits());
    snapshot.moments.iter().map(|m| m.steps).chain(values).collect()
}

/// The message of an error.
pub fn message<T>(result: &Result<T>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(e) => e.to_string(),
    }
}

/// Whether it is an [`Error::NotFinite`].
pub fn is_not_finite<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::NotFinite(_)))
}
