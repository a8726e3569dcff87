//! [`Op::HeadNorm`] and [`Op::HeadNormBackward`]: the root mean square norm of [`rms_norm`], a head
//! at a time.

use super::lanes::Level;
use super::rms_norm::{backward_rows, forward_rows};
use super::*;

/// [`Op::HeadNorm`].
pub fn forward(c: &mut CpuBackend, op: &HeadNorm) -> Result<()> {
    let rows = op.check(c)?;
    let (heads, norm) = (op.heads, op.norm);
    let (width, q) = (heads.qkv_width(), heads.q_width());
    let qk = q + heads.kv_width();
    if let Some(raw) = op.raw {
        rows::write(c, raw, rows * qk, |c, raw| {
            let qkv = rows::read(c, op.qkv, rows * width)?;
            rows::blocks(&c.pool, raw, qk, qk, |first, raw| {
                for (raw, row) in raw.chunks_exact_mut(qk).zip(qkv[first * width..].chunks_exact(width)) {
                    raw.copy_from_slice(&row[..qk]);
                }
            });
            Ok(())
        })?;
    }
    rows::write(c, op.qkv, rows * width, |c, qkv| {
        let [wq, wk] = [norm.q, norm.k].map(|w| &c.vectors[w.0 as usize]);
        let level = Level::detect();
        rows::blocks(&c.pool, qkv, width, 3 * qk, |_, rows| {
            let mut old = vec![0.0; qk];
            for row in rows.chunks_exact_mut(width) {
                old.copy_from_slice(&row[..qk]);
                forward_rows(level, &old[..q], wq, norm.eps, &mut row[..q]);
                forward_rows(level, &old[q..], wk, norm.eps, &mut row[q..qk]);
            }
        });
        Ok(())
    })
}

/// [`Op::HeadNormBackward`].
pub fn backward(c: &mut CpuBackend, op: &HeadNormBackward) -> Result<()> {
    let rows = op.check(c)?;
    let (heads, norm) = (op.heads, op.norm);
    let (width, q) = (heads.qkv_width(), heads.q_width());
    let qk = q + heads.kv_width();
    rows::write(c, op.dqkv, rows * width, |c, dqkv| {
        let raw = rows::read(c, op.raw, rows * qk)?;
        let [wq, wk] = [norm.q, norm.k].map(|w| &c.vectors[w.0 as usize]);
        let level = Level::detect();
        rows::blocks(&c.pool, dqkv, width, 4 * qk, |first, rows| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                let raw = &raw[(first + i) * qk..][..qk];
                backward_rows(level, &raw[..q], wq, norm.eps, None, &mut row[..q], false);
                backward_rows(level, &raw[q..], wk, norm.eps, None, &mut row[q..qk], false);
            }
        });
        Ok(())
    })
}
