//! A whole run on the embedded model, shrunk: its folder, its commands, and that an interrupted run ends with the same bytes.

use std::path::Path;

use crate::common::events;
use crate::common::shell::runs::*;
use crate::common::shell::*;
use serde_json::{Value, json};

#[test]
fn a_run_leaves_a_complete_folder() {
    let run = complete().join("run");
    let files = results(&run);
    for name in ["config.toml", "splits.json", "metrics.jsonl", "report.txt", "report.csv", "summary.csv"] {
        assert!(files.contains_key(name), "{name}");
    }
    assert!(std::fs::read_to_string(run.join("report.html")).unwrap().starts_with("<!DOCTYPE html>"));
    for lane in ["multiagent/seed-0", "single-agent/seed-0"] {
        for i in 1..=2 {
            assert!(files.contains_key(&format!("transcripts/{lane}/iteration-{i}/train.jsonl")));
            assert!(files.contains_key(&format!("transcripts/{lane}/iteration-{i}/dev-debate.jsonl")));
        }
    }
    for i in 1..=2 {
        for name in ["generator-0", "generator-1", "critic-0", "critic-1"] {
            assert!(files.contains_key(&format!("data/multiagent/seed-0/iteration-{i}/{name}.jsonl")));
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                assert!(
                    files.contains_key(&format!("adapters/multiagent/seed-0/iteration-{i}/{name}/{file}"))
                );
            }
        }
    }
    assert!(files.keys().all(|n| !n.contains(".tmp")), "{:?}", files.keys());

    let manifest: Value = serde_json::from_slice(&std::fs::read(run.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["schema"], 1);
    assert_eq!(manifest["lanes"][0], "multiagent/seed-0");
    assert_eq!(manifest["model"]["sha256"]["model.safetensors"].as_str().unwrap().len(), 64);
    assert!(manifest["arithmetic"].as_str().unwrap().len() > 3);
    assert!(manifest["prompts_sha256"]["multiagent"]["first.jinja"].is_string());
    let splits: Value = serde_json::from_slice(&std::fs::read(run.join("splits.json")).unwrap()).unwrap();
    let ids = |split: &str| -> Vec<&str> {
        splits["multiagent"][split].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
    };
    assert_eq!((ids("train").len(), ids("dev").len(), ids("test").len()), (6, 4, 0));
    assert!(ids("train").iter().all(|id| !ids("dev").contains(id)));

    let mut metrics = read_lines(&run.join("metrics.jsonl"));
    assert_eq!(metrics.remove(0), json!({"schema": 1}));
    let key = |m: &Value| {
        (
            if m["arm"] == "multiagent" { 0 } else { 1 },
            m["iteration"].as_u64().unwrap(),
            m["name"].as_str().unwrap().to_string(),
        )
    };
    let keys: Vec<_> = metrics.iter().map(key).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    let names: Vec<&str> = keys.iter().filter(|k| k.0 == 0 && k.1 == 1).map(|k| k.2.as_str()).collect();
    assert_eq!(names, ["compute", "dev", "diversity", "pseudo-labels", "training"]);
    // Before training the arms share weights and draws.
    let of = |iteration: u64, name: &str| -> Vec<&Value> {
        metrics.iter().filter(|m| m["iteration"] == iteration && m["name"] == name).collect()
    };
    let before = of(0, "dev");
    assert_eq!(before.len(), 2);
    assert_eq!(before[0]["debate"]["accuracy"], before[1]["debate"]["accuracy"]);
    // So they are no different from each other, nor from the base; after training only agents with adapters of their own are.
    for d in of(0, "diversity") {
        assert_eq!(
            (&d["questions"], &d["kl"]["value"], &d["kl_base"]["value"]),
            (&json!(4), &json!(0.0), &json!(0.0))
        );
        assert_eq!(d["off_task_nll"]["value"], d["off_task_nll"]["base"]);
        assert!(d["nll"]["value"].as_f64().unwrap() > 0.0, "{d}");
    }
    let after = of(2, "diversity");
    assert!(after[0]["kl"]["value"] != 0.0 && after[1]["kl"]["value"] == 0.0, "{after:?}");
    assert!(after.iter().all(|d| d["kl_base"]["value"] != 0.0), "{after:?}");

    let times = read_lines(&run.join("times.jsonl"));
    let keys = |records: &[Value], name: &str| -> Vec<String> {
        records.iter().map(|r| format!("{} {} {}", r["arm"], r["iteration"], r[name])).collect()
    };
    assert_eq!(times.len(), 2 * (2 + 2 * 4), "{times:?}");
    assert_eq!(
        keys(&times[..6], "phase"),
        [
            r#""multiagent" 0 "dev""#,
            r#""multiagent" 0 "diversity""#,
            r#""multiagent" 1 "debate""#,
            r#""multiagent" 1 "dev""#,
            r#""multiagent" 1 "diversity""#,
            r#""multiagent" 1 "finetune""#,
        ]
    );
    assert!(times.iter().all(|t| t["seconds"].as_f64().unwrap() >= 0.0 && t["seed"] == 0));
}

