//! The sampler over a simulated device, which knows of a row only what its pages say: the tokens at
//! positions 0 to its own. What it draws is a hash of those, the weights and the draw's settings,
//! so that any mistake in pages, copies, rows or draws shows as another sample.

use std::collections::HashSet;
use std::sync::Arc;

use super::*;
use crate::backend::{BatchPlan, DRAWN, Draw, Slot, mix};
use crate::engine::request::{AdapterId, SamplingParams};

const EOS: u32 = 0;
const POISON: u32 = u32::MAX;

fn limits(max_rows: usize, max_sequences: usize, context: usize, vocab: usize) -> SamplerLimits {
    SamplerLimits {
        max_rows,
        max_sequences,
        max_group: 4,
        context,
        vocab,
        eos: vec![EOS],
        rotary: Rotary::default(),
    }
}

/// Adapter i has slot i; adapters 1 to 3 still share the base's weights, 5 is a clone of 4, 6 and 7 have their own.
fn slots() -> SlotTable {
    let weights = [0, 0, 0, 9, 9, 10, 11];
    SlotTable::with_adapters(&std::array::from_fn::<_, 7, _>(|i| {
        (AdapterId(i as u32 + 1), Slot(i as u32 + 1), WeightsId(weights[i]))
    }))
}

fn content(slots: &SlotTable, slot: Slot) -> u64 {
    if slot == Slot::BASE {
        return 0;
    }
    slots.weights(AdapterId(slot.0)).unwrap().0
}

fn logits_hash(weights: u64, history: impl Iterator<Item = u32>) -> u64 {
    history.fold(mix(weights), |h, t| mix(h ^ u64::from(t).wrapping_add(77)))
}

fn draw_token(members: impl Iterator<Item = (u64, f32)>, draw: &Draw, vocab: usize) -> (u32, f32) {
    let mut h = mix(draw.key ^ u64::from(draw.position) << 32);
    h = mix(h ^ u64::from(draw.temperature.to_bits()) ^ u64::from(draw.top_k) << 32);
    for (logits, share) in members {
        h = mix(h ^ logits ^ u64::from(share.to_bits()));
    }
    ((h % vocab as u64) as u32, -((h >> 40) as f32) / 1e6 - 0.1)
}

struct Simulation {
    /// What the step before drew.
    drawn: Vec<u32>,
    pages: Vec<Vec<u32>>,
    page_tokens: usize,
    limits: SamplerLimits,
}

impl Simulation {
    fn new(limits: &SamplerLimits, pages: usize, page_tokens: usize) -> Self {
        let pages = vec![vec![POISON; page_tokens]; pages];
        Self { drawn: vec![], pages, page_tokens, limits: limits.clone() }
    }

    fn run(&mut self, plan: &BatchPlan, slots: &SlotTable) -> (Vec<u32>, Vec<f32>) {
        self.check(plan);
        let before = self.pages.clone();
        for c in &plan.page_copies {
            for i in 0..c.tokens as usize {
                self.pages[c.to as usize][i] = before[c.from as usize][i];
            }
        }
        let mut written = HashSet::new();
        for s in &plan.sequences {
            let table = &plan.page_table[s.pages_start as usize..s.pages_end as usize];
            for row in s.start as usize..s.end as usize {
                let position = plan.positions[row] as usize;
                assert_eq!(position, s.first_position as usize + row - s.start as usize);
                let page = table[position / self.page_tokens] as usize;
                assert!(written.insert((page, position % self.page_tokens)), "two rows write one place");
                self.pages[page][position % self.page_tokens] = match plan.tokens[row] {
                    token if token & DRAWN == 0 => token,
                    token => self.drawn[(token ^ DRAWN) as usize],
                };
            }
        }
        let of_row = |row: u32| {
            let s = plan.sequences.iter().find(|s| (s.start..s.end).contains(&row)).unwrap();
            let segment = plan.segments.iter().find(|s| (s.start..s.end).contains(&row)).unwrap();
            let table = &plan.page_table[s.pages_start as usize..s.pages_end as usize];
            let history = (0..=plan.positions[row as usize] as usize).map(|p| {
                let token = self.pages[table[p / self.page_tokens] as usize][p % self.page_tokens];
                assert_ne!(token, POISON, "a row sees what nobody wrote");
                token
            });
            logits_hash(content(slots, segment.slot), history)
        };
        let drawn: (Vec<u32>, Vec<f32>) = plan
            .draws
            .iter()
            .map(|d| {
                let members = plan.draw_rows[d.rows_start as usize..d.rows_end as usize].iter();
                let members = members.map(|m| (of_row(plan.logit_rows[m.logit_row as usize]), m.weight));
                draw_token(members, d, self.limits.vocab)
            })
            .unzip();
        self.drawn = drawn.0.clone();
        drawn
    }

