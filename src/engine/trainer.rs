//! The trainer: optimizer steps of many adapters at once.
//!
//! A micro-batch takes one sequence after another from all requests in turn, each adapter's own in
//! its own order and only those of its current optimizer step. An adapter steps when its batch is
//! complete, together with all others that are. What an adapter learns depends on its own request
//! alone.

use futures::channel::oneshot;

use super::queue::{check_tokens, push_packed};
use super::request::{AdapterId, Fault, NonFinite, StepMetrics, TrainRequest, draw_key};
use super::slots::SlotTable;
use crate::backend::{AdamWStep, BatchPlan, Label, SequenceDropout, Slot};
use crate::error::{Error, Result};
use crate::model::{Mode, Rotary};

/// Where a request's metrics are delivered.
type Waiter = oneshot::Sender<Result<Vec<StepMetrics>>>;

/// A request under way.
struct Active {
    request: TrainRequest,
    slot: Slot,
    /// Rate of dropout, and the number of the request's first optimizer step since the moments were zeroed.
    dropout: f32,
    first_step: u32,
    /// For each sequence, the rows that are needed: up to the one that predicts its last token with a weight.
    rows: Vec<usize>,
    /// For each step, what its loss is divided by.
    divisors: Vec<f64>,
    /// The current step, and how many of its sequences have been in a micro-batch.
    step: usize,
    next: usize,
    /// `Σ w·nll` of the current step so far, in the order of its sequences.
    loss: f64,
    metrics: Vec<StepMetrics>,
    waiter: Waiter,
}

impl Active {
    /// The current step's sequences that have not been in a micro-batch; indices into the request's.
    fn remaining(&self) -> &[u32] {
        &self.request.steps[self.step].sequences[self.next..]
    }

    /// Notes the current step and goes to the next.
    fn step_ended(&mut self, loss: f32, grad_norm: f32, fault: Option<Fault>) {
        let done = &self.request.steps[self.step];
        let tokens = |&s: &u32| self.request.sequences[s as usize].tokens.len() as u64;
        self.metrics.push(StepMetrics {
            step: self.step as u32 + 1,
            loss,
            grad_norm,
            learning_rate: done.learning_rate,
            tokens: done.sequences.iter().map(tokens).sum(),
            fault,
        });
        (self.step, self.next, self.loss) = (self.step + 1, 0, 0.0);
    }

    /// The dropout of the sequence that comes next.
    fn next_dropout(&self) -> SequenceDropout {
        let step = u64::from(self.first_step) + self.step as u64;
        let place = self.next as u64;
        let fields = [self.request.key, step, place].map(u64::to_le_bytes);
        let key = draw_key(&[b"dropout", &fields[0], &fields[1], &fields[2]]);
        SequenceDropout { key, rate: self.dropout }
    }

    fn is_step_complete(&self) -> bool {
        self.remaining().is_empty()
    }

    /// Rows of the step with most of them.
    fn most_rows(&self) -> usize {
        let rows =
            |step: &super::TrainStep| step.sequences.iter().map(|&s| self.rows[s as usize]).sum::<usize>();
        self.request.steps.iter().map(rows).max().unwrap_or(0)
    }
}

/// A sequence of a micro-batch.
struct Taken {
    adapter: AdapterId,
    slot: Slot,
    sequence: u32,
    dropout: SequenceDropout,
}

/// A micro-batch's plan and whose sequences it holds, in the order of its rows.
pub struct MicroBatch {
    /// The plan; no rows if the sequences have no weights.
    pub plan: BatchPlan,
    taken: Vec<Taken>,
}

/// Requests under way, in order of arrival.
pub struct Trainer {
    /// Most rows of a micro-batch; 0 is no limit.
    max_rows: usize,
    context: usize,
    vocab: usize,
    active: Vec<Active>,
    /// The request whose turn it is.
    turn: usize,
    micro_batches: u64,
}

impl Trainer {
    /// Nothing to do yet.
    pub fn new(max_rows: usize, context: usize, vocab: usize) -> Self {
        Self { max_rows, context, vocab, active: Vec::new(), turn: 0, micro_batches: 0 }
    }

    /// Whether anything is to be trained.
    pub fn has_work(&self) -> bool {
        !self.active.is_empty()
    }

    /// Micro-batches so far.
    pub fn micro_batches(&self) -> u64 {
        self.micro_batches
    }

    /// What is wrong with a request, if anything.
    pub fn check(&self, request: &TrainRequest) -> Result<()> {
        let adapter = &request.name;
        for (i, sequence) in request.sequences.iter().enumerate() {
            let place = format!("training data of {adapter}, sequence {i}");
            check_tokens(&place, &sequence.tokens, self.context, self.vocab)?;
            let (tokens, weights) = (sequence.tokens.len(), sequence.weights.len());
            if tokens != weights {
                return Err(Error::input(place, format!("{tokens} tokens but {weights} weights")));
            }
            if let Some(w) = sequence.weights.iter().find(|w| !w.is_finite()) {
                return Err(Error::input(place, format!("a weight of {w}")));
            }
        }
        for (i, step) in request.steps.iter().enumerate() {
            if !step.learning_rate.is_finite() {
                let place = format!("training of {adapter}, step {}", i + 1);
                return Err(Error::input(place, format!("a learning rate of {}", step.learning_rate)));
            }
        }
        request.divisors().map(drop)
    }

