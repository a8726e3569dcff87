//! Three optimizer steps of two adapters, fused by the engine, against transformers and PEFT.

mod common;

use std::path::Path;

use colloquy::adapter::{Snapshot, matrices, read_peft};
use colloquy::backend::{Backend, LoraMatrix, cpu::CpuBackend};
use colloquy::engine::*;
use colloquy::files::TensorFile;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};
use common::*;

/// The adapters and the sequences each trains on (reference.json).
const ADAPTERS: [(&str, &[usize]); 2] = [("a", &[0, 1, 2]), ("b", &[2, 3])];

fn integers(reference: &TensorFile, name: &str) -> Vec<i64> {
    let (_, _, bytes) = reference.raw(name).unwrap();
    bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn numbers(reference: &TensorFile, name: &str) -> Vec<f32> {
    let shape = reference.shape(name).unwrap_or_else(|| panic!("no {name}")).to_vec();
    reference.values(name, &shape).unwrap()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn three_fused_steps_match_peft() {
    for model in ["llama", "llama-tied", "llama3-rope", "mistral", "qwen2", "qwen3", "phi3"] {
        for micro_batch_rows in [0, 40] {
            three_steps(model, micro_batch_rows);
        }
    }
}

fn three_steps(name: &str, micro_batch_rows: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let files = ModelFiles::open(&folder).unwrap();
    let reference = TensorFile::open(&folder.join("reference.safetensors")).unwrap();
    let mut backend: Box<dyn Backend> = Box::new(CpuBackend::new(2).unwrap());
    let load = LoadOptions { training: true, ..Default::default() };
    let model = Model::load(&files, ModelConfig::read(&files).unwrap(), &mut *backend, load).unwrap();
    let settings = EngineOptions { micro_batch_rows, ..options() };
    let handle = EngineHandle::new(Engine::new(backend, model, settings).unwrap());
    let layout = layout(&handle);

    let sequences: Vec<TrainSequence> = (0..4)
        .map(|i| TrainSequence {
            tokens: integers(&reference, &format!("input.{i}.ids")).iter().map(|&t| t as u32).collect(),
            weights: integers(&reference, &format!("input.{i}.labels"))
                .iter()
                .map(|&label| f32::from(label >= 0))
                .collect(),
        })
        .collect();
    let before: Vec<Snapshot> = ADAPTERS
        .iter()
        .map(|(adapter, _)| read_peft(&folder.join("adapters").join(adapter), &layout).unwrap())
        .collect();
    let requests: Vec<TrainRequest> = ADAPTERS
        .iter()
        .zip(&before)
        .map(|((_, own), snapshot)| {
            let own: Vec<u32> = own.iter().map(|&s| s as u32).collect();
            TrainRequest {
                adapter: add(&handle, snapshot),
                sequences: sequences.clone().into(),
                steps: vec![TrainStep { sequences: own, learning_rate: 0.01 }; 3],
                optimizer: Optimizer { weight_decay: 0.1, ..Optimizer::default() },
                fresh_moments: true,
                key: 0,
            }
        })
        .collect();
    let metrics = train(&handle, &requests);

    let close = |found: f32, expected: f32, what: String| {
        let error = (f64::from(found) / f64::from(expected) - 1.0).abs();
        assert!(error < 1e-4, "{name}, {what}: {found}, expected {expected}");
    };
    for (((adapter, _), metrics), (request, before)) in
        ADAPTERS.iter().zip(&metrics).zip(requests.iter().zip(&before))
    {
        for (k, step) in metrics.as_ref().unwrap().iter().enumerate() {
            let expected = |what: &str| numbers(&reference, &format!("{adapter}.{what}.step{k}"))[0];
            close(step.loss, expected("loss"), format!("loss of {adapter}, step {k}"));
            close(step.grad_norm, expected("grad_norm"), format!("gradient norm of {adapter}, step {k}"));
        }
        let after = handle.snapshot(request.adapter, false).unwrap();
        let found = before.weights.iter().zip(&after.weights);
        for (m, (old, new)) in matrices(&before.spec, &layout).zip(found) {
            let matrix = if m.matrix == LoraMatrix::A { "lora_A" } else { "lora_B" };
            let parameter = format!("{adapter}.after3.base_model.model.{}.{matrix}.default.weight", m.module);
            let expected = numbers(&reference, &parameter);
            let wide = |v: &f32| f64::from(*v);
            let difference = norm(new.2.iter().zip(&expected).map(|(n, e)| wide(n) - wide(e)));
            let change = norm(expected.iter().zip(&old.2).map(|(e, o)| wide(e) - wide(o)));
            assert!(difference < 1e-2 * change, "{name}: {parameter} is off by {}", difference / change);
        }
    }
}
