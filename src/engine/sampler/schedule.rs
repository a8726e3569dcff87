//! What runs in a step: rows of running sequences, oldest first, then waiting ones as rows,
//! sequences and pages allow.
//!
//! Age decides all conflicts: when no page is left, the youngest sequence loses its own and is
//! computed again later; so the oldest always gets on and everything ends.

use super::batch::{Item, Round};
use super::{JobId, SampleBatch, Sampler};
use crate::backend::{PageCopy, Slot};
use crate::engine::kv::{Page, Prefix};
use crate::engine::slots::SlotTable;
use crate::error::{Error, Result};

impl Sampler {
    /// The next step, or `None` if nothing is to be drawn, or only by the step that is under way.
    pub fn schedule(&mut self, slots: &SlotTable) -> Result<Option<SampleBatch>> {
        if !self.has_work() {
            return Ok(None);
        }
        self.stats.steps += 1;
        let mut round = Round::default();
        self.schedule_running(&mut round);
        for leader in std::mem::take(&mut round.prompts_done) {
            self.fork_followers(leader, &mut round);
        }
        self.admit(&mut round);
        if round.items.is_empty() {
            if round.copies.is_empty() && self.in_flight.values().any(|&id| self.jobs[id].awaits()) {
                self.stats.steps -= 1;
                return Ok(None);
            }
            return Err(Error::Internal(
                "no sequence can go on, although the KV pool holds any of them".into(),
            ));
        }
        self.stats.rows += round.rows as u64;
        self.stats.most_sequences = self.stats.most_sequences.max(self.running_sequences);
        self.stats.most_pages = self.stats.most_pages.max(self.kv.in_use());
        let resolve = |member: &super::Member| slots.slot_of(member.weights);
        self.pinned.append(&mut round.pins);
        Ok(Some(round.build(&mut self.jobs, resolve, &self.limits.rotary)?))
    }

    /// Rows of the running jobs. Decoding ones are never short of rows: what they need is kept back from prompts.
    fn schedule_running(&mut self, round: &mut Round) {
        let decoding = |s: &Self, id: JobId| {
            let job = &s.jobs[id];
            if job.is_decoding() && !job.is_full(s.limits.context) { job.members.len() } else { 0 }
        };
        let mut kept_back: usize = self.running.iter().map(|&id| decoding(self, id)).sum();
        let mut place = 0;
        while let Some(&id) = self.running.get(place) {
            if self.jobs[id].is_full(self.limits.context) {
                // Its last token is on its way.
                place += 1;
                continue;
            }
            let own = decoding(self, id);
            kept_back -= own;
            let budget = self.limits.max_rows - round.rows - kept_back;
            loop {
                if self.schedule_job(id, budget, round) {
                    break;
                }
                // A page is missing: the youngest gives up its own. Whoever is younger than this
                // job has no rows in this step yet.
                let youngest = *self.running.last().expect("the job itself runs");
                if youngest != id {
                    kept_back -= decoding(self, youngest);
                } else if own == 0 {
                    // A prompt can wait where it is.
                    break;
                }
                self.preempt(youngest);
                if youngest == id {
                    break;
                }
            }
            if self.running.get(place) == Some(&id) {
                place += 1;
            }
        }
    }

    /// Gives a job up to `budget` rows: all that it lacks and a draw, or a part of its prompt.
    /// False if it lacks pages and got no rows.
    fn schedule_job(&mut self, id: JobId, budget: usize, round: &mut Round) -> bool {
        let members = self.jobs[id].members.len();
        let lacking: usize = (0..members).map(|m| self.jobs[id].pending(m)).sum();
        let mut complete = lacking <= budget;
        let mut left = budget;
        let mut wants = false;
        let mut rows = Vec::with_capacity(members);
        for m in 0..members {
            let pending = self.jobs[id].pending(m);
            // Members of a draw group draw together: none computes its last row before all can.
            let wanted = if complete { pending } else { left.min(pending - 1) };
            wants |= wanted > 0;
            let got = self.make_room(id, m, wanted, round);
            complete &= got == pending;
            left -= got;
            rows.push(got);
        }
        let mut any = false;
        for (m, &got) in rows.iter().enumerate() {
            let got = if complete { got } else { got.min(self.jobs[id].pending(m) - 1) };
            if got > 0 {
                any = true;
                self.take_rows(id, m, got, complete, round);
            }
        }
        if complete {
            round.draws.push((id, id));
            if self.jobs[id].leads.is_some() {
                round.prompts_done.push(id);
            }
        }
        any || !wants
    }

    /// Makes room for `wanted` more tokens of a member; how many have room in the end.
    fn make_room(&mut self, id: JobId, m: usize, wanted: usize, round: &mut Round) -> usize {
        let page_tokens = self.kv.page_tokens();
        let member = &mut self.jobs[id].members[m];
        if wanted == 0 {
            return 0;
        }
        if let Some(source) = member.fork {
            if self.kv.is_private(source) {
                member.pages.push(source);
            } else if let Some(page) = self.kv.allocate() {
                let tokens = (member.kv_len % page_tokens) as u32;
                round.copies.push(PageCopy { from: source, to: page, tokens });
                round.pins.push(source);
                member.pages.push(page);
            } else {
                return 0;
            }
            member.fork = None;
        }
        while member.pages.len() * page_tokens < member.kv_len + wanted {
            match self.kv.allocate() {
                Some(page) => member.pages.push(page),
                None => break,
            }
        }
        (member.pages.len() * page_tokens - member.kv_len).min(wanted)
    }

