//! Equations, approximations and inequalities: which side is the answer, and the one form of an
//! equation that is itself the answer.

use super::expression::is_known;
use super::form::{Form, Former, bracketed, is_relation, split};
use super::rational::Rational;
use super::sum::Base;
use super::token::{Kind, Token};
use super::value::Value;
use super::words::text;
use super::written::written;

/// What a relation says: the name of what it is about, if it has one, and its value or region.
pub(super) struct Relation {
    /// The left side of `x = 5` and of `x < 5`.
    pub(super) name: Option<String>,
    /// The right one, or a region.
    pub(super) form: Form,
    /// Whether the form is that of all values that the name may have.
    pub(super) region: bool,
}

impl Relation {
    /// A form of something without a name.
    pub(super) fn unnamed(form: Form) -> Self {
        Self { name: None, form, region: false }
    }

    fn named(name: &[Token], form: Form) -> Self {
        Self { name: Some(name_text(name)), form, region: false }
    }
}

/// Coordinates: an equation between them is a line or a curve, and an answer as such.
const COORDINATES: [&str; 3] = ["x", "y", "z"];

impl Former {
    /// `x = 5` is 5, `x \in A` is A, `x < 5` is an interval, other equations and inequalities have
    /// 0 on their right.
    pub(super) fn relation(&self, tokens: &[Token], depth: usize) -> Option<Relation> {
        let (sides, about) = split(tokens, is_about);
        if !about.is_empty() {
            return self.approximation(&sides, depth);
        }
        let (parts, signs) = split(tokens, is_relation);
        let (first, last) = (*parts.first()?, *parts.last()?);
        let signs: Vec<char> =
            signs.iter().filter_map(|t| if let Kind::Sign(c) = t.kind { Some(c) } else { None }).collect();
        if signs.is_empty() || last.is_empty() {
            return None;
        }
        let all = |set: &[char]| signs.iter().all(|s| set.contains(s));
        if signs == ['∈'] {
            let name = (!first.is_empty()).then(|| name_text(first));
            return Some(Relation { name, form: self.form(last, depth + 1), region: true });
        }
        if signs == ['≠'] {
            let (a, b) = (self.form(first, depth + 1).inner(), self.form(last, depth + 1).inner());
            return (!first.is_empty()).then(|| Relation::unnamed(Form::One(format!("{a}≠{b}"))));
        }
        if all(&['=']) {
            return self.equality(&parts, depth);
        }
        if parts.iter().any(|p| p.is_empty()) {
            return None;
        }
        if all(&['<', '≤']) {
            return self.inequality(&parts, &signs);
        }
        if all(&['>', '≥']) {
            let parts: Vec<&[Token]> = parts.iter().rev().copied().collect();
            let signs: Vec<char> = signs.iter().rev().map(|s| if *s == '>' { '<' } else { '≤' }).collect();
            return self.inequality(&parts, &signs);
        }
        None
    }

    /// The exact side of `\approx`: the first one, unless it is a name, or rounded where another is
    /// not.
    fn approximation(&self, sides: &[&[Token]], depth: usize) -> Option<Relation> {
        let mut sides: Vec<&[Token]> = sides.iter().copied().filter(|s| !s.is_empty()).collect();
        if sides.is_empty() {
            return None;
        }
        let first = sides.remove(0);
        let (parts, signs) = split(first, |t| t.is('='));
        let (mut name, mut exact) = (&first[..0], first);
        if let [.., value] = parts.as_slice()
            && !signs.is_empty()
        {
            (name, exact) = (&first[..first.len() - value.len() - 1], value);
        } else if !sides.is_empty() && (is_name(first) || self.is_unknown_quantity(first)) {
            (name, exact) = (first, sides.remove(0));
        }
        if has_decimals(exact)
            && let Some(other) = sides.iter().find(|side| !has_decimals(side) && self.value(side).is_some())
        {
            exact = other;
        }
        if name.is_empty() {
            return Some(Relation::unnamed(self.form(exact, depth + 1)));
        }
        let equals = Token { kind: Kind::Sign('='), space: false, raw: String::new() };
        self.relation(&[name, &[equals], exact].concat(), depth + 1)
    }

