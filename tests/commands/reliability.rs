//! What happens to machines: processes that are killed, disks that fill up or fail, folders that vanish, clocks that go back, signals. Whatever it is, a run says
//! so and ends, when resumed, with the bytes of one that nothing happened to.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::common::shell::runs::*;
use crate::common::shell::*;

/// Numbers that are the same in every run of the tests.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// The small run with less of everything, for faults that need many runs.
fn tiny(output: &str) -> Vec<&str> {
    let mut args = small(output);
    args.extend(["--arm", "multiagent", "--set", "task.train_questions=3", "--set", "task.dev_questions=2"]);
    args.extend(["--set", "eval.diversity=0"]);
    args
}

/// The tiny run that nothing happened to.
fn untouched() -> &'static Path {
    static RUN: OnceLock<tempfile::TempDir> = OnceLock::new();
    RUN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        succeed(dir.path(), &tiny("run"));
        dir
    })
    .path()
}

// ---- killed ----

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// With so many bytes in the journal: sampling, scoring, training, wherever that is.
    Journal(u64),
    /// As soon as a checkpoint is being written.
    Checkpoint,
    /// As soon as metrics or adapters are being written.
    Results,
    /// As soon as the report is being written.
    Report,
}

/// Files being written, by what their folder is.
fn under_way(folder: &Path, kind: &str) -> bool {
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    let temporary = |path: &Path| names(path).iter().any(|n| n.ends_with(".tmp"));
    match kind {
        "checkpoint" => ["multiagent/seed-0", "single-agent/seed-0"]
            .iter()
            .any(|lane| temporary(&folder.join("journal").join(lane))),
        "report" => names(folder)
            .iter()
            .any(|n| n.ends_with(".tmp") && !n.starts_with(".metrics") && !n.starts_with(".times")),
        _ => temporary(folder),
    }
}

/// Whether it comes true within the next moments.
fn soon(ready: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(50) {
        if ready() {
            return true;
        }
    }
    false
}

