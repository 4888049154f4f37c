// DIFF V2 forward: both members of a pair in one pass over K and V.
//
// A workgroup owns one tile: ROWS packed query rows of one sequence that all read one KV head. A row is (position,
// output head of the tile, member); the two members of a pair are neighbouring rows of the same invocation, so the gate
// is applied in registers. Invocations form a grid of ROW_LANES × KEY_LANES. Each owns 4 · ROW_QUADS rows, for which it
// computes the scores of KEYS_PER_LANE keys, then every KEY_LANES-th group of four output elements:
//
//     scores: 4 · ROW_QUADS rows × KEYS_PER_LANE keys
//     out:    4 · ROW_QUADS rows × QUADS_PER_LANE × 4 elements
//
// so that both products load r + n vectors for r · n dot products: the loads of a multiply-add fall with the size of the
// block, which registers bound. Scores and outputs are each touched in a loop of their own, so that a device with few
// registers can put the outputs aside once for each tile. A vec4 named after rows holds one value for each of four rows.
// Only weights (and row maxima) are exchanged, see exchange/.
//
// Workgroup memory: 16 · (KEYS · KV_STRIDE · (1, or 2 where V_BASE > 0) + Q_SLOTS) bytes, and what exchange/ needs.
// Barriers per key tile: K loaded; row maxima shared (workgroup exchange) or K used (subgroups, where V takes its
// place); V loaded and weights shared (none for subgroups where V came with K); V used.
// Numerics: online softmax in base 2, f32 throughout; each lane sums its own keys, merged once at the end.
// Source: "Differential Transformer V2" (Microsoft, 2026); FlashAttention-2 (Dao, 2023) for the loop order.

@group(0) @binding(1) var<storage, read> q: array<Elem8>;
@group(0) @binding(2) var<storage, read> k: array<Elem8>;
@group(0) @binding(3) var<storage, read> v: array<Elem8>;
@group(0) @binding(4) var<storage, read> lam: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<Elem4>;

const HEAD_OCTETS: u32 = HEAD_DIM / 8u;
const VALUE_OCTETS: u32 = VALUE_DIM / 8u;
const VALUE_QUADS: u32 = VALUE_DIM / 4u;
const ROW_LANES: u32 = THREADS / KEY_LANES;
const ROWS: u32 = 4u * ROW_QUADS * ROW_LANES;
const KEYS: u32 = KEY_LANES * KEYS_PER_LANE;
const ROWS_PER_POSITION: u32 = MEMBERS * HEADS_PER_TILE;
const POSITIONS: u32 = ROWS / ROWS_PER_POSITION;
const SCORES: u32 = ROW_QUADS * KEYS_PER_LANE;
const OUTPUTS: u32 = 4u * ROW_QUADS * QUADS_PER_LANE;

var<workgroup> wg_kv: array<vec4<f32>, KV_SLOTS>;  // [key][quad]: K, then V in its place or behind it
var<workgroup> wg_q: array<vec4<f32>, Q_SLOTS>;    // [row of lane][row lane][quad], where STAGE_Q

// Four rows of this lane, one element of each vector for each row.
struct Rows {
    query: vec4<u32>,     // index within the sequence, clamped to the last one
    head: vec4<u32>,      // head of the tensor that is addressed
    exists: vec4<bool>,   // otherwise a clamped copy, computed and thrown away
}

fn rows_of_lane(lane: u32, row_quad: u32, first_query: u32, q_len: u32, first_head: u32) -> Rows {
    let row = vec4<u32>(4u * (lane / KEY_LANES * ROW_QUADS + row_quad)) + vec4<u32>(0u, 1u, 2u, 3u);
    let query = vec4<u32>(first_query) + row / ROWS_PER_POSITION;
    let exists = (query < vec4<u32>(q_len)) & (row < vec4<u32>(POSITIONS * ROWS_PER_POSITION));
    return Rows(min(query, vec4<u32>(q_len - 1u)), vec4<u32>(first_head) + row % ROWS_PER_POSITION, exists);
}

