//! From raw answers to Parquet by a declared table.
//!
//! Bytes of inputs and a [`Table`] come in, Parquet files and a quarantine go out; where both are is the caller's.
//! This crate knows no actor, no NATS, no store and no clock. It promises that
//!
//! - every record of an input becomes the rows that the table says, or an entry of the quarantine with the reason and
//!   the place; none is left out without a word and none ends the process, whatever its bytes are;
//! - the same inputs and the same table give the same rows in the same order, however many threads work;
//! - memory is bounded whatever the inputs' sizes: see [`Bounds`];
//! - values are as they were written or refused: nothing is rounded, cut or guessed.
//!
//! JSON is read by arrow-json, all values as text first (see `cast`), records of large or broken texts are found by
//! actson, CSV is read by csv, and Parquet is written by parquet. The types of a table need none of them: without the
//! feature `parquet` there is nothing else, so that a configuration is checked by a build that cannot stage.

#[cfg(feature = "parquet")]
mod cast;
#[cfg(feature = "parquet")]
mod cut;
#[cfg(feature = "parquet")]
mod fields;
#[cfg(feature = "parquet")]
mod fold;
#[cfg(feature = "parquet")]
mod job;
#[cfg(feature = "parquet")]
mod merge;
#[cfg(feature = "parquet")]
mod piece;
#[cfg(feature = "parquet")]
mod shape;
mod table;
#[cfg(feature = "parquet")]
mod tree;
#[cfg(feature = "parquet")]
mod undo;
#[cfg(feature = "parquet")]
mod unknown;
#[cfg(feature = "parquet")]
mod work;
#[cfg(feature = "parquet")]
mod write;

#[cfg(test)]
#[cfg(feature = "parquet")]
mod tests;

#[cfg(feature = "parquet")]
pub use job::{Bounds, Change, Failed, File, Halt, Input, Job, Report, check, run};
#[cfg(feature = "parquet")]
pub use merge::{Merged, Small, merge};
pub use table::{
    COLUMNS_MAX, Column, DECIMAL_DIGITS_MAX, EXPLODES_MAX, Format, From, Kind, Mismatch, Moment,
    Step, Table, Unknown, path, records,
};
#[cfg(feature = "parquet")]
pub use write::{Files, Out};
