//! Equality of mathematical answers: every answer is brought to one form, and two are equal iff
//! their forms are the same string. So equality is an equivalence, votes can count answers, and no
//! answer is compared with another.
//!
//! The form is exact: no floating point, no rounding. It is never wrong in one direction (equal
//! forms are equal answers under the decisions below); in the other direction it misses what it
//! doesn't look for, such as identities of trigonometry. An answer is read once: what is no
//! mathematics becomes text between marks, `‹1.5.2›`, which nothing reads again.
//!
//! Decisions, where graders differ (PRM800K's grader, hendrycks' `is_equiv` and math-verify are the
//! field's; `tools/grading_disagreements.py` runs the last two beside this one):
//!
//! | case | decision |
//! |---|---|
//! | `1/2`, `0.5`, `\frac{2}{4}`, `2^{-1}` | equal (math-verify; PRM800K's grader wants reduced fractions) |
//! | `0.333`, `1/3` | different; `0.\overline{3}`, `0.\bar 3`, `0.(3)` and `1/3` equal. `0.333...` is text |
//! | `\sqrt{2}`, `1.41421` | different: nothing is rounded |
//! | `2\sqrt{3} \approx 3.46` | the exact side; after a name, as in `x \approx 3.46`, the value |
//! | `50\%`, `50`, `0.5` | a percent sign is a unit: the first two are equal, the third is not (both graders) |
//! | `90^\circ`, `90`; `5 \text{ cm}^2`, `5`; `\$5`, `5` | equal: units are left out, whichever they are (both graders). What follows a number is a unit only as a whole: words, perhaps with powers, without digits, and without words that say more (`north`, `more`, `to`, `am`, names of months) |
//! | `5 feet 3 inches` | all numbers and units count, in one spelling (`ft`, `'`, `feet`); a smaller unit of 0 doesn't. Nothing is converted: it is neither 63 nor 5.25 (math-verify takes the first number, so any inches are equal) |
//! | `5 men and 3 women` | in a list, different units stay with their numbers |
//! | `5 \text{ million}` | 5000000 |
//! | `3 \text{ to } 5` | the ratio `3:5` |
//! | `7 \text{ R } 2`, `3 \text{ out of } 5` | themselves: neither 7 nor 3/5 |
//! | `10:05`, `10:5` | different; `03:30` and `3:30` equal. `3:30 pm` is neither `3:30` nor `3:30 am` |
//! | `1,234`, `1,00,000` | a number outside brackets; inside, and with a space after the comma, elements. By twos only where a group starts with 0: `5,12,130` is a list |
//! | `x = 5`, `5`; `f(x) = 2x`, `2x` | equal; of `a = b = c` the last part counts |
//! | `a+b = 7`, `|z| = 5`, `m\angle ABC = 30^\circ`, `f^{-1}(x) = 2x`, `\frac{dy}{dx} = 2x`, `a:b = 2:3` | the value (math-verify; `is_equiv` and PRM800K's grader differ): a question asks for it. A quantity is a function's value, what is no expression, or an expression without the coordinates x, y, z whose value has no letters |
//! | `2a = 6` | one unknown to the power 1: its solution |
//! | `x = 1, y = 2`; `a+b=7, ab=12` | elements keep their names if these differ; `x_1`, `x_2` are one name, as roots have |
//! | `1, 2`; `2 or 1`; `\{1, 2\}` | equal: a bare list is a set (math-verify); order and repetition don't count |
//! | `\{\{1,2\},\{3\}\}`, `\{\emptyset\}` | sets nest; `\{\emptyset\}` isn't empty |
//! | `\pm 2` | the set of both. Several signs are independent, unless there is a `\mp` |
//! | `(1,2)`, `[1,2)`, `\{1,2\}`, `\langle 1,2\rangle`, a column | all different; tuples and open intervals look alike. All but the set keep order and repetition |
//! | `(5)`, `[5]`, `\{5\}` | 5; in a set or a tuple, `\{5\}` is a set |
//! | `x < 5`, `x \in (-\infty,5)` | equal (math-verify); `1 < 2x+1 < 5` is solved |
//! | `x < -1 or x > 2` | the union of the rays; with `and`, two rays are an interval |
//! | `A \cup B` | order doesn't count; finite sets become one, intervals are not merged |
//! | `2x + 4y = 6`, `x + 2y = 3`, `y = -\frac12 x+\frac32` | equal: an equation between x and y is solved for y, one between x, y and z for z, if that occurs once, to the power 1, with a number before it. Others have 0 on the right, whole coefficients, the leading one positive. `x = 2y` is `2y`, as any `x = e` is e |
//! | `a+b=b+a`, `0` | different: an identity is its two sides, multiplied out |
//! | `3:4`, `3/4`, `6:8` | different |
//! | `42_7`, `42` | different: a base is part of the number, and what looks like an exponent is its digits (`1E3_{16}`). `30_{10}` is 30 |
//! | `\sqrt{8}`, `2\sqrt{2}`; `\frac{1}{\sqrt{2}}`, `\frac{\sqrt{2}}{2}` | equal |
//! | `(x+1)^2`, `x^2+2x+1`; `\frac{x^2-1}{x-1}`, `x+1` | equal: multiplied out, common factors cancelled |
//! | `2^{n+1}`, `2 \cdot 2^n`; `4^n`, `2^{2n}`; `(n+1)!`, `(n+1) n!` | equal (math-verify): names in exponents are taken as whole numbers where that matters, as in `(xy)^n` |
//! | `3^{100}`, `9^{50}`; `10^{40}` and its digits; `40!`, `40 \cdot 39!` | equal: products of any size are exact; sums beyond 128 bits only of equal powers |
//! | `\sin^{-1} x`, `\arcsin x` | equal (ISO 80000-2), and not `\frac{1}{\sin x}`, which is `(\sin x)^{-1}` |
//! | `i` | the imaginary unit; `e` and `\pi` are names |
//! | `1\frac{1}{2}`, `1 1/2` | mixed numbers, if the fraction is proper |
//! | `\text{Yes}`, `yes` | equal: words have no case. Single letters have: they are variables or choices |
//! | `\text{TFT}`, `HTT` | sequences: letters of a `\text`, and capital letters that are all of an answer or an element, are no product; `xy` and `yx` are equal |
//! | `(C)`, `\text{C}`, `C` | equal |
//! | what is none of this | text without spaces and looks, words in lower case |
//!
//! Work is bounded whatever an answer is: its length (1000 bytes), nesting (40), terms (400) and
//! products of terms (30,000). Numbers have 128 bits; larger ones are products of primes below 10^4
//! and one rest: exponents up to 10^12, factorials and binomials below 10^4. What goes beyond is
//! compared as text, or, if long, character by character.

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
