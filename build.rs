//! Builds what cargo cannot, and tells the program what it is built from.
//!
//! - `COLLOQUY_COMMIT`: the commit, of a release build in a git repository.
//! - `$OUT_DIR/images.rs`: every `kernels/*.cu` as one fatbin, compiled by nvcc; an empty table where there is no nvcc.
//! - with the feature `emulator`: the same sources and `kernels/emulator/*.cpp` compiled by the C++ compiler into the static library
//!   `colloquy_emulator`.
//!
//! nvcc is looked for in `NVCC`, `tools/.cuda` (tools/cuda_toolchain.sh), `CUDA_HOME/bin`, `CUDA_PATH/bin`, PATH and /usr/local/cuda/bin.
//! `COLLOQUY_CUDA_ARCHS` replaces the list of architectures (`sm_86,compute_80`); `none` builds without kernels whether or not nvcc is there.
//!
//! What was compiled is kept under `target/kernels`, so that it is compiled once for all profiles and features and again only when its sources, the
//! compiler or the flags change. (The build script of a release runs again after every commit.)

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::Mutex;
use std::time::Instant;

/// Machine code for Ampere and Hopper (`a`: the instructions that only Hopper has), and PTX that a driver compiles for anything newer.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90a", "compute_80"];
/// Compressed, machine code takes less than a third of its size; the driver expands it.
const NVCC_FLAGS: [&str; 7] =
    ["-fatbin", "-std=c++17", "-O3", "-lineinfo", "-Ikernels", "-Xptxas=-v", "-Xfatbin=-compress-all"];
/// nvcc takes flags and its host compiler from these.
const NVCC_ENVIRONMENT: [&str; 3] = ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];
/// sm_90a came with 12.0.
const OLDEST_NVCC: (u32, u32) = (12, 0);
/// A compiler of this size takes a core and up to a gigabyte.
const MOST_PROCESSES: usize = 2;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    commit();
    let sources = Sources::read();
    images(&sources);
    #[cfg(feature = "emulator")]
    emulator(&sources);
}

/// Ends the build with one message. Cargo fails a build for the message; for the status 1 it would print it a second time, with all else that this
/// printed.
fn fail(message: &str) -> ! {
    for line in message.lines().filter(|line| !line.trim().is_empty()) {
        println!("cargo::error={line}");
    }
    exit(0)
}

/// Release builds name their commit. Others do not: the library would be built again after every commit.
fn commit() {
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    let git = |args: &[&str]| text_of(Command::new("git").args(args));
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    println!("cargo::rustc-env=COLLOQUY_COMMIT={commit}");
    // HEAD changes when another branch is checked out, its log when something is committed.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// What a command that succeeds prints, trimmed; None if it fails, is not there, or prints nothing.
fn text_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The folder `kernels`, paths relative to the package (where a build script runs): the compilers see these, so that line information in the
/// images names no folder of this machine.
struct Sources {
    /// `kernels/*.cu`, sorted.
    kernels: Vec<PathBuf>,
    /// `kernels/**/*.cuh` and `*.h` with their contents, without the emulator's.
    headers: Vec<(PathBuf, Vec<u8>)>,
    /// `kernels/emulator/*.cpp`, sorted.
    #[cfg(feature = "emulator")]
    runtime: Vec<PathBuf>,
    /// The emulator's headers with their contents.
    #[cfg(feature = "emulator")]
    runtime_headers: Vec<(PathBuf, Vec<u8>)>,
}

impl Sources {
    fn read() -> Sources {
        let folder = Path::new("kernels");
        if folder.exists() {
            // A folder is watched with all that is in it and for what is added and removed; a path that does not exist would run this every time.
            println!("cargo::rerun-if-changed=kernels");
        }
        let mut all = Vec::new();
        walk(folder, &mut all);
        all.sort();
        let has = |path: &Path, extensions: &[&str]| {
            path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e))
        };
        let emulator = folder.join("emulator");
        let headers = |of_emulator: bool| -> Vec<(PathBuf, Vec<u8>)> {
            let wanted = |p: &&PathBuf| p.starts_with(&emulator) == of_emulator && has(p, &["cuh", "h"]);
            all.iter().filter(wanted).map(|path| (path.clone(), read(path))).collect()
        };
        Sources {
            kernels: all.iter().filter(|p| p.parent() == Some(folder) && has(p, &["cu"])).cloned().collect(),
            headers: headers(false),
            #[cfg(feature = "emulator")]
            runtime: all
                .iter()
                .filter(|p| p.parent() == Some(&emulator) && has(p, &["cpp"]))
                .cloned()
                .collect(),
            #[cfg(feature = "emulator")]
            runtime_headers: headers(true),
        }
    }
}

