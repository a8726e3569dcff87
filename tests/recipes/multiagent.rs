//! The recipes: who is trained on what, how, and that no reference answer reaches training.

use std::rc::Rc;

use crate::common::fake::*;
use colloquy::engine::AdapterId;
use colloquy::run::{EvalMethod, RunConfig};
use colloquy::task::AnswerKey;
use serde_json::{Value, json};

fn questions_of(records: &[Value]) -> Vec<&str> {
    records.iter().map(|r| r["messages"][0]["content"].as_str().unwrap()).collect()
}

fn kinds_of(records: &[Value]) -> Vec<(&str, &str)> {
    questions_of(records).into_iter().zip(records.iter().map(|r| r["kind"].as_str().unwrap())).collect()
}

const BASIC: &[&[&[&str]]] = &[
    // All right at once.
    &[&["7", "7", "7"], &["7", "7", "7"]],
    // Cid is corrected.
    &[&["7", "7", "5"], &["7", "7", "7"]],
    // The vote is 4; Bob leaves it, Cid comes to it.
    &[&["4", "4", "9"], &["4", "9", "4"]],
    // No majority.
    &[&["1", "2", "3"], &["1", "2", "3"]],
    // Ann's first answer and Bob's last are cut off; the vote is theirs all the same.
    &[&["8!", "8", "8"], &["8", "8!", "6"]],
    // Ann has no answer at first.
    &[&["-", "6", "6"], &["6", "6", "-"]],
];

#[test]
fn generators_learn_first_answers_that_match_the_vote() {
    let world = World::new(config(3, 2), 6, 0, scripted(BASIC)).run("multiagent");
    let of = |n: usize| world.output.dataset(1, &format!("generator-{n}"));
    assert_eq!(questions_of(&of(0)), ["Q q0", "Q q1", "Q q2"]);
    assert_eq!(questions_of(&of(1)), ["Q q0", "Q q1", "Q q2", "Q q4", "Q q5"]);
    assert_eq!(questions_of(&of(2)), ["Q q0", "Q q4", "Q q5"]);
    let record = &of(2)[1];
    assert_eq!(record["answer"], "8");
    assert_eq!(record["messages"][1], json!({"role": "assistant", "content": "r1 Cid: 8"}));

    // The engine gets the sampled tokens, end token included, with loss on nothing else.
    let request = world.trained(3).unwrap();
    assert_eq!(request.sequences.len(), 3);
    let (loss, context) = loss_and_context(&request, 1);
    assert_eq!(loss, "r1 Cid: 8\u{1}");
    assert_eq!(context, "\u{2}Q q4\u{1}\u{3}");
}

#[test]
fn critics_learn_corrected_and_confirmed_trajectories() {
    let mut config = config(3, 2);
    config.training.critic_mix = 0.0;
    let confirmed = World::new(config.clone(), 6, 0, scripted(BASIC)).run("multiagent");
    config.training.critic_mix = 1.0;
    let corrected = World::new(config, 6, 0, scripted(BASIC)).run("multiagent");
    let of = |world: &World, n: usize| {
        let records = world.output.dataset(1, &format!("critic-{n}"));
        kinds_of(&records).into_iter().map(|(q, k)| format!("{q} {k}")).collect::<Vec<_>>()
    };
    // Ann's cut-off first answer is context only; her last one on q4 is whole, and she was right before.
    assert_eq!(of(&confirmed, 0), ["Q q0 confirmed", "Q q1 confirmed", "Q q2 confirmed", "Q q4 confirmed"]);
    assert_eq!(of(&corrected, 0), ["Q q5 corrected"]);
    assert_eq!(of(&confirmed, 1), ["Q q0 confirmed", "Q q1 confirmed", "Q q5 confirmed"]);
    assert!(of(&corrected, 1).is_empty());
    assert_eq!(of(&confirmed, 2), ["Q q0 confirmed"]);
    assert_eq!(of(&corrected, 2), ["Q q1 corrected", "Q q2 corrected"]);

    // Critic of Cid, question q1: loss on the last turn only, the first one is context.
    let request = corrected.trained(6).unwrap();
    let (loss, context) = loss_and_context(&request, 0);
    assert_eq!(loss, "r2 Cid: 7\u{1}");
    assert_eq!(context, "\u{2}Q q1\u{1}\u{3}r1 Cid: 5\u{1}\u{2}DEB q1 nothing\u{1}\u{3}");
    let record = &corrected.output.dataset(1, "critic-2")[0];
    let weight = |turn: usize| record["messages"][turn].get("weight").cloned();
    assert_eq!((weight(0), weight(1), weight(3)), (None, Some(json!(0.0)), None));
}

