// DIFF V2 backward without a₂: its row term c₂ = Σ P₂ · dP in the plainest form, the on-device check of the tiled kernel.
//
// One invocation owns one query and output head, and walks the keys that it sees once.
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
    let q2_row = row_of(params.q, b, token, 2u * head + 1u);
    let dout_row = row_of(params.dout, b, token, head);
    let t = terms[row_of(params.terms, b, token, head)];

    var c2 = 0.0;
    let seen = keys_seen(row.position, row.position, i32(s.kv_len));
    for (var key = seen.x; key < seen.y; key++) {
        let k_row = row_of(params.k, b, s.kv_start + u32(key), row.kv_head);
        let v_row = row_of(params.v, b, s.kv_start + u32(key), row.kv_head);
        var qk = 0.0;
        for (var c = 0u; c < HEAD_OCTETS; c++) {
            let x = unpack8(k[k_row + c]);
            let q2 = unpack8(q[q2_row + c]);
            qk += dot(q2.lo, x.lo) + dot(q2.hi, x.hi);
        }
        var dp = 0.0;
        for (var c = 0u; c < VALUE_OCTETS; c++) {
            let x = unpack8(v[v_row + c]);
            let d = unpack8(dout[dout_row + c]);
            dp += dot(d.lo, x.lo) + dot(d.hi, x.hi);
        }
        c2 += exp2(score4(vec4<f32>(qk)).x - t.lse.y) * dp;
    }
    write_mean(row_of(params.terms, b, token, head), row_of(params.dlam, b, token, head), c2);
}
