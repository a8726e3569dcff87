//! What fusing lanes and sharing their requests saves: the lanes of one small experiment on the embedded model, in one process,
//!
//! - *together*: all in one engine, as `colloquy run` does it;
//! - *in turn, one engine*: each begins when the one before has ended, so nothing is fused, but what arms ask of the same weights is still computed once;
//! - *in turn, fresh engines*: neither.
//!
//! All three give the same metrics, which is checked. The first lane has run once before anything is timed.
//!
//!     cargo bench --bench lanes

#[path = "../tests/fake/mod.rs"]
mod fake;

use std::rc::Rc;
use std::time::Instant;

use colloquy::adapter::NewAdapter;
use colloquy::backend::cpu::CpuBackend;
use colloquy::engine::*;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};
use colloquy::recipe::{Context, built_in_configs, recipes, run_arm};
use colloquy::run::{Arm, Source, load as load_config};
use colloquy::task::{Loaded, load};
use colloquy::text::{ChatTokenizer, Codec};
use fake::{MemoryJournal, MemoryOutput};

/// An engine that holds the embedded model, and its tokenizer.
fn engine() -> (EngineHandle, Rc<dyn Codec>) {
    let files = ModelFiles::embedded().unwrap();
    let config = ModelConfig::read(&files).unwrap();
    let codec: Rc<dyn Codec> = Rc::new(ChatTokenizer::new(&files, &config).unwrap());
    let mut backend = CpuBackend::new(0).unwrap();
    let load = LoadOptions { training: true, max_positions: None };
    let model = Model::load(&files, config, &mut backend, load).unwrap();
    let options = EngineOptions { adapters: 32, training: true, ..EngineOptions::default() };
    (EngineHandle::new(Engine::new(Box::new(backend), model, options).unwrap()), codec)
}

/// Runs lanes together on an engine.
fn run(engine: &EngineHandle, codec: &Rc<dyn Codec>, lanes: &[(&Arm, u64)], output: &Rc<MemoryOutput>) {
    let lane = |&(arm, seed): &(&Arm, u64)| {
        let Loaded { task, questions, answers } = load(&arm.config.task).unwrap();
        let layout = engine.with(|e| e.model().layout().clone());
        let context = Context {
            scope: Scope::new(
                format!("{}/seed-{seed}", arm.name),
                Rc::new(engine.clone()),
                Rc::new(MemoryJournal::default()),
            ),
            codec: codec.clone(),
            task: Rc::new(task),
            questions: Rc::new(questions),
            answers: Rc::new(answers),
            transfer: None,
            output: output.clone(),
            seed,
            new_adapter: Rc::new(move |section, seed| {
                let (rank, alpha, targets) = (section.rank, section.alpha, section.targets.clone());
                NewAdapter { rank, alpha, targets, init_seed: seed, ..NewAdapter::default() }
                    .snapshot(&layout)
            }),
        };
        run_arm(&arm.recipe, &arm.config, context)
    };
    run_lanes(engine, lanes.iter().map(lane).collect()).unwrap();
}

fn main() {
    let quick = built_in_configs().iter().find(|c| c.name == "quick").unwrap();
    let source = Source { name: "quick".into(), text: quick.text.to_string(), folder: None };
    let sets = [
        "run.seeds=[0,1]",
        "run.iterations=1",
        "report.primary.iteration=1",
        "task.train_questions=40",
        "task.train_pool=80",
        "task.dev_questions=40",
        "task.test_questions=0",
        "eval.diversity=0",
    ];
    let plan = load_config(&source, &sets.map(String::from), recipes()).unwrap();
    let lanes: Vec<(&Arm, u64)> =
        plan.arms.iter().flat_map(|arm| arm.seeds.iter().map(move |&seed| (arm, seed))).collect();
    let names: Vec<&str> = plan.arms.iter().map(|a| a.name.as_str()).collect();
    println!(
        "{} lanes: {} x seeds 0, 1; {}",
        lanes.len(),
        names.join(", "),
        CpuBackend::new(0).map_or("".into(), |b| colloquy::backend::Backend::describe(&b))
    );

    let (warm, codec) = engine();
    run(&warm, &codec, &lanes[..1], &Rc::default());
    drop(warm);

    println!("how                       seconds  of it  steps  rows/step    drawn  shared  optimizer steps");
    let mut first: Option<(f64, String)> = None;
    for (how, per_engine, at_once) in [
        ("together", lanes.len(), lanes.len()),
        ("in turn, one engine", lanes.len(), 1),
        ("in turn, fresh engines", 1, 1),
    ] {
        let output: Rc<MemoryOutput> = Rc::default();
        let (mut seconds, mut total, mut optimizer) = (0.0, SamplerStats::default(), 0);
        for part in lanes.chunks(per_engine) {
            // Loading the model is not what is compared.
            let (engine, codec) = engine();
            let start = Instant::now();
            part.chunks(at_once).for_each(|lanes| run(&engine, &codec, lanes, &output));
            seconds += start.elapsed().as_secs_f64();
            let stats = engine.with(|e| e.stats());
            total.steps += stats.sampling.steps;
            total.rows += stats.sampling.rows;
            total.tokens += stats.sampling.tokens;
            total.shared += stats.sampling.shared;
            optimizer += stats.optimizer_steps;
        }
        let stored = format!("{:?}", output.stored());
        let (base, expected) = first.get_or_insert_with(|| (seconds, stored.clone()));
        assert!(*expected == stored, "{how}: other results");
        println!(
            "{how:<24} {seconds:>8.1} {:>6.2} {:>6} {:>10.1} {:>8} {:>7} {optimizer:>16}",
            seconds / *base,
            total.steps,
            total.rows as f64 / total.steps.max(1) as f64,
            total.tokens,
            total.shared,
        );
    }
}
