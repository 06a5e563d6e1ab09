//! What the driver and the peers' services share: the work, the load, and what is measured of it.
//!
//! A closed loop keeps a number of runs open (`load`), and processes and the disk are watched
//! meanwhile (`usage`). DBOS runs inside the program that offers its load, so that program uses both
//! too, and hands its figures to the driver.

pub mod load;
pub mod usage;
pub mod work;
