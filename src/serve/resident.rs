//! A resident model that other programs talk to.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{LocalBoxFuture, join_all};
use serde_json::{Map, Value, json};

use super::generate::{self, Wishes};
use super::records::Record;
use super::request::{self, Request, Training};
use super::tokens::{Purpose, ignored};
use super::{score, train};
use crate::adapter::{AdapterOrigin, Snapshot, write_peft};
use crate::backend::MAX_RANK;
use crate::engine::{AdapterId, AdapterSource, EngineHandle, ScoreRequest, Service, TrainRequest, run_lane};
use crate::error::{Error, Result};
use crate::experiment::{DeviceOptions, Session, Wanted, Watch, models};
use crate::run::is_name;

/// What an adapter was when it was loaded.
enum Origin {
    /// Made or read again when it is wanted.
    Source(AdapterOrigin),
    /// A clone has no source.
    Snapshot(Arc<Snapshot>),
}

/// A resident model.
pub struct Resident {
    session: Session,
    options: ResidentOptions,
    origins: BTreeMap<String, Origin>,
    model: String,
}

/// What a resident model is to hold.
#[derive(Clone, Debug)]
pub struct ResidentOptions {
    /// Counts where a record or a training gives no seed.
    pub seed: u64,
    /// Most adapters at once; memory is planned for as many.
    pub max_loras: usize,
    /// The largest rank of adapters that are loaded later.
    pub max_lora_rank: usize,
    /// Whether memory is planned for training.
    pub training: bool,
}

impl Resident {
    /// Loads what is wanted.
    pub fn open(
        mut wanted: Wanted,
        options: ResidentOptions,
        device: &DeviceOptions,
        watch: &mut dyn Watch,
    ) -> Result<Self> {
        if options.max_loras < wanted.adapters.len() {
            return Err(Error::Usage(format!(
                "--max-loras {}: {} adapters are given with --adapter or --society",
                options.max_loras,
                wanted.adapters.len()
            )));
        }
        if !(1..=MAX_RANK).contains(&options.max_lora_rank) {
            let rank = options.max_lora_rank;
            return Err(Error::Usage(format!("--max-lora-rank {rank}: expected 1 to {MAX_RANK}")));
        }
        wanted.training = options.training;
        wanted.rank = options.max_lora_rank;
        wanted.lanes = vec![options.max_loras - wanted.adapters.len()];
        // What a name of the hub means is settled once: a reset gives what was loaded.
        for (_, origin) in &mut wanted.adapters {
            *origin = models::origin(origin, watch)?;
        }
        let of = |(name, origin): &(String, AdapterOrigin)| (name.clone(), Origin::Source(origin.clone()));
        let origins = wanted.adapters.iter().map(of).collect();
        let session = Session::open(&wanted, device, watch)?;
        session.show_plan(watch);
        Ok(Self { session, options, origins, model: wanted.model })
    }

    /// What is loaded.
    pub fn greeting(&self) -> Value {
        let (vocab, context) =
            self.session.engine.with(|e| (e.config().vocab_size, e.config().max_positions));
        json!({
            "program": "colloquy",
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.model,
            "device": self.session.device,
            "arithmetic": self.session.arithmetic,
            "vocab_size": vocab,
            "context": context,
            "adapters": self.session.adapters.keys().collect::<Vec<_>>(),
        })
    }

    /// The answer to a line, whose `place` errors name. Where it ends the session, its error comes with it.
    pub fn answer(&mut self, line: &[u8], place: &str, watch: &mut dyn Watch) -> (Value, Result<()>) {
        let (id, request) = request::read(line, place, self.options.seed);
        let ignored = request.as_ref().map_or(Map::new(), |request| self.ignored(request));
        match request.and_then(|request| self.obey(request, place, watch)) {
            Ok(result) if ignored.is_empty() => (json!({"id": id, "result": result}), Ok(())),
            Ok(result) => (json!({"id": id, "ignored": ignored, "result": result}), Ok(())),
            Err(Error::Internal(problem)) => {
                (json!({"id": id, "error": problem}), Err(Error::Internal(problem)))
            }
            Err(e) => (json!({"id": id, "error": e.one_line()}), Ok(())),
        }
    }

