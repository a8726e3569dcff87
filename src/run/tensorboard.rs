//! The numbers of metrics.jsonl for TensorBoard: `tensorboard/` beside it, an event file for each lane or adapter.
//!
//! | tag | step | what |
//! |---|---|---|
//! | `dev/final-vote`, `dev/greedy`, … (also `test`, `transfer-dev`, `transfer-test`) | iteration | accuracies by method, `consensus` |
//! | `pseudo-labels/accuracy`, … | iteration | pseudo-labels: how many, how good |
//! | `diversity/kl`, … | iteration | how different the agents are |
//! | `compute/flop`, … | iteration | what the iteration took |
//! | `train/loss/ADAPTER`, … | optimizer step, counted through all iterations | of a run |
//! | `train/loss`, … | optimizer step | of `colloquy train` |

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::events::Events;
use crate::error::{Error, Result};
use crate::files::write_whole;

/// The folder.
const FOLDER: &str = "tensorboard";

/// The file in a lane's or adapter's folder. TensorBoard looks for `tfevents`; real ones go on with a time and a host.
const FILE: &str = "events.out.tfevents.0.colloquy";

/// Columns of `training`, of numbers a step.
const COLUMNS: [&str; 3] = ["loss", "grad_norm", "learning_rate"];

/// Records of an iteration in the order in which recipes make them, so that a lane's file grows at its end.
const ORDER: [&str; 8] =
    ["pseudo-labels", "training", "dev", "diversity", "test", "transfer-dev", "transfer-test", "compute"];

/// Writes a lane's event file from all of its lines of metrics.jsonl, in any order, each with its iteration and name and where `read` finds it. One record
/// at a time is in memory: a run of many iterations has many.
pub fn write_lane<'a, P>(
    folder: &Path,
    lane: &str,
    lines: impl IntoIterator<Item = (usize, &'a str, P)>,
    mut read: impl FnMut(P) -> Result<String>,
) -> Result<()> {
    let mut sorted: Vec<_> = lines.into_iter().collect();
    sorted.sort_by_key(|(iteration, name, _)| (*iteration, ORDER.iter().position(|n| n == name), *name));
    let (mut events, mut taken) = (Events::default(), BTreeMap::new());
    for (iteration, name, place) in sorted {
        let record: Value = serde_json::from_str(&read(place)?)
            .map_err(|e| Error::Internal(format!("a record {name} of {lane}, iteration {iteration}: {e}")))?;
        let iteration = iteration as u64;
        if name == "training" {
            training(&mut events, &record, &mut taken);
            continue;
        }
        let found = numbers(name, &record);
        let tags: Vec<(String, f32)> =
            found.into_iter().filter_map(|(n, v)| Some((format!("{name}/{n}"), v? as f32))).collect();
        events.scalars(iteration, tags.iter().map(|(tag, v)| (tag.as_str(), *v)));
    }
    write(&folder.join(FOLDER).join(lane).join(FILE), events.bytes())
}

/// Writes an event file for each adapter of `colloquy train`, from the records of its metrics.jsonl.
pub fn write_training<'a>(output: &Path, records: impl IntoIterator<Item = &'a Value>) -> Result<()> {
    let mut files: BTreeMap<&str, Events> = BTreeMap::new();
    for record in records {
        let events = files.entry(record["adapter"].as_str().unwrap_or_default()).or_default();
        let values = COLUMNS
            .iter()
            .chain(&["tokens"])
            .filter_map(|c| Some((format!("train/{c}"), record[c].as_f64()? as f32)));
        let values: Vec<(String, f32)> = values.collect();
        let step = record["step"].as_u64().unwrap_or(0);
        events.scalars(step, values.iter().map(|(tag, v)| (tag.as_str(), *v)));
    }
    for (adapter, events) in files {
        write(&output.join(FOLDER).join(adapter).join(FILE), events.bytes())?;
    }
    Ok(())
}

