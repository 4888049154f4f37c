// The sweep over key tiles that dQ and the mean share: which rows a workgroup owns, and K and V in workgroup memory.
//
// A workgroup owns PAIRS consecutive pairs (backward/work.wgsl). Invocations form groups of LANES, each of which owns four
// pairs; lane l computes with the keys l, l + LANES, … of the tile.

const PAIRS: u32 = 4u * (THREADS / LANES);
const ITEMS: u32 = LANES * PER_LANE;  // keys of a tile

var<workgroup> wg_kv: array<vec4<f32>, SLOTS>;  // [key][quad]: V, then K in its place or behind it

// The four pairs of this lane's group.
struct Pairs {
    query: vec4<u32>,    // index within the sequence, clamped to the last one
    head: vec4<u32>,     // output head of the tensors
    exists: vec4<bool>,  // otherwise a clamped copy, computed and thrown away
}

fn pairs_of_lane(lane: u32, work: Work) -> Pairs {
    let pair = vec4<u32>(work.first + 4u * (lane / LANES)) + vec4<u32>(0u, 1u, 2u, 3u);
    let clamped = min(pair, vec4<u32>(work.pairs - 1u));
    let head = vec4<u32>(work.kv_head * params.group) + clamped % params.group;
    return Pairs(clamped / params.group, head, pair < vec4<u32>(work.pairs));
}

fn rows_in(view: View, work: Work, pairs: Pairs, heads_per_pair: u32) -> vec4<u32> {
    return vec4<u32>(view.base + work.batch * view.batch) + (vec4<u32>(work.s.q_start) + pairs.query) * view.seq
        + pairs.head * heads_per_pair * view.head;
}

// Keys from `count` on do not exist: they are read as zero, since a weight of 0 does not silence a NaN.
fn load_k(lane: u32, first_row: u32, count: u32) {
    for (var i = lane; i < ITEMS * HEAD_OCTETS; i += THREADS) {
        let key = i / HEAD_OCTETS;
        let octet = i % HEAD_OCTETS;
        var x = F32x8();
        if (key < count) {
            x = unpack8(k[first_row + key * params.k.seq + octet]);
        }
        wg_kv[K_BASE + key * HEAD_STRIDE + 2u * octet] = x.lo;
        wg_kv[K_BASE + key * HEAD_STRIDE + 2u * octet + 1u] = x.hi;
    }
}

fn load_v(lane: u32, first_row: u32, count: u32) {
    for (var i = lane; i < ITEMS * VALUE_OCTETS; i += THREADS) {
        let key = i / VALUE_OCTETS;
        let octet = i % VALUE_OCTETS;
        var x = F32x8();
        if (key < count) {
            x = unpack8(v[first_row + key * params.v.seq + octet]);
        }
        wg_kv[key * VALUE_STRIDE + 2u * octet] = x.lo;
        wg_kv[key * VALUE_STRIDE + 2u * octet + 1u] = x.hi;
    }
}

fn q_quads(row: vec4<u32>, octet: u32, upper: bool) -> Quads {
    return quads_of(unpack8(q[row.x + octet]), unpack8(q[row.y + octet]),
        unpack8(q[row.z + octet]), unpack8(q[row.w + octet]), upper);
}

fn dout_quads(row: vec4<u32>, octet: u32, upper: bool) -> Quads {
    return quads_of(unpack8(dout[row.x + octet]), unpack8(dout[row.y + octet]),
        unpack8(dout[row.z + octet]), unpack8(dout[row.w + octet]), upper);
}

// dP of the four pairs, for each of this lane's keys.
fn dp_of_tile(lane: u32, dout_row: vec4<u32>) -> array<vec4<f32>, PER_LANE> {
    var dp = array<vec4<f32>, PER_LANE>();
    for (var octet = 0u; octet < VALUE_OCTETS; octet++) {
        add_dp(lane, dout_row, octet, false, &dp);
        add_dp(lane, dout_row, octet, true, &dp);
    }
    return dp;
}

fn add_dp(
    lane: u32, dout_row: vec4<u32>, octet: u32, upper: bool, dp: ptr<function, array<vec4<f32>, PER_LANE>>,
) {
    let rows = dout_quads(dout_row, octet, upper);
    for (var n = 0u; n < PER_LANE; n++) {
        let slot = (n * LANES + lane % LANES) * VALUE_STRIDE + 2u * octet + select(0u, 1u, upper);
        (*dp)[n] = multiply_rows((*dp)[n], rows, wg_kv[slot]);
    }
}

// Loads V and K of a tile, and computes dP between the two where they share a place. K is there afterwards.
fn load_tile(lane: u32, work: Work, first_key: i32, end: i32, dout_row: vec4<u32>) -> array<vec4<f32>, PER_LANE> {
    let token = work.s.kv_start + u32(first_key);
    let count = u32(end - first_key);
    load_v(lane, row_of(params.v, work.batch, token, work.kv_head), count);
    if (K_BASE > 0u) {
        load_k(lane, row_of(params.k, work.batch, token, work.kv_head), count);
    }
    workgroupBarrier();
    let dp = dp_of_tile(lane, dout_row);
    if (K_BASE == 0u) {
        workgroupBarrier();
        load_k(lane, row_of(params.k, work.batch, token, work.kv_head), count);
        workgroupBarrier();
    }
    return dp;
}
