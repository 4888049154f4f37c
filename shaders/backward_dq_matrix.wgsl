// DIFF V2 backward on matrix units, dQ of both members of a pair in one sweep over the keys.
//
// backward/work.wgsl tells which pairs a workgroup owns, backward/matrix_tiles.wgsl what a subgroup and an invocation do.
// The members of a pair are neighbouring rows, each with its copy of dout, so that dP is multiplied for both: a sixth of the
// products, and no exchange between rows. Q and dout stay in registers as matrices. For each tile of keys
//
//     S = Q · Kᵀ, dP = dout · Vᵀ;  dS = P · (w · dP - offset), by invocations;  dQ += dS · K
//
// where w is 1 for the first member and -gate for the second. Elements of a matrix cannot be touched in registers, so S and
// dP go through workgroup memory in f32, and dS comes back in f16.
//
// Workgroup memory: 2 · (A_SLOTS + B_SLOTS) + 4 · C_SLOTS + 8 · THREADS bytes.
// Barriers per key tile: S and dP stored; dS stored; K and V used; the next ones stored.
// Numerics: products of f16 with f32 sums. dout of a row is scaled to [1, 2), dS of a row by what it can be at most,
// |w| · value_dim · |dout| · |v| + |offset|, to less than 2^14: powers of two, taken back at the end. So dS is rounded to f16's 11
// bits down to 2^-28 of that bound, and to 2^-39 of it below.
// Source: "Differential Transformer V2" (Microsoft, 2026), differentiated; FlashAttention-2 (Dao, 2023) for the loop.

const PAIRS: u32 = ROWS / MEMBERS;

struct Row {
    query: u32,  // index within the sequence
    head: u32,   // output head
    member: u32,
    exists: bool,
}

fn row_at(row: u32, work: Work) -> Row {
    let pair = work.first + row / MEMBERS;
    let clamped = min(pair, max(work.pairs, 1u) - 1u);
    let head = work.kv_head * params.group + clamped % params.group;
    return Row(clamped / params.group, head, row % MEMBERS, pair < work.pairs);
}

fn terms_of(place: Row, work: Work) -> Terms {
    var t = Terms();
    if (place.exists) {
        t = terms[row_of(params.terms, work.batch, work.s.q_start + place.query, place.head)];
    }
    return t;
}

// Part of the rows of Q on their way; those that do not exist are zero.
fn load_queries(lane: u32, work: Work, part: u32) {
    for (var i = lane; i < ROWS * ROW_OCTETS; i += THREADS) {
        let place = row_at(i / ROW_OCTETS, work);
        let octet = part * ROW_OCTETS + i % ROW_OCTETS;
        var x = F32x8();
        if (place.exists && octet < HEAD_OCTETS) {
            let token = work.s.q_start + place.query;
            x = unpack8(q[row_of(params.q, work.batch, token, MEMBERS * place.head + place.member) + octet]);
        }
        put_row8(i, x, 1.0);
    }
}

// And of dout.
fn load_dout(lane: u32, work: Work, part: u32) {
    for (var i = lane; i < ROWS * ROW_OCTETS; i += THREADS) {
        let place = row_at(i / ROW_OCTETS, work);
        let octet = part * ROW_OCTETS + i % ROW_OCTETS;
        var x = F32x8();
        if (place.exists && octet < VALUE_OCTETS) {
            x = unpack8(dout[row_of(params.dout, work.batch, work.s.q_start + place.query, place.head) + octet]);
        }
        put_row8(i, x, scale_to(terms_of(place, work).largest_dout, 0));
    }
}

// Units of eight elements of K and of V that one lane brings for a tile.
const K_SHARE: u32 = (ITEMS * PADDED_HEAD_OCTETS + THREADS - 1u) / THREADS;
const V_SHARE: u32 = (ITEMS * PADDED_VALUE_OCTETS + THREADS - 1u) / THREADS;

struct Fetched {
    k: array<Elem8, K_SHARE>,
    v: array<Elem8, V_SHARE>,
}

