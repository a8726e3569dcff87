//! The memory plan: who will need how much, computed and printed before anything is allocated.

use std::fmt;

use super::slots::widest_shrink;
use crate::backend::{Backend, Ceiling, MAX_RANK, PartSpec, SlotSpec, WorkspaceSpec};
use crate::error::{Error, Result};
use crate::model::{Activations, Mode, Model};

/// How large the KV cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvBudget {
    /// What the memory limit leaves; without a limit at most 1 GiB. Never more than all sequences can use.
    Auto,
    /// This many pages.
    Pages(usize),
    /// As many pages as fit into this many bytes.
    Bytes(usize),
}

/// Limits of an engine. They change speed and memory, never results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most rows in a sampling or scoring step (a longer sequence to score gets a step of its own).
    pub max_rows: usize,
    /// Most sequences sampled at once.
    pub max_sequences: usize,
    /// Most rows in a training micro-batch (a longer sequence gets one of its own); 0 is no limit.
    pub micro_batch_rows: usize,
    /// Tokens of the longest sequence that will be scored or trained, 0 where nobody knows: buffers
    /// for it are planned, whatever the limits are.
    pub longest: usize,
    /// Tokens in a KV page.
    pub page_tokens: usize,
    /// Size of the KV cache.
    pub kv: KvBudget,
    /// Rows of logits that exist at once, also the most members of a draw group; 0 leaves it to the backend.
    pub lm_head_rows: usize,
    /// Adapters that the plan counts on. More may be made while there is memory.
    pub adapters: usize,
    /// Their rank. Larger ones may be made while there is memory.
    pub max_rank: usize,
    /// Count on training.
    pub training: bool,
    /// Count on adapters with dropout in it.
    pub dropout: bool,
    /// Copies of each adapter's weights that the host makes at once, for checkpoints.
    pub checkpoint_copies: usize,
    /// Bytes that the program takes beside the engine, e.g. its tokenizer.
    pub program_bytes: usize,
    /// Most bytes in all. Where the limits above need more, [`MemoryPlan::new`] lowers them as far as is sensible.
    pub memory_limit: Option<usize>,
}

/// Rows of a micro-batch or of a step, and sequences at once, below which a memory limit lowers none of them.
const FEWEST: (usize, usize) = (256, 16);

impl EngineOptions {
    /// The next lower limits: first those that cost least speed.
    fn lower(&self, context: usize) -> Option<Self> {
        let mut o = *self;
        let (rows, sequences) = FEWEST;
        let micro = if o.micro_batch_rows == 0 { context } else { o.micro_batch_rows };
        // What the longest sequence needs is planned anyway.
        let fewest = rows.max(o.longest.min(context));
        if o.training && micro > fewest {
            o.micro_batch_rows = (micro / 2).max(fewest);
        } else if o.max_rows > rows.max(o.max_sequences) {
            o.max_rows = (o.max_rows / 2).max(rows).max(o.max_sequences);
        } else if o.max_sequences > sequences {
            o.max_sequences = (o.max_sequences / 2).max(sequences);
            o.max_rows = (o.max_rows / 2).max(o.max_sequences);
        } else {
            return None;
        }
        Some(o)
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_rows: 512,
            max_sequences: 192,
            micro_batch_rows: 2048,
            longest: 0,
            page_tokens: 16,
            kv: KvBudget::Auto,
            lm_head_rows: 0,
            adapters: 0,
            max_rank: 16,
            training: false,
            dropout: false,
            checkpoint_copies: 0,
            program_bytes: 0,
            memory_limit: None,
        }
    }
}

/// A line of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLine {
    /// Who needs it.
    pub consumer: &'static str,
    /// How much.
    pub bytes: usize,
    /// Why that much.
    pub detail: String,
}

/// Who needs how much memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// One line a consumer.
    pub lines: Vec<PlanLine>,
    /// Pages of the KV cache.
    pub kv_pages: usize,
    /// Width of the shrinks.
    pub shrink_width: usize,
    /// Rows of the training activations at first; they grow for longer sequences.
    pub training_rows: usize,
    /// The limits as planned: those asked for, or lower ones that keep to the memory limit.
    pub options: EngineOptions,
    /// Bytes of the lines that no backend counts as held: workspace, checkpoints and the program.
    pub beside: usize,
}

