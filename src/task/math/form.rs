//! What an answer is around its expressions: lists, sets, tuples, intervals, unions, matrices, equations, inequalities, words.

use super::expression::{is_known, is_product, value};
use super::rational::Rational;
use super::sum::Budget;
use super::token::{Kind, Token, tokens};
use super::value::{Value, written};

/// Deepest nesting of brackets.
const MAX_BRACKETS: usize = 40;
/// Deepest nesting of forms, which brackets and texts in texts make.
const MAX_DEPTH: usize = 60;
/// Units that may follow a number without `\text`.
const UNITS: [&str; 30] = [
    "cm", "mm", "km", "kg", "mg", "ml", "mL", "ft", "in", "mi", "lb", "lbs", "oz", "hr", "hrs", "min",
    "mins", "sec", "mph", "yd", "sq", "am", "pm", "units", "unit", "square", "cubic", "degrees", "percent",
    "dollars",
];

/// The canonical text of an answer's tokens.
pub fn form(tokens: &[Token]) -> String {
    if !is_balanced(tokens) {
        return text(tokens);
    }
    Former { budget: Budget::new() }.form(tokens, 0)
}

struct Former {
    budget: Budget,
}

/// Which tokens separate.
type Accepts = fn(&Token) -> bool;

/// Where a list's elements are separated.
fn is_separator(token: &Token) -> bool {
    match &token.kind {
        Kind::Sign(',' | ';') => true,
        Kind::Word(w) => token.space && (w == "or" || w == "and"),
        Kind::Text(t) => matches!(t.trim().trim_matches(',').trim(), "or" | "and"),
        _ => false,
    }
}

/// Parts between the tokens outside brackets that `at` accepts, and those tokens.
fn split(tokens: &[Token], at: impl Fn(&Token) -> bool) -> (Vec<&[Token]>, Vec<&Token>) {
    let (mut parts, mut signs, mut depth, mut start) = (Vec::new(), Vec::new(), 0, 0);
    for (i, token) in tokens.iter().enumerate() {
        depth += token.depth();
        if depth == 0 && token.depth() == 0 && at(token) {
            parts.push(&tokens[start..i]);
            signs.push(token);
            start = i + 1;
        }
    }
    parts.push(&tokens[start..]);
    (parts, signs)
}

/// The kinds of the brackets, and what is inside, if the first token opens what the last one closes.
fn bracketed(tokens: &[Token]) -> Option<(char, char, &[Token])> {
    let (Kind::Open(open), Kind::Close(close)) = (&tokens.first()?.kind, &tokens.last()?.kind) else {
        return None;
    };
    let mut depth = 0;
    let ends = tokens.iter().position(|t| {
        depth += t.depth();
        depth == 0
    })?;
    (ends + 1 == tokens.len()).then(|| (*open, *close, &tokens[1..tokens.len() - 1]))
}

/// Whether every bracket is closed by one of its kind and none is too deep; `(` and `[` may close each other, as in intervals.
fn is_balanced(tokens: &[Token]) -> bool {
    let mut open = Vec::new();
    tokens.iter().all(|token| match &token.kind {
        Kind::Open(c) => {
            open.push(*c);
            open.len() <= MAX_BRACKETS
        }
        Kind::Begin(_) => {
            open.push('b');
            open.len() <= MAX_BRACKETS
        }
        Kind::End => open.pop() == Some('b'),
        Kind::Close(c) => match open.pop() {
            Some('(' | '[') => [')', ']'].contains(c),
            Some('{') => *c == '}',
            Some(other) => *c == other,
            None => false,
        },
        _ => true,
    }) && open.is_empty()
}

impl Former {
    fn form(&self, tokens: &[Token], depth: usize) -> String {
        let tokens = trimmed(tokens);
        if depth > MAX_DEPTH || self.budget.spend(1).is_none() {
            return text(tokens);
        }
        if let [Token { kind: Kind::Text(content), .. }] = tokens {
            return self.form(&super::token::tokens(content), depth + 1);
        }
        if matches!(tokens, [Token { kind: Kind::Command(c), .. }] if c == "emptyset") {
            return "{}".into();
        }
        if let Some(words) = words(tokens) {
            return words;
        }
        self.list(tokens, depth)
            .or_else(|| self.bracket(tokens, depth))
            .or_else(|| self.union(tokens, depth))
            .or_else(|| self.relation(tokens, depth).map(|(_, form)| form))
            .or_else(|| self.ratio(tokens, depth))
            .or_else(|| self.matrix(tokens, depth))
            .or_else(|| self.expression(tokens))
            .unwrap_or_else(|| text(tokens))
    }

