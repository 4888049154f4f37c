//! Tests that need no adapter.

mod golden;
#[path = "../support/mod.rs"]
mod support;
