//! What a recipe is forecast to ask is what it asks.

use std::rc::Rc;

use colloquy::recipe::{Cost, Lengths, Material, Recipe, Recipes, forecast};
use colloquy::run::RunConfig;
use colloquy::text::Codec;

use crate::common::fake::*;

/// Tokens of "so 7" and of its end.
const SAID: usize = 5;

fn forecast_of(recipe: &'static dyn Recipe, world: &World) -> Cost {
    let codec: Rc<dyn Codec> = world.codec.clone();
    let (questions, answers) = (world.questions.clone(), world.answers.clone());
    let own = Material { task: Rc::new(task()), questions, answers };
    let lengths = Lengths { answer: SAID, summary: SAID };
    forecast(recipe, &world.config, &codec, &own, world.transfer.as_ref(), lengths).unwrap()
}

/// First answers, summaries and later answers that were asked for.
fn made(world: &World, training: bool) -> [usize; 3] {
    let asked = world.service.asked.borrow();
    let mut made = [0; 3];
    for a in asked.iter().filter(|a| (a.purpose == "train") == training) {
        made[if a.kind == "summary" { 1 } else { usize::from(a.round > 1) * 2 }] += 1;
    }
    made
}

/// Sequences in all batches, and their tokens.
fn trained(world: &World) -> (usize, usize) {
    let trained = world.service.trained.borrow();
    let of = |r: &colloquy::engine::TrainRequest| {
        let taken = r.steps.iter().flat_map(|s| &s.sequences);
        taken.map(|&i| r.sequences[i as usize].tokens.len()).collect::<Vec<_>>()
    };
    let all: Vec<usize> = trained.iter().flat_map(of).collect();
    (all.len(), all.iter().sum())
}

fn close(forecast: f64, made: usize, what: &str) {
    let made = made as f64;
    assert!((forecast - made).abs() <= 0.25 * made, "{what}: {forecast} for {made}");
}

type Edit = fn(&mut RunConfig);

const CASES: [(&str, Edit); 16] = [
    ("multiagent", |_| {}),
    ("multiagent", |c| c.debate.critics = "generator".parse().unwrap()),
    ("multiagent", |c| c.debate.critics = "base".parse().unwrap()),
    ("multiagent", |c| c.debate.others = "concatenate".parse().unwrap()),
    ("multiagent", |c| c.training.data = "dealt".parse().unwrap()),
    ("multiagent", |c| c.training.labels = "shuffled".parse().unwrap()),
    ("multiagent", |c| (c.debate.rounds, c.debate.agents) = (3, 4)),
    ("multiagent", |c| c.debate.rounds = 1),
    ("single-agent", |_| {}),
    ("single-agent", |c| c.training.matching = "gradient-tokens".parse().unwrap()),
    ("majority-ft", |c| c.training.samples = 5),
    ("self-training", |_| {}),
    ("star", |_| {}),
    ("star", |c| c.training.start_from = "base".parse().unwrap()),
    ("agent-ids", |_| {}),
    ("base", |_| {}),
];

fn config_of(edit: Edit) -> RunConfig {
    let mut config = config(3, 2);
    (config.run.iterations, config.eval.before, config.eval.diversity) = (2, true, 10);
    (config.training.num_epochs, config.eval.majority_samples) = (2, 4);
    edit(&mut config);
    config
}

#[test]
fn every_recipe_asks_what_was_forecast_where_its_data_are_full() {
    let known = Recipes::default();
    let named = |name: &str| CASES.iter().any(|case| case.0 == name);
    assert!(known.infos().iter().all(|info| named(info.name)), "a case for each recipe");
    for (i, (name, edit)) in CASES.into_iter().enumerate() {
        let recipe = known.get(name).unwrap();
        // More questions than are asked to forecast. All agree; where a recipe may ask again it has to.
        let world = World::new(config_of(edit), 40, 20, move |a: &Asked| {
            let again = a.purpose == "train" && a.kind == "answer" && name == "star";
            if again { "so 5" } else { "so 7" }
        });
        let cost = forecast_of(recipe, &world);
        let world = world.run(name);
        let place = format!("case {i}, {name}");
        assert_eq!(cost.training.by_kind(), made(&world, true), "{place}: for training");
        assert_eq!(cost.evaluation.by_kind(), made(&world, false), "{place}: of evaluation");
        let (sequences, tokens) = trained(&world);
        close(cost.trained_tokens, tokens, &format!("{place}: gradient tokens"));
        if !place.contains("single-agent") {
            assert_eq!(cost.trained.round() as usize, sequences, "{place}: sequences");
        }
        let scored = world.service.scored.borrow().len() + world.service.embedded.borrow().len();
        assert_eq!(cost.scored.round() as usize, scored, "{place}: scored");
        assert_eq!(cost.adapters, recipe.society(&world.config).adapters().len(), "{place}: adapters");
        let draws = cost.own.iter().chain(cost.of_base.values());
        let prompts: f64 = draws.map(|d| d.count * d.prompt as f64).sum();
        let mut asked: Vec<_> = world
            .service
            .asked
            .borrow()
            .iter()
            .map(|a| (a.adapter, a.state, a.key, a.turns.clone()))
            .collect();
        asked.iter_mut().filter(|a| a.1 == 0).for_each(|a| a.0 = colloquy::engine::AdapterId::BASE);
        asked.sort();
        asked.dedup();
        let tokens = |turns: &[String]| turns.iter().map(|turn| turn.chars().count() + 2).sum::<usize>() + 1;
        close(prompts, asked.iter().map(|a| tokens(&a.3)).sum(), &format!("{place}: prompt tokens"));
    }
}

