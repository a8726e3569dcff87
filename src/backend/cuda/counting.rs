//! A device that only counts: for plans of models that are not here or would not fit, on machines without a GPU.

use super::CudaBackend;
use super::driver::{DevicePtr, Driver, GraphId, Launch};
use crate::backend::{Ceilings, OpTimes};
use crate::error::{Error, Result};

/// Its memory has no end and holds nothing; what is enqueued does not run.
struct Counting {
    multiprocessors: u32,
    next: u64,
}

impl CudaBackend {
    /// The backend on a device with so many multiprocessors that only counts: it plans as on a GPU, and
    /// computes nothing.
    pub fn counting(multiprocessors: u32) -> Self {
        // Addresses start above the one that means no memory.
        Self::new(Box::new(Counting { multiprocessors, next: 256 }))
    }
}

/// Of work whose result somebody wants.
fn no<T>(what: &str) -> Result<T> {
    Err(Error::Internal(format!("{what} on a device that only counts")))
}

impl Driver for Counting {
    fn describe(&self) -> String {
        "a device that only counts".into()
    }

    fn arithmetic(&self) -> String {
        "none".into()
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn memory(&self) -> Option<usize> {
        None
    }

    fn alloc(&mut self, bytes: usize, _what: &str) -> Result<DevicePtr> {
        let at = DevicePtr(self.next);
        self.next += bytes.next_multiple_of(256) as u64;
        Ok(at)
    }

    fn free(&mut self, _memory: DevicePtr) {}

    fn upload(&mut self, _to: DevicePtr, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn copy(&mut self, _from: DevicePtr, _to: DevicePtr, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn fill(&mut self, _to: DevicePtr, _byte: u8, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn launch(&mut self, _launch: &Launch) -> Result<()> {
        Ok(())
    }

    fn capture(&mut self, _launches: &[Launch]) -> Result<GraphId> {
        no("a graph")
    }

    fn replay(&mut self, _graph: GraphId) -> Result<()> {
        no("a graph")
    }

    fn drop_graph(&mut self, _graph: GraphId) {}

    fn submit(&mut self) -> Result<()> {
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }

    fn download(&mut self, _from: DevicePtr, _bytes: &mut [u8]) -> Result<()> {
        no("a download")
    }

    fn fetch(&mut self, _parts: [(DevicePtr, usize); 2]) -> Result<u64> {
        no("a download")
    }

    fn fetched(&mut self, _copy: u64, _parts: [&mut [u8]; 2]) -> Result<()> {
        no("a download")
    }

    fn set_profiling(&mut self, _on: bool) -> Result<()> {
        no("a profile")
    }

    fn take_profile(&mut self) -> Result<Vec<OpTimes>> {
        no("a profile")
    }

    fn ceilings(&mut self) -> Result<Option<Ceilings>> {
        no("a measurement")
    }
}
