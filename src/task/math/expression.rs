//! Expressions: from tokens to a [`Value`] by recursive descent, with bounded nesting and work.

use super::rational::Rational;
use super::sum::Budget;
use super::token::{Kind, Token};
use super::value::Value;

/// Deepest nesting.
const MAX_DEPTH: usize = 40;

/// Functions that are applied to what follows and not evaluated.
const FUNCTIONS: [&str; 24] = [
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log",
    "ln", "lg", "exp", "gcd", "lcm", "det", "arg", "deg", "max", "min", "cis",
];

/// Commands that are names of constants or variables.
const NAMES: [&str; 34] = [
    "pi",
    "infty",
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "vartheta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Sigma",
    "Phi",
    "Omega",
];

/// Whether letters are a product of variables rather than a word: one letter, two that are no known word, three without a vowel or in the
/// order of the alphabet, four and more in that order.
pub fn is_product(word: &str) -> bool {
    let letters: Vec<u32> = word.chars().map(u32::from).collect();
    let in_order = letters.windows(2).all(|w| w[0] + 1 == w[1]);
    match letters.len() {
        0 | 1 => true,
        2 => !["no", "up", "or", "of", "is", "to", "in", "we", "cm", "mm", "km", "ft", "kg"]
            .contains(&word.to_lowercase().as_str()),
        3 => in_order || !word.contains(['a', 'e', 'i', 'o', 'u', 'y', 'A', 'E', 'I', 'O', 'U', 'Y']),
        _ => in_order,
    }
}

/// Whether a word is a function's or a constant's name.
pub fn is_known(word: &str) -> bool {
    FUNCTIONS.contains(&word)
        || ["sqrt", "root", "abs", "floor", "ceil", "binom", "factorial", "pi", "inf", "infty", "infinity"]
            .contains(&word)
}

