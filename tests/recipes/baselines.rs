//! The baselines, ablations and controls: who is asked what, who is trained on what, and that only STaR is told answers.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::common::fake::*;
use colloquy::engine::{AdapterId, TrainRequest};
use colloquy::recipe::{Material, Recipes};
use colloquy::run::RunConfig;
use colloquy::task::{AnswerKey, Questions};
use serde_json::{Value, json};

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

/// All recipes' names.
fn names() -> impl Iterator<Item = &'static str> {
    Recipes::default().infos().into_iter().map(|info| info.name)
}

/// `question answer` of each record of a data set.
fn learnt(records: &[Value]) -> Vec<String> {
    let of = |r: &Value| {
        let messages = r["messages"].as_array().unwrap();
        let said = messages.last().unwrap()["content"].as_str().unwrap();
        format!("{} | {said} | {}", messages[0]["content"].as_str().unwrap(), r["kind"].as_str().unwrap())
    };
    records.iter().map(of).collect()
}

/// Tokens of all sequences in all batches.
fn gradient_tokens(world: &World) -> usize {
    let of = |r: &TrainRequest| {
        let batches = r.steps.iter().flat_map(|s| &s.sequences);
        batches.map(|&i| r.sequences[i as usize].tokens.len()).sum::<usize>()
    };
    world.service.trained.borrow().iter().map(of).sum()
}

const BASIC: &[&[&[&str]]] = &[
    // All right at once.
    &[&["7", "7", "7"], &["7", "7", "7"]],
    // The third is corrected.
    &[&["7", "7", "5"], &["7", "7", "7"]],
    // The vote is 4; the second leaves it, the third comes to it.
    &[&["4", "4", "9"], &["4", "9", "4"]],
    // No majority.
    &[&["1", "2", "3"], &["1", "2", "3"]],
    // The first one's first answer is cut off, the second one's last.
    &[&["8!", "8", "8"], &["8", "8!", "6"]],
    // The first has no answer at first.
    &[&["-", "6", "6"], &["6", "6", "-"]],
    // Nobody has one.
    &[&["-", "-!", "-"], &["-", "-", "-"]],
];

#[test]
fn the_base_is_measured_once_and_nothing_is_trained() {
    for before in [true, false] {
        let mut config = lively_config();
        config.eval.before = before;
        let world = World::new(config, 5, 4, lively).run("base");
        let asked = world.service.asked.borrow();
        assert!(
            asked.iter().all(|a| a.adapter == AdapterId::BASE && a.iteration == 0 && a.purpose != "train")
        );
        assert!(world.service.trained.borrow().is_empty() && world.output.adapters.borrow().is_empty());
        let metrics: Vec<_> = world.output.metrics.borrow().keys().map(|k| (k.1, k.2.clone())).collect();
        assert_eq!(metrics, [(0, "compute".to_string()), (0, "dev".to_string())]);
        // What it is asked is what others ask before training.
        let draws = |world: &World, of_base: bool| {
            let asked = world.service.asked.borrow();
            let of = asked.iter().filter(|a| of_base || a.iteration == 0);
            let mut all: Vec<_> = of.map(|a| (a.kind, a.key, a.turns.clone())).collect();
            all.sort();
            all.dedup();
            all
        };
        let other = World::new(lively_config(), 5, 4, lively).run("single-agent");
        assert_eq!(draws(&world, true), draws(&other, false));
    }
}