#[test]
fn event_files_hold_what_metrics_hold() {
    let run = complete().join("run");
    let metrics = read_lines(&run.join("metrics.jsonl"));
    for arm in ["multiagent", "single-agent"] {
        let path = run.join(format!("tensorboard/{arm}/seed-0/events.out.tfevents.0.colloquy"));
        let events = events::read(&path);
        let of = |name: &str| {
            metrics.iter().filter(move |m| m["arm"] == arm && m["name"] == *name).collect::<Vec<_>>()
        };
        let points = |name: &str, field: &str| -> Vec<(u64, f32)> {
            let point = |m: &Value| {
                (m["iteration"].as_u64().unwrap(), m.pointer(field).unwrap().as_f64().unwrap() as f32)
            };
            of(name).into_iter().map(point).collect()
        };
        for (tag, name, field, count) in [
            ("dev/final-vote", "dev", "/debate/accuracy", 3),
            ("dev/first-vote", "dev", "/debate/rounds/0/accuracy", 3),
            ("dev/greedy", "dev", "/greedy/accuracy", 3),
            ("pseudo-labels/accuracy", "pseudo-labels", "/accuracy", 2),
            ("diversity/kl_base", "diversity", "/kl_base/value", 3),
        ] {
            assert_eq!(events::points(&events, tag), points(name, field), "{arm} {tag}");
            assert_eq!(events::points(&events, tag).len(), count, "{arm} {tag}");
        }
        // Optimizer steps of all iterations one after the other, none twice.
        let training = of("training");
        let mut adapters = 0;
        for (adapter, report) in training[0].as_object().unwrap().iter().filter(|(_, v)| v["loss"].is_array())
        {
            assert!(report["loss"].as_array().unwrap().iter().all(Value::is_number));
            for column in ["loss", "grad_norm", "learning_rate"] {
                let all = training.iter().flat_map(|t| t[adapter][column].as_array().unwrap());
                let expected: Vec<(u64, f32)> =
                    all.enumerate().map(|(i, v)| (i as u64 + 1, v.as_f64().unwrap() as f32)).collect();
                assert!(!expected.is_empty());
                assert_eq!(events::points(&events, &format!("train/{column}/{adapter}")), expected);
            }
            adapters += 1;
        }
        assert_eq!(adapters, if arm == "multiagent" { 4 } else { 1 });
    }
}

#[test]
fn progress_goes_to_stderr_and_tables_fit_80_columns() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = small("run");
    args.extend([
        "--set",
        "run.iterations=1",
        "--set",
        "task.train_questions=2",
        "--set",
        "task.dev_questions=2",
    ]);
    let output = run(dir.path(), &args);
    let (out, err) = (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output));
    assert!(output.status.success(), "{err}");
    for part in [
        "model    ",
        "device   cpu",
        "memory   ",
        "the first debate",
        "question",
        "agent 1",
        "vote",
        "colloquy debate --society run",
    ] {
        assert!(err.contains(part), "{part}: {err}");
    }
    assert!(!out.contains("agent 1") && !err.contains('\x1b'));
    for line in out.lines().chain(err.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(out.contains("majority K: the"), "what the columns mean: {out}");
    let again = succeed(dir.path(), &["report", "run"]);
    assert_eq!(again, out);
    let e = fail(dir.path(), &args, 1);
    assert!(e.contains("run: exists already"), "{e}");
}

