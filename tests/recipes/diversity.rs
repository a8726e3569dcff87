//! Diversity of dev debates and the cost of phases, on an engine whose log-probabilities are known.

use std::rc::Rc;

use crate::common::fake::{self, *};
use colloquy::engine::AdapterId;
use colloquy::run::{EvalMethod, RunConfig};
use serde_json::{Value, json};

fn close(found: &Value, expected: f64) {
    let number = found.as_f64().unwrap_or_else(|| panic!("{found} is no number, expected {expected}"));
    assert!((number - expected).abs() < 1e-6, "{number} is not {expected}");
}

fn config(agents: usize, rounds: usize) -> RunConfig {
    let mut config = fake::config(agents, rounds);
    config.eval.diversity = 10;
    config
}

/// Agent 0 writes `x 7` in the last round and agent 1 `y 7`; in the first both write `7`.
fn xy(a: &Asked) -> String {
    match (a.kind, a.round) {
        ("summary", _) => "s".into(),
        (_, 1) | ("greedy", _) => "7".into(),
        _ => format!("{} 7", ["x", "y"][a.agent]),
    }
}

/// The critics (adapters 3 and 4) find `x` and `y` unlike, and everything else as all do; the base (0) finds all unlikely.
fn logprob(adapter: AdapterId, token: u32) -> f32 {
    match (adapter.0, char::from_u32(token).unwrap()) {
        (0, _) => -4.0,
        (3, 'x') => -1.0,
        (3, 'y') => -2.0,
        (4, 'x') => -3.5,
        (4, 'y') => -1.25,
        _ => -0.5,
    }
}

fn embedding(tokens: &[u32]) -> Vec<f32> {
    if tokens.contains(&u32::from('x')) { vec![1.0, 0.0] } else { vec![2.0, 2.0] }
}

fn world(config: RunConfig, train: usize, dev: usize, script: fn(&Asked) -> String) -> World {
    let world = World::new(config, train, dev, script);
    *world.service.logprob.borrow_mut() = Box::new(logprob);
    *world.service.embedding.borrow_mut() = Box::new(embedding);
    world
}

/// Text of tokens, roles and ends left out.
fn text(tokens: &[u32]) -> String {
    tokens.iter().filter(|t| **t > 3).map(|t| char::from_u32(*t).unwrap()).collect()
}

#[test]
fn likelihoods_and_divergences_are_those_of_known_log_probabilities() {
    let world = world(config(2, 2), 1, 2, xy).run("multiagent");
    let found = world.output.metric(1, "diversity");
    assert_eq!(found["questions"], 2);
    // `y 7` and its end under critic 0: (2 + 3 × 0.5) / 4; `x 7` under critic 1: (3.5 + 3 × 0.5) / 4.
    close(&found["nll"]["per_agent"][0], 0.875);
    close(&found["nll"]["per_agent"][1], 1.25);
    close(&found["nll"]["value"], 1.0625);
    close(&found["nll"]["standard_error"], 0.0);
    // `x 7`: (-1 + 3.5) / 4; `y 7`: (-1.25 + 2) / 4.
    close(&found["kl"]["value"], (0.625 + 0.1875) / 2.0);
    assert!(found["kl"]["direction"].as_str().unwrap().contains("KL(p_i || p_j)"));
    assert!(
        found["kl"]["estimator"].as_str().unwrap().contains("own sampled tokens, drawn at temperature 1")
    );
    // Against -4 a token.
    close(&found["kl_base"]["per_agent"][0], 4.0 - 0.625);
    close(&found["kl_base"]["per_agent"][1], 4.0 - 0.6875);
    close(&found["kl_base"]["value"], 4.0 - 0.65625);
    close(&found["kl_base"]["generators"]["value"], 3.5);
    close(&found["embedding"]["value"], 1.0 - 0.5f64.sqrt());
    assert_eq!(found["embedding"]["encoder"], "base-mean-pooled");
    close(&found["off_task_nll"]["value"], 0.5);
    close(&found["off_task_nll"]["base"], 4.0);
    for (key, expected) in [("consensus", 1.0), ("distinct_answers", 1.0), ("pass_at_n", 1.0)] {
        close(&found[key], expected);
        close(&found["first_round"][key], expected);
    }
    // Nobody errs: there is no correlation.
    assert!(found.get("error_correlation").is_none());

    // Each response is read in its own agent's conversation, the other's last.
    let scored = world.service.scored.borrow();
    let of_critics: Vec<(u32, String)> =
        scored.iter().filter(|r| r.adapter.0 > 2).map(|r| (r.adapter.0, text(&r.tokens))).collect();
    for (reader, conversation) in [(4, "Q d07DEB d0 sx 7"), (3, "Q d07DEB d0 sy 7"), (4, "Q d17DEB d1 sx 7")]
    {
        let times = of_critics.iter().filter(|(r, c)| *r == reader && c == conversation).count();
        assert_eq!(times, 1, "{reader} reads {conversation}: {of_critics:?}");
    }
    assert_eq!(of_critics.len(), 4);
    // What is encoded follows the question's prompt, whatever the agent read.
    let embedded = world.service.embedded.borrow();
    assert_eq!(embedded.len(), 4);
    assert!(embedded.iter().all(|r| r.adapter == AdapterId::BASE && text(&r.tokens[r.from..]).len() == 3));
    assert_eq!(text(&embedded[0].tokens[..embedded[0].from]).len(), "Q d0".len());
}

