// DIFF V2 backward, dK and dV in one sweep over every query that sees the keys, with every pair of the KV group.
//
// A workgroup owns KEYS keys of one KV head. Invocations form groups of LANES, each of which owns 4 · ROW_QUADS keys; lane
// l computes with the pairs l, l + LANES, … of a tile. Pairs are numbered query · group + head of the group. Each lane
// computes the scores of both members and the one dP that they share; dS₁, dS₂ and P₁ - gate · P₂ go to the other lanes
// of the group, and each accumulates every LANES-th quad of dV, then of dK:
//
//     S₁, S₂, dP: PER_LANE pairs × 4 · ROW_QUADS keys
//     dV, dK:     4 · ROW_QUADS keys × VALUE_PER_LANE × 4 elements, and × HEAD_PER_LANE × 4
//
// Scores, dP, dV and dK of each member have loops of their own, so that a device with few registers need hold no two of
// them at a time, and may put the others aside once for each tile.
// No other workgroup adds to these rows, so there are no atomics, and every run gives the same bits.
// Workgroup memory: 16 · SLOTS bytes, and what exchange/parts_*.wgsl needs.
// Barriers per tile of pairs: Q and dout loaded; (workgroup exchange: parts shared;) Q and dout used.
// Numerics: f32; P is recomputed in base 2 from the saved LSE.
// Source: "Differential Transformer V2" (Microsoft, 2026), differentiated; FlashAttention-2 (Dao, 2023) for the loop.

const KEYS: u32 = 4u * ROW_QUADS * (THREADS / LANES);
const SCORES: u32 = ROW_QUADS * PER_LANE;
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

// Four elements of K, of four rows.
fn k_quads(row: vec4<u32>, octet: u32, upper: bool) -> Quads {
    return quads_of(unpack8(k[row.x + octet]), unpack8(k[row.y + octet]),
        unpack8(k[row.z + octet]), unpack8(k[row.w + octet]), upper);
}

fn v_quads(row: vec4<u32>, octet: u32, upper: bool) -> Quads {
    return quads_of(unpack8(v[row.x + octet]), unpack8(v[row.y + octet]),
        unpack8(v[row.z + octet]), unpack8(v[row.w + octet]), upper);
}

fn keys_in(view: View, b: u32, token: vec4<u32>, kv_head: u32) -> vec4<u32> {
    return vec4<u32>(view.base + b * view.batch + kv_head * view.head) + token * view.seq;
}

// q·k of both members over four elements of the head, for this lane's pairs and keys.
fn add_scores(
    pair_lane: u32, k_row: array<vec4<u32>, ROW_QUADS>, octet: u32, upper: bool,
    s1: ptr<function, array<vec4<f32>, SCORES>>, s2: ptr<function, array<vec4<f32>, SCORES>>,
) {
    var rows: array<Quads, ROW_QUADS>;
    for (var g = 0u; g < ROW_QUADS; g++) {
        rows[g] = k_quads(k_row[g], octet, upper);
    }
    for (var n = 0u; n < PER_LANE; n++) {
        let slot = MEMBERS * (n * LANES + pair_lane) * HEAD_STRIDE + 2u * octet + select(0u, 1u, upper);
        let x1 = wg_rows[slot];
        for (var g = 0u; g < ROW_QUADS; g++) {
            (*s1)[g * PER_LANE + n] = multiply_rows((*s1)[g * PER_LANE + n], rows[g], x1);
        }
        if (MEMBERS == 2u) {
            let x2 = wg_rows[slot + HEAD_STRIDE];
            for (var g = 0u; g < ROW_QUADS; g++) {
                (*s2)[g * PER_LANE + n] = multiply_rows((*s2)[g * PER_LANE + n], rows[g], x2);
            }
        }
    }
}

