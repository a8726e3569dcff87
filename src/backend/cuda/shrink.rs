//! Placeholder of this branch only: a naive kernel to test the linear group with; another branch brings this file.

use bytemuck::{Pod, Zeroable};

use super::*;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    slots: DevicePtr,
    places: DevicePtr,
    x: DevicePtr,
    h: DevicePtr,
    width: u32,
    stride: u32,
    first_part: u32,
    part_count: u32,
    backward: u32,
    unused: u32,
}

pub fn forward(c: &mut CudaBackend, group: GroupId, x: DevicePtr, h: DevicePtr, stride: usize) -> Result<()> {
    let width = c.slots.group(group)?.0.inputs;
    launch(c, group, x, width, h, stride, 0)
}

pub fn backward(
    c: &mut CudaBackend,
    group: GroupId,
    dy: DevicePtr,
    dh: DevicePtr,
    stride: usize,
) -> Result<()> {
    let width = c.slots.group(group)?.0.outputs;
    launch(c, group, dy, width, dh, stride, 1)
}

fn launch(
    c: &mut CudaBackend,
    group: GroupId,
    x: DevicePtr,
    width: usize,
    h: DevicePtr,
    stride: usize,
    backward: u32,
) -> Result<()> {
    let (layout, first) = c.slots.group(group)?;
    let params = Params {
        plan: c.plan.at(),
        slots: c.slots.table(),
        places: c.slots.places().offset(first.0 as usize * 16),
        x,
        h,
        width: width as u32,
        stride: stride as u32,
        first_part: first.0,
        part_count: layout.parts.len() as u32,
        backward,
        unused: 0,
    };
    if c.plan.bounds.rows > 0 {
        c.launch(Kernel::new("shrink", "naive_shrink", 128), [c.plan.bounds.rows, 1, 1], 0, &params);
    }
    Ok(())
}