#[test]
fn a_complete_run_resumes_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    copy(&complete().join("run"), &dir.path().join("run"));
    let before = std::fs::read(dir.path().join("run/manifest.json")).unwrap();
    let journal = journalled(&dir.path().join("run"));
    succeed(dir.path(), &["resume", "run"]);
    assert_same(&complete().join("run"), &dir.path().join("run"));
    assert_eq!(std::fs::read(dir.path().join("run/manifest.json")).unwrap(), before);
    let times = |folder: &Path| std::fs::read(folder.join("run/times.jsonl")).unwrap();
    assert_eq!(times(dir.path()), times(complete()), "phases keep the time they took");
    assert_eq!(journalled(&dir.path().join("run")), journal, "everything came from the journal");
}

#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let whole = journalled(&complete().join("run"));
    for share in [0.02, 0.35, 0.8] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let mut child = start(dir.path(), &small("run"));
        let at = (whole as f64 * share) as u64;
        if !wait_for(&mut child, || journalled(&folder) >= at) {
            panic!("the run ended before it was killed at {share}");
        }
        // While it lives, stopped or not, nobody else may work in its folder.
        std::process::Command::new("kill").args(["-STOP", &child.id().to_string()]).status().unwrap();
        let busy = fail(dir.path(), &["resume", "run"], 1);
        assert!(busy.contains(&format!("in use by process {}", child.id())), "{busy}");
        child.kill().unwrap();
        child.wait().unwrap();
        // Killed again on the way.
        let mut child = start(dir.path(), &["resume", "run"]);
        let further = at + (whole - at) / 4;
        if wait_for(&mut child, || journalled(&folder) >= further) {
            child.kill().unwrap();
        }
        child.wait().unwrap();
        succeed(dir.path(), &["resume", "run"]);
        assert_same(&complete().join("run"), &folder);
    }
}

#[test]
fn lanes_that_do_not_fit_together_run_in_waves_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = small("run");
    args.push("--dry-run");
    let plan = succeed(dir.path(), &args);
    let mebibytes = |line: &str| -> f64 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let unit = words.iter().position(|w| ["KiB", "MiB"].contains(w)).unwrap();
        words[unit - 1].parse::<f64>().unwrap() / if words[unit] == "KiB" { 1024.0 } else { 1.0 }
    };
    let memory = plan.split("memory\n").nth(1).unwrap().split("in all").next().unwrap();
    let fixed: f64 =
        memory.lines().filter(|l| l.contains("iB") && !l.contains("KV cache")).map(mebibytes).sum();
    let of_adapters =
        |l: &&str| ["adapters", "optimizer", "checkpoints"].iter().any(|n| l.trim().starts_with(n));
    let each = memory.lines().filter(of_adapters).map(mebibytes).sum::<f64>() / 5.0;
    // Room for the four adapters of the first lane and one context (5 MiB), not for the second lane's.
    let limit = format!("{}KiB", ((fixed - each + 6.0) * 1024.0) as usize);
    let mut args = small("run");
    args.extend(["--memory", &limit]);
    let output = run(dir.path(), &args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("waves    room for 4 adapters; 2 lanes need 5"), "{}", stderr(&output));
    let (mut together, mut apart) = (results(&complete().join("run")), results(&dir.path().join("run")));
    // It names the limit.
    assert!(together.remove("config.toml") != apart.remove("config.toml"));
    assert!(together == apart);

    let mut args = small("other");
    args.extend(["--memory", "20MiB"]);
    let e = fail(dir.path(), &args, 1);
    assert!(e.contains("one lane with its 4 adapters does not fit: the limit is 20.0 MiB"), "{e}");
    assert!(!dir.path().join("other").exists());
}

#[test]
fn roles_and_agents_may_have_ranks_and_targets_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = small("run");
    args.extend(["--set", "run.iterations=1", "--set", "adapter.of.critic={rank=4, targets=['q_proj']}"]);
    args.extend(["--set", "adapter.of.critic-1.rank=8", "--arm", "multiagent"]);
    succeed(dir.path(), &args);
    let of = |name: &str| {
        let path = format!("run/adapters/multiagent/seed-0/iteration-1/{name}/adapter_config.json");
        let config: Value = serde_json::from_slice(&std::fs::read(dir.path().join(path)).unwrap()).unwrap();
        (config["r"].as_u64().unwrap(), config["target_modules"].as_array().unwrap().len())
    };
    assert_eq!(
        [of("generator-0"), of("generator-1"), of("critic-0"), of("critic-1")],
        [(16, 7), (16, 7), (4, 1), (8, 1)]
    );
    // They debate.
    succeed(
        dir.path(),
        &["eval", "--society", "run", "--task", "arithmetic", "--questions", "2", "--method", "debate"],
    );

    let mut args = small("other");
    args.extend(["--set", "adapter.of.crtic.rank=4"]);
    let e = fail(dir.path(), &args, 1);
    assert!(
        e.contains("adapter.of.crtic: no adapter") && e.contains("critic-0, critic-1, generator-0"),
        "{e}"
    );
    let mut args = small("other");
    args.extend(["--set", "adapter.of.critic.targets=['c_proj']"]);
    assert!(fail(dir.path(), &args, 1).contains("c_proj"));
    assert!(!dir.path().join("other").exists());
}

