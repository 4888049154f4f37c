//! The kernels around a KV cache: decode, the merge of its splits, and append.

use std::fmt::Write as _;

use super::{MaskKind, join};
use crate::caps::Caps;
use crate::decode_tile::{DecodeTile, Dims, INVOCATIONS, decode_tile};
use crate::kv_cache::KvDType;
use crate::problem::DType;
use crate::tile::Path;

/// A binding of a kernel around a cache, with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CacheBinding {
    /// The uniform block.
    Params = 0,
    /// Queries.
    Q = 1,
    /// Cached keys.
    K = 2,
    /// Cached values.
    V = 3,
    /// Gate logits.
    Lam = 4,
    /// Output.
    Out = 5,
    /// Log-sum-exp.
    Lse = 6,
    /// Factors of an int8 cache's rows.
    Scales = 7,
    /// Entries of the step and block tables.
    Directory = 8,
    /// Counts of loads.
    Loads = 9,
    /// Keys that are appended.
    NewK = 10,
    /// Values that are appended.
    NewV = 11,
    /// States of the splits.
    Partials = 12,
}

/// What a kernel around a KV cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheKernel {
    /// Attention of new tokens to a split of the keys.
    Decode {
        /// How rows exchange their maxima.
        path: Path,
        /// What a workgroup owns.
        tile: DecodeTile,
        /// The mask, without its numbers.
        mask: MaskKind,
        /// Whether scores are softcapped.
        softcap: bool,
        /// Whether the keys are split over workgroups, whose states are merged afterwards.
        split: bool,
        /// Whether LSE is written.
        lse: bool,
        /// Whether loads of K and V are counted.
        counted: bool,
    },
    /// Combines the splits.
    Merge {
        /// Whether LSE is written.
        lse: bool,
    },
    /// Writes new keys and values.
    Append,
}

/// One compiled kernel around a KV cache: everything that its text depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheVariant {
    /// What it does.
    pub kernel: CacheKernel,
    /// Storage type of q, out, and what is appended.
    pub dtype: DType,
    /// Storage type of the cache.
    pub kv_dtype: KvDType,
    /// Whether f16 is read by `unpack2x16float`; meaningless for other types.
    pub unpack_f16: bool,
    /// Whether the cache has pages.
    pub paged: bool,
    /// Elements of a key.
    pub head_dim: u32,
    /// Elements of a value.
    pub value_dim: u32,
}