#[test]
fn critics_of_three_rounds_compare_the_first_with_the_last() {
    const TABLE: &[&[&[&str]]] = &[
        &[&["1", "7", "7"], &["7", "1", "7"], &["7", "7", "7!"]],
        &[&["7", "7", "7"], &["1", "1", "1"], &["7", "7", "1"]],
    ];
    let mut config = config(3, 3);
    config.training.critic_mix = 0.5;
    let world = World::new(config, 2, 0, scripted(TABLE)).run("multiagent");
    let of = |n: usize| world.output.dataset(1, &format!("critic-{n}"));
    assert_eq!(kinds_of(&of(0)), [("Q q0", "corrected"), ("Q q1", "confirmed")]);
    assert_eq!(kinds_of(&of(1)), [("Q q0", "confirmed"), ("Q q1", "confirmed")]);
    assert!(of(2).is_empty());
    let (loss, context) = loss_and_context(&world.trained(4).unwrap(), 0);
    assert_eq!(loss, "r3 Ann: 7\u{1}");
    assert!(context.contains("r1 Ann: 1") && context.contains("r2 Ann: 7"));
}

#[test]
fn all_turns_can_carry_loss() {
    let mut config = config(3, 2);
    config.training.critic_loss = "all".parse().unwrap();
    config.training.critic_mix = 0.0;
    let world = World::new(config, 6, 0, scripted(BASIC)).run("multiagent");
    let request = world.trained(4).unwrap();
    // q4 is out: its first turn, cut off, would carry loss.
    assert_eq!(questions_of(&world.output.dataset(1, "critic-0")), ["Q q0", "Q q1", "Q q2"]);
    assert_eq!(loss_and_context(&request, 1).0, "r1 Ann: 7\u{1}r2 Ann: 7\u{1}");
    assert!(world.output.dataset(1, "critic-0")[0]["messages"][1].get("weight").is_none());
}

/// 12 questions on which Ann is corrected in 4, confirmed in 8.
fn four_corrected(a: &Asked) -> String {
    if a.kind == "summary" || a.purpose != "train" {
        return "s".into();
    }
    let question: usize = a.question[1..].parse().unwrap();
    format!("so {}", if question % 3 == 1 && a.agent == 0 && a.round == 1 { 5 } else { 7 })
}

#[test]
fn critic_data_are_mixed_by_w_and_logged() {
    let run = |edit: &dyn Fn(&mut RunConfig)| {
        let mut config = config(3, 2);
        edit(&mut config);
        let world = World::new(config, 12, 0, four_corrected).run("multiagent");
        let kinds: Vec<(String, String)> = kinds_of(&world.output.dataset(1, "critic-0"))
            .into_iter()
            .map(|(q, k)| (q.to_string(), k.to_string()))
            .collect();
        let logged = world.output.metric(1, "training")["critic-0"]["data"].clone();
        (kinds, logged)
    };
    let taken = |kinds: &[(String, String)], kind: &str| kinds.iter().filter(|(_, k)| k == kind).count();

    let (kinds, logged) = run(&|c| c.training.critic_mix = 0.5);
    assert_eq!((taken(&kinds, "corrected"), taken(&kinds, "confirmed")), (4, 4));
    let place = |q: &str| q[3..].parse::<usize>().unwrap();
    assert!(kinds.is_sorted_by_key(|(q, _)| place(q)), "in question order");
    assert_eq!(logged["effective_mix"], 0.5);
    assert_eq!((&logged["corrected"], &logged["confirmed"]), (&json!(4), &json!(8)));

    let (kinds, logged) = run(&|c| c.training.critic_mix = 0.25);
    assert_eq!((taken(&kinds, "corrected"), taken(&kinds, "confirmed")), (3, 7));
    assert_eq!(logged["effective_mix"], 0.3);

    let (kinds, _) = run(&|c| c.training.critic_mix_rule = "coin-flip".parse().unwrap());
    assert_eq!(taken(&kinds, "corrected"), 4);
    assert!(taken(&kinds, "confirmed") <= 4);

    // Bob is never corrected: the other side alone by the ratio, nothing by coin flips.
    let bob = |rule: &str| {
        let mut config = config(3, 2);
        config.training.critic_mix_rule = rule.parse().unwrap();
        World::new(config, 12, 0, four_corrected).run("multiagent").output.dataset(1, "critic-1").len()
    };
    assert_eq!((bob("ratio"), bob("coin-flip")), (12, 0));
}

