//! Rotary frequencies: their scaling as config.json describes it, and the tables of cosines and
//! sines.
//!
//! Formulas and roundings are those of transformers' `modeling_rope_utils.py` (5.24): frequencies
//! and angles in f32 (large positions make that visible), in its order of operations.
//!
//! Two kinds depend on how long a sequence is: `dynamic` and `longrope`. The length that counts is
//! fixed for each request (its prompt and the most tokens it may draw; of a sequence that is scored
//! or trained, its tokens), so a request's keys never change under it, and is part of the KV
//! cache's key ([`RopeVariant`]).

use std::collections::HashMap;
use std::f64::consts::TAU;

use serde_json::{Map, Value};

use super::families::{Family, RopeNames};
use crate::backend::BatchPlan;
use crate::error::{Error, Result};
use crate::files::json::Fields;

/// Rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f32,
    /// How many numbers of each head are rotated; even.
    pub dim: usize,
    /// How positions are scaled.
    pub scaling: RopeScaling,
}

/// How rotary positions are scaled.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// NTK-aware: the base grows with the length of a sequence beyond `original`.
    Dynamic {
        /// How much longer than `original` sequences may be.
        factor: f64,
        /// The context of pre-training.
        original: usize,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071): slow frequencies are divided by the factor, fast
    /// ones stay, those between are mixed.
    Yarn {
        /// The divisor.
        factor: f64,
        /// The context of pre-training.
        original: usize,
        /// Factor of cosines and sines.
        attention_factor: f64,
        /// Turns within `original` from which on a frequency stays.
        beta_fast: f64,
        /// Turns up to which it is divided.
        beta_slow: f64,
        /// Whether the two bounds are rounded to whole frequencies.
        truncate: bool,
    },
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753): one divisor a frequency, others in sequences
    /// longer than `original`.
    LongRope {
        /// Divisors within `original`.
        short: Vec<f32>,
        /// Divisors beyond.
        long: Vec<f32>,
        /// The context of pre-training.
        original: usize,
        /// Factor of cosines and sines.
        attention_factor: f64,
    },
    /// Llama 3.1: slow frequencies are divided by the factor, fast ones stay, those between are mixed.
    Llama3 {
        /// The divisor.
        factor: f32,
        /// Turns within `original` up to which a frequency is divided.
        low_freq_factor: f32,
        /// Turns from which on it stays.
        high_freq_factor: f32,
        /// The context of pre-training.
        original: usize,
    },
}

/// Which frequencies a sequence takes: 0 the usual ones; of `longrope` 1 the long ones; of
/// `dynamic` those of a sequence of this length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RopeVariant(pub u32);

