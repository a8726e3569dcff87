//! Expressions: from tokens to a [`Value`] by recursive descent, with bounded nesting and work.

use super::rational::Rational;
use super::sum::Budget;
use super::token::{Kind, Token};
use super::value::Value;

/// Deepest nesting.
const MAX_DEPTH: usize = 40;

/// Functions that are applied to what follows and not evaluated.
const FUNCTIONS: [&str; 42] = [
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc",
    "sinh", "cosh", "tanh", "coth", "sech", "csch", "arcsinh", "arccosh", "arctanh", "asin", "acos", "atan",
    "asinh", "acosh", "atanh", "arsinh", "arcosh", "artanh", "log", "ln", "lg", "exp", "gcd", "lcm", "det",
    "arg", "deg", "max", "min", "cis",
];
/// Functions of which `f^{-1}` is the inverse function, not the reciprocal.
const TRIGONOMETRIC: [&str; 12] =
    ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch"];
/// Other spellings of functions.
const SPELLINGS: [(&str, &str); 10] = [
    ("asin", "arcsin"),
    ("acos", "arccos"),
    ("atan", "arctan"),
    ("asinh", "arcsinh"),
    ("acosh", "arccosh"),
    ("atanh", "arctanh"),
    ("arsinh", "arcsinh"),
    ("arcosh", "arccosh"),
    ("artanh", "arctanh"),
    ("lg", "log"),
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

/// Whether letters are a product of variables rather than a word: one letter, two that are no known
/// word, three without a vowel or in the order of the alphabet, four and more in that order.
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

/// The value of all tokens as one expression; `None` if they are not one. Bit k of `minus` says
/// whether the k-th `\pm` stands for a minus, and `\mp` for a plus; if there is a `\mp`, all go
/// together.
pub fn value(tokens: &[Token], minus: u32, budget: &Budget) -> Option<Value> {
    let together = tokens.iter().any(|t| t.is_command("mp"));
    let mut parser =
        Parser { tokens, at: 0, letter: 0, depth: 0, bars: 0, minus, together, signs: 0, budget };
    let value = parser.choice()?;
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
    minus: u32,
    together: bool,
    /// How many `\pm` were read.
    signs: u32,
    budget: &'a Budget,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Kind> {
        self.tokens.get(self.at).map(|t| &t.kind)
    }

    fn eat(&mut self, kind: &Kind) -> Option<()> {
        (self.peek() == Some(kind)).then(|| self.at += 1)
    }

    /// A sum; or `n \choose k` and `a \over b`, which take all that stands before and after them.
    fn choice(&mut self) -> Option<Value> {
        let first = self.sum()?;
        match self.peek() {
            Some(Kind::Command(name)) if name == "choose" || name == "over" => {
                self.at += 1;
                let second = self.sum()?;
                if name == "over" {
                    first.over(&second, self.budget)
                } else {
                    first.choose(&second, self.budget)
                }
            }
            _ => Some(first),
        }
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
            Kind::Command(name) if name == "pm" || name == "mp" => {
                let at = if self.together { 0 } else { self.signs };
                self.signs += 1;
                (self.minus >> at.min(31) & 1 == 1) == (name == "pm")
            }
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
                Some(kind) if self.starts_factor(kind) || self.is_power_after_power() => {
                    total = total.times(&self.power()?, self.budget)?
                }
                _ => return Some(total),
            }
        }
    }

    /// Whether a factor may start here without a sign for multiplication. A number may not: `x 2`
    /// means nothing.
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

    /// `2^n 3^n`, `50! 50!`: a number starts a factor if it has a power of its own, and no number
    /// stands before it.
    fn is_power_after_power(&self) -> bool {
        let kind = |at: usize| self.tokens.get(at).map(|t| &t.kind);
        matches!(kind(self.at), Some(Kind::Number(_)))
            && matches!(kind(self.at + 1), Some(Kind::Sign('^' | '!')))
            && self.at > 0
            && matches!(kind(self.at - 1), Some(Kind::Close(_) | Kind::Word(_) | Kind::Sign('!')))
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
                    // `n!!` is no factorial of a factorial, and not known here.
                    if self.peek() == Some(&Kind::Sign('!')) {
                        return None;
                    }
                    base = base.factorial(self.budget)?;
                }
                Some(Kind::Sign('^')) if self.letter == 0 => {
                    self.at += 1;
                    let start = self.at;
                    let exponent = self.exponent()?;
                    if self.is_inverse_function(start, &exponent) {
                        return None;
                    }
                    base = base.power(&exponent, self.budget)?;
                }
                _ => return Some(base),
            }
        }
    }

    /// Whether what was just read is the inverse of a function, `f^{-1}(x)`, which is no
    /// reciprocal.
    fn is_inverse_function(&self, start: usize, exponent: &Value) -> bool {
        let function = start >= 2
            && matches!(&self.tokens[start - 2].kind, Kind::Word(w) if ["f", "g", "h"].contains(&w.as_str()));
        function && exponent.as_whole() == Some(-1) && self.peek() == Some(&Kind::Open('('))
    }

    /// What stands after `^`: a group, else one signed number, letter or function.
    fn exponent(&mut self) -> Option<Value> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let negative = self.sign().unwrap_or(false);
        let mut value = self.primary()?;
        // `2^3^2` is `2^{3^2}`.
        if self.letter == 0 && self.eat(&Kind::Sign('^')).is_some() {
            value = value.power(&self.exponent()?, self.budget)?;
        }
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
                self.digits(digits)
            }
            Kind::Based(digits, base) => {
                self.at += 1;
                let base = if *base < 10 { base.to_string() } else { format!("{{{base}}}") };
                Some(Value::name(format!("{digits}_{base}")))
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
                value.absolute(self.budget)
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
        let value = if close == Kind::Close('}') { self.choice()? } else { self.sum()? };
        self.bars = bars;
        self.eat(&close)?;
        Some(value)
    }

    /// A number just read, with its base (`42_7`) or the fraction of a mixed number after it.
    fn number(&mut self, number: Rational) -> Option<Value> {
        if self.peek() == Some(&Kind::Sign('_')) {
            let raw = self.tokens[self.at - 1].raw.clone();
            let base = self.subscript()?;
            return Some(Value::name(format!("{raw}_{base}")));
        }
        if number.as_whole().is_some()
            && let Some((fraction, length)) = self.fraction()
        {
            self.at += length;
            return Some(Value::number(number.plus(fraction)?));
        }
        Some(Value::number(number))
    }

    /// Digits that don't fit 128 bits, perhaps with decimals and an exponent.
    fn digits(&self, digits: &str) -> Option<Value> {
        let (number, exponent) = digits.split_once('e').unwrap_or((digits, "0"));
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        if decimals.contains('(') || whole.contains('(') {
            return Some(Value::name(format!("‹{digits}›")));
        }
        let places = i128::try_from(decimals.len()).ok()?;
        let exponent = exponent.parse::<i128>().ok()?.checked_sub(places)?;
        let ten = Value::number(Rational::whole(10));
        let power = ten.power(&Value::number(Rational::whole(exponent)), self.budget)?;
        Value::literal(&format!("{whole}{decimals}"), self.budget)?.times(&power, self.budget)
    }

    /// A proper fraction of whole numbers at the present place, `\frac{1}{2}` or ` 1/2`, and how
    /// many tokens it has.
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
        if self.letter == 0 && ["f", "g", "h"].contains(&word) && self.opens_argument() {
            // A function that is not known, of its argument.
            self.at += 1;
            let argument = self.inside(Kind::Close(')'))?;
            return argument.applied(word);
        }
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

    /// Whether `(` stands right after the present token.
    fn opens_argument(&self) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|t| t.kind == Kind::Open('(') && !t.space)
    }

    fn command(&mut self, name: &str) -> Option<Value> {
        match name {
            "infty" => Some(Value::name("∞")),
            "pi" => Some(Value::name("pi")),
            "frac" => {
                if let Some(name) = self.derivative() {
                    return Some(name);
                }
                let (top, bottom) = self.two_arguments()?;
                top.over(&bottom, self.budget)
            }
            "binom" => {
                if self.eat(&Kind::Open('(')).is_some() {
                    let (n, k) = self.pair()?;
                    return n.choose(&k, self.budget);
                }
                let (n, k) = self.two_arguments()?;
                n.choose(&k, self.budget)
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
            "abs" => self.argument()?.absolute(self.budget),
            "floor" | "ceil" => self.argument()?.rounded(name),
            "factorial" => self.argument()?.factorial(self.budget),
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

    /// `{dy}{dx}` and `{d}{dx}` are no quotients of products: a name, with their tokens taken.
    fn derivative(&mut self) -> Option<Value> {
        let part = |at: usize| {
            let text = |t: &Token| match &t.kind {
                Kind::Word(w) => Some(w.clone()),
                Kind::Command(c) => Some(format!("\\{c} ")),
                _ => None,
            };
            let rest = self.tokens.get(at..)?;
            let end = rest.iter().take(4).position(|t| t.kind == Kind::Close('}'))?;
            let inside = rest.get(1..end).filter(|_| rest[0].kind == Kind::Open('{'))?;
            let written = inside.iter().map(text).collect::<Option<String>>()?;
            let differential = written.starts_with('d') || written.starts_with("\\partial");
            differential.then_some((written, at + end + 1))
        };
        let (top, at) = part(self.at)?;
        let (bottom, at) = part(at)?;
        if bottom == "d" || bottom == "\\partial " {
            return None;
        }
        self.at = at;
        Some(Value::name(format!("\\frac{{{}}}{{{}}}", top.trim(), bottom.trim())))
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

    /// A function with its exponent or base and what it is applied to: what is in brackets, else
    /// the product that follows.
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
        let inverse =
            exponent.as_ref().and_then(Value::as_whole) == Some(-1) && TRIGONOMETRIC.contains(&name);
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
        let name = SPELLINGS.iter().find(|(other, _)| *other == name).map_or(name, |(_, name)| name);
        if inverse {
            return argument.applied(&format!("arc{name}{base}"));
        }
        let value = argument.applied(&format!("{name}{base}"))?;
        match exponent {
            Some(exponent) => value.power(&exponent, self.budget),
            None => Some(value),
        }
    }
}
