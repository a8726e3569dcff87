//! The sign and the currency before a number.

/// Unicode's category Sc.
const CURRENCY: [(char, char); 21] = [
    ('$', '$'),
    ('¢', '¥'),
    ('\u{58f}', '\u{58f}'),
    ('\u{60b}', '\u{60b}'),
    ('\u{7fe}', '\u{7ff}'),
    ('\u{9f2}', '\u{9f3}'),
    ('\u{9fb}', '\u{9fb}'),
    ('\u{af1}', '\u{af1}'),
    ('\u{bf9}', '\u{bf9}'),
    ('\u{e3f}', '\u{e3f}'),
    ('\u{17db}', '\u{17db}'),
    ('\u{20a0}', '\u{20c1}'),
    ('\u{a838}', '\u{a838}'),
    ('\u{fdfc}', '\u{fdfc}'),
    ('\u{fe69}', '\u{fe69}'),
    ('\u{ff04}', '\u{ff04}'),
    ('\u{ffe0}', '\u{ffe1}'),
    ('\u{ffe5}', '\u{ffe6}'),
    ('\u{11fdd}', '\u{11fe0}'),
    ('\u{1e2ff}', '\u{1e2ff}'),
    ('\u{1ecb0}', '\u{1ecb0}'),
];

/// Letters that stand before an amount as a currency sign does: codes of ISO 4217 and common
/// abbreviations.
const CODES: [&str; 46] = [
    "USD", "EUR", "GBP", "JPY", "CNY", "RMB", "INR", "CHF", "CAD", "AUD", "NZD", "HKD", "SGD", "TWD", "KRW",
    "BRL", "MXN", "RUB", "TRY", "ZAR", "SEK", "NOK", "DKK", "PLN", "CZK", "HUF", "ILS", "THB", "IDR", "MYR",
    "PHP", "VND", "AED", "SAR", "EGP", "NGN", "KES", "PKR", "BDT", "LKR", "Rs", "Rs.", "Rp", "RM", "kr",
    "kr.",
];

/// Whether a character is a currency sign.
pub fn is_currency(c: char) -> bool {
    CURRENCY.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Whether digits that touch a letter belong to a name with it, as in `H2O` and `x12`. In scripts
/// without case (Chinese, Japanese, Korean, Thai, Arabic, Devanagari, …) words and numbers touch as
/// a matter of course: `共18元`.
pub fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

fn is_space(c: char) -> bool {
    c == ' ' || c == super::JOINING_SPACE
}

/// Reads a text backwards.
struct Before<'a> {
    chars: &'a [char],
    at: usize,
}

impl Before<'_> {
    fn last(&self) -> Option<char> {
        self.at.checked_sub(1).map(|i| self.chars[i])
    }

    fn skip(&mut self, is: impl Fn(char) -> bool) -> bool {
        let from = self.at;
        while self.last().is_some_and(&is) {
            self.at -= 1;
        }
        self.at < from
    }

    /// Goes before one of [`CODES`] that ends here and starts a word.
    fn skip_code(&mut self) -> bool {
        let code = CODES.iter().find(|code| {
            let length = code.len();
            let start = self.at.checked_sub(length);
            start.is_some_and(|start| {
                code.chars().eq(self.chars[start..self.at].iter().copied())
                    && start.checked_sub(1).is_none_or(|i| !self.chars[i].is_alphanumeric())
            })
        });
        self.at -= code.map_or(0, |code| code.len());
        code.is_some()
    }

    /// Goes before a currency: signs (perhaps with the country's letters: `US$`), or a code.
    fn skip_currency(&mut self) -> bool {
        if self.skip(is_currency) {
            let sign = self.at;
            let letters =
                self.chars[..sign].iter().rev().take_while(|c| c.is_ascii_uppercase()).take(4).count();
            if (1..=3).contains(&letters) {
                self.at -= letters;
            }
            return true;
        }
        self.skip_code()
    }

    /// Goes before a word for a minus that touches the number: `负18`, `マイナス18`, but not `正负18`.
    fn skip_negative(&mut self) -> bool {
        let katakana = ['マ', 'イ', 'ナ', 'ス'];
        if self.chars[..self.at].ends_with(&katakana) {
            self.at -= katakana.len();
            return true;
        }
        let negative = matches!(self.last(), Some('负' | '負'));
        let both = negative && self.at > 1 && self.chars[self.at - 2] == '正';
        self.at -= usize::from(negative && !both);
        negative && !both
    }

    /// Goes before a word, in any case, that no letter or hyphen precedes (`non-negative`).
    fn skip_word(&mut self, word: &str) -> bool {
        let Some(start) = self.at.checked_sub(word.chars().count()) else { return false };
        let same = |(a, b): (char, &char)| a == b.to_ascii_lowercase();
        let found = word.chars().zip(&self.chars[start..self.at]).all(same)
            && start.checked_sub(1).is_none_or(|i| !self.chars[i].is_alphanumeric() && self.chars[i] != '-');
        if found {
            self.at = start;
        }
        found
    }
}

