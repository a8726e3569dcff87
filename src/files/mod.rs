//! Files read without trust and written whole: memory maps, safetensors headers checked before use, atomic replacement.

mod disk;
mod folder;
pub mod json;
mod lines;
mod pattern;
#[cfg(test)]
mod simulated;
mod text;
mod underway;
mod write;

pub use disk::{Disk, DiskFile, RealDisk};
pub use folder::NewFolder;
pub use lines::{Line, MAX_LINE, read_line, skip_line};
pub use pattern::written_out;
#[cfg(test)]
pub use simulated::SimulatedDisk;
pub use text::{decode, no_text, open, read_bytes, read_text, without_mark};
pub use underway::remove_under_way;
pub use write::{NewFile, write_whole};

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo};

use crate::backend::{WeightType, WeightView};
use crate::error::{Error, Result};

/// Names in a folder, sorted; none if it cannot be read.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The bytes of a file, wherever they lie.
pub enum Bytes {
    /// Compiled into the program.
    Static(&'static [u8]),
    /// Mapped from disk.
    Mapped(memmap2::Mmap),
    /// Held in memory.
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps a file.
    pub fn open(path: &Path) -> Result<Self> {
        // Looked at first, because opening a named pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
            return Err(Error::file(path, "found something that is not a file"));
        }
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the map is read-only and private to us. As everywhere model files are mapped,
        // another process that truncates the file meanwhile can fault this one; we write files
        // under new names and rename them, so our own never change in place.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        if let Some(problem) = pointer(&map) {
            return Err(Error::file(path, problem));
        }
        Ok(Bytes::Mapped(map))
    }
}

/// Returns the error of a Git LFS pointer: a short text in the place of a large file. Returns
/// nothing for any other file.
fn pointer(bytes: &[u8]) -> Option<String> {
    /// How a pointer begins, now and in the versions before 1.0.
    const SPECS: [&str; 2] =
        ["version https://git-lfs.github.com/spec/", "version https://hawser.github.com/spec/"];
    /// A pointer is shorter, says its specification.
    const LONGEST: usize = 1024;
    let text = std::str::from_utf8(bytes.get(..bytes.len().min(LONGEST))?).ok()?;
    if bytes.len() >= LONGEST || !SPECS.iter().any(|spec| text.starts_with(spec)) {
        return None;
    }
    let size = text.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse::<u64>().ok());
    let of = size.map_or(String::new(), |size| format!(" to a file of {size} bytes"));
    Some(format!(
        "found a Git LFS pointer ({} bytes){of}, expected the file itself: run `git lfs pull` in its repository",
        bytes.len()
    ))
}

impl Bytes {
    /// Lets the system take back the memory of what was read of a mapped file; it is read again when it is needed.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = self {
            // SAFETY: the map is private and never written, so its pages come back from the file as they were.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Static(b) => b,
            Bytes::Mapped(m) => m,
            Bytes::Owned(v) => v,
        }
    }
}

/// Whether a name is that of a file or folder under way to its real one, as [`NewFile`] and [`NewFolder`] make them.
fn is_temporary(name: &std::ffi::OsStr) -> bool {
    let process = name.to_str().and_then(|n| n.strip_suffix(".tmp")).and_then(|n| n.rsplit_once('.'));
    process.is_some_and(|(_, id)| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
}

/// Removes what a killed process left under way in `folder` and the folders in it. Links are not followed.
pub fn remove_temporaries(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(Error::io(folder))?);
        match (is_temporary(&entry.file_name()), kind.is_dir()) {
            (true, true) => std::fs::remove_dir_all(&path).map_err(Error::io(&path))?,
            (true, false) => std::fs::remove_file(&path).map_err(Error::io(&path))?,
            (false, true) => remove_temporaries(&path)?,
            (false, false) => {}
        }
    }
    Ok(())
}

/// Makes renames inside `folder` durable where the system can; those that cannot sync a folder do not need it.
pub(crate) fn sync_folder(folder: &Path) {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if let Ok(f) = File::open(folder) {
        let _ = f.sync_all();
    }
}

/// A safetensors file whose header has been checked: every tensor's bytes lie inside the file, tile
/// it without gap or overlap, and fit its type and shape.
pub struct TensorFile {
    place: String,
    bytes: Bytes,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// The longest header accepted, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

impl TensorFile {
    /// Maps and checks a file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(path.display().to_string(), Bytes::open(path)?)
    }

