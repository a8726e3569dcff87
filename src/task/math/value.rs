//! The value of an expression: a quotient of sums, and its arithmetic. Powers and roots are in
//! `power.rs`.

use std::collections::BTreeSet;

use super::prime;
use super::rational::Rational;
use super::sum::{Base, Budget, Sum, reduced};
use super::written::written;

/// Largest number that is added to or taken from the argument of a factorial, and largest lower
/// number of a binomial, for which a product is written out.
const MAX_SHIFT: i128 = 8;
/// Longest expression that is written out, in bytes: as a name, or in the end. One that is
/// multiplied out, made a name, and multiplied out again would otherwise double with every bracket
/// around it.
pub const MAX_WRITTEN: usize = 4000;

/// A quotient of sums in the form that [`reduced`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub(super) n: Sum,
    pub(super) d: Sum,
}

impl Value {
    /// A number.
    pub fn number(value: Rational) -> Self {
        Self { n: Sum::number(value), d: Sum::number(Rational::ONE) }
    }

    /// A variable, a constant, or an expression in canonical form that is not looked into.
    pub fn name(name: impl Into<String>) -> Self {
        Self::of(Sum::base(Base::Name(name.into()), Rational::ONE))
    }

    /// The imaginary unit.
    pub fn imaginary() -> Self {
        Self::of(Sum::base(Base::Imaginary, Rational::ONE))
    }

    /// The name of an expression that is not looked into, written by `write`; `None` if that would
    /// be too long.
    pub(super) fn expression(parts: &[&Self], write: impl FnOnce(&[String]) -> String) -> Option<Self> {
        let parts = parts.iter().map(|part| part.written()).collect::<Option<Vec<_>>>()?;
        let name = write(&parts);
        (name.len() <= MAX_WRITTEN).then(|| Self::name(name))
    }

    /// As text, if that is not too long.
    pub fn written(&self) -> Option<String> {
        let n = written(&self.n)?;
        if self.d.as_number() == Some(Rational::ONE) {
            return Some(n);
        }
        let n = if self.n.terms().len() > 1 { format!("({n})") } else { n };
        Some(format!("{n}/({})", written(&self.d)?)).filter(|text| text.len() <= MAX_WRITTEN)
    }

    pub(super) fn of(n: Sum) -> Self {
        Self { n, d: Sum::number(Rational::ONE) }
    }

    pub(super) fn quotient(n: Sum, d: Sum, budget: &Budget) -> Option<Self> {
        reduced(n, d, budget).map(|(n, d)| Self { n, d })
    }

    /// Its value, if it is a rational number.
    pub fn as_number(&self) -> Option<Rational> {
        self.d.as_number()?;
        self.n.as_number()
    }

    /// Its value, if it is a whole number.
    pub fn as_whole(&self) -> Option<i128> {
        self.as_number()?.as_whole()
    }

    /// The numerator; what an equation `value = 0` says, apart from where the denominator is 0.
    pub fn numerator(&self) -> &Sum {
        &self.n
    }

    /// Whether the denominator is a number.
    pub fn is_whole_sum(&self) -> bool {
        self.d.as_number().is_some()
    }

    /// All names in it.
    pub fn names(&self) -> BTreeSet<String> {
        let mut names = self.n.names();
        names.extend(self.d.names());
        names
    }

    /// Whether names occur in it.
    pub fn has_names(&self) -> bool {
        !self.n.names().is_empty() || !self.d.names().is_empty()
    }

    /// Whether it is a function of something, and nothing else.
    pub fn is_application(&self) -> bool {
        let Some((monomial, coefficient)) = self.n.single().filter(|_| self.is_whole_sum()) else {
            return false;
        };
        let mut powers = monomial.powers();
        let (Some((Base::Name(name), exponent)), None) = (powers.next(), powers.next()) else { return false };
        let plain = name.chars().all(|c| c.is_alphanumeric() || "\\_∞".contains(c));
        coefficient == Rational::ONE && exponent == Rational::ONE && !plain && !name.starts_with('(')
    }

    /// Sum.
    pub fn plus(&self, other: &Self, budget: &Budget) -> Option<Self> {
        let n = self.n.times(&other.d, budget)?.plus(&other.n.times(&self.d, budget)?)?;
        Self::quotient(n, self.d.times(&other.d, budget)?, budget)
    }

    /// The other sign.
    pub fn negated(&self) -> Option<Self> {
        Some(Self { n: self.n.scaled(Rational::whole(-1))?, d: self.d.clone() })
    }

    /// Difference.
    pub fn minus(&self, other: &Self, budget: &Budget) -> Option<Self> {
        self.plus(&other.negated()?, budget)
    }

    /// Product.
    pub fn times(&self, other: &Self, budget: &Budget) -> Option<Self> {
        Self::quotient(self.n.times(&other.n, budget)?, self.d.times(&other.d, budget)?, budget)
    }

