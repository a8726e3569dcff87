//! An adapter merged into its base: a model folder whose weights are `W + s B A`, for programs that
//! know nothing of adapters.
//!
//! Sums are in f64 and rounded once, to the type that is written. Tensors are read, changed and
//! written some rows at a time, so memory stays the same whatever the model's size.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use super::files::{INDEX, SINGLE};
use super::{ModelConfig, ModelFiles, adapter_layout};
use crate::adapter::Snapshot;
use crate::backend::{LoraMatrix, WeightType, WeightView, in_parts};
use crate::error::{Error, Result};
use crate::files::json::parse_object;
use crate::files::{Bytes, NewFolder, TensorFile, write_whole};

/// Numbers worked on at a time.
const BLOCK: usize = 1 << 20;

/// What a model folder holds beside its configuration and weights, wherever it has it.
const COPIED: [&str; 14] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "NOTICE",
];

/// Further chat templates of one tokenizer.
const TEMPLATES: &str = "additional_chat_templates";

/// The type of a merged model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergedType {
    /// 32 bits.
    F32,
    /// 16 bits, 8 of them the mantissa's.
    Bf16,
    /// 16 bits, 11 of them the mantissa's; nothing beyond 65504.
    F16,
}

impl MergedType {
    /// `f32`, `bf16` or `f16`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::F16].into_iter().find(|t| t.name() == text)
    }

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// As config.json has it.
    fn in_config(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// As safetensors have it.
    fn in_file(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// The type of a tensor of floats.
    fn of(dtype: Dtype) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::F16].into_iter().find(|t| t.in_file() == dtype)
    }

    fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Rounds to nearest, ties to even, and writes; gives back what is written.
    fn write(self, value: f64, out: &mut [u8]) -> f32 {
        match self {
            Self::F32 => {
                let v = value as f32;
                out.copy_from_slice(&v.to_le_bytes());
                v
            }
            Self::Bf16 => {
                let v = half::bf16::from_f32(to_odd(value));
                out.copy_from_slice(&v.to_le_bytes());
                v.to_f32()
            }
            Self::F16 => {
                let v = half::f16::from_f32(to_odd(value));
                out.copy_from_slice(&v.to_le_bytes());
                v.to_f32()
            }
        }
    }
}

/// The f32 beside `value` whose last bit is 1, or `value` itself where it is one: rounding that to
/// 16 bits is rounding `value` to 16 bits, which rounding the nearest f32 is not (it would round
/// twice).
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if !nearest.is_finite() || f64::from(nearest) == value || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    let beyond = value.abs() > f64::from(nearest).abs();
    f32::from_bits(if beyond { nearest.to_bits() + 1 } else { nearest.to_bits() - 1 })
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Tensors that the adapter changed.
    pub changed: usize,
    /// All tensors.
    pub tensors: usize,
    /// Bytes of weights.
    pub bytes: usize,
}

/// A term `s B A`: A `[rank, cols]`, B `[rows, rank]`.
struct Term<'a> {
    scale: f64,
    rank: usize,
    a: &'a [f32],
    b: &'a [f32],
}

/// Writes the model folder `output`: the base with the adapter merged in, in the base's types or
/// all floats in `dtype`. The base's division into files is kept. `output` appears whole or not at
/// all; a folder that stands there is replaced, so whoever calls decides whether it may.
pub fn merge(
    files: &ModelFiles,
    config: &ModelConfig,
    adapter: &Snapshot,
    dtype: Option<MergedType>,
    output: &Path,
) -> Result<Merged> {
    let terms = terms(files, config, adapter)?;
    let folder = NewFolder::create(output)?;
    // Errors name the folder that is wanted, not where it lies until it is whole.
    let place = |name: &str| (folder.temporary().join(name), output.join(name));
    let mut merged = Merged::default();
    for (name, shard) in files.shards() {
        let (path, shown) = place(&name);
        let file = File::create(&path).map_err(Error::io(&shown))?;
        let mut shard = ShardWriter { shard, dtype, terms: &terms, out: BufWriter::new(file), shown: &shown };
        let part = shard.write()?;
        merged.changed += part.changed;
        merged.tensors += part.tensors;
        merged.bytes += part.bytes;
    }
    let write = |name: &str, bytes: &[u8]| {
        let (path, shown) = place(name);
        write_whole(&path, bytes).map_err(|e| match e {
            Error::Io { source, .. } => Error::Io { path: shown, source },
            other => other,
        })
    };
    if let Some(index) = index_json(files, merged.bytes)? {
        write(INDEX, &index)?;
    }
    write("config.json", &config_json(files, config, dtype)?)?;
    for (name, bytes) in companions(files)? {
        if let Some((folder, _)) = name.split_once('/') {
            let (path, shown) = place(folder);
            std::fs::create_dir_all(&path).map_err(Error::io(&shown))?;
        }
        write(&name, &bytes)?;
    }
    folder.finish()?;
    Ok(merged)
}

