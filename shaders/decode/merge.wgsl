// DIFF V2 decode, second dispatch: combines the splits of both members, applies the gate and writes the output.
//
// One invocation owns four output elements of one new token and output head. Workgroup memory: none. Barriers: none.
// Numerics: states are rescaled to the largest maximum, in base 2; an empty split has the neutral state.
// Source: split keys as in Flash-Decoding (Dao et al., 2023).

@group(0) @binding(4) var<storage, read> lam: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<Elem4>;
@group(0) @binding(12) var<storage, read> partials: array<vec4<f32>>;

const VALUE_QUADS: u32 = 2u * VALUE_OCTETS;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.x + group.y * params.grid_width) * THREADS + lane;
    let quad = i % VALUE_QUADS;
    let head = i / VALUE_QUADS % (params.kv_heads * params.group);
    let token = i / VALUE_QUADS / (params.kv_heads * params.group);
    let b = token / params.q_len;
    let query = token % params.q_len;
    if (b >= params.batch) {
        return;
    }
    let e = entry(b);
    if (query >= e.q_len) {
        return;
    }
    let row = (query * params.group + head % params.group) * 2u;
    let first = partial_row(b, head / params.group, 0u, row);
    let stride = partial_row(0u, 0u, 1u, 0u);

    var row_max = vec2<f32>(NO_KEY);  // of members 1 and 2
    for (var split = 0u; split < params.splits; split++) {
        let at = first + split * stride + VALUE_QUADS;
        row_max = max(row_max, vec2<f32>(partials[at].x, partials[at + PARTIAL_STRIDE].x));
    }
    var row_sum = vec2<f32>(0.0);
    var o1 = vec4<f32>(0.0);
    var o2 = vec4<f32>(0.0);
    for (var split = 0u; split < params.splits; split++) {
        let at = first + split * stride;
        let state1 = partials[at + VALUE_QUADS];
        let state2 = partials[at + PARTIAL_STRIDE + VALUE_QUADS];
        let keep = exp2(vec2<f32>(state1.x, state2.x) - row_max);
        row_sum += keep * vec2<f32>(state1.y, state2.y);
        o1 += keep.x * partials[at + quad];
        o2 += keep.y * partials[at + PARTIAL_STRIDE + quad];
    }
    let step_token = e.q_start + query;
    let gate = gate_of(lam[row_of(params.lam, 0u, step_token, head)]);
    let member2 = o2 * normaliser(row_max.y, row_sum.y);
    out[row_of(params.out, 0u, step_token, head) + quad] =
        pack4(o1 * normaliser(row_max.x, row_sum.x) - gate * member2);
    if (quad == 0u) {
        write_lse(0u, 2u * head, step_token, row_max.x, row_sum.x);
        write_lse(0u, 2u * head + 1u, step_token, row_max.y, row_sum.y);
    }
}
