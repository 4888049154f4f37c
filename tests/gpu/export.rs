//! What `diffattn export` writes is enough: kernels are run from the manifest alone, by code that knows nothing else.

use std::fs;
use std::path::Path as FilePath;
use std::process::Command;

use diffattn::reference::Judge;
use diffattn::wgpu::util::DeviceExt as _;
use diffattn::{DType, HostInputs, HostOutputs, Options, Problem, Shape, read_buffer, wgpu};
use libtest_mimic::Failed;
use serde_json::Value;

use crate::device::Gpu;
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    // Only there when the command is built too.
    let Some(command) = option_env!("CARGO_BIN_EXE_diffattn") else { return Vec::new() };
    vec![case("export::a_kernel_runs_from_its_manifest", move |gpu| check(gpu, command))]
}

fn check(gpu: &Gpu, command: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("kernels");
    let flags = ["export", "--head-dim", "64", "--value-dim", "40", "--dtype", "f16", "--mask", "causal", "--lse"];
    let done = Command::new(command).args(flags).arg("--out").arg(&out).output()?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let manifest: Value = serde_json::from_str(&fs::read_to_string(out.join("manifest.json"))?)?;

    let shape = Shape { batch: 2, q_len: 37, kv_len: 53, heads: 6, kv_heads: 2, head_dim: 64, value_dim: 40 };
    let mut options = Options::default();
    (options.causal, options.lse) = (true, true);
    let problem = Problem::new(shape, DType::F16, options);
    let mut random = fastrand::Rng::with_seed(5);
    let mut tensor = |len: u32, range: f32| -> Vec<f32> {
        (0..len).map(|_| DType::F16.round(range * (2.0 * random.f32() - 1.0))).collect()
    };
    let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = shape;
    let (q, k) = (tensor(batch * q_len * 2 * heads * head_dim, 2.0), tensor(batch * kv_len * kv_heads * head_dim, 2.0));
    let (v, lam) = (tensor(batch * kv_len * kv_heads * value_dim, 1.0), tensor(batch * q_len * heads, 3.0));
    let inputs = HostInputs { q: &q, k: &k, v: &v, lam: &lam };
    let judge = Judge::forward(&problem, &inputs)?;

    let kernels = manifest["kernels"].as_array().ok_or("no kernels")?;
    let mut ran = 0;
    for kernel in kernels.iter().filter(|kernel| kernel["op"] == "forward") {
        // The floor device has no optional feature.
        if kernel["requires"]["native_features"].as_array().is_some_and(|features| !features.is_empty()) {
            continue;
        }
        let outputs = run(gpu, &out, &manifest, kernel, &shape, &inputs)?;
        for verdict in judge.outputs(&outputs)? {
            if !verdict.passed {
                return Err(format!("{}: {verdict:?}", kernel["label"]).into());
            }
        }
        // The judge can tell: rows in the order of another layout are refused.
        let turned = HostOutputs { out: outputs.out.iter().rev().copied().collect(), ..outputs };
        assert!(!judge.outputs(&turned)?[0].passed);
        ran += 1;
    }
    assert_eq!(ran, 2, "naive and portable");
    Ok(())
}

