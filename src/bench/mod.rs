//! Benchmarks: what is measured, and the records that hold what was measured. Shared by the command, the criterion
//! benches and the page.
//!
//! A [`Record`] is one run on one device: a [`Header`] that says on what, and a [`Row`] for each case. Rows can be put
//! beside those of another device while [`Header::suite`] and [`Header::suite_version`] are the same.

mod record;

pub use record::{Header, Limits, Record, Row, SCHEMA, Skipped, Timer};
