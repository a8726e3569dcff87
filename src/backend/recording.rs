//! A backend that stores calls and executes them at `submit`: proof that no caller relies on a value before it downloads it,
//! and the source of the operation trace. STUB.
