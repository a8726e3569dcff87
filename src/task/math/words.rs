//! Answers that are words, and what can't be read as mathematics.

use super::expression::{is_known, is_product};
use super::token::{Kind, Token, tokens};

/// Text as a form: between marks, so that it is never read as mathematics.
pub fn marked(text: &str) -> String {
    match text.trim() {
        "" => String::new(),
        text => format!("‹{text}›"),
    }
}

/// What could not be read as mathematics, as a form.
pub fn opaque(all: &[Token]) -> String {
    marked(&text(all))
}

/// An answer of words alone, in lower case; none if they are a product of variables. Letters in a
/// `\text`, and capital letters that are all of an answer, are a sequence: their order counts.
pub fn words(all: &[Token]) -> Option<String> {
    let words = plain_words(all)?;
    let same = plain_words(&tokens(&words)).is_some_and(|again| again == words);
    Some(if same { words } else { marked(&words) })
}

fn plain_words(all: &[Token]) -> Option<String> {
    let letters_only = |w: &str| w.chars().all(char::is_alphabetic);
    let (mut words, mut any) = (Vec::new(), false);
    for token in all {
        match &token.kind {
            Kind::Word(w) => {
                let capitals = all.len() == 1 && w.chars().count() > 1 && w.chars().all(char::is_uppercase);
                any |= !is_known(w) && (capitals || !is_product(w));
                words.push(w.clone());
            }
            Kind::Text(t) => {
                for word in t.split_whitespace() {
                    any |= !is_known(word) && word.chars().count() > 1;
                    words.push(word.to_string());
                }
            }
            Kind::Sign('-' | '\'') if !words.is_empty() => {}
            _ => return None,
        }
    }
    let separated = all.iter().any(super::form::is_separator);
    if separated || !any || words.iter().any(|w| !letters_only(w)) {
        return None;
    }
    Some(words.join(" ").to_lowercase())
}

/// Tokens one after the other, words in lower case, one space between words. Numbers are written by
/// their value, those that touch other numbers or letters as they were.
pub fn text(all: &[Token]) -> String {
    let touches = |t: Option<&Token>| {
        t.is_some_and(|t| matches!(t.kind, Kind::Number(_) | Kind::Word(_) | Kind::Digits(_)))
    };
    let mut out = String::new();
    for (i, token) in all.iter().enumerate() {
        let next = all.get(i + 1).filter(|t| !t.space);
        let before = if token.space { None } else { i.checked_sub(1).and_then(|i| all.get(i)) };
        let joined = touches(before) && matches!(token.kind, Kind::Number(_));
        let piece = match &token.kind {
            Kind::Number(_) if touches(next) || touches(before) || token.raw.starts_with("00") => {
                token.raw.clone()
            }
            Kind::Number(n) => n.to_string(),
            Kind::Digits(d) => d.clone(),
            Kind::Based(digits, base) => format!("{digits}_{{{base}}}"),
            Kind::Word(w) if w.chars().count() == 1 => w.clone(),
            Kind::Word(w) => w.to_lowercase(),
            Kind::Text(t) => text(&tokens(t)),
            Kind::Opaque(t) => t.clone(),
            Kind::Command(c) => format!("\\{c}"),
            Kind::Open('S') => "\\{".into(),
            Kind::Close('S') => "\\}".into(),
            Kind::Open('<') => "⟨".into(),
            Kind::Close('<') => "⟩".into(),
            Kind::Sign('-') if all.get(i + 1).is_some_and(|t| t.kind == Kind::Open('S')) => "∖".into(),
            Kind::Open(c) | Kind::Close(c) | Kind::Sign(c) => c.to_string(),
            Kind::Begin(name) => format!("\\begin{{{name}}}"),
            Kind::End => "\\end{}".into(),
            Kind::Row => "\\\\".into(),
        };
        let wordlike = |c: char| c.is_alphanumeric();
        if out.ends_with(wordlike) && piece.starts_with(wordlike) && !joined {
            out.push(' ');
        }
        out.push_str(&piece);
    }
    out
}
