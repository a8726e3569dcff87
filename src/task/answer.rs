//! From a response to an answer: extraction finds it, equality says which answers are the same.

use std::sync::LazyLock;

use regex::Regex;

use super::{math, number};
use crate::error::{Error, Result};
use crate::run::TaskSection;

/// How an answer is found in a response.
#[derive(Clone, Debug)]
pub enum Extraction {
    /// Inside the last `\boxed{…}`, else the last `\fbox{…}`.
    Boxed,
    /// The last number.
    LastNumber,
    /// The number after the last of these markers (any case) that has one; after the last `=` of that line if there is one.
    NumberAfter(String),
    /// The letter of the last `(X)`, else after `answer is` or `answer:`.
    Choice,
    /// The first group (else the whole) of the last match.
    Pattern(Regex),
}

/// When two answers are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equality {
    /// The same text, but for white space.
    Exact,
    /// The same number, exactly. An answer that is no number is no answer.
    Number,
    /// The same letter.
    Choice,
    /// The same mathematics, see [`math`].
    Math,
}

/// Reads answers as a task wants them.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Tried in this order.
    extractions: Vec<Extraction>,
    equality: Equality,
}

impl Reader {
    /// From `[task]`: `extraction` may list several, tried in order: `boxed, last-number`.
    pub fn new(section: &TaskSection) -> Result<Self> {
        let names = section.extraction.as_deref().unwrap_or("last-number");
        let extractions = names
            .split(',')
            .map(|name| Extraction::named(name.trim(), section.pattern.as_deref(), "task.extraction"))
            .collect::<Result<_>>()?;
        let equality = match section.equality.as_deref().unwrap_or("number") {
            "exact" => Equality::Exact,
            "number" => Equality::Number,
            "choice" => Equality::Choice,
            "math" => Equality::Math,
            other => {
                return Err(Error::input(
                    "task.equality",
                    format!("`{other}` is none of exact, number, choice, math"),
                ));
            }
        };
        Ok(Self { extractions, equality })
    }

    /// The answer of a response in canonical form: two answers are the same iff these are equal. `None` without one.
    pub fn read(&self, response: &str) -> Option<String> {
        self.read_among(response, 26)
    }

    /// The same for a question with this many choices: letters beyond them are no answers.
    pub fn read_among(&self, response: &str, choices: usize) -> Option<String> {
        self.extractions.iter().find_map(|e| match e {
            Extraction::Choice => self.canonical(&choice(response, choices)?),
            _ => self
                .canonical(&e.find(response)?)
                .filter(|a| self.equality != Equality::Choice || is_among(a, choices)),
        })
    }

    /// When two answers are the same.
    pub fn equality(&self) -> Equality {
        self.equality
    }

    /// An answer's canonical form.
    pub fn canonical(&self, answer: &str) -> Option<String> {
        match self.equality {
            Equality::Exact => {
                let words = answer.split_whitespace().collect::<Vec<_>>().join(" ");
                (!words.is_empty()).then_some(words)
            }
            Equality::Number => number::parse(answer),
            Equality::Choice => letter(answer),
            Equality::Math => math::canonical(answer),
        }
    }
}

impl Extraction {
    /// By its name in the configuration; `key` is for errors.
    pub fn named(name: &str, pattern: Option<&str>, key: &str) -> Result<Self> {
        Ok(match name {
            "boxed" => Self::Boxed,
            "last-number" => Self::LastNumber,
            "number-after" => Self::NumberAfter(pattern.unwrap_or("answer is").to_lowercase()),
            "choice" => Self::Choice,
            "regex" => {
                let pattern = pattern.ok_or_else(|| {
                    Error::input("task.pattern", format!("missing; {key} = regex needs it"))
                })?;
                Self::Pattern(Regex::new(pattern).map_err(|e| {
                    let lines = e.to_string();
                    let last = lines.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    Error::input("task.pattern", format!("`{pattern}` is not a regular expression: {last}"))
                })?)
            }
            other => {
                return Err(Error::input(
                    key,
                    format!("`{other}` is none of boxed, last-number, number-after, choice, regex"),
                ));
            }
        })
    }

    /// The answer as written, if there is one.
    pub fn find(&self, response: &str) -> Option<String> {
        match self {
            Self::Boxed => boxed(response, r"\boxed").or_else(|| boxed(response, r"\fbox")),
            Self::LastNumber => last_number(response),
            Self::NumberAfter(marker) => number_after(response, marker),
            Self::Choice => choice(response, 26),
            Self::Pattern(pattern) => {
                let last = pattern.captures_iter(response).last()?;
                Some(last.get(1).or_else(|| last.get(0))?.as_str().to_string())
            }
        }
    }
}

