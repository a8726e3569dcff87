//! A shrunk model of every family, with its published field values, against transformers (`tools/family_fixtures.py`); and what depends on
//! the length of a sequence: rotary frequencies of a request, and what its keys may be shared with.

use crate::common::shrunk::{folder, tokens};
use crate::common::tiny::*;
use colloquy::backend::Backend;
use colloquy::backend::cpu::CpuBackend;
use colloquy::engine::*;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles, RopeVariant};
use serde_json::Value;

/// A model and what transformers computes with it.
fn models() -> Vec<Value> {
    let text = std::fs::read_to_string("tests/data/families.json").unwrap();
    serde_json::from_str(&text).unwrap()
}

fn engine(config: &Value, positions: usize, options: EngineOptions) -> EngineHandle {
    let folder = folder(config, &Value::Null);
    let files = ModelFiles::open(folder.path()).unwrap();
    let read = ModelConfig::read(&files).unwrap();
    let mut backend: Box<dyn Backend> = Box::new(CpuBackend::new(2).unwrap());
    let load = LoadOptions { max_positions: Some(positions), ..Default::default() };
    let model = Model::load(&files, read, &mut *backend, load).unwrap();
    EngineHandle::new(Engine::new(backend, model, options).unwrap())
}

fn model(name: &str) -> Value {
    models().into_iter().find(|m| m["name"] == name).unwrap()
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    for model in models() {
        let name = model["name"].as_str().unwrap();
        let sequences = model["sequences"].as_array().unwrap();
        let longest = sequences.iter().map(|s| tokens(s).len()).max().unwrap();
        let options = EngineOptions { training: false, ..options() };
        let handle = engine(&model["config"], longest, options);
        for sequence in sequences {
            let tokens = tokens(sequence);
            let found = score(&handle, AdapterId::BASE, &tokens).logprobs;
            let expected: Vec<f64> =
                sequence["logprobs"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            let found = &found[found.len() - expected.len()..];
            let worst =
                found.iter().zip(&expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
            println!("{name}, {} tokens: off by {worst:.2e} at most", tokens.len());
            // The tolerance of the other fixtures.
            assert!(worst < 2e-4, "{name}, {} tokens: off by {worst:.2e}", tokens.len());
        }
    }
}

/// What is sampled up to the length that was announced, and what scoring says of it.
#[test]
fn sampling_and_scoring_agree_where_frequencies_depend_on_the_length() {
    for (name, prompts, new) in [("llama-dynamic", [20, 70, 200], 50), ("phi-partial", [20, 40, 130], 30)] {
        let model = model(name);
        let handle = engine(&model["config"], 256, EngineOptions { training: false, ..options() });
        let mut random = Random(3);
        // No sample may end early, or it is shorter than announced.
        let mut requests: Vec<SampleRequest> = Vec::new();
        for prompt in prompts {
            for key in 0..3 {
                requests.push(request(AdapterId::BASE, &random.tokens(prompt, 128), new, key));
            }
        }
        let mut whole = 0;
        for (request, sample) in requests.iter().zip(samples(&handle, &requests)) {
            if sample.finish != Finish::Length {
                continue;
            }
            whole += 1;
            let all: Vec<u32> = request.prompt.iter().chain(&sample.tokens).copied().collect();
            let scored = score(&handle, AdapterId::BASE, &all).logprobs;
            assert_eq!(sample.logprobs, scored[request.prompt.len() - 1..], "{name}, {} tokens", all.len());
        }
        assert!(whole >= 6, "{whole} samples of {name} have the length that was announced");
    }
}

/// Requests with one prompt whose announced lengths take different frequencies: no keys are shared, results are those alone.
#[test]
fn frequencies_are_part_of_the_caches_key() {
    for (name, original) in [("llama-dynamic", 64), ("phi-partial", 64)] {
        let model = model(name);
        let fresh = || engine(&model["config"], 256, EngineOptions { training: false, ..options() });
        let prompt = Random(4).tokens(40, 128);
        // Below, at and beyond the context of pre-training; of the long ones two lengths.
        let requests: Vec<SampleRequest> = [5, original - 40, original - 39, 100, 5, 100]
            .iter()
            .enumerate()
            .map(|(key, &new)| request(AdapterId::BASE, &prompt, new, key as u64))
            .collect();
        let together = samples(&fresh(), &requests);
        let one_by_one = fresh();
        let mut first_logprobs = Vec::new();
        for (request, together) in requests.iter().zip(&together) {
            let alone = samples(&fresh(), std::slice::from_ref(request)).remove(0);
            assert_eq!(&alone, together, "{name}, {} new tokens", request.params.max_tokens);
            // After others have filled the cache.
            let later = samples(&one_by_one, std::slice::from_ref(request)).remove(0);
            assert_eq!(alone, later, "{name}, {} new tokens", request.params.max_tokens);
            let greedy = SampleRequest {
                params: SamplingParams { temperature: 0.0, ..request.params },
                ..request.clone()
            };
            first_logprobs.push(samples(&fresh(), &[greedy]).remove(0).logprobs[0].to_bits());
        }
        let [short, at, beyond, long, again, _] = first_logprobs[..] else { unreachable!() };
        assert!(short == at && short == again, "{name}: the usual frequencies up to {original}");
        assert_ne!(short, beyond, "{name}");
        // Dynamic scaling goes on with the length, LongRoPE does not.
        assert_eq!(beyond == long, name == "phi-partial", "{name}");
    }
}

#[test]
fn frequencies_follow_the_length() {
    let variant = |name: &str, length: usize| {
        let config = ModelConfig::from_json(model(name)["config"].to_string().as_bytes(), name).unwrap();
        config.rope.variant(length)
    };
    assert_eq!(variant("llama-dynamic", 64), RopeVariant(0));
    assert_eq!(variant("llama-dynamic", 65), RopeVariant(65));
    assert_eq!(variant("phi-3.5-mini", 4096), RopeVariant(0));
    assert_eq!(variant("phi-3.5-mini", 4097), RopeVariant(1));
    assert_eq!(variant("phi-3.5-mini", 100_000), RopeVariant(1));
    for name in ["llama-3.2-1b", "qwen2.5-7b-yarn", "mistral-7b-v0.1"] {
        assert_eq!(variant(name, 100_000), RopeVariant(0));
    }
}
