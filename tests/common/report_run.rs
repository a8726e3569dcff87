//! A run folder as recipes leave it, made up: five arms, every field of metrics.jsonl, debates that agree with them. Seeded.

use std::path::Path;

use colloquy::measure::Chance;
use serde_json::{Value, json};

/// What to make up.
#[derive(Clone, Copy)]
pub struct Fake {
    pub seeds: u64,
    pub iterations: u64,
    pub questions: usize,
    /// With what older versions did not measure.
    pub new_fields: bool,
    /// Test questions are asked before training and after the last iteration.
    pub test: bool,
    /// The configuration names a primary comparison.
    pub primary: bool,
    /// The last lane stops after this many iterations.
    pub stop_at: Option<u64>,
    /// Put into a response.
    pub hostile: bool,
}

pub const FAKE: Fake = Fake {
    seeds: 3,
    iterations: 5,
    questions: 40,
    new_fields: true,
    test: true,
    primary: true,
    stop_at: None,
    hostile: false,
};

pub const HOSTILE: &str = "</script><img src=x onerror=\"document.title='taken'\"><!--";

/// Name, recipe, gain an iteration, whether it is trained, whether it debates.
const ARMS: [(&str, &str, f64, bool, bool); 5] = [
    ("multiagent", "multiagent", 0.055, true, true),
    ("single-agent", "single-agent", 0.02, true, true),
    ("without-critic", "multiagent", 0.035, true, true),
    ("star", "star", 0.03, true, false),
    ("debate", "base", 0.0, false, true),
];

struct Answer {
    text: String,
    answer: Option<String>,
    letter: char,
}

