//! The sampler: continuous batching of everything that is to be drawn.
//!
//! Each step carries one row of every running sequence and as much of the waiting prompts as fits;
//! finished sequences leave at once, waiting ones enter when rows and pages allow. The sampler is
//! host logic only: [`Sampler::schedule`] makes the step's [`BatchPlan`], the engine runs it, and
//! [`Sampler::commit`] takes the drawn tokens. What is drawn depends on the request alone, never on
//! what shares the step.
//!
//! One step may be scheduled before the one before it is committed: its plan then says of tokens
//! that are not known yet which draw they are ([`DRAWN`](crate::backend::DRAWN)). A sample that
//! ends with such a token has at most one surplus token by then, which is thrown away.

mod batch;
mod job;
mod memo;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use futures::channel::oneshot;

pub(super) use self::batch::push_segment;
use self::job::{Age, Job, JobId, JobKey, Jobs, Member, PromptKey};
use self::memo::Memo;
use super::kv::KvCache;
use super::request::{Finish, Sample, SampleRequest, Stop, StopRules, Watch};
use super::slots::{SlotTable, WeightsId};
use crate::backend::BatchPlan;
use crate::error::{Error, Result};
use crate::model::Rotary;

/// Where a sample is delivered.
pub type Waiter = oneshot::Sender<Result<Sample>>;

/// Hears a sample's tokens as they are drawn.
pub type Hear = Box<dyn FnMut(u32)>;

/// What the sampler must know of the model and the plan.
#[derive(Clone, Debug)]
pub struct SamplerLimits {
    /// Most rows in a step.
    pub max_rows: usize,
    /// Most sequences running at once; at most `max_rows`.
    pub max_sequences: usize,
    /// Most members of a draw group.
    pub max_group: usize,
    /// Longest context.
    pub context: usize,
    /// V.
    pub vocab: usize,
    /// End-of-sequence tokens.
    pub eos: Vec<u32>,
    /// Rotary frequencies.
    pub rotary: Rotary,
}

/// What the sampler has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SamplerStats {
    /// Steps.
    pub steps: u64,
    /// Rows computed.
    pub rows: u64,
    /// Tokens drawn.
    pub tokens: u64,
    /// Most sequences that ran at once.
    pub most_sequences: usize,
    /// Most pages that sequences held at once.
    pub most_pages: usize,
    /// Sequences whose pages were taken away, to be computed again.
    pub preemptions: u64,
    /// Requests answered by another request's sample, under way or complete.
    pub shared: u64,
}

/// The job and the token index that a draw belongs to. `age` tells the job from a later one with the
/// same id.
struct Drawn {
    job: JobId,
    age: Age,
    place: usize,
}

/// A step's plan and whose draws it makes.
pub struct SampleBatch {
    /// The plan.
    pub plan: BatchPlan,
    /// In the order of the plan's draws.
    draws: Vec<Drawn>,
}

/// A request's immediate answer, or the promise of one.
pub enum Submitted {
    /// Answered from memory.
    Done(Sample),
    /// To be delivered.
    Pending(oneshot::Receiver<Result<Sample>>),
}

/// Jobs with the same fresh prompt under the same weights, behind the one that computes it.
#[derive(Default)]
struct Followers(BTreeMap<Age, JobId>);

/// Everything that is to be drawn.
pub struct Sampler {
    limits: SamplerLimits,
    kv: KvCache,
    jobs: Jobs,
    /// Jobs that want to enter, by age; of several with one fresh prompt only the first, the others follow it.
    waiting: BTreeMap<Age, JobId>,
    /// Jobs in the batch, oldest first.
    running: Vec<JobId>,
    running_sequences: usize,
    prompts: HashMap<PromptKey, Followers>,
    in_flight: HashMap<Rc<JobKey>, JobId>,
    memo: Memo,
    /// By tokenizer.
    stop_rules: HashMap<u64, Rc<dyn StopRules>>,
    /// Pages that the step under way still reads, to be released after it.
    pinned: Vec<super::kv::Page>,
    arrivals: u64,
    next_priority: u64,
    stats: SamplerStats,
}

impl Sampler {
    /// An empty sampler over `kv_pages` pages.
    pub fn new(limits: SamplerLimits, kv_pages: usize, page_tokens: usize) -> Self {
        Self {
            limits,
            kv: KvCache::new(kv_pages, page_tokens),
            jobs: Jobs::default(),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            running_sequences: 0,
            prompts: HashMap::new(),
            in_flight: HashMap::new(),
            memo: Memo::default(),
            stop_rules: HashMap::new(),
            pinned: Vec::new(),
            arrivals: 0,
            next_priority: 0,
            stats: SamplerStats::default(),
        }
    }

    /// Whether anything is to be drawn.
    pub fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// What has been done so far.
    pub fn stats(&self) -> SamplerStats {
        self.stats
    }

    /// The pages.
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// A priority behind all that were given before.
    pub fn next_priority(&mut self) -> u64 {
        self.next_priority += 1;
        self.next_priority
    }