#[test]
fn coin_flips_take_half_as_many_confirmed() {
    let script = |a: &Asked| {
        let odd = a.question.ends_with(['1', '3', '5', '7', '9']);
        let wrong = a.kind == "answer" && a.round == 1 && a.agent == 0 && odd;
        format!("so {}", if wrong { 5 } else { 7 })
    };
    let mut config = config(3, 2);
    config.training.critic_mix_rule = "coin-flip".parse().unwrap();
    let world = World::new(config, 200, 0, script).run("multiagent");
    let shares = &world.output.metric(1, "training")["critic-0"]["data"];
    assert_eq!(shares["corrected_taken"], 100);
    let confirmed = shares["confirmed_taken"].as_u64().unwrap();
    assert!((35..=65).contains(&confirmed), "{confirmed}");
}

#[test]
fn a_pseudo_label_needs_agreement() {
    let labelled = |min: usize, agents: usize, table: &'static [&'static [&'static [&'static str]]]| {
        let mut config = config(agents, 1);
        config.debate.min_agreement = min;
        config.debate.ties = "first".parse().unwrap();
        let world = World::new(config, table.len(), 0, scripted(table)).run("multiagent");
        let value = world.output.metric(1, "pseudo-labels");
        let sizes: Vec<usize> =
            (0..agents).map(|n| world.output.dataset(1, &format!("generator-{n}")).len()).collect();
        (value["labelled"].as_u64().unwrap(), sizes)
    };
    const THREE: &[&[&[&str]]] = &[
        &[&["7", "7", "7"]],
        &[&["7", "5", "7"]],
        &[&["1", "2", "3"]],
        &[&["-", "4", "-"]],
        &[&["-", "-", "-"]],
    ];
    assert_eq!(labelled(0, 3, THREE), (2, vec![2, 1, 2]));
    assert_eq!(labelled(2, 3, THREE), (2, vec![2, 1, 2]));
    assert_eq!(labelled(3, 3, THREE), (1, vec![1, 1, 1]));
    assert_eq!(labelled(1, 3, THREE), (4, vec![3, 2, 2]));
    // Of two agents both must agree.
    assert_eq!(labelled(0, 2, &[&[&["7", "7"]], &[&["7", "5"]], &[&["7", "-"]]]), (1, vec![1, 1]));
    // One agent agrees with itself.
    assert_eq!(labelled(0, 1, &[&[&["7"]], &[&["-"]]]), (1, vec![1]));
    let mut config = config(3, 2);
    config.debate.min_agreement = 4;
    assert!(
        message(World::new(config, 1, 0, scripted(BASIC)).try_run("multiagent")).contains("min_agreement")
    );
}

#[test]
fn a_single_agent_learns_all_matching_first_answers() {
    let world = World::new(config(3, 2), 6, 0, scripted(BASIC)).run("single-agent");
    let records = world.output.dataset(1, "agent");
    let who: Vec<(&str, i64)> = questions_of(&records)
        .into_iter()
        .zip(records.iter().map(|r| r["agent"].as_i64().unwrap()))
        .collect();
    let expected = [
        ("Q q0", 0),
        ("Q q0", 1),
        ("Q q0", 2),
        ("Q q1", 0),
        ("Q q1", 1),
        ("Q q2", 0),
        ("Q q2", 1),
        ("Q q4", 1),
        ("Q q4", 2),
        ("Q q5", 1),
        ("Q q5", 2),
    ];
    assert_eq!(who, expected);
    assert_eq!(world.service.trained.borrow().len(), 1);
}

