//! The numbers of metrics.jsonl for TensorBoard: `tensorboard/` beside it, an event file for each lane or adapter.
//!
//! | tag | step | what |
//! |---|---|---|
//! | `dev/final-vote`, `dev/greedy`, … | iteration | accuracies by method, `consensus`; also of `test`, … |
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
use crate::measure::record::*;

/// The folder.
const FOLDER: &str = "tensorboard";

/// The file in a lane's or adapter's folder. TensorBoard looks for `tfevents`; real ones go on with a time and a host.
const FILE: &str = "events.out.tfevents.0.colloquy";

/// Columns of `training`, of numbers a step.
const COLUMNS: [&str; 3] = ["loss", "grad_norm", "learning_rate"];

/// Records of an iteration in the order in which recipes make them, so that a lane's file grows at its end.
const ORDER: [&str; 8] =
    ["pseudo-labels", "training", "dev", "diversity", "test", "transfer-dev", "transfer-test", "compute"];

/// Writes a lane's event file from all of its lines of metrics.jsonl, in any order, each with its
/// iteration and name and where `read` finds it. One record at a time is in memory: a run of many
/// iterations has many.
pub fn write_lane<'a, P>(
    folder: &Path,
    lane: &str,
    lines: impl IntoIterator<Item = (usize, &'a str, P)>,
    mut read: impl FnMut(P) -> Result<Record>,
) -> Result<()> {
    let mut sorted: Vec<_> = lines.into_iter().collect();
    sorted.sort_by_key(|(iteration, name, _)| (*iteration, ORDER.iter().position(|n| n == name), *name));
    let (mut events, mut taken) = (Events::default(), BTreeMap::new());
    for (iteration, name, place) in sorted {
        let found = match read(place)? {
            Record::Training(record) => {
                training(&mut events, &record, &mut taken);
                continue;
            }
            Record::Evaluation(_, record) => of_evaluation(&record),
            Record::Diversity(record) => of_diversity(&record),
            Record::PseudoLabels(record) => of_labels(&record),
            Record::Compute(record) => of_compute(&record),
        };
        let tags: Vec<(String, f32)> =
            found.into_iter().filter_map(|(n, v)| Some((format!("{name}/{n}"), v? as f32))).collect();
        events.scalars(iteration as u64, tags.iter().map(|(tag, v)| (tag.as_str(), *v)));
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
fn training(events: &mut Events, record: &Training, taken: &mut BTreeMap<String, u64>) {
    for (adapter, trained) in &record.0 {
        let columns = COLUMNS.iter().zip([&trained.loss, &trained.grad_norm, &trained.learning_rate]);
        let before = taken.entry(adapter.clone()).or_default();
        for i in 0..trained.loss.len() {
            let of = |(name, column): (&&str, &Vec<Option<f32>>)| {
                Some((format!("train/{name}/{adapter}"), column.get(i).copied().flatten()?))
            };
            let values: Vec<(String, f32)> = columns.clone().filter_map(of).collect();
            *before += 1;
            events.scalars(*before, values.iter().map(|(tag, v)| (tag.as_str(), *v)));
        }
    }
}

/// What is worth a curve, by name.
type Numbers = Vec<(&'static str, Option<f64>)>;

fn of_evaluation(record: &Evaluation) -> Numbers {
    let debate = record.debate.as_ref();
    vec![
        ("greedy", record.greedy.as_ref().map(|a| a.accuracy)),
        ("single", record.single.as_ref().map(|a| a.accuracy)),
        ("majority", record.majority.as_ref().map(|m| m.accuracy)),
        ("first-vote", debate.and_then(|d| d.rounds.first()).map(|r| r.accuracy)),
        ("final-vote", debate.map(|d| d.last.accuracy)),
        ("consensus", debate.and_then(|d| d.last.agreement.consensus)),
    ]
}

fn of_labels(record: &PseudoLabels) -> Numbers {
    vec![
        ("accuracy", Some(record.accuracy)),
        ("coverage", Some(record.coverage)),
        ("labelled", Some(record.labelled as f64)),
        ("consensus", record.agreement.consensus),
    ]
}

fn of_diversity(record: &Diversity) -> Numbers {
    let of_answers = [
        ("consensus", Some(record.answers.consensus)),
        ("distinct_answers", Some(record.answers.distinct_answers)),
        ("error_correlation", record.answers.error_correlation),
        ("pass_at_n", record.answers.pass_at_n),
    ];
    let mut of_texts: Numbers = record
        .of_texts()
        .map(|(name, measured)| (name, Some(measured.value).filter(|v| !v.is_nan())))
        .collect();
    let at = of_texts.iter().position(|(name, _)| *name == "off_task_nll").unwrap_or(of_texts.len());
    of_texts.splice(at..at, of_answers);
    of_texts
}

fn of_compute(record: &Compute) -> Numbers {
    let sum = |of: fn(&Cost) -> f64| Some(record.phases.iter().map(of).sum());
    vec![
        ("prompt_tokens", sum(|p| p.prompt_tokens as f64)),
        ("sampled_tokens", sum(|p| p.sampled_tokens as f64)),
        ("gradient_tokens", sum(|p| p.gradient_tokens as f64)),
        ("flop", sum(|p| p.flop)),
    ]
}

/// Makes `path` hold `bytes`. What only grew is appended to, since TensorBoard keeps its files open and would not see
/// one that takes another's place; if that is cut short, the file is a beginning of the right one, and the next call
/// completes it.
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
    use super::*;

    #[test]
    fn a_file_grows_in_place_and_is_the_same_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let all = [(0, "dev", 0.5), (0, "test", 0.25), (1, "dev", 0.75)];
        let path = dir.path().join("tensorboard/a/seed-0").join(FILE);
        let read = |accuracy: f64| {
            let greedy = Some(Answers { accuracy, ..Answers::default() });
            Ok(Record::Evaluation("dev", Evaluation { greedy, ..Evaluation::default() }.into()))
        };
        let mut sizes = Vec::new();
        for n in 1..=3 {
            write_lane(dir.path(), "a/seed-0", all[..n].iter().copied(), read).unwrap();
            sizes.push(std::fs::read(&path).unwrap());
        }
        assert!(sizes[1].starts_with(&sizes[0]) && sizes[2].starts_with(&sizes[1]));
        assert!(sizes[0].len() < sizes[1].len() && sizes[1].len() < sizes[2].len());
        // Cut short, of another run, or written in another order: the same in the end.
        let whole = &sizes[2];
        for before in [&whole[..whole.len() - 5], b"something else", b""] {
            std::fs::write(&path, before).unwrap();
            write_lane(dir.path(), "a/seed-0", [all[2], all[0], all[1]], read).unwrap();
            assert_eq!(&std::fs::read(&path).unwrap(), whole);
        }
    }
}
