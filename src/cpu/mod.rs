//! The threaded, tiled f32 engine: what runs where there is no GPU.
//!
//! One task is a tile of query rows: consecutive positions × both members of every pair that reads one KV head (a range
//! of the pairs where the group is large). All rows of a tile meet the same keys, so each K and V element that a matrix
//! product loads serves both members and the whole group. A task walks its visible keys in steps: scores by one matrix
//! product, online softmax in base 2 over contiguous rows, and a second product onto the running output. Tasks are
//! taken from a queue, those with the most keys first, by all threads of the current rayon pool; on
//! `wasm32-unknown-unknown` that is one. Every tile is computed by one thread in a fixed order, so that results do not
//! depend on the number of threads and are the same bits on every run on one processor.
//!
//! Storage types: inputs are rounded to the problem's [`DType`](crate::DType), as they are when they are stored on a
//! device, and so are results; sums are kept in f32.

mod backward;
mod deal;
mod exp;
mod forward;
pub mod layer;
pub(crate) mod ordinary;
mod product;
mod queue;
mod rows;
mod stored;
mod tiles;

pub use backward::backward;
pub use forward::forward;
