//! What backends say of their handles, and the checks that operations share. Each operation checks
//! its operands against this once, so that no two backends can disagree on what is legal.

use std::ops::Range;

use super::*;

/// Shape of a linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinearShape {
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
    /// Whether `dy W` can be computed.
    pub backward: bool,
}

/// The shapes behind a backend's handles. Lookups give `None` where a handle does not exist.
pub(crate) trait Shapes {
    /// What the stride of a shrink tensor must be a multiple of.
    const SHRINK_STEP: usize = 1;
    /// The largest head size of attention, where there is one.
    const MOST_HEAD_DIM: Option<usize> = None;

    /// The plan of the step.
    fn step(&self) -> &BatchPlan;
    /// A tensor's shape and element type.
    fn tensor_spec(&self, tensor: Tensor) -> Option<TensorSpec>;
    /// A linear's shape.
    fn linear_shape(&self, linear: Linear) -> Option<LinearShape>;
    /// Numbers in a vector.
    fn vector_len(&self, vector: Vector) -> Option<usize>;
    /// Rows and columns of an embedding table.
    fn table_shape(&self, table: Table) -> Option<(usize, usize)>;
    /// Positions of a rotary table, and half the rotated part of a head.
    fn rope_shape(&self, table: RopeTable) -> Option<(usize, usize)>;
    /// A pool's shape.
    fn pool_spec(&self, pool: KvPool) -> Option<KvSpec>;
    /// Whether the plan is known to have pages of such a pool for all positions; if not, each
    /// sequence is looked at.
    fn pages_fit(&self, _spec: &KvSpec) -> bool {
        false
    }
    /// A linear group, and its parts by [`PartId`].
    fn group_parts(&self, group: GroupId) -> Result<(&GroupLayout, Range<usize>)>;
    /// Columns of `h` that a slot's parts among these have.
    fn shrink_width(&self, slot: Slot, parts: Range<usize>) -> Result<usize>;
    /// An error unless a slot has gradients, or nothing that could have any.
    fn require_optimizer(&self, slot: Slot) -> Result<()>;

    /// A tensor's shape, or the error that there is no such tensor.
    fn existing(&self, tensor: Tensor) -> Result<TensorSpec> {
        let missing = || Error::Internal(format!("tensor {} does not exist", tensor.0));
        self.tensor_spec(tensor).ok_or_else(missing)
    }

    /// Checks that `tensor` holds at least `rows` rows of exactly `width` elements of this type.
    fn check(&self, op: &str, tensor: Tensor, rows: usize, width: usize, element: Element) -> Result<()> {
        let found = self.existing(tensor)?;
        if found.rows < rows || found.width != width || found.element != element {
            return Err(Error::Internal(format!(
                "{op}: tensor {} is {:?} [{}, {}], expected {element:?} [>= {rows}, {width}]",
                found.name, found.element, found.rows, found.width
            )));
        }
        Ok(())
    }

    /// [`Shapes::check`] of activations: each a tensor and its width.
    fn check_activations<const N: usize>(
        &self,
        op: &str,
        rows: usize,
        tensors: [(Tensor, usize); N],
    ) -> Result<()> {
        tensors.into_iter().try_for_each(|(t, width)| self.check(op, t, rows, width, Element::Activation))
    }

    /// Checks the weight of a norm over `width` numbers; `of` says what they are.
    fn check_weight(&self, op: &str, weight: Vector, width: usize, of: &str) -> Result<()> {
        match self.vector_len(weight) {
            Some(len) if len == width && width > 0 => Ok(()),
            Some(len) => Err(Error::Internal(format!("{op}: weight of {len} for {of} of {width}"))),
            None => Err(Error::Internal(format!("{op}: vector {} does not exist", weight.0))),
        }
    }

    /// A linear's shape, or the error that there is no such linear.
    fn existing_linear(&self, op: &str, linear: Linear) -> Result<LinearShape> {
        let missing = || Error::Internal(format!("{op}: linear {} does not exist", linear.0));
        self.linear_shape(linear).ok_or_else(missing)
    }
}

/// Checks that an operation does not read what it writes.
pub(super) fn apart(op: &str, written: Tensor, read: &[Tensor]) -> Result<()> {
    match read.contains(&written) {
        true => {
            Err(Error::Internal(format!("{op}: tensor {} is read and written by one operation", written.0)))
        }
        false => Ok(()),
    }
}
