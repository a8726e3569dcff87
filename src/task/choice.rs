//! Which of several choices a text names.
//!
//! What is read, the first that is there:
//!
//! 1. The last *statement* of the answer: `answer is B`, `**Final Answer:** (B)`,
//!    `correct option is B`, `答案：B`, `B is correct`, `\boxed{B}`; and `so (B)`, `it is (B)`,
//!    `no, (B)`, `choose B`. This is what lm-evaluation-harness looks for (`answer is`).
//! 2. The last mention in brackets, `(B)`, as the published debates do (Du et al. take the last
//!    `(X)`), or as `option B`, `choice B`.
//! 3. A letter that is the whole first or last line, or starts the only line of the form `B. text`
//!    or `B) text`.
//!
//! A statement that names two choices (`(A) and (C)`) or one that the question does not have names
//! no answer, and nothing before it counts. Mentions of letters beyond the choices are passed over.
//! No choices are the argument of a function (`P(A)`), the article `a` and the pronoun `I`: one of
//! these two letters without brackets needs an end behind it.

use std::sync::LazyLock;

use regex::Regex;

use super::number::{is_cased, plain_characters};

fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a fixed pattern")
}

/// What an answer is announced with. The word ends here; no letter stands before it.
static ANNOUNCED: LazyLock<Regex> = LazyLock::new(|| {
    fixed(concat!(
        r"(?i)(?:answers?|ans|correct (?:option|choice|one|letter|alternative|response)|",
        r"(?:best|right|final) (?:option|choice|one)|respuesta|réponse|reponse|antwort|lösung|risposta|resposta|",
        r"odpowiedź|ответ|cevap|jawaban)|答案|答え|回答|正解|答|정답|답|الإجابة|الجواب|उत्तर|คำตอบ|đáp án",
    ))
});

/// What a choice is concluded with: a letter in brackets follows.
static CONCLUDED: LazyLock<Regex> = LazyLock::new(|| {
    fixed(concat!(
        r"(?i)\b(?:so|thus|therefore|hence|conclude|it is|it's|that is|that's|this is|must be|would be|should be|has to be|",
        r"say|maintain|stick with|prefer|choose|choosing|pick|select|go with|going with|opt for)\b|",
        // What takes the choice before it back.
        r"\b(?:no|wait|sorry|rather|actually|correction|i mean)\s*[,:–—-]",
    ))
});

/// What a choice is chosen with: a letter may follow without brackets.
static CHOSEN: LazyLock<Regex> = LazyLock::new(|| {
    fixed(
        r"(?i)\b(?:choose|choosing|pick|select|go with|going with|opt for|it must be|it has to be)\b|选择?|選ぶ?",
    )
});

/// Behind a letter: that it is the answer.
static CONFIRMED: LazyLock<Regex> = LazyLock::new(|| {
    fixed(concat!(
        r"^(?:\s+\p{L}+)?\s+is\s+(?:(?:therefore|thus|clearly|indeed|definitely|also)\s+)?(?:the\s+)?",
        r"(?:(?:most|only|best|final)\s+)*(?i:correct|right|best|answer)\b",
    ))
});

/// `option B`, `choice (B)`: what stands before the letter.
static NAMED: LazyLock<Regex> =
    LazyLock::new(|| fixed(r"(?i)\b(?:option|choice|alternative)s?\b|选项|選択肢|선택지"));

/// Behind a letter, perhaps with others: that it is not the answer.
static DISMISSED: LazyLock<Regex> = LazyLock::new(|| {
    fixed(concat!(
        r"(?i)^[^\w.\n]*(?:(?:and|or)[^\w.\n]+[a-z][^\w.\n]+){0,8}(?:is|are|was|were|isn't|aren't|cannot|can't|can|must|seems?)\s+",
        r"(?:\p{L}+\s+)?(?:not|wrong|incorrect|false|ruled|eliminated|excluded|invalid|impossible|be (?:ruled|eliminated|excluded))\b",
    ))
});

