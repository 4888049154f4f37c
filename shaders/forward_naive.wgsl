// DIFF V2 forward in its plainest form, kept for ever as the on-device check of the tiled kernel.
//
// One invocation owns one output row: batch, query, output head. It walks the visible keys once and keeps a maximum, a
// sum and an output for each member of the pair. Workgroup memory: none. Barriers: none.
// Numerics: online softmax in base 2 with f32 accumulators; normalised and gated once at the end.
// Source: "Differential Transformer V2" (Microsoft, 2026), with the online softmax of Milakov & Gimelshein (2018).

@group(0) @binding(1) var<storage, read> q: array<Elem8>;
@group(0) @binding(2) var<storage, read> k: array<Elem8>;
@group(0) @binding(3) var<storage, read> v: array<Elem8>;
@group(0) @binding(4) var<storage, read> lam: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<Elem4>;

const HEAD_OCTETS: u32 = HEAD_DIM / 8u;
const VALUE_QUADS: u32 = VALUE_DIM / 4u;

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

    var row_max = vec2<f32>(NO_KEY);  // of members 1 and 2
    var row_sum = vec2<f32>(0.0);
    var o1: array<vec4<f32>, VALUE_QUADS>;
    var o2: array<vec4<f32>, VALUE_QUADS>;
    let seen = keys_seen(row.position, row.position, i32(s.kv_len));
    for (var key = seen.x; key < seen.y; key++) {
        let k_row = row_of(params.k, b, s.kv_start + u32(key), row.kv_head);
        var qk = vec2<f32>(0.0);
        for (var c = 0u; c < HEAD_OCTETS; c++) {
            let x = unpack8(k[k_row + c]);
            let q1 = unpack8(q[q1_row + c]);
            let q2 = unpack8(q[q2_row + c]);
            qk += vec2<f32>(dot(q1.lo, x.lo) + dot(q1.hi, x.hi), dot(q2.lo, x.lo) + dot(q2.hi, x.hi));
        }
        let score = score4(vec4<f32>(qk, 0.0, 0.0)).xy;
        let new_max = max(row_max, score);
        let keep = exp2(row_max - new_max);
        let weight = exp2(score - new_max);
        row_max = new_max;
        row_sum = row_sum * keep + weight;
        let v_row = row_of(params.v, b, s.kv_start + u32(key), row.kv_head);
        for (var c = 0u; c < VALUE_QUADS / 2u; c++) {
            let x = unpack8(v[v_row + c]);
            o1[2u * c] = o1[2u * c] * keep.x + weight.x * x.lo;
            o1[2u * c + 1u] = o1[2u * c + 1u] * keep.x + weight.x * x.hi;
            o2[2u * c] = o2[2u * c] * keep.y + weight.y * x.lo;
            o2[2u * c + 1u] = o2[2u * c + 1u] * keep.y + weight.y * x.hi;
        }
    }

    let scale1 = normaliser(row_max.x, row_sum.x);
    let scale2 = normaliser(row_max.y, row_sum.y);
    let gate = gate_of(lam[row_of(params.lam, b, token, head)]);
    let out_row = row_of(params.out, b, token, head);
    let a2_row = row_of(params.a2, b, token, head);
    for (var c = 0u; c < VALUE_QUADS; c++) {
        let a2 = o2[c] * scale2;
        out[out_row + c] = pack4(o1[c] * scale1 - gate * a2);
        write_a2(a2_row, c, a2);
    }
    write_lse(b, 2u * head, token, row_max.x, row_sum.x);
    write_lse(b, 2u * head + 1u, token, row_max.y, row_sum.y);
}
