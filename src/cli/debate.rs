//! `colloquy debate`: agents debate a question, for people to watch.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use clap::Args as ClapArgs;
use serde_json::Value;

use super::common::Common;
use super::council::{Council, CouncilArgs};
use super::lines::{Sink, read_text};
use super::live;
use super::overheard::Overheard;
use super::screen::{Paint, Screen};
use crate::debate::{DrawId, DrawKind, Occasion, Protocol, Round};
use crate::engine::{NoJournal, Scope};
use crate::error::{Error, Result};
use crate::files::json::with_exact_numbers;
use crate::run::Others;
use crate::serve::records::{count, ignored_line, shown};
use crate::task::{self, Question};

/// Options of `debate`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Watch agents debate a question",
    long_about = "N agents answer a question; in every later round each reads a summary of what the others said \
                  and answers again; the last answers vote. Without --society or --adapter all agents are the \
                  base model, which draws a different answer for each. Without --model it is the embedded \
                  model, which knows arithmetic.",
    after_help = "Examples:
  colloquy debate \"What is 3+4*5+6-7*8?\"
  colloquy debate \"12+3*4\" --society runs/first --agents 3
  colloquy debate --model path/to/model \"A train leaves at 3…\" --rounds 3
  colloquy debate --input questions.jsonl --output transcripts.jsonl      {\"question\": …, \"answer\": optional}"
)]
pub struct Args {
    /// The question.
    #[arg(value_name = "QUESTION", required_unless_present = "input")]
    question: Option<String>,
    /// Questions as JSON Lines; `-` is stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "question")]
    input: Option<PathBuf>,
    /// Transcripts as JSON Lines, instead of text on stdout; `-` is stdout.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace --output if it exists.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    council: CouncilArgs,
    #[command(flatten)]
    common: Common,
}

/// A question and where it stands, with the right answer if that is known.
struct Asked {
    place: String,
    question: Question,
    right: Option<String>,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Rc::new(Screen::new());
    let mut asked = read_questions(&args, &screen)?;
    let sink = args.output.as_deref().map(|p| Sink::create(p, args.force)).transpose()?;
    let council = Council::open(&args.council, vec![], &args.common, &screen)?;
    let section = task::resolve(&council.config.task)?;
    if section.prompts.as_deref() == Some("arithmetic") {
        for a in &mut asked {
            let expression = expression(&a.question.text).ok_or_else(|| {
                Error::input(
                    &a.place,
                    format!(
                        "found {:?}, but the arithmetic prompts need an expression such as 3+4*5-6*7 (other \
                         questions: --model DIR)",
                        a.question.text
                    ),
                )
            })?;
            a.question = Question::new(expression);
        }
    }
    for a in &asked {
        council.table.check([&a.question]).map_err(|e| match e {
            Error::Input { problem, .. } => Error::input(&a.place, problem),
            other => other,
        })?;
    }

    let occasion = Occasion { seed: council.seed, iteration: 0, purpose: "asked" };
    let (table, society) = (council.table.clone(), council.society.clone());
    let debate = &council.config.debate;
    let summaries = if debate.others == Others::Summary && debate.agents > 1 { debate.rounds - 1 } else { 0 };
    let turns = asked.len() * debate.agents * (debate.rounds + summaries);
    let service = Overheard {
        engine: council.session.engine.clone(),
        codec: council.codec.clone(),
        screen: screen.clone(),
        phase: "debate",
        // Whoever wants a file does not watch.
        names: if sink.is_none() { speakers(&asked, &table, occasion) } else { HashMap::new() },
    };
    let scope = Scope::new("debate", Rc::new(service), Rc::new(NoJournal));
    let reader = council.task.clone();
    let sink = Rc::new(RefCell::new(sink));
    let (writer, screen_of) = (sink.clone(), screen.clone());
    screen.phase("debate", "answers and summaries", turns as u64);
    council.session.drive(async move {
        let json = |told: serde_json::Result<Value>| told.map_err(|e| Error::Internal(e.to_string()));
        let paint = Paint::stdout();
        for (i, a) in asked.iter().enumerate() {
            let watched = writer.borrow().is_none();
            let right = a.right.as_deref().and_then(|r| reader.reader.canonical(r));
            if watched {
                screen_of.result(&live::question(&a.question.text, paint))?;
            }
            let told = |r: usize, round: &Round| {
                if !watched {
                    return Ok(());
                }
                screen_of.result(&live::round(
                    r,
                    &json(serde_json::to_value(round))?,
                    right.as_deref(),
                    paint,
                ))
            };
            let scope = scope.child(i.to_string());
            let debate = table.debate_told(&scope, &a.question, &society, occasion, told).await?;
            if let Some(sink) = &mut *writer.borrow_mut() {
                sink.write(&json(serde_json::to_value(&debate))?)?;
            }
        }
        Ok(())
    })?;
    screen.end_phase("debate");
    if let Some(sink) = sink.take() {
        sink.finish()?;
    }
    Ok(())
}