/// The rotary fields: `rope_parameters` of new files, `rope_theta` and `rope_scaling` of old ones,
/// read in the order in which transformers 5 does. Also the context that the scaling makes of
/// `max_positions`.
pub(super) fn read(
    fields: &Fields<'_>,
    family: &Family,
    head_dim: usize,
    max_positions: usize,
) -> Result<(RopeConfig, usize)> {
    let names = family.rope;
    let empty = Map::new();
    let rope = source(fields, &empty)?;
    let theta = theta(fields, &rope)?;
    let dim = rotated(fields, &rope, names, head_dim)?;
    let kind_field = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
    let kind = match (names, rope.text(kind_field)?.unwrap_or("default")) {
        (RopeNames::LongRope, "su" | "yarn") => "longrope",
        (RopeNames::LongRope, k) if !["default", "longrope"].contains(&k) => {
            return Err(rope.wrong(kind_field, &k.into(), "one of the known: default, longrope"));
        }
        (_, kind) => kind,
    };
    check_names(&rope, kind)?;
    let original = || original_positions(fields, &rope, family.defaults.original_positions, max_positions);
    // Where it is not given, it follows from the two contexts.
    let factor = |original: usize| match rope.get("factor") {
        Some(_) => number(&rope, "factor"),
        None => Ok(max_positions as f64 / original as f64),
    };
    let given = |field: &str| rope.get(field).map(|_| number(&rope, field)).transpose();
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: rope.positive("factor", None)? },
        "dynamic" => RopeScaling::Dynamic { factor: number(&rope, "factor")?, original: max_positions },
        "yarn" => {
            // Null stands for the ratio of the contexts; an absent one is an oversight, and an
            // error in transformers too.
            if !rope.map.contains_key("factor") {
                number(&rope, "factor")?;
            }
            let original = original()?;
            let factor = factor(original)?;
            let mscale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
            let attention_factor =
                match (given("attention_factor")?, given("mscale")?, given("mscale_all_dim")?) {
                    (Some(f), _, _) => f,
                    (None, Some(a), Some(b)) => mscale(a) / mscale(b),
                    _ => mscale(1.0),
                };
            RopeScaling::Yarn {
                factor,
                original,
                attention_factor,
                beta_fast: given("beta_fast")?.unwrap_or(32.0),
                beta_slow: given("beta_slow")?.unwrap_or(1.0),
                // In Python null is false.
                truncate: rope.flag("truncate", !rope.map.contains_key("truncate"))?,
            }
        }
        "longrope" => {
            let original = original()?;
            let factor = factor(original)?;
            let attention_factor = match given("attention_factor")? {
                Some(f) => f,
                None if factor <= 1.0 => 1.0,
                None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
            };
            RopeScaling::LongRope {
                short: divisors(&rope, "short_factor", dim / 2)?,
                long: divisors(&rope, "long_factor", dim / 2)?,
                original,
                attention_factor,
            }
        }
        "llama3" => RopeScaling::Llama3 {
            factor: rope.positive("factor", None)?,
            low_freq_factor: rope.positive("low_freq_factor", None)?,
            high_freq_factor: rope.positive("high_freq_factor", None)?,
            original: original()?,
        },
        other => {
            let expected = "one of the known: default, linear, dynamic, yarn, longrope, llama3";
            return Err(rope.wrong(kind_field, &Value::from(other), expected));
        }
    };
    // YaRN's and NTK's files keep the context of pre-training in max_position_embeddings, as often as not.
    let stretched = |original: usize, factor: f64| max_positions.max((original as f64 * factor) as usize);
    let context = match &scaling {
        RopeScaling::Dynamic { factor, original } | RopeScaling::Yarn { factor, original, .. } => {
            stretched(*original, *factor)
        }
        _ => max_positions,
    };
    Ok((RopeConfig { theta, dim, scaling }, context))
}

/// The object that describes the rotation: `rope_scaling` where it says anything, whatever stands
/// beside it, else `rope_parameters`.
fn source<'a>(fields: &Fields<'a>, empty: &'a Map<String, Value>) -> Result<Fields<'a>> {
    let some = |field: &str| fields.object(field).map(|map| map.filter(|map| !map.is_empty()));
    let (scaling, parameters) = (some("rope_scaling")?, some("rope_parameters")?);
    let (prefix, map) = match (scaling, parameters) {
        (Some(map), _) => ("rope_scaling.", map),
        (None, Some(map)) => ("rope_parameters.", map),
        (None, None) => ("", empty),
    };
    let rope = Fields { place: fields.place, prefix, map };
    if let Some((name, value)) = map.iter().find(|(name, value)| value.is_object() || by_layer(name)) {
        let expected =
            "one set of rotary parameters for all layers: those by type of layer are not supported";
        return Err(rope.wrong(name, value, expected));
    }
    Ok(rope)
}

/// Whether a name is that of a type of layers.
fn by_layer(name: &str) -> bool {
    name.ends_with("_attention")
}

/// `rope_theta`, of the object or else of the model itself.
fn theta(fields: &Fields<'_>, rope: &Fields<'_>) -> Result<f32> {
    const NAME: &str = "rope_theta";
    if rope.map.contains_key(NAME) {
        return rope.positive(NAME, None);
    }
    if fields.map.contains_key(NAME) {
        return fields.positive(NAME, None);
    }
    check_passed_over(fields, rope, NAME, f64::from(DEFAULT_THETA))?;
    Ok(DEFAULT_THETA)
}

