// DIFF V2 backward, dQ in its plainest form, kept for ever as the on-device check of the tiled kernel.
//
// One invocation owns one query and output head, hence two rows of dQ. It walks the visible keys once.
// Workgroup memory: none. Barriers: none. Numerics: f32; P is recomputed in base 2 from the saved LSE.
// Source: "Differential Transformer V2" (Microsoft, 2026), differentiated.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = query_row((group.x + group.y * params.grid_width) * THREADS + lane);
    if (!row.exists) {
        return;
    }
    let s = row.s;
    let b = row.batch;
    let head = row.head;
    let token = row.token;
    let q1_row = row_of(params.q, b, token, 2u * head);
    let q2_row = row_of(params.q, b, token, 2u * head + 1u);
    let dout_row = row_of(params.dout, b, token, head);
    let t = terms[row_of(params.terms, b, token, head)];

    var dq1: array<vec4<f32>, HEAD_QUADS>;
    var dq2: array<vec4<f32>, HEAD_QUADS>;
    let seen = keys_seen(row.position, row.position, i32(s.kv_len));
    for (var key = seen.x; key < seen.y; key++) {
        let k_row = row_of(params.k, b, s.kv_start + u32(key), row.kv_head);
        let v_row = row_of(params.v, b, s.kv_start + u32(key), row.kv_head);
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
        let ds = exp2(score.xy - t.lse) * (vec2<f32>(dp, -t.gate * dp) - t.offset) * slope4(score).xy;
        for (var c = 0u; c < HEAD_OCTETS; c++) {
            let x = unpack8(k[k_row + c]);
            dq1[2u * c] += ds.x * x.lo;
            dq1[2u * c + 1u] += ds.x * x.hi;
            dq2[2u * c] += ds.y * x.lo;
            dq2[2u * c + 1u] += ds.y * x.hi;
        }
    }

    let dq1_row = row_of(params.dq, b, token, 2u * head);
    let dq2_row = row_of(params.dq, b, token, 2u * head + 1u);
    for (var c = 0u; c < HEAD_QUADS; c++) {
        write_dq(dq1_row + c, dq1[c]);
        write_dq(dq2_row + c, dq2[c]);
    }
}
