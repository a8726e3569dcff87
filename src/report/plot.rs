//! Accuracy over iterations as SVG, in the page and as a file of its own for documents: the paper's
//! Figure 1.

use super::Results;
use super::html::escape;
use super::scores::{Mean, Method, own_method};

/// Of the lines' own field.
const FIELD: (f64, f64) = (508.0, 332.0);
/// Left, top, bottom; the right one holds the labels.
const MARGIN: (f64, f64, f64) = (52.0, 44.0, 44.0);
/// Between two labels.
const LABEL: f64 = 17.0;
/// Okabe and Ito's colours, which people with any kind of colour vision tell apart; line patterns and marks repeat what
/// colours say.
pub const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];
/// Under a class of its own: the page has other drawings.
const STYLE: &str = "<style>.accuracy text{fill:#24292f}.accuracy .grid{stroke:#d0d7de}.accuracy .ground{fill:#fff}\
@media(prefers-color-scheme:dark){.accuracy text{fill:#e6edf3}.accuracy .grid{stroke:#373e47}\
.accuracy .ground{fill:#0d1117}}</style>";
const DASHES: [&str; 4] = ["", "7 4", "2 3", "9 3 2 3"];

/// A line: an arm by its own method.
struct Line<'a> {
    label: String,
    /// Drawn with its interval. Of many arms only those of the primary comparison are: bands of all would hide each
    /// other.
    has_band: bool,
    points: Vec<&'a Mean>,
}

/// The figure of a run: every arm by its own method, on the questions that were asked at most
/// iterations. Empty of lines if nothing was measured.
pub fn figure(results: &Results) -> String {
    let split = split(results);
    let lines = lines(results, split);
    let field = Field::of(&lines);
    let all = || lines.iter().flat_map(|l| l.points.iter());
    let longest = lines.iter().map(|l| l.label.chars().count()).max().unwrap_or(0);
    let (left, above, below) = MARGIN;
    let (width, height) = (left + FIELD.0 + 40.0 + 7.5 * longest as f64, above + field.high + below);
    let questions = all().map(|m| m.questions).max().unwrap_or(0);
    let seeds = numbers(all().map(|m| m.seeds.len()));
    let intervals = if lines.iter().all(|l| l.has_band) { "" } else { " of the primary pair" };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         class=\"accuracy\" aria-label=\"Accuracy over iterations\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\">\n{STYLE}\n<rect class=\"ground\" width=\"100%\" height=\"100%\" rx=\"8\"/>\n\
         <text x=\"{left}\" y=\"24\" font-weight=\"600\">Accuracy on {questions} {split} questions, %, mean of \
         {seeds}, 95 % interval{intervals}</text>\n"
    );
    out += &field.axes(height);
    lines.iter().enumerate().for_each(|(n, line)| out += &field.line(n, line));
    out += &field.names(&lines);
    out + "</svg>\n"
}

/// Every arm that was measured on a split.
fn lines<'a>(results: &'a Results, split: &str) -> Vec<Line<'a>> {
    let pair = ["arm", "against"].map(|key| results.run.primary()?.get(key)?.as_str());
    let is_crowded = results.run.arms.len() > COLOURS.len();
    let mut lines: Vec<Line<'_>> = Vec::new();
    for arm in &results.run.arms {
        let Some(method) = own_method(&results.means, arm) else { continue };
        let of = |m: &&Mean| m.arm == arm.name && m.split == split && m.method == method;
        let points: Vec<&Mean> = results.means.iter().filter(of).collect();
        let how = if method == Method::Final { String::new() } else { format!(" ({method})") };
        if !points.is_empty() {
            let has_band = !is_crowded || pair.contains(&Some(&arm.name));
            lines.push(Line { label: format!("{}{how}", arm.name), has_band, points });
        }
    }
    lines
}

/// Where iterations and accuracies lie in the drawing.
struct Field {
    /// The last iteration.
    last: u64,
    /// Accuracies at its lower and upper edge, and between two lines of the grid.
    bottom: f64,
    top: f64,
    step: f64,
    high: f64,
}

impl Field {
    fn of(lines: &[Line<'_>]) -> Self {
        let ends = |line: &Line<'_>, m: &Mean| match m.interval.filter(|_| line.has_band) {
            Some(interval) => (interval.low, interval.high),
            None => (m.value, m.value),
        };
        let all = || lines.iter().flat_map(|l| l.points.iter().map(|m| ends(l, m)));
        let low = all().map(|e| e.0).fold(1.0, f64::min);
        let high = all().map(|e| e.1).fold(0.0, f64::max);
        let (low, high) = match low < high {
            true => (low, high),
            false => ((low - 0.05).max(0.0), (high + 0.05).min(1.0)),
        };
        let step = [0.01, 0.02, 0.05, 0.1, 0.2].into_iter().find(|s| (high - low) / s <= 6.0).unwrap_or(0.2);
        let last = lines.iter().flat_map(|l| l.points.iter().map(|m| m.iteration)).max();
        Self {
            last: last.unwrap_or(0).max(1),
            bottom: (low / step).floor() * step,
            top: (high / step).ceil() * step,
            step,
            high: FIELD.1.max(LABEL * lines.len() as f64),
        }
    }

    fn x(&self, i: u64) -> f64 {
        MARGIN.0 + FIELD.0 * i as f64 / self.last as f64
    }

    fn y(&self, accuracy: f64) -> f64 {
        MARGIN.1 + self.high * (self.top - accuracy) / (self.top - self.bottom)
    }