    fn check(&self, plan: &BatchPlan) {
        assert!(plan.rows() <= self.limits.max_rows);
        assert!(plan.draws.len() <= self.limits.max_sequences);
        assert!(plan.logit_rows.len() <= self.limits.max_sequences);
        let mut end = 0;
        for s in &plan.sequences {
            assert!(s.start == end && s.end > s.start);
            end = s.end;
            assert!(plan.segments.iter().any(|g| g.start <= s.start && s.end <= g.end));
        }
        assert_eq!(end as usize, plan.rows());
        assert!(plan.segments.windows(2).all(|w| w[0].slot < w[1].slot && w[0].end == w[1].start));
        assert!(plan.logit_rows.windows(2).all(|w| w[0] < w[1]));
        let to: HashSet<u32> = plan.page_copies.iter().map(|c| c.to).collect();
        assert_eq!(to.len(), plan.page_copies.len(), "two copies to one page");
        assert!(plan.page_copies.iter().all(|c| !to.contains(&c.from)), "a copy of a copy");
    }
}

/// A tokenizer whose texts are the numbers of tokens: the rule `2*7` stops at the second token 7.
struct Numbers;

impl StopRules for Numbers {
    fn tokenizer(&self) -> u64 {
        3
    }

    fn watch(&self, strings: &[String]) -> Watch {
        let (times, token) = strings[0].split_once('*').unwrap();
        let (mut left, token): (u32, u32) = (times.parse().unwrap(), token.parse().unwrap());
        Box::new(move |t| {
            left -= u32::from(t == token);
            left == 0
        })
    }
}

fn stop_at(times: u32, token: u32) -> Option<Stop> {
    Numbers.stop(&[format!("{times}*{token}")])
}

fn request(adapters: &[(u32, f32)], prompt: &[u32], max_tokens: u32, key: u64) -> SampleRequest {
    SampleRequest {
        adapters: adapters.iter().map(|&(a, w)| (AdapterId(a), w)).collect(),
        ..SampleRequest::new(AdapterId::BASE, prompt, SamplingParams::plain(max_tokens), key)
    }
}

/// What a request must give, computed by itself.
fn expected(r: &SampleRequest, slots: &SlotTable, limits: &SamplerLimits) -> Sample {
    let mut tokens = r.prompt.to_vec();
    let mut logprobs = vec![];
    let mut watch = r.stop.as_ref().map(|stop| Numbers.watch(&stop.strings));
    let mut finish = Finish::Length;
    while tokens.len() < limits.context && logprobs.len() < r.params.max_tokens as usize {
        let draw = Draw {
            rows_start: 0,
            rows_end: 0,
            key: r.key,
            position: tokens.len() as u32,
            temperature: r.params.temperature,
            top_k: r.params.top_k,
            top_p: r.params.top_p,
            min_p: r.params.min_p,
        };
        let members = r.adapters.iter().map(|&(a, share)| {
            let weights = slots.weights(a).unwrap().0;
            (logits_hash(weights, tokens.iter().copied()), share)
        });
        let (token, logprob) = draw_token(members, &draw, limits.vocab);
        tokens.push(token);
        logprobs.push(logprob);
        if token == EOS || watch.as_mut().is_some_and(|w| w(token)) {
            finish = Finish::Stop;
            break;
        }
    }
    Sample { tokens: tokens.split_off(r.prompt.len()), logprobs, finish }
}

