//! The number that a marker such as `answer is` announces.

use std::sync::LazyLock;

use regex::Regex;

use super::number::{self, Found, is_currency};

/// How far behind a marker its number is looked for, in characters.
const MAX_SENTENCE: usize = 1000;

fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a fixed pattern")
}

/// The number after the last of these markers (in lower case) that has one.
///
/// It stands in the marker's sentence; if nothing else is on the marker's line, or that ends in a
/// colon, in the first sentence of the next line that has words or numbers. An equation that starts
/// with the first number is followed to its end: `5 + 7 = 12.` is 12, `5 + 7.` too. A remark behind
/// the number is not: `12 (check: 12/4 = 3)`, `12, not 3*5=15`, `12 because 3*4=12` are 12.
pub fn number_after(text: &str, marker: &str) -> Option<String> {
    // Lower case may change lengths, so offsets are those of the lowered text, which reads the same
    // numbers.
    let text = number::simplify(text).to_lowercase();
    let marker = number::simplify(marker).to_lowercase();
    let mut markers: Vec<usize> = text.match_indices(&*marker).map(|(at, _)| at + marker.len()).collect();
    while let Some(at) = markers.pop() {
        let behind = &text[at..];
        let behind = behind.char_indices().nth(MAX_SENTENCE).map_or(behind, |(end, _)| &behind[..end]);
        let answer = number_of(sentence(behind));
        if answer.is_some() {
            return answer;
        }
    }
    None
}

/// The sentence that holds what a marker announces.
fn sentence(behind: &str) -> &str {
    let mut lines = behind.lines();
    let first = lines.next().unwrap_or_default();
    let is_bare = |line: &str| !line.contains(char::is_alphanumeric) || line.trim() == r"\begin{align*}";
    let no_number = || number::scan(first).is_empty();
    let line = if is_bare(first)
        || first.trim_end_matches(|c: char| "*_ ".contains(c)).ends_with(':') && no_number()
    {
        lines.find(|line| !is_bare(line)).unwrap_or_default()
    } else {
        first
    };
    static END: LazyLock<Regex> = LazyLock::new(|| fixed(r"[.!?]\s|[。！？]"));
    static ABBREVIATED: LazyLock<Regex> =
        LazyLock::new(|| fixed(r"(?:^|[^\p{L}])(?:approx|ca|rs|no|nr|vs|eq|i\.e|e\.g|resp|incl|st|kr)$"));
    let is_abbreviated = |end: usize| {
        let word = line[..end].char_indices().rev().nth(8).map_or(0, |(at, _)| at);
        ABBREVIATED.is_match(&line[word..end])
    };
    let end = END.find_iter(line).find(|end| !is_abbreviated(end.start()));
    end.map_or(line, |end| &line[..end.start()])
}

/// What stands between two numbers of an equation.
static LINK: LazyLock<Regex> = LazyLock::new(|| {
    let words = r"(?:[\s*_`$%}\].]|\\[\])]|\p{L}+|\)|\p{Sc})*?";
    let operator = r"(?:=|≈|\+|-|\*|×|÷|/|·|\^|\\times|\\cdot|\\div|\\approx|\\frac|\btimes\b|\bplus\b|\bminus\b|\bover\b|divided by|multiplied by)";
    let after = r"(?:[\s*_`$({\[]|\\[(\[]|\p{L}+|\p{Sc}|=|\\frac|\\approx)*";
    fixed(&format!(r"^(?:{words}{operator}{after}|\)?\s*[({{]\s*)$"))
});

/// Words that start another clause.
static CLAUSE: LazyLock<Regex> = LazyLock::new(|| {
    fixed(
        r"\b(?:and|or|because|since|as|so|thus|hence|therefore|where|when|if|not|but|with|while|given|after|from|which|that|who)\b",
    )
});

/// A bracket that opens a remark: ` (check`, ` (= 3`.
static REMARK: LazyLock<Regex> = LazyLock::new(|| fixed(r"^[\s*_`$%\p{L}]*[\s*_`$%\p{L}]\(\s*(?:=|≈|\p{L})"));

