//! `colloquy session`: a resident model that other programs talk to, in JSON Lines on stdin and stdout.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use clap::Args as ClapArgs;
use futures::future::{LocalBoxFuture, join_all};
use serde_json::{Map, Value, json};

use super::common::{Common, ModelArgs, whole};
use super::generate::Wishes;
use super::records::{Record, too_long};
use super::request::{Request, Training};
use super::screen::Screen;
use super::session::{Purpose, Session, Wanted, ignored};
use super::{generate, models, one_line, request, score, train};
use crate::adapter::{AdapterOrigin, Snapshot, write_peft};
use crate::engine::{AdapterId, AdapterSource, EngineHandle, ScoreRequest, Service, TrainRequest, run_lane};
use crate::error::{Error, Result};
use crate::files::json::to_line;
use crate::files::{Line, MAX_LINE, read_line, skip_line};
use crate::run::is_name;

/// Options of `session`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Keep a model resident and answer requests on stdin, one JSON object a line",
    long_about = "Loads the model once and answers one request a line with one line, until stdin ends. All records of a request share \
                  batches, whatever their adapter. A request that is wrong is answered with an error; the session goes on.",
    after_help = "Requests, each with an \"id\" of yours (copied to the answer):
  {\"op\": \"load\", \"adapter\": NAME, \"source\": \"DIR\", \"OWNER/NAME\" or \"new:rank=16,init-seed=7\"}
  {\"op\": \"generate\", \"records\": [{\"messages\": […], \"adapter\": NAME, \"temperature\": …, …}, …]}
  {\"op\": \"score\", \"records\": [{\"text\": …, \"adapter\": NAME}, …]}
  {\"op\": \"train\", \"adapters\": {NAME: {\"records\": […], \"learning_rate\": …, \"num_epochs\": …}, …}}
      fields as the options of `train`, such as \"normalizer\": \"tokens\" where weights are negative;
      \"key\" decides the order of the data, \"keep_moments\" goes on with AdamW's
  {\"op\": \"grade\", \"task\": \"gsm8k\", \"records\": [{\"response\": …, \"reference\": …}, …]}
      as `grade` does; \"set\": [\"task.extraction=boxed\"] as its --set
  {\"op\": \"clone\", \"adapter\": NAME, \"to\": NAME}
  {\"op\": \"reset\", \"adapter\": NAME}                 as it was when it was loaded
  {\"op\": \"save\", \"adapter\": NAME, \"output\": DIR}    a PEFT folder; \"force\": true replaces one
  {\"op\": \"drop\", \"adapter\": NAME}
  {\"op\": \"list\"}
Records are those of `generate`, `score` and `train`; fields of theirs that are not read are counted in the answer, as
{\"id\": …, \"ignored\": {\"source\": 40}, \"result\": …}. A line may have at most 64 MiB. With \"prompt_tokens\": true, `generate` also gives the prompt's.
Answers: {\"id\": …, \"result\": …} or {\"id\": …, \"error\": \"…\"}. The first line says what is loaded.

Example:
  echo '{\"op\": \"score\", \"records\": [{\"text\": \"2+2=4\"}]}' | colloquy session --model embedded"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Most adapters at once; memory is planned for as many.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = whole::<usize>)]
    max_loras: usize,
    /// The largest rank of adapters that are loaded later.
    #[arg(long, default_value_t = 16, value_name = "R", value_parser = whole::<usize>)]
    max_lora_rank: usize,
    /// Plan no memory for training; `train` is then an error.
    #[arg(long)]
    no_training: bool,
    #[command(flatten)]
    common: Common,
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
    screen: Screen,
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
    // What a name of the hub means is settled once: a reset gives what was loaded.
    for (_, origin) in &mut wanted.adapters {
        *origin = models::origin(origin, &screen)?;
    }
    let origins =
        wanted.adapters.iter().map(|(name, origin)| (name.clone(), Origin::Source(origin.clone()))).collect();
    let session = Session::open(&wanted, &args.common, &screen)?;
    session.show_plan(&screen);
    let mut resident = Resident {
        session,
        screen,
        origins,
        model: wanted.model,
        seed: args.common.seed.unwrap_or(0),
        max_loras: args.max_loras,
        max_lora_rank: args.max_lora_rank,
        training: !args.no_training,
    };
    say(&resident.greeting())?;
    let mut lines = std::io::stdin().lock();
    let mut line = Vec::new();
    let stdin = |e| Error::io(Path::new("stdin"))(e);
    for number in 1.. {
        let place = format!("stdin:{number}");
        match read_line(&mut lines, &mut line, MAX_LINE).map_err(stdin)? {
            Line::End => break,
            Line::TooLong => {
                say(&json!({"id": null, "error": one_line(&too_long(&place))}))?;
                skip_line(&mut lines).map_err(stdin)?;
            }
            Line::Whole if line.trim_ascii().is_empty() => {}
            Line::Whole => say(&resident.answer(&line, &place)?)?,
        }
        // A long line is no reason to hold its memory from then on.
        line.shrink_to(KEPT_LINE);
    }
    Ok(())
}

/// Bytes of a line's memory that are kept for the next.
const KEPT_LINE: usize = 1 << 20;

fn say(answer: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", to_line(answer)).and_then(|()| out.flush()).map_err(Error::io(Path::new("stdout")))
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
        let (id, request) = request::read(line, place, self.seed);
        let ignored = request.as_ref().map_or(Map::new(), |request| self.ignored(request));
        match request.and_then(|request| self.obey(request, place)) {
            Ok(result) if ignored.is_empty() => Ok(json!({"id": id, "result": result})),
            Ok(result) => Ok(json!({"id": id, "ignored": ignored, "result": result})),
            Err(Error::Internal(problem)) => {
                say(&refuse(id, problem.clone()))?;
                Err(Error::Internal(problem))
            }
            Err(e) => Ok(refuse(id, one_line(&e))),
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

    fn obey(&mut self, request: Request, place: &str) -> Result<Value> {
        match request {
            Request::Generate { records, prompt_tokens } => self.generate(&records, prompt_tokens),
            Request::Score { records } => self.score(&records),
            Request::Train { adapters } => self.train(adapters, place),
            Request::Grade { graded, .. } => Ok(graded),
            Request::Load { adapter, source: origin } => {
                self.is_free(&adapter, place)?;
                let origin = models::origin(&origin, &self.screen)?;
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
        let snapshot = origin.snapshot(&layout, &self.session.files)?;
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
        if !self.training {
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
