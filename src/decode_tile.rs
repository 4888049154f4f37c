//! (rows, dimensions, capabilities) → decode tile: which part of a decode step a workgroup owns. Pure.

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::kv_cache::KvDType;
use crate::tile::Path;

/// Invocations of the merge and append kernels' workgroups: enough to fill any subgroup, within every device's limit.
pub(crate) const INVOCATIONS: u32 = 64;

/// Rows up to which K and V go straight to registers.
const FEW_ROWS: u32 = 8;

/// What one workgroup of the decode kernel owns; `shaders/decode/decode.wgsl` tells the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecodeTile {
    /// Invocations in the workgroup; a multiple of `key_lanes`.
    pub threads: u32,
    /// Invocations that share rows.
    pub key_lanes: u32,
    /// Keys whose scores one invocation computes in one step.
    pub keys_per_lane: u32,
    /// Groups of four rows that one invocation owns.
    pub row_quads: u32,
    /// Invocations that share a key's elements; 1 except on the subgroup path.
    pub parts: u32,
    /// Whether K and V are shared through workgroup memory, for many rows; otherwise Q is.
    pub staged: bool,
}

impl DecodeTile {
    /// Packed query rows: new token × output head of the KV group × member of the pair.
    pub const fn rows(&self) -> u32 {
        4 * self.row_quads * self.threads / self.key_lanes
    }

    /// Keys of one step.
    pub const fn keys(&self) -> u32 {
        self.key_lanes / self.parts * self.keys_per_lane
    }

    /// Groups of eight output elements that one invocation owns for each of its rows.
    pub const fn octets_per_lane(&self, value_dim: u32) -> u32 {
        (value_dim / 8).div_ceil(self.key_lanes)
    }

    /// Slots between two keys in workgroup memory: odd, so that neighbouring keys fall into different banks.
    pub(crate) const fn kv_stride(&self, head_dim: u32, value_dim: u32) -> u32 {
        (if head_dim > value_dim { head_dim } else { value_dim }) / 8 | 1
    }

    /// Slots of K, and of V in its place; one where they are not staged, since an array cannot be empty.
    pub(crate) const fn kv_slots(&self, head_dim: u32, value_dim: u32) -> u32 {
        if self.staged { self.keys() * self.kv_stride(head_dim, value_dim) } else { 1 }
    }

    /// vec4 slots of Q.
    pub(crate) const fn q_slots(&self, head_dim: u32) -> u32 {
        if self.staged { 1 } else { self.rows() / 4 * head_dim }
    }

    /// vec4 slots for merging lanes that took different keys.
    pub(crate) const fn merge_slots(&self, value_dim: u32) -> u32 {
        if self.key_lanes >= 2 * (value_dim / 8) { self.threads } else { 1 }
    }

    /// Bytes of workgroup memory: the terms stated at the head of decode.wgsl.
    pub const fn workgroup_bytes(&self, head_dim: u32, value_dim: u32, kv_dtype: KvDType) -> u32 {
        let columns = self.key_lanes / self.parts;
        16 * (self.rows() / 4 * (columns + self.keys()) + self.q_slots(head_dim) + self.merge_slots(value_dim))
            + 4 * self.keys()
            + 8 * kv_dtype.size() as u32 * self.kv_slots(head_dim, value_dim)
            + 16 // alignment between the arrays
    }

    fn fits(&self, head_dim: u32, value_dim: u32, kv_dtype: KvDType, caps: &Caps) -> bool {
        self.threads <= caps.invocations
            && self.workgroup_bytes(head_dim, value_dim, kv_dtype) <= caps.workgroup_storage
    }
}

/// Path and tile for so many rows of one KV head.
///
/// One workgroup takes all rows where it can, so that K and V are loaded once; more rows than fit are shared among
/// several workgroups, which load K and V again.
///
/// # Errors
/// [`Error::MissingFeature`] for the subgroup path without subgroups, [`Error::Unsupported`] for a path that does not
/// exist for so many rows, [`Error::Limit`] when no tile fits.
pub(crate) fn decode_tile(
    rows: u32,
    head_dim: u32,
    value_dim: u32,
    kv_dtype: KvDType,
    path: Option<Path>,
    caps: &Caps,
) -> Result<(Path, DecodeTile)> {
    let few = rows <= FEW_ROWS;
    let path = match (path, caps.subgroups) {
        (Some(Path::Naive), _) => {
            let hint = "use the forward's naive path on a contiguous cache's keys and values".into();
            return Err(Error::Unsupported { what: "the naive path for decode".into(), hint });
        }
        (Some(Path::Subgroup), None) => {
            let hint = "request the feature when creating the device, or use the portable path";
            return Err(Error::MissingFeature { path: "subgroup", feature: "SUBGROUP", hint });
        }
        (Some(Path::Subgroup), _) if !few => {
            let what =
                format!("the subgroup path for more than {FEW_ROWS} rows (2 · heads / kv_heads · q_len = {rows})");
            return Err(Error::Unsupported { what, hint: "use the portable path".into() });
        }
        (None, Some(_)) if few => Path::Subgroup,
        (Some(Path::Subgroup), _) => Path::Subgroup,
        (Some(Path::Portable) | None, _) => Path::Portable,
    };
    let subgroup = caps.subgroups.filter(|_| path == Path::Subgroup).map(|(smallest, _)| smallest);
    let fits = |tile: &DecodeTile| tile.fits(head_dim, value_dim, kv_dtype, caps);
    let tile = if few {
        few_rows(rows, head_dim, subgroup).find(fits)
    } else {
        // The fewest workgroups that load K and V again; then the first, which is the best.
        many_rows(rows, value_dim).filter(fits).min_by_key(|tile| rows.div_ceil(tile.rows()))
    };
    tile.map(|tile| (path, tile)).ok_or_else(|| Error::Limit {
        name: "max_compute_workgroup_storage_size",
        what: "the smallest tile of the decode kernel".into(),
        needed: 16 << 10,
        available: caps.workgroup_storage.into(),
    })
}

fn few_rows(rows: u32, head_dim: u32, subgroup: Option<u32>) -> impl Iterator<Item = DecodeTile> {
    // Neighbouring lanes read 64 bytes of f16 of the same key, where its elements divide evenly.
    let most = subgroup.map_or(1, |smallest| smallest.min(4));
    let parts = [4, 2].into_iter().find(|parts| *parts <= most && (head_dim / 8).is_multiple_of(*parts)).unwrap_or(1);
    let row_quads = rows.div_ceil(4);
    [(128, 2), (64, 2), (64, 1), (32, 1)].into_iter().map(move |(threads, keys_per_lane)| DecodeTile {
        threads,
        key_lanes: threads,
        keys_per_lane,
        row_quads,
        parts,
        staged: false,
    })
}

fn many_rows(rows: u32, value_dim: u32) -> impl Iterator<Item = DecodeTile> {
    [(32, 1), (16, 1), (8, 1)].into_iter().flat_map(move |(key_lanes, keys_per_lane)| {
        [2, 1].into_iter().flat_map(move |row_quads| {
            let octets = (value_dim / 8).div_ceil(key_lanes);
            let most = rows.div_ceil(4 * row_quads);
            // At most 128 accumulators of f32, and preferably all rows in one workgroup.
            let lanes = (1..=most).rev().filter(move |_| octets * row_quads <= 4);
            lanes.map(move |row_lanes| DecodeTile {
                threads: row_lanes * key_lanes,
                key_lanes,
                keys_per_lane,
                row_quads,
                parts: 1,
                staged: true,
            })
        })
    })
}
