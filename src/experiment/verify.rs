//! Checks a run's results against its journal, and its journal against the model.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::rc::Rc;

use futures::FutureExt;

use super::manifest::{check_manifest, manifest, splits};
use super::prepare::{Ready, lanes, prepare};
use super::run::lane_futures;
use super::session::DeviceOptions;
use super::society::model_commit;
use super::watch::{Queue, Watch};
use crate::adapter::peft_files;
use crate::engine::{Service, draw_key, run_waves};
use crate::error::{Error, Result};
use crate::recipe::Recipes;
use crate::run::*;

/// What is made again, and how.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Rows of transcripts to make again; none is all.
    pub rows: Option<usize>,
    /// Trainings to make again: all optimizer steps of a lane's iteration; none is all.
    pub trainings: Option<usize>,
    /// What is drawn depends on this number; a new one each time, unless given.
    pub seed: Option<u64>,
    /// Where to compute, unless where the run did.
    pub device: DeviceOptions,
}

impl Default for VerifyOptions {
    /// As `colloquy verify` without options.
    fn default() -> Self {
        Self { rows: Some(100), trainings: Some(1), seed: None, device: DeviceOptions::default() }
    }
}

/// What was found.
pub struct Verified {
    /// What is not as the run puts it out, a line each.
    pub differences: Vec<String>,
    /// Lanes that are not complete, and the call before which the journal of each ends.
    pub unfinished: Vec<(String, String)>,
    /// Files that were compared.
    pub files: usize,
    /// Records that were compared.
    pub records: usize,
    /// Generations, scores and encodings that were made again.
    pub calls: usize,
    /// Optimizer steps that were made again.
    pub steps: usize,
    /// Whether these were compared bit for bit; else within the tolerance.
    pub exact: bool,
}

/// The calls of a lane's journal by row: all of one question in one phase, or one training.
struct Rows {
    journal: FileJournal,
    calls: BTreeMap<String, Vec<String>>,
}

/// The row that a call belongs to.
fn row(call: &str) -> &str {
    call.rsplit_once('#').map_or(call, |(row, _)| row)
}

/// Whether it is a training.
fn is_training(row: &str) -> bool {
    row.rsplit('/').next() == Some("finetune")
}

/// Checks the results of the run of `plan` in `folder` against its journal, and its journal against the model.
/// What differs is no error.
pub fn verify(
    plan: &Plan,
    recipes: &Recipes,
    folder: &Path,
    options: &VerifyOptions,
    watch: &mut dyn Watch,
) -> Result<Verified> {
    let mut plan = plan.clone();
    if let Some(worker) = worker(folder) {
        return Err(Error::file(folder, format!("in use by process {worker}")));
    }
    if let Some(device) = &options.device.device {
        plan.config.run.device = device.clone();
    }
    if let Some(threads) = options.device.threads {
        plan.config.run.threads = threads;
    }
    let then = read_manifest(folder)?;
    let ready = prepare(&plan, recipes, model_commit(&then).as_deref(), watch)?;
    let now = manifest(&plan, &ready)?;
    check_manifest(folder, &then, &now, watch)?;
    let exact = then["arithmetic"] == now["arithmetic"];
    if !exact {
        watch.line(format!(
            "note: the run was computed with {}, this is {}: bits differ, so numbers are compared within \
             {LOGPROB_TOLERANCE} nats a token, {MEAN_TOLERANCE} in the mean of a row, and {:.0} % of a loss",
            then["arithmetic"],
            now["arithmetic"],
            100.0 * LOSS_TOLERANCE
        ));
    }

    let findings = Rc::new(Findings::default());
    let path = folder.join("splits.json");
    let found: Option<serde_json::Value> =
        std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if found.as_ref() != Some(&splits(&ready.arms)) {
        findings
            .add(format!("{}: not the questions that the configuration and the data give", path.display()));
    }
    let mut journals = journals(folder, &plan, &findings)?;
    let seed = options.seed.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish() >> 32);
    let (rows, trainings) = draw(options, seed, &journals);
    let all_rows = journals.values().flat_map(|r| r.calls.keys()).filter(|r| !is_training(r)).count();
    let all_trainings = journals.values().map(|r| r.calls.len()).sum::<usize>() - all_rows;
    watch.line(format!(
        "verify   {} of {all_rows} rows and {} of {all_trainings} trainings are made again (--seed {seed})",
        rows.len(),
        trainings.len()
    ));
    let drawn: BTreeSet<String> = rows.into_iter().chain(trainings).collect();
    journals.values_mut().for_each(|rows| rows.calls.retain(|row, _| drawn.contains(row)));
    let unfinished = audit(folder, &plan, &ready, journals, exact, &findings, watch)?;
    Ok(Verified {
        differences: findings.differences.take(),
        unfinished,
        files: findings.files.get(),
        records: findings.records.get(),
        calls: findings.calls.get(),
        steps: findings.steps.get(),
        exact,
    })
}

