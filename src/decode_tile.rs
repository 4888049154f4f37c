//! (rows, dimensions, capabilities) → decode tile: which part of a decode step a workgroup owns. Pure.

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::kv_cache::KvDType;
use crate::tile::{Fields, Path, limit, subgroup_min};
use std::fmt;
use std::str::FromStr;

/// Invocations of the merge and append kernels' workgroups: enough to fill any subgroup, within every device's limit.
pub(crate) const INVOCATIONS: u32 = 64;

/// Rows up to which K and V go straight to registers.
const FEW_ROWS: u32 = 8;

/// Loads of eight elements of K, and of V, that one invocation has on their way at a time, at most: of f16 they fill
/// 256 registers, all that GPUs give it.
const MOST_AHEAD: u32 = 64;

/// Those that are best. Measured on a device that reads 4.5 TB/s, of which 4 workgroups of 64 then fit a core: 16 reach
/// 85 % of that, 8 80 %, though 6 of theirs fit; 89 % in the text that was kept. A software driver loads for each lane by itself, so that nothing is on its
/// way, and keeps what is loaded ahead in memory: 16 took 1.7 times as long as 1.
fn loads_ahead(caps: &Caps) -> u32 {
    if caps.software || caps.kind == wgpu::DeviceType::Cpu { 1 } else { 16 }
}

/// What one workgroup of the decode kernel owns; `shaders/decode/decode.wgsl` tells the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecodeTile {
    /// Invocations in the workgroup; a multiple of `key_lanes`.
    pub threads: u32,
    /// Invocations that share rows.
    pub key_lanes: u32,
    /// Keys whose scores one invocation computes in one step.
    pub keys_per_lane: u32,
    /// Rows of one vector: 4, or 2 where a KV head has no more.
    pub pack: u32,
    /// Packs of rows that one invocation owns.
    pub row_packs: u32,
    /// Invocations that share a key's elements; 1 except on the subgroup path.
    pub parts: u32,
    /// Loads of eight elements of K, and of V, that one invocation has on their way at a time.
    pub ahead: u32,
    /// Whether K and V are shared through workgroup memory, for many rows; otherwise Q is.
    pub staged: bool,
}

impl DecodeTile {
    /// Packed query rows: new token × output head of the KV group × member of the pair.
    pub const fn rows(&self) -> u32 {
        self.pack * self.row_packs * self.threads / self.key_lanes
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
        ((if head_dim > value_dim { head_dim } else { value_dim }) / 8) | 1
    }

    /// Slots of K, and of V in its place; one where they are not staged, since an array cannot be empty.
    pub(crate) const fn kv_slots(&self, head_dim: u32, value_dim: u32) -> u32 {
        if self.staged { self.keys() * self.kv_stride(head_dim, value_dim) } else { 1 }
    }

    /// Slots of Q, of one pack each.
    pub(crate) const fn q_slots(&self, head_dim: u32) -> u32 {
        if self.staged { 1 } else { self.rows() / self.pack * head_dim }
    }

    /// vec4 slots for merging lanes that took different keys.
    pub(crate) const fn merge_slots(&self, value_dim: u32) -> u32 {
        if self.key_lanes >= 2 * (value_dim / 8) { self.threads } else { 1 }
    }

    /// Bytes of workgroup memory: the terms stated at the head of decode.wgsl.
    pub const fn workgroup_bytes(&self, head_dim: u32, value_dim: u32, kv_dtype: KvDType) -> u32 {
        let columns = self.key_lanes / self.parts;
        let bytes = 4
            * (self.rows() as u64 * (columns + self.keys()) as u64 + (self.pack * self.q_slots(head_dim)) as u64)
            + 16 * self.merge_slots(value_dim) as u64
            + 8 * kv_dtype.size() * self.kv_slots(head_dim, value_dim) as u64
            + 16; // alignment between the arrays
        // A tile that a caller made up may be of any size; it fits no device then.
        if bytes > u32::MAX as u64 { u32::MAX } else { bytes as u32 }
    }

    fn fits(&self, dims: Dims, caps: &Caps) -> bool {
        self.threads <= caps.invocations && self.bytes(dims) <= caps.workgroup_storage
    }

    fn bytes(&self, Dims { head_dim, value_dim, kv_dtype, .. }: Dims) -> u32 {
        self.workgroup_bytes(head_dim, value_dim, kv_dtype)
    }

