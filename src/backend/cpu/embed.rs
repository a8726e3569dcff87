//! Token embedding, and the gather of the rows that need logits with its backward.

use super::*;

/// An embedding table `[vocab, hidden]`, in the element type of its file: a row is widened when it is read.
pub struct TableBuffer {
    bytes: Vec<u8>,
    dtype: WeightType,
    /// Rows.
    pub vocab: usize,
    /// Columns.
    pub hidden: usize,
}

impl TableBuffer {
    /// Copies the table.
    pub fn new(values: WeightView<'_>) -> Self {
        let WeightView { bytes, dtype, rows, cols } = values;
        if let WeightType::Noise(noise) = dtype {
            let noise =
                (0..(rows * cols) as u64).flat_map(|i| half::bf16::from_f32(noise.at(i)).to_le_bytes());
            return Self { bytes: noise.collect(), dtype: WeightType::Bf16, vocab: rows, hidden: cols };
        }
        let bytes = bytes[..rows * cols * dtype.bytes()].to_vec();
        Self { bytes, dtype, vocab: rows, hidden: cols }
    }

    /// What [`TableBuffer::new`] would make, without its values.
    pub fn sized(values: WeightView<'_>) -> Self {
        let dtype = if let WeightType::Noise(_) = values.dtype { WeightType::Bf16 } else { values.dtype };
        Self { bytes: Vec::new(), dtype, vocab: values.rows, hidden: values.cols }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.vocab * self.hidden * self.dtype.bytes()
    }
}

/// [`Op::Embed`].
pub fn run(c: &mut CpuBackend, op: &Embed) -> Result<()> {
    let hidden = op.check(c)?;
    let drawn = match op.drawn.map(|t| c.tensor_buffer(t)).transpose()? {
        Some(TensorBuffer { data: Data::U32(tokens), .. }) => &tokens[..],
        _ => &[],
    };
    let known = |&token: &u32| if token & DRAWN == 0 { token } else { drawn[(token ^ DRAWN) as usize] };
    let tokens: Vec<u32> = c.plan.tokens.iter().map(known).collect();
    rows::write(c, op.out, tokens.len() * hidden, |c, out| {
        let table = &c.tables[op.table.0 as usize];
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= table.vocab) {
            return Err(Embed::unknown(token, table.vocab));
        }
        let view = WeightView { bytes: &table.bytes, dtype: table.dtype, rows: table.vocab, cols: hidden };
        rows::blocks(&c.pool, out, hidden, hidden, |first, out| {
            for (out, &token) in out.chunks_exact_mut(hidden).zip(&tokens[first..]) {
                view.row_into(token as usize, out);
            }
        });
        Ok(())
    })
}

/// [`Op::GatherRows`].
pub fn gather(c: &mut CpuBackend, op: &GatherRows) -> Result<()> {
    let (plan, width) = (c.plan.clone(), op.check(c)?);
    rows::write(c, op.out, plan.logit_rows.len() * width, |c, out| {
        let x = rows::read(c, op.x, plan.rows() * width)?;
        for (out, &row) in out.chunks_exact_mut(width.max(1)).zip(&plan.logit_rows) {
            out.copy_from_slice(&x[row as usize * width..][..width]);
        }
        Ok(())
    })
}

/// [`Op::ScatterRows`].
pub fn scatter(c: &mut CpuBackend, op: &ScatterRows) -> Result<()> {
    let (plan, width) = (c.plan.clone(), op.check(c)?);
    rows::write(c, op.dx, plan.rows() * width, |c, dx| {
        let dy = rows::read(c, op.dy, plan.logit_rows.len() * width)?;
        dx.fill(0.0);
        for (dy, &row) in dy.chunks_exact(width.max(1)).zip(&plan.logit_rows) {
            dx[row as usize * width..][..width].copy_from_slice(dy);
        }
        Ok(())
    })
}
