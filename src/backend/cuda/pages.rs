//! Not written yet.

use super::*;

/// See [`Op`].
pub fn copy(_c: &mut CudaBackend, _kv: KvPool) -> Result<()> {
    Err(Error::Unsupported("pages on CUDA".into()))
}

/// The pages of all layers: K and V, each `[layers, pages, page_tokens, kv_width]`, bf16.
pub struct KvBuffer {
    /// Its shape.
    pub spec: KvSpec,
    /// K of all layers.
    pub keys: DevicePtr,
    /// V of all layers.
    pub values: DevicePtr,
}

impl KvBuffer {
    /// Takes the memory.
    pub fn new(driver: &mut dyn Driver, spec: KvSpec) -> Result<Self> {
        if spec.page_tokens == 0 || !spec.page_tokens.is_multiple_of(16) {
            return Err(Error::Unsupported(format!(
                "KV pages of {} tokens: expected a multiple of 16",
                spec.page_tokens
            )));
        }
        weights::check_width("a KV cache", spec.kv_width)?;
        let bytes = Self::elements(&spec) * 2;
        Ok(Self {
            spec,
            keys: driver.alloc(bytes, "KV pages (K)")?,
            values: driver.alloc(bytes, "KV pages (V)")?,
        })
    }

    fn elements(spec: &KvSpec) -> usize {
        spec.layers * spec.pages * spec.page_tokens * spec.kv_width
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        Self::elements(&self.spec) * 4
    }

    /// K and V of a layer, each `[pages, page_tokens, kv_width]`.
    pub fn layer(&self, layer: usize) -> (DevicePtr, DevicePtr) {
        let offset = layer * self.spec.pages * self.spec.page_tokens * self.spec.kv_width * 2;
        (self.keys.offset(offset), self.values.offset(offset))
    }

    /// Gives the memory back.
    pub fn free(self, driver: &mut dyn Driver) {
        driver.free(self.keys);
        driver.free(self.values);
    }
}