// dout·v over four elements of the value.
fn add_dp(
    pair_lane: u32, v_row: array<vec4<u32>, ROW_QUADS>, octet: u32, upper: bool,
    dp: ptr<function, array<vec4<f32>, SCORES>>,
) {
    var rows: array<Quads, ROW_QUADS>;
    for (var g = 0u; g < ROW_QUADS; g++) {
        rows[g] = v_quads(v_row[g], octet, upper);
    }
    for (var n = 0u; n < PER_LANE; n++) {
        let x = wg_rows[DOUT_BASE + (n * LANES + pair_lane) * VALUE_STRIDE + 2u * octet + select(0u, 1u, upper)];
        for (var g = 0u; g < ROW_QUADS; g++) {
            (*dp)[g * PER_LANE + n] = multiply_rows((*dp)[g * PER_LANE + n], rows[g], x);
        }
    }
}

// dV += (P₁ - gate · P₂)ᵀ · dout, the weights being shared as part MEMBERS of each row quad.
fn add_dv(
    lane: u32, own: array<vec4<f32>, SCORES>, sum: ptr<function, array<vec4<f32>, 4u * ROW_QUADS * VALUE_PER_LANE>>,
) {
    for (var n = 0u; n < PER_LANE; n++) {
        for (var source = 0u; source < LANES; source++) {
            var x = array<vec4<f32>, VALUE_PER_LANE>();
            for (var j = 0u; j < VALUE_PER_LANE; j++) {
                x[j] = wg_rows[DOUT_BASE + (n * LANES + source) * VALUE_STRIDE + lane % LANES + j * LANES];
            }
            for (var g = 0u; g < ROW_QUADS; g++) {
                let weight = part_of(lane, MEMBERS * ROW_QUADS + g, n, source, own[g * PER_LANE + n]);
                for (var j = 0u; j < VALUE_PER_LANE; j++) {
                    for (var i = 0u; i < 4u; i++) {
                        let slot = (4u * g + i) * VALUE_PER_LANE + j;
                        (*sum)[slot] = fma(vec4<f32>(weight[i]), x[j], (*sum)[slot]);
                    }
                }
            }
        }
    }
}

