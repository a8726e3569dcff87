//! What fusing lanes and sharing their requests saves: the lanes of one small experiment on the embedded model, in one process,
//!
//! - *together*: all in one engine, as `colloquy run` does it;
//! - *in turn, one engine*: each begins when the one before has ended, so nothing is fused, but what arms ask of the same weights is still computed once;
//! - *in turn, fresh engines*: neither.
//!
//! All three give the same metrics, which is checked. The first lane has run once before anything is timed.
//!
//!     cargo bench --bench lanes

#[path = "../tests/common/mod.rs"]
mod common;

use std::rc::Rc;
use std::time::Instant;

use colloquy::backend::Backend;
use colloquy::backend::cpu::CpuBackend;
use colloquy::engine::{SamplerStats, run_lanes};
use colloquy::recipe::{Recipes, built_in_configs};
use colloquy::run::{Arm, Source};
use common::fake::MemoryOutput;
use common::fake::house::House;

/// An engine with room for all lanes.
fn house(output: &Rc<MemoryOutput>) -> House {
    House { output: output.clone(), ..House::new(0, 32) }
}

/// Runs lanes together.
fn run(house: &House, lanes: &[(&Arm, u64)]) {
    let lane = |&(arm, seed): &(&Arm, u64)| {
        house.lane(arm.recipe.name, &format!("{}/seed-{seed}", arm.name), &arm.config, seed)
    };
    run_lanes(&house.engine, lanes.iter().map(lane).collect()).unwrap();
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
    let plan = Recipes::default().load(&source, &sets.map(String::from)).unwrap();
    let lanes: Vec<(&Arm, u64)> =
        plan.arms.iter().flat_map(|arm| arm.seeds.iter().map(move |&seed| (arm, seed))).collect();
    let names: Vec<&str> = plan.arms.iter().map(|a| a.name.as_str()).collect();
    let warm = house(&Rc::default());
    let device = Backend::describe(&CpuBackend::new(0).unwrap());
    println!("{} lanes: {} x seeds 0, 1; {device}", lanes.len(), names.join(", "));
    run(&warm, &lanes[..1]);
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
            let house = house(&output);
            let start = Instant::now();
            part.chunks(at_once).for_each(|lanes| run(&house, lanes));
            seconds += start.elapsed().as_secs_f64();
            let stats = house.engine.with(|e| e.stats());
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
