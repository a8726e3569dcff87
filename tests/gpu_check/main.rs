//! One file for a machine with a GPU but without cargo: every test that a GPU makes a difference to,
//! and the program. `tools/gpu-pack.sh` builds it, `tools/gpu-check.sh` calls it. `cargo test` leaves it
//! out, since its tests are in other programs too.

#[path = "../common/mod.rs"]
mod common;
#[path = "../engine/kernels.rs"]
mod engine_kernels;
#[path = "../model/fixtures_kernels.rs"]
mod fixtures_kernels;
#[path = "../ops/kernels/mod.rs"]
mod kernels;

/// Where the arguments of [`program`] are, one a line.
const ARGUMENTS: &str = "COLLOQUY_ARGUMENTS";

/// No test: the program itself, which ends the process with its exit code.
#[test]
#[ignore = "the program, for tools/gpu-check.sh"]
fn program() {
    let arguments = std::env::var(ARGUMENTS).unwrap_or_else(|e| panic!("{ARGUMENTS}: {e}"));
    let code = colloquy::cli::call(std::iter::once("colloquy").chain(arguments.lines()));
    std::process::exit(code.into());
}
