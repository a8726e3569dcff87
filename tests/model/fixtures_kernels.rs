//! The fixtures of `tests/fixtures/` on the CUDA kernels: log-probabilities, losses and gradients may be off from f32 by at most three times what f32 arithmetic is off
//! when its weights and activations are rounded to bf16.

use std::path::Path;
use std::sync::Arc;

use crate::common::rounded::Rounded;
use colloquy::adapter::{Snapshot, read_peft};
use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::cuda::CudaBackend;
use colloquy::backend::cuda::device::Gpu;
use colloquy::backend::*;
use colloquy::files::TensorFile;
use colloquy::model::{Activations, LoadOptions, Mode, Model, ModelConfig, ModelFiles};

/// How much worse than rounding alone the kernels may be.
const FACTOR: f64 = 3.0;

/// Opens a device.
type Open = Box<dyn Fn() -> Box<dyn Backend>>;

/// What one backend makes of a fixture.
struct Outcome {
    /// Of each predicted token of each sequence under base, adapter a, adapter b.
    logprobs: Vec<f64>,
    /// Mean loss of each of these sequences.
    losses: Vec<f64>,
    /// Gradient matrices of both adapters.
    gradients: Vec<Vec<f32>>,
}

fn sequences(folder: &Path) -> Vec<Vec<u32>> {
    let reference = TensorFile::open(&folder.join("reference.safetensors")).unwrap();
    (0..4)
        .map(|i| {
            let (_, _, bytes) = reference.raw(&format!("input.{i}.ids")).unwrap();
            bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
        })
        .collect()
}

fn outcome(name: &str, mut backend: Box<dyn Backend>) -> Outcome {
    // Relative, so that the test also runs where it was not built.
    let folder = Path::new("tests/fixtures").join(name);
    let files = ModelFiles::open(&folder).unwrap();
    let config = ModelConfig::read(&files).unwrap();
    let options = LoadOptions { training: true, ..Default::default() };
    let model = Model::load(&files, config, &mut *backend, options).unwrap();
    let mut slots: Vec<(Slot, Snapshot)> = Vec::new();
    for adapter in ["a", "b"] {
        let snapshot = read_peft(&folder.join("adapters").join(adapter), model.layout()).unwrap();
        let slot = backend.create_slot(&snapshot.spec).unwrap();
        for (part, matrix, values) in &snapshot.weights {
            backend.write_slot(slot, *part, *matrix, values).unwrap();
        }
        backend.attach_optimizer(slot).unwrap();
        slots.push((slot, snapshot));
    }
    let layout = model.layout();
    let width = (0..layout.groups.len())
        .flat_map(|g| slots.iter().map(move |(_, s)| s.spec.shrink_width(layout, GroupId(g as u32))))
        .max()
        .unwrap();
    let acts = Activations::new(&mut *backend, &model, 512, 512, 24, width, Mode::Training).unwrap();

    let all = sequences(&folder);
    let mut plan = BatchPlan::default();
    for slot in [Slot::BASE, slots[0].0, slots[1].0] {
        let first = plan.rows() as u32;
        for ids in &all {
            let start = plan.rows() as u32;
            plan.tokens.extend(ids);
            plan.positions.extend(0..ids.len() as u32);
            let end = plan.rows() as u32;
            plan.sequences.push(Sequence { start, end, first_position: 0, pages_start: 0, pages_end: 0 });
            for t in 1..ids.len() {
                plan.logit_rows.push(start + t as u32 - 1);
                let coefficient = 1.0 / (ids.len() - 1) as f32;
                plan.labels.push(Label { token: ids[t], coefficient });
            }
        }
        plan.segments.push(Segment { slot, start: first, end: plan.rows() as u32 });
    }
    let labels = plan.labels.len();
    backend.begin(Arc::new(plan)).unwrap();
    model.forward_backward(&mut *backend, &acts, false).unwrap();
    backend.submit().unwrap();
    let logprobs: Vec<f64> = backend
        .download_f32(acts.losses, labels)
        .unwrap()
        .chunks_exact(2)
        .map(|l| -f64::from(l[0]))
        .collect();
    let mut losses = Vec::new();
    let mut at = 0;
    for ids in all.iter().cycle().take(3 * all.len()) {
        let n = ids.len() - 1;
        losses.push(-logprobs[at..at + n].iter().sum::<f64>() / n as f64);
        at += n;
    }
    let mut gradients = Vec::new();
    for (slot, snapshot) in &slots {
        for (part, matrix, _) in &snapshot.weights {
            gradients.push(backend.read_slot(*slot, SlotRole::Gradient, *part, *matrix).unwrap());
        }
    }
    Outcome { logprobs, losses, gradients }
}

/// Mean |Δ log-probability|, mean relative loss difference, relative difference of all gradients in norm.
fn distance(found: &Outcome, exact: &Outcome) -> [f64; 3] {
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let logprobs = mean(found.logprobs.iter().zip(&exact.logprobs).map(|(f, e)| (f - e).abs()).collect());
    let losses = mean(found.losses.iter().zip(&exact.losses).map(|(f, e)| (f - e).abs() / e).collect());
    let (mut difference, mut size) = (0.0, 0.0);
    for (f, e) in found.gradients.iter().zip(&exact.gradients) {
        for (&f, &e) in f.iter().zip(e) {
            difference += f64::from(f - e).powi(2);
            size += f64::from(e).powi(2);
        }
    }
    [logprobs, losses, (difference / size).sqrt()]
}

#[test]
fn kernels_are_as_good_as_bf16_allows() {
    let mut devices: Vec<(String, Open)> = Vec::new();
    #[cfg(feature = "emulator")]
    {
        use colloquy::backend::cuda::emulator::Emulator;
        devices
            .push(("emulator".into(), Box::new(|| Box::new(CudaBackend::new(Box::new(Emulator::new(1)))))));
    }
    match Gpu::open(0) {
        Ok(_) => devices
            .push(("gpu".into(), Box::new(|| Box::new(CudaBackend::new(Box::new(Gpu::open(0).unwrap())))))),
        Err(e) => eprintln!("no GPU: {e}"),
    }
    for name in ["llama", "llama-tied", "llama3-rope", "mistral", "qwen2", "qwen3", "phi3"] {
        let exact = outcome(name, Box::new(CpuBackend::new(2).unwrap()));
        let bf16 = distance(&outcome(name, Box::new(Rounded::new(2))), &exact);
        assert!(bf16.iter().all(|&d| d > 0.0 && d < 0.2), "{name}: rounding costs {bf16:?}");
        for (device, open) in &devices {
            let found = distance(&outcome(name, open()), &exact);
            for (what, (found, bf16)) in
                ["log-probabilities", "losses", "gradients"].iter().zip(found.iter().zip(&bf16))
            {
                println!("{name} on {device}: {what} off by {found:.2e}, rounding alone by {bf16:.2e}");
                assert!(
                    *found <= FACTOR * bf16,
                    "{name} on {device}: {what} off by {found:.2e}, rounding alone by {bf16:.2e}"
                );
            }
        }
    }
}
