//! exp and log as polynomials, the same bits on every instruction set. STUB.
