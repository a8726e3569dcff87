//! How the emulated tensor cores add.
//!
//! The environment variable `COLLOQUY_EMULATOR_MMA` is `round` (as without it), `ampere` or
//! `hopper`: round after each product, or align the products of a block and truncate, as the tensor
//! cores of an A100 or an H100 do (`kernels/emulator/mma.h` says how, and whence it is known).

use crate::error::Error;

const VARIABLE: &str = "COLLOQUY_EMULATOR_MMA";

/// The arithmetic of a tensor-core product: the twin of `MmaArithmetic` in
/// `kernels/emulator/mma.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Mma {
    /// Products that are aligned and added at once; 0: each sum is rounded.
    products: i32,
    /// Bits that are kept below the last bit of an f32 with the largest exponent of a block.
    extra_bits: i32,
    /// Blocks are aligned to this exponent at least.
    least_exponent: i32,
}

impl Mma {
    /// One product after another, each sum rounded to the nearest f32.
    pub const ROUND: Mma = Mma { products: 0, extra_bits: 0, least_exponent: 0 };
    /// Truncating as an A100 does.
    pub const AMPERE: Mma = Mma { products: 8, extra_bits: 1, least_exponent: -132 };
    /// Truncating as an H100 does.
    pub const HOPPER: Mma = Mma { products: 16, extra_bits: 2, least_exponent: -133 };

    /// What the environment asks for, or the text there if it is none of the names.
    pub(super) fn wanted() -> Result<Mma, String> {
        let Some(text) = std::env::var_os(VARIABLE) else { return Ok(Mma::ROUND) };
        match text.to_str() {
            Some("" | "round") => Ok(Mma::ROUND),
            Some("ampere") => Ok(Mma::AMPERE),
            Some("hopper") => Ok(Mma::HOPPER),
            _ => Err(text.to_string_lossy().into_owned()),
        }
    }

    /// What it adds to the name of a device's arithmetic: results of one are not those of another.
    pub(super) fn suffix(&self) -> &'static str {
        match *self {
            Mma::AMPERE => " ampere",
            Mma::HOPPER => " hopper",
            _ => "",
        }
    }

    /// Its fields, for a log.
    pub(super) fn numbers(&self) -> [i32; 3] {
        [self.products, self.extra_bits, self.least_exponent]
    }
}

/// The error of a text that is none of the names.
pub(super) fn refused(text: String) -> Error {
    Error::input(VARIABLE, format!("found {text:?}, expected round, ampere or hopper"))
}
