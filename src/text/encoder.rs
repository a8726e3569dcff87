//! From text to ids: tokenizer.json with the special tokens of the files beside it, and texts of
//! which only a part may be control tokens.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{
    AddedToken, AddedVocabulary, Model, OffsetReferential, OffsetType, PreTokenizer, PreTokenizerWrapper,
    Tokenizer,
};

use super::contained::contained;
use super::room::{Facts, Room};
use crate::error::{Error, Result};

/// How often a text is cut where a vocabulary has no other way to spell a control token's string.
const MAX_CUTS: usize = 8;

/// A control token in a text: where it stands, in bytes, and its id.
pub type Place = (Range<usize>, u32);

/// A text, and which of the strings of control tokens in it are tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// The text.
    pub text: String,
    /// The tokens, in order. `None`: all that the tokenizer finds, as in transformers.
    pub own: Option<Vec<Place>>,
}

impl Marked {
    /// A text whose strings of control tokens are all tokens.
    pub fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), own: None }
    }

    /// The first `bytes` bytes.
    pub fn prefix(&self, bytes: usize) -> Self {
        let own = self.own.as_ref();
        let own = own.map(|own| own.iter().filter(|(range, _)| range.end <= bytes).cloned().collect());
        Self { text: self.text[..bytes].to_string(), own }
    }

    /// What comes after the first `bytes` bytes, behind `before`.
    fn suffix(&self, bytes: usize, before: &str) -> Self {
        let shift = |at: usize| at - bytes + before.len();
        let own = self.own.as_ref().map(|own| {
            let rest = own.iter().filter(|(range, _)| range.start >= bytes);
            rest.map(|(range, id)| (shift(range.start)..shift(range.end), *id)).collect()
        });
        Self { text: before.to_string() + &self.text[bytes..], own }
    }
}

/// The tokenizer of a model.
pub struct Encoder {
    tokenizer: Rc<Tokenizer>,
    /// Tokens of a line feed, where the tokenizer puts a space before all text: behind them it puts
    /// none.
    line_feed: Option<Vec<u32>>,
    /// Added tokens with which a tokenizer finds no control token in a text.
    without_control: AddedVocabulary,
    /// The pre-tokenizer of text that other text precedes, where it is another one.
    inner: Option<PreTokenizerWrapper>,
    /// Ids of control tokens with their strings.
    control: BTreeMap<u32, String>,
    /// Ids of special tokens, which have no text.
    special: HashSet<u32>,
    /// The token of characters that the vocabulary lacks: special in many files, and yet no control
    /// token of those who write such characters.
    unknown: Option<u32>,
    room: Room,
    vocab_size: usize,
    /// tokenizer.json.
    place: String,
}

impl Encoder {
    /// Of a tokenizer that has all of its special tokens, and the file that it comes from.
    /// `is_control` tells which added tokens are control tokens.
    pub fn new(
        tokenizer: Tokenizer,
        file: &[u8],
        is_control: impl Fn(u32, &AddedToken) -> bool,
        vocab_size: usize,
        max_positions: usize,
        place: String,
    ) -> Result<Self> {
        let plain = |text: &str| parsed(&tokenizer, text, false);
        let line_feed = match (plain("\n"), plain("\na"), plain("a")) {
            (Ok(line_feed), Ok(both), Ok(alone)) => {
                both.strip_prefix(&line_feed[..]).is_some_and(|rest| rest != alone).then_some(line_feed)
            }
            _ => None,
        };
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let control = added.iter().filter(|(id, token)| is_control(**id, token));
        let control: BTreeMap<u32, String> =
            control.map(|(id, token)| (*id, token.content.clone())).collect();
        let facts = Facts::read(file);
        let room = Room::of(&tokenizer, facts.as_ref(), max_positions);
        let mut encoder = Self {
            without_control: tokenizer.get_added_vocabulary().clone(),
            unknown: facts.and_then(|facts| facts.unknown_token(&tokenizer)),
            inner: tokenizer.get_pre_tokenizer().and_then(behind_text),
            tokenizer: Rc::new(tokenizer),
            line_feed,
            control: BTreeMap::new(),
            special,
            room,
            vocab_size,
            place,
        };
        encoder.control_too(control)?;
        Ok(encoder)
    }

    /// Makes added tokens control tokens.
    pub fn control_too(&mut self, tokens: BTreeMap<u32, String>) -> Result<()> {
        let added = self.tokenizer.get_added_tokens_decoder();
        let quiet = tokens.keys().filter_map(|id| added.get(id)).filter(|token| !token.special);
        let quiet = quiet.map(|token| AddedToken { special: true, ..token.clone() });
        self.without_control
            .add_tokens(quiet, self.tokenizer.get_model(), self.tokenizer.get_normalizer())
            .map_err(|e| Error::input(&self.place, e))?;
        self.without_control.set_encode_special_tokens(true);
        self.control.extend(tokens);
        Ok(())
    }

