// DIFF V2 backward, dK and dV in one sweep over every query that sees the keys, with every pair of the KV group.
//
// A workgroup owns KEYS keys of one KV head. Invocations form groups of LANES, each of which owns four keys; lane l
// computes with the pairs l, l + LANES, … of a tile. Pairs are numbered query · group + head of the group. Each lane
// computes the scores of both members and the one dP that they share; dS₁, dS₂ and P₁ - gate · P₂ go to the other lanes
// of the group, and each accumulates every LANES-th quad of dK and dV:
//
//     S₁, S₂, dP: PER_LANE pairs × 4 keys       dK, dV: 4 keys × (HEAD_PER_LANE + VALUE_PER_LANE) × 4 elements
//
// No other workgroup adds to these rows, so there are no atomics, and every run gives the same bits.
// Workgroup memory: 16 · SLOTS bytes, and what exchange/parts_*.wgsl needs.
// Barriers per tile of pairs: Q and dout loaded; (workgroup exchange: parts shared;) Q and dout used.
// Numerics: f32; P is recomputed in base 2 from the saved LSE.
// Source: "Differential Transformer V2" (Microsoft, 2026), differentiated; FlashAttention-2 (Dao, 2023) for the loop.

const KEYS: u32 = 4u * (THREADS / LANES);
const ITEMS: u32 = LANES * PER_LANE;  // pairs of a tile
const DOUT_BASE: u32 = MEMBERS * ITEMS * HEAD_STRIDE;

var<workgroup> wg_rows: array<vec4<f32>, SLOTS>;  // Q as [pair][member][quad], then dout as [pair][quad]

// Pairs from `end` on do not exist: they are read as zero, since a weight of 0 does not silence a NaN.
fn load_pairs(lane: u32, s: Sequence, b: u32, kv_head: u32, first: u32, end: u32) {
    for (var i = lane; i < MEMBERS * ITEMS * HEAD_OCTETS; i += THREADS) {
        let row = i / HEAD_OCTETS;  // pair of the tile and member
        let octet = i % HEAD_OCTETS;
        let pair = first + row / MEMBERS;
        var x = F32x8();
        if (pair < end) {
            let head = MEMBERS * (kv_head * params.group + pair % params.group) + row % MEMBERS;
            x = unpack8(q[row_of(params.q, b, s.q_start + pair / params.group, head) + octet]);
        }
        wg_rows[row * HEAD_STRIDE + 2u * octet] = x.lo;
        wg_rows[row * HEAD_STRIDE + 2u * octet + 1u] = x.hi;
    }
    for (var i = lane; i < ITEMS * VALUE_OCTETS; i += THREADS) {
        let row = i / VALUE_OCTETS;
        let octet = i % VALUE_OCTETS;
        let pair = first + row;
        var x = F32x8();
        if (pair < end) {
            let head = kv_head * params.group + pair % params.group;
            x = unpack8(dout[row_of(params.dout, b, s.q_start + pair / params.group, head) + octet]);
        }
        wg_rows[DOUT_BASE + row * VALUE_STRIDE + 2u * octet] = x.lo;
        wg_rows[DOUT_BASE + row * VALUE_STRIDE + 2u * octet + 1u] = x.hi;
    }
}

fn k_octets(row: vec4<u32>, octet: u32) -> Octets {
    return Octets(unpack8(k[row.x + octet]), unpack8(k[row.y + octet]),
        unpack8(k[row.z + octet]), unpack8(k[row.w + octet]));
}

fn v_octets(row: vec4<u32>, octet: u32) -> Octets {
    return Octets(unpack8(v[row.x + octet]), unpack8(v[row.y + octet]),
        unpack8(v[row.z + octet]), unpack8(v[row.w + octet]));
}

fn keys_in(view: View, b: u32, token: vec4<u32>, kv_head: u32) -> vec4<u32> {
    return vec4<u32>(view.base + b * view.batch + kv_head * view.head) + token * view.seq;
}