#[test]
fn a_part_of_an_experiment_is_extended_to_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = small("run");
    args.extend(["--arm", "single-agent"]);
    succeed(dir.path(), &args);
    let folder = dir.path().join("run");
    let part = results(&folder);
    let began: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();

    let with = |more: &[&'static str]| {
        let mut args = vec!["resume", "run", "--config", "default"];
        args.extend(SMALL);
        args.extend(more);
        args
    };
    for (more, expected) in [
        (["--set", "debate.rounds=3"], "arm single-agent: found debate.rounds = 3, the run has 2"),
        (
            ["--set", "run.seeds=[5]"],
            "seeds of arm single-agent: the run has seed 0, the configuration only [5]",
        ),
        (["--arm", "multiagent"], "the run has an arm `single-agent`, the configuration only `multiagent`"),
        (["--set", "model.path='x'"], "model.path: found `x`, the run has `embedded`"),
    ] {
        let e = fail(dir.path(), &with(&more), 1);
        assert!(e.contains(expected), "{e}");
        assert!(results(&folder) == part, "nothing is written");
    }
    let alone = run(dir.path(), &["resume", "run", "--arm", "multiagent"]);
    assert!(alone.status.code() == Some(2) && stderr(&alone).contains("--config"), "{}", stderr(&alone));

    succeed(dir.path(), &with(&[]));
    assert_same(&complete().join("run"), &folder);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["created"], began["created"]);
    assert_eq!(manifest["lanes"], json!(["multiagent/seed-0", "single-agent/seed-0"]));
    // As any run, it resumes to itself.
    succeed(dir.path(), &["resume", "run"]);
    assert_same(&complete().join("run"), &folder);
}

#[test]
fn a_torn_journal_is_repaired_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    copy(&complete().join("run"), &folder);
    let journal = folder.join("journal/multiagent/seed-0.jsonl");
    let bytes = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &bytes[..bytes.len() / 2]).unwrap();
    let output = run(dir.path(), &["resume", "run"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("warning: ") && stderr(&output).contains("incomplete line"));
    assert_same(&complete().join("run"), &folder);
}

#[test]
fn a_full_disk_stops_the_run_and_keeps_what_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_colloquy");
    // Files may have 40 KiB: the journal outgrows that.
    let command = format!("trap '' XFSZ; ulimit -f 80; exec '{binary}' {}", small("run").join(" "));
    let output =
        std::process::Command::new("sh").args(["-c", &command]).current_dir(dir.path()).output().unwrap();
    let e = one_error(&output, &["run"], 1);
    assert!(e.contains("run/") || e.contains("run\\"), "it names a file: {e}");
    assert!(stderr(&output).contains("colloquy resume run"), "{}", stderr(&output));
    succeed(dir.path(), &["resume", "run"]);
    assert_same(&complete().join("run"), &dir.path().join("run"));
}

#[test]
fn a_run_whose_loss_is_not_finite_says_whose() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = small("run");
    args.extend(["--set", "training.learning_rate=1e30", "--set", "training.max_grad_norm=0"]);
    args.extend(["--set", "training.batch_size=1", "--set", "debate.min_agreement=1"]);
    let output = run(dir.path(), &args);
    let e = one_error(&output, &args, 1);
    assert!(e.contains("not a finite number") && e.contains("/seed-0, step"), "{e}");
    assert!(e.contains("generator-") || e.contains("critic-") || e.contains("agent of single-agent"), "{e}");
    assert!(stderr(&output).contains("a lower training.learning_rate may not"), "{}", stderr(&output));
    assert!(!dir.path().join("run/adapters").exists(), "no adapter of it is kept");
    assert!(succeed(dir.path(), &["report", "run"]).contains("accuracy on"), "what was complete is");
}