    /// The tokenizer itself.
    pub fn tokenizer(&self) -> &Rc<Tokenizer> {
        &self.tokenizer
    }

    /// Control tokens: their ids and strings.
    pub fn control(&self) -> &BTreeMap<u32, String> {
        &self.control
    }

    /// Whether a token has no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Whether a control token's string may look otherwise in a text: another case, another form of
    /// its characters.
    pub fn has_disguises(&self) -> bool {
        let added = self.tokenizer.get_added_tokens_decoder();
        self.tokenizer.get_normalizer().is_some()
            && self.control.keys().filter_map(|id| added.get(id)).any(|token| token.normalized)
    }

    /// Refuses a text that no context can hold, before anything is made of it.
    pub fn check(&self, text: &str) -> Result<()> {
        self.room.check(text, &self.place)
    }

    /// The added tokens that the tokenizer finds in a text, in order; whitespace that a token takes
    /// in belongs to its place.
    pub fn added(&self, text: &str) -> Result<Vec<Place>> {
        let vocabulary = self.tokenizer.get_added_vocabulary();
        let normalizer = self.tokenizer.get_normalizer();
        let split = contained(|| vocabulary.extract_and_normalize(normalizer, text))
            .map_err(|panic| self.fails(&panic))?;
        let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let found = splits.into_iter().filter_map(|(_, (start, end), tokens)| {
            tokens.as_ref().and_then(|tokens| tokens.first()).map(|token| (start..end, token.id))
        });
        Ok(found.collect())
    }

    /// The control tokens that the tokenizer finds in a text, in order.
    pub fn found(&self, text: &str) -> Result<Vec<Place>> {
        Ok(self.added(text)?.into_iter().filter(|(_, id)| self.control.contains_key(id)).collect())
    }

    /// The ids of a text that no context is too short for; `around` puts the tokens around it that
    /// the tokenizer has for that.
    pub fn encode(&self, marked: &Marked, around: bool) -> Result<Vec<u32>> {
        self.check(&marked.text)?;
        self.encode_any(marked, around)
    }

