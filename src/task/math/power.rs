//! Powers and roots of values.

use super::prime::{FACTOR_STEPS, factors, factors_of_fraction, small_factors};
use super::rational::Rational;
use super::sum::{Base, Budget, Monomial, Power, Sum};
use super::value::{MAX_WRITTEN, Value};
use super::written::{base_text, factors as written_factors, written};

/// Roots up to this one are looked into; others are names.
const MAX_ROOT: i128 = 12;
/// Powers of sums up to this exponent are multiplied out; others are names.
const MAX_EXPONENT: i128 = 64;
/// Powers of numbers and of single names up to this exponent are kept as powers; others are names.
const MAX_POWER: i128 = 1_000_000_000_000;

impl Value {
    /// Power. Of a number or a name with any exponent, so that `2^{n+1}` is `2*2^n`; what can't be
    /// multiplied out becomes a name.
    pub fn power(&self, exponent: &Self, budget: &Budget) -> Option<Self> {
        let Some(e) = exponent.as_number() else { return self.symbolic_power(exponent, budget) };
        let (n, d) = (e.numerator(), e.denominator());
        if let Some(base) = self.as_number()
            && d == 1
        {
            let small = i32::try_from(n).ok().and_then(|n| base.power(n));
            return match small {
                Some(value) => Some(Self::number(value)),
                None if base.is_zero() && n < 0 => None,
                None if base.is_zero() => Some(Self::number(Rational::ZERO)),
                None => self.large_power(n, budget).or_else(|| self.power_name(exponent)),
            };
        }
        if d > MAX_ROOT {
            return self.power_name(exponent);
        }
        let root = if d == 1 { self.clone() } else { self.root(d, budget)? };
        if n.unsigned_abs() > MAX_EXPONENT.unsigned_abs() {
            return root.large_power(n, budget).or_else(|| self.power_name(exponent));
        }
        let times = u32::try_from(n.unsigned_abs()).ok()?;
        let (top, bottom) = (root.n.power(times, budget)?, root.d.power(times, budget)?);
        if n < 0 { Self::quotient(bottom, top, budget) } else { Self::quotient(top, bottom, budget) }
    }

    fn power_name(&self, exponent: &Self) -> Option<Self> {
        Self::expression(&[self, exponent], |t| format!("({})^({})", t[0], t[1]))
    }

    /// A large whole power of a quotient of single terms whose coefficients can be factored.
    fn large_power(&self, n: i128, budget: &Budget) -> Option<Self> {
        if n.unsigned_abs() > MAX_POWER.unsigned_abs() {
            return None;
        }
        budget.spend(FACTOR_STEPS)?;
        let mut out = Monomial::default();
        let mut negative = false;
        for (sum, sign) in [(&self.n, 1), (&self.d, -1)] {
            let (monomial, c) = sum.single()?;
            negative ^= c.is_negative() && n % 2 != 0;
            let c = if c.is_negative() { c.negated()? } else { c };
            for (p, e) in factors_of_fraction(c)? {
                out = out.with(Base::Prime(p), Rational::whole(e.checked_mul(sign)?.checked_mul(n)?))?;
            }
            for (base, e) in monomial.powers() {
                if *base == Base::Imaginary {
                    // i^n by n modulo 4: 1, i, -1, -i.
                    let turns = n.checked_mul(sign)?.rem_euclid(4);
                    negative ^= turns >= 2;
                    if turns % 2 == 1 {
                        out = out.with(Base::Imaginary, Rational::ONE)?;
                    }
                } else {
                    out = out.with(base.clone(), e.times(Rational::whole(n.checked_mul(sign)?))?)?;
                }
            }
        }
        let sum = Sum::term(out, Rational::whole(if negative { -1 } else { 1 }))?;
        Self::split(sum, budget)
    }

    /// A single term as a quotient without negative exponents of names.
    fn split(sum: Sum, budget: &Budget) -> Option<Self> {
        let (monomial, c) = sum.single()?;
        let (mut top, mut bottom) = (Monomial::default(), Monomial::default());
        for (base, e) in monomial.powers() {
            if e.is_negative() && base.name().is_some() {
                bottom = bottom.with(base.clone(), e.negated()?)?;
            } else {
                top = top.with(base.clone(), e)?;
            }
        }
        Self::quotient(Sum::term(top, c)?, Sum::term(bottom, Rational::ONE)?, budget)
    }