#[test]
fn an_agent_without_data_keeps_its_adapter() {
    // Bob never agrees.
    let script = |a: &Asked| format!("so {}", if a.agent == 1 { 1 } else { 7 });
    for start in ["previous", "base"] {
        let mut config = config(3, 2);
        config.run.iterations = 2;
        config.training.start_from = start.parse().unwrap();
        let world = World::new(config, 4, 0, script).run("multiagent");
        let trained: Vec<u32> = world.service.trained.borrow().iter().map(|r| r.adapter.0).collect();
        assert_eq!(trained, [1, 3, 4, 6, 1, 3, 4, 6]);
        let adapters = world.output.adapters.borrow();
        let state = |iteration: usize, name: &str| adapters[&("lane".into(), iteration, name.into())];
        assert_eq!((state(1, "generator-1"), state(2, "generator-1")), (0, 0));
        assert_ne!(state(1, "generator-0"), state(2, "generator-0"));
        assert!(world.output.notes().iter().any(|n| n.contains("generator-1 has no data")));
        assert_eq!(world.output.dataset(1, "critic-1").len(), 0);
        assert_eq!(world.output.metric(1, "training")["generator-1"]["examples"], 0);
    }
}

#[test]
fn iterations_start_from_the_last_ones_adapters_or_the_base() {
    let run = |start: &str, keep: bool| {
        let mut config = config(3, 2);
        config.run.iterations = 3;
        (config.training.start_from, config.training.keep_moments) = (start.parse().unwrap(), keep);
        World::new(config, 4, 0, |_: &Asked| "so 7").run("multiagent")
    };
    let world = run("previous", false);
    assert!(world.service.restored.borrow().is_empty());
    assert!(world.service.trained.borrow().iter().all(|r| r.fresh_moments));
    // Iteration 2 debates with what iteration 1 made.
    let asked = world.service.asked.borrow();
    let first =
        |i: usize| asked.iter().find(|a| a.purpose == "train" && a.iteration == i && a.agent == 2).unwrap();
    let made = world.output.adapters.borrow()[&("lane".into(), 1, "generator-2".into())];
    assert_eq!((first(1).state, first(2).state), (0, made));
    assert_ne!(made, 0);

    let world = run("base", false);
    let restored = world.service.restored.borrow();
    assert_eq!(restored.len(), 18);
    assert!(restored.iter().all(|(_, state)| *state == 0));
    assert!(run("previous", true).service.trained.borrow().iter().all(|r| !r.fresh_moments));
}

#[test]
fn critics_may_have_settings_of_their_own() {
    let mut config = config(3, 2);
    config.training.learning_rate = 0.5;
    config.training.critic.insert("learning_rate".into(), toml::Value::Float(0.25));
    config.training.critic.insert("num_epochs".into(), toml::Value::Integer(1));
    config.training.critic.insert("adam_beta2".into(), toml::Value::Float(0.5));
    let world = World::new(config, 4, 0, |_: &Asked| "so 7").run("multiagent");
    for request in world.service.trained.borrow().iter() {
        let critic = request.adapter.0 > 3;
        let (rate, steps, beta2) = if critic { (0.25, 1, 0.5) } else { (0.5, 2, 0.999) };
        assert_eq!(request.steps.len(), steps);
        assert!(request.steps.iter().all(|s| s.learning_rate == rate));
        assert_eq!(request.optimizer.beta2, beta2);
    }
}

/// Something to debate: answers that depend on everything but the truth.
fn lively(a: &Asked) -> String {
    let n = if a.kind == "greedy" { u64::from(a.state) } else { a.key ^ u64::from(a.state) };
    format!("{} so {}", "w".repeat((n % 5) as usize), [7, 7, 7, 5, 3][(n / 7 % 5) as usize])
}

fn lively_config() -> RunConfig {
    let mut config = config(3, 2);
    (config.run.iterations, config.eval.before) = (2, true);
    config
}

#[test]
fn reference_answers_never_reach_training() {
    for recipe in ["multiagent", "single-agent"] {
        let one = World::new(lively_config(), 20, 6, lively).run(recipe);
        let mut other = World::new(lively_config(), 20, 6, lively);
        let permuted = other.questions.train.iter().enumerate();
        other.answers =
            Rc::new(AnswerKey::new(permuted.map(|(i, q)| (q.id.clone(), [3, 5, 7][i % 3].to_string()))));
        let other = other.run(recipe);
        let trained = |w: &World| format!("{:?}", w.service.trained.borrow());
        assert!(!one.service.trained.borrow().is_empty());
        assert_eq!(trained(&one), trained(&other));
        assert_eq!(*one.output.adapters.borrow(), *other.output.adapters.borrow());
        assert_eq!(*one.output.datasets.borrow(), *other.output.datasets.borrow());
        let accuracy = |w: &World| w.output.metric(1, "pseudo-labels")["accuracy"].clone();
        assert_ne!(accuracy(&one), accuracy(&other), "the answers do matter to what is measured");
    }
}