impl MemoryPlan {
    /// The plan for a model that is loaded into `backend`; or [`Error::Memory`] with the smallest limit that would do.
    pub fn new(backend: &dyn Backend, model: &Model, options: &EngineOptions) -> Result<Self> {
        let mut o = *options;
        if o.lm_head_rows == 0 {
            // No more than a step can ask for.
            let most = o.max_rows.max(if o.training { o.micro_batch_rows } else { 0 }).max(1);
            o.lm_head_rows = backend.logit_rows(model.config().vocab_size).min(most);
        }
        check(&o)?;
        if o.memory_limit.is_some() && o.micro_batch_rows == 0 {
            // All sequences of a step at once are as many as there happen to be.
            o.micro_batch_rows = model.config().max_positions;
        }
        let ceiling = backend.memory_ceiling();
        let limit = o.memory_limit.into_iter().chain(ceiling.as_ref().map(|c| c.bytes)).min();
        let whose = ceiling.as_ref().filter(|c| limit == Some(c.bytes)).map(|c| format!(" ({})", c.whose));
        loop {
            let (plan, needed) = Self::with(backend, model, &o, ceiling.as_ref())?;
            let Some(limit) = limit.filter(|&limit| needed > limit) else { return Ok(plan) };
            match o.lower(model.config().max_positions) {
                Some(lower) => o = lower,
                None => {
                    return Err(Error::Memory(format!(
                        "the limit is {}{}, but this needs at least {} ({needed} bytes): {}",
                        human(limit),
                        whose.unwrap_or_default(),
                        human(needed),
                        plan.lines
                            .iter()
                            .map(|l| format!("{} {}", l.consumer, human(l.bytes)))
                            .collect::<Vec<_>>()
                            .join(", ")
                    )));
                }
            }
        }
    }

    /// The plan with these limits, and the smallest memory limit that has room for it. Where the
    /// memory limit has not, the KV cache is the smallest possible.
    fn with(
        backend: &dyn Backend,
        model: &Model,
        o: &EngineOptions,
        ceiling: Option<&Ceiling>,
    ) -> Result<(Self, usize)> {
        let config = model.config();
        let activation_bytes = backend.activation_bytes();
        let part = PartSpec { rank: o.max_rank, scale: 1.0 };
        let spec = SlotSpec { parts: model.layout().parts().map(|_| Some(part)).collect(), dropout: 0.0 };
        let shrink_width = widest_shrink(model.layout(), &spec);
        let activations = |rows: usize, logit_rows, chunk, mode| {
            Activations::bytes(config, rows, logit_rows, chunk, shrink_width, mode, activation_bytes)
        };
        let logits = o.lm_head_rows * config.vocab_size * 4;
        let longest = o.longest.min(config.max_positions);
        let micro = if o.micro_batch_rows == 0 { config.max_positions } else { o.micro_batch_rows };
        let (inference_rows, training_rows) = (o.max_rows.max(longest), micro.max(longest));
        let training = if o.training {
            let mode = if o.dropout { Mode::TrainingWithDropout } else { Mode::Training };
            activations(training_rows, training_rows, o.lm_head_rows, mode) - logits
        } else {
            0
        };
        let slots = o.adapters * backend.slot_bytes(&spec);
        // A checkpoint is also written adapter by adapter, its numbers and its file's bytes.
        let checkpoints = match o.checkpoint_copies {
            0 => 0,
            copies => copies * o.adapters.max(2) * backend.slot_bytes(&spec),
        };
        let workspace = backend.workspace_bytes(&WorkspaceSpec {
            inference_rows,
            training_rows: if o.training { training_rows } else { 0 },
            dropout: o.training && o.dropout,
            lm_head_rows: o.lm_head_rows,
            shrink_width,
            rope_extra: model.rotary().extra(inference_rows.max(training_rows)),
            page_entries: o.max_sequences * config.max_positions.div_ceil(o.page_tokens),
            adapters: if o.training { o.adapters } else { 0 },
            // f32, one copy at least.
            adapter_elements: backend.slot_bytes(&spec) / 4,
            ..model.workspace()
        });
        // One a slot, and their number is rounded up.
        let norms = o.adapters.next_power_of_two() * 4;
        let fixed = [
            ("weights", backend.bytes_in_use(), format!("{} parameters, as loaded", config.parameters())),
            ("adapters", slots, format!("{} of rank {}", o.adapters, o.max_rank)),
            (
                "optimizer",
                if o.training { o.adapters * backend.optimizer_bytes(&spec) + norms } else { 0 },
                "gradients and two moments of each adapter".to_string(),
            ),
            (
                "sampling activations",
                activations(inference_rows, inference_rows, o.lm_head_rows, Mode::Inference) - logits,
                rows_of("steps", o.max_rows, longest),
            ),
            ("training activations", training, rows_of("micro-batches", micro, longest)),
            (
                "logits",
                if o.training { 2 * logits } else { logits },
                format!("{} rows of {}", o.lm_head_rows, config.vocab_size),
            ),
            ("workspace", workspace, "what operations take of their own".to_string()),
            ("checkpoints", checkpoints, "adapters on their way from or to the disk".to_string()),
            ("program", o.program_bytes, "tokenizer and texts".to_string()),
        ];
        let fixed_bytes: usize = fixed.iter().map(|l| l.1).sum();

        let page_bytes =
            2 * config.num_layers * config.heads().kv_width() * o.page_tokens * backend.kv_bytes();
        let (kv_pages, fewest) =
            kv_pages(o, config.max_positions, page_bytes, fixed_bytes, ceiling.map(|c| c.bytes))?;
        let mut lines: Vec<PlanLine> = fixed
            .into_iter()
            .map(|(consumer, bytes, detail)| PlanLine { consumer, bytes, detail })
            .filter(|l| l.bytes > 0)
            .collect();
        lines.push(PlanLine {
            consumer: "KV cache",
            bytes: kv_pages * page_bytes,
            detail: format!("{kv_pages} pages of {} tokens, {} each", o.page_tokens, human(page_bytes)),
        });
        let beside = workspace + checkpoints + o.program_bytes;
        let plan = Self { lines, kv_pages, shrink_width, training_rows, options: *o, beside };
        Ok((plan, fixed_bytes + fewest * page_bytes))
    }

