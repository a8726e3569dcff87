//! From an answer as written to tokens, without what only concerns its looks: `\left`, spacing, fonts, `$`, degree signs, percent signs.

use super::rational::Rational;

/// What an answer is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A number, its decimals exact.
    Number(Rational),
    /// Digits of a number that is too long for a [`Rational`].
    Digits(String),
    /// A run of letters.
    Word(String),
    /// The content of `\text{…}` and its like.
    Text(String),
    /// A command, without its backslash.
    Command(String),
    /// `(`, `[`, `{` for a group, `S` for `\{`, `<` for `\langle`.
    Open(char),
    /// The same for closing ones: `)`, `]`, `}`, `S`, `<`.
    Close(char),
    /// `\begin{…}`, the name.
    Begin(String),
    /// `\end{…}`.
    End,
    /// `\\` in a matrix.
    Row,
    /// Anything else; relations as one of `= < > ≤ ≥ ≠ ≈`, the set signs as `∈ ∪ ∩`.
    Sign(char),
}

/// A token, and whether white space stands before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// White space, or a command for it, before it.
    pub space: bool,
}

impl Token {
    /// Whether it is this sign.
    pub fn is(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }

    /// 1 for what opens, -1 for what closes.
    pub fn depth(&self) -> i32 {
        match self.kind {
            Kind::Open(_) | Kind::Begin(_) => 1,
            Kind::Close(_) | Kind::End => -1,
            _ => 0,
        }
    }
}

const FONTS: [&str; 11] = [
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mathcal",
    "mathbb",
    "operatorname",
    "boldsymbol",
    "bm",
    "boxed",
    "fbox",
];
const TEXTS: [&str; 10] =
    ["text", "textbf", "textit", "textrm", "textsf", "texttt", "mbox", "hbox", "textnormal", "emph"];
const LOOKS: [&str; 26] = [
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "biggl",
    "biggr",
    "displaystyle",
    "textstyle",
    "limits",
    "nolimits",
    "middle",
    "quad",
    "qquad",
    "hspace",
    "degree",
    "circ",
    "mathstrut",
    "strut",
    "allowbreak",
    "nobreak",
];

/// The tokens of an answer.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().map(plain).collect();
    let mut lexer = Lexer { chars: &chars, at: 0, space: false, depth: 0, out: Vec::new() };
    while lexer.at < chars.len() {
        lexer.step();
    }
    lexer.out
}