struct Answer(Option<oneshot::Receiver<Result<Sample>>>, Option<Sample>);

impl Answer {
    /// `None` while it is under way.
    fn poll(&mut self) -> Option<Sample> {
        if let Some(receiver) = &mut self.0 {
            self.1 = Some(receiver.try_recv().unwrap()?.unwrap());
            self.0 = None;
        }
        self.1.clone()
    }

    fn get(&mut self) -> Sample {
        self.poll().expect("still under way")
    }
}

fn submit(sampler: &mut Sampler, r: &SampleRequest, slots: &SlotTable) -> Answer {
    match sampler.submit(r.clone(), None, slots).unwrap() {
        Submitted::Done(sample) => Answer(None, Some(sample)),
        Submitted::Pending(receiver) => Answer(Some(receiver), None),
    }
}

fn step(sampler: &mut Sampler, device: &mut Simulation, slots: &SlotTable) -> bool {
    let Some(batch) = sampler.schedule(slots).unwrap() else { return false };
    let (tokens, logprobs) = device.run(&batch.plan, slots);
    sampler.commit(batch, &tokens, &logprobs).unwrap();
    true
}

/// A step that is scheduled and run before what the one before drew is taken.
#[derive(Default)]
struct Ahead(Option<(SampleBatch, Vec<u32>, Vec<f32>)>);

impl Ahead {
    fn step(&mut self, sampler: &mut Sampler, device: &mut Simulation, slots: &SlotTable) -> bool {
        let next = sampler.schedule(slots).unwrap().map(|batch| {
            let (tokens, logprobs) = device.run(&batch.plan, slots);
            (batch, tokens, logprobs)
        });
        let last = std::mem::replace(&mut self.0, next);
        if let Some((batch, tokens, logprobs)) = last {
            sampler.commit(batch, &tokens, &logprobs).unwrap();
        }
        self.0.is_some() || sampler.has_work()
    }
}

fn assert_clean(sampler: &Sampler) {
    assert!(!sampler.has_work());
    assert_eq!(sampler.kv.in_use(), 0, "pages are held by nobody");
    assert!(sampler.prompts.is_empty() && sampler.in_flight.is_empty() && sampler.pinned.is_empty());
    assert_eq!(sampler.running_sequences, 0);
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) % n as u64) as usize
    }
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

#[test]
fn random_schedules_give_each_request_its_own_sample() {
    random_schedules(false);
}

#[test]
fn random_schedules_a_step_ahead_give_each_request_its_own_sample() {
    random_schedules(true);
}