/// Words before a letter that numbers a question: `the answer to question B is …`.
const NUMBERED: &[&str] = &["question", "problem", "number", "for", "to"];

/// Words between the announcement and the letter.
const LINKS: &[&str] = &[
    "is",
    "are",
    "was",
    "be",
    "been",
    "would",
    "should",
    "must",
    "will",
    "has",
    "to",
    "for",
    "the",
    "this",
    "that",
    "question",
    "problem",
    "clearly",
    "therefore",
    "thus",
    "hence",
    "so",
    "definitely",
    "likely",
    "probably",
    "most",
    "simply",
    "indeed",
    "actually",
    "then",
    "option",
    "choice",
    "letter",
    "alternative",
    "number",
    "answer",
    "correct",
    "best",
    "final",
    "right",
    "given",
    "by",
    "as",
    "follows",
    "which",
    "i",
    "think",
    "believe",
    "chose",
    "choose",
    "text",
    "textbf",
    "mathrm",
    "mathbf",
    "boxed",
    "left",
];

/// Words that may follow a bare letter which could also be an article or a pronoun.
const CLAUSES: [&str; 12] =
    ["because", "since", "as", "which", "and", "or", "but", "for", "due", "so", "not", "with"];

/// Most words and characters between an announcement and its letter.
const MAX_LINKS: usize = 10;

/// What a text says at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// One letter, in upper case.
    One(char),
    /// Several.
    Several,
}

/// A letter at a place.
struct Letter {
    letter: char,
    /// The place behind it and its brackets.
    end: usize,
    /// Whether brackets are around it.
    bracketed: bool,
}

/// The choice that a text names, in upper case; only the first `choices` letters are choices.
pub fn choice(text: &str, choices: usize) -> Option<String> {
    let chars: Vec<char> = plain_characters(text).chars().collect();
    let text = Text::new(chars);
    let is_choice = |letter: char| is_among(letter, choices);
    match text.statement() {
        Some(Said::Several) => return None,
        Some(Said::One(letter)) => return is_choice(letter).then(|| letter.to_string()),
        None => {}
    }
    text.mention(&is_choice).or_else(|| text.line(&is_choice)).map(|letter| letter.to_string())
}

/// Whether a letter is one of the first `choices`.
pub fn is_among(letter: char, choices: usize) -> bool {
    letter.is_ascii_uppercase() && (letter as usize - 'A' as usize) < choices
}

/// The letter of an answer that is nothing but a choice: `B`, `(b)`, `B)`, `**B**`, `\text{(B)}`,
/// `option B`, `B. text`.
pub fn letter(answer: &str) -> Option<String> {
    let text = Text::new(plain_characters(answer).trim().chars().collect());
    match text.lead() {
        Some(Said::One(letter)) => Some(letter.to_string()),
        _ => None,
    }
}

/// A text by characters, with the byte offsets of these for patterns.
struct Text {
    chars: Vec<char>,
    text: String,
    /// The byte offset of each character, and the length.
    offsets: Vec<usize>,
}

fn is_open(c: char) -> bool {
    "([{（【「『〈《<".contains(c)
}

fn is_close(c: char) -> bool {
    ")]}）】」』〉》>".contains(c)
}

/// What may stand around a letter without meaning anything.
fn is_markup(c: char) -> bool {
    "*_`$\"'“”‘’\\~".contains(c)
}

impl Text {
    fn new(chars: Vec<char>) -> Self {
        let text: String = chars.iter().collect();
        let offsets = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        Self { chars, text, offsets }
    }

    fn at(&self, i: usize) -> Option<char> {
        self.chars.get(i).copied()
    }

    fn before(&self, i: usize) -> Option<char> {
        i.checked_sub(1).and_then(|i| self.at(i))
    }

    /// The character that starts at a byte offset.
    fn index(&self, byte: usize) -> usize {
        self.offsets.partition_point(|&o| o < byte)
    }

