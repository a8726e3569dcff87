//! New adapters, initialised as PEFT does: A uniform as a linear layer's weight (He et al. 2015
//! with a = sqrt 5), B zero.

use std::path::PathBuf;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{BaseWeights, Snapshot, Targets, matrices, read_peft_on};
use crate::backend::{AdapterLayout, LoraMatrix, MAX_RANK, PartSpec, SlotSpec};
use crate::error::{Error, Result};

/// An adapter that does not exist yet.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAdapter {
    /// LoRA rank.
    pub rank: usize,
    /// LoRA alpha.
    pub alpha: f32,
    /// `all-linear` or module suffixes.
    pub targets: Vec<String>,
    /// Scale alpha / sqrt(rank) instead of alpha / rank.
    pub rslora: bool,
    /// Rate of dropout in training.
    pub dropout: f32,
    /// Seed of A.
    pub init_seed: u64,
}

impl Default for NewAdapter {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            targets: vec!["all-linear".into()],
            rslora: false,
            dropout: 0.0,
            init_seed: 0,
        }
    }
}

/// Where an adapter of the command line comes from: a PEFT folder (or a name on the hub, which is
/// looked for where no folder is), or
/// `new[:rank=16,alpha=32,targets=all-linear,dropout=0,init-seed=0]`.
#[derive(Clone, Debug, PartialEq)]
pub enum AdapterOrigin {
    /// Initialised here.
    New(NewAdapter),
    /// A PEFT folder.
    Folder(PathBuf),
}

impl AdapterOrigin {
    /// Reads a SOURCE of the command line. A folder called `new` can be written `./new`.
    pub fn parse(text: &str) -> Result<Self> {
        let settings = match text.strip_prefix("new") {
            Some("") => "",
            Some(rest) if rest.starts_with(':') => &rest[1..],
            _ if text.is_empty() => return Err(Error::Usage("adapter source: found nothing".into())),
            _ => return Ok(AdapterOrigin::Folder(text.into())),
        };
        let mut new = NewAdapter::default();
        for setting in settings.split(',').filter(|s| !s.is_empty()) {
            let wrong = |expected: &str| {
                Error::Usage(format!("adapter source {text:?}: found {setting:?}, expected {expected}"))
            };
            let (key, value) = setting.split_once('=').ok_or_else(|| wrong("KEY=VALUE"))?;
            match key {
                "rank" => new.rank = value.parse().map_err(|_| wrong("rank=1 to 128"))?,
                "alpha" => new.alpha = value.parse().map_err(|_| wrong("alpha=NUMBER"))?,
                "targets" => new.targets = value.split('+').map(String::from).collect(),
                "rslora" => new.rslora = value.parse().map_err(|_| wrong("rslora=true or rslora=false"))?,
                "dropout" => new.dropout = value.parse().map_err(|_| wrong("dropout=0 or more, below 1"))?,
                "init-seed" => new.init_seed = value.parse().map_err(|_| wrong("init-seed=INTEGER"))?,
                _ => return Err(wrong("one of rank, alpha, targets, rslora, dropout, init-seed")),
            }
        }
        new.check().map_err(|problem| Error::Usage(format!("adapter source {text:?}: {problem}")))?;
        Ok(AdapterOrigin::New(new))
    }

    /// The adapter for a model with this layout and these weights.
    pub fn snapshot(&self, layout: &AdapterLayout, base: &dyn BaseWeights) -> Result<Snapshot> {
        match self {
            AdapterOrigin::New(new) => new.snapshot(layout),
            AdapterOrigin::Folder(folder) => read_peft_on(folder, layout, base),
        }
    }
}

