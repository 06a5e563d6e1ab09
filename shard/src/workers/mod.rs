//! What runs steps: the pool, the circuit breakers, the processes that jq runs in.

pub mod breaker;
pub mod jq_pool;
pub mod pool;

pub use pool::Workers;
