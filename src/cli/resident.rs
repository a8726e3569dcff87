//! `colloquy session`: a resident model that other programs talk to, in JSON Lines on stdin and stdout.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use clap::Args as ClapArgs;
use futures::future::{LocalBoxFuture, join_all};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::common::{Common, ModelArgs};
use super::records::{Record, shown};
use super::screen::Screen;
use super::session::{Session, Wanted};
use super::train::TrainingArgs;
use super::{generate, one_line, score, train};
use crate::adapter::{AdapterOrigin, Snapshot, write_peft};
use crate::engine::{
    AdapterId, AdapterSource, EngineHandle, SamplingParams, ScoreRequest, Service, TrainRequest, draw_key,
    run_lanes,
};
use crate::error::{Error, Result};
use crate::run::is_name;

/// Options of `session`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Keep a model resident and answer requests on stdin, one JSON object a line",
    long_about = "Loads the model once and answers one request a line with one line, until stdin ends. All records of a request share \
                  batches, whatever their adapter. A request that is wrong is answered with an error; the session goes on.",
    after_help = "Requests, each with an \"id\" of yours (copied to the answer):
  {\"op\": \"load\", \"adapter\": NAME, \"source\": \"DIR\" or \"new:rank=16,init-seed=7\"}
  {\"op\": \"generate\", \"records\": [{\"messages\": […], \"adapter\": NAME, \"temperature\": …, …}, …]}
  {\"op\": \"score\", \"records\": [{\"text\": …, \"adapter\": NAME}, …]}
  {\"op\": \"train\", \"adapters\": {NAME: {\"records\": […], \"learning_rate\": …, \"num_epochs\": …}, …}}
      fields as the options of `train`; \"key\" decides the order of the data, \"keep_moments\" goes on with AdamW's
  {\"op\": \"clone\", \"adapter\": NAME, \"to\": NAME}
  {\"op\": \"reset\", \"adapter\": NAME}                 as it was when it was loaded
  {\"op\": \"save\", \"adapter\": NAME, \"output\": DIR}    a PEFT folder; \"force\": true replaces one
  {\"op\": \"drop\", \"adapter\": NAME}
  {\"op\": \"list\"}
Records are those of `generate`, `score` and `train`. With \"prompt_tokens\": true, `generate` also gives the prompt's.
Answers: {\"id\": …, \"result\": …} or {\"id\": …, \"error\": \"…\"}. The first line says what is loaded.

Example:
  echo '{\"op\": \"score\", \"records\": [{\"text\": \"2+2=4\"}]}' | colloquy session --model embedded"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Most adapters at once; memory is planned for as many.
    #[arg(long, default_value_t = 16, value_name = "N")]
    max_loras: usize,
    /// The largest rank of adapters that are loaded later.
    #[arg(long, default_value_t = 16, value_name = "R")]
    max_lora_rank: usize,
    /// Plan no memory for training; `train` is then an error.
    #[arg(long)]
    no_training: bool,
    #[command(flatten)]
    common: Common,
}

/// A request but for its `id`.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Generate {
        records: Vec<Value>,
        #[serde(default)]
        prompt_tokens: bool,
    },
    Score {
        records: Vec<Value>,
    },
    Train {
        adapters: Map<String, Value>,
    },
    Load {
        adapter: String,
        source: String,
    },
    Clone {
        adapter: String,
        to: String,
    },
    Reset {
        adapter: String,
    },
    Save {
        adapter: String,
        output: PathBuf,
        #[serde(default)]
        force: bool,
    },
    Drop {
        adapter: String,
    },
    List {},
}

/// What an adapter was when it was loaded.
enum Origin {
    /// Made or read again when it is wanted.
    Source(AdapterOrigin),
    /// A clone has no source.
    Snapshot(Arc<Snapshot>),
}

/// A resident model.
struct Resident {
    session: Session,
    origins: std::collections::BTreeMap<String, Origin>,
    model: String,
    seed: u64,
    max_loras: usize,
    max_lora_rank: usize,
    training: bool,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Screen::new();
    let mut wanted = Wanted::from_args(&args.model)?;
    if args.max_loras < wanted.adapters.len() {
        return Err(Error::Usage(format!(
            "--max-loras {}: {} adapters are given with --adapter or --society",
            args.max_loras,
            wanted.adapters.len()
        )));
    }
    if !(1..=crate::backend::MAX_RANK).contains(&args.max_lora_rank) {
        return Err(Error::Usage(format!(
            "--max-lora-rank {}: expected 1 to {}",
            args.max_lora_rank,
            crate::backend::MAX_RANK
        )));
    }
    wanted.training = !args.no_training;
    wanted.rank = args.max_lora_rank;
    wanted.lanes = vec![args.max_loras - wanted.adapters.len()];
    let origins =
        wanted.adapters.iter().map(|(name, origin)| (name.clone(), Origin::Source(origin.clone()))).collect();
    let session = Session::open(&wanted, &args.common, &screen)?;
    session.show_plan(&screen);
    let mut resident = Resident {
        session,
        origins,
        model: wanted.model,
        seed: args.common.seed.unwrap_or(0),
        max_loras: args.max_loras,
        max_lora_rank: args.max_lora_rank,
        training: !args.no_training,
    };
    say(&resident.greeting())?;
    let mut lines = std::io::stdin().lock();
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        if lines.read_until(b'\n', &mut bytes).map_err(Error::io(Path::new("stdin")))? == 0 {
            break;
        }
        if !bytes.trim_ascii().is_empty() {
            say(&resident.answer(&bytes, &format!("stdin:{number}"))?)?;
        }
    }
    Ok(())
}

fn say(answer: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(Error::io(Path::new("stdout")))
}

impl Resident {
    /// What is loaded.
    fn greeting(&self) -> Value {
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

    /// The answer to a line. An error here is the engine's own, and the session's end.
    fn answer(&mut self, line: &[u8], place: &str) -> Result<Value> {
        let refuse = |id: Value, problem: String| json!({"id": id, "error": problem});
        let mut fields = match serde_json::from_slice::<Value>(line) {
            Ok(Value::Object(fields)) => fields,
            Ok(other) => {
                return Ok(refuse(
                    Value::Null,
                    format!("{place}: found {}, expected an object", shown(&other)),
                ));
            }
            Err(e) => return Ok(refuse(Value::Null, format!("{place}: not JSON: {e} of the line"))),
        };
        let id = fields.shift_remove("id").unwrap_or(Value::Null);
        let done = serde_json::from_value::<Request>(Value::Object(fields))
            .map_err(|e| Error::input(place, e))
            .and_then(|request| self.obey(request, place));
        match done {
            Ok(result) => Ok(json!({"id": id, "result": result})),
            Err(Error::Internal(problem)) => {
                say(&refuse(id, problem.clone()))?;
                Err(Error::Internal(problem))
            }
            Err(e) => Ok(refuse(id, one_line(&e))),
        }
    }

    fn obey(&mut self, request: Request, place: &str) -> Result<Value> {
        match request {
            Request::Generate { records, prompt_tokens } => self.generate(records, prompt_tokens, place),
            Request::Score { records } => self.score(records, place),
            Request::Train { adapters } => self.train(adapters, place),
            Request::Load { adapter, source } => {
                self.is_free(&adapter, place)?;
                let origin = AdapterOrigin::parse(&source).map_err(|e| Error::input(place, e))?;
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
            Request::List {} => Ok(json!({"adapters": self.session.adapters.keys().collect::<Vec<_>>()})),
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
        let limit = self.max_loras;
        if self.session.adapters.len() >= limit {
            let problem = format!("there are {limit} already, as many as --max-loras plans memory for");
            return Err(Error::input(place, problem));
        }
        Ok(())
    }

    /// An adapter's numbers, where this session may hold it.
    fn read(&self, origin: &AdapterOrigin) -> Result<Snapshot> {
        let layout = self.session.engine.with(|e| e.model().layout().clone());
        let snapshot = origin.snapshot(&layout)?;
        let rank = snapshot.spec.parts.iter().flatten().map(|p| p.rank).max().unwrap_or(0);
        if rank > self.max_lora_rank {
            return Err(Error::input(
                "source",
                format!(
                    "found rank {rank}, expected at most {}, which --max-lora-rank sets",
                    self.max_lora_rank
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

    fn generate(&self, records: Vec<Value>, prompt_tokens: bool, place: &str) -> Result<Value> {
        let defaults = SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, max_tokens: 256 };
        let records = read_records(records, &generate::FIELDS, &format!("{place}: records"))?;
        // All are checked before anything is drawn.
        let mut requests = Vec::new();
        for record in &records {
            let wishes = generate::wishes(record, defaults, self.seed)?;
            requests.push((generate::requests(&self.session, record, &wishes)?, wishes));
        }
        let work =
            requests.iter().flat_map(|(r, _)| r).map(|r| self.session.engine.sample(r.clone())).collect();
        let mut samples = together(&self.session.engine, work)?.into_iter();
        let mut results = Vec::new();
        for (record, (requests, wishes)) in records.iter().zip(&requests) {
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

    fn score(&self, records: Vec<Value>, place: &str) -> Result<Value> {
        let records = read_records(records, &[], &format!("{place}: records"))?;
        let mut requests = Vec::new();
        for record in &records {
            let (tokens, _) = self.session.tokens(record, false)?;
            let adapter = self.session.adapter_of(record)?;
            requests.push(ScoreRequest { adapter, tokens: Arc::from(tokens) });
        }
        let work = requests.iter().map(|r| self.session.engine.score(r.clone())).collect();
        let scores = together(&self.session.engine, work)?.into_iter().collect::<Result<Vec<_>>>()?;
        let answers = records.iter().zip(&requests).zip(&scores);
        let results: Vec<Value> = answers.map(|((r, q), s)| score::answer(r, &q.tokens, s)).collect();
        Ok(json!({"records": results}))
    }

    fn train(&self, adapters: Map<String, Value>, place: &str) -> Result<Value> {
        if !self.training {
            return Err(Error::input(place, "this session was started with --no-training"));
        }
        let mut requests: Vec<(String, TrainRequest)> = Vec::new();
        for (name, value) in adapters {
            let place = format!("{place}: adapters.{name}");
            self.find(&name, &place)?;
            let Value::Object(mut fields) = value else {
                return Err(Error::input(place, format!("found {}, expected an object", shown(&value))));
            };
            let Some(Value::Array(records)) = fields.shift_remove("records") else {
                return Err(Error::input(
                    format!("{place}.records"),
                    "found none, expected a list of records",
                ));
            };
            let key = match fields.shift_remove("key") {
                None => draw_key(&[&self.seed.to_le_bytes(), b"train", name.as_bytes()]),
                Some(key) => key.as_u64().ok_or_else(|| {
                    Error::input(
                        format!("{place}.key"),
                        format!("found {}, expected a whole number", shown(&key)),
                    )
                })?,
            };
            let keep_moments = match fields.shift_remove("keep_moments") {
                None => false,
                Some(keep) => keep.as_bool().ok_or_else(|| {
                    let problem = format!("found {}, expected true or false", shown(&keep));
                    Error::input(format!("{place}.keep_moments"), problem)
                })?,
            };
            let settings = TrainingArgs::from_json(&fields, &place)?
                .of(&name, &[&name])
                .map_err(|e| Error::input(&place, e))?;
            let records = read_records(records, &["weights"], &format!("{place}.records"))?;
            let mut request = train::request(&self.session, &name, &records, &settings, key)?;
            request.fresh_moments = !keep_moments;
            requests.push((name, request));
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

/// Records of a request, at least one.
fn read_records(records: Vec<Value>, known: &[&str], place: &str) -> Result<Vec<Record>> {
    if records.is_empty() {
        return Err(Error::input(place, "found none, expected at least one"));
    }
    let record = |(i, value)| Record::from_value(value, format!("{place}[{i}]"), known);
    records.into_iter().enumerate().map(record).collect()
}

/// The answers to all of `work`, in shared batches. All are awaited whatever becomes of one, so that nothing is left under way; an error of
/// this function is the engine's own.
fn together<T: 'static>(
    engine: &EngineHandle,
    work: Vec<LocalBoxFuture<'static, Result<T>>>,
) -> Result<Vec<Result<T>>> {
    let results = Rc::new(std::cell::RefCell::new(Vec::new()));
    let into = results.clone();
    let lane = async move {
        into.replace(join_all(work).await);
        Ok(())
    };
    run_lanes(engine, vec![Box::pin(lane)]).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(results.take())
}
