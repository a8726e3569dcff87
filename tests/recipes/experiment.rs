//! Experiments without a terminal: run, interrupted, resumed, checked through the library's door.

use std::path::Path;

use crate::common::shell::runs::assert_same;
use colloquy::error::{Error, Result};
use colloquy::experiment::{DeviceOptions, Experiment, Remembered, Said, Silent, VerifyOptions, Watch};
use colloquy::run::read_metrics;

const CONFIGURATION: &str = r#"
[model]
path = "embedded"
[task]
name = "arithmetic"
max_operand = 17
train_questions = 4
dev_questions = 3
[debate]
agents = 2
min_agreement = 1
[sampling]
max_tokens = 90
summary_max_tokens = 60
[run]
iterations = 1
"#;

/// Remembers what is said, and ends the run after so many steps of the engine.
struct Impatient {
    heard: Remembered,
    steps: usize,
}

impl Watch for Impatient {
    fn hear(&mut self, said: Said) {
        self.heard.hear(said);
    }

    fn go_on(&mut self) -> Result<()> {
        self.steps = self.steps.checked_sub(1).ok_or(Error::Interrupted(2))?;
        Ok(())
    }
}

fn heard(said: &[Said], what: impl Fn(&Said) -> bool) -> usize {
    said.iter().filter(|said| what(said)).count()
}

fn names(folder: &Path) -> Vec<String> {
    colloquy::files::names_in(folder)
}

#[test]
fn an_experiment_runs_is_interrupted_resumed_and_verified_without_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| Experiment::from_toml(CONFIGURATION).unwrap().output(dir.path().join(name));

    // Prepared, nothing is written.
    let mut heard_of = Remembered::default();
    at("whole").prepare(&mut heard_of).unwrap();
    assert!(names(dir.path()).is_empty());
    assert!(heard(&heard_of.0, |s| matches!(s, Said::Line(l) if l.starts_with("model    embedded"))) == 1);
    assert!(heard(&heard_of.0, |s| matches!(s, Said::Folder(_) | Said::LanesBegin)) == 0);

    let estimate = at("whole").estimate(&mut Silent).unwrap();
    assert_eq!(estimate.costs.len(), estimate.ready.arms.len());
    assert!(estimate.seconds() > 0.0 && estimate.samples > 0.0 && estimate.trained_tokens > 0.0);
    assert!(names(dir.path()).is_empty());

    let mut whole = Impatient { heard: Remembered::default(), steps: usize::MAX };
    let finished = at("whole").run(&mut whole).unwrap();
    let steps = usize::MAX - whole.steps;
    let said = &whole.heard.0;
    assert_eq!(finished.folder, dir.path().join("whole"));
    assert!(finished.summary.contains("accuracy on 3 dev questions"), "{}", finished.summary);
    assert_eq!(heard(said, |s| *s == Said::Folder(finished.folder.clone())), 1);
    assert_eq!(heard(said, |s| matches!(s, Said::Debate { right: Some(_), .. })), 1);
    assert_eq!(heard(said, |s| matches!(s, Said::Warning(_))), 0, "{said:?}");
    let position = |what: &Said| said.iter().position(|s| s == what).unwrap();
    assert!(position(&Said::LanesBegin) < position(&Said::LanesEnd));
    // Every phase of a lane has begun before it advances.
    let mut keys = Vec::new();
    for s in said {
        match s {
            Said::Phase { key, .. } => keys.push(key),
            Said::Advance { key, .. } => assert!(keys.contains(&key), "{key}"),
            _ => {}
        }
    }
    assert!(!keys.is_empty());
    assert!(matches!(at("whole").run(&mut Silent), Err(Error::Input { .. })), "there is a run");

    // Interrupted midway, and once more after some steps.
    let cut = at("cut");
    for (n, steps) in [steps / 2, steps / 8].into_iter().enumerate() {
        let mut watch = Impatient { heard: Remembered::default(), steps };
        let error = if n == 0 { cut.run(&mut watch) } else { cut.resume(&mut watch) }.unwrap_err();
        assert!(matches!(error, Error::Interrupted(2)), "{error}");
        assert_eq!(watch.heard.0.last(), Some(&Said::LanesEnd));
        assert!(!dir.path().join("cut/report.html").exists());
    }
    let resumed = Experiment::of_folder(&dir.path().join("cut")).unwrap().resume(&mut whole).unwrap();
    assert_eq!(resumed.summary, finished.summary);
    assert!(heard(&whole.heard.0, |s| matches!(s, Said::Line(l) if l.starts_with("resume "))) > 0);
    assert_same(&dir.path().join("whole"), &dir.path().join("cut"));

    // More seeds go on in the same folder; fewer do not.
    let more = cut.set("run.seeds=[0,1]").unwrap();
    more.resume(&mut Silent).unwrap();
    let seeds = |folder: &Path| {
        let metrics = read_metrics(folder).unwrap();
        let mut seeds: Vec<u64> = metrics.iter().map(|m| m.seed).collect();
        seeds.dedup();
        seeds.sort_unstable();
        seeds.dedup();
        seeds
    };
    assert_eq!(seeds(&dir.path().join("cut")), [0, 1]);
    let e = at("cut").resume(&mut Silent).unwrap_err().to_string();
    assert!(e.starts_with("configuration: ") && e.contains("the run has seed 1"), "{e}");

    let options = VerifyOptions { rows: Some(5), seed: Some(1), ..VerifyOptions::default() };
    let found = at("whole").verify(&options, &mut Silent).unwrap();
    assert!(found.differences.is_empty() && found.unfinished.is_empty(), "{:?}", found.differences);
    assert!(found.exact && found.calls >= 5 && found.steps > 0 && found.records > 0);
    let path = dir.path().join("whole/metrics.jsonl");
    let text = std::fs::read_to_string(&path).unwrap().replacen("\"accuracy\":", "\"accuracy\":1", 1);
    std::fs::write(&path, text).unwrap();
    let none =
        VerifyOptions { rows: Some(0), trainings: Some(0), seed: None, device: DeviceOptions::default() };
    let found = at("whole").verify(&none, &mut Silent).unwrap();
    assert!(found.differences.iter().any(|d| d.contains("metrics.jsonl")), "{:?}", found.differences);
}

#[test]
fn what_is_wrong_with_an_experiment_is_said_before_it_runs() {
    let wrong = |text: &str| Experiment::from_toml(text).err().unwrap().to_string();
    let e = wrong("[model]\npath = \"embedded\"\n[debate]\nagents = \"three\"\n");
    assert!(e.starts_with("configuration:4: debate.agents"), "{e}");
    let of = || Experiment::from_toml(CONFIGURATION).unwrap();
    let e = of().set("debate.round=3").err().unwrap().to_string();
    assert!(e.contains("--set debate.round=3") && e.contains("rounds"), "{e}");
    assert!(of().select(&["nobody".parse().unwrap()]).is_err());
    assert!(Experiment::of_folder(Path::new("no/such/run")).is_err());
    // A later setting keeps what was selected.
    let text = format!(
        "{CONFIGURATION}[[arm]]\nname = \"a\"\nrecipe = \"base\"\n[[arm]]\nname = \"b\"\nrecipe = \"base\"\n"
    );
    let two = Experiment::from_toml(&text).unwrap();
    let one = two.select(&["b".parse().unwrap()]).unwrap().set("run.seeds=[3]").unwrap();
    let arms: Vec<(&str, &[u64])> =
        one.plan().arms.iter().map(|a| (a.name.as_str(), a.seeds.as_slice())).collect();
    assert_eq!(arms, [("b", &[3][..])]);
}