/// That rope_parameters has no other value of a field than `default`. Beside rope_scaling
/// transformers does not look into it, and would take the default without a word.
fn check_passed_over(fields: &Fields<'_>, rope: &Fields<'_>, name: &str, default: f64) -> Result<()> {
    match fields.object("rope_parameters")?.and_then(|map| map.get(name)) {
        Some(value) if value.as_f64() != Some(default) => {
            let problem = format!(
                "missing, expected one: beside rope_scaling rope_parameters is not read, nor its {name} of {value}"
            );
            Err(Error::input(rope.name(name), problem))
        }
        _ => Ok(()),
    }
}

/// `rope_theta` where there is none.
const DEFAULT_THETA: f32 = 10_000.0;

/// The context of pre-training. A field of the model itself counts first, as in Phi-3, whose family
/// has a default for it (`default`).
fn original_positions(
    fields: &Fields<'_>,
    rope: &Fields<'_>,
    default: Option<usize>,
    max_positions: usize,
) -> Result<usize> {
    const NAME: &str = "original_max_position_embeddings";
    if fields.get(NAME).is_some() {
        return fields.size(NAME);
    }
    match (default, rope.get(NAME)) {
        (None, _) => rope.size_or(NAME, max_positions),
        (Some(default), Some(value)) if rope.size(NAME)? != default => {
            let expected =
                format!("{NAME} beside it, outside: where that is absent this family takes {default}");
            Err(rope.wrong(NAME, value, &expected))
        }
        (Some(default), _) => Ok(default),
    }
}

/// That every field of the object is one that its kind of scaling reads, null, or known to change
/// nothing.
fn check_names(rope: &Fields<'_>, kind: &str) -> Result<()> {
    // The context of pre-training is told of kinds too that do not need it; `finetuned` says how a
    // model came about.
    const ALL: [&str; 6] = [
        "rope_type",
        "type",
        "rope_theta",
        "partial_rotary_factor",
        "original_max_position_embeddings",
        "finetuned",
    ];
    let own: &[&str] = match kind {
        "linear" | "dynamic" => &["factor"],
        "yarn" => {
            &["factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"]
        }
        "longrope" => &["factor", "attention_factor", "short_factor", "long_factor"],
        "llama3" => &["factor", "low_freq_factor", "high_freq_factor"],
        "default" => &[],
        // An unknown kind has an error of its own.
        _ => return Ok(()),
    };
    for (name, value) in rope.map {
        let nothing = value.is_null() || (name == "factor" && value.as_f64() == Some(1.0));
        if !nothing && !ALL.contains(&name.as_str()) && !own.contains(&name.as_str()) {
            let expected = format!("no such field: rotary parameters of type {kind} do not have it");
            return Err(rope.wrong(name, value, &expected));
        }
    }
    Ok(())
}

/// How many numbers of a head are rotated.
fn rotated(fields: &Fields<'_>, rope: &Fields<'_>, names: RopeNames, head_dim: usize) -> Result<usize> {
    const NAME: &str = "partial_rotary_factor";
    let (of, value) = match (rope.get(NAME), fields.get(NAME)) {
        (Some(v), _) => (rope, v),
        (None, Some(v)) => (fields, v),
        (None, None) => {
            check_passed_over(fields, rope, NAME, 1.0)?;
            return Ok(head_dim);
        }
    };
    let factor = value.as_f64().unwrap_or(f64::NAN);
    if names == RopeNames::Usual {
        return if factor == 1.0 { Ok(head_dim) } else { Err(of.wrong(NAME, value, "1")) };
    }
    let dim = (head_dim as f64 * factor) as usize;
    if !(factor > 0.0 && factor <= 1.0) || dim == 0 || !dim.is_multiple_of(2) {
        let expected = format!("an even part of heads of {head_dim}");
        return Err(of.wrong(NAME, value, &expected));
    }
    Ok(dim)
}

/// A positive number to its full precision.
fn number(fields: &Fields<'_>, name: &str) -> Result<f64> {
    fields.positive(name, None)?;
    Ok(fields.get(name).and_then(Value::as_f64).unwrap_or_default())
}