    /// Checks `bytes`; `place` names them in errors.
    pub fn parse(place: String, bytes: Bytes) -> Result<Self> {
        let fail = |problem: String| Error::input(&place, problem);
        let Some(prefix) = bytes.first_chunk::<8>() else {
            return Err(fail(format!(
                "truncated: found {} bytes, expected the 8 of a safetensors header length",
                bytes.len()
            )));
        };
        let header_len = u64::from_le_bytes(*prefix);
        if header_len > MAX_HEADER {
            return Err(fail(format!(
                "not a safetensors file: found a header length of {header_len}, expected at most {MAX_HEADER}"
            )));
        }
        let data_start = 8 + header_len as usize;
        let Some(header) = bytes.get(8..data_start) else {
            return Err(fail(format!(
                "truncated: found {} bytes, expected a header that ends at byte {data_start}",
                bytes.len()
            )));
        };
        let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header)
            .map_err(|e| fail(format!("header: found no valid JSON ({e}), expected an object of tensors")))?;

        let mut tensors = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        for (name, value) in header {
            if name == "__metadata__" {
                metadata = serde_json::from_value(value)
                    .map_err(|e| fail(format!("header, __metadata__: found {e}, expected strings")))?;
                continue;
            }
            let info: TensorInfo = serde_json::from_value(value).map_err(|e| {
                fail(format!("header, tensor {name}: found {e}, expected dtype, shape and data_offsets"))
            })?;
            let entry = check_entry(info, data_start, bytes.len())
                .map_err(|e| Error::input(format!("{place}, tensor {name}"), e))?;
            tensors.insert(name, entry);
        }
        check_tiling(&tensors, data_start, bytes.len()).map_err(|(tensor, problem)| match tensor {
            Some(name) => Error::input(format!("{place}, tensor {name}"), problem),
            None => Error::input(&place, problem),
        })?;
        Ok(Self { place, bytes, tensors, metadata })
    }

    /// Names the file in errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// See [`Bytes::release`].
    pub fn release(&self) {
        self.bytes.release();
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape, if the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// A string of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// All of the file's metadata.
    pub fn all_metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors' names, in the order in which their bytes lie.
    pub fn names_in_order(&self) -> Vec<&str> {
        let mut order: Vec<(&str, &Entry)> = self.tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        order.sort_by_key(|(_, t)| (t.range.start, t.range.end));
        order.into_iter().map(|(name, _)| name).collect()
    }

    /// A float vector or matrix of exactly this shape.
    pub fn view(&self, name: &str, shape: &[usize]) -> Result<WeightView<'_>> {
        let place = || format!("{}, tensor {name}", self.place);
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::input(place(), format!("missing, expected shape {shape:?}")))?;
        let dtype = match entry.dtype {
            Dtype::F32 => WeightType::F32,
            Dtype::F16 => WeightType::F16,
            Dtype::BF16 => WeightType::Bf16,
            other => {
                return Err(Error::input(
                    place(),
                    format!("found type {other:?}, expected F32, F16 or BF16"),
                ));
            }
        };
        if entry.shape != shape {
            return Err(Error::input(place(), format!("found shape {:?}, expected {shape:?}", entry.shape)));
        }
        let (rows, cols) = match *shape {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => return Err(Error::Internal(format!("{}: neither a vector nor a matrix", place()))),
        };
        Ok(WeightView { bytes: &self.bytes[entry.range.clone()], dtype, rows, cols })
    }

    /// The values of a float vector or matrix of exactly this shape, row-major, all of them finite.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let values = widen(self.view(name, shape)?);
        match values.iter().find(|v| !v.is_finite()) {
            Some(v) => Err(Error::input(
                format!("{}, tensor {name}", self.place),
                format!("found {v}, expected finite numbers"),
            )),
            None => Ok(values),
        }
    }

    /// The bytes of a tensor of any type, with its type and shape (for readers of other data than weights).
    pub fn raw(&self, name: &str) -> Option<(Dtype, &[usize], &[u8])> {
        let t = self.tensors.get(name)?;
        Some((t.dtype, &t.shape, &self.bytes[t.range.clone()]))
    }
}

