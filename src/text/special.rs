//! Special tokens that stand beside tokenizer.json: in tokenizer_config.json,
//! special_tokens_map.json and added_tokens.json.
//!
//! transformers 5 adds them to a fast tokenizer when it opens a folder (`_from_pretrained` of
//! tokenization_utils_base.py and `TokenizersBackend.__init__` of
//! tokenization_utils_tokenizers.py); the tokens and ids here are the same:
//!
//! 1. `added_tokens_decoder` of tokenizer_config.json, in the order of its ids. Where there is
//!    none, added_tokens.json, and special_tokens_map.json overrides the names of
//!    tokenizer_config.json; where there is one, neither file is read.
//! 2. Tokens with a name (`bos_token`, `eos_token`, …, and any other field that ends in `_token`).
//! 3. The list `extra_special_tokens`, or `additional_special_tokens` by its older name.
//!
//! A token that the vocabulary has keeps its id; any other gets the next free one. transformers
//! does so even where a file gives another id: then the model was trained with one of two ids,
//! nobody can tell which, and the folder is refused.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use crate::error::{Error, Result};
use crate::files::json::{Fields, parse_object};
use crate::model::ModelFiles;

const CONFIG: &str = "tokenizer_config.json";
pub(super) const MAP: &str = "special_tokens_map.json";
pub(super) const ADDED: &str = "added_tokens.json";
const DECODER: &str = "added_tokens_decoder";
const EXTRA: &str = "extra_special_tokens";
const ADDITIONAL: &str = "additional_special_tokens";
const STANDARD: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const EXPECTED: &str = "a string or an object with a string content";

/// What the files beside tokenizer.json say of special tokens.
#[derive(Debug, Default)]
pub struct SpecialTokens {
    /// Names such as `bos_token` with their tokens; the standard ones first.
    named: Vec<(String, AddedToken)>,
    /// Tokens without a name.
    extra: Vec<AddedToken>,
    /// Tokens with an id.
    listed: BTreeMap<u32, AddedToken>,
    /// The file and field of `listed`.
    list: String,
    /// Whether the list adds to that of tokenizer.json, which then counts as listed too.
    is_legacy: bool,
}

impl SpecialTokens {
    /// Reads the files of a model.
    pub fn read(files: &ModelFiles) -> Result<Self> {
        let place = |name: &str| files.file_place(name);
        let object = |name: &str| match files.text(name) {
            Some(bytes) => parse_object(bytes, &place(name)),
            None => Ok(Map::default()),
        };
        let config = object(CONFIG)?;
        let has_list = config.get(DECODER).is_some_and(|v| !v.is_null());
        let map = if has_list { Map::default() } else { object(MAP)? };
        let (config_place, map_place) = (place(CONFIG), place(MAP));
        let config = Fields { place: &config_place, prefix: "", map: &config };
        let map = Fields { place: &map_place, prefix: "", map: &map };

        let mut found = Self { is_legacy: !has_list, ..Self::default() };
        found.read_names(&config, &map)?;
        found.read_extra(&config, &map)?;
        if has_list {
            found.list = config.name(DECODER);
            let list = config.object(DECODER)?.into_iter().flatten();
            for (id, token) in list {
                let id = id.parse().map_err(|_| config.wrong(DECODER, &Value::from(id.as_str()), "an id"))?;
                let token = listed(token).ok_or_else(|| config.wrong(DECODER, token, EXPECTED))?;
                found.listed.insert(id, token);
            }
        } else {
            found.list = place(ADDED);
            let ids = object(ADDED)?;
            let ids = Fields { place: &found.list, prefix: "", map: &ids };
            let standard = found.named.iter().filter(|(name, _)| STANDARD.contains(&name.as_str()));
            let special: Vec<&str> =
                standard.map(|(_, t)| t).chain(&found.extra).map(|t| t.content.as_str()).collect();
            for (content, id) in ids.map {
                let id = id
                    .as_u64()
                    .and_then(|id| id.try_into().ok())
                    .ok_or_else(|| ids.wrong(content, id, "an id"))?;
                found.listed.insert(id, AddedToken::from(content, special.contains(&content.as_str())));
            }
        }
        Ok(found)
    }