    fn is_sound(&self, path: Path) -> bool {
        let counts = [self.threads, self.key_lanes, self.keys_per_lane, self.row_packs, self.parts];
        counts.iter().all(|&count| (1..=1024).contains(&count))
            && matches!(self.pack, 2 | 4)
            && (1..=MOST_AHEAD).contains(&self.ahead)
            && self.threads.is_multiple_of(self.key_lanes)
            && self.key_lanes.is_multiple_of(self.parts)
            && self.parts.is_power_of_two()
            && (self.parts == 1 || path == Path::Subgroup)
            && (self.staged || self.threads == self.key_lanes)
            && (!self.staged || path == Path::Portable)
            && (self.key_lanes.is_power_of_two() || path == Path::Portable)
    }

    /// Checks a tile that a caller chose against the problem and the device.
    pub(crate) fn validate(&self, dims: Dims, path: Path, caps: &Caps) -> Result<()> {
        if !self.is_sound(path) {
            let rule = format!(
                "pack 2 or 4, parts a power of two that divides key_lanes (1 on the portable path), key_lanes a \
                 divisor of threads (all of them unless staged; a power of two on the subgroup path), ahead from 1 to \
                 {MOST_AHEAD}, staged on the portable path only"
            );
            return Err(Error::invalid("tile", rule, format!("{self:?}")));
        }
        let smallest = if path == Path::Subgroup { subgroup_min(caps)? } else { 1 };
        if self.parts > smallest {
            let rule = format!("at most {smallest}, the device's smallest subgroup");
            return Err(Error::invalid("tile.parts", rule, self.parts));
        }
        limit("max_compute_invocations_per_workgroup", self.threads, caps.invocations)?;
        limit("max_compute_workgroup_storage_size", self.bytes(dims), caps.workgroup_storage)
    }
}

/// Rows, keys, threads, keys for each lane, parts, rows of a vector; loads ahead where they are not one, `s` where K
/// and V are staged.
impl fmt::Display for DecodeTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}k{}t{}n{}", self.rows(), self.keys(), self.threads, self.keys_per_lane)?;
        write!(f, "p{}v{}", self.parts, self.pack)?;
        if self.ahead != 1 {
            write!(f, "a{}", self.ahead)?;
        }
        f.write_str(if self.staged { "s" } else { "" })
    }
}

impl FromStr for DecodeTile {
    type Err = Error;

    /// Reads what [`DecodeTile`] prints.
    fn from_str(text: &str) -> Result<Self> {
        let rule = "as in r4k64t64n4p4v4a8: rows, keys, threads, keys for each lane, lanes that share a key, rows of a \
                    vector, loads ahead (unless one), then s (K and V staged)";
        let mut fields = Fields::read(text, rule)?;
        let mut count = |letter| fields.count(letter);
        let [rows, keys, threads, keys_per_lane] = [count('r')?, count('k')?, count('t')?, count('n')?];
        let [parts, pack] = [count('p')?, count('v')?];
        let ahead = fields.number('a')?.unwrap_or(1);
        let staged = fields.flag('s')?;
        let wrong = || fields.wrong();
        let key_lanes = fields.share(keys, keys_per_lane)?.checked_mul(parts).ok_or_else(wrong)?;
        let lanes = fields.share(threads, key_lanes)?;
        let row_packs = fields.share(rows, pack.checked_mul(lanes).ok_or_else(wrong)?)?;
        fields.done(DecodeTile { threads, key_lanes, keys_per_lane, pack, row_packs, parts, ahead, staged })
    }
}

/// What a tile depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dims {
    /// Packed query rows of one KV head.
    pub rows: u32,
    pub head_dim: u32,
    pub value_dim: u32,
    pub kv_dtype: KvDType,
}

/// Path and tile for so many rows of one KV head.
///
/// One workgroup takes all rows where it can, so that K and V are loaded once; more rows than fit are shared among
/// several workgroups, which load K and V again.
///
/// # Errors
/// [`Error::MissingFeature`] for the subgroup path without subgroups, [`Error::Unsupported`] for a path that does not
/// exist for so many rows, [`Error::Limit`] when no tile fits.
pub(crate) fn decode_tile(dims: Dims, path: Option<Path>, caps: &Caps) -> Result<(Path, DecodeTile)> {
    let rows = dims.rows;
    let few = rows <= FEW_ROWS;
    let path = match path {
        Some(path @ (Path::Naive | Path::Matrix)) => {
            let hint = "use the portable path, or the forward pass on a contiguous cache's keys and values".into();
            return Err(Error::Unsupported { what: format!("the {} path for decode", path.name()), hint });
        }
        Some(Path::Subgroup) if !few => {
            let what =
                format!("the subgroup path for more than {FEW_ROWS} rows (2 · heads / kv_heads · q_len = {rows})");
            return Err(Error::Unsupported { what, hint: "use the portable path".into() });
        }
        None if few && caps.subgroups.is_some() && caps.quirk(Path::Subgroup).is_none() => Path::Subgroup,
        None => Path::Portable,
        Some(path) => path,
    };
    let tile = if few {
        let most_parts = if path == Path::Subgroup { most_parts(caps)? } else { 1 };
        few_rows(rows, dims.head_dim, most_parts, loads_ahead(caps)).find(|tile| tile.fits(dims, caps))
    } else {
        // The fewest workgroups that load K and V again; then the first, which is the best.
        let fitting = many_rows(rows, dims.value_dim).filter(|tile| tile.fits(dims, caps));
        fitting.min_by_key(|tile| rows.div_ceil(tile.rows()))
    };
    tile.map(|tile| (path, tile)).ok_or_else(|| Error::Limit {
        name: "max_compute_workgroup_storage_size",
        what: "the smallest tile of the decode kernel".into(),
        needed: 16 << 10,
        available: caps.workgroup_storage.into(),
    })
}

