//! Token embedding, and the gather of the rows that get logits with its backward.

use super::*;

/// `out[r] = table[tokens[r]]`; `out [R, d]`. A token `DRAWN | i` stands for `drawn[i]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embed {
    /// `[V, d]`.
    pub table: Table,
    /// u32 `[draws, 1]`: what the sampling step before drew, if the plan refers to it
    /// ([`DRAWN`](crate::backend::DRAWN)).
    pub drawn: Option<Tensor>,
    /// `[R, d]`.
    pub out: Tensor,
}

impl Embed {
    /// Checks the operands; gives the width of a row. That a drawn token is in the table cannot be
    /// known before it is read.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<usize> {
        let (op, plan) = (Self::NAME, c.step());
        let missing = || Error::Internal(format!("{op}: table {} does not exist", self.table.0));
        let (vocabulary, width) = c.table_shape(self.table).ok_or_else(missing)?;
        if let Some(&token) = plan.tokens.iter().find(|&&t| t & DRAWN == 0 && t as usize >= vocabulary) {
            return Err(Self::unknown(token, vocabulary));
        }
        let mut draws = 0;
        if let Some(drawn) = self.drawn {
            c.check(op, drawn, 0, 1, Element::U32)?;
            draws = c.existing(drawn)?.rows;
        }
        let beyond = |&&t: &&u32| t & DRAWN != 0 && (t ^ DRAWN) as usize >= draws;
        if let Some(token) = plan.tokens.iter().find(beyond) {
            return Err(Error::Internal(format!("{op}: draw {} of {draws} draws", token ^ DRAWN)));
        }
        c.check_activations(op, plan.rows(), [(self.out, width)])?;
        Ok(width)
    }

    /// The error of a token that the table does not have.
    pub(crate) fn unknown(token: u32, vocabulary: usize) -> Error {
        Error::Internal(format!("{}: token {token} of a vocabulary of {vocabulary}", Self::NAME))
    }
}

/// `out[i] = x[logit_rows[i]]`; `x [R, d]`, `out [L, d]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatherRows {
    /// `[R, d]`.
    pub x: Tensor,
    /// `[L, d]`.
    pub out: Tensor,
}

impl GatherRows {
    /// Checks the operands; gives the width of a row.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<usize> {
        apart(Self::NAME, self.out, &[self.x])?;
        check_logit_rows(Self::NAME, c, self.x, self.out)
    }
}

/// Backward of [`GatherRows`]: `dx = 0`, then `dx[logit_rows[i]] = dy[i]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScatterRows {
    /// `[L, d]`.
    pub dy: Tensor,
    /// `[R, d]`, overwritten.
    pub dx: Tensor,
}

impl ScatterRows {
    /// Checks the operands; gives the width of a row.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<usize> {
        apart(Self::NAME, self.dx, &[self.dy])?;
        check_logit_rows(Self::NAME, c, self.dx, self.dy)
    }
}

/// Checks all rows against the logit rows, which must be ascending rows of the plan.
fn check_logit_rows(op: &str, c: &impl Shapes, all: Tensor, logit: Tensor) -> Result<usize> {
    let (plan, width) = (c.step(), c.existing(all)?.width);
    let rows = &plan.logit_rows;
    if rows.windows(2).any(|w| w[0] >= w[1]) || rows.last().is_some_and(|&r| r as usize >= plan.rows()) {
        return Err(Error::Internal(format!(
            "{op}: logit_rows are not ascending rows of the {} in the plan",
            plan.rows()
        )));
    }
    c.check_activations(op, plan.rows(), [(all, width)])?;
    c.check_activations(op, rows.len(), [(logit, width)])?;
    Ok(width)
}
