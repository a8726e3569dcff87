//! `colloquy session`: what it answers, that it goes on after what is wrong, and that plain Python over it ends where the recipe does.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::shell::*;
use serde_json::{Value, json};

/// The answers to these lines, the greeting first.
fn talk(dir: &Path, args: &[&str], lines: &[String]) -> (Vec<Value>, std::process::ExitStatus) {
    let mut all = vec!["session", "--model", "embedded"];
    all.extend(args);
    let mut child = colloquy(dir, &all)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for line in lines {
        writeln!(input, "{line}").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text.lines().map(|l| serde_json::from_str(l).unwrap()).collect(), output.status)
}

/// The same of requests.
fn ask(dir: &Path, args: &[&str], requests: &[Value]) -> Vec<Value> {
    let lines: Vec<String> = requests.iter().map(Value::to_string).collect();
    let (answers, status) = talk(dir, args, &lines);
    assert!(status.success());
    assert_eq!(answers.len(), requests.len() + 1);
    answers
}

/// The answers to these bytes, the greeting left out, and whether all went well.
fn talk_bytes(dir: &Path, input: &[u8]) -> (Vec<Value>, bool) {
    let mut child = colloquy(dir, &["session", "--model", "embedded"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text.lines().skip(1).map(|l| serde_json::from_str(l).unwrap()).collect(), output.status.success())
}

#[test]
fn it_survives_any_line() {
    let dir = tempfile::tempdir().unwrap();
    let text = |s: &str| s.as_bytes().to_vec();
    let in_record = |s: &str| text(&format!("{{\"op\":\"score\",\"records\":[{s}]}}"));
    let deep = |open: &str, n: usize| text(&open.repeat(n));
    let mut long = in_record("{\"text\":\"");
    long.resize(65 << 20, b'x');
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"\0".to_vec(), "not JSON"),
        (b"{\"op\":\"list\"}\0".to_vec(), "not JSON"),
        (b"\xff\xfe".to_vec(), "not UTF-8"),
        (b"{\"op\":\"\xff\"}".to_vec(), "not UTF-8"),
        (deep("[", 200_000), "not JSON"),
        (deep("{\"a\":", 200_000), "not JSON"),
        (in_record(&format!("{}{}", "[".repeat(100), "]".repeat(100))), "expected an object"),
        (in_record("1e999"), ""),
        (in_record("{\"tokens\":[18446744073709551616]}"), "expected an array of token ids"),
        (in_record("{\"tokens\":[-1e308]}"), "expected an array of token ids"),
        (in_record("{\"text\":\"\\ud800\"}"), "not JSON"),
        (
            text("{\"op\":\"generate\",\"records\":[{\"text\":\"a\",\"max_tokens\":1e300}]}"),
            "max_tokens: found",
        ),
        (text("{\"op\":\"generate\",\"records\":[{\"text\":\"a\",\"n\":4294967296}]}"), "n: found"),
        (text(&format!("{{\"op\":\"{}\"}}", "sing".repeat(1000))), "unknown variant"),
        (text("{\"op\":null}"), "op: found null, expected a name"),
        (text("{\"op\":{\"op\":\"list\"}}"), "op: found {"),
        (text("null"), "expected an object"),
        (long, "found a line of more than 64 MiB"),
    ];
    let mut input = Vec::new();
    for (line, _) in &cases {
        input.extend_from_slice(line);
        input.push(b'\n');
    }
    input.extend_from_slice(b"{\"op\":\"list\",\"id\":\"last\"}");
    let (answers, ended_well) = talk_bytes(dir.path(), &input);
    assert!(ended_well);
    assert_eq!(answers.len(), cases.len() + 1, "one answer a line");
    for (i, ((line, expected), answer)) in cases.iter().zip(&answers).enumerate() {
        let start = String::from_utf8_lossy(&line[..line.len().min(60)]);
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{start}: {answer}"));
        assert!(error.contains(expected) && error.contains(&format!("stdin:{}", i + 1)), "{start}: {error}");
    }
    assert_eq!(answers[cases.len()], json!({"id": "last", "result": {"adapters": []}}));
}

