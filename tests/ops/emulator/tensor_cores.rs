//! How the emulated tensor cores add, against a reference in integers: rounding, and truncating as
//! an A100 and an H100 do (`kernels/emulator/mma.h`).

use colloquy::backend::cuda::driver::{DevicePtr, Driver, Kernel, Launch};
use colloquy::backend::cuda::emulator::{Emulator, Mma};
use colloquy::backend::mix;

/// The twin of `MmaOnceParams`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    c: DevicePtr,
    a: DevicePtr,
    b: DevicePtr,
}

/// Operands as bits, row-major: bf16 `[16, 16]` and `[16, 8]`, f32 `[16, 8]`.
#[derive(Clone)]
struct Product {
    a: [u16; 256],
    b: [u16; 128],
    c: [u32; 128],
}

/// `c + a b` of each product, as bits.
fn run(mut device: Emulator, products: &[Product]) -> Vec<u32> {
    let a: Vec<u16> = products.iter().flat_map(|p| p.a).collect();
    let b: Vec<u16> = products.iter().flat_map(|p| p.b).collect();
    let mut c: Vec<u32> = products.iter().flat_map(|p| p.c).collect();
    let mut upload = |bytes: &[u8], what: &str| {
        let at = device.alloc(bytes.len(), what).unwrap();
        device.upload(at, bytes).unwrap();
        at
    };
    let params = Params {
        c: upload(bytemuck::cast_slice(&c), "c"),
        a: upload(bytemuck::cast_slice(&a), "a"),
        b: upload(bytemuck::cast_slice(&b), "b"),
    };
    let launch = Launch {
        kernel: Kernel::new("mma_once", "mma_once", 32),
        grid: [products.len() as u32, 1, 1],
        shared: 0,
        params: bytemuck::bytes_of(&params).to_vec(),
    };
    device.launch(&launch).unwrap();
    device.download(params.c, bytemuck::cast_slice_mut(&mut c)).unwrap();
    c
}

/// What a truncating tensor core is: products in a block, extra bits, least exponent.
#[derive(Clone, Copy, Debug)]
struct Hardware(usize, i32, i32);

const AMPERE: Hardware = Hardware(8, 1, -132);
const HOPPER: Hardware = Hardware(16, 2, -133);

/// A finite number of `bits` mantissa bits: whether it is negative, its significand, and the
/// exponent of a significand of 2^bits.
fn parts(sign: bool, field: u32, mantissa: u32, bits: u32) -> (bool, u64, i32) {
    assert!(field < 255, "a finite number");
    match field {
        0 => (sign, u64::from(mantissa), -126),
        _ => (sign, u64::from(mantissa | 1 << bits), field as i32 - 127),
    }
}

fn bf16(x: u16) -> (bool, u64, i32) {
    parts(x >> 15 == 1, u32::from(x >> 7 & 0xff), u32::from(x & 0x7f), 7)
}

fn f32_parts(x: u32) -> (bool, u64, i32) {
    parts(x >> 31 == 1, x >> 23 & 0xff, x & 0x7f_ffff, 23)
}

/// `m 2^exponent`, its lowest bits cut off to make it an f32.
fn cut_off(negative: bool, m: u64, exponent: i32) -> u32 {
    let sign = u32::from(negative) << 31;
    let shifted = |by: i32| if by >= 0 { m << by } else { m.checked_shr(-by as u32).unwrap_or(0) };
    let top = 63 - m.leading_zeros() as i32;
    match top + exponent {
        128.. => sign | 0x7f80_0000,
        // The hidden bit adds one to the field of the exponent.
        e @ -126.. => sign | ((((e + 126) as u32) << 23) + shifted(23 - top) as u32),
        _ => sign | shifted(exponent + 149) as u32,
    }
}

/// One block of products and the accumulator, all finite.
fn block(hardware: Hardware, a: &[u16], b: &[u16], c: u32) -> u32 {
    let Hardware(_, extra_bits, least) = hardware;
    // Sign, significand, exponent, and how many bits of the significand lie below the exponent's.
    let mut terms: Vec<(bool, u64, i32, i32)> = vec![];
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (bf16(a), bf16(b));
        terms.push((a.0 != b.0, a.1 * b.1, a.2 + b.2, 14));
    }
    let c = f32_parts(c);
    terms.push((c.0, c.1, c.2, 23));
    let Some(top) = terms.iter().filter(|t| t.1 > 0).map(|t| t.2).max() else {
        return u32::from(terms.iter().all(|t| t.0)) << 31;
    };
    let unit = top.max(least) - 23 - extra_bits;
    let sum: i64 = terms
        .iter()
        .map(|&(negative, significand, exponent, below)| {
            let by = exponent - below - unit;
            let kept = match by {
                0.. if significand > 0 => significand << by,
                _ => significand.checked_shr(-by as u32).unwrap_or(0),
            };
            if negative { -(kept as i64) } else { kept as i64 }
        })
        .sum();
    if sum == 0 { 0 } else { cut_off(sum < 0, sum.unsigned_abs(), unit) }
}

