//! The KV cache on the host's side: which page holds which tokens, who holds it, and what may be
//! given away.
//!
//! A page holds K and V of `page_tokens` consecutive positions in all layers. Sequences hold
//! references to pages; full pages also stand in a prefix tree keyed by (weights id, rotary
//! variant, tokens), so that whoever needs the same prefix under the same weights finds it. A page
//! that nobody references stays in the tree until its place is needed, least recently used first.

mod tree;

use std::collections::{BTreeSet, HashMap};

pub use tree::NodeId;
use tree::Tree;

use super::slots::WeightsId;
use crate::model::RopeVariant;

/// What K and V depend on beside the tokens.
pub type Under = (WeightsId, RopeVariant);

/// A page of the pool.
pub type Page = u32;

/// What is known about a page.
#[derive(Clone, Copy, Default)]
struct PageState {
    /// Sequences (and copies under way) that need it.
    references: u32,
    /// Its node, if the tree knows it.
    node: Option<NodeId>,
}

/// The longest known prefix of some tokens. The pages are referenced for the caller.
#[derive(Debug, PartialEq)]
pub struct Prefix {
    /// Where the prefix ends in the tree.
    pub node: NodeId,
    /// Full pages, in order.
    pub pages: Vec<Page>,
    /// A page whose first `usize` tokens go on from there, to be copied; referenced too.
    pub partial: Option<(Page, usize)>,
}

/// Page pool and prefix tree.
pub struct KvCache {
    page_tokens: usize,
    pages: Vec<PageState>,
    free: Vec<Page>,
    tree: Tree,
    roots: HashMap<WeightsId, HashMap<RopeVariant, NodeId>>,
    /// Leaves of the tree that nobody references, least recently used first.
    evictable: BTreeSet<(u64, NodeId)>,
    /// Pages in the tree that nobody references, leaves or not.
    idle: usize,
    clock: u64,
}

impl KvCache {
    /// A pool of `pages` free pages.
    pub fn new(pages: usize, page_tokens: usize) -> Self {
        assert!(page_tokens > 0, "a page holds at least one token");
        Self {
            page_tokens,
            pages: vec![PageState::default(); pages],
            free: (0..pages as Page).rev().collect(),
            tree: Tree::default(),
            roots: HashMap::new(),
            evictable: BTreeSet::new(),
            idle: 0,
            clock: 0,
        }
    }

    /// Tokens in a page.
    pub fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    /// Pages in the pool.
    pub fn capacity(&self) -> usize {
        self.pages.len()
    }