    /// `1, 2`, `1 or 2`, `x = 1, x = 2`: a set. Where different names have values, they stay with them.
    fn list(&self, tokens: &[Token], depth: usize) -> Option<String> {
        let (parts, signs) = split(tokens, is_separator);
        (!signs.is_empty()).then(|| self.set(&parts, depth))
    }

    fn set(&self, parts: &[&[Token]], depth: usize) -> String {
        let parts: Vec<&[Token]> = parts.iter().map(|p| trimmed(p)).filter(|p| !p.is_empty()).collect();
        let read: Vec<(Option<String>, String)> = parts
            .iter()
            .map(|part| match self.relation(part, depth + 1) {
                Some(named) if !part.iter().any(is_separator) => named,
                _ => (None, self.form(part, depth + 1)),
            })
            .collect();
        let mut names: Vec<&String> = read.iter().filter_map(|(name, _)| name.as_ref()).collect();
        names.sort();
        names.dedup();
        let several = names.len() > 1;
        let mut items: Vec<String> = Vec::new();
        for (name, form) in &read {
            match name {
                Some(name) if several => items.push(format!("{name}={form}")),
                // The elements of a set in a set, as `\pm` makes them, are elements.
                _ => match form.strip_prefix('{').and_then(|f| f.strip_suffix('}')) {
                    Some(inner) if form.starts_with('{') => items.extend(elements(inner)),
                    _ => items.push(form.clone()),
                },
            }
        }
        as_set(items)
    }

    /// A set, a tuple, an interval; brackets around one thing are not part of it.
    fn bracket(&self, tokens: &[Token], depth: usize) -> Option<String> {
        let (open, close, inside) = bracketed(tokens)?;
        let (parts, signs) = split(inside, |t| matches!(t.kind, Kind::Sign(',' | ';')));
        match (open, close) {
            ('S', 'S') | ('{', '}') => {
                Some(if inside.is_empty() { "{}".into() } else { self.set(&parts, depth) })
            }
            ('<', '<') => Some(format!("<{}>", self.items(&parts, depth))),
            ('(' | '[', ')' | ']') if signs.is_empty() && (open == '(') == (close == ')') => {
                (!inside.is_empty()).then(|| self.form(inside, depth + 1))
            }
            ('(' | '[', ')' | ']') => Some(format!("{open}{}{close}", self.items(&parts, depth))),
            _ => None,
        }
    }

    fn items(&self, parts: &[&[Token]], depth: usize) -> String {
        parts.iter().map(|part| self.form(part, depth + 1)).collect::<Vec<_>>().join(",")
    }

    fn union(&self, tokens: &[Token], depth: usize) -> Option<String> {
        let (parts, signs) =
            split(tokens, |t| t.is('∪') || matches!(&t.kind, Kind::Word(w) if w == "U" && t.space));
        if signs.is_empty() || parts.iter().any(|p| p.is_empty()) {
            return None;
        }
        let mut parts: Vec<String> = parts.iter().map(|p| self.form(p, depth + 1)).collect();
        parts.sort();
        parts.dedup();
        Some(parts.join("∪"))
    }

    /// `x = 5` is 5, `x \in A` is A, `x < 5` is an interval, other equations and inequalities have 0 on their right. With the name that has
    /// the value, if one has.
    fn relation(&self, tokens: &[Token], depth: usize) -> Option<(Option<String>, String)> {
        let (parts, signs) =
            split(tokens, |t| matches!(t.kind, Kind::Sign('=' | '<' | '>' | '≤' | '≥' | '≠' | '≈' | '∈')));
        let (first, last) = (*parts.first()?, *parts.last()?);
        let signs: Vec<char> =
            signs.iter().filter_map(|t| if let Kind::Sign(c) = t.kind { Some(c) } else { None }).collect();
        if signs.is_empty() || last.is_empty() {
            return None;
        }
        let all = |set: &[char]| signs.iter().all(|s| set.contains(s));
        if signs == ['∈'] {
            return Some((None, self.form(last, depth + 1)));
        }
        if signs == ['≠'] {
            let (a, b) = (self.form(first, depth + 1), self.form(last, depth + 1));
            return (!first.is_empty()).then(|| (None, format!("{a}≠{b}")));
        }
        if all(&['=', '≈']) {
            let plain = |part: &[Token]| self.number_like(part);
            if first.is_empty() || is_name(first) || parts.iter().all(|p| plain(p)) {
                return Some((base_name(first), self.form(last, depth + 1)));
            }
            if is_name(last) && parts.len() == 2 && plain(first) {
                return Some((base_name(last), self.form(first, depth + 1)));
            }
            return (parts.len() == 2).then(|| self.equation(first, last)).flatten().map(|f| (None, f));
        }
        if parts.iter().any(|p| p.is_empty()) {
            return None;
        }
        if all(&['<', '≤']) {
            return self.inequality(&parts, &signs).map(|f| (None, f));
        }
        if all(&['>', '≥']) {
            let parts: Vec<&[Token]> = parts.iter().rev().copied().collect();
            let signs: Vec<char> = signs.iter().rev().map(|s| if *s == '>' { '<' } else { '≤' }).collect();
            return self.inequality(&parts, &signs).map(|f| (None, f));
        }
        None
    }