    fn rest(&self, i: usize) -> &str {
        &self.text[self.offsets[i.min(self.chars.len())]..]
    }

    /// The word of letters at `i`.
    fn word(&self, i: usize) -> String {
        self.chars[i..].iter().take(24).take_while(|c| is_cased(**c)).collect()
    }

    /// The letter that stands alone at `i`, with the brackets that it is in.
    fn letter_at(&self, i: usize, bracketed: bool) -> Option<Letter> {
        let letter = self.at(i).filter(char::is_ascii_alphabetic)?;
        let joined = |c: Option<char>| c.is_some_and(|c| is_cased(c) || c.is_numeric() || c == '_');
        if joined(self.before(i)) || joined(self.at(i + 1)) && !self.is_emphasis(i + 1) {
            return None;
        }
        let mut end = i + 1;
        while self
            .at(end)
            .is_some_and(|c| is_markup(c) && c != '\\' && !(c == '\'' && self.is_apostrophe(end)))
        {
            end += 1;
        }
        let closed = bracketed && {
            let mut close = end;
            while self.at(close).is_some_and(|c| c == ' ' || is_markup(c)) {
                close += 1;
            }
            let is_closed = self.at(close).is_some_and(is_close);
            // `\(B\)` and `\boxed{(B)}` have several.
            while self.at(close).is_some_and(|c| is_close(c) || is_markup(c)) {
                close += 1;
            }
            end = if is_closed { close } else { end };
            is_closed
        };
        Some(Letter { letter, end, bracketed: closed })
    }

    fn is_emphasis(&self, i: usize) -> bool {
        self.at(i) == Some('_') && !self.at(i + 1).is_some_and(|c| c.is_alphanumeric())
    }

    fn is_apostrophe(&self, i: usize) -> bool {
        matches!(self.at(i), Some('\'' | '’')) && self.at(i + 1).is_some_and(is_cased)
    }

    /// Whether a letter without brackets is a choice and not the start of something else: a word,
    /// an abbreviation, an article.
    fn stands_alone(&self, letter: &Letter) -> bool {
        if letter.bracketed {
            return true;
        }
        let i = letter.end;
        match self.at(i) {
            None | Some('\n') => true,
            _ if self.is_apostrophe(i) => false,
            Some('-' | '+' | '/' | '&' | '=' | '^' | '(') => {
                !self.at(i + 1).is_some_and(|c| c.is_alphanumeric() || c == '+')
            }
            Some(' ') => {
                let next = i + self.chars[i..].iter().take_while(|c| **c == ' ').count();
                let word = self.word(next).to_lowercase();
                let ambiguous = letter.letter.is_ascii_lowercase() || matches!(letter.letter, 'A' | 'I');
                let goes_on = self.at(next).is_some_and(char::is_lowercase);
                !(ambiguous && goes_on) || CLAUSES.contains(&&*word)
            }
            Some(_) => true,
        }
    }

    /// What is said from `i` on: words that link, then a letter. `bracketed`: only one in brackets
    /// counts.
    fn said(&self, mut i: usize, bracketed: bool) -> Option<Said> {
        let (mut links, mut open, mut numbered) = (0, false, false);
        loop {
            let c = self.at(i)?;
            let found = self.letter_at(i, open);
            if let Some(letter) = found.filter(|l| l.bracketed || !bracketed || self.ends_sentence(l)) {
                if numbered && !letter.bracketed {
                    (i, numbered) = (i + 1, false);
                    continue;
                }
                if self.stands_alone(&letter) {
                    return (!self.is_dismissed(&letter)).then(|| self.with_others(&letter));
                }
                if c == 'a' || c == 'A' {
                    return None;
                }
            }
            if is_cased(c) {
                let word = self.word(i);
                if links == MAX_LINKS || !LINKS.contains(&&*word.to_lowercase()) {
                    return None;
                }
                (links, open) = (links + 1, false);
                numbered = NUMBERED.contains(&&*word.to_lowercase());
                i += word.chars().count();
                continue;
            }
            match c {
                c if is_open(c) => open = true,
                c if c.is_whitespace() || is_markup(c) || ":：=-–—>→,，是为為は는은이가".contains(c) =>
                    {}
                c if is_close(c) => open = false,
                _ => return None,
            }
            i += 1;
        }
    }

