//! The built-in configurations and examples load, and the example of an own task runs without touching Rust.

use std::path::Path;
use std::rc::Rc;

use crate::common::fake::*;
use colloquy::engine::{AdapterSource, Scope, Service};
use colloquy::recipe::{Context, Recipes, Training, built_in_configs, run_arm};
use colloquy::run::{RunConfig, Source};
use colloquy::task::{Loaded, load};

fn example(path: &str) -> RunConfig {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path);
    let mut config: RunConfig = toml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let folder = file.parent().unwrap();
    let absolute = |path: &mut Option<String>| {
        if let Some(p) = path.take() {
            let joined = folder.join(&p);
            *path = Some(if joined.exists() { joined.to_str().unwrap().into() } else { p });
        }
    };
    absolute(&mut config.task.data);
    absolute(&mut config.task.prompts);
    config
}

/// `run --print-config` shows every setting: those of the example, and as comments all others with their defaults.
#[test]
fn the_default_configuration_names_every_setting() {
    let text = built_in_configs()[0].text;
    let defaults = colloquy::run::to_toml(&RunConfig::default()).unwrap();
    let defaults: toml::Table = toml::from_str(&defaults).unwrap();
    let mut named: Vec<String> = Vec::new();
    let mut section = String::new();
    for line in text.lines() {
        let (line, is_comment) = match line.strip_prefix('#') {
            Some(rest) => (rest, true),
            None => (line, false),
        };
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_string();
            continue;
        }
        let key = line.split_once(" = ").map(|(key, _)| key).filter(|key| {
            !key.is_empty()
                && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c))
        });
        let Some(key) = key else { continue };
        let value: toml::Table = toml::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let path = format!("{section}.{key}");
        let default = defaults.get(&section).and_then(|s| s.get(key));
        if let (true, Some(default)) = (is_comment, default) {
            assert_eq!(&value[key], default, "{path}");
        }
        named.push(path);
    }
    let of_files = ["data", "dev_data", "test_data", "question_field", "answer_field", "prompts"];
    let of_answers = ["extraction", "pattern", "reference", "equality"];
    let mut expected: Vec<String> =
        of_files.iter().chain(&of_answers).map(|key| format!("task.{key}")).collect();
    for (section, keys) in &defaults {
        if let Some(keys) = keys.as_table() {
            expected.extend(keys.keys().map(|key| format!("{section}.{key}")));
        }
    }
    expected.extend(["arm.seeds", "arm.set", "report.primary.method", "transfer.name"].map(String::from));
    assert!(expected.len() > 60);
    for path in &expected {
        assert_eq!(named.iter().filter(|n| n == &path).count(), 1, "{path}");
    }
}

#[test]
fn built_in_configurations_are_complete() {
    for built_in in built_in_configs() {
        let first = built_in.text.lines().take(3).collect::<String>();
        assert!(first.contains("What to change first"), "{}", built_in.name);
        let config: RunConfig = toml::from_str(built_in.text).unwrap();
        let source = Source { name: built_in.name.into(), text: built_in.text.into(), folder: None };
        let plan = Recipes::default().load(&source, &[]).unwrap();
        assert!(plan.arms.len() >= config.arm.len());
        assert!(built_in.text.lines().all(|l| l.chars().count() <= 150), "{}", built_in.name);
        Training::of_generators(&config.training).unwrap();
        Training::of_critics(&config.training).unwrap();
        for arm in &config.arm {
            let recipe = Recipes::default().get(&arm.recipe).unwrap();
            assert_eq!(recipe.society(&config).generators.len(), config.debate.agents);
        }
    }
    let default: RunConfig = toml::from_str(built_in_configs()[0].text).unwrap();
    assert_eq!(default.arm.len(), 2);
    let Loaded { questions, .. } = load(&default.task).unwrap();
    assert!(questions.train.len() >= 150 && questions.dev.len() >= 200);
}

#[test]
fn societies_are_named_like_their_adapters() {
    for (recipe, rounds) in [("multiagent", 2), ("multiagent", 1), ("single-agent", 2)] {
        let world = World::new(config(2, rounds), 3, 0, |_: &Asked| "so 7").run(recipe);
        let named = Recipes::default().get(recipe).unwrap().society(&world.config).adapters();
        let written: Vec<String> =
            world.output.adapters.borrow().keys().map(|(_, _, name)| name.clone()).collect();
        assert_eq!(named, written);
    }
}