/// The adapter's terms by tensor; that each fits its tensor is checked here, before anything is written.
fn terms<'a>(
    files: &ModelFiles,
    config: &ModelConfig,
    adapter: &'a Snapshot,
) -> Result<BTreeMap<String, Term<'a>>> {
    let layout = adapter_layout(config);
    let mut terms = BTreeMap::new();
    for (id, _, group, part) in layout.parts() {
        let Some(spec) = adapter.spec.parts.get(id.0 as usize).copied().flatten() else { continue };
        let name = format!("{}.weight", part.module);
        files.tensor(&name, &[part.outputs, group.inputs])?;
        let matrix = |matrix| {
            let found = adapter.weights.iter().find(|(p, m, _)| (*p, *m) == (id, matrix));
            found.map(|(_, _, values)| values.as_slice())
        };
        match (matrix(LoraMatrix::A), matrix(LoraMatrix::B)) {
            (Some(a), Some(b))
                if a.len() == spec.rank * group.inputs && b.len() == part.outputs * spec.rank =>
            {
                terms.insert(name, Term { scale: f64::from(spec.scale), rank: spec.rank, a, b });
            }
            _ => return Err(Error::Internal(format!("{name}: an adapter that does not fit its shape"))),
        }
    }
    Ok(terms)
}

/// One file of weights on its way.
struct ShardWriter<'a> {
    shard: &'a TensorFile,
    dtype: Option<MergedType>,
    terms: &'a BTreeMap<String, Term<'a>>,
    out: BufWriter<File>,
    shown: &'a Path,
}

