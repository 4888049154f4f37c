//! The manifest: what a program must know to run the kernels, reflected from their text wherever the text knows it.

use anyhow::{Context, Result};
use diffattn::shader::{CacheKernel, CacheVariant, Kernel as Op, MaskKind, Variant};
use diffattn::tile::Sweep;
use diffattn::wgpu::naga::{self, AddressSpace, StorageAccess, TypeInner};
use diffattn::{Caps, KvDType, Path};
use serde_json::{Value, json};

/// Version of the manifest's form.
const SCHEMA: u32 = 1;

/// One kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Path of its text below the exported folder.
    pub file: String,
    entry: Value,
    /// Name of its uniform block, and the block's size and fields.
    block: (&'static str, Value),
}

/// Everything that is exported.
pub struct Manifest {
    blocks: Value,
    kernels: Vec<Value>,
}

impl Manifest {
    pub fn new(kernels: Vec<Kernel>) -> Result<Self> {
        let mut blocks = serde_json::Map::new();
        for Kernel { block: (name, block), .. } in &kernels {
            let same = blocks.entry(*name).or_insert_with(|| block.clone()) == block;
            anyhow::ensure!(same, "two kernels disagree about the uniform block {name}");
        }
        Ok(Manifest { blocks: blocks.into(), kernels: kernels.into_iter().map(|kernel| kernel.entry).collect() })
    }

    pub fn json(&self) -> Value {
        json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "how": {
                "text": "headers.native (naga, wgpu) or headers.web (browsers, Dawn), followed by the file; null where it cannot run there",
                "bindings": "one bind group, 0. `unit` is one element of the array in bytes, `elements` the tensor's elements in it; `lse` is f32 bits",
                "view": "of a tensor in the uniform block: base, batch, seq, head as u32, all in units: unit index = base + sequence * batch + token * seq + head * head",
                "pairs": "query heads 2j and 2j+1 are the members of output head j; group = heads / kv_heads; output head j reads KV head j / group",
                "grid": "head_tiles = product(grid.head_tiles.of) / grid.head_tiles.per, which must divide it; q_tiles likewise, rounded up; tiles = batch * kv_heads * head_tiles * q_tiles; workgroups = ceil(tiles / grid.tiles_per_workgroup). Of decode kernels workgroups = ceil(product(grid.workgroups.of) / grid.workgroups.per), with rows = 2 * group * q_len and row_tiles = ceil(rows / grid.rows)",
                "dispatch": "y = ceil(workgroups / 65535), x = ceil(workgroups / y); grid_width = x",
                "scale": "softmax scale times log2(e), or the scale itself where softcap is true",
                "diagonal": "kv_len - q_len: masks are aligned to the last key",
                "window": "left and right: keys seen before and after the query's own position; 536870912 is open; 0 without a window",
                "backward": "rows first, then mean where a2 is not kept, then dq and dkv; terms is scratch of 32 bytes for each output head of each token",
                "empty": "a view or number that the kernel's bindings do not use is 0",
            },
            "uniform_blocks": self.blocks,
            "kernels": self.kernels,
        })
    }
}

impl Kernel {
    /// A kernel over whole tensors.
    pub fn tensors(variant: &Variant, caps: &Caps, header: String, text: &str) -> Result<Self> {
        let tile_of = |of: &[&str], per: u32| json!({ "of": of, "per": per });
        // `None`: as many as the workgroup has invocations.
        let (head_tiles, q_tiles, per_workgroup) = match (variant.kernel, variant.tile) {
            (Op::Forward, Some(tile)) => {
                (tile_of(&["group"], tile.heads_per_tile()), tile_of(&["q_len"], tile.positions()), Some(1))
            }
            (Op::Forward, None) | (Op::BackwardRows, _) | (Op::Backward(Sweep::Dq | Sweep::Mean, None), _) => {
                (tile_of(&["group"], 1), tile_of(&["q_len"], 1), None)
            }
            (Op::Backward(Sweep::Dkv, None), _) => (tile_of(&[], 1), tile_of(&["kv_len"], 1), None),
            (Op::Backward(Sweep::Dkv, Some(tile)), _) => {
                (tile_of(&[], 1), tile_of(&["kv_len"], tile.rows(Sweep::Dkv, 2)), Some(1))
            }
            (Op::Backward(sweep, Some(tile)), _) => {
                (tile_of(&[], 1), tile_of(&["q_len", "group"], tile.rows(sweep, 2)), Some(1))
            }
        };
        let Variant { path, dtype, mask, head_dim, value_dim, softcap, packed, lse, a2, standard, .. } = *variant;
        let about = json!({
            "op": variant.kernel.name(), "path": path.name(), "dtype": dtype.name(), "mask": mask_name(mask),
            "head_dim": head_dim, "value_dim": value_dim, "softcap": softcap, "packed": packed, "lse": lse, "a2": a2,
            "standard": standard,
        });
        let grid = |threads: u32| {
            let per_workgroup = per_workgroup.unwrap_or(threads);
            json!({ "head_tiles": head_tiles, "q_tiles": q_tiles, "tiles_per_workgroup": per_workgroup })
        };
        let needs = Needs { path, unpack_f16: variant.unpack_f16, element: dtype.size() };
        Kernel::reflect("tensors", variant.label(), about, grid, needs, caps, header, text)
    }