fn run(tile: u32, lane: u32) {
    if (tile >= params.tiles) {
        return;
    }
    // Under a causal mask early keys are seen by the most queries; they come first.
    let kv_head = tile % params.kv_heads;
    let rest = tile / params.kv_heads;
    let s = sequence(rest % params.batch);
    let b = batch_of(rest % params.batch);
    let first_key = (rest / params.batch) * KEYS;
    if (first_key >= s.kv_len) {
        return;
    }
    let pair_lane = lane % LANES;
    let key = vec4<u32>(first_key + 4u * (lane / LANES)) + vec4<u32>(0u, 1u, 2u, 3u);
    let exists = key < vec4<u32>(s.kv_len);
    let token = vec4<u32>(s.kv_start) + min(key, vec4<u32>(s.kv_len - 1u));
    let k_row = keys_in(params.k, b, token, kv_head);
    let v_row = keys_in(params.v, b, token, kv_head);

    let last_key = min(first_key + KEYS, s.kv_len) - 1u;
    let seeing = positions_seeing(i32(first_key), i32(last_key)) - s.diagonal;
    let queries = vec2<u32>(clamp(seeing, vec2<i32>(0), vec2<i32>(i32(s.q_len))));
    let end = queries.y * params.group;

    var k0: array<vec4<f32>, HEAD_PER_LANE>;  // dK of the four keys
    var k1: array<vec4<f32>, HEAD_PER_LANE>;
    var k2: array<vec4<f32>, HEAD_PER_LANE>;
    var k3: array<vec4<f32>, HEAD_PER_LANE>;
    var v0: array<vec4<f32>, VALUE_PER_LANE>;  // dV of the four keys
    var v1: array<vec4<f32>, VALUE_PER_LANE>;
    var v2: array<vec4<f32>, VALUE_PER_LANE>;
    var v3: array<vec4<f32>, VALUE_PER_LANE>;

    for (var first = queries.x * params.group; first < end; first += ITEMS) {
        load_pairs(lane, s, b, kv_head, first, end);
        workgroupBarrier();

        // Zero in words: see forward.wgsl.
        var s1 = array<vec4<f32>, PER_LANE>();  // q·k, then scores, then dS
        var s2 = array<vec4<f32>, PER_LANE>();
        for (var octet = 0u; octet < HEAD_OCTETS; octet++) {
            let rows = k_octets(k_row, octet);
            for (var n = 0u; n < PER_LANE; n++) {
                let slot = MEMBERS * (n * LANES + pair_lane) * HEAD_STRIDE + 2u * octet;
                s1[n] = multiply_rows(s1[n], rows, wg_rows[slot], wg_rows[slot + 1u]);
                if (MEMBERS == 2u) {
                    let slot2 = slot + HEAD_STRIDE;
                    s2[n] = multiply_rows(s2[n], rows, wg_rows[slot2], wg_rows[slot2 + 1u]);
                }
            }
        }
        var dp = array<vec4<f32>, PER_LANE>();  // then P₁ - gate · P₂
        for (var octet = 0u; octet < VALUE_OCTETS; octet++) {
            let rows = v_octets(v_row, octet);
            for (var n = 0u; n < PER_LANE; n++) {
                let slot = DOUT_BASE + (n * LANES + pair_lane) * VALUE_STRIDE + 2u * octet;
                dp[n] = multiply_rows(dp[n], rows, wg_rows[slot], wg_rows[slot + 1u]);
            }
        }

        // Only tiles at an edge of the mask, of the keys or of the queries pay for comparisons.
        let step_end = min(first + ITEMS, end);
        let shared_keys = keys_shared(
            s.diagonal + i32(first / params.group), s.diagonal + i32((step_end - 1u) / params.group), i32(s.kv_len),
        );
        let edge = i32(first_key) < shared_keys.x || i32(first_key + KEYS) > shared_keys.y || first + ITEMS > end;
        for (var n = 0u; n < PER_LANE; n++) {
            let pair = min(first + n * LANES + pair_lane, end - 1u);
            let query = pair / params.group;
            let t = terms[row_of(params.terms, b, s.q_start + query, kv_head * params.group + pair % params.group)];
            s1[n] = score4(s1[n]);
            s2[n] = score4(s2[n]);
            var p1 = exp2(s1[n] - t.lse.x);
            var p2 = exp2(s2[n] - t.lse.y);
            if (edge) {
                // A mask asks for the distance only, so that four keys of one position are as good as the reverse.
                let distance = vec4<i32>(s.diagonal + i32(query)) - vec4<i32>(key);
                let visible = sees(distance, 0) & exists & vec4<bool>(first + n * LANES + pair_lane < end);
                p1 = select(vec4<f32>(0.0), p1, visible);
                p2 = select(vec4<f32>(0.0), p2, visible);
            }
            s1[n] = p1 * (dp[n] - t.offset.x) * slope4(s1[n]);
            s2[n] = p2 * (-t.gate * dp[n] - t.offset.y) * slope4(s2[n]);
            dp[n] = p1;
            share_part(lane, 0u, n, s1[n]);
            if (MEMBERS == 2u) {
                dp[n] = p1 - t.gate * p2;
                share_part(lane, 2u, n, s2[n]);
            }
            share_part(lane, 1u, n, dp[n]);
        }
        parts_shared();

        for (var n = 0u; n < PER_LANE; n++) {
            for (var source = 0u; source < LANES; source++) {
                let ds1 = part_of(lane, 0u, n, source, s1[n]);
                let weight = part_of(lane, 1u, n, source, dp[n]);
                var ds2 = vec4<f32>(0.0);
                if (MEMBERS == 2u) {
                    ds2 = part_of(lane, 2u, n, source, s2[n]);
                }
                let item = n * LANES + source;
                for (var j = 0u; j < HEAD_PER_LANE; j++) {
                    let slot = MEMBERS * item * HEAD_STRIDE + pair_lane + j * LANES;
                    let x1 = wg_rows[slot];
                    k0[j] = fma(vec4<f32>(ds1.x), x1, k0[j]);
                    k1[j] = fma(vec4<f32>(ds1.y), x1, k1[j]);
                    k2[j] = fma(vec4<f32>(ds1.z), x1, k2[j]);
                    k3[j] = fma(vec4<f32>(ds1.w), x1, k3[j]);
                    if (MEMBERS == 2u) {
                        let x2 = wg_rows[slot + HEAD_STRIDE];
                        k0[j] = fma(vec4<f32>(ds2.x), x2, k0[j]);
                        k1[j] = fma(vec4<f32>(ds2.y), x2, k1[j]);
                        k2[j] = fma(vec4<f32>(ds2.z), x2, k2[j]);
                        k3[j] = fma(vec4<f32>(ds2.w), x2, k3[j]);
                    }
                }
                for (var j = 0u; j < VALUE_PER_LANE; j++) {
                    let x = wg_rows[DOUT_BASE + item * VALUE_STRIDE + pair_lane + j * LANES];
                    v0[j] = fma(vec4<f32>(weight.x), x, v0[j]);
                    v1[j] = fma(vec4<f32>(weight.y), x, v1[j]);
                    v2[j] = fma(vec4<f32>(weight.z), x, v2[j]);
                    v3[j] = fma(vec4<f32>(weight.w), x, v3[j]);
                }
            }
        }
        workgroupBarrier();
    }

    let dk_row = keys_in(params.dk, b, token, kv_head);
    let dv_row = keys_in(params.dv, b, token, kv_head);
    for (var j = 0u; j < HEAD_PER_LANE; j++) {
        let quad = pair_lane + j * LANES;
        if (quad < HEAD_QUADS) {
            write_keys_dk(dk_row + vec4<u32>(quad), exists, k0[j], k1[j], k2[j], k3[j]);
        }
    }
    for (var j = 0u; j < VALUE_PER_LANE; j++) {
        let quad = pair_lane + j * LANES;
        if (quad < VALUE_QUADS) {
            write_keys_dv(dv_row + vec4<u32>(quad), exists, v0[j], v1[j], v2[j], v3[j]);
        }
    }
}

fn write_keys_dk(row: vec4<u32>, exists: vec4<bool>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    if (exists.x) {
        write_dk(row.x, a);
    }
    if (exists.y) {
        write_dk(row.y, b);
    }
    if (exists.z) {
        write_dk(row.z, c);
    }
    if (exists.w) {
        write_dk(row.w, d);
    }
}

fn write_keys_dv(row: vec4<u32>, exists: vec4<bool>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    if (exists.x) {
        write_dv(row.x, a);
    }
    if (exists.y) {
        write_dv(row.y, b);
    }
    if (exists.z) {
        write_dv(row.z, c);
    }
    if (exists.w) {
        write_dv(row.w, d);
    }
}