    /// The same of a text of any length.
    pub fn encode_any(&self, marked: &Marked, around: bool) -> Result<Vec<u32>> {
        let ids = match &marked.own {
            None => {
                parsed(&self.tokenizer, &marked.text, around).map_err(|e| Error::input(&self.place, e))?
            }
            Some(own) => {
                let ids = self.pieces(&marked.text, own)?;
                let (before, after) = if around { self.around()? } else { Default::default() };
                [before, ids, after].concat()
            }
        };
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            None => Ok(ids),
            Some(id) => {
                // A post-processor has ids of its own, which need not be those of its tokens.
                let token = self.tokenizer.id_to_token(*id).unwrap_or_default();
                let problem = format!(
                    "found token {token:?} with id {id} in a text, expected ids below vocab_size = {} of config.json",
                    self.vocab_size
                );
                Err(Error::input(&self.place, problem))
            }
        }
    }

    /// The ids of text that continues other text, from byte `from` on: nothing is put around it,
    /// not even the space that some tokenizers begin with.
    pub fn continuation(&self, marked: &Marked, from: usize) -> Result<Vec<u32>> {
        self.check(&marked.text[from..])?;
        if let Some(line_feed) = &self.line_feed {
            let behind = self.encode_any(&marked.suffix(from, "\n"), false)?;
            if let Some(ids) = behind.strip_prefix(&line_feed[..]) {
                return Ok(ids.to_vec());
            }
        }
        self.encode_any(&marked.suffix(from, ""), false)
    }

    /// The tokens that are put before and after a text.
    pub fn around(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let encoding = contained(|| self.tokenizer.encode_fast("a", true)).map_err(|e| self.fails(&e))?;
        let encoding = encoding.map_err(|e| Error::input(&self.place, e))?;
        let (ids, put) = (encoding.get_ids(), encoding.get_special_tokens_mask());
        let before = put.iter().take_while(|m| **m == 1).count();
        let after = put[before..].iter().rev().take_while(|m| **m == 1).count();
        Ok((ids[..before].to_vec(), ids[ids.len() - after..].to_vec()))
    }

    /// A text whose tokens are known, and between them text without any.
    fn pieces(&self, text: &str, own: &[Place]) -> Result<Vec<u32>> {
        let (mut ids, mut at) = (Vec::new(), 0);
        for (range, id) in own {
            self.without_tokens(&text[at..range.start], at > 0, 0, &mut ids)?;
            ids.push(*id);
            at = range.end;
        }
        self.without_tokens(&text[at..], at > 0, 0, &mut ids)?;
        Ok(ids)
    }

    /// Appends the ids of a text in which no string is a control token. Where the vocabulary itself
    /// has such a string as a piece, the text is cut within it.
    fn without_tokens(&self, text: &str, is_inner: bool, cuts: usize, ids: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let own = self.ordinary(text, is_inner)?;
        let is_control = |id: u32| Some(id) != self.unknown && self.control.contains_key(&id);
        if !own.iter().any(|(id, _)| is_control(*id)) {
            ids.extend(own.iter().map(|(id, _)| id));
            return Ok(());
        }
        let mut borders = vec![0];
        for (id, start) in own.iter().filter(|(id, _)| is_control(*id)) {
            let within = start + text[*start..].chars().next().map_or(0, char::len_utf8);
            if within >= text.len() || cuts == MAX_CUTS {
                let token = &self.control[id];
                let problem = format!(
                    "found {token:?} in a text that may have no control tokens, expected a tokenizer that can spell it"
                );
                return Err(Error::input(&self.place, problem));
            }
            borders.push(within);
        }
        borders.push(text.len());
        borders.dedup();
        for (i, pair) in borders.windows(2).enumerate() {
            let piece = &text[pair[0]..pair[1]];
            match &self.line_feed {
                // Behind a line feed no space is put before it.
                Some(line_feed) if i > 0 => {
                    let mut behind = Vec::new();
                    self.without_tokens(&format!("\n{piece}"), true, cuts + 1, &mut behind)?;
                    ids.extend(behind.strip_prefix(&line_feed[..]).unwrap_or(&behind));
                }
                _ => self.without_tokens(piece, is_inner || i > 0, cuts + 1, ids)?,
            }
        }
        Ok(())
    }

    /// The ids of a text without control tokens, and at which byte each begins.
    fn ordinary(&self, text: &str, is_inner: bool) -> Result<Vec<(u32, usize)>> {
        let tokenizer = &self.tokenizer;
        let whole = tokenizer.get_pre_tokenizer();
        let pre_tokenizer = if is_inner { self.inner.as_ref().or(whole) } else { whole };
        let work = || -> tokenizers::Result<Vec<(u32, usize)>> {
            let mut split = self.without_control.extract_and_normalize(tokenizer.get_normalizer(), text);
            if let Some(pre_tokenizer) = pre_tokenizer {
                pre_tokenizer.pre_tokenize(&mut split)?;
            }
            tokenizer.get_model().tokenize_in_pretokenized(&mut split, None)?;
            let encoding = split.into_encoding(None, 0, OffsetType::Byte)?;
            let starts = encoding.get_offsets().iter().map(|(start, _)| *start);
            Ok(encoding.get_ids().iter().copied().zip(starts).collect())
        };
        contained(work).map_err(|panic| self.fails(&panic))?.map_err(|e| Error::input(&self.place, e))
    }

    fn fails(&self, panic: &str) -> Error {
        Error::input(&self.place, format!("found a tokenizer that fails on a text ({panic})"))
    }
}

/// The ids of a text as transformers has them. The error lacks its place.
fn parsed(tokenizer: &Tokenizer, text: &str, around: bool) -> std::result::Result<Vec<u32>, String> {
    let encoding = contained(|| tokenizer.encode_fast(text, around))
        .map_err(|panic| format!("found a tokenizer that fails on a text ({panic})"))?;
    Ok(encoding.map_err(|e| e.to_string())?.get_ids().to_vec())
}

/// A pre-tokenizer as it works on a text that others precede: the space that SentencePiece puts at
/// the very beginning it puts nowhere else.
fn behind_text(whole: &PreTokenizerWrapper) -> Option<PreTokenizerWrapper> {
    match whole {
        PreTokenizerWrapper::Metaspace(metaspace) if metaspace.prepend_scheme == PrependScheme::First => {
            let mut metaspace = metaspace.clone();
            metaspace.set_prepend_scheme(PrependScheme::Never);
            Some(metaspace.into())
        }
        PreTokenizerWrapper::Sequence(sequence) => {
            let mut sequence = sequence.clone();
            let mut is_another = false;
            for part in sequence.as_mut() {
                if let Some(inner) = behind_text(part) {
                    (*part, is_another) = (inner, true);
                }
            }
            is_another.then_some(PreTokenizerWrapper::Sequence(sequence))
        }
        _ => None,
    }
}
