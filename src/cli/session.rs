//! `colloquy session`: a resident model that other programs talk to, in JSON Lines on stdin and stdout.

use std::io::Write;
use std::path::Path;

use clap::Args as ClapArgs;
use serde::Serialize;
use serde_json::{Value, json};

use super::common::{Common, ModelArgs, whole};
use super::lines::{line, too_long};
use super::screen::Screen;
use crate::error::{Error, Result};
use crate::files::{Line, MAX_LINE, read_line, skip_line};
use crate::serve::{Response, Server, ServerOptions};

/// Options of `session`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Keep a model resident and answer requests on stdin, one JSON object a line",
    long_about = "Loads the model once and answers one request a line with one line, until stdin ends. All \
                  records of a request share batches, whatever their adapter. A wrong request is answered with \
                  an error; the session continues.",
    after_help = "Requests, each with an \"id\" of yours (copied to the answer):
  {\"op\": \"load\", \"adapter\": NAME, \"source\": \"DIR\", \"OWNER/NAME\" or \"new:rank=16,init-seed=7\"}
  {\"op\": \"generate\", \"records\": [{\"messages\": […], \"adapter\": NAME, \"temperature\": …, …}, …]}
  {\"op\": \"score\", \"records\": [{\"text\": …, \"adapter\": NAME}, …]}
  {\"op\": \"train\", \"adapters\": {NAME: {\"records\": […], \"learning_rate\": …, \"num_epochs\": …}, …}}
      fields as the options of `train`, such as \"normalizer\": \"tokens\" if weights are negative;
      \"key\" decides the order of the data, \"keep_moments\" keeps AdamW's
  {\"op\": \"grade\", \"task\": \"gsm8k\", \"records\": [{\"response\": …, \"reference\": …}, …]}
      as `grade` does; \"set\": [\"task.extraction=boxed\"] as its --set
  {\"op\": \"clone\", \"adapter\": NAME, \"to\": NAME}
  {\"op\": \"reset\", \"adapter\": NAME}                 as it was when it was loaded
  {\"op\": \"save\", \"adapter\": NAME, \"output\": DIR}    a PEFT folder; \"force\": true replaces one
  {\"op\": \"drop\", \"adapter\": NAME}
  {\"op\": \"list\"}
Records are those of `generate`, `score` and `train`; fields of theirs that are not read are counted in the answer, as
{\"id\": …, \"ignored\": {\"source\": 40}, \"result\": …}. A line may have at most 64 MiB. \
With \"prompt_tokens\": true, `generate` also gives the prompt's.
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

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Screen::new();
    let options = ServerOptions {
        seed: args.common.seed.unwrap_or(0),
        max_loras: args.max_loras,
        max_lora_rank: args.max_lora_rank,
        training: !args.no_training,
    };
    let wanted = args.model.wanted()?;
    let mut server = Server::open(wanted, options, &args.common.device(), &mut &screen)?;
    say(&server.greeting())?;
    let mut lines = std::io::stdin().lock();
    let mut text = Vec::new();
    let stdin = |e| Error::io(Path::new("stdin"))(e);
    for number in 1.. {
        let place = format!("stdin:{number}");
        match read_line(&mut lines, &mut text, MAX_LINE).map_err(stdin)? {
            Line::End => break,
            Line::TooLong => {
                say(&json!({"id": null, "error": too_long(&place).one_line()}))?;
                skip_line(&mut lines).map_err(stdin)?;
            }
            Line::Whole if text.trim_ascii().is_empty() => {}
            Line::Whole => {
                let (id, request) = server.read(&text, &place);
                match request.and_then(|request| server.answer(request, &place, &mut &screen)) {
                    Ok(response) => say(&Answered { id, response })?,
                    Err(Error::Internal(problem)) => {
                        say(&json!({"id": id, "error": problem}))?;
                        return Err(Error::Internal(problem));
                    }
                    Err(e) => say(&json!({"id": id, "error": e.one_line()}))?,
                }
            }
        }
        // A long line is no reason to hold its memory from then on.
        text.shrink_to(KEPT_LINE);
    }
    Ok(())
}

/// Bytes of a line's memory that are kept for the next.
const KEPT_LINE: usize = 1 << 20;

/// A response as it is written.
#[derive(Serialize)]
struct Answered {
    id: Value,
    #[serde(flatten)]
    response: Response,
}

fn say(answer: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", line(answer)?).and_then(|()| out.flush()).map_err(Error::io(Path::new("stdout")))
}