/// Collects the files under `folder`, if it exists.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| fail(&format!("cannot read {}: {error}", path.display())))
}

fn write(path: &Path, contents: impl AsRef<[u8]>) {
    fs::write(path, contents)
        .unwrap_or_else(|error| fail(&format!("cannot write {}: {error}", path.display())));
}

fn stem(path: &Path) -> &str {
    path.file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_else(|| fail(&format!("{}: not a UTF-8 name", path.display())))
}

fn out_dir() -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"))
}

/// Compiles the kernels into `$OUT_DIR/kernels/NAME.fatbin` (with the compiler's output in NAME.log) and writes the table of them.
fn images(sources: &Sources) {
    let nvcc = Nvcc::find();
    let mut table = String::new();
    let out = out_dir().join("kernels");
    // Nothing of an earlier table stays beside this one: tools/kernel_report.py reads the folder.
    if out.exists() {
        fs::remove_dir_all(&out)
            .unwrap_or_else(|error| fail(&format!("cannot empty {}: {error}", out.display())));
    }
    if let Some(nvcc) = &nvcc {
        let jobs: Vec<Job> =
            sources.kernels.iter().map(|source| nvcc.job(source, &sources.headers)).collect();
        if !jobs.is_empty() {
            nvcc.check_host_compiler();
            for log in run(&jobs, &out) {
                warn(&log);
            }
        }
        for job in &jobs {
            let path = out.join(job.file());
            writeln!(
                table,
                "    ({:?}, {{\n        static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!({:?}));\n        &IMAGE.0\n    }}),",
                job.name,
                path.to_str().unwrap_or_else(|| fail(&format!("{}: not a UTF-8 path", path.display())))
            )
            .expect("writing to a string");
        }
    }
    let aligned = if table.is_empty() {
        ""
    } else {
        "/// An image as the driver may read it in place: words, not bytes.\n#[repr(C, align(16))]\nstruct Aligned<T: ?Sized>(T);\n\n"
    };
    let built_with = nvcc.as_ref().map(|nvcc| format!("nvcc {}", nvcc.version));
    let architectures = nvcc.map(|nvcc| nvcc.architectures).unwrap_or_default();
    write(
        &out_dir().join("images.rs"),
        format!(
            "{aligned}/// Every file of `kernels/`, by its stem, as a fatbin; empty where the program was built without nvcc.\n\
             pub static IMAGES: &[(&str, &[u8])] = &[\n{table}];\n\n\
             /// The compiler of the images, or None where there was none.\n\
             pub const BUILT_WITH: Option<&str> = {built_with:?};\n\n\
             /// What the images hold code for: `sm_` machine code, `compute_` PTX.\n\
             pub static ARCHITECTURES: &[&str] = &{architectures:?};\n"
        ),
    );
}

struct Nvcc {
    program: PathBuf,
    /// As in `13.0.88`.
    version: String,
    architectures: Vec<String>,
    /// Folders of headers that this nvcc does not find by itself.
    includes: Vec<PathBuf>,
}

impl Nvcc {
    fn find() -> Option<Nvcc> {
        for name in
            ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "COLLOQUY_CUDA_ARCHS"].iter().chain(&NVCC_ENVIRONMENT)
        {
            println!("cargo::rerun-if-env-changed={name}");
        }
        // tools/cuda_toolchain.sh touches its list when it has installed it.
        println!("cargo::rerun-if-changed=tools/cuda_requirements.txt");

