//! Special tokens of a folder's files, conversations for scoring and training, and what others'
//! words may become.

mod ends;
mod quoted;
mod room;
mod special;
mod turns;