    fn number_like(&self, tokens: &[Token]) -> bool {
        self.value(tokens).is_some_and(|v| !v.has_names())
    }

    fn value(&self, tokens: &[Token]) -> Option<Value> {
        value(without_units(trimmed(tokens)), true, &self.budget)
    }

    /// `left = right` with everything on the left, whole coefficients, the leading one positive; the solution if there is one name to
    /// the power 1 and nothing else.
    fn equation(&self, left: &[Token], right: &[Token]) -> Option<String> {
        let difference = self.value(left)?.minus(&self.value(right)?, &self.budget)?;
        if !difference.is_whole_sum() {
            return Some(format!("{}=0", written(difference.numerator())?));
        }
        if let Some((_, solution, _)) = self.linear(&difference) {
            return solution.written();
        }
        let sum = difference.numerator();
        let mut scale = Rational::ONE.over(sum.content()?)?;
        if sum.leads_negative() {
            scale = scale.negated()?;
        }
        Some(format!("{}=0", written(&sum.scaled(scale)?)?))
    }

    /// Of `a x + b` with a rational `a` and no names in `b`: x, -b/a, and whether a is positive.
    fn linear(&self, value: &Value) -> Option<(String, Value, bool)> {
        let names = value.numerator().names();
        let name = names.first().filter(|_| names.len() == 1 && value.is_whole_sum())?;
        // Expressions that are not looked into are no unknowns.
        if !name.chars().all(|c| c.is_alphanumeric() || c == '_')
            || name == "pi"
            || name == "e"
            || name == "∞"
        {
            return None;
        }
        let terms = value.numerator().terms();
        let with: Vec<_> = terms.iter().filter(|(m, _)| m.names().next().is_some()).collect();
        let [(monomial, a)] = with.as_slice() else { return None };
        if monomial.powers().count() != 1 || monomial.names().next()?.1 != Rational::ONE {
            return None;
        }
        let x = Value::name(name.clone());
        let rest = value.minus(&x.times(&Value::number(*a), &self.budget)?, &self.budget)?;
        let solution = rest.negated()?.over(&Value::number(*a), &self.budget)?;
        Some((name.clone(), solution, !a.is_negative()))
    }

    /// A chain of `<` and `≤`.
    fn inequality(&self, parts: &[&[Token]], signs: &[char]) -> Option<String> {
        let bracket = |sign: char, open: bool| match (sign, open) {
            ('<', true) => "(",
            ('<', false) => ")",
            (_, true) => "[",
            (_, false) => "]",
        };
        let values: Vec<Value> = parts.iter().map(|p| self.value(p)).collect::<Option<_>>()?;
        if let ([low, _, high], [left, right]) = (values.as_slice(), signs) {
            let is_interval =
                is_name(parts[1]) && self.number_like_or_infinite(low) && self.number_like_or_infinite(high);
            if !is_interval {
                return None;
            }
            let (low, high) = (low.written()?, high.written()?);
            return Some(format!("{}{low},{high}{}", bracket(*left, true), bracket(*right, false)));
        }
        let ([left, right], [sign]) = (values.as_slice(), signs) else { return None };
        let difference = left.minus(right, &self.budget)?;
        if !difference.is_whole_sum() {
            return None;
        }
        if let Some((_, bound, positive)) = self.linear(&difference) {
            let bound = bound.written()?;
            return Some(match positive {
                true => format!("(-∞,{bound}{}", bracket(*sign, false)),
                false => format!("{}{bound},∞)", bracket(*sign, true)),
            });
        }
        let sum = difference.numerator();
        Some(format!("{}{sign}0", written(&sum.scaled(Rational::ONE.over(sum.content()?)?)?)?))
    }

