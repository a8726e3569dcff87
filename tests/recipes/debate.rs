//! The debate protocol: who is asked what, by which adapter, and what counts.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::common::fake::house::House;
use crate::common::fake::*;
use colloquy::adapter::NewAdapter;
use colloquy::debate::{Debate, DrawId, Occasion, Protocol, Round, Society, Speaker, Voice};
use colloquy::engine::{AdapterId, AdapterSource, NoJournal, SamplingParams, Scope, run_lane};
use colloquy::run::{RunConfig, SamplingSection};
use colloquy::task::Question;
use serde_json::json;

/// A response that tells who wrote it when, and answers `round`.
fn signed(a: &Asked) -> String {
    match a.kind {
        "summary" => format!("summary for {} of round {}", name(a.agent), a.round),
        _ => format!("{} in round {}, state {}", name(a.agent), a.round, a.state),
    }
}

fn name(agent: usize) -> &'static str {
    ["Ann", "Bob", "Cid", "Dan", "Eve"][agent]
}

fn said(agent: usize, round: usize) -> String {
    format!("{} in round {round}, state 0", name(agent))
}

#[test]
fn everyone_reads_the_others_of_the_round_before() {
    for (agents, rounds) in [(3, 2), (2, 3), (5, 3), (3, 4)] {
        let world = World::new(config(agents, rounds), 4, 0, signed).run("multiagent");
        for round in 2..=rounds {
            let summaries = world.train_asked("summary", round);
            assert_eq!(summaries.len(), 4 * agents);
            for a in summaries {
                let others: String = (0..agents)
                    .filter(|n| *n != a.agent)
                    .map(|n| format!("<{}>", said(n, round - 1)))
                    .collect();
                assert_eq!(a.turns, [format!("SUM {}{others}", a.question)]);
                assert_eq!(a.adapter, AdapterId::BASE);
            }
        }
    }
}

#[test]
fn concatenation_shows_the_others_themselves() {
    let mut config = config(3, 2);
    config.debate.others = "concatenate".parse().unwrap();
    let world = World::new(config, 2, 0, signed).run("multiagent");
    assert!(world.train_asked("summary", 2).is_empty());
    let asked = world.train_asked("answer", 2);
    assert_eq!(asked.len(), 6);
    for a in asked {
        let others: String = (0..3).filter(|n| *n != a.agent).map(|n| format!("<{}>", said(n, 1))).collect();
        assert_eq!(a.turns[2], format!("CAT {}{others}", a.question));
    }
}

#[test]
fn critics_have_their_own_history() {
    let world = World::new(config(3, 3), 3, 0, signed).run("multiagent");
    for a in world.train_asked("answer", 1) {
        assert_eq!(a.turns, [format!("Q {}", a.question)]);
        assert_eq!(a.adapter, AdapterId(1 + a.agent as u32), "generators answer first");
    }
    for a in world.train_asked("answer", 3) {
        let summary = |round| format!("DEB {} summary for {} of round {round}", a.question, name(a.agent));
        let expected =
            [format!("Q {}", a.question), said(a.agent, 1), summary(2), said(a.agent, 2), summary(3)];
        assert_eq!(a.turns, expected);
        assert_eq!(a.adapter, AdapterId(4 + a.agent as u32), "critics answer later");
    }
    assert_eq!(world.service.dropped.get(), 6);
}

#[test]
fn one_round_needs_no_critics_and_one_agent_no_others() {
    let world = World::new(config(3, 1), 2, 0, signed).run("multiagent");
    assert_eq!(world.service.dropped.get(), 3);
    assert!(world.train_asked("summary", 2).is_empty() && world.train_asked("answer", 2).is_empty());

    let world = World::new(config(1, 2), 2, 0, signed).run("multiagent");
    assert!(world.train_asked("summary", 2).is_empty());
    let a = &world.train_asked("answer", 2)[0];
    assert_eq!(a.turns[2], format!("ALONE {}", a.question));

    let world = World::new(config(1, 1), 2, 2, signed).run("multiagent");
    assert_eq!(world.output.transcript(1, "train").len(), 2);
    assert_eq!(world.output.metric(1, "dev")["debate"]["rounds"].as_array().unwrap().len(), 1);
}

