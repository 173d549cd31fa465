//! The actors of Tollgate and the seams they stand on.

pub mod store;
