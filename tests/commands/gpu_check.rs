//! `tools/gpu-check.sh quick` on a machine whose every program is a stand-in (`gpu_check/machine.sh`): what is
//! known when it is killed, and what a step costs that hangs, dies or is missing.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const STEPS: [&str; 10] = [
    "start",
    "bits",
    "operations",
    "contract",
    "pytorch",
    "ops",
    "society",
    "rates",
    "counters",
    "sanitizer",
];

/// A folder with the machine's programs, and where results go.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new(programs: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands/gpu_check/machine.sh");
        for program in programs {
            std::fs::copy(&stand_in, bin.join(program)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts `quick` in a process group of its own; `hang` and `die` name steps.
    fn start(&self, hang: &str, die: &str, step_limit: &str) -> Child {
        Command::new("bash")
            .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tools/gpu-check.sh"), "quick"])
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()))
            .env("TMPDIR", self.folder.path())
            .env("OUT", self.path("out"))
            .env("COLLOQUY_GPU_CHECK", self.path("bin/gpu-check"))
            .env("COLLOQUY_GPU_MICRO", self.path("bin/micro"))
            .env("GPU_CHECK_STEP_LIMIT", step_limit)
            .envs([("HANG", hang), ("DIE", die), ("DEVICE", "cuda")])
            .env("MARK", self.path("mark"))
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash starts")
    }

    fn summary(&self) -> String {
        std::fs::read_to_string(self.path("out/summary.txt")).unwrap()
    }

    /// The files in the archive that came out.
    fn archived(&self) -> Vec<String> {
        let output = Command::new("tar").arg("-tzf").arg(self.path("out/gpu-check.tar.gz")).output().unwrap();
        assert!(output.status.success(), "a whole archive");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_string).collect()
    }
}

const ALL: [&str; 7] = ["gpu-check", "micro", "nvidia-smi", "ncu", "nvcc", "compute-sanitizer", "python3"];

#[test]
fn killed_in_any_step_the_results_hold_all_earlier_ones() {
    let killed_in = |k: usize| {
        let machine = Machine::new(&ALL);
        let mut child = machine.start(STEPS[k], "", "480");
        while !machine.path("mark").exists() {
            assert!(child.try_wait().unwrap().is_none(), "{}: it ended", STEPS[k]);
            std::thread::sleep(Duration::from_millis(20));
        }
        let group = format!("-{}", child.id());
        assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
        child.wait().unwrap();
        if k == 0 {
            return assert!(!machine.path("out/summary.txt").exists(), "no step is over");
        }
        let (summary, files) = (machine.summary(), machine.archived());
        for step in &STEPS[..k] {
            assert!(summary.contains(&format!("== {step}: ok")), "{}: {summary}", STEPS[k]);
            assert!(
                files.iter().any(|f| f.starts_with(&format!("./{step}/")) && f.ends_with(".txt")),
                "{step}: {files:?}"
            );
        }
        assert!(!summary.contains(&format!("== {}", STEPS[k])), "{summary}");
    };
    std::thread::scope(|scope| {
        for k in 0..STEPS.len() {
            scope.spawn(move || killed_in(k));
        }
    });
}

#[test]
fn a_step_that_hangs_dies_or_is_missing_leaves_the_others_as_they_are() {
    let without_profiler: Vec<&str> = ALL.into_iter().filter(|p| *p != "ncu").collect();
    // Programs, the steps that hang and die, the step that is not well, and what is said of it.
    let cases = [
        (&ALL[..], "", "", "", ""),
        (&ALL, "society", "", "society", "TIMED OUT  bench decode train --shape 1b"),
        (&ALL, "", "operations", "operations", "FAILED     kernels::forward_and_dx_match_the_oracle"),
        (&without_profiler, "", "", "counters", "MISSING    ncu linear_large"),
    ];
    std::thread::scope(|scope| {
        for (programs, hang, die, bad, said) in cases {
            scope.spawn(move || {
                let machine = Machine::new(programs);
                // A step has time enough for stand-ins on a busy machine, and little for what hangs.
                let status = machine.start(hang, die, "15").wait().unwrap();
                let summary = machine.summary();
                assert_eq!(status.success(), bad.is_empty(), "{summary}");
                assert!(summary.contains(said), "{summary}");
                for step in STEPS {
                    let outcome = if step == bad { "not well" } else { "ok" };
                    assert!(summary.contains(&format!("== {step}: {outcome}")), "{step}: {summary}");
                }
            });
        }
    });
}
