// DIFF V2 backward without a₂: its row term c₂ = Σ P₂ · dP in one more sweep over the keys.
//
// backward/key_tiles.wgsl tells what a workgroup and an invocation own. Each lane sums over its own keys; the sums meet
// once at the end.
// Workgroup memory: 16 · SLOTS bytes, and what exchange/parts_*.wgsl needs.
// Barriers per key tile: V and K loaded (three where they share a place); K used.
// Numerics: f32; P₂ is recomputed in base 2 from the saved LSE.
// Source: c₂ = dout · a₂ = dout · (P₂ V) = Σ P₂ (dout · V), after FlashAttention (Dao et al., 2022), appendix B.4.

fn run(tile: u32, lane: u32) {
    let work = work_of(tile);
    if (work.pairs == 0u) {
        return;
    }
    let pairs = pairs_of_lane(lane, work);
    let key_lane = lane % LANES;
    let q_row = rows_in(params.q, work, pairs, 2u) + params.q.head;
    let dout_row = rows_in(params.dout, work, pairs, 1u);
    let term_row = rows_in(params.terms, work, pairs, 1u);
    let lse = vec4<f32>(
        terms[term_row.x].lse.y, terms[term_row.y].lse.y, terms[term_row.z].lse.y, terms[term_row.w].lse.y,
    );
    let position = vec4<i32>(work.s.diagonal) + vec4<i32>(pairs.query);
    let span = span_of(work);
    let kv_len = i32(work.s.kv_len);
    let seen = keys_seen(span.x, span.y, kv_len);
    let shared_keys = keys_shared(span.x, span.y, kv_len);

    var sum = vec4<f32>(0.0);
    for (var first_key = seen.x; first_key < seen.y; first_key += i32(ITEMS)) {
        let dp = load_tile(lane, work, first_key, seen.y, dout_row);
        var score = array<vec4<f32>, PER_LANE>();  // zero in words: see forward.wgsl
        for (var octet = 0u; octet < HEAD_OCTETS; octet++) {
            let lower = q_quads(q_row, octet, false);
            let upper = q_quads(q_row, octet, true);
            for (var n = 0u; n < PER_LANE; n++) {
                let slot = K_BASE + (n * LANES + key_lane) * HEAD_STRIDE + 2u * octet;
                score[n] = multiply_rows(score[n], lower, wg_kv[slot]);
                score[n] = multiply_rows(score[n], upper, wg_kv[slot + 1u]);
            }
        }
        let edge = first_key < shared_keys.x || first_key + i32(ITEMS) > shared_keys.y;
        for (var n = 0u; n < PER_LANE; n++) {
            var p = exp2(score4(score[n]) - lse);
            if (edge) {
                let key = first_key + i32(n * LANES + key_lane);
                p = select(vec4<f32>(0.0), p, sees(position, key) & vec4<bool>(key < kv_len));
            }
            sum += p * dp[n];
        }
        workgroupBarrier();
    }
    sum = lanes_sum(lane, sum);

    // All lanes of a group have read the terms before one of them changes those.
    storageBarrier();
    let dlam_row = rows_in(params.dlam, work, pairs, 1u);
    if (key_lane == 0u) {
        for (var i = 0u; i < 4u; i++) {
            if (pairs.exists[i]) {
                write_mean(term_row[i], dlam_row[i], sum[i]);
            }
        }
    }
}
