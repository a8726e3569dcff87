//! `colloquy generate`: continuations of prompts.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use clap::Args as ClapArgs;
use futures::stream::{FuturesOrdered, StreamExt};
use serde_json::{Value, json};

use super::common::{Common, ModelArgs, whole};
use super::records::{self, Reader, Record, Sink};
use super::screen::Screen;
use super::session::{Purpose, Session, Wanted};
use crate::engine::{Finish, Sample, SampleKind, SampleRequest, SamplingParams, Service, draw_key};
use crate::error::Result;
use crate::text::{ChatTokenizer, Codec, cut_at_stop};

/// Options of `generate`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Continue prompts with the base or its adapters, all in the same batches",
    long_about = "Reads JSON Lines, each a prompt, and writes its continuations. All records, whatever their adapter, share packed \
                  batches; what one record yields does not depend on the others, on their order or on the batch. The same record \
                  and seed give the same text: use `n` for several samples.",
    after_help = "Input, one of:
  {\"messages\": [{\"role\": \"user\", \"content\": \"3+4?\"}]}   by the chat template
  {\"text\": \"Once upon\"}       no template
  {\"prompt\": …}               the same as text, or as messages if it is a list
  {\"tokens\": [1, 5, 9]}       needs no tokenizer
each with optional \"adapter\", \"id\", \"max_tokens\", \"temperature\", \"top_k\",
\"top_p\", \"min_p\" (which act in this order, as in transformers), \"n\", \"seed\" and
\"stop\"; in place of \"seed\" and \"n\" a \"key\" of yours: one draw, the same wherever
the same key, prompt and weights meet.
Messages may go with \"tools\" and \"chat_template_kwargs\" for the template, e.g.
{\"enable_thinking\": false}. \"control_tokens\": true or false reads strings such as
<|im_end|> as tokens or as text; by default they are text in messages and tokens
elsewhere. A field that is none of these and would mean something elsewhere
(\"max_new_tokens\") is an error; others are named as ignored.

Output, one line a sample: {\"id\", \"adapter\", \"index\", \"text\", \"tokens\",
\"logprobs\", \"finish_reason\": stop|length}. Log-probabilities are those of the
unmodified distribution. The text ends before the stop string, the tokens with it.

Examples:
  colloquy generate --model embedded --prompt \"3+4=\" --max-tokens 8
  q=\"What is the result of 3+4*5+6-7*8? Make sure to state your answer at the end\"
  printf '{\"n\": 3, \"messages\": [{\"role\": \"user\", \"content\": \"%s\"}]}' \\
    \"$q of the response.\" | colloquy generate --model embedded --input - --output -"
)]
pub struct Args {
    /// JSON Lines to read; `-` is stdin.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["prompt", "message"])]
    input: Option<PathBuf>,
    /// Instead of --input: continue this text, as the base or, if adapters are given, as each of them.
    #[arg(long, value_name = "TEXT", conflicts_with = "input", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Instead of --input: answer this message of a user, through the chat template; the same.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["input", "prompt"], allow_hyphen_values = true)]
    message: Option<String>,
    /// Where results go, JSON Lines in the order of the input; `-` is stdout [default without --input: -].
    #[arg(long, value_name = "FILE", required_unless_present_any = ["prompt", "message"])]
    output: Option<PathBuf>,
    /// Replace --output if it exists.
    #[arg(long)]
    force: bool,
    /// New tokens where a record does not say.
    #[arg(long, default_value_t = 256, value_name = "N", alias = "max-new-tokens", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Temperature where a record does not say; 0 is greedy.
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    temperature: f32,
    /// Nucleus mass where a record does not say.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f32,
    /// Most likely tokens kept where a record does not say; 0 keeps all.
    #[arg(long, default_value_t = 0, value_name = "K", value_parser = whole::<u32>)]
    top_k: u32,
    /// Where a record does not say, keep tokens at least P times as likely as the most likely one.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    min_p: f32,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    common: Common,
}

/// Fields of a record beyond those that every command knows.
pub const FIELDS: [&str; 9] =
    ["max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "key", "stop"];

/// Most samples of one record.
const MAX_SAMPLES: u32 = 10_000;

/// What a record asks for beyond its prompt.
pub struct Wishes {
    params: SamplingParams,
    /// Samples.
    pub n: u32,
    seed: u64,
    key: Option<u64>,
    stop: Vec<String>,
}

/// Reads them; `defaults` hold where the record does not say.
pub fn wishes(record: &Record, defaults: SamplingParams, seed: u64) -> Result<Wishes> {
    let params = SamplingParams {
        temperature: record.field("temperature", "a number")?.unwrap_or(defaults.temperature),
        top_k: record.field("top_k", "a whole number")?.unwrap_or(defaults.top_k),
        top_p: record.field("top_p", "a number")?.unwrap_or(defaults.top_p),
        min_p: record.field("min_p", "a number")?.unwrap_or(defaults.min_p),
        max_tokens: record.field("max_tokens", "a whole number")?.unwrap_or(defaults.max_tokens),
    };
    if !(params.temperature >= 0.0 && params.temperature.is_finite()) {
        return Err(
            record.error("temperature", format!("found {}, expected a number >= 0", params.temperature))
        );
    }
    if !(params.top_p > 0.0 && params.top_p <= 1.0) {
        return Err(record.error("top_p", format!("found {}, expected a number > 0 and <= 1", params.top_p)));
    }
    if !(0.0..=1.0).contains(&params.min_p) {
        return Err(record.error("min_p", format!("found {}, expected a number from 0 to 1", params.min_p)));
    }
    if params.max_tokens == 0 {
        return Err(record.error("max_tokens", "found 0, expected at least 1"));
    }
    let n = record.field("n", "a whole number")?.unwrap_or(1);
    if n == 0 {
        return Err(record.error("n", "found 0, expected at least 1"));
    }
    if n > MAX_SAMPLES {
        return Err(
            record.error("n", format!("found {n}, expected at most {MAX_SAMPLES} samples of a record"))
        );
    }
    let stop = match record.field::<Value>("stop", "a string or an array of strings")? {
        None => vec![],
        Some(Value::String(s)) => vec![s],
        Some(_) => record.field("stop", "a string or an array of strings")?.unwrap_or_default(),
    };
    if stop.iter().any(String::is_empty) {
        return Err(record.error("stop", "found an empty string"));
    }
    let key = record.field("key", "a whole number")?;
    if key.is_some() && (n != 1 || record.field::<Value>("seed", "")?.is_some()) {
        return Err(record.error("key", "found `seed` or `n` beside it, expected it alone: it is one draw"));
    }
    let seed = record.field("seed", "a whole number")?.unwrap_or(seed);
    Ok(Wishes { params, n, seed, key, stop })
}

/// A record's samples, as the engine takes them.
pub fn requests(session: &Session, record: &Record, wishes: &Wishes) -> Result<Vec<SampleRequest>> {
    let (prompt, _) = session.tokens(record, Purpose::Continue)?;
    let prompt: Arc<[u32]> = Arc::from(prompt);
    let adapter = session.adapter_of(record)?;
    let stop = match wishes.stop.is_empty() {
        true => None,
        false => session.codec(&format!("{}: stop", record.place))?.stop_rule(&wishes.stop),
    };
    let key = |index: u32| match wishes.key {
        Some(key) => key,
        None => draw_key(&[&wishes.seed.to_le_bytes(), b"generate", &index.to_le_bytes()]),
    };
    let request = |index| SampleRequest {
        adapters: vec![(adapter, 1.0)],
        prompt: prompt.clone(),
        params: wishes.params,
        key: key(index),
        iteration: 0,
        kind: SampleKind::default(),
        priority: 0,
        stop: stop.clone(),
    };
    Ok((0..wishes.n).map(request).collect())
}

/// A sample as it is written: the text up to the stop string that ended it, the tokens with it.
pub fn answer(
    record: &Record,
    wishes: &Wishes,
    index: usize,
    sample: &Sample,
    tokenizer: Option<&ChatTokenizer>,
) -> Result<Value> {
    let text = tokenizer.map(|t| t.decode(&sample.tokens)).transpose()?;
    let text = text.map(|text| match sample.finish {
        Finish::Stop => cut_at_stop(&text, &wishes.stop).to_string(),
        Finish::Length => text,
    });
    Ok(json!({
        "id": record.id,
        "adapter": record.adapter,
        "index": index,
        "text": text,
        "tokens": sample.tokens,
        "logprobs": sample.logprobs,
        "finish_reason": match sample.finish { Finish::Stop => "stop", Finish::Length => "length" },
    }))
}

/// The records of --input, or those that --prompt or --message stand for.
fn read_records(args: &Args, wanted: &Wanted) -> Result<Vec<Record>> {
    let (place, content) = match (&args.input, &args.prompt, &args.message) {
        (Some(input), ..) => return records::read(input, Reader::Generate),
        (_, Some(prompt), _) => ("--prompt", json!({"prompt": prompt})),
        (.., message) => ("--message", json!({"messages": [{"role": "user", "content": message}]})),
    };
    let of = |adapter: Option<&str>| {
        let mut record = content.clone();
        record["adapter"] = json!(adapter);
        Record::from_value(record, place.into(), Reader::Generate)
    };
    match wanted.adapters.is_empty() {
        true => Ok(vec![of(None)?]),
        false => wanted.adapters.iter().map(|(name, _)| of(Some(name))).collect(),
    }
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Rc::new(Screen::new());
    let wanted = Wanted::from_args(&args.model)?;
    let records = read_records(&args, &wanted)?;
    let Args { max_tokens, temperature, top_p, top_k, min_p, .. } = args;
    let defaults = SamplingParams { temperature, top_k, top_p, min_p, max_tokens };
    let seed = args.common.seed.unwrap_or(0);
    let wished = records.iter().map(|r| wishes(r, defaults, seed)).collect::<Result<Vec<_>>>()?;
    let stdout = PathBuf::from("-");
    let sink = Sink::create(args.output.as_ref().unwrap_or(&stdout), args.force)?;
    let session = Session::open(&wanted, &args.common, &screen)?;
    session.tell_ignored(records.iter(), &screen);

    let mut waiting = FuturesOrdered::new();
    for (record, wishes) in records.into_iter().zip(wished) {
        let requests = requests(&session, &record, &wishes)?;
        let record = Rc::new((record, wishes));
        for (index, request) in requests.into_iter().enumerate() {
            let (record, sample) = (record.clone(), session.engine.sample(request));
            waiting.push_back(async move { (record, index, sample.await) });
        }
    }
    screen.phase("generate", "samples", waiting.len() as u64);
    let (progress, tokenizer) = (screen.clone(), session.tokenizer.clone());
    session.drive(async move {
        let mut sink = sink;
        while let Some((record, index, sample)) = waiting.next().await {
            let (record, wishes) = &*record;
            sink.write(&answer(record, wishes, index, &sample?, tokenizer.as_deref())?)?;
            progress.advance("generate", 1);
        }
        sink.finish()
    })?;
    screen.end_phase("generate");
    Ok(())
}
