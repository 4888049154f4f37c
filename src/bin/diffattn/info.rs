//! `diffattn info`: what this machine can do.

use std::io::Write;

use anyhow::Result;
use diffattn::tile::{Choice, choose_forward};
use diffattn::{Caps, DType, DecodeProblem, Options, Path, Problem, Shape, wgpu};
use serde_json::{Value, json};

use crate::args::InfoArgs;
use crate::gpu::Gpu;
use crate::{device, engine, tables};

pub fn run(args: &InfoArgs, out: &mut impl Write) -> Result<()> {
    let adapters = device::adapters();
    let (chosen, reason) = engine::automatic(&adapters);
    let threads = rayon::current_num_threads();
    if args.json {
        let adapters: Vec<_> = adapters.iter().enumerate().map(|(index, adapter)| to_json(index, adapter)).collect();
        let auto = json!({ "adapter": chosen, "reason": reason });
        let info = json!({
            "version": env!("CARGO_PKG_VERSION"), "adapters": adapters, "cpu_threads": threads, "auto": auto,
        });
        writeln!(out, "{info:#}")?;
        return Ok(());
    }
    for (index, adapter) in adapters.iter().enumerate() {
        print(out, index, adapter)?;
    }
    if adapters.is_empty() {
        writeln!(out, "no GPU adapter was found; {}", device::INSTALL)?;
    }
    writeln!(out, "CPU engine | {threads} threads | f32, f16, bf16")?;
    let engine = chosen.map_or("the CPU engine".into(), |index| format!("adapter {index}"));
    writeln!(out, "--engine auto takes {engine}: {reason}")?;
    Ok(())
}

/// Problems whose tiles are shown: prefill and decode of common models.
fn common() -> impl Iterator<Item = Problem> {
    let shape = Shape { batch: 1, q_len: 4096, kv_len: 4096, heads: 16, kv_heads: 8, head_dim: 128, value_dim: 128 };
    let square = |dim| Shape { head_dim: dim, value_dim: dim, ..shape };
    let decode = Shape { q_len: 1, ..shape };
    let cases = [
        (square(64), DType::F32),
        (square(64), DType::F16),
        (square(128), DType::F16),
        (square(256), DType::F16),
        (decode, DType::F16),
    ];
    let mut options = Options::default();
    options.causal = true;
    cases.into_iter().map(move |(shape, dtype)| Problem::new(shape, dtype, options))
}

/// The best path that the device can run.
fn tier(caps: &Caps) -> Path {
    match (caps.matrix, caps.subgroups) {
        (Some(_), _) => Path::Matrix,
        (None, Some(_)) => Path::Subgroup,
        (None, None) => Path::Portable,
    }
}

fn print(out: &mut impl Write, index: usize, adapter: &wgpu::Adapter) -> Result<()> {
    let info = adapter.get_info();
    let features = adapter.features();
    let has = |feature, name: &str| if features.contains(feature) { name.into() } else { format!("no {name}") };
    let banner = [
        format!("{index}: {}", info.name),
        device::kind(info.device_type).into(),
        info.backend.to_string(),
        has(wgpu::Features::SHADER_F16, "f16"),
        match subgroups(&info, features) {
            None => "no subgroups".into(),
            Some((min, max)) if min == max => format!("subgroups {min}"),
            Some((min, max)) => format!("subgroups {min}–{max}"),
        },
        has(wgpu::Features::TIMESTAMP_QUERY, "timestamps"),
        matrices(adapter),
    ];
    writeln!(out, "{}", banner.join(" | "))?;
    writeln!(out, "   driver  {}", [info.driver.trim(), info.driver_info.trim()].join(" ").trim())?;
    let limits = adapter.limits();
    writeln!(
        out,
        "   limits  {} KiB workgroup storage, {} invocations, {} storage buffers, bindings of {} MiB, buffers of {} MiB, \
         {} workgroups",
        limits.max_compute_workgroup_storage_size >> 10,
        limits.max_compute_invocations_per_workgroup,
        limits.max_storage_buffers_per_shader_stage,
        limits.max_storage_buffer_binding_size >> 20,
        limits.max_buffer_size >> 20,
        limits.max_compute_workgroups_per_dimension,
    )?;
    let gpu = match Gpu::open(adapter) {
        Ok(gpu) => gpu,
        Err(error) => {
            writeln!(out, "   cannot be used: {error:#}\n")?;
            return Ok(());
        }
    };
    let caps = gpu.attention().caps();
    writeln!(out, "   tier    {}", tier(caps).name())?;
    let mut table = tables::table(&["tiles", "shape (causal)", "path", "tile"], &[]);
    let mut reasons = Vec::new();
    for problem in common() {
        if let Ok((path, tile)) = DecodeProblem::of(&problem).and_then(|step| step.tile(caps)) {
            let tile = format!("{} rows × {} keys, {} threads", tile.rows(), tile.keys(), tile.threads);
            table.add_row([
                problem.dtype.name(),
                &tables::shape(&problem.shape),
                &format!("decode, {}", path.name()),
                &tile,
            ]);
        } else if let Ok((Choice { path, tile, .. }, reason)) = choose_forward(&problem, caps) {
            reasons.push(reason);
            let tile = tables::tile(&tile, &problem.shape, path);
            table.add_row([problem.dtype.name(), &tables::shape(&problem.shape), path.name(), &tile]);
        }
    }
    for line in table.trim_fmt().lines() {
        writeln!(out, "   {line}")?;
    }
    // What speaks against a path is the same for all of them, storage types apart.
    let reason = reasons.pop().unwrap_or_default();
    for objection in reason.split("; ").filter(|clause| clause.starts_with("not ")) {
        writeln!(out, "   {objection}")?;
    }
    writeln!(out)?;
    Ok(())
}