    /// Makes the stop rules of one more tokenizer.
    pub fn add_stop_rules(&mut self, rules: Rc<dyn StopRules>) {
        self.stop_rules.insert(rules.tokenizer(), rules);
    }

    /// Takes a request, or says what is wrong with it. `hear` is told the tokens that are drawn for
    /// it, but no end-of-sequence token; nothing if another request has the same sample drawn.
    pub fn submit(
        &mut self,
        request: SampleRequest,
        hear: Option<Hear>,
        slots: &SlotTable,
    ) -> Result<Submitted> {
        let members = self.check(&request, slots)?;
        let key = Rc::new(JobKey::new(&request, &members));
        if let Some(sample) = self.memo.get(&key, request.iteration) {
            self.stats.shared += 1;
            return Ok(Submitted::Done(sample));
        }
        let (waiter, receiver) = oneshot::channel();
        if let Some(&id) = self.in_flight.get(&key) {
            self.stats.shared += 1;
            self.jobs[id].iteration = self.jobs[id].iteration.max(request.iteration);
            self.jobs[id].waiters.push(waiter);
            return Ok(Submitted::Pending(receiver));
        }
        if request.prompt.len() == self.limits.context {
            // A context that is full before the first token.
            return Ok(Submitted::Done(Sample { tokens: vec![], logprobs: vec![], finish: Finish::Length }));
        }
        let stop = self.watch(request.stop.as_ref(), hear)?;
        let age = Age { priority: request.priority, arrival: self.arrivals };
        self.arrivals += 1;
        let longest = request.prompt.len() + request.params.max_tokens as usize;
        let rope = self.limits.rotary.variant(longest.min(self.limits.context));
        let prompt_key = match members[..] {
            [(weights, _)] => Some(PromptKey { under: (weights, rope), prompt: request.prompt.clone() }),
            _ => None,
        };
        let member = |(w, share)| Member::new((w, rope), share, self.kv.root((w, rope)));
        let members = members.into_iter().map(member).collect();
        let id = self.jobs.insert(Job::new(age, key.clone(), request, stop, members, waiter));
        self.in_flight.insert(key, id);
        match prompt_key {
            None => {
                self.waiting.insert(age, id);
            }
            Some(prompt_key) => match self.prompts.get_mut(&prompt_key) {
                Some(followers) => {
                    followers.0.insert(age, id);
                }
                None => {
                    self.waiting.insert(age, id);
                    self.prompts.insert(prompt_key.clone(), Followers::default());
                    self.jobs[id].leads = Some(prompt_key);
                }
            },
        }
        Ok(Submitted::Pending(receiver))
    }

    /// What follows a sample's tokens, if anything does.
    fn watch(&self, stop: Option<&Stop>, hear: Option<Hear>) -> Result<Option<Watch>> {
        let rule = |stop: &Stop| match self.stop_rules.get(&stop.tokenizer) {
            Some(rules) => Ok(rules.watch(&stop.strings)),
            None => {
                let problem = format!("found stop strings of tokenizer {:016x}, expected", stop.tokenizer);
                Err(Error::input("sample request", format!("{problem} one that the engine was given")))
            }
        };
        let mut ends_with = stop.map(rule).transpose()?;
        let Some(mut hear) = hear else { return Ok(ends_with) };
        Ok(Some(Box::new(move |token| {
            hear(token);
            ends_with.as_mut().is_some_and(|ends_with| ends_with(token))
        })))
    }

    /// The members of a well-formed request: weights and share of each.
    fn check(&self, request: &SampleRequest, slots: &SlotTable) -> Result<Vec<(WeightsId, f32)>> {
        let wrong = |problem: String| Err(Error::input("sample request", problem));
        let SamplerLimits { context, vocab, .. } = self.limits;
        if request.prompt.is_empty() {
            return wrong("the prompt is empty".into());
        }
        if request.prompt.len() > context {
            return wrong(format!(
                "the prompt has {} tokens, the model's context is {context}",
                request.prompt.len()
            ));
        }
        if let Some(&t) = request.prompt.iter().find(|&&t| t as usize >= vocab) {
            return wrong(format!("token {t} is outside the vocabulary of {vocab}"));
        }
        let p = request.params;
        if p.max_tokens == 0 {
            return wrong("max_tokens is 0".into());
        }
        if !(p.temperature >= 0.0 && p.temperature.is_finite()) {
            return wrong(format!("temperature {} is not a number from 0", p.temperature));
        }
        if p.top_p.is_nan() || p.top_p <= 0.0 {
            return wrong(format!("top_p {} is not above 0", p.top_p));
        }
        if !(0.0..=1.0).contains(&p.min_p) {
            return wrong(format!("min_p {} is not a number from 0 to 1", p.min_p));
        }
        let count = request.adapters.len();
        if count == 0 || count > self.limits.max_group {
            return wrong(format!("{count} adapters in a draw group, from 1 to {}", self.limits.max_group));
        }
        let sum: f32 = request.adapters.iter().map(|a| a.1).sum();
        if request.adapters.iter().any(|a| a.1.is_nan() || a.1 < 0.0) || (sum - 1.0).abs() > 1e-4 {
            return wrong("the weights of a draw group are not a distribution".into());
        }
        // The last token's K and V are never needed.
        let longest = (request.prompt.len() + p.max_tokens as usize).min(context) - 1;
        let pages = count * longest.max(1).div_ceil(self.kv.page_tokens());
        if pages > self.kv.capacity() {
            return Err(Error::Memory(format!(
                "a sample of {count} x {longest} tokens needs {pages} KV pages, there are {}",
                self.kv.capacity()
            )));
        }
        request
            .adapters
            .iter()
            .map(|&(a, share)| Ok((slots.weights(a)?, if count == 1 { 1.0 } else { share })))
            .collect()
    }

