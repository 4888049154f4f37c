// DIFF V2 forward on matrix units: the tiled forward with both products as cooperative matrices, f16 × f16 → f32.
//
// A workgroup owns ROWS packed query rows of one sequence and one KV head, so that every K and V fragment serves both
// members of its pairs; they are ordered as in forward.wgsl: (position, output head of the tile, member). Its SUBGROUPS
// subgroups form a grid, COLUMNS wide. Those of a row of the grid share STRIPS strips of MAT rows: each multiplies them with
// its share of a tile's keys, then adds its share of V's elements, held as accumulators over the whole loop; the softmax of
// the rows is shared among all of them. More COLUMNS read less of K and V from workgroup memory, and as much of the weights.
// Elements of a matrix cannot be touched in registers, so
//   * scores go through workgroup memory: stored in f32, softmax by the lanes, weights back in f16;
//   * outputs are rescaled lazily: a row's reference maximum stays until some score of the tile exceeds it by GROWTH in
//     log2 (weights up to 2^GROWTH fit f16); only then do the accumulators pass through workgroup memory. Normalised and
//     gated once at the end.
// The scores of the next tile are multiplied beside the softmax of this one, which is another unit's work; so a workgroup
// does one tile more than there are, of clamped keys that nobody reads. Loops marked `unrolled` are written out by
// src/shader/unroll.rs where the tile says so: then every array of matrices has constant indices.
//
// Workgroup memory: 2 · (A_SLOTS + B_SLOTS) + 4 · (C_SLOTS + ROWS) + 4 bytes. wg_a holds Q (unless it stays in registers)
// and the weights; wg_b K and V, and before them Q on its way into registers; wg_c the scores.
// Barriers per key tile: weights, V and growth known, scores and K used; scores and K stored, weights and V used.
// Numerics: products of f16 with f32 sums; weights rounded to f16, and summed before.
// Source: "Differential Transformer V2" (Microsoft, 2026); FlashAttention-4 for the lazy rescale.

@group(0) @binding(4) var<storage, read> lam: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<Elem4>;

struct Halves8 {
    lo: vec4<f16>,
    hi: vec4<f16>,
}

const HEAD_OCTETS: u32 = HEAD_DIM / 8u;
const VALUE_OCTETS: u32 = VALUE_DIM / 8u;
const VALUE_QUADS: u32 = VALUE_DIM / 4u;
// Padded to whole matrices, with zeros.
const PADDED_HEAD_OCTETS: u32 = HEAD_STEPS * MAT / 8u;
const PADDED_VALUE_OCTETS: u32 = COLUMNS * VALUE_STEPS * MAT / 8u;
const ROWS_PER_SUBGROUP: u32 = STRIPS * MAT;
const ROWS: u32 = SUBGROUPS / COLUMNS * ROWS_PER_SUBGROUP;
const SOFTMAX_ROWS: u32 = ROWS / SUBGROUPS;
const ROWS_PER_POSITION: u32 = 2u * HEADS_PER_TILE;
const POSITIONS: u32 = ROWS / ROWS_PER_POSITION;
// Lanes that share a row, or rows of one lane; one of the two is 1.
const LANES_PER_ROW: u32 = max(SUBGROUP / SOFTMAX_ROWS, 1u);
const ROWS_PER_LANE: u32 = max(SOFTMAX_ROWS / SUBGROUP, 1u);
const ROW_STEP: u32 = SUBGROUP / LANES_PER_ROW;  // between the rows of a lane
const KEY_STRIDE: u32 = 4u * LANES_PER_ROW;
const QUADS_PER_LANE: u32 = KEYS / LANES_PER_ROW / 4u;
const THREADS: u32 = SUBGROUPS * SUBGROUP;
const STEP_QUADS: u32 = COLUMNS * MAT / 4u;  // of a row, one matrix of each column
const C_SLOTS: u32 = ROWS * SCORE_STRIDE;
// Groups of eight elements of K and of V that one lane loads.
const K_SHARE: u32 = (KEYS * PADDED_HEAD_OCTETS + THREADS - 1u) / THREADS;
const V_SHARE: u32 = (KEYS * PADDED_VALUE_OCTETS + THREADS - 1u) / THREADS;
const V_BASE: u32 = KEYS * KV_STRIDE;