    /// `a = b`, `a = b = c`: the value of a name or a quantity; else an equation, of which the
    /// first and the last side count.
    fn equality(&self, parts: &[&[Token]], depth: usize) -> Option<Relation> {
        let (first, last) = (*parts.first()?, *parts.last()?);
        let value = |part| self.form(part, depth + 1);
        if first.is_empty() || parts.iter().all(|p| self.number_like(p)) {
            return Some(Relation::unnamed(value(last)));
        }
        if is_name(first) {
            return Some(Relation::named(first, value(last)));
        }
        if is_name(last) && parts.len() == 2 && self.number_like(first) {
            return Some(Relation::named(last, value(first)));
        }
        if self.is_quantity(first) {
            return Some(Relation::named(first, value(last)));
        }
        if self.is_quantity(last) && parts.len() == 2 {
            return Some(Relation::named(last, value(first)));
        }
        if parts.len() > 2 && self.number_like(first) {
            return Some(Relation::unnamed(value(last)));
        }
        if parts.len() > 2 && !self.number_like(last) {
            return None;
        }
        let (left, right) = (self.value(first)?, self.value(last)?);
        let difference = left.minus(&right, &self.budget)?;
        let solved = self.linear(&difference);
        for (side, other, tokens) in [(&left, &right, first), (&right, &left, last)] {
            // `a^2 + b = 0` is no value but an equation.
            let states = !has_variables(other) && !other.numerator().is_zero();
            if solved.is_none() && side.has_names() && !has_coordinates(side) && states {
                return Some(Relation::named(tokens, Form::One(other.written()?)));
            }
        }
        match solved {
            Some((_, solution, _)) => Some(Relation::unnamed(Form::One(solution.written()?))),
            None => self.equation(&left, &right, &difference).map(|text| Relation::unnamed(Form::One(text))),
        }
    }

    /// Whether a side is a quantity that has a value, such as `m\angle ABC`, `|z|`, `\cos\theta`,
    /// `f^{-1}(x)`, `\frac{dy}{dx}`, `a:b`: a function's value, or what is no expression.
    fn is_quantity(&self, tokens: &[Token]) -> bool {
        if tokens.is_empty() || tokens.iter().any(|t| t.is_command("dots")) {
            return false;
        }
        if is_function_of(tokens) {
            return true;
        }
        match self.value(tokens) {
            None => true,
            Some(value) => value.is_application(),
        }
    }

    /// Whether a side is a quantity whose value isn't what it says itself, as that of `\ln 2` is.
    fn is_unknown_quantity(&self, tokens: &[Token]) -> bool {
        self.is_quantity(tokens) && self.value(tokens).is_none_or(|value| has_variables(&value))
    }

    /// `left = right` with everything on the left, whole coefficients, the leading one positive.
    /// Between x and y the solution for y, between x, y and z that for z, if it occurs but once. An
    /// identity, and what is never true, stay as they are.
    fn equation(&self, left: &Value, right: &Value, difference: &Value) -> Option<String> {
        let sum = difference.numerator();
        let names = sum.names();
        if names.is_empty() {
            return Some(format!("{}={}", left.written()?, right.written()?));
        }
        let plane = names.iter().all(|n| COORDINATES.contains(&n.as_str()));
        if let Some(last) = names.last().filter(|_| plane && names.len() > 1 && difference.is_whole_sum())
            && names.len() == usize::from(last == "y") + 2 * usize::from(last == "z") + 1
            && let Some((solution, _)) = self.solved(difference, last)
        {
            return solution.written();
        }
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
        // Expressions that are not looked into, and constants, are no unknowns.
        let simple = name.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !simple || is_constant(name) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let (solution, positive) = self.solved(value, name)?;
        Some((name.clone(), solution, positive))
    }

    /// Of `a x + b` with a rational `a` and no x in `b`: -b/a, and whether a is positive.
    fn solved(&self, value: &Value, name: &str) -> Option<(Value, bool)> {
        let terms = value.numerator().terms();
        let base = Base::Name(name.into());
        let with: Vec<_> = terms.iter().filter(|(m, _)| !m.exponent(&base).is_zero()).collect();
        let [(monomial, a)] = with.as_slice() else { return None };
        if monomial.powers().count() != 1 || monomial.exponent(&base) != Rational::ONE {
            return None;
        }
        let x = Value::name(name);
        let rest = value.minus(&x.times(&Value::number(*a), &self.budget)?, &self.budget)?;
        let solution = rest.negated()?.over(&Value::number(*a), &self.budget)?;
        Some((solution, !a.is_negative()))
    }

