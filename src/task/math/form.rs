//! What an answer is around its expressions: lists, sets, tuples, intervals, unions, matrices,
//! ratios. Equations and inequalities are in `relation.rs`, words in `words.rs`, units in
//! `unit.rs`.

use super::expression::value;
use super::rational::Rational;
use super::relation::Relation;
use super::sum::Budget;
use super::token::{Kind, Token};
use super::unit::{meridiem, multiplied, segments, split_unit, unit_name};
use super::value::Value;
use super::words::{marked, opaque, words};

/// Deepest nesting of brackets.
const MAX_BRACKETS: usize = 40;
/// Deepest nesting of forms, which brackets and texts in texts make.
const MAX_DEPTH: usize = 60;
/// Most `\pm` in one expression.
const MAX_SIGNS: usize = 4;

/// A part of an answer in canonical form.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// Anything but a set or a list.
    One(String),
    /// A set in braces.
    Set(Vec<String>),
    /// Elements without braces, as `1, 2` and `\pm 1` are: in a set or a list, elements of that
    /// one.
    List(Vec<String>),
}

impl Form {
    /// How it is written in other forms.
    pub(super) fn inner(self) -> String {
        match self {
            Self::One(text) => text,
            Self::Set(items) => braced(items),
            Self::List(items) => match sorted(items).as_slice() {
                [one] => one.clone(),
                items => braced(items.to_vec()),
            },
        }
    }

    /// How it is written as a whole answer: a set of one thing that is no set is that thing.
    fn outer(self) -> String {
        match self {
            Self::Set(items) => match sorted(items).as_slice() {
                [one] if !one.starts_with("\\{") => one.clone(),
                items => braced(items.to_vec()),
            },
            form => form.inner(),
        }
    }
}

fn sorted(mut items: Vec<String>) -> Vec<String> {
    items.sort();
    items.dedup();
    items
}

fn braced(items: Vec<String>) -> String {
    format!("\\{{{}\\}}", sorted(items).join(","))
}

/// The canonical text of an answer's tokens.
pub fn form(tokens: &[Token]) -> String {
    let former = Former { budget: Budget::new() };
    if is_balanced(tokens) {
        return former.form(tokens, 0).outer();
    }
    let turned = turned(tokens);
    if is_balanced(&turned) { former.form(&turned, 0).outer() } else { opaque(tokens) }
}

/// Intervals with their brackets turned outwards, `]1,2[`, as those that they are, `(1,2)`.
fn turned(tokens: &[Token]) -> Vec<Token> {
    let mut out = tokens.to_vec();
    let mut depth = 0;
    for i in 0..out.len() {
        let ends = tokens.get(i + 1).is_none_or(|t| t.is('∪') || t.is('∩') || is_separator(t));
        match out[i].kind {
            Kind::Close(']') if depth == 0 => out[i].kind = Kind::Open('('),
            Kind::Open('[') if depth == 1 && ends => out[i].kind = Kind::Close(')'),
            _ => {}
        }
        depth += out[i].depth();
    }
    out
}

pub(super) struct Former {
    pub(super) budget: Budget,
}

/// Which tokens separate.
type Accepts = fn(&Token) -> bool;

/// Where a list's elements are separated.
pub(super) fn is_separator(token: &Token) -> bool {
    matches!(token.kind, Kind::Sign(',' | ';')) || conjunction(token).is_some()
}

/// `or` or `and`.
fn conjunction(token: &Token) -> Option<&'static str> {
    let word = match &token.kind {
        Kind::Command(c) if c == "lor" => "or",
        Kind::Command(c) if c == "land" => "and",
        Kind::Word(w) => w.as_str(),
        Kind::Text(t) => t.trim().trim_matches(',').trim(),
        _ => return None,
    };
    ["or", "and"].into_iter().find(|c| *c == word.to_lowercase())
}

/// Whether a token is the sign of a relation.
pub(super) fn is_relation(token: &Token) -> bool {
    matches!(token.kind, Kind::Sign('=' | '<' | '>' | '≤' | '≥' | '≠' | '∈'))
}