    /// Puts the member's next `rows` tokens into the step and makes its full pages known.
    fn take_rows(&mut self, id: JobId, m: usize, rows: usize, logits: bool, round: &mut Round) {
        let page_tokens = self.kv.page_tokens();
        let job = &mut self.jobs[id];
        let landed = job.landed();
        let member = &mut job.members[m];
        let start = member.kv_len;
        let pages_start = round.page_table.len() as u32;
        round.page_table.extend_from_slice(&member.pages);
        round.items.push(Item {
            slot: Slot::BASE,
            age: job.age,
            job: id,
            member: m,
            start,
            rows,
            logits,
            pages: (pages_start, round.page_table.len() as u32),
        });
        round.rows += rows;
        member.kv_len += rows;
        // A page is known by its tokens, so those must be known first.
        while (member.known + 1) * page_tokens <= member.kv_len.min(landed) {
            let tokens = &job.tokens[member.known * page_tokens..][..page_tokens];
            let own = member.pages[member.known];
            let (node, other) = self.kv.insert(member.node, tokens, own, self.stats.steps);
            if let Some(page) = other {
                // Somebody has the same page. This step still writes our own.
                member.pages[member.known] = page;
                round.pins.push(own);
            }
            member.node = node;
            member.known += 1;
        }
    }

    /// The prompt's last row is in the step: those who wait for it draw from it too and share its pages.
    fn fork_followers(&mut self, leader: JobId, round: &mut Round) {
        let Some(key) = self.jobs[leader].leads.clone() else { return };
        let page_tokens = self.kv.page_tokens();
        loop {
            let room = self.running_sequences < self.limits.max_sequences
                && self.kv.available() > self.running_sequences;
            let next = if room { self.prompts.get_mut(&key).and_then(|f| f.0.pop_first()) } else { None };
            let Some((_, id)) = next else { break };
            let from = &self.jobs[leader].members[0];
            let (kv_len, known, node) = (from.kv_len, from.known, from.node);
            let mut pages = from.pages.clone();
            for &page in &pages {
                self.kv.retain(page);
            }
            let member = &mut self.jobs[id].members[0];
            member.fork = if kv_len.is_multiple_of(page_tokens) { None } else { pages.pop() };
            (member.pages, member.kv_len, member.known, member.node) = (pages, kv_len, known, node);
            self.enter_running(id);
            round.draws.push((id, leader));
        }
        self.promote_follower(leader);
    }

    /// Lets waiting jobs in, oldest first, until rows, sequences or pages run out.
    fn admit(&mut self, round: &mut Round) {
        while let Some((&age, &id)) = self.waiting.first_key_value() {
            let members = self.jobs[id].members.len();
            let budget = self.limits.max_rows - round.rows;
            if self.jobs[id].is_full(self.limits.context) {
                // It lost its pages while its last token is on its way, and needs no more than that.
                break;
            }
            if budget == 0 || self.running_sequences + members > self.limits.max_sequences {
                break;
            }
            if !self.claim_prefix(id, round) {
                break;
            }
            self.waiting.remove(&age);
            self.enter_running(id);
            self.schedule_job(id, budget, round);
            for leader in std::mem::take(&mut round.prompts_done) {
                self.fork_followers(leader, round);
            }
        }
    }

    /// References what is already known of a job's tokens; false, with nothing referenced, if pages
    /// for the rest are not to be had without taking them from others.
    fn claim_prefix(&mut self, id: JobId, round: &mut Round) -> bool {
        let page_tokens = self.kv.page_tokens();
        let length = self.jobs[id].tokens.len();
        let prefixes: Vec<Prefix> = self.jobs[id]
            .members
            .iter()
            .map(|m| self.kv.lookup(m.under(), &self.jobs[id].tokens, length - 1, self.stats.steps))
            .collect();
        let needed: usize = prefixes.iter().map(|p| length.div_ceil(page_tokens) - p.pages.len()).sum();
        // Each running sequence will soon want a page.
        let reserve = self.running_sequences;
        if self.running_sequences > 0 && self.kv.available() < needed + reserve {
            for prefix in prefixes {
                let partial = prefix.partial.map(|(page, _)| page);
                for page in partial.into_iter().chain(prefix.pages.into_iter().rev()) {
                    self.kv.release(page);
                }
            }
            return false;
        }
        for (m, prefix) in prefixes.into_iter().enumerate() {
            let copied = prefix.partial.and_then(|(from, tokens)| {
                let to: Option<Page> = self.kv.allocate();
                match to {
                    Some(to) => {
                        round.copies.push(PageCopy { from, to, tokens: tokens as u32 });
                        round.pins.push(from);
                    }
                    None => self.kv.release(from),
                }
                to.map(|to| (to, tokens))
            });
            let member = &mut self.jobs[id].members[m];
            (member.pages, member.node) = (prefix.pages, prefix.node);
            member.known = member.pages.len();
            member.kv_len = member.pages.len() * page_tokens;
            if let Some((page, tokens)) = copied {
                member.pages.push(page);
                member.kv_len += tokens;
            }
        }
        true
    }

    fn enter_running(&mut self, id: JobId) {
        let age = self.jobs[id].age;
        let place = self.running.partition_point(|&r| self.jobs[r].age < age);
        self.running.insert(place, id);
        self.running_sequences += self.jobs[id].members.len();
    }

    /// Takes a running job's pages away; it waits to be computed again from its tokens.
    fn preempt(&mut self, id: JobId) {
        self.stats.preemptions += 1;
        self.leave_running(id);
        self.let_go_of_pages(id);
        self.waiting.insert(self.jobs[id].age, id);
    }
}