#[test]
fn majority_finetuning_learns_samples_that_match_their_vote() {
    let mut config = config(3, 2);
    config.training.samples = 5;
    const FIVE: &[&[&[&str]]] = &[
        &[&["7", "7", "5", "7", "5"]],
        &[&["1", "1", "2", "2", "3"]],
        &[&["4!", "4", "4", "-", "6"]],
        &[&["-", "-", "-", "-", "-"]],
    ];
    let world = World::new(config.clone(), 4, 0, scripted(FIVE)).run("majority-ft");
    let asked = world.service.asked.borrow();
    assert!(asked.iter().all(|a| a.kind == "answer" && a.round == 1), "no debate is held");
    let of_question: Vec<_> = asked.iter().filter(|a| a.question == "q0").collect();
    let mut places: Vec<_> = of_question.iter().map(|a| (a.sample, a.agent, a.adapter.0)).collect();
    places.sort();
    assert_eq!(places, [(0, 0, 1), (0, 1, 1), (0, 2, 1), (1, 0, 1), (1, 1, 1)]);
    let expected = [
        "Q q0 | r1 Ann: 7 | first",
        "Q q0 | r1 Bob: 7 | first",
        "Q q0 | r1 Ann': 7 | first",
        // More than half of five agree on 4; one of them is cut off.
        "Q q2 | r1 Bob: 4 | first",
        "Q q2 | r1 Cid: 4 | first",
    ];
    assert_eq!(learnt(&world.output.dataset(1, "agent")), expected);
    let m = world.output.metric(1, "pseudo-labels");
    assert_eq!((&m["source"], &m["labelled"], &m["unanswered"]), (&json!("vote"), &json!(2), &json!(1)));
    assert_eq!(world.output.transcript(1, "train")[0]["rounds"][0]["turns"].as_array().unwrap().len(), 5);
    assert!(world.output.notes().iter().any(|n| n.contains("no agent has an answer to 1 of 4 questions")));

    config.debate.min_agreement = 4;
    let world = World::new(config.clone(), 4, 0, scripted(FIVE)).run("majority-ft");
    assert!(world.output.dataset(1, "agent").is_empty());
    config.debate.min_agreement = 5;
    config.training.samples = 4;
    let e = message(World::new(config, 4, 0, scripted(FIVE)).try_run("majority-ft"));
    assert!(e.contains("debate.min_agreement") && e.contains("the 4 samples"), "{e}");

    // As many samples as agents are a debate's first round.
    let first = |recipe: &str| {
        let world = World::new(lively_config(), 6, 0, lively).run(recipe);
        let asked = world.train_asked("answer", 1);
        let mut keys: Vec<u64> = asked.iter().filter(|a| a.iteration == 1).map(|a| a.key).collect();
        keys.sort();
        keys
    };
    assert_eq!(first("majority-ft"), first("multiagent"));
}

#[test]
fn self_training_learns_every_answer() {
    let world = World::new(config(3, 2), 7, 0, scripted(BASIC)).run("self-training");
    assert!(world.service.asked.borrow().iter().all(|a| a.kind == "answer" && a.round == 1));
    let all = learnt(&world.output.dataset(1, "agent"));
    // All but one cut off and four without an answer.
    assert_eq!(all.len(), 7 * 3 - 5);
    assert!(all.contains(&"Q q3 | r1 Cid: 3 | first".to_string()));
    assert!(!all.iter().any(|e| e.contains("Ann: 8")), "{all:?}");
    let m = world.output.metric(1, "pseudo-labels");
    assert_eq!(
        (&m["source"], &m["labelled"], &m["unanswered"]),
        (&json!("own answers"), &json!(6), &json!(1))
    );
    // Right: 1, 2/3, 0, 0, 0, 0 of the six questions with answers.
    assert!((m["accuracy"].as_f64().unwrap() - (1.0 + 2.0 / 3.0) / 6.0).abs() < 1e-12);
}

/// What STaR is told: right at once, right after the hint, never right, right but cut off.
fn star_script(a: &Asked) -> Reply {
    match (a.purpose, a.kind, a.question.as_str()) {
        ("train", "answer", "q0") => "first 7".into(),
        ("train", "answer", "q3") => Reply { text: "long 7".into(), cut: true },
        ("train", "answer", _) => "first 5".into(),
        ("train", "hint", "q2") => "hinted 6".into(),
        ("train", "hint", "q4") => Reply { text: "hinted 7".into(), cut: true },
        ("train", "hint", _) => format!("hinted {}", a.turns[0].rsplit('=').next().unwrap()).into(),
        _ => "so 7".into(),
    }
}