    /// A chain of `<` and `≤`.
    fn inequality(&self, parts: &[&[Token]], signs: &[char]) -> Option<Relation> {
        let bracket = |sign: char, open: bool| match (sign, open) {
            ('<', true) => "(",
            ('<', false) => ")",
            (_, true) => "[",
            (_, false) => "]",
        };
        let region = |name: String, text: String| {
            Some(Relation { name: Some(name), form: Form::One(text), region: true })
        };
        let values: Vec<Value> = parts.iter().map(|p| self.value(p)).collect::<Option<_>>()?;
        if let ([low, middle, high], [left, right]) = (values.as_slice(), signs) {
            if has_variables(low) || has_variables(high) {
                return None;
            }
            let (mut ends, mut signs) = ([low.clone(), high.clone()], [*left, *right]);
            let mut name = name_text(parts[1]);
            if !is_name(parts[1]) {
                // `1 < 2x + 3 < 5`: solved at both ends.
                let (unknown, at_low, positive) = self.linear(&middle.minus(low, &self.budget)?)?;
                let (_, at_high, _) = self.linear(&middle.minus(high, &self.budget)?)?;
                (name, ends) = (unknown, [at_low, at_high]);
                if !positive {
                    ends.reverse();
                    signs.reverse();
                }
            }
            let (low, high) = (ends[0].written()?, ends[1].written()?);
            return region(
                name,
                format!("{}{low},{high}{}", bracket(signs[0], true), bracket(signs[1], false)),
            );
        }
        let ([left, right], [sign]) = (values.as_slice(), signs) else { return None };
        let difference = left.minus(right, &self.budget)?;
        if !difference.is_whole_sum() {
            return None;
        }
        if let Some((name, bound, positive)) = self.linear(&difference) {
            let bound = bound.written()?;
            return match positive {
                true => region(name, format!("(-∞,{bound}{}", bracket(*sign, false))),
                false => region(name, format!("{}{bound},∞)", bracket(*sign, true))),
            };
        }
        // What doesn't depend on names is true or false, whichever its numbers are.
        if difference.numerator().names().is_empty() {
            return Some(Relation::unnamed(Form::One(format!(
                "{}{sign}{}",
                left.written()?,
                right.written()?
            ))));
        }
        let sum = difference.numerator();
        let text = written(&sum.scaled(Rational::ONE.over(sum.content()?)?)?)?;
        Some(Relation::unnamed(Form::One(format!("{text}{sign}0"))))
    }
}

/// Where an approximation starts.
fn is_about(token: &Token) -> bool {
    match &token.kind {
        Kind::Sign('≈') => true,
        Kind::Text(t) => ["or about", "about", "approximately", "or approximately", "approx", "approx."]
            .contains(&t.trim()),
        _ => false,
    }
}

fn has_decimals(tokens: &[Token]) -> bool {
    tokens.iter().any(|t| matches!(t.kind, Kind::Number(_) | Kind::Digits(_)) && t.raw.contains('.'))
}

fn is_constant(name: &str) -> bool {
    ["pi", "e", "∞"].contains(&name)
}

/// Whether names other than constants occur, also in the functions that are names.
fn has_variables(value: &Value) -> bool {
    let letters = |name: &str| {
        name.split(|c: char| !c.is_alphabetic())
            .any(|word| !word.is_empty() && !is_known(word) && word != "i" && !is_constant(word))
    };
    value.names().iter().any(|name| letters(name))
}

/// Whether coordinates occur, in names and in the expressions that are names.
fn has_coordinates(value: &Value) -> bool {
    let coordinate = |name: &String| {
        name.split(|c: char| !c.is_alphabetic()).any(|letters| COORDINATES.contains(&letters))
    };
    value.names().iter().any(coordinate)
}

/// `f(x)`, `f'(x)`, `f^{-1}(x)`, `(f \circ g)(x)`: a function with its argument.
fn is_function_of(tokens: &[Token]) -> bool {
    let [Token { kind: Kind::Word(name), .. }, rest @ ..] = tokens else { return false };
    if !["f", "g", "h", "F", "G", "H"].contains(&name.as_str()) {
        return false;
    }
    let argument = rest.iter().position(|t| t.kind == Kind::Open('('));
    let Some(at) = argument else { return false };
    let marks = &rest[..at];
    let inverse = matches!(marks, [power, open, minus, one, close]
        if power.is('^') && open.kind == Kind::Open('{') && minus.is('-')
            && one.kind == Kind::Number(Rational::ONE) && close.kind == Kind::Close('}'));
    let derivative = marks.iter().all(|t| t.is('\''));
    (inverse || derivative) && bracketed(&rest[at..]).is_some()
}

/// Whether tokens are what a value can be given to: `x`, `x_1`, `f(x)`, `AB`, `\text{Area}`,
/// `(x,y)`, `\angle ABC`.
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
        [Token { kind: Kind::Command(c), .. }] => !["pi", "infty", "emptyset", "dots"].contains(&c.as_str()),
        [one] => letters(one),
        [Token { kind: Kind::Command(c), .. }, rest @ ..] if c == "angle" || c == "triangle" => is_name(rest),
        [Token { kind: Kind::Command(_), .. }, subscript, ..] if subscript.is('_') => {
            tokens.len() == 3 || matches!(tokens.last().map(|t| &t.kind), Some(Kind::Close('}')))
        }
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

/// What names of a list are told apart by. The coordinates `x_1` and `x_2`, as roots are called,
/// have one name.
fn name_text(tokens: &[Token]) -> String {
    match tokens {
        [Token { kind: Kind::Word(w), .. }, subscript, ..]
            if subscript.is('_') && COORDINATES.contains(&w.as_str()) =>
        {
            w.clone()
        }
        [Token { kind: Kind::Word(w), .. }] => w.clone(),
        tokens => text(tokens),
    }
}
