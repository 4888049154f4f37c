//! What to compute, from the shapes of the tensors, the file's metadata and the flags.

use anyhow::{Context, Result, bail, ensure};
use diffattn::{DType, Options, Problem, Shape};
use serde_json::Value;

use crate::args::{OptionArgs, window_side};
use crate::tensors::{TensorFile, printable};

/// The problem that a file states. Sizes come from the shapes; flags override the metadata.
pub fn problem(file: &TensorFile, dtype: Option<DType>, flags: &OptionArgs) -> Result<Problem> {
    let shape = shape(file)?;
    let dtype = dtype.map_or_else(|| Ok(file.describe("q")?.0), anyhow::Ok)?;
    let mut options = Options::default();
    options.lse = true;
    options.causal = match (flags.causal, flags.no_causal) {
        (false, false) => boolean(file, "causal")?.unwrap_or(false),
        (causal, _) => causal,
    };
    options.window = match flags.window {
        Some(window) => window,
        None => (side(file, "window_left")?, side(file, "window_right")?),
    };
    options.scale = flags.scale.map_or_else(|| number(file, "scale"), |scale| Ok(Some(scale)))?;
    let softcap = flags.softcap.map_or_else(|| number(file, "softcap"), |softcap| Ok(Some(softcap)))?;
    options.softcap = softcap.filter(|&softcap| softcap != 0.0);
    let problem = Problem::new(shape, dtype, options);
    problem.validate()?;
    Ok(problem)
}

/// Shape of every tensor that a file may hold, inputs and outputs, in the order of its axes.
pub fn axes(shape: &Shape, tensor: &str) -> Vec<usize> {
    let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = *shape;
    let axes: &[u32] = match tensor {
        "q" | "dq" => &[batch, q_len, 2 * heads, head_dim],
        "k" | "dk" => &[batch, kv_len, kv_heads, head_dim],
        "v" | "dv" => &[batch, kv_len, kv_heads, value_dim],
        "lam" | "dlam" => &[batch, q_len, heads],
        "lse" => &[batch, 2 * heads, q_len],
        _ => &[batch, q_len, heads, value_dim],
    };
    axes.iter().map(|&axis| axis as usize).collect()
}

/// A size and who states it. The first to state a size is believed, and others must agree.
struct Claim {
    name: &'static str,
    value: u32,
    source: String,
}

fn shape(file: &TensorFile) -> Result<Shape> {
    let mut claims: Vec<Claim> = Vec::new();
    let tensors: [(&str, &[&'static str]); 4] = [
        ("q", &["batch", "q_len", "2·heads", "head_dim"]),
        ("k", &["batch", "kv_len", "kv_heads", "head_dim"]),
        ("v", &["batch", "kv_len", "kv_heads", "value_dim"]),
        ("lam", &["batch", "q_len", "heads"]),
    ];
    for (tensor, names) in tensors {
        let (_, shape) = file.describe(tensor)?;
        let wanted = names.join(", ");
        ensure!(shape.len() == names.len(), "`{tensor}` has the shape {shape:?}, but must be [{wanted}]");
        for (&name, &size) in names.iter().zip(shape) {
            let mut value =
                u32::try_from(size).ok().with_context(|| format!("`{tensor}` is too large: {name} is {size}"))?;
            let mut name = name;
            if name == "2·heads" {
                ensure!(value % 2 == 0, "`q` has {value} query heads, but they come in pairs: [{wanted}]");
                (name, value) = ("heads", value / 2);
            }
            claims.push(Claim { name, value, source: format!("the shape {shape:?} of `{tensor}`") });
        }
    }
    for name in ["batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim", "value_dim"] {
        if let Some(value) = whole(file, name)? {
            claims.push(Claim { name, value, source: "the metadata".into() });
        }
    }
    let size = |name: &str| {
        let mut same = claims.iter().filter(|claim| claim.name == name);
        let first = same.next().with_context(|| format!("nothing says {name}"))?;
        match same.find(|claim| claim.value != first.value) {
            None => Ok(first.value),
            Some(other) => {
                bail!("{name} is {} by {}, but {} by {}", first.value, first.source, other.value, other.source)
            }
        }
    };
    Ok(Shape {
        batch: size("batch")?,
        q_len: size("q_len")?,
        kv_len: size("kv_len")?,
        heads: size("heads")?,
        kv_heads: size("kv_heads")?,
        head_dim: size("head_dim")?,
        value_dim: size("value_dim")?,
    })
}

/// A JSON-encoded metadata value that `read` accepts.
fn value<T>(file: &TensorFile, key: &str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
    let Some(text) = file.metadata(key) else { return Ok(None) };
    let value = serde_json::from_str(text).ok().as_ref().and_then(read);
    let value =
        value.with_context(|| format!("the metadata says {key} {}, but it must be {wanted}", printable(text)))?;
    Ok(Some(value))
}

/// A word in quotation marks that `read` knows.
pub fn word<T>(file: &TensorFile, key: &str, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
    value(file, key, wanted, |value| read(value.as_str()?))
}

fn boolean(file: &TensorFile, key: &str) -> Result<Option<bool>> {
    value(file, key, "true or false", Value::as_bool)
}

pub fn whole(file: &TensorFile, key: &str) -> Result<Option<u32>> {
    value(file, key, "a whole number", |value| value.as_u64().and_then(|number| number.try_into().ok()))
}

pub fn number(file: &TensorFile, key: &str) -> Result<Option<f32>> {
    let finite = |value: &Value| value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
    value(file, key, "a finite number", finite)
}

fn side(file: &TensorFile, key: &str) -> Result<Option<u32>> {
    let read = |value: &Value| value.as_i64().and_then(window_side);
    Ok(value(file, key, "a number of keys, or -1 for an open side", read)?.flatten())
}