#[test]
fn star_learns_right_answers_and_hinted_ones_without_the_hint() {
    let mut config = config(3, 2);
    config.training.start_from = "base".parse().unwrap();
    config.run.iterations = 2;
    let world = World::new(config, 5, 1, star_script).run("star");
    for iteration in [1, 2] {
        let records = world.output.dataset(iteration, "agent");
        let expected = ["Q q0 | first 7 | first", "Q q1 | hinted 7 | hinted", "Q q3 | hinted 7 | hinted"];
        assert_eq!(learnt(&records), expected);
    }
    let request = &world.service.trained.borrow()[0];
    let (loss, context) = loss_and_context(request, 1);
    assert_eq!((loss.as_str(), context.as_str()), ("hinted 7\u{1}", "\u{2}Q q1\u{1}\u{3}"));
    let asked = world.service.asked.borrow();
    let hints: Vec<_> = asked.iter().filter(|a| a.kind == "hint" && a.iteration == 1).collect();
    assert_eq!(hints.len(), 4);
    assert!(hints.iter().any(|a| a.turns == ["HINT q1=7"] && a.adapter == AdapterId(1)));
    // One answer a question, and everybody is the one adapter.
    assert_eq!(asked.iter().filter(|a| a.kind == "answer" && a.purpose == "train").count(), 10);
    assert!(asked.iter().filter(|a| a.kind != "summary").all(|a| a.adapter == AdapterId(1)));
    assert_eq!(*world.service.restored.borrow(), [(AdapterId(1), 0), (AdapterId(1), 0)]);
    // Wherever its results stand, they say that answers were asked for.
    for name in ["dev", "pseudo-labels"] {
        assert_eq!(world.output.metric(1, name)["asks_for_labels"], true, "{name}");
    }
    let m = world.output.metric(1, "pseudo-labels");
    assert_eq!(
        (&m["source"], &m["labelled"], &m["accuracy"]),
        (&json!("reference answers"), &json!(3), &json!(1.0))
    );
    assert_eq!(
        world.output.metric(1, "training")["agent"]["data"],
        json!({"labels": "reference", "hinted": 2})
    );
    assert_eq!(world.output.transcript(1, "train-hints").len(), 5);
}

#[test]
fn only_star_asks_for_labels_and_reference_answers_reach_no_other_recipe() {
    let infos = Recipes::default().infos();
    let asking: Vec<&str> = infos.iter().filter(|r| r.asks_for_labels).map(|r| r.name).collect();
    assert_eq!(asking, ["star"]);
    let trained = |recipe: &str, edit: &dyn Fn(&mut RunConfig), train: bool, dev: bool| {
        let mut config = lively_config();
        edit(&mut config);
        let mut world = World::new(config, 20, 6, lively);
        let key = |i: usize, permuted: bool| if permuted { [3, 5, 7][i % 3].to_string() } else { "7".into() };
        let of = |questions: &[colloquy::task::Question], permuted| {
            questions.iter().enumerate().map(|(i, q)| (q.id.clone(), key(i, permuted))).collect::<Vec<_>>()
        };
        let both = of(&world.questions.train, train).into_iter().chain(of(&world.questions.dev, dev));
        world.answers = Rc::new(AnswerKey::new(both));
        let world = world.run(recipe);
        let data = world.output.datasets.borrow().clone();
        (format!("{:?}", world.service.trained.borrow()), data)
    };
    type Edit<'e> = &'e dyn Fn(&mut RunConfig);
    let nothing: Edit = &|_| {};
    let variations: [(&str, Edit); 6] = [
        ("multiagent", &|c| c.training.data = "dealt".parse().unwrap()),
        ("multiagent", &|c| c.training.labels = "shuffled".parse().unwrap()),
        ("multiagent", &|c| c.debate.critics = "generator".parse().unwrap()),
        ("multiagent", &|c| c.debate.critics = "base".parse().unwrap()),
        ("multiagent", &|c| c.debate.style = "cooperative".parse().unwrap()),
        ("single-agent", &|c| c.training.matching = "gradient-tokens".parse().unwrap()),
    ];
    let plain = names().filter(|n| !["base", "star"].contains(n)).map(|n| (n, nothing));
    for (recipe, edit) in plain.chain(variations) {
        let one = trained(recipe, edit, false, false);
        assert!(one.0.len() > 100, "{recipe} trains");
        assert!(one == trained(recipe, edit, true, true), "{recipe}");
    }
    let star = trained("star", nothing, false, false);
    assert!(star != trained("star", nothing, true, false), "it learns from training answers");
    assert!(star == trained("star", nothing, false, true), "and from no others");
}

