//! Optimizer steps of several adapters, fused by the engine, against transformers and PEFT.

use std::path::Path;

use crate::common::fixture;
use crate::common::tiny::*;
use colloquy::adapter::{Snapshot, matrices, read_peft};
use colloquy::backend::{Backend, LoraMatrix, cpu::CpuBackend};
use colloquy::engine::*;
use colloquy::files::TensorFile;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};

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

fn engine(folder: &Path, micro_batch_rows: usize) -> EngineHandle {
    let files = ModelFiles::open(folder).unwrap();
    let mut backend: Box<dyn Backend> = Box::new(CpuBackend::new(2).unwrap());
    let load = LoadOptions { training: true, ..Default::default() };
    let model = Model::load(&files, ModelConfig::read(&files).unwrap(), &mut *backend, load).unwrap();
    let settings = EngineOptions { micro_batch_rows, ..options() };
    EngineHandle::new(Engine::new(backend, model, settings).unwrap())
}

fn three_steps(name: &str, micro_batch_rows: usize) {
    let folder = fixture(name);
    let reference = TensorFile::open(&folder.join("reference.safetensors")).unwrap();
    let handle = engine(&folder, micro_batch_rows);
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
                name: "adapter".into(),
                sequences: sequences.clone().into(),
                steps: vec![step(own, 0.01); 3],
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

/// A training of tests/data/weighted_loss.json.
#[derive(serde::Deserialize)]
struct Weighted {
    adapter: String,
    normalizer: String,
    sequences: Vec<u32>,
    before: Vec<f32>,
    after: Vec<f32>,
    loss: Vec<f32>,
    grad_norm: Vec<f32>,
}

/// All normalizers at once, on weights of both signs, as tools/weighted_loss.py computed them.
#[test]
fn weights_of_both_signs_train_as_pytorch_has_it_under_every_normalizer() {
    let file: serde_json::Value = serde_json::from_str(include_str!("../data/weighted_loss.json")).unwrap();
    let list = |value: &serde_json::Value| -> Vec<f32> { serde_json::from_value(value.clone()).unwrap() };
    let sequence = |record: &serde_json::Value| TrainSequence {
        tokens: list(&record["tokens"]).iter().map(|&t| t as u32).collect(),
        weights: list(&record["weights"]),
    };
    let sequences: Vec<TrainSequence> = file["sequences"].as_array().unwrap().iter().map(sequence).collect();
    let runs: Vec<Weighted> = serde_json::from_value(file["runs"].clone()).unwrap();
    assert_eq!(runs.len(), 8);
    for micro_batch_rows in [0, 40] {
        let folder = fixture("llama");
        let handle = engine(&folder, micro_batch_rows);
        let layout = layout(&handle);
        let requests: Vec<TrainRequest> = runs
            .iter()
            .map(|run| {
                let start = read_peft(&folder.join("adapters").join(&run.adapter), &layout).unwrap();
                let one = TrainStep {
                    normalizer: run.normalizer.parse().unwrap(),
                    ..step(run.sequences.clone(), 0.01)
                };
                let all = train_request(add(&handle, &start), &sequences, 1, 0.0);
                TrainRequest { steps: vec![one; run.loss.len()], ..all }
            })
            .collect();
        for ((run, request), metrics) in runs.iter().zip(&requests).zip(train(&handle, &requests)) {
            let what = format!("{} by {}", run.adapter, run.normalizer);
            let metrics = metrics.unwrap();
            let pairs = metrics.iter().flat_map(|m| [m.loss, m.grad_norm]);
            for (found, &expected) in pairs.zip(run.loss.iter().zip(&run.grad_norm).flat_map(|(l, g)| [l, g]))
            {
                assert!((found / expected - 1.0).abs() < 1e-4, "{what}: {found}, expected {expected}");
            }
            let after =
                score(&handle, request.adapter, &sequences[run.sequences[0] as usize].tokens).logprobs;
            assert_eq!(after.len(), run.after.len());
            let distance = |a: &[f32], b: &[f32]| norm(a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
            let (off, moved) = (distance(&after, &run.after), distance(&run.before, &run.after));
            assert!(moved > 1.0 && off < 1e-3 * moved, "{what}: off by {off} of {moved}");
        }
    }
}
