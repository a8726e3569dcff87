//! How sums are written: the form in which answers are compared.

use super::rational::Rational;
use super::sum::{Base, Monomial, Sum};
use super::value::MAX_WRITTEN;

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

/// The factors of a monomial: the product under one square root, other roots, the imaginary unit,
/// names.
pub fn factors(monomial: &Monomial) -> String {
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
            Base::Prime(p) => match e.as_whole() {
                Some(1) => parts.push(p.to_string()),
                Some(whole @ 0..) => parts.push(format!("{p}^{whole}")),
                _ => parts.push(format!("{p}^({e})")),
            },
            Base::Imaginary => parts.push("i".into()),
            Base::Name(name) if e == Rational::ONE => parts.push(name.clone()),
            Base::Power(power) => {
                let coefficient = Sum::term(power.exponent.clone(), e).and_then(|sum| written(&sum));
                let exponent = coefficient.unwrap_or_else(|| format!("({e})*{}", factors(&power.exponent)));
                parts.push(format!("{}^({exponent})", base_text(&power.base)));
            }
            Base::Name(name) => {
                let name = base_text(&Base::Name(name.clone()));
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

/// What stands before `^`.
pub fn base_text(base: &Base) -> String {
    match base {
        Base::Prime(p) => p.to_string(),
        Base::Imaginary => "i".into(),
        Base::Name(name) if name.chars().all(|c| c.is_alphanumeric() || "\\_".contains(c)) => name.clone(),
        Base::Name(name) => format!("({name})"),
        Base::Power(power) => format!("({})", power.text),
    }
}