/// A weight's values as f32, row-major.
pub fn widen(view: WeightView<'_>) -> Vec<f32> {
    let mut values = vec![0.0; view.rows * view.cols];
    if view.cols > 0 {
        for (row, out) in values.chunks_exact_mut(view.cols).enumerate() {
            view.row_into(row, out);
        }
    }
    values
}

/// Returns whether two weights hold the same numbers as f32, whatever their types. Calls `pause`
/// after every block, so that the memory of what was read can be given back.
pub fn same_values<'a>(a: WeightView<'a>, b: WeightView<'a>, pause: impl Fn()) -> bool {
    /// Numbers compared between two pauses.
    const BLOCK: usize = 1 << 22;
    if (a.rows, a.cols) != (b.rows, b.cols) {
        return false;
    }
    let (mut left, mut right) = (vec![0.0; a.cols], vec![0.0; a.cols]);
    // Of one type the same bytes are the same numbers, and most rows are settled so.
    let row_bytes = if a.dtype == b.dtype { a.cols * a.dtype.bytes() } else { 0 };
    let bytes_of = |view: &WeightView<'a>, row: usize| view.bytes.get(row * row_bytes..(row + 1) * row_bytes);
    let same_bytes =
        |row| row_bytes > 0 && bytes_of(&a, row).is_some_and(|of_a| Some(of_a) == bytes_of(&b, row));
    let step = (BLOCK / a.cols.max(1)).max(1);
    for start in (0..a.rows).step_by(step) {
        for row in start..a.rows.min(start + step) {
            if same_bytes(row) {
                continue;
            }
            a.row_into(row, &mut left);
            b.row_into(row, &mut right);
            if left != right {
                return false;
            }
        }
        pause();
    }
    true
}

/// Checks one tensor by itself; the error says what was found and expected.
fn check_entry(info: TensorInfo, data_start: usize, file_len: usize) -> Result<Entry, String> {
    let (start, end) = info.data_offsets;
    let data_len = file_len - data_start;
    if start > end || end > data_len {
        return Err(format!(
            "found data offsets {start}..{end}, expected them ascending and within the file's {data_len} bytes of data"
        ));
    }
    let bits = info
        .shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .and_then(|n| n.checked_mul(info.dtype.bitsize()));
    let expected = bits.filter(|b| b % 8 == 0).map(|b| b / 8);
    if expected != Some(end - start) {
        let expected = expected.map_or("an impossible number".into(), |b| b.to_string());
        return Err(format!(
            "found {} bytes, expected {expected} for type {:?} and shape {:?}",
            end - start,
            info.dtype,
            info.shape
        ));
    }
    Ok(Entry { dtype: info.dtype, shape: info.shape, range: data_start + start..data_start + end })
}

/// Checks that the tensors cover the data exactly once.
fn check_tiling(
    tensors: &BTreeMap<String, Entry>,
    data_start: usize,
    file_len: usize,
) -> Result<(), (Option<String>, String)> {
    let mut order: Vec<(&String, &Entry)> = tensors.iter().collect();
    order.sort_by_key(|(_, t)| (t.range.start, t.range.end));
    let mut next = data_start;
    for (name, t) in order {
        if t.range.start != next {
            let what = if t.range.start < next { "overlaps the tensor before it" } else { "leaves a gap" };
            return Err((
                Some(name.clone()),
                format!(
                    "{what}: found its data at offset {}, expected {}",
                    t.range.start - data_start,
                    next - data_start
                ),
            ));
        }
        next = t.range.end;
    }
    if next != file_len {
        return Err((
            None,
            format!(
                "found {} bytes of data, expected the {} that its tensors take",
                file_len - data_start,
                next - data_start
            ),
        ));
    }
    Ok(())
}

/// A safetensors file of f32 matrices, tensors in the order of their names: the same contents give the same bytes.
pub fn safetensors_bytes(
    tensors: &BTreeMap<String, (Vec<usize>, &[f32])>,
    metadata: (&str, String),
) -> Result<Vec<u8>> {
    let views = tensors
        .iter()
        .map(|(name, (shape, values))| {
            let bytes = bytemuck::cast_slice(values);
            safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), bytes)
                .map(|view| (name.as_str(), view))
                .map_err(|e| Error::Internal(format!("tensor {name}: {e}")))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = [(metadata.0.to_string(), metadata.1)].into_iter().collect();
    safetensors::serialize(views, Some(metadata)).map_err(|e| Error::Internal(format!("safetensors: {e}")))
}
