//! The `colloquy` binary: parse the command line, run the command, turn its result into an exit code.

fn main() -> std::process::ExitCode {
    colloquy::cli::main()
}
