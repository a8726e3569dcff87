//! Debates to read: the same question before and after training, those whose vote changed first, as many as a page can
//! hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::folder::Run;
use crate::error::{Error, Result};
use crate::measure::record::Letters;
use crate::run::read_lines;

/// Most questions of a lane.
const MOST: usize = 40;
/// Most bytes of all debates of a page, as JSON.
const BUDGET: usize = 3 << 20;
/// Longer texts are cut; the transcripts have them whole.
const LONGEST: usize = 6000;

/// The debates of one lane on one split, before training and after an iteration.
pub struct Pairs {
    /// The arm.
    pub arm: String,
    /// The seed.
    pub seed: u64,
    /// The split.
    pub split: &'static str,
    /// The later iteration.
    pub iteration: u64,
    /// Questions that were debated both times.
    pub questions: usize,
    /// How many of them went from a wrong vote to a right one, and the other way.
    pub changed: (usize, usize),
    /// The chosen ones: places in [`Debates::texts`] before and after.
    pub chosen: Vec<(usize, usize)>,
}

/// The debates of a page.
#[derive(Default)]
pub struct Debates {
    /// Each debate once, however many lanes share it.
    pub texts: Vec<Value>,
    /// By lane.
    pub lanes: Vec<Pairs>,
}

/// A debate that was read.
struct Read {
    right: bool,
    record: Value,
}

/// Chooses debates of each arm's first seed that has them. `share` is this run's part of the page, at most 1.
pub fn choose(run: &Run, share: f64) -> Result<Debates> {
    let mut found = Vec::new();
    for arm in &run.arms {
        for seed in run.arm_seeds(&arm.name) {
            let lane = run.folder.join("transcripts").join(&arm.name).join(format!("seed-{seed}"));
            if let Some((split, iteration)) = last(&lane)? {
                found.push((arm.name.clone(), seed, split, iteration, lane));
                break;
            }
        }
    }
    let budget = (BUDGET as f64 * share) as usize / found.len().max(1);
    let mut debates = Debates::default();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (arm, seed, split, iteration, lane) in found {
        let outcomes = |i: u64| {
            let mut all = run.evaluations(&arm, split);
            let (_, record) = all.find(|(line, _)| line.seed == seed && line.iteration == i)?;
            record.outcomes.as_ref()?.debate.as_deref()
        };
        let before = read(&file(&lane, 0, split), outcomes(0))?;
        let after = read(&file(&lane, iteration, split), outcomes(iteration))?;
        let both: Vec<(&Read, &Read)> = after
            .iter()
            .filter_map(|(id, a)| Some((before.iter().find(|(b, _)| b == id).map(|(_, b)| b)?, a)))
            .collect();
        let kind = |(b, a): &(&Read, &Read)| (b.right, a.right);
        let count = |wanted| both.iter().filter(|p| kind(p) == wanted).count();
        let mut pairs = Pairs {
            arm,
            seed,
            split,
            iteration,
            questions: both.len(),
            changed: (count((false, true)), count((true, false))),
            chosen: vec![],
        };
        let mut left = budget;
        for pair in order(&both.iter().map(kind).collect::<Vec<_>>()) {
            let (b, a) = both[pair];
            let mut add = |read: &Read| {
                let text = read.record.to_string();
                if let Some(&at) = known.get(&text) {
                    return Some(at);
                }
                left = left.checked_sub(text.len())?;
                debates.texts.push(read.record.clone());
                known.insert(text, debates.texts.len() - 1);
                Some(debates.texts.len() - 1)
            };
            let (Some(b), Some(a)) = (add(b), add(a)) else { break };
            pairs.chosen.push((b, a));
        }
        debates.lanes.push(pairs);
    }
    Ok(debates)
}

/// Which questions to take and in which order, by whether their votes were right before and after: up to a third of the
/// places each for those that became right and those that became wrong, then all others, until there are enough.
fn order(kinds: &[(bool, bool)]) -> Vec<usize> {
    let of = |wanted: (bool, bool)| (0..kinds.len()).filter(move |&i| kinds[i] == wanted);
    let mut chosen: Vec<usize> =
        of((false, true)).take(MOST / 3).chain(of((true, false)).take(MOST / 3)).collect();
    let same = |i: &usize| kinds[*i].0 == kinds[*i].1;
    let rest: Vec<usize> =
        (0..kinds.len()).filter(same).chain((0..kinds.len()).filter(|i| !same(i))).collect();
    for i in rest {
        if chosen.len() < MOST && !chosen.contains(&i) {
            chosen.push(i);
        }
    }
    chosen
}

fn file(lane: &Path, iteration: u64, split: &str) -> PathBuf {
    lane.join(format!("iteration-{iteration}")).join(format!("{split}-debate.jsonl"))
}

/// The split and the last iteration that has debates before training too: test questions where there are any.
fn last(lane: &Path) -> Result<Option<(&'static str, u64)>> {
    if !lane.is_dir() {
        return Ok(None);
    }
    let mut iterations = Vec::new();
    for entry in std::fs::read_dir(lane).map_err(Error::io(lane))? {
        let name = entry.map_err(Error::io(lane))?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("iteration-")?.parse::<u64>().ok());
        iterations.extend(number);
    }
    iterations.sort_unstable();
    for split in ["test", "dev"] {
        if !file(lane, 0, split).exists() {
            continue;
        }
        let later = iterations.iter().rev().find(|&&i| i > 0 && file(lane, i, split).exists());
        if let Some(&i) = later {
            return Ok(Some((split, i)));
        }
    }
    Ok(None)
}

