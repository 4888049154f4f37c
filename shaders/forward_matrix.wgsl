// DIFF V2 forward on matrix units: the tiled forward with both products as cooperative matrices, f16 × f16 → f32.
//
// A workgroup owns ROWS packed query rows of one sequence and one KV head, in the order of forward.wgsl: (position,
// output head of the tile, member), so that every K and V fragment serves both members. Each of its SUBGROUPS subgroups
// owns STRIPS strips of MAT rows and holds their outputs as accumulators over the whole loop. Elements of a matrix
// cannot be touched in registers, so
//   * scores go through workgroup memory: stored in f32, softmax by the lanes, weights back in f16;
//   * outputs are rescaled lazily: a row's reference maximum stays until some score of the tile exceeds its own by
//     8 in log2 (weights up to 256 fit f16); only then do the accumulators pass through workgroup memory. Normalised and
//     gated once at the end.
//
// Workgroup memory: 2 · (ROWS · Q_STRIDE + KEYS · KV_STRIDE + ROWS · WEIGHT_STRIDE)
//                 + 4 · (ROWS · SCORE_STRIDE + SUBGROUPS · MAT · MAT + ROWS + 4) bytes.
// Barriers per key tile: K loaded; scores stored; V loaded and growth known; weights stored; V used.
// Numerics: products of f16 with f32 sums; weights rounded to f16, and summed as rounded.
// Source: "Differential Transformer V2" (Microsoft, 2026); FlashAttention-4 for the lazy rescale.

@group(0) @binding(1) var<storage, read> q: array<Elem8>;
@group(0) @binding(2) var<storage, read> k: array<Elem8>;
@group(0) @binding(3) var<storage, read> v: array<Elem8>;
@group(0) @binding(4) var<storage, read> lam: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<Elem4>;

const HEAD_OCTETS: u32 = HEAD_DIM / 8u;
const VALUE_OCTETS: u32 = VALUE_DIM / 8u;
const VALUE_QUADS: u32 = VALUE_DIM / 4u;
// Padded to whole matrices, with zeros.
const HEAD_STEPS: u32 = (HEAD_DIM + MAT - 1u) / MAT;
const VALUE_STEPS: u32 = (VALUE_DIM + MAT - 1u) / MAT;
const KEY_STEPS: u32 = KEYS / MAT;
const ROWS_PER_SUBGROUP: u32 = STRIPS * MAT;
const ROWS: u32 = SUBGROUPS * ROWS_PER_SUBGROUP;
const ROWS_PER_POSITION: u32 = 2u * HEADS_PER_TILE;
const POSITIONS: u32 = ROWS / ROWS_PER_POSITION;
// Lanes that share a row, or rows of one lane; one of the two is 1.
const LANES_PER_ROW: u32 = max(SUBGROUP / ROWS_PER_SUBGROUP, 1u);
const ROWS_PER_LANE: u32 = max(ROWS_PER_SUBGROUP / SUBGROUP, 1u);
const KEYS_PER_LANE: u32 = KEYS / LANES_PER_ROW;
const THREADS: u32 = SUBGROUPS * SUBGROUP;
const GROWTH: f32 = 8.0;  // log2 of the largest weight

var<workgroup> wg_q: array<f16, ROWS * Q_STRIDE>;
var<workgroup> wg_kv: array<f16, KEYS * KV_STRIDE>;            // K, then V in its place
var<workgroup> wg_score: array<f32, ROWS * SCORE_STRIDE>;
var<workgroup> wg_weight: array<f16, ROWS * WEIGHT_STRIDE>;
var<workgroup> wg_bounce: array<f32, SUBGROUPS * MAT * MAT>;   // one accumulator of each subgroup
var<workgroup> wg_grows: array<u32, 4>;                        // by subgroup: whether a row outgrew its reference
var<workgroup> wg_factor: array<f32, ROWS>;                    // rescale factor; at the end 1/sum

