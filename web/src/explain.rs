//! Errors, as JavaScript sees them.

use wasm_bindgen::prelude::*;

/// A defect shows where developers look for it.
#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

/// An error of the library as an `Error` of JavaScript, named after its kind so that the page can tell what to do.
pub(crate) fn explain(error: diffattn::Error) -> JsValue {
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
