//! Sums of monomials with rational coefficients: the ring in which answers are brought to one form.
//!
//! A monomial is a product of roots of primes (exponents between 0 and 1), perhaps the imaginary
//! unit, and powers of names. Roots of different products of primes are linearly independent over
//! the rationals, so a sum without names is 0 only if it has no terms.
//!
//! A term whose number doesn't fit 128 bits is kept as powers of primes with whole exponents, 2^200
//! say, and its coefficient has none of the small primes. Such terms are multiplied, divided and
//! raised exactly; they are added only to terms of the same powers.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::divisor::common_divisor;
use super::prime;
use super::rational::{Rational, gcd};

/// Most terms of a sum.
const MAX_TERMS: usize = 400;
/// Most products of terms in one answer.
const MAX_STEPS: u32 = 30_000;

/// What is left of the work that one answer may cost.
pub struct Budget(Cell<u32>);

impl Budget {
    /// A full one.
    pub fn new() -> Self {
        Self(Cell::new(MAX_STEPS))
    }

    /// A part of what is left, of this size.
    pub fn part(&self, steps: u32) -> Self {
        Self(Cell::new(steps.min(self.0.get())))
    }

    /// How much is left.
    pub fn left(&self) -> u32 {
        self.0.get()
    }

    /// Takes `steps`; `None` when there are not as many left.
    pub fn spend(&self, steps: usize) -> Option<()> {
        let left = self.0.get().checked_sub(u32::try_from(steps).ok()?)?;
        self.0.set(left);
        Some(())
    }
}

/// What monomials are powers of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// A prime; its exponent is above 0 and below 1, or any where the term doesn't fit 128 bits.
    Prime(u64),
    /// The imaginary unit; its exponent is 1.
    Imaginary,
    /// A variable, a constant such as π, or an expression that is not looked into, in canonical
    /// form.
    Name(String),
    /// A base to the power of a product of names, such as 2^n.
    Power(Box<Power>),
}

/// A base to a power that is no number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Power {
    /// How it is written.
    pub text: String,
    /// What is raised, not a power itself.
    pub base: Base,
    /// The exponent, without a coefficient.
    pub exponent: Monomial,
}

impl Base {
    /// What it is called, if it is no number.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Power(power) => Some(&power.text),
            Self::Prime(_) | Self::Imaginary => None,
        }
    }
}

/// Exponents by base, none 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monomial(BTreeMap<Base, Rational>);

impl Monomial {
    /// The sum of the exponents of names.
    fn degree(&self) -> Rational {
        self.names().fold(Rational::ZERO, |sum, (_, e)| sum.plus(e).unwrap_or(sum))
    }

    /// Names with their exponents.
    pub fn names(&self) -> impl Iterator<Item = (&str, Rational)> {
        self.0.iter().filter_map(|(base, e)| Some((base.name()?, *e)))
    }

    /// All bases with their exponents, roots of primes first, names last.
    pub fn powers(&self) -> impl Iterator<Item = (&Base, Rational)> {
        self.0.iter().map(|(b, e)| (b, *e))
    }

    /// The exponent of a base, 0 if it is not there.
    pub fn exponent(&self, base: &Base) -> Rational {
        self.0.get(base).copied().unwrap_or(Rational::ZERO)
    }

    /// Whether it is 1.
    pub fn is_one(&self) -> bool {
        self.0.is_empty()
    }

    /// Multiplied by a base to a power.
    pub fn with(mut self, base: Base, exponent: Rational) -> Option<Self> {
        let sum = self.exponent(&base).plus(exponent)?;
        if sum.is_zero() {
            self.0.remove(&base);
        } else {
            self.0.insert(base, sum);
        }
        Some(self)
    }

    /// A product, and the rational factor that comes out of it.
    pub fn times(&self, other: &Self) -> Option<(Self, Rational)> {
        let mut out = self.clone();
        let mut factor = Rational::ONE;
        for (base, e) in &other.0 {
            let before = out.exponent(base);
            let mut sum = before.plus(*e)?;
            match base {
                Base::Prime(p) if sum >= Rational::ONE && is_root(before) && is_root(*e) => {
                    sum = sum.minus(Rational::ONE)?;
                    factor = factor.times(Rational::whole(i128::from(*p)))?;
                }
                Base::Imaginary if sum.as_whole() == Some(2) => {
                    sum = Rational::ZERO;
                    factor = factor.negated()?;
                }
                _ => {}
            }
            if sum.is_zero() {
                out.0.remove(base);
            } else {
                out.0.insert(base.clone(), sum);
            }
        }
        Some((out, factor))
    }

