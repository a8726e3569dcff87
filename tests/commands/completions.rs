//! `colloquy completions`: a script for each shell that knows every command.

use std::process::{Command, Stdio};

use crate::common::shell::*;

const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// The subcommands that `--help` lists.
fn commands() -> Vec<String> {
    let help = succeed(&std::env::temp_dir(), &["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    names.filter_map(|l| l.split_whitespace().next()).map(String::from).collect()
}

#[test]
fn every_shell_knows_every_command() {
    let commands = commands();
    assert!(commands.len() >= 11 && commands.iter().any(|c| c == "completions"), "{commands:?}");
    for shell in SHELLS {
        let script = succeed(&std::env::temp_dir(), &["completions", shell]);
        for name in &commands {
            assert!(script.contains(name.as_str()), "{shell} does not know {name}");
        }
        assert!(script.contains("print-config"), "{shell} knows no options");
    }
    let e = run(&std::env::temp_dir(), &["completions", "dos"]);
    assert_eq!(e.status.code(), Some(2));
}

#[test]
fn bash_completes_a_command() {
    let ask = "source /dev/stdin; COMP_WORDS=(colloquy comp); COMP_CWORD=1; _colloquy colloquy comp colloquy; echo ${COMPREPLY[@]}";
    let bash = Command::new("bash").args(["-c", ask]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut bash) = bash else {
        eprintln!("skipped: there is no bash");
        return;
    };
    let script = succeed(&std::env::temp_dir(), &["completions", "bash"]);
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), script.as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "completions");
}
