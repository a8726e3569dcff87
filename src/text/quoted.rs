//! Quoted text cannot speak as the system: which control tokens of a rendered conversation are the
//! template's own, and which are only strings that somebody wrote.
//!
//! Each control token has a character that takes part in it, its *anchor*. The conversation is
//! rendered a second time with every anchor in what people and models wrote replaced by a private
//! character, its *twin*. No control token can then have a character of theirs at that place,
//! however the template cuts, trims or joins them; the control tokens that are still there are the
//! template's own. If the second text is the first one once twins are read as anchors, these are
//! the first text's tokens too, and all other strings in it are text.
//!
//! A template may look at what was written and find something else in it where an anchor is a twin
//! (`'</think>' in content`). Other anchors are tried then. If all change what is rendered, only
//! whole strings of control tokens are replaced, so the template sees contents in which these are
//! not.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::encoder::{Encoder, Marked, Place};
use super::template::ChatTemplate;
use super::{ChatOptions, Message, field_names};
use crate::error::{Error, Result};

/// Choices of anchors, one after the other.
const CHOICES: usize = 3;
/// Where private characters are: planes 15 and 16, with room for two sets of twins.
const PRIVATE: [Range<u32>; 2] = [0xf0000..0xffffe, 0x100000..0x10fffe];

/// How strings of control tokens in a text are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As the tokens, as in transformers: for text whose author is trusted.
    Tokens,
    /// As text: no control token comes of it, whoever wrote it.
    Text,
}

/// How conversations are rendered.
#[derive(Clone, Copy)]
pub struct Conversation<'a> {
    /// The model's template.
    pub template: &'a ChatTemplate,
    /// The model's tokenizer.
    pub encoder: &'a Encoder,
    /// Tools and variables of the template.
    pub options: &'a ChatOptions,
    /// How strings of control tokens in messages, tools and variables are read.
    pub reading: Reading,
}

impl Conversation<'_> {
    /// Renders messages. By [`Reading::Text`] the control tokens of the text are the template's own.
    pub fn render(&self, messages: &[Message], prompt: bool) -> Result<Marked> {
        let first = self.template.render_with(messages, self.options, prompt);
        if let Ok(text) = &first {
            self.encoder.check(text)?;
        }
        if self.reading == Reading::Tokens {
            return first.map(Marked::plain);
        }
        let quoted = Quoted { talk: *self, messages, prompt };
        quoted.names_say_nothing()?;
        let Ok(text) = &first else { return quoted.without_strings(first) };
        let found = self.encoder.found(text)?;
        for n in 0..CHOICES {
            if let Some(own) = quoted.own_of(text, &found, n)? {
                return Ok(Marked { text: text.clone(), own: (own != found).then_some(own) });
            }
        }
        quoted.without_strings(first)
    }
}

/// The `n`th choice of a character of each control token: first those that are rare in what people
/// write and that templates do not look for.
fn anchors<'a>(tokens: impl Iterator<Item = &'a String>, n: usize) -> BTreeSet<char> {
    let rank = |c: &char| match c {
        c if c.is_alphanumeric() => 4,
        '<' | '>' => 3,
        '/' | '[' | ']' => 2,
        '_' | '-' | ' ' => 1,
        _ => 0,
    };
    let of_token = |token: &String| {
        let mut chars: Vec<char> = Vec::new();
        for c in token.chars().filter(|c| !c.is_whitespace()) {
            if !chars.contains(&c) {
                chars.push(c);
            }
        }
        chars.sort_by_key(rank);
        chars.get(n.min(chars.len().saturating_sub(1))).copied()
    };
    tokens.filter_map(of_token).collect()
}

/// Anchors with their twins.
struct Twins(BTreeMap<char, char>);

impl Twins {
    /// A text with twins for anchors.
    fn put(&self, text: &str) -> String {
        text.chars().map(|c| self.0.get(&c).copied().unwrap_or(c)).collect()
    }

    /// A text with anchors for twins.
    fn read(&self, text: &str) -> String {
        let anchors: BTreeMap<char, char> = self.0.iter().map(|(anchor, twin)| (*twin, *anchor)).collect();
        text.chars().map(|c| anchors.get(&c).copied().unwrap_or(c)).collect()
    }

    /// The same places in a text with anchors for twins.
    fn places(&self, text: &str, places: &[Place]) -> Vec<Place> {
        let (mut seen, mut at) = (0, 0);
        let mut read_to = |end: usize| {
            at += self.read(&text[seen..end]).len();
            seen = end;
            at
        };
        places.iter().map(|(range, id)| (read_to(range.start)..read_to(range.end), *id)).collect()
    }
}

/// A conversation to be rendered with other characters in it.
struct Quoted<'a> {
    talk: Conversation<'a>,
    messages: &'a [Message],
    prompt: bool,
}