fn store8(slot: u32, x: F32x8, in_kv: bool) {
    for (var i = 0u; i < 4u; i++) {
        if (in_kv) {
            wg_kv[slot + i] = f16(x.lo[i]);
            wg_kv[slot + 4u + i] = f16(x.hi[i]);
        } else {
            wg_q[slot + i] = f16(x.lo[i]);
            wg_q[slot + 4u + i] = f16(x.hi[i]);
        }
    }
}

// Keys from `count` on do not exist, nor do elements beyond the head: both are zero.
fn load_k(lane: u32, first_row: u32, count: u32) {
    for (var i = lane; i < KEYS * HEAD_STEPS * MAT / 8u; i += THREADS) {
        let key = i / (HEAD_STEPS * MAT / 8u);
        let octet = i % (HEAD_STEPS * MAT / 8u);
        var x = F32x8();
        if (key < count && octet < HEAD_OCTETS) {
            x = unpack8(k[first_row + key * params.k.seq + octet]);
        }
        store8(key * KV_STRIDE + 8u * octet, x, true);
    }
}

fn load_v(lane: u32, first_row: u32, count: u32) {
    for (var i = lane; i < KEYS * VALUE_STEPS * MAT / 8u; i += THREADS) {
        let key = i / (VALUE_STEPS * MAT / 8u);
        let octet = i % (VALUE_STEPS * MAT / 8u);
        var x = F32x8();
        if (key < count && octet < VALUE_OCTETS) {
            x = unpack8(v[first_row + key * params.v.seq + octet]);
        }
        store8(key * KV_STRIDE + 8u * octet, x, true);
    }
}

// One row of the tile.
struct Row {
    query: u32,   // index within the sequence, clamped to the last one
    head: u32,    // query head
    exists: bool,
}