    /// Quotient; `None` for a division by 0.
    pub fn over(&self, other: &Self, budget: &Budget) -> Option<Self> {
        Self::quotient(self.n.times(&other.d, budget)?, self.d.times(&other.n, budget)?, budget)
    }

    /// A number given in decimal digits, of any length.
    pub fn literal(digits: &str, budget: &Budget) -> Option<Self> {
        budget.spend(prime::FACTOR_STEPS)?;
        let (exponents, rest) = prime::small_factors_of_digits(digits);
        let small = Self::of(Sum::primes(&exponents)?);
        match rest.parse::<i128>() {
            Ok(rest) => small.times(&Self::number(Rational::whole(rest)), budget),
            Err(_) => small.times(&Self::name(rest), budget),
        }
    }

    /// `n!`, of a number below [`prime::SMALL`] as a product of primes; `(n+2)!` is `(n+2)(n+1)n!`.
    pub fn factorial(&self, budget: &Budget) -> Option<Self> {
        if let Some(n @ 0..) = self.as_whole()
            && let Some(exponents) = prime::factorial(n)
        {
            budget.spend(prime::FACTOR_STEPS)?;
            return Some(Self::of(Sum::primes(&exponents)?));
        }
        let constant = if self.is_whole_sum() { self.n.constant().as_whole() } else { None };
        let shift = constant.filter(|k| self.has_names() && k.abs() <= MAX_SHIFT).unwrap_or(0);
        let base = self.minus(&Self::number(Rational::whole(shift)), budget)?;
        let mut out = Self::expression(&[&base], |t| format!("factorial({})", t[0]))?;
        for k in 1..=shift {
            out = out.times(&base.plus(&Self::number(Rational::whole(k)), budget)?, budget)?;
        }
        for k in shift..0 {
            out = out.over(&base.plus(&Self::number(Rational::whole(k + 1)), budget)?, budget)?;
        }
        Some(out)
    }

    /// `n` over `k`: of numbers below [`prime::SMALL`], and of any n with a small k.
    pub fn choose(&self, k: &Self, budget: &Budget) -> Option<Self> {
        match (self.as_whole(), k.as_whole()) {
            (Some(n @ 0..), Some(k @ 0..)) if n < i128::from(prime::SMALL) => {
                if k > n {
                    return Some(Self::number(Rational::ZERO));
                }
                budget.spend(prime::FACTOR_STEPS)?;
                let mut exponents = prime::factorial(n)?;
                for part in [k, n - k] {
                    for (p, e) in prime::factorial(part)? {
                        *exponents.entry(p).or_default() -= e;
                    }
                }
                Some(Self::of(Sum::primes(&exponents)?))
            }
            (None, Some(k @ 0..=MAX_SHIFT)) if self.has_names() => {
                let mut out = Self::number(Rational::ONE);
                for i in 0..k {
                    let factor = self.minus(&Self::number(Rational::whole(i)), budget)?;
                    out = out.times(&factor, budget)?.over(&Self::number(Rational::whole(i + 1)), budget)?;
                }
                Some(out)
            }
            _ => Self::expression(&[self, k], |t| format!("binom({};{})", t[0], t[1])),
        }
    }

    /// A function that is not looked into, of this value.
    pub fn applied(&self, function: &str) -> Option<Self> {
        Self::expression(&[self], |t| format!("{function}({})", t[0]))
    }

    /// Floor or ceiling, by its name.
    pub fn rounded(&self, function: &str) -> Option<Self> {
        let Some(value) = self.as_number() else { return self.applied(function) };
        Some(Self::number(Rational::whole(match function {
            "floor" => value.floor(),
            _ => value.negated()?.floor().checked_neg()?,
        })))
    }

    /// Absolute value: of numbers without roots, and of complex ones; of others with the number in
    /// front taken out, and one sign inside.
    pub fn absolute(&self, budget: &Budget) -> Option<Self> {
        if let Some(value) = self.as_number() {
            return Some(Self::number(if value.is_negative() { value.negated()? } else { value }));
        }
        if !self.has_names() && self.is_whole_sum() {
            let imaginary =
                |sum: &Sum| sum.terms().iter().any(|(m, _)| !m.exponent(&Base::Imaginary).is_zero());
            if imaginary(&self.n) {
                let square = self.n.times(&self.n.conjugate(&Base::Imaginary)?, budget)?;
                return Self::of(square).root(2, budget);
            }
            if self.n.single().is_some() {
                return if self.n.leads_negative() { self.negated() } else { Some(self.clone()) };
            }
        }
        let mut content = self.n.content()?;
        if self.n.leads_negative() {
            content = content.negated()?;
        }
        let inside = Self { n: self.n.scaled(Rational::ONE.over(content)?)?, d: self.d.clone() };
        let outside = if content.is_negative() { content.negated()? } else { content };
        inside.applied("abs")?.times(&Self::number(outside), budget)
    }
}