/// One positive number for each frequency.
fn divisors(rope: &Fields<'_>, name: &str, count: usize) -> Result<Vec<f32>> {
    let expected = format!("a list of {count} positive numbers, one for each frequency");
    let Some(value) = rope.get(name) else {
        return Err(Error::input(rope.name(name), format!("missing, expected {expected}")));
    };
    let numbers = value.as_array().and_then(|list| {
        list.iter()
            .map(|v| v.as_f64().map(|x| x as f32).filter(|x| *x > 0.0 && x.is_finite()))
            .collect::<Option<Vec<f32>>>()
    });
    numbers.filter(|list| list.len() == count).ok_or_else(|| rope.wrong(name, value, &expected))
}

impl RopeConfig {
    /// Which frequencies a sequence of `length` tokens takes.
    pub fn variant(&self, length: usize) -> RopeVariant {
        match self.scaling {
            RopeScaling::Dynamic { original, .. } if length > original => RopeVariant(length as u32),
            RopeScaling::LongRope { original, .. } if length > original => RopeVariant(1),
            _ => RopeVariant::default(),
        }
    }

    /// The frequencies, `dim / 2` of them, fastest first.
    pub fn frequencies(&self, variant: RopeVariant) -> Vec<f32> {
        let powers = |theta: f64| -> Vec<f32> {
            let theta = f64::from(theta as f32);
            (0..self.dim / 2)
                .map(|i| theta.powf(f64::from((2 * i) as f32 / self.dim as f32)) as f32)
                .collect()
        };
        let theta = f64::from(self.theta);
        let inverse = |powers: Vec<f32>| powers.into_iter().map(|p| 1.0 / p).collect::<Vec<f32>>();
        match &self.scaling {
            RopeScaling::None => inverse(powers(theta)),
            RopeScaling::Linear { factor } => {
                inverse(powers(theta)).into_iter().map(|f| f / factor).collect()
            }
            RopeScaling::Dynamic { factor, original } => {
                let length = (variant.0 as usize).max(*original) as f64;
                let dim = self.dim as f64;
                let stretch = factor * length / *original as f64 - (factor - 1.0);
                inverse(powers(theta * stretch.powf(dim / (dim - 2.0))))
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                let powers = powers(theta);
                let (low, high) = self.yarn_range(*original, *beta_fast, *beta_slow, *truncate);
                let width = if low == high { 0.001 } else { high - low } as f32;
                powers
                    .into_iter()
                    .enumerate()
                    .map(|(i, power)| {
                        let ramp = ((i as f32 - low as f32) / width).clamp(0.0, 1.0);
                        let kept = 1.0 - ramp;
                        1.0 / (*factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
                    })
                    .collect()
            }
            RopeScaling::LongRope { short, long, .. } => {
                let divisors = if variant == RopeVariant::default() { short } else { long };
                inverse(powers(theta).into_iter().zip(divisors).map(|(p, d)| d * p).collect())
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let original = *original as f32;
                let (low, high) = (original / low_freq_factor, original / high_freq_factor);
                inverse(powers(theta))
                    .into_iter()
                    .map(|f| {
                        let wavelength = TAU as f32 / f;
                        let scaled = if wavelength > low { f / factor } else { f };
                        if wavelength < high || wavelength > low {
                            return scaled;
                        }
                        let smooth =
                            (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * scaled / factor + smooth * scaled
                    })
                    .collect()
            }
        }
    }

    /// The frequencies between which YaRN mixes.
    fn yarn_range(&self, original: usize, fast: f64, slow: f64, truncate: bool) -> (f64, f64) {
        let dim = self.dim as f64;
        let at =
            |turns: f64| dim * (original as f64 / (turns * TAU)).ln() / (2.0 * f64::from(self.theta).ln());
        let (low, high) = (at(fast), at(slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        (low.max(0.0), high.min(dim - 1.0))
    }

    /// Factor of cosines and sines.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor as f32
            }
            _ => 1.0,
        }
    }

    /// Appends the cosines and sines of a position; the functions themselves are taken in f64.
    fn angles(&self, frequencies: &[f32], position: u32, mut put: impl FnMut(f32, f32)) {
        let factor = self.attention_factor();
        for frequency in frequencies {
            let angle = f64::from(position as f32 * frequency);
            put(angle.cos() as f32 * factor, angle.sin() as f32 * factor);
        }
    }

    /// The tables of a model whose context is `positions`.
    pub fn tables(&self, positions: usize) -> RopeTables {
        // Of sequences so long that they take other frequencies, no position takes the usual ones.
        let usual = match self.scaling {
            RopeScaling::Dynamic { original, .. } | RopeScaling::LongRope { original, .. } => {
                positions.min(original)
            }
            _ => positions,
        };
        let mut tables = RopeTables { cos: Vec::new(), sin: Vec::new(), usual, rows: usual };
        let mut add = |variant: RopeVariant, rows: usize| {
            let frequencies = self.frequencies(variant);
            for position in 0..rows as u32 {
                self.angles(&frequencies, position, |cos, sin| {
                    tables.cos.push(cos);
                    tables.sin.push(sin);
                });
            }
        };
        add(RopeVariant::default(), usual);
        if matches!(self.scaling, RopeScaling::LongRope { .. }) && positions > usual {
            add(RopeVariant(1), positions);
            tables.rows += positions;
        }
        tables
    }
}

/// cos and sin, each `[rows, dim / 2]`: the usual frequencies, and after them the long ones of `longrope`.
pub struct RopeTables {
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
    /// Positions with the usual frequencies.
    pub usual: usize,
    /// All rows.
    pub rows: usize,
}

/// Finds the rotary row of each row of a step.
#[derive(Clone, Debug)]
pub struct Rotary {
    config: RopeConfig,
    usual: usize,
    rows: usize,
}

impl Default for Rotary {
    /// No position takes anything but its own row.
    fn default() -> Self {
        let config = RopeConfig { theta: 10_000.0, dim: 2, scaling: RopeScaling::None };
        Self { config, usual: 0, rows: 0 }
    }
}

impl Rotary {
    /// For these tables.
    pub fn new(config: &RopeConfig, tables: &RopeTables) -> Self {
        Self { config: config.clone(), usual: tables.usual, rows: tables.rows }
    }

