//! What the page calls: the kernels on the visitor's GPU, or the CPU engine where there is none.
//!
//! Thin on purpose: [`scene`] and [`pairing`] say what is computed, [`check`] judges it, and the JavaScript beside them
//! draws it. Nothing here blocks on the GPU.
#![warn(missing_docs, missing_debug_implementations)]
#![deny(unsafe_code)]

mod check;
mod engine;
mod idea;
mod measure;
mod pairing;
mod scene;
mod text;

use wasm_bindgen::prelude::*;

/// A defect shows where developers look for it.
#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

/// An error of the library as an `Error` of JavaScript, named after its kind so that the page can tell what to do.
fn explain(error: diffattn::Error) -> JsValue {
    use diffattn::Error::*;
    let name = match error {
        Limit { .. } => "Limit",
        NoAdapter { .. } => "NoAdapter",
        OutOfMemory { .. } => "OutOfMemory",
        DeviceLost { .. } | Readback { .. } => "DeviceLost",
        Shader { .. } => "Shader",
        _ => "Error",
    };
    let explained = js_sys::Error::new(&error.to_string());
    explained.set_name(name);
    explained.into()
}
