//! Requests to a resident model, and their answers. How they come and go is a transport's business.

pub mod generate;
pub mod grade;
pub mod records;
pub mod request;
mod resident;
pub mod score;
pub mod tokens;
pub mod train;

pub use resident::{Resident, ResidentOptions};