/// Any number of agents and rounds, against sums over the transcripts.
#[test]
fn measures_are_sums_over_the_transcripts() {
    let script = |a: &Asked| -> String {
        if a.kind != "answer" {
            return "s".into();
        }
        // One agent in each round has no answer; on question 3 the other two disagree.
        let question = a.question.bytes().last().map_or(0, |b| usize::from(b - b'0'));
        let ending = match (a.agent + 2 * question + a.round) % 3 {
            0 => "none",
            _ if (a.agent + question) % 4 < 1 => "5",
            _ => "7",
        };
        format!("{} {ending}", "w".repeat(1 + (a.agent * 7 + a.round * 3 + question * 5) % 11))
    };
    let logprob = |adapter: AdapterId, token: u32| -(1.0 + ((adapter.0 * 31 + token * 17) % 13) as f32 / 8.0);
    let (agents, dev) = (3, 6);
    let mut config = config(agents, 3);
    config.eval.diversity = 4;
    let world = World::new(config, 1, dev, script);
    *world.service.logprob.borrow_mut() = Box::new(logprob);
    *world.service.embedding.borrow_mut() = Box::new(|t| vec![t.len() as f32, t[0] as f32 - 100.0, 1.0]);
    let world = world.run("multiagent");
    let found = world.output.metric(1, "diversity");
    let debates = &world.output.transcript(1, "dev-debate")[..4];

    let said = |debate: &Value, round: usize, n: usize| -> Vec<u32> {
        let text = debate["rounds"][round]["turns"][n]["response"]["text"].as_str().unwrap();
        text.chars().map(u32::from).chain([1]).collect()
    };
    let mean_of = |adapter: u32, tokens: &[u32]| -> f64 {
        let sum: f64 = tokens.iter().map(|t| f64::from(logprob(AdapterId(adapter), *t))).sum();
        sum / tokens.len() as f64
    };
    let critic = |n: usize| (agents + n + 1) as u32;
    let (mut nll, mut kl, mut base, mut first, mut dissimilar) = (vec![], vec![], vec![], vec![], vec![]);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    for debate in debates {
        let (mut nll_here, mut kl_here, mut base_here, mut first_here) = (vec![], vec![], vec![], vec![]);
        for i in 0..agents {
            let response = said(debate, 2, i);
            for j in (0..agents).filter(|j| *j != i) {
                nll_here.push(-mean_of(critic(j), &response));
                kl_here.push(mean_of(critic(i), &response) - mean_of(critic(j), &response));
            }
            base_here.push(mean_of(critic(i), &response) - mean_of(0, &response));
            let answer = said(debate, 0, i);
            first_here.push(mean_of(i as u32 + 1, &answer) - mean_of(0, &answer));
        }
        nll.push(mean(&nll_here));
        kl.push(mean(&kl_here));
        base.push(mean(&base_here));
        first.push(mean(&first_here));
        let vote = &debate["vote"]["answer"];
        let last = debate["rounds"][2]["turns"].as_array().unwrap();
        let agreed: Vec<Vec<f64>> = (0..agents)
            .filter(|n| !vote.is_null() && last[*n]["answer"] == *vote)
            .map(|n| said(debate, 2, n))
            .map(|t| vec![t.len() as f64, f64::from(t[0]) - 100.0, 1.0])
            .collect();
        let mut pairs = vec![];
        for (i, a) in agreed.iter().enumerate() {
            for b in &agreed[..i] {
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                pairs.push(1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
            }
        }
        if !pairs.is_empty() {
            dissimilar.push(mean(&pairs));
        }
    }
    assert!(!dissimilar.is_empty() && dissimilar.len() < 4, "{dissimilar:?}");
    for (key, values) in [("nll", &nll), ("kl", &kl), ("kl_base", &base), ("embedding", &dissimilar)] {
        close(&found[key]["value"], mean(values));
        let spread = mean(&values.iter().map(|v| (v - mean(values)).powi(2)).collect::<Vec<_>>());
        close(&found[key]["standard_error"], (spread / values.len() as f64).sqrt());
    }
    close(&found["kl_base"]["generators"]["value"], mean(&first));
    for (record, round) in [(&found, 2), (&found["first_round"], 0)] {
        let all: Vec<Vec<Option<String>>> = debates.iter().map(|d| answers(d, round + 1)).collect();
        let distinct =
            all.iter().map(|a| a.iter().flatten().collect::<std::collections::BTreeSet<_>>().len());
        close(&record["distinct_answers"], distinct.sum::<usize>() as f64 / 4.0);
        let right = all.iter().filter(|a| a.contains(&Some("7".into()))).count();
        close(&record["pass_at_n"], right as f64 / 4.0);
        let votes = debates.iter().map(|d| d["rounds"][round]["vote"]["votes"].as_f64().unwrap() / 3.0);
        close(&record["consensus"], votes.sum::<f64>() / 4.0);
    }
}

#[test]
fn one_adapter_for_all_reads_its_own_samples() {
    let world = world(config(2, 2), 1, 2, xy).run("single-agent");
    let found = world.output.metric(1, "diversity");
    // Adapter 1 finds everything at -0.5; the other's samples are its own.
    close(&found["nll"]["value"], 0.5);
    assert_eq!((&found["kl"]["value"], &found["kl"]["standard_error"]), (&json!(0.0), &json!(0.0)));
    close(&found["kl_base"]["value"], 3.5);
    // Only the base is asked: for two responses of two rounds of two questions, and both for the fixed text.
    let scored = world.service.scored.borrow();
    assert_eq!(scored.iter().filter(|r| r.adapter == AdapterId::BASE).count(), 2 * 2 * 2 + 1);
    assert_eq!(scored.len(), 2 * 2 * 2 + 2);
}

#[test]
fn what_cannot_be_measured_is_absent() {
    // One agent: nobody to differ from.
    let alone = world(config(1, 1), 1, 2, |_| "7".into()).run("multiagent").output.metric(1, "diversity");
    for key in ["nll", "kl", "embedding", "error_correlation"] {
        assert!(alone.get(key).is_none(), "{key}: {alone}");
    }
    close(&alone["kl_base"]["value"], 3.5);
    assert!(alone["kl_base"].get("generators").is_none(), "the last round is the first");
    // Nobody agrees with a vote that is none: nothing to encode.
    let mute = |a: &Asked| if a.kind == "summary" { "s".into() } else { "no".to_string() };
    let mute = world(config(2, 2), 1, 2, mute).run("multiagent");
    let found = mute.output.metric(1, "diversity");
    assert!(found.get("embedding").is_none() && mute.service.embedded.borrow().is_empty());
    close(&found["consensus"], 0.0);
    close(&found["distinct_answers"], 0.0);
    // Prompts that outgrow the context leave no last response.
    let long = |a: &Asked| if a.kind == "summary" { "s".repeat(60) } else { "7".to_string() };
    let mut long = world(config(2, 2), 1, 2, long);
    long.codec = Rc::new(CharCodec { max_positions: 50 });
    let found = long.run("multiagent").output.metric(1, "diversity");
    for key in ["nll", "kl", "kl_base", "embedding"] {
        assert!(found.get(key).is_none(), "{key}: {found}");
    }
    // Off, or without debates: no record.
    for edit in [
        |c: &mut RunConfig| c.eval.diversity = 0,
        |c: &mut RunConfig| c.eval.methods = vec![EvalMethod::Single],
    ] {
        let mut config = config(2, 2);
        edit(&mut config);
        let world = world(config, 1, 2, xy).run("multiagent");
        assert!(!world.output.metrics.borrow().keys().any(|k| k.2 == "diversity"));
        assert!(world.service.scored.borrow().is_empty());
    }
}

#[test]
fn a_resumed_run_measures_the_same_without_the_engine() {
    let mut config = config(3, 2);
    config.eval.before = true;
    let script =
        |a: &Asked| if a.kind == "summary" { "s".into() } else { format!("{} 7", "z".repeat(a.agent)) };
    let first = world(config.clone(), 2, 3, script).run("multiagent");
    let mut again = world(config, 2, 3, script);
    again.journal = first.journal.clone();
    again.service.closed.set(true);
    let again = again.run("multiagent");
    assert_eq!(again.output.stored(), first.output.stored());
    assert!(again.service.scored.borrow().is_empty() && again.service.embedded.borrow().is_empty());
}

/// Sums `prompt_tokens` and `tokens` of what `field` of turns holds.
fn counted<'v>(turns: impl Iterator<Item = &'v Value>, field: &str) -> u64 {
    let of = |u: &Value| u["prompt_tokens"].as_u64().unwrap_or(0) + u["tokens"].as_u64().unwrap_or(0);
    turns.map(|t| of(&t[field])).sum()
}