/// Runs a forward kernel as its manifest says.
fn run(
    gpu: &Gpu,
    folder: &FilePath,
    manifest: &Value,
    kernel: &Value,
    shape: &Shape,
    inputs: &HostInputs,
) -> Result<HostOutputs, Failed> {
    let (device, queue) = (gpu.floor.device(), gpu.floor.queue());
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} is no number"));
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_string();
    let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = *shape;
    let group = heads / kv_heads;

    // The grid.
    let named = |name: &Value| match name.as_str() {
        Some("group") => group,
        Some("q_len") => q_len,
        other => panic!("{other:?}"),
    };
    let tiles_of = |tiles: &Value| {
        let product: u32 = tiles["of"].as_array().into_iter().flatten().map(named).product();
        (product, number(&tiles["per"]) as u32)
    };
    let (heads_of_tiles, heads_per_tile) = tiles_of(&kernel["grid"]["head_tiles"]);
    assert_eq!(heads_of_tiles % heads_per_tile, 0, "the kernel runs with another group");
    let (queries, positions) = tiles_of(&kernel["grid"]["q_tiles"]);
    let (head_tiles, q_tiles) = (heads_of_tiles / heads_per_tile, queries.div_ceil(positions));
    let tiles = batch * kv_heads * head_tiles * q_tiles;
    let workgroups = tiles.div_ceil(number(&kernel["grid"]["tiles_per_workgroup"]) as u32);

    // Tensors: heads and elements of a row, in the order that `shape` says; lse has its heads outside.
    let extents = |name: &str| match name {
        "q" => (q_len, 2 * heads, head_dim),
        "k" => (kv_len, kv_heads, head_dim),
        "v" => (kv_len, kv_heads, value_dim),
        "lam" => (q_len, heads, 1),
        "lse" => (q_len, 2 * heads, 1),
        "out" => (q_len, heads, value_dim),
        other => panic!("{other}"),
    };
    let block = &manifest["uniform_blocks"]["tensors"];
    let mut params = vec![0u8; number(&block["size"]) as usize];
    let field = |name: &str| {
        let fields = block["fields"].as_array().into_iter().flatten();
        let found = fields.into_iter().find(|field| field["name"] == name);
        number(&found.unwrap_or_else(|| panic!("no field {name}"))["offset"]) as usize
    };
    let put = |params: &mut Vec<u8>, at: usize, word: [u8; 4]| params[at..at + 4].copy_from_slice(&word);
    let buffer = |contents: &[u8], usage| {
        let usage = usage | wgpu::BufferUsages::COPY_SRC;
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents, usage })
    };

    let mut buffers = Vec::new();
    for binding in kernel["bindings"].as_array().into_iter().flatten() {
        let (name, at) = (text(&binding["name"]), number(&binding["binding"]) as u32);
        if binding["type"] == "uniform" {
            continue;
        }
        let (seq, heads, dim) = extents(&name);
        let elements = number(&binding["elements"]) as u32;
        let (seq_stride, head_stride) = if name == "lse" { (1, seq) } else { (heads * dim, dim) };
        for (place, stride) in [0, seq * heads * dim, seq_stride, head_stride].into_iter().enumerate() {
            put(&mut params, field(&name) + 4 * place, (stride / elements).to_le_bytes());
        }
        let contents = match name.as_str() {
            "q" => DType::F16.encode(inputs.q),
            "k" => DType::F16.encode(inputs.k),
            "v" => DType::F16.encode(inputs.v),
            "lam" => DType::F32.encode(inputs.lam),
            // Units of the binding, all NaN.
            _ => vec![0xff; (batch * seq * heads * dim / elements) as usize * number(&binding["unit"]) as usize],
        };
        assert_eq!(binding["access"], if matches!(name.as_str(), "out" | "lse") { "read_write" } else { "read" });
        buffers.push((name, at, buffer(&contents, wgpu::BufferUsages::STORAGE)));
    }
    let words = [
        ("batch", batch),
        ("kv_heads", kv_heads),
        ("head_tiles", head_tiles),
        ("q_tiles", q_tiles),
        ("tiles", tiles),
        ("grid_width", workgroups),
        ("group", group),
        ("q_len", q_len),
        ("kv_len", kv_len),
        ("diagonal", kv_len - q_len),
        ("scale", ((head_dim as f32).sqrt().recip() * std::f32::consts::LOG2_E).to_bits()),
    ];
    for (name, word) in words {
        put(&mut params, field(name), word.to_le_bytes());
    }
    buffers.push(("params".into(), 0, buffer(&params, wgpu::BufferUsages::UNIFORM)));

    let source = text(&kernel["headers"]["native"]) + &fs::read_to_string(folder.join(text(&kernel["file"])))?;
    let source = wgpu::ShaderSource::Wgsl(source.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: kernel["entry_point"].as_str(),
        compilation_options: Default::default(),
        cache: None,
    });
    let entries: Vec<_> = buffers
        .iter()
        .map(|(_, at, buffer)| wgpu::BindGroupEntry { binding: *at, resource: buffer.as_entire_binding() })
        .collect();
    let layout = pipeline.get_bind_group_layout(0);
    let bind_group =
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &bind_group, &[]);
    pass.dispatch_workgroups(workgroups, 1, 1);
    drop(pass);
    queue.submit([encoder.finish()]);

    let read = |name: &str| {
        let found = buffers.iter().find(|(other, ..)| other == name);
        pollster::block_on(read_buffer(device, queue, &found.unwrap_or_else(|| panic!("no {name}")).2))
    };
    Ok(HostOutputs {
        out: DType::F16.decode(&read("out")?),
        lse: Some(DType::F32.decode(&read("lse")?)),
        ..HostOutputs::default()
    })
}
