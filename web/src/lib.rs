//! What the page calls: the kernels on the visitor's GPU, or the CPU engine where there is none.
//!
//! Thin on purpose: [`scene`] says what is computed and what it adds up to, and the JavaScript beside it draws that.
//! Nothing here blocks on the GPU.
#![warn(missing_docs, missing_debug_implementations)]
#![deny(unsafe_code)]

// These two know nothing of a browser, and their tests run natively.
pub mod scene;
pub mod text;

// The rest is called from JavaScript.
#[cfg(target_arch = "wasm32")]
mod check;
#[cfg(target_arch = "wasm32")]
mod engine;
#[cfg(target_arch = "wasm32")]
mod explain;
#[cfg(target_arch = "wasm32")]
mod idea;
#[cfg(target_arch = "wasm32")]
mod measure;
#[cfg(target_arch = "wasm32")]
mod pairing;
