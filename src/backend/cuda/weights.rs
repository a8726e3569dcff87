//! Frozen weights on the device: matrices in bf16, vectors in f32.

use super::driver::{DevicePtr, Driver};
use crate::backend::{LinearSpec, WeightType, WeightView};
use crate::error::{Error, Result};

/// Rows are read 16 bytes at a time.
pub const WIDTH_STEP: usize = 8;
/// Bytes of bf16 converted and uploaded at a time.
const CHUNK: usize = 8 << 20;

/// The weights of one linear group: W `[outputs, inputs]`, row-major, one copy for forward and backward.
pub struct LinearWeights {
    /// W, bf16.
    pub at: DevicePtr,
    /// f32 `[outputs]`, or null.
    pub bias: DevicePtr,
    /// Columns, a multiple of 8.
    pub inputs: usize,
    /// Rows.
    pub outputs: usize,
    /// Whether W is a table's memory.
    tied: bool,
}

impl LinearWeights {
    /// Uploads the parts of `spec`, stacked by rows.
    pub fn load(driver: &mut dyn Driver, spec: LinearSpec<'_>) -> Result<Self> {
        let inputs = spec.parts.first().map_or(0, |p| p.cols);
        let outputs: usize = spec.parts.iter().map(|p| p.rows).sum();
        if inputs == 0 || outputs == 0 || spec.parts.iter().any(|p| p.cols != inputs) {
            return Err(Error::Internal(format!("a linear of {inputs} inputs and {outputs} outputs")));
        }
        check_width("a linear", inputs)?;
        let at = driver.alloc(outputs * inputs * 2, "weights")?;
        let mut first = 0;
        for part in spec.parts {
            upload(driver, at.offset(first * inputs * 2), part)?;
            first += part.rows;
        }
        let mut bias = DevicePtr::NULL;
        if let Some(values) = spec.bias {
            if values.len() != outputs {
                return Err(Error::Internal(format!("a bias of {} for {outputs} outputs", values.len())));
            }
            bias = driver.alloc(outputs * 4, "a bias")?;
            driver.upload(bias, bytemuck::cast_slice(values))?;
        }
        Ok(Self { at, bias, inputs, outputs, tied: false })
    }

    /// The matrix of a table, which is not copied.
    pub fn tied(table: &TableBuffer, spec: LinearSpec<'_>) -> Result<Self> {
        match (spec.parts, spec.bias) {
            ([part], None) if (part.rows, part.cols) == (table.rows, table.width) => Ok(Self {
                at: table.at,
                bias: DevicePtr::NULL,
                inputs: table.width,
                outputs: table.rows,
                tied: true,
            }),
            _ => Err(Error::Internal(format!(
                "a linear tied to a table [{}, {}] has another shape",
                table.rows, table.width
            ))),
        }
    }

    /// Bytes it occupies, beside a table's.
    pub fn bytes(&self) -> usize {
        let bias = if self.bias == DevicePtr::NULL { 0 } else { self.outputs * 4 };
        bias + if self.tied { 0 } else { self.outputs * self.inputs * 2 }
    }
}

/// A vector of f32.
pub struct VectorBuffer {
    /// Where it lies.
    pub at: DevicePtr,
    /// Numbers.
    pub len: usize,
}

impl VectorBuffer {
    /// Uploads a vector.
    pub fn load(driver: &mut dyn Driver, values: WeightView<'_>) -> Result<Self> {
        let mut v = vec![0.0; values.rows * values.cols];
        for (row, out) in v.chunks_exact_mut(values.cols.max(1)).enumerate() {
            values.row_into(row, out);
        }
        let at = driver.alloc(v.len() * 4, "a vector")?;
        driver.upload(at, bytemuck::cast_slice(&v))?;
        Ok(Self { at, len: v.len() })
    }

    /// Bytes it occupies.
    pub fn bytes(&self) -> usize {
        self.len * 4
    }
}

/// An embedding table `[rows, width]`, bf16.
pub struct TableBuffer {
    /// Where it lies.
    pub at: DevicePtr,
    /// Rows (tokens).
    pub rows: usize,
    /// Columns, a multiple of 8.
    pub width: usize,
}

impl TableBuffer {
    /// Uploads a table.
    pub fn load(driver: &mut dyn Driver, values: WeightView<'_>) -> Result<Self> {
        check_width("an embedding", values.cols)?;
        let at = driver.alloc(values.rows * values.cols * 2, "an embedding")?;
        upload(driver, at, &values)?;
        Ok(Self { at, rows: values.rows, width: values.cols })
    }

    /// Bytes it occupies.
    pub fn bytes(&self) -> usize {
        self.rows * self.width * 2
    }
}

/// That rows can be read 16 bytes at a time.
pub fn check_width(what: &str, width: usize) -> Result<()> {
    if width == 0 || !width.is_multiple_of(WIDTH_STEP) {
        return Err(Error::Unsupported(format!(
            "{what} of width {width} on the GPU: expected a multiple of {WIDTH_STEP}"
        )));
    }
    Ok(())
}

/// Rounds a matrix to bf16 and uploads it, some rows at a time; noise is made on the device.
fn upload(driver: &mut dyn Driver, to: DevicePtr, values: &WeightView<'_>) -> Result<()> {
    let row_bytes = values.cols * 2;
    let step = (CHUNK / row_bytes.max(1)).max(1);
    if let WeightType::Noise(noise) = values.dtype {
        return super::noise::fill(driver, to, values.rows * values.cols, noise);
    }
    if values.dtype == WeightType::Bf16 {
        for (i, chunk) in values.bytes.chunks(step * row_bytes).enumerate() {
            driver.upload(to.offset(i * step * row_bytes), chunk)?;
        }
        return Ok(());
    }
    let mut row = vec![0f32; values.cols];
    let mut rounded = Vec::with_capacity(step * values.cols);
    for first in (0..values.rows).step_by(step) {
        rounded.clear();
        for r in first..values.rows.min(first + step) {
            values.row_into(r, &mut row);
            rounded.extend(row.iter().map(|&x| half::bf16::from_f32(x)));
        }
        driver.upload(to.offset(first * row_bytes), bytemuck::cast_slice(&rounded))?;
    }
    Ok(())
}
