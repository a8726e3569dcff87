//! Records: every field is read, named or refused; conversations reach the chat template with all that belongs to them.

use std::path::Path;

use crate::common::shell::*;
use serde_json::{Value, json};

fn write_records(dir: &Path, records: &[Value]) {
    let text: String = records.iter().map(|r| format!("{r}\n")).collect();
    std::fs::write(dir.join("in.jsonl"), text).unwrap();
}

const SCORE: [&str; 7] = ["score", "--model", "model", "--input", "in.jsonl", "--output", "-"];
const TRAIN: [&str; 11] = [
    "train",
    "--model",
    "model",
    "--adapter",
    "a=new:rank=2",
    "--data",
    "a=in.jsonl",
    "--output",
    "trained",
    "--max-steps",
    "1",
];

fn generate(more: &[&'static str]) -> Vec<&'static str> {
    [&["generate", "--model", "model", "--input", "in.jsonl", "--output", "-"], more].concat()
}

/// A folder with the embedded model as `model`, with another chat template if one is given.
fn folder(template: Option<&str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model"), &model);
    if let Some(template) = template {
        let path = model.join("tokenizer_config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["chat_template"] = template.into();
        std::fs::write(path, config.to_string()).unwrap();
    }
    dir
}

/// The tokens of each record, as `score` has them.
fn tokens(dir: &Path, records: &[Value]) -> Vec<Value> {
    write_records(dir, records);
    lines(&succeed(dir, &SCORE)).into_iter().map(|answer| answer["tokens"].clone()).collect()
}

#[test]
fn a_field_that_would_mean_something_is_refused_by_name() {
    let dir = folder(None);
    let turn = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    let cases: [(&str, Value, &str); 17] = [
        (
            "generate",
            json!({"text": "1+2=", "max_new_tokens": 2}),
            "max_new_tokens: unknown field; it is called `max_tokens`",
        ),
        (
            "generate",
            json!({"text": "1+2=", "repetition_penalty": 1.2}),
            "repetition_penalty: unknown field; penalties",
        ),
        ("generate", json!({"text": "1+2=", "min_tokens": 5}), "min_tokens: unknown field; a least length"),
        ("generate", json!({"text": "1+2=", "logit_bias": {"7": -100}}), "logit_bias: unknown field"),
        (
            "generate",
            json!({"text": "1+2=", "weights": [1]}),
            "weights: a field of `train`, which `generate` does not read",
        ),
        (
            "generate",
            json!({"prompt": "1+2=", "completion": "3"}),
            "completion: a field of `score` and `train`",
        ),
        (
            "score",
            json!({"text": "1+2=", "temperature": 1}),
            "temperature: a field of `generate`, which `score`",
        ),
        ("score", json!({"prompt": "1+2="}), "completion: missing; it goes with `prompt`"),
        (
            "train",
            json!({"tokens": [20, 21], "labels": [-100, 21]}),
            "labels: unknown field; give `tokens` with `weights`",
        ),
        (
            "train",
            json!({"prompt": "b", "completion": "c", "weights": [0]}),
            "weights: found it with `prompt`",
        ),
        ("train", json!({"text": "b", "max_tokens": 3}), "max_tokens: a field of `generate`, which `train`"),
        (
            "train",
            json!({"messages": turn, "advantages": [1, 2]}),
            "advantages: unknown field; policy losses",
        ),
        (
            "train",
            json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
            "preference data is not trained yet",
        ),
        (
            "train",
            json!({"conversations": [{"from": "human", "value": "a"}]}),
            "conversations: unknown field; ShareGPT's; convert it: jq",
        ),
        (
            "train",
            json!({"instruction": "a", "output": "b"}),
            "instruction: unknown field; Alpaca's; convert it: jq",
        ),
        (
            "train",
            json!({"messages": [{"role": "user", "content": "a"}]}),
            "messages: found no turn of the assistant",
        ),
        (
            "train",
            json!({"messages": [{"from": "gpt", "value": "a"}]}),
            "messages[0].role: missing; `from` and `value`",
        ),
    ];
    for (command, record, expected) in cases {
        write_records(dir.path(), std::slice::from_ref(&record));
        let generate = generate(&[]);
        let args = match command {
            "generate" => &generate[..],
            "score" => &SCORE[..],
            _ => &TRAIN[..],
        };
        let e = fail(dir.path(), args, 1);
        assert!(e.starts_with("in.jsonl:1: ") && e.contains(expected), "{command} {record}: {e}");
        assert!(!dir.path().join("trained").exists());
    }
}

#[test]
fn fields_that_are_carried_along_are_named_once() {
    let dir = folder(None);
    let named = json!([{"role": "user", "name": "x", "content": "a"}, {"role": "assistant", "content": "b"}]);
    let records = [
        json!({"text": "ab", "source": "s", "id": 7}),
        json!({"text": "abc", "source": "s", "note": "n", "topic": null}),
        json!({"messages": named}),
    ];
    write_records(dir.path(), &records);
    for args in [&SCORE[..], &generate(&["--max-tokens", "1"]), &TRAIN] {
        let output = run(dir.path(), args);
        let text = stderr(&output);
        assert!(output.status.success(), "{args:?}: {text}");
        let said: Vec<&str> = text.lines().filter(|l| l.starts_with("ignored")).collect();
        assert_eq!(said, ["ignored  source (2 records), note (1), messages.name (1)"], "{args:?}");
    }
    write_records(dir.path(), &[json!({"text": "ab", "repetition_penalty": 1.0, "labels": null})]);
    let output = run(dir.path(), &generate(&["--max-tokens", "1"]));
    assert!(output.status.success() && !stderr(&output).contains("ignored"), "{}", stderr(&output));
}

#[test]
fn tools_and_variables_reach_the_template() {
    let template = "{% if tools %}{{ tools[0].function.name }}{% endif %}{% if thinks is defined and not thinks %}no{% endif %}\
                    {% for m in messages %}{{ '<|' + m.role + '|>' + (m.content or '') }}{% for c in m.tool_calls or [] %}\
                    {{ c.function.name }}{% endfor %}{{ '<|end|>' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";
    let dir = folder(Some(template));
    let tools = json!([{"type": "function", "function": {"name": "9*9"}}]);
    let messages = json!([{"role": "user", "content": "1+2"}, {"role": "assistant", "content": "3"}]);
    let calls = json!([{"role": "user", "content": "1+2"},
                       {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "5+5"}}]}]);
    let given = tokens(
        dir.path(),
        &[
            json!({"messages": messages, "tools": tools, "chat_template_kwargs": {"thinks": false}}),
            json!({"text": "9*9no<|user|>1+2<|end|><|assistant|>3<|end|>"}),
            json!({"messages": calls, "chat_template_kwargs": {"thinks": true}}),
            json!({"text": "<|user|>1+2<|end|><|assistant|>5+5<|end|>"}),
        ],
    );
    assert_eq!((&given[0], &given[2]), (&given[1], &given[3]));

    // The same in training: what is trained on is longer by what the tools say.
    let trained = |record: Value| {
        write_records(dir.path(), &[record]);
        succeed(dir.path(), &[&TRAIN[..], &["--force"]].concat());
        read_lines(&dir.path().join("trained/metrics.jsonl"))[0]["loss"].as_f64().unwrap()
    };
    let with = trained(json!({"messages": messages, "tools": tools}));
    let spelt = trained(json!({"prompt": "9*9<|user|>1+2<|end|><|assistant|>", "completion": "3<|end|>"}));
    let without = trained(json!({"messages": messages}));
    assert_eq!(with, spelt);
    assert_ne!(with, without);

    // A sample of the prompt is that of its text.
    write_records(
        dir.path(),
        &[
            json!({"messages": [messages[0]], "tools": tools, "chat_template_kwargs": {"thinks": false}, "seed": 5}),
            json!({"prompt": "9*9no<|user|>1+2<|end|><|assistant|>", "seed": 5}),
        ],
    );
    let drawn = lines(&succeed(dir.path(), &generate(&["--max-tokens", "6"])));
    assert_eq!((&drawn[0]["tokens"], &drawn[0]["logprobs"]), (&drawn[1]["tokens"], &drawn[1]["logprobs"]));
}

