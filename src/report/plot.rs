//! Accuracy over iterations as an SVG file of its own, for documents: the paper's Figure 1.

use std::fmt::Write;

use super::Results;
use super::html::escape;
use super::scores::{Mean, Method, own_method};

/// Of the lines' own field.
const FIELD: (f64, f64) = (508.0, 332.0);
/// Left, top, bottom; the right one holds the labels.
const MARGIN: (f64, f64, f64) = (52.0, 44.0, 44.0);
/// Between two labels.
const LABEL: f64 = 17.0;
/// Okabe and Ito's colours, which people with any kind of colour vision tell apart; line patterns and marks repeat what colours say.
pub const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];
const DASHES: [&str; 4] = ["", "7 4", "2 3", "9 3 2 3"];

/// A line: an arm by its own method.
struct Line<'a> {
    label: String,
    /// Drawn with its interval. Of many arms only those of the primary comparison are: bands of all would hide each other.
    has_band: bool,
    points: Vec<&'a Mean>,
}

/// The figure of a run: every arm by its own method, on the questions that were asked at most iterations. Empty of lines if nothing was measured.
pub fn figure(results: &Results) -> String {
    let split = split(results);
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
    let all = || lines.iter().flat_map(|l| l.points.iter());
    let last = all().map(|m| m.iteration).max().unwrap_or(0).max(1);
    let drawn = || lines.iter().flat_map(|l| l.points.iter().map(|m| (m, m.interval.filter(|_| l.has_band))));
    let low = drawn().map(|(m, interval)| interval.map_or(m.value, |i| i.low)).fold(1.0, f64::min);
    let high = drawn().map(|(m, interval)| interval.map_or(m.value, |i| i.high)).fold(0.0, f64::max);
    let (low, high) = if low < high { (low, high) } else { ((low - 0.05).max(0.0), (high + 0.05).min(1.0)) };
    let step = [0.01, 0.02, 0.05, 0.1, 0.2].into_iter().find(|s| (high - low) / s <= 6.0).unwrap_or(0.2);
    let (bottom, top) = ((low / step).floor() * step, (high / step).ceil() * step);

    let (left, above, below) = MARGIN;
    let longest = lines.iter().map(|l| l.label.chars().count()).max().unwrap_or(0);
    let (wide, high) = (FIELD.0, FIELD.1.max(LABEL * lines.len() as f64));
    let (width, height) = (left + wide + 40.0 + 7.5 * longest as f64, above + high + below);
    let x = |i: u64| left + wide * i as f64 / last as f64;
    let y = |v: f64| above + high * (top - v) / (top - bottom);
    let questions = all().map(|m| m.questions).max().unwrap_or(0);
    let seeds = numbers(all().map(|m| m.seeds.len()));
    let intervals = if lines.iter().all(|l| l.has_band) { "" } else { " of the primary pair" };
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"figure-title\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title id=\"figure-title\">Accuracy over iterations</title>\n\
         <style>text{{fill:#24292f}}.grid{{stroke:#d0d7de}}.ground{{fill:#fff}}@media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}\
         .grid{{stroke:#373e47}}.ground{{fill:#0d1117}}}}</style>\n<rect class=\"ground\" width=\"100%\" height=\"100%\" rx=\"8\"/>\n"
    );
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"24\" font-weight=\"600\">Accuracy on {questions} {split} questions, %, mean of {seeds}, \
         95 % interval{intervals}</text>"
    );
    let ticks = ((top - bottom) / step).round() as usize;
    for t in 0..=ticks {
        let v = bottom + step * t as f64;
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{}\" y1=\"{:.1}\" y2=\"{:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{:.0}</text>",
            left + wide,
            y(v),
            y(v),
            left - 8.0,
            y(v) + 4.0,
            100.0 * v
        );
    }
    for i in 0..=last {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{i}</text>",
            x(i),
            above + high + 20.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">iteration</text>",
        left + wide / 2.0,
        height - 8.0
    );
    let mut labels: Vec<(f64, usize)> = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let dash = DASHES[n / COLOURS.len() % DASHES.len()];
        let band: Vec<(u64, f64, f64)> =
            line.points.iter().filter_map(|m| m.interval.map(|i| (m.iteration, i.low, i.high))).collect();
        if line.has_band && band.len() > 1 {
            let up = band.iter().map(|b| format!("{:.1},{:.1}", x(b.0), y(b.2)));
            let down = band.iter().rev().map(|b| format!("{:.1},{:.1}", x(b.0), y(b.1)));
            let around: Vec<String> = up.chain(down).collect();
            let _ =
                writeln!(out, "<polygon points=\"{}\" fill=\"{colour}\" opacity=\".13\"/>", around.join(" "));
        }
        let mut points: Vec<String> =
            line.points.iter().map(|m| format!("{:.1},{:.1}", x(m.iteration), y(m.value))).collect();
        // What is not trained stays where it is.
        let end = line.points[line.points.len() - 1];
        if line.points.len() == 1 && end.iteration == 0 {
            points.push(format!("{:.1},{:.1}", x(last), y(end.value)));
        }
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{}\" stroke-dasharray=\"{dash}\"/>",
            points.join(" "),
            if line.has_band { 2.0 } else { 1.2 }
        );
        for m in &line.points {
            out.push_str(&mark(n, x(m.iteration), y(m.value), colour));
        }
        labels.push((y(end.value), n));
    }
    // Labels beside the ends of their lines, moved apart where they would touch.
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut at: Vec<f64> = Vec::new();
    for (wanted, _) in &labels {
        at.push((wanted + 4.0).max(at.last().map_or(above, |last| last + LABEL)));
    }
    for i in (0..at.len()).rev() {
        let most = at.get(i + 1).map_or(above + high, |next| next - LABEL);
        at[i] = at[i].min(most);
    }
    for ((_, n), at) in labels.into_iter().zip(at) {
        let x = left + wide + 14.0;
        out.push_str(&mark(n, x, at - 4.0, COLOURS[n % COLOURS.len()]));
        let _ = writeln!(out, "<text x=\"{}\" y=\"{at:.1}\">{}</text>", x + 11.0, escape(&lines[n].label));
    }
    out + "</svg>\n"
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
