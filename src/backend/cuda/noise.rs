//! [`Noise`] made on the device: `kernels/noise.cu`.

use bytemuck::{Pod, Zeroable};

use super::driver::{DevicePtr, Driver, Kernel, Launch};
use crate::backend::Noise;
use crate::error::{Error, Result};

const FILL: Kernel = Kernel::new("noise", "fill_noise", 256);
/// Numbers that a block makes.
const PER_BLOCK: usize = 256 * 8;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    out: DevicePtr,
    count: u64,
    seed: u64,
    scale: f32,
    unused: u32,
}

/// Enqueues filling `count` bf16 numbers, a multiple of 8, with noise.
pub fn fill(driver: &mut dyn Driver, to: DevicePtr, count: usize, noise: Noise) -> Result<()> {
    if !count.is_multiple_of(8) {
        return Err(Error::Internal(format!("{count} numbers of noise, expected a multiple of 8")));
    }
    if count == 0 {
        return Ok(());
    }
    let params = Params { out: to, count: count as u64, seed: noise.seed, scale: noise.scale, unused: 0 };
    let grid = [count.div_ceil(PER_BLOCK) as u32, 1, 1];
    driver.launch(&Launch { kernel: FILL, grid, shared: 0, params: bytemuck::bytes_of(&params).to_vec() })
}