    /// Whether a bare letter, not the pronoun, is the last word of its sentence: `so B.`
    fn ends_sentence(&self, letter: &Letter) -> bool {
        let rest = self.rest(letter.end);
        let mut behind = rest.trim_start_matches(['.', '!']).chars();
        let ends = rest.is_empty() || rest.starts_with(['.', '!', '\n', '。']);
        let next = (behind.next(), behind.next());
        let is_over = match next {
            (None, _) | (Some('\n' | '。'), _) => true,
            (Some(space), after) => space.is_whitespace() && after.is_none_or(|c| !c.is_lowercase()),
        };
        letter.letter.is_ascii_uppercase() && letter.letter != 'I' && ends && is_over
    }

    fn is_dismissed(&self, letter: &Letter) -> bool {
        DISMISSED.is_match(self.rest(letter.end))
    }

    /// A letter and those that are named with it.
    fn with_others(&self, first: &Letter) -> Said {
        static JOINED: LazyLock<Regex> = LazyLock::new(|| {
            fixed(
                r"^\s*(?:,?\s*(?:and|or)\s+|&\s*|/\s*|,\s*|、\s*|和|或)(?:(?i:option|choice)\s+)?[\\*_`$(\[{]*",
            )
        });
        if let Some(found) = JOINED.find(self.rest(first.end)) {
            let i = self.index(self.offsets[first.end] + found.end());
            let open = self.before(i).is_some_and(|c| "([{".contains(c));
            let same_case = |l: &Letter| l.letter.is_ascii_uppercase() == first.letter.is_ascii_uppercase();
            if let Some(other) = self.letter_at(i, open).filter(same_case)
                && !other.letter.eq_ignore_ascii_case(&first.letter)
                && self.ends_list(&other)
            {
                return Said::Several;
            }
        }
        Said::One(first.letter.to_ascii_uppercase())
    }

    /// Whether nothing is said of a letter but that it is in the list: `A or C.`, but not
    /// `(A), (C) is wrong`.
    fn ends_list(&self, letter: &Letter) -> bool {
        let rest = self.rest(letter.end).trim_start_matches([' ', '*', '_', '`', '$', '\\', ')', ']', '}']);
        rest.is_empty()
            || rest.starts_with(['.', ',', ';', '!', '\n', '、', '。'])
            || rest.starts_with("and ")
            || rest.starts_with("or ")
    }

    /// The last statement of the answer.
    fn statement(&self) -> Option<Said> {
        let mut last: Option<(usize, Said)> = None;
        let mut take = |at: usize, said: Option<Said>| {
            if let Some(said) = said
                && last.is_none_or(|(before, _)| at >= before)
            {
                last = Some((at, said));
            }
        };
        for found in ANNOUNCED.find_iter(&self.text) {
            let (start, end) = (self.index(found.start()), self.index(found.end()));
            let inside = |c: Option<char>| c.is_some_and(is_cased);
            let cased = self.at(start).is_some_and(is_cased);
            if !cased || !inside(self.before(start)) && !inside(self.at(end)) {
                take(start, self.said(end, false));
            }
        }
        for (pattern, bracketed) in [(&CONCLUDED, true), (&CHOSEN, false)] {
            for found in pattern.find_iter(&self.text) {
                take(self.index(found.start()), self.said(self.index(found.end()), bracketed));
            }
        }
        if let Some(content) = super::boxed::last_box(&self.text) {
            let at =
                self.index(self.text.rfind(r"\boxed").or_else(|| self.text.rfind(r"\fbox")).unwrap_or(0));
            take(at, Text::new(content.chars().collect()).lead());
        }
        for i in 0..self.chars.len() {
            if !self.chars[i].is_ascii_alphabetic() {
                continue;
            }
            let open = self.before(i).is_some_and(is_open) && !self.is_argument(i - 1);
            if let Some(letter) =
                self.letter_at(i, open).filter(|l| l.bracketed || l.letter.is_ascii_uppercase())
                && CONFIRMED.is_match(self.rest(letter.end))
                && (letter.letter != 'I' || letter.bracketed)
            {
                // `B is the answer`, `The answer B is right`: no word is between.
                let direct = self.rest(letter.end).trim_start().starts_with("is");
                if direct || letter.bracketed {
                    take(i, Some(Said::One(letter.letter.to_ascii_uppercase())));
                }
            }
        }
        last.map(|(_, said)| said)
    }