    /// A kernel around a KV cache.
    pub fn cache(variant: &CacheVariant, caps: &Caps, header: String, text: &str) -> Result<Self> {
        let CacheVariant { dtype, kv_dtype, paged, head_dim, value_dim, .. } = *variant;
        let kv = if kv_dtype == KvDType::Int8 { "int8" } else { dtype.name() };
        let mut about = json!({
            "dtype": dtype.name(), "kv_dtype": kv, "paged": paged, "head_dim": head_dim, "value_dim": value_dim,
        });
        let (op, path, more, of, rows) = match variant.kernel {
            CacheKernel::Decode { path, tile, mask, softcap, split, lse, counted } => {
                let more = json!({
                    "path": path.name(), "mask": mask_name(mask), "softcap": softcap, "split": split, "lse": lse,
                    "counted": counted,
                });
                ("decode", path, more, vec!["batch", "kv_heads", "row_tiles", "splits"], Some(tile.rows()))
            }
            CacheKernel::Merge { lse } => {
                let of = vec!["batch", "q_len", "heads", "value_dim / 4"];
                ("decode_merge", Path::Portable, json!({ "lse": lse }), of, None)
            }
            CacheKernel::Append => {
                ("kv_append", Path::Portable, json!({}), vec!["2", "batch", "q_len", "kv_heads"], None)
            }
        };
        // Merge and append have one invocation for each piece of work.
        let grid = |threads: u32| {
            let per = if rows.is_some() { 1 } else { threads };
            json!({ "workgroups": { "of": of, "per": per }, "rows": rows })
        };
        about["op"] = op.into();
        for (name, value) in more.as_object().into_iter().flatten() {
            about[name] = value.clone();
        }
        let needs = Needs { path, unpack_f16: variant.unpack_f16, element: dtype.size() };
        Kernel::reflect("cache", variant.label(), about, grid, needs, caps, header, text)
    }

