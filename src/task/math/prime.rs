//! Products of primes: how whole numbers beyond 128 bits are held, so that powers, factorials and
//! long literals stay exact.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::rational::Rational;

/// Primes below this one are taken out of any number. Factorials and binomials up to it are
/// products of such primes.
pub const SMALL: u64 = 10_000;
/// Numbers up to this one are factored completely.
pub const MAX_FACTORED: i128 = 10_000_000_000;
/// What taking out the small primes costs in steps.
pub const FACTOR_STEPS: usize = 300;

static PRIMES: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let mut primes: Vec<u64> = Vec::new();
    for n in 2..SMALL {
        if primes.iter().take_while(|p| *p * *p <= n).all(|p| n % p != 0) {
            primes.push(n);
        }
    }
    primes
});

/// Exponents by prime.
pub type Exponents = BTreeMap<u64, i128>;

/// Takes the small primes out of a number: their exponents, and what is left.
pub fn small_factors(n: u128) -> (Exponents, u128) {
    let (mut rest, mut exponents) = (n, Exponents::new());
    if n == 0 {
        return (exponents, n);
    }
    for &p in PRIMES.iter() {
        let p_wide = u128::from(p);
        if rest < p_wide {
            break;
        }
        while rest.is_multiple_of(p_wide) {
            rest /= p_wide;
            *exponents.entry(p).or_default() += 1;
        }
    }
    (exponents, rest)
}

/// The prime factors of a positive number up to [`MAX_FACTORED`]; `None` beyond it.
pub fn factors(n: i128) -> Option<Exponents> {
    if !(1..=MAX_FACTORED).contains(&n) {
        return None;
    }
    // What has no prime below 10^4 is a prime up to 10^8, and may be a product of two up to 10^10.
    let (mut exponents, rest) = small_factors(n.unsigned_abs());
    let mut rest = u64::try_from(rest).ok()?;
    let mut p = SMALL + 1;
    while p * p <= rest {
        while rest.is_multiple_of(p) {
            rest /= p;
            *exponents.entry(p).or_default() += 1;
        }
        p += 2;
    }
    if rest > 1 {
        *exponents.entry(rest).or_default() += 1;
    }
    Some(exponents)
}

/// The prime factors of a positive fraction, those of the denominator with negative exponents;
/// `None` if a part is not factored completely.
pub fn factors_of_fraction(value: Rational) -> Option<Exponents> {
    let mut exponents = factors(value.numerator())?;
    for (p, e) in factors(value.denominator())? {
        exponents.insert(p, -e);
    }
    Some(exponents)
}

/// The prime factors of `n!`; `None` for n from [`SMALL`] on.
pub fn factorial(n: i128) -> Option<Exponents> {
    let n = u64::try_from(n).ok().filter(|n| *n < SMALL)?;
    let exponent = |p: u64| {
        let (mut power, mut count) = (n, 0);
        while power > 0 {
            power /= p;
            count += i128::from(power);
        }
        count
    };
    Some(PRIMES.iter().take_while(|p| **p <= n).map(|&p| (p, exponent(p))).collect())
}

/// Takes the small primes out of a number written in decimal digits: their exponents, and the
/// digits of what is left.
pub fn small_factors_of_digits(digits: &str) -> (Exponents, String) {
    // Nine digits a limb, the highest first.
    const LIMB: u64 = 1_000_000_000;
    let bytes = digits.as_bytes();
    let mut limbs: Vec<u64> = bytes
        .rchunks(9)
        .rev()
        .map(|chunk| chunk.iter().fold(0, |sum, b| sum * 10 + u64::from(b.wrapping_sub(b'0') % 10)))
        .collect();
    let mut exponents = Exponents::new();
    if limbs.iter().all(|limb| *limb == 0) {
        return (exponents, "0".into());
    }
    for &p in PRIMES.iter() {
        while limbs.iter().fold(0, |rest, limb| (rest * LIMB + limb) % p) == 0 {
            let mut rest = 0;
            for limb in &mut limbs {
                let value = rest * LIMB + *limb;
                (*limb, rest) = (value / p, value % p);
            }
            *exponents.entry(p).or_default() += 1;
        }
    }
    let text: String = limbs.iter().map(|limb| format!("{limb:09}")).collect();
    (exponents, text.trim_start_matches('0').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_multiply_to_the_number() {
        for n in (1..3000).chain([9_999_999_967, 10_000_000_000, 99_999_989 * 97, 10_007 * 10_009]) {
            let all = factors(n).unwrap();
            assert_eq!(all.iter().map(|(p, e)| i128::from(*p).pow(*e as u32)).product::<i128>(), n);
            assert!(all.keys().all(|p| (2..1000.min(*p)).all(|k| p % k != 0)), "{n}: {all:?}");
        }
        assert_eq!(factors(10_007 * 10_009).unwrap().len(), 2);
        assert_eq!((factors(0), factors(-4), factors(MAX_FACTORED + 1)), (None, None, None));
    }

    #[test]
    fn factorials_and_literals_have_the_same_factors() {
        let product: i128 = (1..=30).product();
        assert_eq!(factorial(30), Some(small_factors(product.unsigned_abs()).0));
        assert_eq!(small_factors_of_digits(&product.to_string()), (factorial(30).unwrap(), "1".into()));
        assert_eq!(factorial(i128::from(SMALL)), None);
        let (exponents, rest) = small_factors_of_digits(&format!("1{}", "0".repeat(300)));
        assert_eq!((exponents.len(), exponents[&2], exponents[&5], rest.as_str()), (2, 300, 300, "1"));
        let (exponents, rest) =
            small_factors_of_digits("2000000000000000000000000000000000000000000000000000000000020006");
        assert!(exponents.contains_key(&2) && !rest.is_empty());
        assert_eq!(small_factors_of_digits("000").1, "0");
    }
}
