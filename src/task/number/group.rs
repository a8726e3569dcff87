//! The digits of a number: thousands written in groups, and the decimals.
//!
//! | written | read as |
//! |---|---|
//! | `1,234,567`, `1'234'567`, `1_234_567`, `1.234.567` | groups of three |
//! | `12,34,567` | Indian groups: two, and three at the end |
//! | `1.234,56`, `1 234,56` | a decimal comma: dots or spaces are groups before it |
//! | `1.234` | a decimal point |
//! | `1,23` | two numbers |
//! | `1\u{202f}234`, `1\,234` | a thin or no-break space always joins |
//! | `1 234` | a plain space joins unless the first number is a label, see [`is_label`] |

use super::JOINING_SPACE;
use super::sign::{is_cased, is_currency};

/// A number as its decimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decimal {
    /// Before the point, without grouping; may be empty.
    pub whole: String,
    /// Behind it.
    pub decimals: String,
}

/// The number of ASCII digits from `at`.
pub fn digits(chars: &[char], at: usize) -> usize {
    chars.iter().skip(at).take_while(|c| c.is_ascii_digit()).count()
}

/// The decimal number at `start`, which has a digit or a point, and where it ends.
pub fn decimal(chars: &[char], start: usize) -> (Decimal, usize) {
    let text = |from: usize, len: usize| chars[from..from + len].iter().collect::<String>();
    let head = digits(chars, start);
    let mut number = Decimal { whole: text(start, head), decimals: String::new() };
    let mut end = start + head;
    let mut point = '.';
    if (1..=3).contains(&head)
        && chars[start] != '0'
        && let Some((separator, groups)) = groups(chars, start, end)
    {
        for group in groups {
            number.whole.push_str(&text(end + 1, group));
            end += 1 + group;
        }
        if separator == '.' || [' ', JOINING_SPACE].contains(&separator) && is_decimal_comma(chars, end) {
            point = ',';
        }
    }
    if chars.get(end) == Some(&point) {
        let count = digits(chars, end + 1);
        number.decimals = text(end + 1, count);
        end += if count > 0 { 1 + count } else { 0 };
    }
    (number, end)
}

/// A comma with one or two digits.
fn is_decimal_comma(chars: &[char], at: usize) -> bool {
    chars.get(at) == Some(&',') && (1..=2).contains(&digits(chars, at + 1))
}

/// The separator behind a head of one to three digits and the lengths of the groups that it
/// separates.
fn groups(chars: &[char], start: usize, end: usize) -> Option<(char, Vec<usize>)> {
    let separator = *chars.get(end)?;
    if ![',', '.', '\'', '\u{2019}', '_', ' ', JOINING_SPACE].contains(&separator) {
        return None;
    }
    let mut lengths = Vec::new();
    let mut at = end;
    while chars.get(at) == Some(&separator) && digits(chars, at + 1) == 3 {
        lengths.push(3);
        at += 4;
    }
    let joins = match separator {
        ',' if lengths.is_empty() => return Some((',', indian(chars, start, end)?)),
        '.' => lengths.len() > 1 || is_decimal_comma(chars, at),
        ' ' => !is_label(chars, start, end, at),
        _ => true,
    };
    (joins && !lengths.is_empty()).then_some((separator, lengths))
}

/// The lengths of Indian groups, as in `12,34,567`.
fn indian(chars: &[char], start: usize, end: usize) -> Option<Vec<usize>> {
    let mut lengths = Vec::new();
    let mut at = end;
    while chars.get(at) == Some(&',') && digits(chars, at + 1) == 2 {
        lengths.push(2);
        at += 3;
    }
    let last = chars.get(at) == Some(&',') && digits(chars, at + 1) == 3;
    lengths.push(3);
    (end - start <= 2 && last && lengths.len() > 1).then_some(lengths)
}

