//! `colloquy report`: tables, CSV and a page from run folders.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::screen::out;
use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::recipe::Recipes;
use crate::report::{Report, overlay};

/// Options of `report`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Write tables, CSV and a page for a run, or one page over several",
    long_about = "Prints a run's summary (accuracy by arm and iteration with 95 % intervals, comparisons, \
                  pseudo-labels, training, compute) and writes into its folder, replacing what an earlier \
                  report wrote:\n\n  \
                  report.html      one page with everything; it needs no network\n  \
                  report.csv       every accuracy of every arm, seed and iteration\n  \
                  summary.csv      means over seeds, with intervals\n  \
                  comparisons.csv  differences between arms\n  \
                  measures.csv     diversity, pseudo-labels, agreement, compute\n  \
                  figure.svg       accuracy over iterations\n  \
                  report.txt       what is printed\n\n\
                  With several runs it does so for each, and writes one page over all of them, with arms \
                  labelled by run and the differences between their configurations. It also works on runs that \
                  are not complete, and gives their progress.",
    after_help = "Examples:
  colloquy report runs/first
  colloquy report runs/first runs/second --output both.html"
)]
pub struct Args {
    /// Run folders.
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// Where the page goes, `-` is stdout [default: DIR/report.html; of several runs report.html here].
    #[arg(long, value_name = "FILE.html")]
    output: Option<PathBuf>,
    /// Replace --output, or the page of several runs, if it exists.
    #[arg(long)]
    force: bool,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let several = args.folders.len() > 1;
    let page = match (&args.output, several) {
        (Some(path), _) => Some(path.clone()),
        (None, true) => Some(PathBuf::from("report.html")),
        (None, false) => None,
    };
    if let Some(page) = page.as_deref().filter(|p| !is_stdout(p)) {
        if page.is_dir() {
            return Err(Error::file(page, "is a folder; --output names a file"));
        }
        if page.exists() && !args.force {
            return Err(Error::file(
                page,
                "exists already; choose another --output, or --force to replace it",
            ));
        }
    }
    // All are read before anything is written.
    let recipes = Recipes::default().infos();
    let reports = args.folders.iter().map(|f| Report::of(f, &recipes)).collect::<Result<Vec<_>>>()?;
    let html = if several { overlay(&args.folders, &recipes)? } else { reports[0].html.clone() };
    for (folder, report) in args.folders.iter().zip(&reports) {
        match several || page.is_none() {
            true => report.write(folder)?,
            false => report.write_tables(folder)?,
        }
    }
    if let Some(path) = &page {
        if is_stdout(path) {
            return out(&html);
        }
        write_whole(path, html.as_bytes())?;
    }
    for (i, (folder, report)) in args.folders.iter().zip(&reports).enumerate() {
        if several {
            out(&format!("{}{}\n\n", if i > 0 { "\n" } else { "" }, folder.display()))?;
        }
        out(&report.summary)?;
    }
    let written = page.unwrap_or_else(|| args.folders[0].join("report.html"));
    let _ = writeln!(std::io::stderr(), "page     {}", written.display());
    Ok(())
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}