var<workgroup> wg_grows: atomic<u32>;        // whether a row outgrew its reference
var<workgroup> wg_factor: array<f32, ROWS>;  // rescale factor; at the end 1/sum

// Keys from `end` on do not exist: the last one stands for them, and the mask hides it. Elements beyond the head are zero.
fn fetch_k(lane: u32, base: u32, first_key: u32, end: u32) -> array<Halves8, K_SHARE> {
    var octets: array<Halves8, K_SHARE>;
    for (var i = 0u; i < K_SHARE; i++) {
        let key = min(first_key + (lane + i * THREADS) / PADDED_HEAD_OCTETS, end - 1u);
        let octet = (lane + i * THREADS) % PADDED_HEAD_OCTETS;
        if (octet < HEAD_OCTETS) {
            octets[i] = k8(base + key * params.k.seq + octet);
        }
    }
    return octets;
}

fn store_k(lane: u32, fetched: array<Halves8, K_SHARE>) {
    var octets = fetched;
    for (var i = 0u; i < K_SHARE; i++) {
        let key = (lane + i * THREADS) / PADDED_HEAD_OCTETS;
        if (key < KEYS) {
            let slot = key * KV_STRIDE + 8u * ((lane + i * THREADS) % PADDED_HEAD_OCTETS);
            put_b(slot, octets[i].lo);
            put_b(slot + 4u, octets[i].hi);
        }
    }
}

fn fetch_v(lane: u32, base: u32, first_key: u32, end: u32) -> array<Halves8, V_SHARE> {
    var octets: array<Halves8, V_SHARE>;
    for (var i = 0u; i < V_SHARE; i++) {
        let key = min(first_key + (lane + i * THREADS) / PADDED_VALUE_OCTETS, end - 1u);
        let octet = (lane + i * THREADS) % PADDED_VALUE_OCTETS;
        if (octet < VALUE_OCTETS) {
            octets[i] = v8(base + key * params.v.seq + octet);
        }
    }
    return octets;
}

fn store_v(lane: u32, fetched: array<Halves8, V_SHARE>) {
    var octets = fetched;
    for (var i = 0u; i < V_SHARE; i++) {
        let key = (lane + i * THREADS) / PADDED_VALUE_OCTETS;
        if (key < KEYS) {
            let slot = V_BASE + key * KV_STRIDE + 8u * ((lane + i * THREADS) % PADDED_VALUE_OCTETS);
            put_b(slot, octets[i].lo);
            put_b(slot + 4u, octets[i].hi);
        }
    }
}

// The queries of a workgroup.
struct Tile {
    batch: u32,
    q_start: u32,
    q_len: u32,
    first_query: u32,
    first_head: u32,
}

// One row of the tile.
struct Row {
    query: u32,   // index within the sequence, clamped to those that exist
    head: u32,    // query head
    exists: bool,
}

fn row_at(tile: Tile, row: u32) -> Row {
    let query = tile.first_query + row / ROWS_PER_POSITION;
    let exists = query < tile.q_len && row < POSITIONS * ROWS_PER_POSITION;
    return Row(min(query, tile.q_len - 1u), tile.first_head + row % ROWS_PER_POSITION, exists);
}

// Eight elements of a row of Q; zero for rows that do not exist and beyond the head.
fn query_octet(tile: Tile, row: u32, octet: u32) -> Halves8 {
    let place = row_at(tile, row);
    if (place.exists && octet < HEAD_OCTETS) {
        return q8(row_of(params.q, tile.batch, tile.q_start + place.query, place.head) + octet);
    }
    return Halves8();
}