    /// Takes a checked request with at least one step whose adapter is at `slot`, with this rate of
    /// dropout; `first_step` is the number of its first optimizer step since the moments were
    /// zeroed.
    pub fn submit(
        &mut self,
        request: TrainRequest,
        slot: Slot,
        dropout: f32,
        first_step: u32,
    ) -> Result<oneshot::Receiver<Result<Vec<StepMetrics>>>> {
        let (waiter, receiver) = oneshot::channel();
        let rows = request
            .sequences
            .iter()
            .map(|s| s.weights.iter().skip(1).rposition(|&w| w != 0.0).map_or(0, |last| last + 1))
            .collect();
        let divisors = request.divisors()?;
        let metrics = Vec::with_capacity(request.steps.len());
        self.active.push(Active {
            request,
            slot,
            dropout,
            first_step,
            rows,
            divisors,
            step: 0,
            next: 0,
            loss: 0.0,
            metrics,
            waiter,
        });
        Ok(receiver)
    }

    /// Rows that the largest micro-batch of the present requests can have.
    pub fn most_rows(&self) -> usize {
        let all: usize = self.active.iter().map(Active::most_rows).sum();
        let longest = self.active.iter().flat_map(|a| a.rows.iter().copied()).max().unwrap_or(0);
        if self.max_rows == 0 { all } else { all.min(self.max_rows).max(longest) }
    }

    /// What its micro-batches need of the activations.
    pub fn mode(&self) -> Mode {
        let dropout = self.active.iter().any(|a| a.dropout > 0.0);
        if dropout { Mode::TrainingWithDropout } else { Mode::Training }
    }

    /// The next micro-batch: one sequence after another from all requests in turn, until a sequence doesn't fit.
    pub fn schedule(&mut self, rotary: &Rotary) -> MicroBatch {
        let mut taken: Vec<Taken> = Vec::new();
        let mut rows = 0;
        let mut idle = 0; // requests in a row that had nothing to give
        while idle < self.active.len() {
            self.turn %= self.active.len();
            let active = &mut self.active[self.turn];
            match active.remaining().first() {
                None => idle += 1,
                Some(&sequence) => {
                    let more = active.rows[sequence as usize];
                    if self.max_rows > 0 && rows > 0 && rows + more > self.max_rows {
                        break;
                    }
                    rows += more;
                    let dropout = active.next_dropout();
                    active.next += 1;
                    idle = 0;
                    taken.push(Taken {
                        adapter: active.request.adapter,
                        slot: active.slot,
                        sequence,
                        dropout,
                    });
                }
            }
            self.turn += 1;
        }
        self.micro_batches += 1;
        taken.sort_by_key(|t| t.slot); // stable: an adapter's own order stays
        let mut plan = BatchPlan::default();
        let mut variants = Vec::new();
        for t in &taken {
            let active = self.find(t.adapter).expect("it gave the sequence");
            let sequence = &active.request.sequences[t.sequence as usize];
            let rows = active.rows[t.sequence as usize];
            if rows == 0 {
                continue;
            }
            let divisor = active.divisors[active.step];
            let (start, _) = push_packed(&mut plan, t.slot, &sequence.tokens[..rows]);
            plan.dropout.push(t.dropout);
            variants.push(rotary.variant(sequence.tokens.len()));
            for (i, &weight) in sequence.weights[1..=rows].iter().enumerate() {
                if weight != 0.0 {
                    plan.logit_rows.push(start + i as u32);
                    let coefficient = (f64::from(weight) / divisor) as f32;
                    plan.labels.push(Label { token: sequence.tokens[i + 1], coefficient });
                }
            }
        }
        if plan.dropout.iter().all(|d| d.rate == 0.0) {
            plan.dropout.clear();
        }
        rotary.place(&mut plan, variants);
        MicroBatch { plan, taken }
    }

    /// Takes a micro-batch's losses: (negative log-likelihood, most likely or not) for each logit row.
    /// Fails requests with a loss that is not finite. Returns the slots whose gradients must be zeroed.
    pub fn commit(&mut self, batch: MicroBatch, losses: &[f32], slots: &mut SlotTable) -> Vec<Slot> {
        let mut losses = losses.chunks_exact(2).map(|l| l[0]);
        let mut failed: Vec<(AdapterId, u32, f32)> = Vec::new();
        for t in batch.taken {
            let place = self.place(t.adapter).expect("it gave the sequence");
            let active = &mut self.active[place];
            let sequence = &active.request.sequences[t.sequence as usize];
            for &weight in sequence.weights.iter().skip(1).filter(|&&w| w != 0.0) {
                let nll = losses.next().unwrap_or(f32::NAN);
                active.loss += f64::from(weight) * f64::from(nll);
                if !nll.is_finite() && failed.last().is_none_or(|f| f.0 != t.adapter) {
                    failed.push((t.adapter, t.sequence, nll));
                }
            }
        }
        let fault = |(adapter, sequence, nll): (AdapterId, u32, f32)| {
            let active = self.find(adapter)?;
            let (name, step) = (&active.request.name, active.step + 1);
            let problem = format!("the loss of {name}, step {step}, sequence {sequence} is {nll}");
            self.fault(adapter, Fault::Loss(sequence), problem, slots)
        };
        failed.into_iter().filter_map(fault).collect()
    }

