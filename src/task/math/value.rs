//! The value of an expression: a quotient of sums, its arithmetic, and how it is written.

use super::rational::Rational;
use super::sum::{Base, Budget, Monomial, Sum, reduced};

/// Roots up to this one are looked into; others are names.
const MAX_ROOT: i128 = 12;
/// Powers up to this exponent are multiplied out; others are names.
const MAX_EXPONENT: i128 = 64;
/// Numbers up to this one are factored to simplify their roots; those of larger ones are names unless they are whole.
const MAX_FACTORED: i128 = 10_000_000_000;
/// What factoring such a number costs in steps.
const FACTOR_STEPS: usize = 300;
/// Factorials up to this one are multiplied out.
const MAX_FACTORIAL: i128 = 30;
/// Longest expression that is written out, in bytes: as a name, or in the end. One that is multiplied out, made a name, and multiplied out
/// again would otherwise double with every bracket around it.
const MAX_WRITTEN: usize = 4000;

/// A quotient of sums in the form that [`reduced`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    n: Sum,
    d: Sum,
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

    /// The name of an expression that is not looked into, written by `write`; `None` if that would be too long.
    fn expression(parts: &[&Self], write: impl FnOnce(&[String]) -> String) -> Option<Self> {
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

    fn of(n: Sum) -> Self {
        Self { n, d: Sum::number(Rational::ONE) }
    }

    fn quotient(n: Sum, d: Sum, budget: &Budget) -> Option<Self> {
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

    /// Whether names occur in it.
    pub fn has_names(&self) -> bool {
        !self.n.names().is_empty() || !self.d.names().is_empty()
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

    /// Power. What can't be multiplied out, such as `2^x` or `2^1000`, becomes a name.
    pub fn power(&self, exponent: &Self, budget: &Budget) -> Option<Self> {
        let Some(e) = exponent.as_number() else { return self.power_name(exponent) };
        let (n, d) = (e.numerator(), e.denominator());
        if let Some(base) = self.as_number()
            && d == 1
        {
            let small = i32::try_from(n).ok().and_then(|n| base.power(n));
            return match small {
                Some(value) => Some(Self::number(value)),
                None if base.is_zero() => None,
                None => self.power_name(exponent),
            };
        }
        if n.unsigned_abs() > MAX_EXPONENT.unsigned_abs() || d > MAX_ROOT {
            return self.power_name(exponent);
        }
        let root = if d == 1 { self.clone() } else { self.root(d, budget)? };
        let times = u32::try_from(n.unsigned_abs()).ok()?;
        let (top, bottom) = (root.n.power(times, budget)?, root.d.power(times, budget)?);
        if n < 0 { Self::quotient(bottom, top, budget) } else { Self::quotient(top, bottom, budget) }
    }

    fn power_name(&self, exponent: &Self) -> Option<Self> {
        Self::expression(&[self, exponent], |t| format!("({})^({})", t[0], t[1]))
    }

    /// The root of this degree, 2 and more: the positive one of a positive number, an imaginary one of a negative number if the degree is 2.
    pub fn root(&self, degree: i128, budget: &Budget) -> Option<Self> {
        if let (Some(top), Some(bottom)) = (self.n.as_number(), self.d.as_number()) {
            return root_of(top.over(bottom)?, degree, budget);
        }
        // A number in front comes out of the root; names to the power 1 and roots of primes get smaller exponents; all else is a name.
        let mut content = self.n.content()?;
        if self.n.leads_negative() && degree % 2 == 1 {
            content = content.negated()?;
        }
        let rest = Self { n: self.n.scaled(Rational::ONE.over(content)?)?, d: self.d.clone() };
        let outside = root_of(content, degree, budget)?;
        let exponent = Rational::new(1, degree)?;
        let simple = |m: &Monomial| {
            m.powers().all(|(b, e)| match b {
                Base::Name(_) => e == Rational::ONE,
                Base::Prime(_) => true,
                Base::Imaginary => false,
            })
        };
        let inside = match (rest.n.single(), rest.d.as_number()) {
            (Some((m, c)), Some(Rational::ONE)) if simple(m) && c == Rational::ONE => {
                let mut product = Sum::number(Rational::ONE);
                for (base, e) in m.powers() {
                    product = product.times(&Sum::base(base.clone(), e.times(exponent)?), budget)?;
                }
                Self::of(product)
            }
            _ => Self::expression(&[&rest], |t| match degree {
                2 => format!("sqrt({})", t[0]),
                _ => format!("root({degree};{})", t[0]),
            })?,
        };
        outside.times(&inside, budget)
    }

    /// `n!`
    pub fn factorial(&self) -> Option<Self> {
        match self.as_whole() {
            Some(n @ 0..=MAX_FACTORIAL) => {
                let product = (1..=n).try_fold(1i128, |product, k| product.checked_mul(k))?;
                Some(Self::number(Rational::whole(product)))
            }
            _ => Self::expression(&[self], |t| format!("factorial({})", t[0])),
        }
    }

    /// `n` over `k`.
    pub fn choose(&self, k: &Self) -> Option<Self> {
        match (self.as_whole(), k.as_whole()) {
            (Some(n @ 0..=200), Some(k @ 0..=200)) => {
                let mut product = 1i128;
                for i in 0..k.min(n - k) {
                    product = product.checked_mul(n - i)? / (i + 1);
                }
                Some(Self::number(Rational::whole(if k > n { 0 } else { product })))
            }
            _ => Self::expression(&[self, k], |t| format!("binom({};{})", t[0], t[1])),
        }
    }

    /// A function that is not looked into, of this value.
    pub fn applied(&self, function: &str) -> Option<Self> {
        Self::expression(&[self], |t| format!("{function}({})", t[0]))
    }

    /// Absolute value, floor or ceiling, by its name.
    pub fn rounded(&self, function: &str) -> Option<Self> {
        Some(match (self.as_number(), function) {
            (Some(value), "abs") => Self::number(if value.is_negative() { value.negated()? } else { value }),
            (Some(value), "floor") => Self::number(Rational::whole(value.floor())),
            (Some(value), "ceil") => Self::number(Rational::whole(value.negated()?.floor().checked_neg()?)),
            _ => return self.applied(function),
        })
    }
}

/// The root of a rational number.
fn root_of(value: Rational, degree: i128, budget: &Budget) -> Option<Value> {
    if value.is_negative() {
        let positive = root_of(value.negated()?, degree, budget)?;
        return match degree {
            2 => positive.times(&Value::imaginary(), budget),
            d if d % 2 == 1 => positive.negated(),
            _ => Some(Value::name(format!("root({degree};{value})"))),
        };
    }
    let top = root_of_whole(value.numerator(), degree, budget)?;
    top.over(&root_of_whole(value.denominator(), degree, budget)?, budget)
}

fn root_of_whole(value: i128, degree: i128, budget: &Budget) -> Option<Value> {
    if value > MAX_FACTORED {
        let power = u32::try_from(degree).ok()?;
        let mut near = (value as f64).powf(1.0 / degree as f64).round() as i128;
        near =
            [near - 1, near, near + 1].into_iter().find(|r| r.checked_pow(power) == Some(value)).unwrap_or(0);
        let name = if degree == 2 { format!("sqrt({value})") } else { format!("root({degree};{value})") };
        return Some(if near > 0 { Value::number(Rational::whole(near)) } else { Value::name(name) });
    }
    budget.spend(FACTOR_STEPS)?;
    let mut rest = u64::try_from(value).ok()?;
    let mut outside = 1i128;
    let mut inside = Sum::number(Rational::ONE);
    if rest == 0 {
        return Some(Value::number(Rational::ZERO));
    }
    let mut take = |p: u64, count: i128| -> Option<()> {
        outside = outside.checked_mul(i128::from(p).checked_pow(u32::try_from(count / degree).ok()?)?)?;
        if count % degree > 0 {
            let exponent = Rational::new(count % degree, degree)?;
            inside = inside.times(&Sum::base(Base::Prime(p), exponent), budget)?;
        }
        Some(())
    };
    let mut p = 2u64;
    while p * p <= rest {
        let mut count = 0;
        while rest % p == 0 {
            (rest, count) = (rest / p, count + 1);
        }
        if count > 0 {
            take(p, count)?;
        }
        p += if p == 2 { 1 } else { 2 };
    }
    if rest > 1 {
        take(rest, 1)?;
    }
    Some(Value::of(inside.scaled(Rational::whole(outside))?))
}

/// A sum as text: `x^2-3*sqrt(2)*x/4+1`; `None` if that is too long.
pub fn written(sum: &Sum) -> Option<String> {
    let mut out = String::new();
    for (monomial, c) in sum.terms() {
        if c.is_negative() {
            out.push('-');
        } else if !out.is_empty() {
            out.push('+');
        }
        let factors = factors(monomial);
        let top = c.numerator().unsigned_abs();
        if top != 1 || factors.is_empty() {
            out.push_str(&top.to_string());
            if !factors.is_empty() {
                out.push('*');
            }
        }
        out.push_str(&factors);
        if c.denominator() != 1 {
            out.push_str(&format!("/{}", c.denominator()));
        }
        if out.len() > MAX_WRITTEN {
            return None;
        }
    }
    Some(if out.is_empty() { "0".into() } else { out })
}

/// The factors of a monomial: the product under one square root, other roots, the imaginary unit, names.
fn factors(monomial: &Monomial) -> String {
    let mut parts = Vec::new();
    let mut under = 1u128;
    for (base, e) in monomial.powers() {
        match base {
            Base::Prime(p) if e.numerator() == 1 && e.denominator() == 2 => {
                match under.checked_mul(u128::from(*p)) {
                    Some(product) => under = product,
                    None => parts.push(format!("sqrt({p})")),
                }
            }
            Base::Prime(p) => parts.push(format!("{p}^({e})")),
            Base::Imaginary => parts.push("i".into()),
            Base::Name(name) if e == Rational::ONE => parts.push(name.clone()),
            Base::Name(name) => {
                let simple = name.chars().all(|c| c.is_alphanumeric() || "\\_".contains(c));
                let name = if simple { name.clone() } else { format!("({name})") };
                match e.as_whole() {
                    Some(whole) => parts.push(format!("{name}^{whole}")),
                    None => parts.push(format!("{name}^({e})")),
                }
            }
        }
    }
    if under > 1 {
        parts.insert(0, format!("sqrt({under})"));
    }
    parts.join("*")
}