/// Element (i, j) where all operands are finite.
fn reference(hardware: Hardware, p: &Product, i: usize, j: usize) -> u32 {
    let a: Vec<u16> = p.a[16 * i..][..16].to_vec();
    let b: Vec<u16> = (0..16).map(|k| p.b[8 * k + j]).collect();
    a.chunks(hardware.0).zip(b.chunks(hardware.0)).fold(p.c[8 * i + j], |c, (a, b)| {
        // An overflow in an earlier block stays.
        if c & 0x7fff_ffff == 0x7f80_0000 { c } else { block(hardware, a, b, c) }
    })
}

fn finite(p: &Product, i: usize, j: usize) -> bool {
    let number = |x: u16| x >> 7 & 0xff != 0xff;
    p.c[8 * i + j] >> 23 & 0xff != 0xff && (0..16).all(|k| number(p.a[16 * i + k]) && number(p.b[8 * k + j]))
}

/// Random bits with exponents in a range, one in `zeros` a zero of either sign (none if 0).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 += 1;
        mix(self.0) % n
    }

    fn bf16(&mut self, exponents: (u64, u64), zeros: u64) -> u16 {
        let sign = (self.below(2) as u16) << 15;
        if zeros > 0 && self.below(zeros) == 0 {
            return sign;
        }
        let field = exponents.0 + self.below(exponents.1 - exponents.0 + 1);
        sign | (field as u16) << 7 | self.below(128) as u16
    }

    fn f32(&mut self, exponents: (u64, u64), zeros: u64) -> u32 {
        u32::from(self.bf16(exponents, zeros)) << 16 | self.below(1 << 16) as u32
    }

    fn product(&mut self, ab: (u64, u64), c: (u64, u64), zeros: u64) -> Product {
        Product {
            a: std::array::from_fn(|_| self.bf16(ab, zeros)),
            b: std::array::from_fn(|_| self.bf16(ab, zeros)),
            c: std::array::from_fn(|_| if zeros == 2 { 0x8000_0000 } else { self.f32(c, zeros) }),
        }
    }
}

/// Least and most of a field.
type Fields = (u64, u64);

/// Fields of exponents of A and B, and of C; one zero in so many.
const RANGES: [(Fields, Fields, u64); 9] = [
    ((127, 127), (127, 131), 0),
    ((124, 130), (120, 135), 0),
    ((112, 142), (100, 154), 9),
    ((126, 128), (140, 152), 0),
    // All zeros now and then.
    ((120, 130), (120, 130), 2),
    // Products and sums at the least exponents, and operands below the normal ones.
    ((50, 66), (0, 3), 5),
    ((0, 2), (0, 0), 3),
    ((0, 140), (0, 40), 5),
    // Sums and products beyond the largest number.
    ((180, 195), (245, 254), 0),
];

#[test]
fn each_truncating_mode_is_its_reference_to_the_bit() {
    for (mma, hardware) in [(Mma::AMPERE, AMPERE), (Mma::HOPPER, HOPPER)] {
        for (n, (ab, c, zeros)) in RANGES.into_iter().enumerate() {
            let mut numbers = Numbers(n as u64 * 1_000_000);
            let products: Vec<Product> = (0..40).map(|_| numbers.product(ab, c, zeros)).collect();
            let truncated = run(Emulator::new(1).with_mma(mma), &products);
            let rounded = run(Emulator::new(2).with_mma(Mma::ROUND), &products);
            let mut different = 0;
            for (at, (&got, &round)) in truncated.iter().zip(&rounded).enumerate() {
                let (p, i, j) = (at / 128, at % 128 / 8, at % 8);
                let expected = reference(hardware, &products[p], i, j);
                assert!(
                    got == expected,
                    "{hardware:?}, range {n}, product {p}, element ({i}, {j}): {got:#x}, expected {expected:#x}"
                );
                different += usize::from(got != round);
            }
            println!(
                "{hardware:?}, range {n}: {different} of {} elements are not the rounded ones",
                truncated.len()
            );
            assert!(different > 0 || ab == (0, 2), "{hardware:?}, range {n}: nothing was cut off");
        }
    }
}

#[test]
fn rounding_is_one_sum_after_another() {
    let mut numbers = Numbers(77);
    let products: Vec<Product> = (0..40).map(|_| numbers.product((112, 142), (100, 154), 9)).collect();
    let got = run(Emulator::new(1).with_mma(Mma::ROUND), &products);
    let value = |x: u16| f32::from_bits(u32::from(x) << 16);
    for (at, &got) in got.iter().enumerate() {
        let (p, i, j) = (&products[at / 128], at % 128 / 8, at % 8);
        let start = f32::from_bits(p.c[8 * i + j]);
        let expected = (0..16).fold(start, |c, k| c + value(p.a[16 * i + k]) * value(p.b[8 * k + j]));
        assert_eq!(got, expected.to_bits());
    }
}

