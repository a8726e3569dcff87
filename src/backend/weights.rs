//! Frozen weights: how a file's bytes are handed to a backend, and the handles it gives back.

use super::mix;

/// Linears that share one input, packed for one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Linear(pub u32);

/// A vector of f32, e.g. the weight of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vector(pub u32);

/// An embedding table `[vocab, hidden]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Table(pub u32);

/// cos and sin by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeTable(pub u32);

/// Random weights: element i is `bf16(scale u)`, u uniform in -1 .. 1, the upper 24 bits of number i of SplitMix64
/// started at `seed`. The kernels compute the same (`kernels/noise.cu`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Where the generator starts.
    pub seed: u64,
    /// The largest magnitude.
    pub scale: f32,
}

impl Noise {
    /// Element `i`.
    pub fn at(self, i: u64) -> f32 {
        let bits = mix(self.seed.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 40;
        let unit = bits as f32 / (1u64 << 23) as f32 - 1.0;
        half::bf16::from_f32(self.scale * unit).to_f32()
    }
}

/// Element type of a weight in its file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// No file: the elements are noise, numbered row by row.
    Noise(Noise),
}

impl WeightType {
    /// Bytes of one element in its file.
    pub fn bytes(self) -> usize {
        match self {
            WeightType::F32 => 4,
            WeightType::F16 | WeightType::Bf16 => 2,
            WeightType::Noise(_) => 0,
        }
    }
}

/// A row-major matrix (or a vector: one row) as it lies in a file. The bytes need not be aligned.
#[derive(Clone, Copy, Debug)]
pub struct WeightView<'a> {
    /// Little-endian elements, `rows * cols * dtype.bytes()` of them.
    pub bytes: &'a [u8],
    /// Element type.
    pub dtype: WeightType,
    /// Rows (outputs of a linear).
    pub rows: usize,
    /// Columns (inputs of a linear).
    pub cols: usize,
}

impl<'a> WeightView<'a> {
    /// A view of f32 values held in memory.
    pub fn from_f32(values: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "a matrix of {rows} x {cols}");
        Self { bytes: bytemuck::cast_slice(values), dtype: WeightType::F32, rows, cols }
    }

    /// Row `row`, widened to f32, into `out` (`cols` values).
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        let size = self.dtype.bytes();
        let bytes = &self.bytes[row * self.cols * size..][..self.cols * size];
        match self.dtype {
            WeightType::F32 => {
                for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            WeightType::F16 => {
                for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *o = half::f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            WeightType::Noise(noise) => {
                for (i, o) in out.iter_mut().enumerate() {
                    *o = noise.at((row * self.cols + i) as u64);
                }
            }
            WeightType::Bf16 => {
                for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *o = half::bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
        }
    }
}

/// What [`Backend::load_linear`](super::Backend::load_linear) packs: `y = x Wᵀ + b`, W the parts stacked by rows.
#[derive(Clone, Copy, Debug)]
pub struct LinearSpec<'a> {
    /// The matrices, each `[outputs, inputs]` with the same `inputs`.
    pub parts: &'a [WeightView<'a>],
    /// One bias of all outputs together, if any.
    pub bias: Option<&'a [f32]>,
    /// Whether [`Op::LinearBackward`](super::Op::LinearBackward) will ask for `dx = dy W`; costs a second
    /// packing on the CPU.
    pub backward: bool,
}