impl Fake {
    /// Writes the folder.
    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let lanes: Vec<String> =
            ARMS.iter().flat_map(|a| (0..self.seeds).map(|s| format!("{}/seed-{s}", a.0))).collect();
        let manifest = json!({
            "schema": 1, "program": {"name": "colloquy", "version": "0.1.0", "commit": "0123456789ab"},
            "created": 1795566804u64, "device": "cpu (avx2+fma, 2 threads)", "arithmetic": "x86_64 avx2+fma",
            "lanes": lanes, "seeds": (0..self.seeds).collect::<Vec<_>>(),
            "model": {"path": "embedded", "sha256": {}}, "data_sha256": {}, "prompts_sha256": {}, "splits": "splits.json",
        });
        write("manifest.json", serde_json::to_string_pretty(&manifest).unwrap());
        write("config.toml", self.config());
        let ids = |split: &str| (0..self.questions).map(|q| format!("{split}-{q}")).collect::<Vec<_>>();
        let splits: serde_json::Map<String, Value> = ARMS
            .iter()
            .map(|a| {
                let test = if self.test { ids("test") } else { vec![] };
                (a.0.to_string(), json!({"train": ids("train"), "dev": ids("dev"), "test": test}))
            })
            .collect();
        write("splits.json", Value::Object(splits).to_string());
        let (mut metrics, mut times) = (String::new(), String::new());
        let mut add = |value: Value| metrics.push_str(&format!("{value}\n"));
        for (n, &(arm, _, gain, trained, debates)) in ARMS.iter().enumerate() {
            for seed in 0..self.seeds {
                let last_lane = n == 3 && seed + 1 == self.seeds;
                let iterations = match self.stop_at {
                    _ if !trained => 0,
                    Some(stop) if last_lane => stop,
                    _ => self.iterations,
                };
                let head =
                    |i: u64, name: &str| json!({"arm": arm, "seed": seed, "iteration": i, "name": name});
                for i in 0..=iterations {
                    if i > 0 {
                        add(merged(head(i, "pseudo-labels"), self.pseudo_labels(i)));
                        add(merged(head(i, "training"), training(arm, seed, i)));
                    }
                    for split in ["dev", "test"] {
                        if split == "test" && (!self.test || i != 0 && i != self.iterations) {
                            continue;
                        }
                        // Before training all arms are the base model.
                        let key = if i == 0 { 0 } else { 1 + n as u64 };
                        let mut chance =
                            Chance::new(1000 * key + 100 * seed + 10 * i + u64::from(split == "test"));
                        let (mut record, transcripts) =
                            self.evaluation(split, 0.35 + gain * i as f64, debates, &mut chance);
                        if arm == "star" {
                            record["asks_for_labels"] = true.into();
                        }
                        add(merged(head(i, split), record));
                        if debates {
                            write(
                                &format!("transcripts/{arm}/seed-{seed}/iteration-{i}/{split}-debate.jsonl"),
                                transcripts.iter().map(|t| format!("{t}\n")).collect(),
                            );
                        }
                    }
                    if self.new_fields {
                        if debates {
                            add(merged(head(i, "diversity"), diversity(n, seed, i)));
                        }
                        add(merged(head(i, "compute"), self.compute(i, debates, iterations)));
                        for (phase, seconds) in [("debate", 12.5), ("finetune", 7.25), ("dev", 9.0)] {
                            if i > 0 || phase == "dev" {
                                let time = json!({"arm": arm, "seed": seed, "iteration": i, "phase": phase, "seconds": seconds});
                                times.push_str(&format!("{time}\n"));
                            }
                        }
                    }
                }
            }
        }
        write("metrics.jsonl", metrics);
        if self.new_fields {
            write("times.jsonl", times);
        }
    }

    fn config(&self) -> String {
        let mut text = format!(
            "[model]\npath = \"embedded\"\n[task]\nname = \"arithmetic\"\ntrain_questions = 150\ndev_questions = {q}\n\
             test_questions = {t}\n[debate]\nagents = 3\nrounds = 2\nothers = \"summary\"\n[training]\nlearning_rate = 0.001\n\
             [run]\npreset = \"default\"\niterations = {i}\nseeds = {s:?}\n",
            q = self.questions,
            t = if self.test { self.questions } else { 0 },
            i = self.iterations,
            s = (0..self.seeds).collect::<Vec<_>>(),
        );
        if self.primary {
            text.push_str(&format!(
                "[report.primary]\narm = \"multiagent\"\nagainst = \"single-agent\"\nmethod = \"final-vote\"\niteration = {}\n",
                self.iterations
            ));
        }
        for (name, recipe, ..) in ARMS {
            text.push_str(&format!("[[arm]]\nname = \"{name}\"\nrecipe = \"{recipe}\"\n[arm.set]\n"));
            if name == "without-critic" {
                text.push_str("\"debate.critics\" = \"generator\"\n");
            }
        }
        text
    }

    /// One evaluation: simulated answers, what is measured of them, and their transcripts.
    #[expect(clippy::too_many_lines, reason = "one record, field by field")]
    fn evaluation(&self, split: &str, skill: f64, debates: bool, chance: &mut Chance) -> (Value, Vec<Value>) {
        let unit = |chance: &mut Chance| (chance.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let agents = 3;
        let (mut single, mut last) = (vec![String::new(); agents], vec![String::new(); agents]);
        let mut samples = vec![String::new(); 5];
        let (mut greedy, mut majority) = (String::new(), String::new());
        let (mut votes, mut counts) = (vec![String::new(); 2], vec![String::new(); 2]);
        let mut transcripts = Vec::new();
        for q in 0..self.questions {
            let easy = Chance::new(q as u64 * 77 + u64::from(split == "test")).below(100) as f64 / 100.0;
            let p = (skill + 0.9 * (easy - 0.5)).clamp(0.02, 0.97);
            let reference = (q * 7 + 3).to_string();
            let answer = |p: f64, chance: &mut Chance| -> Answer {
                let (answer, letter) = match unit(chance) {
                    u if u < p => (Some(reference.clone()), '1'),
                    u if u < 0.97 => (Some((q * 7 + 4 + chance.below(3)).to_string()), '0'),
                    u if u < 0.985 => (None, '-'),
                    _ => (None, 't'),
                };
                let said =
                    answer.as_deref().map_or("I am not sure".into(), |a| format!("The answer is {a}."));
                Answer { text: format!("{q}*7={}, {}+3={}. {said}", q * 7, q * 7, q * 7 + 3), answer, letter }
            };
            let first: Vec<Answer> = (0..agents).map(|_| answer(p, chance)).collect();
            let more: Vec<Answer> = (agents..5).map(|_| answer(p, chance)).collect();
            let vote = |answers: &[&Answer]| -> (Option<String>, usize, char) {
                let count = |a: &str| answers.iter().filter(|o| o.answer.as_deref() == Some(a)).count();
                let best = answers.iter().filter_map(|a| a.answer.as_deref()).max_by_key(|a| (count(a), *a));
                let letter = match best {
                    Some(a) if a == reference => '1',
                    Some(_) => '0',
                    None => '-',
                };
                (best.map(String::from), best.map_or(0, count), letter)
            };
            let of_first = vote(&first.iter().collect::<Vec<_>>());
            let pull = if of_first.2 == '1' { 0.3 } else { -0.1 };
            let second: Vec<Answer> =
                (0..agents).map(|_| answer((p + pull).clamp(0.02, 0.97), chance)).collect();
            let of_last = vote(&second.iter().collect::<Vec<_>>());
            greedy.push(answer(p, chance).letter);
            majority.push(vote(&first.iter().collect::<Vec<_>>()).2);
            for (n, a) in first.iter().chain(&more).enumerate() {
                samples[n].push(a.letter);
                if n < agents {
                    single[n].push(a.letter);
                    last[n].push(second[n].letter);
                }
            }
            for (m, v) in [&of_first, &of_last].into_iter().enumerate() {
                votes[m].push(v.2);
                counts[m].push(char::from_digit(v.1 as u32, 36).unwrap());
            }
            let turns = |answers: &[Answer], read: bool| -> Vec<Value> {
                let turn = |(n, a): (usize, &Answer)| {
                    let text =
                        if self.hostile && n == 0 { format!("{} {HOSTILE}", a.text) } else { a.text.clone() };
                    let finish = if a.letter == 't' { "length" } else { "stop" };
                    let mut turn = json!({"agent": n, "prompt": "…", "answer": a.answer,
                        "response": {"text": text, "prompt_tokens": 30, "tokens": 40, "finish": finish, "mean_logprob": -0.1}});
                    if read {
                        turn["summary"] = json!({"text": "One solution says this. Another says that.", "prompt_tokens": 90,
                            "tokens": 12, "finish": "stop", "mean_logprob": -0.2});
                    }
                    turn
                };
                answers.iter().enumerate().map(turn).collect()
            };
            let about =
                |v: &(Option<String>, usize, char)| json!({"answer": v.0, "votes": v.1, "tie": false});
            transcripts.push(json!({
                "id": format!("{split}-{q}"), "question": format!("{q}*7+3"),
                "rounds": [{"turns": turns(&first, false), "vote": about(&of_first)},
                           {"turns": turns(&second, true), "vote": about(&of_last)}],
                "vote": about(&of_last), "agreement": of_last.1 as f64 / agents as f64,
                "reference": reference, "right": of_last.2 == '1',
            }));
        }
        let share = |all: &[&String], letter: char| {
            let n = all.iter().map(|s| s.chars().filter(|c| *c == letter).count()).sum::<usize>() as f64;
            n / (all.len() * self.questions) as f64
        };
        let of = |all: &[String]| {
            let all: Vec<&String> = all.iter().collect();
            let a = share(&all, '1');
            json!({"accuracy": a, "standard_error": (a * (1.0 - a) / self.questions as f64).sqrt(),
                "parse_rate": share(&all, '1') + share(&all, '0'), "truncation_rate": share(&all, 't'), "missing_rate": 0.0,
                "mean_tokens": 40.0, "mean_logprob": -0.1})
        };
        let mut record = json!({"questions": self.questions, "greedy": of(std::slice::from_ref(&greedy)), "single": of(&single)});
        record["majority"] = of(std::slice::from_ref(&majority));
        record["majority"]["samples"] = 3.into();
        let mut outcomes =
            json!({"greedy": [greedy], "single": single, "majority": majority, "samples": samples});
        if debates {
            let round = |m: usize, answers: &[String]| {
                let mut value = of(answers);
                let vote = of(std::slice::from_ref(&votes[m]));
                value["accuracy"] = vote["accuracy"].clone();
                value["standard_error"] = vote["standard_error"].clone();
                value["all_agree"] = share(&[&counts[m]], '3').into();
                value["consensus"] = 0.7.into();
                value
            };
            let rounds = vec![round(0, &single), round(1, &last)];
            record["debate"] = rounds[1].clone();
            record["debate"]["rounds"] = rounds.into();
            outcomes["debate"] = json!([single, last]);
            outcomes["vote"] = json!(votes);
            outcomes["votes"] = json!(counts);
            if self.new_fields {
                let (a, e) = (record["majority"]["accuracy"].clone(), 0.05);
                record["majority"]["budget"] = json!({"samples": 5, "accuracy": a, "standard_error": e});
            }
        }
        if self.new_fields {
            let by_k = |k: usize| {
                let a = record["majority"]["accuracy"].as_f64().unwrap() + 0.01 * (k as f64 - 3.0);
                json!({"samples": k, "accuracy": a, "standard_error": 0.05})
            };
            record["majority"]["by_samples"] = [1, 3, 5].map(by_k).to_vec().into();
            record["outcomes"] = outcomes;
        }
        (record, transcripts)
    }

    fn pseudo_labels(&self, i: u64) -> Value {
        let labelled = 80 + 10 * i;
        json!({"source": "vote", "questions": 150, "unanswered": 0, "labelled": labelled, "coverage": labelled as f64 / 150.0, "accuracy": 0.7 + 0.03 * i as f64,
            "standard_error": 0.04, "vote_accuracy_by_round": [0.45, 0.5], "all_agree": 0.2 + 0.05 * i as f64, "consensus": 0.6})
    }

    fn compute(&self, i: u64, debates: bool, iterations: u64) -> Value {
        let phase = |name: &str, prompt: u64, sampled: u64, gradient: u64| {
            let flop = 2 * 800_000 * (prompt + sampled) + 4 * 800_000 * gradient;
            json!({"phase": name, "prompt_tokens": prompt, "sampled_tokens": sampled, "gradient_tokens": gradient, "flop": flop})
        };
        let mut phases = vec![phase("dev", 40_000, 30_000, 0)];
        if i > 0 {
            let (prompt, sampled) = if debates { (160_000, 90_000) } else { (15_000, 36_000) };
            phases.push(phase("debate", prompt, sampled, 0));
            phases.push(phase("finetune", 0, 0, if debates { 150_000 } else { 60_000 }));
        }
        if self.test && (i == 0 || i == iterations) {
            phases.push(phase("test", 40_000, 30_000, 0));
        }
        json!({"adapter_parameters": 240_000, "phases": phases})
    }
}

