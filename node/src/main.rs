//! The `opcode` binary.
fn main() {}
