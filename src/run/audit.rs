//! The audit of a run: its recipes run again over its own journal, what they would write is
//! compared with what the folder holds, and some of the journal's calls are made again by the
//! engine and compared with what the journal says.
//!
//! So every byte of transcripts, data sets, metrics and adapters is held against the journal, and
//! the journal against the model, by draws. Nothing is written. Where the arithmetic is that of the
//! run, what is made again must be the same bits; elsewhere drawn tokens are scored instead of
//! drawn again, and numbers are compared within [`LOGPROB_TOLERANCE`], [`MEAN_TOLERANCE`] and
//! [`LOSS_TOLERANCE`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use serde_json::Value;

use super::folder::place;
use super::journal::FileJournal;
use super::{Event, Lane, Output};
use crate::adapter::Snapshot;
use crate::engine::*;
use crate::error::{Error, Result};
use crate::measure::record::{Record, is_schema, schema_line};

/// Of a token's log-probability under other arithmetic, in nats. Adapters, K and V in bf16 move the
/// embedded model's by 0.005 in the mean, but one in 600 tokens by more than 0.2 and one of 15165
/// by 0.62; what was never drawn is many nats away.
pub const LOGPROB_TOLERANCE: f32 = 1.5;
/// Of the mean distance of a row's log-probabilities, in nats, where it has at least [`MEAN_ROW`]
/// tokens: the largest of those rows' is 0.012.
pub const MEAN_TOLERANCE: f32 = 0.05;
/// Tokens that make a mean.
const MEAN_ROW: usize = 32;
/// Of a hidden state's dimensions, averaged over a row.
const EMBEDDING_TOLERANCE: f32 = 0.2;
/// Of a step's loss under other arithmetic, relative.
pub const LOSS_TOLERANCE: f32 = 0.02;

/// What an audit has compared, and what it found.
#[derive(Default)]
pub struct Findings {
    /// What differs, one line each.
    pub differences: RefCell<Vec<String>>,
    /// Files held against the journal, and records (lines) in them.
    pub files: Cell<usize>,
    /// See `files`.
    pub records: Cell<usize>,
    /// Generations, scores and encodings made again.
    pub calls: Cell<usize>,
    /// Optimizer steps made again.
    pub steps: Cell<usize>,
}

impl Findings {
    /// Notes a difference.
    pub fn add(&self, difference: String) {
        self.differences.borrow_mut().push(difference);
    }
}

fn count(cell: &Cell<usize>, more: usize) {
    cell.set(cell.get() + more);
}

// ---- what the folder holds ----

