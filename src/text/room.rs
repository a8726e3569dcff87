//! How long a text can be at all and still fit the model's context: it is refused by its bytes
//! before it is tokenized, which takes hundreds of bytes of memory for each of its own.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// How many times as short Unicode's normal forms and lower case make a text, at most: a letter of
/// four bytes can become one of a byte, and three letters of three bytes each can become one.
const FORMS: usize = 16;
/// For tokenizers that may leave out any part of a text: beyond this share nearly nothing of it
/// would be left.
const DROPS: usize = 1024;

/// What of a tokenizer.json decides how long the text of a token can be.
#[derive(Deserialize)]
pub struct Facts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    model: Model,
}

#[derive(Deserialize, Default)]
struct Model {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<u32>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
}

impl Facts {
    /// Of the bytes of a file; none of what is no tokenizer.
    pub fn read(file: &[u8]) -> Option<Self> {
        serde_json::from_slice(file).ok()
    }

    /// The token that stands for characters which the vocabulary lacks.
    pub fn unknown_token(&self, tokenizer: &Tokenizer) -> Option<u32> {
        self.model.unk_id.or_else(|| tokenizer.token_to_id(self.model.unk_token.as_deref()?))
    }
}

/// The longest text that a context can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    positions: usize,
    /// Bytes of the longest entry of the vocabulary.
    longest: usize,
    /// How many times as long a text can be as what its tokens spell.
    shrinks: usize,
    /// Whether whitespace may vanish, so that it does not count.
    drops_space: bool,
}

impl Room {
    /// Of a tokenizer, the file it comes from and the context.
    pub fn of(tokenizer: &Tokenizer, facts: Option<&Facts>, positions: usize) -> Self {
        let longest = tokenizer.get_vocab(true).keys().map(String::len).max().unwrap_or(0).max(4);
        let mut room = Self { positions, longest, shrinks: 1, drops_space: false };
        let Some(facts) = facts else { return Self { shrinks: DROPS, ..room } };
        let added = tokenizer.get_added_tokens_decoder();
        room.drops_space = added.values().any(|token| token.lstrip || token.rstrip);
        let mut has_bytes = facts.model.byte_fallback == Some(true)
            && (0..=255u8).all(|b| tokenizer.token_to_id(&format!("<0x{b:02X}>")).is_some());
        for part in parts(&facts.normalizer).into_iter().chain(parts(&facts.pre_tokenizer)) {
            has_bytes |= part["type"] == "ByteLevel" && has_alphabet(tokenizer);
            room.take(part);
        }
        let model = &facts.model;
        let is_bpe = model.kind.as_deref().is_none_or(|kind| kind == "BPE");
        // Other characters than those of the vocabulary are one token each, several, or none.
        let counts_unknown = is_bpe && model.unk_token.is_some() && model.fuse_unk != Some(true);
        if !has_bytes && !counts_unknown {
            room.shrinks = DROPS;
        }
        room
    }

    /// Counts on what a normalizer or pre-tokenizer does.
    fn take(&mut self, part: &Value) {
        let removes = part["behavior"].as_str().is_some_and(|b| b.eq_ignore_ascii_case("removed"));
        let times = match part["type"].as_str().unwrap_or_default() {
            "Prepend" | "ByteLevel" | "Metaspace" | "Digits" | "UnicodeScripts" | "FixedLength" => 1,
            "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" => FORMS,
            "Strip" | "Whitespace" | "WhitespaceSplit" => {
                self.drops_space = true;
                1
            }
            "Split" | "Punctuation" if !removes => 1,
            "Replace" => match (part["pattern"]["String"].as_str(), part["content"].as_str()) {
                (Some(from), Some(to)) if !to.is_empty() => from.len().div_ceil(to.len()).max(1),
                _ => DROPS,
            },
            _ => DROPS,
        };
        self.shrinks = self.shrinks.saturating_mul(times).min(DROPS);
    }

    /// Bytes of the longest text that could fit.
    pub fn bytes(&self) -> usize {
        self.positions.saturating_mul(self.longest).saturating_mul(self.shrinks)
    }

    /// Refuses a text that is too long, whatever is in it.
    pub fn check(&self, text: &str, place: &str) -> Result<()> {
        let most = self.bytes();
        if text.len() <= most {
            return Ok(());
        }
        let bytes = match self.drops_space {
            true => text.split_whitespace().map(str::len).sum(),
            false => text.len(),
        };
        if bytes <= most {
            return Ok(());
        }
        Err(Error::TooLong {
            place: place.into(),
            problem: format!(
                "found a text of {} bytes, expected at most {most}: a context of {} tokens, of which the longest has {} bytes",
                text.len(),
                self.positions,
                self.longest
            ),
        })
    }
}

/// A normalizer or pre-tokenizer with those in it.
fn parts(whole: &Value) -> Vec<&Value> {
    let lists = ["normalizers", "pretokenizers"].into_iter().filter_map(|key| whole.get(key)?.as_array());
    match whole {
        Value::Null => vec![],
        _ => match lists.flatten().collect::<Vec<_>>() {
            inner if inner.is_empty() && whole["type"] != "Sequence" => vec![whole],
            inner => inner.into_iter().flat_map(parts).collect(),
        },
    }
}

/// Whether a vocabulary has every byte as the character that stands for it.
fn has_alphabet(tokenizer: &Tokenizer) -> bool {
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    alphabet.iter().all(|c| tokenizer.token_to_id(c.encode_utf8(&mut [0; 4])).is_some())
}
