//! Reports of run folders: the same numbers in every file, and a page that no text can break.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::report_run::*;
use crate::common::shell::*;
use serde_json::Value;

/// Writes a folder to look at: REPORT_FAKE_RUN=DIR cargo test --test commands look -- --ignored
#[test]
#[ignore = "makes a folder for the eye, tests nothing"]
fn a_folder_to_look_at() {
    let folder = std::env::var("REPORT_FAKE_RUN").expect("REPORT_FAKE_RUN names a folder");
    Fake { questions: 200, ..FAKE }.write(Path::new(&folder));
}

const SMALL: Fake = Fake { iterations: 2, ..FAKE };

fn made(fake: Fake) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    fake.write(&dir.path().join("run"));
    let out = succeed(dir.path(), &["report", "run"]);
    (dir, out)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The data of a page.
fn data(html: &str) -> Value {
    let start = "<script type=\"application/json\" id=\"data\">";
    let json = html.split_once(start).unwrap().1.split_once("</script>").unwrap().0;
    serde_json::from_str(json).unwrap()
}

/// Rows of a CSV without quoted fields, by column.
fn csv(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            assert_eq!(fields.len(), head.len(), "{line}");
            head.iter().map(|h| h.to_string()).zip(fields.into_iter().map(String::from)).collect()
        })
        .collect()
}

