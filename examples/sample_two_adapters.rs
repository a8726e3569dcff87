//! Samples two adapters in one batch, and shows that what one of them says does not depend on it.
//!
//!     cargo run --release --example sample_two_adapters

use std::rc::Rc;

use colloquy::adapter::NewAdapter;
use colloquy::backend::{LoraMatrix, select};
use colloquy::engine::*;
use colloquy::error::Result;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};
use colloquy::text::{ChatTokenizer, Codec, Message};

/// The model that is compiled in. `ModelFiles::open` opens a Hugging Face folder.
fn open() -> Result<(EngineHandle, ChatTokenizer)> {
    let files = ModelFiles::embedded()?;
    let config = ModelConfig::read(&files)?;
    let text = ChatTokenizer::new(&files, &config)?;
    let mut backend = select("auto", 0)?.backend;
    let model = Model::load(&files, config, &mut *backend, LoadOptions::default())?;
    let options = EngineOptions { adapters: 2, max_sequences: 8, ..EngineOptions::default() };
    Ok((EngineHandle::new(Engine::new(backend, model, options)?), text))
}

/// A new adapter with this number all over B. If it is 0, the adapter speaks like the base.
fn adapter(engine: &EngineHandle, b: f32) -> Result<AdapterId> {
    let layout = engine.with(|e| e.model().layout().clone());
    let mut numbers = NewAdapter { rank: 8, ..NewAdapter::default() }.snapshot(&layout)?;
    for (_, matrix, values) in &mut numbers.weights {
        if *matrix == LoraMatrix::B {
            values.fill(b);
        }
    }
    engine.create(AdapterSource::Snapshot(numbers.into()))
}

/// Draws all samples together. A scope numbers the calls of a lane; this one keeps no journal.
fn draw(engine: &EngineHandle, requests: Vec<SampleRequest>) -> Result<Vec<Sample>> {
    let scope = Scope::new("example", Rc::new(engine.clone()), Rc::new(NoJournal));
    run_lane(engine, async move { scope.sample(requests).await })
}

/// Runs the example.
pub fn main() -> Result<()> {
    let (engine, text) = open()?;
    let (plain, changed) = (adapter(&engine, 0.0)?, adapter(&engine, 0.01)?);
    let prompt = text.prompt(&[Message::user("What is the result of 3+4*5+6-7*8?")])?;
    let ask = |adapter, key| SampleRequest::new(adapter, &prompt[..], SamplingParams::plain(60), key);
    let together = draw(&engine, vec![ask(plain, 1), ask(changed, 1), ask(plain, 2), ask(changed, 2)])?;
    for (name, sample) in ["plain", "changed", "plain", "changed"].iter().zip(&together) {
        println!("{name:8} {}", text.decode(&sample.tokens)?);
    }

    let (other, _) = open()?;
    let changed = adapter(&other, 0.01)?;
    let alone = draw(&other, vec![ask(changed, 2)])?;
    assert_eq!(alone[0], together[3], "alone and together, the same tokens and log-probabilities");
    Ok(())
}
