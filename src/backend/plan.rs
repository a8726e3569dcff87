//! The plan of one step: everything that changes between steps, uploaded once and read by every operation.

use super::slot::{GroupId, Slot};
use crate::error::{Error, Result};

/// A packed batch: rows sorted by slot, then by sequence, then by position. Nothing is padded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchPlan {
    /// Token id of each row, or a draw of the step before ([`DRAWN`]).
    pub tokens: Vec<u32>,
    /// Absolute position of each row in its sequence.
    pub positions: Vec<u32>,
    /// Row of the rotary table for each row, where that is not its position; empty where it is for all. Rows
    /// from the table's end on are those of `rope_extra`.
    pub rope_rows: Vec<u32>,
    /// Rotary rows of this step alone: each `half` cosines, then `half` sines.
    pub rope_extra: Vec<f32>,
    /// Exact row ranges by slot: ascending, contiguous, covering all rows. Several segments may name the same slot.
    pub segments: Vec<Segment>,
    /// Exact row ranges by sequence: ascending, contiguous, covering all rows, each inside one segment.
    pub sequences: Vec<Sequence>,
    /// For each of `sequences` the dropout of its adapter; empty where none has any.
    pub dropout: Vec<SequenceDropout>,
    /// Page numbers of all sequences, one after another; `Sequence::pages` says which are whose.
    pub page_table: Vec<u32>,
    /// Page contents to copy before anything else in the step ([`Op::CopyPages`](super::Op::CopyPages)).
    pub page_copies: Vec<PageCopy>,
    /// Rows whose hidden state the lm_head sees, ascending. Only these get logits.
    pub logit_rows: Vec<u32>,
    /// For [`Op::LmHeadLoss`](super::Op::LmHeadLoss): one label for each of `logit_rows`.
    pub labels: Vec<Label>,
    /// For [`Op::LmHeadSample`](super::Op::LmHeadSample): the draws of this step.
    pub draws: Vec<Draw>,
    /// Members of the draws' groups: index into `logit_rows` and weight.
    pub draw_rows: Vec<DrawRow>,
}

/// Bit of a token that is not known on the host yet: `DRAWN | i` is what draw i of the sampling step before
/// drew ([`Op::Embed`](super::Op::Embed)).
pub const DRAWN: u32 = 1 << 31;

impl BatchPlan {
    /// Rows in the step.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Row of the rotary table for each row.
    pub fn rope_rows(&self) -> &[u32] {
        if self.rope_rows.is_empty() { &self.positions } else { &self.rope_rows }
    }

    /// Checks that every row has one in a rotary table of `table` rows of `half` numbers, for the operation `op`.
    pub fn check_rope(&self, op: &str, table: usize, half: usize) -> Result<()> {
        let wrong = |problem: String| Err(Error::Internal(format!("{op}: {problem}")));
        let (rows, extra) = (self.rope_rows(), self.rope_extra.len());
        if rows.len() != self.rows() {
            return wrong(format!("{} positions for {} rows", rows.len(), self.rows()));
        }
        if !extra.is_multiple_of(2 * half) {
            return wrong(format!("{extra} numbers of rotary rows of two times {half}"));
        }
        let all = table + extra / (2 * half);
        match rows.iter().find(|&&row| row as usize >= all) {
            Some(row) => wrong(format!("position {row} is beyond the rotary table's {all} positions")),
            None => Ok(()),
        }
    }

    /// The adapters of the segments with rows, in order, again where a slot comes again.
    pub fn adapted_slots(&self) -> impl Iterator<Item = Slot> {
        self.segments.iter().filter(|s| s.slot != Slot::BASE && s.start < s.end).map(|s| s.slot)
    }

    /// Checks that each sequence says what dropout it has, for the operation `op`.
    pub fn check_dropout(&self, op: &str) -> Result<()> {
        if self.dropout.len() != self.sequences.len() {
            return Err(Error::Internal(format!(
                "{op}: dropout of {} sequences, the plan has {}",
                self.dropout.len(),
                self.sequences.len()
            )));
        }
        Ok(())
    }

    /// The dropout of each row's sequence, where [`BatchPlan::check_dropout`] finds nothing wrong.
    pub fn row_dropout(&self) -> Vec<SequenceDropout> {
        let rows = self.sequences.iter().zip(&self.dropout);
        rows.flat_map(|(s, &d)| std::iter::repeat_n(d, (s.end - s.start) as usize)).collect()
    }

    /// Checks the draws against the logit rows and a workspace of `capacity` rows, for the operation `op`.
    pub fn check_draws(&self, op: &str, capacity: usize) -> Result<()> {
        for (i, draw) in self.draws.iter().enumerate() {
            let problem = match self.draw_rows.get(draw.rows_start as usize..draw.rows_end as usize) {
                None | Some([]) => "has no rows".to_string(),
                Some(g) if g.len() > capacity => {
                    format!("mixes {} rows in a workspace of {capacity}", g.len())
                }
                Some(g) if g.iter().any(|r| r.logit_row as usize >= self.logit_rows.len()) => {
                    format!("names a row beyond the {} logit rows", self.logit_rows.len())
                }
                Some(_) if !(draw.temperature >= 0.0 && draw.temperature.is_finite()) => {
                    format!("has temperature {}", draw.temperature)
                }
                Some(_) if draw.top_p.is_nan() => "has a top-p that is not a number".to_string(),
                Some(_) if !(0.0..=1.0).contains(&draw.min_p) => format!("has min-p {}", draw.min_p),
                Some(_) => continue,
            };
            return Err(Error::Internal(format!("{op}: draw {i} {problem}")));
        }
        Ok(())
    }
}

