//! A text that as a whole stands for one number: alone, with a unit or words, as a product or as
//! the end of an equation.

use std::sync::LazyLock;

use regex::Regex;

use super::{JOINING_SPACE, is_currency, scan, simplify};
use crate::task::math;

/// Longest text that is worked out.
const MAX_LENGTH: usize = 1000;

fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a fixed pattern")
}

/// What stands between the sides of an equation or an approximation.
const RELATIONS: [char; 7] = ['=', '≈', '≃', '≅', '≡', '→', '⇒'];

/// The same as commands.
static RELATION: LazyLock<Regex> = LazyLock::new(|| {
    fixed(r"\\(?:approx|simeq|cong|to|Rightarrow|implies|Longrightarrow|therefore)([^A-Za-z]|$)")
});

/// The canonical form of a text that stands for one number. Of an equation its last side that is a
/// number counts, if the others are values too or only name it: `3 \times 6 = 18` and `x = 18` are
/// 18, `2x + 3 = 18` and `2, 3` are no number. Arithmetic of numbers is worked out: `3 \times 6` is
/// 18; but `10-15` is a range and `12/5/2024` a date.
pub fn parse(text: &str) -> Option<String> {
    let text = simplify(text);
    let text = text.trim_matches(is_space);
    if text.len() > MAX_LENGTH {
        return single(text);
    }
    let text = RELATION.replace_all(text, "≈$1");
    // What is stated last counts, unless two sides state different values: `x = 18 or x = 20`.
    let (mut value, mut stated) = (None, None);
    let mut rounded = false;
    for part in text.split_inclusive(RELATIONS) {
        let relation = part.chars().next_back().filter(|c| RELATIONS.contains(c));
        let part = part.trim_end_matches(RELATIONS).trim_matches(is_space);
        let number = single(part);
        if number.is_some() {
            if stated.is_some() && stated != number && !rounded {
                return None;
            }
            stated = number.clone();
        }
        match number.or_else(|| worked_out(part)) {
            None if is_algebra(part) => return None,
            None => {}
            some => value = some,
        }
        rounded = relation.is_some_and(|c| c != '=');
    }
    value
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || c == JOINING_SPACE
}

/// Whether numbers and variables are mixed, so that a number beside it is not its value.
fn is_algebra(text: &str) -> bool {
    static VARIABLE: LazyLock<Regex> =
        LazyLock::new(|| fixed(r"(?:^|[^\\A-Za-z])(?:\\[A-Za-z]+\s*)?[abcknp-rt-z](?:[^A-Za-z]|$)"));
    let operated =
        text.contains(['+', '-', '*', '/', '^', '\\']) || text.contains(|c: char| c.is_ascii_digit());
    operated && !scan(text).is_empty() && VARIABLE.is_match(text)
}

/// What is taken out of the words around a number, and what is put there: units, degrees, ordinals,
/// approximations, brackets.
static AROUND: LazyLock<[(Regex, &str); 9]> = LazyLock::new(|| {
    [
        (fixed(r"\^\{?\s*(?:\\circ|\\degree|°)\s*\}?|\\(?:circ|degree|celsius|percent)\b"), " "),
        (fixed(r"\^\{?\s*(?:st|nd|rd|th)\s*\}?"), " "),
        (fixed(r"\\frac\s*\{([^{}\d\\]*)\}\s*\{([^{}\d\\]*(?:\^\{?-?\d\}?)?)\}"), "$1 per $2"),
        // The exponent of a unit.
        (fixed(r"(\p{L}|\))\s*\^(?:\{\s*-?\d\s*\}|-?\d)"), "$1"),
        (fixed(r"(\p{L}[.)]?)\s*(?:/|\\cdot\b|\\times\b|·|-|\*)\s*\(?\s*(\p{L})"), "$1 $2"),
        (fixed(r"(\p{L}[.)]?)\s*(?:/|\\cdot\b|\\times\b|·|-|\*)\s*\(?\s*(\p{L})"), "$1 $2"),
        (fixed("\u{0}\\s*/\\s*(\\p{L}{2}|[hsLlgmd]\\b)"), "\u{0} $1"),
        (fixed(r"\\(?:approx|sim|simeq|cong|therefore|quad|qquad|,|;)(?:\b|$)"), " "),
        (fixed(r"\\[()\[\]]"), " "),
    ]
});

/// A text with exactly one number, and around it words, units, currency or markup.
fn single(text: &str) -> Option<String> {
    let numbers = scan(text);
    let [number] = numbers.as_slice() else { return None };
    let chars: Vec<char> = text.chars().collect();
    let before: String = chars[..number.at.start].iter().collect();
    let after: String = chars[number.at.end..].iter().collect();
    let markdown = ['*', '_', '`', '~'];
    // NUL marks where the number stands.
    let mut rest = format!("{}\u{0}{}", before.trim_matches(markdown), after.trim_matches(markdown));
    if rest.len() > MAX_LENGTH {
        return (!rest.contains(FORBIDDEN)).then(|| number.value.clone());
    }
    for (pattern, with) in AROUND.iter() {
        if pattern.is_match(&rest) {
            rest = pattern.replace_all(&rest, *with).into_owned();
        }
    }
    (!rest.contains(FORBIDDEN)).then(|| number.value.clone())
}