/// The content of the last `command{…}`, by brace matching; `None` if that one is empty or never closed.
fn boxed(text: &str, command: &str) -> Option<String> {
    let mut open = None;
    for (at, _) in text.match_indices(command) {
        let rest = &text[at + command.len()..];
        if rest.trim_start().starts_with('{') {
            open = Some(text.len() - rest.trim_start().len() + 1);
        }
    }
    let open = open?;
    let inside = text[open..number::closing_brace(text, open)?].trim();
    (!inside.is_empty()).then(|| inside.to_string())
}

fn last_number(text: &str) -> Option<String> {
    number::scan(&number::simplify(text)).pop().map(|n| n.value)
}

/// How far behind a marker its number is looked for, in characters.
const MAX_SENTENCE: usize = 1000;

fn number_after(text: &str, marker: &str) -> Option<String> {
    let text = number::simplify(text);
    // Lower case may change lengths, so offsets are those of the lowered text, which reads the same numbers.
    let text = text.to_lowercase();
    let mut markers: Vec<usize> = text.match_indices(marker).map(|(at, _)| at + marker.len()).collect();
    while let Some(at) = markers.pop() {
        let behind = &text[at..];
        let behind = behind.char_indices().nth(MAX_SENTENCE).map_or(behind, |(end, _)| &behind[..end]);
        let line = behind.lines().next().unwrap_or_default();
        let sentence = line.find(". ").map_or(line, |end| &line[..end]);
        let first = |s: &str| number::scan(s).into_iter().next().map(|n| n.value);
        let value = sentence.rfind('=').and_then(|at| first(&sentence[at..]));
        let answer = value.or_else(|| first(sentence));
        if answer.is_some() {
            return answer;
        }
    }
    None
}

/// What stands after the last `\boxed` that has no braces, up to the end of its formula: some published solutions are written so.
pub fn boxed_without_braces(text: &str) -> Option<String> {
    let at = text.rfind(r"\boxed ")? + r"\boxed ".len();
    let inside = text[at..].split('$').next()?.trim().trim_end_matches('.').trim();
    (!inside.is_empty() && !inside.starts_with('{')).then(|| inside.to_string())
}

static IN_BRACKETS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\(\s*\**([A-Za-z])\**\s*\)").expect("a fixed pattern"));
static BEHIND_ANSWER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i:answer)(?i: is)?:?\s*\**([A-Z])\b").expect("a fixed pattern"));

/// The last `(X)`, else what stands after the last `answer is` or `answer:`; letters beyond the choices are passed over.
fn choice(text: &str, choices: usize) -> Option<String> {
    let letter_in = |pattern: &Regex| {
        pattern
            .captures_iter(text)
            .map(|found| found[1].to_uppercase())
            .filter(|l| is_among(l, choices))
            .last()
    };
    letter_in(&IN_BRACKETS).or_else(|| letter_in(&BEHIND_ANSWER))
}

/// Whether a letter is one of the first `choices`.
fn is_among(letter: &str, choices: usize) -> bool {
    letter.bytes().next().is_some_and(|b| usize::from(b.wrapping_sub(b'A')) < choices)
}