#[test]
fn an_own_task_runs_without_touching_rust() {
    let config = example("own-task/task.toml");
    let Loaded { task, questions, answers } = load(&config.task).unwrap();
    let options = questions.train[0].fields["options"].clone();
    let first = task.prompts.first(questions.train[0].subject()).unwrap();
    assert!(first.starts_with(&questions.train[0].text));
    assert!(first.contains(&format!("(C) {}", options[2].as_str().unwrap())), "{first}");
    assert!(questions.train[0].fields.get("answer").is_none());

    // Agents that always say (B), in a world that knows these questions.
    let mut world = World::new(config.clone(), 0, 0, |a: &Asked| {
        if a.kind == "summary" { "All say B.".to_string() } else { "I think it is (b).".into() }
    });
    world.know(&questions);
    let context = Context {
        scope: Scope::lane("lane", world.service.clone(), world.journal.clone()),
        codec: world.codec.clone(),
        task: Rc::new(task),
        questions: Rc::new(questions),
        answers: Rc::new(answers),
        transfer: None,
        output: world.output.clone(),
        seed: 0,
        new_adapter: Rc::new(|_, _| Ok(blank())),
    };
    let recipe = Recipes::default().get("multiagent").unwrap();
    world.service.drive(run_arm(recipe, &config, context)).unwrap();
    let label = &world.output.transcript(1, "train")[0]["vote"];
    assert_eq!((label["answer"].as_str(), label["votes"].as_u64()), (Some("B"), Some(3)));
    let accuracy = world.output.metric(1, "dev")["debate"]["accuracy"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&accuracy));
    world.service.drive(world.service.create(AdapterSource::Snapshot(blank().into()))).unwrap();
}

#[test]
fn gsm8k_reads_its_own_format() {
    let dir = tempfile::tempdir().unwrap();
    let lines = |range: std::ops::Range<usize>| {
        range
            .map(|i| {
                format!("{{\"question\":\"How many is {i}?\",\"answer\":\"<<1+1=2>>\\n#### 1,{i:03}\"}}\n")
            })
            .collect::<String>()
    };
    let path = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path.to_str().unwrap().to_string())
    };
    let mut section = example("gsm8k.toml").task;
    section.data = path("train.jsonl", lines(0..60));
    section.test_data = path("test.jsonl", lines(60..70));
    (section.train_questions, section.dev_questions, section.test_questions) = (40, 2, 10);
    let Loaded { task, questions, answers } = load(&section).unwrap();
    let q = &questions.test[3];
    assert!(answers.is_right(
        &q.id,
        task.reader.read(&format!(r"so \boxed{{{}}}", answers.reference(&q.id).unwrap())).as_deref()
    ));
    assert_eq!(task.reader.read("it is $1,063.").as_deref(), Some("1063"));
}