#[test]
fn matched_single_agents_use_the_gradient_tokens_of_multiagent_finetuning() {
    for epochs in [(2, 1), (1, 3)] {
        let matched = |on: bool| {
            let mut config = config(3, 2);
            config.training.num_epochs = epochs.0;
            config.training.batch_size = 4;
            config.training.critic.insert("num_epochs".into(), toml::Value::Integer(epochs.1));
            if on {
                config.training.matching = "gradient-tokens".parse().unwrap();
            }
            config
        };
        let many = World::new(matched(false), 30, 0, lively).run("multiagent");
        let one = World::new(matched(true), 30, 0, lively).run("single-agent");
        let (target, taken) = (gradient_tokens(&many), gradient_tokens(&one));
        let trained = one.service.trained.borrow();
        let longest = trained[0].sequences.iter().map(|s| s.tokens.len()).max().unwrap();
        assert!((target..target + longest).contains(&taken), "{taken} for {target}");
        let about = &one.output.metric(1, "training")["agent"]["data"];
        assert_eq!(about["gradient_tokens"], target);
        let once: usize = trained[0].sequences.iter().map(|s| s.tokens.len()).sum();
        assert_eq!(about["passes"], target as f64 / once as f64);
        // The same data as without matching.
        let plain = World::new(matched(false), 30, 0, lively).run("single-agent");
        assert_eq!(one.output.dataset(1, "agent"), plain.output.dataset(1, "agent"));
        assert_ne!(gradient_tokens(&plain), taken);
    }
}

/// Data sets of a run of one iteration, by adapter.
fn sets(edit: impl Fn(&mut RunConfig)) -> BTreeMap<String, Vec<Value>> {
    let mut config = config(3, 2);
    edit(&mut config);
    let world = World::new(config, 30, 0, lively).run("multiagent");
    let sets = world.output.datasets.borrow().clone();
    sets.into_iter().map(|((_, _, name), records)| (name, records)).collect()
}

#[test]
fn dealt_data_are_the_same_examples_in_other_hands() {
    let own = sets(|_| {});
    let dealt = sets(|c| c.training.data = "dealt".parse().unwrap());
    assert_eq!(own.keys().collect::<Vec<_>>(), dealt.keys().collect::<Vec<_>>());
    for role in ["generator", "critic"] {
        let pool = |sets: &BTreeMap<String, Vec<Value>>| {
            let of_role = sets.iter().filter(|(name, _)| name.starts_with(role));
            let mut all: Vec<String> = of_role.flat_map(|(_, r)| r).map(Value::to_string).collect();
            all.sort();
            all
        };
        assert_eq!(pool(&own), pool(&dealt), "{role}");
    }
    for (name, records) in &dealt {
        assert_eq!(records.len(), own[name].len(), "{name}");
        let agents: std::collections::BTreeSet<i64> =
            records.iter().map(|r| r["agent"].as_i64().unwrap()).collect();
        assert_eq!(agents.len(), 3, "{name} learns what all have written");
        let place = |r: &Value| r["messages"][0]["content"].as_str().unwrap()[3..].parse::<u32>().unwrap();
        assert!(records.is_sorted_by_key(place), "in the order of the questions");
    }
}