        let wanted = env::var("COLLOQUY_CUDA_ARCHS").unwrap_or_default();
        if wanted.trim() == "none" {
            return None;
        }
        let given = env::var_os("NVCC").filter(|value| !value.is_empty()).map(PathBuf::from);
        let below = |folder: std::ffi::OsString| PathBuf::from(folder).join("bin/nvcc");
        let path = env::var_os("PATH").unwrap_or_default();
        let places = [Path::new("tools/.cuda/nvidia/cu13/bin/nvcc").to_path_buf()]
            .into_iter()
            .chain(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(below))
            .chain(env::split_paths(&path).map(|folder| folder.join("nvcc")))
            .chain([PathBuf::from("/usr/local/cuda/bin/nvcc")]);
        let program = match &given {
            Some(program) => program.clone(),
            None => places.into_iter().find(|path| path.is_file())?,
        };
        if program.is_file() {
            // An nvcc that goes away or is replaced is noticed.
            println!("cargo::rerun-if-changed={}", program.display());
        }
        // Only a path with a slash is taken relative to this folder.
        let program = if program.components().count() > 1 { absolute(&program) } else { program };
        let shown = program.display();
        let from = if given.is_some() { " (from NVCC)" } else { "" };
        let Some(text) = text_of(Command::new(&program).arg("--version")) else {
            fail(&format!("{shown}{from} does not run: `nvcc --version` fails"))
        };
        let version =
            text.rsplit_once(", V").map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default());
        let release = version.and_then(|version| {
            let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
            Some((version, (numbers.next()??, numbers.next()??)))
        });
        let Some((version, release)) = release else {
            fail(&format!(
                "{shown}{from}: cannot find `, V13.0.88` or the like in what `nvcc --version` prints: {}",
                text.lines().next().unwrap_or_default()
            ))
        };
        if release < OLDEST_NVCC {
            fail(&format!(
                "{shown}{from} is nvcc {version}; the kernels need {}.{} or newer. tools/cuda_toolchain.sh installs one that is preferred to it; \
                 COLLOQUY_CUDA_ARCHS=none builds without kernels",
                OLDEST_NVCC.0, OLDEST_NVCC.1
            ))
        }
        let architectures = architectures(&wanted);
        Some(Nvcc { version: version.to_string(), architectures, includes: includes(&program), program })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(NVCC_FLAGS);
        for architecture in &self.architectures {
            let (_, number) = architecture.split_once('_').expect("checked");
            command.arg("-gencode").arg(format!("arch=compute_{number},code={architecture}"));
        }
        for folder in &self.includes {
            command.arg("-isystem").arg(folder);
        }
        command
    }

    fn job(&self, source: &Path, headers: &[(PathBuf, Vec<u8>)]) -> Job {
        let mut command = self.command();
        command.arg(source);
        // The program's own path and its headers' are left out: the version stands for them.
        let key = (
            &self.version,
            NVCC_FLAGS,
            &self.architectures,
            NVCC_ENVIRONMENT.map(env::var_os),
            source,
            read(source),
            headers,
        );
        Job {
            name: stem(source).to_string(),
            extension: "fatbin",
            source: source.into(),
            key: hash(&key),
            command,
        }
    }

    /// nvcc says little about a host compiler that is missing.
    fn check_host_compiler(&self) {
        let given = env::var("NVCC_CCBIN").is_ok()
            || env::var("NVCC_PREPEND_FLAGS").is_ok_and(|flags| flags.contains("ccbin"));
        if !given && text_of(Command::new("g++").arg("--version")).is_none() {
            fail(&format!(
                "{} needs a host compiler, and g++ is not installed (Debian, Ubuntu: apt-get install g++). \
                 COLLOQUY_CUDA_ARCHS=none builds without kernels",
                self.program.display()
            ));
        }
    }
}

/// The list in COLLOQUY_CUDA_ARCHS, or the usual one if that is empty.
fn architectures(list: &str) -> Vec<String> {
    let names: Vec<String> =
        list.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect();
    if names.is_empty() {
        return ARCHITECTURES.map(str::to_string).into();
    }
    for name in &names {
        let number = name.strip_prefix("sm_").or_else(|| name.strip_prefix("compute_")).unwrap_or_default();
        let digits = number.strip_suffix(['a', 'f']).unwrap_or(number);
        if digits.parse::<u32>().is_err() {
            fail(&format!(
                "COLLOQUY_CUDA_ARCHS: `{name}` is not an architecture; expected `none` or a list like `sm_80,sm_90a,compute_80`"
            ));
        }
    }
    names
}

