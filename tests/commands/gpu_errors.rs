//! What a GPU that cannot be used gets: one error that says what is missing, before any work. The driver is a library of this test's own
//! (`gpu_errors/libcuda.c`), so the host code that only a GPU runs otherwise runs here.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::shell::*;
use colloquy::backend::cuda::images;

/// Compiles the driver into a folder of its own.
fn driver(folder: &Path) -> PathBuf {
    let library = folder.join("libcuda.so.1");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands/gpu_errors/libcuda.c");
    let output =
        Command::new("gcc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
    let output = output.expect("a C compiler");
    assert!(output.status.success(), "{}", stderr(&output));
    folder.to_path_buf()
}

fn ask(driver: &Path, settings: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = colloquy(driver, args);
    command.env("LD_LIBRARY_PATH", driver).envs(settings.iter().copied()).output().expect("the binary starts")
}

#[test]
fn what_is_missing_is_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let driver = driver(dir.path());
    let args = ["bench", "decode", "--shape", "tiny", "--device", "cuda"];
    let error = |settings: &[(&str, &str)]| one_error(&ask(&driver, settings, &args), &args, 1);
    if images::IMAGES.is_empty() {
        eprintln!("no CUDA kernels in this build: only that is tested");
        assert!(error(&[]).contains("cuda:0: this program was built without CUDA kernels"));
        return;
    }
    let old = error(&[("FAKE_CUDA_VERSION", "12080")]);
    assert!(old.contains("cuda:0: the NVIDIA driver supports CUDA 12.8, 13.0 or newer is needed"), "{old}");
    let none = error(&[("FAKE_CUDA_DEVICES", "0")]);
    assert!(none.contains("cuda:0: there is no such device; 0 found"), "{none}");
    let architecture = error(&[("FAKE_CUDA_CAPABILITY", "75")]);
    let expected = format!(
        "Fake GPU has compute capability 7.5; this build has kernels for {}",
        images::ARCHITECTURES.join(", ")
    );
    assert!(architecture.contains(&expected), "{architecture}");
    let small = error(&[("FAKE_CUDA_MIB", "1")]);
    assert!(small.contains("memory: shape tiny: ") && small.contains("would fit"), "{small}");
}

#[test]
fn a_kernel_that_fails_is_named_with_its_shapes_and_the_code() {
    if images::IMAGES.is_empty() {
        eprintln!("no CUDA kernels in this build");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let driver = driver(dir.path());
    let args = [
        "bench",
        "prefill",
        "--shape",
        "tiny",
        "--device",
        "cuda",
        "--batch",
        "2",
        "--prompt",
        "4",
        "--adapters",
        "1",
    ];
    let error =
        |variable: &str, launches: &str| one_error(&ask(&driver, &[(variable, launches)], &args), &args, 1);
    let code = "device: CUDA error 700 CUDA_ERROR_ILLEGAL_ADDRESS: ";
    // Refused: the first kernel, which makes the weights, and one of a step.
    for (launches, kernel) in [("0", "kernel fill_noise with grid ["), ("60", "one of ")] {
        let error = error("FAKE_CUDA_LAUNCHES", launches);
        assert!(error.starts_with(&format!("{code}{kernel}")), "{error}");
        assert!(error.contains(" with grid [") && error.contains(" bytes of shared memory"), "{error}");
    }
    // Broken as it runs: the driver tells with what comes next.
    let error = error("FAKE_CUDA_RUNS", "60");
    assert!(error.starts_with(&format!("{code}one of ")), "{error}");
    assert!(error.contains(", the last of them kernel ") && error.contains(", found at "), "{error}");
}
