//! The golden files of the module; `tests/fixtures/README.md` describes them.

use diffattn::layer::{Config, HostTokens, Kind, Weights};
use safetensors::SafeTensors;
use std::path::Path;

/// One golden file.
pub struct GoldenModule {
    pub weights: Weights,
    /// Named as the parameters.
    pub gradients: Weights,
    pub batch: u32,
    pub seq_len: u32,
    pub x: Vec<f32>,
    pub y: Vec<f32>,
    pub dy: Vec<f32>,
    pub dx: Vec<f32>,
}

impl GoldenModule {
    /// One for each kind.
    pub fn all() -> [GoldenModule; 3] {
        [Kind::DiffV2, Kind::Baseline, Kind::DiffV1].map(GoldenModule::of)
    }

    pub fn of(kind: Kind) -> GoldenModule {
        let name = match kind {
            Kind::DiffV2 => "module_diff_v2_gqa",
            Kind::Baseline => "module_baseline_gqa",
            Kind::DiffV1 => "module_diff_v1",
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.safetensors"));
        let bytes = std::fs::read(path).expect("golden file");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("header");
        let metadata = header.metadata().as_ref().expect("metadata");
        let value = |name: &str| -> serde_json::Value { serde_json::from_str(&metadata[name]).expect(name) };
        let size = |name: &str| u32::try_from(value(name).as_u64().expect(name)).expect(name);
        assert_eq!(value("kind"), kind.name());
        let config = Config {
            layer_index: size("depth"),
            rope_theta: value("rope_base").as_f64().expect("rope_base") as f32,
            ..Config::new(kind, size("d_model"), size("heads"), size("kv_heads"), size("head_dim"))
        };
        assert_eq!(value("params"), config.parameter_count());
        let file = SafeTensors::deserialize(&bytes).expect("tensors");
        let tensor = |name: &str| diffattn::DType::F32.decode(file.tensor(name).expect(name).data());
        let [x, y, dy, dx] = ["x", "y", "dy", "dx"].map(tensor);
        GoldenModule {
            weights: Weights::from_safetensors(&config, &file, "param.").expect("parameters"),
            gradients: Weights::from_safetensors(&config, &file, "grad.").expect("gradients"),
            batch: size("batch"),
            seq_len: size("seq_len"),
            x,
            y,
            dy,
            dx,
        }
    }

    pub fn tokens(&self) -> HostTokens<'_> {
        HostTokens { batch: self.batch, seq_len: self.seq_len, x: &self.x }
    }
}