#[test]
fn arms_that_still_share_weights_share_draws() {
    let draws = |recipe: &str| {
        let world = World::new(lively_config(), 8, 4, lively).run(recipe);
        let asked = world.service.asked.borrow();
        let untrained =
            |a: &&Asked| a.kind != "greedy" && (a.iteration == 0 || (a.iteration, a.purpose) == (1, "train"));
        let mut draws: Vec<_> = asked.iter().filter(untrained).map(|a| (a.key, a.turns.clone())).collect();
        assert!(asked.iter().filter(untrained).all(|a| a.state == 0));
        draws.sort();
        draws.dedup();
        draws
    };
    assert_eq!(draws("multiagent"), draws("single-agent"));
}

#[test]
fn a_seed_changes_every_draw() {
    use colloquy::debate::{DrawId, Occasion};
    let question = &asks("q", 1)[0];
    let key =
        |seed, iteration, purpose| DrawId::answer(Occasion { seed, iteration, purpose }, question).key();
    let keys = [key(0, 1, "train"), key(1, 1, "train"), key(0, 2, "train"), key(0, 1, "dev")];
    for (i, a) in keys.iter().enumerate() {
        assert!(keys[i + 1..].iter().all(|b| a != b));
    }
}

#[test]
fn a_journalled_run_is_replayed_from_any_point() {
    for (recipe, start) in [("multiagent", "previous"), ("multiagent", "base"), ("single-agent", "previous")]
    {
        let mut config = lively_config();
        config.training.start_from = start.parse().unwrap();
        let world = || World::new(config.clone(), 8, 4, lively);
        let whole = world().run(recipe);
        let expected = whole.output.stored();
        let calls: Vec<String> = whole.journal.entries.borrow().keys().cloned().collect();
        assert!(calls.len() > 50 && calls.iter().all(|c| c.starts_with("lane/")), "{calls:?}");

        // Everything from the journal: nothing is sampled or trained again.
        let mut again = world();
        again.journal = whole.journal.clone();
        again.service.closed.set(true);
        assert_eq!(again.run(recipe).output.stored(), expected);

        // Some of it: the rest is computed, with the same result.
        for lost in 0..3 {
            let mut partial = world();
            partial.journal = whole.journal.clone();
            let keep = |i: usize| !(i * 7 + lost).is_multiple_of(3);
            let gone: Vec<_> = calls.iter().enumerate().filter(|(i, _)| !keep(*i)).map(|(_, c)| c).collect();
            partial.journal.entries.borrow_mut().retain(|call, _| !gone.contains(&call));
            let partial = partial.run(recipe);
            assert_eq!(partial.output.stored(), expected, "{recipe} from {start} without {gone:?}");
        }
    }
}

#[test]
fn evaluation_counts_every_question() {
    // Four dev questions: right, two of three right, nobody has an answer, Cid cut off and wrong after a right start.
    let script = |a: &Asked| -> Reply {
        let answer = match (a.purpose, a.kind, a.question.as_str(), a.round, a.agent) {
            (_, "greedy", ..) => {
                if a.turns[0] == "Q d0" {
                    "7"
                } else {
                    "6"
                }
            }
            ("train", ..) => "7",
            (_, "summary", ..) => "s",
            (_, _, "d0", ..) => "7",
            (_, _, "d1", 1, 0) => "5",
            (_, _, "d1", ..) => "7",
            (_, _, "d2", ..) => "none",
            (_, _, "d3", 1, _) => "7",
            (_, _, "d3", _, 2) => return Reply { text: "so 5".into(), cut: true },
            _ => "5",
        };
        format!("so {answer}").into()
    };
    let mut config = config(3, 2);
    config.eval.before = true;
    let world = World::new(config, 2, 4, script).run("multiagent");
    for iteration in [0, 1] {
        let m = world.output.metric(iteration, "dev");
        assert_eq!(m["questions"], 4);
        let near = |value: &Value, expected: f64| {
            assert!((value.as_f64().unwrap() - expected).abs() < 1e-12, "{value} is not {expected}");
        };
        near(&m["greedy"]["accuracy"], 0.25);
        near(&m["single"]["accuracy"], (1.0 + 2.0 / 3.0 + 0.0 + 1.0) / 4.0);
        near(&m["majority"]["accuracy"], 0.75);
        near(&m["majority"]["standard_error"], (0.75f64 * 0.25 / 4.0).sqrt());
        assert_eq!(m["majority"]["samples"], 3);
        let debate = &m["debate"];
        near(&debate["rounds"][0]["accuracy"], 0.75);
        near(&debate["accuracy"], 0.5);
        near(&debate["rounds"][0]["parse_rate"], 0.75);
        near(&debate["truncation_rate"], 1.0 / 12.0);
        near(&debate["agents"][0], 0.5);
        near(&debate["rounds"][0]["agents"][0], 0.5);
        near(&debate["rounds"][0]["agents"][1], 0.75);
        near(&debate["all_agree"], 0.75);
        near(&debate["rounds"][0]["consensus"], (1.0 + 2.0 / 3.0 + 0.0 + 1.0) / 4.0);
        assert!(debate["summaries"]["mean_tokens"].as_f64().unwrap() > 0.0);
    }
    let debates = world.output.transcript(1, "dev-debate");
    let right: Vec<bool> = debates.iter().map(|d| d["right"].as_bool().unwrap()).collect();
    assert_eq!(right, [true, true, false, false]);
    assert_eq!(debates[0]["reference"], "7");
    assert!(world.output.notes().iter().any(|n| n.contains("iteration 1: dev questions: greedy 25.0 ± ")));
}