// Keys from `count` on do not exist: the last one stands for them, and the mask hides it. Zero beyond the head.
fn fetch_keys(lane: u32, k_row: u32, v_row: u32, count: u32) -> Fetched {
    var fetched = Fetched();
    for (var n = 0u; n < K_SHARE; n++) {
        let key = min((lane + n * THREADS) / PADDED_HEAD_OCTETS, count - 1u);
        let octet = (lane + n * THREADS) % PADDED_HEAD_OCTETS;
        if (octet < HEAD_OCTETS) {
            fetched.k[n] = k[k_row + key * params.k.seq + octet];
        }
    }
    for (var n = 0u; n < V_SHARE; n++) {
        let key = min((lane + n * THREADS) / PADDED_VALUE_OCTETS, count - 1u);
        let octet = (lane + n * THREADS) % PADDED_VALUE_OCTETS;
        if (octet < VALUE_OCTETS) {
            fetched.v[n] = v[v_row + key * params.v.seq + octet];
        }
    }
    return fetched;
}

fn store_keys(lane: u32, keys: Fetched) {
    var fetched = keys;
    for (var n = 0u; n < K_SHARE; n++) {
        let i = lane + n * THREADS;
        if (i < ITEMS * PADDED_HEAD_OCTETS) {
            put_b8(i / PADDED_HEAD_OCTETS * KV_STRIDE + 8u * (i % PADDED_HEAD_OCTETS), unpack8(fetched.k[n]), 1.0);
        }
    }
    for (var n = 0u; n < V_SHARE; n++) {
        let i = lane + n * THREADS;
        if (i < ITEMS * PADDED_VALUE_OCTETS) {
            let row = ITEMS + i / PADDED_VALUE_OCTETS;
            put_b8(row * KV_STRIDE + 8u * (i % PADDED_VALUE_OCTETS), unpack8(fetched.v[n]), 1.0);
        }
    }
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
    let work = work_of(tile);
    let lane = subgroup * SUBGROUP + invocation;
    let first_row = subgroup * MAT;
    let row = first_row + invocation / LANES_PER_ROW;
    let place = row_at(row, work);
    let term = terms_of(place, work);
    let lse = select(term.lse.x, term.lse.y, place.member == 1u);
    let offset = select(term.offset.x, term.offset.y, place.member == 1u);

    let span = span_of(work);
    let kv_len = i32(work.s.kv_len);
    var seen = keys_seen(span.x, span.y, kv_len);
    if (work.pairs == 0u) {
        seen.y = seen.x;  // nothing to do, but naga allows no return before matrices here
    }
    let shared_keys = keys_shared(span.x, span.y, kv_len);
    let k_row = row_of(params.k, work.batch, work.s.kv_start, work.kv_head);
    let v_row = row_of(params.v, work.batch, work.s.kv_start, work.kv_head);

    // The largest value that is seen bounds dP.
    var mine = 0.0;
    for (var i = u32(seen.x) * VALUE_OCTETS + lane; i < u32(seen.y) * VALUE_OCTETS; i += THREADS) {
        mine = max(mine, largest8(unpack8(v[v_row + i / VALUE_OCTETS * params.v.seq + i % VALUE_OCTETS])));
    }
    let largest_v = largest_of_all(lane, vec2<f32>(mine, 0.0)).x;
    let dout_scale = scale_to(term.largest_dout, 0);
    let weight = select(1.0, -term.gate, place.member == 1u);
    let scale = scale_to(abs(weight) * f32(VALUE_DIM) * term.largest_dout * largest_v + abs(offset), 13);
    let dp_scale = weight * scale / dout_scale;  // in this order: a gate that is almost shut makes the scale huge

    var q_rows: array<MatA, HEAD_STEPS>;
    for (var part = 0u; part < HEAD_PARTS; part++) { // unrolled
        load_queries(lane, work, part);
        workgroupBarrier();
        for (var n = 0u; n < ROW_STEPS; n++) { // unrolled
            if (part * ROW_STEPS + n < HEAD_STEPS) {
                q_rows[min(part * ROW_STEPS + n, HEAD_STEPS - 1u)] = a_matrix(first_row, n * MAT);
            }
        }
        workgroupBarrier();
    }
    var dout_rows: array<MatA, VALUE_STEPS>;
    for (var part = 0u; part < VALUE_PARTS; part++) { // unrolled
        load_dout(lane, work, part);
        workgroupBarrier();
        for (var n = 0u; n < ROW_STEPS; n++) { // unrolled
            if (part * ROW_STEPS + n < VALUE_STEPS) {
                dout_rows[min(part * ROW_STEPS + n, VALUE_STEPS - 1u)] = a_matrix(first_row, n * MAT);
            }
        }
        workgroupBarrier();
    }

    var sum: array<MatC, HEAD_STEPS>;
    if (seen.x < seen.y) {
        let first = u32(seen.x);
        store_keys(lane, fetch_keys(lane, k_row + first * params.k.seq, v_row + first * params.v.seq, u32(seen.y) - first));
        workgroupBarrier();
    }
    for (var first = seen.x; first < seen.y; first += i32(ITEMS)) {
        // Of the next tile, on its way beside everything that is done with this one; after the last, its last key.
        let next = u32(min(first + i32(ITEMS), seen.y - 1));
        let fetched = fetch_keys(lane, k_row + next * params.k.seq, v_row + next * params.v.seq, u32(seen.y) - next);

        var s: array<MatC, ITEM_STEPS>;
        var dp: array<MatC, ITEM_STEPS>;
        for (var item = 0u; item < ITEM_STEPS; item++) { // unrolled
            for (var step = 0u; step < HEAD_STEPS; step++) { // unrolled
                s[item] = coopMultiplyAdd(q_rows[step], b_transposed(0u, item, step), s[item]);
            }
            for (var step = 0u; step < VALUE_STEPS; step++) { // unrolled
                dp[item] = coopMultiplyAdd(dout_rows[step], b_transposed(ITEMS, item, step), dp[item]);
            }
            store_products(s[item], first_row, item * MAT);
            store_products(dp[item], first_row, ITEMS + item * MAT);
        }
        workgroupBarrier();

        // Only tiles at an edge of the mask or of the keys pay for comparisons.
        let edge = first < shared_keys.x || first + i32(ITEMS) > shared_keys.y;
        for (var i = 0u; i < QUADS_PER_LANE; i++) {
            let column = 4u * (invocation % LANES_PER_ROW + i * LANES_PER_ROW);
            let score = score4(get_c(row * SCORE_STRIDE + column));
            var p = exp2(score - lse);
            if (edge) {
                let position = vec4<i32>(work.s.diagonal + i32(place.query));
                for (var n = 0u; n < 4u; n++) {
                    let key = first + i32(column + n);
                    if (!sees(position, key).x || key >= kv_len || !place.exists) {
                        p[n] = 0.0;
                    }
                }
            }
            let ds = p * (dp_scale * get_c(row * SCORE_STRIDE + ITEMS + column) - offset * scale) * slope4(score);
            put_a(row * WEIGHT_STRIDE + column, vec4<f16>(ds));
        }
        workgroupBarrier();

        for (var item = 0u; item < ITEM_STEPS; item++) { // unrolled
            let ds = a_matrix(first_row, item * MAT);
            for (var step = 0u; step < HEAD_STEPS; step++) { // unrolled
                sum[step] = coopMultiplyAdd(ds, b_rows(0u, item, step), sum[step]);
            }
        }
        workgroupBarrier();
        store_keys(lane, fetched);
        workgroupBarrier();
    }

    let head = MEMBERS * place.head + place.member;
    let dq_row = row_of(params.dq, work.batch, work.s.q_start + place.query, head);
    for (var batch = 0u; batch < HEAD_BATCHES; batch++) { // unrolled
        for (var i = 0u; i < BATCH; i++) { // unrolled
            // Past the last one, which is stored again and not written.
            store_products(sum[min(batch * BATCH + i, HEAD_STEPS - 1u)], first_row, i * MAT);
        }
        workgroupBarrier();
        for (var i = invocation % LANES_PER_ROW; i < BATCH * MAT / 4u; i += LANES_PER_ROW) {
            let quad = batch * BATCH * MAT / 4u + i;
            if (place.exists && quad < HEAD_QUADS) {
                write_dq(dq_row + quad, get_c(row * SCORE_STRIDE + 4u * i) / scale);
            }
        }
        workgroupBarrier();
    }
}
