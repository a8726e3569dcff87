//! The tokenizer and chat template of a model folder.

use std::collections::HashSet;
use std::fmt::Display;
use std::rc::Rc;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::contained::contained;
use super::special::SpecialTokens;
use super::{ChatOptions, ChatTemplate, Codec, Message, StopStrings, pipeline};
use crate::engine::StopRule;
use crate::error::{Error, Result};
use crate::files::json::{Fields, parse_object};
use crate::model::{ModelConfig, ModelFiles};

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// tokenizer.json with the chat template of chat_template.jinja or tokenizer_config.json.
///
/// A model without a template reads and continues plain text and tokens; conversations it refuses, since any template made up for it would be
/// one that it was not trained with. As in transformers, a text that looks like a special token is one, wherever it stands: who quotes
/// strangers in a conversation should know. A template writes its own special tokens, so none are put around what it renders.
pub struct ChatTokenizer {
    tokenizer: Rc<Tokenizer>,
    /// Tokens of a line feed, where the tokenizer puts a space before all text: behind them it puts none.
    line_feed: Option<Vec<u32>>,
    special: HashSet<u32>,
    template: Option<ChatTemplate>,
    eos_token_ids: Vec<u32>,
    vocab_size: usize,
    max_positions: usize,
    /// The model's folder.
    place: String,
}

impl ChatTokenizer {
    /// Reads a model's tokenizer and template. A token without a row in the model's embedding is an error where a text has it.
    pub fn new(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        let place = files.file_place(TOKENIZER);
        let bytes = files
            .text(TOKENIZER)
            .ok_or_else(|| Error::input(&place, "missing, expected it for text and messages"))?;
        pipeline::check(bytes, &place)?;
        let wrong =
            |e: &dyn Display| Error::input(&place, format!("found {e}, expected a Hugging Face tokenizer"));
        let tokenizer = contained(|| Tokenizer::from_bytes(bytes)).map_err(|panic| wrong(&panic))?;
        let mut tokenizer = tokenizer.map_err(|e| wrong(&e))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| Error::input(&place, e))?;

        let special_tokens = SpecialTokens::read(files)?;
        special_tokens.add_to(&mut tokenizer)?;

        let plain = |text: &str| ids(&tokenizer, text, false);
        let line_feed = match (plain("\n"), plain("\na"), plain("a")) {
            (Ok(line_feed), Ok(both), Ok(alone)) => {
                both.strip_prefix(&line_feed[..]).is_some_and(|rest| rest != alone).then_some(line_feed)
            }
            _ => None,
        };

        let added = tokenizer.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();

        Ok(Self {
            tokenizer: Rc::new(tokenizer),
            special,
            line_feed,
            template: read_template(files, special_tokens.names())?,
            eos_token_ids: config.eos_token_ids.clone(),
            vocab_size: config.vocab_size,
            max_positions: config.max_positions,
            place: files.place().to_string(),
        })
    }

    /// Tokens of plain text, with the special tokens the tokenizer puts around it (such as a beginning-of-sequence token).
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text, true)
    }

    /// Tokens of text that continues other text: nothing is put around it, not even the space that some tokenizers begin with.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        if let Some(line_feed) = &self.line_feed {
            let behind = self.encode(&format!("\n{text}"), false)?;
            if let Some(tokens) = behind.strip_prefix(&line_feed[..]) {
                return Ok(tokens.to_vec());
            }
        }
        self.encode(text, false)
    }

    /// Whether [`Codec::prompt`] and [`Codec::training`] work.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let place = || format!("{}/{TOKENIZER}", self.place);
        let ids = ids(&self.tokenizer, text, special).map_err(|problem| Error::input(place(), problem))?;
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            None => Ok(ids),
            Some(id) => {
                // A post-processor has ids of its own, which need not be those of its tokens.
                let token = self.tokenizer.id_to_token(*id).unwrap_or_default();
                let problem = format!(
                    "found token {token:?} with id {id} in a text, expected ids below vocab_size = {} of config.json",
                    self.vocab_size
                );
                Err(Error::input(place(), problem))
            }
        }
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            Error::input(
                &self.place,
                format!("found no chat template, expected {TEMPLATE} or chat_template in {TOKENIZER_CONFIG}"),
            )
        })
    }

    /// Makes `sequence` stand for `text`, which begins with the text it stands for so far. Where the tokenizer would merge across the border,
    /// it does not: a model that generates never sees such a merge either.
    fn extend(&self, sequence: &mut Rendered, text: &str) -> Result<()> {
        let whole = self.encode(text, false)?;
        if whole.starts_with(&sequence.tokens) {
            sequence.tokens = whole;
        } else {
            let rest = self.encode_continuation(&text[sequence.text.len()..])?;
            sequence.tokens.extend(rest);
        }
        sequence.text = text.to_string();
        Ok(())
    }

    /// The tokens of an assistant's turn that it would have to generate: up to its first end-of-sequence token, if it has one.
    fn generated(&self, turn: &[u32]) -> usize {
        turn.iter().position(|t| self.eos_token_ids.contains(t)).map_or(turn.len(), |i| i + 1)
    }

    /// The error of a turn whose text is another one in the whole conversation.
    fn rewritten(&self, turn: usize, whole: &str, part: &str) -> Error {
        let common = whole.bytes().zip(part.bytes()).take_while(|(a, b)| a == b).count();
        let place = self.template.as_ref().map_or(&*self.place, |template| template.place());
        Error::input(
            place,
            format!(
                "found a template that rewrites earlier turns when one is added (message {} at byte {common} of its text), expected one that \
                 only appends, so that the assistant's tokens are known; or weight 0 for all of the assistant's turns but the last",
                turn + 1
            ),
        )
    }
}

