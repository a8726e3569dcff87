//! The portable tile: the same chains through `f32::mul_add`, which is one instruction where the target has it and a
//! correctly rounded library call where it has not.

use super::{Tile, TileFn};

/// MR rows by `N` columns.
///
/// # Safety
/// See [`super::Kernels::tile`].
unsafe fn tile<const MR: usize, const N: usize>(t: &Tile) {
    let mut acc = [[0.0f32; N]; MR];
    // SAFETY: the caller owns rows x columns of y, and x and w are readable for all k.
    unsafe {
        if t.accumulate {
            for (i, row) in acc.iter_mut().enumerate() {
                row.copy_from_slice(std::slice::from_raw_parts(t.y.add(i * t.ldy), N));
            }
        }
        for k in 0..t.k {
            let w = std::slice::from_raw_parts(t.w.add(k * t.ldw), N);
            let x = std::slice::from_raw_parts(t.x.add(k * t.ldx), MR);
            for (row, &a) in acc.iter_mut().zip(x) {
                for (sum, &b) in row.iter_mut().zip(w) {
                    *sum = a.mul_add(b, *sum);
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            std::slice::from_raw_parts_mut(t.y.add(i * t.ldy), N).copy_from_slice(row);
        }
    }
}

/// By rows - 1.
pub(super) static TILES: [[TileFn; 2]; 4] = [
    [tile::<1, 16>, tile::<1, 32>],
    [tile::<2, 16>, tile::<2, 32>],
    [tile::<3, 16>, tile::<3, 32>],
    [tile::<4, 16>, tile::<4, 32>],
];
