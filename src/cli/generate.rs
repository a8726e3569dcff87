//! `colloquy generate`: continuations of prompts.

use std::path::PathBuf;
use std::rc::Rc;

use clap::Args as ClapArgs;
use futures::stream::{FuturesOrdered, StreamExt};
use serde_json::json;

use super::common::{Common, ModelArgs, whole};
use super::lines::{self, Sink};
use super::screen::Screen;
use crate::engine::{SamplingParams, Service};
use crate::error::Result;
use crate::experiment::{Session, Wanted};
use crate::serve::generate::{Continued, requests, wishes};
use crate::serve::records::{Reader, Record};

/// Options of `generate`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Continue prompts with the base or its adapters, all in the same batches",
    long_about = "Reads JSON Lines, each a prompt, and writes its continuations. All records, whatever their \
                  adapter, share packed batches; what one record yields does not depend on the others, on their \
                  order or on the batch. The same record and seed give the same text: use `n` for several samples.",
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
elsewhere. A field that is none of these and means something to other programs
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
    /// New tokens, unless a record says otherwise.
    #[arg(long, default_value_t = 256, value_name = "N", alias = "max-new-tokens",
          value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Temperature, unless a record says otherwise; 0 is greedy.
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    temperature: f32,
    /// Nucleus mass, unless a record says otherwise.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f32,
    /// Most likely tokens to keep, unless a record says otherwise; 0 keeps all.
    #[arg(long, default_value_t = 0, value_name = "K", value_parser = whole::<u32>)]
    top_k: u32,
    /// Keep tokens at least P times as likely as the most likely one, unless a record says otherwise.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    min_p: f32,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    common: Common,
}

/// The records of --input, or those that --prompt or --message stand for.
fn read_records(args: &Args, wanted: &Wanted) -> Result<Vec<Record>> {
    let (place, content) = match (&args.input, &args.prompt, &args.message) {
        (Some(input), ..) => return lines::read(input, Reader::Generate),
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
    let wanted = args.model.wanted()?;
    let records = read_records(&args, &wanted)?;
    let Args { max_tokens, temperature, top_p, top_k, min_p, .. } = args;
    let defaults = SamplingParams { temperature, top_k, top_p, min_p, max_tokens };
    let seed = args.common.seed.unwrap_or(0);
    let wished = records.iter().map(|r| wishes(r, defaults, seed)).collect::<Result<Vec<_>>>()?;
    let stdout = PathBuf::from("-");
    let sink = Sink::create(args.output.as_ref().unwrap_or(&stdout), args.force)?;
    let session = Session::open(&wanted, &args.common.device(), &mut &*screen)?;
    session.ignored_line(records.iter()).iter().for_each(|line| screen.line(line));

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
            sink.write(&Continued::new(record, wishes, index, sample?, tokenizer.as_deref())?)?;
            progress.advance("generate", 1);
        }
        sink.finish()
    })?;
    screen.end_phase("generate");
    Ok(())
}
