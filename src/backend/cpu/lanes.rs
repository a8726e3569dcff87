//! Sixteen f32 lanes on AVX-512, on AVX2 with FMA, and on arrays: the vocabulary in which the operations are
//! written once.
//!
//! Every method is one IEEE 754 operation a lane (or exact integer work), so the three instruction sets give
//! the same bits. Kernels are declared with [`simd!`](self::simd), which compiles their body once for each
//! instruction set. All that the body calls on lanes must be `#[inline(always)]`, so that it is compiled with
//! the same features: no closures (nor `map`) over lanes, since an intrinsic is not inlined into a function
//! without its feature and each would become a call.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// An instruction set that this CPU has. The tokens inside can only be had from [`Level::detect`], so holding one is
/// the proof that its instructions may be used.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// Arrays; the compiler's baseline.
    Portable(Portable),
    /// AVX2 and FMA: two registers a vector.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F, DQ and VL: one register a vector.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// Token of [`Level::Portable`].
#[derive(Clone, Copy, Debug)]
pub struct Portable(());
/// Token of [`Level::Avx2`].
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());
/// Token of [`Level::Avx512`].
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Level {
    /// The widest that this CPU has. Cheap: the standard library caches the answer.
    #[inline]
    pub fn detect() -> Self {
        #[cfg(test)]
        if let Some(level) = tests::FORCED.get() {
            return level;
        }
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    return Level::Avx512(Avx512(()));
                }
                return Level::Avx2(Avx2(()));
            }
        }
        Level::Portable(Portable(()))
    }

    /// All that this CPU has, for tests that compare them.
    #[cfg(test)]
    pub fn all() -> Vec<Level> {
        let mut levels = vec![Level::Portable(Portable(()))];
        #[cfg(target_arch = "x86_64")]
        match Level::detect() {
            Level::Portable(_) => {}
            Level::Avx2(token) => levels.push(Level::Avx2(token)),
            Level::Avx512(token) => levels.extend([Level::Avx2(Avx2(())), Level::Avx512(token)]),
        }
        levels
    }
}