    /// All bytes.
    pub fn total(&self) -> usize {
        self.lines.iter().map(|l| l.bytes).sum()
    }
}

/// How many KV pages of `page_bytes` are planned beside `fixed` bytes, and the fewest that do.
fn kv_pages(
    o: &EngineOptions,
    context: usize,
    page_bytes: usize,
    fixed: usize,
    ceiling: Option<usize>,
) -> Result<(usize, usize)> {
    let one_context = context.div_ceil(o.page_tokens);
    let most = o.max_sequences * one_context;
    let bytes = match o.kv {
        KvBudget::Pages(pages) => return Ok((pages, pages)),
        KvBudget::Bytes(bytes) if bytes / page_bytes >= one_context => {
            return Ok((bytes / page_bytes, bytes / page_bytes));
        }
        KvBudget::Bytes(bytes) => {
            return Err(Error::Memory(format!(
                "a KV cache of {} does not hold one context of {context} tokens, which takes {}",
                human(bytes),
                human(one_context * page_bytes)
            )));
        }
        KvBudget::Auto => match (o.memory_limit, ceiling) {
            (Some(limit), _) => limit.saturating_sub(fixed),
            (None, ceiling) => {
                let room = ceiling.map_or(usize::MAX, |bytes| bytes.saturating_sub(fixed));
                (1 << 30).max(one_context * page_bytes).min(room)
            }
        },
    };
    Ok(((bytes / page_bytes).clamp(one_context, most.max(one_context)), one_context))
}

/// `options` with as many adapters at once as leave the others their due: the limits and a good
/// part of the KV cache that `fewest` of them leave. `fewest` is what must be there at the same
/// time, so it is [`Error::Memory`] if they do not fit.
pub fn waves(
    backend: &dyn Backend,
    model: &Model,
    options: EngineOptions,
    fewest: usize,
) -> Result<EngineOptions> {
    let limit = options.memory_limit.or(backend.memory_limit());
    let with = |adapters: usize| EngineOptions { adapters, memory_limit: limit, ..options };
    let least = MemoryPlan::new(backend, model, &with(fewest)).map_err(|e| match e {
        Error::Memory(problem) => {
            Error::Memory(format!("one lane with its {fewest} adapters does not fit: {problem}"))
        }
        other => other,
    })?;
    let is_good = |adapters: usize| {
        let Ok(plan) = MemoryPlan::new(backend, model, &with(adapters)) else { return false };
        let limits = |o: &EngineOptions| (o.max_rows, o.max_sequences, o.micro_batch_rows);
        limits(&plan.options) == limits(&least.options) && 4 * plan.kv_pages >= least.kv_pages
    };
    // Fewer adapters never leave less.
    let (mut good, mut too_many) = (fewest, options.adapters.max(fewest) + 1);
    while too_many - good > 1 {
        let middle = good + (too_many - good) / 2;
        if is_good(middle) { good = middle } else { too_many = middle }
    }
    Ok(EngineOptions { adapters: good, ..options })
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{:<22}{:>11}  {}", line.consumer, human(line.bytes), line.detail)?;
        }
        write!(f, "{:<22}{:>11}", "in all", human(self.total()))
    }
}

/// What rows are planned for.
fn rows_of(batches: &str, rows: usize, longest: usize) -> String {
    match longest {
        0 => format!("{batches} of {rows} rows, more for longer sequences"),
        longest if longest > rows => format!("{batches} of {rows} rows; a sequence may have {longest}"),
        _ => format!("{batches} of {rows} rows"),
    }
}

fn check(o: &EngineOptions) -> Result<()> {
    let wrong = |field: &str, problem: String| Err(Error::input(format!("engine options, {field}"), problem));
    if o.max_sequences == 0 || o.page_tokens == 0 || o.lm_head_rows == 0 {
        return wrong("max_sequences, page_tokens, lm_head_rows", "must be at least 1".into());
    }
    if o.max_rows < o.max_sequences {
        return wrong(
            "max_rows",
            format!(
                "{} is less than max_sequences {}: each sequence needs a row in every step",
                o.max_rows, o.max_sequences
            ),
        );
    }
    if o.kv == KvBudget::Pages(0) {
        return wrong("kv", "a cache of no pages".into());
    }
    if o.max_rank == 0 || o.max_rank > MAX_RANK {
        return wrong("max_rank", format!("{} is not from 1 to {MAX_RANK}", o.max_rank));
    }
    Ok(())
}

/// Bytes as people read them.
pub fn human(bytes: usize) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}
