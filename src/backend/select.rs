//! From the name of a device to a backend.

use super::Backend;
use super::cpu::CpuBackend;
use super::cuda::CudaBackend;
use super::cuda::device::Gpu;
use crate::error::{Error, Result};

/// Most threads of the CPU: more than the largest machines have cores, and few enough to be started.
pub const MAX_THREADS: usize = 1024;

/// A backend and, for `auto`, why it was chosen.
pub struct Selected {
    /// The backend.
    pub backend: Box<dyn Backend>,
    /// For people: `"auto: no GPU that this build can use"`.
    pub why: Option<&'static str>,
}

/// The backend that `device` names: `auto` (a GPU where there is one, else the CPU), `cpu`, `cpu-bf16`
/// (adapters, K and V rounded as on a GPU), `cuda`, `cuda:N` or `emulator`. `threads` is for the CPU.
///
/// What was asked for by name is opened or is an error; only `auto` chooses.
pub fn select(device: &str, threads: usize) -> Result<Selected> {
    if threads > MAX_THREADS {
        return Err(Error::input("threads", format!("found {threads}, expected at most {MAX_THREADS}")));
    }
    let chosen = |backend| Ok(Selected { backend, why: None });
    match device {
        "cpu" => chosen(Box::new(CpuBackend::new(threads)?)),
        "cpu-bf16" => chosen(Box::new(CpuBackend::new(threads)?.with_bf16_adapters().with_bf16_kv())),
        "auto" if Gpu::count() > 0 => Ok(Selected { backend: gpu(0)?, why: Some("auto: the first GPU") }),
        "auto" => Ok(Selected {
            backend: Box::new(CpuBackend::new(threads)?),
            why: Some("auto: no GPU that this build can use"),
        }),
        "cuda" => chosen(gpu(0)?),
        "emulator" => chosen(emulator()?),
        _ => match device.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(ordinal) => chosen(gpu(ordinal)?),
            None => Err(Error::Unsupported(format!(
                "device `{device}`: expected auto, cpu, cpu-bf16, cuda, cuda:N or emulator"
            ))),
        },
    }
}

fn gpu(ordinal: usize) -> Result<Box<dyn Backend>> {
    Ok(Box::new(CudaBackend::new(Box::new(Gpu::open(ordinal)?)).with_ranges()?))
}

#[cfg(feature = "emulator")]
fn emulator() -> Result<Box<dyn Backend>> {
    let emulator = super::cuda::emulator::Emulator::new(0).with_wanted_fault()?;
    Ok(Box::new(CudaBackend::new(Box::new(emulator)).with_ranges()?))
}

#[cfg(not(feature = "emulator"))]
fn emulator() -> Result<Box<dyn Backend>> {
    Err(Error::Unsupported(
        "emulator: this program was built without it (cargo build --features emulator)".into(),
    ))
}
