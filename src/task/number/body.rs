//! A number without its sign: decimals, powers of ten, fractions and mixed numbers, as an exact
//! ratio.

use super::group::{Decimal, decimal, digits};
use super::sign::{ends_with_code, is_cased, is_currency};
use super::{JOINING_SPACE, gcd};

/// A number without its sign.
#[derive(Default)]
pub struct Body {
    number: Decimal,
    /// Power of ten.
    exponent: i32,
    /// Changes the rest.
    tail: Tail,
    /// Whether a sign within the number makes it negative: `\frac{1}{-2}`.
    flipped: bool,
}

#[derive(Default)]
enum Tail {
    #[default]
    None,
    /// `1 1/2`, `1\frac{1}{2}`: added.
    Plus(Decimal, Decimal),
    /// `3/4`: divides.
    Over(Decimal),
    /// `2^10`: raises.
    Power(u32),
}

/// Largest power that is worked out.
const MAX_POWER: u32 = 400;

fn is_space(c: Option<&char>) -> bool {
    matches!(c, Some(&(' ' | JOINING_SPACE)))
}

/// The first place from `at` without a space.
fn past_spaces(chars: &[char], at: usize) -> usize {
    at + chars.iter().skip(at).take_while(|c| is_space(Some(c))).count()
}

/// Whether digits at `at` are part of a name, a subscript or an exponent: `H2O`, `x_1`, `x_{12}`,
/// `km^2`, `s^{-1}`.
pub fn is_in_name(chars: &[char], at: usize) -> bool {
    let before = |at: usize| at.checked_sub(1).map(|i| chars[i]);
    match before(at) {
        Some('_') => {
            let mut first = at;
            while before(first) == Some('_') {
                first -= 1;
            }
            // Else it is emphasis: `_18_`, `__18__`.
            before(first).is_some_and(|c| is_cased(c) || c.is_ascii_digit() || ")]}'|".contains(c))
        }
        Some('^') => true,
        Some('{') => matches!(before(at - 1), Some('_' | '^')),
        Some('-' | '+') => match before(at - 1) {
            Some('^') => true,
            Some('{') => before(at - 2) == Some('^'),
            _ => false,
        },
        Some(c) if is_cased(c) => !is_command(chars, at) && !ends_with_code(chars, at),
        _ => false,
    }
}

/// Whether a LaTeX command ends at `at`, so that what follows is no part of its name: `\times6`.
fn is_command(chars: &[char], at: usize) -> bool {
    let letters = chars[..at].iter().rev().take(24).take_while(|c| c.is_ascii_alphabetic()).count();
    letters > 0 && at > letters && chars[at - letters - 1] == '\\'
}

impl Body {
    /// The number at `start` and where it ends.
    pub fn read(chars: &[char], start: usize) -> Option<(Self, usize)> {
        if let Some(fraction) = latex_fraction(chars, start) {
            let Fraction { top, bottom, flipped, end } = fraction;
            return Some((Self { number: top, tail: Tail::Over(bottom), flipped, ..Self::default() }, end));
        }
        let previous = start.checked_sub(1).map(|i| chars[i]);
        let point_first = chars[start] == '.'
            && digits(chars, start + 1) > 0
            // An ellipsis (`is...18`) and an abbreviation (`Rs.500`) end in a point too.
            && !previous.is_some_and(|c| c.is_ascii_digit() || c == '.' || is_cased(c));
        if !point_first && !chars[start].is_ascii_digit() || is_in_name(chars, start) {
            return None;
        }
        let head = digits(chars, start);
        let mut body = Self::default();
        if let Some((top, bottom, end)) = mixed(chars, start + head).filter(|_| head > 0) {
            body.number.whole = chars[start..start + head].iter().collect();
            body.tail = Tail::Plus(top, bottom);
            return Some((body, end));
        }
        let (number, mut end) = decimal(chars, start);
        body.number = number;
        if let Some((exponent, after)) = exponent(chars, end).or_else(|| scientific(chars, end)) {
            (body.exponent, end) = (exponent, after);
        } else if let Some((power, after)) = power(chars, end) {
            body.tail = Tail::Power(power);
            end = after;
        }
        if let Some((below, after)) = below(chars, end).filter(|_| matches!(body.tail, Tail::None)) {
            body.tail = Tail::Over(below);
            end = after;
        }
        Some((body, end))
    }