// Scores of this subgroup's strips at its share of the keys in workgroup memory.
fn multiply_keys(queries: ptr<function, Queries>, first_strip: u32, column: u32) -> array<MatC, STRIPS * KEY_STEPS> {
    var score: array<MatC, STRIPS * KEY_STEPS>;
    for (var step = 0u; step < HEAD_STEPS; step++) { // unrolled
        var rows: array<MatA, STRIPS>;
        for (var strip = 0u; strip < STRIPS; strip++) { // unrolled
            rows[strip] = q_matrix(queries, first_strip, strip, step);
        }
        for (var key = 0u; key < KEY_STEPS; key++) { // unrolled
            let slot = (column * KEY_STEPS + key) * MAT * KV_STRIDE + step * MAT;
            let x = coopLoad<MatB>(&wg_b[slot / CELL], KV_STRIDE / CELL);
            for (var strip = 0u; strip < STRIPS; strip++) { // unrolled
                score[strip * KEY_STEPS + key] = coopMultiplyAdd(rows[strip], x, score[strip * KEY_STEPS + key]);
            }
        }
    }
    return score;
}

fn store_scores(score: ptr<function, array<MatC, STRIPS * KEY_STEPS>>, first_strip: u32, column: u32) {
    for (var strip = 0u; strip < STRIPS; strip++) { // unrolled
        for (var key = 0u; key < KEY_STEPS; key++) { // unrolled
            let slot = (first_strip + strip * MAT) * SCORE_STRIDE + (column * KEY_STEPS + key) * MAT;
            coopStoreT((*score)[strip * KEY_STEPS + key], &wg_c[slot / CELL], SCORE_STRIDE / CELL);
        }
    }
}