// dK += dSᵀ · Q of one member.
fn add_dk(
    lane: u32, member: u32, own: array<vec4<f32>, SCORES>,
    sum: ptr<function, array<vec4<f32>, 4u * ROW_QUADS * HEAD_PER_LANE>>,
) {
    for (var n = 0u; n < PER_LANE; n++) {
        for (var source = 0u; source < LANES; source++) {
            var x = array<vec4<f32>, HEAD_PER_LANE>();
            for (var j = 0u; j < HEAD_PER_LANE; j++) {
                let row = MEMBERS * (n * LANES + source) + member;
                x[j] = wg_rows[row * HEAD_STRIDE + lane % LANES + j * LANES];
            }
            for (var g = 0u; g < ROW_QUADS; g++) {
                let ds = part_of(lane, member * ROW_QUADS + g, n, source, own[g * PER_LANE + n]);
                for (var j = 0u; j < HEAD_PER_LANE; j++) {
                    for (var i = 0u; i < 4u; i++) {
                        let slot = (4u * g + i) * HEAD_PER_LANE + j;
                        (*sum)[slot] = fma(vec4<f32>(ds[i]), x[j], (*sum)[slot]);
                    }
                }
            }
        }
    }
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
    var key: array<vec4<u32>, ROW_QUADS>;
    var token: array<vec4<u32>, ROW_QUADS>;
    var k_row: array<vec4<u32>, ROW_QUADS>;
    var v_row: array<vec4<u32>, ROW_QUADS>;
    for (var g = 0u; g < ROW_QUADS; g++) {
        key[g] = vec4<u32>(first_key + 4u * (lane / LANES * ROW_QUADS + g)) + vec4<u32>(0u, 1u, 2u, 3u);
        token[g] = vec4<u32>(s.kv_start) + min(key[g], vec4<u32>(s.kv_len - 1u));
        k_row[g] = keys_in(params.k, b, token[g], kv_head);
        v_row[g] = keys_in(params.v, b, token[g], kv_head);
    }

    let last_key = min(first_key + KEYS, s.kv_len) - 1u;
    let seeing = positions_seeing(i32(first_key), i32(last_key)) - s.diagonal;
    let queries = vec2<u32>(clamp(seeing, vec2<i32>(0), vec2<i32>(i32(s.q_len))));
    let end = queries.y * params.group;

    var dk_sum: array<vec4<f32>, 4u * ROW_QUADS * HEAD_PER_LANE>;   // [key][quad]
    var dv_sum: array<vec4<f32>, 4u * ROW_QUADS * VALUE_PER_LANE>;

    for (var first = queries.x * params.group; first < end; first += ITEMS) {
        load_pairs(lane, s, b, kv_head, first, end);
        workgroupBarrier();

        // Zero in words: see forward.wgsl.
        var s1 = array<vec4<f32>, SCORES>();  // [row quad][pair]: q·k, then scores, then dS
        var s2 = array<vec4<f32>, SCORES>();
        for (var octet = 0u; octet < HEAD_OCTETS; octet++) {
            add_scores(pair_lane, k_row, octet, false, &s1, &s2);
            add_scores(pair_lane, k_row, octet, true, &s1, &s2);
        }
        var dp = array<vec4<f32>, SCORES>();  // then P₁ - gate · P₂
        for (var octet = 0u; octet < VALUE_OCTETS; octet++) {
            add_dp(pair_lane, v_row, octet, false, &dp);
            add_dp(pair_lane, v_row, octet, true, &dp);
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
            for (var g = 0u; g < ROW_QUADS; g++) {
                let i = g * PER_LANE + n;
                s1[i] = score4(s1[i]);
                s2[i] = score4(s2[i]);
                var p1 = exp2(s1[i] - t.lse.x);
                var p2 = exp2(s2[i] - t.lse.y);
                if (edge) {
                    // A mask asks for the distance only, so that four keys of one position are as good as the reverse.
                    let distance = vec4<i32>(s.diagonal + i32(query)) - vec4<i32>(key[g]);
                    let exists = (key[g] < vec4<u32>(s.kv_len)) & vec4<bool>(first + n * LANES + pair_lane < end);
                    let visible = sees(distance, 0) & exists;
                    p1 = select(vec4<f32>(0.0), p1, visible);
                    p2 = select(vec4<f32>(0.0), p2, visible);
                }
                s1[i] = p1 * (dp[i] - t.offset.x) * slope4(s1[i]);
                s2[i] = p2 * (-t.gate * dp[i] - t.offset.y) * slope4(s2[i]);
                dp[i] = p1;
                share_part(lane, g, n, s1[i]);
                if (MEMBERS == 2u) {
                    dp[i] = p1 - t.gate * p2;
                    share_part(lane, ROW_QUADS + g, n, s2[i]);
                }
                share_part(lane, MEMBERS * ROW_QUADS + g, n, dp[i]);
            }
        }
        parts_shared();

        add_dv(lane, dp, &dv_sum);
        add_dk(lane, 0u, s1, &dk_sum);
        if (MEMBERS == 2u) {
            add_dk(lane, 1u, s2, &dk_sum);
        }
        workgroupBarrier();
    }

    for (var g = 0u; g < ROW_QUADS; g++) {
        let dk_row = keys_in(params.dk, b, token[g], kv_head);
        let dv_row = keys_in(params.dv, b, token[g], kv_head);
        for (var i = 0u; i < 4u; i++) {
            if (key[g][i] >= s.kv_len) {
                continue;
            }
            for (var j = 0u; j < HEAD_PER_LANE; j++) {
                let quad = pair_lane + j * LANES;
                if (quad < HEAD_QUADS) {
                    write_dk(dk_row[i] + quad, dk_sum[(4u * g + i) * HEAD_PER_LANE + j]);
                }
            }
            for (var j = 0u; j < VALUE_PER_LANE; j++) {
                let quad = pair_lane + j * LANES;
                if (quad < VALUE_QUADS) {
                    write_dv(dv_row[i] + quad, dv_sum[(4u * g + i) * VALUE_PER_LANE + j]);
                }
            }
        }
    }
}
