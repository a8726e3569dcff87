//! From an answer as written to tokens, without what only concerns its looks: `\left`, spacing,
//! fonts, colours, `$`, degree and percent signs. Commands are in `command.rs`, numbers in
//! `digits.rs`.

use super::rational::Rational;

/// What an answer is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A number, its decimals exact.
    Number(Rational),
    /// Digits of a number that is too long for a [`Rational`].
    Digits(String),
    /// A number in another base: its digits in upper case, and the base.
    Based(String, u32),
    /// A run of letters.
    Word(String),
    /// The content of `\text{…}` and its like.
    Text(String),
    /// What was once found to be text, between `‹` and `›`.
    Opaque(String),
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

/// A token, and how it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// White space, or a command for it, before it.
    pub space: bool,
    /// The characters of a number.
    pub raw: String,
}

impl Token {
    /// Whether it is this sign.
    pub fn is(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }

    /// Whether it is this command.
    pub fn is_command(&self, name: &str) -> bool {
        matches!(&self.kind, Kind::Command(c) if c == name)
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

/// Greek letters, with the commands that they are.
const GREEK: [(char, &str); 26] = [
    ('α', "alpha"),
    ('β', "beta"),
    ('γ', "gamma"),
    ('δ', "delta"),
    ('ε', "epsilon"),
    ('ζ', "zeta"),
    ('η', "eta"),
    ('θ', "theta"),
    ('κ', "kappa"),
    ('λ', "lambda"),
    ('μ', "mu"),
    ('ν', "nu"),
    ('ξ', "xi"),
    ('π', "pi"),
    ('ρ', "rho"),
    ('σ', "sigma"),
    ('τ', "tau"),
    ('φ', "phi"),
    ('χ', "chi"),
    ('ψ', "psi"),
    ('ω', "omega"),
    ('Γ', "Gamma"),
    ('Δ', "Delta"),
    ('Θ', "Theta"),
    ('Σ', "Sigma"),
    ('Ω', "Omega"),
];
/// Fractions that are one character.
const FRACTIONS: [(char, i128, i128); 18] = [
    ('½', 1, 2),
    ('⅓', 1, 3),
    ('⅔', 2, 3),
    ('¼', 1, 4),
    ('¾', 3, 4),
    ('⅕', 1, 5),
    ('⅖', 2, 5),
    ('⅗', 3, 5),
    ('⅘', 4, 5),
    ('⅙', 1, 6),
    ('⅚', 5, 6),
    ('⅐', 1, 7),
    ('⅛', 1, 8),
    ('⅜', 3, 8),
    ('⅝', 5, 8),
    ('⅞', 7, 8),
    ('⅑', 1, 9),
    ('⅒', 1, 10),
];
const SUPERSCRIPTS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
const SUBSCRIPTS: [char; 10] = ['₀', '₁', '₂', '₃', '₄', '₅', '₆', '₇', '₈', '₉'];

/// The tokens of an answer.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().map(plain).collect();
    let mut lexer = Lexer { chars: &chars, at: 0, space: false, depth: 0, looks: false, out: Vec::new() };
    while lexer.at < chars.len() {
        lexer.step();
    }
    lexer.out
}

/// One kind of minus, space, quote, comma and bracket.
fn plain(c: char) -> char {
    match c {
        '\u{2212}' | '\u{2013}' | '\u{fe63}' | '\u{ff0d}' => '-',
        '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{3000}' | '\n' | '\t' | '\r' => ' ',
        '\u{2019}' | '\u{2032}' => '\'',
        '\u{2033}' | '\u{201c}' | '\u{201d}' => '"',
        '×' | '·' | '⋅' | '∙' => '*',
        '÷' | '⁄' | '∕' => '/',
        '、' => ',',
        '。' => '.',
        '⩽' => '≤',
        '⩾' => '≥',
        '≃' => '≈',
        'ℕ' => 'N',
        'ℤ' => 'Z',
        'ℚ' => 'Q',
        'ℝ' => 'R',
        'ℂ' => 'C',
        '˚' | 'º' => '°',
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        c => c,
    }
}

pub(super) struct Lexer<'a> {
    pub(super) chars: &'a [char],
    pub(super) at: usize,
    pub(super) space: bool,
    /// Open brackets. Braces group, so they don't count, unless an answer starts with them, as a
    /// set without backslashes does.
    pub(super) depth: i32,
    /// Whether the braces that come next belong to a command for looks.
    pub(super) looks: bool,
    pub(super) out: Vec<Token>,
}