/// Declares a kernel: `simd! { fn name[generics](s, argument: Type, ...) -> Output { body } }`. `s` is the
/// [`Simd`] token inside the body; the function that comes out takes a [`Level`] in its place.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident [$($generics:tt)*] ($s:ident $(, $arg:ident : $ty:ty)* $(,)?)
        $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name<$($generics)*>(level: $crate::backend::cpu::lanes::Level, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<S_: $crate::backend::cpu::lanes::Simd, $($generics)*>($s: S_, $($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($generics)*>(token: $crate::backend::cpu::lanes::Avx2, $($arg: $ty),*) $(-> $ret)? {
                body(token, $($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512dq,avx512vl")]
            fn avx512<$($generics)*>(token: $crate::backend::cpu::lanes::Avx512, $($arg: $ty),*) $(-> $ret)? {
                body(token, $($arg),*)
            }

            match level {
                $crate::backend::cpu::lanes::Level::Portable(token) => body(token, $($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the token exists only where `Level::detect` found AVX2 and FMA.
                $crate::backend::cpu::lanes::Level::Avx2(token) => unsafe { avx2(token, $($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the token exists only where `Level::detect` found AVX-512 F, DQ and VL.
                $crate::backend::cpu::lanes::Level::Avx512(token) => unsafe { avx512(token, $($arg),*) },
            }
        }
    };
}
pub(super) use simd;

/// Sixteen f32 lanes. `max` and `min` return the second operand where either is NaN or both are zeros, as x86 does.
pub trait Simd: Copy {
    /// Sixteen f32.
    type V: Copy;
    /// Sixteen i32.
    type I: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Sixteen values.
    fn load(self, x: &[f32; 16]) -> Self::V;
    /// Eight values, then eight zeros.
    fn load_half(self, x: &[f32; 8]) -> Self::V;
    /// Sixteen bf16, by their bits, widened (exactly).
    fn load_bf16(self, x: &[u16; 16]) -> Self::V;
    /// Eight bf16, by their bits, widened, then eight zeros.
    fn load_half_bf16(self, x: &[u16; 8]) -> Self::V;
    /// Writes sixteen values.
    fn store(self, out: &mut [f32; 16], v: Self::V);
    /// Writes the first eight lanes.
    fn store_half(self, out: &mut [f32; 8], v: Self::V);
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a b`, rounded once.
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { x } else { y }`, lane by lane.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Bit l is set where lane l has `a >= b`.
    fn mask_ge(self, a: Self::V, b: Self::V) -> u32;
    /// Keeps the lanes whose bit is set; the others become `other`.
    fn keep(self, mask: u32, v: Self::V, other: Self::V) -> Self::V;

    /// All lanes `x`.
    fn splat_i(self, x: i32) -> Self::I;
    /// The bits of each lane.
    fn bits(self, v: Self::V) -> Self::I;
    /// The inverse of [`Simd::bits`].
    fn of_bits(self, v: Self::I) -> Self::V;
    /// Wrapping `a + b`.
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Wrapping `a - b`.
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a << N`.
    fn shl<const N: i32>(self, a: Self::I) -> Self::I;
    /// `a >> N`, arithmetic.
    fn shr<const N: i32>(self, a: Self::I) -> Self::I;
    /// The nearest f32.
    fn to_f32(self, a: Self::I) -> Self::V;

    /// The lanes as an array.
    #[inline(always)]
    fn array(self, v: Self::V) -> [f32; 16] {
        let mut out = [0.0; 16];
        self.store(&mut out, v);
        out
    }

    /// Sum of the lanes in one fixed tree: `l + (l + 8)`, then `l + (l + 4)`, `l + (l + 2)`, `0 + 1`.
    fn sum(self, v: Self::V) -> f32;

    /// The largest lane, by the same tree.
    fn largest(self, v: Self::V) -> f32;

    /// Up to sixteen values; the lanes beyond are `fill`.
    #[inline(always)]
    fn load_or(self, x: &[f32], fill: f32) -> Self::V {
        if let Some(x) = x.first_chunk() {
            return self.load(x);
        }
        let mut lanes = [fill; 16];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// Writes the first `out.len()` lanes, at most sixteen.
    #[inline(always)]
    fn store_some(self, out: &mut [f32], v: Self::V) {
        if let Some(out) = out.first_chunk_mut() {
            return self.store(out, v);
        }
        let lanes = self.array(v);
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

/// Applies `f` to the lanes of two arrays.
#[inline]
fn zip<T: Copy, U: Copy + Default>(a: [T; 16], b: [T; 16], f: impl Fn(T, T) -> U) -> [U; 16] {
    let mut out = [U::default(); 16];
    for l in 0..16 {
        out[l] = f(a[l], b[l]);
    }
    out
}

/// Folds by the tree of [`Simd::sum`].
#[inline]
fn fold(mut x: [f32; 16], f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            x[l] = f(x[l], x[l + half]);
        }
    }
    x[0]
}

// On x86-64 this path serves only CPUs without FMA, where each lane is a call anyway: inlining it would
// double the code of the kernels and the time to compile them.
impl Simd for Portable {
    type V = [f32; 16];
    type I = [i32; 16];

    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn splat(self, x: f32) -> Self::V {
        [x; 16]
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn load(self, x: &[f32; 16]) -> Self::V {
        *x
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn load_half(self, x: &[f32; 8]) -> Self::V {
        let mut v = [0.0; 16];
        v[..8].copy_from_slice(x);
        v
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn load_bf16(self, x: &[u16; 16]) -> Self::V {
        x.map(|x| f32::from_bits(u32::from(x) << 16))
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn load_half_bf16(self, x: &[u16; 8]) -> Self::V {
        let mut out = [0.0; 16];
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = f32::from_bits(u32::from(x) << 16));
        out
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn store(self, out: &mut [f32; 16], v: Self::V) {
        *out = v;
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn store_half(self, out: &mut [f32; 8], v: Self::V) {
        out.copy_from_slice(&v[..8]);
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn fma(self, a: Self::V, b: Self::V, mut c: Self::V) -> Self::V {
        for l in 0..16 {
            c[l] = a[l].mul_add(b[l], c[l]);
        }
        c
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn fnma(self, a: Self::V, b: Self::V, mut c: Self::V) -> Self::V {
        for l in 0..16 {
            c[l] = (-a[l]).mul_add(b[l], c[l]);
        }
        c
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, mut y: Self::V) -> Self::V {
        for l in 0..16 {
            y[l] = if a[l] < b[l] { x[l] } else { y[l] };
        }
        y
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn mask_ge(self, a: Self::V, b: Self::V) -> u32 {
        (0..16).fold(0, |mask, l| mask | (u32::from(a[l] >= b[l]) << l))
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn keep(self, mask: u32, v: Self::V, mut other: Self::V) -> Self::V {
        for l in 0..16 {
            if mask >> l & 1 == 1 {
                other[l] = v[l];
            }
        }
        other
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn splat_i(self, x: i32) -> Self::I {
        [x; 16]
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn bits(self, v: Self::V) -> Self::I {
        v.map(|x| x.to_bits() as i32)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn of_bits(self, v: Self::I) -> Self::V {
        v.map(|x| f32::from_bits(x as u32))
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_add)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_sub)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn shl<const N: i32>(self, a: Self::I) -> Self::I {
        a.map(|x| x << N)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn shr<const N: i32>(self, a: Self::I) -> Self::I {
        a.map(|x| x >> N)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn to_f32(self, a: Self::I) -> Self::V {
        a.map(|x| x as f32)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn sum(self, v: Self::V) -> f32 {
        fold(v, |a, b| a + b)
    }
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn largest(self, v: Self::V) -> f32 {
        fold(v, |a, b| if a > b { a } else { b })
    }
}

/// Folds eight lanes by the rest of the tree of [`Simd::sum`].
#[cfg(target_arch = "x86_64")]
macro_rules! fold8 {
    ($v:expr, $four:ident, $one:ident) => {{
        let v = $v;
        let v = $four(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = $four(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32($one(v, _mm_shuffle_ps::<1>(v, v)))
    }};
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    // Lanes 0..8 and 8..16.
    type V = (__m256, __m256);
    type I = (__m256i, __m256i);

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the token proves AVX2 and FMA; so in every method below.
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::V {
        // SAFETY: AVX2 by the token; both loads lie inside the array.
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn load_half(self, x: &[f32; 8]) -> Self::V {
        // SAFETY: AVX2 by the token; the load covers the array.
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_setzero_ps()) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; 16]) -> Self::V {
        // SAFETY: AVX2 by the token; both loads lie inside the array.
        unsafe {
            let (low, high) = (_mm_loadu_si128(x.as_ptr().cast()), _mm_loadu_si128(x.as_ptr().add(8).cast()));
            (
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(low))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(high))),
            )
        }
    }
    #[inline(always)]
    fn load_half_bf16(self, x: &[u16; 8]) -> Self::V {
        // SAFETY: AVX2 by the token; the load covers the array.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)), _mm256_setzero_ps())
        }
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; 16], v: Self::V) {
        // SAFETY: AVX2 by the token; both stores lie inside the array.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v.1);
        }
    }
    #[inline(always)]
    fn store_half(self, out: &mut [f32; 8], v: Self::V) {
        // SAFETY: AVX2 by the token; the store covers the array.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v.0) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: AVX2 and FMA by the token.
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: AVX2 and FMA by the token.
        unsafe { (_mm256_fnmadd_ps(a.0, b.0, c.0), _mm256_fnmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        // SAFETY: AVX2 by the token.
        unsafe {
            (
                _mm256_blendv_ps(y.0, x.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(y.1, x.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
            )
        }
    }
    #[inline(always)]
    fn mask_ge(self, a: Self::V, b: Self::V) -> u32 {
        // SAFETY: AVX2 by the token.
        unsafe {
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a.0, b.0)) as u32;
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a.1, b.1)) as u32;
            low | high << 8
        }
    }
    #[inline(always)]
    fn keep(self, mask: u32, v: Self::V, other: Self::V) -> Self::V {
        // SAFETY: AVX2 by the token.
        unsafe {
            let bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let low = _mm256_and_si256(_mm256_set1_epi32((mask & 0xff) as i32), bits);
            let high = _mm256_and_si256(_mm256_set1_epi32((mask >> 8) as i32), bits);
            let low = _mm256_castsi256_ps(_mm256_cmpeq_epi32(low, bits));
            let high = _mm256_castsi256_ps(_mm256_cmpeq_epi32(high, bits));
            (_mm256_blendv_ps(other.0, v.0, low), _mm256_blendv_ps(other.1, v.1, high))
        }
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
    }
    #[inline(always)]
    fn bits(self, v: Self::V) -> Self::I {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_castps_si256(v.0), _mm256_castps_si256(v.1)) }
    }
    #[inline(always)]
    fn of_bits(self, v: Self::I) -> Self::V {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_castsi256_ps(v.0), _mm256_castsi256_ps(v.1)) }
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_sub_epi32(a.0, b.0), _mm256_sub_epi32(a.1, b.1)) }
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: Self::I) -> Self::I {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_slli_epi32::<N>(a.0), _mm256_slli_epi32::<N>(a.1)) }
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: Self::I) -> Self::I {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_srai_epi32::<N>(a.0), _mm256_srai_epi32::<N>(a.1)) }
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::V {
        // SAFETY: AVX2 by the token.
        unsafe { (_mm256_cvtepi32_ps(a.0), _mm256_cvtepi32_ps(a.1)) }
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        // SAFETY: AVX2 by the token.
        unsafe { fold8!(_mm256_add_ps(v.0, v.1), _mm_add_ps, _mm_add_ss) }
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        // SAFETY: AVX2 by the token.
        unsafe { fold8!(_mm256_max_ps(v.0, v.1), _mm_max_ps, _mm_max_ss) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    type V = __m512;
    type I = __m512i;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the token proves AVX-512 F, DQ and VL; so in every method below.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::V {
        // SAFETY: AVX-512 by the token; the load covers the array.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn load_half(self, x: &[f32; 8]) -> Self::V {
        // SAFETY: AVX-512 by the token; the load covers the array.
        unsafe { _mm512_zextps256_ps512(_mm256_loadu_ps(x.as_ptr())) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; 16]) -> Self::V {
        // SAFETY: AVX-512 by the token; the load covers the array.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_half_bf16(self, x: &[u16; 8]) -> Self::V {
        // SAFETY: AVX-512 by the token, which comes with AVX2; the load covers the array.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            _mm512_zextps256_ps512(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; 16], v: Self::V) {
        // SAFETY: AVX-512 by the token; the store covers the array.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_half(self, out: &mut [f32; 8], v: Self::V) {
        // SAFETY: AVX-512 by the token; the store covers the array.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps256(v)) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    fn mask_ge(self, a: Self::V, b: Self::V) -> u32 {
        // SAFETY: AVX-512 by the token.
        unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b)) }
    }
    #[inline(always)]
    fn keep(self, mask: u32, v: Self::V, other: Self::V) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_mask_blend_ps(mask as __mmask16, other, v) }
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn bits(self, v: Self::V) -> Self::I {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_castps_si512(v) }
    }
    #[inline(always)]
    fn of_bits(self, v: Self::I) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_castsi512_ps(v) }
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: Self::I) -> Self::I {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: Self::I) -> Self::I {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_sra_epi32(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::V {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        // SAFETY: AVX-512 by the token.
        unsafe {
            let halves = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            fold8!(halves, _mm_add_ps, _mm_add_ss)
        }
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        // SAFETY: AVX-512 by the token.
        unsafe {
            let halves = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            fold8!(halves, _mm_max_ps, _mm_max_ss)
        }
    }
}

#[cfg(test)]
mod tests;