/// The debates of a file by question, with what a page shows of them. `outcomes` are those of its debates, in the order
/// of its lines.
fn read(path: &Path, outcomes: Option<&[Vec<Letters>]>) -> Result<Vec<(String, Read)>> {
    let records = read_lines(path, Ok)?;
    // The letter of an agent's answer; none if the outcomes are not those of these lines.
    let letter = |q: usize, round: usize, agent: usize| -> Option<char> {
        let all = &outcomes?.get(round)?.get(agent)?.0;
        all.get(q).filter(|_| all.len() == records.len()).map(|o| o.letter())
    };
    let of = |(q, record): (usize, &Map<String, Value>)| {
        let get = |key: &str| record.get(key).unwrap_or(&Value::Null);
        let id = get("id").as_str().unwrap_or_default().to_string();
        let round = |(m, round): (usize, &Value)| {
            let turns: Vec<Value> = round["turns"].as_array().into_iter().flatten().map(turn).collect();
            let letters: Option<String> = (0..turns.len()).map(|n| letter(q, m, n)).collect();
            json!({"turns": turns, "vote": round["vote"]["answer"], "votes": round["vote"]["votes"], "o": letters})
        };
        let rounds: Vec<Value> =
            get("rounds").as_array().into_iter().flatten().enumerate().map(round).collect();
        let right = get("right").as_bool().unwrap_or(false);
        let record = json!({
            "question": cut(get("question")),
            "reference": get("reference"),
            "right": right,
            "rounds": rounds,
        });
        (id, Read { right, record })
    };
    Ok(records.iter().enumerate().map(of).collect())
}

fn turn(turn: &Value) -> Value {
    let mut shown = json!({"text": cut(&turn["response"]["text"]), "answer": turn["answer"]});
    if let Some(summary) = turn["summary"].get("text") {
        shown["read"] = cut(summary);
    }
    if turn["response"]["finish"] == "length" {
        shown["cut"] = true.into();
    }
    if let Some(why) = turn.get("missing").filter(|m| !m.is_null()) {
        shown["missing"] = why.clone();
    }
    shown
}

/// A text, or as much of it as a page shows.
fn cut(text: &Value) -> Value {
    let Some(text) = text.as_str() else { return Value::Null };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} … (cut here; the transcript has it whole)", &text[..end]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_ones_come_first_and_none_twice() {
        let kinds: Vec<(bool, bool)> = (0..100).map(|i| (i % 2 == 0, i % 7 == 0)).collect();
        let chosen = order(&kinds);
        assert_eq!(chosen.len(), MOST);
        assert!(chosen[..13].iter().all(|&i| kinds[i] == (false, true) || kinds[i] == (true, false)));
        let mut once = chosen.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), MOST);
        assert_eq!(order(&[(true, true), (false, true)]), [1, 0]);
    }

    #[test]
    fn a_page_holds_as_many_debates_as_it_has_room_for() {
        let dir = tempfile::tempdir().unwrap();
        let debate = |i: u64, q: usize| {
            let turn = json!({"response": {"text": format!("{i} {q} {}", "x".repeat(5000))}, "answer": "1"});
            json!({"id": q.to_string(), "question": "1+0", "reference": "1", "right": i == 1 || q > 3,
                "rounds": [{"turns": [turn], "vote": {"answer": "1", "votes": 1}}]})
        };
        for (arm, i) in [("a", 0), ("a", 1), ("b", 0), ("b", 1)] {
            let path = file(&dir.path().join(format!("transcripts/{arm}/seed-0")), i, "dev");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let lines: String = (0..60).map(|q| format!("{}\n", debate(i, q))).collect();
            std::fs::write(path, lines).unwrap();
        }
        let manifest = json!({"schema": 1, "lanes": ["a/seed-0", "b/seed-0"], "seeds": [0]});
        std::fs::write(dir.path().join("manifest.json"), manifest.to_string()).unwrap();
        let run = Run::read(dir.path(), &[]).unwrap();
        let all = choose(&run, 1.0).unwrap();
        assert_eq!(
            (all.lanes[0].chosen.len(), all.lanes[0].questions, all.lanes[0].changed),
            (MOST, 60, (4, 0))
        );
        // The two lanes debated the same.
        assert_eq!((all.texts.len(), &all.lanes[1].chosen), (2 * MOST, &all.lanes[0].chosen));
        let share = 0.05;
        let some = choose(&run, share).unwrap();
        let bytes: usize = some.texts.iter().map(|t| t.to_string().len()).sum();
        assert!(bytes as f64 <= share * BUDGET as f64, "{bytes}");
        let taken = some.lanes[0].chosen.len();
        assert!((4..MOST).contains(&taken), "{taken}");
        assert_eq!(some.texts[some.lanes[0].chosen[0].0]["right"], false, "changed ones first");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "ä".repeat(LONGEST + 5);
        let shown = cut(&text.as_str().into());
        assert!(shown.as_str().unwrap().contains("(cut here"));
        assert_eq!(cut(&"kurz".into()), "kurz");
    }
}
