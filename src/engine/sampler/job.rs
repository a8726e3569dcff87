//! Jobs: what is to be drawn, once, for everybody who asked for it.

use std::ops::{Index, IndexMut};
use std::rc::Rc;
use std::sync::Arc;

use super::{SamplerLimits, Waiter};
use crate::engine::kv::{NodeId, Page, Under};
use crate::engine::request::{Finish, SampleRequest, SamplingParams, Stop, Watch};
use crate::engine::slots::WeightsId;
use crate::model::RopeVariant;

/// A job's place in [`Jobs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobId(usize);

/// The order of jobs: by priority, lowest first, then by arrival. No two jobs have the same age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// As the request says.
    pub priority: u64,
    /// Requests that came before.
    pub arrival: u64,
}

/// Everything a sample depends on: requests with equal keys get the same sample.
#[derive(PartialEq, Eq, Hash)]
pub struct JobKey {
    /// Weights, and the bits of the share.
    pub members: Vec<(WeightsId, u32)>,
    pub prompt: Arc<[u32]>,
    /// The bits of temperature, top-k, top-p, min-p, and the most tokens.
    params: [u32; 5],
    draw: u64,
    stop: Option<Stop>,
}

impl JobKey {
    pub fn new(request: &SampleRequest, members: &[(WeightsId, f32)]) -> Self {
        let p = request.params;
        Self {
            members: members.iter().map(|&(w, share)| (w, share.to_bits())).collect(),
            prompt: request.prompt.clone(),
            params: [p.temperature.to_bits(), p.top_k, p.top_p.to_bits(), p.min_p.to_bits(), p.max_tokens],
            // A greedy draw uses no randomness.
            draw: if p.temperature == 0.0 { 0 } else { request.key },
            stop: request.stop.clone(),
        }
    }
}

/// Identity of a prompt's K and V, and of its last logits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PromptKey {
    pub under: Under,
    pub prompt: Arc<[u32]>,
}

/// One sequence of a job: the job's tokens under one adapter's weights.
pub struct Member {
    pub weights: WeightsId,
    /// Which rotary frequencies: by the most tokens that the request may come to.
    pub rope: RopeVariant,
    pub share: f32,
    /// Pages of positions 0 .. `kv_len`, each referenced once.
    pub pages: Vec<Page>,
    /// Tokens whose K and V are in the pages (or will be, when the step under way is done).
    pub kv_len: usize,
    /// A referenced page whose first `kv_len % page_tokens` tokens stand after `pages`; to be
    /// copied before the next row is written.
    pub fork: Option<Page>,
    /// How many leading pages the prefix tree knows, and where they end in it.
    pub known: usize,
    pub node: NodeId,
    /// Index into the logit rows of the batch under construction.
    pub logit_row: u32,
}

impl Member {
    pub fn new((weights, rope): Under, share: f32, root: NodeId) -> Self {
        Self {
            weights,
            rope,
            share,
            pages: vec![],
            kv_len: 0,
            fork: None,
            known: 0,
            node: root,
            logit_row: 0,
        }
    }

    /// What its K and V depend on beside the tokens.
    pub fn under(&self) -> Under {
        (self.weights, self.rope)
    }

    /// As after `new`; the pages must have been released.
    pub fn reset(&mut self, root: NodeId) {
        debug_assert!(self.pages.is_empty() && self.fork.is_none());
        (self.kv_len, self.known, self.node) = (0, 0, root);
    }
}

/// A sample to draw.
pub struct Job {
    /// The older, the less it is disturbed.
    pub age: Age,
    pub key: Rc<JobKey>,
    pub members: Vec<Member>,
    /// Prompt and drawn tokens; of what a step under way draws, where it will lie ([`DRAWN`](crate::backend::DRAWN)).
    pub tokens: Vec<u32>,
    /// Length of the prompt.
    pub prompt: usize,
    pub logprobs: Vec<f32>,
    pub params: SamplingParams,
    pub draw_key: u64,
    /// The latest iteration that asks for it.
    pub iteration: usize,
    stop: Option<Watch>,
    pub waiters: Vec<Waiter>,
    /// Set while others with the same prompt wait for this one to have computed it.
    pub leads: Option<PromptKey>,
}

impl Job {
    pub fn new(
        age: Age,
        key: Rc<JobKey>,
        request: SampleRequest,
        stop: Option<Watch>,
        members: Vec<Member>,
        waiter: Waiter,
    ) -> Self {
        Self {
            age,
            key,
            members,
            tokens: request.prompt.to_vec(),
            prompt: request.prompt.len(),
            logprobs: Vec::new(),
            params: request.params,
            draw_key: request.key,
            iteration: request.iteration,
            stop,
            waiters: vec![waiter],
            leads: None,
        }
    }

    /// Tokens of member `m` whose K and V are not there yet.
    pub fn pending(&self, m: usize) -> usize {
        self.tokens.len() - self.members[m].kv_len
    }

    /// Tokens that the host knows.
    pub fn landed(&self) -> usize {
        self.prompt + self.logprobs.len()
    }

    /// Whether a step under way draws for it.
    pub fn awaits(&self) -> bool {
        self.landed() < self.tokens.len()
    }

    /// Whether the last token that it may have is drawn, or being drawn.
    pub fn is_full(&self, context: usize) -> bool {
        self.tokens.len() - self.prompt >= self.params.max_tokens as usize || self.tokens.len() >= context
    }

    /// Whether every member lacks its last token only.
    pub fn is_decoding(&self) -> bool {
        (0..self.members.len()).all(|m| self.pending(m) == 1)
    }

    /// Takes the token drawn at `place`, the first that the host did not know; says whether the sample ends with it.
    pub fn land(&mut self, place: usize, token: u32, logprob: f32, limits: &SamplerLimits) -> Option<Finish> {
        debug_assert_eq!(place, self.landed());
        self.tokens[place] = token;
        self.logprobs.push(logprob);
        if limits.eos.contains(&token) || self.stop.as_mut().is_some_and(|ends_with| ends_with(token)) {
            Some(Finish::Stop)
        } else if self.landed() - self.prompt >= self.params.max_tokens as usize
            || self.landed() >= limits.context
        {
            Some(Finish::Length)
        } else {
            None
        }
    }
}

/// Jobs by id; places of removed jobs are used again.
#[derive(Default)]
pub struct Jobs {
    jobs: Vec<Option<Job>>,
    vacant: Vec<JobId>,
}

impl Jobs {
    pub fn insert(&mut self, job: Job) -> JobId {
        match self.vacant.pop() {
            Some(id) => {
                self.jobs[id.0] = Some(job);
                id
            }
            None => {
                self.jobs.push(Some(job));
                JobId(self.jobs.len() - 1)
            }
        }
    }

    /// Whether the job of this age is still there, and its place was not given to another.
    pub fn has(&self, id: JobId, age: Age) -> bool {
        self.jobs[id.0].as_ref().is_some_and(|job| job.age == age)
    }

    pub fn remove(&mut self, id: JobId) -> Job {
        self.vacant.push(id);
        self.jobs[id.0].take().expect("a live job")
    }
}

impl Index<JobId> for Jobs {
    type Output = Job;
    fn index(&self, id: JobId) -> &Job {
        self.jobs[id.0].as_ref().expect("a live job")
    }
}

impl IndexMut<JobId> for Jobs {
    fn index_mut(&mut self, id: JobId) -> &mut Job {
        self.jobs[id.0].as_mut().expect("a live job")
    }
}