impl Quoted<'_> {
    /// The control tokens of the rendered text that are the template's own, of those that the
    /// tokenizer finds in it; by the `n`th choice of anchors, if the template shows the same text
    /// with their twins.
    fn own_of(&self, text: &str, found: &[Place], n: usize) -> Result<Option<Vec<Place>>> {
        let mut tokens: BTreeSet<u32> = found.iter().map(|(_, id)| *id).collect();
        loop {
            let anchors = anchors(tokens.iter().map(|id| &self.talk.encoder.control()[id]), n);
            let has_any = |text: &str| text.contains(|c| anchors.contains(&c));
            if !self.has_text(has_any) && !self.talk.encoder.has_disguises() {
                return Ok(Some(found.to_vec()));
            }
            let twins = self.twins(text, anchors.into_iter(), 0);
            let second = match self.render(|text| twins.put(text)) {
                Ok(second) if twins.read(&second) == text => second,
                _ => return Ok(None),
            };
            // A token that another one hid, which is text.
            let new = self.talk.encoder.found(&second)?.into_iter().map(|(_, id)| id);
            let known = tokens.len();
            tokens.extend(new);
            if tokens.len() == known {
                return self.own(&second, &twins).map(Some);
            }
        }
    }

    /// Twins for characters, none of which is anywhere in the conversation. `set` 0 and 1 have none
    /// in common.
    fn twins(&self, rendered: &str, anchors: impl Iterator<Item = char>, set: usize) -> Twins {
        let used = RefCell::new(BTreeSet::new());
        let note = |text: &str| {
            used.borrow_mut().extend(text.chars().filter(|c| *c >= '\u{f0000}'));
            false
        };
        note(rendered);
        self.has_text(note);
        let used = used.into_inner();
        let free = PRIVATE[set].clone().filter_map(char::from_u32).filter(|c| !used.contains(c));
        Twins(anchors.zip(free).collect())
    }

    fn render(&self, change: impl Fn(&str) -> String) -> Result<String> {
        let changed: Vec<Message> = self.messages.iter().map(|m| m.map_texts(&change)).collect();
        self.talk.template.render_with(&changed, &self.talk.options.map_texts(&change), self.prompt)
    }

    /// Whether any text that the template is given is one of these.
    fn has_text(&self, is_one: impl Fn(&str) -> bool) -> bool {
        let found = Cell::new(false);
        let look = |text: &str| {
            found.set(found.get() || is_one(text));
            String::new()
        };
        self.messages.iter().for_each(|message| drop(message.map_texts(&look)));
        drop(self.talk.options.map_texts(&look));
        found.get()
    }

    /// Refuses names of fields with a control token in them: names are not replaced, so it is not
    /// known what a template makes of them.
    fn names_say_nothing(&self) -> Result<()> {
        let mut names = self.talk.options.field_names();
        for message in self.messages {
            names.extend(message.given.keys().map(String::as_str));
            message.given.values().for_each(|value| field_names(value, &mut names));
        }
        let control = self.talk.encoder.control();
        let is_bad = |name: &&str| control.values().any(|token| name.contains(token.as_str()));
        match names.into_iter().find(is_bad) {
            None => Ok(()),
            Some(name) => {
                let problem = format!("found a field {name:?}, expected a name without control tokens");
                Err(Error::input("messages", problem))
            }
        }
    }

    /// The control tokens of a text with twins, in the text with anchors. One whose string does not
    /// stand there as the template would write it is a disguise: in another case, say, which the
    /// tokenizer's normalizer takes for the same.
    fn own(&self, text: &str, twins: &Twins) -> Result<Vec<Place>> {
        let mut found = self.talk.encoder.found(text)?;
        let is_written = |range: &Range<usize>, string: &str| {
            text.get(range.clone()).is_some_and(|found| found.trim() == string.trim())
        };
        found.retain(|(range, id)| is_written(range, &self.talk.encoder.control()[id]));
        Ok(twins.places(text, &found))
    }

    /// The conversation without strings of control tokens in it, whatever the template makes of
    /// that.
    fn without_strings(&self, first: Result<String>) -> Result<Marked> {
        let anchors = anchors(self.talk.encoder.control().values(), 0);
        let strings: Vec<&str> = self.talk.encoder.control().values().map(String::as_str).collect();
        let has_any = |text: &str| strings.iter().any(|s| text.contains(s));
        if !self.has_text(has_any) {
            return first.map(Marked::plain);
        }
        let rendered = first.as_deref().unwrap_or_default().to_string();
        let [one, other] = [0, 1].map(|set| self.twins(&rendered, anchors.iter().copied(), set));
        let hidden = |twins: &Twins| self.render(|text| within(text, &strings, |s| twins.put(s)));
        // What keeps the template from rendering the first text, such as a test for these strings,
        // may not keep it from this one.
        let second = match hidden(&one) {
            Ok(second) => second,
            Err(_) if first.is_ok() => return Err(self.refused("fails")),
            Err(_) => return first.map(Marked::plain),
        };
        let own = self.own(&second, &one)?;
        if let Ok(text) = &first {
            let ids = |places: &[Place]| places.iter().map(|(_, id)| *id).collect::<Vec<_>>();
            if ids(&self.talk.encoder.found(text)?) == ids(&own) {
                return first.map(Marked::plain);
            }
        }
        let text = one.read(&second);
        // A template that spells characters in another way (`\ue000`) shows the twins themselves.
        if hidden(&other).map_or(true, |second| other.read(&second) != text) {
            return Err(self.refused("is another one"));
        }
        Ok(Marked { text, own: Some(own) })
    }

    fn refused(&self, what: &str) -> Error {
        Error::input(
            self.talk.template.place(),
            format!(
                "found messages with the model's control tokens in them, and a template that {what} where these are text, expected one \
                 that shows what was written"
            ),
        )
    }
}

/// A text in which every occurrence of one of some strings, also of those that overlap, is changed.
fn within(text: &str, strings: &[&str], change: impl Fn(&str) -> String) -> String {
    let mut hidden = vec![false; text.len()];
    for string in strings.iter().filter(|s| !s.is_empty()) {
        let mut from = 0;
        while let Some(at) = text[from..].find(string) {
            let start = from + at;
            hidden[start..start + string.len()].fill(true);
            from = start + text[start..].chars().next().map_or(1, char::len_utf8);
        }
    }
    let mut out = String::new();
    for (at, c) in text.char_indices() {
        let c = c.to_string();
        out.push_str(&if hidden[at] { change(&c) } else { c });
    }
    out
}
