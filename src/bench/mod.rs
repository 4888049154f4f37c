//! Benchmarks: what is measured, and the records that hold what was measured. Shared by the command, the criterion
//! benches and the page.
//!
//! A [`Suite`] is a list of [`Case`]s; [`run`] measures the device's limits, judges each case by the float64 reference,
//! times it, and gives a [`Record`]: a [`Header`] that says on what, and a [`Row`] for each case. Rows can be put
//! beside those of another device while [`Header::suite`] and [`Header::suite_version`] are the same.

mod backward;
mod case;
mod decode;
mod forward;
mod glue;
mod header;
mod limits;
mod module;
mod on_cpu;
mod on_device;
mod product;
mod record;
mod roofline;
mod run;
mod shaders;
mod stats;
mod stopwatch;
mod subject;
mod suite;
mod tensors;
mod validate;
mod verify;

pub use case::{Case, Form, Op, Runner, ShapeText};
pub use glue::Glue;
pub use record::{Header, Limits, Record, Row, SCHEMA, Skipped, Timer};
pub use roofline::{Bound, Cost};
pub use run::{Observer, Settings, Stage, run};
pub use shaders::Probe;
pub use suite::Suite;