#[test]
fn math_reads_its_own_format() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |name: &str, range: std::ops::Range<usize>| {
        for i in range {
            let path = dir.path().join(name).join(["algebra", "geometry"][i % 2]).join(format!("{i}.json"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let level = format!("Level {}", 1 + i % 5);
            let solution = format!(r"First \boxed{{0}}, in the end $\boxed{{\frac{{{i}}}{{7}}}}$.");
            let record = serde_json::json!(
                {"problem": format!("What is {i}?"), "level": level, "type": "Algebra", "solution": solution});
            std::fs::write(path, record.to_string()).unwrap();
        }
        Some(dir.path().join(name).to_str().unwrap().to_string())
    };
    let mut section = example("math.toml").task;
    (section.data, section.test_data) = (folder("train", 0..200), folder("test", 200..220));
    (section.train_questions, section.dev_questions, section.test_questions) = (40, 2, 12);
    let Loaded { task, questions, answers } = load(&section).unwrap();
    let all = questions.train.iter().chain(&questions.dev).chain(&questions.test);
    assert!(
        all.clone().all(|q| ["Level 1", "Level 2", "Level 3"].contains(&q.fields["level"].as_str().unwrap()))
    );
    let q = all.clone().find(|q| q.text == "What is 210?").unwrap();
    assert_eq!(answers.reference(&q.id), Some("30"));
    for (response, right) in [
        (r"\boxed{30.0}", true),
        (r"\boxed{\frac{60}{2}\text{ cm}}", true),
        (r"\boxed{14}", false),
        ("30", false),
    ] {
        assert_eq!(answers.is_right(&q.id, task.read(q, response).as_deref()), right, "{response}");
    }
    assert!(task.prompts.first(q.subject()).unwrap().contains(r"\boxed{answer}"));
}

#[test]
fn mmlu_reads_its_own_format() {
    let dir = tempfile::tempdir().unwrap();
    let rows = |range: std::ops::Range<usize>| {
        range.map(|i| format!("\"Which, of these, is {i}?\",{i},-1,-2,-3,A\n")).collect::<String>()
    };
    std::fs::write(dir.path().join("art_test.csv"), rows(0..50)).unwrap();
    std::fs::write(dir.path().join("law_test.csv"), rows(50..100)).unwrap();
    let mut section = example("mmlu.toml").task;
    section.data = Some(dir.path().to_str().unwrap().into());
    (section.train_questions, section.dev_questions, section.test_questions) = (50, 2, 2);
    let Loaded { task, questions, answers } = load(&section).unwrap();
    let q = &questions.train[0];
    let subjects: std::collections::BTreeSet<_> =
        questions.train.iter().map(|q| q.fields["subject"].as_str().unwrap()).collect();
    assert_eq!(subjects.into_iter().collect::<Vec<_>>(), ["art", "law"]);
    assert!(q.text.contains("?: A) 0, B) -1, C) -2, D) -3"), "{}", q.text);
    assert!(answers.is_right(&q.id, task.read(q, "It is (B)... no, (A).").as_deref()));
    assert!(!answers.is_right(&q.id, task.read(q, "It is (B).").as_deref()));
    assert_eq!(task.read(q, "It is (Z)."), None);
}

/// With `COLLOQUY_GSM8K` naming the folder of train.jsonl and test.jsonl as published.
#[test]
fn gsm8k_as_published_loads() {
    let Ok(folder) = std::env::var("COLLOQUY_GSM8K") else {
        println!("skipped: COLLOQUY_GSM8K is not set");
        return;
    };
    let mut section = example("gsm8k.toml").task;
    section.data = Some(format!("{folder}/train.jsonl"));
    section.test_data = Some(format!("{folder}/test.jsonl"));
    (section.train_questions, section.dev_questions, section.test_questions) = (6000, 700, 1319);
    let Loaded { questions, answers, .. } = load(&section).unwrap();
    let all = questions.train.iter().chain(&questions.dev).chain(&questions.test);
    assert!(all.clone().all(|q| answers.reference(&q.id).is_some()));
    assert_eq!(answers.reference(&questions.test[0].id), Some("18"));
    assert_eq!(all.count(), 8019);
}

#[test]
fn a_part_of_an_experiment_is_some_of_its_arms_and_seeds() {
    use colloquy::run::{Selection, select};
    let full = built_in_configs().iter().find(|c| c.name == "full").unwrap();
    let source = Source { name: "full".into(), text: full.text.to_string(), folder: None };
    let whole = Recipes::default().load(&source, &[]).unwrap();
    let part = |selections: &[&str]| {
        let mut plan = whole.clone();
        let selections: Vec<Selection> = selections.iter().map(|s| s.parse().unwrap()).collect();
        select(&mut plan, &selections).map(|()| plan)
    };
    let lanes = |plan: &colloquy::run::Plan| -> Vec<(String, Vec<u64>)> {
        plan.arms.iter().map(|a| (a.name.clone(), a.seeds.clone())).collect()
    };
    assert_eq!(lanes(&part(&[]).unwrap()), lanes(&whole));
    let some = part(&["star", "multiagent=10,12"]).unwrap();
    assert_eq!(lanes(&some), [("multiagent".into(), vec![10, 12]), ("star".into(), vec![10, 11, 12])]);
    assert!(some.config.report.primary.is_none() && whole.config.report.primary.is_some());
    // What is written to the run folder, and read again to resume, is the part.
    let text = colloquy::run::to_toml(&some.config).unwrap();
    let again = Recipes::default().load(&Source { name: "part".into(), text, folder: None }, &[]).unwrap();
    assert_eq!(lanes(&again), lanes(&some));
    let pair = part(&["single-agent=19", "multiagent=19"]).unwrap();
    assert!(pair.config.report.primary.is_some());
    let error = |s: &str| part(&[s]).unwrap_err().to_string();
    assert!(error("stars").contains("there is no such arm; there are `multiagent`"), "{}", error("stars"));
    assert!(error("star=9").contains("seed 9 is not among its seeds [10, 11, 12]"), "{}", error("star=9"));
    let twice = part(&["multiagent=10", "multiagent=11"]).unwrap_err().to_string();
    assert!(twice.contains("--arm multiagent: given twice"), "{twice}");
    assert!(error("star=10,10").contains("seed 10 is given twice"), "{}", error("star=10,10"));
    assert!("star=a".parse::<Selection>().unwrap_err().contains("`a` is no seed"));
}
