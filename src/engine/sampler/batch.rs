//! A step under construction, and the plan that comes of it.

use super::job::{Age, JobId, Jobs, Member};
use super::{Drawn, SampleBatch};
use crate::backend::{BatchPlan, DRAWN, Draw, DrawRow, PageCopy, Segment, Sequence, Slot};
use crate::engine::kv::Page;
use crate::error::Result;
use crate::model::Rotary;

/// Consecutive tokens of one sequence in a step.
pub struct Item {
    pub slot: Slot,
    pub age: Age,
    pub job: JobId,
    pub member: usize,
    /// Position of the first.
    pub start: usize,
    pub rows: usize,
    /// The last row's logits are wanted.
    pub logits: bool,
    /// The sequence's range in the page table.
    pub pages: (u32, u32),
}

/// A step under construction.
#[derive(Default)]
pub struct Round {
    pub items: Vec<Item>,
    pub rows: usize,
    pub page_table: Vec<u32>,
    pub copies: Vec<PageCopy>,
    /// The jobs that draw, each with the job whose logits it draws from: itself, or the one that
    /// computed the same prompt.
    pub draws: Vec<(JobId, JobId)>,
    /// Jobs whose prompt is complete with this step and that others wait for.
    pub prompts_done: Vec<JobId>,
    /// Pages that the step reads or writes although nobody will need them after it.
    pub pins: Vec<Page>,
}

impl Round {
    /// The plan: rows sorted by slot, then by age of the sequence.
    pub fn build(
        mut self,
        jobs: &mut Jobs,
        slot_of: impl Fn(&Member) -> Result<Slot>,
        rotary: &Rotary,
    ) -> Result<SampleBatch> {
        for item in &mut self.items {
            item.slot = slot_of(&jobs[item.job].members[item.member])?;
        }
        self.items.sort_unstable_by_key(|i| (i.slot, i.age, i.member));
        let mut plan = BatchPlan {
            tokens: Vec::with_capacity(self.rows),
            positions: Vec::with_capacity(self.rows),
            sequences: Vec::with_capacity(self.items.len()),
            page_table: self.page_table,
            page_copies: self.copies,
            ..BatchPlan::default()
        };
        for item in &self.items {
            let job = &mut jobs[item.job];
            let start = plan.tokens.len() as u32;
            let end = start + item.rows as u32;
            plan.tokens.extend_from_slice(&job.tokens[item.start..item.start + item.rows]);
            plan.positions.extend(item.start as u32..(item.start + item.rows) as u32);
            plan.sequences.push(Sequence {
                start,
                end,
                first_position: item.start as u32,
                pages_start: item.pages.0,
                pages_end: item.pages.1,
            });
            push_segment(&mut plan.segments, item.slot, start, end);
            if item.logits {
                job.members[item.member].logit_row = plan.logit_rows.len() as u32;
                plan.logit_rows.push(end - 1);
            }
        }
        rotary.place(&mut plan, self.items.iter().map(|i| jobs[i.job].members[i.member].rope));
        let mut draws = Vec::with_capacity(self.draws.len());
        for (id, from) in self.draws {
            let rows_start = plan.draw_rows.len() as u32;
            plan.draw_rows.extend(
                jobs[from].members.iter().map(|m| DrawRow { logit_row: m.logit_row, weight: m.share }),
            );
            let job = &mut jobs[id];
            let place = job.tokens.len();
            draws.push(Drawn { job: id, age: job.age, place });
            job.tokens.push(DRAWN | plan.draws.len() as u32);
            plan.draws.push(Draw {
                rows_start,
                rows_end: plan.draw_rows.len() as u32,
                key: job.draw_key,
                position: place as u32,
                temperature: job.params.temperature,
                top_k: job.params.top_k,
                top_p: job.params.top_p,
                min_p: job.params.min_p,
            });
        }
        Ok(SampleBatch { plan, draws })
    }
}

/// Appends rows of a slot, to the last segment where that is the same slot's.
pub fn push_segment(segments: &mut Vec<Segment>, slot: Slot, start: u32, end: u32) {
    match segments.last_mut() {
        Some(last) if last.slot == slot => last.end = end,
        _ => segments.push(Segment { slot, start, end }),
    }
}