fn rows_in(view: View, batch: u32, q_start: u32, rows: Rows) -> vec4<u32> {
    return vec4<u32>(view.base + batch * view.batch) + (vec4<u32>(q_start) + rows.query) * view.seq
        + rows.head * view.head;
}

// Keys from `count` on do not exist: they are read as zero, since a weight of 0 does not silence a NaN.
fn load_k(lane: u32, first_row: u32, count: u32) {
    for (var i = lane; i < KEYS * HEAD_OCTETS; i += THREADS) {
        let key = i / HEAD_OCTETS;
        let octet = i % HEAD_OCTETS;
        var x = F32x8();
        if (key < count) {
            x = unpack8(k[first_row + key * params.k.seq + octet]);
        }
        wg_kv[key * KV_STRIDE + 2u * octet] = x.lo;
        wg_kv[key * KV_STRIDE + 2u * octet + 1u] = x.hi;
    }
}

fn load_v(lane: u32, first_row: u32, count: u32) {
    for (var i = lane; i < KEYS * VALUE_OCTETS; i += THREADS) {
        let key = i / VALUE_OCTETS;
        let octet = i % VALUE_OCTETS;
        var x = F32x8();
        if (key < count) {
            x = unpack8(v[first_row + key * params.v.seq + octet]);
        }
        wg_kv[V_BASE + key * KV_STRIDE + 2u * octet] = x.lo;
        wg_kv[V_BASE + key * KV_STRIDE + 2u * octet + 1u] = x.hi;
    }
}

// Four rows of Q, as f32; visible from the next barrier on. Each lane stores what it alone will read (with the other key
// lanes of its row).
fn stage_q(lane: u32, row_quad: u32, q_row: vec4<u32>) {
    for (var octet = lane % KEY_LANES; octet < HEAD_OCTETS; octet += KEY_LANES) {
        for (var i = 0u; i < 4u; i++) {
            let x = unpack8(q[q_row[i] + octet]);
            let slot = ((row_quad * 4u + i) * ROW_LANES + lane / KEY_LANES) * Q_STRIDE + 2u * octet;
            wg_q[slot] = x.lo;
            wg_q[slot + 1u] = x.hi;
        }
    }
}

fn query_octet(lane: u32, i: u32, q_row: u32, octet: u32) -> F32x8 {
    if (STAGE_Q) {
        let slot = (i * ROW_LANES + lane / KEY_LANES) * Q_STRIDE + 2u * octet;
        return F32x8(wg_q[slot], wg_q[slot + 1u]);
    }
    return unpack8(q[q_row + octet]);
}

// Scores += q·k over the lower or upper half of an octet.
fn add_scores(
    lane: u32, q_row: array<vec4<u32>, ROW_QUADS>, octet: u32, upper: bool,
    score: ptr<function, array<vec4<f32>, SCORES>>,
) {
    var rows: array<Quads, ROW_QUADS>;
    for (var g = 0u; g < ROW_QUADS; g++) {
        rows[g] = quads_of(
            query_octet(lane, 4u * g, q_row[g].x, octet), query_octet(lane, 4u * g + 1u, q_row[g].y, octet),
            query_octet(lane, 4u * g + 2u, q_row[g].z, octet), query_octet(lane, 4u * g + 3u, q_row[g].w, octet), upper,
        );
    }
    for (var n = 0u; n < KEYS_PER_LANE; n++) {
        let key = wg_kv[(n * KEY_LANES + lane % KEY_LANES) * KV_STRIDE + 2u * octet + select(0u, 1u, upper)];
        for (var g = 0u; g < ROW_QUADS; g++) {
            (*score)[g * KEYS_PER_LANE + n] = multiply_rows((*score)[g * KEYS_PER_LANE + n], rows[g], key);
        }
    }
}

// o1/l1 - gate · o2/l2, this lane's elements of the pair whose first row of this lane is `row`.
fn write_pair(
    key_lane: u32,
    o: ptr<function, array<vec4<f32>, OUTPUTS>>,
    row: u32,
    scale: vec2<f32>,
    gate: f32,
    out_row: u32,
    a2_row: u32,
) {
    for (var j = 0u; j < QUADS_PER_LANE; j++) {
        let quad = key_lane + j * KEY_LANES;
        if (quad < VALUE_QUADS) {
            let member2 = (*o)[(row + 1u) * QUADS_PER_LANE + j] * scale.y;
            out[out_row + quad] = pack4((*o)[row * QUADS_PER_LANE + j] * scale.x - gate * member2);
            write_a2(a2_row, quad, member2);
        }
    }
}