/// The rows of a terminal table, by column title.
fn terminal(text: &str, title: &str) -> Vec<BTreeMap<String, String>> {
    let after = &text[text.find(title).unwrap_or_else(|| panic!("no {title}: {text}"))..];
    let mut lines = after.lines().skip(2);
    let split = |line: &str| -> Vec<String> {
        line.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(String::from).collect()
    };
    let head = split(lines.next().unwrap());
    let rows = lines.skip(1).take_while(|l| !l.starts_with('─'));
    rows.map(|l| head.iter().cloned().zip(split(l)).collect()).collect()
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn is(text: &str, value: &Value) -> bool {
    text.parse().ok() == value.as_u64()
}

#[test]
fn every_file_says_the_same() {
    let (dir, out) = made(SMALL);
    let run = dir.path().join("run");
    let page = data(&read(&run.join("report.html")));
    let lanes = csv(&read(&run.join("report.csv")));
    let summary = csv(&read(&run.join("summary.csv")));
    assert_eq!(read(&run.join("report.txt")), out);

    let mut compared = 0;
    for mean in page["means"].as_array().unwrap() {
        let arm = page["arms"][mean["a"].as_u64().unwrap() as usize]["label"].as_str().unwrap();
        let of_mean = |row: &&BTreeMap<String, String>| {
            row["arm"] == arm
                && row["split"] == mean["s"].as_str().unwrap()
                && is(&row["iteration"], &mean["i"])
                && row["method"] == mean["m"].as_str().unwrap()
        };
        // Over seeds: page and summary.csv.
        let row = summary.iter().filter(|r| r["measure"] == "accuracy").find(of_mean).unwrap();
        assert_eq!(number(&row["value"]), mean["v"].as_f64().unwrap());
        for (column, key) in [("low", "lo"), ("high", "hi")] {
            match mean[key].as_f64() {
                Some(v) => assert_eq!(number(&row[column]), v),
                None => {
                    assert_eq!((row[column].as_str(), mean["m"].as_str()), ("", Some("majority-at-budget")))
                }
            }
        }
        // Each seed: page and report.csv.
        let seeds = mean["seeds"].as_array().unwrap();
        let rows: Vec<_> = lanes.iter().filter(of_mean).collect();
        assert_eq!((rows.len(), seeds.len()), (3, 3));
        for seed in seeds {
            let row = rows.iter().find(|r| is(&r["seed"], &seed[0])).unwrap();
            assert_eq!(number(&row["accuracy"]), seed[1].as_f64().unwrap());
        }
        // And the terminal.
        let title = format!("accuracy on 40 {} questions", mean["s"].as_str().unwrap());
        let column = match mean["m"].as_str().unwrap() {
            "first-vote" => "vote 1",
            "final-vote" => "final vote",
            "majority" => "majority 3",
            "majority-at-budget" => continue,
            other => other,
        };
        let shown = terminal(&out, &title);
        let row = shown
            .iter()
            .find(|r| r["arm"].trim_end_matches(" *") == arm && is(&r["iter"], &mean["i"]))
            .unwrap();
        let of = |key: &str| mean[key].as_f64().unwrap();
        let expected = format!("{:.1} ±{:.1}", 100.0 * of("v"), 100.0 * ((of("hi") - of("lo")) / 2.0));
        match row.get(column) {
            Some(cell) => assert_eq!(*cell, expected),
            // A terminal has no room for every method, and says so.
            None => assert!(out.contains("no room here") && column == "greedy", "{column}"),
        }
        compared += 1;
    }
    assert!(compared > 60, "{compared}");

    // The primary comparison: page, comparisons.csv, terminal.
    let rows = csv(&read(&run.join("comparisons.csv")));
    let primary = &page["primary"][0];
    assert_eq!((rows[0]["kind"].as_str(), rows.len()), ("primary", 4));
    for (column, key) in
        [("difference", "v"), ("low", "lo"), ("high", "hi"), ("p", "p"), ("detectable", "detectable")]
    {
        assert_eq!(number(&rows[0][column]), primary[key].as_f64().unwrap(), "{column}");
    }
    for row in &rows[1..] {
        assert_eq!((row["kind"].as_str(), row["arm"].as_str()), ("secondary", "multiagent"));
        assert!(row["against"] != "single-agent", "the primary pair is no secondary one");
        assert!(number(&row["p_holm"]) >= number(&row["p"]));
    }
    let points = |key: &str| format!("{:+.1}", 100.0 * primary[key].as_f64().unwrap());
    let line = format!("difference {} [{}, {}] points", points("v"), points("lo"), points("hi"));
    assert!(out.contains(&line), "{line}: {out}");
    assert!(out.contains("final vote of multiagent at iteration 2"), "{out}");

    // Measures: the mean of measures.csv is that of the page.
    let measures = csv(&read(&run.join("measures.csv")));
    let nll =
        page["measures"].as_array().unwrap().iter().find(|m| m["n"] == "nll" && m["i"] == 2 && m["a"] == 1);
    let of_lane = measures
        .iter()
        .filter(|r| r["arm"] == "single-agent" && r["measure"] == "nll" && r["iteration"] == "2");
    let values: Vec<f64> = of_lane.map(|r| number(&r["value"])).collect();
    assert_eq!(values.len(), 3);
    assert!((values.iter().sum::<f64>() / 3.0 - nll.unwrap()["v"].as_f64().unwrap()).abs() < 2e-6);
    assert!(out.lines().all(|l| l.chars().count() <= 80), "{out}");

    // Arms whose training saw right answers are marked.
    assert!(out.contains("star *") && !out.contains("agent *"), "{out}");
    let marked = |a: usize| page["arms"][a]["labels"].as_bool();
    assert_eq!((marked(0), marked(3)), (Some(false), Some(true)));

    // What a phase cost: of the records, means over seeds.
    let costs = page["costs"].as_array().unwrap();
    let debate = costs.iter().find(|c| c["a"] == 0 && c["i"] == 1 && c["phase"] == "debate").unwrap();
    assert_eq!(
        (debate["flop"].as_f64(), debate["s"].as_f64()),
        (Some(2.0 * 800_000.0 * 250_000.0), Some(12.5))
    );
    assert_eq!(debate["training"], true);
    assert!(costs.iter().any(|c| c["phase"] == "dev" && c["training"] == false));
}

#[test]
fn arms_that_cannot_be_compared_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    SMALL.write(&run);
    let mut splits: Value = serde_json::from_str(&read(&run.join("splits.json"))).unwrap();
    splits["star"]["test"][0] = "another".into();
    std::fs::write(run.join("splits.json"), splits.to_string()).unwrap();
    let config = read(&run.join("config.toml"));
    std::fs::write(run.join("config.toml"), config.replace("\"single-agent\"\nmethod", "\"nobody\"\nmethod"))
        .unwrap();
    let out = succeed(dir.path(), &["report", "run"]);
    assert!(out.contains("not yet: there is no arm `nobody`"), "{out}");
    let page = data(&read(&run.join("report.html")));
    let why = page["uncompared"][0]["why"].as_str().unwrap();
    assert!(why.contains("multiagent and star were asked different questions"), "{why}");
    assert_eq!(page["secondary"].as_array().unwrap().len(), 3);
}