/// The number that a sentence is about.
fn number_of(sentence: &str) -> Option<String> {
    let numbers = number::scan(sentence);
    let first = numbers.first()?;
    let chars: Vec<char> = sentence.chars().collect();
    let text = |from: usize, to: usize| chars[from..to].iter().collect::<String>();
    let is_linked = |pair: &&[Found]| {
        let gap = text(pair[0].at.end, pair[1].at.start);
        LINK.is_match(&gap) && !CLAUSE.is_match(&gap) && !REMARK.is_match(&gap)
    };
    let linked = numbers.windows(2).take_while(is_linked).count();
    if linked == 0 {
        return Some(first.value.clone());
    }
    let opens = |c: &&char| "({[$ ".contains(**c) || is_currency(**c);
    let from = first.at.start - chars[..first.at.start].iter().rev().take_while(opens).count();
    let last = &numbers[linked];
    let closes = |c: &&char| ")}]".contains(**c);
    let to = last.at.end + chars[last.at.end..].iter().take_while(closes).count();
    let equation = text(from, to);
    let value = number::parse(&equation).or_else(|| {
        let from = (1..=linked).rev().find(|i| {
            let gap = text(numbers[i - 1].at.end, numbers[*i].at.start);
            gap.contains(['=', '≈']) || gap.contains(r"\approx")
        })?;
        Some(numbers[from].value.clone())
    });
    value.or_else(|| Some(first.value.clone()))
}

#[cfg(test)]
mod tests {
    use super::number_after;

    #[test]
    fn the_announced_number_is_read_and_no_remark_behind_it() {
        for (text, expected) in [
            ("the answer is 7. I took 3 steps.", Some("7")),
            ("The Answer is: **$1,234.50**, of 2 parts", Some("1234.5")),
            ("The answer is 5 + 7 = 12.", Some("12")),
            ("The answer is 5 + 7.", Some("12")),
            ("The answer is (5 + 7) * 2 = 24.", Some("24")),
            (r"The answer is $5 \times 3 = 15$ dollars", Some("15")),
            ("The answer is x = 12.", Some("12")),
            ("The answer is 12 = 5 + 7.", Some("12")),
            ("The answer is 5 apples + 7 apples = 12 apples", Some("12")),
            ("The answer is 12 (check: 12/4 = 3).", Some("12")),
            ("The answer is 12 (24/2 = 12, 2*6 = 13).", Some("12")),
            ("The answer is 12 eggs (= 24/3).", Some("12")),
            ("The answer is 12, not 3*5=15.", Some("12")),
            ("The answer is 12 because 3*5 = 15.", Some("12")),
            ("The answer is 12; 3*5 = 15.", Some("12")),
            ("The answer is 12 since x = 15.", Some("12")),
            ("The answer is approx. 12 apples", Some("12")),
            ("The answer is Rs. 12", Some("12")),
            ("The answer is 5. No, the answer is -6", Some("-6")),
            ("The answer is 5. The answer is clear.", Some("5")),
            ("The answer is clear. Then 5", None),
            ("The answer is 3.5. Then 4", Some("3.5")),
            ("The answer is\n7", Some("7")),
            ("The answer is:\n\n$$12$$", Some("12")),
            ("The answer is:\n\\[\n12\n\\]\n3 more", Some("12")),
            ("**The answer is:**\n\n**12** of 30", Some("12")),
            ("The answer is as follows:\n12 eggs", Some("12")),
            ("The answer is clear.\nStep 7", None),
            ("The answer is in doubt\n7", None),
            ("The answer is 10-15", Some("10")),
            ("7", None),
        ] {
            assert_eq!(number_after(text, "answer is").as_deref(), expected, "{text}");
        }
        assert_eq!(number_after("#### 1,234\n#### -2", "####").as_deref(), Some("-2"));
        assert_eq!(number_after("因此，答案：１２個。然後3", "答案：").as_deref(), Some("12"));
    }
}
