//! exp, log and fixed-order sums over [`Simd`] lanes: the same bits on every instruction set, since each step
//! is one IEEE 754 operation (FMA included) in a fixed order. `exp` and `ln` stay within 1.5 units in the
//! last place.

use super::lanes::{LANES, Simd, simd};

/// `exp` of each lane: `x = n ln 2 + r`, a polynomial in r (minimax of degree 6, relative error 3e-9), scaled
/// by 2^n in two steps so that results down to the subnormals are right. `exp(-inf) = 0`, `exp(0) = 1`, NaN
/// stays NaN.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // Beyond these the result is 0 or infinity anyway. NaN passes, being the second operand.
    let x = s.max(s.splat(-104.0), s.min(s.splat(89.0), x));
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(12_582_912.0));
    let n = s.sub(shifted, s.splat(12_582_912.0));
    let r = s.fnma(n, s.splat(std::f32::consts::LN_2), x);
    let r = s.fnma(n, s.splat(-1.904_654_2e-9), r);
    let mut p = s.splat(0.001_381_454);
    for c in [0.008_368_745, 0.041_668_39, 0.166_665_21, 0.499_999_94, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    let n = s.sub_i(s.bits(shifted), s.splat_i(0x4b40_0000));
    let half = s.shr::<1>(n);
    let rest = s.sub_i(n, half);
    s.mul(s.mul(p, power(s, half)), power(s, rest))
}

/// `exp(x)` for `x <= 0`, the unnormalised weight of a softmax; 0 below `x = -64`. Beside the largest weight,
/// which is 1, what is left out is far below half a unit in the last place, and as subnormal numbers (as are
/// its products) it costs Intel's processors a hundred cycles an operation: positions out of sight are
/// exp(-inf), and trained heads have scores hundreds apart.
#[inline(always)]
pub fn weight<S: Simd>(s: S, x: S::V) -> S::V {
    let (zero, least) = (s.splat(0.0), s.splat(-64.0));
    s.select_lt(x, least, zero, exp(s, s.select_lt(x, least, zero, x)))
}

/// `2^n`, n the exponent of a normal number.
#[inline(always)]
fn power<S: Simd>(s: S, n: S::I) -> S::V {
    s.of_bits(s.shl::<23>(s.add_i(n, s.splat_i(127))))
}

/// Natural logarithm of each lane (the polynomial of Cephes' `logf`). `ln(0) = -inf`, `ln(inf) = inf`, NaN below zero.
#[inline(always)]
pub fn ln<S: Simd>(s: S, x: S::V) -> S::V {
    let tiny = s.splat(f32::MIN_POSITIVE);
    let normal = s.select_lt(x, tiny, s.mul(x, s.splat(8_388_608.0)), x);
    let bias = s.select_lt(x, tiny, s.splat(-23.0), s.splat(0.0));
    // m in [sqrt(1/2), sqrt(2)): the exponent is counted from sqrt(1/2).
    let bits = s.bits(normal);
    let e = s.shr::<23>(s.sub_i(bits, s.splat_i(0x3f35_04f3)));
    let m = s.of_bits(s.sub_i(bits, s.shl::<23>(e)));
    let e = s.add(s.to_f32(e), bias);
    let r = s.sub(m, s.splat(1.0));
    let z = s.mul(r, r);
    let mut p = s.splat(7.037_683_6e-2);
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = s.fma(p, r, s.splat(c));
    }
    let y = s.mul(s.mul(p, z), r);
    let y = s.fma(e, s.splat(-2.121_944_4e-4), y);
    let y = s.fnma(s.splat(0.5), z, y);
    let y = s.fma(e, s.splat(0.693_359_4), s.add(r, y));
    let y = s.select_lt(x, s.splat(f32::INFINITY), y, x);
    // The order of the selections makes NaN and numbers below zero NaN.
    let zero = s.splat(0.0);
    let y = s.select_lt(zero, x, y, s.splat(f32::NAN));
    s.keep(s.mask_ge(x, zero) & s.mask_ge(zero, x), s.splat(f32::NEG_INFINITY), y)
}

/// `exp` of one number, with the bits of the vector's.
#[inline(always)]
pub fn exp1<S: Simd>(s: S, x: f32) -> f32 {
    s.array(exp(s, s.splat(x)))[0]
}

