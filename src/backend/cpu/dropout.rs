//! [`Op::Dropout`].

use super::*;

/// Roughly the scalar operations of one element: two rounds of a hash.
const COST: usize = 12;

/// [`Op::Dropout`].
pub fn run(c: &mut CpuBackend, op: &Dropout) -> Result<()> {
    let (rows, width) = op.check(c)?;
    let (dropout, name) = (c.plan.row_dropout(), Dropout::NAME);
    if dropout.len() != rows || c.plan.positions.len() != rows {
        return Err(Error::Internal(format!(
            "{name}: dropout of {} rows, the plan has {rows}",
            dropout.len()
        )));
    }
    rows::write(c, op.out, rows * width, |c, out| {
        let x = rows::read(c, op.x, rows * width)?;
        rows::blocks(&c.pool, out, width, COST * width, |first, out| {
            let lines = x[first * width..].chunks_exact(width).zip(out.chunks_exact_mut(width));
            for (row, (x, out)) in (first..).zip(lines) {
                if dropout[row].rate == 0.0 {
                    out.copy_from_slice(x);
                    continue;
                }
                let factors = dropout[row].row(op.group, c.plan.positions[row]);
                for (column, (out, x)) in out.iter_mut().zip(x).enumerate() {
                    *out = x * factors.factor(column as u32);
                }
            }
        });
        Ok(())
    })
}