fn to_json(index: usize, adapter: &wgpu::Adapter) -> Value {
    let info = adapter.get_info();
    let features = adapter.features();
    let limits = adapter.limits();
    let device = match Gpu::open(adapter) {
        Err(error) => json!({ "error": format!("{error:#}") }),
        Ok(gpu) => {
            let caps = gpu.attention().caps();
            let tiles = common().filter_map(|problem| {
                if let Ok((path, tile)) = DecodeProblem::of(&problem).and_then(|step| step.tile(caps)) {
                    return Some(json!({
                        "op": "decode",
                        "dtype": problem.dtype.name(),
                        "shape": tables::shape(&problem.shape),
                        "path": path.name(),
                        "tile": tile.to_string(),
                        "rows": tile.rows(),
                        "keys": tile.keys(),
                        "threads": tile.threads,
                    }));
                }
                let (Choice { path, tile, .. }, reason) = choose_forward(&problem, caps).ok()?;
                Some(json!({
                    "op": "forward",
                    "dtype": problem.dtype.name(),
                    "shape": tables::shape(&problem.shape),
                    "path": path.name(),
                    "reason": reason,
                    "tile": tile.to_string(),
                    "rows": tile.rows(),
                    "keys": tile.keys(),
                    "heads": tile.heads_per_tile(),
                    "threads": tile.threads(),
                    "workgroup_bytes": tile.workgroup_bytes(&problem.shape, path),
                }))
            });
            json!({ "tier": tier(caps).name(), "tiles": tiles.collect::<Vec<_>>() })
        }
    };
    json!({
        "index": index,
        "name": info.name,
        "kind": device::kind(info.device_type),
        "backend": info.backend.to_str(),
        "vendor": info.vendor,
        "device": info.device,
        "driver": info.driver,
        "driver_info": info.driver_info,
        "f16": features.contains(wgpu::Features::SHADER_F16),
        "subgroups": subgroups(&info, features).map(|(min, max)| json!({ "min": min, "max": max })),
        "timestamps": features.contains(wgpu::Features::TIMESTAMP_QUERY),
        "cooperative_matrices": features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        "limits": {
            "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
            "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
            "max_storage_buffers_per_shader_stage": limits.max_storage_buffers_per_shader_stage,
            "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
            "max_buffer_size": limits.max_buffer_size,
            "max_compute_workgroups_per_dimension": limits.max_compute_workgroups_per_dimension,
        },
        "planned": device,
    })
}

fn subgroups(info: &wgpu::AdapterInfo, features: wgpu::Features) -> Option<(u32, u32)> {
    features.contains(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size))
}

fn matrices(adapter: &wgpu::Adapter) -> String {
    let mut sizes: Vec<_> = adapter
        .cooperative_matrix_properties()
        .iter()
        .map(|matrix| format!("{}×{}×{}", matrix.m_size, matrix.n_size, matrix.k_size))
        .collect();
    sizes.dedup();
    if sizes.is_empty() { "no matrix units".into() } else { format!("matrices {}", sizes.join(" ")) }
}