/// The journals of a run's lanes. Lines that are lost are findings.
fn journals(folder: &Path, plan: &Plan, findings: &Findings) -> Result<BTreeMap<String, Rows>> {
    let mut journals = BTreeMap::new();
    for lane in lanes(plan) {
        let (journal, lost) = FileJournal::read(&folder.join("journal"), &lane.name())?;
        if lost > 0 {
            findings.add(format!(
                "journal of {}: {lost} line{} damaged or after a damaged one",
                lane.name(),
                if lost == 1 { "" } else { "s" }
            ));
        }
        let mut calls: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for call in journal.calls()? {
            calls.entry(row(&call).to_string()).or_default().push(call);
        }
        journals.insert(lane.name(), Rows { journal, calls });
    }
    Ok(journals)
}

/// The rows and the trainings that are made again.
fn draw(options: &VerifyOptions, seed: u64, journals: &BTreeMap<String, Rows>) -> (Vec<String>, Vec<String>) {
    let (mut trainings, mut rows): (Vec<String>, Vec<String>) =
        journals.values().flat_map(|r| r.calls.keys().cloned()).partition(|row| is_training(row));
    let order = |row: &String| draw_key(&[&seed.to_le_bytes(), b"verify", row.as_bytes()]);
    rows.sort_by_key(order);
    trainings.sort_by_key(order);
    rows.truncate(options.rows.unwrap_or(usize::MAX));
    trainings.truncate(options.trainings.unwrap_or(usize::MAX));
    (rows, trainings)
}

/// Runs all lanes over their journals, and makes the calls of `journals` again; the lanes that are not complete,
/// and where they end.
fn audit(
    folder: &Path,
    plan: &Plan,
    ready: &Ready,
    mut journals: BTreeMap<String, Rows>,
    exact: bool,
    findings: &Rc<Findings>,
    watch: &mut dyn Watch,
) -> Result<Vec<(String, String)>> {
    let session = &ready.session;
    let layout = session.engine.with(|e| e.model().layout().clone());
    let base = session.base.clone();
    let files: AdapterFiles = Box::new(move |snapshot| peft_files(snapshot, &layout, base.clone()));
    let said = Queue::default();
    let saying = said.clone();
    let events = Box::new(move |event| match event {
        Event::Phase { .. } | Event::Advance { .. } => saying.say(event.into()),
        Event::Note { .. } | Event::Debate { .. } => {}
    });
    let auditor = Rc::new(Auditor::new(folder, lanes(plan), files, findings.clone(), events)?);
    let output: Rc<dyn Output> = auditor.clone();
    let mut audited = Vec::new();
    let futures = lane_futures(ready, &output, &mut |lane| {
        let Rows { journal, calls } = journals.remove(lane).expect("one for each lane");
        let own = calls.into_values().flatten().collect();
        let engine = session.engine.clone();
        let connection = Rc::new(Audited::new(engine, journal, own, exact, findings.clone()));
        audited.push((lane.to_string(), connection.clone()));
        let service: Rc<dyn Service> = connection.clone();
        Ok((service, connection))
    })?;
    // A lane whose journal ends, or does not fit the calls, ends by itself; the others go on.
    let futures = futures.into_iter().zip(&audited).map(|((adapters, lane), (name, connection))| {
        let (connection, findings, name) = (connection.clone(), findings.clone(), name.clone());
        let lane = lane.map(move |result| {
            if let (Err(e), None) = (result, connection.ended()) {
                findings.add(format!("{name}: {e}"));
            }
            Ok(())
        });
        (adapters, lane.boxed_local())
    });
    let room = session.engine.with(|e| e.plan().options.adapters);
    said.drive(watch, |go_on| run_waves(&session.engine, futures.collect(), room, go_on))?;
    let ended = |(lane, connection): &(String, Rc<Audited>)| Some((lane.clone(), connection.ended()?));
    let unfinished: Vec<(String, String)> = audited.iter().filter_map(ended).collect();
    if unfinished.is_empty() && findings.differences.borrow().is_empty() {
        auditor.end();
    }
    Ok(unfinished)
}