/// The bytes of an adapter's files, by name; the model knows how.
pub type AdapterFiles = Box<dyn Fn(&Snapshot) -> Result<Vec<(&'static str, Vec<u8>)>>>;

/// A record of metrics.jsonl: lane, iteration and name.
type RecordKey = (String, usize, String);

/// Compares what recipes put out with a run folder.
pub struct Auditor {
    folder: PathBuf,
    lanes: Vec<Lane>,
    adapter_files: AdapterFiles,
    /// Lines of metrics.jsonl that no recipe has put out yet, with their number.
    metrics: RefCell<BTreeMap<RecordKey, (usize, String)>>,
    findings: Rc<Findings>,
    events: Box<dyn Fn(Event)>,
}

impl Auditor {
    /// For the lanes of the run in `folder`.
    pub fn new(
        folder: &Path,
        lanes: Vec<Lane>,
        adapter_files: AdapterFiles,
        findings: Rc<Findings>,
        events: Box<dyn Fn(Event)>,
    ) -> Result<Self> {
        let path = folder.join("metrics.jsonl");
        let text = if path.exists() { read(&path)? } else { Vec::new() };
        let mut metrics = BTreeMap::new();
        for (number, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            let record: Value = serde_json::from_str(line).unwrap_or_default();
            if let (0, Some(object)) = (number, record.as_object())
                && is_schema(object).map_err(|e| e.at(format!("{}:1", path.display())))?
            {
                if line != schema_line() {
                    let (found, expected) = (line, schema_line());
                    findings.add(format!("{}:1: found {found}, expected {expected}", path.display()));
                }
                continue;
            }
            let lane = lanes
                .iter()
                .find(|l| record["arm"] == l.arm.as_str() && record["seed"].as_u64() == Some(l.seed));
            match (lane, record["iteration"].as_u64(), record["name"].as_str()) {
                (Some(lane), Some(iteration), Some(name)) => {
                    let key = (lane.name(), iteration as usize, name.to_string());
                    metrics.insert(key, (number + 1, line.to_string()));
                }
                _ => findings.add(format!(
                    "{}:{}: not a record of a lane of this run",
                    path.display(),
                    number + 1
                )),
            }
        }
        let metrics = RefCell::new(metrics);
        Ok(Self { folder: folder.to_path_buf(), lanes, adapter_files, metrics, findings, events })
    }

    /// Every lane has run to its end: what is left in metrics.jsonl is nobody's.
    pub fn end(&self) {
        let path = self.folder.join("metrics.jsonl");
        for (number, _) in self.metrics.borrow().values() {
            self.findings.add(format!("{}:{number}: the run does not put out this record", path.display()));
        }
    }

    fn lines(&self, path: &Path, records: &[Value]) -> Result<()> {
        let mut expected = String::new();
        for record in records {
            expected.push_str(&format!("{record}\n"));
        }
        count(&self.findings.records, records.len());
        self.bytes(path, expected.as_bytes())
    }

    /// Compares a file with what it must hold.
    fn bytes(&self, path: &Path, expected: &[u8]) -> Result<()> {
        count(&self.findings.files, 1);
        match std::fs::read(path) {
            Ok(found) if found == expected => {}
            Ok(found) => self.findings.add(difference(path, &found, expected)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.findings.add(format!("{}: missing", path.display()));
            }
            Err(e) => return Err(Error::io(path)(e)),
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::io(path))
}

/// Where two versions of a file part, for a person.
fn difference(path: &Path, found: &[u8], expected: &[u8]) -> String {
    let place = path.display();
    let at = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(found.len().min(expected.len()));
    if at == found.len() || at == expected.len() {
        let (found, expected) = (found.len(), expected.len());
        return format!("{place}: found {found} bytes, expected {expected}; they are the same up to there");
    }
    if std::str::from_utf8(expected).is_err() {
        return format!("{place}: byte {at}: found {:#04x}, expected {:#04x}", found[at], expected[at]);
    }
    let line = 1 + found[..at].iter().filter(|&&b| b == b'\n').count();
    format!("{place}:{line}: found {:?}, expected {:?}", around(found, at), around(expected, at))
}

/// A few characters of one line around a place.
fn around(text: &[u8], at: usize) -> String {
    let line = text[..at].iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
    let from = at.saturating_sub(20).max(line);
    let end = text[at..].iter().position(|&b| b == b'\n').map_or(text.len(), |length| at + length);
    String::from_utf8_lossy(&text[from..end.min(at + 20)]).into_owned()
}

impl Output for Auditor {
    fn metrics(&self, lane: &str, iteration: usize, record: Record) -> Result<()> {
        let Some(known) = self.lanes.iter().find(|l| l.name() == lane) else {
            return Err(Error::Internal(format!("a record of an unknown lane {lane}")));
        };
        let name = record.name();
        let expected = known.line(iteration, record).text()?;
        count(&self.findings.records, 1);
        let path = self.folder.join("metrics.jsonl");
        match self.metrics.borrow_mut().remove(&(lane.to_string(), iteration, name.to_string())) {
            Some((_, found)) if found == expected => {}
            Some((number, found)) => {
                let text = difference(&path, found.as_bytes(), expected.as_bytes());
                let rest = text.split_once(":1: ").map_or(text.as_str(), |(_, rest)| rest);
                self.findings.add(format!("{}:{number}: {rest}", path.display()));
            }
            None => self
                .findings
                .add(format!("{}: no record `{name}` of {lane}, iteration {iteration}", path.display())),
        }
        Ok(())
    }

    fn transcripts(&self, lane: &str, iteration: usize, name: &str, records: &[Value]) -> Result<()> {
        let name = format!("{name}.jsonl");
        self.lines(&place(&self.folder, "transcripts", lane, iteration, &name), records)
    }

    fn dataset(&self, lane: &str, iteration: usize, adapter: &str, records: &[Value]) -> Result<()> {
        let name = format!("{adapter}.jsonl");
        self.lines(&place(&self.folder, "data", lane, iteration, &name), records)
    }

    fn adapter(&self, lane: &str, iteration: usize, adapter: &str, snapshot: &Snapshot) -> Result<()> {
        let folder = place(&self.folder, "adapters", lane, iteration, adapter);
        for (name, bytes) in (self.adapter_files)(snapshot)? {
            self.bytes(&folder.join(name), &bytes)?;
        }
        Ok(())
    }

    fn time(&self, _lane: &str, _iteration: usize, _phase: &str, _seconds: f64) -> Result<()> {
        Ok(())
    }

    fn event(&self, event: Event) {
        (self.events)(event);
    }
}

// ---- what the journal says ----

/// The journal and the engine of one lane: calls that were not drawn are answered from the journal;
/// those that were go to the engine, are compared, and are answered from the journal too, so that
/// one difference is found once.
pub struct Audited {
    engine: EngineHandle,
    journal: FileJournal,
    drawn: BTreeSet<String>,
    exact: bool,
    findings: Rc<Findings>,
    /// The drawn call under way and its journalled results that no request has taken yet: between
    /// [`Journal::replay`] and the requests of the call nothing else happens in a lane.
    call: RefCell<String>,
    expected: RefCell<VecDeque<Expected>>,
    /// Adapters of the training call under way.
    training: RefCell<Vec<AdapterId>>,
    /// The call at which the journal ended.
    ended: RefCell<Option<String>>,
}

enum Expected {
    Sample(Sample),
    Score(Score),
    Embedding(Embedding),
    Trained(Vec<StepMetrics>),
    /// Only a mean of what is scored is kept, which is compared when it is recorded.
    Mean,
}

impl Audited {
    /// Audits `drawn` calls of a lane. With `exact` the engine's arithmetic is that of the run.
    pub fn new(
        engine: EngineHandle,
        journal: FileJournal,
        drawn: BTreeSet<String>,
        exact: bool,
        findings: Rc<Findings>,
    ) -> Self {
        Self {
            engine,
            journal,
            drawn,
            exact,
            findings,
            call: RefCell::default(),
            expected: RefCell::default(),
            training: RefCell::default(),
            ended: RefCell::default(),
        }
    }

    /// The call at which the lane stopped, because the journal does not have it.
    pub fn ended(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// A difference in the call under way.
    fn differs(&self, what: &str, found: impl std::fmt::Debug, expected: impl std::fmt::Debug) {
        let call = self.call.borrow();
        self.findings.add(format!("{call}: {what}: made again {found:?}, the journal has {expected:?}"));
    }

    fn next(&self) -> Result<Expected> {
        let next = self.expected.borrow_mut().pop_front();
        next.ok_or_else(|| Error::Internal(format!("call {}: no result to compare with", self.call.borrow())))
    }
}

/// The first place where two lists of numbers are farther apart than `tolerance`; with none, not the same bits.
fn apart(a: &[f32], b: &[f32], tolerance: Option<f32>) -> Option<usize> {
    let differ = |(a, b): (&f32, &f32)| match tolerance {
        None => a.to_bits() != b.to_bits(),
        Some(t) => (a - b).abs() > t || a.is_nan() != b.is_nan(),
    };
    if a.len() != b.len() {
        return Some(a.len().min(b.len()));
    }
    a.iter().zip(b).position(differ)
}

/// The mean of what two rows of as many numbers are apart.
fn mean_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
}

/// A drawn call's audit, which outlives the borrow of the lane.
struct Comparison {
    call: String,
    exact: bool,
    findings: Rc<Findings>,
}

impl Comparison {
    fn differs(&self, what: &str, found: impl std::fmt::Debug, expected: impl std::fmt::Debug) {
        let call = &self.call;
        self.findings.add(format!("{call}: {what}: made again {found:?}, the journal has {expected:?}"));
    }

    fn logprobs(&self, found: &[f32], expected: &[f32]) {
        let tolerance = (!self.exact).then_some(LOGPROB_TOLERANCE);
        if let Some(i) = apart(found, expected, tolerance) {
            self.differs(&format!("log-probability of token {}", i + 1), found.get(i), expected.get(i));
        } else if !self.exact
            && found.len() >= MEAN_ROW
            && let far = mean_distance(found, expected)
            && far > MEAN_TOLERANCE
        {
            let call = &self.call;
            self.findings.add(format!(
                "{call}: log-probabilities made again are {far} nats from the journal's in the mean, \
                 expected at most {MEAN_TOLERANCE}"
            ));
        }
    }

    fn sample(&self, found: &Sample, expected: &Sample) {
        let tokens = found.tokens.iter().zip(&expected.tokens);
        if let Some(i) = tokens.clone().position(|(a, b)| a != b) {
            self.differs(&format!("token {}", i + 1), found.tokens[i], expected.tokens[i]);
        } else if (found.tokens.len(), found.finish) != (expected.tokens.len(), expected.finish) {
            let of = |s: &Sample| (s.tokens.len(), s.finish);
            self.differs("tokens and end", of(found), of(expected));
        } else {
            self.logprobs(&found.logprobs, &expected.logprobs);
        }
    }

    fn steps(&self, found: &[StepMetrics], expected: &[StepMetrics]) {
        let same = |(a, b): (&StepMetrics, &StepMetrics)| {
            let close = (a.loss - b.loss).abs() <= LOSS_TOLERANCE * b.loss.abs();
            if self.exact { a == b } else { close && a.tokens == b.tokens && a.step == b.step }
        };
        if found.len() != expected.len() {
            self.differs("optimizer steps", found.len(), expected.len());
        } else if let Some(i) = found.iter().zip(expected).position(|pair| !same(pair)) {
            self.differs(&format!("optimizer step {}", i + 1), found[i], expected[i]);
        }
    }
}

impl Audited {
    fn comparison(&self) -> Comparison {
        let call = self.call.borrow().clone();
        Comparison { call, exact: self.exact, findings: self.findings.clone() }
    }
}

/// `work`, then the comparison of its result, then the answer.
fn then<T: 'static, A: 'static>(
    work: LocalBoxFuture<'static, Result<T>>,
    compare: impl FnOnce(T) -> A + 'static,
) -> LocalBoxFuture<'static, Result<A>> {
    work.map(|result| result.map(compare)).boxed_local()
}

fn failed<T: 'static>(e: Error) -> LocalBoxFuture<'static, Result<T>> {
    std::future::ready(Err(e)).boxed_local()
}

impl Service for Audited {
    fn sample(&self, request: SampleRequest) -> LocalBoxFuture<'static, Result<Sample>> {
        let expected = match self.next() {
            Ok(Expected::Sample(expected)) => expected,
            Ok(_) => return failed(mismatch(&self.call.borrow())),
            Err(e) => return failed(e),
        };
        count(&self.findings.calls, 1);
        let comparison = self.comparison();
        if self.exact {
            return then(self.engine.sample(request), move |found| {
                comparison.sample(&found, &expected);
                expected
            });
        }
        // Under other arithmetic a draw may fall otherwise; what the journal drew is scored. A mixture has no score.
        let [(adapter, _)] = request.adapters[..] else {
            return std::future::ready(Ok(expected)).boxed_local();
        };
        let tokens = request.prompt.iter().chain(&expected.tokens).copied().collect();
        let drawn = request.prompt.len() - 1;
        then(self.engine.score(ScoreRequest { adapter, tokens }), move |score| {
            comparison.logprobs(&score.logprobs[drawn..], &expected.logprobs);
            expected
        })
    }

    fn score(&self, request: ScoreRequest) -> LocalBoxFuture<'static, Result<Score>> {
        let expected = match self.next() {
            Ok(Expected::Score(expected)) => Some(expected),
            Ok(Expected::Mean) => None,
            Ok(_) => return failed(mismatch(&self.call.borrow())),
            Err(e) => return failed(e),
        };
        count(&self.findings.calls, 1);
        let comparison = self.comparison();
        then(self.engine.score(request), move |found| {
            let Some(expected) = expected else { return found };
            comparison.logprobs(&found.logprobs, &expected.logprobs);
            if comparison.exact && found.is_argmax != expected.is_argmax {
                comparison.differs("most likely tokens", "others", "its own");
            }
            expected
        })
    }

    fn embed(&self, request: EmbedRequest) -> LocalBoxFuture<'static, Result<Embedding>> {
        let expected = match self.next() {
            Ok(Expected::Embedding(expected)) => expected,
            Ok(_) => return failed(mismatch(&self.call.borrow())),
            Err(e) => return failed(e),
        };
        count(&self.findings.calls, 1);
        let comparison = self.comparison();
        then(self.engine.embed(request), move |found| {
            let tolerance = (!comparison.exact).then_some(EMBEDDING_TOLERANCE);
            if let Some(i) = apart(&found.mean, &expected.mean, tolerance) {
                comparison.differs(&format!("dimension {i}"), found.mean.get(i), expected.mean.get(i));
            }
            expected
        })
    }

    fn train(&self, request: TrainRequest) -> LocalBoxFuture<'static, Result<Vec<StepMetrics>>> {
        let expected = match self.next() {
            Ok(Expected::Trained(expected)) => expected,
            Ok(_) => return failed(mismatch(&self.call.borrow())),
            Err(e) => return failed(e),
        };
        count(&self.findings.steps, request.steps.len());
        self.training.borrow_mut().push(request.adapter);
        let comparison = self.comparison();
        then(self.engine.train(request), move |found| {
            comparison.steps(&found, &expected);
            expected
        })
    }

    fn next_priority(&self) -> u64 {
        self.engine.next_priority()
    }

    fn base_parameters(&self) -> usize {
        self.engine.base_parameters()
    }

    fn create(&self, source: AdapterSource) -> LocalBoxFuture<'static, Result<AdapterId>> {
        Service::create(&self.engine, source)
    }

    fn drop_adapter(&self, adapter: AdapterId) -> LocalBoxFuture<'static, Result<()>> {
        Service::drop_adapter(&self.engine, adapter)
    }

    fn snapshot(&self, adapter: AdapterId, moments: bool) -> LocalBoxFuture<'static, Result<Snapshot>> {
        Service::snapshot(&self.engine, adapter, moments)
    }

    fn restore(&self, adapter: AdapterId, snapshot: Arc<Snapshot>) -> LocalBoxFuture<'static, Result<()>> {
        Service::restore(&self.engine, adapter, snapshot)
    }
}