/// Lanes that share a key, at most: four, which read 64 bytes of f16 together. A CPU loads for each lane by itself, but
/// what is the same for all lanes only once, as Q is where each lane has a key of its own.
fn most_parts(caps: &Caps) -> Result<u32> {
    let smallest = subgroup_min(caps)?;
    Ok(if caps.kind == wgpu::DeviceType::Cpu { 1 } else { smallest.min(4) })
}

fn few_rows(rows: u32, head_dim: u32, most_parts: u32, ahead: u32) -> impl Iterator<Item = DecodeTile> {
    // Where a key's elements divide evenly.
    let divides = |parts: &u32| *parts <= most_parts && (head_dim / 8).is_multiple_of(*parts);
    let parts = [4, 2].into_iter().find(divides).unwrap_or(1);
    // Small workgroups: their barriers are cheap, and as many of them as the cores hold hide the wait for memory.
    let threads = if parts > 1 { 64 } else { 32 };
    let pack = if rows <= 2 { 2 } else { 4 };
    let row_packs = rows.div_ceil(pack);
    [4, 2, 1].into_iter().map(move |keys_per_lane| DecodeTile {
        threads,
        key_lanes: threads,
        keys_per_lane,
        pack,
        row_packs,
        parts,
        ahead,
        staged: false,
    })
}