/// [`weight`] of one number, with the bits of the vector's.
#[inline(always)]
pub fn weight1<S: Simd>(s: S, x: f32) -> f32 {
    s.array(weight(s, s.splat(x)))[0]
}

/// `ln` of one number, with the bits of the vector's.
#[inline(always)]
pub fn ln1<S: Simd>(s: S, x: f32) -> f32 {
    s.array(ln(s, s.splat(x)))[0]
}

/// `Σ x y` over a row: four accumulators of sixteen lanes by turns, then a fixed tree. A remainder is filled
/// up with zeros.
#[inline(always)]
pub fn dot<S: Simd>(s: S, x: &[f32], y: &[f32]) -> f32 {
    let mut acc = [s.splat(0.0); 4];
    let (xs, x_rest) = x.as_chunks::<{ 4 * LANES }>();
    let (ys, y_rest) = y[..x.len()].as_chunks::<{ 4 * LANES }>();
    for (x, y) in xs.iter().zip(ys) {
        let (x, y) = (x.as_chunks::<LANES>().0, y.as_chunks::<LANES>().0);
        for (a, (x, y)) in acc.iter_mut().zip(x.iter().zip(y)) {
            *a = s.fma(s.load(x), s.load(y), *a);
        }
    }
    for (a, (x, y)) in acc.iter_mut().zip(x_rest.chunks(LANES).zip(y_rest.chunks(LANES))) {
        *a = s.fma(s.load_or(x, 0.0), s.load_or(y, 0.0), *a);
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

simd! {
    /// Largest of a row; NaN is passed over, and a row without a number gives -inf.
    pub fn largest[](s, x: &[f32]) -> f32 {
        let lowest = s.splat(f32::NEG_INFINITY);
        let mut acc = [lowest; 4];
        let (xs, rest) = x.as_chunks::<{ 4 * LANES }>();
        for x in xs {
            for (a, x) in acc.iter_mut().zip(x.as_chunks::<LANES>().0) {
                // `max` returns its second operand where the first is NaN.
                *a = s.max(s.load(x), *a);
            }
        }
        for x in rest.chunks(LANES) {
            acc[0] = s.max(s.load_or(x, f32::NEG_INFINITY), acc[0]);
        }
        s.largest(s.max(s.max(acc[0], acc[1]), s.max(acc[2], acc[3])))
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Level;
    use super::*;

    simd! {
        fn exp_all[](s, x: &mut [f32]) {
            for x in x.as_chunks_mut::<LANES>().0 {
                let y = exp(s, s.load(x));
                s.store(x, y);
            }
        }
    }
    simd! {
        fn weight_all[](s, x: &mut [f32; 16]) {
            let y = weight(s, s.load(x));
            s.store(x, y);
        }
    }
    simd! {
        fn ln_all[](s, x: &mut [f32]) {
            for x in x.as_chunks_mut::<LANES>().0 {
                let y = ln(s, s.load(x));
                s.store(x, y);
            }
        }
    }
    simd! {
        fn dot_of[](s, x: &[f32], y: &[f32]) -> f32 {
            dot(s, x, y)
        }
    }
    simd! {
        fn tree[](s, x: &[f32; 16]) -> (f32, f32) {
            let v = s.load(x);
            (s.sum(v), s.largest(v))
        }
    }

    /// Errors in units of the last place of the exact result.
    fn ulps(got: f32, exact: f64) -> f64 {
        let near = exact as f32;
        let ulp = f64::from(f32::from_bits(near.abs().to_bits() + 1)) - f64::from(near.abs());
        (f64::from(got) - exact).abs() / ulp
    }

    #[test]
    fn exp_is_within_a_few_ulps_and_has_its_special_cases() {
        let inputs: Vec<f32> = (-1_040_000..=890_000).map(|i| i as f32 * 1e-4).take(1_930_000).collect();
        let mut y = inputs.clone();
        exp_all(Level::detect(), &mut y);
        let mut worst = 0.0f64;
        for (&x, &y) in inputs.iter().zip(&y).take(inputs.len() / 16 * 16) {
            let exact = f64::from(x).exp();
            if exact < f64::from(f32::MAX) {
                worst = worst.max(ulps(y, exact));
            } else {
                assert_eq!(y, f32::INFINITY, "exp({x})");
            }
        }
        assert!(worst < 1.5, "worst error {worst} ulp");
        let mut special = [0.0; 16];
        special[..7].copy_from_slice(&[
            f32::NEG_INFINITY,
            f32::INFINITY,
            f32::NAN,
            -0.0,
            -200.0,
            200.0,
            -103.0,
        ]);
        exp_all(Level::detect(), &mut special);
        assert_eq!(special[..2], [0.0, f32::INFINITY]);
        assert!(special[2].is_nan());
        assert_eq!(special[3..6], [1.0, 0.0, f32::INFINITY]);
        assert!(special[6] > 0.0 && special[6] < f32::MIN_POSITIVE, "exp(-103) is subnormal: {}", special[6]);
    }

    #[test]
    fn a_weight_is_exp_or_zero_where_it_is_nothing_beside_one() {
        let x = [0.0, -0.5, -1.0, -63.9, -64.0, -64.1, -80.0, -100.0, -1e30, f32::NEG_INFINITY, f32::NAN];
        let mut got = [0.0; 16];
        got[..x.len()].copy_from_slice(&x);
        let mut plain = got;
        weight_all(Level::detect(), &mut got);
        exp_all(Level::detect(), &mut plain);
        assert_eq!(got[..5], plain[..5]);
        assert!(plain[5] > 0.0 && plain[5] < f32::EPSILON * f32::EPSILON);
        assert_eq!(got[5..10], [0.0; 5]);
        assert!(got[10].is_nan());
    }

    #[test]
    fn ln_is_within_a_few_ulps_and_has_its_special_cases() {
        let mut inputs: Vec<f32> = (1..0x7f80).map(|i| f32::from_bits(i << 16 | 0x1234)).collect();
        inputs.extend((0..200_000).map(|i| 0.5 + i as f32 * 1e-5));
        inputs.extend((0..64).map(|i| f32::from_bits(0x3f80_0000 - 32 + i)));
        inputs.resize(inputs.len() / 16 * 16, 0.0);
        let mut y = inputs.clone();
        ln_all(Level::detect(), &mut y);
        let mut worst = 0.0f64;
        for (&x, &y) in inputs.iter().zip(&y) {
            if x != 1.0 {
                worst = worst.max(ulps(y, f64::from(x).ln()));
            } else {
                assert_eq!(y, 0.0);
            }
        }
        assert!(worst < 1.5, "worst error {worst} ulp");
        let mut special = [1.0; 16];
        special[..6].copy_from_slice(&[0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        ln_all(Level::detect(), &mut special);
        assert_eq!(special[..2], [f32::NEG_INFINITY; 2]);
        assert!(special[2].is_nan() && special[3].is_nan() && special[5].is_nan());
        assert_eq!(special[4], f32::INFINITY);
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let values: Vec<f32> =
            (0..4096u32).map(|i| f32::from_bits(super::super::super::mix(u64::from(i)) as u32)).collect();
        let small: Vec<f32> = values.iter().map(|x| (x.to_bits() % 1000) as f32 * 0.017 - 9.0).collect();
        let bits = |x: &[f32]| -> Vec<u32> {
            x.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
        };
        let run = |level: Level| {
            let (mut e, mut l) = (values.clone(), values.clone());
            exp_all(level, &mut e);
            ln_all(level, &mut l);
            let mut sums = vec![];
            for n in [1, 15, 16, 17, 63, 64, 65, 200, 576] {
                sums.push(dot_of(level, &small[..n], &small[1000..1000 + n]));
                sums.push(largest(level, &small[..n]));
                sums.push(largest(level, &values[..n]));
            }
            for x in small.as_chunks::<16>().0 {
                let (sum, largest) = tree(level, x);
                sums.extend([sum, largest]);
            }
            (bits(&e), bits(&l), bits(&sums))
        };
        let levels = Level::all();
        let first = run(levels[0]);
        for &level in &levels[1..] {
            assert!(run(level) == first, "{level:?} differs from the portable path");
        }
    }
}