/// What is numbered: `grade 4`, `page 3`.
const LABELS: [&str; 92] = [
    "age",
    "aisle",
    "apartment",
    "batch",
    "block",
    "book",
    "box",
    "branch",
    "building",
    "bus",
    "cabin",
    "car",
    "case",
    "chapter",
    "class",
    "classroom",
    "column",
    "course",
    "day",
    "district",
    "division",
    "door",
    "episode",
    "exercise",
    "exhibit",
    "experiment",
    "figure",
    "flight",
    "floor",
    "game",
    "gate",
    "generation",
    "grade",
    "group",
    "hall",
    "highway",
    "hour",
    "house",
    "item",
    "lane",
    "lap",
    "lesson",
    "level",
    "line",
    "lot",
    "machine",
    "match",
    "mile",
    "minute",
    "module",
    "month",
    "no",
    "number",
    "page",
    "paragraph",
    "part",
    "period",
    "phase",
    "plan",
    "platform",
    "player",
    "plot",
    "point",
    "problem",
    "quarter",
    "question",
    "room",
    "round",
    "route",
    "row",
    "scenario",
    "season",
    "section",
    "sector",
    "session",
    "set",
    "shelf",
    "shift",
    "site",
    "stage",
    "station",
    "step",
    "store",
    "street",
    "table",
    "team",
    "test",
    "track",
    "trial",
    "unit",
    "week",
    "year",
];

/// Prepositions behind which a bare word and a number are a label: `by wave 7 240 eggs`.
const PREPOSITIONS: [&str; 20] = [
    "after", "at", "before", "between", "by", "during", "for", "from", "in", "inside", "into", "of", "on",
    "per", "since", "through", "under", "until", "via", "within",
];

/// Words behind a preposition behind which a quantity stands: `in total 12 345`,
/// `of at least 12 345`.
const NO_LABELS: [&str; 26] = [
    "a", "about", "all", "an", "around", "at", "circa", "exactly", "fact", "half", "is", "just", "least",
    "less", "more", "most", "nearly", "only", "over", "some", "the", "this", "to", "total", "under", "up",
];

/// Longest word and gap that are looked at.
const MAX_WORD: usize = 24;

/// Whether the number from `start` to `end`, with groups behind plain spaces up to `all`, is a
/// label and a count is what follows it: `in grade 4 150 children`. It is one behind a noun for
/// what is numbered, behind a preposition and a bare word, behind a name (a word with a capital
/// inside a sentence), behind `#` or another number, and where the last group starts a compound
/// (`4 100-dollar bills`). What nobody writes as a count of its own joins in any case: a group that
/// starts with 0, behind a currency sign, three groups and more.
fn is_label(chars: &[char], start: usize, end: usize, all: usize) -> bool {
    let zero = (end..all).step_by(4).any(|at| chars.get(at + 1) == Some(&'0'));
    let before = start.checked_sub(1).map(|i| chars[i]);
    if zero || before.is_some_and(is_currency) || all - end > 4 {
        return false;
    }
    let compound = chars.get(all) == Some(&'-') && chars.get(all + 1).is_some_and(|c| c.is_alphabetic());
    if compound || before == Some('#') {
        return true;
    }
    let mut at = start;
    let mut back = |is: &dyn Fn(char) -> bool| {
        let from = at;
        while at > 0 && from - at < MAX_WORD && is(chars[at - 1]) {
            at -= 1;
        }
        (at, from)
    };
    let (to, from) = back(&|c| c == ' ' || c == JOINING_SPACE || c == '.');
    if to == from {
        return false;
    }
    if to > 0 && chars[to - 1].is_ascii_digit() {
        return true;
    }
    let dotted = chars[to..from].contains(&'.');
    let word = |(to, from): (usize, usize)| chars[to..from].iter().collect::<String>();
    let noun = word(back(&|c| c.is_alphabetic()));
    let name = noun.to_lowercase();
    if dotted && name != "no" {
        // The number starts a sentence.
        return false;
    }
    if LABELS.contains(&&*name) {
        return true;
    }
    let (gap, _) = back(&|c| c == ' ');
    let starts_sentence = gap == 0 || !chars[gap - 1].is_alphanumeric() && chars[gap - 1] != ',';
    let previous = word(back(&|c| c.is_alphabetic())).to_lowercase();
    let first = noun.chars().next();
    if first.is_some_and(char::is_uppercase) && !starts_sentence {
        return true;
    }
    let is_form_of_verb = ["ing", "ly", "ed"].iter().any(|end| name.ends_with(end));
    let is_plural = name.ends_with('s') && !name.ends_with("ss") && !name.ends_with("us");
    first.is_some_and(is_cased)
        && PREPOSITIONS.contains(&&*previous)
        && !NO_LABELS.contains(&&*name)
        && !PREPOSITIONS.contains(&&*name)
        && !is_form_of_verb
        && !is_plural
}