/// The value of all tokens as one expression; `None` if they are not one. `plus` is the sign that `\pm` stands for.
pub fn value(tokens: &[Token], plus: bool, budget: &Budget) -> Option<Value> {
    let mut parser = Parser { tokens, at: 0, letter: 0, depth: 0, bars: 0, plus, budget };
    let value = parser.sum()?;
    (parser.at == tokens.len()).then_some(value)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Letters of the present word that are read already.
    letter: usize,
    depth: usize,
    /// Open absolute values.
    bars: usize,
    plus: bool,
    budget: &'a Budget,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Kind> {
        self.tokens.get(self.at).map(|t| &t.kind)
    }

    fn eat(&mut self, kind: &Kind) -> Option<()> {
        (self.peek() == Some(kind)).then(|| self.at += 1)
    }

    fn sum(&mut self) -> Option<Value> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut total: Option<Value> = None;
        while let Some(negative) = self.sign().or(total.is_none().then_some(false)) {
            let mut term = self.product()?;
            if negative {
                term = term.negated()?;
            }
            total = Some(match total {
                Some(total) => total.plus(&term, self.budget)?,
                None => term,
            });
        }
        self.depth -= 1;
        total
    }

    /// Takes `+`, `-`, `\pm` or `\mp`; whether it is negative.
    fn sign(&mut self) -> Option<bool> {
        let negative = match self.peek()? {
            Kind::Sign('+') => false,
            Kind::Sign('-') => true,
            Kind::Command(name) if name == "pm" => !self.plus,
            Kind::Command(name) if name == "mp" => self.plus,
            _ => return None,
        };
        self.at += 1;
        Some(negative)
    }

    fn product(&mut self) -> Option<Value> {
        let mut total = self.signed()?;
        loop {
            self.budget.spend(1)?;
            match self.peek() {
                Some(Kind::Sign('*')) => {
                    self.at += 1;
                    total = total.times(&self.signed()?, self.budget)?;
                }
                Some(Kind::Sign('/')) => {
                    self.at += 1;
                    total = total.over(&self.signed()?, self.budget)?;
                }
                Some(kind) if self.starts_factor(kind) => total = total.times(&self.power()?, self.budget)?,
                _ => return Some(total),
            }
        }
    }

    /// Whether a factor may start here without a sign for multiplication. A number may not: `x 2` means nothing.
    fn starts_factor(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Word(_) | Kind::Open('(' | '{' | '[') => true,
            Kind::Command(name) => {
                NAMES.contains(&name.as_str())
                    || FUNCTIONS.contains(&name.as_str())
                    || ["frac", "sqrt", "binom", "lfloor", "lceil"].contains(&name.as_str())
            }
            Kind::Sign('|') => self.bars == 0,
            _ => false,
        }
    }

    fn signed(&mut self) -> Option<Value> {
        match self.sign() {
            Some(true) => self.power()?.negated(),
            _ => self.power(),
        }
    }

    /// A factor with what is written after it: factorials and exponents.
    fn power(&mut self) -> Option<Value> {
        let mut base = self.primary()?;
        loop {
            match self.peek() {
                Some(Kind::Sign('!')) => {
                    self.at += 1;
                    base = base.factorial()?;
                }
                Some(Kind::Sign('^')) if self.letter == 0 => {
                    self.at += 1;
                    let exponent = self.exponent()?;
                    base = base.power(&exponent, self.budget)?;
                }
                _ => return Some(base),
            }
        }
    }

    /// What stands after `^`: a group, else one signed number, letter or function.
    fn exponent(&mut self) -> Option<Value> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let negative = self.sign().unwrap_or(false);
        let value = self.primary()?;
        self.depth -= 1;
        if negative { value.negated() } else { Some(value) }
    }

    fn primary(&mut self) -> Option<Value> {
        self.budget.spend(1)?;
        let kind = self.peek()?;
        match kind {
            Kind::Number(number) => {
                let number = *number;
                self.at += 1;
                self.number(number)
            }
            Kind::Digits(digits) => {
                self.at += 1;
                Some(Value::name(digits.clone()))
            }
            Kind::Word(word) => self.word(word),
            Kind::Open('(') => self.inside(Kind::Close(')')),
            Kind::Open('[') => self.inside(Kind::Close(']')),
            Kind::Open('{') => self.inside(Kind::Close('}')),
            Kind::Sign('|') => {
                self.at += 1;
                self.bars += 1;
                let value = self.sum()?;
                self.bars -= 1;
                self.eat(&Kind::Sign('|'))?;
                value.rounded("abs")
            }
            Kind::Command(name) => {
                self.at += 1;
                self.command(name)
            }
            _ => None,
        }
    }

    fn inside(&mut self, close: Kind) -> Option<Value> {
        self.at += 1;
        let bars = std::mem::take(&mut self.bars);
        let value = self.sum()?;
        self.bars = bars;
        self.eat(&close)?;
        Some(value)
    }

    /// A number just read, with its base (`42_7`) or the fraction of a mixed number after it.
    fn number(&mut self, number: Rational) -> Option<Value> {
        if self.peek() == Some(&Kind::Sign('_')) {
            let base = self.subscript()?;
            return Some(Value::name(format!("{}_{base}", number.as_whole()?)));
        }
        if number.as_whole().is_some()
            && let Some((fraction, length)) = self.fraction()
        {
            self.at += length;
            return Some(Value::number(number.plus(fraction)?));
        }
        Some(Value::number(number))
    }

    /// A proper fraction of whole numbers at the present place, `\frac{1}{2}` or ` 1/2`, and how many tokens it has.
    fn fraction(&self) -> Option<(Rational, usize)> {
        let whole = |ahead: usize| match self.tokens.get(self.at + ahead).map(|t| &t.kind) {
            Some(Kind::Number(n)) => n.as_whole(),
            _ => None,
        };
        let is =
            |ahead: usize, kind: &Kind| self.tokens.get(self.at + ahead).is_some_and(|t| t.kind == *kind);
        let grouped = |ahead: usize| {
            (is(ahead, &Kind::Open('{')) && is(ahead + 2, &Kind::Close('}')))
                .then(|| whole(ahead + 1))
                .flatten()
        };
        let (top, bottom, length) = if is(0, &Kind::Command("frac".into())) {
            match (grouped(1), grouped(4)) {
                (Some(top), Some(bottom)) => (top, bottom, 7),
                _ => {
                    // `\frac12` is one number to the reader.
                    let both = whole(1).filter(|n| (10..100).contains(n))?;
                    (both / 10, both % 10, 2)
                }
            }
        } else {
            let spaced = self.tokens.get(self.at).is_some_and(|t| t.space) && is(1, &Kind::Sign('/'));
            (whole(0).filter(|_| spaced)?, whole(2)?, 3)
        };
        let proper = 0 < top && top < bottom;
        if proper { Some((Rational::new(top, bottom)?, length)) } else { None }
    }

    /// What stands after `_`, as text.
    fn subscript(&mut self) -> Option<String> {
        self.eat(&Kind::Sign('_'))?;
        let grouped = self.eat(&Kind::Open('{')).is_some();
        let mut text = String::new();
        loop {
            match self.peek()? {
                Kind::Number(n) => text.push_str(&n.as_whole()?.to_string()),
                Kind::Word(w) | Kind::Text(w) => text.extend(w.chars().filter(|c| c.is_alphanumeric())),
                _ => return None,
            }
            self.at += 1;
            if !grouped || self.eat(&Kind::Close('}')).is_some() {
                return Some(if text.chars().count() > 1 { format!("{{{text}}}") } else { text });
            }
        }
    }

    /// The next letter of a word, or the function that the word names.
    fn word(&mut self, word: &str) -> Option<Value> {
        if self.letter == 0 && is_known(word) {
            self.at += 1;
            return match word {
                "inf" | "infinity" => Some(Value::name("∞")),
                _ => self.command(word),
            };
        }
        let letters: Vec<char> = word.chars().collect();
        let attached = letters.len() <= 3 && self.tokens.len() > 1 && !self.tokens[self.at].space;
        if self.letter == 0 && !is_product(word) && !attached {
            return None;
        }
        let letter = letters[self.letter];
        self.letter += 1;
        if self.letter == letters.len() {
            (self.letter, self.at) = (0, self.at + 1);
        }
        let mut name = letter.to_string();
        if self.letter == 0 && self.peek() == Some(&Kind::Sign('_')) {
            name = format!("{name}_{}", self.subscript()?);
        }
        Some(match name.as_str() {
            "∞" => Value::name("∞"),
            "i" => Value::imaginary(),
            _ => Value::name(name),
        })
    }

    fn command(&mut self, name: &str) -> Option<Value> {
        match name {
            "infty" => Some(Value::name("∞")),
            "pi" => Some(Value::name("pi")),
            "frac" => {
                let (top, bottom) = self.two_arguments()?;
                top.over(&bottom, self.budget)
            }
            "binom" => {
                if self.eat(&Kind::Open('(')).is_some() {
                    let (n, k) = self.pair()?;
                    return n.choose(&k);
                }
                let (n, k) = self.two_arguments()?;
                n.choose(&k)
            }
            "root" => {
                self.eat(&Kind::Open('('))?;
                let (degree, value) = self.pair()?;
                self.root(&value, &degree)
            }
            "sqrt" => {
                let mut degree = Value::number(Rational::whole(2));
                if self.peek() == Some(&Kind::Open('[')) {
                    degree = self.inside(Kind::Close(']'))?;
                }
                let value = self.argument()?;
                self.root(&value, &degree)
            }
            "lfloor" | "lceil" => {
                let (close, function) =
                    if name == "lfloor" { ("rfloor", "floor") } else { ("rceil", "ceil") };
                let value = self.sum()?;
                self.eat(&Kind::Command(close.into()))?;
                value.rounded(function)
            }
            "abs" | "floor" | "ceil" => self.argument()?.rounded(name),
            "factorial" => self.argument()?.factorial(),
            name if FUNCTIONS.contains(&name) => self.function(name),
            name if NAMES.contains(&name) => {
                let name = format!("\\{name}");
                let subscript =
                    if self.peek() == Some(&Kind::Sign('_')) { Some(self.subscript()?) } else { None };
                Some(Value::name(subscript.map_or(name.clone(), |s| format!("{name}_{s}"))))
            }
            _ => None,
        }
    }

    /// `a;b)`
    fn pair(&mut self) -> Option<(Value, Value)> {
        let first = self.sum()?;
        self.eat(&Kind::Sign(';'))?;
        let second = self.sum()?;
        self.eat(&Kind::Close(')'))?;
        Some((first, second))
    }

    fn root(&self, value: &Value, degree: &Value) -> Option<Value> {
        let degree = degree.as_whole().filter(|d| (2..=12).contains(d))?;
        value.root(degree, self.budget)
    }

    /// A group, else one token: `\sqrt2`, `\sqrt x`.
    fn argument(&mut self) -> Option<Value> {
        match self.peek()? {
            Kind::Open(_) | Kind::Command(_) | Kind::Word(_) => self.primary(),
            Kind::Number(n) => {
                let n = *n;
                self.at += 1;
                Some(Value::number(n))
            }
            _ => None,
        }
    }

    /// `{a}{b}`, `12` for 1 and 2, `1{b}`, `{a}2`.
    fn two_arguments(&mut self) -> Option<(Value, Value)> {
        if let Some(Kind::Number(n)) = self.peek()
            && let Some(both) = n.as_whole().filter(|n| (10..100).contains(n))
            && !matches!(self.tokens.get(self.at + 1).map(|t| &t.kind), Some(Kind::Open('{')))
        {
            self.at += 1;
            let digit = |d: i128| Value::number(Rational::whole(d));
            return Some((digit(both / 10), digit(both % 10)));
        }
        let first = self.argument()?;
        Some((first, self.argument()?))
    }

    /// A function with its exponent or base and what it is applied to: what is in brackets, else the product that follows.
    fn function(&mut self, name: &str) -> Option<Value> {
        let base = if self.peek() == Some(&Kind::Sign('_')) {
            let base = self.subscript()?;
            // The decimal logarithm is the one without a base.
            if name == "log" && base == "{10}" { String::new() } else { format!("_{base}") }
        } else {
            String::new()
        };
        let exponent = match self.eat(&Kind::Sign('^')) {
            Some(()) => Some(self.exponent()?),
            None => None,
        };
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let argument = if matches!(self.peek()?, Kind::Open('(' | '{')) {
            self.primary()?
        } else {
            let mut total = self.power()?;
            while let Some(kind) = self.peek() {
                let is_function = match kind {
                    Kind::Command(name) | Kind::Word(name) => FUNCTIONS.contains(&name.as_str()),
                    Kind::Open(_) => true,
                    _ => false,
                };
                if is_function || !self.starts_factor(kind) {
                    break;
                }
                total = total.times(&self.power()?, self.budget)?;
            }
            total
        };
        self.depth -= 1;
        if name == "exp" {
            return Value::name("e").power(&argument, self.budget);
        }
        let name = if name == "lg" { "log" } else { name };
        let value = argument.applied(&format!("{name}{base}"))?;
        match exponent {
            Some(exponent) => value.power(&exponent, self.budget),
            None => Some(value),
        }
    }
}