    fn number_like_or_infinite(&self, value: &Value) -> bool {
        let names = value.numerator().names();
        value.is_whole_sum() && names.iter().all(|n| n == "∞" || n == "pi" || n == "e")
    }

    /// `3:4` stays as it is written.
    fn ratio(&self, tokens: &[Token], depth: usize) -> Option<String> {
        let (parts, signs) = split(tokens, |t| t.is(':'));
        let whole = !signs.is_empty() && parts.iter().all(|p| !p.is_empty());
        whole.then(|| parts.iter().map(|p| self.form(p, depth + 1)).collect::<Vec<_>>().join(":"))
    }

    /// A matrix environment, or `matrix(a,b;c,d)`, which is how it is written here.
    fn matrix(&self, tokens: &[Token], depth: usize) -> Option<String> {
        let mut ends = 0;
        let (name, rows, row, cell): (&str, &[Token], Accepts, Accepts) = match &tokens.first()?.kind {
            Kind::Begin(environment) => {
                let first_end = tokens.iter().position(|t| {
                    ends += t.depth();
                    ends == 0
                })?;
                if first_end + 1 != tokens.len() || !environment.ends_with("matrix") && environment != "array"
                {
                    return None;
                }
                let name = if environment.ends_with("vmatrix") || environment.ends_with("Vmatrix") {
                    "determinant"
                } else {
                    "matrix"
                };
                (name, &tokens[1..first_end], |t| t.kind == Kind::Row, |t| t.is('&'))
            }
            Kind::Word(w) if w == "matrix" || w == "determinant" => {
                let ('(', ')', inside) = bracketed(&tokens[1..])? else { return None };
                (w, inside, |t| t.is(';'), |t| t.is(','))
            }
            _ => return None,
        };
        let (rows, _) = split(rows, row);
        let rows: Vec<String> =
            rows.iter().filter(|r| !r.is_empty()).map(|r| self.items(&split(r, cell).0, depth)).collect();
        Some(format!("{name}({})", rows.join(";")))
    }

    /// An expression, or the set of both values where it has a `\pm`.
    fn expression(&self, tokens: &[Token]) -> Option<String> {
        let tokens = without_units(tokens);
        let both = tokens.iter().any(|t| matches!(&t.kind, Kind::Command(c) if c == "pm" || c == "mp"));
        let plus = value(tokens, true, &self.budget)?.written()?;
        if !both {
            return Some(plus);
        }
        Some(as_set(vec![plus, value(tokens, false, &self.budget)?.written()?]))
    }
}

fn as_set(mut items: Vec<String>) -> String {
    items.sort();
    items.dedup();
    match items.as_slice() {
        [one] => one.clone(),
        _ => format!("{{{}}}", items.join(",")),
    }
}

/// The elements of a set in canonical form, without its braces.
fn elements(inner: &str) -> Vec<String> {
    let (mut out, mut depth) = (vec![String::new()], 0i32);
    for c in inner.chars() {
        depth += match c {
            '(' | '[' | '{' | '<' => 1,
            ')' | ']' | '}' | '>' => -1,
            _ => 0,
        };
        match out.last_mut() {
            Some(_) if c == ',' && depth == 0 => out.push(String::new()),
            Some(last) => last.push(c),
            None => {}
        }
    }
    out
}

/// Without full stops and commas at the end and colons at the start.
fn trimmed(tokens: &[Token]) -> &[Token] {
    let mut tokens = tokens;
    while let [rest @ .., Token { kind: Kind::Sign('.' | ',' | ';'), .. }] = tokens {
        tokens = rest;
    }
    while let [Token { kind: Kind::Sign(':'), .. }, rest @ ..] = tokens {
        tokens = rest;
    }
    tokens
}

/// Whether tokens are what a value can be given to: `x`, `x_1`, `f(x)`, `AB`, `\text{Area}`, `(x,y)`, `\angle ABC`.
fn is_name(tokens: &[Token]) -> bool {
    let letters = |t: &Token| match &t.kind {
        Kind::Word(w) => w != "i" && w != "e" && !is_known(w),
        Kind::Text(_) => true,
        _ => false,
    };
    if let Some(('(', ')', inside)) = bracketed(tokens) {
        let (parts, signs) = split(inside, |t| t.is(','));
        return !signs.is_empty() && parts.iter().all(|p| is_name(p));
    }
    match tokens {
        [] => false,
        [Token { kind: Kind::Command(c), .. }] => !["pi", "infty", "emptyset"].contains(&c.as_str()),
        [one] => letters(one),
        [Token { kind: Kind::Command(c), .. }, rest @ ..] if c == "angle" || c == "triangle" => is_name(rest),
        [first, rest @ ..] if letters(first) => {
            let (_, signs) =
                split(rest, |t| matches!(t.kind, Kind::Sign('+' | '-' | '*' | '/' | '^') | Kind::Command(_)));
            let subscript = rest[0].is('_') || rest[0].is('\'');
            let argument = bracketed(rest).is_some_and(|(open, ..)| open == '(') && !letters_only_sum(rest);
            signs.is_empty() && (subscript || argument || rest.iter().all(letters))
        }
        _ => false,
    }
}