#[test]
fn shuffled_labels_keep_the_numbers_and_not_the_vote() {
    let vote = sets(|_| {});
    let shuffled = sets(|c| c.training.labels = "shuffled".parse().unwrap());
    for (name, records) in &shuffled {
        assert_eq!(records.len(), vote[name].len(), "{name}");
        assert!(records.len() > 5);
        let own: i64 = name.rsplit('-').next().unwrap().parse().unwrap();
        assert!(records.iter().all(|r| r["agent"] == own && r["kind"] == "random"));
        // Among answers that a vote of sevens would hardly keep.
        let wrong =
            |sets: &BTreeMap<String, Vec<Value>>| sets[name].iter().filter(|r| r["answer"] != "7").count();
        assert!(wrong(&shuffled) > wrong(&vote), "{name}");
        let mut questions: Vec<&str> = records.iter().map(|r| r["id"].as_str().unwrap()).collect();
        questions.dedup();
        assert_eq!(questions.len(), records.len(), "no answer twice");
    }
    // Cut-off answers and those that don't parse are never among them.
    let table = World::new(
        {
            let mut config = config(3, 2);
            config.training.labels = "shuffled".parse().unwrap();
            config
        },
        7,
        0,
        scripted(BASIC),
    )
    .run("multiagent");
    let first = learnt(&table.output.dataset(1, "generator-0"));
    assert_eq!(first.len(), 3);
    assert!(first.iter().all(|e| !e.contains("no") && !e.contains("q4")), "{first:?}");
}

#[test]
fn critics_may_be_the_generators_or_the_base() {
    for (who, later) in [("generator", [1, 2, 3]), ("base", [0, 0, 0]), ("own", [4, 5, 6])] {
        let mut config = config(3, 2);
        config.debate.critics = who.parse().unwrap();
        let world = World::new(config.clone(), 12, 4, lively).run("multiagent");
        let asked = world.service.asked.borrow();
        let of_round = |round: usize, agent: usize| {
            let mut ids: Vec<u32> = asked
                .iter()
                .filter(|a| a.kind == "answer" && a.round == round && a.agent == agent)
                .map(|a| a.adapter.0)
                .collect();
            ids.dedup();
            ids
        };
        for n in 0..3 {
            assert_eq!(of_round(1, n), [n as u32 + 1], "{who}");
            assert_eq!(of_round(2, n), [later[n]], "{who}");
        }
        let mut trained: Vec<u32> = world.service.trained.borrow().iter().map(|r| r.adapter.0).collect();
        trained.sort();
        assert_eq!(trained, if who == "own" { vec![1, 2, 3, 4, 5, 6] } else { vec![1, 2, 3] });
        // Generators learn what they learn with critics.
        let generators =
            |w: &World| (0..3).map(|n| w.output.dataset(1, &format!("generator-{n}"))).collect::<Vec<_>>();
        config.debate.critics = "own".parse().unwrap();
        let full = World::new(config.clone(), 12, 4, |a: &Asked| lively(&Asked { state: 0, ..a.clone() }));
        let part = World::new(config.clone(), 12, 4, |a: &Asked| lively(&Asked { state: 0, ..a.clone() }));
        assert_eq!(generators(&full.run("multiagent")), generators(&part.run("multiagent")));
    }
}

#[test]
fn societies_are_named_like_their_adapters() {
    for recipe in names() {
        for critics in ["own", "generator", "base"] {
            let mut config = config(2, 2);
            if recipe == "multiagent" {
                config.debate.critics = critics.parse().unwrap();
            }
            let world = World::new(config, 3, 0, |_: &Asked| "so 7").run(recipe);
            let named = Recipes::default().get(recipe).unwrap().society(&world.config).adapters();
            let written: Vec<String> =
                world.output.adapters.borrow().keys().map(|(_, _, name)| name.clone()).collect();
            assert_eq!(named, written, "{recipe}");
            assert_eq!(world.service.dropped.get(), written.len(), "{recipe} gives its adapters back");
        }
    }
}