    /// Whether the bracket at `i` opens the argument of a function: `P(A)`, `\mathrm{P}(A)`,
    /// `Pr (A)`.
    fn is_argument(&self, i: usize) -> bool {
        match self.before(i) {
            Some(c) if is_cased(c) || c.is_numeric() || c == '}' || c == ')' => {
                let letters = self.chars[..i].iter().rev().take(12).take_while(|c| is_cased(**c)).count();
                let word: String = self.chars[i - letters..i].iter().collect();
                !(word.eq_ignore_ascii_case("option") || word.eq_ignore_ascii_case("choice"))
            }
            Some(' ') => {
                let before = self.chars[..i - 1].iter().rev().take(3).collect::<Vec<_>>();
                let is = |pattern: &[char]| pattern.iter().rev().zip(&before).all(|(a, b)| a == *b);
                let alone = |len: usize| before.get(len).is_none_or(|c| !is_cased(**c));
                !before.is_empty()
                    && (is(&['P']) && alone(1) || before.len() > 1 && is(&['P', 'r']) && alone(2))
            }
            _ => false,
        }
    }

    /// Whether `not` stands before `i`.
    fn is_negated(&self, i: usize) -> bool {
        let before: String = self.chars[i.saturating_sub(16)..i].iter().collect();
        let before = before.trim_end().to_lowercase();
        before.ends_with(" not")
            || before.ends_with("n't")
            || before.ends_with(" nor")
            || before.ends_with(" neither")
    }

    /// The last choice that is mentioned in round brackets, or with the word `option`.
    fn mention(&self, is_choice: &dyn Fn(char) -> bool) -> Option<char> {
        let mut last = None;
        let mut take = |at: usize, letter: Letter| {
            let upper = letter.letter.to_ascii_uppercase();
            if is_choice(upper)
                && !self.is_dismissed(&letter)
                && !self.is_negated(at)
                && last.is_none_or(|(before, _)| at >= before)
            {
                last = Some((at, upper));
            }
        };
        for i in 0..self.chars.len() {
            if !"([{（【".contains(self.chars[i]) || self.is_argument(i) {
                continue;
            }
            let inner = i
                + 1
                + self.chars[i + 1..].iter().take(8).take_while(|c| **c == ' ' || is_markup(**c)).count();
            if let Some(letter) = self.letter_at(inner, true).filter(|l| l.bracketed) {
                let round = "(（".contains(self.chars[i]);
                if round || letter.letter.is_ascii_uppercase() {
                    take(i, letter);
                }
            }
        }
        for found in NAMED.find_iter(&self.text) {
            let mut i = self.index(found.end());
            while self.at(i).is_some_and(|c| " *_`$\\:(".contains(c)) {
                i += 1;
            }
            let open = self.before(i) == Some('(');
            if let Some(letter) = self.letter_at(i, open)
                && (letter.bracketed || letter.letter.is_ascii_uppercase())
                && self.stands_alone(&letter)
            {
                take(i, letter);
            }
        }
        last.map(|(_, letter)| letter)
    }

