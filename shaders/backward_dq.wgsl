// DIFF V2 backward, dQ of both members of a pair in one sweep over the keys.
//
// backward/key_tiles.wgsl tells what a workgroup and an invocation own. Each lane computes, for its four pairs and
// PER_LANE keys, the scores of both members and the one dP that they share; dS goes to the other lanes of the group,
// and each accumulates every LANES-th quad of dQ:
//
//     S₁, S₂, dP: 4 pairs × PER_LANE keys       dQ₁, dQ₂: 4 pairs × HEAD_PER_LANE × 4 elements
//
// Workgroup memory: 16 · SLOTS bytes, and what exchange/parts_*.wgsl needs.
// Barriers per key tile: V and K loaded (three where they share a place); (workgroup exchange: dS shared;) K used.
// Numerics: f32; P is recomputed in base 2 from the saved LSE, hence no maximum and no rescaling.
// Source: "Differential Transformer V2" (Microsoft, 2026), differentiated; FlashAttention-2 (Dao, 2023) for the loop.

// q·k of both members over four elements of the head, for the four pairs and this lane's keys.
fn add_scores(
    key_lane: u32, q1_row: vec4<u32>, octet: u32, upper: bool,
    s1: ptr<function, array<vec4<f32>, PER_LANE>>, s2: ptr<function, array<vec4<f32>, PER_LANE>>,
) {
    let rows1 = q_quads(q1_row, octet, upper);
    var rows2 = rows1;
    if (MEMBERS == 2u) {
        rows2 = q_quads(q1_row + params.q.head, octet, upper);
    }
    for (var n = 0u; n < PER_LANE; n++) {
        let x = wg_kv[K_BASE + (n * LANES + key_lane) * HEAD_STRIDE + 2u * octet + select(0u, 1u, upper)];
        (*s1)[n] = multiply_rows((*s1)[n], rows1, x);
        if (MEMBERS == 2u) {
            (*s2)[n] = multiply_rows((*s2)[n], rows2, x);
        }
    }
}