    /// Which frequencies a sequence of `length` tokens takes.
    pub fn variant(&self, length: usize) -> RopeVariant {
        self.config.variant(length)
    }

    /// The most numbers that [`Rotary::place`] adds to a step of `rows` rows.
    pub fn extra(&self, rows: usize) -> usize {
        match self.config.scaling {
            RopeScaling::Dynamic { .. } => rows * self.config.dim,
            _ => 0,
        }
    }

    /// Fills in `rope_rows` and `rope_extra` of a plan whose sequences take these variants, one each.
    pub fn place(&self, plan: &mut BatchPlan, variants: impl IntoIterator<Item = RopeVariant>) {
        let variants: Vec<RopeVariant> = variants.into_iter().collect();
        if variants.iter().all(|v| *v == RopeVariant::default()) {
            return;
        }
        plan.rope_rows = plan.positions.clone();
        let mut known: HashMap<RopeVariant, Vec<f32>> = HashMap::new();
        for (sequence, &variant) in plan.sequences.iter().zip(&variants) {
            if variant == RopeVariant::default() {
                continue;
            }
            let rows = &mut plan.rope_rows[sequence.start as usize..sequence.end as usize];
            if !matches!(self.config.scaling, RopeScaling::Dynamic { .. }) {
                rows.iter_mut().for_each(|row| *row += self.usual as u32);
                continue;
            }
            let frequencies = known.entry(variant).or_insert_with(|| self.config.frequencies(variant));
            for row in rows {
                let position = *row;
                *row = (self.rows + plan.rope_extra.len() / self.config.dim) as u32;
                let mut sines = Vec::with_capacity(frequencies.len());
                self.config.angles(frequencies, position, |cos, sin| {
                    plan.rope_extra.push(cos);
                    sines.push(sin);
                });
                plan.rope_extra.extend(sines);
            }
        }
    }
}