    /// The letter at the start of an answer that is `B`, `(B)`, `B. text`, `option B`.
    fn lead(&self) -> Option<Said> {
        let mut i = 0;
        loop {
            let word = self.word(i);
            if ["option", "choice", "text", "textbf", "textrm", "mathrm", "mathbf", "boxed", "left", "answer"]
                .contains(&&*word.to_lowercase())
            {
                i += word.chars().count();
            } else if self.at(i).is_some_and(|c| c.is_whitespace() || is_markup(c) || is_open(c) || c == ':')
            {
                i += 1;
            } else {
                break;
            }
        }
        let letter = self.letter_at(i, self.chars[..i].iter().any(|c| is_open(*c)))?;
        let rest = self.rest(letter.end);
        let nothing = rest.chars().all(|c| !c.is_alphanumeric());
        let separated =
            rest.trim_start_matches(is_markup).starts_with(['.', ':', ')', ']', '}', ',', '：', '、']);
        match self.with_others(&letter) {
            Said::Several => Some(Said::Several),
            said if nothing || letter.bracketed => Some(said),
            // `B. text`, but not `b.c` and `A.M.`.
            said if separated && letter.letter.is_ascii_uppercase() => {
                let behind = rest.trim_start_matches(|c: char| is_markup(c) || ".:)]},：、".contains(c));
                (behind.starts_with(char::is_whitespace) || behind.starts_with('\\')).then_some(said)
            }
            _ => None,
        }
    }

