//! The tokenizer and chat template of a model folder.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::contained::contained;
use super::encoder::{Encoder, Marked};
use super::quoted::{Conversation, Reading};
use super::special::SpecialTokens;
use super::turns::Turns;
use super::{ChatOptions, ChatTemplate, Codec, Message, pipeline, special, stop};
use crate::engine::{StopRules, Watch, draw_key};
use crate::error::{Error, Result};
use crate::files::json::{Fields, parse_object};
use crate::model::{ModelConfig, ModelFiles};

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// tokenizer.json with the special tokens of the files beside it, and the chat template of
/// chat_template.jinja or tokenizer_config.json.
///
/// A model without a template reads and continues plain text and tokens; conversations it refuses,
/// since any template made up for it would be one that it was not trained with. A template writes
/// its own special tokens, so none are put around what it renders.
///
/// *Control tokens* are the special tokens, those with a name (`eos_token`, …), those that end a
/// sequence, and those that the template puts around the turns of users. As a [`Codec`], which
/// debates and recipes speak through, nothing in a message becomes one: agents quote one another,
/// and a question or an answer with `<|im_end|>` in it must not end a turn. Other added tokens,
/// such as Qwen3's `</think>`, are tokens wherever they stand, as in transformers: a model writes
/// them itself, and they open no turn.
pub struct ChatTokenizer {
    /// A hash of the files that decide which text tokens have.
    id: u64,
    encoder: Encoder,
    template: Option<ChatTemplate>,
    eos_token_ids: Vec<u32>,
    /// The token that ends a text which is trained on.
    end: Option<u32>,
    max_positions: usize,
    /// The model's folder.
    place: String,
}

impl ChatTokenizer {
    /// Reads a model's tokenizer and template. A token without a row in the model's embedding is an
    /// error where a text has it.
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
        let own: HashSet<String> = special_strings(&tokenizer).collect();
        special_tokens.add_to(&mut tokenizer)?;

        let named_end = special_tokens.named("eos_token").and_then(|token| tokenizer.token_to_id(token));
        let eos_token_ids = config.eos_token_ids.clone();
        let is_control = |id: u32, token: &AddedToken| {
            let is_named = special_tokens.contents().any(|named| named == token.content);
            // A name such as `pad_token` makes no control token of a character that people write.
            let is_character = token.content.chars().count() < 2 && !own.contains(&token.content);
            (token.special || is_named || eos_token_ids.contains(&id)) && !is_character
        };
        let (vocab_size, max_positions) = (config.vocab_size, config.max_positions);
        let mut encoder = Encoder::new(tokenizer, bytes, is_control, vocab_size, max_positions, place)?;
        let template = read_template(files, special_tokens.names())?;
        if let Some(template) = &template {
            encoder.control_too(turn_tokens(template, &encoder)?)?;
        }
        let files_of_texts = [TOKENIZER, TOKENIZER_CONFIG, special::MAP, special::ADDED];
        let of_texts = files_of_texts.map(|name| files.text(name).unwrap_or_default());
        Ok(Self {
            id: draw_key(&of_texts),
            encoder,
            template,
            end: named_end.or(eos_token_ids.first().copied()),
            eos_token_ids,
            max_positions,
            place: files.place().to_string(),
        })
    }

    /// Tokens of plain text, with the special tokens the tokenizer puts around it (such as a
    /// beginning-of-sequence token). Strings of control tokens in it are the tokens, as in
    /// transformers.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.text_as(text, Reading::Tokens)
    }

    /// The same, with strings of control tokens read as `reading` says.
    pub fn text_as(&self, text: &str, reading: Reading) -> Result<Vec<u32>> {
        self.encoder.encode(&self.marked(text, reading)?, true)
    }

    /// Tokens of plain text that is to be continued: nothing is put behind it, such as the
    /// end-of-sequence token of some tokenizers.
    pub fn open_text(&self, text: &str, reading: Reading) -> Result<Vec<u32>> {
        let inner = self.encoder.encode(&self.marked(text, reading)?, false)?;
        Ok([self.encoder.around()?.0, inner].concat())
    }

    /// Tokens of text that continues other text: nothing is put around it, not even the space that
    /// some tokenizers begin with.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        self.encoder.continuation(&Marked::plain(text), 0)
    }

    /// A prompt's tokens by [`ChatTokenizer::open_text`] with those of its completion. What the
    /// tokenizer puts behind a text stands behind the completion, and nothing between the two.
    pub fn completed(&self, prompt: &[u32], completion: &str, reading: Reading) -> Result<Vec<u32>> {
        let completion = self.encoder.continuation(&self.marked(completion, reading)?, 0)?;
        Ok([prompt, &completion, &self.encoder.around()?.1].concat())
    }

    /// Tokens of a text that is trained on: an end-of-sequence token is behind it. One is put there
    /// unless there is one already: the `eos_token` of the tokenizer's files, else the first
    /// `eos_token_id` of the model's configuration.
    ///
    /// TRL's `SFTTrainer` does so for `text` and `completion`.
    pub fn ended(&self, mut tokens: Vec<u32>) -> Result<Vec<u32>> {
        let end = self.end.ok_or_else(|| {
            Error::input(
                &self.place,
                format!("found no end-of-sequence token to train, expected eos_token in {TOKENIZER_CONFIG} or \"eos\": false"),
            )
        })?;
        if !tokens.last().is_some_and(|last| *last == end || self.eos_token_ids.contains(last)) {
            tokens.push(end);
        }
        Ok(tokens)
    }

    /// Whether conversations can be read.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// [`Codec::prompt`] with tools and variables of the template, and with strings of control
    /// tokens in the messages read as `reading` says.
    pub fn prompt_as(
        &self,
        messages: &[Message],
        options: &ChatOptions,
        reading: Reading,
    ) -> Result<Vec<u32>> {
        some_messages(messages)?;
        let template = self.template()?;
        let talk = Conversation { template, encoder: &self.encoder, options, reading };
        self.encoder.encode(&talk.render(messages, true)?, false)
    }

    /// [`Codec::training`], with tools, variables and strings of control tokens as for
    /// [`ChatTokenizer::prompt_as`].
    pub fn training_as(
        &self,
        messages: &[Message],
        options: &ChatOptions,
        reading: Reading,
    ) -> Result<(Vec<u32>, Vec<f32>)> {
        self.turns(messages, options, reading)?.tokens(messages, true)
    }

    /// Tokens of a whole conversation: those of [`ChatTokenizer::training_as`], also where it is
    /// not known which of them are the assistant's.
    pub fn conversation_as(
        &self,
        messages: &[Message],
        options: &ChatOptions,
        reading: Reading,
    ) -> Result<Vec<u32>> {
        Ok(self.turns(messages, options, reading)?.tokens(messages, false)?.0)
    }

    fn turns<'a>(
        &'a self,
        messages: &[Message],
        options: &'a ChatOptions,
        reading: Reading,
    ) -> Result<Turns<'a>> {
        some_messages(messages)?;
        let template = self.template()?;
        let talk = Conversation { template, encoder: &self.encoder, options, reading };
        Ok(Turns { talk, ends: &self.eos_token_ids })
    }

    /// Whether the chat template can read a message's field of this name. Without a template: yes,
    /// as its absence is the error.
    pub fn reads_field(&self, name: &str) -> bool {
        self.template.as_ref().is_none_or(|template| template.reads_field(name))
    }

    /// Whether a conversation is rendered in another way without the messages' field of this name.
    /// What cannot be rendered counts as if it were.
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

    /// A text outside any conversation.
    fn marked(&self, text: &str, reading: Reading) -> Result<Marked> {
        self.encoder.check(text)?;
        let plain = Marked::plain(text);
        Ok(match reading {
            Reading::Text if !self.encoder.found(text)?.is_empty() => Marked { own: Some(vec![]), ..plain },
            _ => plain,
        })
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            Error::input(
                &self.place,
                format!("found no chat template, expected {TEMPLATE} or chat_template in {TOKENIZER_CONFIG}"),
            )
        })
    }
}

