//! `colloquy completions`: what a shell needs to complete commands and options.

use clap::Args as ClapArgs;
use clap_complete::Shell;

use super::screen::out;
use crate::error::{Error, Result};

/// Options of `completions`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Print a shell's completions of commands and options",
    after_help = "Install them with one of
  colloquy completions bash > ~/.local/share/bash-completion/completions/colloquy
  colloquy completions zsh > \"${fpath[1]}/_colloquy\"
  colloquy completions fish > ~/.config/fish/completions/colloquy.fish"
)]
pub struct Args {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "colloquy", &mut script);
    out(&String::from_utf8(script).map_err(|e| Error::Internal(e.to_string()))?)
}
