//! The AVX2 tile: up to 6 rows by 16 columns, 12 accumulators of the 16 registers.

use std::arch::x86_64::*;

use super::{Tile, TileFn};

/// MR rows by NV vectors of 8 columns.
///
/// # Safety
/// AVX2 and FMA must be available; see [`super::Kernels::tile`] for the memory.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const MR: usize, const NV: usize>(t: &Tile) {
    let Tile { k, mut x, ldx, mut w, ldw, y, ldy, accumulate, mut ahead, ahead_step } = *t;
    let mut acc = [[_mm256_setzero_ps(); NV]; MR];
    // SAFETY: the caller owns rows x columns of y, and x and w are readable for all k.
    unsafe {
        if accumulate {
            for i in 0..MR {
                for j in 0..NV {
                    acc[i][j] = _mm256_loadu_ps(y.add(i * ldy + j * 8));
                }
            }
        }
        for _ in 0..k {
            let mut b = [_mm256_setzero_ps(); NV];
            for j in 0..NV {
                b[j] = _mm256_loadu_ps(w.add(j * 8));
            }
            for j in 0..NV / 2 {
                // A hint never faults, so it may run past the end.
                _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(j * 16 + AHEAD * ldw).cast());
            }
            for i in 0..MR {
                let a = _mm256_set1_ps(*x.add(i));
                for j in 0..NV {
                    acc[i][j] = _mm256_fmadd_ps(a, b[j], acc[i][j]);
                }
            }
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(16).cast());
            ahead = ahead.wrapping_add(ahead_step);
            x = x.wrapping_add(ldx);
            w = w.wrapping_add(ldw);
        }
        for i in 0..MR {
            for j in 0..NV {
                _mm256_storeu_ps(y.add(i * ldy + j * 8), acc[i][j]);
            }
        }
    }
}

/// How many k-steps ahead the weights are prefetched.
const AHEAD: usize = 16;

/// k-steps that one half of the columns runs ahead of the other: the cache lines of both are fetched together.
const LEAD: usize = 96;

/// 32 columns as twice 16: more rows would not fit the registers.
///
/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx2,fma")]
unsafe fn halves<const MR: usize>(t: &Tile) {
    let mut first = 0;
    while first < t.k.max(1) {
        let left = Tile {
            k: LEAD.min(t.k - first),
            x: t.x.wrapping_add(first * t.ldx),
            w: t.w.wrapping_add(first * t.ldw),
            accumulate: t.accumulate || first > 0,
            ahead: t.ahead.wrapping_add(first * t.ahead_step),
            ..*t
        };
        let right = Tile { w: left.w.wrapping_add(16), y: t.y.wrapping_add(16), ahead_step: 0, ..left };
        // SAFETY: the two halves of some k-steps of what the caller promised.
        unsafe {
            tile::<MR, 2>(&left);
            tile::<MR, 2>(&right);
        }
        first += LEAD;
    }
}

/// By rows - 1.
pub(super) static TILES: [[TileFn; 2]; 6] = [
    [tile::<1, 2>, tile::<1, 4>],
    [tile::<2, 2>, tile::<2, 4>],
    [tile::<3, 2>, halves::<3>],
    [tile::<4, 2>, halves::<4>],
    [tile::<5, 2>, halves::<5>],
    [tile::<6, 2>, halves::<6>],
];
