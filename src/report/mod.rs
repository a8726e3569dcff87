//! Tables, CSV and one page from run folders, nothing else.

mod behaviour;
mod compare;
mod csv;
mod debates;
mod folder;
mod grid;
mod html;
mod measures;
mod page;
mod plot;
mod running;
mod scores;
mod tables;

use std::path::{Path, PathBuf};

pub use compare::{Comparison, Comparisons, Side};
pub use folder::{Arm, Progress, Run};
pub use grid::{Point, Ranking, ranking};
pub use running::Running;
pub use scores::{Mean, Method};
pub use tables::{LEGEND, table};

use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::run::{RecipeInfo, RunConfig};

/// Everything that reports say of a run.
pub struct Results {
    /// The run.
    pub run: Run,
    /// Accuracies over seeds.
    pub means: Vec<Mean>,
    /// Comparisons between its arms.
    pub comparisons: Comparisons,
    /// Diversity, pseudo-labels, agreement, compute, times.
    pub measures: Vec<measures::Measure>,
    /// Compute and times by phase.
    pub costs: Vec<measures::Cost>,
    /// The points of a tuning grid, ranked, as a terminal shows them.
    pub grid: Option<String>,
}

impl Results {
    /// Reads a run folder and computes it all; `recipes` are the known ones.
    pub fn read(folder: &Path, recipes: &[RecipeInfo]) -> Result<Self> {
        let run = Run::read(folder, recipes)?;
        let means = scores::means(&run)?;
        let comparisons = compare::compare(&run, &means);
        let mut measures = measures::measures(&run);
        measures.extend(behaviour::agreement(&run));
        let costs = measures::costs(&measures);
        let config: RunConfig = toml::Value::Table(run.config.clone())
            .try_into()
            .map_err(|e: toml::de::Error| Error::file(&folder.join("config.toml"), e.message()))?;
        let grid = grid::tables(&run.metrics, &config);
        Ok(Self { run, means, comparisons, measures, costs, grid })
    }
}

/// What a report of one run consists of.
pub struct Report {
    /// For a terminal.
    pub summary: String,
    /// The page.
    pub html: String,
    /// Other files, by name.
    pub files: Vec<(&'static str, String)>,
}

impl Report {
    /// The report of a run folder, complete or not; `recipes` are the known ones.
    pub fn of(folder: &Path, recipes: &[RecipeInfo]) -> Result<Self> {
        let results = Results::read(folder, recipes)?;
        let summary = tables::summary(&results);
        let files = vec![
            ("report.txt", summary.clone()),
            ("report.csv", csv::report(&results)),
            ("summary.csv", csv::summary(&results)),
            ("measures.csv", csv::measures(&results)),
            ("comparisons.csv", csv::comparisons(&results)),
            ("figure.svg", plot::figure(&results)),
        ];
        Ok(Self { summary, html: html::page(&[results])?, files })
    }

    /// Writes it into the run's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        self.write_tables(folder)?;
        write_whole(&folder.join("report.html"), self.html.as_bytes())
    }

    /// All but the page.
    pub fn write_tables(&self, folder: &Path) -> Result<()> {
        self.files.iter().try_for_each(|(name, text)| write_whole(&folder.join(name), text.as_bytes()))
    }
}

/// One page over several runs, arms labelled by run.
pub fn overlay(folders: &[PathBuf], recipes: &[RecipeInfo]) -> Result<String> {
    html::page(&folders.iter().map(|f| Results::read(f, recipes)).collect::<Result<Vec<_>>>()?)
}