/// Where nvcc comes without its headers beside it (each package in a folder of its own), the folders that have them.
fn includes(program: &Path) -> Vec<PathBuf> {
    let program = program.canonicalize().unwrap_or_else(|_| program.into());
    let Some(home) = program.parent().and_then(Path::parent) else { return Vec::new() };
    if !program.is_absolute() || home.join("include/cuda_runtime.h").exists() || home.join("targets").exists()
    {
        return Vec::new();
    }
    let Some(siblings) = home.parent().and_then(|folder| fs::read_dir(folder).ok()) else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = siblings.flatten().map(|entry| entry.path().join("include")).collect();
    folders.retain(|folder| {
        ["cuda_runtime.h", "crt", "cccl", "nv"].iter().any(|name| folder.join(name).exists())
    });
    folders.sort();
    folders
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())))
}

/// Passes on what a compiler warns of; the rest of what it says stays in its log.
fn warn(log: &str) {
    let remarks = ["warning", "Warning", "Advisory", "Potential Performance Loss"];
    for line in log.lines().filter(|line| remarks.iter().any(|remark| line.contains(remark))) {
        println!("cargo::warning={line}");
    }
}

fn hash(key: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// One file to compile: `command -o FILE`.
struct Job {
    name: String,
    extension: &'static str,
    source: PathBuf,
    /// A hash over all that the result depends on.
    key: u64,
    command: Command,
}

impl Job {
    fn file(&self) -> String {
        format!("{}.{}", self.name, self.extension)
    }

    /// The name of a file of this job in the cache.
    fn cached(&self, extension: &str) -> String {
        format!("{}-{:016x}.{extension}", self.name, self.key)
    }

    /// Makes FILE and FILE's log in `out`, from the cache if they are there; returns the log.
    fn run(&self, out: &Path, cache: &Path) -> Result<String, String> {
        let (file, log_file) = (out.join(self.file()), out.join(format!("{}.log", self.name)));
        let kept = fs::copy(cache.join(self.cached(self.extension)), &file)
            .and_then(|_| fs::copy(cache.join(self.cached("log")), &log_file))
            .and_then(|_| fs::read_to_string(&log_file));
        if let Ok(log) = kept {
            return Ok(log);
        }
        let started = Instant::now();
        let mut command = Command::new(self.command.get_program());
        let output = command
            .args(self.command.get_args())
            .envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .arg("-o")
            .arg(&file)
            .output()
            .map_err(|error| format!("cannot run {}: {error}", self.command.get_program().display()))?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(format!("{} does not compile ({}):\n{said}", self.source.display(), output.status));
        }
        let log = format!("compiled in {:.1} s\n{said}", started.elapsed().as_secs_f64());
        let write = || -> std::io::Result<()> {
            fs::write(&log_file, &log)?;
            fs::create_dir_all(cache)?;
            self.forget_older(cache)?;
            // The log first: whoever finds the result finds the log.
            for (from, extension) in [(&log_file, "log"), (&file, self.extension)] {
                let new = cache.join(format!("{}.{}", self.cached(extension), std::process::id()));
                fs::copy(from, &new)?;
                fs::rename(&new, cache.join(self.cached(extension)))?;
            }
            Ok(())
        };
        write().map_err(|error| format!("cannot keep what {} became: {error}", self.source.display()))?;
        Ok(log)
    }

    /// Removes from the cache what the file was compiled to before.
    fn forget_older(&self, cache: &Path) -> std::io::Result<()> {
        for entry in fs::read_dir(cache)?.flatten() {
            let name = entry.file_name();
            let Some((name, rest)) = name.to_str().and_then(|name| name.rsplit_once('-')) else { continue };
            let mine = rest.ends_with(".log") || rest.ends_with(&format!(".{}", self.extension));
            if name == self.name && mine {
                // Another build may have been faster.
                fs::remove_file(entry.path()).ok();
            }
        }
        Ok(())
    }
}