#[test]
fn killed_at_thirty_moments_a_run_ends_with_the_same_bytes() {
    let whole = journalled(&complete().join("run"));
    let mut random = Random(20_260_131);
    let (mut kills, mut at_checkpoints, mut at_results, mut at_reports) = (0, 0, 0, 0);
    // Five or six runs; a machine that is too fast for us to see some moments takes more.
    for round in 0..15 {
        if kills >= 30 && at_checkpoints > 0 && at_results > 0 && at_reports > 0 {
            break;
        }
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let threads = ["1", "2", "4"][round % 3];
        // Five moments of one run, in the order in which it comes to them.
        let mut moments: Vec<Moment> =
            (0..4).map(|_| whole * (2 + random.below(96)) / 100).map(Moment::Journal).collect();
        moments.sort_by_key(|m| if let Moment::Journal(bytes) = m { *bytes } else { 0 });
        moments.insert(random.below(4) as usize, [Moment::Checkpoint, Moment::Results][round % 2]);
        moments.push(Moment::Report);
        let mut done = false;
        for moment in moments {
            // A resumed run of one thread goes on with another number.
            let args = if folder.join("manifest.json").exists() {
                vec!["resume", "run"]
            } else {
                [small("run"), vec!["--threads", threads]].concat()
            };
            let mut child = start(dir.path(), &args);
            let before = journalled(&folder);
            let came = wait_for(&mut child, || match moment {
                Moment::Journal(bytes) => journalled(&folder) >= bytes.max(before + 1),
                Moment::Checkpoint => under_way(&folder, "checkpoint"),
                Moment::Results => under_way(&folder, "results"),
                // All is computed: a few milliseconds to look without a pause.
                Moment::Report => journalled(&folder) >= whole && soon(|| under_way(&folder, "report")),
            });
            if !came {
                // A moment too short to be seen; the run is complete.
                done = child.wait().unwrap().success();
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            match moment {
                Moment::Checkpoint => at_checkpoints += 1,
                Moment::Results => at_results += 1,
                Moment::Report => at_reports += 1,
                Moment::Journal(_) => {}
            }
        }
        if !done {
            succeed(dir.path(), &["resume", "run"]);
        }
        assert_same_but_threads(&complete().join("run"), &folder);
    }
    println!(
        "{kills} kills, {at_checkpoints} of them at a checkpoint, {at_results} at results, {at_reports} at the report"
    );
    assert!(kills >= 30, "{kills} kills");
    assert!(at_checkpoints > 0 && at_results > 0 && at_reports > 0);
}

/// As `assert_same`, where config.toml says another number of threads.
fn assert_same_but_threads(a: &Path, b: &Path) {
    let (mut a, mut b) = (results(a), results(b));
    let config = |files: &mut std::collections::BTreeMap<String, Vec<u8>>| {
        let text = String::from_utf8(files.remove("config.toml").unwrap()).unwrap();
        text.lines().filter(|l| !l.starts_with("threads = ")).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(config(&mut a), config(&mut b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(bytes == &b[name], "{name} differs");
    }
}

// ---- signals ----

#[test]
#[cfg(unix)]
fn signals_save_and_say_how_to_go_on() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let mut child =
            colloquy(dir.path(), &tiny("run")).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        assert!(wait_for(&mut child, || journalled(&folder) > 2000), "the run ended before the signal");
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_eq!(text.trim_end().lines().last(), Some("  colloquy resume run"), "{text}");
        assert!(text.contains(&format!("stopped by SIG{name}; all that was complete is kept")), "{text}");
        assert!(!text.contains("error:"), "{text}");
        succeed(dir.path(), &["resume", "run"]);
        assert_same(&untouched().join("run"), &folder);
    }
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

// ---- checkpoints ----

#[test]
fn a_damaged_checkpoint_is_made_again_with_a_warning() {
    for cut in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        copy(&untouched().join("run"), &folder);
        let checkpoints = folder.join("journal/multiagent/seed-0");
        let last = std::fs::read_dir(&checkpoints).unwrap().map(|e| e.unwrap().path()).max().unwrap();
        let mut bytes = std::fs::read(&last).unwrap();
        if cut {
            bytes.truncate(bytes.len() / 2);
        } else {
            let place = bytes.len() / 3;
            bytes[place] ^= 1;
        }
        std::fs::write(&last, bytes).unwrap();
        // Its adapters must come from the training, not from what is there.
        std::fs::remove_dir_all(folder.join("adapters/multiagent/seed-0/iteration-2")).unwrap();
        let output = run(dir.path(), &["resume", "run"]);
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("warning: ") && text.contains("the training is done again"), "{text}");
        assert_same(&untouched().join("run"), &folder);
    }
}

#[test]
fn old_checkpoints_are_pruned_by_a_setting_and_nothing_else_changes() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["--set", "run.iterations=5", "--set", "eval.before=false"];
    let args = |name: &'static str| [tiny(name), more.to_vec()].concat();
    succeed(dir.path(), &args("all"));
    let mut pruned = args("pruned");
    pruned.extend(["--set", "run.keep_checkpoints=2"]);
    let mut child = start(dir.path(), &pruned);
    // Killed after the fourth training and resumed: the replay has no checkpoints of the first ones.
    let fourth = dir.path().join("pruned/adapters/multiagent/seed-0/iteration-4");
    assert!(wait_for(&mut child, || fourth.exists()), "the run ended before it was killed");
    child.kill().unwrap();
    child.wait().unwrap();
    let count = |name: &str| {
        std::fs::read_dir(dir.path().join(name).join("journal/multiagent/seed-0")).unwrap().count()
    };
    assert!((2..=3).contains(&count("pruned")), "{} checkpoints", count("pruned"));
    succeed(dir.path(), &["resume", "pruned"]);
    assert_eq!((count("all"), count("pruned")), (5, 2));
    let (mut a, mut b) = (results(&dir.path().join("all")), results(&dir.path().join("pruned")));
    // It says so.
    assert!(a.remove("config.toml") != b.remove("config.toml"));
    assert!(a == b);
    let out = succeed(dir.path(), &["verify", "pruned", "--sample", "20"]);
    assert!(out.contains("bit for bit") && !out.contains("differs"), "{out}");
    let e = fail(dir.path(), &[tiny("other"), vec!["--set", "run.keep_checkpoints=1"]].concat(), 1);
    assert!(e.contains("run.keep_checkpoints"), "{e}");
}