impl CacheVariant {
    /// The one name of this kernel: pipeline, error, dump, test and benchmark row.
    pub fn label(&self) -> String {
        let name = match self.kernel {
            CacheKernel::Decode { .. } => "decode",
            CacheKernel::Merge { .. } => "decode_merge",
            CacheKernel::Append => "kv_append",
        };
        let mut label = format!("diffattn.{name}.{}", self.dtype.name());
        if self.kv_dtype == KvDType::Int8 {
            label.push_str("kv8");
        }
        label.push_str(if self.paged { ".paged" } else { "" });
        let _ = write!(label, ".d{}", self.head_dim);
        if self.value_dim != self.head_dim {
            let _ = write!(label, "v{}", self.value_dim);
        }
        label.push_str(if self.unpack_f16 { ".unpack" } else { "" });
        match self.kernel {
            CacheKernel::Decode { path, tile, mask, softcap, split, lse, counted } => {
                let mask = match mask {
                    MaskKind::None => "full",
                    MaskKind::Causal => "causal",
                    MaskKind::Window => "window",
                };
                let _ = write!(label, ".{mask}.{tile}");
                let flags = [(softcap, ".softcap"), (split, ".split"), (lse, ".lse"), (counted, ".counted")];
                label.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name));
                let _ = write!(label, ".{}", path.name());
            }
            CacheKernel::Merge { lse } => label.push_str(if lse { ".lse" } else { "" }),
            CacheKernel::Append => {}
        }
        label
    }

    /// The bindings that this kernel uses, in the order of their numbers.
    pub fn bindings(&self) -> Vec<CacheBinding> {
        use CacheBinding::*;
        let scales = (self.kv_dtype == KvDType::Int8).then_some(Scales);
        let mut bindings = vec![Params, Directory];
        match self.kernel {
            CacheKernel::Append => {
                bindings.extend([K, V, NewK, NewV]);
                bindings.extend(scales);
            }
            CacheKernel::Merge { lse } => {
                bindings.extend([Partials, Lam, Out]);
                bindings.extend(lse.then_some(Lse));
            }
            CacheKernel::Decode { split, lse, counted, .. } => {
                bindings.extend([Q, K, V]);
                bindings.extend(if split { vec![Partials] } else { vec![Lam, Out] });
                bindings.extend((lse && !split).then_some(Lse));
                bindings.extend(scales);
                bindings.extend(counted.then_some(Loads));
            }
        }
        bindings.sort_unstable();
        bindings
    }

    /// Every kind of kernel that a device with these capabilities may be given, at head sizes from narrow to wide.
    pub fn all(caps: &Caps) -> Vec<CacheVariant> {
        let mut variants = Vec::new();
        for (head_dim, value_dim) in [(40, 24), (128, 128), (256, 256)] {
            for dtype in DType::ALL {
                for kv_dtype in [dtype.into(), KvDType::Int8] {
                    for paged in [false, true] {
                        let unpack_f16 = dtype == DType::F16 && caps.unpack_f16;
                        let kernel = CacheKernel::Append;
                        let append = CacheVariant { kernel, dtype, kv_dtype, unpack_f16, paged, head_dim, value_dim };
                        let kernels = Self::all_decode(append, caps).into_iter().chain([kernel]);
                        variants.extend(kernels.map(|kernel| CacheVariant { kernel, ..append }));
                    }
                }
                for lse in [false, true] {
                    let (kernel, kv_dtype) = (CacheKernel::Merge { lse }, dtype.into());
                    let (unpack_f16, paged) = (false, false);
                    variants.push(CacheVariant { kernel, dtype, kv_dtype, unpack_f16, paged, head_dim, value_dim });
                }
            }
        }
        variants
    }

    fn all_decode(of: CacheVariant, caps: &Caps) -> Vec<CacheKernel> {
        let CacheVariant { head_dim, value_dim, kv_dtype, .. } = of;
        let mut kernels = Vec::new();
        for (rows, path) in
            [(2, Path::Portable), (4, Path::Portable), (4, Path::Subgroup), (8, Path::Portable), (64, Path::Portable)]
        {
            let dims = Dims { rows, head_dim, value_dim, kv_dtype };
            let Ok((path, tile)) = decode_tile(dims, Some(path), caps) else { continue };
            let kernel = |mask, softcap, split, lse, counted| CacheKernel::Decode {
                path,
                tile,
                mask,
                softcap,
                split,
                lse,
                counted,
            };
            kernels.extend([
                kernel(MaskKind::None, true, false, true, false),
                kernel(MaskKind::Causal, false, true, false, false),
                kernel(MaskKind::Window, false, true, false, true),
            ]);
        }
        kernels
    }

    fn files(&self) -> Vec<&'static str> {
        let mut files = vec!["view.wgsl", "decode/params.wgsl"];
        match (self.dtype, self.unpack_f16) {
            (DType::F32, _) => files.push("elem/f32.wgsl"),
            (DType::Bf16, _) => files.push("elem/bf16.wgsl"),
            (DType::F16, true) => files.extend(["elem/f16.wgsl", "elem/unpack_f16_builtin.wgsl"]),
            (DType::F16, false) => files.extend(["elem/f16.wgsl", "elem/unpack_f16_bits.wgsl"]),
        }
        let place = if self.paged { "cache/paged.wgsl" } else { "cache/contiguous.wgsl" };
        let int8 = self.kv_dtype == KvDType::Int8;
        let lse_file = |lse| if lse { "output/lse.wgsl" } else { "output/no_lse.wgsl" };
        match self.kernel {
            CacheKernel::Append => {
                let store = if int8 { "decode/append_int8.wgsl" } else { "decode/append_same.wgsl" };
                files.extend(["decode/append.wgsl", place, store]);
            }
            CacheKernel::Merge { lse } => {
                files.extend(["decode/merge.wgsl", "decode/partials.wgsl", "online_softmax.wgsl", lse_file(lse)]);
            }
            CacheKernel::Decode { path, tile, mask, softcap, split, lse, counted } => {
                let rows = if tile.pack == 2 { "decode/rows2.wgsl" } else { "decode/rows4.wgsl" };
                files.extend(["decode/decode.wgsl", rows, "online_softmax.wgsl", place]);
                files.push(if int8 { "cache/int8.wgsl" } else { "cache/same.wgsl" });
                files.push(if counted { "cache/counted.wgsl" } else { "cache/uncounted.wgsl" });
                files.push(match mask {
                    MaskKind::None => "mask/none.wgsl",
                    MaskKind::Causal => "mask/causal.wgsl",
                    MaskKind::Window => "mask/window.wgsl",
                });
                files.push(if softcap { "score/softcap.wgsl" } else { "score/scaled.wgsl" });
                files.push(match path {
                    Path::Subgroup => "decode/subgroup.wgsl",
                    Path::Naive | Path::Portable | Path::Matrix => "decode/portable.wgsl",
                });
                if split {
                    files.extend(["decode/partial.wgsl", "decode/partials.wgsl"]);
                } else {
                    files.extend(["decode/whole.wgsl", lse_file(lse)]);
                }
            }
        }
        files
    }

    /// The complete WGSL text.
    pub fn source(&self) -> String {
        let mut text = format!("// {}\n", self.label());
        let mut switches = Vec::new();
        let mut constants = vec![("HEAD_DIM", self.head_dim), ("VALUE_DIM", self.value_dim)];
        match self.kernel {
            CacheKernel::Decode { tile, .. } => {
                constants.extend([
                    ("THREADS", tile.threads),
                    ("KEY_LANES", tile.key_lanes),
                    ("KEYS_PER_LANE", tile.keys_per_lane),
                    ("AHEAD", tile.ahead),
                    ("ROW_PACKS", tile.row_packs),
                    ("PARTS", tile.parts),
                    ("OCTETS_PER_LANE", tile.octets_per_lane(self.value_dim)),
                    ("KV_STRIDE", tile.kv_stride(self.head_dim, self.value_dim)),
                    ("KV_SLOTS", tile.kv_slots(self.head_dim, self.value_dim)),
                    ("Q_SLOTS", tile.q_slots(self.head_dim)),
                    ("MERGE_SLOTS", tile.merge_slots(self.value_dim)),
                ]);
                switches.push(("STAGED", tile.staged));
            }
            CacheKernel::Merge { .. } | CacheKernel::Append => constants.push(("THREADS", INVOCATIONS)),
        }
        join(&mut text, &constants, &switches, &self.files(), false);
        text
    }
}