/// Runs the jobs, a few at a time, and returns their logs; ends the build with the messages of those that fail.
fn run(jobs: &[Job], out: &Path) -> Vec<String> {
    fs::create_dir_all(out)
        .unwrap_or_else(|error| fail(&format!("cannot create {}: {error}", out.display())));
    // Cargo marks its target folder, which the profiles and features share.
    let target = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    let extension = jobs.first().map_or("", |job| job.extension);
    let cache = target.unwrap_or(out).join("kernels").join(extension);
    // Large files first: the last process to end should be a short one.
    let mut queue: Vec<&Job> = jobs.iter().collect();
    queue.sort_by_key(|job| fs::metadata(&job.source).map_or(0, |data| data.len()));
    let processes = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).min(MOST_PROCESSES);
    let queue = Mutex::new(queue);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..processes {
            scope.spawn(|| {
                loop {
                    let Some(job) = queue.lock().expect("no worker panics").pop() else { return };
                    let result = job.run(out, &cache);
                    results.lock().expect("no worker panics").push((job.source.clone(), result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no worker panics");
    results.sort();
    let failures: Vec<&str> =
        results.iter().filter_map(|(_, result)| result.as_ref().err().map(String::as_str)).collect();
    if !failures.is_empty() {
        fail(&failures.join("\n"));
    }
    results.into_iter().filter_map(|(_, result)| result.ok()).collect()
}

/// Compiles the kernels for this machine's processor and links them with the fibre runtime that executes them.
#[cfg(feature = "emulator")]
fn emulator(sources: &Sources) {
    if sources.runtime.is_empty() {
        return;
    }
    let out = out_dir().join("emulator");
    fs::create_dir_all(&out)
        .unwrap_or_else(|error| fail(&format!("cannot create {}: {error}", out.display())));
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .cargo_metadata(false)
        .warnings(false)
        .std("c++20")
        .opt_level(2)
        .debug(true)
        .include("kernels");
    // Kernels look at the same shared memory as 16-byte words, bfloat16 and f32; contraction to fused operations would make results depend on
    // the processor.
    for flag in ["-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas"] {
        build.flag(flag);
    }
    // `__FILE__` in a report: kernels/NAME.cu.
    build.flag(format!("-fmacro-prefix-map={}/=", absolute(Path::new(".")).display()));
    let compiler = build.try_get_compiler().unwrap_or_else(|error| {
        fail(&format!(
            "the feature `emulator` needs a C++ compiler (Debian, Ubuntu: apt-get install g++): {error}"
        ))
    });
    let version = text_of(Command::new(compiler.path()).arg("--version")).unwrap_or_else(|| {
        fail(&format!(
            "the C++ compiler {} does not run (Debian, Ubuntu: apt-get install g++)",
            compiler.path().display()
        ))
    });
    let headers = (&sources.headers, &sources.runtime_headers);
    // `compiled` is the file that the compiler is given, `source` the one that a person wrote.
    let job = |name: String, source: &Path, compiled: &Path| {
        let mut command = compiler.to_command();
        command.arg("-c").arg(compiled);
        // A GPU traps on a misaligned access, this processor does not; the runtime has the handler.
        let checks: &[&str] = match source.extension().is_some_and(|e| e == "cu") {
            true => &["-fsanitize=alignment", "-fno-sanitize-recover=alignment"],
            false => &[],
        };
        command.args(checks);
        let key = hash(&(&version, compiler.args(), checks, absolute(source), read(source), headers));
        Job { name, extension: "o", source: source.into(), key, command }
    };
    let mut jobs = Vec::new();
    for source in &sources.kernels {
        let wrapper = out.join(format!("{}.cpp", stem(source)));
        // A namespace of its own: two kernels may each have their own function or type of the same name.
        write(
            &wrapper,
            format!("#include \"plan.cuh\"\nnamespace {{\n#include {:?}\n}}\n", absolute(source)),
        );
        jobs.push(job(stem(source).to_string(), source, &wrapper));
    }
    for source in &sources.runtime {
        jobs.push(job(format!("emulator_{}", stem(source)), source, &absolute(source)));
    }
    for log in run(&jobs, &out) {
        warn(&log);
    }
    let objects = jobs.iter().map(|job| out.join(job.file()));
    cc::Build::new()
        .cpp(true)
        .cargo_metadata(false)
        .objects(objects)
        .out_dir(&out)
        .compile("colloquy_emulator");
    println!("cargo::rustc-link-search=native={}", out.display());
    // Whole: kernels register themselves in static initializers, which nothing refers to.
    println!("cargo::rustc-link-lib=static:+whole-archive=colloquy_emulator");
    println!("cargo::rustc-link-lib=dylib=stdc++");
}