#[test]
fn one_model_with_agent_ids_learns_every_agents_part() {
    let world = World::new(config(3, 2), 30, 2, lively).run("agent-ids");
    let asked = world.service.asked.borrow();
    for a in asked.iter().filter(|a| a.kind != "summary") {
        assert_eq!(a.adapter, AdapterId(1));
        let turns = a.turns.iter().step_by(2);
        let agent = if a.kind == "greedy" { a.turns[0][1..2].parse().unwrap() } else { a.agent + 1 };
        assert!(turns.clone().all(|t| t.starts_with(&format!("[{agent}/3] "))), "{:?}", a.turns);
        assert_eq!(turns.count(), a.round.max(1));
    }
    assert!(asked.iter().filter(|a| a.kind == "summary").all(|a| a.turns[0].starts_with("SUM ")));
    // Greedy answers differ by id, so all are drawn.
    assert_eq!(asked.iter().filter(|a| a.kind == "greedy").count(), 6);
    // The same parts as those of three generators and three critics, with ids.
    let union = world.output.dataset(1, "agent");
    let parts = sets(|_| {});
    assert_eq!(union.len(), parts.values().map(Vec::len).sum::<usize>());
    for record in &union {
        let id = format!("[{}/3] Q ", record["agent"].as_i64().unwrap() + 1);
        assert!(record["messages"][0]["content"].as_str().unwrap().starts_with(&id));
    }
    assert_eq!(world.service.trained.borrow().len(), 1);
}

#[test]
fn cooperative_agents_are_asked_otherwise() {
    for (others, word) in [("summary", "COOP "), ("concatenate", "TEAM ")] {
        let mut config = config(3, 2);
        (config.debate.style, config.debate.others) =
            ("cooperative".parse().unwrap(), others.parse().unwrap());
        let world = World::new(config, 3, 0, lively).run("multiagent");
        let later = world.train_asked("answer", 2);
        assert!(later.len() == 9 && later.iter().all(|a| a.turns[2].starts_with(word)), "{later:?}");
        assert!(world.train_asked("answer", 1).iter().all(|a| a.turns[0].starts_with("Q ")));
    }
}

#[test]
fn another_task_is_measured_before_and_at_the_end() {
    let mut world = World::new(lively_config(), 6, 2, |a: &Asked| {
        if a.purpose.starts_with("transfer") { "so 9".into() } else { lively(a) }
    });
    let other = Questions { train: vec![], dev: asks("x", 3), test: asks("y", 2) };
    let answers = other.dev.iter().chain(&other.test).map(|q| (q.id.clone(), "9".to_string()));
    world.know(&other);
    world.transfer = Some(Material {
        task: Rc::new(task()),
        answers: Rc::new(AnswerKey::new(answers)),
        questions: Rc::new(other.clone()),
    });
    let world = world.run("multiagent");
    let metrics = world.output.metrics.borrow();
    let of = |name: &str| metrics.keys().filter(|k| k.2 == name).map(|k| k.1).collect::<Vec<_>>();
    assert_eq!((of("transfer-dev"), of("transfer-test")), (vec![0, 2], vec![0, 2]));
    let dev = world.output.metric(2, "transfer-dev");
    assert_eq!((&dev["questions"], &dev["debate"]["accuracy"]), (&json!(3), &json!(1.0)));
    assert_eq!(world.output.metric(2, "transfer-test")["outcomes"]["single"], json!(["11", "11", "11"]));
    assert_eq!(world.output.transcript(2, "transfer-dev-debate").len(), 3);
    assert!(
        world
            .output
            .datasets
            .borrow()
            .values()
            .flatten()
            .all(|r| r["messages"][0]["content"].as_str().unwrap().starts_with("Q q"))
    );
    drop(metrics);

    // Its questions are nobody's training questions.
    let mut overlapping = World::new(lively_config(), 6, 2, lively);
    let shared = Questions { dev: asks("q", 1), ..other };
    overlapping.transfer =
        Some(Material { task: Rc::new(task()), answers: Rc::default(), questions: Rc::new(shared) });
    assert!(message(overlapping.try_run("multiagent")).contains("splits must be disjoint"));
}