fn many_rows(rows: u32, value_dim: u32) -> impl Iterator<Item = DecodeTile> {
    [(32, 1), (16, 1), (8, 1)].into_iter().flat_map(move |(key_lanes, keys_per_lane)| {
        [2, 1].into_iter().flat_map(move |row_packs| {
            let octets = (value_dim / 8).div_ceil(key_lanes);
            let most = rows.div_ceil(4 * row_packs);
            // At most 128 accumulators of f32, and preferably all rows in one workgroup.
            let lanes = (1..=most).rev().filter(move |_| octets * row_packs <= 4);
            lanes.map(move |row_lanes| DecodeTile {
                threads: row_lanes * key_lanes,
                key_lanes,
                keys_per_lane,
                pack: 4,
                row_packs,
                parts: 1,
                ahead: 1,
                staged: true,
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dimension_has_a_tile_at_the_floor() {
        for subgroups in [None, Some((4, 128)), Some((32, 32))] {
            let caps = Caps { subgroups, ..Caps::floor() };
            for (head_dim, value_dim) in [(8, 8), (8, 256), (256, 8), (128, 128), (256, 256), (80, 72)] {
                for kv_dtype in [KvDType::F32, KvDType::F16, KvDType::Int8] {
                    for rows in [2, 4, 6, 8, 10, 32, 64, 512] {
                        let dims = Dims { rows, head_dim, value_dim, kv_dtype };
                        let (path, tile) = decode_tile(dims, None, &caps).expect("a tile fits");
                        tile.validate(dims, path, &caps).expect("it is valid");
                    }
                }
            }
        }
    }

    #[test]
    fn a_tile_is_read_back_from_its_text() {
        let few = |ahead| [2, 4, 8].into_iter().flat_map(move |rows| few_rows(rows, 64, 4, ahead));
        for tile in few(1).chain(few(8)).chain(many_rows(64, 128)) {
            assert_eq!(tile.to_string().parse(), Ok(tile), "{tile}");
        }
        // One load at a time is not said: labels from before there were more are still read.
        let one: DecodeTile = "r4k64t64n4p4v4".parse().expect("a tile");
        assert_eq!("r4k64t64n4p4v4a8".parse(), Ok(DecodeTile { ahead: 8, ..one }));
        assert_eq!(one.ahead, 1);
        for text in [
            "",
            "r4k64t64n4p4",
            "r4k64t64n4p4v3",
            "r4k63t64n4p4v4",
            "r4k64t64n4p4v4x",
            "r4k64t64n4p4v4a1",
            "r4k64t64n4p4v4a",
            "r4k64t64n4p4a8v4",
            "r4294967295k4294967295t4294967295n1p4294967295v4294967295",
        ] {
            let error = text.parse::<DecodeTile>().unwrap_err().to_string();
            assert!(error.starts_with("`tile` is ") && error.contains("as in r4"), "{text}: {error}");
        }
    }

    #[test]
    fn a_tile_beyond_every_device_is_refused() {
        let caps = Caps { invocations: 1024, ..Caps::floor() };
        let dims = Dims { rows: 4096, head_dim: 128, value_dim: 128, kv_dtype: KvDType::F16 };
        let tile: DecodeTile = "r4096k1048576t1024n1024p1v4".parse().expect("a tile");
        assert!(tile.validate(dims, Path::Portable, &caps).unwrap_err().is_unsupported());
    }

    #[test]
    fn subgroups_are_shared_in_powers_of_two() {
        let caps = Caps { subgroups: Some((8, 8)), ..Caps::floor() };
        let dims = Dims { rows: 4, head_dim: 64, value_dim: 64, kv_dtype: KvDType::F16 };
        for (text, sound) in [("r4k6t6n1p1v4", false), ("r4k48t48n1p1v4", false), ("r4k64t64n1p1v4", true)] {
            let tile: DecodeTile = text.parse().expect("a tile");
            assert_eq!(tile.validate(dims, Path::Subgroup, &caps).is_ok(), sound, "{text}");
            assert!(tile.validate(dims, Path::Portable, &caps).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_driver_with_wrong_shuffles_is_passed_over() {
        let wrong = Caps { vendor: 0x5143, subgroups: Some((64, 64)), ..Caps::floor() };
        let dims = Dims { rows: 4, head_dim: 128, value_dim: 128, kv_dtype: KvDType::F16 };
        assert!(matches!(decode_tile(dims, None, &wrong), Ok((Path::Portable, _))));
        assert!(matches!(decode_tile(dims, Some(Path::Subgroup), &wrong), Ok((Path::Subgroup, _))));
    }

    #[test]
    fn one_workgroup_takes_the_rows_of_usual_models() {
        for (rows, head_dim, kv_dtype) in [(64, 128, KvDType::F16), (64, 64, KvDType::F32), (32, 128, KvDType::F32)] {
            let dims = Dims { rows, head_dim, value_dim: head_dim, kv_dtype };
            let (_, tile) = decode_tile(dims, None, &Caps::floor()).unwrap();
            assert!(tile.rows() >= rows, "{rows} rows of {head_dim}: {tile:?}");
        }
    }

    #[test]
    fn loads_go_ahead_except_on_software_drivers_and_where_k_and_v_are_staged() {
        let gpu = Caps { subgroups: Some((32, 32)), ..Caps::floor() };
        let software = Caps { software: true, kind: wgpu::DeviceType::Cpu, subgroups: Some((8, 8)), ..Caps::floor() };
        for (caps, rows, ahead) in [(&gpu, 4, 16), (&Caps::floor(), 4, 16), (&software, 4, 1), (&gpu, 64, 1)] {
            let dims = Dims { rows, head_dim: 128, value_dim: 128, kv_dtype: KvDType::F16 };
            let (_, tile) = decode_tile(dims, None, caps).unwrap();
            assert_eq!(tile.ahead, ahead, "{tile}");
        }
    }

    #[test]
    fn wrong_tiles_are_named() {
        let dims = Dims { rows: 4, head_dim: 64, value_dim: 64, kv_dtype: KvDType::F16 };
        let caps = Caps { subgroups: Some((8, 8)), ..Caps::floor() };
        let (_, good) = decode_tile(dims, Some(Path::Subgroup), &caps).unwrap();
        assert_eq!(good.validate(dims, Path::Subgroup, &caps), Ok(()));
        let wrong = |tile: DecodeTile| tile.validate(dims, Path::Subgroup, &caps).unwrap_err().to_string();
        assert!(wrong(DecodeTile { parts: 3, ..good }).contains("`tile` is"));
        assert!(wrong(DecodeTile { ahead: 0, ..good }).contains("ahead from 1 to 64"));
        assert!(wrong(DecodeTile { ahead: 65, ..good }).contains("ahead from 1 to 64"));
        assert!(wrong(DecodeTile { parts: 16, ..good }).contains("smallest subgroup"));
        assert!(wrong(DecodeTile { threads: 512, key_lanes: 512, ..good }).contains("invocations_per_workgroup"));
        assert!(wrong(DecodeTile { keys_per_lane: 64, ..good }).contains("workgroup_storage_size"));
    }
}