fn random_schedules(ahead: bool) {
    let slots = slots();
    let mut preemptions = 0;
    for seed in 0..400 {
        let mut flight = Ahead::default();
        let mut step = |sampler: &mut Sampler, device: &mut Simulation, slots: &SlotTable| match ahead {
            true => flight.step(sampler, device, slots),
            false => step(sampler, device, slots),
        };
        let mut random = Random(seed);
        let page_tokens = random.of(&[1, 2, 3, 4, 16]);
        let context = 40;
        let vocab = random.of(&[3, 5, 40]);
        let max_sequences = random.of(&[3, 4, 8, 30]);
        let limits = limits(max_sequences + random.of(&[0, 1, 5, 60]), max_sequences, context, vocab);
        let groups = random.below(2);
        let fewest = (39_usize.div_ceil(page_tokens)) * if groups == 1 { 3 } else { 1 };
        let pages = fewest + random.of(&[0, 1, 4, 40, 1000]);
        let mut sampler = Sampler::new(limits.clone(), pages, page_tokens);
        sampler.add_stop_rules(Rc::new(Numbers));
        let mut device = Simulation::new(&limits, pages, page_tokens);

        let stem: Vec<u32> = (0..context).map(|_| random.below(vocab) as u32).collect();
        let mut requests: Vec<SampleRequest> = Vec::new();
        for _ in 0..random.of(&[1, 5, 40]) {
            // Many share their prompt, or a part of it.
            let mut prompt = stem[..1 + random.below(24)].to_vec();
            for _ in 0..random.of(&[0, 0, 0, 3]) {
                prompt.push(random.below(vocab) as u32);
            }
            let copies = random.of(&[1, 1, 2, 8]);
            for _ in 0..copies {
                let a = random.below(8) as u32;
                let b = random.below(8) as u32;
                let adapters = if groups == 1 && random.below(4) == 0 {
                    vec![(a, 0.25), (b, 0.5), (7, 0.25)]
                } else {
                    vec![(a, 1.0)]
                };
                let max_tokens = 1 + random.below(20) as u32;
                let mut r = request(&adapters, &prompt, max_tokens, random.below(6) as u64);
                if random.below(4) == 0 {
                    r.stop = stop_at(2, 1);
                }
                r.priority = random.below(3) as u64;
                requests.push(r);
            }
        }
        let mut answers = Vec::new();
        for r in &requests {
            answers.push(submit(&mut sampler, r, &slots));
            for _ in 0..random.of(&[0, 0, 0, 1, 3]) {
                step(&mut sampler, &mut device, &slots);
            }
        }
        let mut steps = 0;
        while step(&mut sampler, &mut device, &slots) {
            steps += 1;
            assert!(steps < 100_000, "seed {seed}: no end");
        }
        for (i, (r, a)) in requests.iter().zip(&mut answers).enumerate() {
            assert_eq!(a.get(), expected(r, &slots, &limits), "seed {seed}, request {i}");
        }
        assert_clean(&sampler);
        preemptions += sampler.stats().preemptions;
    }
    assert!(preemptions > 100, "the pools were too large to try preemption: {preemptions}");
}

#[test]
fn eight_samples_of_a_prompt_compute_and_hold_it_once() {
    let slots = slots();
    let limits = limits(64, 16, 512, 1000);
    let mut sampler = Sampler::new(limits.clone(), 100, 16);
    let mut device = Simulation::new(&limits, 100, 16);
    let prompt: Vec<u32> = (1..=100).collect();
    let requests: Vec<_> = (0..8).map(|key| request(&[(4, 1.0)], &prompt, 10, key)).collect();
    let mut answers: Vec<_> = requests.iter().map(|r| submit(&mut sampler, r, &slots)).collect();
    // 100 rows in chunks of 64; the second step draws for all eight.
    step(&mut sampler, &mut device, &slots);
    assert_eq!(sampler.stats().rows, 64);
    step(&mut sampler, &mut device, &slots);
    assert_eq!((sampler.stats().rows, sampler.stats().tokens), (100, 8));
    step(&mut sampler, &mut device, &slots);
    // Six full pages once, and a tail for each.
    assert_eq!((sampler.stats().rows, sampler.kv.in_use()), (108, 6 + 8));
    while step(&mut sampler, &mut device, &slots) {}
    for (r, a) in requests.iter().zip(&mut answers) {
        assert_eq!(a.get(), expected(r, &slots, &limits));
    }
    assert_clean(&sampler);
}

