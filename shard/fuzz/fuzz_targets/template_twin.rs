//! `template_twin` for `cargo fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| opcode_fuzz::template_twin::template_twin(data));