    /// Whether it has powers of primes that are no roots.
    fn is_large(&self) -> bool {
        self.0.iter().any(|(base, e)| matches!(base, Base::Prime(_)) && !is_root(*e))
    }

    /// Its term with a coefficient in the one form it has: no whole powers of primes if all fits
    /// 128 bits; else all powers of small primes in the monomial.
    fn folded(self, value: Rational) -> Option<(Self, Rational)> {
        if !self.is_large() {
            return Some((self, value));
        }
        let (unfolded, rest) = self.unfolded(value)?;
        let (mut top, mut bottom) = (Some(rest.numerator()), Some(rest.denominator()));
        for (base, e) in &unfolded.0 {
            let Base::Prime(p) = base else { continue };
            let part = if e.floor() > 0 { &mut top } else { &mut bottom };
            *part = part.and_then(|part| {
                let power = i128::from(*p).checked_pow(u32::try_from(e.floor().unsigned_abs()).ok()?)?;
                part.checked_mul(power)
            });
        }
        let (Some(top), Some(bottom)) = (top, bottom) else { return Some((unfolded, rest)) };
        let mut roots = Self::default();
        for (base, e) in unfolded.0 {
            let whole = if matches!(base, Base::Prime(_)) { e.floor() } else { 0 };
            roots = roots.with(base, e.minus(Rational::whole(whole))?)?;
        }
        Some((roots, Rational::new(top, bottom)?))
    }

    /// Its term with all small primes of the coefficient, and those that it has itself, in the
    /// monomial.
    fn unfolded(&self, value: Rational) -> Option<(Self, Rational)> {
        let mut out = self.clone();
        let mut parts = [1i128; 2];
        for (i, n) in [value.numerator(), value.denominator()].into_iter().enumerate() {
            let sign = if i == 0 { 1 } else { -1 };
            let (exponents, mut rest) = prime::small_factors(n.unsigned_abs());
            for (p, e) in exponents {
                out = out.with(Base::Prime(p), Rational::whole(sign * e))?;
            }
            for base in self.0.keys() {
                let Base::Prime(p) = base else { continue };
                while rest != 0 && rest.is_multiple_of(u128::from(*p)) {
                    rest /= u128::from(*p);
                    out = out.with(base.clone(), Rational::whole(sign))?;
                }
            }
            parts[i] = i128::try_from(rest).ok()?.checked_mul(n.signum())?;
        }
        Some((out, Rational::new(parts[0], parts[1])?))
    }

    /// What `other` must be multiplied with, as far as names go, to give this one.
    fn over(&self, other: &Self) -> Option<Self> {
        let mut out = self.clone();
        for (base, e) in &other.0 {
            let rest = self.exponent(base).minus(*e)?;
            match rest.cmp(&Rational::ZERO) {
                Ordering::Less => return None,
                Ordering::Equal => drop(out.0.remove(base)),
                Ordering::Greater => drop(out.0.insert(base.clone(), rest)),
            }
        }
        Some(out)
    }

    /// Order of names: by degree, then by the exponent of the first name in which they differ.
    /// Compatible with products.
    fn rank(&self, other: &Self) -> Ordering {
        self.degree().cmp(&other.degree()).then_with(|| {
            let mut names: Vec<&Base> = self.0.keys().chain(other.0.keys()).collect();
            names.retain(|base| base.name().is_some());
            names.sort_by_key(|base| base.name());
            names
                .into_iter()
                .map(|n| self.exponent(n).cmp(&other.exponent(n)))
                .find(|o| o.is_ne())
                .unwrap_or(Ordering::Equal)
        })
    }
}

/// A sum of monomials; no coefficient is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum(BTreeMap<Monomial, Rational>);

impl Sum {
    /// A number.
    pub fn number(value: Rational) -> Self {
        Self(if value.is_zero() { BTreeMap::new() } else { BTreeMap::from([(Monomial::default(), value)]) })
    }