#[test]
fn resuming_refuses_what_would_mix_two_runs() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    copy(&complete().join("run"), &folder);
    let path = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["model"]["sha256"]["model.safetensors"] = "0".into();
    std::fs::write(&path, manifest.to_string()).unwrap();
    let e = fail(dir.path(), &["resume", "run"], 1);
    assert!(e.contains("manifest.json: model") && e.contains("changed"), "{e}");
    manifest["schema"] = 99.into();
    std::fs::write(&path, manifest.to_string()).unwrap();
    assert!(fail(dir.path(), &["report", "run"], 1).contains("newer"));
}

#[test]
fn the_plan_and_the_configurations_can_be_seen_first() {
    let dir = tempfile::tempdir().unwrap();
    let list = succeed(dir.path(), &["run", "--list"]);
    for part in ["default", "arithmetic", "gsm8k", "multiagent", "single-agent", "official-code"] {
        assert!(list.contains(part), "{part}: {list}");
    }
    assert!(list.lines().all(|l| l.chars().count() <= 80), "{list}");
    let config = succeed(dir.path(), &["run", "--print-config"]);
    std::fs::write(dir.path().join("my.toml"), &config).unwrap();
    let plan = succeed(dir.path(), &["run", "my.toml", "--dry-run"]);
    assert!(plan.contains("multiagent") && plan.contains("KV cache"), "{plan}");
    assert!(plan.lines().all(|l| l.chars().count() <= 80), "{plan}");
    let resolved = succeed(dir.path(), &["run", "my.toml", "--dry-run", "--print-config"]);
    assert!(
        resolved.contains("adam_beta2 = 0.999") && resolved.contains("learning_rate = 0.0005\n"),
        "{resolved}"
    );
    assert!(!dir.path().join("runs").exists(), "nothing is written");
    assert_eq!(run(dir.path(), &["run", "--print-config", "nothing"]).status.code(), Some(2));
}

#[test]
fn debates_are_told_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let told = succeed(dir.path(), &["debate", "What is 3+4*5-6*7?"]);
    assert!(told.lines().all(|l| l.chars().count() <= 80), "{told}");
    for part in ["question  3+4*5-6*7", "agent 3", "round 2", "reads", "vote"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(told, succeed(dir.path(), &["debate", "3+4*5-6*7", "--threads", "1"]));
    let society = complete().join("run");
    let society = society.to_str().unwrap();
    let trained = succeed(dir.path(), &["debate", "3+4*5-6*7", "--society", society]);
    assert!(trained.contains("agent 2") && !trained.contains("agent 3"), "{trained}");
    std::fs::write(
        dir.path().join("q.jsonl"),
        "{\"question\": \"1+2*3+4-5*6\", \"answer\": -19}\n{\"question\": \"2+2*2+2-2*2\"}\n",
    )
    .unwrap();
    let at_base = format!("{society}@0");
    succeed(dir.path(), &["debate", "--input", "q.jsonl", "--output", "t.jsonl", "--society", &at_base]);
    let transcripts = read_lines(&dir.path().join("t.jsonl"));
    assert_eq!(transcripts.len(), 2);
    assert_eq!(transcripts[0]["rounds"][1]["turns"].as_array().unwrap().len(), 2);
    assert!(fail(dir.path(), &["debate", "Why?"], 1).contains("expression"));
    assert!(
        fail(dir.path(), &["debate", "1+1", "--society", &format!("{society}@7")], 1)
            .contains("no iteration 7")
    );
    assert_eq!(run(dir.path(), &["debate"]).status.code(), Some(2));
}

#[test]
fn eval_measures_what_the_run_measured() {
    let dir = tempfile::tempdir().unwrap();
    let society = complete().join("run");
    let at = format!("{}@2", society.to_str().unwrap());
    let table = succeed(dir.path(), &["eval", "--society", &at, "--output", "answers.jsonl"]);
    assert!(table.contains("4 questions") && table.contains("debate, vote of round 2 (final)"), "{table}");
    let answers = read_lines(&dir.path().join("answers.jsonl"));
    for method in ["greedy", "debate"] {
        let file = format!("transcripts/multiagent/seed-0/iteration-2/dev-{method}.jsonl");
        let ran = read_lines(&society.join(file));
        let mut mine: Vec<Value> = answers.iter().filter(|a| a["method"] == method).cloned().collect();
        mine.iter_mut().for_each(|m| drop(m.as_object_mut().unwrap().remove("method")));
        assert_eq!(mine, ran, "{method}");
    }
    let one = succeed(
        dir.path(),
        &[
            "eval",
            "--model",
            "embedded",
            "--task",
            "arithmetic",
            "--method",
            "greedy",
            "--questions",
            "3",
            "--split",
            "test",
        ],
    );
    assert!(one.contains("3 questions") && one.contains("greedy") && !one.contains("debate"), "{one}");
}

