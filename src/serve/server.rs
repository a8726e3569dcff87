//! A resident model that answers requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{LocalBoxFuture, join_all};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::generate::{self, Continued, Wishes};
use super::records::Record;
use super::request::{self, Request, Training};
use super::score::Scored;
use super::tokens::{Purpose, ignored};
use super::train;
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
pub struct Server {
    session: Session,
    options: ServerOptions,
    origins: BTreeMap<String, Origin>,
    model: String,
}

/// What a request is answered with.
#[derive(Clone, Debug, Serialize)]
pub struct Response {
    /// Fields of its records that are not read, and in how many each is.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub ignored: Map<String, Value>,
    /// What it asked for.
    pub result: Answer,
}

/// What requests ask for.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// Continuations.
    Continued {
        /// In the order of the records, those of one record together.
        records: Vec<Continued>,
    },
    /// Log-probabilities.
    Scored {
        /// In the order of the records.
        records: Vec<Scored>,
    },
    /// Optimizer steps.
    Trained {
        /// A list of steps for each adapter.
        adapters: Map<String, Value>,
    },
    /// What was read of given answers.
    Graded(Value),
    /// The adapters there are.
    Adapters {
        /// Their names, sorted.
        adapters: Vec<String>,
    },
    /// It is done.
    Done,
}

/// What a server is to hold.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Counts where a record or a training gives no seed.
    pub seed: u64,
    /// Most adapters at once; memory is planned for as many.
    pub max_loras: usize,
    /// The largest rank of adapters that are loaded later.
    pub max_lora_rank: usize,
    /// Whether memory is planned for training.
    pub training: bool,
}

impl Server {
    /// Loads what is wanted.
    pub fn open(
        mut wanted: Wanted,
        options: ServerOptions,
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
            "adapters": self.names(),
        })
    }

    /// A request from its JSON, with the `id` of it that an answer repeats. `place` is what errors call it.
    pub fn read(&self, json: &[u8], place: &str) -> (Value, Result<Request>) {
        request::read(json, place, self.options.seed)
    }

    /// Answers a request, whose `place` errors name.
    ///
    /// # Errors
    /// What is wrong with the request. [`Error::Internal`] is the server's own end.
    pub fn answer(&mut self, request: Request, place: &str, watch: &mut dyn Watch) -> Result<Response> {
        let ignored = self.ignored(&request);
        let result = self.obey(request, place, watch)?;
        Ok(Response { ignored, result })
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

    fn obey(&mut self, request: Request, place: &str, watch: &mut dyn Watch) -> Result<Answer> {
        match request {
            Request::Generate { records, prompt_tokens } => self.generate(&records, prompt_tokens),
            Request::Score { records } => self.score(&records),
            Request::Train { adapters } => self.train(adapters, place),
            Request::Grade { graded, .. } => Ok(Answer::Graded(graded)),
            Request::Load { adapter, source: origin } => {
                self.is_free(&adapter, place)?;
                let origin = models::origin(&origin, watch)?;
                let snapshot = Arc::new(self.numbers(&origin)?);
                self.create(adapter.clone(), AdapterSource::Snapshot(snapshot))?;
                self.origins.insert(adapter, Origin::Source(origin));
                Ok(Answer::Done)
            }
            Request::Clone { adapter, to } => {
                let id = self.find(&adapter, place)?;
                self.is_free(&to, place)?;
                let snapshot = self.session.engine.snapshot(id, false)?;
                self.create(to.clone(), AdapterSource::Clone(id))?;
                self.origins.insert(to, Origin::Snapshot(snapshot.into()));
                Ok(Answer::Done)
            }
            Request::Reset { adapter } => {
                let id = self.find(&adapter, place)?;
                let snapshot = match &self.origins[&adapter] {
                    Origin::Source(origin) => Arc::new(self.numbers(origin)?),
                    Origin::Snapshot(snapshot) => snapshot.clone(),
                };
                self.session.engine.restore(id, &snapshot)?;
                Ok(Answer::Done)
            }
            Request::Save { adapter, output, force } => {
                let id = self.find(&adapter, place)?;
                if output.exists() && !force {
                    return Err(Error::file(&output, "exists already; \"force\": true replaces it"));
                }
                let snapshot = self.session.engine.snapshot(id, false)?;
                let layout = self.session.engine.with(|e| e.model().layout().clone());
                write_peft(&output, &snapshot, &layout, self.session.base.clone())?;
                Ok(Answer::Done)
            }
            Request::Drop { adapter } => {
                let id = self.find(&adapter, place)?;
                self.session.engine.drop_adapter(id)?;
                self.session.adapters.remove(&adapter);
                self.origins.remove(&adapter);
                Ok(Answer::Done)
            }
            Request::List => Ok(Answer::Adapters { adapters: self.names() }),
        }
    }

    fn names(&self) -> Vec<String> {
        self.session.adapters.keys().cloned().collect()
    }

    fn find(&self, adapter: &str, place: &str) -> Result<AdapterId> {
        self.session.adapters.get(adapter).copied().ok_or_else(|| {
            let known = self.names();
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
    fn numbers(&self, origin: &AdapterOrigin) -> Result<Snapshot> {
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

    fn generate(&self, records: &[(Record, Wishes)], prompt_tokens: bool) -> Result<Answer> {
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
                let mut continued = Continued::new(record, wishes, index, sample, tokenizer)?;
                continued.prompt_tokens = prompt_tokens.then(|| request.prompt.to_vec());
                results.push(continued);
            }
        }
        Ok(Answer::Continued { records: results })
    }

    fn score(&self, records: &[Record]) -> Result<Answer> {
        let mut requests = Vec::new();
        for record in records {
            let (tokens, _) = self.session.tokens(record, Purpose::Score)?;
            let adapter = self.session.adapter_of(record)?;
            requests.push(ScoreRequest { adapter, tokens: Arc::from(tokens) });
        }
        let work = requests.iter().map(|r| self.session.engine.score(r.clone())).collect();
        let scores = together(&self.session.engine, work)?.into_iter().collect::<Result<Vec<_>>>()?;
        let answers = records.iter().zip(&requests).zip(&scores);
        Ok(Answer::Scored { records: answers.map(|((r, q), s)| Scored::new(r, &q.tokens, s)).collect() })
    }

    fn train(&self, adapters: Vec<(String, Result<Training>)>, place: &str) -> Result<Answer> {
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
        for ((name, _), steps) in requests.iter().zip(results) {
            let steps: Vec<Value> = steps?.iter().map(|m| train::metrics_record(name, m)).collect();
            metrics.insert(name.clone(), json!(steps));
        }
        Ok(Answer::Trained { adapters: metrics })
    }
}

/// The answers to all of `work`, in shared batches. All are awaited whatever becomes of one, so
/// that nothing is left under way; an error of this function is the engine's own.
fn together<T: 'static>(
    engine: &EngineHandle,
    work: Vec<LocalBoxFuture<'static, Result<T>>>,
) -> Result<Vec<Result<T>>> {
    let lane = async move { Ok(join_all(work).await) };
    run_lane(engine, lane).map_err(|e| Error::Internal(e.to_string()))
}