#[test]
fn what_a_template_does_not_read_is_refused() {
    let dir = folder(None);
    let user = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    let said = |extra: Value| {
        let mut message = json!({"role": "assistant", "content": "b"});
        message.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"messages": [user[0], message]})
    };
    for (record, expected) in [
        (
            json!({"messages": user, "tools": [{"name": "t"}]}),
            "in.jsonl:1: tools: the model's chat template does not read it",
        ),
        (
            json!({"messages": user, "chat_template_kwargs": {"enable_thinking": false}}),
            "chat_template_kwargs.enable_thinking: the model's",
        ),
        (
            json!({"messages": user, "chat_template_kwargs": {"bos_token": "x"}}),
            "chat_template_kwargs.bos_token: reserved",
        ),
        (
            said(json!({"tool_calls": [{}]})),
            "in.jsonl:1: messages[1].tool_calls: the model's chat template does not",
        ),
        (said(json!({"reasoning_content": "c"})), "messages[1].reasoning_content: the model's"),
        (
            said(json!({"content": [{"type": "image_url", "image_url": {}}]})),
            "messages[1].content[0].type: found `image_url`",
        ),
    ] {
        write_records(dir.path(), std::slice::from_ref(&record));
        for args in [&SCORE[..], &generate(&[]), &TRAIN] {
            let e = fail(dir.path(), args, 1);
            assert!(e.contains(expected), "{record}: {e}");
        }
    }
}

#[test]
fn content_in_parts_is_the_text_of_the_parts() {
    let parts = json!([{"type": "text", "text": "1+"}, {"type": "text", "text": "2"}]);
    let of = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    // A template that knows texts alone, and one that goes through the parts itself.
    let by_itself = "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}\
                     {% for p in m.content %}{{ p.text }}{% if not loop.last %}*{% endif %}{% endfor %}{% endif %}<|end|>{% endfor %}";
    for (template, expected) in [(None, "1+2"), (Some(by_itself), "1+*2")] {
        let dir = folder(template);
        let found = tokens(dir.path(), &[of(parts.clone()), of(expected.into())]);
        assert_eq!(found[0], found[1], "{expected}");
    }
}