#[test]
fn agents_that_still_are_the_base_share_a_question_then_and_later() {
    let slots = slots();
    let limits = limits(64, 16, 512, 1000);
    let mut sampler = Sampler::new(limits.clone(), 100, 16);
    let mut device = Simulation::new(&limits, 100, 16);
    let prompt: Vec<u32> = (1..=40).collect();
    let run = |sampler: &mut Sampler, agent, key| {
        let r = request(&[(agent, 1.0)], &prompt, 30, key);
        (submit(sampler, &r, &slots), r)
    };
    let mut answers: Vec<_> = (0..4).map(|agent| run(&mut sampler, agent, u64::from(agent))).collect();
    step(&mut sampler, &mut device, &slots);
    assert_eq!((sampler.stats().rows, sampler.stats().tokens), (40, 4));
    while step(&mut sampler, &mut device, &slots) {}
    // Later: only the row whose logits are wanted.
    let rows = sampler.stats().rows;
    answers.push(run(&mut sampler, 2, 99));
    step(&mut sampler, &mut device, &slots);
    assert_eq!(sampler.stats().rows, rows + 1);
    // Other weights share nothing.
    answers.push(run(&mut sampler, 7, 99));
    step(&mut sampler, &mut device, &slots);
    assert_eq!(sampler.stats().rows, rows + 2 + 40);
    while step(&mut sampler, &mut device, &slots) {}
    for (mut a, r) in answers {
        assert_eq!(a.get(), expected(&r, &slots, &limits));
    }
}

#[test]
fn a_prefix_written_in_the_same_step_is_used_at_once() {
    let slots = slots();
    let limits = limits(256, 16, 512, 1000);
    let mut sampler = Sampler::new(limits.clone(), 100, 16);
    let mut device = Simulation::new(&limits, 100, 16);
    let question: Vec<u32> = (1..=64).collect();
    let with = |last: u32| question.iter().copied().chain([last, last]).collect::<Vec<_>>();
    let requests = [request(&[(0, 1.0)], &with(7), 3, 1), request(&[(1, 1.0)], &with(8), 3, 1)];
    let mut answers: Vec<_> = requests.iter().map(|r| submit(&mut sampler, r, &slots)).collect();
    step(&mut sampler, &mut device, &slots);
    assert_eq!((sampler.stats().rows, sampler.stats().tokens), (66 + 2, 2));
    while step(&mut sampler, &mut device, &slots) {}
    for (r, a) in requests.iter().zip(&mut answers) {
        assert_eq!(a.get(), expected(r, &slots, &limits));
    }
}

#[test]
fn a_finished_sample_is_the_prefix_of_the_next_turn() {
    let slots = slots();
    let limits = limits(256, 16, 512, 1000);
    let mut sampler = Sampler::new(limits.clone(), 100, 16);
    let mut device = Simulation::new(&limits, 100, 16);
    let r = request(&[(6, 1.0)], &(1..=30).collect::<Vec<_>>(), 40, 5);
    let mut first = submit(&mut sampler, &r, &slots);
    while step(&mut sampler, &mut device, &slots) {}
    let first = first.get();
    let turn: Vec<u32> = r.prompt.iter().chain(&first.tokens).copied().chain([9; 10]).collect();
    let rows = sampler.stats().rows;
    let r = request(&[(6, 1.0)], &turn, 1, 5);
    let mut second = submit(&mut sampler, &r, &slots);
    while step(&mut sampler, &mut device, &slots) {}
    assert_eq!(second.get(), expected(&r, &slots, &limits));
    // 69 tokens have K and V (the last drawn one never does): four full pages.
    assert_eq!(sampler.stats().rows - rows, 80 - 64);
}