fn mismatch(call: &str) -> Error {
    Error::input(
        format!("journal, call {call}"),
        "the journalled result does not fit the call; the run was made with another configuration or program",
    )
}

impl Journal for Audited {
    fn replay(&self, call: &str) -> Result<Option<Entry>> {
        let Some(entry) = self.journal.replay(call)? else {
            self.ended.borrow_mut().get_or_insert_with(|| call.to_string());
            return Err(Error::input(format!("journal, call {call}"), "the journal ends before it"));
        };
        // Under other arithmetic a mean has no tolerance of its own.
        let kept_mean = matches!(entry, Entry::Likelihoods(_)) && !self.exact;
        // What is not kept whole is made again, drawn or not: the rows after it need the adapters.
        let is_kept = || Ok::<bool, Error>(matches!(self.journal.load_adapters(call)?, Kept::Whole(_)));
        let is_wanted = match entry {
            Entry::Trained(_) => self.drawn.contains(call) || !is_kept()?,
            _ => self.drawn.contains(call) && !kept_mean,
        };
        if !is_wanted {
            return Ok(Some(entry));
        }
        *self.call.borrow_mut() = call.to_string();
        *self.expected.borrow_mut() = match entry {
            Entry::Samples(all) => all.into_iter().map(Expected::Sample).collect(),
            Entry::Scores(all) => all.into_iter().map(Expected::Score).collect(),
            Entry::Embeddings(all) => all.into_iter().map(Expected::Embedding).collect(),
            Entry::Trained(all) => all.into_iter().map(Expected::Trained).collect(),
            Entry::Likelihoods(all) => all.into_iter().map(|_| Expected::Mean).collect(),
        };
        self.training.borrow_mut().clear();
        Ok(None)
    }

