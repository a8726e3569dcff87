//! The greatest common divisor of polynomials with rational coefficients, in any number of names:
//! Euclid's algorithm with pseudo-remainders, name by name (Knuth, The Art of Computer Programming
//! 2, section 4.6.1).

use std::collections::BTreeSet;

use super::rational::Rational;
use super::sum::{Base, Budget, Sum};

/// Most steps that one divisor may cost. Beyond it there is none.
const MAX_STEPS: u32 = 6_000;

/// The greatest common divisor, with whole coefficients that share no divisor; `None` if these are
/// no polynomials, or if it costs too much.
pub fn common_divisor(a: &Sum, b: &Sum, budget: &Budget) -> Option<Sum> {
    let plain = |sum: &Sum| {
        sum.algebraic().is_empty()
            && sum.terms().iter().all(|(m, _)| m.powers().all(|(_, e)| e.as_whole().is_some_and(|e| e > 0)))
    };
    if !plain(a) || !plain(b) {
        return None;
    }
    let names: BTreeSet<Base> = a.variables().intersection(&b.variables()).cloned().collect();
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<Base> = a.variables().union(&b.variables()).cloned().collect();
    let part = budget.part(MAX_STEPS);
    let before = part.left();
    let divisor = divisor(a, b, &all.into_iter().collect::<Vec<_>>(), &part);
    budget.spend((before - part.left()) as usize)?;
    divisor
}

fn divisor(a: &Sum, b: &Sum, names: &[Base], budget: &Budget) -> Option<Sum> {
    budget.spend(1)?;
    if a.is_zero() || b.is_zero() {
        return primitive(if a.is_zero() { b } else { a });
    }
    let Some((name, names)) = names.split_first() else { return Some(Sum::number(Rational::ONE)) };
    let (content_a, mut a) = content(a, name, names, budget)?;
    let (content_b, mut b) = content(b, name, names, budget)?;
    let outside = divisor(&content_a, &content_b, names, budget)?;
    if degree(&a, name) < degree(&b, name) {
        (a, b) = (b, a);
    }
    while !b.is_zero() {
        if degree(&b, name).is_zero() {
            // What is free of the name, and has no content, divides nothing else.
            return Some(outside);
        }
        let rest = remainder(&a, &b, name, budget)?;
        let rest = if rest.is_zero() { rest } else { content(&rest, name, names, budget)?.1 };
        (a, b) = (b, rest);
    }
    primitive(&outside.times(&a, budget)?)
}

fn primitive(sum: &Sum) -> Option<Sum> {
    sum.scaled(Rational::ONE.over(sum.content()?)?)
}

fn degree(sum: &Sum, name: &Base) -> Rational {
    sum.by_exponent(name).last_key_value().map_or(Rational::ZERO, |(e, _)| *e)
}

/// The divisor of the coefficients of a name's powers, and the sum divided by it.
fn content(sum: &Sum, name: &Base, names: &[Base], budget: &Budget) -> Option<(Sum, Sum)> {
    let mut content = Sum::default();
    for coefficient in sum.by_exponent(name).values() {
        content = divisor(&content, coefficient, names, budget)?;
    }
    let rest = sum.divided(&content, budget)?;
    Some((content, primitive(&rest)?))
}

/// The remainder of `a` times a power of the leading coefficient of `b`, divided by `b`.
fn remainder(a: &Sum, b: &Sum, name: &Base, budget: &Budget) -> Option<Sum> {
    let by = b.by_exponent(name);
    let (degree, lead) = by.last_key_value()?;
    let mut rest = a.clone();
    loop {
        let of = rest.by_exponent(name);
        let Some((e, c)) = of.last_key_value().filter(|(e, _)| *e >= degree) else { return Some(rest) };
        let shift = e.minus(*degree)?;
        let shifted = match shift.is_zero() {
            true => c.clone(),
            false => c.times(&Sum::base(name.clone(), shift), budget)?,
        };
        rest = rest.times(lead, budget)?.minus(&shifted.times(b, budget)?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Sum {
        Sum::base(Base::Name(name.into()), Rational::ONE)
    }

    /// `a x + b y + c z + d`
    fn line(by: [i128; 4]) -> Sum {
        let parts = ["x", "y", "z"].map(name).into_iter().chain([Sum::number(Rational::ONE)]);
        parts.zip(by).fold(Sum::default(), |sum, (part, by)| {
            sum.plus(&part.scaled(Rational::whole(by)).unwrap()).unwrap()
        })
    }

    #[test]
    fn a_common_factor_is_found() {
        let budget = Budget::new();
        let factors = [[1, 1, 0, 0], [1, 0, -1, 0], [0, 0, 1, 1], [2, -3, 0, 5], [0, 1, 0, 0]].map(line);
        for (i, k) in factors.iter().enumerate() {
            for n in factors.iter().skip(i + 1) {
                let d = line([1, 2, 3, 4]);
                let (a, b) = (k.times(n, &budget).unwrap(), k.times(&d, &budget).unwrap());
                let found = common_divisor(&a, &b, &budget).unwrap();
                assert!(found == *k || found == k.scaled(Rational::whole(-1)).unwrap(), "{found:?} {k:?}");
            }
        }
        let none = common_divisor(&factors[0], &factors[1], &budget).unwrap();
        assert!(none.as_number().is_some());
        assert_eq!(common_divisor(&name("x"), &name("y"), &budget), None);
    }
}