impl NewAdapter {
    fn check(&self) -> Result<(), String> {
        if !(1..=MAX_RANK).contains(&self.rank) {
            return Err(format!("found rank {}, expected 1 to {MAX_RANK}", self.rank));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(format!("found alpha {}, expected a positive number", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("found dropout {}, expected 0 or more, below 1", self.dropout));
        }
        Ok(())
    }

    /// Ranks and scales for a model with this layout.
    pub fn spec(&self, layout: &AdapterLayout) -> Result<SlotSpec> {
        let targets = Targets::from_names(&self.targets);
        self.check().map_err(|problem| Error::input("new adapter", problem))?;
        let wrong = |problem| Error::input("new adapter, targets", problem);
        targets.check_each(layout).map_err(wrong)?;
        let adapted = targets.of(layout).map_err(wrong)?;
        let part = PartSpec { rank: self.rank, scale: scale(f64::from(self.alpha), self.rank, self.rslora) };
        let parts = adapted.into_iter().map(|adapted| adapted.then_some(part)).collect();
        Ok(SlotSpec { parts, dropout: self.dropout })
    }

    /// The initialised adapter: a matrix's numbers depend on the seed, its module and its shape,
    /// not on the adapter's other parts.
    pub fn snapshot(&self, layout: &AdapterLayout) -> Result<Snapshot> {
        let spec = self.spec(layout)?;
        let weights = matrices(&spec, layout)
            .map(|m| {
                let [rows, cols] = m.shape;
                let values = match m.matrix {
                    LoraMatrix::A => uniform_a(self.init_seed, m.module, rows, cols),
                    LoraMatrix::B => vec![0.0; rows * cols],
                };
                (m.part, m.matrix, values)
            })
            .collect();
        Ok(Snapshot { spec, weights, moments: None })
    }
}

/// The factor of a LoRA term.
pub(super) fn scale(alpha: f64, rank: usize, rslora: bool) -> f32 {
    let divisor = if rslora { (rank as f64).sqrt() } else { rank as f64 };
    (alpha / divisor) as f32
}

/// `[rank, inputs]`, uniform in ±1/sqrt(inputs), from a ChaCha stream of its own.
fn uniform_a(seed: u64, module: &str, rank: usize, inputs: usize) -> Vec<f32> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(fnv1a(module));
    let bound = 1.0 / (inputs as f64).sqrt();
    (0..rank * inputs)
        .map(|_| {
            let unit = (f64::from(rng.next_u32() >> 8) + 0.5) / f64::from(1u32 << 24); // in (0, 1)
            ((2.0 * unit - 1.0) * bound) as f32
        })
        .collect()
}

/// Fowler, Noll and Vo's 64-bit hash.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{GroupLayout, PartLayout};

    fn layout() -> AdapterLayout {
        let part = |module: &str, start, outputs| PartLayout { module: module.into(), start, outputs };
        AdapterLayout {
            groups: vec![
                GroupLayout {
                    inputs: 64,
                    outputs: 48,
                    parts: vec![part("model.layers.0.q_proj", 0, 32), part("model.layers.0.k_proj", 32, 16)],
                },
                GroupLayout { inputs: 32, outputs: 64, parts: vec![part("model.layers.0.o_proj", 0, 64)] },
            ],
        }
    }

    #[test]
    fn sources_are_parsed() {
        let new = |text: &str| match AdapterOrigin::parse(text).unwrap() {
            AdapterOrigin::New(new) => new,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(new("new"), NewAdapter::default());
        assert_eq!(new("new:"), NewAdapter::default());
        let custom = new("new:rank=8,alpha=12.5,targets=q_proj+o_proj,init-seed=7");
        assert_eq!((custom.rank, custom.alpha, custom.init_seed), (8, 12.5, 7));
        assert_eq!(custom.targets, ["q_proj", "o_proj"]);
        for folder in ["./new", "newer", "runs/a"] {
            assert_eq!(AdapterOrigin::parse(folder).unwrap(), AdapterOrigin::Folder(folder.into()));
        }
        for bad in
            ["new:rank", "new:rank=0", "new:rank=129", "new:alpha=nan", "new:ranks=4", "new:init-seed=-1", ""]
        {
            let e = AdapterOrigin::parse(bad).unwrap_err();
            assert_eq!(e.exit_code(), 2, "{bad}: {e}");
        }
    }

    #[test]
    fn a_matrix_does_not_depend_on_the_others() {
        let layout = layout();
        let all = NewAdapter { init_seed: 3, ..Default::default() }.snapshot(&layout).unwrap();
        let one = NewAdapter { init_seed: 3, targets: vec!["o_proj".into()], ..Default::default() };
        let one = one.snapshot(&layout).unwrap();
        assert_eq!(all.weights[4..], one.weights[..]);
        assert_ne!(all.weights[0].2[..16], all.weights[2].2[..16], "streams differ");
        let other = NewAdapter { init_seed: 4, ..Default::default() }.snapshot(&layout).unwrap();
        assert_ne!(all.weights[0].2, other.weights[0].2);
    }

    #[test]
    fn a_is_uniform_and_b_is_zero() {
        let snapshot = NewAdapter { rank: 128, ..Default::default() }.snapshot(&layout()).unwrap();
        for (_, matrix, values) in &snapshot.weights {
            if *matrix == LoraMatrix::B {
                assert!(values.iter().all(|&v| v == 0.0));
                continue;
            }
            let inputs = values.len() as f64 / 128.0;
            let bound = (1.0 / inputs.sqrt()) as f32;
            assert!(values.iter().all(|v| v.abs() <= bound));
            let n = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
            assert!(mean.abs() < 3.0 * f64::from(bound) / (3.0 * n).sqrt(), "mean {mean}");
            assert!((variance * inputs * 3.0 - 1.0).abs() < 0.05, "variance {variance}");
        }
    }

    #[test]
    fn targets_that_do_not_fit_are_named() {
        let new = NewAdapter { targets: vec!["q_proj".into(), "lm_head".into()], ..Default::default() };
        let e = new.snapshot(&layout()).unwrap_err().to_string();
        assert!(e.contains("lm_head") && e.contains("q_proj, k_proj, o_proj"), "{e}");
    }
}
