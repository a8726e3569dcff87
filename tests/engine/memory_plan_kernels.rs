//! The memory plan holds for the CUDA backend, on the emulator: what its operations and its plan of a step take of their own is at most what was
//! foreseen, at limits that each make another of them the largest.

use std::any::Any;

use crate::common::tiny::*;
use colloquy::backend::Backend;
use colloquy::backend::cuda::CudaBackend;
use colloquy::backend::cuda::emulator::Emulator;
use colloquy::engine::*;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};

const MODEL: Tiny = Tiny {
    vocab: 200,
    hidden: 40,
    intermediate: 56,
    layers: 1,
    heads: 4,
    kv_heads: 2,
    context: 1100,
    eos: None,
    seed: 3,
};

/// Samples, scores and trains as much as the limits allow at once.
fn work(handle: &EngineHandle, o: &EngineOptions) {
    let layout = layout(handle);
    let adapters: Vec<AdapterId> = (0..o.adapters)
        .map(|i| add(handle, &strong_adapter(&layout, if i == 0 { o.max_rank } else { 3 }, i as u64)))
        .collect();
    let mut random = Random(17);
    let mut requests = Vec::new();
    for i in 0..2 * o.max_sequences {
        // Long ones end in three splits of the positions; nothing is shared.
        let length = if i % 32 == 0 { 1070 } else { 3 + i % 5 };
        let prompt = random.tokens(length, MODEL.vocab);
        let mut one = request(adapters[i % adapters.len()], &prompt, 4, i as u64);
        match i % 3 {
            0 => {
                one.params =
                    SamplingParams { temperature: 0.8, top_k: 9, top_p: 0.9, min_p: 0.0, max_tokens: 4 }
            }
            1 if adapters.len() > 1 && length < 100 => {
                one.adapters = vec![(adapters[0], 0.25), (adapters[1], 0.75)];
            }
            _ => {}
        }
        requests.push(one);
    }
    samples(handle, &requests);
    score(handle, adapters[0], &random.tokens(o.max_rows.min(1000), MODEL.vocab));
    if o.training {
        let requests: Vec<TrainRequest> = adapters
            .iter()
            .map(|&adapter| {
                let mut all = sequences(&mut random, 12, (2, 4), MODEL.vocab);
                all.extend(sequences(&mut random, 1, (90, 90), MODEL.vocab));
                train_request(adapter, &all, 13, 0.01)
            })
            .collect();
        train(handle, &requests).into_iter().for_each(|r| drop(r.unwrap()));
    }
}

#[test]
fn what_operations_take_is_at_most_what_was_planned() {
    let few = EngineOptions { adapters: 2, max_rank: 16, kv: KvBudget::Pages(400), ..options() };
    for (what, o) in [
        ("few", few),
        ("a row a step and sequence", EngineOptions { max_rows: 24, max_sequences: 24, ..few }),
        ("many adapters", EngineOptions { adapters: 20, max_rank: 40, micro_batch_rows: 600, ..few }),
        ("many logits", EngineOptions { lm_head_rows: 64, max_rows: 200, ..few }),
        ("inference", EngineOptions { training: false, max_rows: 300, ..few }),
    ] {
        let handle = MODEL.handle_on(Box::new(CudaBackend::new(Box::new(Emulator::new(1)))), o);
        work(&handle, &o);
        let (planned, beside) = handle.with(|e| (e.plan().total(), e.plan().beside));
        let (held, workspace) = handle.with(|e| {
            let backend: &mut dyn Any = e.backend();
            let backend = backend.downcast_mut::<CudaBackend>().expect("the CUDA backend");
            (backend.bytes_in_use(), backend.workspace_held())
        });
        println!(
            "{what}: {workspace} of {beside} bytes of workspace, {held} of {} bytes held",
            planned - beside
        );
        assert!(workspace <= beside, "{what}: {workspace} bytes of workspace, {beside} planned");
        assert!(held <= planned - beside, "{what}: {held} bytes held, {} planned", planned - beside);
        // The bound is of use.
        assert!(workspace >= beside / 100, "{what}: {workspace} bytes of workspace, {beside} planned");
    }
}

/// A model that does not fit is refused before any of it is moved: the weights alone at loading, with all the rest when the engine plans.
#[test]
fn a_model_that_does_not_fit_is_refused_with_its_bytes() {
    let folder = MODEL.folder();
    let files = ModelFiles::open(folder.path()).unwrap();
    let config = ModelConfig::read(&files).unwrap();
    let weights = 2 * config.parameters();
    let load = |memory| {
        let mut backend = CudaBackend::new(Box::new(Emulator::new(1).with_memory(memory)));
        let model = Model::load(&files, config.clone(), &mut backend, LoadOptions::default());
        (model, Box::new(backend))
    };
    let (model, backend) = load(weights - 2);
    let error = model.expect_err("refused").to_string();
    let place = folder.path().display();
    assert!(error.starts_with(&format!("memory: {place}: {} parameters take", weights / 2)), "{error}");
    assert!(
        error.contains(&format!("{weights} bytes on the emulator, {} bytes are free", weights - 2)),
        "{error}"
    );
    assert!(error.contains(&format!("at most {} parameters would fit", weights / 2 - 1)), "{error}");
    assert_eq!(backend.bytes_in_use(), 0);

    let (model, backend) = load(weights + 100_000);
    let held = backend.bytes_in_use();
    let error = Engine::new(backend, model.unwrap(), options()).err().expect("refused").to_string();
    assert!(
        error.starts_with("memory: the limit is ") && error.contains("but this needs at least "),
        "{error}"
    );
    assert!(error.contains("weights ") && error.contains("KV cache "), "{error}");
    assert!(held >= weights);
}