fn row_at(row: u32, first_query: u32, q_len: u32, first_head: u32) -> Row {
    let query = first_query + row / ROWS_PER_POSITION;
    let exists = query < q_len && row < POSITIONS * ROWS_PER_POSITION;
    return Row(min(query, q_len - 1u), first_head + row % ROWS_PER_POSITION, exists);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    let tile = group.x + group.y * params.grid_width;
    if (tile >= params.tiles) {
        return;
    }
    // The order of tiles is that of forward.wgsl.
    let head_tile = tile % params.head_tiles;
    let kv_head = (tile / params.head_tiles) % params.kv_heads;
    let rest = tile / params.head_tiles / params.kv_heads;
    let s = sequence(rest % params.batch);
    let b = batch_of(rest % params.batch);
    let first_query = (params.q_tiles - 1u - rest / params.batch) * POSITIONS;
    let first_head = 2u * (kv_head * params.group + head_tile * HEADS_PER_TILE);
    let lane = subgroup * SUBGROUP + invocation;

    for (var i = lane; i < ROWS * HEAD_STEPS * MAT / 8u; i += THREADS) {
        let row = i / (HEAD_STEPS * MAT / 8u);
        let octet = i % (HEAD_STEPS * MAT / 8u);
        let place = row_at(row, first_query, s.q_len, first_head);
        var x = F32x8();
        if (place.exists && octet < HEAD_OCTETS) {
            x = unpack8(q[row_of(params.q, b, s.q_start + place.query, place.head) + octet]);
        }
        store8(row * Q_STRIDE + 8u * octet, x, false);
    }

    if (lane < 4u) {
        wg_grows[lane] = 0u;
    }

    let first_position = s.diagonal + i32(first_query);
    let last_position = s.diagonal + i32(min(first_query + POSITIONS, s.q_len)) - 1;
    var seen = keys_seen(first_position, last_position, i32(s.kv_len));
    if (first_query >= s.q_len) {
        seen.y = seen.x;  // a shorter packed sequence: nothing to do, but naga allows no return before matrices here
    }
    let shared_keys = keys_shared(first_position, last_position, i32(s.kv_len));

    // Rows of this subgroup in the softmax: lane i of those that share a row takes KEYS_PER_LANE keys of it.
    let my_row = subgroup * ROWS_PER_SUBGROUP + (invocation / LANES_PER_ROW) * ROWS_PER_LANE;
    let my_key = (invocation % LANES_PER_ROW) * KEYS_PER_LANE;
    var reference: array<f32, ROWS_PER_LANE>;  // maximum that the weights refer to
    var row_sum: array<f32, ROWS_PER_LANE>;    // over this lane's keys
    for (var r = 0u; r < ROWS_PER_LANE; r++) {
        reference[r] = NO_KEY;
    }
    let first_strip = subgroup * ROWS_PER_SUBGROUP;
    let bounce = subgroup * MAT * MAT;
    var o: array<MatC, STRIPS * VALUE_STEPS>;

    for (var first_key = seen.x; first_key < seen.y; first_key += i32(KEYS)) {
        let count = u32(seen.y - first_key);
        load_k(lane, row_of(params.k, b, s.kv_start + u32(first_key), kv_head), count);
        workgroupBarrier();

        for (var key = 0u; key < KEY_STEPS; key++) {
            var score: array<MatC, STRIPS>;
            for (var step = 0u; step < HEAD_STEPS; step++) {
                let x = coopLoad<MatB>(&wg_kv[key * MAT * KV_STRIDE + step * MAT], KV_STRIDE);
                for (var strip = 0u; strip < STRIPS; strip++) {
                    let row = first_strip + strip * MAT;
                    score[strip] = coopMultiplyAdd(
                        coopLoadT<MatA>(&wg_q[row * Q_STRIDE + step * MAT], Q_STRIDE), x, score[strip]);
                }
            }
            for (var strip = 0u; strip < STRIPS; strip++) {
                let row = first_strip + strip * MAT;
                coopStoreT(score[strip], &wg_score[row * SCORE_STRIDE + key * MAT], SCORE_STRIDE);
            }
        }
        workgroupBarrier();

        let edge = first_key < shared_keys.x || first_key + i32(KEYS) > shared_keys.y;
        var tile_max: array<f32, ROWS_PER_LANE>;
        var grows = false;
        for (var r = 0u; r < ROWS_PER_LANE; r++) {
            let slot = (my_row + r) * SCORE_STRIDE + my_key;
            let query = row_at(my_row + r, first_query, s.q_len, first_head).query;
            let position = vec4<i32>(s.diagonal + i32(query));
            var largest = UNSEEN;
            for (var i = 0u; i < KEYS_PER_LANE; i += 4u) {
                var x = score4(vec4<f32>(
                    wg_score[slot + i], wg_score[slot + i + 1u], wg_score[slot + i + 2u], wg_score[slot + i + 3u]));
                if (edge) {
                    for (var n = 0u; n < 4u; n++) {
                        let key = first_key + i32(my_key + i + n);
                        if (!sees(position, key).x || key >= i32(s.kv_len)) {
                            x[n] = UNSEEN;
                        }
                    }
                }
                largest = max(largest, max(max(x.x, x.y), max(x.z, x.w)));
                wg_score[slot + i] = x.x;
                wg_score[slot + i + 1u] = x.y;
                wg_score[slot + i + 2u] = x.z;
                wg_score[slot + i + 3u] = x.w;
            }
            for (var distance = 1u; distance < LANES_PER_ROW; distance <<= 1u) {
                largest = max(largest, subgroupShuffleXor(largest, distance));
            }
            tile_max[r] = largest;
            grows = grows || largest > reference[r] + GROWTH;
        }

        if (subgroupAny(grows) && invocation == 0u) {
            wg_grows[subgroup] = 1u;
        }
        load_v(lane, row_of(params.v, b, s.kv_start + u32(first_key), kv_head), count);
        // Matrices may only be touched in control flow that is uniform for the workgroup, so all rescale or none.
        let grown = workgroupUniformLoad(&wg_grows);
        if ((grown[0] | grown[1] | grown[2] | grown[3]) != 0u) {
            for (var r = 0u; r < ROWS_PER_LANE; r++) {
                let new_reference = max(reference[r], tile_max[r]);
                let factor = exp2(reference[r] - new_reference);
                reference[r] = new_reference;
                row_sum[r] *= factor;
                wg_factor[my_row + r] = factor;
            }
            for (var strip = 0u; strip < STRIPS; strip++) {
                for (var step = 0u; step < VALUE_STEPS; step++) {
                    workgroupBarrier();
                    coopStoreT(o[strip * VALUE_STEPS + step], &wg_bounce[bounce], MAT);
                    workgroupBarrier();
                    for (var i = invocation; i < MAT * MAT; i += SUBGROUP) {
                        wg_bounce[bounce + i] *= wg_factor[first_strip + strip * MAT + i / MAT];
                    }
                    workgroupBarrier();
                    o[strip * VALUE_STEPS + step] = coopLoadT<MatC>(&wg_bounce[bounce], MAT);
                }
            }
        }

        for (var r = 0u; r < ROWS_PER_LANE; r++) {
            for (var i = 0u; i < KEYS_PER_LANE; i++) {
                let weight = f16(exp2(wg_score[(my_row + r) * SCORE_STRIDE + my_key + i] - reference[r]));
                row_sum[r] += f32(weight);
                wg_weight[(my_row + r) * WEIGHT_STRIDE + my_key + i] = weight;
            }
        }
        workgroupBarrier();
        if (lane < 4u) {
            wg_grows[lane] = 0u;
        }

        for (var key = 0u; key < KEY_STEPS; key++) {
            for (var step = 0u; step < VALUE_STEPS; step++) {
                let x = coopLoadT<MatB>(&wg_kv[key * MAT * KV_STRIDE + step * MAT], KV_STRIDE);
                for (var strip = 0u; strip < STRIPS; strip++) {
                    let weight = coopLoadT<MatA>(
                        &wg_weight[(first_strip + strip * MAT) * WEIGHT_STRIDE + key * MAT], WEIGHT_STRIDE);
                    o[strip * VALUE_STEPS + step] = coopMultiplyAdd(weight, x, o[strip * VALUE_STEPS + step]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS_PER_LANE; r++) {
        var sum = row_sum[r];
        for (var distance = 1u; distance < LANES_PER_ROW; distance <<= 1u) {
            sum += subgroupShuffleXor(sum, distance);
        }
        wg_factor[my_row + r] = normaliser(reference[r], sum);
        let place = row_at(my_row + r, first_query, s.q_len, first_head);
        if (place.exists && invocation % LANES_PER_ROW == 0u) {
            write_lse(b, place.head, s.q_start + place.query, reference[r], sum);
        }
    }
    for (var strip = 0u; strip < STRIPS; strip++) {
        for (var step = 0u; step < VALUE_STEPS; step++) {
            workgroupBarrier();
            coopStoreT(o[strip * VALUE_STEPS + step], &wg_bounce[bounce], MAT);
            workgroupBarrier();
            // One pair of rows and four elements at a time.
            for (var i = invocation; i < MAT * MAT / 8u; i += SUBGROUP) {
                let row = first_strip + strip * MAT + 2u * (i / (MAT / 4u));
                let quad = step * MAT / 4u + i % (MAT / 4u);
                let slot = bounce + 2u * (i / (MAT / 4u)) * MAT + 4u * (i % (MAT / 4u));
                let place = row_at(row, first_query, s.q_len, first_head);
                if (place.exists && quad < VALUE_QUADS) {
                    let token = s.q_start + place.query;
                    let o1 = vec4<f32>(
                        wg_bounce[slot], wg_bounce[slot + 1u], wg_bounce[slot + 2u], wg_bounce[slot + 3u]);
                    let o2 = vec4<f32>(
                        wg_bounce[slot + MAT], wg_bounce[slot + MAT + 1u],
                        wg_bounce[slot + MAT + 2u], wg_bounce[slot + MAT + 3u]);
                    let member2 = o2 * wg_factor[row + 1u];
                    let gate = gate_of(lam[row_of(params.lam, b, token, place.head / 2u)]);
                    out[row_of(params.out, b, token, place.head / 2u) + quad]
                        = pack4(o1 * wg_factor[row] - gate * member2);
                    write_a2(row_of(params.a2, b, token, place.head / 2u), quad, member2);
                }
            }
        }
    }
}