    /// A line that is a choice.
    fn line(&self, is_choice: &dyn Fn(char) -> bool) -> Option<char> {
        let lines: Vec<&str> = self.text.lines().filter(|l| !l.trim().is_empty()).collect();
        let alone = |line: &&str| {
            let text = Text::new(line.trim().chars().collect());
            let letters = text.chars.iter().filter(|c| c.is_alphanumeric()).count();
            match text.lead() {
                Some(Said::One(letter)) if letters == 1 => Some(letter).filter(|l| is_choice(*l)),
                _ => None,
            }
        };
        if let Some(letter) = lines.last().and_then(alone).or_else(|| lines.first().and_then(alone)) {
            return Some(letter);
        }
        static MARKED: LazyLock<Regex> = LazyLock::new(|| {
            fixed(
                r"^[\s*_`>#-]*(?:(?i:option|choice)\s+)?[(\[]?([A-Z])[*_`]*(?:[.):\]：、][*_`]*(?:\s|$)|\s+[-–—]\s)",
            )
        });
        let mut marked = lines.iter().filter_map(|line| MARKED.captures(line)).filter_map(|found| {
            let letter = found[1].chars().next()?;
            is_choice(letter).then_some(letter)
        });
        match (marked.next(), marked.next()) {
            (Some(letter), None) => Some(letter),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_the_forms_people_write() {
        for (text, expected) in [
            ("**Answer:** B", "B"),
            ("It is (A)... no, (B).", "B"),
            ("I choose (A). Wait: (B).", "B"),
            ("**Answer**: B", "B"),
            ("**Final Answer:** B. two", "B"),
            ("Final answer\nB", "B"),
            ("Answer:\n\n**B**", "B"),
            (r"The answer is $\boxed{B}$", "B"),
            (r"\boxed{B: two}", "B"),
            (r"\boxed{\text{(B)}}", "B"),
            (r"\boxed{\textbf{(B)}\ 12}", "B"),
            (r"$\boxed B$", "B"),
            ("The correct answer is option B.", "B"),
            ("The correct choice would be B", "B"),
            ("The best option is B, as said", "B"),
            ("the answer is b", "B"),
            ("The answer is `B`", "B"),
            (r"The answer is \(B\)", "B"),
            ("The answer is $B$.", "B"),
            ("The answer is: (B)", "B"),
            ("Answer is: (B)", "B"),
            ("The answer is [B]", "B"),
            ("The answer is {B}", "B"),
            ("The answer is （Ｂ）", "B"),
            ("答案是B。", "B"),
            ("答案：Ｂ", "B"),
            ("정답은 B입니다", "B"),
            ("Respuesta: B", "B"),
            ("Answer : B", "B"),
            ("Answer - B", "B"),
            ("{\"answer\": \"B\"}", "B"),
            ("<answer>B</answer>", "B"),
            ("The answer to the question is therefore B", "B"),
            ("The answer is B because A is wrong", "B"),
            ("The answer is A because of that", "A"),
            ("Answer: A. It is", "A"),
            ("The answer is A.", "A"),
            ("The answer is A", "A"),
            ("The answer is a.", "A"),
            ("Answer: A Paris", "A"),
            ("B. c1", "B"),
            ("B) c1", "B"),
            ("B - Paris", "B"),
            ("It cannot be C, so B.", "B"),
            ("Therefore, B", "B"),
            ("(B)", "B"),
            ("[B]", "B"),
            ("{B}", "B"),
            ("B", "B"),
            ("b", "B"),
            ("A", "A"),
            ("I think about it.\n\nB", "B"),
            ("B\n\nThis is why.", "B"),
            ("Option (B)", "B"),
            ("choice D", "D"),
            ("I would say option B here", "B"),
            ("I'll go with B.", "B"),
            ("B is the correct answer.", "B"),
            ("(B) Paris is the correct answer, (A) is not", "B"),
            // Statements count before mentions, and the last one does.
            ("I considered (A), but it is incorrect. Final answer: D.", "D"),
            ("The answer is (C) because P(A) and P(B) are independent.", "C"),
            ("The answer is (C), since Pr (A) is small", "C"),
            ("The answer is C.\nMy answer: I am sure.", "C"),
            ("The answer is (B), since (A) is wrong.", "B"),
            ("The answer is A. Wait, no. The answer is B.", "B"),
            ("The answer is (A)? No, it is (B).", "B"),
            ("The answer is clear: (D) it is", "D"),
            ("The answer is a cat, so (D).", "D"),
            ("The answer to question B is (C)", "C"),
            ("So (A) is wrong. (B) is possible.", "B"),
            // As the published debates read.
            ("(A) is wrong, so (c).", "C"),
            ("( **b** )", "B"),
            ("Not (A). Perhaps (B), or (C)", "C"),
            ("(B) holds. (A) is incorrect and (C) is false", "B"),
        ] {
            assert_eq!(choice(text, 10).as_deref(), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn what_names_no_choice_is_no_answer() {
        for text in [
            "The answer is Boston",
            "The answer is a cat.",
            "Answer: I'm not sure",
            "Answer: I am not sure",
            "Answer: A cat sat there",
            "The answer is None of the above",
            "None of the above",
            "The answer is not (A).",
            "The answer isn't (A).",
            "The answer is (A) and (C).",
            "The answer is A or C",
            "The answer is A, C",
            r"\boxed{A, C}",
            "The answer is (K)",
            "The answer depends on P(A) and f(b)",
            "(12)",
            "A) one\nB) two\nC) three\nD) four",
            "A. one\nB. two",
            "A cat",
            "I think so",
            "",
        ] {
            assert_eq!(choice(text, 10), None, "{text:?}");
        }
    }

    #[test]
    fn an_answer_that_is_a_letter_is_one_however_it_is_written() {
        for text in [
            "B",
            "b",
            "(b)",
            "B)",
            "B.",
            "**B**",
            "`B`",
            "$B$",
            r"\text{(B)}",
            "option B",
            "B. two",
            "B: two",
            "（Ｂ）",
        ] {
            assert_eq!(letter(text).as_deref(), Some("B"), "{text:?}");
        }
        for text in ["", "BC", "3", "B two", "b.c", "A.M.", "A, B", "none", "A and B"] {
            assert_eq!(letter(text), None, "{text:?}");
        }
    }
}