/// `B`, `(b)`, `B)`, `B.` or `**B**`.
fn letter(answer: &str) -> Option<String> {
    let mut letters = answer.chars().filter(|c| c.is_alphanumeric());
    match (letters.next(), letters.next()) {
        (Some(c), None) if c.is_ascii_alphabetic() => Some(c.to_ascii_uppercase().to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(extraction: &str, pattern: Option<&str>, equality: &str) -> Reader {
        let section = TaskSection {
            extraction: Some(extraction.into()),
            pattern: pattern.map(Into::into),
            equality: Some(equality.into()),
            ..TaskSection::default()
        };
        Reader::new(&section).unwrap()
    }

    /// Response, answer.
    type Cases = &'static [(&'static str, Option<&'static str>)];

    fn check(reader: &Reader, cases: Cases) {
        for (response, expected) in cases {
            assert_eq!(reader.read(response).as_deref(), *expected, "{response:?}");
        }
    }

    #[test]
    fn last_number() {
        let cases: Cases = &[
            ("**550**", Some("550")),
            ("The result is $1,234.50", Some("1234.5")),
            ("about 1 234", Some("1234")),
            ("about 1\u{202f}234\u{202f}567", Some("1234567")),
            ("the answer is 7.", Some("7")),
            ("3*4=12, 12+5=17. The answer is 17. Done", Some("17")),
            ("30-6=24", Some("24")),
            ("6-30=-24.", Some("-24")),
            ("6 - 30 = - 24", Some("-24")),
            ("so we get \u{2212}24", Some("-24")),
            ("-$5", Some("-5")),
            ("$-5", Some("-5")),
            ("**-5**", Some("-5")),
            ("(-5)", Some("-5")),
            ("10-6", Some("6")),
            ("10 - 6", Some("6")),
            ("10 -6", Some("6")),
            ("(2+3)-4", Some("4")),
            ("3*-4", Some("-4")),
            ("first 12\n-6", Some("-6")),
            ("- 6 apples", Some("6")),
            ("it is 3/4", Some("0.75")),
            ("it is -1/3", Some("-1/3")),
            (r"it is \frac{6}{8}", Some("0.75")),
            (r"it is -\dfrac{1}{3}", Some("-1/3")),
            (r"it is \frac{-1}{3}", Some("-1/3")),
            (r"it is \frac12", Some("0.5")),
            (r"it is 1\frac{1}{2}", Some("1.5")),
            ("it is 1 1/2 cups", Some("1.5")),
            ("4/0", Some("0")),
            ("0.50", Some("0.5")),
            (".5", Some("0.5")),
            ("7.0", Some("7")),
            ("007", Some("7")),
            ("-0", Some("0")),
            ("50%", Some("50")),
            (r"50\%", Some("50")),
            ("1.5e3", Some("1500")),
            ("12e", Some("12")),
            (r"1{,}234", Some("1234")),
            (r"1,\!234", Some("1234")),
            ("550, 541, 560", Some("560")),
            ("1,23", Some("23")),
            ("12 345 apples", Some("12345")),
            ("in 2023 150 people", Some("150")),
            ("5km", Some("5")),
            ("H2O", None),
            ("x12.5", None),
            ("no number here", None),
            ("", None),
            (
                "123456789012345678901234567890123456789012345",
                Some("123456789012345678901234567890123456789012345"),
            ),
        ];
        check(&reader("last-number", None, "number"), cases);
    }

    #[test]
    fn boxed() {
        let cases: Cases = &[
            (r"so \boxed{550}.", Some("550")),
            (r"first \boxed{1}, no: \boxed{2}, as said", Some("2")),
            (r"$\boxed{\frac{3}{4}}$", Some("0.75")),
            (r"\boxed{\boxed{7}}", Some("7")),
            (r"\boxed{\text{ 1,234 dollars}}", Some("1234")),
            (r"\boxed{\$1,234.50}", Some("1234.5")),
            (r"\boxed{-\frac{1}{2}}", Some("-0.5")),
            (r"\boxed {12} and 13", Some("12")),
            (r"\fbox{9}", Some("9")),
            (r"\boxed{x = 5}", Some("5")),
            (r"\boxed{**5**}", Some("5")),
            (r"\boxed{\(5\)}", Some("5")),
            (r"\boxed{12 \%}", Some("12")),
            (r"\boxed 5", None),
            (r"\boxed{5", None),
            (r"\boxed{}", None),
            (r"\boxed{2, 3}", None),
            (r"\boxed{2\sqrt{3}}", None),
            (r"\boxed{2x + y}", None),
            (r"\boxed{none}", None),
            ("550", None),
        ];
        check(&reader("boxed", None, "number"), cases);
        let exact = reader("boxed", None, "exact");
        assert_eq!(exact.read(r"\boxed{\{1, 2\} }").as_deref(), Some(r"\{1, 2\}"));
        assert_eq!(exact.read("\\boxed{a\n b}").as_deref(), Some("a b"));
    }

    #[test]
    fn number_after() {
        let cases: Cases = &[
            ("the answer is 7. I took 3 steps.", Some("7")),
            ("The Answer is: **$1,234.50**, of 2 parts", Some("1234.5")),
            ("The answer is 5 + 7 = 12.", Some("12")),
            ("The answer is 5. No, the answer is -6", Some("-6")),
            ("The answer is 5. The answer is clear.", Some("5")),
            ("The answer is 3.5. Then 4", Some("3.5")),
            ("The answer is\n7", None),
            ("7", None),
        ];
        check(&reader("number-after", None, "number"), cases);
        let hashes = reader("number-after", Some("####"), "number");
        assert_eq!(hashes.read("#### 1,234\n#### -2").as_deref(), Some("-2"));
    }

    #[test]
    fn choice() {
        let cases: Cases = &[
            ("(A) is wrong, so (c).", Some("C")),
            ("The answer is **B**", Some("B")),
            ("Answer: D.", Some("D")),
            ("( **b** )", Some("B")),
            ("The answer is Boston", None),
            ("(12)", None),
            ("A", None),
        ];
        check(&reader("choice", None, "choice"), cases);
        let r = reader("choice", None, "choice");
        // With four choices (E) is none, and what was said before it counts.
        assert_eq!(r.read_among("(B), as in (e)", 4).as_deref(), Some("B"));
        assert_eq!(r.read_among("(B), as in (e)", 5).as_deref(), Some("E"));
        assert_eq!(r.read_among("The answer is E", 4), None);
        assert_eq!(r.canonical("b)"), Some("B".into()));
        assert_eq!(r.canonical("ab"), None);
        assert_eq!(r.canonical("3"), None);
    }

    #[test]
    fn regex() {
        let r = reader("regex", Some(r"=> (\w+)"), "exact");
        assert_eq!(r.read("=> red, => blue").as_deref(), Some("blue"));
        assert_eq!(r.read("red"), None);
        let section = |pattern: Option<&str>| TaskSection {
            extraction: Some("regex".into()),
            pattern: pattern.map(Into::into),
            ..TaskSection::default()
        };
        let e = Reader::new(&section(Some("("))).unwrap_err().to_string();
        assert!(e.starts_with("task.pattern: ") && !e.contains('\n'), "{e}");
        assert!(Reader::new(&section(None)).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn long_responses_take_time_like_their_length() {
        let long = |piece: &str| piece.repeat(400_000 / piece.len());
        for (name, pattern) in
            [("last-number", None), ("number-after", None), ("number-after", Some("####")), ("boxed", None)]
        {
            let r = reader(name, pattern, "number");
            for piece in [
                "9",
                "x9",
                "answer is ",
                r"\text{",
                r"\text{a}",
                r"\boxed{",
                "1,",
                "1 ",
                "- ",
                "$",
                "#",
                "{,}",
            ] {
                let _ = r.read(&format!("x{}", long(piece)));
            }
        }
        let r = reader("last-number", None, "number");
        assert_eq!(r.read(&format!("x{} 5", "9".repeat(200_000))).as_deref(), Some("5"));
        assert_eq!(
            r.read(&format!("{}7{}", r"\text{".repeat(50_000), "}".repeat(50_000))).as_deref(),
            Some("7")
        );
        assert_eq!(r.read(r"\text{a \textbf{\text{3}} \text{4} \text{5").as_deref(), Some("5"));
        let r = reader("number-after", None, "number");
        assert_eq!(
            r.read(&format!("The answer is 7, {}", "answer is ".repeat(10_000))).as_deref(),
            Some("7")
        );
    }

    #[test]
    fn extractions_are_tried_in_order() {
        let r = reader("boxed, last-number", None, "number");
        assert_eq!(r.read(r"\boxed{5} or 6").as_deref(), Some("5"));
        assert_eq!(r.read(r"\boxed{five} or 6").as_deref(), Some("6"));
        assert!(
            Reader::new(&TaskSection { extraction: Some("boxd".into()), ..TaskSection::default() }).is_err()
        );
        assert!(
            Reader::new(&TaskSection { equality: Some("same".into()), ..TaskSection::default() }).is_err()
        );
    }

    #[test]
    fn equal_numbers_have_one_form() {
        let r = reader("last-number", None, "number");
        let same: &[&[&str]] = &[
            &["1/2", "0.5", "0.50", ".5", r"\frac{1}{2}", "50/100", "2/4"],
            &["1234.5", "$1,234.50", "1 234.5"],
            &["-7", "\u{2212}7", "-7.0", "-14/2"],
            &["0.1", "1/10", "1e-1"],
            &["2/3", "4/6", r"\frac{4}{6}"],
            &["0.333", "333/1000"],
            &["1/3"],
            &["7"],
            &["0", "-0", "0.00", "0/5"],
            &["30", "3e1", "30%"],
            &["100000000000000000000000000000000000000000000001"],
            &["100000000000000000000000000000000000000000000002"],
        ];
        for (i, left) in same.iter().enumerate() {
            for (j, right) in same.iter().enumerate() {
                for a in *left {
                    for b in *right {
                        assert_eq!(r.canonical(a) == r.canonical(b), i == j, "{a} {b}");
                    }
                }
            }
        }
        assert_eq!(r.canonical("0.1").unwrap(), "0.1");
        // White space around an answer is none of it, whatever Markdown is there too.
        assert_eq!(r.canonical("  *$$*5* "), r.canonical("*$$*5*"));
    }
}
