//! Arms on the embedded model: what several ask for is computed once, and lanes that wait for room end with the same numbers.

use crate::common::fake::house::{House, embedded};
use colloquy::engine::*;
use colloquy::error::Error;
use colloquy::run::{Event, RunConfig};

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

#[test]
fn what_arms_ask_of_the_base_is_computed_once() {
    let alone = House::new(2, 10);
    run_lanes(&alone.engine, vec![alone.lane("base", "base", &config(), 0)]).unwrap();
    let drawn = alone.stats().tokens;
    assert!(drawn > 100);
    assert_eq!(alone.stats().shared, 0);

    // The same again, and what a trained arm asks before training: not one token more.
    let mut untrained = config();
    untrained.run.iterations = 0;
    let house = House::new(2, 10);
    let lanes = vec![
        house.lane("base", "base", &config(), 0),
        house.lane("base", "again", &config(), 0),
        house.lane("multiagent", "multiagent", &untrained, 0),
        house.lane("single-agent", "single-agent", &untrained, 0),
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
        let house = House::new(2, 10);
        let lanes =
            arms.iter().map(|(arm, adapters)| (*adapters, house.lane(arm, arm, &config(), 0))).collect();
        run_waves(&house.engine, lanes, room, &|| Ok(())).unwrap();
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
    let (backend, model, _) = embedded(2);
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