    /// The canonical form of the number with its sign.
    pub fn canonical(&self, negative: bool) -> String {
        let negative = negative != self.flipped;
        let sign = if negative { -1 } else { 1 };
        self.ratio().and_then(|(n, d)| exact(n.checked_mul(sign)?, d)).unwrap_or_else(|| self.long(negative))
    }

    fn ratio(&self) -> Option<(i128, i128)> {
        let (mut top, mut bottom) = self.number.scaled(self.exponent)?;
        match &self.tail {
            Tail::None => {}
            Tail::Over(below) => {
                let (n, d) = below.ratio()?;
                top = top.checked_mul(d)?;
                bottom = bottom.checked_mul(n)?;
            }
            Tail::Plus(above, below) => {
                let ((a, one), (b, other)) = (above.ratio()?, below.ratio()?);
                let (above, below) = (a.checked_mul(other)?, b.checked_mul(one)?);
                top = top.checked_mul(below)?.checked_add(above.checked_mul(bottom)?)?;
                bottom = bottom.checked_mul(below)?;
            }
            Tail::Power(power) => {
                top = top.checked_pow(*power)?;
                bottom = bottom.checked_pow(*power)?;
            }
        }
        Some((top, bottom))
    }

    /// Numbers beyond 38 digits compare by their digits.
    fn long(&self, negative: bool) -> String {
        let sign = if negative { "-" } else { "" };
        let mut out = format!("{sign}{}", self.number.plain());
        if self.exponent != 0 {
            out.push_str(&format!("e{}", self.exponent));
        }
        match &self.tail {
            Tail::Over(below) => out.push_str(&format!("/{}", below.plain())),
            Tail::Plus(above, below) => out.push_str(&format!(" {}/{}", above.plain(), below.plain())),
            Tail::Power(power) => out.push_str(&format!("^{power}")),
            Tail::None => {}
        }
        out
    }
}

impl Decimal {
    fn ratio(&self) -> Option<(i128, i128)> {
        self.scaled(0)
    }

    /// The number times a power of ten.
    fn scaled(&self, exponent: i32) -> Option<(i128, i128)> {
        let digits: i128 = format!("{}{}", self.whole, self.decimals).parse().ok()?;
        let power = exponent.checked_sub(i32::try_from(self.decimals.len()).ok()?)?;
        let scale = 10i128.checked_pow(power.unsigned_abs())?;
        if power >= 0 { Some((digits.checked_mul(scale)?, 1)) } else { Some((digits, scale)) }
    }

    fn is_zero(&self) -> bool {
        self.whole.chars().chain(self.decimals.chars()).all(|c| c == '0')
    }

