// DIFF V1: a₁ - λ·a₂ of every head, its RMS norm, times the norm's weight and 1 - lambda_init.
//
// One invocation owns one head of one token. Workgroup memory: none. Barriers: none. Numerics: f32.
// Source: "Differential Transformer" (Ye et al., 2024).

@group(0) @binding(1) var<storage, read> a1: array<Elem4>;
@group(0) @binding(2) var<storage, read> a2: array<Elem4>;
@group(0) @binding(3) var<storage, read> lambda: array<Lambda>;
@group(0) @binding(4) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<Elem4>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.x + group.y * params.grid_width) * THREADS + lane;
    if (i >= params.work) {
        return;
    }
    let first = i * params.quads;
    var square = 0.0;
    for (var quad = 0u; quad < params.quads; quad++) {
        let a = unpack4(a1[first + quad]) - lambda[0].value * unpack4(a2[first + quad]);
        square += dot(a, a);
    }
    let r = inverseSqrt(square / f32(4u * params.quads) + params.epsilon) * params.factor;
    for (var quad = 0u; quad < params.quads; quad++) {
        let a = unpack4(a1[first + quad]) - lambda[0].value * unpack4(a2[first + quad]);
        out[first + quad] = pack4(r * a * weight[quad]);
    }
}