#[test]
fn an_accuracy_counted_by_hand() {
    let (dir, _) = made(SMALL);
    let run = dir.path().join("run");
    let lanes = csv(&read(&run.join("report.csv")));
    let summary = csv(&read(&run.join("summary.csv")));
    let (mut right, mut asked) = (0, 0);
    for record in read_lines(&run.join("metrics.jsonl")) {
        if record["arm"] != "multiagent" || record["name"] != "test" || record["iteration"] != 2 {
            continue;
        }
        let vote = record["outcomes"]["vote"][1].as_str().unwrap();
        let of_seed = vote.chars().filter(|c| *c == '1').count();
        let row = lanes.iter().find(|r| {
            let key = [&r["arm"], &r["seed"], &r["iteration"], &r["split"], &r["method"], &r["round"]];
            key == ["multiagent", &record["seed"].to_string(), "2", "test", "final-vote", "2"]
        });
        assert!((number(&row.unwrap()["accuracy"]) - of_seed as f64 / 40.0).abs() < 1e-6);
        (right, asked) = (right + of_seed, asked + vote.len());
    }
    assert_eq!(asked, 120);
    let row = summary.iter().find(|r| {
        [&r["arm"], &r["iteration"], &r["split"], &r["method"]] == ["multiagent", "2", "test", "final-vote"]
    });
    let row = row.unwrap();
    assert!((number(&row["value"]) - right as f64 / asked as f64).abs() < 1e-6, "{row:?}");
    assert!(number(&row["low"]) < number(&row["value"]) && number(&row["value"]) < number(&row["high"]));
}

#[test]
fn no_text_of_a_model_becomes_markup() {
    let (dir, _) = made(Fake { hostile: true, iterations: 1, ..FAKE });
    let html = read(&dir.path().join("run/report.html"));
    assert!(!html.contains("<img"), "a response became an element");
    assert_eq!(html.matches("</script").count(), 2, "the data's own and the program's own");
    assert!(!html.contains("<!--"));
    let page = data(&html);
    let text = page["debates"][0]["rounds"][0]["turns"][0]["text"].as_str().unwrap();
    assert!(text.ends_with(HOSTILE), "and it is there, whole: {text}");
    // The program writes text nodes only.
    for name in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
        assert!(!html.contains(name), "{name}");
    }
}

#[test]
fn the_page_needs_nothing_else() {
    let (dir, _) = made(Fake { iterations: 1, ..FAKE });
    let html = read(&dir.path().join("run/report.html"));
    for name in [" src=", "@import", "url(", "fetch(", "XMLHttpRequest", "<link", "{{"] {
        assert!(!html.contains(name), "{name}");
    }
    for (at, _) in html.match_indices("http") {
        let rest = &html[at..(at + 40).min(html.len())];
        assert!(rest.starts_with("http://www.w3.org/") || rest.starts_with("http-equiv"), "{rest}");
    }
    assert!(html.contains("default-src 'none'"));
}

