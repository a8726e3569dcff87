//! `score`, `train` and `generate` on the tiny models whose results transformers and PEFT computed.

use crate::common::shell::*;
use serde_json::{Value, json};

const VOCAB: usize = 256;

struct Fixture {
    name: &'static str,
    reference: Tensors,
}

impl Fixture {
    fn open(name: &'static str) -> Self {
        Self { name, reference: Tensors::open(&fixture(name).join("reference.safetensors")) }
    }

    fn model(&self) -> String {
        fixture_str(self.name)
    }

    fn adapter(&self, adapter: &str) -> String {
        format!("{adapter}={}", fixture_str(&format!("{}/adapters/{adapter}", self.name)))
    }

    fn ids(&self, i: usize) -> Vec<i64> {
        self.reference.integers(&format!("input.{i}.ids"))
    }

    fn weights(&self, i: usize) -> Vec<u8> {
        self.reference.integers(&format!("input.{i}.labels")).iter().map(|l| u8::from(*l != -100)).collect()
    }

    /// Log-probabilities of sequence `i` under `who`, from the reference logits, in f64.
    fn logprobs(&self, who: &str, i: usize) -> Vec<f64> {
        let logits = self.reference.floats(&format!("{who}.logits.{i}"));
        let ids = self.ids(i);
        (1..ids.len())
            .map(|t| {
                let row: Vec<f64> =
                    logits[(t - 1) * VOCAB..t * VOCAB].iter().map(|v| f64::from(*v)).collect();
                let top = row.iter().cloned().fold(f64::MIN, f64::max);
                let sum: f64 = row.iter().map(|v| (v - top).exp()).sum();
                row[ids[t] as usize] - top - sum.ln()
            })
            .collect()
    }
}

fn write_records(path: &std::path::Path, records: &[Value]) {
    let text: String = records.iter().map(|r| format!("{r}\n")).collect();
    std::fs::write(path, text).unwrap();
}

#[test]
fn score_reproduces_the_reference() {
    for name in ["llama", "llama-tied", "llama3-rope", "mistral", "qwen2", "qwen3", "phi3"] {
        let f = Fixture::open(name);
        let dir = tempfile::tempdir().unwrap();
        let mut cases = Vec::new();
        for i in 0..4 {
            cases.push(("base", i));
        }
        cases.extend([("a", 0), ("b", 3), ("a", 1), ("b", 2), ("a", 2)]);
        let records: Vec<Value> = cases
            .iter()
            .map(|(who, i)| {
                let adapter = if *who == "base" { Value::Null } else { json!(who) };
                json!({"id": [who, i], "adapter": adapter, "tokens": f.ids(*i)})
            })
            .collect();
        write_records(&dir.path().join("in.jsonl"), &records);
        let (model, a, b) = (f.model(), f.adapter("a"), f.adapter("b"));
        let args = [
            "score",
            "--model",
            &model,
            "--adapter",
            &a,
            "--adapter",
            &b,
            "--input",
            "in.jsonl",
            "--output",
            "out.jsonl",
        ];
        succeed(dir.path(), &args);
        let out = read_lines(&dir.path().join("out.jsonl"));
        assert_eq!(out.len(), cases.len());
        let mut worst = 0.0f64;
        for ((who, i), record) in cases.iter().zip(&out) {
            assert_eq!(record["id"], json!([who, i]));
            assert_eq!(record["tokens"], json!(f.ids(*i)));
            let got = record["logprobs"].as_array().unwrap();
            assert!(got[0].is_null());
            let expected = f.logprobs(who, *i);
            assert_eq!(got.len(), expected.len() + 1);
            for (g, e) in got[1..].iter().zip(&expected) {
                worst = worst.max((g.as_f64().unwrap() - e).abs());
            }
        }
        println!("{name}: worst log-probability off by {worst:.2e} of 2e-4 allowed");
        assert!(worst <= 2e-4, "{name}: {worst}");

        // Alone, from stdin to stdout: the same line.
        let text = format!("{}\n", records[5]);
        let mut child = colloquy(
            dir.path(),
            &["score", "--model", &model, "--adapter", &b, "--input", "-", "--output", "-", "--threads", "1"],
        )
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(lines(&String::from_utf8(output.stdout).unwrap()), [out[5].clone()]);
    }
}

