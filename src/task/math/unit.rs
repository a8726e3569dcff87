//! Units: what may be left out after a number, and quantities such as `5 feet 3 inches` of which
//! nothing may.

use super::expression::{is_known, is_product};
use super::token::{Kind, Token, tokens};

/// Units that may follow a number without `\text` and without a space.
const UNITS: [&str; 37] = [
    "cm", "mm", "km", "kg", "mg", "ml", "mL", "ft", "in", "mi", "lb", "lbs", "oz", "hr", "hrs", "min",
    "mins", "sec", "mph", "kph", "yd", "sq", "units", "unit", "square", "cubic", "degrees", "degree",
    "percent", "dollars", "cents", "dm", "kW", "kWh", "Hz", "per", "pct",
];
/// One letter that is a unit behind another one: `km/h`, `m/s`.
const LETTERS: [&str; 8] = ["h", "s", "m", "g", "L", "l", "J", "N"];
/// Words that change what the number before them says: with one of them, a phrase is no unit.
const NO_UNITS: [&str; 79] = [
    "to",
    "of",
    "out",
    "or",
    "and",
    "r",
    "remainder",
    "rem",
    "plus",
    "minus",
    "times",
    "by",
    "over",
    "mod",
    "modulo",
    "base",
    "am",
    "pm",
    "bc",
    "bce",
    "ad",
    "ce",
    "noon",
    "midnight",
    "north",
    "south",
    "east",
    "west",
    "left",
    "right",
    "up",
    "down",
    "above",
    "below",
    "more",
    "less",
    "fewer",
    "greater",
    "smaller",
    "increase",
    "decrease",
    "gain",
    "loss",
    "profit",
    "if",
    "when",
    "where",
    "for",
    "with",
    "is",
    "not",
    "from",
    "than",
    "clockwise",
    "counterclockwise",
    "anticlockwise",
    "n",
    "e",
    "w",
    "between",
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];
/// Words for powers of ten.
pub const MULTIPLIERS: [(&str, i32); 5] =
    [("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12)];

/// Units that stand beside each other in one quantity, by dimension, the largest first, with their
/// spellings; the first is the one used.
const SYSTEMS: [&[&[&str]]; 9] = [
    &[
        &["mile", "mi"],
        &["kilometer", "kilometre", "km"],
        &["meter", "metre", "m"],
        &["yard", "yd"],
        &["foot", "feet", "ft", "'"],
        &["decimeter", "decimetre", "dm"],
        &["inch", "inche", "in", "\""],
        &["centimeter", "centimetre", "cm"],
        &["millimeter", "millimetre", "mm"],
    ],
    &[
        &["century", "centurie"],
        &["decade"],
        &["year", "yr"],
        &["month"],
        &["week", "wk"],
        &["day", "d"],
        &["hour", "hr", "h"],
        &["minute", "min", "m"],
        &["second", "sec", "s"],
    ],
    &[&["degree", "deg"], &["minute", "min", "'"], &["second", "sec", "\""]],
    &[&["ton", "tonne", "t"], &["kilogram", "kg"], &["gram", "gm", "g"], &["milligram", "mg"]],
    &[&["stone"], &["pound", "lb"], &["ounce", "oz"]],
    &[&["dollar", "buck"], &["quarter"], &["dime"], &["nickel"], &["cent", "penny", "pennie"]],
    &[&["pound"], &["shilling"], &["penny", "pennie", "pence"]],
    &[&["euro"], &["cent"]],
    &[
        &["gallon", "gal"],
        &["quart", "qt"],
        &["pint", "pt"],
        &["cup"],
        &["liter", "litre", "l"],
        &["tablespoon", "tbsp"],
        &["teaspoon", "tsp"],
        &["milliliter", "millilitre", "ml"],
    ],
];

/// A word in lower case, without the `s` of the plural.
fn singular(word: &str) -> String {
    let word = word.trim_matches('.').to_lowercase();
    match word.strip_suffix('s') {
        Some(stem) if stem.len() > 1 && !stem.ends_with('s') => stem.to_string(),
        _ => word,
    }
}

/// A word for a unit by the spelling that is used for it; other words are singular.
fn spelled(word: &str) -> String {
    let word = singular(word);
    let known = SYSTEMS.iter().flat_map(|s| s.iter()).find(|u| word.len() > 1 && u.contains(&word.as_str()));
    known.map_or(word.clone(), |unit| unit[0].to_string())
}

/// The words of a text that may be a unit: letters, perhaps with a power; `None` if there is a
/// digit that is no power, or a word that says more.
fn unit_words(text: &str) -> Option<Vec<String>> {
    let chars: Vec<char> = text.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let before = chars[..i].iter().rev().copied().find(|c| !"^{-".contains(*c));
        let fits = match c {
            '0'..='9' | '²' | '³' => {
                before.is_some_and(char::is_alphabetic) && !chars.get(i + 1).is_some_and(char::is_ascii_digit)
            }
            c => c.is_alphabetic() || " ./^-(){}\\$%*·'~°,".contains(*c),
        };
        if !fits {
            return None;
        }
    }
    let joined = text.replace('.', "");
    let words: Vec<String> =
        joined.split(|c: char| !c.is_alphabetic()).filter(|w| !w.is_empty()).map(str::to_string).collect();
    let says_more = |w: &str| NO_UNITS.contains(&w) || MULTIPLIERS.iter().any(|(name, _)| *name == w);
    let allowed = words.iter().all(|w| !says_more(&w.to_lowercase()));
    (allowed && !words.is_empty()).then_some(words)
}

/// Whether a token is a unit, or a part of one.
fn is_unit(tokens: &[Token], at: usize) -> bool {
    let token = &tokens[at];
    match &token.kind {
        Kind::Text(t) => unit_words(t).is_some() || t.trim().is_empty(),
        Kind::Word(w) if NO_UNITS.contains(&w.to_lowercase().as_str()) => false,
        Kind::Word(w) if MULTIPLIERS.iter().any(|(m, _)| m == w) => false,
        Kind::Word(w) if UNITS.contains(&w.as_str()) => !is_first(tokens, at),
        Kind::Word(w) if LETTERS.contains(&w.as_str()) => {
            let slash = at >= 2 && tokens[at - 1].is('/') && is_unit(tokens, at - 2);
            let before = tokens.get(at + 1).is_some_and(|t| t.is('/'))
                && matches!(tokens.get(at + 2).map(|t| &t.kind), Some(Kind::Word(w)) if ["s", "h", "min"].contains(&w.as_str()))
                && token.space
                && at > 0
                && matches!(tokens[at - 1].kind, Kind::Number(_) | Kind::Close('}'));
            slash || before
        }
        Kind::Word(w) => w.chars().count() > 2 && token.space && !is_product(w) && !is_known(w) && at > 0,
        _ => false,
    }
}

fn is_first(tokens: &[Token], at: usize) -> bool {
    at == 0
        || !matches!(
            tokens[at - 1].kind,
            Kind::Number(_)
                | Kind::Digits(_)
                | Kind::Word(_)
                | Kind::Close(_)
                | Kind::Text(_)
                | Kind::Sign('/' | '*' | '-')
        )
}

/// The length of the power that ends tokens: `^2`, `^{2}`, `^{-1}`.
fn power_length(tokens: &[Token]) -> Option<usize> {
    let kinds: Vec<&Kind> = tokens.iter().rev().take(5).map(|t| &t.kind).collect();
    match kinds.as_slice() {
        [Kind::Number(_), Kind::Sign('^'), ..] => Some(2),
        [Kind::Close('}'), Kind::Number(_), Kind::Open('{'), Kind::Sign('^'), ..] => Some(4),
        [Kind::Close('}'), Kind::Number(_), Kind::Sign('-'), Kind::Open('{'), Kind::Sign('^')] => Some(5),
        _ => None,
    }
}

/// A value and the unit phrase behind it. The phrase is empty if what follows the value is no such
/// phrase as a whole: one with digits that are no powers, as in `5 feet 3 inches`, isn't.
pub fn split_unit(tokens: &[Token]) -> (&[Token], &[Token]) {
    let (mut end, mut keep) = (tokens.len(), tokens.len());
    while end > 0 {
        if is_unit(tokens, end - 1) {
            end -= 1;
            keep = end;
        } else if let Some(length) = power_length(&tokens[..end])
            && end > length
            && is_unit(tokens, end - length - 1)
        {
            end -= length;
        } else if end < tokens.len()
            && keep == end
            && matches!(tokens[end - 1].kind, Kind::Sign('/' | '*' | '-'))
        {
            let length = power_length(&tokens[..end - 1]).unwrap_or(0);
            if end - 1 <= length || !is_unit(tokens, end - length - 2) {
                break;
            }
            end -= 1;
        } else {
            break;
        }
    }
    let (value, unit) = tokens.split_at(keep);
    if value.is_empty() || value.iter().all(|t| matches!(t.kind, Kind::Text(_) | Kind::Word(_))) {
        (tokens, &[])
    } else {
        (value, unit)
    }
}

/// The power of ten that the last word of a value says, and the value before it: `5 million`.
pub fn multiplied(tokens: &[Token]) -> Option<(&[Token], i32)> {
    let (last, value) = tokens.split_last()?;
    let word = match &last.kind {
        Kind::Word(w) | Kind::Text(w) => w.trim().to_lowercase(),
        _ => return None,
    };
    let mut words = word.split_whitespace();
    let first = words.next()?;
    // `\text{ million dollars}`
    let rest = words.all(|w| !NO_UNITS.contains(&w) && w.chars().all(char::is_alphabetic));
    let (_, power) = MULTIPLIERS.iter().find(|(name, _)| *name == first && rest)?;
    (!value.is_empty()).then_some((value, *power))
}

/// A unit phrase in one spelling.
pub fn unit_name(tokens: &[Token]) -> Option<String> {
    let mut words = Vec::new();
    for token in tokens {
        match &token.kind {
            Kind::Text(t) => words.extend(unit_words(t)?.iter().map(|w| spelled(w))),
            Kind::Word(w) => words.push(spelled(w)),
            Kind::Number(n) => words.push(n.to_string()),
            Kind::Sign(c) => words.push(c.to_string()),
            _ => {}
        }
    }
    (!words.is_empty()).then(|| words.join(" "))
}

/// The tokens of a number, and which unit of a system it has.
type Segment<'a> = (&'a [Token], usize);

