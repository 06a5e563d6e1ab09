//! Deterministic simulation: whole clusters of the real shard code, by a seed.
//!
//! Real are the engine, the shard's loop, its coalescer and outbox, the groups with openraft's
//! core, the log store with its files' format, and the calls between nodes byte by byte.
//! Simulated are what they stand on: [`disk`], the network and the time ([`world`]), the machine's
//! clock, libSQL's file (`opcode_shard::simulation`), the world that steps act on ([`sink`]), and
//! all randomness ([`entropy`]).
//!
//! [`driver`] runs one seed: nodes ([`node`]) and clients ([`clients`]) on runtimes of one thread
//! whose time it moves, [`faults`] strike, all heals, and [`checkers`] compare what is there with
//! what clients were told ([`history`]). The same seed gives the same trace to the last byte.

pub mod checkers;
pub mod clients;
pub mod disk;
pub mod driver;
pub mod entropy;
pub mod faults;
pub mod history;
pub mod node;
pub mod relay;
pub mod sink;
pub mod world;
