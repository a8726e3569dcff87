//! Requests to a resident model, and their answers. How they come and go is a transport's business.

pub mod generate;
pub mod grade;
pub mod records;
pub mod request;
pub mod score;
mod server;
pub mod tokens;
pub mod train;

pub use server::{Answer, Response, Server, ServerOptions};