#[test]
fn outcomes_say_what_became_of_each_question() {
    // Right; two of three right; nobody answers, one cut off; nothing agreed.
    let script = |a: &Asked| -> Reply {
        let written = match (a.purpose, a.kind, a.question.as_str(), a.round, a.agent) {
            (_, "greedy", ..) => {
                if a.turns[0] == "Q d0" {
                    "7"
                } else {
                    "none"
                }
            }
            ("train", ..) => "7",
            (_, "summary", ..) => "s",
            (_, _, "d0", ..) => "7",
            (_, _, "d1", 1, 0) => "5",
            (_, _, "d1", ..) => "7",
            (_, _, "d2", 1, 1) => return Reply { text: "on and on".into(), cut: true },
            (_, _, "d2", ..) => "none",
            (_, _, "d3", 1, 1) => "1",
            (_, _, "d3", 1, 2) => "2",
            (_, _, "d3", 2, _) => return Reply { text: "so 7".into(), cut: true },
            _ => "5",
        };
        format!("so {written}").into()
    };
    let mut config = config(3, 2);
    config.eval.majority_samples = 5;
    config.debate.ties = "first".parse().unwrap();
    let world = World::new(config, 2, 4, script).run("multiagent");
    let m = world.output.metric(1, "dev");
    let outcomes = &m["outcomes"];
    assert_eq!(outcomes["greedy"], json!(["1---", "1---", "1---"]));
    assert_eq!(outcomes["single"], json!(["10-0", "11t0", "11-0"]));
    // Samples 3 and 4 are second ones of the first two agents, who say the same again.
    assert_eq!(outcomes["samples"], json!(["10-0", "11t0", "11-0", "10-0", "11t0"]));
    assert_eq!(outcomes["majority"], "11-0");
    assert_eq!(outcomes["debate"], json!([["10-0", "11t0", "11-0"], ["11-1", "11-1", "11-1"]]));
    assert_eq!(outcomes["vote"], json!(["11-0", "11-1"]));
    assert_eq!(outcomes["votes"], json!(["3201", "3303"]));

    // Votes of the first 1, 3 and 5 samples; the vote of one is the first agent's sample.
    let by_samples = m["majority"]["by_samples"].as_array().unwrap();
    let found: Vec<_> = by_samples
        .iter()
        .map(|v| (v["samples"].as_u64().unwrap(), v["accuracy"].as_f64().unwrap()))
        .collect();
    assert_eq!(found, [(1, 0.25), (3, 0.5), (5, 0.5)]);
    assert_eq!(m["majority"]["accuracy"], 0.5);
}

#[test]
fn a_prompt_that_outgrew_the_context_is_missing() {
    let script = |a: &Asked| if a.kind == "summary" { "s".repeat(100) } else { "so 7".into() };
    let mut world = World::new(config(3, 2), 1, 2, script);
    world.codec = Rc::new(CharCodec { max_positions: 60 });
    let world = world.run("base");
    let outcomes = &world.output.metric(0, "dev")["outcomes"];
    assert_eq!(outcomes["debate"], json!([["11", "11", "11"], ["mm", "mm", "mm"]]));
    assert_eq!((&outcomes["vote"][1], &outcomes["votes"][1]), (&json!("--"), &json!("00")));
}