/// Whether brackets hold a sum, as in `a(b+c)`, which is a product and no function's value.
fn letters_only_sum(tokens: &[Token]) -> bool {
    tokens.iter().any(|t| t.is('+') || t.is('-'))
}

/// The letter by which names of a list are told apart: `x` of `x`, `x_1`.
fn base_name(tokens: &[Token]) -> Option<String> {
    match &tokens.first()?.kind {
        Kind::Word(w) | Kind::Text(w) => Some(w.trim().to_string()),
        Kind::Command(c) => Some(format!("\\{c}")),
        _ => None,
    }
}

/// Without the unit after a number or an expression.
fn without_units(tokens: &[Token]) -> &[Token] {
    let mut end = tokens.len();
    let mut keep = end;
    while end > 0 {
        let token = &tokens[end - 1];
        match &token.kind {
            Kind::Text(_) => keep = end - 1,
            Kind::Word(w) if UNITS.contains(&w.as_str()) && !is_first(tokens, end - 1) => keep = end - 1,
            Kind::Word(w) if w.chars().count() > 2 && token.space && !is_product(w) && !is_known(w) => {
                keep = end - 1
            }
            // The power of a unit, or what stands between two.
            Kind::Number(_) | Kind::Sign('^' | '/' | '*') | Kind::Open('{') | Kind::Close('}') if end > 1 => {
            }
            _ => break,
        }
        end -= 1;
    }
    // Digits and signs that were passed over on the way belong to the unit only if a unit stands before them.
    let value = &tokens[..keep];
    if value.is_empty() || value.iter().all(|t| matches!(t.kind, Kind::Text(_) | Kind::Word(_))) {
        tokens
    } else {
        value
    }
}

fn is_first(tokens: &[Token], at: usize) -> bool {
    at == 0
        || !matches!(tokens[at - 1].kind, Kind::Number(_) | Kind::Word(_) | Kind::Close(_) | Kind::Text(_))
}

/// An answer of words alone, in lower case; none if they are a product of variables.
fn words(tokens: &[Token]) -> Option<String> {
    let mut words = Vec::new();
    for token in tokens {
        match &token.kind {
            Kind::Word(w) => words.push(w.clone()),
            Kind::Text(t) => words.extend(t.split_whitespace().map(String::from)),
            Kind::Sign('-' | '\'') if !words.is_empty() => {}
            _ => return None,
        }
    }
    let is_word = |w: &String| w.chars().all(char::is_alphabetic) && !is_product(w) && !is_known(w);
    let separated = tokens.iter().any(is_separator);
    if separated || !words.iter().any(is_word) || words.iter().any(|w| w.chars().any(|c| !c.is_alphabetic()))
    {
        return None;
    }
    Some(words.join(" ").to_lowercase())
}

/// What could not be read as mathematics, as text: tokens one after the other, in lower case, one space between words.
fn text(all: &[Token]) -> String {
    let mut out = String::new();
    for token in all {
        let piece = match &token.kind {
            Kind::Number(n) => n.to_string(),
            Kind::Digits(d) => d.clone(),
            Kind::Word(w) => w.to_lowercase(),
            Kind::Text(t) => text(&tokens(t)),
            Kind::Command(c) => format!("\\{c}"),
            Kind::Open('S') => "\\{".into(),
            Kind::Close('S') => "\\}".into(),
            Kind::Open('<') => "\\langle".into(),
            Kind::Close('<') => "\\rangle".into(),
            Kind::Open(c) | Kind::Close(c) | Kind::Sign(c) => c.to_string(),
            Kind::Begin(name) => format!("\\begin{{{name}}}"),
            Kind::End => "\\end{}".into(),
            Kind::Row => "\\\\".into(),
        };
        let wordlike = |c: char| c.is_alphanumeric();
        if out.ends_with(wordlike) && piece.starts_with(wordlike) {
            out.push(' ');
        }
        out.push_str(&piece);
    }
    out
}
