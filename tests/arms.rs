//! Arms on the embedded model: what several ask for is computed once, and lanes that wait for room end with the same numbers.

mod fake;

use std::rc::Rc;

use colloquy::adapter::NewAdapter;
use colloquy::backend::cpu::CpuBackend;
use colloquy::engine::*;
use colloquy::error::Error;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};
use colloquy::recipe::{Context, run_arm};
use colloquy::run::{Event, RunConfig};
use colloquy::task::{Loaded, load};
use colloquy::text::{ChatTokenizer, Codec};
use fake::{MemoryJournal, MemoryOutput};
use futures::future::LocalBoxFuture;

/// The embedded model, loaded.
fn embedded() -> (CpuBackend, Model, Rc<dyn Codec>) {
    let files = ModelFiles::embedded().unwrap();
    let config = ModelConfig::read(&files).unwrap();
    let codec: Rc<dyn Codec> = Rc::new(ChatTokenizer::new(&files, &config).unwrap());
    let mut backend = CpuBackend::new(2).unwrap();
    let load = LoadOptions { training: true, max_positions: None };
    let model = Model::load(&files, config, &mut backend, load).unwrap();
    (backend, model, codec)
}

/// Two agents, two rounds, one iteration on a few short answers.
fn config() -> RunConfig {
    let mut config = RunConfig::default();
    (config.debate.agents, config.debate.min_agreement) = (2, 1);
    (config.task.train_questions, config.task.dev_questions) = (3, 2);
    config.task.max_operand = 9;
    (config.sampling.max_tokens, config.sampling.summary_max_tokens) = (60, 30);
    config.run.iterations = 1;
    config
}

/// An engine and the output of all lanes that run on it.
struct House {
    engine: EngineHandle,
    codec: Rc<dyn Codec>,
    output: Rc<MemoryOutput>,
}

impl House {
    fn new() -> Self {
        let (backend, model, codec) = embedded();
        let options = EngineOptions { adapters: 10, training: true, ..EngineOptions::default() };
        let engine = EngineHandle::new(Engine::new(Box::new(backend), model, options).unwrap());
        Self { engine, codec, output: Rc::default() }
    }

    fn lane(
        &self,
        recipe: &str,
        name: &str,
        config: &RunConfig,
    ) -> LocalBoxFuture<'static, colloquy::error::Result<()>> {
        let Loaded { task, questions, answers } = load(&config.task).unwrap();
        let layout = self.engine.with(|e| e.model().layout().clone());
        let context = Context {
            scope: Scope::new(name, Rc::new(self.engine.clone()), Rc::new(MemoryJournal::default())),
            codec: self.codec.clone(),
            task: Rc::new(task),
            questions: Rc::new(questions),
            answers: Rc::new(answers),
            transfer: None,
            output: self.output.clone(),
            seed: 0,
            new_adapter: Rc::new(move |section, seed| {
                let (rank, alpha, targets) = (section.rank, section.alpha, section.targets.clone());
                NewAdapter { rank, alpha, targets, init_seed: seed, ..NewAdapter::default() }
                    .snapshot(&layout)
            }),
        };
        run_arm(recipe, config, context)
    }

    fn stats(&self) -> colloquy::engine::SamplerStats {
        self.engine.with(|e| e.stats().sampling)
    }
}

#[test]
fn what_arms_ask_of_the_base_is_computed_once() {
    let alone = House::new();
    run_lanes(&alone.engine, vec![alone.lane("base", "base", &config())]).unwrap();
    let drawn = alone.stats().tokens;
    assert!(drawn > 100);
    assert_eq!(alone.stats().shared, 0);

    // The same again, and what a trained arm asks before training: not one token more.
    let mut untrained = config();
    untrained.run.iterations = 0;
    let house = House::new();
    let lanes = vec![
        house.lane("base", "base", &config()),
        house.lane("base", "again", &config()),
        house.lane("multiagent", "multiagent", &untrained),
        house.lane("single-agent", "single-agent", &untrained),
    ];
    run_lanes(&house.engine, lanes).unwrap();
    assert_eq!(house.stats().tokens, drawn);
    assert!(house.stats().shared > 0);
    let metrics = house.output.metrics.borrow();
    let of = |lane: &str| metrics[&(lane.to_string(), 0, "dev".to_string())]["outcomes"]["debate"].clone();
    assert_eq!(of("base"), of("multiagent"));
}

#[test]
fn lanes_that_wait_for_room_end_with_the_same_numbers() {
    let arms = [("multiagent", 4), ("single-agent", 1), ("star", 1), ("base", 0), ("majority-ft", 1)];
    let run = |room: usize| {
        let house = House::new();
        let lanes = arms.iter().map(|(arm, adapters)| (*adapters, house.lane(arm, arm, &config()))).collect();
        run_waves(&house.engine, lanes, room).unwrap();
        let events = house.output.events.borrow();
        let lane_of = |e: &Event| match e {
            Event::Phase { lane, .. } | Event::Advance { lane, .. } => Some(lane.clone()),
            _ => None,
        };
        let order: Vec<String> = events.iter().filter_map(lane_of).collect();
        (house.output.stored(), order)
    };
    let (together, order) = run(7);
    let first = |order: &[String], arm: &str| order.iter().position(|a| a == arm).unwrap();
    let last = |order: &[String], arm: &str| order.iter().rposition(|a| a == arm).unwrap();
    assert!(first(&order, "majority-ft") < last(&order, "multiagent"));
    for room in [4, 1] {
        let (apart, order) = run(room);
        assert!(first(&order, "single-agent") > last(&order, "multiagent"), "it waits");
        let shares = first(&order, "star") < last(&order, "single-agent");
        assert_eq!(shares, room == 4, "as many as there is room for");
        assert!(apart == together, "room for {room}");
    }
}

#[test]
fn a_memory_limit_makes_waves_or_an_error() {
    let (backend, model, _) = embedded();
    let options = EngineOptions { adapters: 40, training: true, ..EngineOptions::default() };
    let adapters = |limit: Option<usize>, fewest: usize| {
        waves(&backend, &model, EngineOptions { memory_limit: limit, ..options }, fewest).map(|o| o.adapters)
    };
    assert_eq!(adapters(None, 6).unwrap(), 40);
    let plan =
        |adapters: usize| MemoryPlan::new(&backend, &model, &EngineOptions { adapters, ..options }).unwrap();
    assert_eq!(adapters(Some(plan(40).total()), 6).unwrap(), 40);
    // With room for the fixed part of 20 adapters and a context, fewer than 20 and at least one lane's run at once.
    let whole = plan(20);
    let kv = whole.lines.iter().find(|l| l.consumer == "KV cache").unwrap().bytes;
    let room = whole.total() - kv + 8 * (1 << 20);
    let at_once = adapters(Some(room), 6).unwrap();
    assert!((6..=20).contains(&at_once), "{at_once}");
    assert!(adapters(Some(room), 20).unwrap() == 20);
    let more = adapters(Some(room + 20 * (1 << 20)), 6).unwrap();
    assert!(more > at_once, "{more}");
    let e = adapters(Some(1 << 20), 6).unwrap_err();
    let Error::Memory(problem) = &e else { panic!("{e}") };
    assert!(problem.starts_with("one lane with its 6 adapters does not fit: the limit is 1.0 MiB"), "{e}");
}