/// The ids of a text. The error lacks its place.
fn ids(tokenizer: &Tokenizer, text: &str, special: bool) -> std::result::Result<Vec<u32>, String> {
    let encoding = contained(|| tokenizer.encode_fast(text, special))
        .map_err(|panic| format!("found a tokenizer that fails on a text ({panic})"))?;
    Ok(encoding.map_err(|e| e.to_string())?.get_ids().to_vec())
}

/// A conversation so far.
#[derive(Clone, Default)]
struct Rendered {
    text: String,
    tokens: Vec<u32>,
}

fn some_messages(messages: &[Message]) -> Result<()> {
    match messages.is_empty() {
        true => Err(Error::input("messages", "found no message, expected at least one")),
        false => Ok(()),
    }
}

impl ChatTokenizer {
    /// [`Codec::prompt`] with tools and variables of the template.
    pub fn prompt_with(&self, messages: &[Message], options: &ChatOptions) -> Result<Vec<u32>> {
        some_messages(messages)?;
        self.encode(&self.template()?.render_with(messages, options, true)?, false)
    }

    /// [`Codec::training`] with tools and variables of the template.
    ///
    /// The tokens are those of the conversation as the template renders it whole. Each assistant turn begins where the prompt for it ends. Its
    /// loss reaches up to its first end-of-sequence token: what the template puts after that (a line break, say) is never generated.
    ///
    /// A template may close a conversation with more than it puts between turns, as Phi-3's does; one that renders an earlier turn in
    /// another way than the last one, as Qwen3's does with thoughts, gives no loss to any turn but the last.
    pub fn training_with(&self, messages: &[Message], options: &ChatOptions) -> Result<(Vec<u32>, Vec<f32>)> {
        some_messages(messages)?;
        let template = self.template()?;
        let whole = template.render_with(messages, options, false)?;
        let mut sequence = Rendered::default();
        let mut spans = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.role == "assistant") {
            let weight = message.weight.map_or(1.0, f32::from);
            let prompt = template.render_with(&messages[..i], options, true)?;
            if !(whole.starts_with(&prompt) && prompt.starts_with(&sequence.text)) {
                if weight == 0.0 {
                    continue;
                }
                return Err(self.rewritten(i, &whole, &prompt));
            }
            self.extend(&mut sequence, &prompt)?;
            let start = sequence.tokens.len();

            let closed = template.render_with(&messages[..=i], options, false)?;
            let mut turn = sequence.clone();
            if closed.starts_with(&prompt) {
                self.extend(&mut turn, &closed)?;
            }
            let mut end = start + self.generated(&turn.tokens[start..]);
            let mut tokens = turn.tokens.clone();
            if whole.starts_with(&closed) && closed.starts_with(&prompt) {
                sequence = turn;
            } else {
                // The turn is closed in another way here. It counts as far as both agree, if that is all of what is generated.
                let mut going_on = sequence.clone();
                self.extend(&mut going_on, &whole)?;
                let same = turn.tokens.iter().zip(&going_on.tokens).take_while(|(a, b)| a == b).count();
                let only_closes = || turn.tokens[same..].iter().all(|t| self.special.contains(t));
                if same <= start || (end > same && !only_closes()) {
                    if weight == 0.0 {
                        continue;
                    }
                    return Err(self.rewritten(i, &whole, &closed));
                }
                end = end.min(same);
            }
            tokens.truncate(end);
            spans.push((i, start, tokens, weight));
        }
        self.extend(&mut sequence, &whole)?;
        let mut weights = vec![0.0; sequence.tokens.len()];
        for (i, start, tokens, weight) in spans {
            if !sequence.tokens.starts_with(&tokens) {
                return Err(self.rewritten(i, &whole, &whole));
            }
            weights[start..tokens.len()].fill(weight);
        }
        Ok((sequence.tokens, weights))
    }

    /// Whether the chat template can read a message's field of this name. Without a template: yes, as its absence is the error.
    pub fn reads_field(&self, name: &str) -> bool {
        self.template.as_ref().is_none_or(|template| template.reads_field(name))
    }

    /// Whether a conversation is rendered in another way without the messages' field of this name. What cannot be rendered counts as if it were.
    pub fn shows_field(&self, messages: &[Message], options: &ChatOptions, name: &str) -> bool {
        let Some(template) = &self.template else { return true };
        let mut without = messages.to_vec();
        without.iter_mut().for_each(|message| drop(message.given.shift_remove(name)));
        let render = |messages: &[Message]| template.render_with(messages, options, false).ok();
        match (render(messages), render(&without)) {
            (Some(with), Some(without)) => with != without,
            _ => true,
        }
    }

    /// Whether the chat template names this variable.
    pub fn reads_variable(&self, name: &str) -> bool {
        self.template.as_ref().is_none_or(|template| template.reads_variable(name))
    }
}