#[test]
fn pseudo_labels_are_graded_apart() {
    let world = World::new(config(3, 2), 6, 0, scripted(BASIC)).run("multiagent");
    let m = world.output.metric(1, "pseudo-labels");
    // Labels 7, 7, 4, 8 and 6; the right answer is 7.
    assert_eq!((&m["questions"], &m["labelled"]), (&json!(6), &json!(5)));
    assert!((m["coverage"].as_f64().unwrap() - 5.0 / 6.0).abs() < 1e-12);
    assert!((m["accuracy"].as_f64().unwrap() - 0.4).abs() < 1e-12);
}

#[test]
fn test_questions_are_asked_before_the_first_and_after_the_last_iteration_only() {
    let mut world =
        World::new(
            lively_config(),
            4,
            3,
            |a: &Asked| if a.purpose == "test" { "so 7".into() } else { lively(a) },
        );
    let questions = Rc::get_mut(&mut world.questions).unwrap();
    std::mem::swap(&mut questions.test, &mut questions.dev);
    let world = world.run("multiagent");
    let metrics = world.output.metrics.borrow();
    let iterations: Vec<usize> = metrics.keys().filter(|k| k.2 == "test").map(|k| k.1).collect();
    assert_eq!(iterations, [0, 2]);
    assert!(!metrics.keys().any(|k| k.2 == "dev"));
}

#[test]
fn majority_may_take_more_samples_than_agents() {
    let mut config = config(3, 1);
    config.eval.majority_samples = 7;
    config.eval.methods = vec![EvalMethod::Majority];
    let world = World::new(config, 1, 2, |_: &Asked| "so 7").run("multiagent");
    let asked = world.service.asked.borrow();
    let mut who: Vec<(usize, usize, AdapterId)> = asked
        .iter()
        .filter(|a| a.purpose == "dev" && a.question == "d0")
        .map(|a| (a.sample, a.agent, a.adapter))
        .collect();
    who.sort();
    let expected: Vec<_> = (0..7).map(|s| (s / 3, s % 3, AdapterId(1 + s as u32 % 3))).collect();
    assert_eq!(who, expected);
    assert!(world.output.metric(1, "dev").get("debate").is_none());
}

#[test]
fn wrong_choices_are_errors() {
    let e = |edit: &dyn Fn(&mut RunConfig), recipe: &str| {
        let mut config = config(3, 2);
        edit(&mut config);
        message(World::new(config, 1, 0, lively).try_run(recipe))
    };
    assert!(e(&|c| c.debate.agents = 0, "multiagent").starts_with("debate.agents: "));
    let cosin = |c: &mut RunConfig| {
        c.training.critic.insert("lr_scheduler".into(), "cosin".into());
    };
    assert!(e(&cosin, "single-agent").starts_with("training.critic.lr_scheduler: found `cosin`"));
    assert!(e(&|_| {}, "multi").contains("multiagent, single-agent"));
}
