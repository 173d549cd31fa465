//! The library of Tollgate. It never prints, never reads arguments or the environment, never exits.

pub mod codes;
pub mod config;
pub mod ids;
pub mod plan;
pub mod recipe;
