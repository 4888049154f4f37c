// DIFF V1, backward through norm.wgsl: the gradients of both members, and what λ and the norm's weight need of each row.
//
// With a = a₁ - λ·a₂, r = 1/RMS(a), n = r·a and dn = dout · weight · factor: da = r·(dn - n · mean(dn·n)), which is the
// gradient by a₁; that by a₂ is -λ·da, and λ gets -da·a₂.
// One invocation owns one head of one token. Workgroup memory: none. Barriers: none. Numerics: f32.
// Source: "Differential Transformer" (Ye et al., 2024), differentiated.

@group(0) @binding(1) var<storage, read> a1: array<Elem4>;
@group(0) @binding(2) var<storage, read> a2: array<Elem4>;
@group(0) @binding(3) var<storage, read> lambda: array<Lambda>;
@group(0) @binding(4) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> dout: array<Elem4>;
@group(0) @binding(6) var<storage, read_write> da1: array<Elem4>;
@group(0) @binding(7) var<storage, read_write> da2: array<Elem4>;
@group(0) @binding(8) var<storage, read_write> row: array<vec2<f32>>;  // r, and what λ gets

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.x + group.y * params.grid_width) * THREADS + lane;
    if (i >= params.work) {
        return;
    }
    let first = i * params.quads;
    let count = f32(4u * params.quads);
    var square = 0.0;
    var product = 0.0;
    for (var quad = 0u; quad < params.quads; quad++) {
        let a = unpack4(a1[first + quad]) - lambda[0].value * unpack4(a2[first + quad]);
        square += dot(a, a);
        product += dot(a, params.factor * unpack4(dout[first + quad]) * weight[quad]);
    }
    let r = inverseSqrt(square / count + params.epsilon);
    let mean = r * product / count;
    var dlambda = 0.0;
    for (var quad = 0u; quad < params.quads; quad++) {
        let second = unpack4(a2[first + quad]);
        let n = r * (unpack4(a1[first + quad]) - lambda[0].value * second);
        let da = r * (params.factor * unpack4(dout[first + quad]) * weight[quad] - n * mean);
        da1[first + quad] = pack4(da);
        da2[first + quad] = pack4(-lambda[0].value * da);
        dlambda -= dot(da, second);
    }
    row[i] = vec2<f32>(r, dlambda);
}