    /// Fields of a request's records that are not read, and in how many each is.
    fn ignored(&self, request: &Request) -> Map<String, Value> {
        let codec = self.session.tokenizer.as_deref();
        match request {
            Request::Generate { records, .. } => ignored(codec, records.iter().map(|(record, _)| record)),
            Request::Score { records } => ignored(codec, records.iter()),
            Request::Train { adapters } => {
                ignored(codec, adapters.iter().filter_map(|(_, t)| t.as_ref().ok()).flat_map(|t| &t.records))
            }
            Request::Grade { ignored, .. } => ignored.clone(),
            _ => Map::new(),
        }
    }

    fn obey(&mut self, request: Request, place: &str, watch: &mut dyn Watch) -> Result<Value> {
        match request {
            Request::Generate { records, prompt_tokens } => self.generate(&records, prompt_tokens),
            Request::Score { records } => self.score(&records),
            Request::Train { adapters } => self.train(adapters, place),
            Request::Grade { graded, .. } => Ok(graded),
            Request::Load { adapter, source: origin } => {
                self.is_free(&adapter, place)?;
                let origin = models::origin(&origin, watch)?;
                let snapshot = Arc::new(self.read(&origin)?);
                self.create(adapter.clone(), AdapterSource::Snapshot(snapshot))?;
                self.origins.insert(adapter, Origin::Source(origin));
                Ok(Value::Null)
            }
            Request::Clone { adapter, to } => {
                let id = self.find(&adapter, place)?;
                self.is_free(&to, place)?;
                let snapshot = self.session.engine.snapshot(id, false)?;
                self.create(to.clone(), AdapterSource::Clone(id))?;
                self.origins.insert(to, Origin::Snapshot(snapshot.into()));
                Ok(Value::Null)
            }
            Request::Reset { adapter } => {
                let id = self.find(&adapter, place)?;
                let snapshot = match &self.origins[&adapter] {
                    Origin::Source(origin) => Arc::new(self.read(origin)?),
                    Origin::Snapshot(snapshot) => snapshot.clone(),
                };
                self.session.engine.restore(id, &snapshot)?;
                Ok(Value::Null)
            }
            Request::Save { adapter, output, force } => {
                let id = self.find(&adapter, place)?;
                if output.exists() && !force {
                    return Err(Error::file(&output, "exists already; \"force\": true replaces it"));
                }
                let snapshot = self.session.engine.snapshot(id, false)?;
                let layout = self.session.engine.with(|e| e.model().layout().clone());
                write_peft(&output, &snapshot, &layout, self.session.base.clone())?;
                Ok(Value::Null)
            }
            Request::Drop { adapter } => {
                let id = self.find(&adapter, place)?;
                self.session.engine.drop_adapter(id)?;
                self.session.adapters.remove(&adapter);
                self.origins.remove(&adapter);
                Ok(Value::Null)
            }
            Request::List => Ok(json!({"adapters": self.session.adapters.keys().collect::<Vec<_>>()})),
        }
    }

    fn find(&self, adapter: &str, place: &str) -> Result<AdapterId> {
        self.session.adapters.get(adapter).copied().ok_or_else(|| {
            let known: Vec<&str> = self.session.adapters.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            Error::input(
                format!("{place}: adapter"),
                format!("no adapter is called `{adapter}`; there are {known}"),
            )
        })
    }

    fn is_free(&self, name: &str, place: &str) -> Result<()> {
        let place = format!("{place}: adapter");
        if !is_name(name) {
            return Err(Error::input(
                place,
                format!("found `{name}`, expected letters, digits, `-`, `_` or `.`"),
            ));
        }
        if self.session.adapters.contains_key(name) {
            return Err(Error::input(place, format!("an adapter is called `{name}` already; drop it first")));
        }
        let limit = self.options.max_loras;
        if self.session.adapters.len() >= limit {
            let problem = format!("there are {limit} already, as many as --max-loras plans memory for");
            return Err(Error::input(place, problem));
        }
        Ok(())
    }

