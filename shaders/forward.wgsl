// DIFF V2 forward: both members of a pair in one pass over K and V.
//
// A workgroup owns one tile: ROWS packed query rows of one sequence that all read one KV head. A row is (position,
// output head of the tile, member); the two members of a pair are neighbouring rows of the same invocation, so the gate
// is applied in registers. Invocations form a grid of ROW_LANES × KEY_LANES. Each owns four rows, for which it computes
// the scores of KEYS_PER_LANE keys, then every KEY_LANES-th group of four output elements:
//
//     scores: 4 rows × KEYS_PER_LANE keys       out: 4 rows × QUADS_PER_LANE × 4 elements
//
// so that both products load (4 + n) vectors for 4·n dot products. A vec4 named after rows holds one value for each of
// the four rows. Scores and outputs stay in registers; only weights (and row maxima) are exchanged, see exchange/.
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
const ROWS: u32 = 4u * ROW_LANES;
const KEYS: u32 = KEY_LANES * KEYS_PER_LANE;
const ROWS_PER_POSITION: u32 = MEMBERS * HEADS_PER_TILE;
const POSITIONS: u32 = ROWS / ROWS_PER_POSITION;

var<workgroup> wg_kv: array<vec4<f32>, KV_SLOTS>;  // [key][quad]: K, then V in its place or behind it
var<workgroup> wg_q: array<vec4<f32>, Q_SLOTS>;    // [row of lane][row lane][quad], where STAGE_Q

// The four rows of this lane, one element of each vector for each row.
struct Rows {
    query: vec4<u32>,     // index within the sequence, clamped to the last one
    head: vec4<u32>,      // head of the tensor that is addressed
    exists: vec4<bool>,   // otherwise a clamped copy, computed and thrown away
}

fn rows_of_lane(lane: u32, first_query: u32, q_len: u32, first_head: u32) -> Rows {
    let row = vec4<u32>(4u * (lane / KEY_LANES)) + vec4<u32>(0u, 1u, 2u, 3u);
    let query = vec4<u32>(first_query) + row / ROWS_PER_POSITION;
    let exists = (query < vec4<u32>(q_len)) & (row < vec4<u32>(POSITIONS * ROWS_PER_POSITION));
    return Rows(min(query, vec4<u32>(q_len - 1u)), vec4<u32>(first_head) + row % ROWS_PER_POSITION, exists);
}

fn rows_in(view: View, batch: u32, q_start: u32, rows: Rows) -> vec4<u32> {
    return vec4<u32>(view.base + batch * view.batch) + (vec4<u32>(q_start) + rows.query) * view.seq
        + rows.head * view.head;
}

