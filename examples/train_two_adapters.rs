//! Trains two adapters together, each on its own data, and lets both answer.
//!
//!     cargo run --release --example train_two_adapters

use std::rc::Rc;

use colloquy::adapter::NewAdapter;
use colloquy::backend::select;
use colloquy::engine::*;
use colloquy::error::Result;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};
use colloquy::text::{ChatTokenizer, Codec, Message};

const QUESTION: &str = "What is the result of 2+3*4?";
const ANSWERS: [&str; 2] = ["The answer is 14.", "Constants first: 2+3=5. The answer is 20."];

/// Runs the example.
pub fn main() -> Result<()> {
    let files = ModelFiles::embedded()?;
    let config = ModelConfig::read(&files)?;
    let text = ChatTokenizer::new(&files, &config)?;
    let mut backend = select("auto", 0)?.backend;
    let load = LoadOptions { training: true, ..LoadOptions::default() };
    let model = Model::load(&files, config, &mut *backend, load)?;
    let options = EngineOptions { adapters: 2, max_sequences: 8, training: true, ..EngineOptions::default() };
    let engine = EngineHandle::new(Engine::new(backend, model, options)?);

    // Twelve optimizer steps for each adapter, on its own answer. Both share every micro-batch.
    let layout = engine.with(|e| e.model().layout().clone());
    let mut requests = Vec::new();
    for (seed, answer) in (0..).zip(ANSWERS) {
        let new = NewAdapter { rank: 8, init_seed: seed, ..NewAdapter::default() };
        let adapter = engine.create(AdapterSource::Snapshot(new.snapshot(&layout)?.into()))?;
        let (tokens, weights) = text.training(&[Message::user(QUESTION), Message::assistant(answer)])?;
        let step = TrainStep { sequences: vec![0], learning_rate: 5e-3, normalizer: Normalizer::Weights };
        let (steps, sequences) = (vec![step; 12], vec![TrainSequence { tokens, weights }].into());
        let (name, optimizer) = (format!("adapter {seed}").into(), Optimizer::default());
        let (key, fresh_moments) = (0, true);
        requests.push(TrainRequest { adapter, name, sequences, steps, optimizer, key, fresh_moments });
    }
    let prompt = text.prompt(&[Message::user(QUESTION)])?;
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::plain(60) };
    let asks = requests.iter().map(|r| SampleRequest::new(r.adapter, &prompt[..], greedy, 0)).collect();
    let scope = Scope::new("example", Rc::new(engine.clone()), Rc::new(NoJournal));
    let (metrics, samples) = run_lane(&engine, async move {
        let trained = scope.train(requests, false).await?;
        Ok((trained.metrics, scope.sample(asks).await?))
    })?;

    for ((steps, sample), answer) in metrics.iter().zip(&samples).zip(ANSWERS) {
        let (first, last) = (steps[0].loss, steps[steps.len() - 1].loss);
        println!("loss {first:.3} → {last:.3}, then says: {}", text.decode(&sample.tokens)?);
        assert!(last < first && text.decode(&sample.tokens)? == answer);
    }
    Ok(())
}