impl<'a> ShardWriter<'a> {
    fn write(&mut self) -> Result<Merged> {
        let mut order: Vec<(&str, Dtype)> = Vec::new();
        for name in self.shard.names_in_order() {
            let dtype = self.raw(name)?.0;
            order.push((name, self.target(dtype)));
        }
        // Wide types first, as safetensors' own writer has it: every tensor then lies on a multiple of its type's size.
        order.sort_by_key(|(_, dtype)| std::cmp::Reverse(dtype.bitsize()));
        let (header, bytes) = self.header(&order)?;
        self.put(&(header.len() as u64).to_le_bytes())?;
        self.put(header.as_bytes())?;
        let mut merged = Merged { changed: 0, tensors: order.len(), bytes };
        for (name, target) in order {
            let (dtype, _, raw) = self.raw(name)?;
            let term = self.terms.get(name);
            merged.changed += usize::from(term.is_some());
            match MergedType::of(target) {
                Some(target) if term.is_some() || dtype != target.in_file() => {
                    self.floats(name, term, target)?
                }
                _ => {
                    for piece in raw.chunks(4 * BLOCK) {
                        self.put(piece)?;
                        self.shard.release();
                    }
                }
            }
        }
        self.out.flush().and_then(|()| self.out.get_ref().sync_all()).map_err(Error::io(self.shown))?;
        Ok(merged)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::io(self.shown))
    }

    fn raw(&self, name: &str) -> Result<(Dtype, &'a [usize], &'a [u8])> {
        self.shard
            .raw(name)
            .ok_or_else(|| Error::Internal(format!("{}: no tensor {name}", self.shard.place())))
    }

    /// Floats change their type where one was asked for; other tensors stay what they are.
    fn target(&self, dtype: Dtype) -> Dtype {
        match (self.dtype, MergedType::of(dtype)) {
            (Some(target), Some(_)) => target.in_file(),
            _ => dtype,
        }
    }

    /// The header of a safetensors file of these tensors in this order, and the bytes of all of them.
    fn header(&self, order: &[(&str, Dtype)]) -> Result<(String, usize)> {
        let mut metadata = self.shard.all_metadata().clone();
        // Without it some readers refuse the file.
        metadata.entry("format".into()).or_insert_with(|| "pt".into());
        let mut header = Map::from_iter([("__metadata__".to_string(), json!(metadata))]);
        let mut start = 0;
        for (name, dtype) in order {
            let (_, shape, raw) = self.raw(name)?;
            let length = match MergedType::of(*dtype) {
                Some(target) => target.bytes() * shape.iter().product::<usize>(),
                None => raw.len(),
            };
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, start + length]});
            header.insert(name.to_string(), entry);
            start += length;
        }
        let mut header = Value::Object(header).to_string();
        let padded = header.len().next_multiple_of(8);
        header.extend(std::iter::repeat_n(' ', padded - header.len()));
        Ok((header, start))
    }

    /// A tensor of floats, rounded to `target`.
    fn floats(&mut self, name: &str, term: Option<&Term<'_>>, target: MergedType) -> Result<()> {
        let (dtype, shape, bytes) = self.raw(name)?;
        let source = match dtype {
            Dtype::F32 => WeightType::F32,
            Dtype::BF16 => WeightType::Bf16,
            _ => WeightType::F16,
        };
        let cols = shape.last().copied().unwrap_or(1).max(1);
        let rows = shape.iter().product::<usize>() / cols;
        let view = WeightView { bytes, dtype: source, rows, cols };
        let step = (BLOCK / cols).max(1);
        let mut block = Vec::new();
        for start in (0..rows).step_by(step) {
            let here = step.min(rows - start);
            block.resize(here * cols * target.bytes(), 0);
            let width = cols * target.bytes();
            let odd = in_parts(&mut block, width, |first, rows| {
                let mut rows = rows.chunks_exact_mut(width).enumerate();
                rows.find_map(|(i, out)| row(&view, start + first + i, term, target, out))
            });
            if let Some(v) = odd.into_iter().flatten().next() {
                return Err(Error::input(
                    format!("{}, tensor {name}", self.shard.place()),
                    format!("found {v} after merging, expected finite numbers that {} holds", target.name()),
                ));
            }
            self.put(&block)?;
            // What was read need not stay in memory.
            self.shard.release();
        }
        Ok(())
    }
}

/// One row of `W + s B A`, rounded into `out`; a number that cannot be written, if there is one.
fn row(
    view: &WeightView<'_>,
    row: usize,
    term: Option<&Term<'_>>,
    target: MergedType,
    out: &mut [u8],
) -> Option<f64> {
    let mut base = vec![0.0; view.cols];
    view.row_into(row, &mut base);
    let mut sum: Vec<f64> = base.into_iter().map(f64::from).collect();
    if let Some(Term { scale, rank, a, b }) = term {
        for (r, a) in a.chunks_exact(view.cols).enumerate() {
            let factor = scale * f64::from(b[row * rank + r]);
            sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * f64::from(*a));
        }
    }
    let mut odd = None;
    for (v, out) in sum.iter().zip(out.chunks_exact_mut(target.bytes())) {
        if !target.write(*v, out).is_finite() {
            odd = Some(*v);
        }
    }
    odd
}

/// config.json, with the type of the weights where it is another than the base's, and without a tie
/// that the weights do not keep: there are programs that would go by it.
fn config_json(files: &ModelFiles, config: &ModelConfig, dtype: Option<MergedType>) -> Result<Vec<u8>> {
    let mut map = parse_object(files.config(), &files.file_place("config.json"))?;
    let mut changed = false;
    let mut set = |field: &str, new: Value| {
        if let Some(value) = map.get_mut(field).filter(|v| **v != new) {
            *value = new;
            changed = true;
        }
    };
    if let Some(dtype) = dtype {
        for field in ["dtype", "torch_dtype"] {
            set(field, dtype.in_config().into());
        }
    }
    if config.unties {
        set("tie_word_embeddings", false.into());
    }
    if !changed {
        return Ok(files.config().to_vec());
    }
    pretty(&Value::Object(map))
}

