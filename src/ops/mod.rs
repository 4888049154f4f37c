//! One plan type per operation: validate → tile → variant → pipeline, then bind once and encode often.

pub(crate) mod backward;
pub(crate) mod bind;
pub(crate) mod cache_launch;
pub(crate) mod decode;
pub(crate) mod forward;
pub(crate) mod host;
pub(crate) mod kv_append;
pub(crate) mod launch;
pub(crate) mod matmul;
pub(crate) mod upload;
