//! The tokenizer and chat template of a model folder.

use std::rc::Rc;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::{ChatTemplate, Codec, Message, StopStrings};
use crate::engine::StopRule;
use crate::error::{Error, Result};
use crate::files::json::{Fields, parse_object};
use crate::model::{ModelConfig, ModelFiles};

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// tokenizer.json with the chat template of chat_template.jinja or tokenizer_config.json.
pub struct ChatTokenizer {
    tokenizer: Rc<Tokenizer>,
    template: Option<ChatTemplate>,
    eos_token_ids: Vec<u32>,
    max_positions: usize,
    /// The model's folder.
    place: String,
}

impl ChatTokenizer {
    /// Reads a model's tokenizer and template and checks that every token has a row in the model's embedding.
    pub fn new(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        let place = files.file_place(TOKENIZER);
        let bytes = files
            .text(TOKENIZER)
            .ok_or_else(|| Error::input(&place, "missing, expected it for text and messages"))?;
        let mut tokenizer = Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::input(&place, format!("found {e}, expected a Hugging Face tokenizer")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| Error::input(&place, e))?;

        let vocabulary = tokenizer.get_vocab(true);
        if let Some((token, id)) =
            vocabulary.iter().max_by_key(|(_, id)| **id).filter(|(_, id)| **id as usize >= config.vocab_size)
        {
            return Err(Error::input(
                &place,
                format!(
                    "found token {token:?} with id {id}, expected ids below vocab_size = {} of config.json",
                    config.vocab_size
                ),
            ));
        }

        Ok(Self {
            tokenizer: Rc::new(tokenizer),
            template: read_template(files)?,
            eos_token_ids: config.eos_token_ids.clone(),
            max_positions: config.max_positions,
            place: files.place().to_string(),
        })
    }

    /// Tokens of plain text, with the special tokens the tokenizer puts around it (such as a beginning-of-sequence token).
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text, true)
    }

    /// Tokens of text that continues other text: nothing is put around it.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text, false)
    }

    /// Whether [`Codec::prompt`] and [`Codec::training`] work.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, special)
            .map_err(|e| Error::input(format!("{}/{TOKENIZER}", self.place), e))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            Error::input(
                &self.place,
                format!("found no chat template, expected {TEMPLATE} or chat_template in {TOKENIZER_CONFIG}"),
            )
        })
    }

    /// Makes `sequence` stand for `text`, of which it stands for a prefix so far. Where the tokenizer would merge across the border, it does
    /// not: a model that generates never sees such a merge either.
    fn extend(&self, sequence: &mut Rendered, text: String) -> Result<()> {
        if !text.starts_with(&sequence.text) {
            let common = text.bytes().zip(sequence.text.bytes()).take_while(|(a, b)| a == b).count();
            return Err(Error::input(
                self.template()?.place(),
                format!(
                    "found a template that rewrites earlier turns when one is added (at byte {common} of its text), \
                     expected one that only appends, so that the assistant's tokens are known"
                ),
            ));
        }
        let whole = self.encode(&text, false)?;
        if whole.starts_with(&sequence.tokens) {
            sequence.tokens = whole;
        } else {
            let rest = self.encode(&text[sequence.text.len()..], false)?;
            sequence.tokens.extend(rest);
        }
        sequence.text = text;
        Ok(())
    }
}

/// A conversation so far.
#[derive(Default)]
struct Rendered {
    text: String,
    tokens: Vec<u32>,
}

impl Codec for ChatTokenizer {
    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode(&self.template()?.render(messages, true)?, false)
    }

    /// Each assistant turn begins where the prompt for it ends. Its loss reaches up to its end-of-sequence token, if it has one: what the
    /// template puts after that (a line break, say) is never generated.
    fn training(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<f32>)> {
        let template = self.template()?;
        let mut sequence = Rendered::default();
        let mut weights = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            if message.role != "assistant" {
                continue;
            }
            self.extend(&mut sequence, template.render(&messages[..i], true)?)?;
            weights.resize(sequence.tokens.len(), 0.0);
            let start = weights.len();
            self.extend(&mut sequence, template.render(&messages[..=i], false)?)?;
            let turn = &sequence.tokens[start..];
            let end = turn.iter().rposition(|t| self.eos_token_ids.contains(t)).map_or(turn.len(), |i| i + 1);
            weights.resize(start + end, message.weight.map_or(1.0, f32::from));
            weights.resize(sequence.tokens.len(), 0.0);
        }
        self.extend(&mut sequence, template.render(messages, false)?)?;
        weights.resize(sequence.tokens.len(), 0.0);
        Ok((sequence.tokens, weights))
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_text(text)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer
            .decode(tokens, true)
            .map_err(|e| Error::input(format!("{}/{TOKENIZER}", self.place), e))
    }

    fn stop_rule(&self, strings: &[String]) -> Option<Rc<dyn StopRule>> {
        StopStrings::new(self.tokenizer.clone(), strings).map(|rule| Rc::new(rule) as Rc<dyn StopRule>)
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }
}

/// The template of chat_template.jinja, else of tokenizer_config.json: a string, or a list of named ones of which `default` counts.
fn read_template(files: &ModelFiles) -> Result<Option<ChatTemplate>> {
    let place = files.file_place(TOKENIZER_CONFIG);
    let map = match files.text(TOKENIZER_CONFIG) {
        Some(bytes) => parse_object(bytes, &place)?,
        None => Default::default(),
    };
    let fields = Fields { place: &place, prefix: "", map: &map };

    let mut special_tokens = Vec::new();
    for name in ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] {
        let text = match fields.get(name) {
            None => continue,
            Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
            Some(v) => v.as_str(),
        };
        let text = text
            .ok_or_else(|| fields.wrong(name, &map[name], "a string or an object with a string content"))?;
        special_tokens.push((name.to_string(), text.to_string()));
    }

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
