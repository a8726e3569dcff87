//! The memory plan holds for the embedded model: what the backend and its operations hold after sampling, scoring and training is what was
//! planned. In a process of its own, because the buffers of operations are the process's.

use std::sync::Arc;

use colloquy::adapter::NewAdapter;
use colloquy::backend::Backend;
use colloquy::backend::cpu::CpuBackend;
use colloquy::engine::*;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};

use crate::common::alone;

/// The backend under an engine.
fn cpu(engine: &mut Engine) -> &CpuBackend {
    let backend: &dyn std::any::Any = engine.backend();
    backend.downcast_ref().expect("the backend the engine was made with")
}

fn engine(threads: usize, options: EngineOptions) -> Engine {
    let files = ModelFiles::embedded().unwrap();
    let config = ModelConfig::read(&files).unwrap();
    let mut backend = CpuBackend::new(threads).unwrap();
    let load = LoadOptions { training: options.training, max_positions: None };
    let model = Model::load(&files, config, &mut backend, load).unwrap();
    Engine::new(Box::new(backend), model, options).unwrap()
}

/// Adapters, each of which samples, scores and trains as much as the limits allow at once.
fn work(engine: &mut Engine, adapters: usize) {
    let layout = engine.model().layout().clone();
    let (context, vocab) = (engine.config().max_positions, engine.config().vocab_size as u32);
    let tokens = |salt: u32, len: usize| -> Vec<u32> {
        (0..len as u32).map(|i| colloquy::backend::mix(u64::from(i * 31 + salt)) as u32 % vocab).collect()
    };
    let dropout = if engine.plan().options.dropout { 0.1 } else { 0.0 };
    let new = NewAdapter { init_seed: 1, dropout, ..NewAdapter::default() };
    let source = AdapterSource::Snapshot(Arc::new(new.snapshot(&layout).unwrap()));
    let ids: Vec<AdapterId> = (0..adapters).map(|_| engine.create(&source).unwrap()).collect();
    let mut waiting = Vec::new();
    for (a, &adapter) in ids.iter().enumerate() {
        for s in 0..16 {
            let request = SampleRequest {
                adapters: vec![(adapter, 1.0)],
                prompt: tokens(s * 7 + a as u32, 60).into(),
                params: SamplingParams { max_tokens: 20, temperature: 1.0, top_k: 5, top_p: 0.9, min_p: 0.0 },
                key: u64::from(s),
                iteration: 0,
                kind: SampleKind::default(),
                priority: 0,
                stop: None,
            };
            waiting.push(engine.sample(request).unwrap());
        }
        for s in 0..2 {
            let tokens = tokens(s, 250.min(context)).into();
            drop(engine.score(ScoreRequest { adapter, tokens }).unwrap());
        }
    }
    while engine.step().unwrap() {}
    for (a, &adapter) in ids.iter().enumerate() {
        let sequences: Vec<TrainSequence> = (0..4u32)
            .map(|s| {
                let tokens = tokens(s + 100 * a as u32, if s % 2 == 0 { 300.min(context) } else { 9 });
                TrainSequence { weights: vec![1.0; tokens.len()], tokens }
            })
            .collect();
        let steps = vec![
            TrainStep {
                sequences: (0..4).collect(),
                learning_rate: 1e-3,
                normalizer: Normalizer::Weights,
            };
            2
        ];
        let optimizer = Optimizer::default();
        let request = TrainRequest {
            adapter,
            name: format!("adapter {}", adapter.0).into(),
            sequences: sequences.into(),
            steps,
            optimizer,
            fresh_moments: true,
            key: 0,
        };
        drop(engine.train(request).unwrap());
    }
    while engine.step().unwrap() {}
}

#[test]
fn what_is_held_is_what_was_planned() {
    alone(module_path!(), "what_is_held_is_what_was_planned", held);
}

fn held() {
    // What fits, and limits that a memory limit lowers.
    let unlimited = EngineOptions { adapters: 3, max_rank: 16, training: true, ..EngineOptions::default() };
    let total = engine(2, unlimited).plan().total();
    let cases = [(2, None, false), (3, Some(total), false), (1, Some(total / 2), false), (2, None, true)];
    for (threads, limit, dropout) in cases {
        let mut engine = engine(threads, EngineOptions { memory_limit: limit, dropout, ..unlimited });
        let plan = engine.plan().clone();
        assert!(limit.is_none_or(|limit| plan.total() <= limit), "{plan}");
        work(&mut engine, 3);
        let backend = cpu(&mut engine);
        let (held, workspace) = (backend.bytes_in_use(), backend.workspace_held());
        let planned = plan.total() - plan.beside;
        assert!(held <= planned, "{held} bytes held, {planned} planned:\n{plan}");
        assert!(held >= planned * 9 / 10, "{held} bytes held, {planned} planned:\n{plan}");
        assert!(workspace <= plan.beside, "{workspace} bytes of workspace:\n{plan}");
        assert!(workspace >= plan.beside / 20, "{workspace} bytes of workspace:\n{plan}");
    }
}
