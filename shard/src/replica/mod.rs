//! Embedded replicas: libSQL's own sync protocol, version 2 over HTTP, for copies of a shard's
//! tables that anybody may hold. The members of a shard do not use it: they follow the log.
//!
//! The protocol, as the stock clients speak it: `info` names a generation, `export` gives the file
//! that it starts from, `sync/{generation}/{start}/{end}` its frames, which are those of a libSQL
//! WAL, numbered from 1. A client knows two numbers, its generation and the last frame of it that
//! it has committed, and goes from one generation to the next, by one, when it is told that there
//! is a later one. It sends nothing that says whose frames these were; yet frames of one file
//! written over another one's are silent corruption. Hence:
//!
//! 1. **A generation's number is never used twice** for different frames, by no node, not after a
//!    restart and not for a file that took another's place: [`numbers`].
//! 2. **A generation begins with everything.** Its first transaction is the whole file, so it heals
//!    whoever comes into it, from whatever state: another node's replica, one that is far behind,
//!    one that went another way. What `export` gives is an empty database.
//! 3. **Whoever is at a number that is not served goes on to one that is**, step by step through
//!    numbers that are other nodes', never in the middle of a transaction.
//!
//! [`feed`] is what the tables' writer and the server share: which frames there are, and where.
//! Nothing is kept or copied while nobody syncs. [`sync_server`] answers; [`sync_client`] is the
//! other end on a node that is no member of a shard and wants to read it all the same.

mod connector;
pub(crate) mod feed;
mod numbers;
pub mod sync_client;
pub mod sync_server;
#[cfg(test)]
mod tests;
