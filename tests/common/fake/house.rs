//! An engine that holds the embedded model, and lanes on it that write to memory.

use std::rc::Rc;

use colloquy::adapter::NewAdapter;
use colloquy::backend::cpu::CpuBackend;
use colloquy::engine::*;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};
use colloquy::recipe::{Context, Recipes, run_arm};
use colloquy::run::RunConfig;
use colloquy::task::{Loaded, load};
use colloquy::text::{ChatTokenizer, Codec};
use futures::future::LocalBoxFuture;

use super::{MemoryJournal, MemoryOutput};

/// The embedded model, loaded; on all cores where `threads` is 0.
pub fn embedded(threads: usize) -> (CpuBackend, Model, Rc<dyn Codec>) {
    let files = ModelFiles::embedded().unwrap();
    let config = ModelConfig::read(&files).unwrap();
    let codec: Rc<dyn Codec> = Rc::new(ChatTokenizer::new(&files, &config).unwrap());
    let mut backend = CpuBackend::new(threads).unwrap();
    let load = LoadOptions { training: true, max_positions: None };
    let model = Model::load(&files, config, &mut backend, load).unwrap();
    (backend, model, codec)
}

/// An engine and the output of all lanes that run on it.
pub struct House {
    pub engine: EngineHandle,
    pub codec: Rc<dyn Codec>,
    pub output: Rc<MemoryOutput>,
}

impl House {
    /// With room for so many adapters.
    pub fn new(threads: usize, adapters: usize) -> Self {
        let (backend, model, codec) = embedded(threads);
        let options = EngineOptions { adapters, training: true, ..EngineOptions::default() };
        let engine = EngineHandle::new(Engine::new(Box::new(backend), model, options).unwrap());
        engine.with(|e| e.add_stop_rules(codec.clone()));
        Self { engine, codec, output: Rc::default() }
    }

    /// A lane of that name.
    pub fn lane(
        &self,
        recipe: &str,
        name: &str,
        config: &RunConfig,
        seed: u64,
    ) -> LocalBoxFuture<'static, colloquy::error::Result<()>> {
        let Loaded { task, questions, answers } = load(&config.task).unwrap();
        let layout = self.engine.with(|e| e.model().layout().clone());
        let context = Context {
            scope: Scope::lane(name, Rc::new(self.engine.clone()), Rc::new(MemoryJournal::default())),
            codec: self.codec.clone(),
            task: Rc::new(task),
            questions: Rc::new(questions),
            answers: Rc::new(answers),
            transfer: None,
            output: self.output.clone(),
            seed,
            new_adapter: Rc::new(move |section, seed| {
                let (rank, alpha, targets) = (section.rank, section.alpha, section.targets.clone());
                NewAdapter { rank, alpha, targets, init_seed: seed, ..NewAdapter::default() }
                    .snapshot(&layout)
            }),
        };
        run_arm(Recipes::default().get(recipe).unwrap(), config, context)
    }

    /// What was sampled so far.
    pub fn stats(&self) -> SamplerStats {
        self.engine.with(|e| e.stats().sampling)
    }
}
