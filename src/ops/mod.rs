//! One plan type per operation: validate → tile → variant → pipeline, then bind once and encode often.

pub(crate) mod bind;
pub(crate) mod forward;
