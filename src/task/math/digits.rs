//! Numbers as written: separators of thousands, repeating decimals, powers of ten, other bases.

use super::rational::Rational;
use super::token::{Kind, Lexer};

/// Words for bases.
const BASES: [(&str, u32); 17] = [
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("seven", 7),
    ("eight", 8),
    ("nine", 9),
    ("ten", 10),
    ("eleven", 11),
    ("twelve", 12),
    ("sixteen", 16),
    ("binary", 2),
    ("octal", 8),
    ("bin", 2),
    ("oct", 8),
    ("hex", 16),
];

impl Lexer<'_> {
    fn digits(&self, from: usize) -> usize {
        self.chars.iter().skip(from).take_while(|c| c.is_ascii_digit()).count()
    }

    /// A number with its base after it, `1E3_{16}`: whether one is here, which is then read.
    pub(super) fn based(&mut self) -> bool {
        let start = self.at;
        let upper = |c: char| c.is_ascii_digit() || c.is_ascii_uppercase();
        let rest = &self.chars[start..];
        let mut length = rest.iter().take_while(|c| upper(**c)).count();
        // `1e3_{16}`, but not `3a_{12}`, which is a product.
        if rest.get(length) == Some(&'e')
            && length > 0
            && rest.get(length + 1).is_some_and(char::is_ascii_digit)
        {
            length = rest.iter().take_while(|c| c.is_ascii_digit() || ('a'..='f').contains(*c)).count();
        } else if rest.get(length) == Some(&'.') {
            let decimals = rest[length + 1..].iter().take_while(|c| upper(**c)).count();
            length += if decimals > 0 { 1 + decimals } else { 0 };
        }
        let digits: String = rest[..length].iter().collect();
        self.at += length;
        let found = length > 0 && self.base_follows(&digits);
        if !found {
            self.at = start;
        }
        found
    }

    /// Whether a base follows these digits; then both are taken as one number. Letters alone, such
    /// as `A_2`, are a name in a base up to ten, or if there is only one.
    pub(super) fn base_follows(&mut self, digits: &str) -> bool {
        let start = self.at;
        let Some(base) = self.base() else { return false };
        let digits = digits.to_ascii_uppercase();
        let valid = digits.chars().all(|c| c == '.' || c.to_digit(36).is_some_and(|d| d < base));
        let named = digits.len() == 1 && digits.starts_with(char::is_alphabetic);
        if !valid || named || digits.is_empty() {
            self.at = start;
            return false;
        }
        let (whole, decimals) = digits.split_once('.').unwrap_or((&digits, ""));
        let (whole, decimals) = (whole.trim_start_matches('0'), decimals.trim_end_matches('0'));
        let whole = if whole.is_empty() { "0" } else { whole };
        if base == 10 {
            match value(whole, decimals, "", 0) {
                Some(value) => self.push(Kind::Number(value)),
                None => self.push(Kind::Digits(if decimals.is_empty() {
                    whole.to_string()
                } else {
                    format!("{whole}.{decimals}")
                })),
            }
            return true;
        }
        let point = if decimals.is_empty() { "" } else { "." };
        self.push(Kind::Based(format!("{whole}{point}{decimals}"), base));
        true
    }

    /// Reads `_7`, `_{16}`, `_\text{five}`.
    fn base(&mut self) -> Option<u32> {
        while self.peek(0) == Some(' ') {
            self.at += 1;
        }
        if self.peek(0) != Some('_') {
            return None;
        }
        self.at += 1;
        let mut text = match self.group() {
            Some(content) => content,
            None => {
                let rest: String = self.chars[self.at..].iter().collect();
                match rest.strip_prefix("\\text").or(rest.strip_prefix("\\mathrm")) {
                    Some(_) => {
                        self.at += if rest.starts_with("\\text") { 5 } else { 7 };
                        self.group()?
                    }
                    None => {
                        let count = self.digits(self.at);
                        let digits = self.chars[self.at..self.at + count].iter().collect();
                        self.at += count;
                        digits
                    }
                }
            }
        };
        for command in ["\\text", "\\mathrm"] {
            if let Some(inside) = text.trim().strip_prefix(command) {
                text = inside.trim().trim_start_matches('{').trim_end_matches('}').to_string();
            }
        }
        let text = text.trim().to_lowercase();
        let named = BASES.iter().find(|(word, _)| *word == text).map(|(_, base)| *base);
        named.or_else(|| text.parse().ok()).filter(|base| (2..=36).contains(base))
    }

    /// The length of a separator of thousands at `self.at`, if exactly three digits follow it.
    fn separator(&self, grouped: Option<&'static str>) -> Option<&'static str> {
        let rest: String = self.chars[self.at..].iter().take(8).collect();
        // Plain ones are separators outside brackets only: (1,234) is a pair.
        let plain: &[&str] = if self.depth == 0 { &[",", " ", "'"] } else { &[] };
        let known = ["{,}", ",\\!\\!", ",\\! ", ",\\!", "\\,", "{,}\\!"];
        known
            .iter()
            .chain(plain)
            .copied()
            .filter(|s| grouped.is_none_or(|g| g == *s) && rest.starts_with(s))
            .find(|s| self.digits(self.at + s.chars().count()) == 3)
    }

    /// The groups of `1,00,000` after its first digits, if they are grouped by twos and the last by
    /// three. In a list, as `5,12,130` is, no element starts with 0; so one of the groups must.
    fn indian_groups(&self) -> Option<(String, usize)> {
        let (mut at, mut digits, mut zero) = (self.at, String::new(), false);
        while self.depth == 0 && self.chars.get(at) == Some(&',') {
            let count = self.digits(at + 1);
            if !(2..=3).contains(&count) {
                return None;
            }
            zero |= self.chars[at + 1] == '0';
            digits.extend(&self.chars[at + 1..at + 1 + count]);
            at += 1 + count;
            if count == 3 {
                let ends = self.chars.get(at) != Some(&',');
                return (ends && zero && digits.len() > 3).then_some((digits, at));
            }
        }
        None
    }

    pub(super) fn number(&mut self) {
        let head = self.digits(self.at);
        let start = self.at;
        let mut whole: String = self.chars[start..start + head].iter().collect();
        self.at += head;
        if (1..=3).contains(&head) && self.chars[start] != '0' {
            let first = self.separator(None);
            while let Some(s) = first.and_then(|_| self.separator(first)) {
                let from = self.at + s.chars().count();
                whole.extend(&self.chars[from..from + 3]);
                self.at = from + 3;
            }
            if first.is_none()
                && head < 3
                && let Some((groups, end)) = self.indian_groups()
            {
                whole.push_str(&groups);
                self.at = end;
            }
        }
        let (mut decimals, mut repeating) = (String::new(), String::new());
        if self.peek(0) == Some('.') {
            let count = self.digits(self.at + 1);
            if count > 0 || self.repeating_length(self.at + 1).is_some() {
                decimals = self.chars[self.at + 1..self.at + 1 + count].iter().collect();
                self.at += 1 + count;
                repeating = self.repeating();
            } else if self.peek(1) != Some('.') {
                // A full stop.
                self.at += 1;
            }
        }
        let raw: String = self.chars[start..self.at].iter().collect();
        let exponent = self.exponent();
        self.push(match value(&whole, &decimals, &repeating, exponent) {
            Some(value) => Kind::Number(value),
            None => {
                let mut text = whole.trim_start_matches('0').to_string();
                if !decimals.is_empty() {
                    text = format!("{text}.{}", decimals.trim_end_matches('0'));
                }
                if !repeating.is_empty() {
                    text = format!("{text}({repeating})");
                }
                if exponent != 0 {
                    text = format!("{text}e{exponent}");
                }
                Kind::Digits(text)
            }
        });
        if let Some(token) = self.out.last_mut() {
            token.raw = raw;
        }
    }

    /// Where the digits of `\overline{…}`, `\bar{…}`, `\dot{…}`, or of `(…)` right after the point,
    /// start, and how many there are.
    fn repeating_length(&self, at: usize) -> Option<(usize, usize)> {
        let rest: String = self.chars[at..].iter().take(14).collect();
        let open =
            ["\\overline{", "\\bar{", "\\dot{", "\\overbar{"].into_iter().find(|c| rest.starts_with(c));
        let (open, close) = match open {
            Some(open) => (open.len(), '}'),
            None if rest.starts_with('(') && self.chars.get(at.wrapping_sub(1)) == Some(&'.') => (1, ')'),
            None => {
                // `\bar3`
                let command = ["\\overline", "\\bar", "\\dot"].into_iter().find(|c| rest.starts_with(c))?;
                let spaces = rest[command.len()..].chars().take_while(|c| *c == ' ').count();
                let from = at + command.len() + spaces;
                return (self.digits(from) == 1).then_some((from, 1));
            }
        };
        let count = self.digits(at + open);
        (count > 0 && self.chars.get(at + open + count) == Some(&close)).then_some((at + open, count))
    }

    /// The repeating digits.
    fn repeating(&mut self) -> String {
        let Some((from, count)) = self.repeating_length(self.at) else { return String::new() };
        let closed = self.chars.get(from + count).is_some_and(|c| ['}', ')'].contains(c))
            && [Some(&'{'), Some(&'(')].contains(&self.chars.get(from - 1));
        self.at = from + count + usize::from(closed);
        self.chars[from..from + count].iter().collect()
    }

    /// `e-3` and the like, not followed by more of a word.
    fn exponent(&mut self) -> i32 {
        if !matches!(self.peek(0), Some('e' | 'E')) {
            return 0;
        }
        let signed = matches!(self.peek(1), Some('+' | '-'));
        let from = self.at + 1 + usize::from(signed);
        let count = self.digits(from);
        let end = from + count;
        if !(1..=3).contains(&count) || self.chars.get(end).is_some_and(|c| c.is_alphanumeric()) {
            return 0;
        }
        let size: i32 = self.chars[from..end].iter().collect::<String>().parse().unwrap_or(0);
        let size = if self.peek(1) == Some('-') { -size } else { size };
        self.at = end;
        size
    }
}

/// The exact value of a decimal; `None` if it doesn't fit.
fn value(whole: &str, decimals: &str, repeating: &str, exponent: i32) -> Option<Rational> {
    let parse = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let places = i32::try_from(decimals.len()).ok()?;
    let mut out = Rational::whole(parse(&format!("{whole}{decimals}"))?);
    if !repeating.is_empty() {
        let nines = 10i128.checked_pow(u32::try_from(repeating.len()).ok()?)? - 1;
        out = out.plus(Rational::new(parse(repeating)?, nines)?)?;
    }
    out.times(Rational::whole(10).power(exponent.checked_sub(places)?)?)
}
