//! The simulation itself under test: seeds pass, repeat to the byte, and find what is planted.

mod planted;
mod seeds;
