//! [`Op::Dropout`].

use super::*;

/// Roughly the scalar operations of one element: two rounds of a hash.
const COST: usize = 12;

/// [`Op::Dropout`].
pub fn run(c: &mut CpuBackend, op: &Dropout) -> Result<()> {
    let &Dropout { x, group, out } = op;
    const OP: &str = "dropout";
    let (rows, width) = (c.plan.rows(), c.width(out)?);
    let dropout = c.plan.row_dropout(OP)?;
    if dropout.len() != rows || c.plan.positions.len() != rows {
        return Err(Error::Internal(format!("{OP}: dropout of {} rows, the plan has {rows}", dropout.len())));
    }
    rows::write(c, OP, out, rows, width, |c, out| {
        let x = rows::read(c, OP, x, rows, width)?;
        rows::blocks(&c.pool, out, width, COST * width, |first, out| {
            let lines = x[first * width..].chunks_exact(width).zip(out.chunks_exact_mut(width));
            for (row, (x, out)) in (first..).zip(lines) {
                if dropout[row].rate == 0.0 {
                    out.copy_from_slice(x);
                    continue;
                }
                let factors = dropout[row].row(group, c.plan.positions[row]);
                for (column, (out, x)) in out.iter_mut().zip(x).enumerate() {
                    *out = x * factors.factor(column as u32);
                }
            }
        });
        Ok(())
    })
}
