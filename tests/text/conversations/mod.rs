//! Special tokens of a folder's files, conversations for scoring and training, and what others'
//! words may become.

#[path = "../folders/mod.rs"]
mod folders;

mod ends;
mod quoted;
mod room;
mod special;
mod turns;