#[test]
fn fields_that_are_not_read_are_in_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let records = json!([{"text": "a", "source": 1}, {"text": "b", "source": 2, "note": 3}, {"text": "c"}]);
    let answers = ask(
        dir.path(),
        &[],
        &[
            json!({"op": "score", "records": records}),
            json!({"op": "score", "records": [{"text": "a"}]}),
            json!({"op": "load", "adapter": "a", "source": "new:rank=2"}),
            json!({"op": "train", "adapters": {"a": {"records": [{"text": "ab", "source": 1}], "max_steps": 1}}}),
            json!({"op": "train", "adapters": {"a": {"records": [{"text": "ab"}], "lr": 1}}}),
            json!({"op": "train", "adapters": {"a": {"records": [{"text": "ab", "labels": [1]}]}}}),
        ],
    );
    assert_eq!(answers[1]["ignored"], json!({"source": 2, "note": 1}));
    assert_eq!(answers[1]["result"]["records"].as_array().unwrap().len(), 3);
    assert!(answers[2].get("ignored").is_none(), "{}", answers[2]);
    assert_eq!(answers[4]["ignored"], json!({"source": 1}));
    for (i, expected) in [
        (5, "adapters.a: lr: unknown field; did you mean `learning_rate`?"),
        (6, "records[0]: labels: unknown field"),
    ] {
        assert!(answers[i]["error"].as_str().unwrap().contains(expected), "{}", answers[i]);
    }
}

