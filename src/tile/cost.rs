//! What the tiled kernels are estimated to cost: the terms that the forward and the backward share. Pure.
//!
//! The unit is one issue slot of a multiply-add on an invocation's lane. Nothing here is measured on one device; the
//! terms rank tiles of one problem, and a tile may always be asked for instead.

use crate::caps::Caps;
use crate::problem::{DType, Mask, Problem};

/// A vec4 from workgroup memory. 32 lanes that all ask for another one move 512 bytes, four clocks at 128 bytes a clock,
/// in which four 32-wide units issue sixteen multiply-adds; lanes that share an address, as half of them do, halve it.
pub(super) const LOAD: f64 = 8.0;
/// A vec4 from a storage buffer that a cache near the core holds.
pub(super) const CACHED_LOAD: f64 = 12.0;
/// A vec4 brought from a storage buffer to workgroup memory: a load from a cache farther off, and a store.
pub(super) const STAGE: f64 = 24.0;
/// A workgroup barrier.
pub(crate) const BARRIER: f64 = 40.0;

/// Workgroups that run side by side on a small GPU. WebGPU does not tell; fewer than this leave the device idle.
pub(crate) const CORES: u32 = 16;

/// Lanes that a workgroup occupies: whole subgroups of the device's largest size.
pub(super) fn lanes(threads: u32, caps: &Caps) -> f64 {
    threads.next_multiple_of(caps.subgroups.map_or(32, |(_, largest)| largest.clamp(1, 64))).into()
}

/// 32-bit registers of an invocation for accumulators and operands: of the 128 that the narrower GPUs have, sixteen are
/// left for addresses.
const REGISTERS: u32 = 112;

/// Multiply-adds that a matrix unit is taken to do in a slot of one lane, which is low: 8 to 32 are built.
pub(crate) const UNITS: f64 = 8.0;

/// 32-bit registers of an invocation that a kernel on matrix units may fill with accumulators and with what it carries.
pub(crate) const MATRIX_REGISTERS: f64 = 208.0;

/// Factor of a loop that touches so many registers in every turn. Spilling inside a loop cost others a factor of five.
pub(super) fn spill(touched: u32) -> f64 {
    if touched > REGISTERS { 5.0 } else { 1.0 }
}

/// Putting aside, once in a tile, what lives across it beyond the registers: a load and a store for every four.
pub(super) fn park(live: u32) -> f64 {
    f64::from(live.saturating_sub(REGISTERS)) / 4.0 * 2.0 * LOAD
}

/// Instructions that widen four elements of the storage type.
pub(super) fn unpack(problem: &Problem, caps: &Caps) -> f64 {
    match problem.dtype {
        DType::F32 => 0.0,
        DType::Bf16 => 4.0,
        DType::F16 if caps.unpack_f16 => 4.0,
        DType::F16 => 24.0,
    }
}

/// Reading what another invocation of the group computed: from workgroup memory, or four shuffles, which are faster on
/// some GPUs and slower on others.
pub(super) const EXCHANGE: f64 = LOAD;

/// Keys that a query sees, on average; at least one.
pub(super) fn mean_keys(problem: &Problem) -> f64 {
    let (q_len, kv_len) = (f64::from(problem.shape.q_len), f64::from(problem.shape.kv_len));
    let side = |side: Option<u32>| side.map_or(kv_len / 2.0, |side| f64::from(side).min(kv_len / 2.0));
    let mean = match problem.options.mask() {
        Mask::None => kv_len,
        Mask::Causal => kv_len - q_len.min(kv_len) / 2.0,
        Mask::Window { left, right } => (side(left) + side(right) + 1.0).min(kv_len),
    };
    mean.max(1.0)
}

/// Items that a tile of rows visits where each row needs `needed` of them: whole steps, and where a mask has a slanting
/// edge, what only some of the rows need.
pub(super) fn visited(problem: &Problem, needed: f64, rows: u32, step: u32) -> f64 {
    match problem.options.mask() {
        Mask::None => (needed / f64::from(step)).ceil() * f64::from(step),
        Mask::Causal | Mask::Window { .. } => needed + f64::from(rows + step) / 2.0,
    }
}
