//! Lanes: straight-line recipes over one shared engine.
//!
//! A recipe is an async function that holds a [`Scope`]. `sample`, `score` and `train` enqueue and
//! wait; the engine fuses what all lanes and all questions have queued. Every completed call is
//! journalled under the scope's path and call number, so a resumed run executes the same code and
//! is answered from the journal up to where it stopped. Within one scope calls are numbered in
//! program order; concurrent work takes a child scope each, so that numbers never depend on who
//! finished first.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;

use futures::future::{LocalBoxFuture, try_join_all};
use serde::{Deserialize, Serialize};

use super::local::LaneService;
use super::request::*;
use crate::adapter::Snapshot;
use crate::error::{Error, Result};

/// The engine as recipes see it. Tests script it.
pub trait Service {
    /// Draws a sample.
    fn sample(&self, request: SampleRequest) -> LocalBoxFuture<'static, Result<Sample>>;
    /// Scores a sequence.
    fn score(&self, request: ScoreRequest) -> LocalBoxFuture<'static, Result<Score>>;
    /// Encodes a stretch of a sequence.
    fn embed(&self, request: EmbedRequest) -> LocalBoxFuture<'static, Result<Embedding>>;
    /// Trains an adapter.
    fn train(&self, request: TrainRequest) -> LocalBoxFuture<'static, Result<Vec<StepMetrics>>>;
    /// The next priority for samples that belong together, behind all before.
    fn next_priority(&self) -> u64;
    /// Parameters of the base model.
    fn base_parameters(&self) -> usize;
    /// Makes an adapter.
    fn create(&self, source: AdapterSource) -> LocalBoxFuture<'static, Result<AdapterId>>;
    /// Forgets an adapter.
    fn drop_adapter(&self, adapter: AdapterId) -> LocalBoxFuture<'static, Result<()>>;
    /// Reads an adapter's numbers, with the optimizer's state if `moments`.
    fn snapshot(&self, adapter: AdapterId, moments: bool) -> LocalBoxFuture<'static, Result<Snapshot>>;
    /// Overwrites an adapter's numbers (and optimizer state if the snapshot has one).
    fn restore(&self, adapter: AdapterId, snapshot: Arc<Snapshot>) -> LocalBoxFuture<'static, Result<()>>;
}

/// A journalled call's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// Of [`Scope::sample`].
    Samples(Vec<Sample>),
    /// Of [`Scope::score`].
    Scores(Vec<Score>),
    /// Of [`Scope::likelihoods`].
    Likelihoods(Vec<f64>),
    /// Of [`Scope::embed`].
    Embeddings(Vec<Embedding>),
    /// Of [`Scope::train`]; the adapters' numbers are kept beside the journal.
    Trained(Vec<Vec<StepMetrics>>),
}

/// Where completed calls are kept.
pub trait Journal {
    /// The result of a call completed before, if it was.
    fn replay(&self, call: &str) -> Result<Option<Entry>>;
    /// Keeps a completed call.
    fn record(&self, call: &str, entry: &Entry) -> Result<()>;
    /// Keeps adapters as they are after a training call, durably, before its [`Journal::record`].
    fn save_adapters(&self, call: &str, adapters: &[Snapshot]) -> Result<()>;
    /// What [`Journal::save_adapters`] kept.
    fn load_adapters(&self, call: &str) -> Result<Kept>;
}

/// Adapters as a training call left them.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// All numbers.
    Whole(Vec<Snapshot>),
    /// They were kept, and are damaged or gone: the call is to be made again.
    Torn,
    /// They were given up, as later ones are kept.
    Pruned,
}

/// What a training call did.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The steps of each request.
    pub metrics: Vec<Vec<StepMetrics>>,
    /// The call was made before, and its adapters' numbers are no longer kept: the adapters are as
    /// they were before it, until a later training call brings them to where they were after that.
    pub is_pruned: bool,
}

/// A journal that keeps nothing.
pub struct NoJournal;

impl Journal for NoJournal {
    fn replay(&self, _call: &str) -> Result<Option<Entry>> {
        Ok(None)
    }
    fn record(&self, _call: &str, _entry: &Entry) -> Result<()> {
        Ok(())
    }
    fn save_adapters(&self, _call: &str, _adapters: &[Snapshot]) -> Result<()> {
        Ok(())
    }
    fn load_adapters(&self, call: &str) -> Result<Kept> {
        Err(Error::Internal(format!("nothing is journalled for {call}")))
    }
}

/// A place in a lane's program: a path such as `multiagent/seed-0/iteration-1/train/q-00017` and a call counter.
pub struct Scope {
    service: Rc<dyn Service>,
    journal: Rc<dyn Journal>,
    path: String,
    calls: Cell<u32>,
    /// Its samples' priority, from the first of them on.
    priority: OnceCell<u64>,
}

impl Scope {
    /// The root of a lane that numbers its adapters by itself ([`LaneService`]).
    pub fn lane(name: impl Into<String>, service: Rc<dyn Service>, journal: Rc<dyn Journal>) -> Self {
        Self::new(name, Rc::new(LaneService::new(service)), journal)
    }

    /// A root over adapters that the service has already.
    pub fn new(path: impl Into<String>, service: Rc<dyn Service>, journal: Rc<dyn Journal>) -> Self {
        Self { service, journal, path: path.into(), calls: Cell::new(0), priority: OnceCell::new() }
    }