/// An iteration's optimizer steps, all adapters side by side; `taken` are each adapter's steps so far.
fn training(events: &mut Events, record: &Value, taken: &mut BTreeMap<String, u64>) {
    for (adapter, report) in record.as_object().into_iter().flatten() {
        let Some(steps) = report["loss"].as_array().map(Vec::len) else { continue };
        let before = taken.entry(adapter.clone()).or_default();
        for i in 0..steps {
            let of = |c: &&str| Some((format!("train/{c}/{adapter}"), report[*c][i].as_f64()? as f32));
            let values: Vec<(String, f32)> = COLUMNS.iter().filter_map(of).collect();
            *before += 1;
            events.scalars(*before, values.iter().map(|(tag, v)| (tag.as_str(), *v)));
        }
    }
}

/// What is worth a curve in one record, by name.
fn numbers(name: &str, record: &Value) -> Vec<(&'static str, Option<f64>)> {
    let at = |path: &str| record.pointer(path).and_then(Value::as_f64);
    let all = |paths: &[(&'static str, &str)]| paths.iter().map(|(n, p)| (*n, at(p))).collect();
    match name {
        "pseudo-labels" => all(&[
            ("accuracy", "/accuracy"),
            ("coverage", "/coverage"),
            ("labelled", "/labelled"),
            ("consensus", "/consensus"),
        ]),
        "diversity" => all(&[
            ("nll", "/nll/value"),
            ("kl", "/kl/value"),
            ("kl_base", "/kl_base/value"),
            ("embedding", "/embedding/value"),
            ("consensus", "/consensus"),
            ("distinct_answers", "/distinct_answers"),
            ("error_correlation", "/error_correlation"),
            ("pass_at_n", "/pass_at_n"),
            ("off_task_nll", "/off_task_nll/value"),
        ]),
        "compute" => ["prompt_tokens", "sampled_tokens", "gradient_tokens", "flop"]
            .map(|n| (n, record["phases"].as_array().map(|p| p.iter().filter_map(|p| p[n].as_f64()).sum())))
            .to_vec(),
        _ => all(&[
            ("greedy", "/greedy/accuracy"),
            ("single", "/single/accuracy"),
            ("majority", "/majority/accuracy"),
            ("first-vote", "/debate/rounds/0/accuracy"),
            ("final-vote", "/debate/accuracy"),
            ("consensus", "/debate/consensus"),
        ]),
    }
}

/// Makes `path` hold `bytes`. What only grew is appended to, since TensorBoard keeps its files open and would not see one that takes
/// another's place; if that is cut short, the file is a beginning of the right one, and the next call completes it.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let there = std::fs::read(path).unwrap_or_default();
    let rest = match bytes.strip_prefix(there.as_slice()) {
        Some(rest) if !there.is_empty() => rest,
        _ => return write_whole(path, bytes),
    };
    let mut file = std::fs::File::options().append(true).open(path).map_err(Error::io(path))?;
    file.write_all(rest).and_then(|()| file.sync_all()).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_grows_in_place_and_is_the_same_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let [half, quarter, more] = [0.5, 0.25, 0.75].map(|v| json!({"greedy": {"accuracy": v}}).to_string());
        let all = [(0, "dev", half.as_str()), (0, "test", &quarter), (1, "dev", &more)];
        let path = dir.path().join("tensorboard/a/seed-0").join(FILE);
        let text = |line: &str| Ok(line.to_string());
        let mut sizes = Vec::new();
        for n in 1..=3 {
            write_lane(dir.path(), "a/seed-0", all[..n].iter().copied(), text).unwrap();
            sizes.push(std::fs::read(&path).unwrap());
        }
        assert!(sizes[1].starts_with(&sizes[0]) && sizes[2].starts_with(&sizes[1]));
        assert!(sizes[0].len() < sizes[1].len() && sizes[1].len() < sizes[2].len());
        // Cut short, of another run, or written in another order: the same in the end.
        let whole = &sizes[2];
        for before in [&whole[..whole.len() - 5], b"something else", b""] {
            std::fs::write(&path, before).unwrap();
            write_lane(dir.path(), "a/seed-0", [all[2], all[0], all[1]], text).unwrap();
            assert_eq!(&std::fs::read(&path).unwrap(), whole);
        }
    }
}