// o + weights · V, for this subgroup's strips and share of V's elements.
fn add_values(o: ptr<function, array<MatC, STRIPS * VALUE_STEPS>>, first_strip: u32, column: u32) {
    for (var key = 0u; key < ALL_KEY_STEPS; key++) { // unrolled
        var weights: array<MatA, STRIPS>;
        for (var strip = 0u; strip < STRIPS; strip++) { // unrolled
            let slot = WEIGHT_BASE + (first_strip + strip * MAT) * WEIGHT_STRIDE + key * MAT;
            weights[strip] = coopLoadT<MatA>(&wg_a[slot / CELL], WEIGHT_STRIDE / CELL);
        }
        for (var step = 0u; step < VALUE_STEPS; step++) { // unrolled
            let slot = V_BASE + key * MAT * KV_STRIDE + (column * VALUE_STEPS + step) * MAT;
            let x = coopLoadT<MatB>(&wg_b[slot / CELL], KV_STRIDE / CELL);
            for (var strip = 0u; strip < STRIPS; strip++) { // unrolled
                (*o)[strip * VALUE_STEPS + step] = coopMultiplyAdd(weights[strip], x, (*o)[strip * VALUE_STEPS + step]);
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    let index = group.x + group.y * params.grid_width;
    if (index >= params.tiles) {
        return;
    }
    // The last queries, which see most under a causal mask, go first; next to each other go the heads of a sequence, as in
    // forward.wgsl, or the queries of a head.
    let per_sequence = params.head_tiles * params.kv_heads;
    let head_index = select(index, index / params.q_tiles, BY_HEAD) % per_sequence;
    let rest = select(index / per_sequence, index / params.q_tiles / per_sequence, BY_HEAD);
    let query_index = select(rest / params.batch, index % params.q_tiles, BY_HEAD);
    let sequence_index = select(rest % params.batch, rest, BY_HEAD);
    let head_tile = head_index % params.head_tiles;
    let kv_head = head_index / params.head_tiles;
    let s = sequence(sequence_index);
    let b = batch_of(sequence_index);
    let first_query = (params.q_tiles - 1u - query_index) * POSITIONS;
    let first_head = 2u * (kv_head * params.group + head_tile * HEADS_PER_TILE);
    let lane = subgroup * SUBGROUP + invocation;
    let first_strip = subgroup / COLUMNS * ROWS_PER_SUBGROUP;
    let column = subgroup % COLUMNS;

    let tile = Tile(b, s.q_start, s.q_len, first_query, first_head);
    var queries = load_queries(tile, lane, first_strip);

    let first_position = s.diagonal + i32(first_query);
    let last_position = s.diagonal + i32(min(first_query + POSITIONS, s.q_len)) - 1;
    var seen = keys_seen(first_position, last_position, i32(s.kv_len));
    if (first_query >= s.q_len) {
        seen.y = seen.x;  // a shorter packed sequence: nothing to do, but naga allows no return before matrices here
    }

    // Rows of this lane in the softmax, and the first of its keys in each.
    let my_row = subgroup * SOFTMAX_ROWS + invocation / LANES_PER_ROW;
    let my_key = (invocation % LANES_PER_ROW) * 4u;
    var reference: array<f32, ROWS_PER_LANE>;  // maximum that the weights refer to
    var row_sum: array<f32, ROWS_PER_LANE>;    // over this lane's keys
    var row_keys: array<vec2<i32>, ROWS_PER_LANE>;  // that a row sees
    for (var r = 0u; r < ROWS_PER_LANE; r++) {
        reference[r] = NO_KEY;
        let position = s.diagonal + i32(row_at(tile, my_row + r * ROW_STEP).query);
        row_keys[r] = keys_seen(position, position, seen.y);
    }
    var o: array<MatC, STRIPS * VALUE_STEPS>;
    var score: array<MatC, STRIPS * KEY_STEPS>;
    let end = u32(seen.y);
    let k_base = row_of(params.k, b, s.kv_start, kv_head);
    let v_base = row_of(params.v, b, s.kv_start, kv_head);
    var next_key = u32(seen.x);
    if (next_key < end) {
        store_k(lane, fetch_k(lane, k_base, next_key, end));
        if (lane == 0u) {
            atomicStore(&wg_grows, 0u);
        }
        workgroupBarrier();
        score = multiply_keys(&queries, first_strip, column);
        store_scores(&score, first_strip, column);
        workgroupBarrier();
        store_k(lane, fetch_k(lane, k_base, next_key + KEYS, end));
        workgroupBarrier();
    }

    while (next_key < end) {
        // As long as no row outgrows its reference, nothing but products touches the outputs: copies of accumulators, which
        // drivers make where control flow meets, are left to the way out.
        while (next_key < end) {
            // Used at the end of this turn: what lived across turns would be copied there, and the copy wait for the load.
            let v_octets = fetch_v(lane, v_base, next_key, end);
            let k_octets = fetch_k(lane, k_base, next_key + 2u * KEYS, end);
            // Every tile pays for the mask's comparisons: a branch around them would keep the driver from mixing loads,
            // softmax and products.
            let base = vec2<i32>(i32(next_key + my_key));
            var x: array<vec4<f32>, ROWS_PER_LANE * QUADS_PER_LANE>;
            for (var r = 0u; r < ROWS_PER_LANE; r++) {
                let row = my_row + r * ROW_STEP;
                for (var i = 0u; i < QUADS_PER_LANE; i++) {
                    let score = score4(get_c(row * SCORE_STRIDE + my_key + KEY_STRIDE * i));
                    let keys = vec4<i32>(i32(KEY_STRIDE * i)) + vec4<i32>(0, 1, 2, 3);
                    x[r * QUADS_PER_LANE + i] = select(score, vec4<f32>(UNSEEN), unseen(row_keys[r] - base, keys));
                }
            }
            score = multiply_keys(&queries, first_strip, column);
            var grows = false;
            for (var r = 0u; r < ROWS_PER_LANE; r++) {
                let row = my_row + r * ROW_STEP;
                var most = x[r * QUADS_PER_LANE];
                for (var i = 1u; i < QUADS_PER_LANE; i++) {
                    most = max(most, x[r * QUADS_PER_LANE + i]);
                }
                var largest = max(max(most.x, most.y), max(most.z, most.w));
                for (var distance = 1u; distance < LANES_PER_ROW; distance <<= 1u) {
                    largest = max(largest, subgroupShuffleXor(largest, distance));
                }
                var factor = 1.0;
                if (largest > reference[r] + f32(GROWTH)) {
                    factor = exp2(reference[r] - largest);
                    reference[r] = largest;
                    row_sum[r] *= factor;
                    grows = true;
                }
                wg_factor[row] = factor;
                var sums = vec4<f32>();
                for (var i = 0u; i < QUADS_PER_LANE; i++) {
                    let weight = exp2(x[r * QUADS_PER_LANE + i] - reference[r]);
                    sums += weight;
                    put_a(WEIGHT_BASE + row * WEIGHT_STRIDE + my_key + KEY_STRIDE * i, vec4<f16>(weight));
                }
                row_sum[r] += (sums.x + sums.y) + (sums.z + sums.w);
            }
            if (subgroupAny(grows) && invocation == 0u) {
                atomicStore(&wg_grows, 1u);
            }
            store_v(lane, v_octets);
            workgroupBarrier();
            if (atomicLoad(&wg_grows) != 0u) {
                break;
            }
            add_values(&o, first_strip, column);
            store_scores(&score, first_strip, column);
            store_k(lane, k_octets);
            next_key += KEYS;
            workgroupBarrier();
        }
        if (next_key < end) {
            for (var step = 0u; step < VALUE_STEPS; step++) { // unrolled
                for (var strip = 0u; strip < STRIPS; strip++) { // unrolled
                    let slot = (first_strip + strip * MAT) * SCORE_STRIDE + column * MAT;
                    coopStoreT(o[strip * VALUE_STEPS + step], &wg_c[slot / CELL], SCORE_STRIDE / CELL);
                }
                workgroupBarrier();
                for (var i = invocation; i < ROWS_PER_SUBGROUP * MAT / 4u; i += SUBGROUP) {
                    let row = first_strip + i / (MAT / 4u);
                    let slot = row * SCORE_STRIDE + column * MAT + 4u * (i % (MAT / 4u));
                    put_c(slot, get_c(slot) * wg_factor[row]);
                }
                workgroupBarrier();
                for (var strip = 0u; strip < STRIPS; strip++) { // unrolled
                    let slot = (first_strip + strip * MAT) * SCORE_STRIDE + column * MAT;
                    o[strip * VALUE_STEPS + step] = coopLoadT<MatC>(&wg_c[slot / CELL], SCORE_STRIDE / CELL);
                }
                workgroupBarrier();
            }
            if (lane == 0u) {
                atomicStore(&wg_grows, 0u);
            }
            add_values(&o, first_strip, column);
            store_scores(&score, first_strip, column);
            store_k(lane, fetch_k(lane, k_base, next_key + 2u * KEYS, end));
            next_key += KEYS;
            workgroupBarrier();
        }
    }

    for (var r = 0u; r < ROWS_PER_LANE; r++) {
        let row = my_row + r * ROW_STEP;
        var sum = row_sum[r];
        for (var distance = 1u; distance < LANES_PER_ROW; distance <<= 1u) {
            sum += subgroupShuffleXor(sum, distance);
        }
        wg_factor[row] = normaliser(reference[r], sum);
        let place = row_at(tile, row);
        if (place.exists && invocation % LANES_PER_ROW == 0u) {
            write_lse(b, place.head, s.q_start + place.query, reference[r], sum);
        }
    }
    for (var step = 0u; step < VALUE_STEPS; step++) { // unrolled
        for (var strip = 0u; strip < STRIPS; strip++) { // unrolled
            let slot = (first_strip + strip * MAT) * SCORE_STRIDE + column * MAT;
            coopStoreT(o[strip * VALUE_STEPS + step], &wg_c[slot / CELL], SCORE_STRIDE / CELL);
        }
        workgroupBarrier();
        // One pair of rows and four elements at a time.
        for (var i = lane; i < ROWS / 2u * STEP_QUADS; i += THREADS) {
            let row = 2u * (i / STEP_QUADS);
            let at = i % STEP_QUADS;
            let quad = (at / (MAT / 4u) * VALUE_STEPS + step) * (MAT / 4u) + at % (MAT / 4u);
            let place = row_at(tile, row);
            if (place.exists && quad < VALUE_QUADS) {
                let token = s.q_start + place.query;
                let member1 = get_c(row * SCORE_STRIDE + 4u * at) * wg_factor[row];
                let member2 = get_c((row + 1u) * SCORE_STRIDE + 4u * at) * wg_factor[row + 1u];
                let gate = gate_of(lam[row_of(params.lam, b, token, place.head / 2u)]);
                out[row_of(params.out, b, token, place.head / 2u) + quad] = pack4(member1 - gate * member2);
                write_a2(row_of(params.a2, b, token, place.head / 2u), quad, member2);
            }
        }
        workgroupBarrier();
    }
}