    /// A power whose exponent has names: split along the sum in the exponent, and the product in
    /// the base.
    fn symbolic_power(&self, exponent: &Self, budget: &Budget) -> Option<Self> {
        if !exponent.is_whole_sum() {
            return self.power_name(exponent);
        }
        budget.spend(FACTOR_STEPS)?;
        let Some(bases) = self.bases(budget) else { return self.power_name(exponent) };
        let mut out = Self::number(Rational::ONE);
        for (by, coefficient) in exponent.n.terms() {
            if by.is_one() {
                out = out.times(&self.power(&Self::number(coefficient), budget)?, budget)?;
                continue;
            }
            let mut product = Monomial::default();
            for (base, e) in &bases {
                let (inner, by, factor) = match base {
                    Base::Power(power) => {
                        let (by, factor) = power.exponent.times(by)?;
                        (power.base.clone(), by, factor)
                    }
                    base => (base.clone(), by.clone(), Rational::ONE),
                };
                let e = e.times(coefficient)?.times(factor)?;
                if by.is_one() {
                    product = product.with(inner, e)?;
                    continue;
                }
                let text = format!("{}^({})", base_text(&inner), written_factors(&by));
                if text.len() > MAX_WRITTEN {
                    return None;
                }
                let power = Power { text, base: inner, exponent: by };
                product = product.with(Base::Power(Box::new(power)), e)?;
            }
            out = out.times(&Self::split(Sum::term(product, Rational::ONE)?, budget)?, budget)?;
        }
        Some(out)
    }

    /// The bases, with exponents, whose product a value is: primes, names, and sums as names.
    fn bases(&self, budget: &Budget) -> Option<Vec<(Base, Rational)>> {
        let mut out = Vec::new();
        for (sum, sign) in [(&self.n, Rational::ONE), (&self.d, Rational::whole(-1))] {
            let mut c = sum.content()?;
            match sum.single() {
                Some((monomial, coefficient)) => {
                    c = coefficient;
                    for (base, e) in monomial.powers() {
                        out.push((base.clone(), e.times(sign)?));
                    }
                }
                None => {
                    let primitive = sum.scaled(Rational::ONE.over(c)?)?;
                    out.push((Base::Name(written(&primitive)?), sign));
                }
            }
            if c.is_negative() {
                out.push((Base::Name("-1".into()), sign));
                c = c.negated()?;
            }
            budget.spend(FACTOR_STEPS)?;
            for (p, e) in factors_of_fraction(c)? {
                out.push((Base::Prime(p), Rational::whole(e).times(sign)?));
            }
        }
        Some(out)
    }

    /// The root of this degree, 2 and more: the positive one of a positive number, an imaginary one
    /// of a negative number if the degree is 2.
    pub fn root(&self, degree: i128, budget: &Budget) -> Option<Self> {
        if let (Some(top), Some(bottom)) = (self.n.as_number(), self.d.as_number()) {
            return root_of(top.over(bottom)?, degree, budget);
        }
        // A number in front comes out of the root; names to the power 1 and roots of primes get
        // smaller exponents; all else is a name.
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
                Base::Prime(_) | Base::Power(_) => true,
                Base::Imaginary => false,
            })
        };
        let inside = match (rest.n.single(), rest.d.as_number()) {
            (Some((m, c)), Some(Rational::ONE)) if simple(m) && c == Rational::ONE => {
                let mut product = Monomial::default();
                for (base, e) in m.powers() {
                    product = product.with(base.clone(), e.times(exponent)?)?;
                }
                Self::of(Sum::term(product, Rational::ONE)?)
            }
            _ => Self::expression(&[&rest], |t| match degree {
                2 => format!("sqrt({})", t[0]),
                _ => format!("root({degree};{})", t[0]),
            })?,
        };
        outside.times(&inside, budget)
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
    budget.spend(FACTOR_STEPS)?;
    if value == 0 {
        return Some(Value::number(Rational::ZERO));
    }
    let (mut exponents, mut rest) = small_factors(value.unsigned_abs());
    if let Some(all) = i128::try_from(rest).ok().and_then(factors) {
        exponents.extend(all);
        rest = 1;
    }
    let mut monomial = Monomial::default();
    for (p, count) in exponents {
        monomial = monomial.with(Base::Prime(p), Rational::new(count, degree)?)?;
    }
    let small = Value::of(Sum::term(monomial, Rational::ONE)?);
    if rest == 1 {
        return Some(small);
    }
    let power = u32::try_from(degree).ok()?;
    let near = (rest as f64).powf(1.0 / degree as f64).round() as u128;
    let exact =
        [near.saturating_sub(1), near, near + 1].into_iter().find(|r| r.checked_pow(power) == Some(rest));
    let name = if degree == 2 { format!("sqrt({rest})") } else { format!("root({degree};{rest})") };
    let large = match exact {
        Some(root) => Value::number(Rational::whole(i128::try_from(root).ok()?)),
        None => Value::name(name),
    };
    small.times(&large, budget)
}
