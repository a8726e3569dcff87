//! Tokens and templates of model folders, and files from strangers.

#[path = "../common/mod.rs"]
mod common;

mod chat_templates;
mod conversations;
mod corpora;
mod folders;
mod tokens;
