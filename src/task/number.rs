//! Numbers in running text, as models write them: `**550**`, `$1,234.50`, `1 234`, `-\frac{3}{4}`, `1 1/2`, `50%`.
//!
//! A number's canonical form is exact: an integer, a finite decimal, or a reduced fraction. Two numbers are equal iff their canonical
//! forms are; no floating point is involved. A percent sign is a unit and is ignored, as the MATH graders do (`50%` = 50).

use std::ops::Range;

/// A number found in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where, in characters of the [`simplify`]d text.
    pub at: Range<usize>,
    /// Canonical form.
    pub value: String,
}

/// The text with one kind of minus and space, and without LaTeX's spacing and font commands.
pub fn simplify(text: &str) -> String {
    let mut out: String = text
        .chars()
        .map(|c| match c {
            '\u{2212}' | '\u{2013}' | '\u{fe63}' | '\u{ff0d}' => '-',
            '\u{a0}' | '\u{2009}' | '\u{202f}' => ' ',
            c => c,
        })
        .collect();
    for (from, to) in [
        ("{,}", ","),
        (r"\!", ""),
        (r"\,", " "),
        (r"\;", " "),
        (r"\ ", " "),
        (r"\$", "$"),
        (r"\%", "%"),
        (r"\dfrac", r"\frac"),
        (r"\tfrac", r"\frac"),
        (r"\frac{-", r"-\frac{"),
        (r"\left", ""),
        (r"\right", ""),
    ] {
        if out.contains(from) {
            out = out.replace(from, to);
        }
    }
    for font in [r"\text{", r"\textbf{", r"\mathrm{", r"\mathbf{"] {
        if out.contains(font) {
            out = without_font(&out, font);
        }
    }
    out
}

/// The text without a font's command and braces, up to the first that is never closed. One pass, however often it occurs.
fn without_font(text: &str, font: &str) -> String {
    let closing = closing_braces(text);
    let mut out = String::with_capacity(text.len());
    let mut closed: Vec<usize> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if closed.last() == Some(&at) {
            closed.pop();
            at += 1;
            continue;
        }
        if text[at..].starts_with(font) {
            let open = at + font.len() - 1;
            let Some(close) = closing.binary_search_by_key(&open, |pair| pair.0).ok().map(|i| closing[i].1)
            else {
                break;
            };
            closed.push(close);
            at = open + 1;
            continue;
        }
        let Some(c) = text[at..].chars().next() else { break };
        out.push(c);
        at += c.len_utf8();
    }
    // Those that are open here close in what is left.
    for (i, c) in text[at..].char_indices() {
        if closed.last() == Some(&(at + i)) {
            closed.pop();
        } else {
            out.push(c);
        }
    }
    out
}

/// Byte offsets of all braces that are closed and of what closes them, in order; escaped braces don't count.
fn closing_braces(text: &str) -> Vec<(usize, usize)> {
    let (mut open, mut pairs) = (Vec::new(), Vec::new());
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => open.push(i),
            '}' => pairs.extend(open.pop().map(|from| (from, i))),
            _ => {}
        }
    }
    pairs.sort_unstable();
    pairs
}

/// The byte offset of the brace that closes the one just before `from`; escaped braces don't count.
pub fn closing_brace(text: &str, from: usize) -> Option<usize> {
    let mut depth = 1usize;
    let mut escaped = false;
    for (i, c) in text[from..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(from + i);
                }
            }
            _ => {}
        }
    }
    None
}

/// All numbers of a [`simplify`]d text, in order.
pub fn scan(text: &str) -> Vec<Found> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        match Body::read(&chars, i) {
            Some((body, end)) => {
                let start = i;
                let (from, negative) = sign(&chars, start);
                found.push(Found { at: from..end, value: body.canonical(negative) });
                i = end;
            }
            // Digits of a name such as x12 or v1.5 are no number.
            None if chars[i].is_ascii_digit() => loop {
                i += digits(&chars, i);
                match chars.get(i) == Some(&'.') && digits(&chars, i + 1) > 0 {
                    true => i += 1,
                    false => break,
                }
            },
            None => i += 1,
        }
    }
    found
}

/// The canonical form of a text that is one number, perhaps with a unit, currency or markup around it.
pub fn parse(text: &str) -> Option<String> {
    let text = simplify(text);
    // Before Markdown is taken away at either end.
    let text = text.trim();
    let numbers = scan(text);
    let [number] = numbers.as_slice() else { return None };
    let chars: Vec<char> = text.chars().collect();
    let before: String = chars[..number.at.start].iter().collect();
    let after: String = chars[number.at.end..].iter().collect();
    let rest = format!("{} {}", before.trim_matches('*'), after.trim_matches('*'));
    let wraps = [r"\(", r"\)", r"\[", r"\]"];
    let rest = wraps.iter().fold(rest, |rest, wrap| rest.replace(wrap, ""));
    (!rest.contains(['\\', '^', '_', '/', '+', '*', '-'])).then(|| number.value.clone())
}

