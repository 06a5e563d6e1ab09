//! `namespace` for `cargo fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| opcode_fuzz::namespace::namespace(data));