    fn axes(&self, height: f64) -> String {
        let (left, right, below) = (MARGIN.0, MARGIN.0 + FIELD.0, MARGIN.1 + self.high + 20.0);
        let mut out = String::new();
        let ticks = ((self.top - self.bottom) / self.step).round() as usize;
        for v in (0..=ticks).map(|t| self.bottom + self.step * t as f64) {
            let (y, label) = (self.y(v), 100.0 * v);
            out += &format!(
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label:.0}</text>\n",
                left - 8.0,
                y + 4.0
            );
        }
        let middle = |x: f64, y: f64, text: &str| {
            format!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>\n")
        };
        out.extend((0..=self.last).map(|i| middle(self.x(i), below, &i.to_string())));
        out + &middle(left + FIELD.0 / 2.0, height - 8.0, "iteration")
    }

    fn line(&self, n: usize, line: &Line<'_>) -> String {
        let colour = COLOURS[n % COLOURS.len()];
        let dash = DASHES[n / COLOURS.len() % DASHES.len()];
        let at = |i: u64, v: f64| format!("{:.1},{:.1}", self.x(i), self.y(v));
        let mut out = String::new();
        let band: Vec<_> =
            line.points.iter().filter_map(|m| m.interval.map(|i| (m.iteration, i.low, i.high))).collect();
        if line.has_band && band.len() > 1 {
            let (up, down) = (band.iter().map(|b| at(b.0, b.2)), band.iter().rev().map(|b| at(b.0, b.1)));
            let around = up.chain(down).collect::<Vec<_>>().join(" ");
            out += &format!("<polygon points=\"{around}\" fill=\"{colour}\" opacity=\".13\"/>\n");
        }
        let mut points: Vec<String> = line.points.iter().map(|m| at(m.iteration, m.value)).collect();
        // What is not trained stays where it is.
        if let [only] = line.points[..]
            && only.iteration == 0
        {
            points.push(at(self.last, only.value));
        }
        out += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{}\" \
             stroke-dasharray=\"{dash}\"/>\n",
            points.join(" "),
            if line.has_band { 2.0 } else { 1.2 }
        );
        out.extend(line.points.iter().map(|m| mark(n, self.x(m.iteration), self.y(m.value), colour)));
        out
    }

    /// Labels beside the ends of their lines, moved apart where they would touch.
    fn names(&self, lines: &[Line<'_>]) -> String {
        let end = |line: &Line<'_>| self.y(line.points[line.points.len() - 1].value);
        let mut labels: Vec<(f64, usize)> = lines.iter().map(end).zip(0..).collect();
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut at: Vec<f64> = Vec::new();
        for (wanted, _) in &labels {
            at.push((wanted + 4.0).max(at.last().map_or(MARGIN.1, |last| last + LABEL)));
        }
        for i in (0..at.len()).rev() {
            let most = at.get(i + 1).map_or(MARGIN.1 + self.high, |next| next - LABEL);
            at[i] = at[i].min(most);
        }
        let x = MARGIN.0 + FIELD.0 + 14.0;
        let name = |((_, n), at): ((f64, usize), f64)| {
            let (mark, label) = (mark(n, x, at - 4.0, COLOURS[n % COLOURS.len()]), escape(&lines[n].label));
            format!("{mark}<text x=\"{}\" y=\"{at:.1}\">{label}</text>\n", x + 11.0)
        };
        labels.into_iter().zip(at).map(name).collect()
    }
}

/// `1 seed`, `3 seeds`, or `3–10 seeds` where arms have different numbers of them.
pub fn numbers(seeds: impl Iterator<Item = usize>) -> String {
    let (least, most) = seeds.fold((usize::MAX, 0), |(least, most), n| (least.min(n), most.max(n)));
    match (least, most) {
        (_, 1) => "1 seed".into(),
        (least, most) if least < most => format!("{least}–{most} seeds"),
        (_, most) => format!("{most} seeds"),
    }
}

/// The split that shows most iterations; of those the one where results count most.
fn split(results: &Results) -> &'static str {
    let iterations = |split: &str| {
        let mut all: Vec<u64> =
            results.means.iter().filter(|m| m.split == split).map(|m| m.iteration).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    };
    if iterations("test") >= iterations("dev") && iterations("test") > 0 { "test" } else { "dev" }
}

/// A mark of its own for each line.
fn mark(n: usize, x: f64, y: f64, colour: &str) -> String {
    let r = 4.0;
    match n % 4 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\" fill=\"{colour}\"/>\n"),
        1 => format!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\" fill=\"{colour}\"/>\n",
            x - 3.5,
            y - 3.5
        ),
        2 => format!("<path d=\"M{x:.1} {:.1}l4.6 8h-9.2z\" fill=\"{colour}\"/>\n", y - 5.0),
        _ => format!("<path d=\"M{x:.1} {:.1}l5 5-5 5-5-5z\" fill=\"{colour}\"/>\n", y - 5.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_counted_as_they_are() {
        let of = |seeds: &[usize]| numbers(seeds.iter().copied());
        assert_eq!((of(&[1, 1]), of(&[3, 3])), ("1 seed".to_string(), "3 seeds".to_string()));
        assert_eq!((of(&[3, 10, 3]), of(&[1, 3])), ("3–10 seeds".to_string(), "1–3 seeds".to_string()));
    }

    #[test]
    fn every_line_has_a_mark_of_its_own() {
        let kinds: Vec<String> = (0..4).map(|n| mark(n, 10.0, 10.0, "red")).collect();
        for (i, kind) in kinds.iter().enumerate() {
            assert!(!kinds[..i].contains(kind), "{kind}");
        }
    }
}