#[test]
fn the_budget_is_what_a_debate_costs_in_samples() {
    // First answers: prompt "Q d0" is 6 tokens with its role and end, and one for the assistant; "so 7" and its end are 5.
    let script = |a: &Asked| if a.kind == "summary" { "sum".to_string() } else { "so 7".into() };
    let run = |recipe: &str, samples: usize| {
        let mut config = config(3, 2);
        config.eval.majority_samples = samples;
        let world = World::new(config, 2, 4, script).run(recipe);
        world.output.metrics.borrow().iter().find(|(k, _)| k.2 == "dev").unwrap().1.clone()
    };
    let sample = 7 + 5;
    // "SUM d0<so 7><so 7>" and 3 more tokens around it; "sum" and its end.
    let summary = 18 + 3 + 4;
    // The first turn, its answer "so 7" (role, text, end), "DEB d0 sum" and the assistant's role; "so 7" and its end.
    let later = 6 + 6 + 12 + 1 + 5;
    let tokens = 3 * (sample + summary + later);
    let k = (tokens as f64 / sample as f64).round() as u64;
    let m = run("base", 25);
    assert_eq!(m["debate"]["costs_samples"], k);
    assert_eq!(m["majority"]["budget"], json!({"samples": k, "accuracy": 1.0, "standard_error": 0.0}));
    // Summaries are the base's, which is cheaper than one with an adapter: the fake's base has 1000 parameters, an adapter 1.
    let tuned = 3.0 * (f64::from(sample + later) * 1001.0 + f64::from(summary) * 1000.0)
        / (f64::from(sample) * 1001.0);
    assert_eq!(run("multiagent", 25)["debate"]["costs_samples"], tuned.round() as u64);
    // Too few were drawn: no number is made up.
    assert!(run("base", 3)["majority"].get("budget").is_none());
}

#[test]
fn every_recipe_is_replayed_from_its_journal() {
    for recipe in names() {
        let world = || World::new(lively_config(), 6, 3, lively);
        let whole = world().run(recipe);
        let expected = whole.output.stored();
        let mut again = world();
        again.journal = whole.journal.clone();
        again.service.closed.set(true);
        assert_eq!(again.run(recipe).output.stored(), expected, "{recipe}");
        let mut partial = world();
        partial.journal = whole.journal.clone();
        let calls: Vec<String> = whole.journal.entries.borrow().keys().cloned().collect();
        let lost: Vec<_> = calls.iter().step_by(3).collect();
        partial.journal.entries.borrow_mut().retain(|call, _| !lost.contains(&call));
        assert_eq!(partial.run(recipe).output.stored(), expected, "{recipe}");
    }
}

/// What every recipe asks, stores and journals with scripted agents, as one sum each: `tests/golden/scripted.txt`.
/// `COLLOQUY_WRITE_GOLDEN=1` writes it anew; a commit that changes it says why.
#[test]
fn golden_scripted_runs_ask_and_store_the_same() {
    use sha2::{Digest, Sha256};
    let mut text = String::new();
    let called = regex::Regex::new(r#"name: "[^"]*", "#).unwrap();
    let mut add = |title: String, world: World| {
        let journal: Vec<String> = (world.journal.entries.borrow().iter())
            .map(|(call, entry)| format!("{call} {}", serde_json::to_string(entry).unwrap()))
            .collect();
        for (part, told) in [
            ("stored", world.output.stored()),
            ("journal", journal.join("\n")),
            ("notes", world.output.notes().join("\n")),
            // Without what errors call an adapter, which requests carry since.
            (
                "trained",
                called.replace_all(&format!("{:?}", world.service.trained.borrow()), "").into_owned(),
            ),
        ] {
            let sum = Sha256::digest(told.as_bytes());
            let sum = sum.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            text.push_str(&format!("{sum}  {title}, {part}\n"));
        }
    };
    for recipe in names() {
        add(recipe.to_string(), World::new(lively_config(), 7, 4, lively).run(recipe));
        let mut other = config(2, 3);
        (other.run.iterations, other.training.num_epochs, other.eval.diversity) = (2, 2, 3);
        add(format!("{recipe}, three rounds"), World::new(other, 5, 3, lively).run(recipe));
        add(format!("{recipe}, basic"), World::new(config(3, 2), 7, 2, scripted(BASIC)).run(recipe));
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/scripted.txt");
    if std::env::var_os("COLLOQUY_WRITE_GOLDEN").is_some() {
        return std::fs::write(path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn a_recipe_has_a_name_of_its_own() {
    let base = Recipes::default().get("base").unwrap();
    let taken = Recipes::with(&[base]).err().expect("an error").to_string();
    assert!(taken.contains("a recipe is called `base` already"), "{taken}");
    let unknown = Recipes::default().get("bass").err().expect("an error").to_string();
    assert!(unknown.contains("unknown recipe `bass`; known are multiagent, "), "{unknown}");
}