// acc += (rows a0..a3) · b, one accumulator per row.
fn multiply_rows(acc: vec4<f32>, a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>, b: vec4<f32>)
    -> vec4<f32> {
    var sum = fma(vec4<f32>(a0.x, a1.x, a2.x, a3.x), vec4<f32>(b.x), acc);
    sum = fma(vec4<f32>(a0.y, a1.y, a2.y, a3.y), vec4<f32>(b.y), sum);
    sum = fma(vec4<f32>(a0.z, a1.z, a2.z, a3.z), vec4<f32>(b.z), sum);
    return fma(vec4<f32>(a0.w, a1.w, a2.w, a3.w), vec4<f32>(b.w), sum);
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

// Q of every row of the tile, as f32; visible from the next barrier on. Each lane stores what it alone will read
// (with the other key lanes of its row).
fn stage_q(lane: u32, q_row: vec4<u32>) {
    for (var octet = lane % KEY_LANES; octet < HEAD_OCTETS; octet += KEY_LANES) {
        for (var i = 0u; i < 4u; i++) {
            let x = unpack8(q[q_row[i] + octet]);
            let slot = (i * ROW_LANES + lane / KEY_LANES) * Q_STRIDE + 2u * octet;
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

// o1/l1 - gate · o2/l2, this lane's elements.
fn write_pair(
    key_lane: u32,
    o1: array<vec4<f32>, QUADS_PER_LANE>,
    o2: array<vec4<f32>, QUADS_PER_LANE>,
    scale: vec2<f32>,
    gate: f32,
    out_row: u32,
    a2_row: u32,
) {
    for (var j = 0u; j < QUADS_PER_LANE; j++) {
        let quad = key_lane + j * KEY_LANES;
        if (quad < VALUE_QUADS) {
            let member2 = o2[j] * scale.y;
            out[out_row + quad] = pack4(o1[j] * scale.x - gate * member2);
            write_a2(a2_row, quad, member2);
        }
    }
}

// o/l, this lane's elements, where MEMBERS is 1: standard attention, for the baseline of the attention module.
fn write_single(key_lane: u32, o: array<vec4<f32>, QUADS_PER_LANE>, scale: f32, out_row: u32) {
    for (var j = 0u; j < QUADS_PER_LANE; j++) {
        let quad = key_lane + j * KEY_LANES;
        if (quad < VALUE_QUADS) {
            out[out_row + quad] = pack4(o[j] * scale);
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
    let rows = rows_of_lane(lane, first_query, s.q_len, first_head);
    let key_lane = lane % KEY_LANES;

    let q_row = rows_in(params.q, b, s.q_start, rows);
    if (STAGE_Q) {
        stage_q(lane, q_row);
    }
    let position = vec4<i32>(s.diagonal) + vec4<i32>(rows.query);
    let first_position = s.diagonal + i32(first_query);
    let last_position = s.diagonal + i32(min(first_query + POSITIONS, s.q_len)) - 1;
    let seen = keys_seen(first_position, last_position, i32(s.kv_len));
    let shared_keys = keys_shared(first_position, last_position, i32(s.kv_len));

    var row_max = vec4<f32>(NO_KEY);
    var row_sum = vec4<f32>(0.0);  // over this lane's keys only
    var o0: array<vec4<f32>, QUADS_PER_LANE>;
    var o1: array<vec4<f32>, QUADS_PER_LANE>;
    var o2: array<vec4<f32>, QUADS_PER_LANE>;
    var o3: array<vec4<f32>, QUADS_PER_LANE>;

    for (var first_key = seen.x; first_key < seen.y; first_key += i32(KEYS)) {
        let count = u32(seen.y - first_key);
        let v_row = row_of(params.v, b, s.kv_start + u32(first_key), kv_head);
        load_k(lane, row_of(params.k, b, s.kv_start + u32(first_key), kv_head), count);
        if (V_BASE > 0u) {
            load_v(lane, v_row, count);
        }
        workgroupBarrier();

        var score: array<vec4<f32>, KEYS_PER_LANE>;
        for (var octet = 0u; octet < HEAD_OCTETS; octet++) {
            let q0 = query_octet(lane, 0u, q_row.x, octet);
            let q1 = query_octet(lane, 1u, q_row.y, octet);
            let q2 = query_octet(lane, 2u, q_row.z, octet);
            let q3 = query_octet(lane, 3u, q_row.w, octet);
            for (var n = 0u; n < KEYS_PER_LANE; n++) {
                let slot = (n * KEY_LANES + key_lane) * KV_STRIDE + 2u * octet;
                score[n] = multiply_rows(score[n], q0.lo, q1.lo, q2.lo, q3.lo, wg_kv[slot]);
                score[n] = multiply_rows(score[n], q0.hi, q1.hi, q2.hi, q3.hi, wg_kv[slot + 1u]);
            }
        }
        for (var n = 0u; n < KEYS_PER_LANE; n++) {
            score[n] = score4(score[n]);
        }
        // Only tiles at an edge of the mask or of the keys pay for comparisons.
        if (first_key < shared_keys.x || first_key + i32(KEYS) > shared_keys.y) {
            for (var n = 0u; n < KEYS_PER_LANE; n++) {
                let key = first_key + i32(n * KEY_LANES + key_lane);
                let visible = sees(position, key) & vec4<bool>(key < i32(s.kv_len));
                score[n] = select(vec4<f32>(UNSEEN), score[n], visible);
            }
        }

        var new_max = row_max;
        for (var n = 0u; n < KEYS_PER_LANE; n++) {
            new_max = max(new_max, score[n]);
        }
        new_max = rows_max(lane, new_max);
        let keep = exp2(row_max - new_max);
        row_max = new_max;
        row_sum *= keep;
        for (var n = 0u; n < KEYS_PER_LANE; n++) {
            score[n] = exp2(score[n] - row_max);  // weights from here on
            row_sum += score[n];
            share_weight(lane, n, score[n]);
        }
        if (V_BASE == 0u) {
            keys_done();
            load_v(lane, v_row, count);
        }
        weights_shared();

        for (var j = 0u; j < QUADS_PER_LANE; j++) {
            o0[j] *= keep.x;
            o1[j] *= keep.y;
            o2[j] *= keep.z;
            o3[j] *= keep.w;
        }
        for (var n = 0u; n < KEYS_PER_LANE; n++) {
            for (var source = 0u; source < KEY_LANES; source++) {
                let weight = weight_of(lane, n, source, score[n]);
                let slot = V_BASE + (n * KEY_LANES + source) * KV_STRIDE + key_lane;
                for (var j = 0u; j < QUADS_PER_LANE; j++) {
                    let x = wg_kv[slot + j * KEY_LANES];
                    o0[j] = fma(vec4<f32>(weight.x), x, o0[j]);
                    o1[j] = fma(vec4<f32>(weight.y), x, o1[j]);
                    o2[j] = fma(vec4<f32>(weight.z), x, o2[j]);
                    o3[j] = fma(vec4<f32>(weight.w), x, o3[j]);
                }
            }
        }
        workgroupBarrier();
    }

    row_sum = rows_sum(lane, row_sum);
    let outputs = Rows(rows.query, rows.head / MEMBERS, rows.exists);
    let out_row = rows_in(params.out, b, s.q_start, outputs);
    let a2_row = rows_in(params.a2, b, s.q_start, outputs);
    let lam_row = rows_in(params.lam, b, s.q_start, outputs);
    let scale = vec4<f32>(
        normaliser(row_max.x, row_sum.x), normaliser(row_max.y, row_sum.y),
        normaliser(row_max.z, row_sum.z), normaliser(row_max.w, row_sum.w),
    );
    if (MEMBERS == 1u) {
        if (rows.exists.x) {
            write_single(key_lane, o0, scale.x, out_row.x);
        }
        if (rows.exists.y) {
            write_single(key_lane, o1, scale.y, out_row.y);
        }
        if (rows.exists.z) {
            write_single(key_lane, o2, scale.z, out_row.z);
        }
        if (rows.exists.w) {
            write_single(key_lane, o3, scale.w, out_row.w);
        }
    }
    if (MEMBERS == 2u && rows.exists.x) {
        write_pair(key_lane, o0, o1, scale.xy, gate_of(lam[lam_row.x]), out_row.x, a2_row.x);
    }
    if (MEMBERS == 2u && rows.exists.z) {
        write_pair(key_lane, o2, o3, scale.zw, gate_of(lam[lam_row.z]), out_row.z, a2_row.z);
    }
    if (key_lane == 0u) {
        for (var i = 0u; i < 4u; i++) {
            if (rows.exists[i]) {
                write_lse(b, rows.head[i], s.q_start + rows.query[i], row_max[i], row_sum[i]);
            }
        }
    }
}