    /// A base to a power that isn't 0; of a prime, a root.
    pub fn base(base: Base, exponent: Rational) -> Self {
        Self(BTreeMap::from([(Monomial(BTreeMap::from([(base, exponent)])), Rational::ONE)]))
    }

    /// A monomial with a coefficient; `None` if its parts don't fit.
    pub fn term(monomial: Monomial, value: Rational) -> Option<Self> {
        if value.is_zero() {
            return Some(Self::default());
        }
        Some(Self(BTreeMap::from([monomial.folded(value)?])))
    }

    /// A product of primes; `None` if an exponent doesn't fit.
    pub fn primes(exponents: &prime::Exponents) -> Option<Self> {
        let mut monomial = Monomial::default();
        for (p, e) in exponents {
            monomial = monomial.with(Base::Prime(*p), Rational::whole(*e))?;
        }
        Self::term(monomial, Rational::ONE)
    }

    /// Whether it is 0.
    pub fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a sum that is a rational number.
    pub fn as_number(&self) -> Option<Rational> {
        match self.0.first_key_value() {
            None => Some(Rational::ZERO),
            Some((m, value)) if m.is_one() && self.0.len() == 1 => Some(*value),
            _ => None,
        }
    }

    /// Its term without names, roots and the imaginary unit.
    pub fn constant(&self) -> Rational {
        self.0.get(&Monomial::default()).copied().unwrap_or(Rational::ZERO)
    }

    /// Its only term.
    pub fn single(&self) -> Option<(&Monomial, Rational)> {
        let mut terms = self.0.iter();
        match (terms.next(), terms.next()) {
            (Some((m, value)), None) => Some((m, *value)),
            _ => None,
        }
    }

    /// Its terms, the leading one first.
    pub fn terms(&self) -> Vec<(&Monomial, Rational)> {
        let mut terms: Vec<_> = self.0.iter().map(|(m, c)| (m, *c)).collect();
        terms.sort_by(|(a, _), (b, _)| b.rank(a).then_with(|| a.cmp(b)));
        terms
    }

    fn leading(&self) -> Option<(&Monomial, Rational)> {
        let best =
            self.0.iter().reduce(|best, term| match best.0.rank(term.0).then_with(|| term.0.cmp(best.0)) {
                Ordering::Less => term,
                _ => best,
            });
        best.map(|(m, c)| (m, *c))
    }

    /// All names in it.
    pub fn names(&self) -> BTreeSet<String> {
        self.0.keys().flat_map(Monomial::names).map(|(name, _)| name.to_string()).collect()
    }

    /// All other bases in it.
    pub(super) fn algebraic(&self) -> BTreeSet<Base> {
        let bases = self.0.keys().flat_map(|m| m.0.keys());
        bases.filter(|b| b.name().is_none()).cloned().collect()
    }

    fn add(&mut self, monomial: Monomial, value: Rational) -> Option<()> {
        let before = self.0.get(&monomial).copied().unwrap_or(Rational::ZERO);
        // Where a sum of coefficients doesn't fit, their common factor waits outside.
        let (sum, outside) = match before.plus(value) {
            Some(sum) => (sum, Rational::ONE),
            None => {
                let common = gcd(before.numerator().unsigned_abs(), value.numerator().unsigned_abs());
                let common = Rational::whole(i128::try_from(common).ok()?);
                (before.over(common)?.plus(value.over(common)?)?, common)
            }
        };
        if sum.is_zero() {
            self.0.remove(&monomial);
        } else if before.is_zero() || outside == Rational::ONE && !monomial.is_large() {
            self.0.insert(monomial, sum);
        } else {
            self.0.remove(&monomial);
            let (monomial, value) = term_product((&monomial, sum), (&Monomial::default(), outside))?;
            return self.add(monomial, value);
        }
        (self.0.len() <= MAX_TERMS).then_some(())
    }

    /// Sum.
    pub fn plus(&self, other: &Self) -> Option<Self> {
        let mut out = self.clone();
        for (m, c) in &other.0 {
            out.add(m.clone(), *c)?;
        }
        Some(out)
    }

    /// Difference.
    pub fn minus(&self, other: &Self) -> Option<Self> {
        self.plus(&other.scaled(Rational::whole(-1))?)
    }

