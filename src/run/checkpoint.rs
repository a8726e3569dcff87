//! Adapters as one safetensors file: weights, and the optimizer's state where there is one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files::hex;

use crate::adapter::{Moments, Snapshot};
use crate::backend::{LoraMatrix, PartId, PartSpec, SlotSpec};
use crate::error::{Error, Result};
use crate::files::NewFile;

/// What the header says of one adapter; the numbers are tensors `ADAPTER.ROLE.PART.MATRIX`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Rank and scale (as bits) of each part.
    parts: Vec<Option<(usize, u32)>>,
    /// Parts in the order they are kept.
    order: Vec<(u32, char)>,
    /// Rate of dropout in training; older files have none.
    #[serde(default)]
    dropout: f32,
    /// Optimizer steps, if the optimizer's state is kept.
    steps: Option<u32>,
}

/// The file's one field of metadata.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Summed {
    /// See [`sum`].
    sha256: String,
    adapters: Vec<Header>,
}

fn letter(matrix: LoraMatrix) -> char {
    match matrix {
        LoraMatrix::A => 'A',
        LoraMatrix::B => 'B',
    }
}

/// Writes `adapters`: whole, synced, then renamed.
pub fn save(path: &Path, adapters: &[Snapshot]) -> Result<()> {
    let mut headers = Vec::new();
    let mut tensors = Vec::new();
    for (i, adapter) in adapters.iter().enumerate() {
        headers.push(Header {
            parts: adapter.spec.parts.iter().map(|p| p.map(|p| (p.rank, p.scale.to_bits()))).collect(),
            order: adapter.weights.iter().map(|(p, m, _)| (p.0, letter(*m))).collect(),
            dropout: adapter.spec.dropout,
            steps: adapter.moments.as_ref().map(|m| m.steps),
        });
        let mut roles = vec![("weights", &adapter.weights)];
        if let Some(m) = &adapter.moments {
            roles.extend([("first", &m.first), ("second", &m.second)]);
        }
        for (role, values) in roles {
            for (part, matrix, numbers) in values {
                let bytes = bytemuck::cast_slice::<f32, u8>(numbers);
                let view = TensorView::new(Dtype::F32, vec![numbers.len()], bytes)
                    .map_err(|e| Error::Internal(format!("checkpoint: {e}")))?;
                tensors.push((format!("{i}.{role}.{}.{}", part.0, letter(*matrix)), view));
            }
        }
    }
    let sha256 = sum(&headers, tensors.iter().map(|(name, view)| (name.as_str(), view.data())))?;
    let summed = serde_json::to_string(&Summed { sha256, adapters: headers })
        .map_err(|e| Error::Internal(format!("checkpoint: {e}")))?;
    // One field, as the order of several would be another in each file.
    let metadata = HashMap::from([("adapters".to_string(), summed)]);
    // Written tensor by tensor: all bytes at once would be a second copy of the adapters.
    let file = NewFile::create(path)?;
    safetensors::serialize_to_file(tensors, Some(metadata), file.temporary()).map_err(|e| match e {
        SafeTensorError::IoError(e) => Error::io(path)(e),
        e => Error::Internal(format!("checkpoint: {e}")),
    })?;
    file.finish()
}

/// SHA-256 of the headers and of all tensors, in the order of their names; in hexadecimal.
fn sum<'a>(headers: &[Header], tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(headers).map_err(|e| Error::Internal(format!("checkpoint: {e}")))?);
    for (name, bytes) in tensors.collect::<BTreeMap<_, _>>() {
        hash.update(name.as_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    Ok(hex(&hash.finalize()))
}

/// Reads what [`save`] wrote. Anything altered in it is an [`Error::Input`].
pub fn load(path: &Path) -> Result<Vec<Snapshot>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let broken = |what: &dyn std::fmt::Display| Error::file(path, format!("not a checkpoint: {what}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(&e))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| broken(&e))?;
    let header =
        metadata.metadata().as_ref().and_then(|m| m.get("adapters")).ok_or_else(|| broken(&"no header"))?;
    // Those of the first versions are a bare list.
    let headers: Vec<Header> = if header.starts_with('[') {
        serde_json::from_str(header).map_err(|e| broken(&e))?
    } else {
        let Summed { sha256, adapters } = serde_json::from_str(header).map_err(|e| broken(&e))?;
        let all = tensors.tensors();
        if sum(&adapters, all.iter().map(|(name, view)| (name.as_str(), view.data())))? != sha256 {
            return Err(broken(&"its contents do not have its checksum"));
        }
        adapters
    };
    let read = |i: usize, role: &str, order: &[(u32, char)]| -> Result<Vec<(PartId, LoraMatrix, Vec<f32>)>> {
        order
            .iter()
            .map(|&(part, m)| {
                let name = format!("{i}.{role}.{part}.{m}");
                let tensor = tensors.tensor(&name).map_err(|e| broken(&e))?;
                let numbers = tensor
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
                    .collect();
                let matrix = if m == 'A' { LoraMatrix::A } else { LoraMatrix::B };
                Ok((PartId(part), matrix, numbers))
            })
            .collect()
    };
    headers
        .iter()
        .enumerate()
        .map(|(i, h)| {
            let parts = h
                .parts
                .iter()
                .map(|p| p.map(|(rank, scale)| PartSpec { rank, scale: f32::from_bits(scale) }))
                .collect();
            let moments = match h.steps {
                Some(steps) => Some(Moments {
                    steps,
                    first: read(i, "first", &h.order)?,
                    second: read(i, "second", &h.order)?,
                }),
                None => None,
            };
            Ok(Snapshot {
                spec: SlotSpec { parts, dropout: h.dropout },
                weights: read(i, "weights", &h.order)?,
                moments,
            })
        })
        .collect()
}
