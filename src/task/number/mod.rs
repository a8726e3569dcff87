//! Numbers in running text, as people and models write them: `**550**`, `$1,234.50`, `12,34,567`,
//! `共18元`, `-₹5`, `-\frac{3}{4}`, `1 1/2`, `1.5 \times 10^3`, `50%`.
//!
//! A number's canonical form is exact: an integer, a finite decimal, or a reduced fraction. Two
//! numbers are equal iff their canonical forms are; no floating point is involved. Decisions:
//!
//! - A percent sign is a unit and is ignored, as the MATH graders do (`50%` = 50); so is a word
//!   that multiplies (`2 million` is 2).
//! - Digits that touch a letter of a script with case before them are a name (`H2O`); digits of a
//!   subscript or of the exponent of a letter are none of the text's numbers (`x_{12}`, `km^2`). In
//!   scripts without case, words and numbers touch.
//! - A minus is a sign unless it stands between operands or alone (`10 - 6`, `- 6 apples`); `group`
//!   says how digits are grouped.

mod body;
mod group;
mod sign;
mod simplify;
mod whole;

use simplify::JOINING_SPACE;
pub use simplify::{closing_brace, plain_characters, simplify};
pub use whole::parse;

use std::ops::Range;

use body::{Body, is_in_name};
use group::digits;
pub use sign::{is_cased, is_currency};

/// A number found in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where, in characters of the [`simplify`]d text, with sign and currency.
    pub at: Range<usize>,
    /// Canonical form.
    pub value: String,
}

/// All numbers of a [`simplify`]d text, in order.
pub fn scan(text: &str) -> Vec<Found> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        match Body::read(&chars, i) {
            Some((body, end)) => {
                let (from, negative) = sign::sign(&chars, i);
                found.push(Found { at: from..end, value: body.canonical(negative) });
                i = end;
            }
            // Digits of a name such as x12 or v1.5 are no number.
            None if chars[i].is_ascii_digit() => {
                let exponent = is_in_name(&chars, i) && matches!(chars[i - 1], '^' | '{' | '-' | '+');
                loop {
                    i += digits(&chars, i);
                    match chars.get(i) == Some(&'.') && digits(&chars, i + 1) > 0 && !exponent {
                        true => i += 1,
                        false => break,
                    }
                }
            }
            None => i += 1,
        }
    }
    found
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}