fn turns_of(debates: &[Value]) -> impl Iterator<Item = &Value> {
    let rounds = debates.iter().flat_map(|d| d["rounds"].as_array().unwrap());
    rounds.flat_map(|r| r["turns"].as_array().unwrap())
}

#[test]
fn recipes_without_debates_count_samples_and_hints() {
    for (recipe, expected) in [
        ("majority-ft", &["samples", "finetune", "dev"][..]),
        ("star", &["samples", "hints", "finetune", "dev"]),
    ] {
        let mut config = config(3, 2);
        config.eval.methods = vec![EvalMethod::Greedy];
        // Every answer is wrong: STaR asks again with a hint.
        let script = |a: &Asked| format!("{} 5", "z".repeat(a.agent + a.sample));
        let world = world(config, 4, 1, script).run(recipe);
        let phases = world.output.metric(1, "compute")["phases"].clone();
        let phases = phases.as_array().unwrap();
        let names: Vec<&str> = phases.iter().map(|p| p["phase"].as_str().unwrap()).collect();
        assert_eq!(names, expected);
        let tokens = |p: &Value| p["prompt_tokens"].as_u64().unwrap() + p["sampled_tokens"].as_u64().unwrap();
        assert_eq!(tokens(&phases[0]), counted(turns_of(&world.output.transcript(1, "train")), "response"));
        if recipe == "star" {
            let hints = world.output.transcript(1, "train-hints");
            let turns = hints.iter().flat_map(|h| h["turns"].as_array().unwrap());
            let counted = counted(turns, "response");
            assert!(counted > 0);
            assert_eq!(tokens(&phases[1]), counted);
        }
    }
}