fn message(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[test]
fn it_generates_scores_trains_and_keeps_adapters() {
    let dir = tempfile::tempdir().unwrap();
    let question = message("What is the result of 3+4*5+6-7*8?");
    let data = json!({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is 4."}]});
    let score =
        |adapter: &str| json!({"op": "score", "records": [{"text": "The answer is 7.", "adapter": adapter}]});
    let requests = [
        json!({"op": "load", "adapter": "a", "source": "new:rank=8,init-seed=3", "id": 1}),
        json!({"op": "clone", "adapter": "a", "to": "b", "id": "two"}),
        json!({"op": "generate", "id": [3], "prompt_tokens": true, "records": [
            {"messages": question, "max_tokens": 12, "n": 2, "id": "x"}, {"messages": question, "adapter": "a", "key": 7, "max_tokens": 3}]}),
        score("a"),
        json!({"op": "train", "adapters": {"a": {"records": [data], "learning_rate": 1e-2, "max_steps": 3},
                                             "b": {"records": [data], "learning_rate": 1e-2, "max_steps": 3}}}),
        score("a"),
        score("b"),
        json!({"op": "save", "adapter": "a", "output": "saved"}),
        json!({"op": "reset", "adapter": "a"}),
        score("a"),
        json!({"op": "load", "adapter": "again", "source": "saved"}),
        score("again"),
        json!({"op": "drop", "adapter": "b"}),
        json!({"op": "list"}),
        json!({"op": "train", "adapters": {"a": {"records": [data], "learning_rate": 1e-2, "max_steps": 3}}}),
        score("a"),
    ];
    let answers = ask(dir.path(), &[], &requests);
    assert_eq!((&answers[0]["model"], &answers[0]["context"]), (&json!("embedded"), &json!(1024)));
    let answers = &answers[1..];
    assert!(answers.iter().all(|a| a.get("error").is_none()), "{answers:?}");
    assert_eq!(
        [&answers[0]["id"], &answers[1]["id"], &answers[2]["id"]],
        [&json!(1), &json!("two"), &json!([3])]
    );
    let drawn = answers[2]["result"]["records"].as_array().unwrap();
    assert_eq!(drawn.len(), 3);
    assert_eq!([&drawn[0]["index"], &drawn[1]["index"]], [&json!(0), &json!(1)]);
    assert_eq!((&drawn[0]["id"], &drawn[2]["adapter"]), (&json!("x"), &json!("a")));
    assert_eq!(drawn[2]["tokens"].as_array().unwrap().len(), 3);
    assert_eq!(drawn[0]["prompt_tokens"], drawn[2]["prompt_tokens"]);
    assert!(drawn[0]["prompt_tokens"].as_array().unwrap().len() > 5);
    let logprobs = |i: usize| answers[i]["result"]["records"][0]["logprobs"].clone();
    let (fresh, trained) = (logprobs(3), logprobs(5));
    assert_ne!(fresh, trained);
    assert_eq!(trained, logprobs(6), "a clone that is trained alike");
    assert_eq!(fresh, logprobs(9), "reset is as it was loaded");
    assert_eq!(trained, logprobs(11), "saved and loaded");
    assert_eq!(answers[13]["result"]["adapters"], json!(["a", "again"]));
    assert_eq!(trained, logprobs(15), "trained again from the start");
    let steps = &answers[4]["result"]["adapters"]["a"];
    assert_eq!(steps.as_array().unwrap().len(), 3);
    assert!(steps[2]["loss"].as_f64().unwrap() < steps[0]["loss"].as_f64().unwrap());

    // What a session saves, the other commands read; and the same records give the same answers there.
    std::fs::write(
        dir.path().join("in.jsonl"),
        json!({"text": "The answer is 7.", "adapter": "a"}).to_string(),
    )
    .unwrap();
    let args =
        ["score", "--model", "embedded", "--adapter", "a=saved", "--input", "in.jsonl", "--output", "-"];
    let out: Value = serde_json::from_str(&succeed(dir.path(), &args)).unwrap();
    assert_eq!(out["logprobs"], trained);
}

#[test]
fn training_takes_weights_of_both_signs_and_a_normalizer() {
    let dir = tempfile::tempdir().unwrap();
    let record = |sign: i32| json!({"tokens": [1, 5, 9, 12], "weights": [0, sign, 2 * sign, 0]});
    let score = |name: &str| json!({"op": "score", "records": [{"tokens": [1, 5, 9, 12], "adapter": name}]});
    let train = |down: Value| {
        json!({"op": "train", "adapters": {
            "up": {"records": [record(1)], "learning_rate": 1e-2, "max_steps": 3, "normalizer": 4.5},
            "down": {"records": [record(-1)], "learning_rate": 1e-2, "max_steps": 3, "normalizer": down}}})
    };
    let requests = [
        json!({"op": "load", "adapter": "up", "source": "new:rank=8,init-seed=3"}),
        json!({"op": "load", "adapter": "down", "source": "new:rank=8,init-seed=3"}),
        score("up"),
        train(json!("weights")),
        score("up"),
        train(json!("tokens")),
        score("up"),
        score("down"),
    ];
    let answers = &ask(dir.path(), &[], &requests)[1..];
    let e = answers[3]["error"].as_str().unwrap();
    assert!(e.contains("adapter down, step 1") && e.contains("sum to -3"), "{e}");
    // Of the first token there is none.
    let logprobs = |i: usize| -> Vec<Option<f64>> {
        serde_json::from_value(answers[i]["result"]["records"][0]["logprobs"].clone()).unwrap()
    };
    assert_eq!(logprobs(2), logprobs(4), "neither is trained where one is refused");
    let trained = &answers[5]["result"]["adapters"];
    let loss = |name: &str| trained[name][0]["loss"].as_f64().unwrap();
    assert!((loss("up") * 4.5 + loss("down") * 2.0).abs() < 1e-4, "{trained}");
    for token in 1..3 {
        let [before, up, down] = [2, 6, 7].map(|i| logprobs(i)[token].unwrap());
        assert!(up > before + 0.01 && down < before - 0.01, "{up} {before} {down}");
    }
}

#[test]
fn text_ends_before_the_stop_string() {
    let dir = tempfile::tempdir().unwrap();
    let record = |stop: Value| {
        json!({"op": "generate", "records": [
            {"messages": message("What is the result of 3+4*5+6-7*8?"), "temperature": 0, "max_tokens": 40, "stop": stop}]})
    };
    let answers = ask(dir.path(), &[], &[record(json!([])), record(json!("=")), record(json!(["+", "="]))]);
    let of = |i: usize| {
        let result = &answers[i]["result"]["records"][0];
        (
            result["text"].as_str().unwrap().to_string(),
            result["finish_reason"].clone(),
            result["tokens"].clone(),
        )
    };
    let (whole, _, tokens) = of(1);
    for (i, stops) in [(2, &["="][..]), (3, &["+", "="][..])] {
        let (text, finish, taken) = of(i);
        let first = stops.iter().filter_map(|s| whole.find(s)).min().expect("the answer has one");
        assert_eq!((text.as_str(), finish), (&whole[..first], json!("stop")));
        let count = taken.as_array().unwrap().len();
        assert!(count > 0 && taken.as_array().unwrap()[..] == tokens.as_array().unwrap()[..count]);
    }
}

#[test]
fn min_p_of_one_leaves_the_most_likely_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let record = |fields: Value| {
        let mut record = json!({"tokens": [1, 5, 9, 12], "max_tokens": 12, "temperature": 2, "seed": 3});
        record.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        record
    };
    let records = [record(json!({})), record(json!({"min_p": 1})), record(json!({"temperature": 0}))];
    let answers = ask(dir.path(), &[], &[json!({"op": "generate", "records": records})]);
    let of = |i: usize| answers[1]["result"]["records"][i]["tokens"].clone();
    assert_eq!(of(1), of(2));
    assert_ne!(of(0), of(2));

    // The option of `generate` is the default of its records.
    let lines: Vec<String> =
        [records[0].clone(), record(json!({"min_p": 0}))].map(|r| r.to_string()).to_vec();
    std::fs::write(dir.path().join("in.jsonl"), lines.join("\n")).unwrap();
    let args = ["generate", "--model", "embedded", "--min-p", "1", "--input", "in.jsonl", "--output", "-"];
    let out = succeed(dir.path(), &args);
    let drawn: Vec<Value> =
        out.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["tokens"].clone()).collect();
    assert_eq!(drawn, [of(2), of(0)]);
}

#[test]
fn a_wrong_line_is_answered_and_the_session_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("there")).unwrap();
    let load = r#"{"op":"load","adapter":"a","source":"new"}"#;
    let cases: [(&str, &str); 27] = [
        ("{", "stdin:2: not JSON"),
        ("[1]", "stdin:3: found [1], expected an object"),
        (r#"{"id":5}"#, "missing field `op`"),
        (r#"{"op":"sing"}"#, "unknown variant `sing`"),
        (r#"{"op":"list","x":1}"#, "unknown field `x`"),
        (r#"{"op":"score","records":[]}"#, "records: found none"),
        (r#"{"op":"score","records":[{"text":"a"},{"text":5}]}"#, "records[1]: text: found 5"),
        (
            r#"{"op":"score","records":[{"text":"a","adapter":"b"}]}"#,
            "records[0]: adapter: unknown adapter `b`",
        ),
        (r#"{"op":"generate","records":[{"text":"a","temperature":-1}]}"#, "records[0]: temperature"),
        (r#"{"op":"generate","records":[{"text":"a","key":1,"n":2}]}"#, "records[0]: key"),
        (r#"{"op":"generate","records":[{"tokens":[9999999]}]}"#, "found token 9999999"),
        (load, "the limit"),
        (r#"{"op":"clone","adapter":"b","to":"c"}"#, "no adapter is called `b`; there are a"),
        (r#"{"op":"clone","adapter":"a","to":"../c"}"#, "found `../c`"),
        (r#"{"op":"clone","adapter":"a","to":"a"}"#, "called `a` already"),
        (r#"{"op":"load","adapter":"c","source":"nowhere"}"#, "as many as --max-loras"),
        (r#"{"op":"save","adapter":"a","output":"there"}"#, "there: exists already"),
        (
            r#"{"op":"train","adapters":{"a":{"records":[{"text":"ab"}],"rate":1}}}"#,
            "adapters.a: rate: unknown field",
        ),
        (
            r#"{"op":"train","adapters":{"a":{"records":[{"text":"ab"}],"learning_rate":-1}}}"#,
            "learning-rate -1",
        ),
        (r#"{"op":"train","adapters":{"a":{"learning_rate":1}}}"#, "adapters.a.records: found none"),
        (r#"{"op":"train","adapters":{"z":{"records":[]}}}"#, "no adapter is called `z`"),
        (
            r#"{"op":"train","adapters":{"a":{"records":[{"prompt":"a","completion":"","eos":false}]}}}"#,
            "nothing in it carries loss",
        ),
        (
            r#"{"op":"train","adapters":{"a":{"records":[{"text":"ab"}],"num_epochs":1,"max_steps":1}}}"#,
            "num_epochs",
        ),
        (
            r#"{"op":"train","adapters":{"a":{"records":[{"tokens":[1,5],"weights":[0,-1]}]}}}"#,
            "training of adapter a, step 1: the weights of its tokens sum to -1",
        ),
        (
            r#"{"op":"train","adapters":{"a":{"records":[{"text":"ab"}],"normalizer":"rows"}}}"#,
            "normalizer rows: expected weights, tokens, sequences or a finite number > 0",
        ),
        (r#"{"op":"train","adapters":{"a":{"records":[{"text":"ab"}],"normalizer":-8}}}"#, "normalizer -8"),
        (r#"{"op":"drop","adapter":"q"}"#, "no adapter is called `q`"),
    ];
    let mut lines: Vec<String> = vec![json!({"op": "score", "records": [{"text": "2+2=4"}]}).to_string()];
    lines.extend(cases.iter().map(|(line, _)| line.to_string()));
    lines.push(String::new());
    lines.push(lines[0].clone());
    let (answers, status) = talk(dir.path(), &["--max-loras", "1"], &lines);
    assert!(status.success());
    assert_eq!(answers.len(), cases.len() + 3, "one answer a line, none to an empty one");
    for ((line, expected), answer) in cases.iter().zip(&answers[2..]) {
        if *line == load {
            assert_eq!(answer["result"], Value::Null);
            assert!(answer.get("error").is_none(), "{answer}");
            continue;
        }
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{line}: {answer}"));
        assert!(error.contains(expected), "{line}: {error}");
    }
    assert_eq!(answers[4]["id"], 5);
    assert_eq!(answers[1]["result"], answers[cases.len() + 2]["result"], "the model is as it was");

    let (answers, _) = talk(
        dir.path(),
        &["--no-training", "--max-lora-rank", "4"],
        &[
            r#"{"op":"train","adapters":{}}"#.into(),
            r#"{"op":"load","adapter":"a","source":"new:rank=8"}"#.into(),
            r#"{"op":"load","adapter":"a","source":"nowhere"}"#.into(),
        ],
    );
    for (answer, expected) in
        answers[1..].iter().zip(["--no-training", "rank 8, expected at most 4", "nowhere"])
    {
        assert!(answer["error"].as_str().unwrap().contains(expected), "{answer}");
    }
    assert!(fail(dir.path(), &["session", "--model", "nowhere"], 1).contains("nowhere"));
}

/// `examples/maft.py` against `examples/maft.toml`.
#[test]
fn plain_python_ends_with_the_recipes_adapters() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("no python3: examples/maft.py is not compared");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let config = root.join("examples/maft.toml");
    succeed(dir.path(), &["run", config.to_str().unwrap(), "--output", "run"]);
    let script = root.join("examples/maft.py");
    assert!(std::fs::read_to_string(&script).unwrap().lines().count() <= 120);
    let transcript = "run/transcripts/multiagent/seed-0/iteration-1/train.jsonl";
    let output = Command::new("python3")
        .args([script.to_str().unwrap(), transcript, "maft"])
        .env("COLLOQUY", env!("CARGO_BIN_EXE_colloquy"))
        .current_dir(dir.path())
        .output()
        .expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ours = tree(&dir.path().join("run/adapters/multiagent/seed-0"), &|_| false);
    let theirs = tree(&dir.path().join("maft"), &|_| false);
    assert_eq!(ours.len(), 2 * 6 * 2, "two files of six adapters after two iterations");
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, bytes) in &ours {
        assert!(bytes == &theirs[name], "{name} differs");
    }
    // They did learn something.
    let weights =
        |iteration: usize| &ours[&format!("iteration-{iteration}/critic-0/adapter_model.safetensors")];
    assert!(weights(1) != weights(2));
}

#[test]
fn given_answers_are_graded_without_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let right = json!({"id": 7, "response": "so 18", "reference": "#### 18", "x": 0});
    let custom = json!({"op": "grade", "task": "custom", "set": ["task.equality=number"],
                        "records": [{"answers": ["1/2", "0.50"]}]});
    let requests = [
        json!({"id": 1, "op": "grade", "task": "gsm8k", "records": [right]}),
        json!({"id": 2, "op": "grade", "task": "none", "records": []}),
        custom,
    ]
    .map(|request| request.to_string());
    let (answers, status) = talk(dir.path(), &["--no-training"], &requests);
    let [_, first, second, third] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((&first["result"]["equal"], &first["ignored"]), (&json!(1), &json!({"x": 1})));
    assert_eq!(first["result"]["records"][0]["id"], 7);
    assert_eq!(first["result"]["records"][0]["rules"], json!(["last-number", "after-hashes"]));
    assert!(second["error"].as_str().unwrap().contains("--task none: expected one of"), "{second}");
    assert_eq!(third["result"]["records"][0]["equal"], true);
    assert!(status.success());
}