/// Two turns on each of 20 questions, all first ones asked at once, a second one as soon as its
/// first has ended; the rows that it took.
fn rows_of_two_turns(prioritised: bool) -> u64 {
    let slots = slots();
    let limits = limits(64, 4, 512, 1000);
    // Room for five questions of at most 55 tokens.
    let (pages, page_tokens) = (70, 4);
    let mut sampler = Sampler::new(limits.clone(), pages, page_tokens);
    let mut device = Simulation::new(&limits, pages, page_tokens);
    let ask = |sampler: &mut Sampler, r: SampleRequest, priority: u64| {
        let r = SampleRequest { priority: if prioritised { priority } else { 0 }, ..r };
        (submit(sampler, &r, &slots), r, priority)
    };
    let mut first: Vec<_> = (1..=20)
        .map(|q| {
            let priority = sampler.next_priority();
            ask(&mut sampler, request(&[(0, 1.0)], &[q; 33], 9, 1), priority)
        })
        .collect();
    let mut second = Vec::new();
    let mut lengths = 0;
    while step(&mut sampler, &mut device, &slots) {
        for (mut answer, r, priority) in std::mem::take(&mut first) {
            let Some(sample) = answer.poll() else {
                first.push((answer, r, priority));
                continue;
            };
            assert_eq!(sample, expected(&r, &slots, &limits));
            let turn: Vec<u32> = r.prompt.iter().chain(&sample.tokens).copied().chain([900; 5]).collect();
            lengths += turn.len();
            second.push(ask(&mut sampler, request(&[(0, 1.0)], &turn, 9, 1), priority));
        }
    }
    assert_eq!(second.len(), 20);
    for (answer, r, _) in &mut second {
        assert_eq!(answer.get(), expected(r, &slots, &limits));
        lengths += answer.get().tokens.len() - 1;
    }
    assert_clean(&sampler);
    sampler.stats().rows - lengths as u64
}

#[test]
fn what_was_begun_is_ended_while_its_prefix_is_known() {
    // In the order of arrival all first turns come before any second one, and the cache has forgotten them by then.
    let (by_priority, in_order) = (rows_of_two_turns(true), rows_of_two_turns(false));
    // Rows beyond one for each token: a page of 4 that was not full is not known.
    assert!(by_priority <= 20 * 3, "{by_priority} rows too many");
    assert!(
        in_order >= 10 * 30,
        "only {in_order} rows too many in order of arrival: the cache is too large for this test"
    );
}

#[test]
fn equal_requests_are_computed_once_then_and_later_until_their_weights_die() {
    let slots = slots();
    let limits = limits(256, 16, 512, 1000);
    let mut sampler = Sampler::new(limits.clone(), 100, 16);
    let mut device = Simulation::new(&limits, 100, 16);
    // 4 and 5 are clones.
    let requests = [4, 5, 4].map(|a| request(&[(a, 1.0)], &[1, 2, 3], 20, 1));
    let mut answers = requests.each_ref().map(|r| submit(&mut sampler, r, &slots));
    while step(&mut sampler, &mut device, &slots) {}
    let first = answers[0].get();
    assert!(answers.iter_mut().all(|a| a.get() == first));
    let rows = sampler.stats().rows;
    assert_eq!(rows as usize, 3 + first.tokens.len() - 1);
    assert_eq!(submit(&mut sampler, &requests[1], &slots).get(), first);
    assert!(!sampler.has_work());

    sampler.forget(WeightsId(9));
    assert_eq!(sampler.kv.cached(), 0);
    let mut again = submit(&mut sampler, &requests[0], &slots);
    assert!(sampler.has_work());
    while step(&mut sampler, &mut device, &slots) {}
    assert_eq!(again.get(), first);
    assert_eq!(sampler.stats().rows, 2 * rows);
}

#[test]
fn who_draws_from_weights_that_die_is_told() {
    let slots = slots();
    let limits = limits(256, 2, 512, 1000);
    let mut sampler = Sampler::new(limits.clone(), 100, 4);
    let mut device = Simulation::new(&limits, 100, 4);
    let prompt: Vec<u32> = (1..=30).collect();
    let mut answers: Vec<_> =
        (0..5).map(|key| submit(&mut sampler, &request(&[(6, 1.0)], &prompt, 20, key), &slots)).collect();
    answers.push(submit(&mut sampler, &request(&[(7, 1.0)], &prompt, 20, 0), &slots));
    step(&mut sampler, &mut device, &slots);
    step(&mut sampler, &mut device, &slots);
    sampler.forget(WeightsId(10));
    for a in &mut answers[..5] {
        assert!(a.0.as_mut().unwrap().try_recv().unwrap().unwrap().is_err());
    }
    while step(&mut sampler, &mut device, &slots) {}
    assert_eq!(answers[5].get(), expected(&request(&[(7, 1.0)], &prompt, 20, 0), &slots, &limits));
    assert_clean(&sampler);
}