    /// Pages that hold nothing or nothing that a sequence needs.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle
    }

    /// Pages that sequences hold.
    pub fn in_use(&self) -> usize {
        self.capacity() - self.available()
    }

    /// Pages that nobody references but the tree remembers.
    pub fn cached(&self) -> usize {
        self.idle
    }

    /// References to a page.
    pub fn references(&self, page: Page) -> u32 {
        self.pages[page as usize].references
    }

    /// Whether the caller's reference is the only one and the tree doesn't know the page: it may be written.
    pub fn is_private(&self, page: Page) -> bool {
        let state = &self.pages[page as usize];
        state.references == 1 && state.node.is_none()
    }

    /// A page of the caller's own, referenced once; forgets the least recently used prefix if it
    /// must. `None` if sequences hold all pages.
    pub fn allocate(&mut self) -> Option<Page> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                let (_, leaf) = self.evictable.pop_first()?;
                self.unlink(leaf)
            }
        };
        self.pages[page as usize] = PageState { references: 1, node: None };
        Some(page)
    }

    /// One more reference.
    pub fn retain(&mut self, page: Page) {
        let state = &mut self.pages[page as usize];
        state.references += 1;
        if let (1, Some(node)) = (state.references, state.node) {
            self.idle -= 1;
            self.evictable.remove(&(self.tree.last_used(node), node));
        }
    }

    /// One reference less. A page that the tree doesn't know is free at once.
    pub fn release(&mut self, page: Page) {
        let state = &mut self.pages[page as usize];
        debug_assert!(state.references > 0, "page {page} is released twice");
        state.references -= 1;
        if state.references > 0 {
            return;
        }
        match state.node {
            None => self.free.push(page),
            Some(node) => {
                self.clock += 1;
                self.idle += 1;
                self.tree.set_last_used(node, self.clock);
                if self.tree.is_leaf(node) {
                    self.evictable.insert((self.clock, node));
                }
            }
        }
    }

    /// Where prefixes under these weights and frequencies start.
    pub fn root(&mut self, (weights, rope): Under) -> NodeId {
        *self.roots.entry(weights).or_default().entry(rope).or_insert_with(|| self.tree.add_root())
    }

    /// The longest known prefix of `tokens` that is at most `limit` long. Full pages may be those
    /// that this very `step` writes (within a layer, K and V of all rows are written before any
    /// attention); what is copied must have been written before.
    pub fn lookup(&mut self, under: Under, tokens: &[u32], limit: usize, step: u64) -> Prefix {
        let limit = limit.min(tokens.len());
        let mut node = self.root(under);
        let mut pages = Vec::new();
        while (pages.len() + 1) * self.page_tokens <= limit {
            let key = &tokens[pages.len() * self.page_tokens..][..self.page_tokens];
            let Some(child) = self.tree.child(node, key) else { break };
            node = child;
            pages.push(self.tree.page(node));
        }
        let rest = &tokens[pages.len() * self.page_tokens..limit];
        let partial = self.tree.longest_common_prefix(node, rest, step);
        for &page in &pages {
            self.retain(page);
        }
        if let Some((page, _)) = partial {
            self.retain(page);
        }
        Prefix { node, pages, partial }
    }

    /// Makes a full page known: `tokens` follow the prefix that ends at `parent`, and `page`, which
    /// the caller holds, gets or got them in `step`. If another page is known for the same tokens
    /// it is returned, referenced: the caller should use it instead of its own once the step is
    /// over.
    pub fn insert(
        &mut self,
        parent: NodeId,
        tokens: &[u32],
        page: Page,
        step: u64,
    ) -> (NodeId, Option<Page>) {
        debug_assert_eq!(tokens.len(), self.page_tokens);
        if let Some(node) = self.tree.child(parent, tokens) {
            let known = self.tree.page(node);
            debug_assert_ne!(known, page);
            self.retain(known);
            return (node, Some(known));
        }
        let node = self.tree.add(parent, tokens, page, step);
        self.pages[page as usize].node = Some(node);
        self.evictable.remove(&(self.tree.last_used(parent), parent));
        (node, None)
    }

    /// Forgets everything under `weights`, which no adapter has any more. Pages that sequences
    /// still hold are freed when they let go.
    pub fn forget(&mut self, weights: WeightsId) {
        for root in self.roots.remove(&weights).unwrap_or_default().into_values() {
            for (node, page, last_used) in self.tree.remove_subtree(root) {
                self.evictable.remove(&(last_used, node));
                let state = &mut self.pages[page as usize];
                state.node = None;
                if state.references == 0 {
                    self.idle -= 1;
                    self.free.push(page);
                }
            }
        }
    }

    /// Takes an unreferenced leaf out of the tree and returns its page.
    fn unlink(&mut self, leaf: NodeId) -> Page {
        let (page, parent) = self.tree.remove_leaf(leaf);
        self.idle -= 1;
        if self.tree.is_leaf(parent)
            && let Some(parent_page) = self.tree.page_of(parent)
            && self.references(parent_page) == 0
        {
            self.evictable.insert((self.tree.last_used(parent), parent));
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: Under = (WeightsId(7), RopeVariant(0));

    /// Allocates, fills and makes known the pages of `tokens`, and returns them.
    fn fill(kv: &mut KvCache, tokens: &[u32], step: u64) -> Vec<Page> {
        let mut node = kv.root(W);
        let mut pages = Vec::new();
        for chunk in tokens.chunks_exact(kv.page_tokens()) {
            let page = kv.allocate().unwrap();
            let (next, known) = kv.insert(node, chunk, page, step);
            assert_eq!(known, None);
            node = next;
            pages.push(page);
        }
        pages
    }

    #[test]
    fn a_prefix_is_found_by_whole_pages_and_by_part_of_one() {
        let mut kv = KvCache::new(8, 2);
        let pages = fill(&mut kv, &[1, 2, 3, 4, 5, 6], 0);
        let found = kv.lookup(W, &[1, 2, 3, 4, 5, 9], 6, 1);
        assert_eq!(found.pages, pages[..2]);
        assert_eq!(found.partial, Some((pages[2], 1)));
        assert_eq!(kv.references(pages[2]), 2);
        // The limit cuts a whole page down to a part of it.
        assert_eq!(kv.lookup(W, &[1, 2, 3, 4, 5, 6], 5, 1).partial, Some((pages[2], 1)));
        // A page of this very step can be read, not copied.
        assert_eq!(kv.lookup(W, &[1, 2, 3, 4, 5, 9], 6, 0).partial, None);
        // Other weights know nothing, and other frequencies.
        for other in [(WeightsId(8), RopeVariant(0)), (W.0, RopeVariant(1))] {
            let found = kv.lookup(other, &[1, 2], 2, 1);
            assert!(found.pages.is_empty() && found.partial.is_none());
        }
    }

    #[test]
    fn released_pages_stay_known_until_their_place_is_needed() {
        let mut kv = KvCache::new(3, 2);
        let old = fill(&mut kv, &[1, 2, 3, 4], 0);
        let young = fill(&mut kv, &[7, 8], 0);
        assert_eq!(kv.available(), 0);
        assert_eq!(kv.allocate(), None);
        for &p in old.iter().chain(&young) {
            kv.release(p);
        }
        assert_eq!((kv.available(), kv.cached()), (3, 3));
        // The deepest page of the oldest prefix goes first, then its parent.
        assert_eq!(kv.allocate(), Some(old[1]));
        assert_eq!(kv.allocate(), Some(old[0]));
        let found = kv.lookup(W, &[7, 8], 2, 1);
        assert_eq!(found.pages, young);
        assert_eq!(kv.allocate(), None);
    }

    #[test]
    fn the_same_tokens_are_known_once() {
        let mut kv = KvCache::new(4, 1);
        let first = fill(&mut kv, &[5], 0)[0];
        let second = kv.allocate().unwrap();
        let root = kv.root(W);
        let (node, known) = kv.insert(root, &[5], second, 0);
        assert_eq!(known, Some(first));
        assert_eq!(kv.references(first), 2);
        kv.release(second);
        assert_eq!(kv.in_use(), 1);
        assert_eq!(kv.lookup(W, &[5], 1, 1).node, node);
    }

    #[test]
    fn dead_weights_free_their_pages() {
        let mut kv = KvCache::new(4, 1);
        let pages = fill(&mut kv, &[1, 2, 3], 0);
        kv.release(pages[2]);
        kv.forget(W.0);
        assert_eq!(kv.available(), 2);
        kv.release(pages[1]);
        kv.release(pages[0]);
        assert_eq!((kv.available(), kv.cached()), (4, 0));
        assert!(kv.lookup(W, &[1, 2], 2, 1).pages.is_empty());
    }
}
