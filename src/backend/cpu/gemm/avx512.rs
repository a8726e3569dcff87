//! The AVX-512F tile: up to 14 rows by 32 columns, 28 accumulators of the 32 registers.

use std::arch::x86_64::*;

use super::{Tile, TileFn};

/// MR rows by NV vectors of 16 columns.
///
/// # Safety
/// AVX-512F must be available; see [`super::Kernels::tile`] for the memory.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const MR: usize, const NV: usize>(t: &Tile) {
    let Tile { k, mut x, ldx, mut w, ldw, y, ldy, accumulate, mut ahead, ahead_step } = *t;
    let mut acc = [[_mm512_setzero_ps(); NV]; MR];
    // SAFETY: the caller owns rows x columns of y, and x and w are readable for all k.
    unsafe {
        if accumulate {
            for i in 0..MR {
                for j in 0..NV {
                    acc[i][j] = _mm512_loadu_ps(y.add(i * ldy + j * 16));
                }
            }
        }
        for _ in 0..k {
            let mut b = [_mm512_setzero_ps(); NV];
            for j in 0..NV {
                b[j] = _mm512_loadu_ps(w.add(j * 16));
                // A hint never faults, so it may run past the end.
                _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(j * 16 + AHEAD * ldw).cast());
            }
            for i in 0..MR {
                let a = _mm512_set1_ps(*x.add(i));
                for j in 0..NV {
                    acc[i][j] = _mm512_fmadd_ps(a, b[j], acc[i][j]);
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
                _mm512_storeu_ps(y.add(i * ldy + j * 16), acc[i][j]);
            }
        }
    }
}

/// How many k-steps ahead the weights are prefetched.
const AHEAD: usize = 16;

macro_rules! tiles {
    ($($rows:literal)*) => { [$([tile::<$rows, 1>, tile::<$rows, 2>]),*] };
}

/// By rows - 1.
pub(super) static TILES: [[TileFn; 2]; 14] = tiles!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