    /// A scope of its own for concurrent work. `name` must be unique among the children.
    pub fn child(&self, name: impl AsRef<str>) -> Self {
        Self {
            service: self.service.clone(),
            journal: self.journal.clone(),
            path: format!("{}/{}", self.path, name.as_ref()),
            calls: Cell::new(0),
            priority: OnceCell::new(),
        }
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The engine, for what needs no journal (creating and snapshotting adapters).
    pub fn service(&self) -> &dyn Service {
        &*self.service
    }

    fn next_call(&self) -> String {
        let n = self.calls.get();
        self.calls.set(n + 1);
        format!("{}#{n}", self.path)
    }

    /// The result of the next call: from the journal where it was made before, else from `work`,
    /// and kept. `count` results are expected.
    async fn once<T: Clone, F: Future<Output = Result<Vec<T>>>>(
        &self,
        count: usize,
        found: fn(Entry) -> Option<Vec<T>>,
        entry: fn(Vec<T>) -> Entry,
        work: impl FnOnce() -> F,
    ) -> Result<Vec<T>> {
        let call = self.next_call();
        if let Some(kept) = self.journal.replay(&call)? {
            return found(kept).filter(|f| f.len() == count).ok_or_else(|| replay_mismatch(&call));
        }
        let results = work().await?;
        self.journal.record(&call, &entry(results.clone()))?;
        Ok(results)
    }

    /// Draws all of `requests`, together with whatever else is queued; results in the order of the
    /// requests. All samples of a scope have the priority of its first, whatever the requests say.
    pub async fn sample(&self, requests: Vec<SampleRequest>) -> Result<Vec<Sample>> {
        let found = |entry| if let Entry::Samples(found) = entry { Some(found) } else { None };
        let work = |requests: Vec<SampleRequest>| {
            let priority = *self.priority.get_or_init(|| self.service.next_priority());
            let requests = requests.into_iter().map(move |r| SampleRequest { priority, ..r });
            try_join_all(requests.map(|r| self.service.sample(r)))
        };
        self.once(requests.len(), found, Entry::Samples, || work(requests)).await
    }

    /// Scores all of `requests`.
    pub async fn score(&self, requests: Vec<ScoreRequest>) -> Result<Vec<Score>> {
        let found = |entry| if let Entry::Scores(found) = entry { Some(found) } else { None };
        let work = |requests: Vec<_>| try_join_all(requests.into_iter().map(|r| self.service.score(r)));
        self.once(requests.len(), found, Entry::Scores, || work(requests)).await
    }

    /// The mean log-probability of each sequence's tokens from a place on (at least 1, as the first
    /// token is never predicted; at most the last one's), summed in f64 in their order. As
    /// [`Scope::score`], but only the means are journalled.
    pub async fn likelihoods(&self, requests: Vec<(ScoreRequest, usize)>) -> Result<Vec<f64>> {
        let found = |entry| if let Entry::Likelihoods(found) = entry { Some(found) } else { None };
        let mean = |(request, from): (ScoreRequest, usize)| {
            let places = 1..request.tokens.len();
            let score = places.contains(&from).then(|| self.service.score(request));
            async move {
                let Some(score) = score else {
                    let problem =
                        format!("no token to score from token {from} on, expected one of {places:?}");
                    return Err(Error::input("score request", problem));
                };
                let score = score.await?;
                let own = &score.logprobs[from - 1..];
                Ok(own.iter().map(|&l| f64::from(l)).sum::<f64>() / own.len() as f64)
            }
        };
        let work = |requests: Vec<_>| try_join_all(requests.into_iter().map(mean));
        self.once(requests.len(), found, Entry::Likelihoods, || work(requests)).await
    }

    /// Encodes all of `requests`.
    pub async fn embed(&self, requests: Vec<EmbedRequest>) -> Result<Vec<Embedding>> {
        let found = |entry| if let Entry::Embeddings(found) = entry { Some(found) } else { None };
        let work = |requests: Vec<_>| try_join_all(requests.into_iter().map(|r| self.service.embed(r)));
        self.once(requests.len(), found, Entry::Embeddings, || work(requests)).await
    }

    /// Trains adapters together. With `keep_moments` the journal keeps the optimizer's state too.
    pub async fn train(&self, requests: Vec<TrainRequest>, keep_moments: bool) -> Result<Trained> {
        let call = self.next_call();
        let adapters: Vec<AdapterId> = requests.iter().map(|r| r.adapter).collect();
        match self.journal.replay(&call)? {
            Some(Entry::Trained(metrics)) if metrics.len() == requests.len() => {
                match self.journal.load_adapters(&call)? {
                    Kept::Whole(snapshots) => {
                        for (&adapter, snapshot) in adapters.iter().zip(snapshots) {
                            self.service.restore(adapter, Arc::new(snapshot)).await?;
                        }
                        return Ok(Trained { metrics, is_pruned: false });
                    }
                    Kept::Pruned => return Ok(Trained { metrics, is_pruned: true }),
                    Kept::Torn => {}
                }
            }
            Some(_) => return Err(replay_mismatch(&call)),
            None => {}
        }
        let waiting: Vec<_> = requests.into_iter().map(|r| self.service.train(r)).collect();
        let metrics = try_join_all(waiting).await?;
        let snapshots = adapters.iter().map(|&a| self.service.snapshot(a, keep_moments));
        let snapshots = try_join_all(snapshots).await?;
        self.journal.save_adapters(&call, &snapshots)?;
        self.journal.record(&call, &Entry::Trained(metrics.clone()))?;
        Ok(Trained { metrics, is_pruned: false })
    }
}

fn replay_mismatch(call: &str) -> Error {
    Error::input(
        format!("journal, call {call}"),
        "the journalled result does not fit the call; the run was made with another configuration or program",
    )
}
