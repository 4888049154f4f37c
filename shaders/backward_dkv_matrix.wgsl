// DIFF V2 backward on matrix units, dK and dV in one sweep over every query that sees the keys, with every pair of the KV
// group.
//
// A workgroup owns ROWS keys of one KV head, backward/matrix_tiles.wgsl tells what a subgroup and an invocation do. K and V
// of its keys stay in registers as matrices. Pairs are numbered query · group + head of the group. For each tile of pairs
//
//     S₁ = K · Q₁ᵀ, S₂ = K · Q₂ᵀ, dP = V · doutᵀ;  W = P₁ - gate · P₂, dS₁, dS₂, by invocations;
//     dV += W · dout, dK += dS₁ · Q₁ + dS₂ · Q₂
//
// so that dP and dV are multiplied once for both members. Elements of a matrix cannot be touched in registers, so S₁, S₂
// and dP go through workgroup memory in f32, and W, dS₁ and dS₂ come back in f16.
// No other workgroup adds to these rows, so there are no atomics, and every run gives the same bits.
//
// Workgroup memory: 2 · (A_SLOTS + B_SLOTS) + 4 · C_SLOTS + 32 · ITEMS + 8 · THREADS bytes.
// Barriers per tile of pairs: Q and dout loaded; products stored; W and dS stored; Q and dout used.
// Numerics: products of f16 with f32 sums. W is scaled by 2^14; dout of all pairs that are swept to at most [1, 2), dS by
// what it can be at most, value_dim · |dout| · |v| + |offset|, to less than 2^14: powers of two, taken back at the end.
// Source: "Differential Transformer V2" (Microsoft, 2026), differentiated; FlashAttention-2 (Dao, 2023) for the loop.

const WEIGHT_SCALE: f32 = 16384.0;
const DOUT: u32 = MEMBERS * ITEMS;  // first row of dout in wg_b; as many columns of scores come before dP

var<workgroup> wg_terms: array<Terms, ITEMS>;

// A pair of the sweep.
struct Pair {
    token: u32,
    head: u32,  // output head
    exists: bool,
}

fn pair_at(pair: u32, s: Sequence, kv_head: u32, end: u32) -> Pair {
    return Pair(s.q_start + pair / params.group, kv_head * params.group + pair % params.group, pair < end);
}

