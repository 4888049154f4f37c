//! What is right, and how wrong a result may be.
//!
//! * [`forward`] and [`backward`]: the truth, in float64. The plain un-fused graph with naive loops over the keys: no
//!   tiles, no online softmax, no code shared with a kernel.
//! * [`yardstick`]: the same graph as an ordinary framework would run it in the storage type, every intermediate
//!   rounded to it.
//! * [`Judge`]: accepts a result that is about as near to the truth as the yardstick is, and rejects any other.
//!
//! Inputs are taken as they are: round them to the storage type first ([`crate::DType::round`]), so that every party
//! computes from the same numbers.

mod arithmetic;
mod backward;
mod compare;
mod forward;
pub mod layer;
mod magnitude;
mod problems;
mod rows;
pub mod yardstick;

pub use backward::{Gradients, backward};
pub use compare::{Judge, Verdict};
pub use forward::{Outputs, Truth, forward};
pub use problems::problems;