// ---- disks ----

/// The file layer that fails on demand, compiled once; `None`, said, where there is no compiler.
fn shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let shim = SHIM.get_or_init(|| {
        if !cfg!(target_os = "linux") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands/reliability/shim.c");
        for compiler in ["cc", "gcc", "clang"] {
            let built = Command::new(compiler)
                .args(["-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"])
                .args([&library, &source])
                .arg("-ldl")
                .output();
            match built {
                Ok(output) if output.status.success() => return Some((dir, library)),
                Ok(output) => panic!("{compiler}: {}", stderr(&output)),
                Err(_) => {}
            }
        }
        eprintln!("skipped: no C compiler for the file layer that fails");
        None
    });
    shim.as_ref().map(|(_, library)| library.as_path())
}

fn with_fault(dir: &Path, args: &[&str], shim: &Path, fault: &[(&str, &str)]) -> Output {
    let mut command = colloquy(dir, args);
    command.env("LD_PRELOAD", shim).envs(fault.iter().copied()).output().unwrap()
}

#[test]
fn a_disk_that_fails_at_any_call_leaves_a_run_that_can_be_resumed() {
    let Some(shim) = shim() else { return };
    const ENOSPC: &str = "28";
    const EIO: &str = "5";
    let mut faults: Vec<(&str, String, &str, bool)> = Vec::new();
    let mut random = Random(7);
    for (call, calls, count) in [
        ("write", 140, 6),
        ("fdatasync", 4, 2),
        ("fsync", 40, 3),
        ("rename", 40, 4),
        ("open", 40, 3),
        ("mkdir", 20, 2),
    ] {
        for i in 0..count {
            let at = 1 + random.below(calls);
            faults.push((call, at.to_string(), [ENOSPC, EIO][i % 2], i % 3 == 0));
        }
    }
    let mut hit = 0;
    for (call, at, errno, short) in &faults {
        let dir = tempfile::tempdir().unwrap();
        let mut fault =
            vec![("FAULT", *call), ("FAULT_AT", at), ("FAULT_ERRNO", errno), ("FAULT_UNDER", "run")];
        if *short {
            fault.push(("FAULT_SHORT", "1"));
        }
        let output = with_fault(dir.path(), &tiny("run"), shim, &fault);
        let what = format!("{call} {at}, errno {errno}: {}", stderr(&output));
        if output.status.success() {
            // It has fewer such calls.
            continue;
        }
        hit += 1;
        let e = one_error(&output, &["run"], 1);
        let reason = if *errno == ENOSPC { "No space left on device" } else { "Input/output error" };
        assert!(e.contains("run") && e.contains(reason), "it names the file and the reason: {what}");
        if dir.path().join("run").exists() {
            assert!(what.contains("colloquy resume run"), "{what}");
            succeed(dir.path(), &["resume", "run"]);
        } else {
            // Nothing had begun, and nothing is in the way.
            succeed(dir.path(), &tiny("run"));
        }
        assert_same(&untouched().join("run"), &dir.path().join("run"));
    }
    assert!(hit >= 12, "only {hit} of {} faults were met", faults.len());
}

