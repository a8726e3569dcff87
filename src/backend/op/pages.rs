//! Copies of KV pages.

use std::collections::HashSet;

use super::*;

/// The plan's `page_copies`, in all layers, before anything else of the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CopyPages {
    /// The pages.
    pub kv: KvPool,
}

impl CopyPages {
    /// Checks the plan's copies: their order must not matter.
    pub(crate) fn check(&self, c: &impl Shapes) -> Result<KvSpec> {
        let (op, plan, spec) = (Self::NAME, c.step(), existing_pool(c, self.kv)?);
        let targets: HashSet<u32> = plan.page_copies.iter().map(|c| c.to).collect();
        for copy in &plan.page_copies {
            let PageCopy { from, to, tokens } = *copy;
            if [from, to].iter().any(|&p| p as usize >= spec.pages) || tokens as usize > spec.page_tokens {
                return Err(Error::Internal(format!(
                    "{op}: {copy:?} in a pool of {} pages of {} tokens",
                    spec.pages, spec.page_tokens
                )));
            }
            if from != to && targets.contains(&from) {
                return Err(Error::Internal(format!("{op}: {copy:?} from a page that is copied to")));
            }
        }
        if targets.len() != plan.page_copies.len() {
            return Err(Error::Internal(format!("{op}: two copies to one page")));
        }
        Ok(spec)
    }
}

/// A pool's shape, or the error that there is no such pool.
fn existing_pool(c: &impl Shapes, kv: KvPool) -> Result<KvSpec> {
    c.pool_spec(kv).ok_or_else(|| Error::Internal(format!("KV pool {} does not exist", kv.0)))
}

/// Checks a layer of a pool against the heads, and that every sequence has pages of the pool for
/// all its positions; gives the pool's shape.
pub(super) fn check_pages(
    op: &str,
    c: &impl Shapes,
    kv: KvPool,
    layer: u32,
    heads: &Heads,
) -> Result<KvSpec> {
    let (plan, spec) = (c.step(), existing_pool(c, kv)?);
    if spec.kv_width != heads.kv_width() || layer as usize >= spec.layers {
        return Err(Error::Internal(format!(
            "{op}: layer {layer} of width {} in a KV pool of {} layers of width {}",
            heads.kv_width(),
            spec.layers,
            spec.kv_width
        )));
    }
    if c.pages_fit(&spec) {
        return Ok(spec);
    }
    for s in plan.sequences.iter().filter(|s| s.start < s.end) {
        let pages = plan.page_table.get(s.pages_start as usize..s.pages_end as usize).ok_or_else(|| {
            Error::Internal(format!("{op}: the sequence at row {} has no page table", s.start))
        })?;
        let tokens = (s.first_position + (s.end - s.start)) as usize;
        if pages.len() * spec.page_tokens < tokens {
            return Err(Error::Internal(format!(
                "{op}: the sequence at row {} has {} pages of {} tokens, needs {tokens} tokens",
                s.start,
                pages.len(),
                spec.page_tokens
            )));
        }
        if let Some(page) = pages.iter().find(|&&p| p as usize >= spec.pages) {
            return Err(Error::Internal(format!("{op}: page {page} of a pool of {}", spec.pages)));
        }
    }
    Ok(spec)
}
