//! Equality of mathematical answers: every answer is brought to one form, and two are equal iff their forms are the same string. So equality is an
//! equivalence, votes can count answers, and no answer is compared with another.
//!
//! The form is exact: no floating point, no rounding. It is never wrong in one direction (equal forms are equal answers under the decisions
//! below); in the other direction it misses what it doesn't look for, such as identities of trigonometry.
//!
//! Decisions, where graders differ (PRM800K's grader and math-verify are the field's):
//!
//! | case | decision |
//! |---|---|
//! | `1/2`, `0.5`, `\frac{2}{4}`, `2^{-1}` | equal (math-verify; PRM800K's grader wants reduced fractions) |
//! | `0.333`, `1/3` | different; `0.\overline{3}` and `1/3` equal |
//! | `\sqrt{2}`, `1.41421` | different: nothing is rounded |
//! | `50\%`, `50`, `0.5` | a percent sign is a unit: the first two are equal, the third is not (both graders) |
//! | `90^\circ`, `90`; `5 \text{ cm}^2`, `5`; `\$5`, `5` | equal: units are left out, whichever they are (both graders) |
//! | `1,234` | a number outside brackets; inside, and with a space after the comma, two elements |
//! | `x = 5`, `5`; `f(x) = 2x`, `2x` | equal; of `a = b = c` the last part counts |
//! | `x = 1, y = 2` | elements keep their names if these differ |
//! | `1, 2`; `2 or 1`; `\{1, 2\}` | equal: a bare list is a set (math-verify); order and repetition don't count |
//! | `\pm 2` | the set of both |
//! | `(1,2)`, `[1,2)`, `\{1,2\}`, `\langle 1,2\rangle`, a column | all different; tuples and open intervals look alike |
//! | `(5)`, `[5]`, `\{5\}` | 5 |
//! | `x < 5`, `x \in (-\infty,5)` | equal (math-verify) |
//! | `A \cup B` | order doesn't count; intervals are not merged |
//! | `2x + 4y = 6`, `x + 2y = 3` | equal: other equations have 0 on the right, whole coefficients, the leading one positive |
//! | `3:4`, `3/4`, `6:8` | different |
//! | `42_7`, `42` | different: a base is part of the number |
//! | `\sqrt{8}`, `2\sqrt{2}`; `\frac{1}{\sqrt{2}}`, `\frac{\sqrt{2}}{2}` | equal |
//! | `(x+1)^2`, `x^2+2x+1`; `\frac{x^2-1}{x-1}`, `x+1` | equal: multiplied out, common factors cancelled |
//! | `i` | the imaginary unit; `e` and `\pi` are names |
//! | `1\frac{1}{2}`, `1 1/2` | mixed numbers, if the fraction is proper |
//! | `\text{Yes}`, `yes` | equal: words have no case. Single letters have: they are variables or choices |
//! | `(C)`, `\text{C}`, `C` | equal |
//! | what is none of this | text without spaces and looks, in lower case |
//!
//! Work is bounded whatever an answer is: its length, nesting, exponents, the size of numbers (128 bits), and products of terms. What
//! goes beyond is compared as text, or, if long, character by character.

mod command;
mod digits;
mod divisor;
mod expression;
mod form;
mod power;
mod prime;
mod rational;
mod relation;
mod sum;
mod token;
mod unit;
mod value;
mod words;
mod written;

/// Longest answer that is read as mathematics, in bytes.
const MAX_LENGTH: usize = 1000;
/// Longest form that is read again.
const MAX_FORM: usize = 4 * MAX_LENGTH;

/// The canonical form of an answer; `None` if nothing is left of it.
///
/// The form of a form is itself: it reads as what it says, or stands between marks, as text does.
pub fn canonical(answer: &str) -> Option<String> {
    let answer = answer.trim();
    if answer.len() > MAX_LENGTH {
        return Some(answer.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let form = form::form(&token::tokens(answer));
    if form.is_empty() {
        return None;
    }
    let same = form.len() > MAX_FORM || form::form(&token::tokens(&form)) == form;
    // A form that would read as something else is no mathematics that this reader knows.
    Some(if same { form } else { words::marked(&form.replace(['‹', '›'], "")) })
}

#[cfg(test)]
mod tests;
