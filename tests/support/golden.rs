//! The golden files of the operation; `tests/fixtures/README.md` describes them.

use diffattn::{DType, HostGradInputs, HostInputs, Options, Problem, Shape};
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::path::Path;

/// One golden file.
pub struct Golden {
    /// File name without `op_` and ending, e.g. `gqa_causal`.
    pub name: String,
    /// The problem, with lse and a₂ on request.
    pub problem: Problem,
    tensors: HashMap<String, Vec<f32>>,
}

impl Golden {
    /// Every golden file of the operation, as a problem of the given storage type.
    pub fn all(dtype: DType) -> Vec<Golden> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let entries = std::fs::read_dir(&folder).expect("tests/fixtures");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("op_")));
        paths.sort();
        assert!(!paths.is_empty(), "no golden files in {}", folder.display());
        paths.iter().map(|path| Golden::read(path, dtype)).collect()
    }

    fn read(path: &Path, dtype: DType) -> Golden {
        let bytes = std::fs::read(path).expect("golden file");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("header");
        let metadata = header.metadata().as_ref().expect("metadata");
        let value = |name: &str| -> serde_json::Value { serde_json::from_str(&metadata[name]).expect(name) };
        let size = |name: &str| u32::try_from(value(name).as_u64().expect(name)).expect(name);
        let number = |name: &str| value(name).as_f64().expect(name) as f32;
        let side = |name: &str| u32::try_from(value(name).as_i64().expect(name)).ok();

        let shape = Shape {
            batch: size("batch"),
            q_len: size("q_len"),
            kv_len: size("kv_len"),
            heads: size("heads"),
            kv_heads: size("kv_heads"),
            head_dim: size("head_dim"),
            value_dim: size("head_dim"),
        };
        let mut options = Options::default();
        options.scale = Some(number("scale"));
        options.causal = value("causal").as_bool().expect("causal");
        options.window = (side("window_left"), side("window_right"));
        options.softcap = Some(number("softcap")).filter(|&softcap| softcap > 0.0);
        (options.lse, options.a2) = (true, true);

        let file = SafeTensors::deserialize(&bytes).expect("tensors");
        let tensors = file.tensors().into_iter().map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name}");
            let elements = tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
            (name, elements.collect())
        });
        let stem = path.file_stem().expect("name").to_string_lossy();
        let name = stem.trim_start_matches("op_").to_owned();
        Golden { name, problem: Problem::new(shape, dtype, options), tensors: tensors.collect() }
    }

    /// A tensor by its name in the file.
    pub fn tensor(&self, name: &str) -> &[f32] {
        &self.tensors[name]
    }

    /// The inputs, which every storage type holds exactly.
    pub fn inputs(&self) -> HostInputs<'_> {
        let [q, k, v, lam] = ["q", "k", "v", "lam"].map(|name| self.tensor(name));
        HostInputs { q, k, v, lam }
    }

    /// What the backward pass is given beside the inputs.
    pub fn grads(&self) -> HostGradInputs<'_> {
        HostGradInputs { dout: self.tensor("dout"), dlse: None }
    }
}