#[test]
fn where_an_operand_is_not_finite_all_modes_agree() {
    let mut numbers = Numbers(99);
    let mut products: Vec<Product> = (0..40).map(|_| numbers.product((112, 142), (100, 154), 5)).collect();
    for p in &mut products {
        let wild = [0x7f80, 0xff80, 0x7fc0];
        for _ in 0..2 {
            p.a[numbers.below(256) as usize] = wild[numbers.below(3) as usize];
            p.b[numbers.below(128) as usize] = wild[numbers.below(3) as usize];
            p.c[numbers.below(128) as usize] = u32::from(wild[numbers.below(3) as usize]) << 16;
        }
    }
    let rounded = run(Emulator::new(1).with_mma(Mma::ROUND), &products);
    for (mma, hardware) in [(Mma::AMPERE, AMPERE), (Mma::HOPPER, HOPPER)] {
        let truncated = run(Emulator::new(1).with_mma(mma), &products);
        let (mut infinite, mut nan) = (0, 0);
        for (at, (&got, &round)) in truncated.iter().zip(&rounded).enumerate() {
            let (p, i, j) = (&products[at / 128], at % 128 / 8, at % 8);
            if finite(p, i, j) {
                assert_eq!(got, reference(hardware, p, i, j), "what is finite is not touched");
            } else {
                assert_eq!(got, round);
                infinite += usize::from(f32::from_bits(got).is_infinite());
                nan += usize::from(f32::from_bits(got).is_nan());
            }
        }
        assert!(infinite > 100 && nan > 100, "{infinite} infinite, {nan} NaN");
    }
}

/// Products of `a` and 1 in row 0, and in all of its columns the same.
fn row(a: [f32; 16], b: [f32; 16], c: f32) -> Product {
    let bits = |x: f32| {
        assert_eq!(x.to_bits() & 0xffff, 0, "{x} is a bf16");
        (x.to_bits() >> 16) as u16
    };
    let mut product = Product { a: [0; 256], b: [0; 128], c: [c.to_bits(); 128] };
    for k in 0..16 {
        product.a[k] = bits(a[k]);
        product.b[8 * k..][..8].fill(bits(b[k]));
    }
    product
}

/// What `device` makes of the first element, for constructed sums whose results are known for each
/// mode.
fn constructed(device: impl Fn() -> Emulator) -> Vec<f32> {
    let ulp = f32::EPSILON;
    let few = |n: usize, x: f32| std::array::from_fn(|k| if k < n { x } else { 0.0 });
    let mut large_and_small: [f32; 16] = few(5, ulp / 2.0);
    large_and_small[0] = 1.5;
    let mut factors = [1.0; 16];
    factors[0] = 1.5;
    let sums = [
        // 1 and sixteen times three quarters of its last bit.
        row([0.75 * ulp; 16], [1.0; 16], 1.0),
        row([-0.75 * ulp; 16], [1.0; 16], -1.0),
        // An odd last bit and half a bit more.
        row(few(1, ulp / 2.0), [1.0; 16], 1.0 + ulp),
        // 1.5 * 1.5 counts with exponent 0, so four halves of the last bit of 1 are kept beside it.
        row(large_and_small, factors, 0.0),
    ];
    sums.iter().map(|sum| f32::from_bits(run(device(), std::slice::from_ref(sum))[0])).collect()
}

fn expected(name: &str) -> Vec<f32> {
    let ulp = f32::EPSILON;
    match name {
        // Each of the sixteen is rounded up to a whole bit. Of four halves of 1's last bit, each a
        // quarter of 2.25's, none moves it.
        "round" => vec![1.0 + 16.0 * ulp, -1.0 - 16.0 * ulp, 1.0 + 2.0 * ulp, 2.25],
        // Each of the sixteen is cut off to half a bit.
        "ampere" => vec![1.0 + 8.0 * ulp, -1.0 - 8.0 * ulp, 1.0 + ulp, 2.25 + 2.0 * ulp],
        // Nothing of the sixteen is lost: three quarters are two bits more.
        "hopper" => vec![1.0 + 12.0 * ulp, -1.0 - 12.0 * ulp, 1.0 + ulp, 2.25 + 2.0 * ulp],
        _ => panic!("{name}"),
    }
}

#[test]
fn modes_differ_as_constructed() {
    for (name, mma) in [("round", Mma::ROUND), ("ampere", Mma::AMPERE), ("hopper", Mma::HOPPER)] {
        assert_eq!(constructed(|| Emulator::new(1).with_mma(mma)), expected(name), "{name}");
    }
}

/// Runs itself with each setting of the environment.
#[test]
fn the_environment_names_the_mode() {
    const VARIABLE: &str = "COLLOQUY_EMULATOR_MMA";
    const CHILD: &str = "COLLOQUY_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let name = std::env::var(VARIABLE).unwrap();
        let device = Emulator::new(1).arithmetic();
        assert_eq!(device.ends_with(&name), name != "round", "{device}");
        return assert_eq!(constructed(|| Emulator::new(1)), expected(&name));
    }
    for name in ["round", "ampere", "hopper"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "emulator::tensor_cores::the_environment_names_the_mode"])
            .env(VARIABLE, name)
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }
}