/// Where the number that starts at `start` starts with its sign and currency, and whether it is
/// negative.
pub fn sign(chars: &[char], start: usize) -> (usize, bool) {
    let mut at = Before { chars, at: start };
    let mut tight = start;
    // `₹ 18` and `USD 18` have a space within; `$` and a space may end a formula, so it is no
    // reason to look further by itself.
    let gap = at.skip(is_space);
    if at.skip_currency() {
        tight = at.at;
    } else {
        at.at = start;
    }
    let currency = tight < start;
    if !currency && !gap {
        // `-**18**`, `-_18_`: emphasis between a sign and its number. A lone `*` would be a
        // product.
        let emphasis = at.skip(|c| matches!(c, '*' | '_' | '`'));
        if emphasis && at.last() != Some('-') {
            at.at = start;
        }
    }
    if at.skip_negative() {
        return (at.at, true);
    }
    let touching_sign = at.last() == Some('-');
    let spaced = !touching_sign && at.skip(is_space);
    if at.last() != Some('-') {
        let worded = spaced && is_negative_by_word(&mut at);
        return if worded { (at.at, true) } else { (tight, false) };
    }
    at.at -= 1;
    let minus = at.at;
    // `$-5`: a currency may stand before the sign too.
    if !currency && !at.skip(is_currency) {
        at.at = minus;
    }
    let left = at.at;
    let touching = at.last();
    at.skip(is_space);
    let near = at.last();
    let operand = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || ")]}%".contains(c));
    let negative = if spaced {
        near == Some('=')
    } else {
        !touching.is_some_and(|c| is_cased(c) || c.is_numeric()) && !operand(touching) && !operand(near)
    };
    if negative { (left, true) } else { (tight, false) }
}

/// Whether a currency's letters end at `at`, so that digits behind them are an amount and no name.
pub fn ends_with_code(chars: &[char], at: usize) -> bool {
    Before { chars, at }.skip_code()
}

/// Whether a word that makes the number after it negative ends here: `negative 5`; `is minus 5`,
/// but not `10 minus 5`.
fn is_negative_by_word(at: &mut Before<'_>) -> bool {
    if at.skip_word("negative") {
        return true;
    }
    let end = at.at;
    if !at.skip_word("minus") {
        return false;
    }
    let word = at.at;
    at.skip(is_space);
    let starts = match at.last() {
        None => true,
        Some(c) if "=:,(\n".contains(c) => true,
        _ => ["is", "are", "be", "was", "equals", "to", "of", "gives", "get"].iter().any(|w| at.skip_word(w)),
    };
    at.at = if starts { word } else { end };
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_currency_sign_is_known() {
        let currency = regex::Regex::new(r"^\p{Sc}$").unwrap();
        let mut buffer = [0; 4];
        for c in '\0'..=char::MAX {
            // The Saudi riyal's is younger than the tables of `regex`.
            let known = currency.is_match(c.encode_utf8(&mut buffer)) || c == '\u{20c1}';
            assert_eq!(is_currency(c), known, "{c:?} U+{:x}", u32::from(c));
        }
    }
}