impl Lexer<'_> {
    pub(super) fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    pub(super) fn push(&mut self, kind: Kind) {
        let token = Token { kind, space: std::mem::take(&mut self.space), raw: String::new() };
        let groups = matches!(token.kind, Kind::Open('{') | Kind::Close('}'));
        let first = self.out.is_empty() && !std::mem::take(&mut self.looks);
        if !groups || first {
            self.depth += token.depth();
        }
        self.out.push(token);
    }

    /// A whole number that isn't written in digits of its own.
    fn push_whole(&mut self, n: i128) {
        self.push(Kind::Number(Rational::whole(n)));
        if let Some(token) = self.out.last_mut() {
            token.raw = n.to_string();
        }
    }

    /// Whether the token before is a number, so that a degree sign may follow.
    pub(super) fn is_after_number(&self) -> bool {
        self.out.last().is_some_and(|t| matches!(t.kind, Kind::Number(_) | Kind::Digits(_) | Kind::Close(_)))
    }

    fn step(&mut self) {
        let c = self.chars[self.at];
        let point = c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit());
        if (c.is_ascii_digit() || c.is_ascii_uppercase()) && self.based() {
            return;
        }
        if c.is_ascii_digit() || point {
            return self.number();
        }
        if c == '\\' {
            return self.command();
        }
        if let Some((_, name)) = GREEK.iter().find(|(letter, _)| *letter == c) {
            self.at += 1;
            return self.push(Kind::Command((*name).into()));
        }
        if let Some((_, top, bottom)) = FRACTIONS.iter().find(|(letter, ..)| *letter == c) {
            self.at += 1;
            return self.fraction(*top, *bottom);
        }
        if c.is_alphabetic() {
            let start = self.at;
            while self.peek(0).is_some_and(|c| c.is_alphabetic() && GREEK.iter().all(|(g, _)| *g != c)) {
                self.at += 1;
            }
            let word: String = self.chars[start..self.at].iter().collect();
            // `x=1orx=2`, but not `5oranges`.
            let name = |rest: &str| rest.chars().count() == 1 || rest.chars().all(char::is_uppercase);
            let glued = ["or", "and"]
                .into_iter()
                .find(|c| word.strip_prefix(c).is_some_and(|rest| !rest.is_empty() && name(rest)));
            if let Some(glued) = glued.filter(|_| self.is_after_number() && !self.space) {
                self.at = start + glued.len();
                return self.push(Kind::Word(glued.into()));
            }
            return self.push(Kind::Word(word));
        }
        if c == '‹'
            && let Some(length) = self.chars[self.at..].iter().position(|c| *c == '›')
        {
            let content = self.chars[self.at + 1..self.at + length].iter().collect();
            self.at += length + 1;
            return self.push(Kind::Opaque(content));
        }
        if self.script(&SUPERSCRIPTS, '^') || self.script(&SUBSCRIPTS, '_') {
            return;
        }
        self.at += 1;
        self.sign(c);
    }

    /// A character that is neither a digit nor a letter.
    fn sign(&mut self, c: char) {
        match c {
            ' ' | '~' => self.space = true,
            '°' | '%' => self.space = true,
            '$' | '€' | '£' | '¥' | '‹' | '›' | '`' => {}
            '*' if self.peek(0) == Some('*') => {
                // Bold in Markdown at either end, a power between.
                self.at += 1;
                if !self.out.is_empty() && self.at < self.chars.len() {
                    self.push(Kind::Sign('^'));
                }
            }
            '.' if self.peek(0) == Some('.') => {
                while self.peek(0) == Some('.') {
                    self.at += 1;
                }
                self.push(Kind::Command("dots".into()));
            }
            '…' => self.push(Kind::Command("dots".into())),
            '(' | '[' => self.push(Kind::Open(c)),
            ')' | ']' => self.push(Kind::Close(c)),
            '{' if self.chars[self.at..].starts_with(&[':', '}']) => {
                self.at += 2;
                self.push(Kind::Sign(':'));
            }
            '{' => self.push(Kind::Open('{')),
            '}' => self.push(Kind::Close('}')),
            '⟨' => self.push(Kind::Open('<')),
            '⟩' => self.push(Kind::Close('<')),
            '‖' => self.push(Kind::Sign('|')),
            '∞' => self.push(Kind::Command("infty".into())),
            '√' => self.push(Kind::Command("sqrt".into())),
            '∅' => self.push(Kind::Command("emptyset".into())),
            '±' => self.push(Kind::Command("pm".into())),
            '∓' => self.push(Kind::Command("mp".into())),
            '∘' if self.is_after_number() => self.space = true,
            '^' if self.degree_follows() || self.primes_follow() => {}
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

    fn fraction(&mut self, top: i128, bottom: i128) {
        self.push(Kind::Command("frac".into()));
        for n in [top, bottom] {
            self.push(Kind::Open('{'));
            self.push_whole(n);
            self.push(Kind::Close('}'));
        }
    }

    /// `x²` as `x^2`, `a₁` as `a_1`.
    fn script(&mut self, digits: &[char; 10], sign: char) -> bool {
        let digit = |c: char| digits.iter().position(|d| *d == c);
        let minus = usize::from(sign == '^' && self.peek(0) == Some('⁻'));
        let mut value: Option<i128> = None;
        let mut length = minus;
        while let Some(d) = self.peek(length).and_then(digit).filter(|_| length < 20) {
            value = Some(value.unwrap_or(0) * 10 + d as i128);
            length += 1;
        }
        let Some(value) = value else { return false };
        self.at += length;
        self.push(Kind::Sign(sign));
        if minus == 1 {
            self.push(Kind::Sign('-'));
        }
        self.push_whole(value);
        true
    }

    /// Reads the primes of `f^{\prime}` and `f^{\prime\prime}` as those of `f'` and `f''`.
    fn primes_follow(&mut self) -> bool {
        let (start, mut count, mut braces) = (self.at, 0, 0);
        loop {
            let rest = &self.chars[self.at..];
            let prime: Vec<char> = "\\prime".chars().collect();
            match rest.first() {
                Some(' ') => self.at += 1,
                Some('{') if braces == 0 && count == 0 => (self.at, braces) = (self.at + 1, 1),
                Some('\'') => (self.at, count) = (self.at + 1, count + 1),
                Some('\\') if rest.starts_with(&prime) => (self.at, count) = (self.at + 6, count + 1),
                Some('}') if braces == 1 && count > 0 => {
                    (self.at, braces) = (self.at + 1, 0);
                    break;
                }
                _ => break,
            }
        }
        if count == 0 || braces == 1 {
            self.at = start;
            return false;
        }
        for _ in 0..count {
            self.push(Kind::Sign('\''));
        }
        true
    }

    /// Skips a degree sign after a `^`, if that is what stands there: `\circ`, `{\circ}`, `°`,
    /// `\text{o}`.
    fn degree_follows(&mut self) -> bool {
        let rest: String = self.chars[self.at..].iter().filter(|c| **c != ' ').take(20).collect();
        let signs = ["\\circ", "\\degree", "\\deg", "°", "\\text{o}", "\\mathrm{o}", "\\text{°}", "o"];
        let after_number = self.is_after_number();
        for sign in signs {
            if sign.ends_with(['o', '}']) && !after_number {
                continue;
            }
            for (degree, braced) in [(sign.to_string(), false), (format!("{{{sign}}}"), true)] {
                let next = rest.chars().nth(degree.chars().count());
                let ends = braced || sign.ends_with('}') || !next.is_some_and(char::is_alphabetic);
                if rest.starts_with(&degree) && ends {
                    let mut left = degree.chars().count();
                    while left > 0 {
                        left -= usize::from(self.chars[self.at] != ' ');
                        self.at += 1;
                    }
                    self.space = true;
                    return true;
                }
            }
        }
        false
    }
}