// Pairs from `end` on do not exist: they are zero, since a weight of 0 does not silence a NaN.
fn load_pairs(lane: u32, s: Sequence, b: u32, kv_head: u32, first: u32, end: u32, dout_scale: f32) {
    for (var i = lane; i < MEMBERS * ITEMS * PADDED_HEAD_OCTETS; i += THREADS) {
        let row = i / PADDED_HEAD_OCTETS;  // member · ITEMS + pair of the tile
        let octet = i % PADDED_HEAD_OCTETS;
        let pair = pair_at(first + row % ITEMS, s, kv_head, end);
        var x = F32x8();
        if (pair.exists && octet < HEAD_OCTETS) {
            x = unpack8(q[row_of(params.q, b, pair.token, MEMBERS * pair.head + row / ITEMS) + octet]);
        }
        put_b8(row * KV_STRIDE + 8u * octet, x, 1.0);
    }
    for (var i = lane; i < ITEMS * PADDED_VALUE_OCTETS; i += THREADS) {
        let octet = i % PADDED_VALUE_OCTETS;
        let pair = pair_at(first + i / PADDED_VALUE_OCTETS, s, kv_head, end);
        var x = F32x8();
        if (pair.exists && octet < VALUE_OCTETS) {
            x = unpack8(dout[row_of(params.dout, b, pair.token, pair.head) + octet]);
        }
        put_b8((DOUT + i / PADDED_VALUE_OCTETS) * KV_STRIDE + 8u * octet, x, dout_scale);
    }
    for (var i = lane; i < ITEMS; i += THREADS) {
        let pair = pair_at(first + i, s, kv_head, end);
        var t = Terms();
        if (pair.exists) {
            t = terms[row_of(params.terms, b, pair.token, pair.head)];
        }
        wg_terms[i] = t;
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
    // Under a causal mask early keys are seen by the most queries; they come first.
    let kv_head = tile % params.kv_heads;
    let rest = tile / params.kv_heads;
    let s = sequence(rest % params.batch);
    let b = batch_of(rest % params.batch);
    let first_key = (rest / params.batch) * ROWS;
    let lane = subgroup * SUBGROUP + invocation;
    let first_row = subgroup * MAT;
    let row = first_row + invocation / LANES_PER_ROW;
    let key = first_key + row;
    let exists = key < s.kv_len;
    // Of a shorter packed sequence there may be nothing to do, but naga allows no return before matrices here.
    let count = max(s.kv_len, first_key) - first_key;
    let last_key = first_key + max(min(ROWS, count), 1u) - 1u;
    let seeing = positions_seeing(i32(first_key), i32(last_key)) - s.diagonal;
    let queries = vec2<u32>(clamp(seeing, vec2<i32>(0), vec2<i32>(i32(s.q_len))));
    let end = select(0u, queries.y * params.group, count > 0u);
    let k_row = row_of(params.k, b, s.kv_start + first_key, kv_head);
    let v_row = row_of(params.v, b, s.kv_start + first_key, kv_head);

    // K and V to registers. Keys that do not exist are zero.
    var k_rows: array<MatA, HEAD_STEPS>;
    for (var part = 0u; part < HEAD_PARTS; part++) { // unrolled
        for (var i = lane; i < ROWS * ROW_OCTETS; i += THREADS) {
            let octet = part * ROW_OCTETS + i % ROW_OCTETS;
            var x = F32x8();
            if (i / ROW_OCTETS < count && octet < HEAD_OCTETS) {
                x = unpack8(k[k_row + i / ROW_OCTETS * params.k.seq + octet]);
            }
            put_row8(i, x, 1.0);
        }
        workgroupBarrier();
        for (var n = 0u; n < ROW_STEPS; n++) { // unrolled
            if (part * ROW_STEPS + n < HEAD_STEPS) {
                k_rows[min(part * ROW_STEPS + n, HEAD_STEPS - 1u)] = a_matrix(first_row, n * MAT);
            }
        }
        workgroupBarrier();
    }
    var mine = vec2<f32>();
    var v_rows: array<MatA, VALUE_STEPS>;
    for (var part = 0u; part < VALUE_PARTS; part++) { // unrolled
        for (var i = lane; i < ROWS * ROW_OCTETS; i += THREADS) {
            let octet = part * ROW_OCTETS + i % ROW_OCTETS;
            var x = F32x8();
            if (i / ROW_OCTETS < count && octet < VALUE_OCTETS) {
                x = unpack8(v[v_row + i / ROW_OCTETS * params.v.seq + octet]);
            }
            mine.x = max(mine.x, largest8(x));
            put_row8(i, x, 1.0);
        }
        workgroupBarrier();
        for (var n = 0u; n < ROW_STEPS; n++) { // unrolled
            if (part * ROW_STEPS + n < VALUE_STEPS) {
                v_rows[min(part * ROW_STEPS + n, VALUE_STEPS - 1u)] = a_matrix(first_row, n * MAT);
            }
        }
        workgroupBarrier();
    }
    let largest_v = largest_of_all(lane, mine).x;
    workgroupBarrier();

    // What the pairs of the sweep can make of them.
    mine = vec2<f32>();
    for (var i = queries.x * params.group + lane; i < end; i += THREADS) {
        let pair = pair_at(i, s, kv_head, end);
        let t = terms[row_of(params.terms, b, pair.token, pair.head)];
        mine = max(mine, vec2<f32>(t.largest_dout, max(abs(t.offset.x), abs(t.offset.y))));
    }
    let largest = largest_of_all(lane, mine);
    let dout_scale = scale_to(largest.x, 0);
    let scale = scale_to(f32(VALUE_DIM) * largest.x * largest_v + largest.y, 13);
    let ratio = scale / dout_scale;

    var dk_sum: array<MatC, HEAD_STEPS>;
    var dv_sum: array<MatC, VALUE_STEPS>;
    for (var first = queries.x * params.group; first < end; first += ITEMS) {
        load_pairs(lane, s, b, kv_head, first, end, dout_scale);
        workgroupBarrier();

        for (var item = 0u; item < ITEM_STEPS; item++) { // unrolled
            for (var member = 0u; member < MEMBERS; member++) { // unrolled
                var x: MatC;
                for (var step = 0u; step < HEAD_STEPS; step++) { // unrolled
                    x = coopMultiplyAdd(k_rows[step], b_transposed(member * ITEMS, item, step), x);
                }
                store_products(x, first_row, member * ITEMS + item * MAT);
            }
            var dp: MatC;
            for (var step = 0u; step < VALUE_STEPS; step++) { // unrolled
                dp = coopMultiplyAdd(v_rows[step], b_transposed(DOUT, item, step), dp);
            }
            store_products(dp, first_row, DOUT + item * MAT);
        }
        workgroupBarrier();

        for (var i = 0u; i < QUADS_PER_LANE; i++) {
            let column = 4u * (invocation % LANES_PER_ROW + i * LANES_PER_ROW);
            let slot = row * SCORE_STRIDE + column;
            let s1 = score4(get_c(slot));
            let s2 = score4(get_c(slot + (MEMBERS - 1u) * ITEMS));
            let dp = get_c(slot + DOUT);
            let slope1 = slope4(s1);
            let slope2 = slope4(s2);
            var weight = vec4<f32>();
            var ds1 = vec4<f32>();
            var ds2 = vec4<f32>();
            for (var n = 0u; n < 4u; n++) {
                let t = wg_terms[column + n];
                let pair = first + column + n;
                let position = s.diagonal + i32(pair / params.group);
                if (exists && pair < end && sees(vec4<i32>(position), i32(key)).x) {
                    let p1 = exp2(s1[n] - t.lse.x);
                    let p2 = exp2(s2[n] - t.lse.y);
                    weight[n] = p1 - select(0.0, t.gate * p2, MEMBERS == 2u);
                    ds1[n] = p1 * (ratio * dp[n] - scale * t.offset.x) * slope1[n];
                    ds2[n] = p2 * (-t.gate * ratio * dp[n] - scale * t.offset.y) * slope2[n];
                }
            }
            let place = row * WEIGHT_STRIDE + column;
            put_a(place, vec4<f16>(ds1));
            if (MEMBERS == 2u) {
                put_a(place + ITEMS, vec4<f16>(ds2));
            }
            put_a(place + DOUT, vec4<f16>(weight * WEIGHT_SCALE));
        }
        workgroupBarrier();

        for (var item = 0u; item < ITEM_STEPS; item++) { // unrolled
            for (var member = 0u; member < MEMBERS; member++) { // unrolled
                let ds = a_matrix(first_row, member * ITEMS + item * MAT);
                for (var step = 0u; step < HEAD_STEPS; step++) { // unrolled
                    dk_sum[step] = coopMultiplyAdd(ds, b_rows(member * ITEMS, item, step), dk_sum[step]);
                }
            }
            let w = a_matrix(first_row, DOUT + item * MAT);
            for (var step = 0u; step < VALUE_STEPS; step++) { // unrolled
                dv_sum[step] = coopMultiplyAdd(w, b_rows(DOUT, item, step), dv_sum[step]);
            }
        }
        workgroupBarrier();
    }

    let dk_row = row_of(params.dk, b, s.kv_start + key, kv_head);
    for (var batch = 0u; batch < HEAD_BATCHES; batch++) { // unrolled
        for (var i = 0u; i < BATCH; i++) { // unrolled
            // Past the last one, which is stored again and not written.
            store_products(dk_sum[min(batch * BATCH + i, HEAD_STEPS - 1u)], first_row, i * MAT);
        }
        workgroupBarrier();
        for (var i = invocation % LANES_PER_ROW; i < BATCH * MAT / 4u; i += LANES_PER_ROW) {
            let quad = batch * BATCH * MAT / 4u + i;
            if (exists && quad < HEAD_QUADS) {
                write_dk(dk_row + quad, get_c(row * SCORE_STRIDE + 4u * i) / scale);
            }
        }
        workgroupBarrier();
    }
    let dv_row = row_of(params.dv, b, s.kv_start + key, kv_head);
    for (var batch = 0u; batch < VALUE_BATCHES; batch++) { // unrolled
        for (var i = 0u; i < BATCH; i++) { // unrolled
            store_products(dv_sum[min(batch * BATCH + i, VALUE_STEPS - 1u)], first_row, i * MAT);
        }
        workgroupBarrier();
        for (var i = invocation % LANES_PER_ROW; i < BATCH * MAT / 4u; i += LANES_PER_ROW) {
            let quad = batch * BATCH * MAT / 4u + i;
            if (exists && quad < VALUE_QUADS) {
                write_dv(dv_row + quad, get_c(row * SCORE_STRIDE + 4u * i) / (WEIGHT_SCALE * dout_scale));
            }
        }
        workgroupBarrier();
    }
}