/// The index of a base that has one, its size what it is now.
fn index_json(files: &ModelFiles, bytes: usize) -> Result<Option<Vec<u8>>> {
    if files.shards().map(|(name, _)| name).eq([SINGLE]) {
        return Ok(None);
    }
    let Some(folder) = files.folder() else { return Ok(None) };
    let path = folder.join(INDEX);
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let mut index = parse_object(&text, &path.display().to_string())?;
    let metadata = index.entry("metadata").or_insert_with(|| json!({}));
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert("total_size".into(), bytes.into());
    }
    pretty(&Value::Object(index)).map(Some)
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Internal(e.to_string()))?;
    Ok((text + "\n").into_bytes())
}

/// What stays as it is: tokenizer, templates, generation settings, licence.
fn companions(files: &ModelFiles) -> Result<Vec<(String, Vec<u8>)>> {
    let Some(folder) = files.folder() else {
        let weights: BTreeSet<String> = files.shards().map(|(name, _)| name).collect();
        let others = files.contents().filter(|(n, _)| n != "config.json" && !weights.contains(n));
        return Ok(others.map(|(name, bytes)| (name, bytes.to_vec())).collect());
    };
    let mut names: Vec<String> = COPIED.map(String::from).to_vec();
    if let Ok(entries) = std::fs::read_dir(folder.join(TEMPLATES)) {
        let found = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let mut found: Vec<String> = found.filter(|n| n.ends_with(".jinja")).collect();
        found.sort();
        names.extend(found.into_iter().map(|n| format!("{TEMPLATES}/{n}")));
    }
    let there = names.into_iter().filter(|n| folder.join(n).is_file());
    there
        .map(|name| {
            let path = folder.join(&name);
            let bytes = Bytes::open(&path)?;
            Ok((name, bytes.to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_once_to_the_nearest_even_last_bit() {
        let bf16 = |v: f64| {
            let mut out = [0; 2];
            MergedType::Bf16.write(v, &mut out);
            half::bf16::from_le_bytes(out).to_f64()
        };
        let f16 = |v: f64| {
            let mut out = [0; 2];
            MergedType::F16.write(v, &mut out);
            half::f16::from_le_bytes(out).to_f64()
        };
        let tiny = 2f64.powi(-40);
        // Ties go to the even one; the least bit beyond a tie decides, though the nearest f32 does not have it.
        for (between, below, above, even) in [
            (1.0 + 2f64.powi(-8), 1.0, 1.0 + 2f64.powi(-7), 1.0),
            (1.0 + 3.0 * 2f64.powi(-8), 1.0 + 2f64.powi(-7), 1.0 + 2f64.powi(-6), 1.0 + 2f64.powi(-6)),
        ] {
            for sign in [1.0, -1.0] {
                assert_eq!(bf16(sign * between), sign * even);
                assert_eq!(bf16(sign * (between + tiny)), sign * above);
                assert_eq!(bf16(sign * (between - tiny)), sign * below);
            }
        }
        let between = 1.0 + 2f64.powi(-11);
        assert_eq!(
            (f16(between), f16(between + tiny), f16(between - tiny)),
            (1.0, 1.0 + 2f64.powi(-10), 1.0)
        );
        // Numbers too small for their full mantissa, and 0.
        let least = 2f64.powi(-24);
        assert_eq!((f16(least / 2.0), f16(least / 2.0 + least * tiny), f16(0.0)), (0.0, least, 0.0));
        assert_eq!(f16(1e-300), 0.0);
        // What a type does not hold is seen.
        let mut out = [0; 2];
        assert!(MergedType::F16.write(65519.0, &mut out) == 65504.0);
        assert!(!MergedType::F16.write(65520.0, &mut out).is_finite());
        assert!(MergedType::F32.write(1e39, &mut [0; 4]).is_infinite());
    }

    #[test]
    fn every_16_bit_number_stays_itself() {
        for bits in 0..=u16::MAX {
            let (b, h) = (half::bf16::from_bits(bits), half::f16::from_bits(bits));
            let mut out = [0; 2];
            if b.is_finite() {
                MergedType::Bf16.write(b.to_f64(), &mut out);
                assert_eq!(out, bits.to_le_bytes());
            }
            if h.is_finite() {
                MergedType::F16.write(h.to_f64(), &mut out);
                assert_eq!(out, bits.to_le_bytes());
            }
        }
    }
}