/// Sequences of each adapter in the reference.
const SEQUENCES: [(&str, &[usize]); 2] = [("a", &[0, 1, 2]), ("b", &[2, 3])];

fn train(f: &Fixture, dir: &std::path::Path, adapters: &[&str], output: &str, more: &[&str]) {
    let mut args: Vec<String> =
        ["train", "--model", &f.model(), "--output", output].map(String::from).to_vec();
    for (name, sequences) in SEQUENCES.iter().filter(|(n, _)| adapters.contains(n)) {
        let records: Vec<Value> =
            sequences.iter().map(|i| json!({"tokens": f.ids(*i), "weights": f.weights(*i)})).collect();
        write_records(&dir.join(format!("{name}.jsonl")), &records);
        args.extend(["--adapter".into(), f.adapter(name), "--data".into(), format!("{name}={name}.jsonl")]);
    }
    args.extend(
        "--max-steps 3 --batch-size 0 --learning-rate 0.01 --weight-decay 0.1 --max-grad-norm 1 --shuffle false"
            .split(' ')
            .map(String::from),
    );
    args.extend(more.iter().map(|s| s.to_string()));
    succeed(dir, &args.iter().map(String::as_str).collect::<Vec<_>>());
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn train_reproduces_the_reference() {
    for name in ["llama", "llama-tied", "llama3-rope", "mistral", "qwen2", "qwen3", "phi3"] {
        let f = Fixture::open(name);
        let dir = tempfile::tempdir().unwrap();
        train(&f, dir.path(), &["a", "b"], "out", &[]);
        let metrics = read_lines(&dir.path().join("out/metrics.jsonl"));
        assert_eq!(metrics.len(), 6);
        for m in &metrics {
            let (adapter, step) = (m["adapter"].as_str().unwrap(), m["step"].as_u64().unwrap() - 1);
            for (field, of) in [("loss", "loss"), ("grad_norm", "grad_norm")] {
                let expected = f64::from(f.reference.floats(&format!("{adapter}.{of}.step{step}"))[0]);
                let got = m[field].as_f64().unwrap();
                let error = (got - expected).abs() / expected.abs();
                println!(
                    "{name} {adapter} step {step} {field}: {got} vs {expected}, {:.1} % of the budget",
                    error / 1e-6
                );
                assert!(error <= 1e-4, "{name} {adapter} step {step} {field}: {got} vs {expected}");
            }
        }
        for (adapter, sequences) in SEQUENCES {
            let before =
                Tensors::open(&fixture(name).join(format!("adapters/{adapter}/adapter_model.safetensors")));
            let after = Tensors::open(&dir.path().join(format!("out/{adapter}/adapter_model.safetensors")));
            assert_eq!(metrics.iter().filter(|m| m["adapter"] == adapter).count(), 3);
            assert!(!sequences.is_empty());
            let mut worst = 0.0f64;
            for tensor in before.names() {
                let reference = f
                    .reference
                    .floats(&format!("{adapter}.after3.{}", tensor.replace(".weight", ".default.weight")));
                let (old, new) = (before.floats(&tensor), after.floats(&tensor));
                let off = norm(new.iter().zip(&reference).map(|(n, r)| f64::from(*n) - f64::from(*r)));
                let size = norm(reference.iter().zip(&old).map(|(r, o)| f64::from(*r) - f64::from(*o)));
                worst = worst.max(off / size);
            }
            println!("{name} {adapter}: worst update off by {worst:.2e} of 1e-2 allowed");
            assert!(worst <= 1e-2, "{name} {adapter}: {worst}");
        }
    }
}

#[test]
fn adapters_trained_together_are_those_trained_alone() {
    let f = Fixture::open("llama");
    let dir = tempfile::tempdir().unwrap();
    train(&f, dir.path(), &["a", "b"], "both", &["--micro-batch-rows", "64"]);
    train(&f, dir.path(), &["a"], "only-a", &["--threads", "1"]);
    train(&f, dir.path(), &["b"], "only-b", &["--threads", "2", "--micro-batch-rows", "0"]);
    for name in ["a", "b"] {
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            let together = std::fs::read(dir.path().join("both").join(name).join(file)).unwrap();
            let alone = std::fs::read(dir.path().join(format!("only-{name}")).join(name).join(file)).unwrap();
            assert_eq!(together, alone, "{name}/{file}");
        }
    }
}