#[test]
fn no_recipe_asks_more_than_was_forecast() {
    for (i, (name, edit)) in CASES.into_iter().enumerate() {
        let world = World::new(config_of(edit), 40, 20, |a: &Asked| {
            let n = a.key ^ u64::from(a.state);
            format!("so {}", [7, 7, 7, 5, 3][(n / 7 % 5) as usize])
        });
        let cost = forecast_of(Recipes::default().get(name).unwrap(), &world);
        let world = world.run(name);
        for (training, calls) in [(true, cost.training), (false, cost.evaluation)] {
            let made = made(&world, training);
            assert!(calls.by_kind().iter().zip(made).all(|(f, m)| *f >= m), "case {i}, {name}: {made:?}");
        }
        assert!(cost.scored.round() as usize >= world.service.scored.borrow().len());
        // Where tokens are matched the data of fewer sequences are gone over more often.
        if name != "single-agent" {
            assert!(cost.trained.round() as usize >= trained(&world).0, "case {i}, {name}");
        }
    }
}

#[test]
fn arms_share_what_they_ask_of_the_base() {
    let of = |name: &str, edit: Edit| {
        let mut config = config_of(edit);
        // Summaries are the base's draws too, also those of what trained agents say.
        config.debate.others = "concatenate".parse().unwrap();
        let world = World::new(config, 12, 6, |_: &Asked| "so 7");
        forecast_of(Recipes::default().get(name).unwrap(), &world)
    };
    let many = of("multiagent", |_| {});
    let shared = |other: &Cost| other.of_base.keys().filter(|key| many.of_base.contains_key(key)).count();
    let one = of("single-agent", |_| {});
    assert_eq!((shared(&one), one.of_base.len()), (many.of_base.len(), many.of_base.len()));
    // The samples of a vote are first answers of the debate, and two more.
    let majority = of("majority-ft", |c| c.training.samples = 5);
    assert_eq!(majority.of_base.len() - shared(&majority), 12 * 2);
    // Agents that are told who they are are asked otherwise.
    let told = of("agent-ids", |_| {});
    assert_eq!(shared(&told), 0);
    // Every draw counts for as many questions as it stands for, and no draw of trained weights is shared.
    let all: f64 = many.own.iter().chain(many.of_base.values()).map(|d| d.count).sum();
    assert!(all <= (many.training.all() + many.evaluation.all()) as f64);
}

#[test]
fn a_task_that_reads_nothing_is_named() {
    let mut world = World::new(config(3, 2), 2, 0, |_: &Asked| "so 7");
    let section = colloquy::run::TaskSection {
        extraction: Some("regex".into()),
        pattern: Some("a{0}".into()),
        equality: Some("number".into()),
        ..Default::default()
    };
    world.config.task = section.clone();
    let task = colloquy::task::open(&section).unwrap();
    let (questions, answers) = (world.questions.clone(), world.answers.clone());
    let own = Material { task: Rc::new(task), questions, answers };
    let codec: Rc<dyn Codec> = world.codec.clone();
    let lengths = Lengths { answer: 1, summary: 1 };
    let e =
        forecast(Recipes::default().get("multiagent").unwrap(), &world.config, &codec, &own, None, lengths);
    let e = e.unwrap_err().to_string();
    assert!(e.contains("task arithmetic: ") && e.contains("no text in which it reads an answer"), "{e}");
}