/// The segments of a quantity in units of one system, each smaller than the one before, with
/// nothing, a comma or `and` between: their numbers, and the names of their units.
pub fn segments(all: &[Token]) -> Option<Vec<(&[Token], &'static str)>> {
    if !matches!(all.first()?.kind, Kind::Number(_)) || all.len() > 40 {
        return None;
    }
    SYSTEMS.iter().find_map(|system| {
        let found = segments_in(all, system)?;
        let ordered = found.windows(2).all(|pair| pair[0].1 < pair[1].1);
        (found.len() > 1 && ordered)
            .then(|| found.into_iter().map(|(n, unit)| (n, system[unit][0])).collect())
    })
}

fn segments_in<'a>(all: &'a [Token], system: &[&[&str]]) -> Option<Vec<Segment<'a>>> {
    let (mut at, mut out) = (0, Vec::new());
    while at < all.len() {
        let start = at;
        while at < all.len()
            && (matches!(
                all[at].kind,
                Kind::Number(_) | Kind::Open('{') | Kind::Close('}') | Kind::Sign('/')
            ) || all[at].is_command("frac"))
        {
            at += 1;
        }
        let number = &all[start..at];
        let (mut word, next) = match &all.get(at)?.kind {
            Kind::Word(w) => (w.clone(), at + 1),
            Kind::Text(t) => (t.trim().to_string(), at + 1),
            Kind::Sign('\'') if all.get(at + 1).is_some_and(|t| t.is('\'')) => ("\"".into(), at + 2),
            Kind::Sign(c @ ('\'' | '"')) => (c.to_string(), at + 1),
            _ => return None,
        };
        at = next;
        // A text may hold what stands between two segments.
        for between in [" and", ","] {
            word = word.trim_end().strip_suffix(between).map_or(word.clone(), str::to_string);
        }
        let word = singular(word.trim());
        let unit = system.iter().position(|spellings| spellings.contains(&word.as_str()))?;
        if number.is_empty() {
            return None;
        }
        out.push((number, unit));
        while all.get(at).is_some_and(is_between) {
            at += 1;
        }
    }
    Some(out)
}

fn is_between(token: &Token) -> bool {
    match &token.kind {
        Kind::Sign(',' | '.') => true,
        Kind::Word(w) | Kind::Text(w) => matches!(w.trim().trim_matches(',').trim(), "and" | ""),
        _ => false,
    }
}

/// `am` or `pm` at the end of a time, and what stands before it.
pub fn meridiem(all: &[Token]) -> Option<(&[Token], &'static str)> {
    if !matches!(all.first()?.kind, Kind::Number(_)) {
        return None;
    }
    let mut letters = String::new();
    for at in (1..all.len()).rev().take(4) {
        let piece = match &all[at].kind {
            Kind::Word(w) => w.clone(),
            Kind::Text(t) if tokens(t).len() <= 4 => t.replace(['.', ' '], ""),
            Kind::Sign('.') => String::new(),
            _ => return None,
        };
        letters = format!("{}{letters}", piece.to_lowercase());
        let rest = &all[..at];
        let ends = rest.last().is_some_and(|t| matches!(t.kind, Kind::Number(_) | Kind::Close('}')));
        if let Some(name) = ["am", "pm"].into_iter().find(|name| *name == letters)
            && ends
        {
            return Some((rest, name));
        }
    }
    None
}