#[test]
fn all_agents_of_a_single_agent_debate_are_one_adapter() {
    let world = World::new(config(3, 2), 2, 0, signed).run("single-agent");
    let asked = world.service.asked.borrow();
    assert!(
        asked.iter().filter(|a| a.kind == "answer" && a.iteration == 1).all(|a| a.adapter == AdapterId(1))
    );
    assert_eq!(world.service.dropped.get(), 1);
}

#[test]
fn transcripts_hold_what_is_needed_to_recount() {
    let script = |a: &Asked| match (a.kind, a.agent) {
        ("summary", _) => "they disagree".to_string(),
        (_, 0) => "so 5".into(),
        (_, 1) => format!("so {}", if a.round == 1 { 3 } else { 5 }),
        _ => "no idea".into(),
    };
    let world = World::new(config(3, 2), 1, 0, script).run("multiagent");
    let t = &world.output.transcript(1, "train")[0];
    assert_eq!(t["id"], world.questions.train[0].id);
    assert_eq!(t["question"], "q0");
    assert_eq!(answers(t, 1), [Some("5".into()), Some("3".into()), None]);
    assert_eq!(t["rounds"][0]["vote"]["tie"], true);
    assert_eq!(t["rounds"][1]["vote"], json!({"answer": "5", "votes": 2, "tie": false}));
    assert_eq!(t["vote"], t["rounds"][1]["vote"]);
    assert!((t["agreement"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-12);
    let turn = &t["rounds"][1]["turns"][0];
    assert_eq!(turn["prompt"], "DEB q0 they disagree");
    assert_eq!(turn["summary"]["text"], "they disagree");
    assert_eq!(turn["response"]["text"], "so 5");
    assert_eq!(turn["response"]["tokens"], 5);
    assert_eq!(turn["response"]["finish"], "stop");
    assert_eq!(turn["response"]["mean_logprob"], -0.5);
    assert!(t.get("reference").is_none(), "training transcripts know no answers");
}

#[test]
fn ties_are_decided_by_the_rule() {
    let script =
        |a: &Asked| if a.kind == "summary" { "s".into() } else { format!("so {}", [10, 9, 5][a.agent]) };
    let winner = |ties: &str| {
        let mut config = config(3, 2);
        config.debate.ties = ties.parse().unwrap();
        let world = World::new(config, 8, 0, script).run("multiagent");
        let votes = world.output.transcript(1, "train");
        votes.iter().map(|t| t["vote"]["answer"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(winner("first"), vec!["10"; 8]);
    // The largest as a string.
    assert_eq!(winner("largest"), vec!["9"; 8]);
    let random = winner("random");
    assert_eq!(random, winner("random"));
    assert!(random.iter().any(|a| a != &random[0]), "{random:?}");
}

#[test]
fn a_prompt_that_outgrows_the_context_is_no_answer() {
    // Bob's answer is so long that nobody who reads of it, and not Bob himself, can go on.
    let script = |a: &Asked| match (a.kind, a.agent, a.round) {
        ("summary", ..) => "short".to_string(),
        (_, 1, 1) => format!("{} so 5", "x".repeat(80)),
        _ => "so 5".into(),
    };
    let mut world = World::new(config(3, 3), 1, 0, script);
    world.codec = Rc::new(CharCodec { max_positions: 95 });
    let world = world.run("multiagent");
    let t = &world.output.transcript(1, "train")[0];
    let missing = |round: usize, agent: usize| t["rounds"][round - 1]["turns"][agent]["missing"].clone();
    assert_eq!(answers(t, 1), [Some("5".into()), Some("5".into()), Some("5".into())]);
    assert_eq!(answers(t, 2), [None, None, None]);
    assert_eq!(missing(2, 0), "the summary's prompt outgrew the context");
    assert_eq!(missing(2, 1), "the prompt outgrew the context");
    // In round 3 there is nobody to read: Ann and Cid are asked alone, Bob's history is still too long.
    assert_eq!(answers(t, 3), [Some("5".into()), None, Some("5".into())]);
    assert_eq!(t["rounds"][2]["turns"][0]["prompt"], "ALONE q0");
    assert_eq!(missing(3, 1), "the prompt outgrew the context");
    // The denominator is all agents.
    assert!((t["agreement"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-12);
}

#[test]
fn a_question_longer_than_the_context_is_an_error_that_names_it() {
    let mut world = World::new(config(3, 2), 2, 0, signed);
    let long = Question::new("long ".repeat(30));
    let id = long.id.clone();
    Rc::get_mut(&mut world.questions).unwrap().dev.push(long);
    world.codec = Rc::new(CharCodec { max_positions: 100 });
    let e = message(world.try_run("multiagent"));
    assert!(e.contains(&id) && e.contains("context is 100"), "{e}");
    assert!(world.service.asked.borrow().is_empty(), "found before any work");
}

#[test]
fn a_text_that_is_refused_before_it_is_tokenized_is_too_long_for_its_debate_only() {
    let script = |a: &Asked| match (a.agent, a.round) {
        (1, 1) => format!("{} so 5", "x".repeat(1000)),
        _ => "so 5".into(),
    };
    let mut world = World::new(config(3, 2), 1, 0, script);
    world.codec = Rc::new(CharCodec { max_positions: 100 });
    let world = world.run("multiagent");
    let t = &world.output.transcript(1, "train")[0];
    assert_eq!(answers(t, 2), [None, None, None]);
    let missing = |agent: usize| t["rounds"][1]["turns"][agent]["missing"].clone();
    assert_eq!(missing(0), "the summary's prompt outgrew the context");
    let mut world = World::new(config(3, 2), 2, 0, signed);
    let long = Question::new("long ".repeat(300));
    let id = long.id.clone();
    Rc::get_mut(&mut world.questions).unwrap().dev.push(long);
    world.codec = Rc::new(CharCodec { max_positions: 100 });
    let e = message(world.try_run("multiagent"));
    assert!(e.contains(&id) && e.contains("its prompt is longer than any text of 100 tokens"), "{e}");
}

#[test]
fn the_order_in_which_samples_finish_changes_nothing() {
    let run = |jitter: u64, sequences: usize| {
        let mut config = config(3, 3);
        config.run.max_sequences = sequences;
        (config.run.iterations, config.eval.before) = (2, true);
        let world = World::new(config, 12, 5, |a| format!("{} so {}", signed(a), a.key % 3));
        world.service.jitter.set(jitter);
        world.run("multiagent").output.stored()
    };
    let one = run(1, 192);
    assert!(one.contains("Cid in round 3"));
    assert_eq!(one, run(0x1234_5678_9abc, 192));
    assert_eq!(one, run(99, 1));
}

#[test]
fn the_first_debate_is_shown_and_every_question_counted() {
    use colloquy::run::Event;
    let world = World::new(config(2, 2), 6, 3, signed).run("multiagent");
    let events = world.output.events.borrow();
    let debates: Vec<_> = events
        .iter()
        .filter_map(|e| if let Event::Debate { transcript, .. } = e { Some(transcript) } else { None })
        .collect();
    assert_eq!(debates.len(), 2);
    assert_eq!(debates[0]["question"], "q0");
    assert_eq!((&debates[1]["question"], &debates[1]["reference"]), (&json!("d0"), &json!("7")));
    let (mut total, mut done) = (0, 0);
    for e in events.iter() {
        match e {
            Event::Phase { total: t, .. } => total += t,
            Event::Advance { done: d, .. } => done += d,
            _ => {}
        }
    }
    assert_eq!(total, done);
    assert!(total >= 9);
}

#[test]
fn each_round_is_told_before_the_next_is_asked() {
    let world = World::new(config(3, 3), 1, 0, signed);
    let table =
        Protocol::new(world.codec.clone(), Rc::new(task()), &world.config.debate, &world.config.sampling, 8)
            .unwrap();
    let scope = Scope::new("lane", world.service.clone(), Rc::new(NoJournal));
    let occasion = Occasion { seed: 0, iteration: 1, purpose: "train" };
    let (told, question, service) =
        (Rc::new(RefCell::new(vec![])), world.questions.train[0].clone(), world.service.clone());
    let into = told.clone();
    let lane = async move {
        let note = |r: usize, round: &Round| {
            into.borrow_mut().push((r, serde_json::to_value(round).unwrap(), service.asked.borrow().len()));
            Ok(())
        };
        let society = Society::uniform(AdapterId::BASE, 3);
        table.debate_told(&scope, &question, &society, occasion, note).await
    };
    let debate = world.service.drive(lane).unwrap();
    let expected: Vec<_> = debate.rounds.iter().map(|r| serde_json::to_value(r).unwrap()).collect();
    // Three answers, then three summaries and three answers a round.
    let expected: Vec<_> =
        expected.into_iter().zip([(1, 3), (2, 9), (3, 15)]).map(|(v, (r, n))| (r, v, n)).collect();
    assert_eq!(told.take(), expected);
}

#[test]
fn samples_are_drawn_as_the_configuration_says() {
    let sampling = SamplingSection {
        temperature: 0.8,
        top_p: 0.95,
        top_k: 30,
        min_p: 0.05,
        max_tokens: 50,
        summary_max_tokens: 20,
        ..SamplingSection::default()
    };
    let config = RunConfig { sampling, ..config(2, 2) };
    let world = World::new(config, 2, 0, signed).run("multiagent");
    let params = world.service.params.borrow();
    for max_tokens in [50, 20] {
        let wanted = SamplingParams { temperature: 0.8, top_k: 30, top_p: 0.95, min_p: 0.05, max_tokens };
        assert!(params.contains(&wanted), "{params:?}");
    }
    let free = params.iter().filter(|p| p.temperature > 0.0);
    assert!(free.clone().all(|p| (p.top_k, p.top_p, p.min_p) == (30, 0.95, 0.05)), "{params:?}");
}

#[test]
fn a_mixture_of_adapters_speaks() {
    let house = House::new(1, 2);
    let layout = house.engine.with(|e| e.model().layout().clone());
    let ids = [1, 2].map(|init_seed| {
        let mut numbers = NewAdapter { init_seed, ..NewAdapter::default() }.snapshot(&layout).unwrap();
        for (i, (_, _, values)) in numbers.weights.iter_mut().enumerate() {
            values.iter_mut().enumerate().for_each(|(j, v)| *v += ((i * 31 + j * 17) % 13) as f32 / 400.0);
        }
        house.engine.create(AdapterSource::Snapshot(Arc::new(numbers))).unwrap()
    });
    let question = Question::new("What is 12+30*2?");
    let occasion = Occasion { seed: 0, iteration: 1, purpose: "train" };
    let sampling = SamplingSection { max_tokens: 20, ..SamplingSection::default() };
    // The request carries all of it.
    let (codec, third) = (house.codec.clone(), Speaker::mixture([(ids[0], 0.25), (ids[1], 0.75)]));
    let draw = DrawId::answer(occasion, &question);
    let request = Voice::new(codec.clone(), sampling.clone()).request(&third, vec![1].into(), &draw);
    assert_eq!(request.adapters, [(ids[0], 0.25), (ids[1], 0.75)]);
    assert_eq!((request.key, third.alone()), (draw.key(), None));

    let protocol =
        Rc::new(Protocol::new(codec, Rc::new(task()), &config(2, 2).debate, &sampling, 8).unwrap());
    let debate = |speaker: Speaker| {
        let scope = Scope::new("lane", Rc::new(house.engine.clone()), Rc::new(NoJournal));
        let (protocol, question, society) =
            (protocol.clone(), question.clone(), Society::uniform(speaker, 2));
        let lane = async move { protocol.debate(&scope, &question, &society, occasion).await };
        run_lane(&house.engine, lane).unwrap()
    };
    let said = |debate: &Debate| -> Vec<Vec<u32>> {
        let turns = debate.rounds.iter().flat_map(|r| &r.turns);
        turns.map(|t| t.response.as_ref().unwrap().ids.clone()).collect()
    };
    let single = debate(ids[0].into());
    let whole = debate(Speaker::mixture([(ids[0], 1.0), (ids[1], 0.0)]));
    assert_eq!(said(&whole), said(&single));
    for (a, b) in single.rounds[1].turns.iter().zip(&whole.rounds[1].turns) {
        let [a, b] = [a, b].map(|t| t.response.as_ref().unwrap().mean_logprob);
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    assert_ne!(said(&debate(ids[1].into())), said(&single));
    let half = debate(Speaker::mixture([(ids[0], 0.5), (ids[1], 0.5)]));
    assert_ne!(half.rounds[0].turns[0].response.as_ref().unwrap().mean_logprob, {
        single.rounds[0].turns[0].response.as_ref().unwrap().mean_logprob
    });
}