    /// Takes what was drawn for a scheduled batch: one token and log-probability a draw.
    pub fn commit(&mut self, batch: SampleBatch, tokens: &[u32], logprobs: &[f32]) -> Result<()> {
        for page in self.pinned.drain(..) {
            self.kv.release(page);
        }
        if tokens.len() != batch.draws.len() || logprobs.len() != batch.draws.len() {
            return Err(Error::Internal("the number of drawn tokens is not that of the draws".into()));
        }
        for ((Drawn { job: id, age, place }, &token), &logprob) in
            batch.draws.into_iter().zip(tokens).zip(logprobs)
        {
            if !self.jobs.has(id, age) {
                // A surplus token: the sample ended, or was given up, with the step before.
                continue;
            }
            if !logprob.is_finite() || token as usize >= self.limits.vocab {
                self.fail(id, || {
                    Error::NotFinite(format!(
                        "log-probability {logprob} of the token drawn at position {place}"
                    ))
                });
                continue;
            }
            self.stats.tokens += 1;
            if let Some(finish) = self.jobs[id].land(place, token, logprob, &self.limits) {
                self.finish(id, finish);
            }
        }
        Ok(())
    }

    /// Discards what is cached under these weights, which no longer exist, and fails the requests that
    /// need them.
    pub fn forget(&mut self, weights: WeightsId) {
        let in_flight: Vec<JobId> = self.in_flight.values().copied().collect();
        for id in in_flight {
            if self.jobs[id].members.iter().any(|m| m.weights == weights) {
                self.fail(id, || {
                    Error::input(
                        "sample request",
                        "its adapter was changed or dropped before it was complete",
                    )
                });
            }
        }
        self.kv.forget(weights);
        self.memo.forget(weights);
    }

    /// No lane will ask again for what iterations before this one drew.
    pub fn forget_before(&mut self, iteration: usize) {
        self.memo.forget_before(iteration);
    }

    /// A job is complete.
    fn finish(&mut self, id: JobId, finish: Finish) {
        let job = self.remove(id);
        let tokens = job.tokens[job.prompt..job.landed()].to_vec();
        let sample = Sample { tokens, logprobs: job.logprobs, finish };
        for waiter in job.waiters {
            // Nobody waits any more: nothing to deliver.
            let _ = waiter.send(Ok(sample.clone()));
        }
        self.memo.insert(job.key, sample, job.iteration);
    }

    /// A job can't be completed.
    fn fail(&mut self, id: JobId, error: impl Fn() -> Error) {
        for waiter in self.remove(id).waiters {
            let _ = waiter.send(Err(error()));
        }
    }

    /// Takes a job out of everything.
    fn remove(&mut self, id: JobId) -> Job {
        self.let_go_of_pages(id);
        let age = self.jobs[id].age;
        if self.waiting.remove(&age).is_none() {
            self.leave_running(id);
        }
        self.promote_follower(id);
        let mut job = self.jobs.remove(id);
        if let [member] = &job.members[..] {
            // It may be a follower itself.
            let key = PromptKey { under: member.under(), prompt: job.key.prompt.clone() };
            if let Some(followers) = self.prompts.get_mut(&key) {
                followers.0.remove(&age);
            }
        }
        self.in_flight.remove(&job.key);
        job.leads = None;
        job
    }

    /// If a job leads others with the same prompt, the next of them stands in its place among the waiting.
    fn promote_follower(&mut self, id: JobId) {
        let Some(key) = self.jobs[id].leads.take() else { return };
        let next = self.prompts.get_mut(&key).and_then(|f| f.0.pop_first());
        match next {
            None => {
                self.prompts.remove(&key);
            }
            Some((age, next)) => {
                self.jobs[next].leads = Some(key);
                self.waiting.insert(age, next);
            }
        }
    }

    fn leave_running(&mut self, id: JobId) {
        if let Some(place) = self.running.iter().position(|&r| r == id) {
            self.running.remove(place);
            self.running_sequences -= self.jobs[id].members.len();
        }
    }

    /// Releases all pages of a job, deepest first.
    fn let_go_of_pages(&mut self, id: JobId) {
        for m in 0..self.jobs[id].members.len() {
            let member = &mut self.jobs[id].members[m];
            let (pages, fork) = (std::mem::take(&mut member.pages), member.fork.take());
            let under = member.under();
            for page in fork.into_iter().chain(pages.into_iter().rev()) {
                self.kv.release(page);
            }
            let root = self.kv.root(under);
            self.jobs[id].members[m].reset(root);
        }
    }
}
