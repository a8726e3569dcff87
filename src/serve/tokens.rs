//! From a record to its tokens, and to the fields of it that nothing reads.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::records::{self, Content, Record};
use crate::engine::AdapterId;
use crate::error::{Error, Result};
use crate::experiment::Session;
use crate::model::ModelFiles;
use crate::text::{ChatTokenizer, Message, Reading, SUBSTANTIAL};

impl Session {
    /// The tokenizer, or an error that says what lacks it.
    pub fn codec(&self, place: &str) -> Result<&ChatTokenizer> {
        needed(&self.files, self.tokenizer.as_deref(), place)
    }

    /// The adapter of a record.
    pub fn adapter_of(&self, record: &Record) -> Result<AdapterId> {
        let Some(name) = &record.adapter else { return Ok(AdapterId::BASE) };
        self.adapters.get(name).copied().ok_or_else(|| {
            let known: Vec<&str> = self.adapters.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            record.error("adapter", format!("unknown adapter `{name}`; given with --adapter: {known}"))
        })
    }

    /// Tokens of a record, and the loss weights of each.
    pub fn tokens(&self, record: &Record, purpose: Purpose) -> Result<(Vec<u32>, Vec<f32>)> {
        let (field, tokens, weights) = tokens(&self.files, self.tokenizer.as_deref(), record, purpose)?;
        let prompt = purpose == Purpose::Continue;
        let (vocab, context) = self.engine.with(|e| (e.config().vocab_size, e.config().max_positions));
        if let Some(t) = tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(
                record.error(field, format!("found token {t}, expected less than {vocab}, the vocabulary"))
            );
        }
        if tokens.is_empty() {
            return Err(record.error(field, "found no tokens, expected at least one"));
        }
        let room = if prompt { context - 1 } else { context };
        if tokens.len() > room {
            let what = if prompt { "a prompt that leaves room for one token of" } else { "at most" };
            return Err(record.error(
                field,
                format!("found {} tokens, expected {what} the model's context of {context}", tokens.len()),
            ));
        }
        Ok((tokens, weights))
    }

    /// A line that names the fields of records that are not read; none if all are.
    pub fn ignored_line<'a>(&self, records: impl Iterator<Item = &'a Record> + Clone) -> Option<String> {
        records::ignored_line(&ignored(self.tokenizer.as_deref(), records))
    }
}

fn needed<'a>(
    files: &ModelFiles,
    codec: Option<&'a ChatTokenizer>,
    place: &str,
) -> Result<&'a ChatTokenizer> {
    codec.ok_or_else(|| {
        Error::input(
            place,
            format!("{} has no tokenizer.json; only records with `tokens` work with it", files.place()),
        )
    })
}

/// What a record's tokens are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be continued: no end-of-sequence token is put behind them.
    Continue,
    /// To be read as they are given. With `"eos": true` a text or completion gets an
    /// end-of-sequence token.
    Score,
    /// To be trained on. A text or completion gets an end-of-sequence token, unless the record
    /// says `"eos": false`.
    Train,
}

/// Tokens of the longest of some records.
pub fn longest<'a>(
    files: &ModelFiles,
    codec: Option<&Rc<ChatTokenizer>>,
    records: impl IntoIterator<Item = &'a Record>,
    purpose: Purpose,
) -> Result<usize> {
    records.into_iter().try_fold(0, |longest, record| {
        let (_, tokens, _) = tokens(files, codec.map(|codec| &**codec), record, purpose)?;
        Ok(longest.max(tokens.len()))
    })
}