/// One kind of minus, space and quote.
fn plain(c: char) -> char {
    match c {
        '\u{2212}' | '\u{2013}' | '\u{fe63}' | '\u{ff0d}' => '-',
        '\u{a0}' | '\u{2009}' | '\u{202f}' | '\n' | '\t' | '\r' => ' ',
        '\u{2019}' | '\u{2032}' => '\'',
        '×' | '·' | '⋅' => '*',
        '÷' => '/',
        c => c,
    }
}

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
    space: bool,
    depth: i32,
    out: Vec<Token>,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn push(&mut self, kind: Kind) {
        let token = Token { kind, space: std::mem::take(&mut self.space) };
        self.depth += token.depth();
        self.out.push(token);
    }

    fn step(&mut self) {
        let c = self.chars[self.at];
        let point = c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit());
        if c.is_ascii_digit() || point {
            return self.number();
        }
        if c == '\\' {
            return self.command();
        }
        if c.is_alphabetic() {
            let start = self.at;
            while self.peek(0).is_some_and(char::is_alphabetic) {
                self.at += 1;
            }
            let word: String = self.chars[start..self.at].iter().collect();
            return match word.as_str() {
                "π" => self.push(Kind::Command("pi".into())),
                _ => self.push(Kind::Word(word)),
            };
        }
        self.at += 1;
        match c {
            ' ' | '~' => self.space = true,
            '$' | '%' | '°' | '€' | '£' => {}
            '*' if self.peek(0) == Some('*') => {
                // Bold in Markdown at either end, a power between.
                self.at += 1;
                if !self.out.is_empty() && self.at < self.chars.len() {
                    self.push(Kind::Sign('^'));
                }
            }
            '(' | '[' => self.push(Kind::Open(c)),
            ')' | ']' => self.push(Kind::Close(c)),
            '{' => self.push(Kind::Open('{')),
            '}' => self.push(Kind::Close('}')),
            '∞' => self.push(Kind::Command("infty".into())),
            '√' => self.push(Kind::Command("sqrt".into())),
            '∅' => self.push(Kind::Command("emptyset".into())),
            '±' => self.push(Kind::Command("pm".into())),
            '∓' => self.push(Kind::Command("mp".into())),
            '^' if self.degree_follows() => {}
            '<' if self.peek(0) == Some('=') => self.relation('≤'),
            '>' if self.peek(0) == Some('=') => self.relation('≥'),
            '!' if self.peek(0) == Some('=') => self.relation('≠'),
            c => self.push(Kind::Sign(c)),
        }
    }

    fn relation(&mut self, sign: char) {
        self.at += 1;
        self.push(Kind::Sign(sign));
    }

    /// Skips `\circ`, `{\circ}` or `°` after a `^`, if that is what stands there.
    fn degree_follows(&mut self) -> bool {
        let rest: String = self.chars[self.at..].iter().take(12).collect();
        for degree in ["\\circ", "{\\circ}", "{ \\circ }", " \\circ", "\\degree", "{\\degree}", "°"] {
            let word_ends = !rest.chars().nth(degree.chars().count()).is_some_and(char::is_alphabetic);
            if rest.starts_with(degree) && (word_ends || degree.ends_with('}')) {
                self.at += degree.chars().count();
                return true;
            }
        }
        false
    }

    fn command(&mut self) {
        let start = self.at + 1;
        let mut end = start;
        while self.chars.get(end).is_some_and(char::is_ascii_alphabetic) {
            end += 1;
        }
        if end == start {
            let c = self.chars.get(start).copied();
            self.at = (start + 1).min(self.chars.len());
            match c {
                Some('{') => self.push(Kind::Open('S')),
                Some('}') => self.push(Kind::Close('S')),
                Some('\\') => self.push(Kind::Row),
                Some('|') => self.push(Kind::Sign('|')),
                Some(' ' | ',' | ';' | ':' | '>') => self.space = true,
                // `\!`, `\$`, `\%`, and the delimiters `\(`, `\)`, `\[`, `\]`.
                _ => {}
            }
            return;
        }
        let name: String = self.chars[start..end].iter().collect();
        self.at = end;
        match name.as_str() {
            n if TEXTS.contains(&n) => match self.group() {
                Some(content) => self.push(Kind::Text(content)),
                None => self.space = true,
            },
            n if FONTS.contains(&n) => self.font(),
            n if LOOKS.contains(&n) => self.space |= n.ends_with("quad"),
            "dfrac" | "tfrac" | "cfrac" => self.push(Kind::Command("frac".into())),
            "dbinom" | "tbinom" => self.push(Kind::Command("binom".into())),
            "cdot" | "times" | "ast" => self.push(Kind::Sign('*')),
            "div" => self.push(Kind::Sign('/')),
            "le" | "leq" | "leqslant" => self.push(Kind::Sign('≤')),
            "ge" | "geq" | "geqslant" => self.push(Kind::Sign('≥')),
            "lt" => self.push(Kind::Sign('<')),
            "gt" => self.push(Kind::Sign('>')),
            "ne" | "neq" => self.push(Kind::Sign('≠')),
            "approx" => self.push(Kind::Sign('≈')),
            "in" => self.push(Kind::Sign('∈')),
            "cup" => self.push(Kind::Sign('∪')),
            "cap" => self.push(Kind::Sign('∩')),
            "lbrace" => self.push(Kind::Open('S')),
            "rbrace" => self.push(Kind::Close('S')),
            "lbrack" => self.push(Kind::Open('[')),
            "rbrack" => self.push(Kind::Close(']')),
            "langle" => self.push(Kind::Open('<')),
            "rangle" => self.push(Kind::Close('<')),
            "vert" | "lvert" | "rvert" | "mid" => self.push(Kind::Sign('|')),
            "colon" => self.push(Kind::Sign(':')),
            "varnothing" => self.push(Kind::Command("emptyset".into())),
            "prime" => self.push(Kind::Sign('\'')),
            "begin" => {
                let environment = self.group().unwrap_or_default();
                if environment == "array" {
                    // Its column specification.
                    self.group();
                }
                self.push(Kind::Begin(environment));
            }
            "end" => {
                self.group();
                self.push(Kind::End);
            }
            _ => self.push(Kind::Command(name)),
        }
    }

    /// The raw content of a `{…}` that comes next.
    fn group(&mut self) -> Option<String> {
        let mut open = self.at;
        while self.chars.get(open) == Some(&' ') {
            open += 1;
        }
        if self.chars.get(open) != Some(&'{') {
            return None;
        }
        let mut depth = 0i32;
        for end in open..self.chars.len() {
            let escaped = self.chars[end - 1] == '\\';
            match self.chars[end] {
                '{' if !escaped => depth += 1,
                '}' if !escaped => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.at = end + 1;
                return Some(self.chars[open + 1..end].iter().collect());
            }
        }
        None
    }

    /// `\mathrm{cm}` is a text, `\mathbf{v}` and `\boxed{…}` are what they hold.
    fn font(&mut self) {
        let start = self.at;
        let Some(content) = self.group() else { return };
        let words = content.trim();
        let unit = |c: char| c.is_alphabetic() || [' ', '/', '.'].contains(&c);
        if words.chars().count() > 1 && words.starts_with(char::is_alphabetic) && words.chars().all(unit) {
            self.push(Kind::Text(content));
        } else {
            // Read again, as a group.
            self.at = start;
        }
    }

    fn digits(&self, from: usize) -> usize {
        self.chars.iter().skip(from).take_while(|c| c.is_ascii_digit()).count()
    }

    /// The length of a separator of thousands at `self.at`, if exactly three digits follow it.
    fn separator(&self, grouped: Option<&'static str>) -> Option<&'static str> {
        let rest: String = self.chars[self.at..].iter().take(8).collect();
        // Plain ones are separators outside brackets only: (1,234) is a pair.
        let plain: &[&str] = if self.depth == 0 { &[",", " "] } else { &[] };
        let known = ["{,}", ",\\!\\!", ",\\! ", ",\\!", "\\,", "{,}\\!"];
        known
            .iter()
            .chain(plain)
            .copied()
            .filter(|s| grouped.is_none_or(|g| g == *s) && rest.starts_with(s))
            .find(|s| self.digits(self.at + s.chars().count()) == 3)
    }

    fn number(&mut self) {
        let head = self.digits(self.at);
        let mut whole: String = self.chars[self.at..self.at + head].iter().collect();
        let start = self.at;
        self.at += head;
        if (1..=3).contains(&head) && self.chars[start] != '0' {
            let first = self.separator(None);
            while let Some(s) = first.and_then(|_| self.separator(first)) {
                let from = self.at + s.chars().count();
                whole.extend(&self.chars[from..from + 3]);
                self.at = from + 3;
            }
        }
        let (mut decimals, mut repeating) = (String::new(), String::new());
        if self.peek(0) == Some('.') {
            let count = self.digits(self.at + 1);
            let overline: String = self.chars[self.at + 1 + count..].iter().take(10).collect();
            if count > 0 || overline == "\\overline{" {
                decimals = self.chars[self.at + 1..self.at + 1 + count].iter().collect();
                self.at += 1 + count;
                repeating = self.repeating();
            } else if self.peek(1) != Some('.') {
                // A full stop.
                self.at += 1;
            }
        }
        let exponent = self.exponent();
        match value(&whole, &decimals, &repeating, exponent) {
            Some(value) => self.push(Kind::Number(value)),
            None => {
                let mut text = whole.trim_start_matches('0').to_string();
                if !decimals.is_empty() {
                    text = format!("{text}.{}", decimals.trim_end_matches('0'));
                }
                if exponent != 0 {
                    text = format!("{text}e{exponent}");
                }
                self.push(Kind::Digits(text));
            }
        }
    }

    /// The digits in `\overline{…}`.
    fn repeating(&mut self) -> String {
        let rest: String = self.chars[self.at..].iter().take(10).collect();
        if rest != "\\overline{" {
            return String::new();
        }
        let count = self.digits(self.at + 10);
        if count == 0 || self.chars.get(self.at + 10 + count) != Some(&'}') {
            return String::new();
        }
        let digits = self.chars[self.at + 10..self.at + 10 + count].iter().collect();
        self.at += 11 + count;
        digits
    }

    /// `e-3` and the like, not followed by more of a word.
    fn exponent(&mut self) -> i32 {
        if !matches!(self.peek(0), Some('e' | 'E')) {
            return 0;
        }
        let signed = matches!(self.peek(1), Some('+' | '-'));
        let from = self.at + 1 + usize::from(signed);
        let count = self.digits(from);
        let end = from + count;
        if !(1..=3).contains(&count) || self.chars.get(end).is_some_and(|c| c.is_alphanumeric()) {
            return 0;
        }
        let size: i32 = self.chars[from..end].iter().collect::<String>().parse().unwrap_or(0);
        let size = if self.peek(1) == Some('-') { -size } else { size };
        self.at = end;
        size
    }
}

/// The exact value of a decimal; `None` if it doesn't fit.
fn value(whole: &str, decimals: &str, repeating: &str, exponent: i32) -> Option<Rational> {
    let parse = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let places = i32::try_from(decimals.len()).ok()?;
    let mut out = Rational::whole(parse(&format!("{whole}{decimals}"))?);
    if !repeating.is_empty() {
        let nines = 10i128.checked_pow(u32::try_from(repeating.len()).ok()?)? - 1;
        out = out.plus(Rational::new(parse(repeating)?, nines)?)?;
    }
    out.times(Rational::whole(10).power(exponent.checked_sub(places)?)?)
}