    /// Product with a number.
    pub fn scaled(&self, factor: Rational) -> Option<Self> {
        if factor.is_zero() {
            return Some(Self::default());
        }
        let mut out = Self::default();
        for (m, c) in &self.0 {
            let (m, c) = term_product((m, *c), (&Monomial::default(), factor))?;
            out.add(m, c)?;
        }
        Some(out)
    }

    /// Product.
    pub fn times(&self, other: &Self, budget: &Budget) -> Option<Self> {
        budget.spend(self.0.len() * other.0.len())?;
        let mut out = Self::default();
        for (a, x) in &self.0 {
            for (b, y) in &other.0 {
                let (m, c) = term_product((a, *x), (b, *y))?;
                out.add(m, c)?;
            }
        }
        Some(out)
    }

    /// Power.
    pub fn power(&self, exponent: u32, budget: &Budget) -> Option<Self> {
        let mut out = Self::number(Rational::ONE);
        for _ in 0..exponent {
            out = out.times(self, budget)?;
        }
        Some(out)
    }

    /// The positive number by which its terms can be divided so that they are whole and share no
    /// divisor.
    pub fn content(&self) -> Option<Rational> {
        let (mut n, mut d) = (0u128, 1i128);
        for c in self.0.values() {
            n = if n == 0 { c.numerator().unsigned_abs() } else { gcd(n, c.numerator().unsigned_abs()) };
            let g = i128::try_from(gcd(d.unsigned_abs(), c.denominator().unsigned_abs())).ok()?;
            d = d.checked_mul(c.denominator() / g)?;
        }
        Rational::new(i128::try_from(n.max(1)).ok()?, d)
    }

    /// Whether its leading coefficient is below 0.
    pub fn leads_negative(&self) -> bool {
        self.leading().is_some_and(|(_, c)| c.is_negative())
    }

    /// `self / divisor` if that is a sum again. The divisor must be free of roots and of the
    /// imaginary unit.
    pub fn divided(&self, divisor: &Self, budget: &Budget) -> Option<Self> {
        let (lead, by) = divisor.leading()?;
        let (mut rest, mut quotient) = (self.clone(), Self::default());
        while let Some((m, c)) = rest.leading() {
            let part = Self::term(m.over(lead)?, c.over(by)?)?;
            quotient = quotient.plus(&part)?;
            rest = rest.minus(&part.times(divisor, budget)?)?;
        }
        Some(quotient)
    }

    /// Its conjugate over a base: the terms with the square root of a prime, or with the imaginary
    /// unit, change their sign.
    pub(super) fn conjugate(&self, base: &Base) -> Option<Self> {
        let turn = |m: &Monomial, c: &Rational| match m.exponent(base).is_zero() {
            true => Some(*c),
            false => c.negated(),
        };
        self.0.iter().map(|(m, c)| Some((m.clone(), turn(m, c)?))).collect::<Option<_>>().map(Self)
    }

    /// A factor that frees the sum of one of its roots or of the imaginary unit; `None` if there is
    /// none to be freed of.
    fn freeing(&self) -> Option<Self> {
        if let Some((monomial, _)) = self.single()
            && monomial.is_large()
        {
            let mut inverse = Monomial::default();
            for (base, e) in monomial.powers().filter(|(base, _)| matches!(base, Base::Prime(_))) {
                inverse = inverse.with(base.clone(), e.negated()?)?;
            }
            return Self::term(inverse, Rational::ONE);
        }
        let half = Rational::new(1, 2)?;
        for base in self.algebraic() {
            let exponents: BTreeSet<Rational> =
                self.0.keys().map(|m| m.exponent(&base)).filter(|e| !e.is_zero()).collect();
            let everywhere = self.0.keys().all(|m| !m.exponent(&base).is_zero());
            if everywhere && exponents.len() == 1 && base != Base::Imaginary {
                let e = *exponents.first()?;
                let missing = Rational::whole(i128::from(is_root(e))).minus(e)?;
                return Self::term(Monomial::default().with(base, missing)?, Rational::ONE);
            }
            if base == Base::Imaginary || exponents.iter().all(|e| *e == half) {
                return self.conjugate(&base);
            }
        }
        None
    }