    /// An adapter's numbers, where this session may hold it.
    fn read(&self, origin: &AdapterOrigin) -> Result<Snapshot> {
        let layout = self.session.engine.with(|e| e.model().layout().clone());
        let snapshot = origin.snapshot(&layout, &self.session.files)?;
        let rank = snapshot.spec.parts.iter().flatten().map(|p| p.rank).max().unwrap_or(0);
        if rank > self.options.max_lora_rank {
            return Err(Error::input(
                "source",
                format!(
                    "found rank {rank}, expected at most {}, which --max-lora-rank sets",
                    self.options.max_lora_rank
                ),
            ));
        }
        Ok(snapshot)
    }

    fn create(&mut self, name: String, source: AdapterSource) -> Result<()> {
        let id = self.session.engine.create(source)?;
        self.session.adapters.insert(name, id);
        Ok(())
    }

    fn generate(&self, records: &[(Record, Wishes)], prompt_tokens: bool) -> Result<Value> {
        // All are checked before anything is drawn.
        let requests = records
            .iter()
            .map(|(record, wishes)| generate::requests(&self.session, record, wishes))
            .collect::<Result<Vec<_>>>()?;
        let work = requests.iter().flatten().map(|r| self.session.engine.sample(r.clone())).collect();
        let mut samples = together(&self.session.engine, work)?.into_iter();
        let mut results = Vec::new();
        for ((record, wishes), requests) in records.iter().zip(&requests) {
            for (index, request) in requests.iter().enumerate() {
                let sample = samples.next().expect("one answer a request")?;
                let tokenizer = self.session.tokenizer.as_deref();
                let mut result = generate::answer(record, wishes, index, &sample, tokenizer)?;
                if prompt_tokens {
                    result["prompt_tokens"] = json!(request.prompt);
                }
                results.push(result);
            }
        }
        Ok(json!({"records": results}))
    }

    fn score(&self, records: &[Record]) -> Result<Value> {
        let mut requests = Vec::new();
        for record in records {
            let (tokens, _) = self.session.tokens(record, Purpose::Score)?;
            let adapter = self.session.adapter_of(record)?;
            requests.push(ScoreRequest { adapter, tokens: Arc::from(tokens) });
        }
        let work = requests.iter().map(|r| self.session.engine.score(r.clone())).collect();
        let scores = together(&self.session.engine, work)?.into_iter().collect::<Result<Vec<_>>>()?;
        let answers = records.iter().zip(&requests).zip(&scores);
        let results: Vec<Value> = answers.map(|((r, q), s)| score::answer(r, &q.tokens, s)).collect();
        Ok(json!({"records": results}))
    }

    fn train(&self, adapters: Vec<(String, Result<Training>)>, place: &str) -> Result<Value> {
        if !self.options.training {
            return Err(Error::input(place, "this session was started with --no-training"));
        }
        let mut requests: Vec<(String, TrainRequest)> = Vec::new();
        for (adapter, training) in adapters {
            self.find(&adapter, &format!("{place}: adapters.{adapter}"))?;
            let Training { records, settings, key, keep_moments } = training?;
            let mut request = train::request(&self.session, &adapter, &records, &settings, key)?;
            request.fresh_moments = !keep_moments;
            requests.push((adapter, request));
        }
        let work = requests.iter().map(|(_, r)| self.session.engine.train(r.clone())).collect();
        let results = together(&self.session.engine, work)?;
        let mut metrics = Map::new();
        for ((name, request), steps) in requests.iter().zip(results) {
            let named = |e: Error| e.naming(request.adapter.0, &format!("adapter {name}"));
            let steps = steps.map_err(named)?;
            let steps: Vec<Value> = steps.iter().map(|m| train::metrics_record(name, m)).collect();
            metrics.insert(name.clone(), json!(steps));
        }
        Ok(json!({"adapters": metrics}))
    }
}

/// The answers to all of `work`, in shared batches. All are awaited whatever becomes of one, so that nothing is left under way; an error of
/// this function is the engine's own.
fn together<T: 'static>(
    engine: &EngineHandle,
    work: Vec<LocalBoxFuture<'static, Result<T>>>,
) -> Result<Vec<Result<T>>> {
    let lane = async move { Ok(join_all(work).await) };
    run_lane(engine, lane).map_err(|e| Error::Internal(e.to_string()))
}