#[test]
fn phases_cost_what_their_transcripts_hold() {
    let mut config = config(3, 2);
    config.eval.majority_samples = 5;
    config.eval.before = true;
    config.training.num_epochs = 2;
    let script = |a: &Asked| {
        if a.kind == "summary" { "in short".into() } else { format!("{} 7", "z".repeat(a.agent + a.round)) }
    };
    let world = world(config, 4, 2, script).run("multiagent");
    let found = world.output.metric(1, "compute");
    // Generators and critics, one number each.
    assert_eq!(found["adapter_parameters"], 6);
    let phases = found["phases"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().map(|p| p["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["debate", "finetune", "dev"]);
    let tokens = |p: &Value| p["prompt_tokens"].as_u64().unwrap() + p["sampled_tokens"].as_u64().unwrap();

    let train = world.output.transcript(1, "train");
    let (said, summed) = (counted(turns_of(&train), "response"), counted(turns_of(&train), "summary"));
    assert!(said > 0 && summed > 0);
    assert_eq!(tokens(&phases[0]), said + summed);
    let sampled: u64 = turns_of(&train).map(|t| t["response"]["tokens"].as_u64().unwrap()).sum();
    let summaries: u64 = turns_of(&train).map(|t| t["summary"]["tokens"].as_u64().unwrap_or(0)).sum();
    assert_eq!(phases[0]["sampled_tokens"], sampled + summaries);
    // The base has 1000 parameters and writes the summaries, an adapter has one more.
    close(&phases[0]["flop"], (2 * 1001 * said + 2 * 1000 * summed) as f64);

    let trained: u64 = world
        .service
        .trained
        .borrow()
        .iter()
        .map(|r| {
            let of = |i: &u32| r.sequences[*i as usize].tokens.len() as u64;
            r.steps.iter().flat_map(|s| &s.sequences).map(of).sum::<u64>()
        })
        .sum();
    assert!(trained > 0);
    assert_eq!(phases[1]["gradient_tokens"], trained);
    assert_eq!(tokens(&phases[1]), 0);
    close(&phases[1]["flop"], (4 * 1001 * trained) as f64);

    // The debate's first answers are three of the five samples, and were asked for once.
    let debates = world.output.transcript(1, "dev-debate");
    let greedy = world.output.transcript(1, "dev-greedy");
    let samples = world.output.transcript(1, "dev-samples");
    let of = |records: &[Value], skip: usize| -> u64 {
        records.iter().map(|r| counted(r["turns"].as_array().unwrap()[skip..].iter(), "response")).sum()
    };
    let said = counted(turns_of(&debates), "response") + of(&greedy, 0) + of(&samples, 3);
    let summed = counted(turns_of(&debates), "summary");
    assert_eq!(tokens(&phases[2]), said + summed);
    close(&phases[2]["flop"], (2 * 1001 * said + 2 * 1000 * summed) as f64);

    let before = world.output.metric(0, "compute");
    assert_eq!(before["phases"].as_array().unwrap().len(), 1);
    let expected =
        [(0, "dev"), (0, "diversity"), (1, "debate"), (1, "finetune"), (1, "dev"), (1, "diversity")];
    assert_eq!(world.output.phases(), expected.map(|(i, p)| (i, p.to_string())));
}