/// The labels of all that will be said, by draw key.
fn speakers(asked: &[Asked], table: &Protocol, occasion: Occasion) -> HashMap<u64, String> {
    let paint = Paint::stderr();
    let mut names = HashMap::new();
    for a in asked {
        for agent in 0..table.agents() {
            for round in 1..=table.rounds() {
                let draw = DrawId { agent, round, ..DrawId::answer(occasion, &a.question) };
                names.insert(draw.key(), live::agent_name(agent, paint));
                let summary = DrawId { kind: DrawKind::Summary, ..draw };
                names.insert(summary.key(), live::reads_name(paint));
            }
        }
    }
    names
}

fn read_questions(args: &Args, screen: &Screen) -> Result<Vec<Asked>> {
    let Some(path) = &args.input else {
        let text = args.question.clone().unwrap_or_default();
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::Usage("the question is empty".into()));
        }
        return Ok(vec![Asked { place: "the question".into(), question: Question::new(text), right: None }]);
    };
    let (name, text) = read_text(path)?;
    let (mut asked, mut ignored) = (Vec::new(), Vec::new());
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let place = format!("{name}:{}", i + 1);
        let json = with_exact_numbers(line.trim_start_matches('\u{feff}'));
        let record: Value =
            serde_json::from_str(&json).map_err(|e| Error::input(&place, format!("not JSON: {e}")))?;
        let question = record["question"].as_str().map(str::trim).filter(|q| !q.is_empty());
        let question = question
            .ok_or_else(|| Error::input(format!("{place}: question"), "missing, expected a string"))?;
        let right = match &record["answer"] {
            Value::String(s) => Some(s.clone()),
            Value::Number(n) => Some(n.to_string()),
            Value::Null => None,
            other => {
                let problem = format!("found {}, expected a string or a number", shown(other));
                return Err(Error::input(format!("{place}: answer"), problem));
            }
        };
        for (name, _) in record.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            if ["choices", "options"].contains(&name.as_str()) {
                let problem = "`debate` shows agents the question alone; write the choices into it";
                return Err(Error::input(format!("{place}: {name}"), problem));
            }
            if !["question", "answer"].contains(&name.as_str()) {
                ignored.push(name.clone());
            }
        }
        asked.push(Asked { place, question: Question::new(question), right });
    }
    if asked.is_empty() {
        return Err(Error::input(name, "holds no questions"));
    }
    if let Some(line) = ignored_line(&count(ignored.iter().map(String::as_str))) {
        screen.line(&line);
    }
    Ok(asked)
}

/// The longest arithmetic expression in a text, without spaces.
fn expression(text: &str) -> Option<String> {
    let text = text.replace(['×', '∗'], "*").replace(['−', '–'], "-");
    let is_part = |c: char| c.is_ascii_digit() || "+-* ".contains(c);
    text.split(|c| !is_part(c))
        .map(|run| run.chars().filter(|c| *c != ' ').collect::<String>())
        .map(|run| run.trim_matches(['+', '-', '*']).to_string())
        .filter(|run| run.contains(['+', '-', '*']))
        .max_by_key(String::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_found_in_questions() {
        for (text, expected) in [
            ("What is 3+4*5?", Some("3+4*5")),
            ("3 + 4 * 5 - 6*7", Some("3+4*5-6*7")),
            ("What's 12×3 − 4, please?", Some("12*3-4")),
            ("How many apples?", None),
            ("Is 7 prime?", None),
        ] {
            assert_eq!(expression(text).as_deref(), expected, "{text}");
        }
    }
}