#[test]
fn bad_requests_are_refused_one_by_one() {
    let slots = slots();
    let mut sampler = Sampler::new(limits(8, 8, 20, 10), 5, 4);
    let good = request(&[(0, 1.0)], &[1, 2], 5, 0);
    let mut refused = |change: &dyn Fn(&mut SampleRequest)| {
        let mut r = good.clone();
        change(&mut r);
        let error = sampler.submit(r, None, &slots).err().expect("refused").to_string();
        assert!(!sampler.has_work());
        error
    };
    assert!(refused(&|r| r.prompt = Arc::from([])).contains("empty"));
    assert!(refused(&|r| r.prompt = vec![1; 21].into()).contains("context is 20"));
    assert!(refused(&|r| r.prompt = Arc::from([1, 10])).contains("token 10"));
    assert!(refused(&|r| r.params.max_tokens = 0).contains("max_tokens"));
    assert!(refused(&|r| r.params.temperature = -1.0).contains("temperature"));
    assert!(refused(&|r| r.params.top_p = 0.0).contains("top_p"));
    for min_p in [-0.1, 1.1, f32::NAN] {
        assert!(refused(&|r| r.params.min_p = min_p).contains("min_p"));
    }
    assert!(refused(&|r| r.adapters = vec![]).contains("0 adapters"));
    assert!(refused(&|r| r.adapters = vec![(AdapterId(99), 1.0)]).contains("adapter 99"));
    assert!(refused(&|r| r.adapters[0].1 = 0.5).contains("distribution"));
    let three = |r: &mut SampleRequest| {
        r.adapters = vec![(AdapterId(0), 0.5), (AdapterId(1), 0.25), (AdapterId(2), 0.25)];
        r.params.max_tokens = 18;
    };
    assert!(refused(&three).contains("KV pages"));
    // A full context has room for nothing.
    let full = request(&[(0, 1.0)], &[1; 20], 5, 0);
    let sample = submit(&mut sampler, &full, &slots).get();
    assert_eq!((sample.tokens.len(), sample.finish), (0, Finish::Length));
}

#[test]
fn a_step_ahead_computes_no_surplus_row_where_the_length_ends_a_sample_and_one_where_a_token_does() {
    let slots = slots();
    let limits = limits(64, 16, 512, 1000);
    for stop in [false, true] {
        let mut sampler = Sampler::new(limits.clone(), 100, 16);
        sampler.add_stop_rules(Rc::new(Numbers));
        let mut device = Simulation::new(&limits, 100, 16);
        let mut flight = Ahead::default();
        let mut r = request(&[(6, 1.0)], &(1..=20).collect::<Vec<_>>(), 12, 3);
        let whole = expected(&r, &slots, &limits);
        assert_eq!(whole.tokens.len(), 12, "the hash draws no end of sequence here");
        if stop {
            r.stop = stop_at(1, whole.tokens[5]);
        }
        let mut answer = submit(&mut sampler, &r, &slots);
        while flight.step(&mut sampler, &mut device, &slots) {}
        let sample = answer.get();
        assert_eq!(sample, expected(&r, &slots, &limits));
        let tokens = sample.tokens.len();
        assert_eq!(tokens, if stop { 6 } else { 12 });
        // The last token of a sample needs no row.
        assert_eq!(sampler.stats().rows as usize, 20 + tokens - 1 + usize::from(stop));
        assert_eq!(sampler.stats().tokens as usize, tokens);
        assert_clean(&sampler);
    }
}