    #[expect(clippy::too_many_arguments, reason = "the two kinds of variant have no type in common")]
    fn reflect(
        block: &'static str,
        label: String,
        mut entry: Value,
        grid: impl FnOnce(u32) -> Value,
        needs: Needs,
        caps: &Caps,
        header: String,
        text: &str,
    ) -> Result<Self> {
        let module = naga::front::wgsl::parse_str(&(header.clone() + text)).context(label.clone())?;
        let [point] = &module.entry_points[..] else { anyhow::bail!("{label} has not one entry point") };
        let mut fields = Value::Null;
        let mut bindings = Vec::new();
        let mut workgroup_bytes = 0;
        for (_, variable) in module.global_variables.iter() {
            let inner = &module.types[variable.ty].inner;
            if variable.space == AddressSpace::WorkGroup {
                workgroup_bytes += inner.size(module.to_ctx());
            }
            let (Some(at), Some(name)) = (&variable.binding, &variable.name) else { continue };
            let mut binding = json!({ "group": at.group, "binding": at.binding, "name": name });
            match (variable.space, inner) {
                (AddressSpace::Uniform, TypeInner::Struct { members, span }) => {
                    binding["type"] = "uniform".into();
                    binding["block"] = block.into();
                    fields = json!({ "size": span, "fields": members.iter().map(|member| json!({
                        "name": member.name, "offset": member.offset, "type": type_name(&module, member.ty),
                    })).collect::<Vec<_>>() });
                }
                (AddressSpace::Storage { access }, TypeInner::Array { stride, .. }) => {
                    let written = access.contains(StorageAccess::STORE);
                    let (shape, size) = tensor(name, block, needs.element);
                    binding["type"] = "storage".into();
                    binding["access"] = if written { "read_write" } else { "read" }.into();
                    binding["unit"] = (*stride).into();
                    binding["elements"] = size.map(|size| u64::from(*stride) / size).into();
                    binding["shape"] = shape.into();
                }
                _ => anyhow::bail!("{label}: the binding {name} is of an unknown kind"),
            }
            bindings.push((at.binding, binding));
        }
        bindings.sort_by_key(|(number, _)| *number);
        let storage = bindings.iter().filter(|(_, binding)| binding["type"] == "storage").count();
        let file = format!("kernels/{label}.wgsl");
        let (features, web_features, web) = match needs.path {
            Path::Matrix => (vec!["EXPERIMENTAL_COOPERATIVE_MATRIX", "SHADER_F16", "SUBGROUP"], Vec::new(), None),
            Path::Subgroup => (vec!["SUBGROUP"], vec!["subgroups"], Some("enable subgroups;\n".to_string() + &header)),
            _ => (Vec::new(), Vec::new(), Some(header.clone())),
        };
        let unpack = (needs.unpack_f16 && needs.path != Path::Matrix).then_some("SHADER_F16");
        let native_features: Vec<_> = features.into_iter().chain(unpack).collect();
        entry["label"] = label.into();
        entry["file"] = file.clone().into();
        entry["headers"] = json!({ "native": header, "web": web });
        entry["entry_point"] = point.name.clone().into();
        entry["workgroup_size"] = json!(point.workgroup_size);
        entry["grid"] = grid(point.workgroup_size[0]);
        entry["requires"] = json!({
            "native_features": native_features,
            "web_features": web_features as Vec<&str>,
            "subgroup_size": caps.subgroups.filter(|_| !matches!(needs.path, Path::Naive | Path::Portable))
                .map(|(min, max)| [min, max]),
            "maxComputeWorkgroupStorageSize": workgroup_bytes,
            "maxComputeInvocationsPerWorkgroup": point.workgroup_size.iter().product::<u32>(),
            "maxStorageBuffersPerShaderStage": storage,
        });
        entry["bindings"] = bindings.into_iter().map(|(_, binding)| binding).collect();
        Ok(Kernel { file, entry, block: (block, fields) })
    }
}

/// What the text does not say.
struct Needs {
    path: Path,
    unpack_f16: bool,
    /// Bytes of an element of the storage type.
    element: u64,
}

fn mask_name(mask: MaskKind) -> &'static str {
    match mask {
        MaskKind::None => "full",
        MaskKind::Causal => "causal",
        MaskKind::Window => "window",
    }
}

fn type_name(module: &naga::Module, ty: naga::Handle<naga::Type>) -> String {
    match &module.types[ty].inner {
        TypeInner::Scalar(naga::Scalar { kind, width }) => {
            let kind = match kind {
                naga::ScalarKind::Sint => "i",
                naga::ScalarKind::Uint => "u",
                naga::ScalarKind::Float => "f",
                _ => "?",
            };
            format!("{kind}{}", 8 * width)
        }
        _ => module.types[ty].name.clone().unwrap_or_default(),
    }
}

/// Axes of a tensor in the order in which contiguous memory has them, and bytes of an element where it is a plain one.
fn tensor(name: &str, block: &str, element: u64) -> (&'static str, Option<u64>) {
    let cached = block == "cache";
    match name {
        "q" | "dq" => ("batch × q_len × 2·heads × head_dim", Some(element)),
        "k" | "v" if cached => ("block × kv_heads × place × dim, in the cache's storage type", None),
        "k" | "dk" => ("batch × kv_len × kv_heads × head_dim", Some(element)),
        "v" | "dv" => ("batch × kv_len × kv_heads × value_dim", Some(element)),
        "lam" | "dlam" => ("batch × q_len × heads, f32, before the sigmoid", Some(4)),
        "out" | "a2" | "dout" => ("batch × q_len × heads × value_dim", Some(element)),
        "lse" | "dlse" => ("batch × 2·heads × q_len, f32, natural logarithm", Some(4)),
        "terms" => ("batch × q_len × heads, one struct each", None),
        "sequences" => ("batch, one struct each: q_start, q_len, kv_start, kv_len, diagonal", None),
        "new_k" => ("tokens × kv_heads × head_dim", Some(element)),
        "new_v" => ("tokens × kv_heads × value_dim", Some(element)),
        "directory" => ("batch × (sequence, q_start, q_len, kv_len), then the block tables, u32", Some(4)),
        "scales" => ("block × kv_heads × place × (of K, of V), f32", Some(4)),
        "partials" => ("splits' states, scratch", None),
        "loads" => ("counts of loads, u32", Some(4)),
        _ => ("", None),
    }
}