#[test]
fn generations_do_not_depend_on_company_or_order() {
    let f = Fixture::open("llama");
    let dir = tempfile::tempdir().unwrap();
    let (model, a, b) = (f.model(), f.adapter("a"), f.adapter("b"));
    let mut records = Vec::new();
    for i in 0..4 {
        for adapter in [Value::Null, json!("a"), json!("b")] {
            let prompt: Vec<i64> = f.ids(i).into_iter().take(4 + i).collect();
            records.push(json!({"id": format!("{adapter}-{i}"), "adapter": adapter, "tokens": prompt, "n": 2,
                                "max_tokens": 5 + 3 * i, "temperature": 0.5 * i as f32, "top_p": 0.9, "seed": i}));
        }
    }
    let generate = |records: &[Value], name: &str| -> Vec<Value> {
        write_records(&dir.path().join(format!("{name}.in")), records);
        let (input, output) = (format!("{name}.in"), format!("{name}.out"));
        let args = [
            "generate",
            "--model",
            &model,
            "--adapter",
            &a,
            "--adapter",
            &b,
            "--input",
            &input,
            "--output",
            &output,
        ];
        succeed(dir.path(), &args);
        read_lines(&dir.path().join(output))
    };
    let together = generate(&records, "together");
    assert_eq!(together.len(), 2 * records.len());
    for (i, out) in together.iter().enumerate() {
        assert_eq!(out["id"], records[i / 2]["id"]);
        assert_eq!(out["index"], json!(i % 2));
        assert!(out["text"].is_null(), "no tokenizer, no text");
        let n = out["tokens"].as_array().unwrap().len();
        assert_eq!(n, out["logprobs"].as_array().unwrap().len());
        let limit = records[i / 2]["max_tokens"].as_u64().unwrap() as usize;
        assert!(n <= limit && (n == limit || out["finish_reason"] == "stop"));
    }
    let mut backwards = records.clone();
    backwards.reverse();
    let reversed = generate(&backwards, "reversed");
    for out in &together {
        assert!(reversed.contains(out), "{out}");
    }
    for i in [0, 5, 10] {
        let alone = generate(&records[i..=i], &format!("alone-{i}"));
        assert_eq!(alone, together[2 * i..2 * i + 2]);
    }
    // The sampled log-probability is the scorer's.
    let scored: Vec<Value> = together
        .iter()
        .zip(records.iter().flat_map(|r| [r, r]))
        .map(|(out, record)| {
            let mut tokens = record["tokens"].as_array().unwrap().clone();
            tokens.extend(out["tokens"].as_array().unwrap().iter().cloned());
            json!({"adapter": record["adapter"], "tokens": tokens})
        })
        .collect();
    write_records(&dir.path().join("score.in"), &scored);
    let args = [
        "score",
        "--model",
        &model,
        "--adapter",
        &a,
        "--adapter",
        &b,
        "--input",
        "score.in",
        "--output",
        "score.out",
    ];
    succeed(dir.path(), &args);
    for (score, out) in read_lines(&dir.path().join("score.out")).iter().zip(&together) {
        let drawn = out["logprobs"].as_array().unwrap();
        let read = score["logprobs"].as_array().unwrap();
        assert_eq!(&read[read.len() - drawn.len()..], &drawn[..], "{}", out["id"]);
    }
}