    fn plain(&self) -> String {
        let (whole, decimals) = (self.whole.trim_start_matches('0'), self.decimals.trim_end_matches('0'));
        let whole = if whole.is_empty() { "0" } else { whole };
        if decimals.is_empty() { whole.to_string() } else { format!("{whole}.{decimals}") }
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

/// `e-3` and the like, not followed by more of a word.
fn exponent(chars: &[char], at: usize) -> Option<(i32, usize)> {
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

/// `^{-3}`, `^3` or `³` and where it ends.
fn raised(chars: &[char], at: usize) -> Option<(i32, usize)> {
    const SUPERSCRIPTS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let superscript = |c: &char| SUPERSCRIPTS.iter().position(|s| s == c);
    let raised: String = chars
        .iter()
        .skip(at)
        .map_while(|c| match (c, superscript(c)) {
            ('⁻', _) => Some('-'),
            (_, digit) => char::from_digit(u32::try_from(digit?).ok()?, 10),
        })
        .take(8)
        .collect();
    if !raised.is_empty() {
        return Some((raised.parse().ok()?, at + raised.len()));
    }
    if chars.get(at) != Some(&'^') {
        return None;
    }
    let braced = chars.get(at + 1) == Some(&'{');
    let from = at + 1 + usize::from(braced);
    let signed = usize::from(chars.get(from) == Some(&'-'));
    let count = digits(chars, from + signed);
    let end = from + signed + count;
    if !(1..=4).contains(&count) || braced && chars.get(end) != Some(&'}') {
        return None;
    }
    let size = chars[from..end].iter().collect::<String>().parse().ok()?;
    Some((size, end + usize::from(braced)))
}

/// A power of a plain number.
fn power(chars: &[char], at: usize) -> Option<(u32, usize)> {
    let (size, end) = raised(chars, at)?;
    Some((u32::try_from(size).ok().filter(|p| *p <= MAX_POWER)?, end))
}

/// `\times 10^{3}`, `× 10³`: a power of ten.
fn scientific(chars: &[char], at: usize) -> Option<(i32, usize)> {
    let from = past_spaces(chars, at);
    let rest = chars.get(from..)?;
    let sign = [r"\times", r"\cdot", "×", "·", "*", "x"]
        .into_iter()
        .find(|sign| sign.chars().eq(rest.iter().copied().take(sign.chars().count())))?;
    let ten = past_spaces(chars, from + sign.chars().count());
    if digits(chars, ten) != 2 || !chars[ten..].starts_with(&['1', '0']) {
        return None;
    }
    raised(chars, ten + 2).filter(|(size, _)| size.abs() <= 999)
}

/// `/4` or ` / 4`, not 0.
fn below(chars: &[char], at: usize) -> Option<(Decimal, usize)> {
    let slash = past_spaces(chars, at);
    if chars.get(slash) != Some(&'/') {
        return None;
    }
    let from = past_spaces(chars, slash + 1);
    // A space on one side only is something else.
    let even = (slash > at) == (from > slash + 1);
    if !even || digits(chars, from) == 0 {
        return None;
    }
    let (below, end) = decimal(chars, from);
    (!below.is_zero()).then_some((below, end))
}

/// The fraction of a mixed number whose whole part ends at `at`.
fn mixed(chars: &[char], at: usize) -> Option<(Decimal, Decimal, usize)> {
    let from = at + usize::from(is_space(chars.get(at)));
    if let Some(fraction) = latex_fraction(chars, from).filter(|f| !f.flipped) {
        return Some((fraction.top, fraction.bottom, fraction.end));
    }
    let above = digits(chars, from);
    if from == at || !(1..=3).contains(&above) || chars.get(from + above) != Some(&'/') {
        return None;
    }
    let below_at = from + above + 1;
    let below = digits(chars, below_at);
    let text = |from: usize, len: usize| chars[from..from + len].iter().collect::<String>();
    let (top, bottom) = (text(from, above), text(below_at, below));
    let proper = top.parse::<u32>().ok()? < bottom.parse::<u32>().ok()?;
    let number = |whole| Decimal { whole, decimals: String::new() };
    proper.then(|| (number(top), number(bottom), below_at + below))
}

struct Fraction {
    top: Decimal,
    bottom: Decimal,
    flipped: bool,
    end: usize,
}

/// `\frac{a}{b}` or `\frac12` of decimal numbers, b not 0.
fn latex_fraction(chars: &[char], at: usize) -> Option<Fraction> {
    const COMMAND: [char; 5] = ['\\', 'f', 'r', 'a', 'c'];
    if !chars.get(at..)?.starts_with(&COMMAND) {
        return None;
    }
    let argument = |from: usize| -> Option<(Decimal, bool, usize)> {
        let from = past_spaces(chars, from);
        match chars.get(from)? {
            '{' => {
                let mut start = past_spaces(chars, from + 1);
                let negative = chars.get(start) == Some(&'-');
                start = past_spaces(chars, start + usize::from(negative));
                start += usize::from(chars.get(start).copied().is_some_and(is_currency));
                if !chars.get(start).is_some_and(|c| c.is_ascii_digit() || *c == '.') {
                    return None;
                }
                let (number, end) = decimal(chars, start);
                let end = past_spaces(chars, end);
                (end > start && chars.get(end) == Some(&'}')).then_some((number, negative, end + 1))
            }
            c if c.is_ascii_digit() => {
                Some((Decimal { whole: c.to_string(), decimals: String::new() }, false, from + 1))
            }
            _ => None,
        }
    };
    let (top, up, after) = argument(at + COMMAND.len())?;
    let (bottom, down, end) = argument(after)?;
    (!bottom.is_zero()).then_some(Fraction { top, bottom, flipped: up != down, end })
}