/// Rows `start..end` belong to `slot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The adapter.
    pub slot: Slot,
    /// First row.
    pub start: u32,
    /// One past the last row.
    pub end: u32,
}

/// Rows `start..end` are consecutive tokens of one sequence, the first at position `first_position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// First row.
    pub start: u32,
    /// One past the last row.
    pub end: u32,
    /// Absolute position of the first row (0 in training and scoring).
    pub first_position: u32,
    /// First entry in `page_table`; page `i` of the sequence holds positions `i * page_tokens ..`.
    pub pages_start: u32,
    /// One past its last entry in `page_table`; equal to `pages_start` where there are no pages.
    pub pages_end: u32,
}

/// The dropout of one sequence (Srivastava et al. 2014) on what adapters read: LoRA sees `x * factor` where
/// it would see x. All parts of a linear group share the factors of their input, which is computed once (PEFT
/// draws them for each module by itself).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SequenceDropout {
    /// Makes the factors those of this sequence in this optimizer step and no other.
    pub key: u64,
    /// Share of the elements that are zeroed; 0 or above, below 1.
    pub rate: f32,
}

impl SequenceDropout {
    /// What the elements that stay are multiplied by, so that the expected value stays as it is.
    pub fn scale(self) -> f32 {
        1.0 / (1.0 - self.rate)
    }

    /// The factors of one row of the input of `group`.
    pub fn row(self, group: GroupId, position: u32) -> RowDropout {
        let key = mix(self.key ^ (u64::from(group.0).wrapping_add(1)).wrapping_mul(0xd1b5_4a32_d192_ed03));
        RowDropout { key, position, rate: self.rate, scale: self.scale() }
    }
}

/// See [`SequenceDropout::row`].
#[derive(Clone, Copy, Debug)]
pub struct RowDropout {
    key: u64,
    position: u32,
    rate: f32,
    scale: f32,
}

impl RowDropout {
    /// 0 with probability `rate`, `1 / (1 - rate)` otherwise: a pure function of key, group, position and
    /// column, so that it does not depend on the batch, and the backward pass has it again.
    #[inline(always)]
    pub fn factor(self, column: u32) -> f32 {
        if uniform(self.key, self.position, column) < self.rate { 0.0 } else { self.scale }
    }
}

/// The first `tokens` tokens of page `from` are copied to page `to`, in all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    /// Source page.
    pub from: u32,
    /// Destination page.
    pub to: u32,
    /// How many tokens of it.
    pub tokens: u32,
}

/// What a logit row is asked to predict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// The token that follows.
    pub token: u32,
    /// `c_t / Z`: the factor of this token's negative log-likelihood in the loss whose gradient is taken. Any real.
    pub coefficient: f32,
}

/// One token to draw, from one row or from a weighted mixture of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// First member in `draw_rows`.
    pub rows_start: u32,
    /// One past the last member.
    pub rows_end: u32,
    /// The draw's identity; see [`uniform`].
    pub key: u64,
    /// Absolute position of the token that is drawn.
    pub position: u32,
    /// Softmax temperature; 0 takes the most likely token (ties: the lower id).
    pub temperature: f32,
    /// Keep only the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep a token iff the mass of strictly better ones (ties by lower id) is below this; 1 or more keeps all.
    pub top_p: f32,
    /// Keep a token iff it is at least this share, from 0 to 1, as likely as the most likely one; 0
    /// keeps all.
    pub min_p: f32,
}

impl Draw {
    /// Whether top-k leaves out any token of a vocabulary of this size.
    pub fn limits_count(&self, vocabulary: usize) -> bool {
        self.top_k > 0 && (self.top_k as usize) < vocabulary
    }
}

/// A member of a draw's group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrawRow {
    /// Index into `logit_rows`.
    pub logit_row: u32,
    /// Its share of the mixture; the shares of a group sum to 1.
    pub weight: f32,
}

/// The uniform number in (0, 1) for one candidate token of one draw: a pure function, so a draw does not depend on
/// the batch, the vocabulary order, or which tokens were considered before it.
///
/// Two rounds of the SplitMix64 finaliser (Steele, Lea, Flood 2014) over key, position and token; the top 23
/// bits, centred: with 24 the half would round up and the number could be 1, which wins every Gumbel-max
/// draw.
#[inline(always)]
pub fn uniform(key: u64, position: u32, token: u32) -> f32 {
    let seed = mix(key ^ (u64::from(position).wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let bits = mix(seed ^ (u64::from(token).wrapping_add(1)).wrapping_mul(0xd1b5_4a32_d192_ed03)) >> 41;
    (bits as f32 + 0.5) * (1.0 / 8_388_608.0)
}

/// The SplitMix64 finaliser.
#[inline(always)]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
