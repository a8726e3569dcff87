//! The emulator notices what it should: one kernel of `kernels/emulator/defects.cpp` a defect. What only a sanitizer can be sure of is shown by
//! `tools/sanitize.sh --self-test`, which replays what these tests log; the tests' names are the logs' names.

use colloquy::backend::cuda::driver::{DevicePtr, Driver, Kernel, Launch};
use colloquy::backend::cuda::emulator::Emulator;

const THREADS: u32 = 64;

/// The twin of `DefectParams`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    out: DevicePtr,
    input: DevicePtr,
    count: u32,
    unused: u32,
}

/// A device with `count` floats of input, 0, 1, 2 .., and as many of output.
struct Bench {
    device: Emulator,
    params: Params,
    count: usize,
}

impl Bench {
    fn new(seed: u64, count: usize) -> Bench {
        let mut device = Emulator::new(seed);
        let out = device.alloc(4 * count, "output").unwrap();
        let input = device.alloc(4 * count, "input").unwrap();
        let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
        device.upload(input, bytemuck::cast_slice(&values)).unwrap();
        Bench { device, params: Params { out, input, count: count as u32, unused: 0 }, count }
    }

    fn launch(&self, name: &'static str, threads: u32, blocks: u32) -> Launch {
        Launch {
            kernel: Kernel::new("defects", name, threads),
            grid: [blocks, 1, 1],
            shared: 4 * self.count as u32,
            params: bytemuck::bytes_of(&self.params).to_vec(),
        }
    }

    /// The output of a launch, or what the emulator says of it.
    fn run(&mut self, name: &'static str, threads: u32, blocks: u32) -> Result<Vec<f32>, String> {
        let launch = self.launch(name, threads, blocks);
        let mut out = vec![0f32; self.count];
        self.device.launch(&launch).map_err(|e| e.to_string())?;
        self.device
            .download(self.params.out, bytemuck::cast_slice_mut(&mut out))
            .map_err(|e| e.to_string())?;
        Ok(out)
    }
}

/// Asserts that a launch of one warp fails and that the message has all of `parts`.
fn fails(name: &'static str, threads: u32, parts: &[&str]) {
    let message = Bench::new(1, 256).run(name, threads, 1).expect_err(name);
    for part in parts.iter().chain([&name]) {
        assert!(message.contains(part), "{name}: {message:?} does not say {part:?}");
    }
}

/// What `sum_tiles` computes, for one block.
fn tiles(count: usize) -> Vec<f32> {
    let n = THREADS as usize;
    (0..n).map(|i| (0..count / n).map(|t| (t * n + (i + t) % n) as f32).sum()).collect()
}

#[test]
fn no_defect() {
    for seed in 0..20 {
        let out = Bench::new(seed, 512).run("no_defect", THREADS, 4).unwrap();
        let mut expected = tiles(512);
        for x in &mut expected[..32] {
            *x += (32..64).sum::<u32>() as f32;
        }
        for block in out.chunks(THREADS as usize).take(4) {
            assert_eq!(block, expected);
        }
    }
}

/// The host gets a copy before what was enqueued after it has run.
#[test]
fn a_copy_lands_before_what_comes_after_it() {
    let mut bench = Bench::new(1, 512);
    let good = bench.launch("no_defect", THREADS, 1);
    bench.device.launch(&good).unwrap();
    let (out, input) = (bench.params.out, bench.params.input);
    let copy = bench.device.fetch([(out, 128), (input, 8)]).unwrap();
    bench.device.fill(out, 0, 128).unwrap();
    let one_warp = bench.launch("missing_lane", 32, 1);
    let bad = bench.device.launch(&one_warp);
    let (mut first, mut second) = ([0f32; 32], [0f32; 2]);
    let parts = [bytemuck::cast_slice_mut(&mut first), bytemuck::cast_slice_mut(&mut second)];
    bench.device.fetched(copy, parts).unwrap();
    assert_eq!(first[0], tiles(512)[0] + (32..64).sum::<u32>() as f32);
    assert_eq!(second, [0.0, 1.0]);
    assert!(bad.is_ok() && bench.device.synchronize().is_err());
    let again = bench.device.fetched(copy, [&mut [], &mut []]).unwrap_err().to_string();
    assert!(again.contains("was never enqueued"), "{again}");
}

/// How many of 20 seeds give another result than the right one.
fn wrong(name: &'static str, threads: u32, expected: &[f32]) -> usize {
    let differs = |seed| Bench::new(seed, 512).run(name, threads, 1).unwrap()[..expected.len()] != *expected;
    (0..20).filter(|&seed| differs(seed)).count()
}

#[test]
fn missing_barrier() {
    let expected: Vec<f32> = (0..64).map(|i| ((i + 32) % 64) as f32).collect();
    assert_eq!(wrong("missing_barrier", THREADS, &expected), 20);
}

#[test]
fn missing_sync_warp() {
    let expected: Vec<f32> = (0..32).map(|i| (i ^ 1) as f32).collect();
    assert_eq!(wrong("missing_sync_warp", 32, &expected), 20);
}

#[test]
fn overwritten_buffer() {
    assert_eq!(wrong("overwritten_buffer", THREADS, &tiles(512)), 20);
}

