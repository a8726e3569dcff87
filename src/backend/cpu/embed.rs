//! Token embedding, and the gather of the rows that need logits with its backward.

use super::*;

/// An embedding table `[vocab, hidden]`, in the element type of its file: a row is widened when it is read.
pub struct TableBuffer {
    bytes: Vec<u8>,
    dtype: WeightType,
    vocab: usize,
    hidden: usize,
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
    let &Embed { table, drawn, out } = op;
    let plan = c.plan.clone();
    let drawn = match drawn.map(|t| c.tensor_buffer(t)).transpose()? {
        None => &[][..],
        Some(buffer) => match &buffer.data {
            Data::U32(tokens) => &tokens[..],
            Data::F32(_) => return Err(Error::Internal("embed: drawn tokens that are not u32".into())),
        },
    };
    let known = |&token: &u32| match token & DRAWN {
        0 => Ok(token),
        _ => drawn.get((token ^ DRAWN) as usize).copied().ok_or_else(|| {
            Error::Internal(format!("embed: draw {} of {} draws", token ^ DRAWN, drawn.len()))
        }),
    };
    let tokens: Vec<u32> = plan.tokens.iter().map(known).collect::<Result<_>>()?;
    let hidden = c.width(out)?;
    rows::write(c, "embed", out, plan.rows(), hidden, |c, out| {
        let table = c
            .tables
            .get(table.0 as usize)
            .ok_or_else(|| Error::Internal(format!("embed: table {} does not exist", table.0)))?;
        if table.hidden != hidden {
            return Err(Error::Internal(format!(
                "embed: rows of {hidden} from a table of width {}",
                table.hidden
            )));
        }
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= table.vocab) {
            return Err(Error::Internal(format!("embed: token {token} of a vocabulary of {}", table.vocab)));
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

/// The plan's `logit_rows`, checked to be ascending rows of the plan.
fn logit_rows<'a>(op: &str, plan: &'a BatchPlan) -> Result<&'a [u32]> {
    let rows = &plan.logit_rows;
    if rows.windows(2).any(|w| w[0] >= w[1]) || rows.last().is_some_and(|&r| r as usize >= plan.rows()) {
        return Err(Error::Internal(format!(
            "{op}: logit_rows are not ascending rows of the {} in the plan",
            plan.rows()
        )));
    }
    Ok(rows)
}

/// [`Op::GatherRows`].
pub fn gather(c: &mut CpuBackend, op: &GatherRows) -> Result<()> {
    let &GatherRows { x, out } = op;
    let plan = c.plan.clone();
    let width = c.width(out)?;
    let from = logit_rows("gather_rows", &plan)?;
    rows::write(c, "gather_rows", out, from.len(), width, |c, out| {
        let x = rows::read(c, "gather_rows", x, plan.rows(), width)?;
        for (out, &row) in out.chunks_exact_mut(width.max(1)).zip(from) {
            out.copy_from_slice(&x[row as usize * width..][..width]);
        }
        Ok(())
    })
}

/// [`Op::ScatterRows`].
pub fn scatter(c: &mut CpuBackend, op: &ScatterRows) -> Result<()> {
    let &ScatterRows { dy, dx } = op;
    let plan = c.plan.clone();
    let width = c.width(dx)?;
    let to = logit_rows("scatter_rows", &plan)?;
    rows::write(c, "scatter_rows", dx, plan.rows(), width, |c, dx| {
        let dy = rows::read(c, "scatter_rows", dy, to.len(), width)?;
        dx.fill(0.0);
        for (dy, &row) in dy.chunks_exact(width.max(1)).zip(to) {
            dx[row as usize * width..][..width].copy_from_slice(dy);
        }
        Ok(())
    })
}