fn merged(mut head: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        head[key] = value.clone();
    }
    head
}

fn training(arm: &str, seed: u64, i: u64) -> Value {
    let mut chance = Chance::new(seed * 31 + i);
    let mut loss = |from: f64| -> Vec<f64> {
        let noise = |chance: &mut Chance| chance.below(100) as f64 / 1500.0;
        (0..18).map(|s| from * (1.0 - 0.03 * s as f64) + noise(&mut chance)).collect()
    };
    let mut all = json!({});
    let adapters: &[&str] = match arm {
        "multiagent" => &["generator-0", "generator-1", "generator-2", "critic-0", "critic-1", "critic-2"],
        "without-critic" => &["generator-0", "generator-1", "generator-2"],
        _ => &["agent"],
    };
    let mix = json!({"corrected": 65, "confirmed": 65, "corrected_taken": 65, "confirmed_taken": 65,
        "critic_mix": 0.5, "effective_mix": 0.5});
    for adapter in adapters {
        let data = if adapter.starts_with("critic") { mix.clone() } else { json!({}) };
        all[adapter] = json!({"data": data, "examples": 130, "tokens": 26_000, "loss": loss(0.5 / i as f64), "grad_norm": [], "learning_rate": []});
    }
    all
}

fn diversity(n: usize, seed: u64, i: u64) -> Value {
    let down = [0.01, 0.05, 0.02, 0.04, 0.0][n] * i as f64 + 0.004 * seed as f64;
    let off_task = 2.3 + 0.02 * i as f64;
    json!({
        "questions": 40,
        "nll": {"value": 0.6 - down, "standard_error": 0.01, "per_agent": [0.6, 0.6, 0.6]},
        "kl": {"value": 0.3 - down, "standard_error": 0.01, "estimator": "Monte Carlo over sampled tokens",
            "direction": "agent to other agent"},
        "embedding": {"value": 0.4 - down, "standard_error": 0.01, "encoder": "base, mean of last hidden states"},
        "consensus": 0.55 + down, "distinct_answers": 2.1 - 2.0 * down, "error_correlation": 0.3 + down,
        "pass_at_n": 0.7 + 0.01 * i as f64,
        "off_task_nll": {"value": off_task, "base": 2.3, "per_agent": vec![off_task; 3], "tokens": 349},
    })
}