#[test]
fn a_runs_data_and_adapters_are_inputs_of_the_other_commands() {
    let dir = tempfile::tempdir().unwrap();
    let run = complete().join("run");
    let data = run.join("data/multiagent/seed-0/iteration-1/generator-0.jsonl");
    let adapter = run.join("adapters/multiagent/seed-0/iteration-1/generator-0");
    if !std::fs::read_to_string(&data).unwrap().is_empty() {
        let (source, file) = (format!("x={}", adapter.display()), format!("x={}", data.display()));
        let args = ["train", "--model", "embedded", "--adapter", &source, "--data", &file, "--output", "out"];
        succeed(dir.path(), &args);
        assert!(!read_lines(&dir.path().join("out/metrics.jsonl")).is_empty());
    }
    std::fs::write(
        dir.path().join("in.jsonl"),
        "{\"id\": 1, \"adapter\": \"generator-0\", \"messages\": [{\"role\": \"user\", \"content\": \
         \"What is the result of 1+2*3+4-5*6? Make sure to state your answer at the end of the response.\"}], \
         \"temperature\": 0, \"max_tokens\": 40}\n",
    )
    .unwrap();
    let society = run.to_str().unwrap();
    let out =
        succeed(dir.path(), &["generate", "--society", society, "--input", "in.jsonl", "--output", "-"]);
    let sample = &lines(&out)[0];
    assert!(!sample["text"].as_str().unwrap().is_empty(), "{sample}");
    let stop =
        "{\"text\": \"<|user|>7+8<|end|><|assistant|>\", \"max_tokens\": 30, \"stop\": [\"1\", \"5\"]}";
    std::fs::write(dir.path().join("stop.jsonl"), stop).unwrap();
    let args = ["generate", "--model", "embedded", "--input", "stop.jsonl", "--output", "-"];
    let sample = &lines(&succeed(dir.path(), &args))[0];
    assert!(["stop", "length"].contains(&sample["finish_reason"].as_str().unwrap()), "{sample}");
}

#[test]
fn a_template_by_which_critics_cannot_learn_is_refused_before_anything_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model"), &dir.path().join("model"));
    let turn = "{{ '<|' + m.role + '|>' }}{{ m.content }}<|end|>";
    let asks = "{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let templates = [
        (
            "{% if m.role == 'assistant' and not loop.last %}<|assistant|>…<|end|>{% else %}TURN{% endif %}",
            asks,
        ),
        ("TURN", "{% if add_generation_prompt %}<|assistant|> {% endif %}"),
        ("{{ '<|' + m.role + '|>' }}{{ m.content.split('</think>')[-1] }}<|end|>", asks),
    ];
    let tiny = "task.train_questions=2 task.train_pool=0 task.dev_questions=2 task.test_questions=0 run.iterations=1";
    let sets: Vec<&str> = tiny.split(' ').flat_map(|set| ["--set", set]).collect();
    for (each, end) in templates {
        let each = each.replace("TURN", turn);
        let template = format!("{{% for m in messages %}}{each}{{% endfor %}}{end}");
        std::fs::write(dir.path().join("model/chat_template.jinja"), template).unwrap();
        let run = |loss: &'static str, end: &[&'static str]| {
            [&["run", "--model", "model", "--set", loss][..], &sets, end].concat()
        };
        for end in [&["--output", "r"][..], &["--dry-run"]] {
            let e = fail(dir.path(), &run("training.critic_loss=all", end), 1);
            assert!(
                e.contains("training.critic_loss: found \"all\"") && e.contains("expected \"final\""),
                "{e}"
            );
            assert!(e.contains("chat_template.jinja"), "{e}");
            assert!(!dir.path().join("r").exists());
        }
        succeed(dir.path(), &run("training.critic_loss=final", &["--dry-run"]));
    }
}
