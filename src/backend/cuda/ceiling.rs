//! What a GPU reaches at its best, to compare kernels with: a matrix product by cuBLASLt, opened at run time
//! for this alone, and a copy.

use std::ffi::c_void;

use cudarc::cublaslt::{result as lt, sys as lts};
use cudarc::driver::{result, sys};

use super::driver::DevicePtr;
use crate::backend::Ceilings;
use crate::error::{Error, Result};

/// Rows and columns of the product.
const SIDE: usize = 8192;
/// Bytes copied.
const COPY: usize = 1 << 30;
/// Room for cuBLASLt to work in.
const ROOM: usize = 64 << 20;
/// Runs; the fastest counts, as a ceiling should.
const RUNS: usize = 8;

/// Seconds between two events around `work` on the stream, the least of some runs after one that does not count.
///
/// # Safety
/// The stream is valid and its context current; `work` enqueues on it.
unsafe fn fastest(stream: sys::CUstream, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let failed = |e: result::DriverError| Error::Device(format!("CUDA error {} while measuring", e.0 as u32));
    let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed);
    let (start, end) = (event()?, event()?);
    let mut best = f64::INFINITY;
    for run in 0..=RUNS {
        // SAFETY: both events and the stream are valid.
        unsafe {
            result::event::record(start, stream).map_err(failed)?;
            work()?;
            result::event::record(end, stream).map_err(failed)?;
            result::event::synchronize(end).map_err(failed)?;
            let seconds = f64::from(result::event::elapsed(start, end).map_err(failed)?) / 1e3;
            if run > 0 {
                best = best.min(seconds);
            }
        }
    }
    // SAFETY: no work uses them any more.
    unsafe {
        let _ = result::event::destroy(start);
        let _ = result::event::destroy(end);
    }
    Ok(best)
}

/// Measures both, in memory at `memory` ([`bytes`] of it, filled with random bf16 of ordinary size).
///
/// # Safety
/// The stream is valid, its context current, and `memory` holds [`bytes`] bytes that nothing else uses.
pub unsafe fn measure(stream: sys::CUstream, memory: DevicePtr) -> Result<Ceilings> {
    let (from, to) = (memory.0, memory.offset(COPY).0);
    // SAFETY: both halves are inside `memory`.
    let copy = unsafe {
        fastest(stream, || {
            result::memcpy_dtod_async(to, from, COPY, stream)
                .map_err(|e| Error::Device(format!("CUDA error {} in a copy", e.0 as u32)))
        })?
    };
    // SAFETY: tries to open a library of the system.
    let matmul = match unsafe { lts::is_culib_present() } {
        // SAFETY: as the caller promises.
        true => Some(2.0 * (SIDE as f64).powi(3) / unsafe { product(stream, memory)? }),
        false => None,
    };
    Ok(Ceilings { matmul, copy: 2.0 * COPY as f64 / copy })
}

/// Bytes that [`measure`] needs.
pub const fn bytes() -> usize {
    2 * COPY
}

/// Seconds of C = A B, all of [`SIDE`], bf16 in and out, f32 accumulation.
///
/// # Safety
/// As [`measure`].
unsafe fn product(stream: sys::CUstream, memory: DevicePtr) -> Result<f64> {
    let failed = |e: lt::CublasError| Error::Device(format!("cuBLASLt while measuring: {e}"));
    let matrix = SIDE * SIDE * 2;
    let [a, b, c] = [0, 1, 2].map(|i| memory.offset(i * matrix).0);
    let room = memory.offset(3 * matrix).0;
    let bf16 = lts::cudaDataType_t::CUDA_R_16BF;
    let handle = lt::create_handle().map_err(failed)?;
    let description =
        lt::create_matmul_desc(lts::cublasComputeType_t::CUBLAS_COMPUTE_32F, lts::cudaDataType_t::CUDA_R_32F)
            .map_err(failed)?;
    let side = SIDE as u64;
    let layout = lt::create_matrix_layout(bf16, side, side, SIDE as i64).map_err(failed)?;
    let preference = lt::create_matmul_pref().map_err(failed)?;
    let (one, zero, size) = (1f32, 0f32, ROOM);
    let pointer = |x: &f32| std::ptr::from_ref(x).cast::<c_void>();
    // SAFETY: every descriptor is valid until it is destroyed below, the matrices and the room lie one after
    // another in `memory`, and the scalars live across the calls.
    unsafe {
        lt::set_matmul_pref_attribute(
            preference,
            lts::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            std::ptr::from_ref(&size).cast(),
            size_of::<usize>(),
        )
        .map_err(failed)?;
        let choice =
            lt::get_matmul_algo_heuristic(handle, description, layout, layout, layout, layout, preference)
                .map_err(failed)?;
        let seconds = fastest(stream, || {
            lt::matmul(
                handle,
                description,
                pointer(&one),
                pointer(&zero),
                a as *const c_void,
                layout,
                b as *const c_void,
                layout,
                c as *const c_void,
                layout,
                c as *mut c_void,
                layout,
                &choice.algo,
                room as *mut c_void,
                ROOM,
                stream as lts::cudaStream_t,
            )
            .map_err(failed)
        });
        let _ = lt::destroy_matmul_pref(preference);
        let _ = lt::destroy_matrix_layout(layout);
        let _ = lt::destroy_matmul_desc(description);
        let _ = lt::destroy_handle(handle);
        seconds
    }
}