impl Codec for ChatTokenizer {
    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.prompt_with(messages, &ChatOptions::default())
    }

    fn training(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<f32>)> {
        self.training_with(messages, &ChatOptions::default())
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_text(text)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        let place = || format!("{}/{TOKENIZER}", self.place);
        contained(|| self.tokenizer.decode(tokens, true))
            .map_err(|panic| {
                Error::input(place(), format!("found a decoder that fails on tokens ({panic})"))
            })?
            .map_err(|e| Error::input(place(), e))
    }

    fn stop_rule(&self, strings: &[String]) -> Option<Rc<dyn StopRule>> {
        StopStrings::new(self.tokenizer.clone(), strings).map(|rule| Rc::new(rule) as Rc<dyn StopRule>)
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }
}

/// The template of chat_template.jinja, else of tokenizer_config.json: a string, or a list of named ones of which `default` counts.
fn read_template(
    files: &ModelFiles,
    special_tokens: Vec<(String, String)>,
) -> Result<Option<ChatTemplate>> {
    let place = files.file_place(TOKENIZER_CONFIG);
    let map = match files.text(TOKENIZER_CONFIG) {
        Some(bytes) => parse_object(bytes, &place)?,
        None => Default::default(),
    };
    let fields = Fields { place: &place, prefix: "", map: &map };

    if let Some(bytes) = files.text(TEMPLATE) {
        let place = files.file_place(TEMPLATE);
        let source = std::str::from_utf8(bytes)
            .map_err(|e| Error::input(&place, format!("found {e}, expected UTF-8 text")))?;
        return ChatTemplate::new(source, special_tokens, place).map(Some);
    }
    const EXPECTED: &str = "a template, or a list of templates with one named default";
    let source = match fields.get("chat_template") {
        None => return Ok(None),
        Some(Value::String(source)) => source.as_str(),
        Some(v) => v
            .as_array()
            .and_then(|list| list.iter().find(|t| t["name"] == "default"))
            .and_then(|t| t["template"].as_str())
            .ok_or_else(|| fields.wrong("chat_template", v, EXPECTED))?,
    };
    ChatTemplate::new(source, special_tokens, fields.name("chat_template")).map(Some)
}