#[test]
fn blocks_race() {
    let last = |seed| Bench::new(seed, 64).run("blocks_race", THREADS, 16).unwrap()[0];
    let results: Vec<f32> = (0..4).map(last).collect();
    assert!(results.iter().any(|&r| r != results[0]), "{results:?}");
}

#[test]
fn early_read() {
    let out = Bench::new(1, 128).run("early_read", 32, 1).unwrap();
    assert!(out[..32].iter().all(|x| x.is_nan()), "{out:?}");
}

#[test]
fn copy_never_waited_for() {
    fails("copy_never_waited_for", 32, &["before it waited for its asynchronous copies"]);
}

#[test]
fn write_past_the_end() {
    fails("write_past_the_end", 32, &["wrote beside \"output\" (1024 bytes)"]);
}

#[test]
fn read_past_the_end() {
    assert!(Bench::new(1, 256).run("read_past_the_end", 32, 1).unwrap()[0].is_nan());
}

#[test]
fn write_past_shared() {
    fails("write_past_shared", 32, &["a write past the end of the 1024 bytes of shared memory"]);
}

#[test]
fn read_past_shared() {
    let out = Bench::new(1, 256).run("read_past_shared", 32, 1).unwrap();
    assert!(out[..32].iter().all(|x| x.is_nan()), "{out:?}");
}

#[test]
fn different_warp_operations() {
    let parts = ["lanes of a warp are at different operations", "a shuffle", "a ballot", "defects.cpp:"];
    fails("different_warp_operations", 32, &parts);
}

#[test]
fn missing_lane() {
    fails("missing_lane", 32, &["lanes of a warp are at different places", "thread 31 has ended"]);
}

#[test]
fn missed_barrier() {
    fails("missed_barrier", THREADS, &["not all threads reach a barrier", "thread 32 has ended"]);
    fails("different_barriers", THREADS, &["threads wait at different barriers"]);
}

#[test]
fn misaligned() {
    fails("misaligned", 32, &["misaligned access", "thread ", "defects.cpp:"]);
}

#[test]
fn use_of_freed() {
    let mut bench = Bench::new(1, 256);
    bench.device.free(bench.params.input);
    let message = bench.run("use_of_freed", 32, 1).unwrap_err();
    assert!(message.contains("wrote to \"input\" (1024 bytes), which was freed"), "{message}");

    let mut bench = Bench::new(1, 256);
    bench.device.free(bench.params.input);
    let out = bench.run("read_of_freed", 32, 1).unwrap();
    assert!(out[..32].iter().all(|x| x.is_nan()), "{out:?}");

    let mut bench = Bench::new(1, 256);
    bench.device.free(bench.params.input);
    bench.device.free(bench.params.input);
    let message = bench.device.synchronize().unwrap_err().to_string();
    assert!(message.contains("is freed and not allocated"), "{message}");
}

#[test]
fn copies_stay_inside_allocations() {
    let mut bench = Bench::new(1, 256);
    let message = bench.device.upload(bench.params.input.offset(1020), &[0; 8]).unwrap_err().to_string();
    assert!(message.contains("8 bytes at 1020 of \"input\", which has 1024"), "{message}");
    let message = bench.device.fill(DevicePtr(4096), 0, 1).unwrap_err().to_string();
    assert!(message.contains("0x1000 is not device memory"), "{message}");
}

#[test]
fn launches_that_do_not_fit_their_kernel() {
    let mut bench = Bench::new(1, 256);
    let good = bench.launch("no_defect", THREADS, 1);
    let mut refused = |change: &dyn Fn(&mut Launch), expected: &str| {
        let mut launch = good.clone();
        change(&mut launch);
        let message = bench.device.launch(&launch).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
        let message = bench.device.capture(&[launch]).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    };
    refused(&|l| l.params.truncate(16), "no_defect takes 24 bytes of parameters, not 16");
    refused(&|l| l.kernel = Kernel::new("defects", "absent", 64), "kernel absent does not exist");
    refused(&|l| l.kernel.threads = 128, "has blocks of 64, not 128");
    refused(&|l| l.grid[1] = 0, "cannot have a grid of [1, 0, 1]");
    refused(&|l| l.grid[2] = 65_536, "cannot have a grid of [1, 1, 65536]");
    refused(&|l| l.shared = 100 * 1024, "102400 bytes of shared memory, more than 101376");
}

#[test]
fn memory_is_nan_when_new_and_used_again() {
    let mut device = Emulator::new(1);
    let mut seen = std::collections::HashSet::new();
    let mut reused = false;
    for round in 0..40 {
        let size = 1_000_003;
        let memory = device.alloc(size, "scratch").unwrap();
        reused |= !seen.insert(memory);
        let mut bytes = vec![0; size];
        device.download(memory, &mut bytes).unwrap();
        assert!(bytes.iter().all(|&b| b == 0xff), "round {round}");
        device.fill(memory, 1, size).unwrap();
        device.free(memory);
    }
    device.synchronize().unwrap();
    assert!(reused, "40 MB were taken where 4 are kept from use");
}

#[test]
fn a_seed_repeats() {
    let run = |seed| {
        (0..8).map(|_| Bench::new(seed, 64).run("blocks_race", THREADS, 64).unwrap()[0]).collect::<Vec<_>>()
    };
    let first = run(7);
    assert!(first.iter().all(|&x| x == first[0]), "{first:?}");
}
