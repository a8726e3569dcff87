//! The prefix tree: one node a full page, children keyed by the page's tokens.

use std::collections::HashMap;

use super::Page;

/// A node of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

struct Node {
    /// The page and the parent; roots have neither.
    page: Option<Page>,
    parent: Option<NodeId>,
    /// Tokens of the page: the node's key in its parent.
    tokens: Box<[u32]>,
    children: HashMap<Box<[u32]>, NodeId>,
    /// The step that writes the page.
    written: u64,
    last_used: u64,
}

/// Nodes by id; places of removed nodes are used again.
#[derive(Default)]
pub(super) struct Tree {
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
}

impl Tree {
    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0 as usize].as_ref().expect("a live node")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0 as usize].as_mut().expect("a live node")
    }

    fn place(&mut self, node: Node) -> NodeId {
        match self.vacant.pop() {
            Some(id) => {
                self.nodes[id.0 as usize] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                NodeId(self.nodes.len() as u32 - 1)
            }
        }
    }

    fn take(&mut self, id: NodeId) -> Node {
        self.vacant.push(id);
        self.nodes[id.0 as usize].take().expect("a live node")
    }

    pub fn add_root(&mut self) -> NodeId {
        self.place(Node {
            page: None,
            parent: None,
            tokens: Box::default(),
            children: HashMap::new(),
            written: 0,
            last_used: 0,
        })
    }

    pub fn add(&mut self, parent: NodeId, tokens: &[u32], page: Page, written: u64) -> NodeId {
        let id = self.place(Node {
            page: Some(page),
            parent: Some(parent),
            tokens: tokens.into(),
            children: HashMap::new(),
            written,
            last_used: 0,
        });
        self.node_mut(parent).children.insert(tokens.into(), id);
        id
    }

    pub fn child(&self, parent: NodeId, tokens: &[u32]) -> Option<NodeId> {
        self.node(parent).children.get(tokens).copied()
    }

    /// The page of a node that is no root.
    pub fn page(&self, id: NodeId) -> Page {
        self.node(id).page.expect("only roots have no page")
    }

    pub fn page_of(&self, id: NodeId) -> Option<Page> {
        self.node(id).page
    }

    pub fn is_leaf(&self, id: NodeId) -> bool {
        self.node(id).children.is_empty()
    }

    pub fn last_used(&self, id: NodeId) -> u64 {
        self.node(id).last_used
    }

    pub fn set_last_used(&mut self, id: NodeId, clock: u64) {
        self.node_mut(id).last_used = clock;
    }

    /// The child, written before `step`, that shares most leading tokens with `tokens`, and how
    /// many. Any of several will do.
    pub fn longest_common_prefix(&self, parent: NodeId, tokens: &[u32], step: u64) -> Option<(Page, usize)> {
        let mut best: Option<(Page, usize)> = None;
        for (key, &child) in &self.node(parent).children {
            let common = key.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            let child = self.node(child);
            if common > best.map_or(0, |(_, n)| n) && child.written < step {
                best = child.page.map(|page| (page, common));
                if common == tokens.len() {
                    break;
                }
            }
        }
        best
    }

    /// Removes a leaf; its page and parent.
    pub fn remove_leaf(&mut self, id: NodeId) -> (Page, NodeId) {
        let node = self.take(id);
        debug_assert!(node.children.is_empty());
        let parent = node.parent.expect("roots are not evicted");
        self.node_mut(parent).children.remove(&node.tokens);
        (node.page.expect("only roots have no page"), parent)
    }

    /// Removes a root and all below; (node, page, last use) of each page.
    pub fn remove_subtree(&mut self, root: NodeId) -> Vec<(NodeId, Page, u64)> {
        let mut removed = Vec::new();
        let mut stack = vec![root];
        while let Some(id) = stack.pop() {
            let node = self.take(id);
            stack.extend(node.children.values());
            if let Some(page) = node.page {
                removed.push((id, page, node.last_used));
            }
        }
        removed
    }
}
