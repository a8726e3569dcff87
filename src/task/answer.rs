//! From a response to an answer: extraction finds it, equality says which answers are the same.

use regex::Regex;

use super::after::number_after;
use super::boxed::last_box;
use super::choice::{choice, is_among, letter};
use super::{math, number};
use crate::error::{Error, Result};
use crate::run::TaskSection;

/// How an answer is found in a response.
#[derive(Clone, Debug)]
pub enum Extraction {
    /// Inside the last `\boxed{…}`, else the last `\fbox{…}`; see [`last_box`].
    Boxed,
    /// The last number.
    LastNumber,
    /// The number after the last of these markers (any case) that has one, see [`super::after`].
    NumberAfter(String),
    /// The letter that the text names as its answer, see [`super::choice`].
    Choice,
    /// The first group (else the whole) of the last match.
    Pattern(Regex),
}

/// When two answers are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equality {
    /// The same text, but for white space.
    Exact,
    /// The same number, exactly, see [`number`]. An answer that is no number is no answer.
    Number,
    /// The same letter.
    Choice,
    /// The same mathematics, see [`math`].
    Math,
}

impl Equality {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Number => "number",
            Self::Choice => "choice",
            Self::Math => "math",
        }
    }
}

/// What was read from a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The rule that found it, by its name in the configuration.
    pub rule: &'static str,
    /// As it is written.
    pub written: String,
    /// Its canonical form; `None` if what is written is no answer.
    pub answer: Option<String>,
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
            .map(|name| Extraction::named(name.trim(), section, "extraction"))
            .collect::<Result<_>>()?;
        let equality = match section.equality.as_deref().unwrap_or("number") {
            "exact" => Equality::Exact,
            "number" => Equality::Number,
            "choice" => Equality::Choice,
            "math" => Equality::Math,
            other => {
                return Err(Error::input(
                    section.key("equality"),
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
        self.reading(response, choices)?.answer
    }

    /// What [`Reader::read_among`] reads, with the rule that found it and how it is written; `None` where no rule
    /// finds anything.
    ///
    /// Where numbers are compared, a box that holds one counts even if it can't be read as a
    /// number: then the response has no answer, and no other extraction looks for a number
    /// elsewhere. A box without any number (`\boxed{five}`) is passed over.
    pub fn reading(&self, response: &str, choices: usize) -> Option<Reading> {
        let mut first = None;
        for extraction in &self.extractions {
            let found = match extraction {
                Extraction::Choice => choice(response, choices),
                _ => extraction.find(response),
            };
            let Some(written) = found else { continue };
            let answer = self.canonical(&written);
            let answer = answer.filter(|a| self.equality != Equality::Choice || is_letter_among(a, choices));
            let is_final = matches!(extraction, Extraction::Boxed)
                && self.equality == Equality::Number
                && !number::scan(&number::simplify(&written)).is_empty();
            let is_answer = answer.is_some();
            let reading = Reading { rule: extraction.name(), written, answer };
            if is_answer || is_final {
                return Some(reading);
            }
            first.get_or_insert(reading);
        }
        first
    }

    /// How answers are found, in the order in which it is tried.
    pub(super) fn extractions(&self) -> &[Extraction] {
        &self.extractions
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
    /// By its name, which `key` of `section` gives.
    pub fn named(name: &str, section: &TaskSection, key: &str) -> Result<Self> {
        let pattern = section.pattern.as_deref();
        Ok(match name {
            "boxed" => Self::Boxed,
            "last-number" => Self::LastNumber,
            "number-after" => Self::NumberAfter(pattern.unwrap_or("answer is").to_lowercase()),
            "choice" => Self::Choice,
            "regex" => {
                let pattern = pattern.ok_or_else(|| {
                    let problem = format!("missing; {}.{key} = regex needs it", section.section);
                    Error::input(section.key("pattern"), problem)
                })?;
                Self::Pattern(Regex::new(pattern).map_err(|e| {
                    let lines = e.to_string();
                    let last = lines.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    Error::input(
                        section.key("pattern"),
                        format!("`{pattern}` is not a regular expression: {last}"),
                    )
                })?)
            }
            other => {
                return Err(Error::input(
                    section.key(key),
                    format!("`{other}` is none of boxed, last-number, number-after, choice, regex"),
                ));
            }
        })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Boxed => "boxed",
            Self::LastNumber => "last-number",
            Self::NumberAfter(_) => "number-after",
            Self::Choice => "choice",
            Self::Pattern(_) => "regex",
        }
    }

    /// The answer as written, if there is one.
    pub fn find(&self, response: &str) -> Option<String> {
        match self {
            Self::Boxed => last_box(response),
            Self::LastNumber => number::scan(&number::simplify(response)).pop().map(|n| n.value),
            Self::NumberAfter(marker) => number_after(response, marker),
            Self::Choice => choice(response, 26),
            Self::Pattern(pattern) => {
                let last = pattern.captures_iter(response).last()?;
                Some(last.get(1).or_else(|| last.get(0))?.as_str().to_string())
            }
        }
    }
}

/// Whether an answer is one of the first `choices` letters.
fn is_letter_among(answer: &str, choices: usize) -> bool {
    answer.chars().next().is_some_and(|letter| is_among(letter, choices))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
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
            ("In grade 4 150 children", Some("150")),
            ("By day 7 240 eggs", Some("240")),
            ("On wave 3 120 surfers", Some("120")),
            ("then Team 6 100 points", Some("100")),
            ("the rows are 10 20 300", Some("300")),
            ("4 100-dollar bills", Some("100")),
            ("a house for $118 000", Some("118000")),
            ("by day 7 040 eggs", Some("7040")),
            ("they sold 12 345 apples", Some("12345")),
            ("in total 12 345 apples", Some("12345")),
            ("by about 1 234", Some("1234")),
            ("of 1 234 567 people", Some("1234567")),
            ("in grade 4\u{a0}150 children", Some("4150")),
            (r"12\,345", Some("12345")),
            ("It is 12,34,567 rupees", Some("1234567")),
            ("1,00,000", Some("100000")),
            ("1'234'567.5", Some("1234567.5")),
            ("1.234.567", Some("1234567")),
            ("1.234,56 €", Some("1234.56")),
            ("1 234,50 €", Some("1234.5")),
            ("1.234", Some("1.234")),
            ("The answer is __18__.", Some("18")),
            ("The answer is _18_.", Some("18")),
            ("The answer is `18`.", Some("18")),
            ("The answer is -**18**.", Some("-18")),
            ("x_18", None),
            ("x_{18}", None),
            ("the value of 1011_2", Some("1011")),
            ("The answer is...18", Some("18")),
            ("The answer is…18", Some("18")),
            ("答案是18个", Some("18")),
            ("共18元。", Some("18")),
            ("总共１８，２４０元", Some("18240")),
            ("余额为-18", Some("-18")),
            ("－１８度", Some("-18")),
            ("총18개", Some("18")),
            ("الجواب١٨", Some("18")),
            ("So the balance is -₹18", Some("-18")),
            ("-€18", Some("-18")),
            ("-₹ 18", Some("-18")),
            ("-US$18", Some("-18")),
            ("-Rs. 18", Some("-18")),
            (r"-\$18", Some("-18")),
            ("$-₹18$", Some("-18")),
            ("¥-18", Some("-18")),
            ("it is negative 18", Some("-18")),
            ("it is minus 18", Some("-18")),
            ("20 minus 2", Some("2")),
            ("余额是负18元", Some("-18")),
            ("マイナス18度", Some("-18")),
            ("误差为正负18", Some("18")),
            ("it costs Rs500", Some("500")),
            ("Total:Rs.500", Some("500")),
            ("No.18", Some("18")),
            ("it costs USD18", Some("18")),
            ("a non-negative 5", Some("5")),
            (r"about \approx18", Some("18")),
            ("18 km^2", Some("18")),
            (r"18\text{ m}^{2}", Some("18")),
            (r"\frac{1.5}{3}", Some("0.5")),
            ("3/1.5", Some("2")),
            ("it is 3 / 4", Some("0.75")),
            ("1½ cups", Some("1.5")),
            (r"1.5 \times 10^{3}", Some("1500")),
            ("2^10", Some("1024")),
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
            (r"\boxed 5", Some("5")),
            (r"so $\boxed 5$.", Some("5")),
            (r"\boxed{5", None),
            (r"\boxed{}", None),
            (r"\boxed{18 \quad \text{eggs}} in 2 h", Some("18")),
            (r"\boxed{18\ \text{km}^2} in 2 h", Some("18")),
            (r"\boxed{3 \times 6 = 18}. That is for all 7 days.", Some("18")),
            (r"\boxed{\frac{1.5}{3}} of 4", Some("0.5")),
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
    fn choice() {
        let r = reader("choice", None, "choice");
        // With four choices (E) is none, and what was said before it counts.
        assert_eq!(r.read_among("(B), as in (e)", 4).as_deref(), Some("B"));
        assert_eq!(r.read_among("(B), as in (e)", 5).as_deref(), Some("E"));
        assert_eq!(r.read_among("The answer is E", 4), None);
        assert_eq!(r.canonical("b)"), Some("B".into()));
        assert_eq!(r.canonical("B. two"), Some("B".into()));
        assert_eq!(r.canonical("ab"), None);
        assert_eq!(r.canonical("3"), None);
        let boxed = reader("boxed", None, "choice");
        assert_eq!(boxed.read_among(r"\boxed{\text{(C)}}", 4).as_deref(), Some("C"));
        assert_eq!(boxed.read_among(r"\boxed{E}", 4), None);
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
        let long = |piece: &str| piece.repeat(200_000 / piece.len());
        for (name, pattern) in [
            ("last-number", None),
            ("number-after", None),
            ("number-after", Some("####")),
            ("boxed", None),
            ("choice", None),
        ] {
            let r = reader(name, pattern, if name == "choice" { "choice" } else { "number" });
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
                "_",
                "_9",
                "a",
                "(a",
                "(a) ",
                "so ",
                "so (a) and ",
                "answer: *",
                "option ",
                "(a) and ",
                "answer is approx. ",
                "1 234 ",
                r"\frac{1",
                r"\boxed ",
                "9^",
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
        // A box with numbers is the answer, or there is none.
        for response in [r"\boxed{2, 3} in 6", r"\boxed{18 \pm 2} at 6", r"\boxed{2x + 3 = 18}, so 6"] {
            assert_eq!(r.read(response), None, "{response}");
        }
        assert_eq!(r.read(r"\boxed{x_1} is 6").as_deref(), Some("6"));
        assert_eq!(r.read(r"the box \boxed{5 is open").as_deref(), Some("5"));
        assert!(
            Reader::new(&TaskSection { extraction: Some("boxd".into()), ..TaskSection::default() }).is_err()
        );
        assert!(
            Reader::new(&TaskSection { equality: Some("same".into()), ..TaskSection::default() }).is_err()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Markup, currency, units, scripts and words around a number don't change it.
        #[test]
        fn what_stands_around_a_number_does_not_change_it(
            n in 0i64..10_000_000, around in 0usize..AROUND.len(), negative: bool,
        ) {
            let (before, after) = AROUND[around];
            let sign = if negative { "-" } else { "" };
            let expected = if negative && n > 0 { format!("-{n}") } else { n.to_string() };
            let text = format!("{before}{sign}{n}{after}");
            let r = reader("boxed, last-number", None, "number");
            prop_assert_eq!(r.read(&text), Some(expected), "{}", text);
        }

        /// However digits are grouped, the number is the same.
        #[test]
        fn grouping_does_not_change_a_number(n in 0u64..u64::MAX, cents in 0u32..100, negative: bool) {
            let digits = n.to_string();
            let grouped = |separator: &str, sizes: fn(usize) -> bool| -> String {
                let place = |i: usize| digits.len() - i;
                let mut out = String::new();
                for (i, digit) in digits.chars().enumerate() {
                    if i > 0 && sizes(place(i)) {
                        out.push_str(separator);
                    }
                    out.push(digit);
                }
                out
            };
            let western = |place: usize| place.is_multiple_of(3);
            let indian = |place: usize| place == 3 || place > 3 && place % 2 == 1;
            let sign = if negative { "-" } else { "" };
            let r = reader("last-number", None, "number");
            let expected = r.canonical(&format!("{sign}{digits}.{cents:02}"));
            prop_assert!(expected.is_some());
            let spaces = ["\u{202f}", "\u{a0}", r"\,", r"\ ", " ", "{,}", ",", "'", "\u{2019}", "_"];
            for separator in spaces {
                let text = format!("it is {sign}{}.{cents:02}.", grouped(separator, western));
                prop_assert_eq!(r.read(&text), expected.clone(), "{}", text);
            }
            let text = format!("it is {sign}{}.{cents:02}.", grouped(",", indian));
            prop_assert_eq!(r.read(&text), expected.clone(), "{}", text);
            if digits.len() > 3 {
                for separator in [".", " "] {
                    let text = format!("it is {sign}{},{cents:02} €", grouped(separator, western));
                    prop_assert_eq!(r.read(&text), expected.clone(), "{}", text);
                }
            }
        }

        /// The sign belongs to the number whichever minus, currency or space is between.
        #[test]
        fn a_sign_is_kept(n in 1u32..1_000_000, minus in 0usize..5, currency in 0usize..8) {
            let minus = ["-", "\u{2212}", "\u{2013}", "\u{ff0d}", "\u{2011}"][minus];
            let currency = ["", "$", "₹", "€ ", "US$", "Rs. ", "₩", "R$"][currency];
            let r = reader("last-number", None, "number");
            let text = format!("So the balance is {minus}{currency}{n}.");
            prop_assert_eq!(r.read(&text), Some(format!("-{n}")), "{}", text);
        }

        /// No text is a reason to panic.
        #[test]
        fn any_text_is_read(text in "[-0-9a-cE ._,/(){}\\\\$^*=:ABI是₹\n]{0,60}") {
            for (name, equality) in [("boxed, last-number, number-after", "number"), ("choice", "choice")] {
                let r = reader(name, Some("a"), equality);
                if let Some(answer) = r.read(&text) {
                    prop_assert_eq!(r.canonical(&answer), Some(answer.clone()), "{}", text);
                }
                let _ = r.canonical(&text);
            }
        }
    }

    /// What may stand before and behind a number.
    const AROUND: [(&str, &str); 29] = [
        ("", ""),
        ("**", "**"),
        ("__", "__"),
        ("_", "_"),
        ("`", "`"),
        ("***", "***."),
        ("(", ")"),
        ("\"", "\""),
        ("“", "”"),
        ("「", "」"),
        ("答案是", "个"),
        ("答案：", "。"),
        ("The answer is ", "."),
        ("The answer is\n", "\n"),
        ("is...", "..."),
        ("= ", " km^2"),
        ("= ", r"\text{ miles/hour}"),
        (r"\boxed{", r"^\circ} at 2 h"),
        (r"\boxed{", r" \quad \text{eggs}} in 2 h"),
        (r"\boxed{\approx ", "} after 3 steps"),
        (r"\boxed{x = ", r"\ \text{km}^2} in 2 h"),
        (r"$\boxed ", "$"),
        (r"\(", r"\)"),
        (r"\[\mathbf{", r"}\]"),
        ("$", "$"),
        ("€", ""),
        ("Rs. ", "/-"),
        ("#### ", ""),
        ("<b>", "</b>"),
    ];

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