fn run(tile: u32, lane: u32) {
    let work = work_of(tile);
    if (work.pairs == 0u) {
        return;
    }
    let pairs = pairs_of_lane(lane, work);
    let key_lane = lane % LANES;
    let q1_row = rows_in(params.q, work, pairs, MEMBERS);
    let dout_row = rows_in(params.dout, work, pairs, 1u);
    let term_row = rows_in(params.terms, work, pairs, 1u);
    let t0 = terms[term_row.x];
    let t1 = terms[term_row.y];
    let t2 = terms[term_row.z];
    let t3 = terms[term_row.w];
    let lse1 = vec4<f32>(t0.lse.x, t1.lse.x, t2.lse.x, t3.lse.x);
    let lse2 = vec4<f32>(t0.lse.y, t1.lse.y, t2.lse.y, t3.lse.y);
    let offset1 = vec4<f32>(t0.offset.x, t1.offset.x, t2.offset.x, t3.offset.x);
    let offset2 = vec4<f32>(t0.offset.y, t1.offset.y, t2.offset.y, t3.offset.y);
    let gate = vec4<f32>(t0.gate, t1.gate, t2.gate, t3.gate);

    let position = vec4<i32>(work.s.diagonal) + vec4<i32>(pairs.query);
    let span = span_of(work);
    let kv_len = i32(work.s.kv_len);
    let seen = keys_seen(span.x, span.y, kv_len);
    let shared_keys = keys_shared(span.x, span.y, kv_len);

    // dQ of member 1, then of member 2, for each of the four pairs.
    var a0: array<vec4<f32>, HEAD_PER_LANE>;
    var a1: array<vec4<f32>, HEAD_PER_LANE>;
    var a2: array<vec4<f32>, HEAD_PER_LANE>;
    var a3: array<vec4<f32>, HEAD_PER_LANE>;
    var b0: array<vec4<f32>, HEAD_PER_LANE>;
    var b1: array<vec4<f32>, HEAD_PER_LANE>;
    var b2: array<vec4<f32>, HEAD_PER_LANE>;
    var b3: array<vec4<f32>, HEAD_PER_LANE>;

    for (var first_key = seen.x; first_key < seen.y; first_key += i32(ITEMS)) {
        let dp = load_tile(lane, work, first_key, seen.y, dout_row);

        // Zero in words: see forward.wgsl.
        var s1 = array<vec4<f32>, PER_LANE>();  // q·k, then scores, then dS
        var s2 = array<vec4<f32>, PER_LANE>();
        for (var octet = 0u; octet < HEAD_OCTETS; octet++) {
            add_scores(key_lane, q1_row, octet, false, &s1, &s2);
            add_scores(key_lane, q1_row, octet, true, &s1, &s2);
        }
        // Only tiles at an edge of the mask or of the keys pay for comparisons.
        let edge = first_key < shared_keys.x || first_key + i32(ITEMS) > shared_keys.y;
        for (var n = 0u; n < PER_LANE; n++) {
            s1[n] = score4(s1[n]);
            s2[n] = score4(s2[n]);
            var p1 = exp2(s1[n] - lse1);
            var p2 = exp2(s2[n] - lse2);
            if (edge) {
                let key = first_key + i32(n * LANES + key_lane);
                let visible = sees(position, key) & vec4<bool>(key < kv_len);
                p1 = select(vec4<f32>(0.0), p1, visible);
                p2 = select(vec4<f32>(0.0), p2, visible);
            }
            s1[n] = p1 * (dp[n] - offset1) * slope4(s1[n]);
            s2[n] = p2 * (-gate * dp[n] - offset2) * slope4(s2[n]);
            share_part(lane, 0u, n, s1[n]);
            if (MEMBERS == 2u) {
                share_part(lane, 1u, n, s2[n]);
            }
        }
        parts_shared();

        for (var n = 0u; n < PER_LANE; n++) {
            for (var source = 0u; source < LANES; source++) {
                let ds1 = part_of(lane, 0u, n, source, s1[n]);
                var ds2 = vec4<f32>(0.0);
                if (MEMBERS == 2u) {
                    ds2 = part_of(lane, 1u, n, source, s2[n]);
                }
                let slot = K_BASE + (n * LANES + source) * HEAD_STRIDE + key_lane;
                for (var j = 0u; j < HEAD_PER_LANE; j++) {
                    let x = wg_kv[slot + j * LANES];
                    a0[j] = fma(vec4<f32>(ds1.x), x, a0[j]);
                    a1[j] = fma(vec4<f32>(ds1.y), x, a1[j]);
                    a2[j] = fma(vec4<f32>(ds1.z), x, a2[j]);
                    a3[j] = fma(vec4<f32>(ds1.w), x, a3[j]);
                    if (MEMBERS == 2u) {
                        b0[j] = fma(vec4<f32>(ds2.x), x, b0[j]);
                        b1[j] = fma(vec4<f32>(ds2.y), x, b1[j]);
                        b2[j] = fma(vec4<f32>(ds2.z), x, b2[j]);
                        b3[j] = fma(vec4<f32>(ds2.w), x, b3[j]);
                    }
                }
            }
        }
        workgroupBarrier();
    }

    let dq_row = rows_in(params.dq, work, pairs, MEMBERS);
    for (var j = 0u; j < HEAD_PER_LANE; j++) {
        let quad = key_lane + j * LANES;
        if (quad < HEAD_QUADS) {
            write_pair(pairs.exists.x, dq_row.x + quad, a0[j], b0[j]);
            write_pair(pairs.exists.y, dq_row.y + quad, a1[j], b1[j]);
            write_pair(pairs.exists.z, dq_row.z + quad, a2[j], b2[j]);
            write_pair(pairs.exists.w, dq_row.w + quad, a3[j], b3[j]);
        }
    }
}

fn write_pair(exists: bool, index: u32, member1: vec4<f32>, member2: vec4<f32>) {
    if (exists) {
        write_dq(index, member1);
        if (MEMBERS == 2u) {
            write_dq(index + params.dq.head, member2);
        }
    }
}
