//! Exact fractions of 128-bit integers. Whatever would not fit is `None`, never a wrapped number.

use std::cmp::Ordering;
use std::fmt;

/// A reduced fraction with a positive denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rational {
    n: i128,
    d: i128,
}

impl Rational {
    /// 0
    pub const ZERO: Self = Self { n: 0, d: 1 };
    /// 1
    pub const ONE: Self = Self { n: 1, d: 1 };

    /// `n / d`; `None` if d is 0 or a sign can't be turned.
    pub fn new(n: i128, d: i128) -> Option<Self> {
        if d == 0 {
            return None;
        }
        let g = i128::try_from(gcd(n.unsigned_abs(), d.unsigned_abs())).ok()?;
        let (n, d) = (n / g, d / g);
        if d < 0 { Some(Self { n: n.checked_neg()?, d: d.checked_neg()? }) } else { Some(Self { n, d }) }
    }

    /// A whole number.
    pub const fn whole(n: i128) -> Self {
        Self { n, d: 1 }
    }

    /// The numerator.
    pub fn numerator(self) -> i128 {
        self.n
    }

    /// The denominator, positive.
    pub fn denominator(self) -> i128 {
        self.d
    }

    /// The value, if it is a whole number.
    pub fn as_whole(self) -> Option<i128> {
        (self.d == 1).then_some(self.n)
    }

    /// Whether it is 0.
    pub fn is_zero(self) -> bool {
        self.n == 0
    }

    /// Whether it is below 0.
    pub fn is_negative(self) -> bool {
        self.n < 0
    }

    /// Sum.
    pub fn plus(self, other: Self) -> Option<Self> {
        let n = self.n.checked_mul(other.d)?.checked_add(other.n.checked_mul(self.d)?)?;
        Self::new(n, self.d.checked_mul(other.d)?)
    }

    /// Difference.
    pub fn minus(self, other: Self) -> Option<Self> {
        self.plus(other.negated()?)
    }

    /// Product.
    pub fn times(self, other: Self) -> Option<Self> {
        Self::new(self.n.checked_mul(other.n)?, self.d.checked_mul(other.d)?)
    }

    /// Quotient; `None` for a division by 0.
    pub fn over(self, other: Self) -> Option<Self> {
        self.times(Self::new(other.d, other.n)?)
    }

    /// The other sign.
    pub fn negated(self) -> Option<Self> {
        Some(Self { n: self.n.checked_neg()?, d: self.d })
    }

    /// A whole power; 0 to the 0 is 1, 0 to less is `None`.
    pub fn power(self, exponent: i32) -> Option<Self> {
        let raised = |base: i128| base.checked_pow(exponent.unsigned_abs());
        if exponent < 0 {
            Self::new(raised(self.d)?, raised(self.n)?)
        } else {
            Self::new(raised(self.n)?, raised(self.d)?)
        }
    }

    /// The largest whole number that is not above it.
    pub fn floor(self) -> i128 {
        self.n.div_euclid(self.d)
    }
}

impl PartialOrd for Rational {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rational {
    /// By value, without overflow: whole parts first, then the reciprocals of what is left.
    fn cmp(&self, other: &Self) -> Ordering {
        let (mut a, mut b) = (*self, *other);
        let mut flipped = false;
        loop {
            let (fa, fb) = (a.floor(), b.floor());
            let (ra, rb) = (a.n.rem_euclid(a.d), b.n.rem_euclid(b.d));
            let order = if fa != fb {
                fa.cmp(&fb)
            } else if ra == 0 || rb == 0 {
                ra.cmp(&rb).then(Ordering::Equal)
            } else {
                (a, b) = (Self { n: a.d, d: ra }, Self { n: b.d, d: rb });
                flipped = !flipped;
                continue;
            };
            return if flipped { order.reverse() } else { order };
        }
    }
}

impl fmt::Display for Rational {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.d == 1 { write!(f, "{}", self.n) } else { write!(f, "{}/{}", self.n, self.d) }
    }
}

/// The greatest common divisor, at least 1.
pub fn gcd(a: u128, b: u128) -> u128 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(n: i128, d: i128) -> Rational {
        Rational::new(n, d).unwrap()
    }

    #[test]
    fn arithmetic_is_exact_and_never_wraps() {
        assert_eq!(r(1, 2).plus(r(1, 3)), Some(r(5, 6)));
        assert_eq!(r(6, -4), r(-3, 2));
        assert_eq!(r(2, 3).power(-2), Some(r(9, 4)));
        assert_eq!(r(0, 5).power(-1), None);
        assert_eq!(Rational::new(1, 0), None);
        assert_eq!(Rational::new(i128::MIN, -1), None);
        assert_eq!(r(i128::MAX, 1).plus(Rational::ONE), None);
        assert_eq!(r(10, 1).power(39), None);
        assert_eq!(r(-7, 2).floor(), -4);
    }

    #[test]
    fn order_is_that_of_the_numbers() {
        let mut all = Vec::new();
        for n in -12i32..=12 {
            for d in 1i32..=9 {
                all.push((r(i128::from(n), i128::from(d)), f64::from(n) / f64::from(d)));
            }
        }
        for (a, x) in &all {
            for (b, y) in &all {
                assert_eq!(a.cmp(b), x.partial_cmp(y).unwrap(), "{a} {b}");
            }
        }
        assert!(r(i128::MAX, i128::MAX - 1) > r(i128::MAX - 1, i128::MAX));
    }
}