    /// A step of an adapter cannot be made. By its policy the step is left out, or its request ends
    /// with `problem`. The slot, whose gradient is to be zeroed.
    fn fault(
        &mut self,
        adapter: AdapterId,
        fault: Fault,
        problem: String,
        slots: &mut SlotTable,
    ) -> Option<Slot> {
        let place = self.place(adapter)?;
        let active = &mut self.active[place];
        if active.request.optimizer.non_finite == NonFinite::Stop {
            return self.end(adapter, Err(Error::NotFinite(problem)), slots);
        }
        let slot = active.slot;
        active.step_ended(0.0, 0.0, Some(fault));
        self.end_if_complete(place, slots);
        Some(slot)
    }

    /// Tells who waits for a request whose steps are all done.
    fn end_if_complete(&mut self, place: usize, slots: &mut SlotTable) {
        let active = &mut self.active[place];
        if active.step == active.request.steps.len() {
            let (adapter, metrics) = (active.request.adapter, std::mem::take(&mut active.metrics));
            self.end(adapter, Ok(metrics), slots);
        }
    }

    /// A micro-batch can't be run: its requests end. The slots whose gradients are to be zeroed.
    pub fn refuse(&mut self, batch: MicroBatch, why: &str, slots: &mut SlotTable) -> Vec<Slot> {
        let mut adapters: Vec<AdapterId> = batch.taken.iter().map(|t| t.adapter).collect();
        adapters.dedup();
        adapters.into_iter().filter_map(|a| self.end(a, Err(Error::Memory(why.into())), slots)).collect()
    }

    /// The optimizer steps of all adapters whose batch is complete, by slot.
    pub fn ready(&self, slots: &SlotTable) -> Result<Vec<AdamWStep>> {
        let mut steps = Vec::new();
        for active in self.active.iter().filter(|a| a.is_step_complete()) {
            let optimizer = active.request.optimizer;
            steps.push(AdamWStep {
                slot: active.slot,
                step: slots.next_step(active.request.adapter)?,
                learning_rate: active.request.steps[active.step].learning_rate,
                beta1: optimizer.beta1,
                beta2: optimizer.beta2,
                epsilon: optimizer.epsilon,
                weight_decay: optimizer.weight_decay,
                max_grad_norm: optimizer.max_grad_norm,
            });
        }
        steps.sort_by_key(|s| s.slot);
        Ok(steps)
    }

    /// Takes the gradient norms of the steps of [`Trainer::ready`], which were made. Answers requests that
    /// are complete, and fails those whose norm is not finite. Returns the slots of the latter, whose
    /// gradients must be zeroed.
    pub fn stepped(
        &mut self,
        steps: &[AdamWStep],
        norms: &[f32],
        slots: &mut SlotTable,
    ) -> Result<Vec<Slot>> {
        let mut zero = Vec::new();
        for (step, &norm) in steps.iter().zip(norms) {
            let Some(place) = self.active.iter().position(|a| a.slot == step.slot) else { continue };
            let active = &mut self.active[place];
            let adapter = active.request.adapter;
            if !norm.is_finite() {
                let (name, step) = (&active.request.name, active.step + 1);
                let problem = format!("the gradient norm of {name}, step {step} is {norm}");
                zero.extend(self.fault(adapter, Fault::GradNorm, problem, slots));
                continue;
            }
            slots.stepped(adapter)?;
            let loss = (active.loss / active.divisors[active.step]) as f32;
            active.step_ended(loss, norm, None);
            self.end_if_complete(place, slots);
        }
        Ok(zero)
    }

    fn place(&self, adapter: AdapterId) -> Option<usize> {
        self.active.iter().position(|a| a.request.adapter == adapter)
    }

    fn find(&self, adapter: AdapterId) -> Option<&Active> {
        self.place(adapter).map(|p| &self.active[p])
    }

    /// Ends a request; its slot.
    fn end(
        &mut self,
        adapter: AdapterId,
        result: Result<Vec<StepMetrics>>,
        slots: &mut SlotTable,
    ) -> Option<Slot> {
        let place = self.place(adapter)?;
        let active = self.active.remove(place);
        if place < self.turn {
            self.turn -= 1;
        }
        slots.end_training(adapter);
        let _ = active.waiter.send(result);
        Some(active.slot)
    }
}
