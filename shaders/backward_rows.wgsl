// DIFF V2 backward, first step: the terms of every row, and dλ.
//
// One invocation owns one row: token, output head. With c₂ = dout · a₂ and a₁ = out + gate · a₂, c₁ = dout · a₁ =
// dout · out + gate · c₂. Sequences do not matter here: packed ones come as one long sequence.
// Workgroup memory: none. Barriers: none. Numerics: f32.
// Source: "Differential Transformer V2" (Microsoft, 2026), differentiated; FlashAttention-2 (Dao, 2023) for c.

@group(0) @binding(4) var<storage, read> lam: array<f32>;
@group(0) @binding(5) var<storage, read> out: array<Elem8>;
@group(0) @binding(6) var<storage, read> lse: array<u32>;  // as bits: a row without keys has -inf
@group(0) @binding(20) var<storage, read> dout: array<Elem8>;
@group(0) @binding(21) var<storage, read_write> terms: array<Terms>;
@group(0) @binding(22) var<storage, read> dlse: array<f32>;

fn lse_of(bits: u32) -> f32 {
    return select(bitcast<f32>(bits) * LOG2_E, 0.0, bits == 0xff800000u);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (group.x + group.y * params.grid_width) * THREADS + lane;
    if (row >= params.tiles) {
        return;
    }
    let heads = params.kv_heads * params.group;
    let head = row % heads;
    let token = (row / heads) % params.q_tiles;
    let b = row / heads / params.q_tiles;

    let dout_row = row_of(params.dout, b, token, head);
    let out_row = row_of(params.out, b, token, head);
    let a2_row = row_of(params.a2, b, token, head);
    var dout_out = 0.0;
    var c2 = 0.0;
    var largest = vec4<f32>();
    for (var octet = 0u; octet < VALUE_DIM / 8u; octet++) {
        let d = unpack8(dout[dout_row + octet]);
        let x = unpack8(out[out_row + octet]);
        dout_out += dot(x.lo, d.lo) + dot(x.hi, d.hi);
        c2 += dot_a2(a2_row, octet, d);
        largest = max(largest, max(abs(d.lo), abs(d.hi)));
    }

    let logit = lam[row_of(params.lam, b, token, head)];
    let gate = gate_of(logit);
    let gate_slope = gate * gate_of(-logit);
    var offset = vec2<f32>(dout_out + gate * c2, -gate * c2);
    if (params.has_dlse != 0u) {
        offset.x -= dlse[row_of(params.dlse, b, token, MEMBERS * head)];
        offset.y -= dlse[row_of(params.dlse, b, token, MEMBERS * head + MEMBERS - 1u)];
    }
    let lse1 = lse_of(lse[row_of(params.lse, b, token, MEMBERS * head)]);
    let lse2 = lse_of(lse[row_of(params.lse, b, token, MEMBERS * head + MEMBERS - 1u)]);
    let largest_dout = max(max(largest.x, largest.y), max(largest.z, largest.w));
    terms[row_of(params.terms, b, token, head)] = Terms(vec2<f32>(lse1, lse2), offset, gate, gate_slope, largest_dout);
    write_dlam(row_of(params.dlam, b, token, head), -gate_slope * c2);
}