#[test]
fn debates_stand_side_by_side_with_their_outcomes() {
    let (dir, _) = made(SMALL);
    let run = dir.path().join("run");
    let page = data(&read(&run.join("report.html")));
    let lane = &page["lanes"][0];
    assert_eq!(
        (lane["split"].as_str(), lane["i"].as_u64(), lane["questions"].as_u64()),
        (Some("test"), Some(2), Some(40))
    );
    let of = |i: u64| {
        read_lines(&run.join(format!("transcripts/multiagent/seed-0/iteration-{i}/test-debate.jsonl")))
    };
    let (before, after) = (of(0), of(2));
    let gained = before.iter().zip(&after).filter(|(b, a)| b["right"] == false && a["right"] == true).count();
    assert_eq!(lane["right"].as_u64(), Some(gained as u64));
    for pair in lane["pairs"].as_array().unwrap() {
        let side = |n: usize| &page["debates"][pair[n].as_u64().unwrap() as usize];
        assert_eq!(side(0)["question"], side(1)["question"]);
        for (side, all) in [(side(0), &before), (side(1), &after)] {
            let record = all.iter().find(|r| r["question"] == side["question"]).unwrap();
            assert_eq!(side["right"], record["right"]);
            for (m, round) in side["rounds"].as_array().unwrap().iter().enumerate() {
                for (n, letter) in round["o"].as_str().unwrap().chars().enumerate() {
                    let turn = &record["rounds"][m]["turns"][n];
                    assert_eq!(round["turns"][n]["text"], turn["response"]["text"]);
                    assert_eq!(letter == '1', turn["answer"] == record["reference"], "{letter} {turn}");
                }
            }
        }
    }
    // Lanes share what they debated before training.
    let first = |n: usize| page["lanes"][n]["pairs"][0][0].as_u64().unwrap();
    let shared = (0..2)
        .flat_map(|n| page["lanes"][n]["pairs"].as_array().unwrap().iter().map(|p| p[0].as_u64().unwrap()));
    let mut places: Vec<u64> = shared.collect();
    let all = places.len();
    places.sort_unstable();
    places.dedup();
    assert!(places.len() < all, "{} {}", first(0), first(1));
}

#[test]
fn folders_of_older_versions_are_reported_with_what_they_have() {
    let (dir, out) = made(Fake { new_fields: false, iterations: 1, ..FAKE });
    assert!(out.contains("± standard error") && !out.contains("95 %"), "{out}");
    let page = data(&read(&dir.path().join("run/report.html")));
    let absent: Vec<&str> = page["absent"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert!(absent.iter().any(|a| a.starts_with("outcomes")), "{absent:?}");
    for what in ["diversity", "compute", "times"] {
        assert!(absent.contains(&what), "{what}: {absent:?}");
    }
    assert!(page["primary"][0]["missing"].as_str().unwrap().contains("older version"));
    assert!(page["means"].as_array().unwrap().iter().all(|m| m["lo"].is_null() && m["se"].is_number()));
}

#[test]
fn a_run_that_is_not_complete_says_how_far_it_is() {
    let (dir, out) = made(Fake { stop_at: Some(1), ..SMALL });
    assert!(out.lines().all(|l| l.chars().count() <= 80), "{out}");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&out).contains("not complete: 14 of 15 lanes"), "{out}");
    assert!(words(&out).contains("star/seed-2 has measured iteration 1"), "{out}");
    let page = data(&read(&dir.path().join("run/report.html")));
    assert_eq!(page["runs"][0]["unfinished"][0], serde_json::json!(["star/seed-2", 1]));
    let (dir, out) = made(Fake { stop_at: None, ..SMALL });
    assert!(!out.contains("not complete"), "{out}");
    // Test questions were asked before training only: no table takes that for a result of training.
    let all = read(&dir.path().join("run/metrics.jsonl"));
    let early: String =
        all.lines().filter(|l| !l.contains("\"iteration\":2")).map(|l| format!("{l}\n")).collect();
    std::fs::write(dir.path().join("run/metrics.jsonl"), early).unwrap();
    let out = succeed(dir.path(), &["report", "run"]);
    assert!(out.lines().all(|l| l.chars().count() <= 80), "{out}");
    assert!(
        out.contains("primary comparison: not yet") && words(&out).contains("95 % interval, dev questions"),
        "{out}"
    );
    let page = data(&read(&dir.path().join("run/report.html")));
    let columns = page["tables"][0]["columns"].as_array().unwrap();
    assert!(columns.iter().all(|c| c["s"] == "dev" && c["i"] == 1), "{columns:?}");
    // Nothing at all.
    std::fs::write(dir.path().join("run/metrics.jsonl"), "").unwrap();
    let out = succeed(dir.path(), &["report", "run"]);
    assert!(out.contains("nothing has been measured yet") || out.contains("not yet"), "{out}");
}

