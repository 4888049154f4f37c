//! Tests that need no adapter.

mod engine;
mod golden;
#[path = "../support/mod.rs"]
mod support;