    fn record(&self, call: &str, entry: &Entry) -> Result<()> {
        // All but means have been compared one by one.
        let kept = self.journal.replay(call)?;
        if let (Entry::Likelihoods(found), Some(Entry::Likelihoods(expected))) = (entry, &kept)
            && let Some((a, b)) = found.iter().zip(expected).find(|(a, b)| a.to_bits() != b.to_bits())
        {
            *self.call.borrow_mut() = call.to_string();
            self.differs("mean log-probability", a, b);
        }
        Ok(())
    }

    fn save_adapters(&self, call: &str, adapters: &[Snapshot]) -> Result<()> {
        *self.call.borrow_mut() = call.to_string();
        let kept = match self.journal.load_adapters(call)? {
            Kept::Whole(kept) => kept,
            Kept::Pruned => return Ok(()),
            Kept::Torn => {
                self.findings.add(format!("{call}: its checkpoint is damaged or missing"));
                return Ok(());
            }
        };
        if kept.len() != adapters.len() {
            self.differs("adapters", adapters.len(), kept.len());
            return Ok(());
        }
        for (i, (found, expected)) in adapters.iter().zip(&kept).enumerate() {
            let same = |(a, b): &(&(_, _, Vec<f32>), &(_, _, Vec<f32>))| apart(&a.2, &b.2, None).is_none();
            if self.exact
                && let Some((a, b)) = found.weights.iter().zip(&expected.weights).find(|pair| !same(pair))
            {
                let at = apart(&a.2, &b.2, None).unwrap_or(0);
                let what = format!("adapter {i} of the call, {:?} of part {}, number {at}", a.1, a.0.0);
                self.differs(&what, a.2.get(at), b.2.get(at));
            }
        }
        // What comes after goes on from what the journal has.
        let trained = std::mem::take(&mut *self.training.borrow_mut());
        trained.iter().zip(&kept).try_for_each(|(&adapter, kept)| self.engine.restore(adapter, kept))
    }