#[test]
fn runs_are_laid_over_one_another() {
    let dir = tempfile::tempdir().unwrap();
    SMALL.write(&dir.path().join("one"));
    Fake { iterations: 1, primary: false, ..SMALL }.write(&dir.path().join("two"));
    let out = succeed(dir.path(), &["report", "one", "two"]);
    assert!(out.starts_with("one\n") && out.contains("\n\ntwo\n"), "{out}");
    assert!(dir.path().join("one/report.html").exists() && dir.path().join("two/report.csv").exists());
    let page = data(&read(&dir.path().join("report.html")));
    assert_eq!(page["arms"].as_array().unwrap().len(), 10);
    assert_eq!(page["arms"][5]["label"], "two: multiagent");
    let rows = page["diff"][0]["rows"].as_array().unwrap();
    let value =
        |key: &str| &rows.iter().find(|r| r["key"] == key).unwrap_or_else(|| panic!("{rows:?}"))["values"];
    assert_eq!(*value("run.iterations"), serde_json::json!(["2", "1"]));
    assert_eq!(*value("report.primary.against"), serde_json::json!(["\"single-agent\"", null]));
    assert_eq!(rows.len(), 5, "and nothing else differs: {rows:?}");
    // The second run's numbers are its own.
    let alone = data(&read(&dir.path().join("two/report.html")));
    let of = |page: &Value, a: u64| -> Vec<Value> {
        page["means"].as_array().unwrap().iter().filter(|m| m["a"] == a).map(|m| m["v"].clone()).collect()
    };
    assert_eq!(of(&page, 5), of(&alone, 0));

    let again = fail(dir.path(), &["report", "one", "two"], 1);
    assert!(again.contains("report.html") && again.contains("--force"), "{again}");
    succeed(dir.path(), &["report", "one", "two", "--force"]);
    let taken = fail(dir.path(), &["report", "one", "--output", "report.html"], 1);
    assert!(taken.contains("exists already"), "{taken}");
    assert!(fail(dir.path(), &["report", "one", "--output", "two"], 1).contains("is a folder"));
    assert!(fail(dir.path(), &["report", "one", "nowhere", "--force"], 1).contains("no such run folder"));
    let html = succeed(dir.path(), &["report", "one", "--output", "-"]);
    assert_eq!(html, read(&dir.path().join("one/report.html")), "and a report made again is the same");
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    SMALL.write(&run);
    let good = read(&run.join("metrics.jsonl"));
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut lines = lines(&good);
        change(&mut lines[0]);
        let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
        std::fs::write(run.join("metrics.jsonl"), text).unwrap();
        fail(dir.path(), &["report", "run"], 1)
    };
    let e = broken(&|r| r["debate"]["rounds"][1]["accuracy"] = 0.99.into());
    assert!(e.contains("metrics.jsonl: dev of multiagent, seed 0, iteration 0") && e.contains("0.99"), "{e}");
    let e = broken(&|r| r["outcomes"]["majority"] = "101".into());
    assert!(e.contains("found 3 questions, expected 40"), "{e}");
    let e = broken(&|r| r["outcomes"]["vote"][0] = "x".repeat(40).into());
    assert!(e.contains("found `x`"), "{e}");
    let e = broken(&|r| r["seed"] = "one".into());
    assert!(e.contains("metrics.jsonl:1: seed"), "{e}");
    let e = broken(&|r| r["greedy"]["parse_rte"] = 1.into());
    assert!(e.contains("metrics.jsonl:1: dev: greedy.parse_rte: unknown field"), "{e}");
    std::fs::write(run.join("metrics.jsonl"), "{\n").unwrap();
    assert!(fail(dir.path(), &["report", "run"], 1).contains("metrics.jsonl:1"));
}