/// What makes more of a number than the number.
const FORBIDDEN: [char; 16] =
    ['\\', '^', '_', '/', '+', '*', '-', '<', '>', '≤', '≥', '≠', '±', '√', '×', '÷'];

/// The value of an expression of numbers alone.
fn worked_out(text: &str) -> Option<String> {
    static NUMBERS_ONLY: LazyLock<Regex> = LazyLock::new(|| {
        fixed(r"^(?:[\d.,+\-*/^(){}\[\]\s!]|\\(?:times|cdot|div|frac|sqrt|ast)(?:[^A-Za-z]|$))+$")
    });
    static RANGE: LazyLock<Regex> = LazyLock::new(|| fixed(r"\d-\d|\d\s*/\s*\d+\s*/\s*\d|,\s"));
    if text.len() > MAX_LENGTH {
        return None;
    }
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '×' => plain.push_str(r"\times "),
            '÷' => plain.push_str(r"\div "),
            '·' | '⋅' => plain.push_str(r"\cdot "),
            JOINING_SPACE => plain.push(' '),
            c if is_currency(c) => {}
            c => plain.push(c),
        }
    }
    static TIMES: LazyLock<Regex> = LazyLock::new(|| fixed(r"(\d|\))\s*[xX]\s*(\d|\()"));
    let plain = TIMES.replace_all(&plain, r"$1 \times $2");
    let plain = plain.trim_matches(|c: char| c.is_whitespace() || c == '.');
    if !plain.contains(|c: char| c.is_ascii_digit()) || !NUMBERS_ONLY.is_match(plain) || RANGE.is_match(plain)
    {
        return None;
    }
    let form = math::canonical(plain)?;
    static RATIONAL: LazyLock<Regex> = LazyLock::new(|| fixed(r"^-?\d+(?:\.\d+)?(?:/\d+)?$"));
    // A form that is the text itself was not worked out.
    (form != plain && RATIONAL.is_match(&form)).then(|| scan(&form).pop().map(|n| n.value)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_what_belongs_to_it_is_one() {
        for (text, expected) in [
            (r"18^\circ", "18"),
            (r"18^{\circ}\text{C}", "18"),
            ("18°C", "18"),
            (r"18 \quad \text{eggs}", "18"),
            (r"18\text{ miles/hour}", "18"),
            (r"18\ \text{km}^2", "18"),
            (r"18~\mathrm{m/s^2}", "18"),
            (r"18 \text{ m s}^{-1}", "18"),
            (r"18\,\frac{\text{km}}{\text{h}}", "18"),
            (r"18\text{ kg}\cdot\text{m}^2", "18"),
            (r"18 km/h", "18"),
            (r"\$18/\text{hour}", "18"),
            (r"\approx 18", "18"),
            ("≈18", "18"),
            (r"\approx18", "18"),
            (r"x\approx18", "18"),
            (r"x \approx 18.5", "18.5"),
            (r"18^{\text{th}}", "18"),
            (r"3 \times 6 = 18", "18"),
            (r"18 = 3 \times 6", "18"),
            (r"3 \times 6", "18"),
            ("3 × 6", "18"),
            ("6(3)", "18"),
            ("20 - 2", "18"),
            (r"\frac{1.5}{3}", "0.5"),
            (r"\frac{3 \times 6}{2}", "9"),
            (r"\frac{1}{-2}", "-0.5"),
            (r"1.5 \times 10^{3}", "1500"),
            ("1.5×10³", "1500"),
            ("2^{10}", "1024"),
            ("2^{-1}", "0.5"),
            (r"\text{Total} = 18", "18"),
            (r"18.46 \approx 18", "18"),
            ("3 + 5 = 8 × 2 = 16", "16"),
            (r"x = 18", "18"),
            (r"3 \text{ boxes} \times 6 = 18", "18"),
            ("__18__", "18"),
            ("`18`", "18"),
            ("-₹18", "-18"),
            ("−US$ 18", "-18"),
            ("1½", "1.5"),
        ] {
            assert_eq!(parse(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_more_or_less_than_a_number_is_none() {
        for text in [
            "2, 3",
            r"2\sqrt{3}",
            "2x + y",
            "2x + 3 = 18",
            "x^2 + 1 = 5",
            "10-15",
            "12/5/2024",
            "2024-05-18",
            "x = 18 or x = 20",
            "x = 1, y = 2",
            "x > 5",
            r"x \le 5",
            r"18 \pm 2",
            r"\{1, 2\}",
            "(1, 2)",
            "18 or 20",
            "none",
            "",
            "=",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