#[test]
fn a_conversation_may_be_split_into_prompt_and_completion() {
    let dir = folder(None);
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let prompt = [turn("user", "1+2"), turn("assistant", "3"), turn("user", "4+5")];
    let completion = [turn("assistant", "9")];
    let mut messages = prompt.to_vec();
    messages[1]["weight"] = 0.into();
    messages.extend(completion.clone());
    let trained = |record: Value| {
        write_records(dir.path(), &[record]);
        succeed(dir.path(), &[&TRAIN[..], &["--force"]].concat());
        std::fs::read(dir.path().join("trained/a/adapter_model.safetensors")).unwrap()
    };
    let split = trained(json!({"prompt": prompt, "completion": completion}));
    assert!(split == trained(json!({"messages": messages})));
    messages[1]["weight"] = 1.into();
    assert!(split != trained(json!({"messages": messages})), "the prompt's turns carry no loss");

    // Scored whole; and the prompt alone is what `generate` goes on from.
    messages[1].as_object_mut().unwrap().remove("weight");
    let scored = tokens(
        dir.path(),
        &[json!({"prompt": prompt, "completion": completion}), json!({"messages": messages})],
    );
    assert_eq!(scored[0], scored[1]);
    let asked = [
        json!({"prompt": prompt}),
        json!({"messages": prompt}),
        json!({"prompt": "1+2"}),
        json!({"text": "1+2"}),
    ];
    write_records(dir.path(), &asked);
    let drawn = lines(&succeed(dir.path(), &generate(&["--max-tokens", "4"])));
    assert_eq!((&drawn[0]["tokens"], &drawn[2]["tokens"]), (&drawn[1]["tokens"], &drawn[3]["tokens"]));
}

#[test]
fn a_line_of_a_file_is_bounded() {
    let dir = folder(None);
    let long = format!("{{\"text\": \"a\", \"note\": \"{}\"}}\n", "x".repeat(64 << 20));
    std::fs::write(dir.path().join("in.jsonl"), format!("{{\"text\": \"a\"}}\n{long}")).unwrap();
    let e = fail(dir.path(), &SCORE, 1);
    assert!(e.starts_with("in.jsonl:2: found a line of more than 64 MiB"), "{e}");
    let e = fail(dir.path(), &["score", "--model", "model", "--input", "/dev/zero", "--output", "-"], 1);
    assert!(e.starts_with("/dev/zero: found text in UTF-16 or other binary data"), "{e}");
}

#[test]
fn questions_to_debate_are_read_whole_too() {
    let dir = tempfile::tempdir().unwrap();
    let debate = ["debate", "--input", "in.jsonl", "--output", "-", "--rounds", "1", "--agents", "1"];
    for (question, expected) in [
        (
            json!({"question": "1+2*3", "choices": ["6", "7"]}),
            "in.jsonl:1: choices: `debate` shows agents the question alone",
        ),
        (
            json!({"question": "1+2*3", "answer": [7]}),
            "in.jsonl:1: answer: found [7], expected a string or a number",
        ),
    ] {
        write_records(dir.path(), &[question]);
        let e = fail(dir.path(), &debate, 1);
        assert!(e.starts_with(expected), "{e}");
    }
    write_records(dir.path(), &[json!({"question": "1+2*3", "answer": 7, "id": 4, "level": null})]);
    let output = run(dir.path(), &debate);
    assert!(
        output.status.success() && stderr(&output).contains("ignored  id (1 record)"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn one_prompt_needs_no_file() {
    let dir = folder(None);
    let asked = [json!({"prompt": "-1+2"}), json!({"messages": [{"role": "user", "content": "-1+2"}]})];
    write_records(dir.path(), &asked);
    let drawn = lines(&succeed(dir.path(), &generate(&["--max-tokens", "5"])));
    for (option, expected) in [("--prompt", &drawn[0]), ("--message", &drawn[1])] {
        let args = ["generate", "--model", "model", option, "-1+2", "--max-new-tokens", "5"];
        assert_eq!(&lines(&succeed(dir.path(), &args)), std::slice::from_ref(expected));
    }
    // As each of the adapters that are given.
    write_records(dir.path(), &[json!({"text": "1+2"})]);
    succeed(dir.path(), &TRAIN);
    let adapters = ["--adapter", "x=trained/a", "--adapter", "y=trained/a"];
    let args =
        [&["generate", "--model", "model", "--prompt", "1", "--max-tokens", "2"], &adapters[..]].concat();
    let answers = lines(&succeed(dir.path(), &args));
    assert_eq!(answers.iter().map(|a| a["adapter"].clone()).collect::<Vec<_>>(), [json!("x"), json!("y")]);
    let both = ["generate", "--model", "model", "--prompt", "1", "--input", "in.jsonl"];
    assert_eq!(run(dir.path(), &both).status.code(), Some(2));
}