    fn read_names(&mut self, config: &Fields<'_>, map: &Fields<'_>) -> Result<()> {
        let others = config.map.keys().chain(map.map.keys()).map(String::as_str);
        let others = others.filter(|name| name.ends_with("_token") && !STANDARD.contains(name));
        for name in STANDARD.into_iter().chain(others) {
            if self.named.iter().any(|(known, _)| known == name) {
                continue;
            }
            let (fields, value) = match (map.get(name), config.get(name)) {
                (Some(value), _) => (map, value),
                (None, Some(value)) => (config, value),
                (None, None) => continue,
            };
            match special(value) {
                Some(token) => self.named.push((name.to_string(), token)),
                None if STANDARD.contains(&name) => return Err(fields.wrong(name, value, EXPECTED)),
                // Such as `add_bos_token`, which tokenizer.json has decided already.
                None => {}
            }
        }
        for fields in [config, map] {
            for (name, value) in fields.get(EXTRA).and_then(Value::as_object).into_iter().flatten() {
                let token = special(value).ok_or_else(|| fields.wrong(EXTRA, value, EXPECTED))?;
                self.named.retain(|(known, _)| known != name);
                self.named.push((name.clone(), token));
            }
        }
        Ok(())
    }

    fn read_extra(&mut self, config: &Fields<'_>, map: &Fields<'_>) -> Result<()> {
        let filled = |field: &str| config.get(field).is_some_and(|v| v != &Value::Array(vec![]));
        let first = if filled(EXTRA) { EXTRA } else { ADDITIONAL };
        let mut sources = vec![(config, first)];
        if map.get(EXTRA).is_some() {
            sources.push((map, EXTRA));
        } else if !filled(first) {
            sources.push((map, ADDITIONAL));
        }
        for (fields, field) in sources {
            match fields.get(field) {
                None | Some(Value::Object(_)) => {}
                Some(Value::Array(tokens)) => {
                    for token in tokens {
                        let token = special(token).ok_or_else(|| fields.wrong(field, token, EXPECTED))?;
                        if !self.extra.contains(&token) {
                            self.extra.push(token);
                        }
                    }
                }
                Some(v) => {
                    return Err(fields.wrong(field, v, "an array of tokens, or an object of named ones"));
                }
            }
        }
        Ok(())
    }

    /// Names with the texts of their tokens, as chat templates see them.
    pub fn names(&self) -> Vec<(String, String)> {
        self.named.iter().map(|(name, token)| (name.clone(), token.content.clone())).collect()
    }

    /// The text of a named token.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, token)| token.content.as_str())
    }

    /// Every token that has a name or is listed as special without one.
    pub fn contents(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(|(_, token)| token).chain(&self.extra).map(|token| token.content.as_str())
    }

    /// Gives the tokenizer those tokens that it lacks, and listed ones the properties that the list
    /// says.
    pub fn add_to(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        let own = tokenizer.get_added_tokens_decoder();
        let has_name = |content: &str| self.named.iter().any(|(_, token)| token.content == content);
        let mut listed: BTreeMap<u32, AddedToken> = self.listed.clone();
        if self.is_legacy {
            listed.extend(own.iter().map(|(id, token)| (*id, token.clone())));
        }
        let mut added: Vec<AddedToken> = listed.into_values().collect();
        for token in &mut added {
            token.special |= has_name(&token.content);
        }
        for token in self.named.iter().map(|(_, token)| token).chain(&self.extra) {
            let is_known = |known: &AddedToken| known.content == token.content;
            if !own.values().any(is_known) && !added.iter().any(is_known) {
                added.push(token.clone());
            }
        }
        tokenizer.add_tokens(added).map_err(|e| Error::input(&self.list, e))?;
        for (id, token) in &self.listed {
            match tokenizer.token_to_id(&token.content) {
                Some(given) if given != *id => {
                    return Err(Error::input(
                        &self.list,
                        format!(
                            "found token {:?} with id {id}, expected {given}, its id by tokenizer.json (or the next \
                             that is free)",
                            token.content
                        ),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A token of a name or of a list of special tokens.
fn special(value: &Value) -> Option<AddedToken> {
    match value {
        Value::String(content) => Some(AddedToken::from(content, true)),
        Value::Object(_) => listed(value).map(|token| {
            let normalized = value["normalized"].as_bool().unwrap_or(false);
            AddedToken { special: true, normalized, ..token }
        }),
        _ => None,
    }
}

/// A token with its properties.
fn listed(value: &Value) -> Option<AddedToken> {
    let flag = |name: &str| value[name].as_bool();
    let special = flag("special").unwrap_or(false);
    Some(AddedToken {
        content: value["content"].as_str()?.to_string(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    })
}
