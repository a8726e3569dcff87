//! Prefill, decoding, training and a round of all three, with every adapter in the same batches and
//! with the base alone.

use std::sync::Arc;
use std::time::Instant;

use super::super::screen::Screen;
use super::{Args, Measured, What};
use crate::adapter::NewAdapter;
use crate::backend::{Backend, OpTimes, mix};
use crate::engine::*;
use crate::error::Result;
use crate::model::Model;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

/// What was profiled, and the times.
type Profile = (String, Vec<OpTimes>);

/// An engine with adapters whose B is not zero.
pub struct Society {
    engine: Engine,
    adapters: Vec<AdapterId>,
    random: Random,
}

impl Society {
    /// Over a model that is loaded.
    pub fn new(backend: Box<dyn Backend>, model: Model, args: &Args, training: bool) -> Result<Self> {
        // A page to spare for each, since none begins while another that runs could want its last page.
        let pages = args.batch * ((args.prompt + args.new_tokens + 2).div_ceil(16) + 1);
        let options = EngineOptions {
            // The prompts of a batch are one step, so that decoding begins for all of it at once.
            max_rows: args.batch * args.prompt,
            max_sequences: args.batch,
            adapters: args.adapters,
            max_rank: args.rank,
            kv: KvBudget::Pages(pages),
            training,
            micro_batch_rows: args.micro_batch,
            memory_limit: args.common.device().memory,
            ..EngineOptions::default()
        };
        let mut engine = Engine::new(backend, model, options)?;
        let layout = engine.model().layout().clone();
        let mut random = Random(7);
        let adapters = (0..args.adapters)
            .map(|_| {
                let new = NewAdapter { rank: args.rank, ..NewAdapter::default() };
                let mut snapshot = new.snapshot(&layout)?;
                for (_, _, values) in &mut snapshot.weights {
                    let unit = |bits: u64| (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
                    values.iter_mut().for_each(|v| *v = unit(random.next()) * 0.025);
                }
                engine.create(&AdapterSource::Snapshot(Arc::new(snapshot)))
            })
            .collect::<Result<_>>()?;
        Ok(Self { engine, adapters, random })
    }

    /// Bytes held.
    pub fn bytes(&mut self) -> usize {
        self.engine.backend().bytes_in_use()
    }

    /// Measures with all adapters and with the base alone (training has no base), and profiles one
    /// more run of the former if asked to.
    pub fn measure(
        &mut self,
        what: What,
        args: &Args,
        screen: &Screen,
    ) -> Result<(Vec<Measured>, Option<Profile>)> {
        let name = format!("{what:?}").to_lowercase();
        let mut who = vec![(format!("{} adapters", args.adapters), self.adapters.clone())];
        if matches!(what, What::Prefill | What::Decode) {
            who.push(("base".into(), vec![AdapterId::BASE]));
        }
        let mut measured = Vec::new();
        screen.phase(&name, "runs", (who.len() * (args.repeats + 1)) as u64);
        for (who, adapters) in &who {
            let mut seconds = Vec::new();
            let mut tokens = 0;
            let mut before = None;
            for run in 0..=args.repeats {
                let (counted, time) = self.once(what, adapters, args)?;
                tokens = counted;
                // The first run also takes the memory and, on a GPU, captures the graphs.
                if run > 0 {
                    seconds.push(time);
                } else {
                    before = self.engine.backend().graph_counts();
                }
                screen.advance(&name, 1);
            }
            seconds.sort_by(f64::total_cmp);
            let after = self.engine.backend().graph_counts();
            let graphs = after.zip(before).map(|(after, before)| after.since(before));
            measured.push(Measured { what: name.clone(), who: who.clone(), tokens, seconds, graphs });
        }
        screen.end_phase(&name);
        if !args.profile {
            return Ok((measured, None));
        }
        self.engine.backend().set_profiling(true)?;
        let adapters = self.adapters.clone();
        self.once(what, &adapters, args)?;
        let times = self.engine.backend().take_profile()?;
        self.engine.backend().set_profiling(false)?;
        Ok((measured, Some((name, times))))
    }

    /// One run: its tokens and seconds.
    fn once(&mut self, what: What, adapters: &[AdapterId], args: &Args) -> Result<(usize, f64)> {
        match what {
            What::Prefill => {
                let start = Instant::now();
                self.submit(adapters, 1, args)?;
                self.drain()?;
                Ok((args.batch * args.prompt, start.elapsed().as_secs_f64()))
            }
            What::Decode => {
                self.submit(adapters, args.new_tokens + 1, args)?;
                let first = self.engine.stats().sampling.tokens + args.batch as u64;
                while self.engine.stats().sampling.tokens < first {
                    self.engine.step()?;
                }
                let start = Instant::now();
                self.drain()?;
                let seconds = start.elapsed().as_secs_f64();
                // A folder's model may end a sequence before its time.
                Ok(((self.engine.stats().sampling.tokens - first) as usize, seconds))
            }
            What::Train => {
                let start = Instant::now();
                self.train(args)?;
                Ok((args.adapters * args.sequences * args.tokens, start.elapsed().as_secs_f64()))
            }
            What::Round | What::Ops => {
                let start = Instant::now();
                self.submit(adapters, args.new_tokens, args)?;
                self.drain()?;
                self.train(args)?;
                let tokens = args.batch * (args.prompt + args.new_tokens)
                    + args.adapters * args.sequences * args.tokens;
                Ok((tokens, start.elapsed().as_secs_f64()))
            }
        }
    }

    fn token(&mut self) -> u32 {
        let vocab = self.engine.config().vocab_size as u64;
        (self.random.next() % vocab) as u32
    }

    /// Queues a batch of new random prompts spread over `adapters`.
    fn submit(&mut self, adapters: &[AdapterId], max_tokens: usize, args: &Args) -> Result<()> {
        for i in 0..args.batch {
            let adapter = adapters[i * adapters.len() / args.batch];
            let prompt: Vec<u32> = (0..args.prompt).map(|_| self.token()).collect();
            let params = SamplingParams::plain(max_tokens as u32);
            let request = SampleRequest::new(adapter, prompt, params, self.random.next());
            self.engine.sample(request)?;
        }
        Ok(())
    }

    /// One optimizer step of every adapter.
    fn train(&mut self, args: &Args) -> Result<()> {
        let sequences: Arc<[TrainSequence]> = (0..args.sequences)
            .map(|_| TrainSequence {
                tokens: (0..args.tokens).map(|_| self.token()).collect(),
                weights: vec![1.0; args.tokens],
            })
            .collect();
        for adapter in self.adapters.clone() {
            let request = TrainRequest {
                adapter,
                name: format!("adapter {}", adapter.0).into(),
                sequences: sequences.clone(),
                steps: vec![TrainStep {
                    sequences: (0..args.sequences as u32).collect(),
                    learning_rate: 1e-5,
                    normalizer: Normalizer::default(),
                }],
                optimizer: Optimizer::default(),
                key: 0,
                fresh_moments: false,
            };
            drop(self.engine.train(request)?);
        }
        self.drain()
    }

    fn drain(&mut self) -> Result<()> {
        while self.engine.step()? {}
        Ok(())
    }
}