    /// All bases in it that are names.
    pub(super) fn variables(&self) -> BTreeSet<Base> {
        self.0.keys().flat_map(|m| m.0.keys()).filter(|b| b.name().is_some()).cloned().collect()
    }

    /// Its coefficients by the exponent of a name, as sums of the rest.
    pub(super) fn by_exponent(&self, name: &Base) -> BTreeMap<Rational, Self> {
        let mut out: BTreeMap<Rational, Self> = BTreeMap::new();
        for (monomial, c) in &self.0 {
            let mut rest = monomial.clone();
            let exponent = rest.0.remove(name).unwrap_or(Rational::ZERO);
            out.entry(exponent).or_default().0.insert(rest, *c);
        }
        out
    }

    /// The largest monomial of names that divides every term of all of `sums`.
    fn shared(sums: [&Self; 2]) -> Monomial {
        let mut all = sums.iter().flat_map(|s| s.0.keys());
        let first: BTreeMap<Base, Rational> = all.next().map_or_else(BTreeMap::new, |m| {
            m.0.iter().filter(|(b, _)| b.name().is_some()).map(|(b, e)| (b.clone(), *e)).collect()
        });
        let least = all.fold(first, |mut least, m| {
            least.retain(|base, e| {
                *e = (*e).min(m.exponent(base));
                !e.is_zero()
            });
            least
        });
        Monomial(least)
    }

    /// Each term divided by a monomial of names that divides it.
    fn without(&self, shared: &Monomial) -> Option<Self> {
        self.0.iter().map(|(m, c)| Some((m.over(shared)?, *c))).collect::<Option<_>>().map(Self)
    }
}

/// Whether an exponent is that of a root: above 0 and below 1. (0 is that of what is not there.)
fn is_root(exponent: Rational) -> bool {
    !exponent.is_negative() && exponent < Rational::ONE
}

/// The product of two terms.
fn term_product(a: (&Monomial, Rational), b: (&Monomial, Rational)) -> Option<(Monomial, Rational)> {
    let (m, factor) = a.0.times(b.0)?;
    match a.1.times(b.1).and_then(|c| c.times(factor)) {
        Some(c) => m.folded(c),
        None => {
            let (m, first) = m.unfolded(a.1)?;
            let (m, second) = m.unfolded(b.1)?;
            let (m, third) = m.unfolded(factor)?;
            // The rests must be multiplied with what is now in the monomial.
            let (m, rest) = m.unfolded(first.times(second)?.times(third)?)?;
            m.folded(rest)
        }
    }
}

/// A quotient of sums in one form: the denominator is free of roots as far as conjugates go, has
/// whole coefficients without a common divisor and a positive leading one; common monomials are
/// cancelled, and so are common factors of polynomials, and a denominator that divides the
/// numerator or is divided by it. (Common factors of sums with roots are not looked for, nor those
/// that cost too much: equal quotients may then look different, never different ones equal.)
pub fn reduced(numerator: Sum, denominator: Sum, budget: &Budget) -> Option<(Sum, Sum)> {
    let (mut n, mut d) = (numerator, denominator);
    if d.is_zero() {
        return None;
    }
    let one = || Sum::number(Rational::ONE);
    if n.is_zero() {
        return Some((n, one()));
    }
    for _ in 0..8 {
        let Some(factor) = d.freeing() else { break };
        (n, d) = (n.times(&factor, budget)?, d.times(&factor, budget)?);
    }
    let shared = Sum::shared([&n, &d]);
    (n, d) = (n.without(&shared)?, d.without(&shared)?);
    if d.as_number().is_none() && d.algebraic().is_empty() {
        if let Some(quotient) = n.divided(&d, budget) {
            (n, d) = (quotient, one());
        } else if let Some(common) = common_divisor(&n, &d, budget).filter(|c| c.as_number().is_none()) {
            (n, d) = (n.divided(&common, budget)?, d.divided(&common, budget)?);
        } else if n.algebraic().is_empty()
            && let Some(quotient) = d.divided(&n, budget)
        {
            (n, d) = (one(), quotient);
        }
    }
    let mut scale = Rational::ONE.over(d.content()?)?;
    if d.leads_negative() {
        scale = scale.negated()?;
    }
    Some((n.scaled(scale)?, d.scaled(scale)?))
}