/// Where the number that starts at `start` starts with its sign and currency, and whether it is negative.
fn sign(chars: &[char], start: usize) -> (usize, bool) {
    let currency = |c: char| "$£€¥".contains(c);
    let before = |at: usize| at.checked_sub(1).map(|i| chars[i]);
    let mut at = start;
    while before(at).is_some_and(currency) {
        at -= 1;
    }
    let tight = at;
    while before(at) == Some(' ') {
        at -= 1;
    }
    let spaced = at < tight;
    if before(at) != Some('-') {
        return (tight, false);
    }
    let minus = at - 1;
    let mut left = minus;
    while before(left).is_some_and(currency) {
        left -= 1;
    }
    let touching = before(left);
    let mut near = left;
    while before(near) == Some(' ') {
        near -= 1;
    }
    let operand = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || ")]}%".contains(c));
    let negative = if spaced {
        before(near) == Some('=')
    } else {
        !touching.is_some_and(char::is_alphanumeric) && !operand(touching) && !operand(before(near))
    };
    if negative { (left, true) } else { (tight, false) }
}

/// A number without its sign.
struct Body {
    /// Digits before the point, without grouping.
    whole: String,
    /// Digits after it.
    decimals: String,
    /// Power of ten.
    exponent: i32,
    /// Added to the rest (mixed numbers) or multiplied with it.
    fraction: Option<Fraction>,
}

enum Fraction {
    /// `1 1/2`, `1\frac{1}{2}`
    Plus(String, String),
    /// `3/4`: divides what stands before it.
    Over(String),
}

impl Body {
    fn read(chars: &[char], start: usize) -> Option<(Self, usize)> {
        let previous = start.checked_sub(1).map(|i| chars[i]);
        if let Some((top, bottom, end)) = latex_fraction(chars, start) {
            let mut body = Self { whole: top, decimals: String::new(), exponent: 0, fraction: None };
            body.fraction = Some(Fraction::Over(bottom));
            return Some((body, end));
        }
        let point_first = chars[start] == '.'
            && digits(chars, start + 1) > 0
            && !previous.is_some_and(|c| c.is_ascii_digit());
        if !point_first && !chars[start].is_ascii_digit()
            || previous.is_some_and(|c| c.is_alphabetic() || c == '_')
        {
            return None;
        }
        let text = |from: usize, len: usize| chars[from..from + len].iter().collect::<String>();
        let mut body = Self { whole: String::new(), decimals: String::new(), exponent: 0, fraction: None };
        let head = digits(chars, start);
        body.whole = text(start, head);
        let mut end = start + head;

        if let Some((fraction, after)) = mixed(chars, end).filter(|_| head > 0) {
            body.fraction = Some(fraction);
            return Some((body, after));
        }
        if (1..=3).contains(&head) && chars[start] != '0' {
            let separator = chars.get(end).copied().filter(|c| [',', ' '].contains(c));
            while separator.is_some() && chars.get(end).copied() == separator && digits(chars, end + 1) == 3 {
                body.whole.push_str(&text(end + 1, 3));
                end += 4;
            }
        }
        if chars.get(end) == Some(&'.') {
            let count = digits(chars, end + 1);
            if count > 0 {
                body.decimals = text(end + 1, count);
                end += 1 + count;
            }
        }
        if let Some((exponent, after)) = power(chars, end) {
            body.exponent = exponent;
            end = after;
        }
        if chars.get(end) == Some(&'/') {
            let count = digits(chars, end + 1);
            let below = text(end + 1, count);
            if below.chars().any(|c| c != '0') {
                body.fraction = Some(Fraction::Over(below));
                end += 1 + count;
            }
        }
        Some((body, end))
    }

    fn canonical(&self, negative: bool) -> String {
        let sign = if negative { -1 } else { 1 };
        self.ratio().and_then(|(n, d)| exact(n.checked_mul(sign)?, d)).unwrap_or_else(|| self.long(negative))
    }

    fn ratio(&self) -> Option<(i128, i128)> {
        let digits = format!("{}{}", self.whole, self.decimals);
        let (mut top, mut bottom) = (digits.parse::<i128>().ok()?, 1i128);
        let power = self.exponent.checked_sub(i32::try_from(self.decimals.len()).ok()?)?;
        let scale = 10i128.checked_pow(power.unsigned_abs())?;
        if power >= 0 {
            top = top.checked_mul(scale)?;
        } else {
            bottom = scale;
        }
        match &self.fraction {
            None => {}
            Some(Fraction::Over(below)) => bottom = bottom.checked_mul(below.parse().ok()?)?,
            Some(Fraction::Plus(above, below)) => {
                let below: i128 = below.parse().ok()?;
                top = top.checked_mul(below)?.checked_add(above.parse().ok()?)?;
                bottom = bottom.checked_mul(below)?;
            }
        }
        Some((top, bottom))
    }

