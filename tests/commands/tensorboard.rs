//! The event files that `train` writes for TensorBoard, read back by a parser of the tests' own.

use crate::common::events;
use crate::common::shell::*;
use serde_json::{Value, json};

const FILE: &str = "events.out.tfevents.0.colloquy";

fn train(dir: &std::path::Path, extra: &[&str]) {
    for (name, ids) in [("a", [5, 6, 7, 8]), ("b", [9, 3, 9, 3])] {
        let text: String = (0..3)
            .map(|i| format!("{}\n", json!({"tokens": [ids[0] + i, ids[1], ids[2], ids[3]]})))
            .collect();
        std::fs::write(dir.join(format!("{name}.jsonl")), text).unwrap();
    }
    let model = fixture_str("llama");
    let mut args = vec!["train", "--model", &model, "--adapter", "a=new:rank=2", "--adapter", "b=new:rank=3"];
    args.extend(["--data", "a=a.jsonl", "--data", "b=b.jsonl", "--output", "out", "--batch-size", "2"]);
    args.extend(["--device", "cpu"]);
    args.extend(extra);
    succeed(dir, &args);
}

#[test]
fn train_writes_an_event_file_for_each_adapter() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), &["--max-steps", "a=3", "--max-steps", "b=130"]);
    let metrics = read_lines(&dir.path().join("out/metrics.jsonl"));
    for (name, steps) in [("a", 3), ("b", 130)] {
        let events = events::read(&dir.path().join("out/tensorboard").join(name).join(FILE));
        assert_eq!(events[0].version.as_deref(), Some("brain.Event:2"));
        assert_eq!(events.len(), 1 + steps);
        let records: Vec<&Value> = metrics.iter().filter(|m| m["adapter"] == name).collect();
        for column in ["loss", "grad_norm", "learning_rate", "tokens"] {
            let expected: Vec<(u64, f32)> = records
                .iter()
                .map(|m| (m["step"].as_u64().unwrap(), m[column].as_f64().unwrap() as f32))
                .collect();
            assert_eq!(expected.len(), steps);
            assert_eq!(events::points(&events, &format!("train/{column}")), expected, "{name} {column}");
        }
        assert!(events[1..].iter().all(|e| e.scalars.len() == 4 && e.wall_time == e.step as f64));
    }

    // Trained again into the same folder: nothing of the first training stays, and the same training gives the same bytes.
    let first = std::fs::read(dir.path().join("out/tensorboard/b").join(FILE)).unwrap();
    train(dir.path(), &["--max-steps", "2", "--force"]);
    let events = events::read(&dir.path().join("out/tensorboard/b").join(FILE));
    assert_eq!(events::points(&events, "train/loss").len(), 2);
    train(dir.path(), &["--max-steps", "a=3", "--max-steps", "b=130", "--force"]);
    assert!(std::fs::read(dir.path().join("out/tensorboard/b").join(FILE)).unwrap() == first);
}
