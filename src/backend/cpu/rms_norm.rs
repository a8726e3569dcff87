//! STUB.
use super::*;
pub fn forward(_c: &mut CpuBackend, _x: Tensor, _w: Vector, _e: f32, _o: Tensor, _g: bool) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
pub fn backward(
    _c: &mut CpuBackend,
    _x: Tensor,
    _w: Vector,
    _e: f32,
    _dy: Tensor,
    _dx: Tensor,
    _a: bool,
    _g: bool,
) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