/// The field that a record's text is in, its tokens, and the loss weights of each.
fn tokens<'a>(
    files: &ModelFiles,
    codec: Option<&ChatTokenizer>,
    record: &'a Record,
    purpose: Purpose,
) -> Result<(&'a str, Vec<u32>, Vec<f32>)> {
    let codec = || needed(files, codec, &record.place);
    let at = |field: &str| {
        let place = format!("{}: {field}", record.place);
        move |e: Error| e.at(&place)
    };
    let ones = |tokens: Vec<u32>| {
        let weights = vec![1.0; tokens.len()];
        (tokens, weights)
    };
    let control_tokens: Option<bool> = record.field("control_tokens", "true or false")?;
    let reading = |default| match control_tokens {
        None => default,
        Some(true) => Reading::Tokens,
        Some(false) => Reading::Text,
    };
    let eos: Option<bool> = record.field("eos", "true or false")?;
    match &record.content {
        Content::Tokens(..) if control_tokens.is_some() => {
            return Err(record.error("control_tokens", "found it beside `tokens`, expected it beside text"));
        }
        Content::Tokens(..) | Content::Messages(_) if eos.is_some() => {
            return Err(record.error("eos", "found it here, expected it beside `text` or `completion`"));
        }
        _ => {}
    }
    let ends = eos.unwrap_or(purpose == Purpose::Train);
    let ended = |tokens: Vec<u32>| if ends { codec()?.ended(tokens) } else { Ok(tokens) };
    let (field, (tokens, weights)) = match &record.content {
        Content::Tokens(tokens, weights) => {
            let weights = weights.clone().unwrap_or_else(|| vec![1.0; tokens.len()]);
            ("tokens", (tokens.clone(), weights))
        }
        Content::Text(text) => {
            let (reading, field) = (reading(Reading::Tokens), record.content_field);
            let tokens = match purpose {
                Purpose::Continue => codec()?.open_text(text, reading),
                Purpose::Score | Purpose::Train => codec()?.text_as(text, reading),
            };
            (field, ones(tokens.and_then(ended).map_err(at(field))?))
        }
        Content::Messages(messages) => {
            let (codec, reading, field) = (codec()?, reading(Reading::Text), record.content_field);
            check_template(codec, record, messages)?;
            let options = &record.chat;
            let tokens = match purpose {
                Purpose::Continue => codec.prompt_as(messages, options, reading).map(ones),
                Purpose::Score => codec.conversation_as(messages, options, reading).map(ones),
                Purpose::Train => codec.training_as(messages, options, reading),
            };
            (field, tokens.map_err(at(field))?)
        }
        Content::PromptCompletion(before, after) => {
            let (codec, reading) = (codec()?, reading(Reading::Tokens));
            let prompt = codec.open_text(before, reading).map_err(at("prompt"))?;
            let tokens = codec.completed(&prompt, after, reading).and_then(ended);
            let tokens = tokens.map_err(at("completion"))?;
            let mut weights = vec![0.0; prompt.len()];
            weights.resize(tokens.len(), 1.0);
            ("prompt", (tokens, weights))
        }
    };
    Ok((field, tokens, weights))
}

/// Refuses what a conversation says that the model's chat template leaves out.
fn check_template(codec: &ChatTokenizer, record: &Record, messages: &[Message]) -> Result<()> {
    const PROBLEM: &str = "the model's chat template does not read it; leave it out";
    for (i, message) in messages.iter().enumerate() {
        if let Some(name) = message.more().find(|name| SUBSTANTIAL.contains(name) && !codec.reads_field(name))
        {
            return Err(record.error(&format!("{}[{i}].{name}", record.content_field), PROBLEM));
        }
    }
    if record.chat.tools.as_ref().is_some_and(|tools| !tools.is_empty()) && !codec.reads_variable("tools") {
        return Err(record.error("tools", PROBLEM));
    }
    match record.chat.kwargs.keys().find(|name| !codec.reads_variable(name)) {
        Some(name) => Err(record.error(&format!("chat_template_kwargs.{name}"), PROBLEM)),
        None => Ok(()),
    }
}

/// Fields of messages that are looked at, and records of which it is tried whether a message's
/// field shows in what the template makes of them.
const TRIED: usize = 100;

/// Fields of records and of their messages that are not read, and in how many records each is. A
/// message's field is read if it changes what the template makes of any of the first records that
/// have it.
pub fn ignored<'a>(
    codec: Option<&ChatTokenizer>,
    records: impl Iterator<Item = &'a Record> + Clone,
) -> Map<String, Value> {
    let mut counts = records::count(records.clone().flat_map(|r| r.ignored.iter().map(String::as_str)));
    let Some(codec) = codec else { return counts };
    // Those that have each field.
    let mut having: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        let Content::Messages(messages) = &record.content else { continue };
        for name in messages.iter().flat_map(Message::more) {
            let of = having.entry(name).or_default();
            if !of.last().is_some_and(|last| std::ptr::eq(*last, record)) {
                of.push(record);
            }
        }
    }
    for (name, of) in having.into_iter().take(TRIED) {
        let shows = |record: &&&Record| match &record.content {
            Content::Messages(messages) => codec.shows_field(messages, &record.chat, name),
            _ => false,
        };
        if !(codec.reads_field(name) && of.iter().take(TRIED).any(|record| shows(&record))) {
            counts.insert(format!("messages.{name}"), of.len().into());
        }
    }
    counts
}
