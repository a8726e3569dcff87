//! `colloquy score`: the log-probability of every token of every record.

use std::rc::Rc;
use std::sync::Arc;

use clap::Args as ClapArgs;
use futures::stream::{FuturesOrdered, StreamExt};

use super::common::{Common, Files, ModelArgs};
use super::lines::{self, Sink};
use super::screen::Screen;
use crate::engine::{ScoreRequest, Service};
use crate::error::Result;
use crate::experiment::Session;
use crate::serve::records::Reader;
use crate::serve::score::Scored;
use crate::serve::tokens::{Purpose, longest};

/// Options of `score`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Compute log-probabilities of texts under the base or its adapters",
    long_about = "Reads JSON Lines, each a sequence, and writes for each the natural-log probability of every \
                  token given those before it. All records, whatever their adapter, share packed batches.",
    after_help = "Input, one of:
  {\"tokens\": [1, 5, 9]}                   used as they are; needs no tokenizer
  {\"text\": \"The sky is blue.\"}            no template
  {\"messages\": [{\"role\": \"user\", …}, …]}  by the chat template
  {\"prompt\": \"2+2=\", \"completion\": \"4\"}  or both lists of messages
each with an optional \"adapter\": NAME and \"id\".
Messages may go with \"tools\" and \"chat_template_kwargs\" for the template. \"eos\":
true adds an end-of-sequence token to a text or completion, which is scored as
given otherwise. \"control_tokens\": true or false reads strings such as <|im_end|>
as tokens or as text; by default they are text in messages and tokens elsewhere.

Output: {\"id\", \"adapter\", \"tokens\": […], \"logprobs\": [null, …]}

Example:
  colloquy score --model embedded --input texts.jsonl --output -"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Rc::new(Screen::new());
    let records = lines::read(&args.files.input, Reader::Score)?;
    let sink = Sink::create(&args.files.output, args.files.force)?;
    let session =
        Session::open_for(&args.model.wanted()?, &args.common.device(), &mut &*screen, |files, codec| {
            longest(files, codec, &records, Purpose::Score)
        })?;
    session.ignored_line(records.iter()).iter().for_each(|line| screen.line(line));

    let mut waiting = FuturesOrdered::new();
    for record in records {
        let (tokens, _) = session.tokens(&record, Purpose::Score)?;
        let request = ScoreRequest { adapter: session.adapter_of(&record)?, tokens: Arc::from(tokens) };
        let tokens = request.tokens.clone();
        let answer = session.engine.score(request);
        waiting.push_back(async move { (record, tokens, answer.await) });
    }
    screen.phase("score", "sequences", waiting.len() as u64);
    let progress = screen.clone();
    session.drive(async move {
        let mut sink = sink;
        while let Some((record, tokens, score)) = waiting.next().await {
            sink.write(&Scored::new(&record, &tokens, &score?))?;
            progress.advance("score", 1);
        }
        sink.finish()
    })?;
    screen.end_phase("score");
    Ok(())
}