#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let Some(shim) = shim() else { return };
    let dir = tempfile::tempdir().unwrap();
    let output = with_fault(dir.path(), &tiny("run"), shim, &[("CLOCK_BACK", "1")]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_same(&untouched().join("run"), &dir.path().join("run"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_small_file_system_fills_up_and_the_run_goes_on_with_more() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = |size: &str, options: &str| {
        let options = format!("{options}size={size}");
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|o| o.status.success())
    };
    if !mounted("1m", "") {
        eprintln!("skipped: no right to mount a small file system");
        return;
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _unmount = Unmount(dir.path());
    let output = run(dir.path(), &tiny("run"));
    let e = one_error(&output, &["run"], 1);
    assert!(e.contains("run/") && e.contains("No space left on device"), "{e}");
    assert!(stderr(&output).contains("colloquy resume run"), "{}", stderr(&output));
    // Resumed as it is, it fails again, and nothing is lost.
    assert!(fail(dir.path(), &["resume", "run"], 1).contains("No space left on device"));
    assert!(mounted("64m", "remount,"), "remounting it larger");
    succeed(dir.path(), &["resume", "run"]);
    assert_same(&untouched().join("run"), &dir.path().join("run"));
}

#[test]
#[cfg(unix)]
fn a_folder_that_is_deleted_under_a_run_is_said_and_not_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let mut child =
        colloquy(dir.path(), &tiny("run")).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(wait_for(&mut child, || journalled(&folder) > 2000), "the run ended before");
    // Stopped meanwhile, so that nothing is made while it is deleted.
    signal(&child, "STOP");
    std::thread::sleep(Duration::from_millis(20));
    std::fs::remove_dir_all(&folder).unwrap();
    signal(&child, "CONT");
    let output = child.wait_with_output().unwrap();
    let e = one_error(&output, &["run"], 1);
    assert!(e.contains("was deleted while the run was going on"), "{e}");
    assert!(!folder.exists(), "a part of a run is no run");
}

#[test]
#[cfg(unix)]
fn a_folder_that_cannot_be_written_is_said_before_anything_is_computed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(closed.join("probe"), "x").is_ok() {
        eprintln!("skipped: this user may write everywhere");
        return;
    }
    let e = fail(dir.path(), &tiny("closed/run"), 1);
    assert!(e.contains("closed/run") && e.contains("ermission denied"), "{e}");
}

// ---- memory ----