    /// Numbers beyond 38 digits compare by their digits.
    fn long(&self, negative: bool) -> String {
        let whole = self.whole.trim_start_matches('0');
        let decimals = self.decimals.trim_end_matches('0');
        let mut out =
            format!("{}{}", if negative { "-" } else { "" }, if whole.is_empty() { "0" } else { whole });
        if !decimals.is_empty() {
            out.push('.');
            out.push_str(decimals);
        }
        if self.exponent != 0 {
            out.push_str(&format!("e{}", self.exponent));
        }
        match &self.fraction {
            Some(Fraction::Over(below)) => out.push_str(&format!("/{below}")),
            Some(Fraction::Plus(above, below)) => out.push_str(&format!(" {above}/{below}")),
            None => {}
        }
        out
    }
}

/// `n/d` as an integer, a finite decimal or a reduced fraction.
fn exact(n: i128, d: i128) -> Option<String> {
    let g = gcd(n.unsigned_abs(), d.unsigned_abs());
    let g = i128::try_from(g).ok()?.max(1);
    let (n, d) = (n / g, d / g);
    let (mut rest, mut twos, mut fives) = (d, 0u32, 0u32);
    while rest % 2 == 0 {
        (rest, twos) = (rest / 2, twos + 1);
    }
    while rest % 5 == 0 {
        (rest, fives) = (rest / 5, fives + 1);
    }
    if rest != 1 {
        return Some(format!("{n}/{d}"));
    }
    let places = twos.max(fives);
    if places == 0 {
        return Some(n.to_string());
    }
    let scaled = n.checked_mul(10i128.checked_pow(places)? / d)?;
    let digits = format!("{:0>width$}", scaled.unsigned_abs(), width = places as usize + 1);
    let (whole, decimals) = digits.split_at(digits.len() - places as usize);
    Some(format!("{}{whole}.{decimals}", if n < 0 { "-" } else { "" }))
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The number of ASCII digits from `at`.
fn digits(chars: &[char], at: usize) -> usize {
    chars.iter().skip(at).take_while(|c| c.is_ascii_digit()).count()
}

/// `e-3` and the like, not followed by more of a word.
fn power(chars: &[char], at: usize) -> Option<(i32, usize)> {
    if !matches!(chars.get(at), Some('e' | 'E')) {
        return None;
    }
    let signed = matches!(chars.get(at + 1), Some('+' | '-'));
    let from = at + 1 + usize::from(signed);
    let count = digits(chars, from);
    let end = from + count;
    if !(1..=3).contains(&count) || chars.get(end).is_some_and(|c| c.is_alphanumeric()) {
        return None;
    }
    let size: i32 = chars[from..end].iter().collect::<String>().parse().ok()?;
    Some((if chars[at + 1] == '-' { -size } else { size }, end))
}

/// The fraction of a mixed number whose whole part ends at `at`.
fn mixed(chars: &[char], at: usize) -> Option<(Fraction, usize)> {
    let from = at + usize::from(chars.get(at) == Some(&' '));
    if let Some((top, bottom, end)) = latex_fraction(chars, from) {
        return Some((Fraction::Plus(top, bottom), end));
    }
    let above = digits(chars, from);
    if from == at || !(1..=3).contains(&above) || chars.get(from + above) != Some(&'/') {
        return None;
    }
    let below_at = from + above + 1;
    let below = digits(chars, below_at);
    let top: String = chars[from..from + above].iter().collect();
    let bottom: String = chars[below_at..below_at + below].iter().collect();
    let proper = top.parse::<u32>().ok()? < bottom.parse::<u32>().ok()?;
    proper.then_some((Fraction::Plus(top, bottom), below_at + below))
}

/// `\frac{a}{b}` or `\frac12` of whole numbers, b not 0; signs inside are for [`sign`]'s caller to have outside.
fn latex_fraction(chars: &[char], at: usize) -> Option<(String, String, usize)> {
    const COMMAND: [char; 5] = ['\\', 'f', 'r', 'a', 'c'];
    if !chars.get(at..)?.starts_with(&COMMAND) {
        return None;
    }
    let argument = |from: usize| -> Option<(String, usize)> {
        match chars.get(from)? {
            '{' => {
                let count = digits(chars, from + 1);
                let end = from + 1 + count;
                (count > 0 && chars.get(end) == Some(&'}'))
                    .then(|| (chars[from + 1..end].iter().collect(), end + 1))
            }
            c if c.is_ascii_digit() => Some((c.to_string(), from + 1)),
            _ => None,
        }
    };
    let (top, after) = argument(at + COMMAND.len())?;
    let (bottom, end) = argument(after)?;
    bottom.chars().any(|c| c != '0').then_some((top, bottom, end))
}