// o/l, this lane's elements, where MEMBERS is 1: standard attention, for the baseline of the attention module.
fn write_single(
    key_lane: u32, o: ptr<function, array<vec4<f32>, OUTPUTS>>, row: u32, scale: f32, out_row: u32,
) {
    for (var j = 0u; j < QUADS_PER_LANE; j++) {
        let quad = key_lane + j * KEY_LANES;
        if (quad < VALUE_QUADS) {
            out[out_row + quad] = pack4((*o)[row * QUADS_PER_LANE + j] * scale);
        }
    }
}

fn run(tile: u32, lane: u32) {
    if (tile >= params.tiles) {
        return;
    }
    // Tiles of one KV head are neighbours, so they share K and V in the cache; late queries come first, since under a
    // causal mask they see the most keys.
    let head_tile = tile % params.head_tiles;
    let kv_head = (tile / params.head_tiles) % params.kv_heads;
    let rest = tile / params.head_tiles / params.kv_heads;
    let s = sequence(rest % params.batch);
    let b = batch_of(rest % params.batch);
    let first_query = (params.q_tiles - 1u - rest / params.batch) * POSITIONS;
    if (first_query >= s.q_len) {
        return;
    }
    let first_head = MEMBERS * (kv_head * params.group + head_tile * HEADS_PER_TILE);
    let key_lane = lane % KEY_LANES;
    var rows: array<Rows, ROW_QUADS>;
    var q_row: array<vec4<u32>, ROW_QUADS>;
    for (var g = 0u; g < ROW_QUADS; g++) {
        rows[g] = rows_of_lane(lane, g, first_query, s.q_len, first_head);
        q_row[g] = rows_in(params.q, b, s.q_start, rows[g]);
        if (STAGE_Q) {
            stage_q(lane, g, q_row[g]);
        }
    }
    let first_position = s.diagonal + i32(first_query);
    let last_position = s.diagonal + i32(min(first_query + POSITIONS, s.q_len)) - 1;
    let seen = keys_seen(first_position, last_position, i32(s.kv_len));
    let shared_keys = keys_shared(first_position, last_position, i32(s.kv_len));

    var row_max: array<vec4<f32>, ROW_QUADS>;
    var row_sum: array<vec4<f32>, ROW_QUADS>;  // over this lane's keys only
    for (var g = 0u; g < ROW_QUADS; g++) {
        row_max[g] = vec4<f32>(NO_KEY);
    }
    var o: array<vec4<f32>, OUTPUTS>;  // [row][quad]

    for (var first_key = seen.x; first_key < seen.y; first_key += i32(KEYS)) {
        let count = u32(seen.y - first_key);
        let v_row = row_of(params.v, b, s.kv_start + u32(first_key), kv_head);
        load_k(lane, row_of(params.k, b, s.kv_start + u32(first_key), kv_head), count);
        if (V_BASE > 0u) {
            load_v(lane, v_row, count);
        }
        workgroupBarrier();

        // Zero in words: in Chromium a variable of a loop's body may start with its value of the iteration before.
        var score = array<vec4<f32>, SCORES>();  // [row quad][key]
        for (var octet = 0u; octet < HEAD_OCTETS; octet++) {
            add_scores(lane, q_row, octet, false, &score);
            add_scores(lane, q_row, octet, true, &score);
        }
        for (var i = 0u; i < SCORES; i++) {
            score[i] = score4(score[i]);
        }
        // Only tiles at an edge of the mask or of the keys pay for comparisons.
        if (first_key < shared_keys.x || first_key + i32(KEYS) > shared_keys.y) {
            for (var g = 0u; g < ROW_QUADS; g++) {
                let position = vec4<i32>(s.diagonal) + vec4<i32>(rows[g].query);
                for (var n = 0u; n < KEYS_PER_LANE; n++) {
                    let key = first_key + i32(n * KEY_LANES + key_lane);
                    let visible = sees(position, key) & vec4<bool>(key < i32(s.kv_len));
                    let i = g * KEYS_PER_LANE + n;
                    score[i] = select(vec4<f32>(UNSEEN), score[i], visible);
                }
            }
        }

        var new_max = row_max;
        for (var g = 0u; g < ROW_QUADS; g++) {
            for (var n = 0u; n < KEYS_PER_LANE; n++) {
                new_max[g] = max(new_max[g], score[g * KEYS_PER_LANE + n]);
            }
        }
        new_max = rows_max(lane, new_max);
        for (var g = 0u; g < ROW_QUADS; g++) {
            let keep = exp2(row_max[g] - new_max[g]);
            row_max[g] = new_max[g];
            row_sum[g] *= keep;
            for (var n = 0u; n < KEYS_PER_LANE; n++) {
                let i = g * KEYS_PER_LANE + n;
                score[i] = exp2(score[i] - row_max[g]);  // weights from here on
                row_sum[g] += score[i];
                share_weight(lane, g, n, score[i]);
            }
            for (var j = 0u; j < QUADS_PER_LANE; j++) {
                for (var i = 0u; i < 4u; i++) {
                    o[(4u * g + i) * QUADS_PER_LANE + j] *= keep[i];
                }
            }
        }
        if (V_BASE == 0u) {
            keys_done();
            load_v(lane, v_row, count);
        }
        weights_shared();

        for (var n = 0u; n < KEYS_PER_LANE; n++) {
            for (var source = 0u; source < KEY_LANES; source++) {
                var x = array<vec4<f32>, QUADS_PER_LANE>();
                for (var j = 0u; j < QUADS_PER_LANE; j++) {
                    x[j] = wg_kv[V_BASE + (n * KEY_LANES + source) * KV_STRIDE + key_lane + j * KEY_LANES];
                }
                for (var g = 0u; g < ROW_QUADS; g++) {
                    let weight = weight_of(lane, g, n, source, score[g * KEYS_PER_LANE + n]);
                    for (var j = 0u; j < QUADS_PER_LANE; j++) {
                        for (var i = 0u; i < 4u; i++) {
                            let slot = (4u * g + i) * QUADS_PER_LANE + j;
                            o[slot] = fma(vec4<f32>(weight[i]), x[j], o[slot]);
                        }
                    }
                }
            }
        }
        workgroupBarrier();
    }

    row_sum = rows_sum(lane, row_sum);
    for (var g = 0u; g < ROW_QUADS; g++) {
        let outputs = Rows(rows[g].query, rows[g].head / MEMBERS, rows[g].exists);
        let out_row = rows_in(params.out, b, s.q_start, outputs);
        let a2_row = rows_in(params.a2, b, s.q_start, outputs);
        let lam_row = rows_in(params.lam, b, s.q_start, outputs);
        let scale = vec4<f32>(
            normaliser(row_max[g].x, row_sum[g].x), normaliser(row_max[g].y, row_sum[g].y),
            normaliser(row_max[g].z, row_sum[g].z), normaliser(row_max[g].w, row_sum[g].w),
        );
        for (var i = 0u; i < 4u; i += MEMBERS) {
            if (!rows[g].exists[i]) {
                continue;
            }
            if (MEMBERS == 2u) {
                let scales = vec2<f32>(scale[i], scale[(i + 1u) % 4u]);
                write_pair(key_lane, &o, 4u * g + i, scales, gate_of(lam[lam_row[i]]), out_row[i], a2_row[i]);
            } else {
                write_single(key_lane, &o, 4u * g + i, scale[i], out_row[i]);
            }
        }
        if (key_lane == 0u) {
            for (var i = 0u; i < 4u; i++) {
                if (rows[g].exists[i]) {
                    write_lse(b, rows[g].head[i], s.q_start + rows[g].query[i], row_max[g][i], row_sum[g][i]);
                }
            }
        }
    }
}
