//! The emulator itself: what it must notice, and its tensor cores.

mod defects;
mod tensor_cores;