/// Parts between the tokens outside brackets that `at` accepts, and those tokens.
pub(super) fn split(tokens: &[Token], at: impl Fn(&Token) -> bool) -> (Vec<&[Token]>, Vec<&Token>) {
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

/// The kinds of the brackets, and what is inside, if the first token opens what the last one
/// closes.
pub(super) fn bracketed(tokens: &[Token]) -> Option<(char, char, &[Token])> {
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

/// Whether every bracket is closed by one of its kind and none is too deep; `(` and `[` may close
/// each other, as in intervals.
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
    pub(super) fn form(&self, tokens: &[Token], depth: usize) -> Form {
        let tokens = trimmed(tokens);
        if depth > MAX_DEPTH || self.budget.spend(1).is_none() {
            return Form::One(opaque(tokens));
        }
        match tokens {
            [Token { kind: Kind::Opaque(content), .. }] => return Form::One(marked(content)),
            [Token { kind: Kind::Command(c), .. }] if c == "emptyset" => return Form::Set(Vec::new()),
            [Token { kind: Kind::Sign('<'), .. }, inside @ .., Token { kind: Kind::Sign('>'), .. }]
                if inside.iter().any(|t| t.is(',')) =>
            {
                return self.angles(inside, depth);
            }
            _ => {}
        }
        if let Some(words) = words(tokens) {
            return Form::One(words);
        }
        if let [Token { kind: Kind::Text(content), .. }] = tokens {
            let inside = super::token::tokens(content);
            return if is_balanced(&inside) {
                self.form(&inside, depth + 1)
            } else {
                Form::One(opaque(&inside))
            };
        }
        self.time(tokens, depth)
            .or_else(|| self.quantity(tokens))
            .or_else(|| self.list(tokens, depth))
            .or_else(|| self.bracket(tokens, depth))
            .or_else(|| self.union(tokens, depth))
            .or_else(|| self.relation(tokens, depth).map(|relation| relation.form))
            .or_else(|| self.ratio(tokens, depth))
            .or_else(|| self.remainder(tokens))
            .or_else(|| self.matrix(tokens, depth))
            .or_else(|| self.expression(tokens))
            .unwrap_or_else(|| Form::One(opaque(tokens)))
    }

    /// `1, 2`, `1 or 2`, `x = 1, x = 2`: a list. Rays and intervals of one name with `or` between
    /// are their union, two rays with `and` an interval.
    fn list(&self, tokens: &[Token], depth: usize) -> Option<Form> {
        let (parts, signs) = split(tokens, is_separator);
        // The signs of logic stand between equations; between letters they are no commas.
        let logic = signs.iter().any(|t| matches!(t.kind, Kind::Command(_)));
        if signs.is_empty() || logic && !tokens.iter().any(is_relation) {
            return None;
        }
        if let Some(groups) = self.groups(tokens, depth) {
            return Some(groups);
        }
        let all = |word| signs.iter().all(|sign| conjunction(sign) == Some(word));
        if (all("or") || all("and")) && parts.iter().all(|p| !trimmed(p).is_empty()) {
            let read: Vec<Option<Relation>> =
                parts.iter().map(|p| self.relation(trimmed(p), depth + 1)).collect();
            let mut names: Vec<Option<&String>> =
                read.iter().map(|r| r.as_ref().and_then(|r| r.name.as_ref())).collect();
            names.dedup();
            let regions = read.iter().filter(|r| r.as_ref().is_some_and(|r| r.region)).count();
            if regions > 0 && names.len() == 1 && names[0].is_some() {
                let forms: Vec<(Form, bool)> =
                    read.into_iter().flatten().map(|r| (r.form, r.region)).collect();
                if all("or") {
                    return Some(united(forms));
                }
                if let Some(interval) = intersection(&forms) {
                    return Some(Form::One(interval));
                }
            }
        }
        Some(Form::List(self.elements(&parts, depth, false)))
    }

    /// `x=1, y=2; x=3, y=4` and `x=1, y=2 or x=3, y=4`: a list of sets, in which what stands
    /// together stays together. Without names, `or` is one comma more: `1, 2 or 3`.
    fn groups(&self, tokens: &[Token], depth: usize) -> Option<Form> {
        let named = |part: &[Token]| {
            let (parts, _) = split(trimmed(part), is_separator);
            let relations = parts.iter().map(|p| self.relation(trimmed(p), depth + 1).and_then(|r| r.name));
            let mut names: Vec<String> = relations.flatten().collect();
            names.sort();
            names.dedup();
            names.len() > 1
        };
        let listed = |part: &[Token]| split(trimmed(part), is_separator).0.len() > 1;
        let (mut parts, mut signs) = split(tokens, |t| t.is(';'));
        parts.retain(|p| !trimmed(p).is_empty());
        if signs.is_empty() || parts.len() < 2 || !parts.iter().any(|p| listed(p)) {
            (parts, signs) = split(tokens, |t| conjunction(t) == Some("or"));
            parts.retain(|p| !trimmed(p).is_empty());
            if signs.is_empty() || parts.len() < 2 || !parts.iter().any(|p| named(p)) {
                return None;
            }
        }
        let group = |part: &&[Token]| {
            let items = sorted(self.elements(&split(trimmed(part), is_separator).0, depth, false));
            if items.len() == 1 { items[0].clone() } else { braced(items) }
        };
        Some(Form::List(parts.iter().map(group).collect()))
    }

    /// The elements of a list or a set. Where different names have values, or numbers different
    /// units, these stay with them.
    fn elements(&self, parts: &[&[Token]], depth: usize, in_braces: bool) -> Vec<String> {
        let parts: Vec<&[Token]> = parts.iter().map(|p| trimmed(p)).filter(|p| !p.is_empty()).collect();
        let read: Vec<Relation> = parts
            .iter()
            .map(|part| {
                let relation = self.relation(part, depth + 1);
                relation.unwrap_or_else(|| Relation::unnamed(self.element(part, depth, in_braces)))
            })
            .collect();
        let mut names: Vec<&String> = read.iter().filter_map(|r| r.name.as_ref()).collect();
        names.sort();
        names.dedup();
        let units: Vec<Option<String>> = parts.iter().map(|p| unit_name(split_unit(p).1)).collect();
        let mut different: Vec<&String> = units.iter().flatten().collect();
        different.sort();
        different.dedup();
        let (named, with_units) = (names.len() > 1, different.len() > 1);
        let mut items = Vec::new();
        for (relation, unit) in read.into_iter().zip(&units) {
            match (relation, unit) {
                (Relation { name: Some(name), form, region }, _) if named => {
                    items.push(format!("{name}{}{}", if region { '∈' } else { '=' }, form.inner()));
                }
                (Relation { form, .. }, Some(unit)) if with_units => {
                    items.push(marked(&format!("{} {unit}", form.inner())));
                }
                (Relation { form: Form::List(inner), .. }, _) => items.extend(inner),
                (Relation { form, .. }, _) => items.push(form.inner()),
            }
        }
        items
    }

    /// An element, which is a set if it is in braces. Single things in plain braces are sets only
    /// in plain braces: elsewhere these group.
    fn element(&self, part: &[Token], depth: usize, in_braces: bool) -> Form {
        match (bracketed(part), self.form(part, depth + 1)) {
            (Some(('{', '}', _)), Form::One(text)) if in_braces => Form::Set(vec![text]),
            (_, form) => form,
        }
    }

    /// A set, a tuple, an interval; brackets around one thing are not part of it.
    fn bracket(&self, tokens: &[Token], depth: usize) -> Option<Form> {
        let (open, close, inside) = bracketed(tokens)?;
        let (parts, signs) = split(inside, |t| matches!(t.kind, Kind::Sign(',' | ';')));
        match (open, close) {
            ('S', 'S') => Some(Form::Set(self.elements(&parts, depth, false))),
            // A group of one thing, else a set whose braces lack their backslashes.
            ('{', '}') => match parts.as_slice() {
                [one] => match self.form(one, depth + 1) {
                    form if bracketed(trimmed(one)).is_some_and(|(open, ..)| open == '{') => {
                        Some(Form::Set(vec![form.inner()]))
                    }
                    Form::List(items) => Some(Form::Set(items)),
                    form => (!inside.is_empty()).then_some(form).or(Some(Form::Set(Vec::new()))),
                },
                _ => Some(Form::Set(self.elements(&parts, depth, true))),
            },
            ('<', '<') => Some(self.angles(inside, depth)),
            ('(' | '[', ')' | ']') if signs.is_empty() => {
                // A group around all that is inside is none.
                if let Some(('{', '}', grouped)) = bracketed(inside)
                    && split(grouped, |t| t.is(',')).0.len() > 1
                {
                    let parts = split(grouped, |t| matches!(t.kind, Kind::Sign(',' | ';'))).0;
                    return Some(Form::One(format!("{open}{}{close}", self.items(&parts, depth))));
                }
                let whole = (open == '(') == (close == ')') && !inside.is_empty();
                whole.then(|| self.form(inside, depth + 1))
            }
            ('(' | '[', ')' | ']') => Some(Form::One(format!("{open}{}{close}", self.items(&parts, depth)))),
            _ => None,
        }
    }

    /// A vector in angle brackets.
    fn angles(&self, inside: &[Token], depth: usize) -> Form {
        let parts = split(inside, |t| matches!(t.kind, Kind::Sign(',' | ';'))).0;
        Form::One(format!("⟨{}⟩", self.items(&parts, depth)))
    }

    fn items(&self, parts: &[&[Token]], depth: usize) -> String {
        parts.iter().map(|part| self.form(part, depth + 1).inner()).collect::<Vec<_>>().join(",")
    }

    fn union(&self, tokens: &[Token], depth: usize) -> Option<Form> {
        let (parts, signs) =
            split(tokens, |t| t.is('∪') || matches!(&t.kind, Kind::Word(w) if w == "U" && t.space));
        if signs.is_empty() || parts.iter().any(|p| p.is_empty()) {
            return None;
        }
        Some(united(parts.iter().map(|p| (self.form(p, depth + 1), true)).collect()))
    }

    pub(super) fn number_like(&self, tokens: &[Token]) -> bool {
        self.value(tokens).is_some_and(|v| !v.has_names())
    }

    pub(super) fn value(&self, tokens: &[Token]) -> Option<Value> {
        value(split_unit(trimmed(tokens)).0, 0, &self.budget)
    }

    /// A time of day with `am` or `pm`, which are no units.
    fn time(&self, tokens: &[Token], depth: usize) -> Option<Form> {
        let (time, half) = meridiem(tokens)?;
        Some(Form::One(format!("{}{half}", self.form(time, depth + 1).inner())))
    }

    /// `5 feet 3 inches`: all of its numbers and units, unless they are 0.
    fn quantity(&self, tokens: &[Token]) -> Option<Form> {
        let segments = segments(tokens)?;
        let mut written = Vec::new();
        for (number, unit) in &segments {
            let value = value(number, 0, &self.budget)?.written()?;
            if value != "0" {
                written.push((value, *unit));
            }
        }
        match written.as_slice() {
            [(value, unit)] if *unit == segments[0].1 => Some(Form::One(value.clone())),
            all => {
                let text = all.iter().map(|(value, unit)| format!("{value} {unit}")).collect::<Vec<_>>();
                Some(Form::One(marked(&text.join(" "))))
            }
        }
    }

    /// `3:4` and `3 to 4` stay as they are written, `10:05` with its 0.
    fn ratio(&self, tokens: &[Token], depth: usize) -> Option<Form> {
        let to = |t: &Token| matches!(&t.kind, Kind::Word(w) | Kind::Text(w) if w.trim() == "to");
        let (mut parts, mut signs) = split(tokens, |t| t.is(':'));
        if signs.is_empty() {
            (parts, signs) = split(tokens, to);
            if parts.iter().any(|p| !self.number_like(p)) {
                return None;
            }
        }
        if signs.is_empty() || parts.iter().any(|p| p.is_empty()) {
            return None;
        }
        let part = |(i, part): (usize, &&[Token])| match part {
            [Token { kind: Kind::Number(_), raw, .. }] if i > 0 && raw.len() == 2 && raw.starts_with('0') => {
                raw.clone()
            }
            part => self.form(part, depth + 1).inner(),
        };
        Some(Form::One(parts.iter().enumerate().map(part).collect::<Vec<_>>().join(":")))
    }

    /// `7 R 2`: a quotient with its remainder.
    fn remainder(&self, tokens: &[Token]) -> Option<Form> {
        let (parts, signs) = split(tokens, |t| match &t.kind {
            Kind::Word(w) | Kind::Text(w) => {
                let word = w.trim().trim_matches('.').to_lowercase();
                ["r", "rem", "remainder", "with remainder", "with a remainder of"].contains(&word.as_str())
            }
            _ => false,
        });
        let ([quotient, rest], [_]) = (parts.as_slice(), signs.as_slice()) else { return None };
        let plain = |part: &[Token]| self.value(part).filter(|v| !v.has_names())?.written();
        Some(Form::One(marked(&format!("{} R {}", plain(quotient)?, plain(rest)?))))
    }

    /// A matrix environment, or `matrix(a,b;c,d)`, which is how it is written here.
    fn matrix(&self, tokens: &[Token], depth: usize) -> Option<Form> {
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
        Some(Form::One(format!("{name}({})", rows.join(";"))))
    }

    /// An expression without its unit, or the list of all its values where it has a `\pm`.
    fn expression(&self, tokens: &[Token]) -> Option<Form> {
        // Dates, `2024-01-05`, and other codes: in a sum no number starts with 0.
        let padded = |t: &Token| t.raw.len() > 1 && t.raw.starts_with('0') && !t.raw.contains('.');
        let numbers = tokens.iter().filter(|t| matches!(t.kind, Kind::Number(_))).count();
        if numbers > 1 && tokens.iter().any(padded) {
            return None;
        }
        let (tokens, _) = split_unit(tokens);
        if let Some((number, power)) = multiplied(tokens) {
            let power = Value::number(Rational::whole(10).power(power)?);
            return Some(Form::One(self.value(number)?.times(&power, &self.budget)?.written()?));
        }
        let together = tokens.iter().any(|t| t.is_command("mp"));
        let signs = tokens.iter().filter(|t| t.is_command("pm") || t.is_command("mp")).count();
        if signs == 0 {
            return Some(Form::One(value(tokens, 0, &self.budget)?.written()?));
        }
        let free = if together { 1 } else { signs };
        if free > MAX_SIGNS {
            return None;
        }
        let all = (0..1u32 << free).map(|minus| value(tokens, minus, &self.budget)?.written());
        Some(Form::List(all.collect::<Option<_>>()?))
    }
}

/// The union of sets, of which those whose elements are listed become one; of what is neither, the
/// second of a pair says whether it is a set or an element.
fn united(forms: Vec<(Form, bool)>) -> Form {
    let (mut points, mut rest) = (Vec::new(), Vec::new());
    for form in forms {
        match form {
            (Form::Set(items) | Form::List(items), _) => points.extend(items),
            (Form::One(text), true) => rest.extend(text.split('∪').map(str::to_string)),
            (Form::One(text), false) => points.push(text),
        }
    }
    if rest.is_empty() {
        return Form::Set(points);
    }
    if !points.is_empty() {
        rest.push(braced(points));
    }
    Form::One(sorted(rest).join("∪"))
}

/// The interval that a ray to the right and a ray to the left have in common.
fn intersection(forms: &[(Form, bool)]) -> Option<String> {
    let [(Form::One(a), true), (Form::One(b), true)] = forms else { return None };
    let (right, left) = if a.starts_with("(-∞,") { (b, a) } else { (a, b) };
    let low = right.strip_suffix(",∞)")?;
    let high = left.strip_prefix("(-∞,")?;
    (!low.contains(',') && !high.contains(',') && !low.ends_with("-∞")).then(|| format!("{low},{high}"))
}

/// Without full stops, commas and line ends at the end, and colons and line ends at the start.
pub(super) fn trimmed(tokens: &[Token]) -> &[Token] {
    let mut tokens = tokens;
    while let [rest @ .., Token { kind: Kind::Sign('.' | ',' | ';') | Kind::Row, .. }] = tokens {
        tokens = rest;
    }
    while let [Token { kind: Kind::Sign(':') | Kind::Row, .. }, rest @ ..] = tokens {
        tokens = rest;
    }
    tokens
}