/// Runs to the end; the output, and the most memory that the operating system has seen resident, in bytes.
#[cfg(target_os = "linux")]
fn measured(dir: &Path, args: &[&str]) -> (Output, usize) {
    let child = colloquy(dir, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let watch = std::thread::spawn(move || {
        let mut peak = 0;
        // Gone, or a zombie without memory: it has ended.
        while let Some(line) = std::fs::read_to_string(&status)
            .ok()
            .and_then(|text| text.lines().find(|l| l.starts_with("VmHWM:")).map(String::from))
        {
            let kibibytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            peak = peak.max(kibibytes << 10);
            std::thread::sleep(Duration::from_millis(5));
        }
        peak
    });
    let output = child.wait_with_output().unwrap();
    (output, watch.join().unwrap())
}

#[test]
#[cfg(target_os = "linux")]
fn a_memory_limit_is_kept_or_refused_with_the_smallest_that_works() {
    let dir = tempfile::tempdir().unwrap();
    // Conversations are longer than these micro-batches: room for the longest is planned all the same.
    let narrow =
        ["--set", "run.micro_batch_rows=16", "--set", "run.step_rows=16", "--set", "run.max_sequences=16"];
    let least = |more: &[&str]| {
        let e = fail(dir.path(), &[&tiny("run")[..], &["--memory", "60MiB"], more].concat(), 1);
        assert!(e.contains("the limit is 60.0 MiB, but this needs at least"), "{e}");
        assert!(!dir.path().join("run").exists(), "refused before the start");
        format!("{}B", e.split('(').nth(1).unwrap().split(" bytes)").next().unwrap())
    };
    for (name, limit, more) in [
        ("least", least(&[]), &[][..]),
        ("narrow", least(&narrow), &narrow),
        ("more", "150MiB".to_string(), &[]),
        ("most", "400MiB".to_string(), &[]),
    ] {
        let (output, peak) = measured(dir.path(), &[&tiny(name)[..], &["--memory", &limit], more].concat());
        assert!(output.status.success(), "{limit}: {}", stderr(&output));
        let bytes = match limit.strip_suffix("MiB") {
            Some(mebibytes) => mebibytes.parse::<usize>().unwrap() << 20,
            None => limit.trim_end_matches('B').parse().unwrap(),
        };
        println!("--memory {limit}: {:.0} % of it", 100.0 * peak as f64 / bytes as f64);
        assert!(peak * 10 <= bytes * 11, "{peak} bytes resident, the limit is {bytes}");
        // Limits change speed, never results.
        let (mut a, mut b) = (results(&untouched().join("run")), results(&dir.path().join(name)));
        assert!(a.remove("config.toml") != b.remove("config.toml"));
        assert!(a == b, "--memory {limit} changed results");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_process_with_little_memory_plans_within_it_or_says_so() {
    let limited = |kibibytes: usize, dir: &Path, args: &[&str]| {
        let command =
            format!("ulimit -v {kibibytes}; exec '{}' {}", env!("CARGO_BIN_EXE_colloquy"), args.join(" "));
        Command::new("sh").args(["-c", &command]).current_dir(dir).env("NO_COLOR", "1").output().unwrap()
    };
    let (mut ran, mut refused) = (0, 0);
    for mebibytes in [100, 200, 300, 400, 500, 700] {
        let dir = tempfile::tempdir().unwrap();
        let output = limited(mebibytes << 10, dir.path(), &tiny("run"));
        if output.status.success() {
            ran += 1;
            assert_same(&untouched().join("run"), &dir.path().join("run"));
            continue;
        }
        refused += 1;
        let e = one_error(&output, &["run"], 1);
        assert!(e.starts_with("memory: ") && e.contains("ulimit -v"), "{mebibytes} MiB: {e}");
        assert!(!dir.path().join("run").exists(), "refused before the start");
    }
    assert!(ran > 0 && refused > 0, "{ran} ran, {refused} refused");

    // What no plan foresees is one line too: a file that does not fit.
    let dir = tempfile::tempdir().unwrap();
    copy(&untouched().join("run"), &dir.path().join("run"));
    std::fs::File::create(dir.path().join("run/metrics.jsonl")).unwrap().set_len(1 << 30).unwrap();
    let e = one_error(&limited(400 << 10, dir.path(), &["report", "run"]), &["report"], 1);
    assert!(e.contains("memory"), "{e}");
}

// ---- numbers that go wrong ----

#[test]
fn a_step_that_is_not_finite_stops_training_or_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    // Weights so large that the square of the second step's gradient is beyond f32.
    let records = [
        r#"{"tokens": [5, 9, 12, 40], "weights": [0, 1, 1, 1]}"#,
        r#"{"tokens": [5, 9, 12, 40], "weights": [0, 1e38, -1e38, 1e-30]}"#,
        r#"{"tokens": [7, 9, 12, 41], "weights": [0, 1, 1, 1]}"#,
    ];
    std::fs::write(dir.path().join("bad.jsonl"), records.join("\n")).unwrap();
    std::fs::write(dir.path().join("good.jsonl"), [records[0], records[2]].join("\n")).unwrap();
    let train = |output: &'static str, data: &'static str, policy: &'static str| {
        let mut args = vec![
            "train",
            "--model",
            "embedded",
            "--output",
            output,
            "--batch-size",
            "1",
            "--shuffle",
            "false",
        ];
        args.extend(["--adapter", "other=new:init-seed=5", "--data", "other=good.jsonl"]);
        args.extend(["--adapter", "mine=new:init-seed=4", "--data", data, "--non-finite", policy]);
        args.extend(["--normalizer", "mine=tokens"]);
        args
    };
    let e = fail(dir.path(), &train("stopped", "mine=bad.jsonl", "stop"), 1);
    assert!(e.contains("not a finite number") && e.contains("adapter mine, step 2"), "{e}");
    assert!(!dir.path().join("stopped").exists());

    succeed(dir.path(), &train("skipped", "mine=bad.jsonl", "skip"));
    let lines = read_lines(&dir.path().join("skipped/metrics.jsonl"));
    let mine: Vec<_> = lines.iter().filter(|l| l["adapter"] == "mine").collect();
    assert_eq!(mine.len(), 3);
    assert!(
        mine[1]["loss"].is_null() && mine[1]["left_out"].as_str().unwrap().contains("not finite"),
        "{}",
        mine[1]
    );
    assert!(mine[2]["loss"].is_number() && mine[2].get("left_out").is_none());
    // Both adapters are as they are where nothing of the kind was asked.
    succeed(dir.path(), &train("clean", "mine=good.jsonl", "stop"));
    for name in ["mine", "other"] {
        let of = |run: &str| {
            std::fs::read(dir.path().join(run).join(name).join("adapter_model.safetensors")).unwrap()
        };
        assert!(of("skipped") == of("clean"), "{name}");
    }
    let e = fail(dir.path(), &train("x", "mine=good.jsonl", "ignore"), 2);
    assert!(e.contains("--non-finite ignore: expected stop or skip"), "{e}");
}

#[test]
fn negative_weights_need_another_normalizer_and_then_train_the_opposite() {
    let dir = tempfile::tempdir().unwrap();
    let record =
        |sign: i32| format!(r#"{{"tokens": [1, 5, 9, 12], "weights": [0, {sign}, {}, 0]}}"#, 2 * sign);
    std::fs::write(dir.path().join("up.jsonl"), record(1)).unwrap();
    std::fs::write(dir.path().join("down.jsonl"), record(-1)).unwrap();
    let train = |output: &'static str, normalizers: &[&'static str]| {
        let mut args = vec!["train", "--model", "embedded", "--output", output, "--max-steps", "4"];
        for name in ["up=new:rank=4,init-seed=4", "down=new:rank=4,init-seed=4"] {
            args.extend(["--adapter", name]);
        }
        args.extend(["--data", "up=up.jsonl", "--data", "down=down.jsonl", "--learning-rate", "1e-2"]);
        normalizers.iter().for_each(|n| args.extend(["--normalizer", n]));
        args
    };
    for normalizers in [&[][..], &["up=tokens"], &["tokens", "down=weights"]] {
        let e = fail(dir.path(), &train("refused", normalizers), 1);
        assert!(e.contains("training of adapter down, step 1: the weights of its tokens sum to -3"), "{e}");
        assert!(e.contains("tokens, sequences or a number"), "{e}");
        assert!(!dir.path().join("refused").exists());
    }
    for wrong in ["0", "down=-1", "inf", "token", "down=", "up=nan"] {
        let e = fail(dir.path(), &train("refused", &[wrong]), 2);
        assert!(e.contains("expected weights, tokens, sequences or a finite number > 0"), "{wrong}: {e}");
    }
    // Of the loss, 3 by the sum of the weights, 2 tokens, 1 sequence.
    let losses = |output: &'static str, normalizers: &[&'static str]| {
        succeed(dir.path(), &train(output, normalizers));
        let lines = read_lines(&dir.path().join(output).join("metrics.jsonl"));
        let of = |name: &str| -> Vec<f64> {
            lines.iter().filter(|l| l["adapter"] == name).map(|l| l["loss"].as_f64().unwrap()).collect()
        };
        (of("up"), of("down"))
    };
    let (mean, down) = losses("mixed", &["down=tokens"]);
    assert!((down[0] + 1.5 * mean[0]).abs() < 1e-6, "{mean:?} {down:?}");
    assert!(down[3] < down[0] && mean[3] < mean[0], "each loss falls: {mean:?} {down:?}");
    let (by_sequences, by_number) = losses("others", &["sequences", "down=12"]);
    assert!((by_sequences[0] - 3.0 * mean[0]).abs() < 1e-5 && (by_number[0] + mean[0] / 4.0).abs() < 1e-6);
    // The default is the sum of the weights.
    let (named, _) = losses("named", &["up=weights", "down=1"]);
    assert_eq!(named, mean);
}