    fn load_adapters(&self, call: &str) -> Result<Kept> {
        self.journal.load_adapters(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_arithmetic_may_move_few_tokens_far_or_all_a_little() {
        let found = |made_again: &[f32], journal: &[f32], exact| {
            let findings = Rc::new(Findings::default());
            let comparison = Comparison { call: "c".into(), exact, findings: findings.clone() };
            comparison.logprobs(made_again, journal);
            findings.differences.borrow().clone()
        };
        let row = vec![-0.5; MEAN_ROW];
        let with = |place: usize, by: f32| {
            let mut row = row.clone();
            row[place] += by;
            row
        };
        let all = |by: f32| row.iter().map(|l| l + by).collect::<Vec<_>>();
        assert!(found(&with(7, -0.6), &row, false).is_empty());
        assert!(found(&all(0.04), &row, false).is_empty());
        assert!(found(&with(7, -1.6), &row, false)[0].contains("token 8"));
        assert!(found(&all(-0.06), &row, false)[0].contains("in the mean"));
        // A few tokens have no mean to speak of.
        assert!(found(&all(-0.06)[..8], &row[..8], false).is_empty());
        assert!(found(&with(3, f32::NAN), &row, false)[0].contains("token 4"));
        assert!(found(&row[1..], &row, false)[0].contains(&format!("token {MEAN_ROW}")));
        assert!(found(&with(3, 1e-6), &row, true)[0].contains("token 4"));
        assert!(found(&row, &row, true).is_empty());
    }
}