#[test]
fn a_folder_of_another_schema_is_refused_and_one_without_is_read() {
    let (dir, out) = made(SMALL);
    let path = dir.path().join("run/metrics.jsonl");
    let older = read(&path);
    assert!(!older.contains("schema"));
    std::fs::write(&path, format!("{{\"schema\":1}}\n{older}")).unwrap();
    assert_eq!(succeed(dir.path(), &["report", "run"]), out);
    std::fs::write(&path, format!("{{\"schema\":2}}\n{older}")).unwrap();
    for command in ["report", "info"] {
        let e = fail(dir.path(), &[command, "run"], 1);
        assert!(e.contains("metrics.jsonl:1: schema: found 2, expected 1"), "{e}");
    }
}

#[test]
fn tables_of_the_results_page_come_from_the_results() {
    let python = std::process::Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|o| o.status.success()) {
        println!("skipped: no python3");
        return;
    }
    let (dir, _) = made(SMALL);
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("docs")).unwrap();
    let tool = |args: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/results.py");
        let output =
            std::process::Command::new("python3").arg(script).arg("--root").arg(&root).args(args).output();
        let output = output.unwrap();
        (output.status.success(), stderr(&output))
    };
    let page = root.join("docs/results.md");
    std::fs::write(&page, "# Project\n").unwrap();
    assert!(tool(&["--check"]).0, "nothing to do");
    let run = dir.path().join("run");
    assert!(tool(&["take", run.to_str().unwrap(), "small", "--command", "colloquy run small"]).0);
    assert!(tool(&["--check"]).1.contains("has no marker"));
    std::fs::write(&page, "# Project\n<!-- results: small -->\nold\n<!-- end of results: small -->\nmore\n")
        .unwrap();
    assert!(tool(&["--check"]).1.contains("not what docs/results gives"));
    assert!(tool(&[]).0 && tool(&["--check"]).0);
    let text = read(&page);
    assert!(
        text.starts_with("# Project\n<!-- results: small -->\n") && text.ends_with("-->\nmore\n"),
        "{text}"
    );
    assert!(
        !text.contains("\nold\n") && text.contains("    colloquy run small\n\nCommit 0123456789ab"),
        "{text}"
    );
    // The numbers are those of summary.csv.
    let summary = csv(&read(&run.join("summary.csv")));
    let row = summary.iter().find(|r| {
        [&r["arm"], &r["iteration"], &r["split"], &r["method"]] == ["multiagent", "2", "test", "final-vote"]
    });
    let of = |key: &str| format!("{:.1}", 100.0 * number(&row.unwrap()[key]));
    let cell = format!("{} [{}, {}] |", of("value"), of("low"), of("high"));
    assert!(
        text.lines().any(|l| l.starts_with("| multiagent | final vote | 3 |") && l.ends_with(&cell)),
        "{cell}: {text}"
    );
    let metrics = read(&root.join("docs/results/small/metrics.jsonl"));
    assert!(metrics.contains("\"outcomes\"") && !metrics.contains("\"training\""));
    assert!(tool(&["take", "nowhere", "small", "--command", "x"]).1.contains("manifest.json"));
    assert!(tool(&["take", run.to_str().unwrap(), "../x", "--command", "x"]).1.contains("NAME"));
}
