// DIFF V2 backward, dK and dV in their plainest form, kept for ever as the on-device check of the tiled kernel.
//
// One invocation owns one key and KV head. It walks the queries that see the key, and for each every pair of the group.
// Workgroup memory: none. Barriers: none. Numerics: f32; P is recomputed in base 2 from the saved LSE.
// Source: "Differential Transformer V2" (Microsoft, 2026), differentiated.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (group.x + group.y * params.grid_width) * THREADS + lane;
    if (row >= params.tiles) {
        return;
    }
    let kv_head = row % params.kv_heads;
    let key = (row / params.kv_heads) % params.q_tiles;
    let batch = row / params.kv_heads / params.q_tiles;
    let s = sequence(batch);
    if (key >= s.kv_len) {
        return;
    }
    let b = batch_of(batch);
    let k_row = row_of(params.k, b, s.kv_start + key, kv_head);
    let v_row = row_of(params.v, b, s.kv_start + key, kv_head);

    var dk_sum: array<vec4<f32>, HEAD_QUADS>;
    var dv_sum: array<vec4<f32>, VALUE_QUADS>;
    let seeing = clamp(positions_seeing(i32(key), i32(key)) - s.diagonal, vec2<i32>(0), vec2<i32>(i32(s.q_len)));
    for (var query = u32(seeing.x); query < u32(seeing.y); query++) {
        for (var pair = 0u; pair < params.group; pair++) {
            let head = kv_head * params.group + pair;
            let token = s.q_start + query;
            let q1_row = row_of(params.q, b, token, 2u * head);
            let q2_row = row_of(params.q, b, token, 2u * head + 1u);
            let dout_row = row_of(params.dout, b, token, head);
            let t = terms[row_of(params.terms, b, token, head)];
            var qk = vec2<f32>(0.0);
            for (var c = 0u; c < HEAD_OCTETS; c++) {
                let x = unpack8(k[k_row + c]);
                let q1 = unpack8(q[q1_row + c]);
                let q2 = unpack8(q[q2_row + c]);
                qk += vec2<f32>(dot(q1.lo, x.lo) + dot(q1.hi, x.hi), dot(q2.lo, x.lo) + dot(q2.hi, x.hi));
            }
            var dp = 0.0;
            for (var c = 0u; c < VALUE_OCTETS; c++) {
                let x = unpack8(v[v_row + c]);
                let d = unpack8(dout[dout_row + c]);
                dp += dot(d.lo, x.lo) + dot(d.hi, x.hi);
            }
            let score = score4(vec4<f32>(qk, 0.0, 0.0));
            let p = exp2(score.xy - t.lse);
            let ds = p * (vec2<f32>(dp, -t.gate * dp) - t.offset) * slope4(score).xy;
            for (var c = 0u; c < HEAD_OCTETS; c++) {
                let q1 = unpack8(q[q1_row + c]);
                let q2 = unpack8(q[q2_row + c]);
                dk_sum[2u * c] += ds.x * q1.lo + ds.y * q2.lo;
                dk_sum[2u * c + 1u] += ds.x * q1.hi + ds.y * q2.hi;
            }
            for (var c = 0u; c < VALUE_OCTETS; c++) {
                let d = unpack8(dout[dout_row + c]);
                dv_sum[2u * c] += (p.x - t.gate * p.y) * d.lo;
                dv_sum[2u * c + 1u] += (p.x - t.gate * p.y) * d.hi;
            }
        }
    }

    let dk_row = row_of(params.dk, b, s.kv_start + key, kv_head);
    let dv_row = row_of(params.dv, b, s.kv_start + key, kv_head);
    for (var c = 0u; c < HEAD_QUADS; c++) {
        write_dk(dk_row + c, dk_sum[c]);
    }
    for (var c = 0u; c < VALUE_QUADS; c++) {
        write_dv(dv_row + c, dv_sum[c]);
    }
}