/// The strings of a tokenizer's special tokens.
fn special_strings(tokenizer: &Tokenizer) -> impl Iterator<Item = String> {
    let added = tokenizer.get_added_tokens_decoder().into_values();
    added.filter(|token| token.special).map(|token| token.content)
}

fn some_messages(messages: &[Message]) -> Result<()> {
    match messages.is_empty() {
        true => Err(Error::input("messages", "found no message, expected at least one")),
        false => Ok(()),
    }
}

/// The added tokens that a template puts around a user's turn and at the beginning of an
/// assistant's. Files that are not careful list them as added tokens like any other, not as special
/// ones. Words and whitespace are no such tokens.
fn turn_tokens(template: &ChatTemplate, encoder: &Encoder) -> Result<BTreeMap<u32, String>> {
    let says = |role: &str| Message { role: role.into(), ..Message::user("\u{f0000}") };
    let mut found = BTreeMap::new();
    let added = encoder.tokenizer().get_added_tokens_decoder();
    let mut note = |id: u32| {
        if let Some(token) = added.get(&id).filter(|t| t.content.contains(is_mark)) {
            found.insert(id, token.content.clone());
        }
    };
    for messages in [vec![says("user")], vec![says("system"), says("user")]] {
        let Ok(text) = template.render(&messages, false) else { continue };
        encoder.added(&text)?.into_iter().for_each(|(_, id)| note(id));
        if let Ok(prompt) = template.render(&messages, true)
            && let Some(opening) = prompt.strip_prefix(&text)
        {
            encoder.added(opening)?.into_iter().take(1).for_each(|(_, id)| note(id));
        }
    }
    Ok(found)
}

/// A character that is in no word.
fn is_mark(c: char) -> bool {
    !c.is_alphanumeric() && !c.is_whitespace()
}

impl StopRules for ChatTokenizer {
    fn tokenizer(&self) -> u64 {
        self.id
    }

    fn watch(&self, strings: &[String]) -> Watch {
        stop::watch(self.encoder.tokenizer().clone(), strings)
    }
}

impl Codec for ChatTokenizer {
    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.prompt_as(messages, &ChatOptions::default(), Reading::Text)
    }

    fn training(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<f32>)> {
        self.training_as(messages, &ChatOptions::default(), Reading::Text)
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.encoder.encode_any(&Marked::plain(text), true)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        let place = || format!("{}/{TOKENIZER}", self.place);
        contained(|| self.encoder.tokenizer().decode(tokens, true))
            .map_err(|panic| {
                Error::input(place(), format!("found a decoder that fails on tokens ({panic})"))
            })?
            .map_err(|e| Error::input(place(), e))
    }

    fn template_place(&self) -> String {
        self.template.as_ref().map_or(&*self.place, ChatTemplate::place).to_string()
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }
}

/// The template of chat_template.jinja, else of tokenizer_config.json: a string, or a list of named
/// ones of which `default` counts.
fn read_template(files: &ModelFiles, special_tokens: Vec<(String, String)>) -> Result<Option<ChatTemplate>> {
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
